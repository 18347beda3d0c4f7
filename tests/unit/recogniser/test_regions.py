"""Regions of a photo: where they are, which stay, and that each answer is that of the part alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fruits.service.pages
from fruits.errors import BundleError, ConfigError
from fruits.photos.decoding.decoder import Size
from fruits.photos.decoding.images import Preprocessing, from_image
from fruits.recogniser import regions
from fruits.recogniser.answers import Answer
from fruits.recogniser.recogniser import Recogniser, load
from fruits.recogniser.regions import LEAST_SIDE, LONGEST, MOST, Box, Region, box_of
from fruits.recogniser.taxonomy import Name

SAMPLES = Path(fruits.service.pages.__file__).parent / "samples"
#: Pictures of the package that the recogniser of the package names for sure.
APPLE, TOMATO, ORANGE = (SAMPLES / f"{number}.jpg" for number in (1, 3, 4))


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return load()


def _side_by_side(*files: Path, side: int = 300) -> Image.Image:
    picture = Image.new("RGB", (side * len(files), side), "white")
    for at, file in enumerate(files):
        with Image.open(file) as one:
            picture.paste(one.convert("RGB").resize((side, side)), (at * side, 0))
    return picture


def test_fruits_side_by_side_are_found_and_named_each_in_its_place(recogniser: Recogniser) -> None:
    picture = _side_by_side(APPLE, ORANGE, TOMATO)
    found = recogniser.regions(picture)
    assert [region.answer.kind for region in found] == ["apple", "orange", "tomato"]
    for at, region in enumerate(found):
        middle = (region.box.left + region.box.right) / 2
        assert at / 3 < middle < (at + 1) / 3
    assert regions.in_words(found) == "I see three: apple, orange and tomato"
    assert str(found[2]).startswith("tomato (")


def test_one_fruit_is_one_region(recogniser: Recogniser) -> None:
    (found,) = recogniser.regions(ORANGE)
    assert found.answer.kind == "orange"
    assert regions.in_words([found]) == "I see one: orange"


def test_two_of_one_kind_that_touch_are_one_region(recogniser: Recogniser) -> None:
    (found,) = recogniser.regions(_side_by_side(ORANGE, ORANGE, side=224))
    assert found.box.left < 0.3
    assert found.box.right > 0.7


def test_nothing_is_seen_where_there_is_nothing(recogniser: Recogniser) -> None:
    assert [one for one in recogniser.regions(np.full((200, 300, 3), 200, np.uint8)) if one.answer.name] == []
    assert regions.in_words([]) == ""


def test_answer_of_a_region_is_that_of_the_part_alone(recogniser: Recogniser) -> None:
    picture = _side_by_side(APPLE, ORANGE)
    for region in recogniser.regions(picture):
        alone = recogniser.predict_part(picture, region.box)
        assert alone.kinds[0][:2] == region.answer.kinds[0][:2]
        assert alone.probability == pytest.approx(region.answer.probability, abs=1e-5)
        assert alone.advice == region.answer.advice


def test_part_of_a_photo_is_what_a_cut_photo_would_give(recogniser: Recogniser) -> None:
    picture = _side_by_side(APPLE, ORANGE, side=336)  # twice 336: nothing is scaled before the cut
    assert recogniser.predict_part(picture, (0.5, 0, 1, 1)).kind == "orange"
    cut = recogniser.predict(picture.crop((336, 0, 672, 336)))
    asked = recogniser.predict_part(picture, (0.5, 0.0, 1.0, 1.0))
    assert asked.probability == pytest.approx(cut.probability, abs=1e-5)
    small = recogniser.predict_part(picture, (0, 0, 0.05, 0.1))
    assert "small" in small.advice or small.outcome in ("kind", "variety"), "advice is about the part"


@pytest.mark.parametrize(
    "box",
    [
        (), (0, 0, 1), (0, 0, 1, 1, 1), (0.5, 0, 0.5, 1), (0.6, 0, 0.4, 1), (0, 0.6, 1, 0.4), (-0.1, 0, 1, 1), (0, 0, 1, 1.1),
        (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1), ("a", 0, 1, 1), (None, 0, 1, 1), (0, 0, LEAST_SIDE / 2, 1), "0011",
    ],
)  # fmt: skip
def test_box_that_is_none_is_refused_with_what_was_expected(recogniser: Recogniser, box: Any) -> None:
    with pytest.raises(ConfigError, match=r"left, top, right, bottom as fractions .* such as 0\.5, 0, 1, 0\.5"):
        recogniser.predict_part(ORANGE, box)


def test_box_is_four_fractions_in_order() -> None:
    assert box_of(["0.5", "0", "1", "0.5"]) == Box(0.5, 0, 1, 0.5)
    assert box_of(np.array([0, 0, 1, 1])) == Box(0, 0, 1, 1)


@pytest.mark.parametrize("size", [(1000, 500), (500, 1000), (672, 672), (2000, 3), (31, 77)])
def test_working_picture_is_the_whole_photo_without_padding(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    preprocessing = regions.working_preprocessing(Preprocessing(224, "crop", "bicubic"))
    picture = regions.without_padding(from_image(photo, preprocessing).pixels, Size(*size))
    scaled = tuple(max(1, round(side * LONGEST / max(size))) for side in size)
    expected = photo if photo.size == scaled else photo.resize(scaled, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(picture, np.asarray(expected))


@pytest.mark.parametrize(("width", "height"), [(672, 672), (672, 504), (672, 224), (200, 672), (672, 1)])
def test_windows_cover_all_of_the_photo_and_overlap(width: int, height: int) -> None:
    seen = np.zeros((height, width), int)
    for left, top, right, bottom in regions._windows(width, height):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1


def test_peaks_are_boxed_as_far_as_their_own_kind_reaches() -> None:
    grid = np.zeros((8, 12, 5))
    grid[2:5, 1:4, 1] = 8
    grid[3, 2, 1] = 10
    grid[3:6, 7:10, 2] = 7
    grid[4, 8, 2] = 9
    grid[4, 10:12, 3] = 2.5  # another kind beside it, too weak for a peak
    first, second = regions._peaks(grid)
    assert first == pytest.approx((1 / 12 - 0.3 / 12, 2 / 8 - 0.3 / 8, 4 / 12 + 0.3 / 12, 5 / 8 + 0.3 / 8))
    assert second == pytest.approx((7 / 12 - 0.3 / 12, 3 / 8 - 0.3 / 8, 10 / 12 + 0.3 / 12, 6 / 8 + 0.3 / 8))


def _region(kind: str, probability: float, *box: float, outcome: str = "kind") -> Region:
    named = outcome not in ("unsure", "unknown")
    name = Name({"en": kind.title()}, {}) if named else None
    answer = Answer(outcome, name, probability, kind if named else "", "", (), (), (), 0.0, (), np.empty(0, np.float32))  # type: ignore[arg-type]
    return Region(Box(*box), answer)


def _kept(*given: Region) -> Sequence[tuple[str, tuple[float, ...]]]:
    return [(region.answer.kind, tuple(region.box)) for region in regions._settled(list(given))]


def test_regions_of_one_kind_that_touch_become_one_and_others_stay() -> None:
    one, beside = _region("kiwi", 0.9, 0, 0, 0.3, 0.5), _region("kiwi", 0.95, 0.31, 0.1, 0.5, 0.4)
    away = _region("kiwi", 0.8, 0.8, 0.8, 1, 1)
    assert _kept(one, beside, away) == [("kiwi", (0, 0, 0.5, 0.5)), ("kiwi", (0.8, 0.8, 1, 1))]


def test_of_two_answers_in_one_place_the_more_probable_stays() -> None:
    lime, lemon = _region("lime", 0.7, 0, 0, 0.5, 0.5), _region("lemon", 0.9, 0.1, 0.1, 0.4, 0.4)
    assert _kept(lime, lemon) == [("lemon", (0.1, 0.1, 0.4, 0.4))]
    apart = _region("lime", 0.7, 0.3, 0.3, 0.9, 0.9)
    assert [kind for kind, _ in _kept(lemon, apart)] == ["lemon", "lime"]


def test_unsure_regions_give_way_to_names_and_unknown_ones_are_left_out() -> None:
    kiwi = _region("kiwi", 0.9, 0, 0, 0.5, 0.5)
    over, away = (
        _region("", 0.4, 0.2, 0.2, 0.6, 0.6, outcome="unsure"),
        _region("", 0.3, 0.7, 0, 1, 0.3, outcome="unsure"),
    )
    unknown = _region("", 0.9, 0.7, 0.7, 1, 1, outcome="unknown")
    assert _kept(over, away, unknown, kiwi) == [("kiwi", (0, 0, 0.5, 0.5)), ("", (0.7, 0, 1, 0.3))]


def test_there_are_never_more_than_six_named_ones_first_from_the_top_left() -> None:
    boxes = [(x / 4, y / 4, x / 4 + 0.1, y / 4 + 0.1) for x in range(4) for y in range(2)]
    many = [_region(f"kind-{at}", 0.9 - at / 100, *box) for at, box in enumerate(boxes)]
    unsure = _region("", 0.5, 0, 0.8, 0.1, 0.9, outcome="unsure")
    kept = regions._settled([unsure, *many])
    assert len(kept) == MOST
    assert all(region.answer.name for region in kept)
    sums = [sum(region.box) for region in kept]
    assert sums == sorted(sums)


def test_network_without_a_map_is_refused_with_what_to_do(recogniser: Recogniser) -> None:
    bundle = recogniser._bundle

    class WithoutMap:
        has_map = False

    with pytest.raises(BundleError, match=r"does not tell where .* backbone.*fruits-photo"):
        regions.refuse_without_map(bundle, WithoutMap())  # type: ignore[arg-type]


def test_file_and_image_have_the_same_regions(recogniser: Recogniser) -> None:
    picture = _side_by_side(APPLE, ORANGE, side=336)
    png = BytesIO()
    picture.save(png, "PNG")
    found, from_file = recogniser.regions(picture), recogniser.regions(png.getvalue())
    assert [replace(region, answer=None) for region in found] == [replace(one, answer=None) for one in from_file]  # type: ignore[arg-type]
    assert [region.answer for region in found] == [region.answer for region in from_file]
