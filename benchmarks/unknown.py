"""Which number tells best that a photo shows none of the things that were learnt?

    python -m benchmarks.unknown RESULTS [--others OTHER_RESULTS] [--per-label 40]

RESULTS are those of `fruits run`. Kinds are left out of training one at a time and asked about; so are photos of OTHER_RESULTS
(same network and size), and noise and drawn scenes. For every score: area under ROC, and the share of unknown things taken for
known at the threshold that accepts 95 % of known test photos (of kinds left out: means over kinds). Chosen: `ood_score`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.scenes import scenes
from fruits.assessment.dataset import Dataset, FinishedRun, dataset_of, open_run
from fruits.embedding.backbone import Embedder
from fruits.learning.calibration import temperature
from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.moments import Moments, unit
from fruits.learning.neighbours import nearest
from fruits.learning.out_of_distribution import OodDetector, entropy
from fruits.learning.pca import PCA
from fruits.learning.validation import split_by_group
from fruits.photos.decoding.images import to_network_input

ACCEPTED = 0.95
TEST_PER_LABEL = 20
SCENES = 280
TRIED_WITH = "ood_score"


def main() -> None:
    """Ask, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("--others")
    parser.add_argument("--per-label", type=int, default=40, help="training photos per label")
    arguments = parser.parse_args()
    run = open_run(arguments.results)
    dataset, _ = dataset_of(run)
    train = some(dataset, np.flatnonzero(dataset.split == "train"), arguments.per_label)
    asked = some(dataset, np.flatnonzero(dataset.split == run.record["evaluated"]["split"]), TEST_PER_LABEL)
    left_out: dict[str, list[tuple[float, float]]] = {}
    for kind in np.unique(dataset.kinds[train]):
        own = asked[dataset.kinds[asked] == kind]
        if len(own):
            trial = Trial(dataset, train[dataset.kinds[train] != kind], run)
            add(left_out, trial, dataset.embeddings[asked[dataset.kinds[asked] != kind]], dataset.embeddings[own])
    results = {"kinds left out": left_out}
    trial = Trial(dataset, train, run)
    unknown = {"noise and scenes": drawn(run)}
    if arguments.others:
        others, _ = dataset_of(open_run(arguments.others))
        unknown[Path(arguments.others).name] = others.embeddings
    for name, vectors in unknown.items():
        results[name] = {}
        add(results[name], trial, dataset.embeddings[asked], vectors)
    names = sorted(left_out, key=lambda score: -np.mean([area for area, _ in left_out[score]]))
    table = {
        score: {
            name: {"auroc": round(float(np.mean([area for area, _ in pairs[score]])), 4),
                   "false accepts": round(float(np.mean([accepted for _, accepted in pairs[score]])), 4)}
            for name, pairs in results.items()
        }
        for score in names
    }  # fmt: skip
    about = {
        "network": run.bundle.card.name,
        "size": run.bundle.preprocessing.size,
        "components": run.record["components"],
    }
    print(json.dumps({**about, "training photos": len(train), "kinds left out": len(left_out[TRIED_WITH])}))
    print(f"{'':28}" + "".join(f"{name:>26}" for name in results))
    for score, row in table.items():
        cells = (f"{cell['auroc']:.3f} / {cell['false accepts']:.3f}" for cell in row.values())
        print(f"{score:28}" + "".join(f"{cell:>26}" for cell in cells))


def add(table: dict[str, list[tuple[float, float]]], trial: Trial, known: np.ndarray, unknown: np.ndarray) -> None:
    """Add area under ROC and false accepts of every score."""
    signs = dict(trial.scores(known))
    truth = np.r_[np.zeros(len(known)), np.ones(len(unknown))]
    for name, strange in trial.scores(unknown):
        area = roc_auc_score(truth, np.r_[signs[name], strange])
        accepted = float((strange <= np.quantile(signs[name], ACCEPTED)).mean())
        table.setdefault(name, []).append((float(area), accepted))


class Trial:
    """Everything fitted on some training photos, and every score that was tried."""

    def __init__(self, dataset: Dataset, train: np.ndarray, run: FinishedRun) -> None:
        self.pca = PCA.from_moments(Moments.from_rows(dataset.embeddings[train]))
        self.k = min(run.record["components"], self.pca.max_components)
        regularisation = run.record["head"]["regularisation"]
        labels = dataset.labels[train]
        held = split_by_group(labels, dataset.group[train])
        features = self.features(dataset.embeddings[train])
        learnt, numbers = np.unique(labels[~held], return_inverse=True)
        blind = LogisticHead.fit(features[~held], numbers, setting=regularisation)
        warmth = temperature(blind.logits(features[held]), np.searchsorted(learnt, labels[held]))
        probabilities = blind.temperature_scaled(warmth).predict_proba(features[held])
        scale = OodDetector.of(features[~held], numbers).scaled(features[held], probabilities)
        _, numbers = np.unique(labels, return_inverse=True)
        self.head = LogisticHead.fit(features, numbers, setting=regularisation).temperature_scaled(warmth)
        self.ood_detector = OodDetector.of(features, numbers).on_the_scale_of(scale)
        self.bank = unit(features)
        self.white_bank = unit(features @ self.ood_detector.whitening)

    def features(self, embeddings: np.ndarray) -> np.ndarray:
        """Project, shape (n, k)."""
        return self.pca.transform(embeddings, self.k)

    def scores(self, embeddings: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each score under its name, the larger the stranger."""
        features = self.features(embeddings)
        logits, probabilities = self.head.logits(features), self.head.predict_proba(features)
        ordered = np.sort(logits, axis=1)
        yield "ood_score", self.ood_detector.ood_score(features, probabilities)
        yield "relative Mahalanobis", self.ood_detector.distance(features)
        yield "entropy", entropy(probabilities)
        yield "1 - largest probability", 1 - probabilities.max(axis=1)
        yield "energy", -(ordered[:, -1] + np.log(np.exp(logits - ordered[:, -1:]).sum(axis=1)))
        yield "- largest logit", -ordered[:, -1]
        yield "- margin of logits", ordered[:, -2] - ordered[:, -1]
        white = features @ self.ood_detector.whitening
        to_centre = np.square(self.ood_detector.centres).sum(axis=1) - 2 * white @ self.ood_detector.centres.T
        yield "Mahalanobis", np.square(white).sum(axis=1) + to_centre.min(axis=1)
        for count in (1, 5):
            yield f"neighbour {count}", nearest(unit(features), self.bank, count=5)[0][:, count - 1]
            yield f"neighbour {count}, whitened", nearest(unit(white), self.white_bank, count=5)[0][:, count - 1]
        centred = np.square(embeddings - self.pca.mean.astype(np.float32)).sum(axis=1)
        yield "share outside components", 1 - np.square(features).sum(axis=1) / np.maximum(centred, 1e-12)
        yield "- length of features", -np.linalg.norm(features, axis=1)


def some(dataset: Dataset, rows: np.ndarray, per_label: int) -> np.ndarray:
    """Return at most so many rows of each label."""
    rng = np.random.default_rng(0)
    chosen = [
        rng.permutation(rows[dataset.labels[rows] == label])[:per_label] for label in np.unique(dataset.labels[rows])
    ]
    return np.sort(np.concatenate(chosen))


def drawn(run: FinishedRun) -> np.ndarray:
    """Return embeddings of noise and scenes."""
    embedder = Embedder(run.bundle.model_file.fetch())
    pixels = [to_network_input(data, run.bundle.preprocessing).pixels for _, data in scenes(SCENES)]
    return np.concatenate([embedder.embed(np.stack(pixels[start : start + 32])) for start in range(0, SCENES, 32)])


if __name__ == "__main__":
    main()
