"""Photos of a run, treated in several ways and embedded: every photo is decoded once, batches in threads beside each other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.assessment.dataset import Dataset, FinishedRun, access_of_run
from fruits.assessment.study.preprocessing.treatments import NAMED, Pixels, activity_of, closer_look, coloured, squares
from fruits.embedding.backbone import Embedder, usable
from fruits.errors import ImageDecodeError
from fruits.monitoring.clock import Progress
from fruits.monitoring.cores import usable_cores
from fruits.photos.decoding.decoder import own_decoder
from fruits.photos.decoding.images import Photo, Preprocessing
from fruits.photos.reading.reading import read_photos

#: Treatments see a photo at this many times the side of the network's input.
_LARGER: Final = 2
_MOST_SIDE: Final = 1024
#: Photos of a batch, decoded together and treated in one thread.
_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Variant:
    """A combination of treatments: one geometry, at most one kind of views, any number of colour, in the order of the list."""

    geometry: str
    views: str = ""
    colour: tuple[str, ...] = ()

    @property
    def parts(self) -> list[str]:
        """Names of what is done beside or in place of the geometry."""
        return [self.geometry, *self.colour, *([self.views] if self.views else [])]

    @property
    def passes(self) -> int:
        """Passes of the network for a photo."""
        return NAMED[self.views].views if self.views else 1

    def with_treatment(self, name: str) -> Variant:
        """Return the variant with a treatment added, or its geometry replaced."""
        sort = NAMED[name].sort
        if sort == "geometry":
            return replace(self, geometry=name)
        return replace(self, views=name) if sort == "views" else replace(self, colour=(*self.colour, name))


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of each variant, shape (n, d), and its processor seconds per photo: of the pixels, and of the network."""

    vectors: dict[Variant, NDArray[np.float32]]
    costs: dict[Variant, tuple[float, float]]


def embed_variants(
    variants: Sequence[Variant], run: FinishedRun, dataset: Dataset, embedder: Embedder, size: int, progress: Progress
) -> Embedded:
    """Decode every photo of a dataset once, treat and embed it in every variant; several batches at a time.

    Parameters
    ----------
    variants : sequence of Variant
    run : FinishedRun
        Its photos are read where it was allowed to.
    dataset : Dataset
        Of n rows.
    embedder : Embedder
    size : int
        Side of the network's input.
    progress : Progress
    """
    d, n = run.bundle.card.embedding_size, len(dataset.uris)
    vectors = {variant: np.zeros((n, d), np.float32) for variant in variants}
    spent = {variant: np.zeros(2) for variant in variants}

    def work(
        rows: list[int], photos: list[Pixels]
    ) -> tuple[list[int], dict[Variant, tuple[NDArray[np.float32], NDArray[np.float64]]]]:
        return rows, {variant: _embed(variant, photos, embedder, size) for variant in variants}

    done = 0
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="treat") as pool:
        coming = []
        for rows, photos in _decoded(run, dataset, size):
            coming.append(pool.submit(work, rows, photos))
            while len(coming) > 2 * usable_cores():
                done += _gather(*coming.pop(0).result(), vectors, spent, progress)
        for one in coming:
            done += _gather(*one.result(), vectors, spent, progress)
    return Embedded(
        vectors, {variant: (seconds[0] / max(done, 1), seconds[1] / max(done, 1)) for variant, seconds in spent.items()}
    )


def _gather(
    rows: list[int],
    found: dict[Variant, tuple[NDArray[np.float32], NDArray[np.float64]]],
    vectors: dict[Variant, NDArray[np.float32]],
    spent: dict[Variant, NDArray[np.float64]],
    progress: Progress,
) -> int:
    for variant, (embeddings, seconds) in found.items():
        vectors[variant][rows] = embeddings
        spent[variant] += seconds
    progress.advance(len(rows))
    return len(rows)


def _embed(
    variant: Variant, photos: Sequence[Pixels], embedder: Embedder, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the embeddings of photos, means over the views, and the processor seconds of pixels and network."""
    started = time.thread_time()
    treated = [coloured(photo, variant.colour) for photo in photos]
    views = [squares(photo, size, variant.geometry, variant.views) for photo in treated]
    pixels, network = time.thread_time() - started, 0.0
    if variant.views == "closer":
        started = time.thread_time()
        whole, maps = embedder.embed_with_map(np.stack([view[0] for view in views]))
        network += time.thread_time() - started
        started = time.thread_time()
        activity = activity_of(maps)
        parts = [closer_look(photo, size, variant.geometry, at) for photo, at in zip(treated, activity, strict=True)]
        pixels += time.thread_time() - started
        started = time.thread_time()
        found = np.stack([whole, embedder.embed(np.stack(parts))])
        network += time.thread_time() - started
    else:
        started = time.thread_time()
        found = np.stack([embedder.embed(np.stack(own)) for own in zip(*views, strict=True)])
        network += time.thread_time() - started
    # An unusable view counts as none; the photo had an embedding in the run.
    good = np.stack([usable(one) for one in found])
    kept = np.where(good[..., None], found, 0).sum(axis=0) / np.maximum(good.sum(axis=0), 1)[:, None]
    return np.asarray(kept, np.float32), np.array([pixels, network])


def _decoded(run: FinishedRun, dataset: Dataset, size: int) -> Iterator[tuple[list[int], list[Pixels]]]:
    """Yield batches of row numbers and decoded photos: whole, with their shape, at twice the network's side.

    The decoder gives squares; the padding is cut off again. Photos that cannot be read any more are left out, with zeros as
    embeddings.
    """
    larger = Preprocessing(min(_MOST_SIDE, _LARGER * size), "pad", run.bundle.preprocessing.kernel)
    rows: list[int] = []
    photos: list[Pixels] = []
    contents = read_photos(dataset.uris, access_of_run(run.record["config"]))
    for row, (data, _) in enumerate(contents):
        if data is None:
            continue
        try:
            photos.append(unpadded(own_decoder().to_network_input(data, larger)))
        except ImageDecodeError:
            continue
        rows.append(row)
        if len(rows) == _BATCH:
            yield rows, photos
            rows, photos = [], []
    if rows:
        yield rows, photos


def unpadded(photo: Photo) -> Pixels:
    """Return the pixels of a padded photo without its padding."""
    size = len(photo.pixels)
    side = max(photo.width, photo.height)
    width, height = (max(1, round(length * size / side)) for length in (photo.width, photo.height))
    left, top = (size - width) // 2, (size - height) // 2
    return np.ascontiguousarray(photo.pixels[top : top + height, left : left + width])
