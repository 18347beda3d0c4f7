"""Embeddings of photos passed to the Python API; ``fruits run`` embeds in batch with ``stage.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fruits.embedding.backbone import BATCH_SIZE, Embedder, no_embedding, usable
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.reading.inputs import Batch, Fault, PhotoLike, decoded, each, is_one


def embed_photos(
    photos: PhotoLike | Iterable[PhotoLike], preprocessing: Preprocessing, embedder: Embedder
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """Yield batches of photos with the embeddings, shape (m, d), of the photos that have one.

    A photo without a usable embedding is among the faults of the batch.

    Raises
    ------
    ImageDecodeError, StoreError
        If ``photos`` is a single photo that cannot be decoded or read.
    PhotoTypeError, EngineError
        As :func:`fruits.photos.reading.inputs.decoded`.
    """
    one = is_one(photos)
    given: Iterable[PhotoLike] = [photos] if one else each(photos)  # type: ignore[list-item]
    for decoded_batch in decoded(given, preprocessing, batch_size=BATCH_SIZE):
        batch, embeddings = decoded_batch, np.empty((0, 0), np.float32)
        if batch.ok:
            embeddings = embedder.embed(batch.pixels)
            good = usable(embeddings)
            if not good.all():
                batch, embeddings = _without(batch, ~good), embeddings[good]
        if one and batch.faults:
            raise batch.faults[0]
        yield batch, embeddings


def embedding_rows(
    photos: PhotoLike | Iterable[PhotoLike], preprocessing: Preprocessing, embedder: Embedder, size: int
) -> tuple[NDArray[np.float32], dict[int, Fault]]:
    """Return the embeddings, shape (n, d), and the faults by row; rows of photos without an embedding are NaN.

    Parameters
    ----------
    photos : photo, or iterable of photo
    preprocessing : Preprocessing
    embedder : Embedder
    size : int
        Size d of the embedding.

    Raises
    ------
    ImageDecodeError, StoreError, PhotoTypeError, EngineError
        As for :func:`embed_photos`.
    """
    rows, faults, n = [np.empty((0, size), np.float32)], dict[int, Fault](), 0
    for batch, embeddings in embed_photos(photos, preprocessing, embedder):
        given = np.full((batch.n, size), np.nan, np.float32)
        if batch.ok:
            given[batch.ok] = embeddings
        rows.append(given)
        faults |= {n + row: fault for row, fault in batch.faults.items()}
        n += batch.n
    return np.concatenate(rows), faults


def _without(batch: Batch, bad: NDArray[np.bool_]) -> Batch:
    """Return the batch with the marked photos moved to the faults."""
    kept = np.flatnonzero(~bad).tolist()
    return replace(
        batch,
        ok=[batch.ok[place] for place in kept],
        pixels=batch.pixels[kept],
        sizes=[batch.sizes[place] for place in kept],
        faults=batch.faults | {batch.ok[place]: no_embedding() for place in np.flatnonzero(bad).tolist()},
    )
