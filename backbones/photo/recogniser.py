"""The recogniser that ships: head and limits on top of a made network, calibrated on sources that its twin has not seen.

A network knows the photos that it was made from, so what a head says of them calibrates nothing. A twin was therefore made
without some sources; its answers to photos of these give temperature, limits and the scale of the out-of-distribution score. The
head that ships is then fitted on all photos. No photo goes into the bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from data import GROCERY, TURNTABLE, Photo
from scipy.optimize import minimize_scalar
from varieties import fit_varieties

from fruits.embedding.backbone import Backbone, Embedder
from fruits.learning import calibration as confidence
from fruits.learning.drift import Drift
from fruits.learning.heads import softmax
from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.moments import Moments
from fruits.learning.out_of_distribution import ACCEPTED, Known
from fruits.learning.pca import PCA
from fruits.learning.validation import balance
from fruits.photos.decoding.images import Preprocessing, to_network_input
from fruits.photos.decoding.quality import Limits, measure
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import Certainty
from fruits.recogniser.gallery import Gallery
from fruits.recogniser.taxonomy import Taxonomy

#: k. Right kind on sources left out: 0.797 with 256, 0.805 with 384, 0.808 with 572; a browser loads 5 kB for each.
COMPONENTS = 384
#: Power of a kind's count that is its prior; measured on sources left out.
PRIOR = 0.4
MIN_PRECISION = 0.92
_BATCH = 32


@dataclass(frozen=True)
class Embedded:
    """Photos as a network sees them."""

    photos: list[Photo]
    vectors: np.ndarray
    brightness: np.ndarray
    sharpness: np.ndarray

    @cached_property
    def labels(self) -> list[str]:
        return [photo.variety or photo.kind for photo in self.photos]

    @cached_property
    def kind_of(self) -> dict[str, str]:
        return {label: photo.kind for label, photo in zip(self.labels, self.photos, strict=True)}

    def where(self, wanted: np.ndarray) -> Embedded:
        at = np.flatnonzero(wanted)
        return Embedded([self.photos[i] for i in at], self.vectors[at], self.brightness[at], self.sharpness[at])


@dataclass(frozen=True)
class Fitted:
    """PCA, head and known things of some photos, not yet calibrated."""

    pca: PCA
    components: int
    head: LogisticHead
    known: Known
    taxonomy: Taxonomy

    def features(self, vectors: np.ndarray) -> np.ndarray:
        return self.pca.transform(vectors, self.components)


@dataclass(frozen=True)
class Layers:
    """The network's own classification layers: names of their classes, weights and biases, by task."""

    names: dict[str, list[str]]
    weights: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def load(cls, checkpoint: Path) -> Layers:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        names, average = state["made_by"]["names"], state["average"]
        parts = {task: tuple(average[f"heads.{task}.{part}"].numpy() for part in ("weight", "bias")) for task in names}
        return cls(names, parts)

    @staticmethod
    def kind(train: Embedded, label: str) -> str:
        return train.kind_of[label]


@dataclass(frozen=True)
class Calibration:
    """What photos of sources left out say of how sure answers may sound."""

    temperature: float
    kind: float
    variety: float
    probable: float
    ood_limit: float
    known: Known
    report: dict[str, float]


def embed(backbone: Backbone, photos: list[Photo], size: int, work: Path) -> Embedded:
    """Return the photos' embeddings; computed once per network, size and list of photos."""
    preprocessing = backbone.card.preprocessing(size, None)
    key = hashlib.sha256(json.dumps([backbone.card.sha256, size, *(str(p.path) for p in photos)]).encode()).hexdigest()[
        :16
    ]
    kept = work / f"embedded-{key}.npz"
    if not kept.exists():
        model = backbone.prepared(preprocessing)

        def some(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            batch = photos[start : start + _BATCH]
            pixels = np.stack([to_network_input(p.path.read_bytes(), preprocessing).pixels for p in batch])
            return (Embedder(model) if start == 0 else embedder).embed(pixels), *measure(pixels)

        embedder = Embedder(model)
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(some, range(0, len(photos), _BATCH)))
        work.mkdir(parents=True, exist_ok=True)
        vectors, brightness, sharpness = (np.concatenate(column) for column in zip(*parts, strict=True))
        np.savez(kept, vectors=vectors, brightness=brightness, sharpness=sharpness)
    with np.load(kept) as arrays:
        return Embedded(photos, arrays["vectors"], arrays["brightness"], arrays["sharpness"])


def fit(train: Embedded, layers: Layers, *, k: int = COMPONENTS) -> Fitted:
    """Fit PCA and known things; the head is the network's own layer of kinds, with what varieties add to it.

    Kinds that more people photograph are more likely: a prior of the root or so of their count, which the balanced training of
    the network has taken away, is put back.
    """
    taxonomy = Taxonomy.of(sorted(set(train.labels), key=lambda label: (layers.kind(train, label), label)))
    number = {label: i for i, label in enumerate(taxonomy.labels)}
    labels = np.array([number[label] for label in train.labels])
    kind_of = np.array([layers.names["kind"].index(layers.kind(train, label)) for label in taxonomy.labels])
    pca = PCA.from_moments(Moments.from_rows(train.vectors))
    axes, mean = pca.axes[:k].astype(np.float32), pca.mean.astype(np.float32)
    features = pca.transform(train.vectors, k)
    counts = Counter(photo.kind for photo in train.photos if photo.source != TURNTABLE)
    often = np.array([counts[kind] + 20.0 for kind in layers.names["kind"]])
    prior = PRIOR * np.log(often / often.mean())
    weight, bias = layers.weights["kind"]
    slopes, intercepts = weight @ axes.T, bias + weight @ mean + prior
    drawn_to = np.zeros((len(number), k), np.float32)
    for task, source in (("grocery", GROCERY), ("turntable", TURNTABLE)):
        kinds = {photo.variety: photo.kind for photo in train.photos if photo.source == source}
        names = layers.names.get(task, [])
        of = np.array([kinds[name] for name in names])
        towards = layers.weights[task][0] @ axes.T if names else np.empty((0, k))
        for row, name in enumerate(names):
            drawn_to[number[name]] = towards[row] - towards[of == of[row]].mean(axis=0)
    sources = np.unique([photo.source for photo in train.photos], return_inverse=True)[1]
    weights = balance(kind_of[labels], sources)
    more, shift = fit_varieties(kind_of, features, labels, weights, slopes=drawn_to)
    head = LogisticHead((slopes[kind_of] + more).astype(np.float32), (intercepts[kind_of] + shift).astype(np.float32))
    return Fitted(pca, k, head, Known.of(features, labels), taxonomy)


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
    known = fitted.known.scaled(features, probabilities)
    ood_score = known.ood_score(features, probabilities)
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
    named = accepted & (best >= probable)
    certain = accepted & (best >= kind)
    report = {
        "photos": len(truth), "accuracy": float(right.mean()), "balanced_accuracy": float(np.average(right, weights=weight)),
        "accepted": float(accepted.mean()), "named": float(named.mean()), "named_right": float(right[named].mean()),
        "sure": float(certain.mean()), "sure_right": float(right[certain].mean()) if certain.any() else float("nan"),
        "temperature": temperature,
    }  # fmt: skip
    # Real photos carry no varieties, so a variety is named only where its kind would be.
    return Calibration(temperature, kind, max(kind, confidence.DEFAULT_CERTAIN), probable, ood_limit, known, report)


def save(
    to: Path, backbone: Backbone, size: int, fitted: Fitted, train: Embedded, calibration: Calibration, about: dict
) -> None:
    """Write the bundle."""
    features = fitted.features(train.vectors)
    head = fitted.head.temperature_scaled(calibration.temperature)
    known = fitted.known.on_the_scale_of(calibration.known)
    people = np.array([photo.source not in (GROCERY, TURNTABLE) for photo in train.photos])
    limits = Limits.of(train.brightness[people], train.sharpness[people], size)
    certainty = Certainty(calibration.variety, calibration.kind, calibration.probable, calibration.ood_limit, limits)
    ood_score = known.ood_score(features, head.predict_proba(features))
    preprocessing: Preprocessing = backbone.card.preprocessing(size, None)
    bundles.save(
        to,
        model=backbone.prepared(preprocessing),
        card=backbone.card,
        preprocessing=preprocessing,
        mean=fitted.pca.mean,
        components=fitted.pca.axes[: fitted.components],
        head=head,
        known=known,
        taxonomy=fitted.taxonomy,
        certainty=certainty,
        drift=Drift.of(features, ood_score),
        gallery=Gallery.empty(fitted.components),
        about=about,
    )
