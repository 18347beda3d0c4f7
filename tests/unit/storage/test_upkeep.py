"""What leaves the table leaves the disk with the next vacuum, at whatever moment; damage is found and computed again alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from stored import catalogue, files, flip, folder, held, log, of_shard, planned, run, shards, uri, values, write_all

from fruits.errors import StoreError
from fruits.storage.embeddings.inventory import take
from fruits.storage.embeddings.table import DamagedError, EmbeddingTable
from fruits.storage.embeddings.upkeep import compact, remove_needless, repair, vacuum
from fruits.storage.objects import Objects

PHOTOS = catalogue(300)


@pytest.fixture
def stored(tmp_path: Path) -> EmbeddingTable:
    stored = EmbeddingTable(str(tmp_path / "results"), "embeddings/abc")
    run(stored, PHOTOS)
    return stored


def on_disk(stored: EmbeddingTable, number: int) -> bool:
    """Whether any byte below the output names a photo; names are looked for in the pages as they are read."""
    import pyarrow.parquet as pq

    return any(uri(number) in pq.read_table(path)["uri"].to_pylist() for path in files(stored))


def test_photo_that_left_leaves_the_table_and_with_a_vacuum_the_disk(stored: EmbeddingTable) -> None:
    fewer = PHOTOS.filter([number != 70 for number in range(300)])
    assert remove_needless(stored, take(stored, fewer)) == 1
    inventory = take(stored, fewer)
    assert held(inventory) == list(range(299))
    assert inventory.leaving == []
    assert take(stored, PHOTOS).absent.tolist() == [70]
    assert on_disk(stored, 70)
    listed = vacuum(stored, dry_run=True)
    assert on_disk(stored, 70)
    assert vacuum(stored) == listed
    assert len(listed.keys) == 1
    assert not on_disk(stored, 70)
    assert values(stored, take(stored, fewer)) == [number for number in range(300) if number != 70]


def test_file_whose_photos_all_left_is_not_written_again(stored: EmbeddingTable) -> None:
    rest = catalogue(300 - 64, start=64)
    assert remove_needless(stored, take(stored, rest)) == 64
    vacuum(stored)
    assert len(files(stored)) == 4
    assert held(take(stored, rest)) == list(range(300 - 64))


def test_vacuum_deletes_nothing_that_is_to_be_committed(stored: EmbeddingTable) -> None:
    """A run has written files and not committed them: they are gone, and so is its right to commit them."""
    inventory, work = planned(stored, catalogue(400))
    early = write_all(stored, work, inventory.snapshot.epoch)
    vacuum(stored)
    assert not stored.commit(early, epoch=inventory.snapshot.epoch)
    inventory, work = planned(stored, catalogue(400))
    late = write_all(stored, work, inventory.snapshot.epoch)
    assert vacuum(stored, dry_run=True).keys != []
    # A vacuum that began before these were written finds them in the folder.
    for epoch in (stored.snapshot().epoch,):
        assert all(file.epoch == epoch for file in late)
    assert stored.commit(late, epoch=inventory.snapshot.epoch)
    vacuum(stored)
    assert held(take(stored, catalogue(400))) == list(range(400))
    assert values(stored, take(stored, catalogue(400))) == list(range(400))


def test_vacuum_leaves_files_that_are_written_while_it_runs(
    stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = stored.next_epoch
    written = []

    def then_another_run_writes() -> int | None:
        epoch = begin()
        other = EmbeddingTable(stored.root, stored.prefix)
        inventory, work = planned(other, catalogue(400))
        written.extend(write_all(other, work, inventory.snapshot.epoch))
        return epoch

    monkeypatch.setattr(stored, "next_epoch", then_another_run_writes)
    assert vacuum(stored).keys == []
    assert stored.commit(written, epoch=stored.snapshot().epoch)
    assert held(take(stored, catalogue(400))) == list(range(400))


def test_compaction_merges_small_files_and_keeps_every_embedding(stored: EmbeddingTable) -> None:
    for n in range(310, 360, 10):
        run(stored, catalogue(n), {uri(n - 1): ("failed", "by chance")})
    photos = catalogue(350)
    before = values(stored, run(stored, photos))
    assert compact(stored) > 5
    assert len(stored.snapshot().files) == 1
    inventory = take(stored, photos)
    assert values(stored, inventory) == before
    assert inventory.leaving == []
    vacuum(stored)
    assert len(files(stored)) == 1
    assert compact(stored) == 0
    assert held(run(stored, catalogue(360))) == list(range(360))


# --- Repair -----------------------------------------------------------------------------------------------------------


def test_nothing_damaged_nothing_done(stored: EmbeddingTable) -> None:
    said: list[str] = []
    assert repair(stored, said.append) == 0
    assert said == []
    assert len(take(stored, PHOTOS).absent) == 0


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.999])
def test_photos_of_a_damaged_file_alone_are_computed_again(stored: EmbeddingTable, at: float) -> None:
    flip(files(stored)[1], at)
    said: list[str] = []
    assert repair(stored, said.append) == 1
    assert "64 photos" in said[0]
    assert len(take(stored, PHOTOS).absent) == 64
    assert values(stored, run(stored, PHOTOS)) == list(range(300))


def test_file_that_is_gone_is_computed_again(stored: EmbeddingTable) -> None:
    files(stored)[0].unlink()
    assert repair(stored) == 1
    assert values(stored, run(stored, PHOTOS)) == list(range(300))


@pytest.mark.parametrize("number", [0, -1])
def test_damaged_log_is_made_again_of_the_files(stored: EmbeddingTable, number: int) -> None:
    vacuum(stored)
    for path in (folder(stored) / "_delta_log").glob("*checkpoint*"):
        path.unlink()
    path = log(stored)[number]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedError, match="repair=True"):
        take(stored, PHOTOS)
    assert repair(stored) == 1
    inventory = take(stored, PHOTOS)
    assert held(inventory) == list(range(300))
    assert values(stored, run(stored, catalogue(310))) == list(range(310))
    vacuum(stored)
    assert held(take(stored, catalogue(310))) == list(range(310))


def test_log_and_file_damaged_together(stored: EmbeddingTable) -> None:
    log(stored)[1].write_bytes(b"no")
    flip(files(stored)[2], 0.5)
    assert repair(stored) == 2
    inventory = take(stored, PHOTOS)
    assert len(inventory.absent) == 64
    assert values(stored, run(stored, PHOTOS)) == list(range(300))


def test_store_that_cannot_be_reached_is_not_taken_for_damage(
    stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: Objects, key: str) -> bytes:
        raise StoreError(f"cannot read '{key}': the network is down")

    monkeypatch.setattr(Objects, "read_if_present", unreachable)
    with pytest.raises(StoreError, match="network is down"):
        repair(stored)
    monkeypatch.undo()
    assert held(take(stored, PHOTOS)) == list(range(300))


def test_pieces_that_a_killed_writer_left_leave_the_disk_with_a_vacuum(stored: EmbeddingTable) -> None:
    folder_ = Path(stored.root, stored.prefix)
    old, new = (folder_ / f"{files(stored)[0].name}#{number}" for number in (1, 2))
    old.write_bytes(files(stored)[0].read_bytes())
    new.write_bytes(b"being written")
    os.utime(old, (1, 1))
    listed = vacuum(stored, dry_run=True)
    assert (old.exists(), listed.keys) == (True, [stored.key(old.name)])
    assert vacuum(stored) == listed
    assert (old.exists(), new.exists()) == (False, True)


def test_log_that_is_gone_is_made_again_by_repair(stored: EmbeddingTable) -> None:
    vacuum(stored)
    shutil.rmtree(Path(stored.root, stored.prefix, "_delta_log"))
    assert len(take(stored, PHOTOS).absent) == 300
    said: list[str] = []
    assert repair(stored, said.append) == 1
    assert "the log" in said[0]
    assert values(stored, take(stored, PHOTOS)) == list(range(300))


def test_epochs_go_on_after_9999(tmp_path: Path) -> None:
    stored = EmbeddingTable(str(tmp_path / "results"), "embeddings/abc")
    stored.create(9_998)
    run(stored, PHOTOS)
    vacuum(stored)
    run(stored, catalogue(400))
    inventory, work = planned(stored, catalogue(500))
    early = write_all(stored, work, inventory.snapshot.epoch)
    assert {file.epoch for file in early} == {9_999}
    vacuum(stored)
    assert stored.snapshot().epoch == 10_000
    assert not stored.commit(early, epoch=9_999)
    inventory, work = planned(stored, catalogue(500))
    late = write_all(stored, work, inventory.snapshot.epoch)
    assert {(file.epoch, file.chunk, file.sha256) for file in late} == {
        (10_000, file.name[:15], file.name[27:-8]) for file in late
    }
    again = stored.written(shards(work)[0], of_shard(work, shards(work)[0]).to_pylist(), 10_000)
    assert again is not None
    assert again[0].name in {file.name for file in late}
    assert stored.commit(late, epoch=10_000)
    assert vacuum(stored).keys == []
    assert values(stored, take(stored, catalogue(500))) == list(range(500))
    assert repair(stored) == 0
    assert stored.snapshot().epoch == 10_001
    run(stored, catalogue(100))
    assert remove_needless(stored, take(stored, catalogue(100))) == 400
    assert held(take(stored, catalogue(100))) == list(range(100))
