"""The files of a bundle, treated as untrusted: exact names, regular files, bounded sizes, every hash and header verified.

Every fault raises :class:`~fruits.errors.BundleError`. Nothing is parsed before its hash matches the manifest, and no more memory
is allocated than the files have bytes. Independent of what the files are used for.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.embedding.graphs.onnx_file import MAX_BYTES
from fruits.errors import BundleError, ConfigError, command, option
from fruits.learning.heads import Head, get_head
from fruits.storage.disk.local import RefusedFileError, read_plain
from fruits.storage.objects import AbsentError, is_remote, opened, uri_of
from fruits.storage.outputs import runs
from fruits.storage.sanitising import json_text, printable

MANIFEST: Final = "manifest.json"
#: To change the content of a bundle: increase this number, and add a test that bundles of the old format load or are refused.
#: 2: with taxonomy, certainty and an out-of-distribution score, to say a kind, "not sure", "none of these".
#: 3: with a gallery, to show similar photos, and the deciles of the training photos, to measure drift.
#: 4: certainty has a threshold for probable kinds; bundles of format 3 still load, without this outcome.
#: 5: with the name of the head, its temperature and its arrays; before, the head was always logistic regression.
#: 6: ``recognizer.onnx`` gives ``ood_score``, and certainty has ``ood_limit``; before, they are called strangeness and strange.
FORMAT_VERSION: Final = 6
_READ: Final = (3, 4, 5, FORMAT_VERSION)
_FIRST_WITH_HEAD: Final = 5
#: Type and shape of every array except those of the head; a letter stands for the same size everywhere: d, k and c as usual, m
#: of drift, g of the gallery.
_SHAPES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "mean": ("f4", ("d",)),
    "components": ("f4", ("k", "d")),
    "whitening": ("f4", ("k", "k")),
    "centres": ("f4", ("c", "k")),
    "background": ("f4", ("k",)),
    "drift_edges": ("f4", ("m", "9")),
    "drift_shares": ("f4", ("m", "10")),
    "gallery_labels": ("i8", ("g",)),
    "gallery_features": ("f4", ("g", "k")),
    "gallery_offsets": ("i8", ("g+1",)),
}
#: Names of the arrays of drift and of the gallery, after their prefix, and of the numbers of the out-of-distribution score.
OF_DRIFT: Final = ("edges", "shares")
OF_GALLERY: Final = ("labels", "features", "offsets")
SCALES: Final = ("entropy_scale", "distance_scale", "offset")
_MOST_BYTES_OF_ARRAY: Final = 1 << 30
#: The files of a bundle, with the arrays of its head no more and no less, and how many bytes each may have.
_MOST_BYTES: Final[dict[str, int]] = {
    "backbone.onnx": MAX_BYTES,
    "recognizer.onnx": MAX_BYTES,
    "taxonomy.json": 1 << 26,
    "certainty.json": 1 << 20,
    "gallery.jpegs": 1 << 26,
    **{f"{name}.npy": _MOST_BYTES_OF_ARRAY for name in _SHAPES},
}
_NETWORK: Final = "backbone.onnx"
_MOST_BYTES_OF_MANIFEST: Final = 1 << 26
_HASH: Final = re.compile("[0-9a-f]{64}")


def read_files(path: str) -> tuple[str, dict[str, Any], dict[str, bytes]]:
    """Return the folder of a bundle, its manifest and its files, after verifying every name, size and hash.

    Parameters
    ----------
    path : str
        The bundle, or the results of a run.

    Raises
    ------
    BundleError
        If there is no bundle, or any file differs from what ``fruits run`` wrote.
    """
    folder = folder_of(path)
    while True:
        try:
            return folder, *_files_in(folder, path)
        except BundleError:
            # A run that is no longer current may be removed while it is read.
            before, folder = folder, folder_of(path)
            if folder == before:
                raise


def network_of(path: str) -> tuple[int, int]:
    """Return the bytes of a bundle's network and the side of its input in pixels, from its manifest; the network is not read.

    Parameters
    ----------
    path : str
        The bundle, or the results of a run.

    Raises
    ------
    BundleError
        If there is no bundle, or its manifest differs from what ``fruits run`` wrote.
    """
    folder = folder_of(path)
    manifest = _manifest_of(folder, path)
    size = opened(folder).size(_NETWORK) if is_remote(folder) else (Path(folder) / _NETWORK).stat().st_size
    return size or 0, int(manifest["preprocessing"]["size"])


def folder_of(path: str) -> str:
    """Return the folder of the bundle that a path denotes: the path itself, or the one in a run; it may be absent.

    Raises
    ------
    StoreError
        If the pointer to the current run is damaged.
    """
    there = opened(path).stat(MANIFEST) is not None if is_remote(path) else os.path.lexists(Path(path) / MANIFEST)
    if there:
        return runs.resolved(path)
    return uri_of(runs.find(path).folder, runs.BUNDLE)


def _manifest_of(folder: str, path: str) -> dict[str, Any]:
    try:
        data = _file(folder, MANIFEST, _MOST_BYTES_OF_MANIFEST)
    except (FileNotFoundError, NotADirectoryError, AbsentError):
        raise BundleError(
            f"no bundle in '{path}'; expected the results of {command('run', 'PHOTOS', to=path)}, or a folder with manifest.json"
        ) from None
    except OSError as exc:
        raise BundleError(f"bundle '{folder}': {MANIFEST} cannot be read ({exc.strerror}); copy it again") from exc
    return _checked_manifest(data, folder)


def _files_in(folder: str, path: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    manifest = _manifest_of(folder, path)
    files = {}
    for name, digest in manifest["files"].items():
        try:
            files[name] = _file(folder, name, _MOST_BYTES.get(name, _MOST_BYTES_OF_ARRAY))
        except RefusedFileError as exc:
            raise BundleError(
                f"bundle '{folder}': {name} is refused ({exc.strerror}); copy the bundle again, whole"
            ) from exc
        except OSError as exc:
            raise BundleError(
                f"bundle '{folder}': {name} is missing ({exc.strerror or exc}); copy the bundle again, whole"
            ) from exc
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise BundleError(
                f"bundle '{folder}': {name} is not the file that was saved (another sha256); copy it again"
            )
    return manifest, files


def _file(folder: str, name: str, most_bytes: int) -> bytes:
    """Return the content of a regular file (no link, pipe or device) of limited size."""
    if not is_remote(folder):
        return read_plain(Path(folder) / name, most_bytes)
    # Reading must not create the folder, as opening it for results would.
    objects = opened(folder)
    size = objects.size(name)
    if size is not None and size > most_bytes:
        raise RefusedFileError(f"{size:,} bytes; expected at most {most_bytes:,}")
    return objects.read(name)


def _checked_manifest(data: bytes, folder: str) -> dict[str, Any]:
    damaged = f"bundle '{folder}': {MANIFEST} is not the file that was saved; copy it again"
    try:
        manifest = parse_object(data)
        given = manifest["format"]
        # Serialising the parsed manifest must give the same bytes: then not even a space has changed.
        checksum = manifest.pop("sha256", None)
        if _checksum(manifest) != checksum or manifest_bytes(manifest) != data:
            raise BundleError(damaged)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BundleError(damaged) from exc
    manifest["identity"] = checksum[:16]
    if given not in _READ:
        raise BundleError(
            f"bundle '{folder}' has format {printable(str(given)[:40])}; this version of fruits reads {_READ[0]} to "
            f"{FORMAT_VERSION}: run it again"
        )
    if given < _FIRST_WITH_HEAD:
        manifest["head"] = {"name": "logistic", "temperature": 1.0}
    if wrong := _wrong(manifest):
        raise BundleError(f"bundle '{folder}': {MANIFEST} holds {wrong}; expected what {command('run')} wrote")
    return manifest


def head_of(manifest: dict[str, Any]) -> type[Head]:
    """Return the class of a bundle's head.

    Raises
    ------
    BundleError
        If it is not installed.
    ExtensionError
        If the package that provides it cannot be loaded.
    """
    name = printable(manifest["head"]["name"][:100])
    try:
        return get_head(name)
    except ConfigError as exc:
        raise BundleError(f"the bundle was made with {option('head', name)}: {exc}") from exc


def _wrong(manifest: dict[str, Any]) -> str | None:
    """Return the first fault of a manifest: a missing field, a wrong type, or a wrong list of files; None if valid."""
    kinds = {"labels": list, "backbone": dict, "preprocessing": dict, "head": dict, "files": dict, "about": dict}
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            return f"no {name}" if name not in manifest else f"{name} of another type"
    labels: list[Any] = manifest["labels"]
    if not labels or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        return "labels that are not one text each"
    head, temperature = (manifest["head"].get(name) for name in ("name", "temperature"))
    if not isinstance(head, str) or not isinstance(temperature, int | float) or not 0 < temperature < np.inf:
        return "a head without a name and a temperature"
    files: dict[str, Any] = manifest["files"]
    expected = _MOST_BYTES.keys() | {f"{array}.npy" for array in head_of(manifest).arrays}
    if files.keys() != expected:
        odd = sorted(files.keys() ^ expected)[0]
        return f"{'a file too many' if odd in files else 'no file'}, '{printable(odd[:100])}'"
    if not all(isinstance(digest, str) and _HASH.fullmatch(digest) for digest in files.values()):
        return "a hash that is none"
    return None


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; all numbers must be finite.

    Raises
    ------
    ValueError
        If the bytes are anything else.
    """
    try:
        values = json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as exc:
        raise ValueError("JSON nested too deeply") from exc
    if not isinstance(values, dict):
        raise TypeError("no JSON object")
    return values


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if np.isfinite(value) else _no_number(text[:20])


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """Serialise a manifest, with its checksum."""
    return json_text({**manifest, "sha256": _checksum(manifest)}, indent=1, ensure_ascii=False).encode()


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json_text(manifest, ensure_ascii=False).encode()).hexdigest()


def parse_arrays(files: dict[str, bytes], head: type[Head], sizes: dict[str, int]) -> dict[str, NDArray[Any]]:
    """Parse all arrays; headers are verified against the expected type and shape and against the size of the file.

    Parameters
    ----------
    files : dict
    head : type of Head
        Class of the head, which defines its arrays.
    sizes : dict
        Known sizes by letter; other sizes must be equal wherever the same letter occurs.

    Raises
    ------
    ValueError
        If an array has another type, shape or number of bytes, or contains values that are not finite.
    """
    arrays = {}
    known = dict(sizes)
    for name, (kind, letters) in {**_SHAPES, **head.arrays}.items():
        array = arrays[name] = _array(files[f"{name}.npy"], name, np.dtype(f"<{kind}"), len(letters))
        for letter, size in zip(letters, array.shape, strict=True):
            symbol, _, more = letter.partition("+")
            expected = int(symbol) if symbol.isdigit() else known.setdefault(symbol, size - int(more or 0))
            if size != expected + int(more or 0):
                raise ValueError(f"{name}.npy has shape {array.shape}; expected {letter} = {expected + int(more or 0)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}.npy holds numbers that are not finite")
    return arrays


def array_files(head: Head) -> dict[str, NDArray[Any]]:
    """Return the arrays of a head as stored in a bundle.

    Raises
    ------
    BundleError
        If a name collides with another array of the bundle.
    """
    if taken := sorted(head.arrays.keys() & _SHAPES.keys()):
        raise BundleError(f"an array of the head is called '{taken[0]}', as another of the bundle; rename it")
    return {name: np.ascontiguousarray(getattr(head, name), f"<{kind}") for name, (kind, _) in head.arrays.items()}


def _array(data: bytes, name: str, dtype: np.dtype[Any], axes: int) -> NDArray[Any]:
    """Parse a .npy file without allocating more memory than its bytes."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, found = read(stream)
    except Exception as exc:  # the header is a Python literal: parsing a malformed one may raise anything
        raise ValueError(f"{name}.npy has no header of an array") from exc
    size = len(data) - stream.tell()
    if found != dtype or len(shape) != axes or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"{name}.npy is of {found}, shape {shape}, in {size:,} bytes; expected {dtype}, {axes} axes, whole"
        )
    array = np.frombuffer(data, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if by_columns else "C").astype(dtype.newbyteorder("="), copy=True, order="C")


def replace_folder(path: Path, new: Path, old: Path) -> None:
    """Move the folder ``new`` to ``path``; of concurrent runs, the last one wins.

    Between two renames the bundle is absent for an instant; a reader at that moment must retry.
    """
    while True:
        with suppress(FileNotFoundError):
            path.rename(old)
        try:
            new.rename(path)
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another run was faster: its bundle is now the old one
                shutil.rmtree(old, ignore_errors=True)
                continue
            with suppress(OSError):
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return
