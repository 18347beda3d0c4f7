"""Any bytes give pixels or ImageDecodeError, nothing else: neither another exception nor a warning."""

from __future__ import annotations

import functools
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fruits.errors import ImageDecodeError
from fruits.photos.decoding.images import Photo, Preprocessing, read_size, to_network_input, to_thumbnail

# With --hypothesis-profile=search, fifty times as many.
EXAMPLES = settings.default.max_examples
CODES = {"empty", "not an image", "unsupported format", "damaged", "too large"}
HEADS = (
    b"",
    b"\xff\xd8\xff",
    b"\xff\xd8\xff\xe1\x00\x40Exif\x00\x00",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x40\0\0\0WEBPVP8X",
    b"GIF89a",
)
MAKERS = ("JPEG", "EXIF JPEG", "progressive JPEG", "grey JPEG", "CMYK JPEG", "PNG", "palette PNG", "16-bit PNG",
          "animated PNG", "WebP", "lossless WebP", "animated WebP")  # fmt: skip


@functools.cache
def make(kind: str, photo: bytes) -> bytes:
    """The same photo as another kind of file, 40 x 40."""
    image = Image.open(BytesIO(photo)).convert("RGB").resize((40, 40))
    options: dict[str, object] = {}
    if kind == "EXIF JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "an apple"
        options["exif"] = exif
    if kind.startswith("animated"):
        options |= {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    changed = {"grey JPEG": "L", "CMYK JPEG": "CMYK", "palette PNG": "P"}.get(kind)
    if changed:
        image = image.convert(changed)
    if kind == "16-bit PNG":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if kind == "palette PNG":
        options["transparency"] = bytes(range(256))
    out = BytesIO()
    image.save(
        out,
        kind.rpartition(" ")[2],
        progressive=kind == "progressive JPEG",
        lossless=kind == "lossless WebP",
        **options,
    )
    return out.getvalue()


def gives_pixels_or_a_refusal(data: bytes) -> None:
    photo, refused = decode(data)
    if photo is None:
        assert refused is not None
        assert refused.code in CODES
        assert str(refused)
        with pytest.raises(ImageDecodeError):
            to_thumbnail(data, 16)
    else:
        assert photo.pixels.shape == (16, 16, 3)
        assert photo.pixels.dtype == np.uint8
        assert read_size(data) == (photo.width, photo.height)
        assert to_thumbnail(data, 16)[:3] == b"\xff\xd8\xff"


def decode(data: bytes) -> tuple[Photo | None, ImageDecodeError | None]:
    try:
        return to_network_input(data, Preprocessing(16)), None
    except ImageDecodeError as refused:
        return None, refused


@settings(max_examples=4 * EXAMPLES)
@given(st.sampled_from(HEADS), st.binary(max_size=300))
@example(b"", b"")
def test_any_bytes_give_pixels_or_a_refusal(head: bytes, rest: bytes) -> None:
    gives_pixels_or_a_refusal(head + rest)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_is_decoded_while_it_is_whole(kind: str, a_photo: bytes) -> None:
    data = make(kind, a_photo)
    assert to_network_input(data, Preprocessing(16)).pixels.std() > 10
    gives_pixels_or_a_refusal(data)


@pytest.mark.parametrize("kind", MAKERS)
@given(data=st.data())
def test_truncated_photo_gives_pixels_or_a_refusal(kind: str, a_photo: bytes, data: st.DataObject) -> None:
    whole = make(kind, a_photo)
    gives_pixels_or_a_refusal(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=2 * EXAMPLES)
@given(data=st.data())
def test_photo_with_changed_bytes_gives_pixels_or_a_refusal(kind: str, a_photo: bytes, data: st.DataObject) -> None:
    gives_pixels_or_a_refusal(with_changed_bytes(make(kind, a_photo), data))


@pytest.mark.slow
@settings(max_examples=3 * EXAMPLES)
@given(data=st.data())
def test_real_photo_with_changed_bytes_gives_pixels_or_a_refusal(shared: Path, data: st.DataObject) -> None:
    files = sorted((shared / "fruits-360" / "Test" / "Banana").iterdir())
    whole = data.draw(st.sampled_from(files)).read_bytes()
    gives_pixels_or_a_refusal(with_changed_bytes(whole, data)[: data.draw(st.integers(1, len(whole)))])


def with_changed_bytes(whole: bytes, data: st.DataObject) -> bytes:
    """Change up to six bytes, most often in the headers, where the structure is."""
    changed = bytearray(whole)
    positions = st.one_of(st.integers(0, min(200, len(whole) - 1)), st.integers(0, len(whole) - 1))
    for at, value in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=6)):
        changed[at] = value
    return bytes(changed)
