"""A second head through the whole chain: chosen, calibrated, evaluated, saved and asked as the first is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from fruits.assessment.evaluation import evaluate
from fruits.learning.heads.knn import KnnHead
from fruits.photos.decoding.images import to_network_input
from fruits.recogniser import bundle as bundles
from fruits.service.inference.model import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def neighbours(finished_run: Any, fruits: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run with the other head, on the embeddings of a run with the first."""
    out: Path = finished_run.copy_to(tmp_path_factory.mktemp("heads"))
    done = fruits("run", finished_run.photos, "--to", out, "--head", "knn", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["computed"] == 0
    return out


def test_other_head_is_chosen_and_calibrated_on_photos_held_out(neighbours: Path, finished_run: Any) -> None:
    record = json.loads((neighbours / "run.json").read_text("utf-8"))
    head = record["head"]
    assert (head["name"], head["parameter"], record["config"]["head"]) == ("knn", "neighbours", "knn")
    assert [trial["neighbours"] for trial in head["trials"]] == list(KnnHead.settings)
    assert head["neighbours"] in KnnHead.settings
    assert record["metrics"]["accuracy"] > 0.8
    assert record["calibration"]["temperature"] == pytest.approx(
        bundles.load(neighbours).manifest["head"]["temperature"]
    )
    assert record["calibration"]["expectedCalibrationError"] < record["calibration"]["uncalibrated"]
    assert record["answers"]["accepted"] > 0.5
    assert record["identity"] != finished_run.record["identity"]
    page = (neighbours / "report.html").read_text("utf-8")
    assert "neighbours" in page
    assert "knn" in page


def test_batch_service_library_and_single_graph_agree_on_the_other_head(
    neighbours: Path, finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    paths = sorted(finished_run.photos.glob("Test/*/*.jpg"))[::3]
    done = fruits("apply", neighbours, *paths, "--to", tmp_path / "answers")
    assert done.code == 0, done.stderr
    batch = {row["uri"]: row for row in pq.read_table(tmp_path / "answers" / "predictions.parquet").to_pylist()}
    bundle = bundles.load(neighbours)
    library = bundle.recognise([path.read_bytes() for path in paths])
    pixels = np.stack([to_network_input(path.read_bytes(), bundle.preprocessing).pixels for path in paths])
    service = Model(bundle).recognise(pixels, np.full(len(paths), 100))
    session = ort.InferenceSession(neighbours / "bundle" / "recognizer.onnx", providers=["CPUExecutionProvider"])
    (graph,) = session.run(["probabilities"], {"pixels": pixels})
    tolerance = bundles.PROBABILITY_TOLERANCE
    for row, (path, answer, seen) in enumerate(zip(paths, library, service, strict=True)):
        best = np.sort(graph[row])[::-1][: len(answer.probabilities)]
        np.testing.assert_allclose(answer.probabilities, best, atol=tolerance)
        np.testing.assert_allclose(seen.answer.probabilities, best, atol=tolerance)
        of_batch = next(value for uri, value in batch.items() if uri.endswith(str(path)))
        np.testing.assert_allclose(of_batch["probabilities"], best, atol=tolerance)
        assert of_batch["outcome"] == answer.outcome == seen.answer.outcome


def test_other_head_is_evaluated_under_every_protocol(neighbours: Path) -> None:
    found = evaluate(str(neighbours))
    record = json.loads((neighbours / "run.json").read_text("utf-8"))
    assert (found["head"], found["neighbours"]) == ("knn", record["head"]["neighbours"])
    official = next(row for row in found["protocols"] if row["protocol"] == "official")
    assert official["accuracy"] == pytest.approx(record["metrics"]["accuracy"])  # the same head on the same photos
    assert {row["protocol"] for row in found["protocols"]} >= {"official", "groups"}


def test_places_of_a_photo_are_refused_in_a_sentence_for_the_other_head(
    neighbours: Path, finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    photo = next(finished_run.photos.glob("Test/*/*.jpg"))
    assert fruits("predict", neighbours, photo).code == 0
    done = fruits("predict", neighbours, photo, "--explain", tmp_path / "explained")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "the head 'knn' is not linear" in done.stderr
