"""The colours of a photo in sRGB: embedded profiles are applied, as every viewer of photos does.

A phone saves Display P3, a camera Adobe RGB, a print shop CMYK; taken for sRGB, their colours are others than what was seen.
A profile that cannot be read, or that is for another kind of picture, is ignored: the photo counts as sRGB then. So
does one whose profile is sRGB in all but the last digits. Knows nothing of files.
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
#: Device classes of a picture's own colours (ICC.1:2022, 7.2.5); links, abstract and named profiles are something else.
_CLASSES: Final = (b"scnr", b"mntr", b"prtr", b"spac")
_MODES: Final = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
#: Levels of 255 by which a profile may differ from sRGB and count as sRGB: its many issues round in different ways.
_SAME: Final = 2
#: What ImageCms raises on profiles that it does not take.
_REFUSED: Final = (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError)


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image of mode L, RGB or CMYK as RGB in sRGB; the given one may be changed.

    Parameters
    ----------
    image : Image
    profile : bytes or None
        As embedded in the file. A grey image may have one for RGB, as some cameras write.
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
    """Return the mode of images that a profile is for, None where it is none that can be used."""
    if not _HEADER_BYTES < len(profile) <= _MAX_PROFILE_BYTES or profile[36:40] != b"acsp":
        return None
    return _MODES.get(bytes(profile[16:20])) if profile[12:16] in _CLASSES else None


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings pixels to sRGB; None where that changes nothing, or cannot be known."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        # Perceptual: what browsers take, and for the profiles of cameras and screens, which are matrices, the only one.
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
    """Return an image of every grey, or of 16 levels of each channel with each other."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3))
