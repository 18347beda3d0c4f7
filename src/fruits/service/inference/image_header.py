"""Image headers: size and number of frames, read without a decoder.

Decompression bombs are refused before any decoding, and heavy photos are recognised before they delay others. Only headers are
read, in a bounded number of steps; the decoder verifies them and the rest of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from fruits.photos.decoding.formats import EXTRA, format_of, heif_size

#: Segments or chunks examined; later ones are left to the decoder.
_STEPS: Final = 2000
#: Photos beyond these are heavy: by bytes, or by pixels. Baseline JPEGs are decoded at reduced scale, hence their higher limit.
_HEAVY_BYTES: Final = 2 << 20
_HEAVY_PIXELS: Final = 6_000_000
_HEAVY_JPEG_PIXELS: Final = 30_000_000
#: JPEG start-of-frame markers, which carry the size; C4, C8 and CC are other segments.
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_BASELINE: Final = (0xC0, 0xC1)
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Size and frames according to the header; zeros if it could not be read.

    Attributes
    ----------
    width, height : int
        In pixels.
    frames : int
        More than 1 for an animation.
    heavy : bool
        Whether decoding is expected to take long.
    """

    width: int = 0
    height: int = 0
    frames: int = 1
    heavy: bool = False


def read_header(data: bytes) -> ImageHeader:
    """Read the header of an image file; accepts any bytes."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            width, height, whole = _jpeg(data)
            limit = _HEAVY_PIXELS if whole else _HEAVY_JPEG_PIXELS
            return ImageHeader(width, height, 1, width * height > limit or len(data) > _HEAVY_BYTES)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
            frames = _png_frames(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            width, height, frames = _webp(data)
        elif format_of(data) in EXTRA:
            width, height = heif_size(data)
            frames = 1  # only the primary image is decoded
        else:
            return ImageHeader()
    except (struct.error, IndexError):
        return ImageHeader(heavy=len(data) > _HEAVY_BYTES)
    return ImageHeader(width, height, frames, width * height > _HEAVY_PIXELS or len(data) > _HEAVY_BYTES or frames > 1)


def _jpeg(data: bytes) -> tuple[int, int, bool]:
    """Return width, height and whether the full image must be decoded (progressive and rarer modes)."""
    at = 2
    for _ in range(_STEPS):
        if data[at] != 0xFF:
            return 0, 0, True
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height, marker not in _BASELINE
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return 0, 0, True


def _png_frames(data: bytes) -> int:
    """Return the number of frames from an APNG's control chunk, which precedes the pixel data."""
    at = 8
    for _ in range(_STEPS):
        if at + 12 > len(data):
            return 1
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            return int(struct.unpack_from(">I", data, at + 8)[0])
        if kind in (b"IDAT", b"IEND"):
            return 1
        at += 12 + length
    return 1


def _webp(data: bytes) -> tuple[int, int, int]:
    """Return width, height and frames."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF, 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1
    if kind != b"VP8X":
        return 0, 0, 1
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    animated = bool(data[20] & 2)
    return width, height, max(2, _webp_frames(data)) if animated else 1


def _webp_frames(data: bytes) -> int:
    at, frames = 12, 0
    while at + 8 <= len(data):  # each step is at least 8 bytes of a bounded body
        kind, length = struct.unpack_from("<4sI", data, at)
        frames += kind == b"ANMF"
        at += 8 + length + (length & 1)
    return frames
