"""The command line as scripts and people meet it: exit codes, what is on stdout and what on stderr."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import fruits as package
from fruits.messages import LANGUAGES
from fruits.recogniser.bundle_files import manifest_bytes

SUMMARY = {
    "photos", "ok", "rejected", "failed", "computed", "reused", "labels", "splits", "labels_without_training",
    "skipped", "warnings", "backbone", "embedding_size", "components", "components_chosen_by", "explained_variance",
    "head", "balanced", "evaluated", "leakage", "metrics", "kinds", "kind_metrics", "calibration", "answers", "coverage",
    "seconds", "peak_memory_mb", "up_to_date", "run", "current",
}  # fmt: skip

Fruits = Callable[..., Any]

#: A fifth of the work of the default network, where it does not matter which one it is.
SMALL = ("--workers", 1, "--backbone", "fruits-small")


def test_run_with_json_prints_one_object_with_the_documented_keys(
    fruits: Fruits, own_photos: Path, tmp_path: Path
) -> None:
    done = fruits("run", own_photos, "--to", tmp_path / "out", "--json", "--components", 8, *SMALL)
    assert done.code == 0, done.stderr
    assert set(done.json()) == SUMMARY
    assert done.stdout.count("\n") == 1
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    told = {"up_to_date": False, "run": (tmp_path / "out" / "current").resolve().name, "current": True}
    assert done.json() == {name: {**record, **told}[name] for name in SUMMARY}
    assert record["command"].startswith("fruits run ")
    for step in ("catalogue", "embeddings", "features", "head", "report"):
        assert f"{step}: " in done.stderr
    # What was tried is in the record, trial by trial; here it is one line.
    [tried] = [line for line in done.stderr.splitlines() if "components" in line]
    strength = f"regularisation {record['head']['regularisation']:g}"
    assert tried == f"4 heads tried on validation photos: 8 components, {strength}"


def test_run_without_json_tells_people_what_was_made_and_where(
    finished_run: Any, fruits: Fruits, tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    done = fruits("run", finished_run.photos, "--to", out)
    assert done.code == 0, done.stderr
    assert "320 photos of 8 labels: 320 ok, 0 rejected, 0 failed; 0 computed" in done.stdout
    assert "up to date" in done.stdout
    assert "of the variance (chosen by validation)" in done.stdout
    asked = fruits("run", finished_run.photos, "--to", out, "--components", 5)
    assert "of the variance (the number asked for)" in asked.stdout
    assert f"report in {out}/report.html, recogniser in {out}/bundle" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "PHOTOS"],
        ["run", "PHOTOS", "--to", "OUT", "--colour", "red"],
        ["run", "PHOTOS", "--to", "OUT", "--workers", "0"],
        ["run", "PHOTOS", "--to", "OUT", "--variance", "2"],
        ["run", "PHOTOS", "--to", "OUT", "--variance", "0.9", "--components", "5"],
        ["run", "PHOTOS", "--to", "OUT", "--resize-mode", "stretch"],
        ["run", "PHOTOS", "--to", "OUT", "-v", "-q"],
        ["run", "PHOTOS", "--to", "OUT", "--size", "1"],
        ["run", "PHOTOS", "--to", "OUT", "--sample", "0"],
        ["run", "PHOTOS", "--to", "OUT", "--seed", "-1"],
        ["run", "PHOTOS", "--to", "OUT", "--max-rejected", "5"],
        ["run", "PHOTOS", "--to", "OUT", "--components", "many"],
        ["peel", "PHOTOS"],
        ["predict", "OUT"],
        ["apply", "OUT", "PHOTOS"],
        ["evaluate"],
        ["evaluate", "OUT", "--protocol", "luck"],
        ["evaluate", "OUT", "--fail-on-leak", "2"],
    ],
    ids=" ".join,
)
def test_misuse_ends_with_2_and_says_what_is_expected(
    fruits: Fruits, photos: Path, tmp_path: Path, arguments: list[str]
) -> None:
    given = [{"PHOTOS": photos, "OUT": tmp_path / "out"}.get(argument, argument) for argument in arguments]
    done = fruits(*given)
    assert done.code == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "/nowhere", "--to", "OUT"], "'/nowhere' does not exist"),
        (["run", "PHOTOS", "--to", "OUT", "--backbone", "resnet"], "no backbone 'resnet'"),
        (["run", "PHOTOS", "--to", "OUT", "--only", "Cabbage*"], "no label"),
        (["predict", "OUT", "photo.jpg"], "no bundle in"),
        (["apply", "OUT", "PHOTOS", "--to", "OUT"], "no bundle in"),
        (["evaluate", "OUT"], "no finished run in"),
        (["run", "PHOTOS", "--to", "OUT", "--taxonomy", "/nowhere.csv"], "taxonomy '/nowhere.csv' cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_failure_ends_with_1_and_a_message(
    fruits: Fruits, photos: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    given = [{"PHOTOS": photos, "OUT": tmp_path / "out"}.get(argument, argument) for argument in arguments]
    done = fruits(*given)
    assert done.code == 1
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_too_many_rejected_photos_end_with_1_and_a_list(fruits: Fruits, own_photos: Path, tmp_path: Path) -> None:
    label = own_photos / "Training" / "Moon Pear 1"
    for number in range(30):
        (label / f"bad {number:02d}.jpg").write_bytes(b"text")
    done = fruits("run", own_photos, "--to", tmp_path / "out", *SMALL, "--json")
    assert done.code == 1
    assert done.stdout == ""
    assert "30 of " in done.stderr
    assert "--max-rejected" in done.stderr
    assert f"{label.resolve()}/bad 00.jpg: not an image: " in done.stderr
    assert "... and 20 more" in done.stderr
    assert len((tmp_path / "out" / "rejected.csv").read_text("utf-8").splitlines()) == 31


def test_predict_answers_for_each_photo(finished_run: Any, fruits: Fruits, tmp_path: Path) -> None:
    good = min(finished_run.photos.glob("Test/Starrib Yellow/*.jpg"))
    (tmp_path / "text.jpg").write_bytes(b"text")
    done = fruits("predict", finished_run.out, good, tmp_path / "text.jpg", tmp_path / "gone.jpg", "--json")
    assert done.code == 1  # not every photo could be recognised
    first, second, third = done.json()["photos"]
    assert set(first) == {
        "uri", "status", "error", "outcome", "kind", "variety", "name", "probability", "kinds", "labels",
        "probabilities", "ood_score", "advice",
    }  # fmt: skip
    assert (first["uri"], first["status"], first["error"]) == (str(good), "ok", None)
    assert (len(first["labels"]), len(first["probabilities"]), len(first["kinds"])) == (3, 3, 3)
    assert sum(first["probabilities"]) <= 1.0001
    assert all(set(kind) == {"kind", *LANGUAGES, "probability"} for kind in first["kinds"])
    # Made-up fruit: no table knows it, so that its label is its kind and its name.
    assert (first["outcome"], first["kind"], first["variety"]) == ("kind", "Starrib Yellow", None)
    name = {"en": "Starrib Yellow"}
    assert (first["name"], first["advice"]) == (name, [])
    assert first["probability"] == first["kinds"][0]["probability"] > 0.5
    for row, status in ((second, "rejected"), (third, "failed")):
        assert (row["status"], set(row)) == (status, {"uri", "status", "error"})
        assert row["error"]


def test_predict_for_people_is_one_line_per_photo(finished_run: Any, fruits: Fruits, tmp_path: Path) -> None:
    good = sorted(finished_run.photos.glob("Test/Starrib Yellow/*.jpg"))[:2]
    photo, dark = Image.open(good[0]), tmp_path / "dark.png"
    photo.resize((20, 20)).point(lambda value: value // 16).save(dark)
    done = fruits("predict", finished_run.out, *good, dark)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [*map(str, good), str(dark)]
    assert all(": Starrib Yellow " in line and "%" in line for line in lines[:2])
    assert ": none of the things I know (nearest: " in lines[2] or ": not sure: " in lines[2]
    assert "[The photo is dark: try again with more light.]" in lines[2]
    assert "go closer" in lines[2]


def test_what_is_likely_and_not_sure_is_told_as_probable_everywhere(
    finished_run: Any, fruits: Fruits, tmp_path: Path
) -> None:
    out = with_limits(finished_run.copy_to(tmp_path), variety=1.1, kind=1.1, probable=0.34)
    good = min(finished_run.photos.glob("Test/Starrib Yellow/*.jpg"))
    (row,) = fruits("predict", out, good, "--json").json()["photos"]
    assert (row["outcome"], row["kind"], row["variety"]) == ("probable", "Starrib Yellow", None)
    assert row["name"]["en"] == "Starrib Yellow"
    assert row["probability"] == row["kinds"][0]["probability"]
    line = fruits("predict", out, good).stdout
    assert f"{good}: probably Starrib Yellow ({row['probability']:.0%}); or " in line
    fruits("apply", out, good.parent, "--to", tmp_path / "to", "--workers", 1)
    table = pq.read_table(tmp_path / "to" / "predictions.parquet")
    assert "probable" in set(table["outcome"].to_pylist()) <= {"probable", "unsure", "unknown"}
    for outcome, kind in zip(table["outcome"].to_pylist(), table["kind"].to_pylist(), strict=True):
        assert (kind is not None) == (outcome == "probable")


def with_limits(out: Path, **limits: float) -> Path:
    """Results whose bundle was saved with other limits of certainty."""
    folder = out / "bundle"
    certainty = json.dumps({**json.loads((folder / "certainty.json").read_text("utf-8")), **limits}).encode()
    (folder / "certainty.json").write_bytes(certainty)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    del manifest["sha256"]
    manifest["files"]["certainty.json"] = hashlib.sha256(certainty).hexdigest()
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return out


def test_apply_with_json_prints_one_object(finished_run: Any, fruits: Fruits, own_photos: Path, tmp_path: Path) -> None:
    done = fruits("apply", finished_run.out, own_photos, "--to", tmp_path / "to", "--workers", 1, "--json")
    assert done.code == 0, done.stderr
    answer = done.json()
    assert set(answer) == {
        "photos", "ok", "rejected", "failed", "computed", "reused", "device", "seconds", "peak_memory_mb", "predictions",
        "outcomes",
    }  # fmt: skip
    assert Path(answer["predictions"]).is_file()


def test_labels_can_be_given_a_meaning_and_be_made_to_count_the_same(
    fruits: Fruits, own_photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "meaning.csv").write_text("label,kind\nMoon Pear 1,fruit\nStarrib Yellow,fruit\n", "utf-8")
    given = ("run", own_photos, "--to", tmp_path / "out", "--components", 8, *SMALL, "--json")
    with_meaning = fruits(*given, "--taxonomy", tmp_path / "meaning.csv", "--balance").json()
    assert (with_meaning["balanced"], with_meaning["kinds"], with_meaning["labels"]) == (True, 3, 4)
    assert with_meaning["kind_metrics"]["accuracy"] >= with_meaning["metrics"]["accuracy"]
    plain = fruits(*given, "--taxonomy", "none", "--no-balance").json()
    # Another recogniser of the same embeddings.
    assert (plain["balanced"], plain["kinds"], plain["computed"], plain["up_to_date"]) == (False, 4, 0, False)
    assert plain["kind_metrics"]["accuracy"] == plain["metrics"]["accuracy"]


def test_evaluate_with_json_prints_one_object_with_an_evaluation_for_each_result(
    finished_run: Any, fruits: Fruits, tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    done = fruits("evaluate", out, out, "--protocol", "official", "--json", "--fail-on-leak", 1)
    assert done.code == 0, done.stderr
    assert done.stdout.count("\n") == 1
    one, other = done.json()["evaluations"]
    assert [row["protocol"] for row in one["protocols"]] == ["official"]
    assert one["protocols"] == other["protocols"]
    assert json.loads((out / "evaluation.json").read_text("utf-8")) == other
    assert "official: 1 fold in" in done.stderr


def test_leak_beyond_the_share_allowed_ends_with_1_after_the_table(
    finished_run: Any, fruits: Fruits, tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    done = fruits("evaluate", out, "--protocol", "official", "--fail-on-leak", 0.05)
    assert done.code == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("official ")]
    leakage = json.loads((out / "evaluation.json").read_text("utf-8"))["protocols"][0]["leakage"]
    assert f"{leakage:.1%}" in line
    assert (
        f"more than 5.0% of the test photos have a near-duplicate in training ({out}, official: {leakage:.1%})"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_demo_makes_photos_and_results_and_says_how_to_go_on(fruits: Fruits, tmp_path: Path) -> None:
    done = fruits("demo", "--to", tmp_path / "demo", "--photos", 160)
    assert done.code == 0, done.stderr
    assert len(list((tmp_path / "demo" / "photos").glob("*/*/*.jpg"))) == 160
    assert (tmp_path / "demo" / "results" / "report.html").is_file()
    told = {line.partition(": ")[0]: line for line in done.stdout.splitlines()}
    for what, where in (("report", "report.html"), ("recognise", " predict "), ("evaluate", " evaluate ")):
        assert where in told[what]


def test_version_is_that_of_the_package(fruits: Fruits) -> None:
    done = fruits("--version")
    assert (done.code, done.stdout.strip()) == (0, package.__version__)


def test_help_of_every_command_is_there(fruits: Fruits) -> None:
    done = fruits("--help")
    assert done.code == 0
    for command in ("run", "apply", "predict", "evaluate", "demo"):
        assert f" {command} " in done.stdout


def test_interrupted_run_ends_with_130_and_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fruits", "run", photos, "--to", tmp_path / "out", "--workers", "1"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with Ctrl-C ignored, and so would be every process below these tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while not list((tmp_path / "out").glob("embeddings/*/backbone.onnx")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "what was computed is kept" in stderr
