"""Lightly retouched copies of photos: what a near-duplicate is like, as material for measuring it.

A copy is what one gets from the next press of the same burst, or from a messenger: moved and cropped by a few per cent, a little
lighter or darker, scaled down, saved as JPEG again. Works on pixels as the network sees them.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: How far each change goes at most: share of the side that is cut, of the brightness, of the size that is left; JPEG quality.
_CROPPED: Final = 0.05
_BRIGHTNESS: Final = 0.08
_SCALED: Final = 0.9
_QUALITY: Final = (75, 93)
_FAR: Final = 16
_KERNEL: Final = Image.Resampling.BICUBIC


def retouched(pixels: NDArray[np.uint8], *, seed: int = 0) -> NDArray[np.uint8]:
    """Return a copy of each photo, retouched by chance: shape (n, size, size, 3) like what is given.

    The copy of a photo depends on the seed and its place alone.
    """
    return np.stack([_copy(photo, np.random.default_rng([seed, place])) for place, photo in enumerate(pixels)])


def fingerprints(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 768 numbers per photo that say what it looks like from far away: unit rows, shape (n, 768).

    16 x 16 pixels less their mean: lighter and darker copies are alike, other colours and shapes are not.
    """
    small = [Image.fromarray(photo).resize((_FAR, _FAR), Image.Resampling.BOX) for photo in pixels]
    rows = np.stack([np.asarray(image, np.float32).reshape(-1) for image in small])
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def _copy(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    size = photo.shape[0]
    side = size * (1 - rng.uniform(0, _CROPPED))
    left, top = rng.uniform(0, size - side, 2)
    smaller = round(size * rng.uniform(_SCALED, 1))
    image = Image.fromarray(photo).resize((smaller, smaller), _KERNEL, box=(left, top, left + side, top + side))
    lighter = 1 + rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    out = BytesIO()
    image.point(lambda value: min(255, round(value * lighter))).save(out, "JPEG", quality=int(rng.integers(*_QUALITY)))
    return np.asarray(Image.open(out).convert("RGB").resize((size, size), _KERNEL))
