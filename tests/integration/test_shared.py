"""Real photos, a sample of them: two data sets whose folders look nothing alike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from fruits.assessment.evaluation import evaluate
from fruits.config import RunConfig
from fruits.embedding.backbone import Embedder, find_backbone, training_photos
from fruits.photos.catalogue.catalogue import labels_without_training, list_photos
from fruits.photos.decoding.images import to_network_input
from fruits.photos.decoding.quality import measure
from fruits.recogniser import bundle
from fruits.training import pipeline


@pytest.fixture(scope="module")
def apples(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Results on a sample of the apples of Fruits-360, and their record; tests only read them."""
    out = tmp_path_factory.mktemp("apples") / "out"
    photos = shared / "fruits-360"
    config = RunConfig(sources=(str(photos),), out=str(out), only=("Apple *",), sample=40, workers=2)
    return out, pipeline.run(config)


def test_apples_of_fruits_360(shared: Path, apples: tuple[Path, dict[str, Any]]) -> None:
    out, record = apples
    names = sorted({folder.name for folder in (shared / "fruits-360").glob("*/Apple *")})
    assert record["labels"] == len(names) == 13
    assert record["photos"] == record["ok"] == 40 * len(names)
    assert record["split_origin"] == "folders"
    assert record["evaluated"]["photos"] == record["splits"]["test"] > 50
    # 13 apples, by chance 0.08: says that the chain hangs together, not how good it is.
    assert record["metrics"]["accuracy"] > 0.5
    assert bundle.load(out).labels == names
    assert (record["kinds"], record["kind_metrics"]["accuracy"]) == (1, 1.0)  # they are all apples


def test_single_graph_says_of_real_photos_what_the_bundle_says(
    shared: Path, apples: tuple[Path, dict[str, Any]]
) -> None:
    recogniser = bundle.load(apples[0])
    paths = [
        *sorted((shared / "fruits-360").glob("Test/*/*.jpg"))[::200],
        *sorted((shared / "grocery-store").rglob("*.jpg"))[::60],
    ]
    pixels = np.stack([to_network_input(path.read_bytes(), recogniser.preprocessing).pixels for path in paths])
    session = ort.InferenceSession(Path(recogniser.root) / "recognizer.onnx", providers=["CPUExecutionProvider"])
    given = dict(
        zip((output.name for output in session.get_outputs()), session.run(None, {"pixels": pixels}), strict=True)
    )
    features, probabilities, ood_score = recogniser.classify(Embedder(recogniser.model_file.fetch()).embed(pixels))
    tolerance = {"atol": bundle.PROBABILITY_TOLERANCE, "rtol": 0}
    np.testing.assert_allclose(given["probabilities"], probabilities, **tolerance)
    np.testing.assert_allclose(
        given["features"] / np.abs(features).max(), features / np.abs(features).max(), **tolerance
    )
    # Differences of squares: float32 sums in another order, relative to the largest.
    np.testing.assert_allclose(given["ood_score"][:, 0], ood_score, atol=1e-3 + 1e-5 * np.abs(ood_score).max())
    brightness, sharpness = measure(pixels)
    np.testing.assert_allclose(given["brightness"][:, 0], brightness, atol=2e-6)
    np.testing.assert_allclose(given["sharpness"][:, 0], sharpness, atol=2e-6)


def test_network_made_from_fruits_360_is_not_asked_about_its_own_photos(apples: tuple[Path, dict[str, Any]]) -> None:
    out, record = apples
    evaluated = evaluate(str(out), ["official", "variety"])
    official, variety = evaluated["protocols"]
    assert evaluated["seen"]["photos"] == record["splits"]["train"]
    assert (official["seen"], variety["seen"]) == (False, True)
    assert official["accuracy"] == pytest.approx(record["metrics"]["accuracy"], abs=1e-6)
    assert variety["kind_accuracy"] is None


def test_list_of_photos_that_the_embedded_network_was_made_from_is_that_of_training(shared: Path) -> None:
    known = training_photos(find_backbone("fruits-small").card, "fruits-small")
    assert known is not None
    digests = {
        split: {
            int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:8], "big")
            for path in (shared / "fruits-360" / split).glob("*/*.jpg")
        }
        for split in ("Training", "Test")
    }
    assert digests["Training"] == set(known.tolist())
    assert not digests["Test"] & set(known.tolist())


def test_label_that_fruits_360_never_trains_is_said(shared: Path) -> None:
    found = list_photos([str(shared / "fruits-360")], only=["Tomato*", "Walnut"])
    untrained = labels_without_training(found.listed)
    assert sorted(untrained) == [
        "Tomato 3", "Tomato 4", "Tomato Cherry Red", "Tomato Maroon", "Tomato Yellow", "Walnut",
    ]  # fmt: skip


def test_grocery_store_at_both_depths_with_another_backbone(shared: Path, tmp_path: Path) -> None:
    out, photos = tmp_path / "out", shared / "grocery-store"
    backbone = shared / "backbones" / "mobilenet_v2_imagenet.onnx"
    record = pipeline.run(
        RunConfig(sources=(str(photos),), out=str(out), backbone=str(backbone), sample=6, size=96, workers=2)
    )
    table = pq.read_table(out / "features.parquet")
    labels = set(table["label"].to_pylist())
    assert {"Royal-Gala", "Avocado"} <= labels  # .../Apple/Royal-Gala/x.jpg and .../Avocado/x.jpg
    assert not {"Apple", "Fruit", "train", "val"} & labels
    for row in table.to_pylist():
        parts = Path(row["uri"]).relative_to(photos.resolve()).parts
        assert (row["split"], row["label"]) == (parts[0], parts[-2])
    assert record["embedding_size"] == 1280
    assert record["evaluated"]["split"] == "val"
    assert record["metrics"]["accuracy"] > 0.2  # of 50 labels with five photos each; by chance 0.02
    assert set(record["skipped"][0]) == {"reason", "count", "examples"}


@pytest.mark.parametrize("name", ["fruits-small", "mobilenet_v2_imagenet.onnx"])
def test_embeddings_of_real_photos_do_not_depend_on_the_batch(shared: Path, name: str) -> None:
    found = find_backbone(str(shared / "backbones" / name) if name.endswith(".onnx") else name)
    preprocessing = found.card.preprocessing(None, None, 100)
    embedder = Embedder(found.prepared(preprocessing))
    paths = sorted((shared / "fruits-360" / "Test").glob("*/*.jpg"))[::400]
    pixels = np.stack([to_network_input(path.read_bytes(), preprocessing).pixels for path in paths])
    together = embedder.embed(pixels)
    alone = np.concatenate([embedder.embed(photo[None]) for photo in pixels])
    assert (together == alone).all()
