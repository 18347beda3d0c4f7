"""Finished runs of an output: one that has the same identity as a new run; listing, going back to one, removing old ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from fruits.errors import BundleError, ConfigError, StoreError, command
from fruits.recogniser import bundle as bundles
from fruits.storage.disk.locks import FolderLock
from fruits.storage.objects import Objects, is_remote, reach, uri_of
from fruits.storage.outputs import publishing
from fruits.storage.outputs.runs import RECORD, REPORT, RunLocation, key_of, lock_run, stored_pointer
from fruits.storage.sanitising import printable
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.storage.tables.schemas import CATALOGUE
from fruits.storage.tables.spool import ROWS_PER_BATCH
from fruits.training import run_record as records


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """A complete run of the same identity; it is not removed while this object lives.

    Attributes
    ----------
    name : str
    record : dict
    """

    name: str
    record: dict[str, Any]
    _lock: FolderLock | None


def find_same(out: Objects, identity: str, catalogue: CatalogueRows) -> EarlierRun | None:
    """Return a complete run with this identity and these photos, the current one if it is one; None if there is none.

    Parameters
    ----------
    out : Objects
    identity : str
    catalogue : CatalogueRows
        The photos.
    """
    current = publishing.current(out)
    for name in sorted(publishing.finished(out, of=identity), key=lambda name: (name != current, name)):
        folder = uri_of(out.root, key_of(name))
        lock = lock_run(folder)
        if record := _whole(folder, identity, catalogue):
            return EarlierRun(name, record, lock)
        if lock is not None:  # frames of handled errors may live on, and the lock with them
            lock.release()
    return None


def listed(path: str) -> list[dict[str, Any]]:
    """Return the finished runs of an output, the newest last.

    Parameters
    ----------
    path : str
        Output of ``fruits run``.

    Returns
    -------
    list of dict
        ``run`` (name of the folder; empty for results in the layout of before), ``current``, ``started``, ``photos``, ``labels``,
        ``components``, ``backbone``, ``split``, ``evaluated``, ``accuracy``, ``low``, ``high``, ``error``. What is not known is
        None; a run whose record cannot be read has an ``error``.

    Raises
    ------
    StoreError
        If there is no finished run.
    """
    out = _opened(path)
    names, now = publishing.finished(out), publishing.current(out)
    places = [RunLocation(path, uri_of(path, key_of(name)), name) for name in names]
    if not places and now is None and out.stat(RECORD) is not None:
        places, now = [RunLocation(path, path, "")], ""
    if not places:
        raise StoreError(f"no finished run in '{path}'; expected the results of {command('run', 'PHOTOS', to=path)}")
    return [_row(place, current=place.name == now) for place in places]


def _row(place: RunLocation, *, current: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"run": place.name, "current": current, **dict.fromkeys(_SHOWN), "error": None}
    try:
        record = records.read_record(place)
    except StoreError as exc:
        return {**row, "error": str(exc)}
    row |= {name: record[name] for name in ("started", "photos", "labels", "components")}
    row |= {"backbone": record["backbone"]["name"]}
    if record["evaluated"]:
        low, high = record["metrics"]["accuracyInterval"]
        row |= {"split": record["evaluated"]["split"], "evaluated": record["evaluated"]["photos"]}
        row |= {"accuracy": record["metrics"]["accuracy"], "low": low, "high": high}
    return row


_SHOWN: Final = (
    "started", "photos", "labels", "components", "backbone", "split", "evaluated", "accuracy", "low", "high",
)  # fmt: skip


def use(path: str, run: str) -> str:
    """Make a finished run the current one; return its name.

    Parameters
    ----------
    path : str
        Output of ``fruits run``.
    run : str
        Name of the run, or its first characters.

    Raises
    ------
    ConfigError
        If no run, or more than one, is called so.
    """
    out, since = _opened(path), datetime.now(UTC).isoformat(timespec="microseconds")
    name = _chosen(out, run)
    lock = lock_run(uri_of(out.root, key_of(name)))
    bundles.load(uri_of(out.root, key_of(name)))  # a damaged run does not become the current one
    if publishing.current(out) != name and not publishing.point(out, name, since, stored_pointer(out.root)):
        raise StoreError(f"another run became current in '{path}' at the same moment; look with 'fruits runs {path}'")
    publishing.tidy(out)
    del lock
    return name


def remove(path: str, run: str) -> str:
    """Remove a finished run; return its name.

    Raises
    ------
    ConfigError
        If no run, or more than one, is called so, or it is the current one.
    StoreError
        If a process uses it, or something cannot be removed.
    """
    out = _opened(path)
    name = _chosen(out, run)
    if name == publishing.current(out):
        raise ConfigError(f"--remove {run}: it is the current run; expected another one, or --use another one first")
    if not publishing.remove(out, name):
        raise StoreError(f"run {name} is in use; stop what uses it, such as a service, or remove it later")
    return name


def prune(path: str, *, keep: int = 0, dry_run: bool = False) -> publishing.Pruned:
    """Remove all runs of an output but the current one and the ``keep`` newest; see :func:`publishing.prune`."""
    return publishing.prune(_opened(path), keep=keep, dry_run=dry_run)


def _opened(path: str) -> Objects:
    reach(path)
    if not is_remote(path) and not Path(path).is_dir():
        raise StoreError(f"there is no folder '{path}'; expected the results of {command('run', 'PHOTOS', to=path)}")
    return Objects(path)


def _chosen(out: Objects, run: str) -> str:
    names = publishing.finished(out)
    found = [name for name in names if name == run] or [name for name in names if run and name.startswith(run)]
    if len(found) != 1:
        what = "no run is called so" if not found else f"{len(found)} runs are called so"
        known = ", ".join(name[:12] for name in reversed(names[-10:])) or "none yet"
        raise ConfigError(f"{printable(run)!r}: {what} in '{out.root}'; expected one of {known}")
    return found[0]


def remove_damaged(out: Objects, identity: str, good: str) -> None:
    """Remove runs of an identity other than the good one: what :func:`same` would not return."""
    for name in publishing.finished(out, of=identity):
        if name != good:
            publishing.remove(out, name)


def _equal(file: Any, catalogue: CatalogueRows) -> bool:
    """Return whether a catalogue as a file has the same photos, reading both in batches."""
    parquet = pq.ParquetFile(file, pre_buffer=False)
    if parquet.metadata.num_rows != catalogue.num_rows:
        return False
    names, schema = ["uri", "version"], pa.schema([CATALOGUE.field(name) for name in ("uri", "version")])
    stored = parquet.iter_batches(ROWS_PER_BATCH, columns=names, use_threads=False)
    ours = catalogue.texts.batches(names)
    return all(one.cast(schema).equals(other.cast(schema)) for one, other in zip(stored, ours, strict=True))


def _whole(folder: str, identity: str, catalogue: CatalogueRows) -> dict[str, Any] | None:
    """Return the record of a run if it has this identity and all its files are there."""
    objects = Objects(folder)
    data = objects.read_if_present(RECORD)
    try:
        record = json.loads(data) if data else {}
        if not isinstance(record, dict) or record.get("identity") != identity:
            return None
        with objects.open("features.parquet") as file:
            features = pq.read_schema(file).metadata or {}
        bundle = bundles.load(folder)
        bundle.release()
        of = [bundle.manifest["about"], json.loads(features.get(b"fruits", b"{}"))]
        if any(result.get("identity") != identity for result in of):
            return None
        with objects.open("catalogue.parquet") as file:
            equal = _equal(file, catalogue)
    except (ValueError, OSError, KeyError, BundleError, pa.ArrowException):
        return None  # damaged or partly deleted: fitting again is fast and restores everything
    whole = record.keys() >= set(records.KEYS) and objects.size(REPORT) is not None
    return record if whole and equal else None
