"""Plans, parts and records: what counts, who has which photo, what is done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored import catalogue, commit_all, held, of_shard, plan, rows_of, run, shards

from fruits.errors import StoreError
from fruits.storage.parts import DamagedError, Parts


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(str(tmp_path / "results"), "embeddings/abc")


def test_at_first_everything_is_missing(parts: Parts) -> None:
    inventory = parts.inventory(catalogue(5))
    assert inventory.missing.tolist() == [0, 1, 2, 3, 4]
    assert inventory.holdings == []
    assert inventory.pending.num_rows == 0


def test_committed_photos_are_held_once_and_nothing_is_left_to_do(parts: Parts) -> None:
    photos = catalogue(300)
    inventory = run(parts, photos)
    assert held(inventory) == list(range(300))
    assert len(inventory.missing) == inventory.pending.num_rows == 0


def test_rows_of_a_part_stand_for_their_photos(parts: Parts) -> None:
    photos = catalogue(150).take(pa.array(np.random.default_rng(0).permutation(150)))
    names = photos["uri"].to_pylist()
    for holding in run(parts, photos).holdings:
        table = parts.read(holding.record)
        assert table["uri"].to_pylist() == [names[row] for row in holding.catalogue_rows]
        assert [row[0] for row in table["embedding"].to_pylist()] == [
            float(uri[-8:-4]) for uri in table["uri"].to_pylist()
        ]


def test_large_work_is_dealt_into_shards_of_bounded_size(parts: Parts) -> None:
    work = plan(parts, catalogue(10_000))
    sizes = [of_shard(work, shard).num_rows for shard in shards(work)]
    assert sum(sizes) == 10_000
    assert max(sizes) <= 4096
    assert len(sizes) <= 129


def test_planned_shards_without_a_record_are_pending(parts: Parts) -> None:
    photos = catalogue(200)
    work = plan(parts, photos)
    first, *others = shards(work)
    parts.commit(first, rows_of(of_shard(work, first), {}))
    inventory = parts.inventory(photos)
    assert shards(inventory.pending) == others
    assert len(inventory.missing) == 0
    commit_all(parts, inventory.pending)
    assert held(parts.inventory(photos)) == list(range(200))


def test_shard_is_resumed_only_if_all_of_its_photos_are_still_wanted(parts: Parts) -> None:
    photos = catalogue(200)
    work = plan(parts, photos)
    gone = photos.filter(pa.array([number != 70 for number in range(200)]))
    inventory = parts.inventory(gone)
    broken = work["shard"][70].as_py()
    assert shards(inventory.pending) == [shard for shard in shards(work) if shard != broken]
    assert len(inventory.missing) == of_shard(work, broken).num_rows - 1
    assert held(run(parts, gone)) == list(range(199))


def test_photo_covered_by_two_plans_is_held_once(parts: Parts) -> None:
    photos = catalogue(100)
    commit_all(parts, plan(parts, photos))
    commit_all(parts, plan(parts, photos))
    assert held(parts.inventory(photos)) == list(range(100))


def test_photo_pending_in_two_plans_is_done_once(parts: Parts) -> None:
    photos = catalogue(100)
    plan(parts, photos)
    plan(parts, photos)
    pending = parts.inventory(photos).pending
    assert sorted(pending["uri"].to_pylist()) == photos["uri"].to_pylist()


def test_changed_photo_is_missing_and_the_others_are_held(parts: Parts) -> None:
    photos = catalogue(100)
    run(parts, photos)
    versions = photos["version"].to_pylist()
    versions[42] = "2"
    changed = photos.set_column(3, "version", pa.array(versions))
    inventory = parts.inventory(changed)
    assert inventory.missing.tolist() == [42]
    assert held(inventory) == [row for row in range(100) if row != 42]
    assert held(run(parts, changed)) == list(range(100))


def test_photo_changed_back_is_found_again(parts: Parts) -> None:
    old, new = catalogue(10), catalogue(10, version="2")
    run(parts, old)
    run(parts, new)
    inventory = parts.inventory(old)
    assert len(inventory.missing) == 0
    assert held(inventory) == list(range(10))


def test_removed_photos_are_held_no_more_and_added_ones_are_missing(parts: Parts) -> None:
    run(parts, catalogue(100))
    inventory = parts.inventory(catalogue(80, start=50))
    assert held(inventory) == list(range(50))
    assert inventory.missing.tolist() == list(range(50, 80))


def test_catalogue_that_shares_nothing_has_no_holdings(parts: Parts) -> None:
    run(parts, catalogue(10))
    assert parts.inventory(catalogue(10, start=500)).holdings == []


def test_failed_photos_are_tried_again_and_good_ones_never(parts: Parts) -> None:
    photos = catalogue(100)
    names = photos["uri"].to_pylist()
    bad = {names[3]: ("failed", "unreadable: no"), names[5]: ("rejected", "damaged: no")}
    inventory = run(parts, photos, bad)
    assert inventory.missing.tolist() == [3]
    assert held(inventory) == list(range(100))  # a failure is held, so that counts close
    inventory = run(parts, photos, bad)
    assert inventory.missing.tolist() == [3]
    assert held(inventory) == list(range(100))
    inventory = run(parts, photos, {})
    assert len(inventory.missing) == 0
    assert held(inventory) == list(range(100))
    errors = [
        (int(holding.catalogue_rows[row]), status)
        for holding in inventory.holdings
        for row, status, _ in holding.record.errors
        if holding.catalogue_rows[row] >= 0
    ]
    assert errors == [(5, "rejected")]


def test_record_tells_errors_by_row(parts: Parts) -> None:
    work = plan(parts, catalogue(5))
    names = work["uri"].to_pylist()
    record = parts.commit(
        shards(work)[0], rows_of(work, {names[1]: ("rejected", "damaged: half"), names[4]: ("failed", "x")})
    )
    assert record.errors == ((1, "rejected", "damaged: half"), (4, "failed", "x"))
    assert record.rows == 5


def test_second_commit_of_a_shard_loses_and_leaves_nothing_behind(parts: Parts) -> None:
    photos = catalogue(50)
    work = plan(parts, photos)
    (shard,) = shards(work)
    first = parts.commit(shard, rows_of(work, {}))
    second = parts.commit(shard, rows_of(work, {work["uri"][0].as_py(): ("failed", "by chance")}))
    assert second == first
    assert [path.name for path in (Path(parts.root) / parts.prefix / "parts").iterdir()] == [Path(first.part).name]
    assert len(parts.inventory(photos).missing) == 0


def test_plan_that_another_run_put_first_is_none(parts: Parts) -> None:
    photos = catalogue(10)
    seen = parts.inventory(photos)
    plan(Parts(parts.root, parts.prefix), photos)  # at whatever moment since: no photo is planned twice
    assert parts.plan(photos, seen.missing, after=seen.plans) is None
    again = parts.inventory(photos)
    assert (again.plans, again.pending.num_rows, len(again.missing)) == (1, 10, 0)


def test_run_that_came_too_late_to_plan_goes_on_with_the_plan_of_the_other(parts: Parts) -> None:
    photos = catalogue(100)
    rival = Parts(parts.root, parts.prefix)
    work = plan(parts, photos)
    assert rival.plan(photos, np.arange(100), after=0) is None
    pending = rival.inventory(photos).pending
    assert pending.equals(work)
    commit_all(rival, pending)
    for one in (parts, rival):
        assert held(one.inventory(photos)) == list(range(100))


def test_part_without_a_record_does_not_count(parts: Parts) -> None:
    photos = catalogue(10)
    run(parts, photos)
    for record in (Path(parts.root) / parts.prefix / "records").iterdir():
        record.unlink()
    inventory = parts.inventory(photos)
    assert inventory.holdings == []
    assert inventory.pending.num_rows == 10


# --- Damage -----------------------------------------------------------------------------------------------------------


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_part_is_refused_by_name(parts: Parts, damage: str) -> None:
    (holding,) = run(parts, catalogue(10)).holdings
    path = only(Path(parts.root) / parts.prefix / "parts")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(StoreError, match=f"{path.name}.*run again"):
        parts.read(holding.record)


def test_deleting_the_record_of_a_damaged_part_mends_it(parts: Parts) -> None:
    photos = catalogue(10)
    run(parts, photos)
    only(Path(parts.root) / parts.prefix / "parts").write_bytes(b"")
    only(Path(parts.root) / parts.prefix / "records").unlink()
    (holding,) = run(parts, photos).holdings
    assert parts.read(holding.record).num_rows == 10


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_record_with_any_changed_byte_is_refused_by_name(parts: Parts, at: int, change: int) -> None:
    photos = catalogue(6)
    whole = Path(parts.root) / "whole.json"
    if not whole.exists():
        run(parts, photos, {photos["uri"][2].as_py(): ("rejected", "damaged: half")})
        whole.write_bytes(only(Path(parts.root) / parts.prefix / "records").read_bytes())
    path = only(Path(parts.root) / parts.prefix / "records")
    data = bytearray(whole.read_bytes())
    data[at % len(data)] ^= change
    path.write_bytes(data)
    with pytest.raises(StoreError, match=rf"records/{path.name}.*run again with repair=True"):
        parts.inventory(photos)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"shard": 1}', b"\xff\xfe"])
def test_record_of_another_shape_is_refused(parts: Parts, data: bytes) -> None:
    run(parts, catalogue(5))
    only(Path(parts.root) / parts.prefix / "records").write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        parts.inventory(catalogue(5))


def test_record_of_another_shard_is_refused(parts: Parts) -> None:
    photos = catalogue(200)
    run(parts, photos)
    first, second, *_ = sorted((Path(parts.root) / parts.prefix / "records").iterdir())
    second.write_bytes(first.read_bytes())
    with pytest.raises(StoreError, match=second.name):
        parts.inventory(photos)


@pytest.mark.slow
def test_plan_with_any_changed_byte_is_refused_by_name(parts: Parts) -> None:
    """Every byte: also those of Parquet's own bookkeeping, which change nothing that is read."""
    photos = catalogue(6)
    run(parts, photos)
    path = only(Path(parts.root) / parts.prefix / "plans")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 + at % 255)]) + whole[at + 1 :])
        with pytest.raises(DamagedError, match=r"plans/00001.parquet.*run again with repair=True"):
            parts.inventory(photos)
    path.write_bytes(whole)
    assert held(parts.inventory(photos)) == list(range(6))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data + data])
def test_plan_with_bytes_more_or_fewer_is_refused(parts: Parts, change: Callable[[bytes], bytes]) -> None:
    run(parts, catalogue(6))
    path = only(Path(parts.root) / parts.prefix / "plans")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamagedError, match=r"plans/00001.parquet"):
        parts.inventory(catalogue(6))


def test_plan_is_plain_parquet(parts: Parts) -> None:
    photos = catalogue(6)
    names = [*photos["uri"].to_pylist()[:5], "/photos/fruits.sha256=5.jpg"]
    photos = photos.set_column(0, "uri", pa.array(names))
    work = plan(parts, photos)
    stored = pq.read_table(only(Path(parts.root) / parts.prefix / "plans"))
    assert stored.to_pylist() == work.to_pylist()
    assert parts.inventory(photos).pending.to_pylist() == work.to_pylist()


def test_plan_that_is_gone_leaves_no_record_to_the_plan_in_its_place(parts: Parts) -> None:
    """The same number of other photos in a shard: by number alone, its rows would be taken for theirs."""
    run(parts, catalogue(64))
    only(Path(parts.root) / parts.prefix / "plans").unlink()
    others = catalogue(64, start=500)
    assert len(parts.inventory(others).missing) == 64
    for holding in run(parts, others).holdings:
        assert parts.read(holding.record)["uri"].to_pylist() == others["uri"].to_pylist()


@pytest.mark.parametrize("data", [b"", b"PAR1", b"rubbish" * 50])
def test_plan_of_rubbish_is_refused_by_name(parts: Parts, data: bytes) -> None:
    run(parts, catalogue(5))
    only(Path(parts.root) / parts.prefix / "plans").write_bytes(data)
    with pytest.raises(StoreError, match=r"plans/00001.parquet' is damaged.*run again"):
        parts.inventory(catalogue(5))


def test_record_is_plain_json(parts: Parts) -> None:
    run(parts, catalogue(5))
    values = json.loads(only(Path(parts.root) / parts.prefix / "records").read_bytes())
    assert values["rows"] == 5
    assert (Path(parts.root) / values["part"]).stat().st_size == values["size_bytes"]
