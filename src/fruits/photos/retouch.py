"""Lightly retouched copies of photos: what a near-duplicate is like, as material for measuring it.

A copy is what one gets from the next press of the same burst, or from a second save: moved and cropped by a few per cent, a
little lighter or darker, saved as JPEG again. Works on pixels as the network sees them.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CROPPED: Final = 0.04
_BRIGHTNESS: Final = 0.06
_QUALITY: Final = 80


def retouched(pixels: NDArray[np.uint8], *, seed: int = 0) -> NDArray[np.uint8]:
    """Return a copy of each photo, retouched by chance: shape (n, size, size, 3) like what is given.

    The copy of a photo depends on the seed and its place alone.
    """
    return np.stack([_copy(photo, np.random.default_rng([seed, place])) for place, photo in enumerate(pixels)])


def _copy(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    size = photo.shape[0]
    side = size * (1 - _CROPPED)
    left, top = rng.uniform(0, size - side, 2)
    image = Image.fromarray(photo).resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    lighter = 1 + rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    image = image.point(lambda value: min(255, round(value * lighter)))
    out = BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return np.asarray(Image.open(out).convert("RGB"))
