"""Several kinds in one picture: how many are found, rightly named and invented, by the twin, in photos that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from benchmarks.several import Found, Picture, compose, interval, judge
from data import Photo
from PIL import Image
from views import cut_out, generated_background

from fruits.recogniser.recogniser import load

#: Chosen by looking at pictures of this source, and measured on those of the others.
TUNED_ON = ("web-hellonico",)
NOT_USED = ("orchard-pear", "own-jetson")  # fruit on trees, and frames of one image sequence: one picture shows many


def pictures_of(photos: Iterable[Photo], fruits: int, pictures: int, seed: int) -> list[Picture]:
    """Return composed pictures of photos."""
    whole: dict[str, list[Callable[[], Image.Image]]] = {}
    cut: dict[str, list[Callable[[], Image.Image]]] = {}
    for photo in photos:
        whole.setdefault(photo.kind, []).append(lambda path=photo.path: Image.open(path).convert("RGB"))
        if photo.white:
            cut.setdefault(photo.kind, []).append(lambda path=photo.path: _cut(path))
    return compose(whole, cut, generated_background, fruits=fruits, pictures=pictures, seed=seed)


def _cut(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    fruit = Image.fromarray(np.dstack([pixels, cut_out(pixels)]))
    return fruit.crop(fruit.getchannel("A").getbbox())


def measure(bundle: Path, photos: list[Photo], pictures: int, seed: int) -> None:
    """Print a table: pictures of 1 to 4 kinds, by regions, by the true boxes, and by one answer for the whole picture."""
    recogniser = load(bundle)
    known = set(recogniser.kinds)
    photos = [photo for photo in photos if photo.kind in known and photo.source not in (*TUNED_ON, *NOT_USED)]
    ways: dict[str, Callable[[Picture], list]] = {
        "regions": lambda one: [(found.answer.kind, found.box) for found in recogniser.regions(one.jpeg)],
        "true boxes": lambda one: [(recogniser.predict_part(one.jpeg, box).kind, box) for _, box in one.fruits],
        "one answer": lambda one: [(recogniser.predict(one.jpeg).kind, (0.0, 0.0, 1.0, 1.0))],
    }
    print("| | kinds | pictures | found | rightly named | wrongly named | invented a picture | pictures all right |")
    print("|---|---|---|---|---|---|---|---|")
    for fruits in (1, 2, 3, 4):
        composed = pictures_of(photos, fruits, pictures, seed)
        for name, way in ways.items():
            found = [judge(one.fruits, way(one)) for one in composed]
            print(f"| {name} | {fruits} | {len(composed)} | {_row(found)} |", flush=True)


def _row(found: list[Found]) -> str:
    total = sum(one.fruits for one in found)
    counts = [sum(getattr(one, name) for one in found) for name in ("found", "right", "wrong")]
    invented = sum(one.invented for one in found) / len(found)
    shares = [*((count, total) for count in counts), (sum(one.exact for one in found), len(found))]
    said = [_share(*share) for share in shares]
    return " | ".join([*said[:3], f"{invented:.2f}", said[3]])


def _share(count: int, of: int) -> str:
    low, high = interval(count, of)
    return f"{count / of:.3f} ({low:.2f} to {high:.2f})"
