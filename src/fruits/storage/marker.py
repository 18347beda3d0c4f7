"""Which folders are ours: a small object that every command puts into a folder before it writes anything else there.

A folder that holds other things and no marker is somebody else's, and :func:`claim` refuses it. Folders that versions before the
marker made are recognised by what lies in them. Whoever lists photos leaves out what is ours: :func:`kind_of` tells, after
:func:`may_be_ours` has said from the names alone that it is worth asking. Knows nothing of what the commands write.
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
from fruits.errors import StoreError
from fruits.storage.local import read_head_of, read_regular
from fruits.storage.objects import Objects
from fruits.storage.sanitising import json_text

#: What a folder of ours holds: ``results`` of run, apply, audit and evaluate; a ``bundle`` by itself; a ``pack``; an ``export``
#: of reviewed photos, made to be listed; the data of a ``service``; the ``photos`` that it keeps, listed if named as a source.
Kind = Literal["results", "bundle", "pack", "export", "service", "photos"]

#: Hidden, so that no version of fruits takes it for a photo.
NAME: Final = ".fruits"
FORMAT: Final = "fruits folder"
VERSION: Final = 1

#: Larger, and it is none of ours: folders among photos may be a stranger's.
_MAX_BYTES: Final = 64 << 20
#: What systems and tools leave in a folder that people call empty.
_NOTHING: Final = {".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", ".gitkeep", ".gitignore", ".keep"}
#: A run that died at its very beginning left no more than these, whatever is in them; ``job.json`` is put by ``fruits aws run``.
_BEGINNINGS: Final = {"preprocessing.json", "lease", "job.json"}
_LEDGER: Final = ".fruits-export/ledger.json"
_PACK_DATA: Final = re.compile(r"data/\d{8}T\d{6}-[0-9a-f]{12}-\d{5}\.parquet")
_COMPUTATION: Final = re.compile(r"embeddings/[0-9a-f]{8,64}/(plans|records|parts|backbone\.onnx|training_photos)\b")
#: Names that folders of ours have had since before the marker; see :func:`_older_kind`.
_NAMES: Final = {
    NAME, "run.json", "audit.json", "manifest.json", "bundle", "embeddings", "pack.json", "data", ".fruits-export", "service.db",
}  # fmt: skip


class OccupiedError(StoreError):
    """A folder that a command would write into holds what fruits did not write."""


def claim(objects: Objects, kind: Kind) -> None:
    """Refuse a folder that is somebody else's, and say that it is ours before anything else is written into it.

    Parameters
    ----------
    objects : Objects
        The folder, or the prefix of a bucket.
    kind : str
        What the command writes there.

    Raises
    ------
    OccupiedError
        If the folder holds what fruits did not write, or something of another kind. Nothing was changed.
    """
    found = kind_of(objects)
    if found is None and (other := _first_other(objects)) is not None:
        found = kind_of(objects)  # another process of ours may just have begun here
        if found is None and not objects.names() - _NOTHING <= _BEGINNINGS:
            raise OccupiedError(
                f"'{objects.root}' holds {other!r} and no {kind} of fruits: it is somebody else's; expected a new or an empty "
                "folder, or one that fruits made: give another one with --to, or move what is in it away first"
            )
    if found not in (None, kind):
        raise OccupiedError(
            f"'{objects.root}' holds {_WORDS[found]}; expected a new or an empty folder, or one with {_WORDS[kind]}: give "
            "another one with --to"
        )
    mark(objects, kind)


def mark(objects: Objects, kind: Kind, **more: str) -> None:
    """Put the marker into a folder unless there is one; what lies beside it does not matter."""
    if NAME not in objects.names():
        objects.put_if_absent(NAME, content(kind, **more))


def content(kind: Kind, **more: str) -> bytes:
    """Return what the marker holds."""
    return json_text({"format": FORMAT, "version": VERSION, "kind": kind, "fruits": __version__, **more}).encode()


def kind_of(objects: Objects) -> Kind | None:
    """Return what fruits wrote into a folder; None if it did not."""
    return marked(objects) or _older_kind(objects)


def marked(objects: Objects) -> Kind | None:
    """Return what the marker of a folder says; None if there is none of ours."""
    kind = _json(objects, NAME).get("kind") if NAME in objects.names() else None
    return cast("Kind", kind) if kind in get_args(Kind) else None


def may_be_ours(names: Iterable[str]) -> bool:
    """Whether the names that lie directly in a folder allow that it is ours; quick, for every folder of a large tree."""
    return not _NAMES.isdisjoint(names)


_WORDS: Final[dict[Kind, str]] = {
    "results": "results of 'fruits run', 'apply' or 'audit'",
    "bundle": "a bundle",
    "pack": "a pack",
    "export": "exported photos",
    "service": "the data of 'fruits serve'",
    "photos": "the photos that 'fruits serve' keeps",
}


def _first_other(objects: Objects) -> str | None:
    """Return a name in a folder that would be empty without it, or an object below that name; None if it is empty."""
    name = next((name for name in sorted(objects.names()) if name not in _NOTHING), None)
    if name is None:
        return None
    with suppress(StoreError, UnicodeError):  # a link to nothing, a name that is not UTF-8
        if objects.look(name) is None:
            return next((found.key for found in objects.list(name)), name)
    return name


def _older_kind(objects: Objects) -> Kind | None:
    """Return what a version before the marker wrote into a folder, going by what only fruits writes so."""
    names = objects.names()
    if ".fruits-export" in names and objects.look(_LEDGER) is not None:
        return "export"
    if "pack.json" in names and _json(objects, "pack.json").get("format") == "fruits pack":
        return "pack"
    if "manifest.json" in names and _is_bundle(_json(objects, "manifest.json")):
        return "bundle"
    if "data" in names and names <= _NOTHING | {
        "data",
        "pack.json",
    }:  # a pack that is damaged, or whose making was killed
        below = [found.key for found in objects.list("data")]
        if below and all(_PACK_DATA.match(key) for key in below):
            return "pack"
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
        return read_head_of(str(path), len(start), _inside(objects)) == start
    except OSError:  # empty, a folder, a pipe
        return False


def _json(objects: Objects, key: str) -> dict[str, Any]:
    """Return an object of JSON; empty if there is none, or it holds something else, or is no file of a size that makes sense."""
    try:
        value = json.loads(_read(objects, key))
    # Absent, not JSON, or it is a folder, a pipe or a link out of here that is called so.
    except (ValueError, OSError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(objects: Objects, key: str) -> bytes:
    path = objects.local_path(key)
    if path is None:
        return objects.read(key, limit=_MAX_BYTES)
    return read_regular(str(path), _MAX_BYTES, _inside(objects))


def _inside(objects: Objects) -> Callable[[str], bool]:
    """Return whether a path, without links, lies in a place: links in a stranger's may lead anywhere."""
    root = os.path.realpath(objects.root)
    return lambda real: real.startswith(f"{root}/")
