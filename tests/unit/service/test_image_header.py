"""What is read of a photo's head is what decoding finds, and any bytes will do."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fruits.service.inference.image_header import ImageHeader, read_header


def encoded(format_: str, size: tuple[int, int], **options: object) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(out, format_, **options)
    return out.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (1, 3000), (3001, 7)])
@pytest.mark.parametrize(
    ("format_", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"exif": bytes(5000), "comment": b"x" * 3000}),
     ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\x00\x00" + bytes(50)})],
)  # fmt: skip
def test_sides_are_those_that_pillow_reads(format_: str, options: dict[str, object], size: tuple[int, int]) -> None:
    seen = read_header(encoded(format_, size, **options))
    assert (seen.width, seen.height, seen.frames) == (*size, 1)
    assert not seen.heavy


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_frames_are_counted(format_: str) -> None:
    pictures = [Image.fromarray(np.full((8, 8, 3), 20 * n, np.uint8)) for n in range(7)]
    out = BytesIO()
    pictures[0].save(out, format_, save_all=True, append_images=pictures[1:], duration=50)
    assert read_header(out.getvalue()).frames == 7


def test_what_takes_long_is_heavy() -> None:
    assert read_header(encoded("JPEG", (3000, 2500), progressive=True)).heavy
    assert not read_header(encoded("JPEG", (3000, 2500))).heavy  # decoded at a smaller scale
    assert read_header(encoded("PNG", (3000, 2500))).heavy
    assert read_header(encoded("JPEG", (10, 10)) + bytes(3 << 20)).heavy
    assert read_header(encoded("JPEG", (10, 10))[:12] + bytes(3 << 20)).heavy


def test_announcements_are_read_without_believing_lengths() -> None:
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 16384, 16384, 8, 2, 0, 0, 0)
    assert read_header(header).width * read_header(header).height == 16384**2
    chunk = struct.pack(">I4s", 8, b"acTL") + struct.pack(">II", 50_000, 0)
    assert read_header(header + bytes(4) + chunk + struct.pack(">I", zlib.crc32(chunk[4:]))).frames == 50_000
    assert read_header(header + bytes(4) + struct.pack(">I4s", 2**31, b"tEXt") + bytes(50)).frames == 1
    endless = b"RIFF\xff\xff\xff\xffWEBPVP8X" + struct.pack("<I", 10) + b"\x02" + bytes(9) + b"ANMF\xff\xff\xff\xff" * 3
    assert read_header(endless).frames == 2


@given(st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8L"]),
       st.binary(max_size=300))  # fmt: skip
def test_any_bytes_give_a_glance(head: bytes, rest: bytes) -> None:
    seen = read_header(head + rest)
    assert isinstance(seen, ImageHeader)
    assert seen.frames >= 0


def test_long_nonsense_takes_bounded_steps() -> None:
    for head in (b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00\x02" * 3, b"\x89PNG\r\n\x1a\n" + bytes(16)):
        for filler in (b"\xff", b"\xff\xe0\x00\x02", bytes(12), random.Random(0).randbytes(64)):
            read_header(head + filler * (10_000_000 // len(filler)))
