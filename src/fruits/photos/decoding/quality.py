"""Photo quality: brightness and sharpness of the network's input, and advice to the user.

Measured after scaling: a slightly blurred photo of 12 megapixels is sharp at 224 pixels, and then its blur does not matter. Both
measures are simple enough to be a few nodes of ``recognizer.onnx``, so a browser computes the same numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Upper bound of the limit for dark photos, as a share of full brightness.
_DARK_AT_MOST: Final = 0.25
#: Largest share of the known photos below the limit for dark, and likewise for blurred.
_ODD_SHARE: Final = 0.01
#: Differences that flat, clean areas have after JPEG compression; they are subtracted in both sums.
NOISE: Final = 3
#: Only every fourth row and column is used: the sums hardly change, at a quarter of the cost.
STEP: Final = 4


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
    n = len(pixels)
    rows, columns = pixels[:, ::STEP, :, 1].astype(np.int16), pixels[:, :, ::STEP, 1].astype(np.int16)
    brightness = rows.reshape(n, -1).mean(axis=1, dtype=np.float64) / 255
    sudden, gradual = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for before, here, after in (
        (rows[:, :, :-2], rows[:, :, 1:-1], rows[:, :, 2:]),
        (columns[:, :-2], columns[:, 1:-1], columns[:, 2:]),
    ):
        second = before + after
        second -= 2 * here
        sudden += _sum_above_noise(second)
        gradual += _sum_above_noise(after - before)
    sharpness = np.divide(sudden, gradual, out=np.zeros(n), where=gradual > 0)
    return brightness.astype(np.float32), sharpness.astype(np.float32)


def _sum_above_noise(differences: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return for each photo the sum of the absolute differences beyond ``NOISE``; overwrites its input."""
    size = np.abs(differences, out=differences).reshape(len(differences), -1)
    return np.asarray(np.maximum(size, NOISE, out=size).sum(axis=1, dtype=np.int64) - NOISE * size.shape[1])
