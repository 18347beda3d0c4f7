"""Files that call themselves photos and are none, or worse: cut short, changed, huge when opened, two things at once.

All are made here from a real photo, byte by byte where a library would not write such a thing. Knows nothing of HTTP.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator

from PIL import Image

#: Hidden in files; must be in nothing that the service keeps.
PLANTED = b"FRUITS-PLANTED-BYTES"
_PNG = b"\x89PNG\r\n\x1a\n"


def formats(photo: bytes) -> dict[str, bytes]:
    """Return a small photo as JPEG (as it is), PNG and WebP."""
    found = {"jpeg": photo}
    with Image.open(io.BytesIO(photo)) as image:
        small = image.convert("RGB").resize((40, 40))
        for name, options in (("png", {}), ("webp", {"quality": 80})):
            out = io.BytesIO()
            small.save(out, name, **options)
            found[name] = out.getvalue()
        out = io.BytesIO()
        image.convert("RGB").save(out, "jpeg", progressive=True, quality=70)
        found["progressive jpeg"] = out.getvalue()
    return found


def truncations(photo: bytes, step: int) -> Iterator[tuple[str, bytes]]:
    """Yield a photo in every format, cut at every ``step``-th length."""
    for name, data in formats(photo).items():
        for length in range(0, len(data), step):
            yield f"{name} cut at {length}", data[:length]


def flips(photo: bytes, count: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield photos in every format with one to eight bits changed, or a stretch of bytes replaced."""
    known = list(formats(photo).items())
    for number in range(count):
        name, data = known[number % len(known)]
        changed = bytearray(data)
        if number % 5 == 4:
            start = draw.randrange(len(changed))
            length = draw.randint(1, 64)
            changed[start : start + length] = draw.randbytes(length)
        else:
            # Every other one near the front, where the header is and a bit does the most.
            reach = len(changed) if number % 2 else min(len(changed), 700)
            for _ in range(draw.randint(1, 8)):
                changed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
        yield f"{name} changed, {number}", bytes(changed)


def bombs(photo: bytes) -> dict[str, bytes]:
    """Return small files that want a lot, by name."""
    size = 16384
    row = b"\0" * (1 + size // 8)
    return {
        "png 16384 x 16384, one bit": png(size, size, 1, 0, zlib.compress(row * size, 9)),
        "png 16384 x 16384, nothing in it": png(size, size, 8, 2, zlib.compress(b"")),
        "png 2147483647 x 2147483647": png(2**31 - 1, 2**31 - 1, 8, 2, zlib.compress(b"")),
        "png 0 x 0": png(0, 0, 8, 2, zlib.compress(b"")),
        "png 1 x 50000": png(1, 50_000, 8, 2, zlib.compress(b"\0\1\2\3" * 50_000)),
        "png 50000 x 1": png(50_000, 1, 8, 2, zlib.compress(b"\0" + b"\1\2\3" * 50_000)),
        "png 7071 x 7071": png(7071, 7071, 8, 0, zlib.compress((b"\0" * 7072) * 7071, 9)),
        "png 9999 x 9999": png(9999, 9999, 1, 0, zlib.compress((b"\0" * 1251) * 9999, 9)),
        "png with far too many pixels in it": png(8, 8, 8, 2, zlib.compress(bytes(200_000_000), 9)),
        "png with a zip bomb as text": png(8, 8, 8, 2, _rows(8), _text_bomb(b"zTXt", 1)),
        "png with 60 zip bombs as text": png(8, 8, 8, 2, _rows(8), _text_bomb(b"zTXt", 60)),
        "png with a zip bomb as international text": png(8, 8, 8, 2, _rows(8), _text_bomb(b"iTXt", 5)),
        "png with a zip bomb as colour profile": png(8, 8, 8, 2, _rows(8), _text_bomb(b"iCCP", 1)),
        "png of 100,000 empty pieces": png(8, 8, 8, 2, _rows(8), chunk(b"IDAT", b"") * 100_000),
        "png of 100,000 unknown pieces": png(8, 8, 8, 2, _rows(8), chunk(b"frUt", b"") * 100_000),
        "png with a piece of 4 GB": _PNG + struct.pack(">I4s", 2**32 - 1, b"IHDR"),
        "apng of 50,000 frames": _apng(50_000),
        "apng that announces 4,294,967,295 frames": _apng(3, announced=2**32 - 1),
        "gif of 50,000 frames": _gif(50_000),
        "webp of 50,000 frames": _webp(50_000),
        "webp of 16383 x 16383": _webp(1, side=16383),
        "webp of 16777216 x 16777216": _webp(1, side=1 << 24),
        "jpeg 65535 x 65535": _resized(photo, 65535, 65535),
        "jpeg 1 x 50000": _jpeg(1, 50_000),
        "jpeg 50000 x 1": _jpeg(50_000, 1),
        "jpeg 0 x 0": _resized(photo, 0, 0),
        "jpeg with markers without end": photo[:2] + b"\xff\xe1\x00\x02" * 2_000_000,
        "jpeg of filling without end": photo[:2] + b"\xff" * 5_000_000,
        "jpeg with 100 profiles": photo[:2] + (b"\xff\xe2\xff\xff" + bytes(65533)) * 100 + photo[2:],
        "jpeg with 100,000 tables": photo[:2] + (b"\xff\xdb\x00\x43\x00" + b"\1" * 64) * 100_000 + photo[2:],
        "jpeg of 20,000 scans": _scans(photo, 20_000),
        "nothing": b"",
        "9.9 MB of zeros": bytes(9_900_000),
        "9.9 MB of noise behind a jpeg's head": photo[:300] + random.Random(0).randbytes(9_900_000),
    }  # fmt: skip


def polyglots(photo: bytes) -> dict[str, bytes]:
    """Return files that are a photo and something else too, or pretend to be; each holds ``PLANTED``."""
    as_png = formats(photo)["png"]
    as_webp = formats(photo)["webp"]
    html = b"<!DOCTYPE html><script>alert('" + PLANTED + b"')</script>"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../planted.txt", PLANTED)
    packed = archive.getvalue()
    comment = b"\xff\xfe" + struct.pack(">H", len(html) + 2) + html
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08"
        + struct.pack(">H", 1)
        + struct.pack(">HHII", 0x010E, 2, len(PLANTED), 26)
        + bytes(4)
        + PLANTED
    )
    text = chunk(b"tEXt", b"Comment\0" + html)
    return {
        "jpeg and zip": photo + packed,
        "jpeg and html behind": photo + html,
        "jpeg with html as comment": photo[:2] + comment + photo[2:],
        "jpeg with exif": photo[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + photo[2:],
        "jpeg and php": photo + b"<?php system('" + PLANTED + b"'); ?>",
        "jpeg twice": photo + PLANTED + photo,
        "png with html as text": as_png[:33] + text + as_png[33:],
        "png and html behind": as_png + html,
        "png and zip": as_png + packed,
        "webp and script": as_webp + html,
        "webp with planted exif": _with_riff(as_webp, b"EXIF", PLANTED),
        "gif and script": b"GIF89a/*" + html + b"*/=1;",
        "pdf and jpeg": b"%PDF-1.7\n" + html + photo,
        "svg": b"<svg onload='alert(1)'><image href='file:///etc/passwd'/>" + PLANTED + b"</svg>",
        "html": html,
        "html behind a jpeg's first bytes": b"\xff\xd8\xff" + html,
        "html behind a png's first bytes": _PNG + html,
        "elf": b"\x7fELF" + PLANTED * 10,
        "pickle": b"\x80\x04cos\nsystem\n(S'echo " + PLANTED + b"'\ntR.",
        "mvg": b"push graphic-context\nfill 'url(https://127.0.0.1/" + PLANTED + b")'\npop graphic-context",
        "heic": b"\0\0\0\x18ftypheic" + PLANTED * 10,
        "avif": b"\0\0\0\x18ftypavif" + PLANTED * 10,
        "tiff": b"II*\0" + PLANTED * 10,
        "bmp": b"BM" + PLANTED * 10,
        "ico": b"\0\0\1\0" + PLANTED * 10,
        "eps": b"%!PS-Adobe-3.0 EPSF\n" + PLANTED,
    }  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a piece of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, packed: bytes, between: bytes = b"") -> bytes:
    """Return a PNG with such a header and such packed pixels, whether they fit together or not."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return _PNG + head + between + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _rows(side: int) -> bytes:
    return zlib.compress((b"\0" + b"\x80\x20\x20" * side) * side)


def _text_bomb(kind: bytes, count: int) -> bytes:
    packed = zlib.compress(bytes(100_000_000), 9)
    data = {b"zTXt": b"k\0\0" + packed, b"iTXt": b"k\0\1\0\0\0" + packed, b"iCCP": b"k\0\0" + packed}[kind]
    return chunk(kind, data) * count


def _apng(frames: int, announced: int | None = None) -> bytes:
    """Return a PNG that moves; a number of frames may be announced that it does not have."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    head += chunk(b"acTL", struct.pack(">II", frames if announced is None else announced, 0))
    rows, pieces, sequence = _rows(8), [], 0
    for number in range(frames):
        pieces.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, 8, 8, 0, 0, 1, 100, 0, 0)))
        sequence += 1
        if number:
            pieces.append(chunk(b"fdAT", struct.pack(">I", sequence) + rows))
            sequence += 1
        else:
            pieces.append(chunk(b"IDAT", rows))
    return _PNG + head + b"".join(pieces) + chunk(b"IEND", b"")


def _gif(frames: int) -> bytes:
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def _webp(frames: int, side: int = 8) -> bytes:
    """Return an animated WebP; the canvas may be larger than its frames."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(out, "webp", quality=50)
    picture = out.getvalue()[12:]
    frame = _riff(b"ANMF", bytes(6) + _three(7) + _three(7) + _three(100) + b"\0" + picture)
    body = (
        _riff(b"VP8X", b"\x02\0\0\0" + _three(side - 1) + _three(side - 1)) + _riff(b"ANIM", bytes(6)) + frame * frames
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _with_riff(webp: bytes, kind: bytes, data: bytes) -> bytes:
    body = webp[12:] + _riff(kind, data)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


def _jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, "jpeg")
    return out.getvalue()


def _resized(photo: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header announces another size."""
    at = photo.index(b"\xff\xc0") + 5
    return photo[:at] + struct.pack(">HH", height, width) + photo[at + 4 :]


def _scans(photo: bytes, count: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again: each goes over the whole picture."""
    with Image.open(io.BytesIO(photo)) as image:
        out = io.BytesIO()
        image.convert("RGB").resize((1000, 1000)).save(out, "jpeg", progressive=True, quality=10)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * min(count, 9_000_000 // (len(data) - 2 - last)) + data[-2:]
