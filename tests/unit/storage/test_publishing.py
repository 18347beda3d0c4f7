"""Claiming, pointing, clearing and removing runs, on a disk and in a bucket."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fruits.storage.disk.locks import lock_folder
from fruits.storage.disk.processes import this_process
from fruits.storage.objects import Objects
from fruits.storage.outputs import publishing
from fruits.storage.outputs.runs import find, is_name, key_of, stored_pointer

ONE, OTHER = "1" * 64, "2" * 64
SINCE = "2026-01-01T00:00:00.000000+00:00"


@pytest.fixture(params=["disk", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "out") if request.param == "disk" else f"{request.getfixturevalue('prefix')}/out")


def make(out: Objects, identity: str = ONE) -> str:
    """Publish a run of two files; return its name."""
    before = stored_pointer(out.root)
    with publishing.begin(out, identity) as attempt:
        attempt.objects.write("report.html", f"report of {attempt.name}".encode())
        attempt.objects.write("run.json", b"{}")
        assert attempt.publish(SINCE, before)
    publishing.tidy(out)
    return attempt.name


def keys(out: Objects) -> set[str]:
    return {found.key for found in out.list("runs")}


def test_of_many_swaps_at_once_one_wins_each_time(tmp_path: Path) -> None:
    out = Objects(str(tmp_path))

    def count(_: int) -> int:
        done = 0
        while done < 5:
            old = out.read_if_present("count")
            new = json.dumps({"count": json.loads(old)["count"] + 1 if old else 1, "id": os.urandom(8).hex()})
            done += out.swap("count", old, new.encode())
        return done

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(count, range(4))) == 20
    assert json.loads(out.read("count"))["count"] == 20


def test_swap_writes_only_over_what_was_seen(out: Objects) -> None:
    assert out.swap("count", None, b"0") is True
    assert out.swap("count", b"0", b"1") is True
    assert out.swap("count", b"0", b"1") is True, "as after a lost response"
    assert out.swap("count", b"0", b"2") is False
    assert out.swap("count", None, b"2") is False
    assert out.swap("none", b"0", b"2") is False
    assert out.read("count") == b"1"


def test_run_is_read_once_it_is_published(out: Objects) -> None:
    with publishing.begin(out, ONE) as attempt:
        attempt.objects.write("run.json", b"{}")
        assert find(out.root).name == ""
        assert attempt.publish(SINCE, None)
    assert find(out.root).name == find(f"{out.root}/runs/{ONE}").name == ONE
    assert find(f"{out.root}/runs/{ONE}/").out == out.root
    assert keys(out) == {f"runs/{ONE}/run.json"}


def test_second_attempt_has_a_name_of_its_own(out: Objects) -> None:
    with publishing.begin(out, ONE) as first, publishing.begin(out, ONE) as second:
        assert (first.name, second.name) == (ONE, f"{ONE}-2")
        assert all(map(is_name, (first.name, second.name)))
    assert make(out, OTHER) == OTHER
    assert make(out, OTHER) == f"{OTHER}-2"


def fail_after(out: Objects, key: str) -> None:
    with publishing.begin(out, ONE) as attempt:
        attempt.objects.write(key, b"{}")
        if key == "run.json":
            attempt.publish(SINCE, None)
        raise RuntimeError


def test_attempt_that_fails_leaves_nothing_unless_it_was_published(out: Objects) -> None:
    with pytest.raises(RuntimeError):
        fail_after(out, "report.html")
    assert keys(out) == set()
    with pytest.raises(RuntimeError):
        fail_after(out, "run.json")
    assert publishing.finished(out) == [ONE]


def left(out: Objects, **changes: object) -> None:
    """A folder whose writer did not come to its end."""
    out.write(f"{key_of(ONE)}/unpublished.json", json.dumps({**this_process(), **changes}).encode())
    out.write(f"{key_of(ONE)}/bundle/gallery.jpegs", b"a thumbnail")


def test_what_an_ended_process_left_is_removed(out: Objects) -> None:
    make(out, OTHER)
    left(out, pid=2**22 + 1)
    assert publishing.finished(out) == [OTHER]
    publishing.clear(out)
    assert not [key for key in keys(out) if ONE in key]
    assert publishing.current(out) == OTHER


def test_what_another_machine_writes_is_left_alone_for_a_day(out: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    left(out, host="elsewhere")
    lock = lock_folder(Path(out.root, key_of(ONE))) if out.is_local else None
    publishing.clear(out)
    assert [key for key in keys(out) if ONE in key]
    assert publishing.begin(out, ONE).__enter__().name == f"{ONE}-2"
    if lock is not None:
        lock.release()
    monkeypatch.setattr(publishing, "_PATIENCE_S", -1e6)
    publishing.clear(out)
    assert not [key for key in keys(out) if f"{ONE}/" in key]


def test_current_run_and_one_that_is_not_published_yet_are_never_removed(out: Objects) -> None:
    first, second = make(out, ONE), make(out, OTHER)
    assert publishing.remove(out, second) is False
    with publishing.begin(out, "3" * 64) as attempt:
        attempt.objects.write("run.json", b"{}")
        assert publishing.prune(out).removed == [first]
        assert publishing.finished(out) == sorted([second, attempt.name])
        assert attempt.publish(SINCE, stored_pointer(out.root))
    assert publishing.prune(out, keep=1) == publishing.Pruned([], [])
    assert publishing.prune(out, dry_run=True).removed == publishing.prune(out).removed == [second]


def test_prune_that_keeps_more_runs_than_there_are_removes_none(out: Objects) -> None:
    names = [make(out, f"{number}" * 64) for number in range(4)]
    for keep in (3, 4, 5, 6, 100):
        assert publishing.prune(out, keep=keep) == publishing.Pruned([], [])
    assert publishing.prune(out, keep=2).removed == names[:1]


def test_report_follows_the_pointer(out: Objects) -> None:
    first, second = make(out, ONE), make(out, OTHER)
    assert out.read("report.html") == f"report of {second}".encode()
    publishing.point(out, first, SINCE, stored_pointer(out.root))
    publishing.tidy(out)
    assert out.read("report.html") == f"report of {first}".encode()


def test_files_of_the_layout_of_before_are_removed_once_and_said(out: Objects) -> None:
    old = ("run.json", "bundle/manifest.json", "features.parquet", "report.html", "lease/00000001.json", "mine.txt")
    for key in old:
        out.write(key, b"old")
    said: list[str] = []
    make(out)
    assert not {"features.parquet", "lease"} & out.names()
    assert out.read("report.html") == f"report of {ONE}".encode()
    assert out.read("mine.txt") == b"old"
    publishing.tidy(out, said.append)
    assert said == []
    out.write("features.parquet", b"old")
    publishing.tidy(out, said.append)
    assert len(said) == 1
    assert "(features.parquet) were removed" in said[0]


def test_where_there_are_no_links_the_report_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    out = Objects(str(tmp_path))
    make(out)
    assert (tmp_path / "report.html").read_text() == f"report of {ONE}"
    assert not (tmp_path / "report.html").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"current.json", "report.html", "runs"}
