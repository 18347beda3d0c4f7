"""Is the photo itself the problem? Brightness and sharpness of what the network sees, and the advice that follows.

Measured on the network's input, after scaling: a slightly blurred photo of 12 megapixels is sharp at 224 pixels, and then its
blur is no problem. Both numbers are simple enough to be a few nodes of ``recognizer.onnx``, so a browser measures the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: A photo darker than this share of full brightness may be called dark, if it is also darker than nearly all known ones.
_DARK_AT_MOST: Final = 0.25
#: Share of the known photos that may be called dark, and likewise blurred.
_ODD_SHARE: Final = 0.01
#: Differences that flat, clean areas have after JPEG: they are left out of both sums.
NOISE: Final = 3
#: Every fourth row and column is looked at: the sums hardly change, and it costs a quarter.
STEP: Final = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond what a photo is called bad.

    Attributes
    ----------
    dark, blurred : float
        Brightness, sharpness below which a photo is called dark, blurred.
    small : int
        Shorter side, in pixels of the photo as taken, below which it is called small.
    """

    dark: float
    blurred: float
    small: int

    @classmethod
    def of(cls, brightness: NDArray[np.float32], sharpness: NDArray[np.float32], size: int) -> Limits:
        """Derive limits from known photos, so that photos like theirs are not complained about.

        Parameters
        ----------
        brightness, sharpness : float32 array, shape (n,)
            Of known photos, n at least 1.
        size : int
            Side of the network's input.
        """
        dark = min(_DARK_AT_MOST, float(np.quantile(brightness, _ODD_SHARE)))
        return cls(dark, float(np.quantile(sharpness, _ODD_SHARE)), size // 2)

    def advice(self, brightness: float, sharpness: float, short_side: int) -> tuple[str, ...]:
        """Return what is wrong with a photo, of ``small``, ``dark``, ``blurred``, the plainest first; often nothing.

        Parameters
        ----------
        brightness, sharpness : float
            As :func:`measure` gives them.
        short_side : int
            In pixels, of the photo as taken.
        """
        found = []
        if short_side < self.small:
            found.append("small")
        if brightness < self.dark:
            found.append("dark")
        # A black or a white page has no edges at all; that is not the lens.
        if 0 < sharpness < self.blurred and "dark" not in found:
            found.append("blurred")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


#: What to tell a person, by language.
ADVICE: Final = {
    "en": {
        "small": "The photo is very small: go closer, or send the original.",
        "dark": "The photo is dark: try again with more light.",
        "blurred": "The photo is blurred: hold still, tap to focus.",
    },
    "fr": {
        "small": "La photo est très petite : rapprochez-vous, ou envoyez l'original.",
        "dark": "La photo est sombre : réessayez avec plus de lumière.",
        "blurred": "La photo est floue : ne bougez pas, touchez l'écran pour faire la mise au point.",
    },
}


def measure(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return brightness and sharpness.

    Parameters
    ----------
    pixels : uint8 array, shape (n, size, size, 3)

    Returns
    -------
    float32 array, shape (n,)
        Brightness: mean of the green channel over the rows looked at, 0 (black) to 1 (white).
    float32 array, shape (n,)
        Sharpness: how sudden changes are where there are any, 0 (none) to about 2 (noise). The sum of second differences
        over that of first differences across two pixels, along rows and columns: a ramp of w pixels gives 1/w whatever
        its height, so that it is the lens that counts and not the contrast of what was photographed.
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
    """Return for each photo the sum of what its differences have beyond ``NOISE``, up or down; overwrites them."""
    size = np.abs(differences, out=differences).reshape(len(differences), -1)
    return np.asarray(np.maximum(size, NOISE, out=size).sum(axis=1, dtype=np.int64) - NOISE * size.shape[1])
