"""The recogniser that ships: PCA, head and out-of-distribution score of a made network, written as a bundle.

The head that ships is fitted on all photos; temperature and limits come from a twin (``calibrate``). No photo goes into the
bundle.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from calibrate import Calibration
from data import GROCERY, TURNTABLE, Photo
from kinds import Linear, averaged, axes_with, background_directions, blind_to, discriminant, prior, span, voters
from varieties import fit_varieties
from views import without_objects

from fruits.embedding.backbone import Backbone, Embedder
from fruits.learning.drift import Drift
from fruits.learning.heads.kernel import KernelHead
from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.moments import Moments
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.pca import PCA
from fruits.learning.validation import balance
from fruits.photos.decoding.images import Preprocessing, to_network_input
from fruits.photos.decoding.quality import Limits, measure
from fruits.recogniser import saving
from fruits.recogniser.answers import Certainty
from fruits.recogniser.gallery import Gallery
from fruits.recogniser.taxonomy import Taxonomy

#: k; a browser loads 5 kB for each.
COMPONENTS = 384
#: Pictures without an object that show in which directions backgrounds differ.
BACKGROUNDS = 600
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
    """PCA, head and out-of-distribution score of some photos, not yet calibrated."""

    pca: PCA
    components: int
    head: KernelHead
    ood_detector: OodDetector
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


def embed_pictures(backbone: Backbone, pictures: list[bytes], size: int) -> np.ndarray:
    """Return the embeddings of encoded pictures."""
    preprocessing = backbone.card.preprocessing(size, None)
    embedder = Embedder(backbone.prepared(preprocessing))
    pixels = [to_network_input(picture, preprocessing).pixels for picture in pictures]
    return np.concatenate(
        [embedder.embed(np.stack(pixels[start : start + _BATCH])) for start in range(0, len(pixels), _BATCH)]
    )


def embed_backgrounds(backbone: Backbone, photos: list[Photo], size: int) -> np.ndarray:
    """Return embeddings of ``BACKGROUNDS`` pictures without an object: generated surfaces and blurred real photos."""
    real = [photo for photo in photos if photo.source != TURNTABLE]
    rng = np.random.default_rng(BACKGROUNDS)
    blurred = [
        to_network_input(real[i].path.read_bytes(), Preprocessing(size, "crop")).pixels
        for i in rng.choice(len(real), min(len(real), BACKGROUNDS // 2), replace=False)
    ]
    embedder = Embedder(backbone.prepared(backbone.card.preprocessing(size, None)))
    pictures = np.stack([without_objects(blurred, size, rng) for _ in range(BACKGROUNDS)])
    return np.concatenate([embedder.embed(pictures[i : i + _BATCH]) for i in range(0, len(pictures), _BATCH)])


def fit(train: Embedded, layers: Layers, backgrounds: np.ndarray, *, k: int = COMPONENTS) -> Fitted:
    """Fit PCA, head and OOD score: see ``kinds`` for what decides between kinds, ``varieties`` for what decides within one.

    Nothing is decided in the directions of ``backgrounds``, embeddings of pictures without an object: in some sources a kind
    always lies on the same table before the same wall, and the network has learnt these with it.

    Kinds that more people photograph are more likely; the balanced training of the network has taken that away, so it is put back
    as a prior.
    """
    taxonomy = Taxonomy.of(sorted(set(train.labels), key=lambda label: (layers.kind(train, label), label)))
    number = {label: i for i, label in enumerate(taxonomy.labels)}
    labels = np.array([number[label] for label in train.labels])
    kinds = layers.names["kind"]
    kind_of = np.array([kinds.index(layers.kind(train, label)) for label in taxonomy.labels])
    people = train.vectors[[photo.source != TURNTABLE for photo in train.photos]]
    own, other = Linear(*layers.weights["kind"]), discriminant(train.vectors, train.photos, kinds)
    decides = averaged(own, other, people)
    centre = people.mean(axis=0)
    directions = background_directions(backgrounds, centre)
    own, other, decides = (blind_to(head, directions, centre) for head in (own, other, decides))
    pca = PCA.from_moments(Moments.from_rows(train.vectors))
    both = span(own, other)
    pca = replace(pca, axes=axes_with(pca, both, k))
    axes, mean = pca.axes.astype(np.float32), pca.mean.astype(np.float32)
    features = pca.transform(train.vectors, k)
    slopes = decides.slopes @ axes.T
    intercepts = decides.intercepts + decides.slopes @ mean + prior(train.photos, kinds)
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
    linear = LogisticHead((slopes[kind_of] + more).astype(np.float32), (intercepts[kind_of] + shift).astype(np.float32))
    votes = voters(train.photos)
    head = KernelHead.voting(
        linear, features[votes], kind_of[labels[votes]], directions=(both @ axes.T).T.astype(np.float32), voted=kind_of
    )
    return Fitted(pca, k, head, OodDetector.of(features, labels), taxonomy)


def save(
    to: Path, backbone: Backbone, size: int, fitted: Fitted, train: Embedded, calibration: Calibration, about: dict
) -> None:
    """Write the bundle."""
    features = fitted.features(train.vectors)
    head = fitted.head.temperature_scaled(calibration.temperature)
    ood_detector = fitted.ood_detector.on_the_scale_of(calibration.ood_detector)
    people = np.array([photo.source not in (GROCERY, TURNTABLE) for photo in train.photos])
    limits = Limits.of(train.brightness[people], train.sharpness[people], size)
    certainty = Certainty(calibration.variety, calibration.kind, calibration.probable, calibration.ood_limit, limits)
    ood_score = ood_detector.ood_score(features, head.predict_proba(features))
    preprocessing: Preprocessing = backbone.card.preprocessing(size, None)
    saving.save(
        to,
        model=backbone.prepared(preprocessing),
        card=backbone.card,
        preprocessing=preprocessing,
        mean=fitted.pca.mean,
        components=fitted.pca.axes[: fitted.components],
        head=head,
        ood_detector=ood_detector,
        taxonomy=fitted.taxonomy,
        certainty=certainty,
        drift=Drift.of(features, ood_score),
        gallery=Gallery.empty(fitted.components),
        about=about,
        head_name="kernel",
    )
