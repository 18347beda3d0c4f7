"""The bundle: everything needed to recognise a photo, and nothing else. Loading and recognising; ``saving.py`` writes it.

A bundle is a folder: ``manifest.json``, the prepared backbone, the arrays of PCA, head and out-of-distribution score as ``.npy``,
the taxonomy of the labels (``taxonomy.json``), the thresholds between outcomes (``certainty.json``), some training photos
(``gallery.jpegs``), and ``recognizer.onnx``, the single graph from pixels to all outputs. Every file is verified against the
manifest before it is parsed; no pickle. Independent of catalogues, engines and training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.embedding.backbone import BATCH_SIZE, Embedder, computation_id, no_embedding, usable
from fruits.embedding.card import Card, parse_card
from fruits.embedding.graphs.onnx_file import refuse_outside
from fruits.embedding.model import ModelFile
from fruits.errors import BundleError, FruitsError, ImageDecodeError, option
from fruits.learning.drift import Drift
from fruits.learning.out_of_distribution import OodDetector
from fruits.photos.decoding.decoder import Size, own_decoder
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.decoding.quality import measure
from fruits.recogniser.answers import Answer, Certainty, answers
from fruits.recogniser.bundle_files import (
    OF_DRIFT,
    OF_GALLERY,
    SCALES,
    head_of,
    parse_arrays,
    parse_object,
    read_files,
)
from fruits.recogniser.classifier import Classifier
from fruits.recogniser.explain import Evidence, Explanation, as_jpeg
from fruits.recogniser.gallery import Gallery
from fruits.recogniser.knowledge import look_alikes
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.objects import is_remote, reach
from fruits.storage.outputs.runs import lock_run

#: Largest difference of probabilities between batch, bundle and single graph for a photo: float32 sums in different order.
PROBABILITY_TOLERANCE: Final = 1e-4

_THUMBNAIL_SIDE: Final = 128

_ARRAYS: Final = ("mean", "components", "whitening", "centres", "background")


class Bundle:
    """A loaded and verified bundle.

    Attributes
    ----------
    root : str
        The folder, or the prefix in a bucket.
    labels : list of str
        The c labels, in the order of the probabilities.
    card : Card
        Card of the backbone.
    preprocessing : Preprocessing
    taxonomy : Taxonomy
        Kinds, varieties and names of the labels.
    certainty : Certainty
        Thresholds between the outcomes.
    drift : Drift
        Reference distribution of the training photos.
    gallery : Gallery
        Some training photos with thumbnails.
    manifest : dict
        The parsed manifest.
    """

    def __init__(self, root: str, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        self.root = root
        self._lock = lock_run(root)
        self.manifest = manifest
        self.labels: list[str] = manifest["labels"]
        self.card: Card = parse_card(manifest["backbone"])
        self.preprocessing = Preprocessing(**manifest["preprocessing"])
        kind = head_of(manifest)
        every = parse_arrays(files, kind, sizes={"d": self.card.embedding_size, "c": len(self.labels)})
        arrays = {name: every[name] for name in _ARRAYS}
        self._mean, self._components = arrays["mean"], arrays["components"]
        head = kind(**{name: every[name] for name in kind.arrays})
        if (temperature := float(manifest["head"]["temperature"])) != 1:
            head = head.temperature_scaled(temperature)
        self._head = head
        if (shape := np.shape(head.logits(np.zeros((1, self.components), np.float32)))) != (1, len(self.labels)):
            raise ValueError(f"its head gives logits of shape {shape} for a photo; expected (1, {len(self.labels)})")
        certainty = parse_object(files["certainty.json"])
        self.certainty = Certainty.parse(certainty)
        self.taxonomy = Taxonomy.parse(parse_object(files["taxonomy.json"]))
        if list(self.taxonomy.labels) != self.labels:
            raise ValueError("taxonomy.json is of other labels")
        self.drift = Drift(**{name: every[f"drift_{name}"] for name in OF_DRIFT})
        of_gallery = {name: every[f"gallery_{name}"] for name in OF_GALLERY}
        self.gallery = Gallery(**of_gallery, jpegs=files["gallery.jpegs"])
        if len(self.gallery) and not 0 <= self.gallery.labels.min() <= self.gallery.labels.max() < len(self.labels):
            raise ValueError("the gallery is of other labels")
        scales = (float(certainty[name]) for name in SCALES)
        ood_detector = OodDetector(arrays["whitening"], arrays["centres"], arrays["background"], *scales)
        #: What follows the network, for worker processes.
        self.classifier = Classifier(self._mean, self._components, head, ood_detector, self.taxonomy, self.certainty)
        self._model = files["backbone.onnx"]
        #: The single graph, ``recognizer.onnx``, which browsers run.
        self.recognizer: bytes = files["recognizer.onnx"]
        self._embedder: Embedder | None = None

    def release(self) -> None:
        """Let its run be removed by others while it is open; then :attr:`model_file` may be gone, all else is in memory."""
        if self._lock is not None:
            self._lock.release()

    @property
    def network(self) -> bytes:
        """The prepared network, to create another :class:`~fruits.embedding.backbone.Embedder`."""
        return self._model

    @property
    def embedder(self) -> Embedder:
        """The network, opened on first use."""
        if self._embedder is None:
            self._embedder = Embedder(self._model)
        return self._embedder

    @property
    def model_file(self) -> ModelFile:
        """The prepared network as a file, for worker processes."""
        return ModelFile(self.root, "backbone.onnx", self.manifest["files"]["backbone.onnx"])

    @property
    def identity(self) -> str:
        """Identity of the bundle: 16 hexadecimal digits of a hash over all of its bytes."""
        return str(self.manifest["identity"])

    @property
    def computation(self) -> str:
        """Identity of the embedding job that the features of this bundle come from."""
        return self.computation_on(str(self.manifest["about"].get("device", "cpu")))

    def computation_on(self, device: str) -> str:
        """Return the identity of the embedding job of this network on a device."""
        return computation_id(self.card, self.preprocessing, device)

    @property
    def components(self) -> int:
        """The number of features, k."""
        return len(self._components)

    def recognise(self, photos: Sequence[bytes]) -> list[Answer]:
        """Recognise photos given as file contents; decoded in a separate process, since a bad photo may crash it.

        Raises
        ------
        ImageDecodeError
            If one of them cannot be decoded, or has no usable embedding.
        """
        found: list[Answer] = []
        for start in range(0, len(photos), BATCH_SIZE):
            with own_decoder().begin(photos[start : start + BATCH_SIZE], self.preprocessing) as decoding:
                sizes: list[Size] = []
                for outcome in decoding.outcomes():
                    if isinstance(outcome, ImageDecodeError):
                        raise outcome
                    sizes.append(outcome)
                pixels = decoding.pixels(self.preprocessing.size)
                brightness, sharpness = measure(pixels)
                embeddings = self.embedder.embed(pixels)
            if not usable(embeddings).all():
                raise no_embedding()
            found += self.answers(embeddings, brightness, sharpness, np.array([min(size) for size in sizes]))
        return found

    def explain(self, photo: bytes, label: str | None = None) -> Explanation:
        """Recognise a photo and return which of its regions contribute to the answer, or to another label.

        Parameters
        ----------
        photo : bytes
        label : str, optional
            One of ``labels``; the most probable kind by default.

        Raises
        ------
        ImageDecodeError
            If it cannot be decoded, or has no usable embedding.
        BundleError
            If the head is not linear, or the network does not end in global average pooling.
        """
        decoded = own_decoder().to_network_input(photo, self.preprocessing)
        return self.explain_pixels(decoded.pixels, Size(decoded.width, decoded.height), label)

    def explain_pixels(self, pixels: NDArray[np.uint8], size: Size, label: str | None = None) -> Explanation:
        """As :meth:`explain`, for decoded pixels.

        Parameters
        ----------
        pixels : uint8 array, shape (size, size, 3)
        size : Size
            Size of the original photo.
        label : str, optional
        """
        if not self._head.linear:
            raise BundleError(
                f"where an answer comes from cannot be told: the head '{self.manifest['head']['name']}' is not linear in the "
                f"features; expected one that is: run again with {option('head', 'logistic')}"
            )
        if not self.embedder.has_map:
            raise BundleError(
                f"'{self.card.name}' gives no feature map, so where an answer comes from cannot be told; expected a network that "
                f"gives one: run again with another network, such as {option('backbone', 'fruits-photo')}"
            )
        embeddings, maps = self.embedder.embed_with_map(pixels[None])
        if not usable(embeddings).all():
            raise no_embedding()
        (answer,) = self.answers(embeddings, *measure(pixels[None]), np.array([min(size)]))
        of = None if label is None else np.array(self.labels) == label
        return Explanation(answer, pixels, self.places(embeddings, maps, of)[0])

    def explained_thumbnail(self, photo: bytes, label: str, side: int = _THUMBNAIL_SIDE) -> bytes | None:
        """Return a small JPEG of a photo with what made it look like a label; None if the network or the head does not tell.

        Raises
        ------
        ImageDecodeError
            If it cannot be decoded, or has no usable embedding.
        """
        if not (self.linear and self.embedder.has_map):
            return None
        return as_jpeg(self.explain(photo, label), side)

    @cached_property
    def look_alikes(self) -> dict[str, list[dict[str, Any]]]:
        """What each kind is taken for, and how to tell them apart; see :func:`fruits.recogniser.knowledge.look_alikes`."""
        taxonomy = self.taxonomy
        return look_alikes(
            self.manifest["about"], taxonomy.kind_ids, taxonomy.kind_of, self.classifier.ood_detector.centres
        )

    @property
    def linear(self) -> bool:
        """Whether the head has a linear part, whose logits are the sum of what positions contribute."""
        return self._head.linear

    def places(
        self, embeddings: NDArray[np.float32], maps: NDArray[np.float32], labels: NDArray[np.bool_] | None = None
    ) -> list[NDArray[np.float32]]:
        """Return what the positions of n photos contribute, each of shape (rows, columns); the head must have a linear part.

        Parameters
        ----------
        embeddings : float32 array, shape (n, d)
        maps : float32 array, shape (n, d, rows, columns)
            Feature maps of which the embeddings are the means.
        labels : bool array, shape (c,), optional
            The labels contributed to; by default, for each photo those of its most probable kind.
        """
        probabilities = self.classify(embeddings)[1]
        best = self.taxonomy.by_kind(probabilities).argmax(axis=1)
        kind_of = np.array(self.taxonomy.kind_of)
        return [
            self._evidence.contribution(one, shares, kind_of == kind if labels is None else labels)
            for one, shares, kind in zip(maps, probabilities, best, strict=True)
        ]

    def logits_of_places(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of every position, shape (n, rows, columns, c), of feature maps (n, d, rows, columns).

        Their mean over positions is the photo's logits, those of the head's linear part.
        """
        return self._evidence.logits(maps)

    @cached_property
    def _evidence(self) -> Evidence:
        return Evidence.of(self._mean, self._components, self._head.linear_part)

    def answers(
        self,
        embeddings: NDArray[np.float32],
        brightness: NDArray[np.float32],
        sharpness: NDArray[np.float32],
        short_sides: NDArray[np.int64],
    ) -> list[Answer]:
        """Return the answers for embeddings (n, d) and quality measurements of the photos, each (n,)."""
        features, probabilities, ood_score = self.classify(embeddings)
        decisions = self.classifier.decide(probabilities, ood_score)
        measured = zip(brightness.tolist(), sharpness.tolist(), short_sides.tolist(), strict=True)
        advice = [self.certainty.limits.advice(*of_one) for of_one in measured]
        return answers(decisions, ood_score, features, self.taxonomy, advice)

    def answers_by_features(self, features: NDArray[np.float32]) -> list[Answer]:
        """Return the answers for features (n, k), without advice, which needs the pixels."""
        probabilities, ood_score = self.classifier.classify(features)
        decisions = self.classifier.decide(probabilities, ood_score)
        return answers(decisions, ood_score, features, self.taxonomy, [()] * len(features))

    def project(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features (n, k) of embeddings (n, d)."""
        return self.classifier.project(embeddings)

    def classify(
        self, embeddings: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return features (n, k), probabilities (n, c) and out-of-distribution scores (n,) of embeddings (n, d)."""
        features = self.project(embeddings)
        return features, *self.classifier.classify(features)


def is_bundle(path: str) -> bool:
    """Return whether a path denotes a bundle or results rather than a photo: a bucket, a folder or a name without suffix."""
    return is_remote(path) or Path(path).is_dir() or (not Path(path).exists() and not Path(path).suffix)


def load(path: str | Path) -> Bundle:
    """Load a bundle, or that of the current run of an output, after checking every file's sha256.

    The run is not removed by other processes of this machine while the bundle is open.

    Raises
    ------
    BundleError
        If there is no bundle, a file is missing or changed, or the format version is not supported.
    """
    reach(str(path))
    folder, manifest, files = read_files(str(path))
    try:
        for name in ("backbone.onnx", "recognizer.onnx"):
            refuse_outside(files[name], name)
        return Bundle(folder, manifest, files)
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        if isinstance(exc, FruitsError) and not isinstance(exc, BundleError):
            raise BundleError(f"bundle '{folder}' cannot be used: {exc}") from exc
        raise BundleError(
            f"bundle '{folder}' lacks something ({exc}); was it made by another version of fruits?"
        ) from exc
