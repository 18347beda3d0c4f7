"""Runs are immutable: a folder each, a pointer to the current one; killed, concurrent, gone back to, removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fruits as api
from fruits.config import RunConfig
from fruits.errors import BundleError, ConfigError, StoreError
from fruits.recogniser import bundle as bundles
from fruits.service.inference.workers import Recogniser
from fruits.storage.objects import Objects
from fruits.storage.outputs import publishing, runs
from fruits.training import finished, pipeline

FIXED = ("bundle", "run.json", "report.html", "features.parquet", "catalogue.parquet")
#: Runs a config as often as told, each time in a process of its own that kills itself before the given step of publishing.
KILLER = Path(__file__).with_name("killed_publishing.py")


def run(out: object, photos: Path, **choices: Any) -> dict[str, Any]:
    config = {"workers": 1, "backbone": str(photos.parent / "tiny.onnx"), **choices}
    return pipeline.run(RunConfig(sources=(str(photos),), out=str(out), **config))


@pytest.fixture(scope="module")
def two_labels(photos: Path, tmp_path_factory: pytest.TempPathFactory, networks: Any) -> Path:
    """A few photos of two labels, and beside them a network of 5 numbers."""
    root = tmp_path_factory.mktemp("two labels") / "photos"
    network = networks[0]("NHWC", "uint8")
    card = {"name": "tiny", "sha256": hashlib.sha256(network).hexdigest(), "embedding_size": 5, "size": 16}
    root.parent.joinpath("tiny.onnx").write_bytes(network)
    root.parent.joinpath("tiny.json").write_text(
        json.dumps(
            {**card, "layout": "NHWC", "dtype": "uint8", "scale": (0.01, 0.02, 0.03), "shift": (-0.5, 0.25, 1.0)}
        )
    )
    for split, count in (("Training", 12), ("Test", 6)):
        for label in ("Moon Pear 1", "Starrib Yellow"):
            (root / split / label).mkdir(parents=True)
            for photo in sorted((photos / split / label).iterdir())[:count]:
                shutil.copy2(photo, root / split / label)
    return root


@pytest.fixture(scope="module")
def made(two_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run with 3 components; tests copy them."""
    out = tmp_path_factory.mktemp("made") / "out"
    run(out, two_labels, components=3)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out", symlinks=True))


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "runs").iterdir())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- Layout and pointer -----------------------------------------------------------------------------------------------


def test_each_run_has_a_folder_that_later_runs_do_not_touch(out: Path, two_labels: Path) -> None:
    (first,) = names(out)
    assert first == json.loads((out / "run.json").read_text())["identity"]
    before = everything(out / "runs" / first)
    assert {"run.json", "report.html", "features.parquet", "catalogue.parquet", "bundle/manifest.json"} <= before.keys()
    second = run(out, two_labels, components=4)
    assert everything(out / "runs" / first) == before
    assert names(out) == sorted([first, second["run"]])
    assert second["run"] == second["identity"]
    assert runs.find(str(out)).name == second["run"]
    for name in FIXED:
        assert (out / name).resolve() == (out / "runs" / second["run"] / name).resolve()
    assert bundles.load(out).components == bundles.load(out / "bundle").components == 4
    assert bundles.load(out / "runs" / first).components == 3
    for link in ("bundle", "current"):  # followed once
        assert bundles.load(out / link).root == str((out / "runs" / second["run"] / "bundle").resolve())
    assert api.open_run(out / "current").features().num_rows == second["ok"]


def test_same_photos_and_options_make_no_new_run_and_an_earlier_one_is_current_again_at_no_cost(
    out: Path, two_labels: Path
) -> None:
    (first,) = names(out)
    before = everything(out)
    assert run(out, two_labels, components=3)["up_to_date"]
    assert everything(out) == before
    second = run(out, two_labels, components=4)
    again = run(out, two_labels, components=3)
    assert (again["up_to_date"], again["current"], again["run"]) == (True, True, first)
    assert names(out) == sorted([first, second["run"]])
    assert bundles.load(out).components == 3


def test_open_run_stays_the_same_while_another_one_is_published(out: Path, two_labels: Path) -> None:
    opened = api.open_run(out)
    features = opened.features()
    bundle = bundles.load(out)
    run(out, two_labels, components=4)
    assert opened.features().equals(features)
    assert opened.recogniser().components == bundle.components == 3
    assert opened.predictions().num_rows == features.num_rows
    assert api.evaluate(opened, "official").components == 3
    assert (Path(opened.folder) / "evaluation.json").is_file()
    assert not (out / "evaluation.json").exists(), "the current run is another one"
    assert api.open_run(out).components == 4


def test_pointer_that_is_damaged_is_said_and_put_right_by_a_run(out: Path, two_labels: Path) -> None:
    for data in (b"", b"{}", b'{"format": "fruits current run", "version": 1, "run": "../../x", "since": ""}'):
        (out / "current.json").write_bytes(data)
        with pytest.raises(StoreError, match=r"current\.json' is damaged .*--use ID"):
            bundles.load(out)
        assert run(out, two_labels, components=3)["up_to_date"]
        assert bundles.load(out).components == 3


# --- Going back, and removing -----------------------------------------------------------------------------------------


def test_runs_are_listed_one_is_gone_back_to_and_old_ones_are_removed(
    out: Path, two_labels: Path, fruits: Callable[..., Any]
) -> None:
    first = names(out)[0]
    second, third = (run(out, two_labels, components=components)["run"] for components in (4, 2))
    rows = fruits("runs", out, "--json").json()["runs"]
    assert [(row["run"], row["current"], row["components"]) for row in rows] == [
        (first, False, 3), (second, False, 4), (third, True, 2),
    ]  # fmt: skip
    assert {"started", "photos", "accuracy", "low", "high", "evaluated"} <= rows[0].keys()
    done = fruits("runs", out, "--use", first[:10])
    assert done.code == 0, done.stderr
    assert bundles.load(out).components == json.loads((out / "run.json").read_text())["components"] == 3
    table = fruits("runs", out).stdout.splitlines()
    assert [line.split()[:2] for line in table if "current" in line] == [["current", first[:12]]]
    assert fruits("runs", out, "--remove", first).code == 2
    assert fruits("runs", out, "--use", "0123").code == 2
    assert fruits("runs", out, "--use", "").code == 2
    assert fruits("runs", out, "--keep", 2).code == 2
    would = fruits("runs", out, "--prune", "--keep", 1, "--dry-run", "--json").json()
    assert would["removed"] == [second]
    assert len(would["runs"]) == 3
    assert fruits("runs", out, "--prune", "--keep", 1, "--json").json()["removed"] == [second]
    assert names(out) == sorted([first, third])
    assert fruits("runs", out, "--remove", third[:8]).code == 0
    assert names(out) == [first]
    assert fruits("runs", out / "nowhere").code == 1


def test_run_in_use_is_not_removed(out: Path, two_labels: Path) -> None:
    (first,) = names(out)
    service = Recogniser(str(out), workers=1)
    run(out, two_labels, components=4)
    with pytest.raises(StoreError, match="is in use"):
        finished.remove(str(out), first)
    assert finished.prune(str(out)) == publishing.Pruned([], [first])
    assert service.reload() is True
    assert finished.prune(str(out)) == publishing.Pruned([first], [])
    assert service.model.bundle.components == 4
    assert [model.bundle.components for model in service.models] == [3, 4], "pages that are open still see the old one"


def test_damaged_run_does_not_become_the_current_one(out: Path, two_labels: Path) -> None:
    (first,) = names(out)
    run(out, two_labels, components=4)
    (out / "runs" / first / "bundle" / "weights.npy").unlink()
    with pytest.raises(BundleError, match=r"weights\.npy"):
        finished.use(str(out), first)
    with pytest.raises(ConfigError, match=f"no run is called so.*{first[:12]}"):
        finished.use(str(out), "ffff" * 16)
    assert bundles.load(out).components == 4


# --- The layout of before ---------------------------------------------------------------------------------------------


@pytest.fixture
def old(out: Path) -> Path:
    """Results in the layout of before: fixed names, no runs."""
    folder = (out / "current").resolve()
    for link in [path for path in out.iterdir() if path.is_symlink()]:
        link.unlink()
    for path in folder.iterdir():
        path.rename(out / path.name)
    shutil.rmtree(out / "runs")
    (out / "current.json").unlink()
    (out / "lease").mkdir()
    (out / "lease" / "holder.json").write_text("{}")
    return out


def test_results_of_before_are_read_and_moved_by_the_next_run(
    old: Path, two_labels: Path, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    photo = next(two_labels.glob("Test/*/*.jpg"))
    assert fruits("predict", old, photo).code == 0
    assert fruits("evaluate", old, "--protocol", "official").code == 0
    assert fruits("apply", old, photo, "--to", tmp_path / "answers").code == 0
    assert [(row["run"], row["current"]) for row in fruits("runs", old, "--json").json()["runs"]] == [("", True)]
    service = Recogniser(str(old), workers=1)
    (old / "predictions.parquet").write_bytes(b"of apply")
    done = fruits(
        "run", two_labels, "--to", old, "--components", 3, "--backbone", two_labels.parent / "tiny.onnx", "--workers", 1
    )
    assert done.code == 0, done.stderr
    assert done.stderr.count("had the layout of an older version") == 1
    assert sorted(path.name for path in old.iterdir() if not path.is_symlink()) == [
        ".fruits", "current.json", "embeddings", "predictions.parquet", "runs",
    ]  # fmt: skip
    assert {path.name for path in old.iterdir() if path.is_symlink()} == {*FIXED, "current"}
    service.reload()
    assert service.model.bundle.root.endswith(f"/runs/{names(old)[0]}/bundle") or service.reload() is False
    assert fruits("predict", old, photo).code == 0


# --- Killed, and two at once ------------------------------------------------------------------------------------------


class Killed:
    """Publishes with 4 components, and dies before a step or waits before each; results of before had 3."""

    def __init__(self, photos: Path) -> None:
        command = [sys.executable, "-W", "error", str(KILLER), str(photos)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def at(self, step: int, out: object) -> str:
        """Return ``killed`` or ``done``; step 0 is never reached."""
        return self._told(f"kill {step} {out}")

    def waiting(self, stride: int, out: object) -> Iterator[int]:
        """Give the number of every ``stride``-th step while the run waits before it; end when the run is done."""
        told = self._told(f"wait {stride} {out}")
        while told.startswith("at "):
            yield int(told.removeprefix("at "))
            told = self._told("go on")
        assert told == "done"

    def _told(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def killed(two_labels: Path) -> Iterator[Killed]:
    """One program for all trials, so that modules are imported once; every trial is a process that it forks."""
    killer = Killed(two_labels)
    yield killer
    killer.close()


def assert_whole(out: str) -> int:
    """What readers get is one run, the old or the new one; return its components."""
    service = Recogniser(out, workers=1)
    components = service.model.bundle.components
    assert components in (3, 4)
    record = finished.listed(out)
    assert [row["components"] for row in record if row["current"]] == [components]
    opened = api.open_run(out)
    assert opened.components == components
    assert opened.features().schema.field("features").type.list_size == components
    assert opened.predictions("test").num_rows == 12
    return components


#: Steps of publishing between two looks; with 1, every step is one.
STRIDE = int(os.environ.get("FRUITS_KILL_STRIDE", "2"))


def assert_old_then_new(killed: Killed, out: object, stride: int = STRIDE) -> tuple[int, int, int, int]:
    """Before each step that a run waits at, readers find what a kill would leave.

    Returns steps to kill it at: long before the new run becomes the current one, just before, just after, and at the end.
    """
    seen = {step: assert_whole(str(out)) for step in killed.waiting(stride, out)}
    assert list(seen.values()) == sorted(seen.values()), "the old one until a step, the new one from there"
    assert set(seen.values()) == {3, 4}, "looks before and after the new one becomes the current one"
    assert max(seen) > 25
    assert assert_whole(str(out)) == 4
    turn = min(step for step, components in seen.items() if components == 4)
    return turn // 2, turn - stride, turn, max(seen)


def test_a_run_killed_at_any_step_of_publishing_leaves_the_old_or_the_new_one(
    made: Path, killed: Killed, tmp_path: Path
) -> None:
    steps = assert_old_then_new(killed, shutil.copytree(made, tmp_path / "waiting", symlinks=True))
    for step in {steps[0], steps[1], steps[3]}:
        out = Path(shutil.copytree(made, tmp_path / str(step), symlinks=True))
        assert killed.at(step, out) == "killed"
        assert_whole(str(out))
        assert killed.at(0, out) == "done"
        assert assert_whole(str(out)) == 4
        assert len(names(out)) == 2, "leftovers are removed"
        assert all(runs.is_name(name) for name in names(out))
        assert not list(out.rglob("unpublished.json"))
        assert (out / "report.html").resolve() == (out / "current" / "report.html").resolve()


def test_a_run_killed_at_any_step_of_publishing_in_a_bucket_leaves_the_old_or_the_new_one(
    made: Path, killed_in_bucket: Killed, bucket: str
) -> None:
    stored = {name: data for name, data in everything(made).items() if _is_stored(made, name)}

    def put(name: str) -> str:
        objects = Objects(f"{bucket}/{name}")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda item: objects.write(*item), stored.items()))
        return objects.root

    # A look at a bucket is a hundred requests; on a disk, above, there are twice as many looks.
    for step in assert_old_then_new(killed_in_bucket, put("waiting"), 2 * STRIDE)[1:3]:
        out = put(str(step))
        assert killed_in_bucket.at(step, out) == "killed"
        assert_whole(out)
    assert killed_in_bucket.at(0, out) == "done"
    assert assert_whole(out) == 4
    objects = Objects(out)
    below = {found.key for found in objects.list("runs")}
    assert len({key.split("/")[1] for key in below}) == 2, "leftovers are removed"
    assert not [key for key in below if key.endswith("unpublished.json")]
    name = runs.find(out).name
    assert objects.read("report.html") == objects.read(f"runs/{name}/report.html")


def _is_stored(made: Path, name: str) -> bool:
    """Whether a file of a disk is an object of a bucket: links are not."""
    return not any((made / part).is_symlink() for part in (name, name.partition("/")[0]))


@pytest.fixture
def killed_in_bucket(two_labels: Path, s3_environment: dict[str, str]) -> Iterator[Killed]:
    killer = Killed(two_labels)
    yield killer
    killer.close()


def test_two_runs_at_once_both_finish_and_one_of_them_is_current(
    out: Path, two_labels: Path, fruits: Callable[..., Any]
) -> None:
    def one(components: int) -> Any:
        options = ("--components", components, "--backbone", two_labels.parent / "tiny.onnx", "--workers", 1, "--json")
        return fruits("run", two_labels, "--to", out, *options)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(one, (4, 2, 4, 2)))
    assert [each.code for each in done] == [0] * 4, [each.stderr for each in done]
    told = [each.json() for each in done]
    assert any(each["current"] for each in told)
    components = bundles.load(out).components
    assert components in (4, 2)
    assert json.loads((out / "run.json").read_text())["components"] == components
    for each in told:
        assert bundles.load(out / "runs" / each["run"]).components == each["components"]
    assert not list(out.rglob("unpublished.json"))


def test_a_run_that_began_earlier_does_not_replace_a_later_one(tmp_path: Path) -> None:
    out = Objects(str(tmp_path / "out"))
    earlier, later = "a" * 64, "b" * 64
    assert publishing.point(out, later, "2026-01-02T00:00:00.000000+00:00", None)
    assert not publishing.point(out, earlier, "2026-01-01T00:00:00.000000+00:00", None)
    assert publishing.current(out) == later
    # With the pointer that it saw when it began, whatever the clocks say.
    assert publishing.point(out, earlier, "2026-01-01T00:00:00.000000+00:00", runs.stored_pointer(out.root))
    assert publishing.current(out) == earlier
