"""Temperature and limits of the recogniser that ships, from sources that a twin of its network has not seen.

A network knows the photos that it was made from, so what a head says of them calibrates nothing. A twin was therefore made
without some sources; its answers to photos of these give temperature, limits and the scale of the out-of-distribution score.
What limits are worth on yet other sources is measured by deriving them on all of these sources but one, and applying them to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar

from fruits.learning import calibration as confidence
from fruits.learning.heads import softmax
from fruits.learning.out_of_distribution import ACCEPTED, OodDetector
from fruits.learning.validation import balance
from fruits.recogniser.knowledge import confused_kinds

if TYPE_CHECKING:
    from recogniser import Embedded, Fitted

MIN_PRECISION = 0.92


@dataclass(frozen=True)
class Calibration:
    """What photos of sources left out say of how sure answers may sound."""

    temperature: float
    kind: float
    variety: float
    probable: float
    ood_limit: float
    ood_detector: OodDetector
    report: dict[str, float]
    look_alikes: dict[str, Any]


@dataclass(frozen=True)
class Said:
    """Answers to photos: whether they pass as known, the best kind, and its probability."""

    accepted: np.ndarray
    best: np.ndarray
    probability: np.ndarray

    def named(self, calibration: Calibration) -> np.ndarray:
        return self.accepted & (self.probability >= calibration.probable)

    def certain(self, calibration: Calibration) -> np.ndarray:
        return self.accepted & (self.probability >= calibration.kind)


def say(fitted: Fitted, calibration: Calibration, vectors: np.ndarray) -> Said:
    """Return the answers to photos by their embeddings."""
    features = fitted.features(vectors)
    probabilities = softmax((fitted.head.logits(features) / calibration.temperature).astype(np.float32))
    by_kind = fitted.taxonomy.by_kind(probabilities)
    accepted = calibration.ood_detector.ood_score(features, probabilities) <= calibration.ood_limit
    return Said(accepted, by_kind.argmax(axis=1), by_kind.max(axis=1))


def calibrate(fitted: Fitted, left_out: Embedded, *, min_precision: float = MIN_PRECISION) -> Calibration:
    """Derive temperature and limits from photos of kinds that were learnt, from sources that were not."""
    number = {kind: i for i, kind in enumerate(fitted.taxonomy.kind_ids)}
    left_out = left_out.where(np.array([photo.kind in number for photo in left_out.photos]))
    truth = np.array([number[photo.kind] for photo in left_out.photos])
    # A source of many photos of the same few objects counts no more than one of few.
    sources = np.unique([photo.source for photo in left_out.photos], return_inverse=True)[1]
    weight = balance(truth, sources)
    features = fitted.features(left_out.vectors)
    logits = fitted.head.logits(features).astype(np.float64)
    member = np.array(fitted.taxonomy.kind_of)[None, :] == truth[:, None]

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        powers = np.exp(scaled)
        own = (powers * member).sum(axis=1) / powers.sum(axis=1)
        return float(np.average(-np.log(0.998 * own + 0.002 / len(number)), weights=weight))

    temperature = float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))
    probabilities = softmax((logits / temperature).astype(np.float32))
    ood_detector = fitted.ood_detector.scaled(features, probabilities)
    ood_score = ood_detector.ood_score(features, probabilities)
    ood_limit = float(np.quantile(ood_score, ACCEPTED))
    by_kind = fitted.taxonomy.by_kind(probabilities)
    best, right = by_kind.max(axis=1), by_kind.argmax(axis=1) == truth
    accepted = ood_score <= ood_limit
    sure = confidence.sure_precision(min_precision)
    kind = confidence.certain_from(best[accepted], right[accepted], sure)
    probable = confidence.certain_from(
        best[accepted],
        right[accepted],
        min_precision,
        least=confidence.LEAST_PROBABLE,
        default=confidence.DEFAULT_PROBABLE,
    )
    of = {
        "accepted": accepted,
        "named": accepted & (best >= probable),
        "certain": accepted & (best >= kind),
        "right": right,
    }
    report = {
        **_shares(of), "accuracy": float(right.mean()), "balanced_accuracy": float(np.average(right, weights=weight)),
        "temperature": temperature,
    }  # fmt: skip
    # Real photos carry no varieties, so a variety is named only where its kind would be.
    confused = confused_kinds(by_kind.argmax(axis=1), truth, fitted.taxonomy.kind_ids)
    return Calibration(
        temperature, kind, max(kind, confidence.DEFAULT_CERTAIN), probable, ood_limit, ood_detector, report, confused
    )


def across_sources(fitted: Fitted, left_out: Embedded, nothing: np.ndarray) -> dict[str, dict[str, float]]:
    """Return, per source, what limits that were derived on the other sources give; ``all`` is the mean of photos.

    Parameters
    ----------
    fitted : Fitted
        Of the twin.
    left_out : Embedded
        Photos of the sources that it has not seen.
    nothing : float32 array, shape (m, d)
        Embeddings of pictures that show no fruit.
    """
    number = {kind: i for i, kind in enumerate(fitted.taxonomy.kind_ids)}
    left_out = left_out.where(np.array([photo.kind in number for photo in left_out.photos]))
    sources = np.array([photo.source for photo in left_out.photos])
    truth = np.array([number[photo.kind] for photo in left_out.photos])
    found, every = {}, {name: np.zeros(len(truth), bool) for name in ("accepted", "named", "certain", "right")}
    for source in sorted(set(sources)):
        here = sources == source
        calibration = calibrate(fitted, left_out.where(~here))
        said = say(fitted, calibration, left_out.vectors[here])
        of = {
            "accepted": said.accepted, "named": said.named(calibration), "certain": said.certain(calibration),
            "right": said.best == truth[here],
        }  # fmt: skip
        for name, values in of.items():
            every[name][here] = values
        found[source] = _shares(of) | {
            "nothing_named": float(say(fitted, calibration, nothing).named(calibration).mean())
        }
    mean = float(np.mean([one["nothing_named"] for one in found.values()]))
    return {**found, "all": _shares(every) | {"nothing_named": mean}}


def _shares(of: dict[str, np.ndarray]) -> dict[str, float]:
    named, certain = of["named"], of["certain"]
    return {
        "photos": len(named), "accepted": float(of["accepted"].mean()), "named": float(named.mean()),
        "named_right": float(of["right"][named].mean()) if named.any() else float("nan"),
        "certain": float(certain.mean()),
        "certain_right": float(of["right"][certain].mean()) if certain.any() else float("nan"),
    }  # fmt: skip
