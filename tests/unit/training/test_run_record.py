"""What the record says of calibration and of answers: sums close, and it is what the bundle would have said."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import OUTCOMES
from fruits.training import run_record as records


def test_bins_of_the_calibration_hold_every_photo_and_give_its_error(finished_run: Any) -> None:
    calibration, photos = finished_run.record["calibration"], finished_run.record["evaluated"]["photos"]
    bins = calibration["bins"]
    assert sum(one["photos"] for one in bins) == photos
    assert [one["low"] for one in bins[1:]] == [one["high"] for one in bins[:-1]]
    assert all((one["confidence"] is None) == (one["photos"] == 0) for one in bins)
    error = sum(one["photos"] * abs(one["confidence"] - one["accuracy"]) for one in bins if one["photos"]) / photos
    assert error == pytest.approx(calibration["expectedCalibrationError"], abs=1e-6)  # float32 confidences
    assert error == pytest.approx(finished_run.record["metrics"]["expectedCalibrationError"], abs=1e-6)


def test_calibration_says_what_it_was_made_from(finished_run: Any) -> None:
    calibration = finished_run.record["calibration"]
    assert calibration["temperature"] > 0
    assert 0 < calibration["validation_photos"] < finished_run.record["splits"]["train"] / 2
    assert 0 <= calibration["noise_floor"] < 0.2
    assert 0 <= calibration["uncalibrated"] <= 1


def test_outcomes_close_and_are_those_of_the_bundle(finished_run: Any) -> None:
    told, photos = finished_run.record["answers"], finished_run.record["evaluated"]["photos"]
    outcomes = {row["outcome"]: row for row in told["outcomes"]}
    assert tuple(outcomes) == OUTCOMES
    assert sum(row["photos"] for row in outcomes.values()) == photos
    assert sum(row["share"] for row in outcomes.values()) == pytest.approx(1)
    assert told["accepted"] == pytest.approx(1 - outcomes["unknown"]["share"])
    assert outcomes["unknown"]["right"] is None  # what was asked is known, so there is nothing to be right about
    paths = sorted(finished_run.photos.glob("Test/*/*.jpg"))
    found = bundles.load(finished_run.out).recognise([path.read_bytes() for path in paths])
    for outcome, row in outcomes.items():
        # A photo may lie on a limit, where the last bit decides.
        assert sum(answer.outcome == outcome for answer in found) == pytest.approx(row["photos"], abs=1)


def test_where_every_label_is_its_own_kind_both_are_scored_alike(finished_run: Any) -> None:
    record = finished_run.record
    assert record["kinds"] == record["labels"] == 8
    kinds, metrics = record["kind_metrics"], record["metrics"]
    for name in ("accuracy", "top3Accuracy", "expectedCalibrationError"):
        assert kinds[name] == pytest.approx(metrics[name], abs=1e-6)


def test_most_photos_that_were_learnt_are_taken_for_known(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    paths = sorted(finished_run.photos.glob("Training/*/*.jpg"))[::3]
    ood_score = np.array([answer.ood_score for answer in bundle.recognise([path.read_bytes() for path in paths])])
    # The limit lets 95 % of the photos held out in. Those are one look of each of 8 labels: a rough word about all others.
    assert (ood_score <= bundle.certainty.ood_limit).mean() > 0.85


def test_releases_that_results_depend_on_are_part_of_their_identity() -> None:
    """Those that make embeddings, and those that fit: what can change a bit of what is learnt."""
    told = records.versions()
    assert set(told) >= {
        "fruits",
        "python",
        "schema",
        "numpy",
        "onnxruntime",
        "pillow",
        "pyarrow",
        "scipy",
    }
    assert told["scipy"] == version("scipy")
