"""How well kinds are named in sources that a network was not made from, per source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from data import Photo


def score(
    logits: np.ndarray, photos: list[Photo], kinds: list[str], learnt_from: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Return, per source and overall, how many photos of learnt kinds are right first, among three, and per kind on average.

    ``new`` is all but the sources ``learnt_from``, of which other photos were learnt.
    """
    number = {kind: i for i, kind in enumerate(kinds)}
    learnt = np.array([photo.kind in number for photo in photos])
    targets = np.array([number.get(photo.kind, -1) for photo in photos])
    order = np.argsort(-logits, axis=1)
    sources = np.array([photo.source for photo in photos])
    found = {}
    together = {"new": ~np.isin(sources, list(learnt_from)), "all": np.ones(len(photos), bool)}
    for source in [*sorted(set(sources)), "own", "web", *together]:
        here = learnt & together.get(source, (sources == source) | np.char.startswith(sources, f"{source}-"))
        if here.any():
            first = order[here, 0] == targets[here]
            three = (order[here, :3] == targets[here, None]).any(axis=1)
            balanced = np.mean([first[targets[here] == k].mean() for k in set(targets[here])])
            found[source] = {
                "n": int(here.sum()),
                "first": float(first.mean()),
                "three": float(three.mean()),
                "kinds": float(balanced),
            }
    return found


def confusions(logits: np.ndarray, photos: list[Photo], kinds: list[str], most: int = 25) -> list[tuple[int, str, str]]:
    """Return the commonest errors: (count, kind, taken for)."""
    counts: dict[tuple[str, str], int] = {}
    for photo, k in zip(photos, logits.argmax(1), strict=True):
        if photo.kind in kinds and kinds[k] != photo.kind:
            counts[(photo.kind, kinds[k])] = counts.get((photo.kind, kinds[k]), 0) + 1
    return [(n, *pair) for pair, n in sorted(counts.items(), key=lambda item: -item[1])[:most]]
