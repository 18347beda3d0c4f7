"""Where does an answer come from? Class activation maps, and how they look over a photo.

Behind the global average pooling of a network everything is linear up to the probabilities. What the head makes of each place of
the last feature map is therefore exactly what that place contributed: the mean over the places is the photo's logit. Knows
nothing of files, of the service or of how a recogniser was fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fruits.learning.heads import Head
from fruits.learning.pca import project
from fruits.recogniser.answers import Answer

#: How much of the photo shows where a place contributed most.
_STRONGEST: Final = 0.6
_PICTURE_SIDE: Final = 448
#: Colours from nothing to the strongest contribution: a part of the scale "inferno", readable by people who are colour-blind.
_COLOURS: Final = np.array([[20, 11, 52], [101, 21, 110], [187, 55, 84], [249, 142, 8], [252, 255, 164]], np.float32)


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer and where in the photo it comes from. A notebook shows it as a picture.

    Attributes
    ----------
    answer : Answer
    pixels : uint8 array, shape (size, size, 3)
        The square that the network saw.
    places : float32 array, shape (rows, columns)
        What each part of it contributed to the most probable kind, see :func:`contribution`.
    """

    answer: Answer
    pixels: NDArray[np.uint8]
    places: NDArray[np.float32]

    def picture(self) -> Image.Image:
        """Return the photo as the network saw it, at least 448 pixels a side: brighter where more spoke for the answer."""
        side = max(len(self.pixels), _PICTURE_SIDE)
        seen = Image.fromarray(self.pixels).resize((side, side), Image.Resampling.BICUBIC)
        return Image.fromarray(overlay(np.asarray(seen), self.places))

    def _repr_png_(self) -> bytes:
        out = BytesIO()
        self.picture().save(out, "PNG")
        return out.getvalue()


def evidence(
    maps: NDArray[np.float32], mean: NDArray[np.float32], components: NDArray[np.float32], head: Head
) -> NDArray[np.float32]:
    """Return the logits of every place.

    Parameters
    ----------
    maps : float32 array, shape (n, d, rows, columns)
        Of the network, before pooling.
    mean : array, shape (d,)
    components : array, shape (k, d)
    head : Head
        Linear, of c labels.

    Returns
    -------
    float32 array, shape (n, rows, columns, c)
        Its mean over rows and columns is the photo's logits.

    References
    ----------
    Zhou et al. (2016), "Learning deep features for discriminative localization".
    """
    n, d, rows, columns = maps.shape
    places = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).reshape(-1, d)
    return head.scaled_logits(project(places, mean, components)).reshape(n, rows, columns, -1)


def contribution(
    evidence: NDArray[np.float32], probabilities: NDArray[np.float32], labels: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return how much each place of one photo spoke for some labels, such as those of a kind, against all others.

    Parameters
    ----------
    evidence : float32 array, shape (rows, columns, c)
    probabilities : float32 array, shape (c,)
        Of the photo; the labels count by their share in it.
    labels : bool array, shape (c,)
        At least one.

    Returns
    -------
    float32 array, shape (rows, columns)
        In logits, relative to the average label; negative where a place spoke against them.
    """
    share = np.where(labels, probabilities, np.float32(0)).astype(np.float64)
    total = share.sum()
    share = share / total if total > 0 else labels / labels.sum()
    centred = evidence - evidence.mean(axis=2, keepdims=True)
    return np.asarray(centred @ share.astype(np.float32), np.float32)


def overlay(photo: NDArray[np.uint8], places: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the photo with what each place contributed laid over it: the more, the brighter.

    Parameters
    ----------
    photo : uint8 array, shape (height, width, 3)
        The square that the network saw, at any size.
    places : float32 array, shape (rows, columns)
        As :func:`contribution` gives; what is negative is shown as nothing.

    Returns
    -------
    uint8 array, shape (height, width, 3)
    """
    height, width = photo.shape[:2]
    positive = np.maximum(places, 0)
    heat = Image.fromarray(positive / max(float(positive.max()), 1e-6))
    strength = np.clip(np.asarray(heat.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)[..., None]
    at = strength * (len(_COLOURS) - 1)
    below = np.minimum(at.astype(np.int64), len(_COLOURS) - 2)
    colour = _COLOURS[below[..., 0]] * (1 - (at - below)) + _COLOURS[below[..., 0] + 1] * (at - below)
    opacity = _STRONGEST * (0.35 + 0.65 * strength)
    return np.asarray(np.rint(photo * (1 - opacity) + colour * opacity), np.uint8)
