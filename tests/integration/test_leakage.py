"""What stands beside the score of every run: its interval, whether there are enough photos, what of it may be memory."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from fruits.assessment.evaluation import evaluate
from fruits.assessment.printed import as_text
from fruits.assessment.results import evaluation_of
from fruits.config import RunConfig
from fruits.photos.generated import generator
from fruits.training import pipeline

Fruits = Callable[..., Any]


def run(out: Path, *sources: Path, **choices: Any) -> dict[str, Any]:
    config = {"workers": 1, "backbone": "fruits-small", **choices}
    return pipeline.run(RunConfig(sources=tuple(map(str, sources)), out=str(out), **config))


@pytest.fixture(scope="module")
def unlike(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 4 varieties; those for testing are negatives, which no training photo resembles."""
    root = tmp_path_factory.mktemp("unlike") / "photos"
    for label in ("Apfelino Red 1", "Moon Pear 1", "Starrib Yellow", "Tuskana Yellow"):
        shutil.copytree(photos / "Training" / label, root / "Training" / label)
        (root / "Test" / label).mkdir(parents=True)
        for path in photos.glob(f"Test/{label}/*.jpg"):
            ImageOps.invert(Image.open(path)).save(root / "Test" / label / path.name)
    return root


def copy_training_to_test(photos: Path) -> None:
    for path in photos.glob("Test/*/*.jpg"):
        path.unlink()
    for path in photos.glob("Training/*/*.jpg"):
        shutil.copy(path, photos / "Test" / path.parent.name / path.name)


# --- Leakage --------------------------------------------------------------------------------------------------------------


def test_run_says_that_photos_stand_on_both_sides_and_names_the_command_that_helps(
    own_photos: Path, tmp_path: Path, fruits: Fruits
) -> None:
    copy_training_to_test(own_photos)
    done = fruits("run", own_photos, "--to", tmp_path / "out", "--backbone", "fruits-small")
    assert done.code == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("leakage: ")]
    assert line.startswith("leakage: 100.0% of test photos have a near-duplicate in training")
    assert "part of the score is memory" in line
    assert f"evaluate {tmp_path / 'out'}" in line
    record = json.loads((tmp_path / "out/run.json").read_text("utf-8"))
    assert record["leakage"]["share"] == record["leakage"]["near_duplicates"] == 1.0
    assert record["leakage"]["high"]
    page = (tmp_path / "out/report.html").read_text("utf-8")
    headline = page[page.index("<h1>") : page.index('class="lede"')]
    assert "part of this score is memory" in headline
    assert "relève de la mémoire" in headline
    assert f"fruits evaluate {tmp_path / 'out'}" in headline
    again = fruits("run", own_photos, "--to", tmp_path / "out", "--backbone", "fruits-small", "--json").json()
    assert (again["up_to_date"], again["leakage"]) == (True, record["leakage"])


def test_photos_that_no_training_photo_resembles_leak_nothing(unlike: Path, tmp_path: Path) -> None:
    leakage = run(tmp_path / "out", unlike)["leakage"]
    assert leakage["share"] <= 0.05
    assert not leakage["high"]
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "part of this score is memory" not in page


def test_check_of_a_run_finds_what_evaluate_finds(own_photos: Path, tmp_path: Path) -> None:
    record = run(tmp_path / "out", own_photos)
    (official,) = evaluate(str(tmp_path / "out"), ["official"])["protocols"]
    # The check looks at 60 retouched copies and fewer components, evaluate at 300 and 256.
    assert record["leakage"]["near_duplicates"] == pytest.approx(official["leakage"], abs=0.15)
    low, high = record["metrics"]["accuracyInterval"]
    assert 0 <= low <= record["metrics"]["accuracy"] <= high <= 1


def test_check_depends_neither_on_workers_nor_on_the_order_or_place_of_files(own_photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for path in sorted(own_photos.rglob("*.jpg"), reverse=True):
        copied = elsewhere / path.relative_to(own_photos)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)
    one = run(tmp_path / "one", own_photos)
    two = run(tmp_path / "two", elsewhere, workers=2)
    assert two["leakage"] == one["leakage"]
    assert two["metrics"]["accuracyInterval"] == one["metrics"]["accuracyInterval"]
    assert two["evaluated"] == one["evaluated"]


def test_few_components_do_not_make_everything_alike(unlike: Path, tmp_path: Path) -> None:
    leakage = run(tmp_path / "out", unlike, components=1)["leakage"]
    assert leakage["share"] <= 0.05


def test_groups_of_a_manifest_on_both_sides_leak(unlike: Path, tmp_path: Path) -> None:
    with (tmp_path / "photos.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "label", "split", "group"])
        for path in sorted(unlike.rglob("*.jpg")):
            split = {"Training": "train", "Test": "test"}[path.parent.parent.name]
            alone = path.parent.name == "Moon Pear 1" and split == "test"
            writer.writerow([path, path.parent.name, split, f"{path.parent.name} {'new' if alone else 'seen'}"])
    record = run(tmp_path / "out", tmp_path / "photos.csv", allow_source=(str(unlike),))
    assert record["leakage"]["same_group"] == pytest.approx(0.75, abs=0.01)  # of four varieties one is new
    assert (record["evaluated"]["groups"], record["evaluated"]["grouped_by"]) == (4, "manifest")
    low, high = record["metrics"]["accuracyInterval"]
    assert high - low > 0.3, "four groups say little, however many photos they have"


def test_photos_that_are_gone_when_they_are_looked_at_again_are_no_reason_to_fail(
    own_photos: Path, tmp_path: Path, fruits: Fruits
) -> None:
    run(tmp_path / "out", own_photos)
    hidden = own_photos.rename(tmp_path / "hidden")
    rows = sorted(hidden.rglob("*.jpg"))
    for path in rows:  # of the same name, time and size, so that the run takes their embeddings for known
        there = own_photos / path.relative_to(hidden)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(b"\xff\xd8\xff" + bytes(path.stat().st_size - 3))
        shutil.copystat(path, there)
    done = fruits(
        "run", own_photos, "--to", tmp_path / "out", "--backbone", "fruits-small", "--components", "9", "--gallery", "0"
    )
    assert done.code == 0, done.stderr
    assert "leakage: not known" in done.stdout
    assert json.loads((tmp_path / "out/run.json").read_text("utf-8"))["leakage"] is None


def test_neighbours_in_image_sequences_count_as_leaks(tmp_path: Path) -> None:
    generator.write_photos(tmp_path / "photos", photos=384, varieties=4, workers=1)
    record = run(tmp_path / "out", tmp_path / "photos")
    leakage = record["leakage"]
    assert record["evaluated"]["grouped_by"] == "sequence"
    assert record["evaluated"]["groups"] <= 12
    assert leakage["sequence_neighbours"] > 0.5
    assert leakage["share"] >= max(leakage["sequence_neighbours"], leakage["near_duplicates"])


# --- Too few to say -------------------------------------------------------------------------------------------------------


def test_below_thirty_photos_no_share_is_given_as_a_score(own_photos: Path, tmp_path: Path, fruits: Fruits) -> None:
    for path in sorted(own_photos.glob("Test/*/*.jpg"))[2:]:
        path.unlink()
    done = fruits("run", own_photos, "--to", tmp_path / "out", "--backbone", "fruits-small")
    assert done.code == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("accuracy")]
    assert line.startswith("accuracy: too few to say: ")
    assert " of 2 test photos right (95% interval " in line
    assert "calibration error" not in done.stdout
    told = fruits("run", own_photos, "--to", tmp_path / "out", "--backbone", "fruits-small", "--json").json()
    assert told["evaluated"]["too_few_to_say"] is True
    assert told["metrics"]["expectedCalibrationError"] is None
    assert told["kind_metrics"]["expectedCalibrationError"] is None
    assert told["calibration"] is None
    low, high = told["metrics"]["accuracyInterval"]
    assert high - low > 0.5
    page = (tmp_path / "out/report.html").read_text("utf-8")
    headline = page[page.index("<h1>") : page.index("</h1>")]
    assert "Too few photos to say" in headline
    assert "Trop peu de photos pour conclure" in headline
    assert '<span class="score">' not in headline
    evaluated = evaluate(str(tmp_path / "out"), ["official"])
    assert evaluated["protocols"][0]["too_few_to_say"] is True
    assert "too few to say (" in as_text([evaluation_of(evaluated)])


def test_thirty_photos_are_scored(own_photos: Path, tmp_path: Path, fruits: Fruits) -> None:
    tested = sorted(own_photos.glob("Test/*/*.jpg"))
    for path in sorted(own_photos.glob("Training/*/*.jpg"))[:: len(tested) and 3][: max(0, 30 - len(tested))]:
        shutil.move(path, own_photos / "Test" / path.parent.name / f"moved_{path.name}")
    tested = sorted(own_photos.glob("Test/*/*.jpg"))
    for path in np.array(tested, object)[30:]:
        path.unlink()
    done = fruits("run", own_photos, "--to", tmp_path / "out", "--backbone", "fruits-small")
    assert done.code == 0, done.stderr
    assert "too few to say" not in done.stdout
    assert "on 30 test photos" in done.stdout
    assert "% (95% interval " in done.stdout
    assert "calibration error" in done.stdout
