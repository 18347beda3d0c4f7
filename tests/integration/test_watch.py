"""``fruits run --watch``: a folder and a bucket that fill while it runs, errors in between, and its end."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from faults import photos as copies
from tests.commands import Commands

from fruits.config import RunConfig
from fruits.errors import BackboneError, CatalogueError, ConfigError, FruitsError, PermanentStoreError, StoreError
from fruits.monitoring.clock import Silent
from fruits.storage.objects import Objects
from fruits.training import watch as watching

SMALL = ("--backbone", "fruits-small", "--components", 4, "--workers", 1)
LABELS = ("Moon Pear 1", "Starrib Yellow")


class Watching:
    """A process that watches."""

    def __init__(self, commands: Commands, *arguments: object, **how: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - see close()
        reader, writer = os.pipe()
        self._said = os.fdopen(reader, "rb")
        words = ("run", *arguments, "--watch", "--json", "-q")
        self.process = commands.start(*words, stdout=writer, stderr=self._errors.fileno(), **how)
        os.close(writer)
        self.rounds: list[dict[str, Any]] = []

    def round(self) -> dict[str, Any]:
        """Wait for the next round."""
        there, _, _ = select.select([self._said], [], [], 240)
        line = self._said.readline() if there else b""
        assert line, f"no round came: {self.end()}"
        self.rounds.append(json.loads(line))
        assert self.rounds[-1]["round"] == len(self.rounds)
        return self.rounds[-1]

    def until(self, **expected: Any) -> dict[str, Any]:
        """Wait for a round with these values."""
        while True:
            found = self.round()
            if all(found[name] == value for name, value in expected.items()):
                return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return exit code and stderr."""
        self.process.send_signal(number)
        code = self.process.wait(120)
        self._errors.seek(0)
        return code, self._errors.read().decode()

    def close(self) -> None:
        """End it, however far it is."""
        self.end(signal.SIGKILL)
        self._said.close()
        self._errors.close()


@pytest.fixture
def watch(commands: Commands) -> Iterator[Callable[..., Watching]]:
    started: list[Watching] = []

    def start(*arguments: object, **how: str) -> Watching:
        started.append(Watching(commands, *arguments, **how))
        return started[-1]

    yield start
    for one in started:
        one.close()


def some(photos: Path, to: Path, first: int, last: int) -> int:
    """Copy a few photos of two labels, with the times of their files; return how many."""
    for label in LABELS:
        for photo in sorted((photos / "Training" / label).iterdir())[first:last]:
            (to / label).mkdir(parents=True, exist_ok=True)
            shutil.copy2(photo, to / label / f".{photo.name}")  # appears whole
            (to / label / f".{photo.name}").rename(to / label / photo.name)
    return len(LABELS) * (last - first)


def test_folder_that_fills_is_listed_again_and_run_when_there_is_something_new(
    photos: Path, tmp_path: Path, watch: Callable[..., Watching], fruits: Callable[..., Any]
) -> None:
    source, out = tmp_path / "photos", tmp_path / "out"
    n = some(photos, source, 0, 6)
    watching = watch(source, "--to", out, *SMALL, "--interval", 0.2)
    first = watching.round()
    assert (first["outcome"], first["photos"], first["result"]["computed"], first["error"]) == ("ran", n, n, None)
    same = watching.round()
    assert (same["outcome"], same["photos"], same["result"], same["error"]) == ("same", n, None, None)
    more = some(photos, source, 6, 8)
    watching.until(photos=n + more)
    assert sum(one["result"]["computed"] for one in watching.rounds if one["result"]) == n + more
    # An error ends its round only.
    source.rename(tmp_path / "away")
    failed = watching.until(outcome="failed")
    assert (failed["photos"], failed["result"]) == (None, None)
    assert f"'{source}' does not exist" in failed["error"]
    (tmp_path / "away").rename(source)
    assert watching.until(outcome="same")["result"]["computed"] == 0
    assert watching.until(outcome="same")["result"] is None
    code, told = watching.end()
    assert (code, told) == (0, "")
    done = fruits("run", source, "--to", out, *SMALL, "--json")
    assert (done.code, done.json()["up_to_date"], done.json()["photos"]) == (0, True, n + more)


def test_bucket_that_is_empty_at_first_is_waited_for(
    photos: Path, tmp_path: Path, bucket: str, s3_environment: dict[str, str], watch: Callable[..., Watching]
) -> None:
    n = some(photos, tmp_path / "photos", 0, 6)
    store = copies.bucket(bucket.removeprefix("s3://"), s3_environment, "photos")
    watching = watch(f"{bucket}/photos", "--to", f"{bucket}/out", *SMALL, "--interval", 0.2)
    assert "nothing is stored below" in watching.round()["error"]
    copies.upload(tmp_path / "photos", store)
    watching.until(photos=n, outcome="ran")
    shutil.rmtree(tmp_path / "photos")
    more = some(photos, tmp_path / "photos", 6, 7)
    copies.upload(tmp_path / "photos", store)
    last = watching.until(photos=n + more, outcome="ran")
    assert last["result"]["current"] is True
    assert watching.until(outcome="same")["result"] is None
    assert sum(one["result"]["computed"] for one in watching.rounds if one["result"]) == n + more
    assert watching.end() == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", ["amid a run", "between two rounds"])
def test_signal_ends_it_at_once_with_its_code_and_the_same_command_goes_on(
    photos: Path, tmp_path: Path, watch: Callable[..., Watching], number: signal.Signals, code: int, moment: str
) -> None:
    source, out = tmp_path / "photos", tmp_path / "out"
    n = some(photos, source, 0, 6)
    # What is open amid a run is closed by the end of the process, as a user has it: of that Python would warn.
    watching = watch(source, "--to", out, *SMALL, "--interval", 3600, warnings="ignore::ResourceWarning")
    if moment == "amid a run":
        end = time.monotonic() + 120
        while not list(out.glob("embeddings/*/backbone.onnx")):
            assert time.monotonic() < end
            time.sleep(0.01)
    else:
        watching.round()
    ended, told = watching.end(number)
    assert (ended, "Traceback" in told) == (code, False), told
    assert ("stopped" in told) == (code == 130)  # -q leaves errors only
    again = watch(source, "--to", out, *SMALL, "--interval", 3600)
    assert again.round()["photos"] == n
    assert again.end()[0] == 0


def config(photos: Path, out: Path) -> RunConfig:
    return RunConfig(sources=(str(photos),), out=str(out), backbone="fruits-small", components=4, workers=1)


@pytest.mark.parametrize(
    ("error", "is_permanent"),
    [
        (StoreError("no answer"), False),
        (CatalogueError("one label only"), False),
        (PermanentStoreError("access denied"), True),
        (BackboneError("no such network"), True),
        (ConfigError("two options contradict each other"), True),
    ],
)
def test_error_ends_the_watch_only_if_no_later_round_can_do_better(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: FruitsError, is_permanent: bool
) -> None:
    some(photos, tmp_path / "photos", 0, 6)
    listing, calls = watching.catalogued, 0

    def sometimes(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return listing(*arguments)

    monkeypatch.setattr(watching, "catalogued", sometimes)
    rounds = watching.rounds(config(tmp_path / "photos", tmp_path / "out"), lambda: nullcontext(Silent()))
    assert next(rounds).outcome == "ran"
    if is_permanent:
        with pytest.raises(type(error), match=str(error)):
            next(rounds)
        return
    failed = next(rounds)
    assert (failed.outcome, failed.error, failed.photos) == ("failed", error, None)
    assert next(rounds).outcome == "same"


def test_old_runs_of_the_watch_are_removed_and_no_others(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "RUNS_KEPT", 1)
    source, out = tmp_path / "photos", tmp_path / "out"
    some(photos, source, 0, 4)
    chosen = config(source, out)
    mine = watching.pipeline.run(chosen)["run"]
    rounds = watching.rounds(chosen, lambda: nullcontext(Silent()))
    assert next(rounds).outcome == "same"
    made = []
    for number in range(4, 7):
        some(photos, source, number, number + 1)
        done = next(rounds)
        assert done.record is not None
        made.append(done.record["run"])
    assert {path.name for path in (out / "runs").iterdir()} == {mine, *made[1:]}


def test_photo_that_failed_is_tried_again_by_the_next_round(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(photos, tmp_path / "photos", 0, 4)
    run, failed = watching.pipeline.run, iter([1, 0])
    monkeypatch.setattr(watching.pipeline, "run", lambda *a, **k: {**run(*a, **k), "failed": next(failed)})
    rounds = watching.rounds(config(tmp_path / "photos", tmp_path / "out"), lambda: nullcontext(Silent()))
    assert [next(rounds).record is not None for _ in range(3)] == [True, True, False]


def test_what_cannot_begin_says_so_at_once(tmp_path: Path, fruits: Callable[..., Any], bucket: str) -> None:
    absent = fruits("run", tmp_path / "typo", "--to", tmp_path / "out", "--watch")
    assert (absent.code, absent.stdout) == (1, "")
    assert "typo' does not exist" in absent.stderr
    alone = fruits("run", tmp_path, "--to", tmp_path / "out", "--interval", 5)
    assert (alone.code, "--interval is of --watch" in alone.stderr) == (2, True)
    nowhere = fruits("run", "s3://no-such-bucket-of-ours/photos", "--to", tmp_path / "out", "--watch", "--interval", 0)
    assert (nowhere.code, nowhere.stdout) == (1, "")
    assert Objects(bucket).names() == set()
