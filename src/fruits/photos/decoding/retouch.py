"""Synthetic near-duplicates: lightly retouched copies of photos, to measure how near-duplicates score.

A copy resembles the next photo of a burst, or one resent by a messenger: shifted and cropped by a few per cent, slightly lighter
or darker, scaled down, and saved as JPEG again. Works on the pixels of a network's input.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Largest changes: share of the side cropped, relative change of brightness, smallest scale; range of JPEG quality.
_CROPPED: Final = 0.05
_BRIGHTNESS: Final = 0.08
_SCALED: Final = 0.9
_QUALITY: Final = (75, 93)
_FAR: Final = 16
_KERNEL: Final = Image.Resampling.BICUBIC


def retouched(pixels: NDArray[np.uint8], *, seed: int = 0) -> NDArray[np.uint8]:
    """Return a randomly retouched copy of each photo: shape (n, size, size, 3), as the input.

    The random changes of a photo depend on the seed and its position only.
    """
    return np.stack([_copy(photo, np.random.default_rng([seed, place])) for place, photo in enumerate(pixels)])


def fingerprints(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a coarse fingerprint of each photo: unit rows, shape (n, 768).

    16 x 16 pixels minus their mean: invariant to brightness, sensitive to colours and shapes.
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
