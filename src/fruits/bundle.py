"""Everything needed to recognise a photo, and nothing else: save it, load it, ask it.

A bundle is a folder: ``manifest.json``, the prepared backbone, the arrays of PCA and head as ``.npy``, and ``recognizer.onnx``,
the single graph from pixels to probabilities. Every byte is checked against the manifest before any of it is parsed; no
pickle. Knows nothing of catalogues, engines or how the recogniser was fitted.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.embedding.backbone import BATCH_SIZE, Card, Embedder, computation_id, parse_card
from fruits.errors import BundleError, FruitsError
from fruits.learning.head import Head
from fruits.learning.metrics import best_labels
from fruits.learning.pca import project
from fruits.photos.images import Preprocessing, to_network_input

#: To change what a bundle holds: raise this number, and add a test that bundles of the old one are read or refused by name.
FORMAT_VERSION: Final = 1
#: Largest distance of probabilities between batch, bundle and single graph for the same photo: float32 sums in another order.
PROBABILITY_TOLERANCE: Final = 1e-4
BEST: Final = 3

_ARRAYS: Final = ("mean", "components", "weights", "bias")
_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a bundle says of one photo.

    Attributes
    ----------
    labels : tuple of str
        The most probable labels, best first; at most ``BEST``.
    probabilities : tuple of float
        Of these labels.
    features : float32 array, shape (k,)
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    features: NDArray[np.float32]


class Bundle:
    """A recogniser that was loaded and checked.

    Attributes
    ----------
    path : Path
        The folder.
    labels : list of str
        c, in the order of the probabilities.
    card : Card
        Of the backbone.
    preprocessing : Preprocessing
    manifest : dict
        As read.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        self.path = path
        self.manifest = manifest
        self.labels: list[str] = manifest["labels"]
        self.card: Card = parse_card(manifest["backbone"])
        self.preprocessing = Preprocessing(**manifest["preprocessing"])
        arrays = {name: np.load(io.BytesIO(files[f"{name}.npy"]), allow_pickle=False) for name in _ARRAYS}
        self._mean, self._components = arrays["mean"], arrays["components"]
        self._head = Head(arrays["weights"], arrays["bias"])
        self._model = files["backbone.onnx"]
        self._embedder: Embedder | None = None

    @property
    def backbone_path(self) -> Path:
        """The prepared network, as the file that workers open."""
        return self.path / "backbone.onnx"

    @property
    def computation(self) -> str:
        """Identity of the embeddings that this bundle's features come from."""
        return computation_id(self.card, self.preprocessing)

    @property
    def components(self) -> int:
        """The number of features, k."""
        return len(self._components)

    def recognise(self, photos: Sequence[bytes]) -> list[Answer]:
        """Recognise photos given as the bytes of their files.

        Raises
        ------
        ImageDecodeError
            If one of them is not a photo.
        """
        answers: list[Answer] = []
        for start in range(0, len(photos), BATCH_SIZE):
            some = photos[start : start + BATCH_SIZE]
            pixels = np.stack([to_network_input(photo, self.preprocessing).pixels for photo in some])
            if self._embedder is None:
                self._embedder = Embedder(self._model)
            features, probabilities = self.classify(self._embedder.embed(pixels))
            for row, best in enumerate(best_labels(probabilities, BEST)):
                labels = tuple(self.labels[label] for label in best)
                answers.append(Answer(labels, tuple(float(p) for p in probabilities[row, best]), features[row]))
        return answers

    def classify(self, embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return features (n, k) and probabilities (n, c) of embeddings (n, d)."""
        features = project(embeddings, self._mean, self._components)
        return features, self._head.predict_proba(features)


def save(
    path: Path,
    *,
    model: bytes,
    card: Card,
    preprocessing: Preprocessing,
    mean: NDArray[np.float64],
    components: NDArray[np.float64],
    head: Head,
    labels: list[str],
    about: dict[str, Any],
) -> None:
    """Write a bundle; it replaces the one at ``path`` only when it is whole.

    Parameters
    ----------
    path : Path
        The bundle's folder.
    model : bytes
        The prepared backbone.
    card : Card
    preprocessing : Preprocessing
    mean : array, shape (d,)
    components : array, shape (k, d)
    head : Head
    labels : list of str
        c names.
    about : dict
        Metrics, config and library versions: for people, no part of recognising.

    Raises
    ------
    BundleError
        If the folder cannot be written.
    """
    from fruits.embedding.graph import with_recogniser  # noqa: PLC0415 - onnx is half a second of import

    given = {"mean": mean, "components": components, "weights": head.weights, "bias": head.bias}
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in given.items()}
    info = {
        "fruits.labels": json.dumps(labels, ensure_ascii=False),
        "fruits.preprocessing": json.dumps(asdict(preprocessing)),
    }
    files = {
        "backbone.onnx": model,
        "recognizer.onnx": with_recogniser(model, metadata=info, **arrays),
        **{f"{name}.npy": _npy(value) for name, value in arrays.items()},
    }
    manifest = {
        "format": FORMAT_VERSION,
        "labels": labels,
        "backbone": asdict(card),
        "preprocessing": asdict(preprocessing),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        "about": about,
    }
    files[_MANIFEST] = _manifest_bytes(manifest)
    new, old = path.with_name(f"{path.name}.new-{os.getpid()}"), path.with_name(f"{path.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, data in files.items():
            (new / name).write_bytes(data)
        _replace(path, new, old)
    except OSError as exc:
        raise BundleError(f"bundle '{path}' cannot be written ({exc.strerror}); check space and permissions") from exc


def _replace(path: Path, new: Path, old: Path) -> None:
    """Put the folder ``new`` at ``path``, whatever other runs put there meanwhile: the last one stays.

    Between two renames there is no bundle for an instant; a reader that comes just then must try again.
    """
    while True:
        with suppress(FileNotFoundError):
            path.rename(old)
        try:
            new.rename(path)
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another run was faster: its bundle is the old one now
                shutil.rmtree(old, ignore_errors=True)
                continue
            with suppress(OSError):
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return


def load(path: str | Path) -> Bundle:
    """Load a bundle, or the one in the results of a run, after checking every file's sha256.

    Raises
    ------
    BundleError
        If there is none, a file is missing or not the one that was saved, or the format is another version's.
    """
    folder = Path(path)
    try:
        if not (folder / _MANIFEST).is_file():
            folder = folder / "bundle"
        data = (folder / _MANIFEST).read_bytes()
    except OSError as exc:
        raise BundleError(
            f"no bundle in '{path}'; expected the results of 'fruits run PHOTOS --to {path}', or a folder with manifest.json"
        ) from exc
    manifest = _checked_manifest(data, folder)
    files = {}
    for name, digest in manifest["files"].items():
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as exc:
            raise BundleError(
                f"bundle '{folder}': {name} is missing ({exc.strerror}); copy the bundle again, whole"
            ) from exc
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise BundleError(
                f"bundle '{folder}': {name} is not the file that was saved (another sha256); copy it again"
            )
    try:
        return Bundle(folder, manifest, files)
    except (KeyError, TypeError, ValueError) as exc:
        if isinstance(exc, FruitsError) and not isinstance(exc, BundleError):
            raise BundleError(f"bundle '{folder}' cannot be used: {exc}") from exc
        raise BundleError(
            f"bundle '{folder}' lacks something ({exc}); was it made by another version of fruits?"
        ) from exc


def _checked_manifest(data: bytes, folder: Path) -> dict[str, Any]:
    damaged = f"bundle '{folder}': {_MANIFEST} is not the file that was saved; copy it again"
    try:
        manifest: dict[str, Any] = json.loads(data)
        given = manifest["format"]
    except (ValueError, KeyError, TypeError) as exc:
        raise BundleError(damaged) from exc
    # Our own writing of what was read must give the same bytes: then no byte of it, not even a space, has changed.
    checksum = manifest.pop("sha256", None)
    if _checksum(manifest) != checksum or _manifest_bytes(manifest) != data:
        raise BundleError(damaged)
    if given != FORMAT_VERSION:
        raise BundleError(
            f"bundle '{folder}' has format {given}; this version of fruits reads {FORMAT_VERSION}: run it again"
        )
    return manifest


def _manifest_bytes(manifest: dict[str, Any]) -> bytes:
    return json.dumps({**manifest, "sha256": _checksum(manifest)}, indent=1, ensure_ascii=False).encode()


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, ensure_ascii=False).encode()).hexdigest()


def _npy(array: NDArray[np.float32]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()
