"""An open bundle: recognition of photos, and the model card for pages and programs.

Independent of queues, threads and HTTP.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fruits.embedding.backbone import Embedder, no_embedding, usable
from fruits.errors import BundleError, ImageDecodeError, command
from fruits.photos.decoding.quality import measure
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import Answer
from fruits.recogniser.knowledge import season
from fruits.service.inference.pieces import Pieces, compact

#: Similar photos per answer.
SIMILAR_PHOTOS: Final = 6


class ModelAnswer(NamedTuple):
    """Result of a bundle for one photo.

    Attributes
    ----------
    answer : Answer
    similar : list of (int, float)
        Indices in the bundle's gallery and cosines, best first.
    bins : int64 array, shape (m,)
        Bins of the photo in the training distribution; see :class:`fruits.learning.drift.Drift`.
    places : float32 array, shape (rows, columns), or None
        Contribution of each position to the most probable kind, if asked for and known; see
        :meth:`fruits.recogniser.explain.Evidence.contribution`.
    """

    answer: Answer
    similar: list[tuple[int, float]]
    bins: NDArray[np.int64]
    places: NDArray[np.float32] | None = None


class Model:
    """An open bundle.

    Parameters
    ----------
    bundle : Bundle
    root : str
        Path prefix of the service, such as ``/fruits``.

    Attributes
    ----------
    bundle : Bundle
    identity : str
    names, kinds : dict of dict
        Names of every label and of every kind, in every language.
    pieces : Pieces
        JSON of what it says of any photo.
    labels_body, model_body : bytes
        Response bodies of ``/v1/labels`` and ``/v1/model``, encoded once.
    model_body_packed : bytes
        The latter compressed with gzip, to about a quarter.
    """

    def __init__(self, bundle: bundles.Bundle, root: str = "") -> None:
        self.bundle, self.root = bundle, root
        self.identity = bundle.identity
        self.embedder = Embedder(bundle.network)
        # Visitors' photos stay hidden until their consent has been checked (Resources.hide_withdrawn).
        self.hidden: frozenset[int] = frozenset(bundle.gallery.submission_ids)
        taxonomy = bundle.taxonomy
        named = [
            taxonomy.varieties[variety] if variety >= 0 else taxonomy.kinds[kind]
            for kind, variety in zip(taxonomy.kind_of, taxonomy.variety_of, strict=True)
        ]
        self.names = {label: name.names() for label, name in zip(taxonomy.labels, named, strict=True)}
        self.kinds = {kind: name.names() for kind, name in zip(taxonomy.kind_ids, taxonomy.kinds, strict=True)}
        labels = [
            {
                "label": label,
                "kind": taxonomy.kind_ids[kind],
                "variety": taxonomy.variety_ids[variety] if variety >= 0 else None,
                **self.names[label],
            }
            for label, kind, variety in zip(taxonomy.labels, taxonomy.kind_of, taxonomy.variety_of, strict=True)
        ]
        kinds = [{"kind": kind, **names} for kind, names in self.kinds.items()]
        self.labels_body = _json({"labels": labels, "kinds": kinds})
        self.model_body = _json(
            {
                "identity": self.identity,
                **asdict(bundle.preprocessing),
                "recognizer": f"{root}/v1/model/{self.identity}/recognizer.onnx",
                "bytes": len(bundle.recognizer),
                "sha256": hashlib.sha256(bundle.recognizer).hexdigest(),
                "labels": labels,
                "taxonomy": taxonomy.as_dict()
                | {
                    "kinds": [name.in_every_language() for name in taxonomy.kinds],
                    "varieties": [name.in_every_language() for name in taxonomy.varieties],
                },
                "certainty": bundle.certainty.as_dict(),
                "seasons": {kind: months for kind in taxonomy.kind_ids if (months := season(kind))},
                "look_alikes": bundle.look_alikes,
                "gallery": {
                    "photos": len(bundle.gallery),
                    "components": bundle.components,
                    "features": f"{root}/v1/gallery/{self.identity}/features.bin",
                },
            }
        )
        self.pieces = Pieces(
            self.names,
            self.kinds,
            self._possible_names(),
            gallery=[bundle.labels[at] for at in bundle.gallery.labels.tolist()],
            thumbnails=f"{root}/v1/gallery/{self.identity}",
            identity=self.identity,
        )
        self.model_body_packed = gzip.compress(self.model_body, mtime=0)

    def _possible_names(self) -> Iterator[tuple[str, str, dict[str, str] | None, dict[str, str] | None]]:
        """Yield kind, variety, name and line, in every language, of all that an answer may name, and of nothing."""
        yield "", "", None, None
        taxonomy = self.bundle.taxonomy
        for kind, name in zip(taxonomy.kind_ids, taxonomy.kinds, strict=True):
            yield kind, "", name.names(), name.lines()
        for at, (variety, name) in enumerate(zip(taxonomy.variety_ids, taxonomy.varieties, strict=True)):
            yield taxonomy.kind_ids[taxonomy.kind_of_variety(at)], variety, name.names(), name.lines()

    def recognise(
        self, pixels: NDArray[np.uint8], short_sides: NDArray[np.int64], *, explained: Sequence[bool] = ()
    ) -> list[ModelAnswer | ImageDecodeError]:
        """Recognise n photos; a photo without a usable embedding gets an ``ImageDecodeError``.

        Parameters
        ----------
        pixels : uint8 array, shape (n, size, size, 3)
        short_sides : int64 array, shape (n,)
            Shorter sides of the original photos, in pixels.
        explained : sequence of bool
            Of which photos to return the contributions of positions; none by default.
        """
        maps: NDArray[np.float32] | None = None
        if any(explained) and self.explains:
            embeddings, maps = self.embedder.embed_with_map(pixels)
        else:
            embeddings = self.embedder.embed(pixels)
        good = np.flatnonzero(usable(embeddings))
        outcomes: list[ModelAnswer | ImageDecodeError] = [no_embedding()] * len(pixels)
        places: dict[int, NDArray[np.float32]] = {}
        if maps is not None:
            asked = [row for row in good.tolist() if explained[row]]
            places = dict(zip(asked, self.bundle.places(embeddings[asked], maps[asked]), strict=True))
        if len(good) < len(pixels):
            pixels, embeddings, short_sides = pixels[good], embeddings[good], short_sides[good]
        if not len(good):
            return outcomes
        brightness, sharpness = measure(pixels)
        found = self.bundle.answers(embeddings, brightness, sharpness, short_sides)
        features = np.stack([answer.features for answer in found])
        similar = self.bundle.gallery.nearest(features, SIMILAR_PHOTOS, self.hidden)
        bins = self.bundle.drift.bins(features, np.array([answer.ood_score for answer in found], np.float32))
        for row, answer, near, own_bins in zip(good.tolist(), found, similar, bins, strict=True):
            outcomes[row] = ModelAnswer(answer, near, own_bins, places.get(row))
        return outcomes

    @property
    def explains(self) -> bool:
        """Whether contributions of positions are known: the head has a linear part and the network outputs its feature map."""
        return self.bundle.linear and self.embedder.has_map

    def check(self, seen: Answer | ImageDecodeError) -> None:
        """Raise ``BundleError`` unless the numbers of an answer are finite and in range."""
        if isinstance(seen, ImageDecodeError):
            raise BundleError(
                f"bundle '{self.bundle.root}': {seen} for a plain photo; make it again with {command('run')}"
            )
        answer = seen
        numbers = [answer.probability, *answer.probabilities, *answer.features]
        if not np.isfinite(numbers).all() or not all(0 <= p <= 1.0001 for p in answer.probabilities):
            raise BundleError(
                f"bundle '{self.bundle.root}' gives numbers that are none; make it again with {command('run')}"
            )


def made_photo() -> bytes:
    """Return a small JPEG of a red disk on white, for warm-up and self-checks."""
    y, x = np.mgrid[:160, :200]
    pixels = np.full((160, 200, 3), 255, np.uint8)
    pixels[(x - 100) ** 2 + (y - 80) ** 2 < 60**2] = (190, 40, 30)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def _json(values: Any) -> bytes:
    return compact(values).encode()
