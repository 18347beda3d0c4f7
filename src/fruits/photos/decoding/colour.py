"""Conversion of photos to sRGB by their embedded colour profiles, as in every photo viewer.

Phones save Display P3, cameras Adobe RGB, print shops CMYK; interpreted as sRGB, their colours would be wrong. A profile that
cannot be read, or that is for another kind of image, is ignored, and the photo is taken as sRGB. So is a profile that equals sRGB
up to rounding. Independent of files.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, ImageCms

#: A larger profile is not read. Those of presses take up to 3 MB, those of cameras and phones below 10 kB.
_MAX_PROFILE_BYTES: Final = 4 << 20
_HEADER_BYTES: Final = 128
#: Device classes that describe an image's colours (ICC.1:2022, 7.2.5); link, abstract and named-colour profiles do not.
_CLASSES: Final = (b"scnr", b"mntr", b"prtr", b"spac")
_MODES: Final = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
#: Largest difference in levels (of 255) at which a profile counts as sRGB: versions of the sRGB profile round differently.
_SAME: Final = 2
#: Exceptions of ImageCms for profiles that it does not accept.
_REFUSED: Final = (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError)


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image to RGB in sRGB; the input may be modified.

    Parameters
    ----------
    image : Image
        Of mode L, RGB or CMYK.
    profile : bytes or None
        ICC profile embedded in the file. A grey image may have an RGB profile: some cameras write that.
    """
    mode = _mode_of(profile) if profile else None
    if mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    transform = _transform(bytes(profile), mode) if profile and mode == image.mode else None
    if transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    if mode != "RGB":
        return transform.apply(image)
    return transform.apply_in_place(image.copy() if image.readonly else image)


def _mode_of(profile: bytes) -> str | None:
    """Return the image mode that a profile is for; None if the profile cannot be used."""
    if not _HEADER_BYTES < len(profile) <= _MAX_PROFILE_BYTES or profile[36:40] != b"acsp":
        return None
    return _MODES.get(bytes(profile[16:20])) if profile[12:16] in _CLASSES else None


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if it changes nothing, or cannot be built."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        # Perceptual, as in browsers; profiles of cameras and screens, which are matrices, have no other intent.
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
        if mode == "CMYK":
            return transform
        probe = _probe(mode)
        change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    except _REFUSED:
        return None
    return transform if np.abs(change).max() > _SAME else None


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _probe(mode: str) -> Image.Image:
    """Return an image of all 256 greys, or of all combinations of 16 levels per channel."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3))
