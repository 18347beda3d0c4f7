"""--repair: what is damaged is found, named, and computed again alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from stored import catalogue, commit_all, held, plan, run

from fruits.errors import StoreError
from fruits.storage.parts import DamagedError, Parts

PHOTOS = catalogue(300)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    parts = Parts(str(tmp_path / "results"), "embeddings/abc")
    run(parts, PHOTOS)
    return parts


def files(parts: Parts, kind: str) -> list[Path]:
    return sorted((Path(parts.root) / parts.prefix / kind).iterdir())


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


def test_nothing_damaged_nothing_done(parts: Parts) -> None:
    said: list[str] = []
    assert parts.repair(said.append) == 0
    assert said == []
    assert parts.inventory(PHOTOS).pending.num_rows == 0


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.999])
def test_photos_of_a_damaged_part_alone_are_computed_again(parts: Parts, at: float) -> None:
    flip(files(parts, "parts")[1], at)
    said: list[str] = []
    assert parts.repair(said.append) == 1
    assert "64 photos" in said[0]
    inventory = parts.inventory(PHOTOS)
    assert inventory.pending.num_rows == 64
    assert len(inventory.missing) == 0
    commit_all(parts, inventory.pending)
    after = parts.inventory(PHOTOS)
    assert held(after) == list(range(300))
    assert [row[0] for holding in after.holdings for row in parts.read(holding.record)["embedding"].to_pylist()] == [
        float(number) for number in range(300)
    ]


@pytest.mark.parametrize("change", ["flip", "cut", "gone"])
def test_damaged_record_counts_no_more(parts: Parts, change: str) -> None:
    path = files(parts, "records")[0]
    if change == "flip":
        flip(path, 0.5)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:40])
    else:
        files(parts, "parts")[0].unlink()
    assert parts.repair() == 1
    assert parts.inventory(PHOTOS).pending.num_rows == 64


def test_plan_that_is_damaged_is_made_again_of_the_parts(parts: Parts) -> None:
    flip(files(parts, "plans")[0], 0.5)
    with pytest.raises(DamagedError, match="repair=True"):
        parts.inventory(PHOTOS)
    assert parts.repair() == 1
    inventory = parts.inventory(PHOTOS)
    assert held(inventory) == list(range(300))
    assert inventory.pending.num_rows == len(inventory.missing) == 0


def test_plan_and_part_damaged_together(parts: Parts) -> None:
    flip(files(parts, "plans")[0], 0.5)
    flip(files(parts, "parts")[2], 0.5)
    parts.repair()
    inventory = parts.inventory(PHOTOS)
    assert len(held(inventory)) == 300 - 64
    assert len(inventory.missing) == 64
    planned = parts.plan(PHOTOS, inventory.missing, after=inventory.plans)
    assert planned is not None
    commit_all(parts, planned)
    assert held(parts.inventory(PHOTOS)) == list(range(300))


def test_store_that_cannot_be_reached_is_not_taken_for_damage(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(key: str) -> bytes:
        raise StoreError(f"cannot read '{key}': the network is down")

    read = parts._objects.read_if_present
    monkeypatch.setattr(
        parts._objects, "read_if_present", lambda key: unreachable(key) if key.endswith(".json") else read(key)
    )
    with pytest.raises(StoreError, match="network is down"):
        parts.repair()
    monkeypatch.undo()
    assert held(parts.inventory(PHOTOS)) == list(range(300))


def test_record_whose_put_was_answered_with_exists_is_known_as_ones_own(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retried put whose first try had arrived: its part must stay."""
    more = catalogue(10, start=500)
    work = plan(parts, more)
    put = parts._objects.put_if_absent

    def twice(key: str, data: bytes) -> bool:
        put(key, data)
        return put(key, data)

    monkeypatch.setattr(parts._objects, "put_if_absent", twice)
    commit_all(parts, work)
    table = pa.concat_tables(parts.read(holding.record) for holding in parts.inventory(more).holdings)
    assert table["uri"].to_pylist() == more["uri"].to_pylist()
