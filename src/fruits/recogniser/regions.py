"""Regions of a photo with an answer each, and the answer for a part of it that a person marks.

The photo is looked at in overlapping windows of half its longer side. What each position of their feature maps contributes to
each kind (``explain``) is joined into one grid over the photo. Around every peak of the grid a region grows as far as the
contribution to the kind of the peak is large. It is cut out of the photo and recognised once more, as a photo of its own.
``pages/js/device/find-regions.js`` does the same in a browser. Independent of files and of the service.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fruits.embedding.backbone import Embedder, usable
from fruits.errors import BundleError, ConfigError, option
from fruits.photos.decoding.decoder import Decoder, Size
from fruits.photos.decoding.images import KERNELS, Preprocessing, into_square
from fruits.photos.decoding.quality import measure
from fruits.recogniser.answers import NAMING, Answer
from fruits.recogniser.bundle import Bundle
from fruits.recogniser.taxonomy import in_a_sentence

#: Most regions of a photo, and most candidates that are recognised to find them.
MOST: Final = 6
_CANDIDATES: Final = 10
#: Longer side of the photo while regions are looked for, in pixels: three times the input of the network that ships.
LONGEST: Final = 672
#: Places along the longer side of the grid; a window covers half of them.
_PLACES: Final = 14
#: Weight of a window at its edge; in its middle it is 1 more. Near an edge the network sees less of what is around.
_EDGE: Final = 0.1
#: Smoothing of the grid along rows and columns: a Gaussian of one place.
_SMOOTHING: Final = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
#: A peak has at least this share of the highest one; a region reaches as far as there is this share of its peak.
_PEAK: Final = 0.4
_REACH: Final = 0.6
#: Margin around a region, as a share of its sides.
_MARGIN: Final = 0.1
#: Two answers within one place: the less probable goes if so much of the smaller region lies in the other one. A region without a
#: name gives way to less.
_SAME_PLACE: Final = 0.6
_TAKEN: Final = 0.3
#: Regions of one kind that are this near, as a share of the photo, are one.
_TOUCHING: Final = 0.02
#: Least side of a box, as a share of the photo's.
LEAST_SIDE: Final = 0.02


class Box(NamedTuple):
    """A part of the upright photo, as fractions of its width and height from the top left corner."""

    left: float
    top: float
    right: float
    bottom: float


class _Cut(NamedTuple):
    """A box in pixels: left, top, right, bottom."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Region:
    """A region of a photo and its answer.

    Attributes
    ----------
    box : Box
    answer : Answer
        As of a photo that shows this region alone.
    """

    box: Box
    answer: Answer

    def __str__(self) -> str:
        return f"{self.answer} at {', '.join(f'{side:.0%}' for side in self.box)}"


def box_of(values: Iterable[float]) -> Box:
    """Return a box, checked.

    Raises
    ------
    ConfigError
        If these are not four fractions of a photo, in order, or the box is too small to show anything.
    """
    try:
        given = [] if isinstance(values, str) else [float(value) for value in values]
    except (TypeError, ValueError):
        given = []
    if len(given) == 4 and all(0 <= value <= 1 for value in given):  # not true of NaN
        box = Box(*given)
        if min(box.right - box.left, box.bottom - box.top) >= LEAST_SIDE:
            return box
    raise ConfigError(
        f"{option('box', values)}: expected left, top, right, bottom as fractions of the photo from 0 to 1, left before "
        f"right and top before bottom, at least {LEAST_SIDE:g} apart, such as 0.5, 0, 1, 0.5 for the upper right quarter"
    )


def working_preprocessing(preprocessing: Preprocessing) -> Preprocessing:
    """Return how a photo is decoded so that parts can be cut out of it: whole, ``LONGEST`` pixels along its longer side."""
    return Preprocessing(LONGEST, "pad", preprocessing.kernel)


def picture_of(decoder: Decoder, photo: bytes, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], Size]:
    """Return the pixels of a photo, shape (height, width, 3), to cut parts out of, and its original size.

    Raises
    ------
    ImageDecodeError
        If it cannot be decoded.
    """
    decoded = decoder.to_network_input(photo, working_preprocessing(preprocessing))
    size = Size(decoded.width, decoded.height)
    return without_padding(decoded.pixels, size).copy(), size


def without_padding(square: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Return the pixels of the photo, shape (height, width, 3), of what :func:`working_preprocessing` gives for it.

    Parameters
    ----------
    square : uint8 array, shape (LONGEST, LONGEST, 3)
    size : Size
        Of the original photo.
    """
    longer = max(size)
    width, height = (max(1, round(side * LONGEST / longer)) for side in size)
    left, top = (LONGEST - width) // 2, (LONGEST - height) // 2
    return square[top : top + height, left : left + width]


def part_of(picture: NDArray[np.uint8], box: Box, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return a part of a photo as the network's input, shape (size, size, 3): whole, padded with white to a square.

    Parameters
    ----------
    picture : uint8 array, shape (height, width, 3)
        From :func:`picture_of`.
    box : Box
    preprocessing : Preprocessing
        Of the network.
    """
    return _cut(picture, _pixels(box, picture.shape[1], picture.shape[0]), preprocessing)


def refuse_without_map(bundle: Bundle, embedder: Embedder) -> None:
    """Raise ``BundleError`` if it cannot be told which position contributes what."""
    if not (bundle.linear and embedder.has_map):
        raise BundleError(
            f"'{bundle.card.name}' with the head '{bundle.manifest['head']['name']}' does not tell where in a photo an answer "
            "comes from, so regions cannot be found; expected a linear head and a network that gives a feature map: run "
            f"again with {option('head', 'logistic')} and a network such as {option('backbone', 'fruits-photo')}"
        )


def find_regions(bundle: Bundle, embedder: Embedder, picture: NDArray[np.uint8], size: Size) -> list[Region]:
    """Return the regions of a photo, at most ``MOST``: those with a name first, each group from the top left to the bottom right.

    Parameters
    ----------
    bundle : Bundle
        With a linear head.
    embedder : Embedder
        Of its network; it gives a feature map.
    picture : uint8 array, shape (height, width, 3)
        From :func:`without_padding`.
    size : Size
        Of the original photo.
    """
    height, width = picture.shape[:2]
    windows = _windows(width, height)
    embeddings, maps = embedder.embed_with_map(np.stack([_cut(picture, one, bundle.preprocessing) for one in windows]))
    good = np.flatnonzero(usable(embeddings)).tolist()
    if not good:
        return []
    evidence = _by_kind(bundle.logits_of_places(maps[good]), np.array(bundle.taxonomy.kind_of))
    boxes = _peaks(_smoothed(_joined([windows[row] for row in good], evidence, width, height)))
    return _settled([region for region in _recognised(bundle, embedder, picture, size, boxes) if region is not None])


def in_words(regions: Sequence[Region]) -> str:
    """Return what is seen as a sentence of English text: ``I see two: banana and kiwi``; empty without a name."""
    names = [region.answer.name for region in regions if region.answer.name is not None]
    if not names:
        return ""
    *before, last = (in_a_sentence(name.en) for name in names)
    number = ("one", "two", "three", "four", "five", "six")[len(names) - 1]
    return f"I see {number}: {' and '.join([', '.join(before), last] if before else [last])}"


def _recognised(
    bundle: Bundle, embedder: Embedder, picture: NDArray[np.uint8], size: Size, boxes: list[Box]
) -> list[Region | None]:
    """Return the answers for parts of a photo; None where there is no usable embedding."""
    if not boxes:
        return []
    pixels = np.stack([part_of(picture, box, bundle.preprocessing) for box in boxes])
    embeddings = embedder.embed(pixels)
    good = np.flatnonzero(usable(embeddings))
    found: list[Region | None] = [None] * len(boxes)
    if len(good):
        sides = np.array([short_side(boxes[row], size) for row in good.tolist()])
        answers = bundle.answers(embeddings[good], *measure(pixels[good]), sides)
        for row, answer in zip(good.tolist(), answers, strict=True):
            found[row] = Region(boxes[row], answer)
    return found


def short_side(box: Box, size: Size) -> int:
    """Return the shorter side of a part of a photo, in pixels of the original photo."""
    return int(min((box.right - box.left) * size.width, (box.bottom - box.top) * size.height))


def _pixels(box: Box, width: int, height: int) -> _Cut:
    return _Cut(
        math.floor(box.left * width),
        math.floor(box.top * height),
        math.ceil(box.right * width),
        math.ceil(box.bottom * height),
    )


def _cut(picture: NDArray[np.uint8], cut: _Cut, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    part = Image.fromarray(np.ascontiguousarray(picture[cut.top : cut.bottom, cut.left : cut.right]))
    return np.asarray(into_square(part, preprocessing.size, "pad", KERNELS[preprocessing.kernel]))


def _windows(width: int, height: int) -> list[_Cut]:
    """Return overlapping squares of half the longer side; of a shorter side that is no longer than that, all of it."""
    side = max(width, height) // 2

    def spans(length: int) -> list[tuple[int, int]]:
        if length <= side:
            return [(0, length)]
        n = -(-2 * (length - side) // side) + 1
        starts = [number * (length - side) // (n - 1) for number in range(n)]
        return [(start, start + side) for start in starts]

    return [_Cut(left, top, right, bottom) for top, bottom in spans(height) for left, right in spans(width)]


def _by_kind(logits: NDArray[np.float32], kind_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logits of kinds, (..., kinds), of those of labels, (..., c): the logarithm of the sum of their exponentials."""
    highest = logits.max(axis=-1, keepdims=True).astype(np.float64)
    member = np.zeros((len(kind_of), kind_of.max() + 1))
    member[np.arange(len(kind_of)), kind_of] = 1
    return np.asarray(np.log(np.exp(logits - highest) @ member + 1e-12) + highest, np.float64)


def _joined(windows: list[_Cut], evidence: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Return the grid over the photo, (rows, columns, kinds): the mean of the windows, each weighted by the distance to its edge.

    Parameters
    ----------
    windows : list of _Cut, length n
    evidence : float64 array, shape (n, rows', columns', kinds)
        Logits of kinds at the places of each window, which was padded to a square.
    width, height : int
        Of the photo, in pixels.
    """
    place = max(width, height) / _PLACES
    rows, columns = max(1, round(height / place)), max(1, round(width / place))
    down, across = (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns
    total, weight = np.zeros((rows, columns, evidence.shape[3])), np.zeros((rows, columns, 1))
    for cut, values in zip(windows, evidence, strict=True):
        own_rows, own_columns = values.shape[:2]
        longer = max(cut.right - cut.left, cut.bottom - cut.top)
        y = np.flatnonzero((down > cut.top) & (down < cut.bottom))
        x = np.flatnonzero((across > cut.left) & (across < cut.right))
        y0, y1, y_rest = _neighbours(down[y], cut.top, cut.bottom, longer, own_rows)
        x0, x1, x_rest = _neighbours(across[x], cut.left, cut.right, longer, own_columns)
        lower, upper = 1 - y_rest[:, None, None], y_rest[:, None, None]
        of = (
            (values[np.ix_(y0, x0)] * lower + values[np.ix_(y1, x0)] * upper) * (1 - x_rest)[None, :, None]
            + (values[np.ix_(y0, x1)] * lower + values[np.ix_(y1, x1)] * upper) * x_rest[None, :, None]
        )  # fmt: skip
        inside = np.minimum(_inside(down[y], cut.top, cut.bottom)[:, None], _inside(across[x], cut.left, cut.right))
        counts = (_EDGE + inside)[..., None]
        total[np.ix_(y, x)] += of * counts
        weight[np.ix_(y, x)] += counts
    return np.asarray(total / np.maximum(weight, 1e-12))


def _neighbours(
    at: NDArray[np.float64], start: int, end: int, longer: int, places: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the places before and after positions along one side of a padded window, and the share of the one after."""
    padding = (longer - (end - start)) / 2
    position = np.clip((at - start + padding) / longer * places - 0.5, 0, places - 1)
    before = np.floor(position).astype(np.int64)
    return before, np.minimum(before + 1, places - 1), position - before


def _inside(at: NDArray[np.float64], start: int, end: int) -> NDArray[np.float64]:
    """Return 1 in the middle of a span and 0 at its ends."""
    return np.asarray(1 - np.abs((at - start) / (end - start) * 2 - 1))


def _smoothed(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (0, 1):
        length = grid.shape[axis]
        reach = len(_SMOOTHING) // 2
        rows = np.clip(np.arange(length)[:, None] + np.arange(-reach, reach + 1), 0, length - 1)
        grid = sum(np.take(grid, rows[:, at], axis) * share for at, share in enumerate(_SMOOTHING))
    return grid


def _peaks(grid: NDArray[np.float64]) -> list[Box]:
    """Return boxes around the peaks of the contributions, the highest first.

    Parameters
    ----------
    grid : float64 array, shape (rows, columns, kinds)
    """
    contribution = grid - grid.mean(axis=2, keepdims=True)
    best, highest = contribution.argmax(axis=2), contribution.max(axis=2)
    rows, columns = highest.shape
    around = np.pad(highest, 1, constant_values=-np.inf)
    neighbours = np.stack([around[y : y + rows, x : x + columns] for y in range(3) for x in range(3)])
    peaks = np.argwhere((neighbours.max(axis=0) == highest) & (highest >= _PEAK * highest.max()))
    order = sorted(peaks.tolist(), key=lambda place: -highest[place[0], place[1]])
    boxes = []
    for y, x in order[:_CANDIDATES]:
        height, top, left, bottom, right = highest[y, x], *_extent(contribution[:, :, best[y, x]], y, x)
        if height <= 0:
            continue
        boxes.append(_with_margin(left / columns, top / rows, right / columns, bottom / rows))
    return list(dict.fromkeys(boxes))


def _extent(values: NDArray[np.float64], y: int, x: int) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of what is connected with a place, along rows and columns, and large enough."""
    large = values >= _REACH * values[y, x]
    rows, columns = large.shape
    seen, waiting = {(y, x)}, [(y, x)]
    while waiting:
        row, column = waiting.pop()
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= near[0] < rows and 0 <= near[1] < columns and near not in seen and large[near]:
                seen.add(near)
                waiting.append(near)
    down, across = [place[0] for place in seen], [place[1] for place in seen]
    return min(down), min(across), max(down) + 1, max(across) + 1


def _with_margin(left: float, top: float, right: float, bottom: float) -> Box:
    across, down = _MARGIN * (right - left), _MARGIN * (bottom - top)
    return Box(max(0.0, left - across), max(0.0, top - down), min(1.0, right + across), min(1.0, bottom + down))


def _settled(regions: list[Region]) -> list[Region]:
    """Return the regions that stay: of one kind and touching, they are one; of several within one place, the most probable."""
    named: list[Region] = []
    for region in sorted((one for one in regions if one.answer.outcome in NAMING), key=_most_probable_first):
        for at, other in enumerate(named):
            if region.answer.kind == other.answer.kind:
                if _shared(_wider(region.box), other.box) > 0:
                    named[at] = Region(_around(region.box, other.box), other.answer)
                    break
            elif _shared(region.box, other.box) > _SAME_PLACE:
                break
        else:
            named.append(region)
    unsure: list[Region] = []
    for region in sorted((one for one in regions if one.answer.outcome == "unsure"), key=_most_probable_first):
        if all(_shared(region.box, other.box) < _TAKEN for other in (*named, *unsure)):
            unsure.append(region)
    kept = sorted(named[:MOST], key=_from_top_left) + sorted(unsure, key=_from_top_left)
    return kept[:MOST]


def _most_probable_first(region: Region) -> tuple[float, float, float]:
    return -region.answer.probability, *_from_top_left(region)


def _from_top_left(region: Region) -> tuple[float, float]:
    left, top, right, bottom = region.box
    return left + top + right + bottom, left + right


def _wider(box: Box) -> Box:
    return Box(box.left - _TOUCHING, box.top - _TOUCHING, box.right + _TOUCHING, box.bottom + _TOUCHING)


def _around(one: Box, other: Box) -> Box:
    return Box(
        min(one.left, other.left), min(one.top, other.top), max(one.right, other.right), max(one.bottom, other.bottom)
    )


def _shared(one: Box, other: Box) -> float:
    """Return the intersection of two boxes as a share of the smaller one."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (one, other)]
    return width * height / min(areas)
