"""Made-up features of 600 photos, and passes over them, for the contract suite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fruits.engines import Engine
from fruits.learning.heads import softmax
from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.moments import unit
from fruits.learning.out_of_distribution import OodDetector
from fruits.photos.decoding.quality import Limits
from fruits.recogniser.answers import Certainty
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.objects import Objects
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.storage.tables.schemas import CATALOGUE
from fruits.training.fitting.feature_file import FeatureFile
from fruits.training.fitting.features import positions
from fruits.training.fitting.training_set import TrainingSet
from fruits.training.scoring import scored
from fruits.training.scoring.nearest import NearestQueries, nearest_distances

LABELS = ("Apple Braeburn 1", "Apple Golden 1", "Banana 1", "Corn 1", "Thing of no kind")
_K = 70


@dataclass(frozen=True)
class Made:
    """Photos of five labels, a quarter of them for testing; of one label none is; every 13th has no embedding."""

    file: FeatureFile
    features: np.ndarray
    label: np.ndarray
    train: np.ndarray
    asked: np.ndarray
    place: np.ndarray
    groups: np.ndarray
    scorer: scored.Scorer
    sought: NearestQueries

    @classmethod
    def of(cls, folder: Path, n: int = 600) -> Made:
        rng = np.random.default_rng(0)
        label = np.sort(rng.integers(0, len(LABELS), n)).astype(np.int32)
        split = np.where((np.arange(n) % 4 == 0) & (label != 3), "test", "train")
        ok = np.arange(n) % 13 != 0
        table = pa.Table.from_pylist(
            [
                {
                    "uri": f"/photos/{number:03d}.jpg", "label": LABELS[label[number]], "split": split[number],
                    "size_bytes": 1, "version": "1", "source": "/photos", "group": number // 3, "manifest_source": None,
                }
                for number in range(n)
            ],
            schema=CATALOGUE,
        )  # fmt: skip
        listed = CatalogueRows.of(table)
        none = np.zeros(n, np.int8)
        rows = TrainingSet(label, listed.coded["split"], listed.group, ok, none, none - 1, list(LABELS))
        centres = rng.normal(size=(len(LABELS), _K))
        features = (centres[label] + 4 * rng.normal(size=(n, _K))).astype(np.float32)[ok]
        trained, train = (split == "train")[ok], np.flatnonzero((split == "train") & ok)
        head = LogisticHead((centres / 20).astype(np.float32), np.zeros(len(LABELS), np.float32))
        own = features[trained]
        known = OodDetector.of(own, label[train].astype(np.int64)).scaled(own, softmax(head.logits(own)))
        certainty = Certainty(0.8, 0.7, 0.5, 1.0, Limits(0.1, 0.1, 50))
        asked = np.flatnonzero((split == "test") & ok)
        place = positions(ok)
        sought = NearestQueries(
            unit(features[place[train[::5]]][:, :64]), label[train[::5]], unit(features[place[asked[::2]]][:, :64])
        )
        return cls(
            FeatureFile.write(Objects(str(folder)), listed, rows, features, {}), features, label, train, asked, place,
            np.unique(asked // 3, return_inverse=True)[1].astype(np.int64),
            scored.Scorer(head, known, Taxonomy.of(LABELS), certainty, 1.3, with_confidence=True), sought,
        )  # fmt: skip

    def tally(self, engine: Engine) -> dict[str, Any]:
        """All that a tally holds, as plain values."""
        found = scored.score_all(
            engine, self.file, self.features, self.scorer,
            rows=self.asked, place=self.place, truth=self.label[self.asked], groups=self.groups,
        )  # fmt: skip
        counted = found.scored
        return {
            "counts": (counted.counts.to_bytes(), counted.kinds.to_bytes(), counted.uncalibrated.to_bytes()),
            "told": counted.told.tolist(), "accepted": counted.accepted, "wrong": counted.wrong.tolist(),
            "right": found.right.tolist(), "right_kind": found.right_kind.tolist(),
            "confidence": found.confidence.tobytes(),
        }  # fmt: skip

    def distances(self, engine: Engine) -> tuple[bytes, bytes]:
        found = nearest_distances(
            engine, self.file, self.features, self.sought, train=self.train, place=self.place, label=self.label
        )
        return found[0].tobytes(), found[1].tobytes()


@dataclass(frozen=True)
class Mortal:
    """An engine whose stages are wrapped, such as to die."""

    engine: Engine
    wrap: Any

    def map_batches(self, shards: Any, stage: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        return self.engine.map_batches(shards, self.wrap(stage), schema)
