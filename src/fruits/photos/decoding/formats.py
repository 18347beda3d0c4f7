"""Detection of file formats by their first bytes: formats that are decoded, and others that are named in messages.

File names and suffixes are not used. Signatures are those of the formats' specifications; the brands of ISO files (HEIC, AVIF,
videos and many more) are those registered at mp4ra.org. Works on bytes in a bounded number of steps. Independent of pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Final

#: First bytes that identify nearly every format; more bytes distinguish kinds of TIFF.
HEAD_BYTES: Final = 64
#: Formats that are decoded always, and those that the extra ``heic`` adds.
ALWAYS: Final = ("JPEG", "PNG", "WEBP")
EXTRA: Final = ("HEIC", "HEIF")
#: Formats of photos, including those that cannot be decoded: they are listed, so that the user learns why.
_PHOTOS: Final = frozenset({*ALWAYS, *EXTRA, "AVIF", "JPEG 2000", "JPEG XL", "JPEG XR", "camera raw (CR3)"})

# Signatures at the start of a file; the first match counts.
_SIGNATURES: Final = (
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"IIU\x00", "camera raw (RW2)"),
    (b"IIRO", "camera raw (ORF)"),
    (b"IIRS", "camera raw (ORF)"),
    (b"MMOR", "camera raw (ORF)"),
    (b"II\x1a\x00\x00\x00HEAPCCDR", "camera raw (CRW)"),
    (b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (b"FOVb", "camera raw (X3F)"),
    (b"\x00MRM", "camera raw (MRW)"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x02\x00", "CUR"),
    (b"8BPS", "Photoshop"),
    (b"gimp xcf", "GIMP"),
    (b"\x8aMNG\r\n", "MNG"),
    (b"\x8bJNG\r\n", "JNG"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"AT&TFORM", "DjVu"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself ('git lfs pull')"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1aE\xdf\xa3", "a video (Matroska, WebM)"),
    (b"\x00\x05\x16\x07", "AppleDouble, what macOS keeps beside a file"),
)
#: Signatures that are matched case-insensitively and after white space.
_TEXTS: Final = (b"<svg", b"<?xml", b"<!doctype html", b"<html")
#: Beginnings of names of formats that are no images.
_NO_IMAGES: Final = ("a web page", "XML", "a pointer", "a ZIP", "gzip", "AppleDouble")

# Brands of ISO files, the specific ones first: HEIF's own (mif1 and others) do not identify the codec.
_BRANDS: Final = (
    ((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"MiHE", b"MiHB", b"MiHA"), "HEIC"),
    ((b"avif", b"avis", b"avio", b"MA1A", b"MA1B", b"MiAB", b"MiAC"), "AVIF"),
    ((b"crx ",), "camera raw (CR3)"),
    ((b"jp2 ", b"jpx ", b"jpm ", b"mjp2", b"jpxb", b"jph "), "JPEG 2000"),
    ((b"j2ki", b"j2is", b"j2i1"), "JPEG 2000 in HEIF"),
    ((b"jpeg", b"jpgs"), "JPEG in HEIF"),
    ((b"jxl ",), "JPEG XL"),
    ((b"avci", b"avcs", b"avce"), "AVC in HEIF"),
    ((b"vvic", b"vvis", b"evbi", b"evmi"), "HEIF with a codec newer than HEVC"),
    ((b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"1pic", b"pred", b"unif", b"geo1", b"heif"), "HEIF"),
)
# TIFF tags that identify camera raw files: DNG version, maker, sub-images.
_DNG_VERSION, _MAKE, _SUB_PICTURES = 50706, 271, 330
_MAKERS: Final = (
    (b"NIKON", "NEF"),
    (b"SONY", "ARW"),
    (b"PENTAX", "PEF"),
    (b"RICOH", "PEF"),
    (b"SAMSUNG", "SRW"),
    (b"EASTMAN KODAK", "DCR"),
    (b"Hasselblad", "3FR"),
    (b"Phase One", "IIQ"),
    (b"Leaf", "MOS"),
    (b"EPSON", "ERF"),
    (b"Mamiya", "MEF"),
)


def format_of(data: bytes) -> str | None:
    """Return the name of a file's format; None if it is unknown.

    Parameters
    ----------
    data : bytes
        The file or its first bytes, at least ``HEAD_BYTES`` if it is that long.
    """
    if data[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "a video (AVI)"}.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    text = data[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signature, name in _SIGNATURES:
        if data.startswith(signature) or (signature in _TEXTS and text.startswith(signature)):
            if name == "BMP" and not _is_bitmap(data):
                continue
            return (_raw_of(data) or name) if name == "TIFF" else name
    if data[128:132] == b"DICM":
        return "DICOM"
    if len(data) > 3 and data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3] in b" \t\r\n#":
        return "PNM"
    return None


def is_photo(head: bytes) -> bool:
    """Return, from its first bytes, whether a file is a photo: of a decoded format, or of one that cameras and phones write."""
    return format_of(head) in _PHOTOS


def is_image(name: str) -> bool:
    """Return whether a format, given by name, is an image format."""
    return not name.startswith(_NO_IMAGES)


def taken() -> tuple[str, ...]:
    """Return the names of the formats that can be decoded in this environment."""
    return (*ALWAYS, *EXTRA) if has_extra() else ALWAYS


@cache
def has_extra() -> bool:
    """Return whether the extra ``heic`` is installed."""
    return find_spec("pillow_heif") is not None


def wanted() -> str:
    """Return the accepted formats as text for messages."""
    return "JPEG, PNG, WebP or HEIC" if has_extra() else "JPEG, PNG or WebP"


def heif_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the largest image declared in the header of a HEIF file; zeros if there is none.

    An image may consist of tiles; then the whole and each tile are declared, and the whole is the largest.
    """
    largest = (0, 0)
    for start, end in _within(data, 0, len(data), (b"meta", b"iprp", b"ipco", b"ispe")):
        if start + 12 <= end:
            width, height = struct.unpack_from(">II", data, start + 4)
            largest = max(largest, (width, height), key=lambda size: size[0] * size[1])
    return largest


def _within(data: bytes, start: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """Yield start and end of the contents of all boxes at a path of box kinds."""
    for kind, inside, after in _boxes(data, start, end):
        if kind != path[0]:
            continue
        if len(path) == 1:
            yield inside, after
        else:
            # Of the boxes on the path, only "meta" has a version and flags before its contents.
            yield from _within(data, inside + (4 if kind == b"meta" else 0), after, path[1:])


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the contents of each box of an ISO file; at most a thousand boxes."""
    for _ in range(1000):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        inside = start + 8
        if size == 1 and inside + 8 <= end:
            (size,) = struct.unpack_from(">Q", data, inside)
            inside += 8
        after = end if size == 0 else min(end, start + size)
        if after < inside:
            return
        yield kind, inside, after
        start = after


def _of_brands(data: bytes) -> str:
    size = struct.unpack_from(">I", data)[0]
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(size, len(data), 400) - 3, 4))]
    for known, name in _BRANDS:
        if brands[0] in known and name != "HEIF":
            return name
    for known, name in _BRANDS:
        if any(brand in known for brand in brands):
            return name
    if brands[0][:2] == b"qt" or brands[0][:3] in (b"mp4", b"iso", b"M4V", b"avc", b"3gp", b"3g2", b"f4v", b"dby"):
        return "a video (MP4, QuickTime)"
    shown = brands[0].decode("ascii", "replace")
    return f"an ISO file of brand '{shown if shown.isprintable() else brands[0].hex()}'"


def _is_bitmap(data: bytes) -> bool:
    """Check the header too: the signature of two letters alone would match many texts."""
    return (
        len(data) < 18
        or data[6:10] == bytes(4)
        or struct.unpack_from("<I", data, 14)[0] in (12, 40, 52, 56, 64, 108, 124)
    )


def _raw_of(data: bytes) -> str | None:
    """Return the camera raw format of a TIFF; None if it is none, or its tags lie beyond the given bytes."""
    if data[8:10] == b"CR":
        return "camera raw (CR2)"
    order = "<" if data[:2] == b"II" else ">"
    found: dict[int, bytes] = {}
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(min(entries, 200)):
            tag, _, count = struct.unpack_from(f"{order}HHI", data, at + 2 + 12 * entry)
            (place,) = struct.unpack_from(f"{order}I", data, at + 10 + 12 * entry)
            found[tag] = data[place : place + min(count, 32)]
    except struct.error:
        pass
    if _DNG_VERSION in found:
        return "camera raw (DNG)"
    maker = next((name for make, name in _MAKERS if found.get(_MAKE, b"").startswith(make)), None)
    return f"camera raw ({maker})" if maker and _SUB_PICTURES in found else None
