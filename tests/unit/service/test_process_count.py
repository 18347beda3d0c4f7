"""How many processes a service starts by itself: by network, cores, memory and database."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fruits.recogniser import bundle as bundles
from fruits.recogniser.bundle_files import network_of
from fruits.service.http import process_count
from fruits.service.http.process_count import processes_for
from fruits.service.settings import ServiceConfig

GB = 1 << 30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine with a lot of memory, and a small network; tests change them."""
    has = {"memory": 64.0 * GB, "bytes": 963_350.0, "side": 100.0}
    monkeypatch.setattr(process_count, "usable_memory", lambda: has["memory"])
    monkeypatch.setattr(process_count, "network_of", lambda _: (int(has["bytes"]), int(has["side"])))
    return has


def count(**options: Any) -> int:
    return processes_for(ServiceConfig(**{"out": "out", "workers": 2, **options}))


def test_what_is_asked_for_is_started() -> None:
    assert [count(processes=number) for number in (1, 2, 7)] == [1, 2, 7]


@pytest.mark.parametrize(
    ("size_bytes", "side", "cores", "expected"),
    [
        (963_350, 100, 1, 1),  # fruits-small
        (963_350, 100, 2, 2),
        (963_350, 100, 8, 8),
        (963_350, 100, 100, 16),
        (3_765_071, 100, 2, 2),  # fruits-photo
        (3_765_071, 224, 2, 1),
        (3_765_071, 224, 16, 6),
        (8_841_151, 224, 2, 1),  # MobileNetV2
        (8_841_151, 224, 16, 3),
        (0, 100, 2, 2),
    ],
)
def test_small_networks_and_many_cores_get_several(
    size_bytes: int, side: int, cores: int, expected: int, machine: dict[str, float]
) -> None:
    machine |= {"bytes": size_bytes, "side": side}
    assert count(workers=cores) == expected


@pytest.mark.parametrize(("memory", "expected"), [(0.2 * GB, 1), (1.2 * GB, 2), (2.1 * GB, 4), (64 * GB, 8)])
def test_each_needs_memory(memory: float, expected: int, machine: dict[str, float]) -> None:
    machine["memory"] = memory
    assert count(workers=8) == expected


def test_postgresql_gets_one_unless_more_are_asked_for() -> None:
    assert count(database="postgresql://somebody@host/fruits", workers=8) == 1
    assert count(database="postgresql://somebody@host/fruits", workers=8, processes=3) == 3


def test_the_network_is_that_of_the_bundle(finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size_bytes, side = network_of(str(finished_run.out))
    assert size_bytes == len((finished_run.out / "bundle" / "backbone.onnx").read_bytes())
    assert side == bundles.load(finished_run.out).preprocessing.size
    monkeypatch.setattr(process_count, "network_of", network_of)
    assert count(out=str(finished_run.out)) == 2


@pytest.mark.parametrize("damage", ["absent", "manifest", "network"])
def test_what_cannot_be_opened_gets_one_that_says_so(
    damage: str, finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_count, "network_of", network_of)
    bundle = tmp_path / "bundle"
    shutil.copytree((finished_run.out / "bundle").resolve(), bundle)
    if damage == "absent":
        shutil.rmtree(bundle)
    elif damage == "manifest":
        (bundle / "manifest.json").write_text("{}")
    else:
        (bundle / "backbone.onnx").unlink()
    assert count(out=str(bundle)) == 1
