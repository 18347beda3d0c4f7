"""Removing from an output what nothing needs any more: files that left the tables, embeddings of other networks or versions,
parts of answers of a killed ``fruits apply``.

Photos that left the catalogue leave the table with the next run; their bytes leave the disk here. Runs may go on meanwhile, see
:mod:`fruits.storage.embeddings.upkeep`. Finished runs are removed by ``fruits runs``, see :mod:`fruits.training.finished`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from fruits.errors import BundleError, StoreError, command
from fruits.recogniser import bundle as bundles
from fruits.storage.disk.locks import locked
from fruits.storage.embeddings import upkeep
from fruits.storage.embeddings.table import LOG, EmbeddingTable
from fruits.storage.objects import AbsentError, ObjectInfo, Objects, uri_of
from fruits.storage.outputs import publishing
from fruits.storage.outputs.marker import kind_of
from fruits.storage.outputs.runs import BUNDLE, key_of, stored_pointer
from fruits.training.predicting import predictions

_TABLES: Final = "embeddings"
#: In a bucket, embeddings that no run has yet are left alone if something was written to them within this time.
_RECENT_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, or would be.

    Attributes
    ----------
    files, size_bytes : int
    computations : list of str
        Ids of embedding jobs that were removed as a whole.
    merged : int
        By how many files the table got smaller.
    unreadable : list of str
        Names of runs whose bundles cannot be read, so that nobody can tell which embeddings they need; the output itself is ".".
        No embedding job is removed as a whole while there are some.
    """

    files: int
    size_bytes: int
    computations: list[str]
    merged: int
    unreadable: list[str]


def vacuum(out: str, *, dry_run: bool = False, compact: bool = False) -> Removed:
    """Remove from results of ``fruits run``, ``apply`` or ``audit`` what nothing needs any more.

    Parameters
    ----------
    out : str
        Folder of the results, or ``s3://bucket/prefix``.
    dry_run : bool
        Whether to only count what would be removed.
    compact : bool
        Whether to merge small files of the table first. Sums over photos may then differ in their last digits from before.

    Raises
    ------
    StoreError
        If there are no results, or they cannot be read or written.
    """
    objects = Objects(out)
    if kind_of(objects) != "results":
        raise StoreError(f"no results in '{out}'; expected a folder of {command('run')}, 'apply' or 'audit'")
    found: list[ObjectInfo] = []
    with suppress(AbsentError):
        found = list(objects.list(_TABLES))
    used, unreadable = _in_use(objects, found)
    files, size, merged, gone = 0, 0, 0, []
    for computation in sorted({_computation(one) for one in found}):
        if computation not in used:
            below = [one for one in found if _computation(one) == computation]
            with _unless_written(objects, computation, below) as is_free:
                if is_free:
                    gone.append(computation)
                    for one in below if not dry_run else ():
                        objects.delete(one.key)
                    files, size = files + len(below), size + sum(one.size_bytes for one in below)
            continue
        stored = EmbeddingTable(out, f"{_TABLES}/{computation}")
        if compact and not dry_run:
            merged = upkeep.compact(stored)
        dead = upkeep.vacuum(stored, dry_run=dry_run)
        files, size = files + len(dead.keys), size + dead.size_bytes
    parts, bytes_of_parts = predictions.vacuum(objects, dry_run=dry_run)
    files, size = files + parts, size + bytes_of_parts
    return Removed(files, size, gone, merged, unreadable)


@contextmanager
def _unless_written(objects: Objects, computation: str, below: list[ObjectInfo]) -> Iterator[bool]:
    """Yield whether no run is writing the embeddings of a job; on disk none of this machine begins to meanwhile."""
    folder = objects.local_path(f"{_TABLES}/{computation}")
    if folder is None:
        yield time.time() - max(one.modified_s for one in below) > _RECENT_S
        return
    with locked(folder) as lock:
        yield lock is not None or not folder.is_dir()


def _computation(found: ObjectInfo) -> str:
    return found.key.split("/")[1]


def _in_use(objects: Objects, found: list[ObjectInfo]) -> tuple[set[str], list[str]]:
    """Return the embedding jobs that are in use, and the names of runs whose bundles cannot be read: then all jobs are in use.

    Without a run, such as after ``apply``, the job whose table was written last is in use.
    """
    places = {name: uri_of(objects.root, key_of(name)) for name in publishing.finished(objects)}
    if stored_pointer(objects.root) is not None or _has_bundle(objects):  # a run without a record, or results of before
        places["."] = objects.root
    used, unreadable = set(), []
    for name, place in places.items():
        try:
            used.add(bundles.load(place).computation)
        except (BundleError, StoreError):
            unreadable.append(name)
    if unreadable:
        return {_computation(one) for one in found}, unreadable
    logs = [one for one in found if f"/{LOG}/" in one.key]
    return used or {_computation(max(logs, key=lambda one: one.modified_s)) for _ in logs[:1]}, []


def _has_bundle(objects: Objects) -> bool:
    with suppress(AbsentError):
        return next(iter(objects.list(BUNDLE)), None) is not None
    return False
