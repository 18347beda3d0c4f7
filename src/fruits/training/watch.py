"""Rounds of ``fruits run --watch``: list the photos, and run again if they are not those of the last round.

A round without news costs a listing and nothing else. An error ends the watch only if no later round can do better. The caller
waits between rounds, and ends the watch.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import pyarrow as pa

from fruits.config import RunConfig
from fruits.errors import (
    BackboneError,
    CatalogueError,
    ConfigError,
    FruitsError,
    PermanentStoreError,
    TaxonomyError,
)
from fruits.monitoring.clock import Progress, Silent
from fruits.photos.catalogue.catalogue import Catalogue
from fruits.photos.reading.access import is_pattern
from fruits.storage.embeddings.table import DamagedError
from fruits.storage.objects import is_remote
from fruits.storage.tables.schemas import CATALOGUE
from fruits.training import finished, pipeline
from fruits.training.embed import catalogued

#: What no later round can do better: somebody has to change options, rights, files, or repair.
PERMANENT: Final = (ConfigError, BackboneError, TaxonomyError, PermanentStoreError, DamagedError)
#: Runs that a watch made and leaves, besides the current one: those before are removed, or a day of rounds would fill the disk.
RUNS_KEPT: Final = 5

Outcome = Literal["ran", "same", "failed"]


@dataclass(frozen=True, slots=True)
class Round:
    """What a round came to.

    Attributes
    ----------
    number : int
        From 1 on.
    started : str
        ISO 8601, in UTC.
    outcome : str
        ``ran``: there is a new run; ``same``: the photos are those of the last run; ``failed``: ``error`` says why.
    photos : int or None
        Photos listed; None if the listing failed.
    seconds : float
    record : dict or None
        As :func:`fruits.training.pipeline.run` returns it, if it was called.
    error : FruitsError or None
    """

    number: int
    started: str
    outcome: Outcome
    photos: int | None
    seconds: float
    record: dict[str, Any] | None = None
    error: FruitsError | None = None


def rounds(
    config: RunConfig, progress: Callable[[], AbstractContextManager[Progress]], *, command: str = "fruits run"
) -> Iterator[Round]:
    """Yield a round whenever the next one is asked for; never ends by itself.

    Parameters
    ----------
    config : RunConfig
    progress : callable
        Gives what is told how far a run is, in each round that runs.
    command : str
        The user's command line, for the record.

    Raises
    ------
    FruitsError
        One of ``PERMANENT``; or any other before the first listing.
    """
    _refuse_absent(config)
    pipeline.check(config)
    seen, made = "", list[str]()
    number = 0
    while True:
        number += 1
        begun, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        listed: Catalogue | None = None
        photos, record = None, None
        error: FruitsError | None = None
        try:
            listed = catalogued(config, Silent())
            photos, found = listed.num_rows, fingerprint(listed)
            if found != seen:
                with progress() as shown:
                    record = pipeline.run(config, progress=shown, command=command, listed=listed)
                # Photos that failed may work next time, so the next round tries them again.
                seen = found if not record["failed"] else ""
        except PERMANENT:
            raise
        except FruitsError as exc:
            seen, error = "", exc.with_traceback(None)  # its frames hold the photos of the round
        listed = None
        outcome: Outcome = "failed" if error is not None else "same"
        if record is not None and not record["up_to_date"]:
            outcome, made = "ran", _without_old(config.out, [*made, record["run"]])
        yield Round(number, started, outcome, photos, time.monotonic() - begun, record, error)


def fingerprint(catalogue: Catalogue) -> str:
    """Return a hash of everything that a listing says of its photos."""
    digest = hashlib.sha256()
    # A serialised batch has no dictionaries.
    plain = pa.schema([(field.name, _plain(field.type)) for field in CATALOGUE])
    for batch in catalogue.listed.batches():
        digest.update(pa.Table.from_batches([batch]).cast(plain).combine_chunks().to_batches()[0].serialize())
    return digest.hexdigest()


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _refuse_absent(config: RunConfig) -> None:
    """Raise if a source on a disk is not there at the beginning: a misspelt name would be waited for."""
    for source in config.sources:
        if not is_remote(source) and not is_pattern(source) and not os.path.lexists(source):
            raise CatalogueError(
                f"'{source}' does not exist; expected a folder of photos or a manifest (.csv, .parquet)"
            )


def _without_old(out: str, made: list[str]) -> list[str]:
    """Remove all but the newest runs of this watch; return what is left. A run in use is left for a later round."""
    old, left = made[: -RUNS_KEPT - 1], made[-RUNS_KEPT - 1 :]
    kept = []
    for name in old:
        with suppress(FruitsError):
            finished.remove(out, name)
            continue
        kept.append(name)
    return [*kept, *left]
