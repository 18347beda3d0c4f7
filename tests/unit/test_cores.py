"""How many workers there are: by cores, affinity and the quota of the control group, whichever is least; and memory likewise."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from fruits.config import RunConfig
from fruits.monitoring.cores import usable_cores, usable_memory

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def _v2(root: Path, group: str, limits: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    for place, text in limits.items():
        (root / "sys/fs/cgroup" / place).mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / place / "cpu.max").write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("/", {".": "200000 100000\n"}, 2),
        ("/", {".": "max 100000\n"}, 8),
        ("/", {".": "50000 100000\n"}, 1),
        ("/", {".": "250000 100000\n"}, 2),
        ("/", {".": "5000000 100000\n"}, 8),
        ("/a.slice/b.scope", {"a.slice/b.scope": "max 100000\n", "a.slice": "300000 100000\n"}, 3),
        ("/a.slice/b.scope", {"a.slice/b.scope": "100000 100000\n", "a.slice": "300000 100000\n"}, 1),
        ("/docker/0123", {".": "400000 100000\n"}, 4),  # a container that sees its own group as the root
        ("/", {".": "nonsense"}, 8),
        ("/", {".": "100000 0\n"}, 8),
        ("/", {}, 8),
    ],
)
def test_quota_of_version_2(group: str, limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert usable_cores(_v2(tmp_path, group, limits)) == expected


@pytest.mark.parametrize(
    ("place", "quota", "expected"),
    [("docker/0123", "200000", 2), (".", "200000", 2), ("docker", "50000", 1), ("docker/0123", "-1", 8)],
)
@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpuacct,cpu", "cpu"])
def test_quota_of_version_1(controllers: str, place: str, quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(
        f"12:memory:/docker/0123\n4:{controllers}:/docker/0123\n1:name=systemd:/x\n"
    )
    group = tmp_path / "sys/fs/cgroup" / controllers / place
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text(quota + "\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == expected


def test_affinity_may_be_less_than_the_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores(_v2(tmp_path, "/", {".": "400000 100000\n"})) == 1


def test_a_run_takes_as_many_workers_as_there_may_be() -> None:
    assert RunConfig(sources=("photos",), out="out").workers == usable_cores()
    assert usable_cores() >= 1
    assert _CORES >= 1


def _memory(root: Path, lines: str, folder: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    group = root / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "folder", "files", "expected"),
    [
        ("0::/\n", ".", {"memory.max": "900", "memory.current": "300"}, 600),
        ("0::/\n", ".", {"memory.max": "max", "memory.current": "300"}, 8000),
        ("0::/\n", ".", {"memory.max": "900", "memory.current": "300", "memory.stat": "anon 5\ninactive_file 100\n"}, 700),
        ("0::/\n", ".", {"memory.max": "900", "memory.current": "1000"}, 0),
        ("0::/\n", ".", {"memory.max": "90000", "memory.current": "300"}, 8000),
        ("0::/a/b\n", "a", {"memory.max": "500", "memory.current": "100"}, 400),
        ("0::/\n", ".", {}, 8000),
        (
            "9:memory:/docker/0123\n", "memory/docker/0123",
            {"memory.limit_in_bytes": "900", "memory.usage_in_bytes": "300", "memory.stat": "total_inactive_file 50\n"}, 650,
        ),
        ("9:memory:/docker/0123\n", "memory", {"memory.limit_in_bytes": "900", "memory.usage_in_bytes": "300"}, 600),
    ],
)  # fmt: skip
def test_memory_is_that_of_the_machine_or_what_the_group_has_left(
    lines: str, folder: str, files: dict[str, str], expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine:
        available = 8000

    monkeypatch.setattr(psutil, "virtual_memory", Machine)
    assert usable_memory(_memory(tmp_path, lines, folder, files)) == expected


def test_memory_of_this_machine_is_some() -> None:
    assert 0 < usable_memory() <= psutil.virtual_memory().total
