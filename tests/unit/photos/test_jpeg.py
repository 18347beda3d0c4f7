"""Plain JPEGs, decoded with few steps, give what Pillow's reader gives: the same pixels, and the same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fruits.errors import ImageDecodeError
from fruits.photos.decoding import images, jpeg
from fruits.photos.decoding.images import Preprocessing, to_network_input, to_thumbnail

PREPROCESSINGS = [
    Preprocessing(100),
    Preprocessing(64, "crop"),
    Preprocessing(40, "squash", "lanczos"),
    Preprocessing(8),
]
#: Segments: comment, EXIF that turns the photo, Adobe's marker for RGB, a second frame, a table of 16 bits, a padded marker.
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
SEGMENTS = {
    "comment": b"\xff\xfe\0\x06text",
    "exif": b"\xff\xe1" + (2 + len(EXIF)).to_bytes(2, "big") + EXIF,
    "adobe": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0",
    "short jfif": b"\xff\xe0\0\x06JFIF",
    "restart": b"\xff\xdd\0\x04\0\x02",
    "padding": b"\xff",
    "long table": b"\xff\xdb\0\x43\x13" + bytes(64),
    "wrong length": b"\xff\xc4\0\x01",
}


def made(size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    rng = np.random.default_rng(size[0])
    small = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def files(photos: Path) -> list[bytes]:
    """Photos, and JPEGs of many kinds."""
    plain = [path.read_bytes() for path in sorted(photos.glob("Training/*/*.jpg"))[::40]]
    sizes = [made(size) for size in ((1, 1), (7, 300), (100, 100), (101, 99), (203, 401), (900, 850), (1500, 1400))]
    kinds = [
        made((120, 90), progressive=True),
        made((120, 90), subsampling=0, quality=98),
        made((120, 90), subsampling=1, restart_marker_blocks=3),
        made((120, 90), "L"),
        made((120, 90), "CMYK"),
        made((120, 90), optimize=True, comment=b"words"),
    ]
    marked = [plain[0][:2] + segment + plain[0][2:] for segment in SEGMENTS.values()]
    return plain + sizes + kinds + marked


def outcome(decode: Callable[[], object]) -> object:
    try:
        return decode()
    except ImageDecodeError as exc:
        return exc.code, str(exc)


def outcomes(data: bytes) -> Iterator[object]:
    for preprocessing in PREPROCESSINGS:

        def decode(preprocessing: Preprocessing = preprocessing) -> object:
            photo = to_network_input(data, preprocessing)
            return photo.width, photo.height, photo.pixels.shape, photo.pixels.tobytes()

        yield outcome(decode)
    yield outcome(lambda: to_thumbnail(data, 50))


def by_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_plain", lambda *_: None)
        return list(outcomes(data))


def plain(data: bytes) -> bool:
    return jpeg.decode_plain(data, lambda *size: size, 2) is not None


def test_pixels_and_errors_are_those_of_pillows_reader(files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for data in files:
        assert list(outcomes(data)) == by_pillow(data, monkeypatch)


def test_damaged_files_give_what_pillow_gives(files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    taken = 0
    for number in range(600):
        data = bytearray(files[number % len(files)][:20_000])
        reach = len(data) if number % 2 else 700  # half of them in the header
        for place in rng.integers(2, min(reach, len(data)), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        if number % 3 == 0:
            del data[rng.integers(3, len(data)) :]
        taken += plain(bytes(data))
        assert list(outcomes(bytes(data))) == by_pillow(bytes(data), monkeypatch), number
    assert 50 < taken < 550


def test_few_steps_are_taken_for_plain_photos_only(photos: Path) -> None:
    thumbnail = next(iter(sorted(photos.glob("Training/*/*.jpg")))).read_bytes()
    assert plain(thumbnail)
    assert plain(made((120, 90), subsampling=0))
    assert not plain(made((120, 90), progressive=True))
    assert not plain(made((120, 90), "L"))
    assert not plain(made((1100, 1000), quality=5)), "many pixels"
    assert not plain(thumbnail + bytes(1 << 16)), "many bytes"
    assert not plain(thumbnail[:-200]), "cut short"
    for name, segment in SEGMENTS.items():
        assert plain(thumbnail[:2] + segment + thumbnail[2:]) == (name == "restart"), name
