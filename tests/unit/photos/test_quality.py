"""Brightness and sharpness, and what a person is advised: measured on greys, ramps, and photos blurred on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from fruits.messages import translations
from fruits.photos.decoding.quality import NOISE, STEP, Limits, measure
from fruits.photos.generated import generator


def of_one(pixels: np.ndarray) -> tuple[float, float]:
    brightness, sharpness = measure(pixels[None])
    assert brightness.dtype == sharpness.dtype == np.float32
    return float(brightness[0]), float(sharpness[0])


def blurred(photo: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius))) if radius else photo


@pytest.fixture(scope="module")
def fruit() -> np.ndarray:
    """96 photos of 8 varieties on three axes, shape (96, 100, 100, 3)."""
    return np.stack(
        [generator.photo(generator.VARIETIES[i % 8], ("", "r", "r2")[i % 3], 7 * i % 328) for i in range(96)]
    )


# --- Measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [0, 1, 64, 128, 255])
def test_flat_photo_is_as_bright_as_its_grey_and_has_no_sharpness(grey: int) -> None:
    assert of_one(np.full((64, 64, 3), grey, np.uint8)) == (pytest.approx(grey / 255, abs=1e-6), 0.0)  # float32


def test_brightness_is_that_of_green() -> None:
    photo = np.zeros((16, 16, 3), np.uint8)
    photo[..., 0], photo[..., 2] = 255, 255
    assert of_one(photo)[0] == 0.0
    photo[..., 1] = 51
    assert of_one(photo)[0] == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "on its side"])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("height", [200, 100])
def test_ramp_of_some_pixels_has_one_over_their_number_whatever_its_height(
    width: int, height: int, turned: bool
) -> None:
    ramp = np.clip((np.arange(100) - 50) * height / width + 20, 20, 20 + height).round().astype(np.uint8)
    photo = np.broadcast_to(ramp[None, :, None], (100, 100, 3))
    # Three grey levels of each difference do not count: of a ramp of 100 levels over 8 pixels, a quarter and an eighth.
    tolerance = 3 * width / height
    assert of_one(photo.swapaxes(0, 1) if turned else photo)[1] == pytest.approx(1 / width, rel=tolerance)


def test_noise_of_a_flat_wall_does_not_make_it_sharp() -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (100, 100, 3))
    # Second differences of such noise reach 4 at times; all the rest is left out.
    assert of_one((128 + noise).astype(np.uint8))[1] < 2
    assert of_one((128 + (noise > 0)).astype(np.uint8))[1] == 0.0


def test_sharpness_falls_with_every_step_of_blur(fruit: np.ndarray) -> None:
    radii = (0, 0.5, 1, 1.5, 2, 3)
    sharpness = np.stack([measure(np.stack([blurred(photo, radius) for photo in fruit]))[1] for radius in radii])
    assert (np.diff(sharpness, axis=0) < 0).all()  # of every single photo


def test_sharpness_hardly_depends_on_contrast(fruit: np.ndarray) -> None:
    plain = measure(fruit)[1]
    weak = (fruit * 0.5 + 64).round().astype(np.uint8)
    # Half the contrast leaves more differences within the three grey levels that do not count, and rounds the rest; blur by
    # half a pixel costs more than twice as much.
    np.testing.assert_allclose(measure(weak)[1], plain, rtol=0.12)
    soft = np.stack([blurred(photo, 0.5) for photo in fruit])
    assert (measure(soft)[1] < 0.88 * plain).all()


def test_brightness_hardly_depends_on_blur(fruit: np.ndarray) -> None:
    soft = np.stack([blurred(photo, 2) for photo in fruit])
    np.testing.assert_allclose(measure(soft)[0], measure(fruit)[0], atol=0.01)  # every fourth row is looked at


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([8, 13, 16, 33]))
def test_no_photo_depends_on_the_batch_it_comes_in(seed: int, n: int, size: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    together = np.stack(measure(pixels))
    alone = np.stack([np.concatenate(measure(photo[None])) for photo in pixels], axis=1)
    assert (together == alone).all()


def test_measuring_leaves_the_pixels_alone(fruit: np.ndarray) -> None:
    before = fruit.copy()
    measure(fruit)
    assert (fruit == before).all()


# --- Limits and advice --------------------------------------------------------------------------------------------------


def test_photos_like_the_known_ones_are_nearly_all_accepted(fruit: np.ndarray) -> None:
    limits = Limits.of(*measure(fruit), 100)
    others = np.stack([generator.photo(generator.VARIETIES[i % 8], "r3", 5 * i % 328) for i in range(100)])
    told = [limits.advice(b, s, 100) for b, s in zip(*(v.tolist() for v in measure(fruit)), strict=True)]
    assert sum(map(bool, told)) <= 1  # 1 % of 96
    told = [limits.advice(b, s, 100) for b, s in zip(*(v.tolist() for v in measure(others)), strict=True)]
    assert sum(map(bool, told)) <= 5  # other fruit of the same varieties: 1 % would be 1
    assert limits.dark <= 0.25


def test_photos_blurred_or_darkened_on_purpose_are_told_so(fruit: np.ndarray) -> None:
    limits = Limits.of(*measure(fruit), 100)
    soft = measure(np.stack([blurred(photo, 2) for photo in fruit]))
    assert all(limits.advice(b, s, 100) == ("blurred",) for b, s in zip(*(v.tolist() for v in soft), strict=True))
    dark = measure((fruit // 8).astype(np.uint8))
    assert all("dark" in limits.advice(b, s, 100) for b, s in zip(*(v.tolist() for v in dark), strict=True))


def test_photos_by_night_are_not_called_dark_where_all_known_ones_are_so() -> None:
    brightness = np.linspace(0.02, 0.1, 200, dtype=np.float32)
    limits = Limits.of(brightness, np.ones(200, np.float32), 100)
    assert limits.dark == pytest.approx(np.quantile(brightness, 0.01))
    assert limits.advice(0.05, 1.0, 100) == ()


@pytest.mark.parametrize(
    ("brightness", "sharpness", "side", "advice"),
    [
        (0.5, 0.5, 100, ()),
        (0.1, 0.5, 100, ("dark",)),
        (0.5, 0.1, 100, ("blurred",)),
        (0.5, 0.5, 49, ("small",)),
        (0.1, 0.1, 20, ("small", "dark")),
        (0.5, 0.0, 100, ()),
        (0.2, 0.3, 50, ()),
    ],
)
def test_advice_names_each_fault_the_plainest_first(
    brightness: float, sharpness: float, side: int, advice: tuple[str, ...]
) -> None:
    assert Limits(dark=0.2, blurred=0.3, small=50).advice(brightness, sharpness, side) == advice


def test_every_advice_is_a_sentence_in_every_language() -> None:
    faults = {*Limits(1.0, 1.0, 1).advice(0.0, 0.5, 0), *Limits(0.0, 1.0, 1).advice(0.5, 0.5, 1)}
    assert faults == {"small", "dark", "blurred"}
    for fault in faults:
        assert all(sentence.endswith(".") for sentence in translations(f"page.{fault}").values())


def test_limits_are_plain_values_and_back() -> None:
    limits = Limits(0.2, 0.3, 50)
    assert Limits(**limits.as_dict()) == limits


def by_definition(photo: np.ndarray) -> tuple[np.float32, np.float32]:
    """Brightness and sharpness, value by value."""
    green = photo[:, :, 1].astype(np.int64)
    sudden = gradual = 0
    for lines in (green[::STEP], green[:, ::STEP].T):
        sudden += np.maximum(np.abs(lines[:, 2:] - 2 * lines[:, 1:-1] + lines[:, :-2]) - NOISE, 0).sum()
        gradual += np.maximum(np.abs(lines[:, 2:] - lines[:, :-2]) - NOISE, 0).sum()
    return np.float32(green[::STEP].mean() / 255), np.float32(sudden / gradual if gradual else 0)


@pytest.mark.parametrize(("n", "size"), [(40, 100), (3, 8), (5, 11), (9, 225), (2, 640)])
def test_numbers_are_those_of_the_definition_however_the_pixels_lie_in_memory(n: int, size: int) -> None:
    rng = np.random.default_rng(size)
    pixels = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    pixels[0] = 255 * (np.arange(size)[:, None, None] % 2)  # the largest sums
    pixels[1] //= 60
    expected = np.array([by_definition(photo) for photo in pixels]).T
    for same in (pixels, np.asfortranarray(pixels), pixels[..., ::-1][..., ::-1]):
        assert (np.array(measure(same)) == expected).all()
    assert (np.array(measure(pixels[1:2])) == expected[:, 1:2]).all()
