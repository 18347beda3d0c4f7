"""Small plain JPEGs with few steps: for thumbnails, what Pillow does around its decoder takes a third of the time.

Plain means baseline, in colour, whole, and without metadata that changes pixels (orientation, colour profile, Adobe's marker).
The decoder, its settings and so the pixels are those of :class:`PIL.JpegImagePlugin.JpegImageFile`. It also reads every other
file, and the damaged ones, so that their errors are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from PIL import Image, _imaging

#: A larger file takes so long to decode that the steps around it do not matter. Pillow reads this many bytes at once.
_MAX_BYTES: Final = 1 << 16
#: Likewise in pixels; and decoding in vain must be cheap, since a damaged file is then decoded again.
_MAX_PIXELS: Final = 1 << 20
#: Kinds of segments: baseline frames, tables, application data, scan.
_FRAMES: Final = (0xC0, 0xC1)
_HUFFMAN, _QUANTISATION, _RESTART, _JFIF, _SCAN = 0xC4, 0xDB, 0xDD, 0xE0, 0xDA
_SEGMENT: Final = Struct(">BBH")
#: Segment, bits per value, height, width, channels.
_FRAME: Final = Struct(">xxHBHHB")
_core: Any = _imaging


def decode_plain(
    data: bytes, scale: Callable[[int, int], tuple[int, int]], margin: int
) -> tuple[Image.Image, tuple[int, int]] | None:
    """Return the RGB image, decoded at reduced scale where possible, and the original size; None if Pillow has to read the file.

    Parameters
    ----------
    data : bytes
        A file that begins like a JPEG.
    scale : callable
        From a photo's size to the size that it will be scaled to.
    margin : int
        As for ``draft`` of Pillow: the image has at least this many times the pixels per side.
    """
    if len(data) > _MAX_BYTES or (size := _plain_size(data)) is None:
        return None
    width, height = size
    wanted, high = scale(width, height)
    most = min(width // (margin * wanted), height // (margin * high))
    shrink = 8 if most >= 8 else 4 if most >= 4 else 2 if most >= 2 else 1
    reduced = -(-width // shrink), -(-height // shrink)
    pixels = _core.new("RGB", reduced)
    decoder = _core.jpeg_decoder("RGB", "RGB", "", shrink, 0)
    try:
        decoder.setimage(pixels, (0, 0, *reduced))
        used, error = decoder.decode(data)
    finally:
        decoder.cleanup()
    if used >= 0 or error < 0:  # cut short, or damaged
        return None
    return Image.Image()._new(pixels), size


def _plain_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a plain JPEG; None if it is another, or Pillow might object to its header."""
    at, end, size = 2, len(data), None
    while at + 4 <= end:
        mark, kind, length = _SEGMENT.unpack_from(data, at)
        after = at + 2 + length
        if mark != 0xFF or length < 2 or after > end:
            return None
        if kind == _QUANTISATION:
            # One or two tables of 64 bytes.
            if length not in (67, 132) or data[at + 4] > 15 or (length == 132 and data[at + 69] > 15):
                return None
        elif kind in _FRAMES:
            if size is not None or length != 17:
                return None
            length, bits, height, width, channels = _FRAME.unpack_from(data, at)
            if bits != 8 or channels != 3 or not 0 < width * height <= _MAX_PIXELS:
                return None
            size = width, height
        elif kind == _SCAN:
            # All channels in one scan: a file of many scans takes long, whatever its size.
            return size if length == 12 and data[at + 4] == 3 else None
        elif kind == _JFIF:
            if length < 16:
                return None
        elif kind not in (_HUFFMAN, _RESTART):
            return None
        at = after
    return None
