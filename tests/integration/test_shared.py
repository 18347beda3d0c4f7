"""Real photos, a sample of them: two data sets whose folders look nothing alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fruits import bundle, pipeline
from fruits.config import RunConfig
from fruits.embedding.backbone import Embedder, find_backbone
from fruits.photos.catalogue import labels_without_training, list_photos
from fruits.photos.images import to_network_input


def test_apples_of_fruits_360(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    photos = shared / "fruits-360"
    record = pipeline.run(RunConfig(sources=(str(photos),), out=str(out), only=("Apple *",), sample=40, workers=2))
    apples = sorted({folder.name for folder in photos.glob("*/Apple *")})
    assert record["labels"] == len(apples) == 13
    assert record["photos"] == record["ok"] == 40 * len(apples)
    assert record["split_origin"] == "folders"
    assert record["evaluated"]["photos"] == record["splits"]["test"] > 50
    # 13 apples, by chance 0.08: says that the chain hangs together, not how good it is.
    assert record["metrics"]["accuracy"] > 0.5
    assert bundle.load(out).labels == apples


def test_label_that_fruits_360_never_trains_is_said(shared: Path) -> None:
    found = list_photos([str(shared / "fruits-360")], only=["Tomato*", "Walnut"])
    untrained = labels_without_training(found.table)
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
    assert set(record["left_aside"][0]) == {"reason", "count", "examples"}


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
