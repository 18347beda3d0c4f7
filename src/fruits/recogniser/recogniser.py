"""The recogniser of the Python API: from photos of any supported type to answers, embeddings or explanations.

It wraps a bundle whose files are verified on loading. Types of photos are handled in ``photos.reading.inputs``. Independent of
training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fruits.embedding.backbone import no_embedding, usable
from fruits.embedding.photos import embed_photos, embedding_rows
from fruits.errors import ConfigError, counted, option
from fruits.photos.decoding.decoder import Size
from fruits.photos.decoding.quality import measure
from fruits.photos.reading.inputs import Batch, PhotoLike, as_status, decoded, is_one
from fruits.recogniser import bundle as bundles
from fruits.recogniser import shipped
from fruits.recogniser.answers import Answer
from fruits.recogniser.bundle import Bundle
from fruits.recogniser.explain import Explanation
from fruits.recogniser.regions import (
    Region,
    box_of,
    find_regions,
    part_of,
    refuse_without_map,
    short_side,
    without_padding,
    working_preprocessing,
)


def load(path: str | os.PathLike[str] | None = None) -> Recogniser:
    """Load a recogniser.

    Parameters
    ----------
    path : path, optional
        Results of ``fruits run``, or a bundle, on a disk or as ``s3://bucket/prefix``. By default, the recogniser of the package,
        which names 96 kinds of fruit and vegetables.

    Returns
    -------
    Recogniser

    Raises
    ------
    BundleError
        If there is no bundle, a file is missing or changed, or the format version is not supported.
    StoreError
        If the bucket cannot be reached.
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"{option('path', path)}: expected the results of a run or a bundle, or None for the recogniser that ships"
        )
    return Recogniser(bundles.load(shipped.path() if path is None else os.fspath(path)))


class Recogniser:
    """Recognises photos. Created by :func:`load`, or :meth:`Run.recogniser`.

    A photo is a path or ``s3://bucket/key``, the bytes of a file, a PIL image, or a uint8 array of shape (height, width) for
    grey, (height, width, 3) for RGB or (height, width, 4) for RGB with alpha. Files and bytes are decoded in a separate process,
    so that a damaged one does no harm. Orientation, colour profile and alpha of a PIL image are applied as for a file; an array
    gives the same answer as a PNG with the same pixels. Thread-safe.

    Parameters
    ----------
    bundle : Bundle
        From :func:`fruits.recogniser.bundle.load`.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def __repr__(self) -> str:
        return (
            f"<Recogniser of {counted(len(self.labels), 'label')}: {self.backbone}, d = {self.embedding_size}, k = "
            f"{self.components}; "
            f"{self.identity}>"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The c labels that it was trained on."""
        return tuple(self._bundle.labels)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the labels, such as ``apple``."""
        return self._bundle.taxonomy.kind_ids

    @property
    def backbone(self) -> str:
        """Name of the network."""
        return self._bundle.card.name

    @property
    def input_size(self) -> int:
        """Side of the network's square input, in pixels."""
        return self._bundle.preprocessing.size

    @property
    def embedding_size(self) -> int:
        """Numbers per embedding, d."""
        return self._bundle.card.embedding_size

    @property
    def components(self) -> int:
        """Features per photo, k."""
        return self._bundle.components

    @property
    def identity(self) -> str:
        """Identity of the recogniser: 16 hexadecimal digits of a hash over all bytes of its bundle."""
        return self._bundle.identity

    @overload
    def predict(self, photos: PhotoLike) -> Answer: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, photos: Iterable[PhotoLike]) -> list[Answer]: ...
    def predict(self, photos: PhotoLike | Iterable[PhotoLike]) -> Answer | list[Answer]:
        """Recognise photos.

        Parameters
        ----------
        photos : photo, or iterable of photo
            Several photos: a list or any other iterable, an array of shape (n, height, width, 3), or a column of a table.

        Returns
        -------
        Answer, or list of Answer
            One for one photo; a list, in the same order, for several. A bad photo among several does not raise: its answer has
            the status ``rejected`` (it cannot be decoded) or ``failed`` (it could not be read) and the reason in ``error``.

        Raises
        ------
        ImageDecodeError
            If a single photo cannot be decoded.
        StoreError
            If a single photo cannot be read.
        PhotoTypeError
            If an object is of no supported type of photo.
        EngineError
            If the decoding process cannot be started.
        """
        answers = [
            answer
            for batch, embeddings in embed_photos(photos, self._bundle.preprocessing, self._bundle.embedder)
            for answer in self._answers(batch, embeddings)
        ]
        return answers[0] if is_one(photos) else answers

    def embed(self, photos: PhotoLike | Iterable[PhotoLike]) -> NDArray[np.float32]:
        """Return the embeddings of photos.

        Parameters
        ----------
        photos : photo, or iterable of photo
            As for :meth:`predict`.

        Returns
        -------
        float32 array, shape (n, d)
            One row for a single photo. Among several, the row of a photo that cannot be read or decoded is NaN; :meth:`predict`
            gives the reason.

        Raises
        ------
        ImageDecodeError, StoreError, PhotoTypeError, EngineError
            As :meth:`predict`.
        """
        return embedding_rows(photos, self._bundle.preprocessing, self._bundle.embedder, self.embedding_size)[0]

    def features(self, photos: PhotoLike | Iterable[PhotoLike]) -> NDArray[np.float32]:
        """Return the features of photos: embeddings projected to the k principal components.

        Parameters
        ----------
        photos : photo, or iterable of photo

        Returns
        -------
        float32 array, shape (n, k)
            Rows as for :meth:`embed`.

        Raises
        ------
        ImageDecodeError, StoreError, PhotoTypeError, EngineError
            As :meth:`predict`.
        """
        return self._bundle.project(self.embed(photos))

    def explain(self, photo: PhotoLike) -> Explanation:
        """Recognise a photo and return which of its regions contribute to the answer.

        Parameters
        ----------
        photo : photo
            A single one.

        Returns
        -------
        Explanation

        Raises
        ------
        ImageDecodeError, StoreError, PhotoTypeError, EngineError
            As :meth:`predict`.
        BundleError
            If the network does not end in global average pooling, so that positions cannot be separated.

        References
        ----------
        Zhou et al. (2016), "Learning deep features for discriminative localization".
        """
        (batch,) = decoded([photo], self._bundle.preprocessing, batch_size=1)
        if batch.faults:
            raise batch.faults[0]
        return self._bundle.explain_pixels(batch.pixels[0], batch.sizes[0])

    def regions(self, photo: PhotoLike) -> list[Region]:
        """Return the regions of a photo that show something, each with its own answer: for photos of several kinds.

        It looks at a photo about fifteen times, so it takes as long as :meth:`predict` for fifteen photos.

        Parameters
        ----------
        photo : photo
            A single one.

        Returns
        -------
        list of Region
            At most six, those with a name first, from the top left to the bottom right; empty if nothing is recognised.
            ``str`` of one is a line of text.

        Raises
        ------
        ImageDecodeError, StoreError, PhotoTypeError, EngineError
            As :meth:`predict`.
        BundleError
            If the head is not linear, or the network does not end in global average pooling.
        """
        refuse_without_map(self._bundle, self._bundle.embedder)
        return find_regions(self._bundle, self._bundle.embedder, *self._picture(photo))

    def predict_part(self, photo: PhotoLike, box: Sequence[float]) -> Answer:
        """Recognise a part of a photo.

        Parameters
        ----------
        photo : photo
            A single one.
        box : (left, top, right, bottom)
            Fractions of the width and the height of the upright photo, from the top left corner.

        Returns
        -------
        Answer

        Raises
        ------
        ConfigError
            If the box is none, or too small.
        ImageDecodeError, StoreError, PhotoTypeError, EngineError
            As :meth:`predict`.
        """
        part = box_of(box)
        picture, size = self._picture(photo)
        pixels = part_of(picture, part, self._bundle.preprocessing)[None]
        embeddings = self._bundle.embedder.embed(pixels)
        if not usable(embeddings).all():
            raise no_embedding()
        return self._bundle.answers(embeddings, *measure(pixels), np.array([short_side(part, size)]))[0]

    def _picture(self, photo: PhotoLike) -> tuple[NDArray[np.uint8], Size]:
        """Return the pixels of a photo, to cut parts out of, and its original size."""
        (batch,) = decoded([photo], working_preprocessing(self._bundle.preprocessing), batch_size=1)
        if batch.faults:
            raise batch.faults[0]
        return without_padding(batch.pixels[0], batch.sizes[0]), batch.sizes[0]

    def _answers(self, batch: Batch, embeddings: NDArray[np.float32]) -> list[Answer]:
        """Return an answer for every photo of a batch, given the embeddings of the decoded ones."""
        found: dict[int, Answer] = {}
        for row, fault in batch.faults.items():
            found[row] = Answer.without(*as_status(fault))
        if batch.ok:
            sides = np.array([min(size) for size in batch.sizes])
            answers = self._bundle.answers(embeddings, *measure(batch.pixels), sides)
            found |= zip(batch.ok, answers, strict=True)
        return [found[row] for row in range(batch.n)]
