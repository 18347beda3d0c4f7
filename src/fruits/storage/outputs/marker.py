"""The marker of folders written by fruits: a small object that every command puts into a folder before anything else.

:func:`claim` refuses a folder that holds other files and no marker. Folders of versions before the marker are recognised by their
contents. Listings of photos skip folders written by fruits: :func:`may_be_ours` is a quick check of the names, :func:`kind_of`
the full one. Independent of what the commands write.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, Final, Literal, cast, get_args

from fruits import __version__
from fruits.errors import StoreError, option
from fruits.storage.disk.local import read_head_of, read_regular
from fruits.storage.objects import Objects
from fruits.storage.sanitising import json_text

#: Contents of a folder written by fruits: ``results`` of run, apply, audit and evaluate; a ``bundle`` by itself; a ``pack``; an
#: ``export`` of reviewed photos, meant to be a source; the data of a ``service``; the ``photos`` that a service stores, listed if
#: given as a source.
Kind = Literal["results", "bundle", "pack", "export", "service", "photos"]

#: Hidden, so that no version of fruits takes it for a photo.
NAME: Final = ".fruits"
FORMAT: Final = "fruits folder"
VERSION: Final = 1

#: A larger file was not written by fruits: folders among photos are untrusted.
_MAX_BYTES: Final = 64 << 20
#: Files of systems and tools in a folder that is considered empty.
_NOTHING: Final = {".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", ".gitkeep", ".gitignore", ".keep"}
#: obstore writes an object of a disk under such a name first.
_UNFINISHED: Final = re.compile(re.escape(NAME) + r"#\d+")
#: The only names left by a run that died right after its start; ``job.json`` is put by ``fruits aws run``.
_BEGINNINGS: Final = {"preprocessing.json", "lease", "job.json"}
_LEDGER: Final = ".fruits-export/ledger.json"
_PACK_DATA: Final = re.compile(r"data/\d{8}T\d{6}-[0-9a-f]{12}-\d{5}\.parquet")
_COMPUTATION: Final = re.compile(
    r"embeddings/[0-9a-f]{8,64}/(_delta_log|plans|records|parts|backbone\.onnx|training_photos)\b"
)
#: Names by which folders of fruits are recognised, with or without marker; see :func:`_older_kind`.
_NAMES: Final = {
    NAME, "current.json", "run.json", "audit.json", "manifest.json", "bundle", "embeddings", "pack.json", "data",
    ".fruits-export", "service.db",
}  # fmt: skip


class OccupiedError(StoreError):
    """The output folder of a command holds files that fruits did not write, or results of another kind."""


def claim(objects: Objects, kind: Kind) -> None:
    """Mark a folder as written by fruits before anything else is written; refuse it if it holds other files.

    Parameters
    ----------
    objects : Objects
        The folder, or the prefix of a bucket.
    kind : str
        Kind of what the command writes there, see :data:`Kind`.

    Raises
    ------
    OccupiedError
        If the folder holds files that fruits did not write, or those of another kind. Nothing was changed.
    """
    found = kind_of(objects)
    if found is None and (other := _first_other(objects)) is not None:
        found = kind_of(objects)  # another process may just have put the marker
        if found is None and not {name for name in objects.names() if not _is_nothing(name)} <= _BEGINNINGS:
            raise OccupiedError(
                f"'{objects.root}' holds {other!r} and no {kind} of fruits: not made by fruits; expected a new or an empty "
                f"folder, or one that fruits made: give another one with {option('to')}, or move what is in it away first"
            )
    if found not in (None, kind):
        raise OccupiedError(
            f"'{objects.root}' holds {_WORDS[found]}; expected a new or an empty folder, or one with {_WORDS[kind]}: give "
            f"another one with {option('to')}"
        )
    mark(objects, kind)


def mark(objects: Objects, kind: Kind, **more: str) -> None:
    """Put the marker into a folder unless it has one, whatever else the folder holds."""
    if NAME not in objects.names():
        objects.put_if_absent(NAME, content(kind, **more))


def content(kind: Kind, **more: str) -> bytes:
    """Return the content of a marker."""
    return json_text({"format": FORMAT, "version": VERSION, "kind": kind, "fruits": __version__, **more}).encode()


def kind_of(objects: Objects) -> Kind | None:
    """Return the kind of a folder written by fruits; None for any other folder."""
    return marked(objects) or _older_kind(objects)


def marked(objects: Objects) -> Kind | None:
    """Return the kind given by the marker of a folder; None without a valid marker."""
    kind = _json(objects, NAME).get("kind") if NAME in objects.names() else None
    return cast("Kind", kind) if kind in get_args(Kind) else None


def may_be_ours(names: Iterable[str]) -> bool:
    """Return whether a folder may be written by fruits, judging by the names in it; fast enough for large trees."""
    return not _NAMES.isdisjoint(names)


_WORDS: Final[dict[Kind, str]] = {
    "results": "results of 'fruits run', 'apply' or 'audit'",
    "bundle": "a bundle",
    "pack": "a pack",
    "export": "exported photos",
    "service": "the data of 'fruits serve'",
    "photos": "the photos that 'fruits serve' keeps",
}


def _is_nothing(name: str) -> bool:
    """Return whether a name says nothing of a folder: a file of the system, or a marker that is being put, or was when killed."""
    return name in _NOTHING or _UNFINISHED.fullmatch(name) is not None


def _first_other(objects: Objects) -> str | None:
    """Return a name that shows that a folder is not empty, or an object below that name; None if the folder is empty."""
    name = next((name for name in sorted(objects.names()) if not _is_nothing(name)), None)
    if name is None:
        return None
    with suppress(StoreError, UnicodeError):  # a link to nothing, a name that is not UTF-8
        if objects.stat(name) is None:
            return next((found.key for found in objects.list(name)), name)
    return name


def _older_kind(objects: Objects) -> Kind | None:
    """Return the kind of a folder written by a version before the marker, recognised by files that only fruits writes."""
    names = objects.names()
    if ".fruits-export" in names and objects.stat(_LEDGER) is not None:
        return "export"
    if "pack.json" in names and _json(objects, "pack.json").get("format") == "fruits pack":
        return "pack"
    if "manifest.json" in names and _is_bundle(_json(objects, "manifest.json")):
        return "bundle"
    if "data" in names and names <= _NOTHING | {
        "data",
        "pack.json",
    }:  # a damaged or unfinished pack
        below = [found.key for found in objects.list("data")]
        if below and all(_PACK_DATA.match(key) for key in below):
            return "pack"
    if "current.json" in names and _json(objects, "current.json").get("format") == "fruits current run":
        return "results"
    if "run.json" in names and {"fruits", "backbone", "sources", "splits"} <= _json(objects, "run.json").keys():
        return "results"
    if "audit.json" in names and {"fruits", "near_duplicates", "findings"} <= _json(objects, "audit.json").keys():
        return "results"
    if "bundle" in names and _is_bundle(_json(objects, "bundle/manifest.json")):
        return "results"
    if "embeddings" in names and any(
        _COMPUTATION.match(found.key) for found in islice(objects.list("embeddings"), 10_000)
    ):
        return "results"
    if "service.db" in names and _begins(objects, "service.db", b"SQLite format 3"):
        return "service"
    return None


def _is_bundle(manifest: dict[str, Any]) -> bool:
    return {"format", "labels", "backbone", "preprocessing", "files"} <= manifest.keys()


def _begins(objects: Objects, key: str, start: bytes) -> bool:
    try:
        path = objects.local_path(key)
        if path is None:
            return objects.read_range(key, 0, len(start)) == start
        return read_head_of(str(path), len(start), inside(objects)) == start
    except OSError:  # empty, a folder, a pipe
        return False


def _json(objects: Objects, key: str) -> dict[str, Any]:
    """Return a JSON object; empty if there is none, it holds other JSON, or it is too large or no regular file."""
    try:
        value = json.loads(_read(objects, key))
    # Absent, not JSON, or a folder, a pipe or a link to outside of that name.
    except (ValueError, OSError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(objects: Objects, key: str) -> bytes:
    path = objects.local_path(key)
    if path is None:
        return objects.read(key, limit=_MAX_BYTES)
    return read_regular(str(path), _MAX_BYTES, inside(objects))


def inside(objects: Objects) -> Callable[[str], bool]:
    """Return a check that a real path lies in a folder: links in an untrusted folder may lead anywhere."""
    root = os.path.realpath(objects.root)
    return lambda real: real.startswith(f"{root}/")
