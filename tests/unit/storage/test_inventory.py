"""Who has which photo, what is left to compute, and that the way photos are assigned does not depend on what happened before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stored import catalogue, held, of_shard, planned, run, shards, uri, values, write_all

from fruits.storage.embeddings.inventory import ROWS_PER_CHUNK, take, uncommitted
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.training.fitting.training_set import in_chunks


@pytest.fixture
def stored(tmp_path: Path) -> EmbeddingTable:
    return EmbeddingTable(str(tmp_path / "results"), "embeddings/abc")


def test_at_first_everything_is_absent(stored: EmbeddingTable) -> None:
    inventory = take(stored, catalogue(5))
    assert inventory.absent.tolist() == [0, 1, 2, 3, 4]
    assert inventory.file_rows == inventory.leaving == []
    assert not Path(stored.root, stored.prefix).exists(), "looking makes nothing"


def test_committed_photos_are_held_once_and_nothing_is_left_to_do(stored: EmbeddingTable) -> None:
    inventory = run(stored, catalogue(300))
    assert held(inventory) == list(range(300))
    assert len(inventory.absent) == len(inventory.failed) == 0
    assert values(stored, inventory) == list(range(300))


def test_work_is_assigned_into_shards_that_cross_no_chunk(stored: EmbeddingTable) -> None:
    n = 3 * ROWS_PER_CHUNK + 100
    _, work = planned(stored, catalogue(n))
    by_shard = work["shard"].value_counts().to_pylist()
    assert len(by_shard) <= 200
    assert sum(one["counts"] for one in by_shard) == n
    for one in by_shard:
        assert int(one["values"][-4:]) + one["counts"] <= ROWS_PER_CHUNK


def test_changed_photo_is_absent_and_the_others_are_held(stored: EmbeddingTable) -> None:
    photos = catalogue(100)
    run(stored, photos)
    versions = photos["version"].to_pylist()
    versions[42] = "2"
    changed = photos.set_column(1, "version", [versions])
    inventory = take(stored, changed)
    assert inventory.absent.tolist() == [42]
    assert held(inventory) == [row for row in range(100) if row != 42]
    run(stored, changed)
    assert held(take(stored, photos)) == list(range(100)), "changed back, it is found again"


def test_added_photos_are_absent_and_removed_ones_leave(stored: EmbeddingTable) -> None:
    run(stored, catalogue(80))
    inventory = take(stored, catalogue(80, start=50))
    assert held(inventory) == list(range(30))
    assert inventory.absent.tolist() == list(range(30, 80))
    assert len(inventory.leaving) == 1


def test_failed_photos_are_tried_again_and_good_ones_never(stored: EmbeddingTable) -> None:
    photos = catalogue(100)
    bad = {uri(3): ("failed", "by chance"), uri(5): ("rejected", "damaged: half")}
    inventory = run(stored, photos, bad)
    assert inventory.failed.tolist() == [3]
    assert held(inventory) == list(range(100)), "a failure is held, so that counts close"
    inventory = run(stored, photos, {uri(3): ("failed", "once more")})
    assert [error for entry in inventory.file_rows for *_, error in entry.errors if error != "damaged: half"] == [
        "once more"
    ]
    assert held(inventory) == list(range(100))
    assert inventory.leaving == [], "a photo that always fails does not have files written again"
    inventory = run(stored, photos, {})
    assert len(inventory.failed) == len(inventory.absent) == 0
    assert values(stored, inventory)[3] == 3
    assert inventory.leaving, "what a good row replaced leaves"


def test_photo_in_two_files_is_held_once_and_the_other_row_leaves(stored: EmbeddingTable) -> None:
    photos = catalogue(100)
    file = run(stored, photos).files[0]
    assert stored.commit([stored.write(file.shard, stored.read(file).slice(0, 30), 0)], epoch=0)
    inventory = take(stored, photos)
    assert held(inventory) == list(range(100))
    assert len(inventory.leaving) == 1


def test_file_that_left_the_table_still_counts_for_the_run_that_knows_it(stored: EmbeddingTable) -> None:
    photos = catalogue(100)
    inventory = run(stored, photos)
    gone = inventory.files[0]
    assert stored.commit([], [gone], epoch=0)
    assert len(take(stored, photos).absent) == gone.rows
    again = take(stored, photos, also=inventory.files)
    assert len(again.absent) == 0
    assert again.leaving == []


def test_chunks_do_not_depend_on_what_was_computed_before(tmp_path: Path) -> None:
    """A run that was killed after any commit, or that another run helped: the same photos merge in the same groups."""
    photos = catalogue(9000)
    found = []
    for number, first in enumerate(([], [0, 3, 5], [2], list(range(100)))):
        stored = EmbeddingTable(str(tmp_path / str(number)), "embeddings/abc")
        _, work = planned(stored, photos)
        some = [shards(work)[at] for at in first if at < len(shards(work))]
        assert stored.commit([file for one in some for file in write_all(stored, of_shard(work, one))], epoch=0)
        groups = in_chunks(run(stored, photos))
        found.append([sorted(np.concatenate([one.catalogue_rows for one in group]).tolist()) for group in groups])
    assert len(found[0]) == 3
    assert all(groups == found[0] for groups in found)


def test_new_photos_are_assigned_by_themselves(stored: EmbeddingTable) -> None:
    """However many are known: files of new photos are few."""
    run(stored, catalogue(5000))
    inventory, work = planned(stored, catalogue(5100))
    assert work.num_rows == 100
    assert len(shards(work)) == 2
    run(stored, catalogue(5100))
    assert len(take(stored, catalogue(5100)).absent) == 0
    assert held(inventory) == list(range(5000))


def test_failed_photos_far_apart_make_few_files(stored: EmbeddingTable) -> None:
    photos = catalogue(8000)
    run(stored, photos, {uri(number): ("failed", "by chance") for number in range(0, 8000, 100)})
    _, work = planned(stored, photos)
    assert work.num_rows == 80
    assert len(shards(work)) <= 2


def test_files_that_a_killed_run_left_are_found(stored: EmbeddingTable) -> None:
    photos = catalogue(200)
    inventory, work = planned(stored, photos)
    written = write_all(stored, work)
    assert stored.commit(written[:1], epoch=0)
    (Path(stored.root) / stored.prefix / written[1].name).write_bytes(b"half")
    snapshot = take(stored, photos).snapshot
    left = list(uncommitted(stored, photos, snapshot))
    assert sorted(file.name for file in left) == sorted(file.name for file in written[2:])
    assert stored.commit(left, epoch=0)
    assert len(take(stored, photos).absent) == written[1].rows
    assert list(uncommitted(stored, catalogue(201), snapshot)) == [], "of other photos: not taken"
    assert inventory.snapshot.version == -1


def test_content_changes_with_the_photos_and_not_with_the_files(tmp_path: Path) -> None:
    photos, contents = catalogue(300), []
    for number, bad in enumerate(({}, {uri(3): ("failed", "by chance")})):
        stored = EmbeddingTable(str(tmp_path / str(number)), "embeddings/abc")
        if not number:
            run(stored, catalogue(100))
        contents.append(run(stored, photos, bad).content)
        contents.append(run(stored, photos).content)
    assert contents[0] == contents[1] == contents[3] != contents[2]


def test_files_that_left_the_table_keep_their_place_in_the_order_of_moments(stored: EmbeddingTable) -> None:
    """Another run may remove files of the first chunk while this one reads: its sums have the same bits all the same."""
    photos = catalogue(ROWS_PER_CHUNK + 200)
    before = run(stored, photos)
    assert stored.commit([], before.files[1:3], epoch=0)
    after = take(stored, photos, also=before.files)
    assert len(after.absent) == 0
    assert [entry.file.name for entry in after.file_rows] == [entry.file.name for entry in before.file_rows]
