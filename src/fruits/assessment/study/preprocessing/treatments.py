"""Treatments of a photo between decoding and the network: geometry, several views, colour and contrast, background.

Each treatment maps the pixels of a whole photo to one or several squares of the network's side; of several, embeddings are
averaged. Only geometry is also part of the decoder (``--resize-mode``); the rest is tried here and nowhere else. Independent of
files and of networks, but for the closer look, which is told where the network is most active.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from fruits.photos.decoding.images import into_square

Pixels = NDArray[np.uint8]

_KERNEL: Final = Image.Resampling.BICUBIC
#: Several crops: side of a crop as a share of the short side.
_CROP: Final = 0.75
#: Closer look: side of the part that is looked at again, as a share of the short side.
CLOSER: Final = 0.6
#: Test-time augmentation: angle in degrees, and share of the side that is cut off.
_TURN: Final = 10.0
_CUT: Final = 0.1
#: White balance: largest factor of a channel. CLAHE: tiles per side, and limit of a bin relative to an even histogram.
_MOST_GAIN: Final = 1.6
_TILES: Final = 8
_CLIP: Final = 3.0
#: Background: width of the border as a share of the short side, distance in standard deviations of its colours, and the shares of
#: the photo between which what is found is plausible.
_BORDER: Final = 0.06
_APART: Final = 3.5
_PLAUSIBLE: Final = (0.05, 0.9)


@dataclass(frozen=True, slots=True)
class Treatment:
    """A way to prepare a photo.

    Attributes
    ----------
    name : str
    sort : {"geometry", "views", "colour"}
        Of treatments that are combined there is one geometry and one kind of views, and any number of colour.
    views : int
        Passes of the network for a photo.
    exact : bool
        Whether the decoder does it, too, so that a run can keep it.
    """

    name: str
    sort: str
    views: int = 1
    exact: bool = False


TREATMENTS: Final = (
    Treatment("pad", "geometry", exact=True),
    Treatment("crop", "geometry", exact=True),
    Treatment("squash", "geometry", exact=True),
    Treatment("crops", "views", 5),
    Treatment("closer", "views", 2),
    Treatment("augment", "views", 4),
    Treatment("background", "colour"),
    Treatment("white_balance", "colour"),
    Treatment("sharpen", "colour"),
    Treatment("clahe", "colour"),
)
#: Treatment by its name.
NAMED: Final = {one.name: one for one in TREATMENTS}


def coloured(pixels: Pixels, names: Sequence[str]) -> Pixels:
    """Return a photo after treatments of colour, in the given order.

    Parameters
    ----------
    pixels : uint8 array, shape (height, width, 3)
    names : sequence of str
        Of treatments whose sort is ``colour``.
    """
    for name in names:
        pixels = _COLOUR[name](pixels)
    return pixels


def squares(pixels: Pixels, size: int, geometry: str, views: str = "") -> list[Pixels]:
    """Return the squares that the network sees of a photo.

    Parameters
    ----------
    pixels : uint8 array, shape (height, width, 3)
    size : int
        Side of the network's input.
    geometry : {"pad", "crop", "squash"}
    views : str
        A treatment whose sort is ``views``; none for one square. The closer look needs :func:`closer_look` for its second square.
    """
    image = Image.fromarray(pixels)
    if views == "crops":
        side = _CROP * min(image.size)
        (right, bottom) = (length - side for length in image.size)
        corners = [(right / 2, bottom / 2), (0, 0), (right, 0), (0, bottom), (right, bottom)]
        return [_cut(image, left, top, side, size) for left, top in corners]
    whole = into_square(image, size, geometry, _KERNEL)
    if views != "augment":
        return [np.asarray(whole)]
    cut = _CUT * size / 2
    closer = whole.resize((size, size), _KERNEL, box=(cut, cut, size - cut, size - cut))
    turned = whole.rotate(_TURN, _KERNEL, fillcolor=(255, 255, 255))
    mirrored = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return [np.asarray(one) for one in (whole, mirrored, closer, turned)]


def closer_look(pixels: Pixels, size: int, geometry: str, activity: NDArray[np.float32]) -> Pixels:
    """Return the part of a photo in which the network is most active, as a square.

    Parameters
    ----------
    pixels : uint8 array, shape (height, width, 3)
    size : int
    geometry : str
        By which the network saw the whole photo.
    activity : float32 array, shape (rows, columns)
        Strength of the feature map at each place of that square; no label is used.
    """
    image = Image.fromarray(pixels)
    weight = np.maximum(activity - np.median(activity), 0).astype(np.float64)
    if not weight.any():
        weight = np.ones_like(weight)
    rows, columns = weight.shape
    x = float((weight.sum(axis=0) @ (np.arange(columns) + 0.5)) / weight.sum() / columns)
    y = float((weight.sum(axis=1) @ (np.arange(rows) + 0.5)) / weight.sum() / rows)
    # From the network's square back to the photo.
    width, height = image.size
    if geometry == "squash":
        across, down = x * width, y * height
    else:
        seen = max(width, height) if geometry == "pad" else min(width, height)
        across, down = x * seen + (width - seen) / 2, y * seen + (height - seen) / 2
    side = CLOSER * min(width, height)
    left = min(max(across - side / 2, 0), width - side)
    top = min(max(down - side / 2, 0), height - side)
    return _cut(image, left, top, side, size)


def activity_of(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the strength of feature maps at each place: shape (n, rows, columns), of maps (n, d, rows, columns)."""
    return np.asarray(np.sqrt(np.square(maps).mean(axis=1)), np.float32)


def white_balanced(pixels: Pixels) -> Pixels:
    """Return a photo whose channels have the same mean (grey world), each by a factor of at most 1.6.

    References
    ----------
    Buchsbaum (1980), "A spatial processor model for object colour perception".
    """
    means = pixels.reshape(-1, 3).mean(axis=0).astype(np.float64)
    gains = np.clip(means.mean() / np.maximum(means, 1.0), 1 / _MOST_GAIN, _MOST_GAIN)
    return np.asarray(np.clip(np.rint(pixels * gains), 0, 255), np.uint8)


def sharpened(pixels: Pixels) -> Pixels:
    """Return a photo after an unsharp mask."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.UnsharpMask(radius=2, percent=100, threshold=2)))


def equalised(pixels: Pixels) -> Pixels:
    """Return a photo with the contrast of its luma equalised locally, and its colours kept (CLAHE).

    References
    ----------
    Zuiderveld (1994), "Contrast limited adaptive histogram equalization", Graphics Gems IV.
    """
    luma, blue, red = Image.fromarray(pixels).convert("YCbCr").split()
    values = np.asarray(luma)
    height, width = values.shape
    rows, columns = min(_TILES, height), min(_TILES, width)
    tile_of_row = np.arange(height) * rows // height
    tile_of_column = np.arange(width) * columns // width
    tile = tile_of_row[:, None] * columns + tile_of_column
    counts = np.bincount((tile.astype(np.int64) * 256 + values).ravel(), minlength=rows * columns * 256)
    histogram = counts.reshape(rows * columns, 256).astype(np.float64)
    total = histogram.sum(axis=1, keepdims=True)
    limit = _CLIP * total / 256
    excess = np.maximum(histogram - limit, 0).sum(axis=1, keepdims=True)
    levels = (np.cumsum(np.minimum(histogram, limit) + excess / 256, axis=1) / total * 255).reshape(rows, columns, 256)
    # Between the centres of the four nearest tiles, values are interpolated.
    above, down = _between(height, rows)
    before, across = _between(width, columns)
    below, after = np.minimum(above + 1, rows - 1), np.minimum(before + 1, columns - 1)
    at, along = down[:, None], across[None, :]
    upper = (1 - along) * levels[above[:, None], before, values] + along * levels[above[:, None], after, values]
    lower = (1 - along) * levels[below[:, None], before, values] + along * levels[below[:, None], after, values]
    made = np.clip(np.rint((1 - at) * upper + at * lower), 0, 255).astype(np.uint8)
    return np.asarray(Image.merge("YCbCr", (Image.fromarray(made), blue, red)).convert("RGB"))


def without_background(pixels: Pixels) -> Pixels:
    """Return a photo with white where its colours are those of its border; unchanged if hardly anything or nearly all is left.

    The border's colours are taken as normally distributed; what differs, closed and with its holes filled, is kept.
    """
    height, width = pixels.shape[:2]
    edge = max(1, round(_BORDER * min(height, width)))
    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)), np.float64)
    inner = np.zeros((height, width), bool)
    inner[edge:-edge, edge:-edge] = True
    border = smooth[~inner]
    covariance = np.cov(border.T) + 25.0 * np.eye(3)  # noise of at least 5 of 255
    apart = smooth - border.mean(axis=0)
    distance = np.sqrt(np.einsum("...i,ij,...j->...", apart, np.linalg.inv(covariance), apart))
    near = ndimage.binary_opening(distance > _APART, iterations=1)
    kept = ndimage.binary_fill_holes(ndimage.binary_closing(near, iterations=max(1, edge // 2)))
    parts, n = ndimage.label(kept)
    if n:
        sizes = np.bincount(parts.ravel())[1:]
        kept = np.isin(parts, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max()))
    share = float(kept.mean())
    if not _PLAUSIBLE[0] <= share <= _PLAUSIBLE[1]:
        return pixels
    return np.where(kept[..., None], pixels, np.uint8(255))


_COLOUR: Final[dict[str, Callable[[Pixels], Pixels]]] = {
    "background": without_background,
    "white_balance": white_balanced,
    "sharpen": sharpened,
    "clahe": equalised,
}


def _cut(image: Image.Image, left: float, top: float, side: float, size: int) -> Pixels:
    return np.asarray(image.resize((size, size), _KERNEL, box=(left, top, left + side, top + side)))


def _between(length: int, tiles: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each pixel the tile whose centre is before it, and how far it is on the way to the next."""
    place = np.clip((np.arange(length) + 0.5) * tiles / length - 0.5, 0, tiles - 1)
    first = np.minimum(place.astype(np.int64), max(tiles - 2, 0))
    return first, place - first
