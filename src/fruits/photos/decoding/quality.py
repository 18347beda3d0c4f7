"""Photo quality: brightness and sharpness of the network's input, and advice to the user.

Measured after scaling: a slightly blurred photo of 12 megapixels is sharp at 224 pixels, and then its blur does not matter. Both
measures are simple enough to be a few nodes of ``recognizer.onnx``, so a browser computes the same numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: What may be wrong with a photo.
ADVICE: Final = ("small", "dark", "blurred")
#: Upper bound of the limit for dark photos, as a share of full brightness.
_DARK_AT_MOST: Final = 0.25
#: Largest share of the known photos below the limit for dark, and likewise for blurred.
_ODD_SHARE: Final = 0.01
#: Differences that flat, clean areas have after JPEG compression; they are subtracted in both sums.
NOISE: Final = 3
#: Only every fourth row and column is used: the sums hardly change, at a quarter of the cost.
STEP: Final = 4
#: Values that are measured at a time: their arrays stay in the processor's cache.
_VALUES_IN_CACHE: Final = 80_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits below which a photo is called dark, blurred or small.

    Attributes
    ----------
    dark, blurred : float
        Brightness and sharpness below which a photo is called dark or blurred.
    small : int
        Shorter side of the original photo, in pixels, below which it is called small.
    """

    dark: float
    blurred: float
    small: int

    @classmethod
    def of(cls, brightness: NDArray[np.float32], sharpness: NDArray[np.float32], size: int) -> Limits:
        """Derive limits from known photos, so that photos like them get no advice.

        Parameters
        ----------
        brightness, sharpness : float32 array, shape (n,)
            Measures of known photos; n is at least 1.
        size : int
            Side of the network's input in pixels.
        """
        dark = min(_DARK_AT_MOST, float(np.quantile(brightness, _ODD_SHARE)))
        return cls(dark, float(np.quantile(sharpness, _ODD_SHARE)), size // 2)

    def advice(self, brightness: float, sharpness: float, short_side: int) -> tuple[str, ...]:
        """Return the faults of a photo, from ``small``, ``dark``, ``blurred`` in this order; often none.

        Parameters
        ----------
        brightness, sharpness : float
            As returned by :func:`measure`.
        short_side : int
            Shorter side of the original photo, in pixels.
        """
        found = []
        if short_side < self.small:
            found.append("small")
        if brightness < self.dark:
            found.append("dark")
        # An empty page has no edges at all (sharpness 0), which is no blur.
        if 0 < sharpness < self.blurred and "dark" not in found:
            found.append("blurred")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return asdict(self)


def measure(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return brightness and sharpness.

    Parameters
    ----------
    pixels : uint8 array, shape (n, size, size, 3)

    Returns
    -------
    float32 array, shape (n,)
        Brightness: mean of the green channel over the rows used, 0 (black) to 1 (white).
    float32 array, shape (n,)
        Sharpness of edges, 0 (no edges) to about 2 (noise): the sum of second differences over the sum of first differences
        across two pixels, along rows and columns. A ramp of w pixels gives 1/w whatever its height, so the measure depends on
        focus, not on the contrast of the subject.
    """
    n, size = pixels.shape[:2]
    found = np.zeros((2, n), np.float64)
    at_once = max(1, _VALUES_IN_CACHE // max(1, -(-size // STEP) * size))
    for start in range(0, n, at_once):
        found[:, start : start + at_once] = _measured(pixels[start : start + at_once])
    brightness, sharpness = found.astype(np.float32)
    return brightness, sharpness


def _measured(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return brightness and sharpness of a few photos.

    Differences are taken between whole arrays at a distance, so that each operation is one pass over memory; those that cross
    the end of a row or of a photo are set to zero.
    """
    n, size = pixels.shape[:2]
    rows = pixels[:, ::STEP, :, 1].astype(np.int16, order="C")
    columns = pixels[:, :, ::STEP, 1].astype(np.int16, order="C")
    lines = rows.shape[1]
    brightness = _sums(rows) / (lines * size) / 255
    floor = np.full(rows.size, NOISE, np.int16)
    flat = np.empty(rows.size, np.int16)
    sudden, gradual = np.zeros(n, np.int64), np.zeros(n, np.int64)

    def add_above_noise(total: NDArray[np.int64]) -> None:
        """Add for each photo the absolute differences beyond ``NOISE``; overwrites them."""
        outside[...] = 0
        np.abs(flat, out=flat)
        np.maximum(flat, floor, out=flat)
        total += _sums(flat.reshape(rows.shape)) - NOISE * lines * size

    # The next value of a row follows; ``columns`` has ``lines`` values per row, so the next value below comes after as many.
    for values, step in ((rows.reshape(-1), 1), (columns.reshape(-1), lines)):
        differences = flat.reshape(rows.shape if step == 1 else columns.shape)
        outside = differences[:, :, -2:] if step == 1 else differences[:, -2:]
        flat[-2 * step :] = 0
        inside = flat[: -2 * step]
        np.add(values[: -2 * step], values[2 * step :], out=inside)
        inside -= values[step:-step]
        inside -= values[step:-step]
        add_above_noise(sudden)
        np.subtract(values[2 * step :], values[: -2 * step], out=inside)
        add_above_noise(gradual)
    return brightness, np.divide(sudden, gradual, out=np.zeros(n), where=gradual > 0)


def _sums(values: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return for each photo the sum of its values, shape (n, lines, size), each 0 to 510."""
    # 128 times 510 fits into 16 bits.
    kind = np.uint16 if values.shape[1] <= 128 else np.uint32
    summed = np.add.reduce(values.view(np.uint16), axis=1, dtype=kind)
    return np.asarray(summed.sum(axis=1, dtype=np.int64))
