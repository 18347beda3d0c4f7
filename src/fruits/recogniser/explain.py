"""Class activation maps: which regions of a photo contribute to an answer, and their overlay on the photo.

After the global average pooling of a network, everything up to the logits is linear. The head applied to each position of the
last feature map therefore gives the exact contribution of that position: their mean is the photo's logit. Independent of files,
the service and training.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fruits.learning.heads import Head
from fruits.recogniser.answers import Answer

#: Opacity of the overlay at the strongest contribution.
_STRONGEST: Final = 0.6
_PICTURE_SIDE: Final = 448
_QUALITY: Final = 80
#: Most rows and columns of :func:`relative`: bounds the size of an answer, whatever the network.
MOST_PLACES: Final = 32
#: Colours from zero to the strongest contribution: part of the colour map "inferno", readable with colour blindness.
_COLOURS: Final = np.array([[20, 11, 52], [101, 21, 110], [187, 55, 84], [249, 142, 8], [252, 255, 164]], np.float32)


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer with the contributions of the regions of the photo. Notebooks display it as a picture.

    Attributes
    ----------
    answer : Answer
    pixels : uint8 array, shape (size, size, 3)
        The network's input.
    places : float32 array, shape (rows, columns)
        Contribution of each position to the most probable kind, see :meth:`Evidence.contribution`.
    """

    answer: Answer
    pixels: NDArray[np.uint8]
    places: NDArray[np.float32]

    def picture(self) -> Image.Image:
        """Return the network's input with the overlay, at least 448 pixels a side: the brighter, the larger the contribution."""
        return self._drawn(max(len(self.pixels), _PICTURE_SIDE))

    def _drawn(self, side: int) -> Image.Image:
        seen = Image.fromarray(self.pixels).resize((side, side), Image.Resampling.BICUBIC)
        return Image.fromarray(overlay(np.asarray(seen), self.places))

    def _repr_png_(self) -> bytes:
        out = BytesIO()
        self.picture().save(out, "PNG")
        return out.getvalue()


def as_jpeg(explanation: Explanation, side: int) -> bytes:
    """Return the picture of an explanation with ``side`` pixels a side, as JPEG."""
    out = BytesIO()
    explanation._drawn(side).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What positions of a feature map contribute to labels, by the linear part of the head.

    Attributes
    ----------
    slopes : float32 array, shape (c, d)
        Of the c logits in the embedding.
    intercepts : float32 array, shape (c,)

    References
    ----------
    Zhou et al. (2016), "Learning deep features for discriminative localization".
    """

    slopes: NDArray[np.float32]
    intercepts: NDArray[np.float32]

    @classmethod
    def of(cls, mean: NDArray[np.float32], components: NDArray[np.float32], head: Head) -> Evidence:
        """Combine projection and head.

        Parameters
        ----------
        mean : array, shape (d,)
        components : array, shape (k, d)
        head : Head
            Linear, of c labels.
        """
        k = len(components)
        at_zero = head.scaled_logits(np.zeros((1, k), np.float32))[0]
        slopes = (head.scaled_logits(np.eye(k, dtype=np.float32)) - at_zero).T @ components
        return cls(np.asarray(slopes, np.float32), np.asarray(at_zero - slopes @ mean, np.float32))

    def logits(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of every position, shape (n, rows, columns, c), of maps (n, d, rows, columns).

        Their mean over rows and columns is the photo's logits.
        """
        return np.asarray(np.moveaxis(maps, 1, 3) @ self.slopes.T + self.intercepts, np.float32)

    def contribution(
        self, feature_map: NDArray[np.float32], probabilities: NDArray[np.float32], labels: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return the contribution of each position of one photo to some labels, such as those of a kind, against all others.

        Parameters
        ----------
        feature_map : float32 array, shape (d, rows, columns)
            Of the network, before pooling.
        probabilities : float32 array, shape (c,)
            Probabilities of the photo; the weights of the labels.
        labels : bool array, shape (c,)
            At least one.

        Returns
        -------
        float32 array, shape (rows, columns)
            In logits, relative to the mean over all labels; negative for a position that contradicts the labels.
        """
        share = np.where(labels, probabilities, np.float32(0)).astype(np.float64)
        total = share.sum()
        share = share / total if total > 0 else labels / labels.sum()
        # One direction in the embedding for all these labels: 200 times fewer products than the logits of all labels.
        against = (share - 1 / len(share)).astype(np.float32)
        direction, constant = against @ self.slopes, against @ self.intercepts
        return np.asarray(np.tensordot(direction, feature_map, 1) + constant, np.float32)


def relative(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return contributions relative to the largest one, from 0 to 1; negative ones are 0.

    Parameters
    ----------
    places : float32 array, shape (rows, columns)
        From :meth:`Evidence.contribution`.

    Returns
    -------
    float32 array, shape (rows, columns)
        With at most ``MOST_PLACES`` rows and columns: of more, the means of neighbours.
    """
    rows, columns = places.shape
    positive = np.maximum(places, 0)
    if max(rows, columns) > MOST_PLACES:
        size = min(columns, MOST_PLACES), min(rows, MOST_PLACES)
        positive = np.asarray(Image.fromarray(positive).resize(size, Image.Resampling.BOX))
    return np.asarray(positive / max(float(positive.max()), 1e-6), np.float32)


def overlay(photo: NDArray[np.uint8], places: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the photo with the contributions as an overlay: the larger, the brighter.

    Parameters
    ----------
    photo : uint8 array, shape (height, width, 3)
        The network's input, at any size.
    places : float32 array, shape (rows, columns)
        From :meth:`Evidence.contribution`; negative values are shown as zero.

    Returns
    -------
    uint8 array, shape (height, width, 3)
    """
    height, width = photo.shape[:2]
    heat = Image.fromarray(relative(places))
    strength = np.clip(np.asarray(heat.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)[..., None]
    at = strength * (len(_COLOURS) - 1)
    below = np.minimum(at.astype(np.int64), len(_COLOURS) - 2)
    colour = _COLOURS[below[..., 0]] * (1 - (at - below)) + _COLOURS[below[..., 0] + 1] * (at - below)
    opacity = _STRONGEST * (0.35 + 0.65 * strength)
    return np.asarray(np.rint(photo * (1 - opacity) + colour * opacity), np.uint8)
