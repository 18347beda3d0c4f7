"""A recogniser for programs: photos of any sort in, answers, embeddings or pictures out.

What it holds is a bundle, checked byte by byte; how photos become pixels is said in ``photos.reading.given``. Knows nothing of
how a recogniser is trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fruits.embedding.photos import embed_photos, embedding_rows
from fruits.photos.decoding.quality import measure
from fruits.photos.reading.given import Batch, PhotoLike, as_status, decoded, is_one
from fruits.recogniser import bundle as bundles
from fruits.recogniser import shipped
from fruits.recogniser.answers import Answer
from fruits.recogniser.bundle import Bundle
from fruits.recogniser.explain import Explanation


def load(path: str | os.PathLike[str] | None = None) -> Recogniser:
    """Load a recogniser.

    Parameters
    ----------
    path : path, optional
        Results of ``fruits run``, or a bundle, on a disk or as ``s3://bucket/prefix``. Without: the recogniser that ships with
        the package and names 96 kinds of fruit and vegetables.

    Returns
    -------
    Recogniser

    Raises
    ------
    BundleError
        If there is none, a file is missing or not the one that was saved, or the format is another version's.
    StoreError
        If the bucket cannot be reached.
    """
    return Recogniser(bundles.load(shipped.path() if path is None else os.fspath(path)))


class Recogniser:
    """Names what is on photos. Made by :func:`load`, or :meth:`Run.recogniser`.

    A photo is a path or ``s3://bucket/key``, the bytes of a file, a PIL image, or a uint8 array of shape (height, width) for
    grey, (height, width, 3) for RGB or (height, width, 4) for RGB with alpha. Files and bytes are decoded in a process of its
    own, so that a damaged one harms nothing. Of a PIL image, orientation, colour profile and alpha count as in a file; the same
    pixels give the same answer as a PNG of them. Threads may share a recogniser.

    Parameters
    ----------
    bundle : Bundle
        As :func:`fruits.recogniser.bundle.load` returns it.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def __repr__(self) -> str:
        return (
            f"<Recogniser of {len(self.labels)} labels: {self.backbone}, d = {self.embedding_size}, k = {self.components}; "
            f"{self.identity}>"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The c labels that it was trained on."""
        return tuple(self._bundle.labels)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that the labels make, such as ``apple``."""
        return self._bundle.taxonomy.kind_ids

    @property
    def backbone(self) -> str:
        """Name of the network."""
        return self._bundle.card.name

    @property
    def input_size(self) -> int:
        """Side of the square that the network sees, in pixels."""
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
        """Which recogniser it is: 16 hexadecimal digits that change with any byte of its bundle."""
        return self._bundle.identity

    @overload
    def predict(self, photos: PhotoLike) -> Answer: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, photos: Iterable[PhotoLike]) -> list[Answer]: ...
    def predict(self, photos: PhotoLike | Iterable[PhotoLike]) -> Answer | list[Answer]:
        """Say what is on photos.

        Parameters
        ----------
        photos : photo, or iterable of photo
            Several are a list, any other iterable, an array of shape (n, height, width, 3), or a column of a table.

        Returns
        -------
        Answer, or list of Answer
            One for one photo; a list, in the same order, for several. One bad photo of several is data: its answer has the status
            ``rejected`` (it will never decode) or ``failed`` (it could not be read) and says why in ``error``.

        Raises
        ------
        ImageDecodeError
            If a single photo cannot be decoded.
        StoreError
            If a single photo cannot be read.
        PhotoTypeError
            If something is none of the things that a photo can be.
        EngineError
            If the process that decodes cannot be started.
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
            One row for a single photo. Of several, the row of one that cannot be read or decoded is NaN; :meth:`predict` says
            why.

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
            As for :meth:`predict`.

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
        """Say what is on a photo and where in it the answer comes from.

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
            If the network does not end in the mean of a feature map, so that places cannot be told apart.

        References
        ----------
        Zhou et al. (2016), "Learning deep features for discriminative localization".
        """
        (batch,) = decoded([photo], self._bundle.preprocessing, batch_size=1)
        if batch.faults:
            raise batch.faults[0]
        return self._bundle.explain_pixels(batch.pixels[0], batch.sizes[0])

    def _answers(self, batch: Batch, embeddings: NDArray[np.float32]) -> list[Answer]:
        """Return an answer for every photo of a batch, given the embeddings of those that have some."""
        found: dict[int, Answer] = {}
        for row, fault in batch.faults.items():
            found[row] = Answer.without(*as_status(fault))
        if batch.ok:
            sides = np.array([min(size) for size in batch.sizes])
            answers = self._bundle.answers(embeddings, *measure(batch.pixels), sides)
            found |= zip(batch.ok, answers, strict=True)
        return [found[row] for row in range(batch.n)]
