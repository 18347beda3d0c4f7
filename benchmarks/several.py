"""Pictures of several kinds of fruit, composed of photos of one kind each, and what was found in them.

Two sorts: cut-outs of photos on white, put on a generated table; and whole photos side by side. The same for the same seed. Knows
nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

#: left, top, right, bottom, as fractions of the picture.
Box = tuple[float, float, float, float]
#: A region is of the fruit that it overlaps by this share of their union, or in whose box its centre lies.
OVERLAP = 0.3
_LONGEST = 640
_CELL = 224
_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """A composed picture: JPEG, and the kind and box of every fruit."""

    jpeg: bytes
    fruits: tuple[tuple[str, Box], ...]
    sort: str


def compose(
    photos: dict[str, list[Callable[[], Image.Image]]],
    cut_outs: dict[str, list[Callable[[], Image.Image]]],
    backgrounds: Callable[[int, np.random.Generator], Image.Image],
    *,
    fruits: int,
    pictures: int,
    seed: int = 0,
) -> list[Picture]:
    """Return pictures of ``fruits`` kinds each, every second one of cut-outs.

    Parameters
    ----------
    photos, cut_outs : dict of list of callable
        By kind: what opens a photo (RGB), or a cut-out fruit (RGBA).
    backgrounds : callable
        Makes a square of a side, to put cut-outs on.
    fruits : int
        1 to 4.
    pictures : int
    seed : int
    """
    made = []
    for number in range(pictures):
        rng = np.random.default_rng([seed, fruits, number])
        among, put = (cut_outs, _on_table) if number % 2 == 0 else (photos, _side_by_side)
        kinds = rng.choice(sorted(among), fruits, replace=False).tolist()
        chosen = [(kind, among[kind][int(rng.integers(len(among[kind])))]()) for kind in kinds]
        made.append(put(chosen, backgrounds, rng))
    return made


def _on_table(
    chosen: list[tuple[str, Image.Image]],
    backgrounds: Callable[[int, np.random.Generator], Image.Image],
    rng: np.random.Generator,
) -> Picture:
    """Cut-outs in the cells of a grid: turned, of several sizes, off the middle, each with a shadow; never one over another."""
    width, height = [(_LONGEST, 480), (480, _LONGEST), (_LONGEST, _LONGEST)][int(rng.integers(3))]
    columns, rows = _grid(len(chosen), width / height, rng)
    table = backgrounds(_LONGEST, rng).convert("RGB").crop((0, 0, width, height))
    cells = rng.permutation(columns * rows)[: len(chosen)]
    fruits = []
    for (kind, fruit), cell in zip(chosen, cells.tolist(), strict=True):
        cell_width, cell_height = width / columns, height / rows
        turned = fruit.rotate(rng.uniform(-35, 35), Image.Resampling.BICUBIC, expand=True)
        turned = turned.crop(turned.getchannel("A").point(lambda value: 255 * (value > 40)).getbbox())
        scale = rng.uniform(0.65, 0.95) * min(cell_width / turned.width, cell_height / turned.height)
        if len(chosen) == 1:
            scale *= rng.uniform(0.5, 0.9)
        turned = turned.resize((max(8, int(turned.width * scale)), max(8, int(turned.height * scale))))
        left = int(cell % columns * cell_width + rng.random() * (cell_width - turned.width))
        top = int(cell // columns * cell_height + rng.random() * (cell_height - turned.height))
        shadow = turned.getchannel("A").filter(ImageFilter.GaussianBlur(4)).point(lambda value: int(0.45 * value))
        table.paste((25, 20, 15), (left + 4, top + 6), shadow)
        table.paste(turned, (left, top), turned)
        fruits.append((kind, _box(left, top, turned.width, turned.height, table)))
    return Picture(_jpeg(table), tuple(fruits), "table")


def _side_by_side(chosen: list[tuple[str, Image.Image]], _: object, rng: np.random.Generator) -> Picture:
    """Whole photos, cut square, in a row, a column or a square; a single one as it is."""
    if len(chosen) == 1:
        (kind, photo), *_ = chosen
        return Picture(_jpeg(photo.convert("RGB")), ((kind, (0.0, 0.0, 1.0, 1.0)),), "photos")
    columns, rows = _grid(len(chosen), float(rng.choice([0.5, 1, 2])), rng)
    gap = int(rng.choice([0, 8]))
    picture = Image.new(
        "RGB", (columns * _CELL + (columns - 1) * gap, rows * _CELL + (rows - 1) * gap), (235, 235, 235)
    )
    fruits = []
    for number, (kind, photo) in enumerate(chosen):
        side = min(photo.size)
        left, top = (photo.width - side) / 2, (photo.height - side) / 2
        cut = photo.convert("RGB").resize(
            (_CELL, _CELL), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        at = number % columns * (_CELL + gap), number // columns * (_CELL + gap)
        picture.paste(cut, at)
        fruits.append((kind, _box(*at, _CELL, _CELL, picture)))
    return Picture(_jpeg(picture), tuple(fruits), "photos")


def _grid(fruits: int, aspect: float, rng: np.random.Generator) -> tuple[int, int]:
    """Return columns and rows with a place for every fruit."""
    if fruits == 1:
        return 1, 1
    if fruits == 4 or (fruits == 3 and rng.random() < 0.4):
        return 2, 2
    return (fruits, 1) if aspect >= 1 else (1, fruits)


def _box(left: int, top: int, width: int, height: int, picture: Image.Image) -> Box:
    across, down = picture.size
    return left / across, top / down, (left + width) / across, (top + height) / down


def _jpeg(picture: Image.Image) -> bytes:
    out = BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


@dataclass(frozen=True)
class Found:
    """What was found in one picture.

    Attributes
    ----------
    found : int
        Fruits that have a region.
    right : int
        Fruits whose region has the right name.
    wrong : int
        Fruits whose region has another name.
    invented : int
        Regions with a name that are of no fruit, or the second of one.
    exact : bool
        Every fruit found and rightly named, and nothing else.
    """

    fruits: int
    found: int
    right: int
    wrong: int
    invented: int
    exact: bool


def judge(fruits: Sequence[tuple[str, Box]], regions: Sequence[tuple[str, Box]]) -> Found:
    """Compare regions, as (kind or "" without a name, box), with the fruits of a picture; each region is of one fruit at most."""
    pairs = sorted(
        (
            (overlap(box, region), number, at)
            for number, (_, box) in enumerate(fruits)
            for at, (_, region) in enumerate(regions)
            if overlap(box, region) >= OVERLAP or _inside(region, box)
        ),
        reverse=True,
    )
    of: dict[int, int] = {}
    for _, number, at in pairs:
        if number not in of and at not in of.values():
            of[number] = at
    right = sum(regions[at][0] == fruits[number][0] for number, at in of.items())
    wrong = sum(regions[at][0] not in ("", fruits[number][0]) for number, at in of.items())
    invented = sum(bool(kind) for at, (kind, _) in enumerate(regions) if at not in of.values())
    return Found(len(fruits), len(of), right, wrong, invented, right == len(fruits) and not invented)


def overlap(one: Box, other: Box) -> float:
    """Return the intersection of two boxes as a share of their union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (_area(one) + _area(other) - both)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _inside(one: Box, other: Box) -> bool:
    x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
    return other[0] <= x <= other[2] and other[1] <= y <= other[3]


def interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of Wilson for a share."""
    z, share = 1.96, count / of
    middle, half = share + z**2 / (2 * of), z * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return float((middle - half) / (1 + z**2 / of)), float((middle + half) / (1 + z**2 / of))
