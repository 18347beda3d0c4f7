"""The measure of several kinds in one picture: what is composed, and what counts as found, right, wrong and invented."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from benchmarks.several import Found, compose, interval, judge, overlap
from PIL import Image, ImageDraw


def _photos(*, cut: bool) -> dict[str, list]:
    def photo(colour: str) -> Image.Image:
        drawn = Image.new("RGBA" if cut else "RGB", (150, 120), (0, 0, 0, 0) if cut else "white")
        ImageDraw.Draw(drawn).ellipse((20, 10, 130, 110), fill=colour)
        return drawn

    colours = ("red", "orange", "green", "blue", "purple")
    return {colour: [lambda colour=colour: photo(colour)] for colour in colours}


def _table(side: int, rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (side, side), (120, 84 + int(rng.integers(9)), 50))


@pytest.mark.parametrize("fruits", [1, 2, 3, 4])
def test_every_fruit_lies_in_its_box_and_none_in_another(fruits: int) -> None:
    made = compose(_photos(cut=False), _photos(cut=True), _table, fruits=fruits, pictures=6, seed=1)
    assert made == compose(_photos(cut=False), _photos(cut=True), _table, fruits=fruits, pictures=6, seed=1)
    assert {picture.sort for picture in made} == {"table", "photos"}
    for picture in made:
        assert len({kind for kind, _ in picture.fruits}) == fruits
        pixels = Image.open(BytesIO(picture.jpeg))
        for at, (kind, box) in enumerate(picture.fruits):
            assert all(0 <= side <= 1 for side in box)
            middle = ((box[0] + box[2]) / 2 * pixels.width, (box[1] + box[3]) / 2 * pixels.height)
            there = np.array(pixels.getpixel((int(middle[0]), int(middle[1]))))
            assert np.abs(there - Image.new("RGB", (1, 1), kind).getpixel((0, 0))).max() < 40
            assert all(overlap(box, other) == 0 for _, other in picture.fruits[at + 1 :])


def test_regions_count_once_and_names_without_a_fruit_are_invented() -> None:
    fruits = [("kiwi", (0.0, 0.0, 0.4, 0.4)), ("lime", (0.6, 0.6, 1.0, 1.0)), ("plum", (0.6, 0.0, 1.0, 0.4))]
    regions = [
        ("kiwi", (0.0, 0.0, 0.38, 0.38)), ("kiwi", (0.1, 0.1, 0.3, 0.3)),  # the second of one fruit
        ("lemon", (0.6, 0.6, 1.0, 1.0)), ("pear", (0.0, 0.8, 0.2, 1.0)), ("", (0.0, 0.6, 0.1, 0.7)),
    ]  # fmt: skip
    assert judge(fruits, regions) == Found(3, 2, 1, 1, 2, exact=False)
    assert judge(fruits, [(kind, box) for kind, box in fruits]) == Found(3, 3, 3, 0, 0, exact=True)
    assert judge(fruits[:1], [("", fruits[0][1])]) == Found(1, 1, 0, 0, 0, exact=False)


def test_interval_holds_the_share_and_narrows_with_more() -> None:
    low, high = interval(8, 10)
    assert low < 0.8 < high
    assert interval(800, 1000)[0] > low
    assert interval(10, 10)[1] == pytest.approx(1)
