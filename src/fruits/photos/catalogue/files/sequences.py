"""Detecting image sequences from file names.

Names that differ only in digits (``r2_48_100.jpg``, ``r2_51_100.jpg``) form a pattern. The number that varies most is the frame
number; the others name the sequence, here the axis ``r2``. Independent of the content of photos.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_DIGITS: Final = re.compile(r"\d+")
#: A shorter series is not taken for a sequence.
_LEAST_FRAMES: Final = 24
#: Numbers of a name, from its end, among which the frame number is searched.
_NUMBERS_COMPARED: Final = 16


@dataclass(frozen=True, slots=True)
class ImageSequences:
    """The image sequences among some photos, as arrays of shape (n,).

    Attributes
    ----------
    sequence : integer array
        Number of the sequence, -1 for photos that are in none.
    axis : integer array
        Rank of the sequence among the sequences of its label, by name; -1 for photos in none. In Fruits-360 the axis of rotation.
    turn : float64 array
        Position within the sequence, from 0 (first frame) to just below 1 (last frame). In a full turn, the angle.
    """

    sequence: NDArray[Any]
    axis: NDArray[Any]
    turn: NDArray[np.float64]

    @classmethod
    def of(cls, uris: Sequence[str], labels: NDArray[np.int64]) -> ImageSequences:
        """Find the sequences among photos given by path and label code, in any folders.

        A series in which a frame number occurs twice within a label is no sequence: its numbers only distinguish files.
        """
        n = len(uris)
        sequence, axis, turn = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.zeros(n)
        number = 0
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0]) if n else np.array([], int)
        for rows in np.split(order, starts[1:]):
            series: dict[str, list[tuple[int, int]]] = defaultdict(list)
            numbered = number_frames([uris[row].rpartition("/")[2] for row in rows.tolist()])
            for row, place in zip(rows.tolist(), numbered, strict=True):
                if place is not None:
                    series[place[0]].append((place[1], row))
            rank = 0
            for name in sorted(series):
                frames = sorted(series[name])
                if len(frames) < _LEAST_FRAMES or len({frame for frame, _ in frames}) < len(frames):
                    continue
                # Python integers: social networks write names with more digits than 64 bits hold.
                first, last = frames[0][0], frames[-1][0]
                members = [row for _, row in frames]
                sequence[members], axis[members] = number, rank
                turn[members] = [(frame - first) / (last - first + 1) for frame, _ in frames]
                number, rank = number + 1, rank + 1
        return cls(sequence, axis, turn)

    def without(self, some: NDArray[np.bool_]) -> ImageSequences:
        """Return these sequences without the photos marked in ``some``, shape (n,)."""
        return ImageSequences(np.where(some, -1, self.sequence), np.where(some, -1, self.axis), self.turn)


def number_frames(names: Sequence[str]) -> Iterator[tuple[str, int] | None]:
    """Yield for each file name its series and its number in it; None for a name without digits.

    Memory is a few dozen bytes per name, however many numbers it has: names with UUIDs or hashes have dozens, and each has a
    pattern of its own.
    """
    numbers: dict[bytes, int] = {}
    pattern_of = np.fromiter((numbers.setdefault(_pattern(name), len(numbers)) for name in names), np.int64, len(names))
    del numbers
    varies = _most_varied(names, pattern_of)
    for name, pattern in zip(names, pattern_of.tolist(), strict=True):
        runs = _DIGITS.findall(name)
        if not runs:
            yield None
            continue
        frame = varies.get(pattern, len(runs) - 1)
        yield "/".join((_DIGITS.sub("#", name), *runs[:frame], "#", *runs[frame + 1 :])), int(runs[frame])


def _pattern(name: str) -> bytes:
    """Return a short hash of a name with its digits replaced: patterns of UUIDs are as long as their names."""
    return hashlib.blake2b(_DIGITS.sub("#", name).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _most_varied(names: Sequence[str], pattern_of: NDArray[np.int64]) -> dict[int, int]:
    """Return by pattern which number varies most among its names, the last one of a tie.

    A pattern of a single name is left out: there the last number is the frame number.
    """
    found: dict[int, int] = {}
    if not len(pattern_of):
        return found
    order = np.argsort(pattern_of, kind="stable")
    starts = np.flatnonzero(np.diff(pattern_of[order], prepend=-1))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        if stop - start < 2:
            continue
        members = order[start:stop].tolist()
        count = len(_DIGITS.findall(names[members[0]]))
        first = max(0, count - _NUMBERS_COMPARED)
        if not count:
            continue
        values = np.fromiter(
            (hash(run) for member in members for run in _DIGITS.findall(names[member])[first:]),
            np.int64,
            len(members) * (count - first),
        ).reshape(len(members), count - first)
        distinct = [len(np.unique(column)) for column in values.T]
        found[int(pattern_of[members[0]])] = first + max(range(len(distinct)), key=lambda at: (distinct[at], at))
    return found
