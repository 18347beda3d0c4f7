"""Gallery of training photos in the bundle, with thumbnails and features, for nearest-neighbour search.

A few photos of every label, as different from each other as possible, represent the label. Bounded in number of photos and bytes.
Independent of catalogues and of how features are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.moments import unit
from fruits.learning.neighbours import FeatureRows
from fruits.photos.catalogue.consent import consent_of

#: Side of a thumbnail, in pixels, and its JPEG quality.
SIDE: Final = 112
QUALITY: Final = 72
#: Default number of photos of the gallery, and maximum per label.
PHOTOS: Final = 1000
_PER_LABEL: Final = 16
#: Maximum bytes of all thumbnails together.
MAX_BYTES: Final = 12 << 20
#: Candidates per label; further photos are not considered.
_CANDIDATES: Final = 1000


@dataclass(frozen=True, slots=True)
class Gallery:
    """Training photos to show beside an answer.

    Attributes
    ----------
    labels : int64 array, shape (n,)
        Positions in the bundle's labels.
    features : float32 array, shape (n, k)
    offsets : int64 array, shape (n + 1,)
        Offset of each thumbnail in ``jpegs``.
    jpegs : bytes
        The concatenated thumbnails.
    """

    labels: NDArray[np.int64]
    features: NDArray[np.float32]
    offsets: NDArray[np.int64]
    jpegs: bytes
    #: Photos given by visitors of a service: index -> id of the submission.
    submission_ids: dict[int, str] = field(init=False, repr=False, compare=False)
    #: Features scaled to unit length; the same for every query, so computed once.
    _units: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.labels)
        whole = len(self.offsets) == n + 1 and self.offsets[0] == 0 and self.offsets[-1] == len(self.jpegs)
        if len(self.features) != n or not whole or (np.diff(self.offsets) < 0).any():
            raise ValueError("the gallery's parts do not fit together")
        object.__setattr__(self, "_units", unit(self.features))
        found = {number: consent_of(self.thumbnail(number)) for number in range(n)}
        object.__setattr__(
            self, "submission_ids", {number: consent.id for number, consent in found.items() if consent is not None}
        )

    @classmethod
    def empty(cls, components: int) -> Gallery:
        """Return a gallery without photos."""
        return cls(np.zeros(0, np.int64), np.zeros((0, components), np.float32), np.zeros(1, np.int64), b"")

    @classmethod
    def of(
        cls, features: NDArray[np.float32], labels: NDArray[np.int64], thumbnails: Iterable[bytes | None]
    ) -> Gallery:
        """Make a gallery of chosen photos; those without a thumbnail, or beyond ``MAX_BYTES``, are left out.

        Parameters
        ----------
        features : float32 array, shape (n, k)
        labels : int64 array, shape (n,)
        thumbnails : iterable of bytes or None
            One per photo.
        """
        kept: list[int] = []
        pictures: list[bytes] = []
        size = 0
        for row, picture in enumerate(thumbnails):
            if picture is not None and size + len(picture) <= MAX_BYTES:
                kept.append(row)
                pictures.append(picture)
                size += len(picture)
        offsets = np.cumsum([0, *map(len, pictures)], dtype=np.int64)
        at = np.array(kept, np.int64)
        return cls(labels[at].astype(np.int64), features[at].astype(np.float32), offsets, b"".join(pictures))

    def __len__(self) -> int:
        return len(self.labels)

    def thumbnail(self, number: int) -> bytes:
        """Return the JPEG of a photo.

        Raises
        ------
        IndexError
            If ``number`` is out of range.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"no photo {number} in a gallery of {len(self)}")
        return self.jpegs[self.offsets[number] : self.offsets[number + 1]]

    def nearest(
        self, features: NDArray[np.float32], count: int, hidden: Collection[int] = ()
    ) -> list[list[tuple[int, float]]]:
        """Return the nearest photos of each of m photos, features (m, k): (index, cosine), best first, at most ``count``.

        Indices in ``hidden`` are skipped.
        """
        if not len(self) or count < 1:
            return [[] for _ in features]
        similarity = unit(features) @ self._units.T
        if hidden:
            similarity[:, list(hidden)] = -np.inf
        count = min(count, len(self) - len(hidden))
        if count < 1:
            return [[] for _ in features]
        # A full sort would dominate the cost: only values that reach the last place are sorted. The sort is stable, so ties are
        # resolved by index, for any ``count``.
        last = np.partition(similarity, len(self) - count, axis=1)[:, len(self) - count]
        found = []
        for row, least in zip(similarity, last, strict=True):
            reach = np.flatnonzero(row >= least)
            best = reach[np.argsort(-row[reach], kind="stable")[:count]]
            found.append(list(zip(best.tolist(), row[best].tolist(), strict=True)))
        return found


def choose(features: FeatureRows, labels: NDArray[np.int64], most: int = PHOTOS) -> NDArray[np.int64]:
    """Choose gallery photos among n training photos: the same number per label, spread as far apart as possible.

    Parameters
    ----------
    features : float32 array, shape (n, k)
    labels : int64 array, shape (n,)
    most : int
        Total number of photos. With more labels than that, some labels have none.

    Returns
    -------
    int64 array
        Rows: the first photo of every label, then the second of each and so on, so that truncation keeps all labels.

    References
    ----------
    Gonzalez (1985), "Clustering to minimize the maximum intercluster distance": farthest-first traversal.
    """
    names = np.unique(labels)
    each = min(_PER_LABEL, most // max(1, len(names))) or 1
    chosen = [list(_spread(features, np.flatnonzero(labels == name), each)) for name in names]
    in_turn = [rows[turn] for turn in range(each) for rows in chosen if turn < len(rows)]
    return np.array(in_turn[:most], np.int64)


def _spread(features: FeatureRows, rows: NDArray[np.int64], count: int) -> Iterator[int]:
    """Yield the photo nearest to the mean, then repeatedly the one farthest from all before; no duplicates."""
    if len(rows) > _CANDIDATES:
        rows = rows[np.linspace(0, len(rows) - 1, _CANDIDATES).astype(np.int64)]
    of_label = features[rows]
    distance = np.square(of_label - of_label.mean(axis=0)).sum(axis=1)
    at = int(distance.argmin())
    nearest = np.full(len(rows), np.inf, np.float32)
    for _ in range(min(count, len(rows))):
        yield int(rows[at])
        nearest = np.minimum(nearest, np.square(of_label - of_label[at]).sum(axis=1))
        at = int(nearest.argmax())
        if nearest[at] <= 0:
            return
