"""What ``colour.py`` promises: the same colours whatever profile a photo is saved with, and no photo lost to its profile."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms
from tests import profiles

from fruits.photos.decoding.images import Preprocessing, to_network_input, to_thumbnail

SIDE = 64
LOSSLESS: dict[str, dict[str, object]] = {"PNG": {}, "WEBP": {"lossless": True}}


def encode(pixels: np.ndarray | Image.Image, format_: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def decode(data: bytes) -> np.ndarray:
    return to_network_input(data, Preprocessing(SIDE)).pixels.astype(int)


def colours(seed: int = 0) -> np.ndarray:
    """Blocks of one colour each, as JPEG keeps them; not too dark, where a level of another space is many of sRGB."""
    levels = np.random.default_rng(seed).integers(40, 220, (8, 8, 3), dtype=np.uint8)
    return levels.repeat(8, axis=0).repeat(8, axis=1)


def greys() -> np.ndarray:
    return np.arange(256, dtype=np.uint8).repeat(16).reshape(SIDE, SIDE)


def as_grey(levels: np.ndarray, gamma: float) -> np.ndarray:
    """Levels of sRGB that show what these show under a gamma."""
    linear = (levels / 255) ** gamma
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# --- The same colours -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("space", profiles.SPACES)
def test_same_colours_in_another_space_give_the_same_pixels(space: str, format_: str) -> None:
    pixels = colours()
    options = LOSSLESS.get(format_, {"quality": 100, "subsampling": 0})
    theirs = profiles.converted(pixels, space)
    assert np.abs(theirs.astype(int) - pixels).mean() > 2  # taken for sRGB, it would be another picture
    data = encode(theirs, format_, icc_profile=profiles.named(space), **options)
    error = np.abs(decode(data) - pixels)
    assert error.mean() < (1.2 if format_ == "JPEG" else 1)  # JPEG adds its own noise
    assert error.max() < (8 if format_ == "JPEG" else 6)
    thumbnail, expected = (to_thumbnail(one, SIDE) for one in (data, encode(pixels)))
    assert "icc_profile" not in Image.open(BytesIO(thumbnail)).info
    assert np.abs(decode(thumbnail) - decode(expected)).mean() < 2


def test_reduced_scale_is_converted_too() -> None:
    pixels = colours().repeat(16, axis=0).repeat(16, axis=1)
    theirs = profiles.converted(pixels, "ProPhoto")
    shown = decode(encode(theirs, "JPEG", quality=100, subsampling=0, icc_profile=profiles.named("ProPhoto")))
    error = np.abs(shown - decode(encode(pixels)))
    assert error.mean() < 1
    assert error.max() < 10  # JPEG adds its own noise


def test_transparent_photo_keeps_its_colours_on_white() -> None:
    pixels = colours()
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    alpha[:16] = 0
    theirs = np.concatenate([profiles.converted(pixels, "ProPhoto"), alpha], axis=2)
    for format_, options in LOSSLESS.items():
        shown = decode(encode(theirs, format_, icc_profile=profiles.named("ProPhoto"), **options))
        assert (shown[:16] == 255).all()
        assert np.abs(shown[16:] - pixels[16:]).max() < 6


def test_palette_is_converted() -> None:
    pixels = colours()
    image = Image.fromarray(profiles.converted(pixels, "Display P3")).quantize(64)
    for options in ({}, {"transparency": bytes([255] * 64)}):
        shown = decode(encode(image, icc_profile=profiles.named("Display P3"), **options))
        assert np.abs(shown - pixels).mean() < 1


@pytest.mark.parametrize("gamma", [1.4, 1.8, 3.0])
def test_grey_photo_follows_its_curve(gamma: float) -> None:
    profile = profiles.grey(profiles.gamma_curve(gamma))
    expected = as_grey(greys(), gamma)[..., None]
    opaque = Image.fromarray(np.stack([greys(), np.full_like(greys(), 255)], axis=2), "LA")
    deep = Image.fromarray(greys().astype(np.uint16) * 257)
    for image, format_ in ((greys(), "PNG"), (greys(), "JPEG"), (opaque, "PNG"), (deep, "PNG")):
        options = {"quality": 100} if format_ == "JPEG" else {}
        error = np.abs(decode(encode(image, format_, icc_profile=profile, **options)) - expected)
        assert error.mean() < 1
        assert error.max() < 6


def test_grey_photo_with_a_profile_for_colours_is_read_as_grey_colours() -> None:
    profile = profiles.rgb(profiles.SRGB, profiles.gamma_curve(1.0))
    shown = decode(encode(greys(), icc_profile=profile))
    error = np.abs(shown - as_grey(greys(), 1.0)[..., None])
    assert error.mean() < 1
    assert error[16:].max() < 6  # the darkest levels are steps of a dozen of sRGB's


def test_transparent_value_of_16_bit_grey_is_white_under_any_curve() -> None:
    deep = greys().astype(np.uint16) * 257
    image = Image.fromarray(deep)
    data = encode(image, icc_profile=profiles.grey(profiles.gamma_curve(3.0)), transparency=int(deep[32, 32]))
    shown = decode(data)
    assert (shown[deep == deep[32, 32]] == 255).all()
    assert shown[0, 0].max() == 0


def test_cmyk_photo_shows_what_its_press_would_print() -> None:
    nodes = np.zeros((2, 2, 2, 2, 3))
    nodes[..., 0] = 3
    nodes[0, 0, 0, 0] = (100, 0, 0)  # paper
    nodes[1, 0, 0, 0] = (60, -20, -30)
    nodes[0, 1, 0, 0] = (50, 40, 0)
    nodes[0, 0, 1, 0] = (85, 0, 50)
    inks = np.zeros((SIDE, SIDE, 4), np.uint8)
    inks[16:32, :, 0] = inks[32:48, :, 1] = inks[48:, :, 2] = 255
    data = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, icc_profile=profiles.cmyk(nodes))
    shown = decode(data)
    for first, node in ((0, (0, 0, 0, 0)), (16, (1, 0, 0, 0)), (32, (0, 1, 0, 0)), (48, (0, 0, 1, 0))):
        assert np.abs(shown[first + 4 : first + 12] - profiles.lab_to_srgb(nodes[node])).max() < 6


# --- sRGB is left as it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "profile",
    [
        profiles.rgb(profiles.SRGB, profiles.srgb_curve()),
        profiles.rgb(profiles.SRGB, profiles.table_curve()),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
    ids=["parametric", "table", "LittleCMS"],
)
@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_profile_that_is_srgb_changes_no_bit(profile: bytes, format_: str) -> None:
    assert (decode(encode(colours(), format_, icc_profile=profile)) == decode(encode(colours(), format_))).all()


# --- Profiles that are none -------------------------------------------------------------------------------------------

GOOD = profiles.named("ProPhoto")
USELESS = {
    "text": b"no profile at all",
    "header alone": GOOD[:128],
    "cut short": GOOD[:-100],
    "tags beyond the end": GOOD[:132] + GOOD[132:].replace(b"rXYZ\0\0", b"rXYZ\xff\xff"),
    "a million tags": GOOD[:128] + struct.pack(">I", 10**6) + GOOD[132:],
    "for L*a*b*": GOOD[:16] + b"Lab " + GOOD[20:],
    "for ink": profiles.cmyk(np.zeros((2, 2, 2, 2, 3))),
    "for grey": profiles.grey(profiles.gamma_curve(3.0)),
    "a link between devices": GOOD[:12] + b"link" + GOOD[16:],
    "a list of named colours": GOOD[:12] + b"nmcl" + GOOD[16:],
    "too large": GOOD + bytes(6 << 20),
    "without curves": profiles.profile(b"RGB ", {}),
    "a curve of four billion points": GOOD.replace(
        profiles.gamma_curve(1.8), b"curv\0\0\0\0" + struct.pack(">I", 2**32 - 1) + b"\0\0"
    ),
}


@pytest.mark.parametrize("name", USELESS)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_profile_that_cannot_be_used_is_ignored(name: str, format_: str) -> None:
    options = LOSSLESS.get(format_, {"quality": 95})
    shown = decode(encode(colours(), format_, icc_profile=USELESS[name], **options))
    assert (shown == decode(encode(colours(), format_, **options))).all()


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK"])
def test_profile_for_another_kind_of_picture_is_ignored(mode: str) -> None:
    image = Image.fromarray(colours()).convert(mode)
    format_ = "JPEG" if mode == "CMYK" else "PNG"
    profile = profiles.grey(profiles.gamma_curve(3.0)) if mode == "CMYK" else USELESS["for ink"]
    assert (decode(encode(image, format_, icc_profile=profile)) == decode(encode(image, format_))).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "body",
    [
        b"bomb\0\0" + zlib.compress(bytes(20 << 20), 9),
        b"another packing\0\x07" + zlib.compress(GOOD),
        b"not packed\0\0" + GOOD,
        b"cut\0\0" + zlib.compress(GOOD)[:-20],
        b"no end of the name",
        b"\0",
        b"",
    ],
    ids=["bomb", "packing", "plain", "cut", "endless name", "short", "empty"],
)
def test_png_whose_profile_cannot_be_unpacked_is_a_photo(body: bytes) -> None:
    plain = encode(colours())
    assert (decode(plain[:33] + chunk(b"iCCP", body) + plain[33:]) == colours()).all()


@pytest.mark.slow
def test_damaged_profiles_never_cost_the_photo() -> None:
    """Two hundred profiles with bytes changed by chance, two kinds."""
    random = np.random.default_rng(0)
    press = profiles.cmyk(random.uniform(0, 100, (2, 2, 2, 2, 3)))
    for turn in range(200):
        mode, profile = (("RGB", GOOD), ("CMYK", press))[turn % 2]
        damaged = np.frombuffer(profile, np.uint8).copy()
        places = random.integers(0, len(damaged), 1 + turn % 12)
        damaged[places] = random.integers(0, 256, len(places))
        image = Image.fromarray(colours()).convert(mode).resize((16, 16))
        assert decode(encode(image, "JPEG", icc_profile=damaged.tobytes())).shape == (SIDE, SIDE, 3)
