"""How well a network names kinds in sources that it was not made from: its own classification layer, one crop, per source."""

from __future__ import annotations

import numpy as np
import torch
from data import Photo

from fruits.photos.decoding.images import Preprocessing, to_network_input
from network import Lite, scaled


def logits_of(
    network: Lite, photos: list[Photo], size: int = 224, fit: str = "crop", batch: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Return (kind logits, embeddings) of photos as ``fruits`` would see them."""
    logits, embeddings = [], []
    preprocessing = Preprocessing(size, fit)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(photos), batch):
            pixels = [
                to_network_input(photo.path.read_bytes(), preprocessing).pixels
                for photo in photos[start : start + batch]
            ]
            embedding, outputs = network(scaled(torch.from_numpy(np.stack(pixels))))
            logits.append(outputs["kind"].float().numpy())
            embeddings.append(embedding.float().numpy())
    return np.concatenate(logits), np.concatenate(embeddings)


def score(logits: np.ndarray, photos: list[Photo], kinds: list[str]) -> dict[str, dict[str, float]]:
    """Return, per source and overall, how many photos of learnt kinds are right first, among three, and per kind on average."""
    number = {kind: i for i, kind in enumerate(kinds)}
    learnt = np.array([photo.kind in number for photo in photos])
    targets = np.array([number.get(photo.kind, -1) for photo in photos])
    order = np.argsort(-logits, axis=1)
    sources = np.array([photo.source for photo in photos])
    found = {}
    for source in [*sorted(set(sources)), "own", "web", "all"]:
        here = learnt & (
            {"all": np.ones(len(photos), bool)}.get(
                source, (sources == source) | np.char.startswith(sources, f"{source}-")
            )
        )
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
