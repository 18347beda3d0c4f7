"""What formats.py promises: a file is named for what it is, by content; HEIC is decoded where the extra is installed."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import profiles

from fruits.errors import ImageDecodeError
from fruits.photos.catalogue.catalogue import list_photos
from fruits.photos.decoding import formats, images
from fruits.photos.decoding.decoder import Decoder
from fruits.photos.decoding.images import Preprocessing, read_size, to_network_input, to_thumbnail
from fruits.service.inference.image_header import read_header


def iso(major: bytes, *compatible: bytes) -> bytes:
    """The head of an ISO file of these brands."""
    body = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + struct.pack(">I", 8) + b"free"


def tiff(order: str, entries: dict[int, bytes]) -> bytes:
    """A TIFF whose first directory has these texts."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    place = 10 + 12 * len(entries) + 4
    rows, texts = b"", b""
    for tag, text in sorted(entries.items()):
        rows += struct.pack(f"{order}HHII", tag, 2, len(text), place + len(texts))
        texts += text
    return head + rows + bytes(4) + texts


NAMED = [
    (iso(b"heic", b"mif1", b"heic"), "HEIC"),
    (iso(b"heix", b"mif1"), "HEIC"),
    (iso(b"hevc", b"msf1"), "HEIC"),
    (iso(b"heim"), "HEIC"),
    (iso(b"heis"), "HEIC"),
    (iso(b"mif1", b"mif1", b"heic", b"hevc"), "HEIC"),
    (iso(b"msf1", b"hevc"), "HEIC"),
    (iso(b"MiHE", b"miaf"), "HEIC"),
    (iso(b"mif1", b"miaf"), "HEIF"),
    (iso(b"mif2"), "HEIF"),
    (iso(b"1pic", b"mif1"), "HEIF"),
    (iso(b"XYZ ", b"mif1", b"heic"), "HEIC"),
    (iso(b"avif", b"mif1"), "AVIF"),
    (iso(b"avis", b"msf1"), "AVIF"),
    (iso(b"mif1", b"mif1", b"avif"), "AVIF"),
    (iso(b"mif1", b"miaf", b"MA1B"), "AVIF"),
    (iso(b"crx ", b"isom"), "CR3"),
    (iso(b"mif1", b"j2ki"), "JPEG 2000 in HEIF"),
    (iso(b"mif1", b"jpeg"), "JPEG in HEIF"),
    (iso(b"mif1", b"avci"), "AVC in HEIF"),
    (iso(b"mif1", b"vvic"), "newer than HEVC"),
    (iso(b"qt  "), "video"),
    (iso(b"mp42", b"isom"), "video"),
    (iso(b"abcd"), "brand 'abcd'"),
    (b"\0\0\0\x0cjP  \r\n\x87\n" + iso(b"jp2 "), "JPEG 2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n" + iso(b"jpx "), "JPEG 2000"),
    (iso(b"jp2 "), "JPEG 2000"),
    (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a\xfa", "JPEG XL"),
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"II*\0" + bytes(60), "TIFF"),
    (b"II+\0", "TIFF"),
    (b"II*\0\x10\0\0\0CR\x02\0", "CR2"),
    (tiff("<", {271: b"SONY\0", 330: b"x" * 8}), "ARW"),
    (tiff(">", {271: b"NIKON CORPORATION\0", 330: b"x" * 8}), "NEF"),
    (tiff("<", {271: b"Apple\0", 50706: b"1400"}), "DNG"),
    (tiff("<", {271: b"SONY\0"}), "TIFF"),
    (b"IIU\0\x18", "RW2"),
    (b"IIRO\x08", "ORF"),
    (b"FUJIFILMCCD-RAW 0201", "RAF"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP"),
    (b"RIFF\0\0\0\0AVI LIST", "video"),
    (b"BM" + bytes(12) + b"\x28\0\0\0", "BMP"),
    (b"GIF89a", "GIF"),
    (b"8BPS\0\x01", "Photoshop"),
    (b"  <?xml version='1.0'?>", "XML"),
    (b"\n<SVG xmlns=", "SVG"),
    (b"<!DOCTYPE HTML><html>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    (b"PK\x03\x04\x14", "ZIP"),
    (bytes(128) + b"DICM", "DICOM"),
    (b"P6\n3 2\n255\n", "PNM"),
]


@pytest.mark.parametrize(("head", "name"), NAMED, ids=[f"{number}-{name}" for number, (_, name) in enumerate(NAMED)])
def test_file_is_named_for_what_it_is(head: bytes, name: str) -> None:
    assert name in str(formats.format_of(head))
    assert name in str(formats.format_of(head + bytes(200)))
    if formats.format_of(head) not in formats.taken():
        with pytest.raises(ImageDecodeError, match=name) as caught:
            to_network_input(head + bytes(200), Preprocessing(32))
        assert "expected" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"x", b"BMW, Audi and others", b"label,uri\n", bytes(300), b"\xff" * 300])
def test_what_nobody_knows_has_no_name(data: bytes) -> None:
    assert formats.format_of(data) is None
    assert not formats.is_photo(data)


def test_any_bytes_have_a_name_or_none() -> None:
    random = np.random.default_rng(0)
    heads = [head for head, _ in NAMED]
    for turn in range(3000):
        data = bytearray(heads[turn % len(heads)] + random.bytes(turn % 90))
        for _ in range(3):
            data[random.integers(len(data))] = random.integers(256)
        name = formats.format_of(bytes(data[: random.integers(1, len(data) + 1)]))
        assert name is None or name.isprintable()
        formats.heif_size(bytes(data))


def test_photos_of_cameras_are_photos_whatever_their_name_says(tmp_path: Path) -> None:
    wanted = {
        "a": iso(b"mif1", b"mif1", b"heic"),
        "b": iso(b"avif"),
        "c": b"\xff\x4f\xff\x51",
        "d": b"\xff\xd8\xff\xe0",
    }
    for name, head in {**wanted, "text": b"BMW", "page": b"<html>", "gif": b"GIF89a"}.items():
        (tmp_path / name).write_bytes(head + bytes(80))
    table = list_photos([str(tmp_path)], labelled=False).table
    assert sorted(Path(uri).name for uri in table["uri"].to_pylist()) == sorted(wanted)


# --- Without the extra ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [iso(b"heic"), iso(b"mif1"), iso(b"mif1", b"heic")])
def test_without_the_extra_heic_says_what_to_install(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "has_extra", lambda: False)
    with pytest.raises(
        ImageDecodeError, match=r"this is HEI[CF]; to read it, install fruits\[heic\], or convert it"
    ) as caught:
        to_network_input(head + bytes(100), Preprocessing(32))
    assert caught.value.code == "unsupported format"
    with pytest.raises(ImageDecodeError, match=r"expected JPEG, PNG or WebP$"):
        to_network_input(b"text", Preprocessing(32))


# --- With it ----------------------------------------------------------------------------------------------------------


def heic(image: Image.Image, **options: object) -> bytes:
    import pillow_heif

    out = BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=-1, chroma=444, **options)
    return out.getvalue()


@pytest.fixture
def picture() -> np.ndarray:
    """Blocks of one colour each, wider than high, without symmetry."""
    levels = np.random.default_rng(5).integers(40, 220, (6, 10, 3), dtype=np.uint8)
    return levels.repeat(16, axis=0).repeat(16, axis=1)


@pytest.fixture
def extra() -> None:
    pytest.importorskip("pillow_heif")


@pytest.mark.usefixtures("extra")
def test_heic_is_decoded_in_the_process_and_in_the_child(picture: np.ndarray) -> None:
    data = heic(Image.fromarray(picture))
    assert formats.format_of(data) == "HEIC"
    assert read_size(data) == formats.heif_size(data) == (160, 96)
    photo = to_network_input(data, Preprocessing(160))
    assert (photo.width, photo.height) == (160, 96)
    assert np.abs(photo.pixels[32:128].astype(int) - picture).mean() < 2
    with Decoder() as decoder:
        there = decoder.to_network_input(data, Preprocessing(160))
        assert (there.pixels == photo.pixels).all()
        assert decoder.to_thumbnail(data, 32) == to_thumbnail(data, 32)
        assert decoder.read_sizes([data]) == [(160, 96)]
        assert decoder.locks is not None


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_turned_once(picture: np.ndarray, orientation: int) -> None:
    """By the file's own word, which phones write beside the same in EXIF."""
    import pillow_heif

    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(picture)
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(orientation)
    if turn is not None:
        stored = stored.transpose(turn)
    made = pillow_heif.from_pillow(stored)
    made.info["exif"] = exif.tobytes()
    out = BytesIO()
    made.save(out, quality=-1, chroma=444)
    data = out.getvalue()
    assert (b"irot" in data) == (orientation != 1)
    photo = to_network_input(data, Preprocessing(160))
    assert (photo.width, photo.height) == read_size(data) == (160, 96)
    assert np.abs(photo.pixels[32:128].astype(int) - picture).mean() < 2


@pytest.mark.usefixtures("extra")
def test_heic_of_a_phone_has_its_colours(picture: np.ndarray) -> None:
    theirs = Image.fromarray(profiles.converted(picture, "Display P3"))
    theirs.info["icc_profile"] = profiles.named("Display P3")
    photo = to_network_input(heic(theirs), Preprocessing(160))
    assert np.abs(photo.pixels[32:128].astype(int) - picture).mean() < 2


@pytest.mark.usefixtures("extra")
def test_heic_too_large_is_refused_from_its_head(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(Image.fromarray(picture))
    huge = data.replace(struct.pack(">II", 160, 96), struct.pack(">II", 60_000, 60_000))
    assert huge != data
    for ask in (lambda: to_network_input(huge, Preprocessing(32)), lambda: read_size(huge)):
        with pytest.raises(ImageDecodeError, match="60000 x 60000") as caught:
            ask()
        assert caught.value.code == "too large"
    assert (read_header(huge).width, read_header(huge).height, read_header(huge).heavy) == (60_000, 60_000, True)
    assert (read_header(data).width, read_header(data).heavy) == (160, False)
    monkeypatch.setattr(images, "MAX_PIXELS", 160 * 96 - 1)
    with pytest.raises(ImageDecodeError, match="scale it down"):
        to_network_input(data, Preprocessing(32))


@pytest.mark.usefixtures("extra")
def test_damaged_heic_is_damaged_and_costs_no_other(picture: np.ndarray) -> None:
    data = heic(Image.fromarray(picture))
    random = np.random.default_rng(1)
    files = [data[: len(data) * share // 10] for share in range(1, 10)]
    for _ in range(30):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[random.integers(40, len(data), 5)] = random.integers(0, 256, 5)
        files.append(damaged.tobytes())
    with Decoder() as decoder, decoder.begin([*files, data], Preprocessing(32)) as decoding:
        outcomes = decoding.outcomes()
    assert outcomes[-1] == (160, 96)
    codes = {one.code for one in outcomes if isinstance(one, ImageDecodeError)}
    assert codes <= {"damaged", "too large", "unsupported format", "not an image"}
    assert "damaged" in codes
