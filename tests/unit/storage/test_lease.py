"""One run at a time finishes; one that died holds nobody up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fruits.errors import StoreError
from fruits.storage.objects import Objects
from fruits.storage.outputs import lease


class Elsewhere(Objects):
    """A folder that is treated like a bucket: the same operations, no operating system to ask."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.is_local = False


@pytest.fixture(params=[Objects, Elsewhere], ids=["disk", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return request.param(str(tmp_path / "out"))


def test_alone_nobody_is_waited_for(objects: Objects) -> None:
    said: list[str] = []
    for _ in range(3):
        with lease.hold_lease(objects, said.append) as held:
            held.confirm()
    assert said == []


def test_second_waits_until_the_first_is_done_and_says_for_whom(objects: Objects) -> None:
    order: list[str] = []
    said: list[str] = []
    waits = threading.Event()

    def second() -> None:
        def say(message: str) -> None:
            said.append(message)
            waits.set()

        with lease.hold_lease(type(objects)(objects.root), say):
            order.append("second")

    thread = threading.Thread(target=second)
    with lease.hold_lease(objects):
        thread.start()
        assert waits.wait(60)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert "waiting for the run of process" in said[0]


def test_many_at_once_are_never_two(objects: Objects) -> None:
    inside: list[int] = []
    worst: list[int] = []

    def one() -> None:
        with lease.hold_lease(type(objects)(objects.root)):
            inside.append(1)
            worst.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1] * 8


HOLDER = """
import os, signal, sys
sys.path.insert(0, {here!r})
from test_lease import Elsewhere
from fruits.storage.outputs import lease
from fruits.storage.objects import Objects
with lease.hold_lease({kind}({root!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_holder_holds_nobody_up(objects: Objects) -> None:
    script = HOLDER.format(here=str(Path(__file__).parent), kind=type(objects).__name__, root=objects.root)
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with lease.hold_lease(objects) as held:
        held.confirm()


@pytest.mark.parametrize("elsewhere", [{}, {"processes": "pid:[1]"}, {"host": "another"}], ids=["here", "box", "host"])
def test_holder_of_another_container_is_not_taken_for_dead_because_its_number_is_unknown_here(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    objects = Elsewhere(str(tmp_path / "out"))
    script = HOLDER.format(here=str(Path(__file__).parent), kind="Elsewhere", root=objects.root)
    subprocess.run([sys.executable, "-c", script], check=False)  # killed: its number is unknown from now on
    held = Path(objects.root, "lease/00000001.json")
    holder = json.loads(held.read_text()) | elsewhere
    held.write_text(json.dumps(holder))
    waited_for: list[str] = []

    def waiting(message: str) -> None:
        waited_for.append(message)
        held.write_text(json.dumps(holder | {"over": True}))

    with lease.hold_lease(objects, waiting) as mine:
        mine.confirm()
    assert bool(waited_for) == bool(elsewhere)


def test_holder_that_fell_silent_is_told_that_another_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(lease, "_BEAT_S", 1e6)
    objects = Elsewhere(str(tmp_path / "out"))
    with lease.hold_lease(objects) as first:
        first.confirm()
        with lease.hold_lease(objects) as second:
            second.confirm()
            with pytest.raises(StoreError, match="took over"):
                first.confirm()


@pytest.mark.slow
def test_holder_that_gives_signs_of_life_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(lease, "_BEAT_S", 0.1)
    objects = Elsewhere(str(tmp_path / "out"))
    done = threading.Event()
    entered: list[bool] = []

    def second() -> None:
        with lease.hold_lease(objects):
            entered.append(done.is_set())

    thread = threading.Thread(target=second)
    with lease.hold_lease(objects):
        thread.start()
        threading.Event().wait(2.5)
        done.set()
    thread.join()
    assert entered == [True]


def test_damaged_holder_is_waited_out_and_named_without_details(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_PATIENCE_S", 0.3)
    objects = Elsewhere(str(tmp_path / "out"))
    objects.write("lease/00000001.json", b"\xff not json")
    said: list[str] = []
    with lease.hold_lease(objects, said.append):
        assert said == ["waiting for another run to finish on the same output"]
