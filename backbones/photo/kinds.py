"""What decides between kinds: the network's own layer, a linear discriminant of its embeddings, and how common a kind is.

Two linear heads on one embedding, averaged, are one linear head. They err differently on new sources: the layer was trained on
crops, composites and changed light, the discriminant on whole real photos.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data import TURNTABLE, Photo

from fruits.learning.pca import PCA

#: Share of the discriminant in the average, and shrinkage of its covariance towards a sphere.
DISCRIMINANT = 0.5
SHRINKAGE = 0.6
#: A kind's mean is drawn towards that of all kinds as by so many photos there.
PULL = 10.0
#: In so many directions tables, walls, cloths, bowls and hands without fruit differ from photos; no kind is decided along them.
BACKGROUND_DIRECTIONS = 16
#: Power of a kind's count of photos in the prior, and what one step of commonness adds to its logarithm.
COUNTS = 0.2
STEP = 0.75
#: Steps below staple; see commonness.csv.
STEPS = {"staple": 0, "usual": -1, "rare": -2}


@dataclass(frozen=True)
class Linear:
    """Logits of c kinds from embeddings: slopes, shape (c, d), and intercepts, shape (c,)."""

    slopes: np.ndarray
    intercepts: np.ndarray

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.slopes.T + self.intercepts

    def centred(self) -> Linear:
        return Linear(self.slopes - self.slopes.mean(axis=0), self.intercepts - self.intercepts.mean())


def averaged(own: Linear, other: Linear, vectors: np.ndarray, share: float = DISCRIMINANT) -> Linear:
    """Return the average of two heads; the other is scaled so that its logits of some embeddings spread as those of the first."""
    own, other = own.centred(), other.centred()
    scale = share * own.logits(vectors).std() / other.logits(vectors).std()
    return Linear(
        (1 - share) * own.slopes + scale * other.slopes, (1 - share) * own.intercepts + scale * other.intercepts
    )


def discriminant(vectors: np.ndarray, photos: list[Photo], kinds: Sequence[str]) -> Linear:
    """Fit a linear discriminant (Fisher) on real photos; a kind that has none is described by those on the turntable.

    Every source of a kind counts the same in its mean.
    """
    number = {kind: i for i, kind in enumerate(kinds)}
    of = np.array([number[photo.kind] for photo in photos])
    real = np.array([photo.source != TURNTABLE for photo in photos])
    there = np.bincount(of[real], minlength=len(kinds)) > 0
    rows = np.flatnonzero(real | ~there[of])
    of, real, vectors = of[rows], real[rows], vectors[rows].astype(np.float64)
    _, group = np.unique([f"{photos[row].kind}/{photos[row].source}" for row in rows], return_inverse=True)
    weights = 1 / np.bincount(group)[group]
    means = np.stack([np.average(vectors[of == k], axis=0, weights=weights[of == k]) for k in range(len(kinds))])
    counts = np.where(there, np.bincount(of, minlength=len(kinds)), PULL)
    middle = means[there].mean(axis=0)
    means = middle + (means - middle) * (counts / (counts + PULL))[:, None]
    within, weights = vectors[real] - means[of[real]], weights[real]
    covariance = (within * weights[:, None]).T @ within / weights.sum()
    d = len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / d * np.eye(d)
    slopes = np.linalg.solve(covariance, means.T).T
    return Linear(slopes, -0.5 * (slopes * means).sum(axis=1))


def blind_to(head: Linear, directions: np.ndarray, centre: np.ndarray) -> Linear:
    """Return a head whose logits stay as they are at ``centre`` and do not change along orthonormal directions, shape (m, d)."""
    slopes = head.slopes - (head.slopes @ directions.T) @ directions
    return Linear(slopes, head.intercepts + (head.slopes - slopes) @ centre)


def background_directions(backgrounds: np.ndarray, centre: np.ndarray, m: int = BACKGROUND_DIRECTIONS) -> np.ndarray:
    """Return the orthonormal directions, shape (m, d), in which pictures without an object lie, seen from the photos' mean.

    As nuisance attribute projection does with microphones (Solomonoff, Campbell and Boardman 2005).
    """
    return np.linalg.svd(backgrounds - centre, full_matrices=False)[2][:m]


def span(own: Linear, other: Linear) -> np.ndarray:
    """Return orthonormal directions, shape (m, d), that hold all on which two heads decide; neither outweighs the other."""
    slopes = [head.centred().slopes for head in (own, other)]
    _, lengths, basis = np.linalg.svd(np.vstack([each / each.std() for each in slopes]), full_matrices=False)
    return basis[lengths > 1e-5 * lengths[0]]


def voters(photos: list[Photo]) -> np.ndarray:
    """Return the rows of photos that vote for their kind: real ones, and those on the turntable of kinds that have no others."""
    real = np.array([photo.source != TURNTABLE for photo in photos])
    kinds = np.array([photo.kind for photo in photos])
    return np.flatnonzero(real | ~np.isin(kinds, kinds[real]))


def prior(photos: list[Photo], kinds: Sequence[str]) -> np.ndarray:
    """Return the logarithm of how likely a photo shows a kind, up to a constant, shape (c,)."""
    with Path(__file__).with_name("commonness.csv").open(encoding="utf-8", newline="") as lines:
        common = {row["kind"]: STEPS[row["common"]] for row in csv.DictReader(lines)}
    if missing := sorted(set(kinds) - set(common)):
        raise SystemExit(f"commonness.csv does not say how common {', '.join(missing)} are; add a line for each")
    names = [photo.kind for photo in photos if photo.source != TURNTABLE]
    counts = np.array([names.count(kind) + 20.0 for kind in kinds])
    return COUNTS * np.log(counts / counts.mean()) + STEP * np.array([common[kind] for kind in kinds])


def axes_with(pca: PCA, directions: np.ndarray, k: int) -> np.ndarray:
    """Return k orthonormal axes, shape (k, d), that hold all given orthonormal directions, and of the rest what varies most.

    The first k principal axes would cut off a part of what tells kinds apart. Within the chosen subspace the axes are principal:
    features are uncorrelated.
    """
    chosen = np.linalg.qr(np.vstack([directions, pca.axes[:k]]).T)[0][:, :k].T
    on_axes = chosen @ pca.axes.T
    _, turned = np.linalg.eigh((on_axes * pca.variances) @ on_axes.T)
    return np.ascontiguousarray(turned.T[::-1] @ chosen)
