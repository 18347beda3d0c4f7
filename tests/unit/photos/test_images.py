"""What photos/decoding/images.py promises: every legal photo upright, in RGB, on white, in a square; every other file named."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fruits.errors import ConfigError, ImageDecodeError
from fruits.photos.decoding import images
from fruits.photos.decoding.images import Preprocessing, read_size, to_network_input, to_thumbnail

# JPEG at quality 95 moves smooth colours by a few levels at most.
JPEG_NOISE = 6


def encode(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    image.save(out, name, **options)
    return out.getvalue()


def decode(data: bytes, size: int = 64, fit: images.Fit = "pad") -> np.ndarray:
    return to_network_input(data, Preprocessing(size, fit)).pixels.astype(int)


def gradient(width: int, height: int) -> np.ndarray:
    """A smooth picture without any symmetry, uint8 (height, width, 3)."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([255 * x, 200 * y, 120 + 60 * x * y - 90 * y * y], axis=2).astype(np.uint8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *between: bytes) -> bytes:
    """A PNG byte by byte, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    middle = b"".join(chunk(piece[:4], piece[4:]) for piece in between)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def code_of(data: bytes) -> str:
    with pytest.raises(ImageDecodeError) as caught:
        to_network_input(data, Preprocessing(32))
    assert str(caught.value)
    return caught.value.code


# --- Orientation ------------------------------------------------------------------------------------------------------

AS_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", AS_STORED)
def test_photo_is_upright_whatever_its_orientation_tag(orientation: int, name: str) -> None:
    upright = gradient(48, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if name == "JPEG" else {"lossless": True} if name == "WEBP" else {}
    data = encode(Image.fromarray(np.ascontiguousarray(AS_STORED[orientation](upright))), name, exif=exif, **options)
    photo = to_network_input(data, Preprocessing(48))
    assert (photo.width, photo.height) == (48, 32)
    assert read_size(data) == (48, 32)
    tolerance = JPEG_NOISE if name == "JPEG" else 0
    assert np.abs(photo.pixels[8:40].astype(int) - upright).max() <= tolerance


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_without_meaning_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = gradient(32, 32)
    assert (decode(encode(Image.fromarray(pixels), exif=exif), 32) == pixels).all()


def test_broken_exif_does_not_cost_the_photo() -> None:
    pixels = gradient(32, 32)
    data = encode(Image.fromarray(pixels), "JPEG", quality=95, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    assert np.abs(decode(data, 32) - pixels).max() <= JPEG_NOISE


# --- Modes ------------------------------------------------------------------------------------------------------------


def test_alpha_lies_on_white() -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:16, :, 3] = 255
    pixels[16:24, :, 3] = 128
    shown = decode(encode(Image.fromarray(pixels)), 32)
    assert (shown[:16] == (200, 0, 0)).all()
    assert np.abs(shown[16:24] - (227, 127, 127)).max() <= 1  # half of 200 and of 0, half of 255, rounded either way
    assert (shown[24:] == 255).all()


def test_grey_with_alpha_lies_on_white() -> None:
    pixels = np.zeros((32, 32, 2), np.uint8)
    pixels[..., 0] = 90
    pixels[:16, :, 1] = 255
    shown = decode(encode(Image.fromarray(pixels, "LA")), 32)
    assert (shown[:16] == 90).all()
    assert (shown[16:] == 255).all()


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 32, 16))
    shown = decode(encode(image, transparency=0), 32)
    assert (shown[:16] == 255).all()
    assert (shown[16:] == (40, 50, 60)).all()


def test_palette_with_several_alphas_lies_on_white() -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 32, 16))
    shown = decode(encode(image, transparency=b"\x00\xff"), 32)
    assert (shown[:16] == 255).all()
    assert (shown[16:] == (40, 50, 60)).all()


@pytest.mark.parametrize(("mode", "clear", "opaque"), [("RGB", (1, 2, 3), (9, 9, 9)), ("L", 7, 9), ("1", 0, 1)])
def test_transparent_colour_is_white(mode: str, clear: object, opaque: object) -> None:
    image = Image.new(mode, (32, 32), opaque)
    image.paste(clear, (0, 0, 32, 16))
    shown = decode(encode(image, transparency=clear), 32)
    assert (shown[:16] == 255).all()
    assert (shown[16:] == (255 if mode == "1" else 9)).all()


def test_transparent_colour_of_16_bit_grey_is_white() -> None:
    rows = b"".join(b"\0" + struct.pack(">H", value) * 32 for value in [5000] * 16 + [40000] * 16)
    shown = decode(png(32, 32, 16, 0, rows, b"tRNS" + struct.pack(">H", 5000)), 32)
    assert (shown[:16] == 255).all()
    assert (shown[16:] == 40000 >> 8).all()


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    shown = decode(encode(Image.fromarray(values)), 32)
    assert (shown == (values >> 8)[..., None]).all()


def test_16_bit_colour_keeps_its_high_bytes() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (32, 32, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    assert np.abs(decode(png(32, 32, 16, 2, rows), 32) - (values >> 8)).max() <= 1  # cut or rounded, either will do


def test_one_bit_photo_is_black_and_white() -> None:
    image = Image.new("1", (32, 32), 1)
    image.paste(0, (0, 0, 16, 32))
    shown = decode(encode(image), 32)
    assert (shown[:, :16] == 0).all()
    assert (shown[:, 16:] == 255).all()


def test_grey_photo_has_three_equal_channels() -> None:
    values = gradient(32, 32)[..., 0]
    assert (decode(encode(Image.fromarray(values)), 32) == values[..., None]).all()


def test_cmyk_jpeg_looks_like_its_rgb() -> None:
    colours = Image.fromarray(gradient(32, 32))
    shown = decode(encode(colours.convert("CMYK"), "JPEG", quality=95), 32)
    assert np.abs(shown - np.asarray(colours).astype(int)).mean() < JPEG_NOISE


def test_progressive_jpeg_is_decoded_as_the_baseline_one() -> None:
    image = Image.fromarray(gradient(64, 64))
    baseline, progressive = (decode(encode(image, "JPEG", progressive=kind)) for kind in (False, True))
    assert (baseline == progressive).all()


@pytest.mark.parametrize("name", ["WEBP", "PNG"])
def test_animation_gives_its_first_frame(name: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if name == "WEBP" else {}
    data = encode(frames[0], name, save_all=True, append_images=frames[1:], duration=100, **options)
    assert (decode(data, 32) == (255, 0, 0)).all()


# --- Geometry ---------------------------------------------------------------------------------------------------------


def test_pad_shows_the_whole_photo_on_white() -> None:
    shown = decode(encode(Image.new("RGB", (80, 40), "black")), 32, "pad")
    assert (shown[8:24] == 0).all()
    assert (shown[:8] == 255).all()
    assert (shown[24:] == 255).all()


def test_crop_shows_the_largest_centred_square() -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = gradient(32, 32)
    assert (decode(encode(Image.fromarray(pixels)), 32, "crop") == pixels[:, 32:64]).all()


def test_squash_shows_everything_stretched() -> None:
    pixels = gradient(64, 32)
    shown = decode(encode(Image.fromarray(pixels)), 32, "squash")
    # A smooth gradient hardly changes when every two columns become one.
    assert np.abs(shown - pixels.reshape(32, 32, 2, 3).mean(axis=2)).max() <= 6


def test_photo_of_the_right_size_is_not_resampled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for fit in ("pad", "crop", "squash"):
        assert (decode(encode(Image.fromarray(pixels)), 32, fit) == pixels).all()


@pytest.mark.parametrize("fit", ["pad", "crop", "squash"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2000), (7, 33)])
@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_any_shape_fills_the_square_with_its_colour(shape: tuple[int, int], fit: images.Fit, name: str) -> None:
    photo = to_network_input(encode(Image.new("RGB", shape, "black"), name), Preprocessing(32, fit))
    assert (photo.width, photo.height) == shape
    assert photo.pixels.shape == (32, 32, 3)
    assert (photo.pixels == 0).any()
    assert set(np.unique(photo.pixels)) <= {0, 255}


@pytest.fixture(scope="module")
def large_photo() -> tuple[bytes, bytes]:
    """A textured JPEG of 4000 x 3000, and what it shows when decoded in full, as PNG."""
    rng = np.random.default_rng(1)
    texture = Image.fromarray(rng.integers(0, 80, (300, 400, 3), dtype=np.uint8)).resize((4000, 3000))
    pixels = (gradient(4000, 3000) * 0.6 + np.asarray(texture)).astype(np.uint8)
    data = encode(Image.fromarray(pixels), "JPEG", quality=92)
    return data, encode(Image.open(BytesIO(data)).convert("RGB"), compress_level=1)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["pad", "crop", "squash"])
def test_jpeg_decoded_at_reduced_scale_is_close_to_full_decoding(
    large_photo: tuple[bytes, bytes], fit: images.Fit
) -> None:
    photo, exact = (to_network_input(data, Preprocessing(100, fit)) for data in large_photo)
    assert (photo.width, photo.height) == (exact.width, exact.height) == (4000, 3000)
    difference = np.abs(photo.pixels.astype(int) - exact.pixels)
    # The rule of the module: the shortcut moves pixels by no more than JPEG's own noise.
    assert difference.mean() < 1.0
    assert np.quantile(difference, 0.99) <= JPEG_NOISE


def test_thumbnail_keeps_the_aspect_and_drops_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "at home"
    data = to_thumbnail(encode(Image.fromarray(gradient(400, 200)), "JPEG", exif=exif), 64)
    thumbnail = Image.open(BytesIO(data))
    assert thumbnail.size == (32, 64)
    assert not thumbnail.getexif()
    assert b"at home" not in data


def test_thumbnail_never_enlarges() -> None:
    assert read_size(to_thumbnail(encode(Image.new("RGB", (20, 10))), 64)) == (20, 10)


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_empty_file_is_named_so() -> None:
    assert code_of(b"") == "empty"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"GIF89a", "GIF"),
        (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"II*\x00", "TIFF"),
        (b"MM\x00*", "TIFF"),
        (b"BM", "BMP"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_known_but_unsupported_format_is_named(head: bytes, name: str) -> None:
    with pytest.raises(ImageDecodeError, match=name) as caught:
        to_network_input(head + bytes(64), Preprocessing(32))
    assert caught.value.code == "unsupported format"


def test_real_gif_and_tiff_are_unsupported() -> None:
    image = Image.new("RGB", (8, 8))
    assert code_of(encode(image, "GIF")) == "unsupported format"
    assert code_of(encode(image, "TIFF")) == "unsupported format"


@pytest.mark.parametrize("data", [b"label,uri\napple,1.jpg\n", b"<html></html>", bytes(100), b"\xff"])
def test_other_content_is_not_an_image(data: bytes) -> None:
    assert code_of(data) == "not an image"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_photo_is_damaged(name: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, name)
    assert code_of(data[: int(len(data) * share)]) == "damaged"


@pytest.mark.parametrize("head", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP"])
def test_signature_alone_is_damaged(head: bytes) -> None:
    assert code_of(head) == "damaged"


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_photo_without_area_is_damaged(size: tuple[int, int]) -> None:
    assert code_of(png(*size, 8, 2, bytes(16 * size[1]))) == "damaged"
    with pytest.raises(ImageDecodeError):
        to_thumbnail(png(*size, 8, 2, bytes(16 * size[1])), 32)


def test_too_many_pixels_are_refused_from_the_header_alone() -> None:
    data = png(50_000, 50_000, 8, 2, b"")
    with pytest.raises(ImageDecodeError, match="50000 x 50000") as caught:
        to_network_input(data, Preprocessing(32))
    assert caught.value.code == "too large"
    with pytest.raises(ImageDecodeError, match="scale it down"):
        read_size(data)


@pytest.mark.parametrize("side", [12_000, 65_537])
def test_too_large_webp_is_refused_from_its_header(side: int) -> None:
    canvas = struct.pack("<I", side - 1)[:3]
    frame = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + canvas
    lossless = encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    data = b"RIFF" + struct.pack("<I", 4 + len(frame) + len(lossless)) + b"WEBP" + frame + lossless
    assert code_of(data) in ("too large", "damaged")  # damaged where libwebp itself refuses such a canvas
    assert code_of(data[:30]) in ("too large", "damaged")


def test_photo_just_within_the_limit_is_taken_and_just_beyond_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (40, 25)))
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert decode(data, 32).shape == (32, 32, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 999)
    assert code_of(data) == "too large"


@pytest.mark.parametrize(
    "values", [{"size": 7}, {"size": 2049}, {"size": 32, "fit": "fill"}, {"size": 32, "kernel": "x"}]
)
def test_impossible_preprocessing_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Preprocessing(**values)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_thumbnail_carries_nothing_but_pixels(format_: str) -> None:
    mark = b"planted-4711"
    exif = Image.Exif()
    exif[0x010E] = mark.decode()
    exif.get_ifd(0x8825)[1] = "N"
    info = {"exif": exif.tobytes(), "icc_profile": mark * 20, "xmp": mark}
    if format_ == "JPEG":
        info["comment"] = mark
    out = BytesIO()
    Image.fromarray(gradient(60, 40)).save(out, format_, **info)
    data = out.getvalue()
    assert mark in data or format_ == "PNG"  # PNG compresses its profile
    for side in (32, 64):  # scaled, and as it is
        thumbnail = to_thumbnail(data, side)
        assert mark not in thumbnail
        # Of segments only what decoding takes: tables, frame, scan and the first one of JFIF.
        assert not {marker for marker in _markers(thumbnail) if 0xE1 <= marker <= 0xEF or marker == 0xFE}
        assert set(Image.open(BytesIO(thumbnail)).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def _markers(jpeg: bytes) -> list[int]:
    """The markers before the scan."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        found.append(jpeg[at + 1])
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return found
