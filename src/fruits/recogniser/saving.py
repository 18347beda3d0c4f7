"""Saving a bundle: its arrays, the single graph and the manifest, complete before anyone sees it."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fruits import extensions
from fruits.embedding.backbone import Embedder, probes, usable
from fruits.embedding.card import Card
from fruits.embedding.session import first_line, open_session
from fruits.embedding.steps import graph_steps
from fruits.errors import BundleError
from fruits.learning.drift import Drift
from fruits.learning.heads import Head, get_head
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.pca import project
from fruits.photos.decoding.images import Preprocessing
from fruits.recogniser.answers import Certainty
from fruits.recogniser.bundle import PROBABILITY_TOLERANCE
from fruits.recogniser.bundle_files import (
    FORMAT_VERSION,
    MANIFEST,
    OF_DRIFT,
    OF_GALLERY,
    SCALES,
    array_files,
    manifest_bytes,
    replace_folder,
)
from fruits.recogniser.gallery import Gallery
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.objects import Objects, is_remote
from fruits.storage.sanitising import json_text


def save(
    root: str | Path,
    *,
    model: bytes,
    card: Card,
    preprocessing: Preprocessing,
    mean: NDArray[np.float64],
    components: NDArray[np.float64],
    head: Head,
    ood_detector: OodDetector,
    taxonomy: Taxonomy,
    certainty: Certainty,
    drift: Drift,
    gallery: Gallery,
    about: dict[str, Any],
    head_name: str = "logistic",
) -> None:
    """Write a bundle; on a disk it replaces an existing one only once it is complete.

    In a bucket, which has no rename, files are replaced one by one, the manifest last: a concurrent reader finds hashes that do
    not match and gets an error, never a mixture of two bundles. A run writes into a folder of its own, which nobody reads yet.

    Parameters
    ----------
    root : str or Path
        The bundle's folder, or its prefix in a bucket.
    model : bytes
        The prepared backbone.
    card : Card
    preprocessing : Preprocessing
    mean : array, shape (d,)
    components : array, shape (k, d)
    head : Head
        Calibrated.
    ood_detector : OodDetector
    taxonomy : Taxonomy
        Of the c labels.
    certainty : Certainty
    drift : Drift
    gallery : Gallery
        Of the c labels.
    about : dict
        Metrics, config and library versions: for information, not used in recognition.
    head_name : str
        Registered name of the head, used to find it when the bundle is loaded.

    Raises
    ------
    BundleError, StoreError
        If the folder, or the bucket, cannot be written, or the head gives other results in the single graph.
    """
    from fruits.embedding.graphs.graph import with_recogniser  # noqa: PLC0415 - onnx is half a second of import

    if get_head(head_name) is not type(head):
        raise BundleError(
            f"'{head_name}' is not the name of the head {type(head).__name__}; give the one it is found by"
        )
    arrays = {
        name: np.ascontiguousarray(value, np.float32)
        for name, value in {"mean": mean, "components": components}.items()
    }
    of_head = array_files(head)
    arrays_of_detector = {
        "whitening": ood_detector.whitening,
        "centres": ood_detector.centres,
        "background": ood_detector.background,
    }
    certain = json_text({**certainty.as_dict(), **{name: getattr(ood_detector, name) for name in SCALES}}, indent=1)
    meaning = json_text(taxonomy.as_dict(), indent=1, ensure_ascii=False)
    info = {
        "fruits.labels": json_text(taxonomy.labels, ensure_ascii=False),
        "fruits.preprocessing": json_text(asdict(preprocessing)),
        "fruits.steps": json_text([*preprocessing.steps, *graph_steps(card)]),
        "fruits.taxonomy": meaning,
        "fruits.certainty": certain,
    }
    single = with_recogniser(
        model, head=head, ood_detector=ood_detector, size=preprocessing.size, metadata=info, **arrays
    )
    _compare(single, model, head, head_name, preprocessing.size, **arrays)
    files = {
        "backbone.onnx": model,
        "recognizer.onnx": single,
        "taxonomy.json": meaning.encode(),
        "certainty.json": certain.encode(),
        "gallery.jpegs": gallery.jpegs,
        **{f"{name}.npy": _npy(value) for name, value in {**arrays, **of_head, **arrays_of_detector}.items()},
        **{f"drift_{name}.npy": _npy(getattr(drift, name)) for name in OF_DRIFT},
        **{f"gallery_{name}.npy": _npy(getattr(gallery, name)) for name in OF_GALLERY},
    }
    manifest = {
        "format": FORMAT_VERSION,
        "labels": list(taxonomy.labels),
        "backbone": asdict(card),
        "preprocessing": asdict(preprocessing),
        "head": {"name": head_name, "temperature": head.temperature},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        "about": about,
    }
    files[MANIFEST] = manifest_bytes(manifest)
    if is_remote(str(root)):
        objects = Objects(str(root))
        for name, data in files.items():  # the manifest is the last one
            objects.write(name, data)
        return
    path = Path(root)
    new, old = path.with_name(f"{path.name}.new-{os.getpid()}"), path.with_name(f"{path.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, data in files.items():
            (new / name).write_bytes(data)
        replace_folder(path, new, old)
    except OSError as exc:
        raise BundleError(f"bundle '{path}' cannot be written ({exc.strerror}); check space and permissions") from exc


def _compare(
    single: bytes,
    model: bytes,
    head: Head,
    head_name: str,
    size: int,
    *,
    mean: NDArray[np.float32],
    components: NDArray[np.float32],
) -> None:
    """Raise unless a head of another package agrees with the single graph on synthetic photos; our own heads are tested."""
    if extensions.get("head", head_name).own:
        return
    photos = probes(size)
    embeddings = Embedder(model).embed(photos)
    good = usable(embeddings)
    expected = head.predict_proba(project(embeddings[good], mean, components))
    try:
        (found,) = open_session(single).run(["probabilities"], {"pixels": photos[good]})
        apart = float(np.abs(found - expected).max())
    except Exception as exc:  # ONNX Runtime raises plain subclasses of Exception
        raise BundleError(
            f"the single graph with the head '{head_name}' cannot be run ({first_line(exc)}); correct its add_to_graph"
        ) from exc
    if not apart <= PROBABILITY_TOLERANCE:
        raise BundleError(
            f"the head '{head_name}' gives other probabilities in the single graph than in logits (apart by {apart:.2g}); "
            f"expected the same up to {PROBABILITY_TOLERANCE:g}: correct its add_to_graph"
        )


def _npy(array: NDArray[Any]) -> bytes:
    out = BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()
