"""Which photos are frames of one film, told from file names alone.

Names alike but for digits (``r2_48_100.jpg``, ``r2_51_100.jpg``) form a pattern; the number that varies most counts the frames,
the others name the film: here the axis ``r2``. Knows nothing of what is on the photos.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DIGITS: Final = re.compile(r"\d+")
#: A shorter series is no turn of anything.
_LEAST_FRAMES: Final = 24


@dataclass(frozen=True, slots=True)
class Films:
    """The films among some photos, as arrays of shape (n,).

    Attributes
    ----------
    film : int64 array
        Number of the film, -1 for photos that are in none.
    axis : int64 array
        Rank of the film among the films of its label, by name; -1 likewise. In Fruits-360 the axis of rotation.
    turn : float64 array
        Place within the film, 0 (first frame) to just below 1 (last frame): of a full turn, the angle.
    """

    film: NDArray[np.int64]
    axis: NDArray[np.int64]
    turn: NDArray[np.float64]

    @classmethod
    def of(cls, uris: Sequence[str], labels: NDArray[np.int64]) -> Films:
        """Find the films among photos given by path and number of their label, in any folders.

        A series in which a frame number occurs twice within a label is none: then numbers only tell files apart.
        """
        n = len(uris)
        film, axis, turn = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.zeros(n)
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
                # Python's whole numbers: social networks write names with more digits than 64 bits hold.
                first, last = frames[0][0], frames[-1][0]
                members = [row for _, row in frames]
                film[members], axis[members] = number, rank
                turn[members] = [(frame - first) / (last - first + 1) for frame, _ in frames]
                number, rank = number + 1, rank + 1
        return cls(film, axis, turn)

    def without(self, some: NDArray[np.bool_]) -> Films:
        """Return these films less the photos marked in ``some``, shape (n,)."""
        return Films(np.where(some, -1, self.film), np.where(some, -1, self.axis), self.turn)


def number_frames(names: Sequence[str]) -> Iterator[tuple[str, int] | None]:
    """Yield for each file name the series it is numbered in and its number there; None for a name without digits."""
    digits = [_DIGITS.findall(name) for name in names]
    patterns = [_DIGITS.sub("#", name) for name in names]
    values: dict[tuple[str, int], set[str]] = defaultdict(set)
    for pattern, runs in zip(patterns, digits, strict=True):
        for position, run in enumerate(runs):
            values[pattern, position].add(run)
    for pattern, runs in zip(patterns, digits, strict=True):
        if not runs:
            yield None
            continue
        frame = max(range(len(runs)), key=lambda position: (len(values[pattern, position]), position))
        yield "/".join((pattern, *runs[:frame], "#", *runs[frame + 1 :])), int(runs[frame])
