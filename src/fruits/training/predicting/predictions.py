"""The answers of ``fruits apply``: a pass of the engine over stored embeddings, written by the workers.

The driver gets counts only. A worker answers the photos of some files and writes them as one part of the table; afterwards the
parts are joined, a row group at a time, into ``predictions.parquet``. Beyond :data:`ONE_FILE` photos they stay what they are: a
folder that is read as one table. Rows and row groups do not depend on the engine or the number of workers.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fruits.engines import Engine
from fruits.errors import counted
from fruits.messages import LANGUAGES
from fruits.recogniser.answers import OUTCOMES, Decisions
from fruits.recogniser.classifier import Classifier
from fruits.storage.disk.locks import locked
from fruits.storage.disk.processes import has_ended, this_process
from fruits.storage.embeddings.inventory import FileRows, Inventory
from fruits.storage.embeddings.table import EmbeddingTable, File
from fruits.storage.objects import AbsentError, Objects
from fruits.storage.outputs.lease import hold_lease
from fruits.storage.sanitising import json_text
from fruits.storage.tables import schemas
from fruits.storage.tables.parquet import table_writer
from fruits.training.fitting.training_set import in_chunks, read_rows, vectors_of

#: Most photos whose answers are one file, ``predictions.parquet``.
ONE_FILE: Final = 1_000_000
#: With up to this many photos, starting workers would take longer than answering.
_HERE: Final = 16_384
#: Groups of chunks per part, some 30 MB; fewer if there are not enough for this many parts.
_GROUPS_PER_PART: Final = 8
_PARTS: Final = 64
#: An attempt that began, and finished its last part, longer ago than this was killed, wherever its process was.
_STALE_AFTER: Final = timedelta(days=1)
_FILE: Final = "predictions.parquet"
_FOLDER: Final = "predictions"
#: Written last, and who writes, written first; readers of Parquet folders leave out names with an underscore.
_COMPLETE: Final = "_SUCCESS"
_WRITER: Final = "_writer"
_COLUMNS: Final = ("uri", "status", "error", "width", "height", "brightness", "sharpness", "embedding")

#: Outcome of an answer -> what is printed.
_OUTCOMES: Final = {
    "variety": "name a variety", "kind": "name a kind", "probable": "name a probable kind", "unsure": "are not sure",
    "unknown": "are none of the things it knows",
}  # fmt: skip
#: One row per file with embeddings: its group, and of each of its rows the catalogue row (int64, -1: left out).
_ASKED: Final = pa.schema(
    [
        pa.field("part", pa.int64(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ms", pa.int64(), nullable=False),
        pa.field("catalogue_rows", pa.binary(), nullable=False),
    ]
)
#: What a worker returns for a part: number of its photos, and as JSON how many have which outcome.
_ANSWERED: Final = pa.schema(
    [
        pa.field("part", pa.int64(), nullable=False),
        pa.field("photos", pa.int64(), nullable=False),
        pa.field("outcomes", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was written.

    Attributes
    ----------
    key : str
        Below the results: of the file, or of the folder.
    outcomes : dict
        Number of photos by outcome.
    """

    key: str
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of :func:`fruits.apply`.

    Attributes
    ----------
    path : str
        Location of the table: the file ``predictions.parquet``, or, for more than a million photos, a folder of Parquet files.
    photos, ok, rejected, failed : int
        photos = ok + rejected + failed. Rejected: cannot be decoded. Failed: a retry may work.
    computed, reused : int
        Embeddings computed by this call, or reused.
    outcomes : mapping
        Number of photos by outcome: ``variety``, ``kind``, ``probable``, ``unsure`` or ``unknown``.
    device : str
        Device that ran the network.
    seconds : float
        Total time.
    regions : str, optional
        Location of the table of regions, if they were asked for; docs/results.md explains its columns.
    """

    path: str
    photos: int
    ok: int
    rejected: int
    failed: int
    computed: int
    reused: int
    outcomes: Mapping[str, int]
    device: str
    seconds: float
    regions: str | None = None

    def __str__(self) -> str:
        said = ", ".join(
            f"{self.outcomes[name]:,} {words}" for name, words in _OUTCOMES.items() if self.outcomes.get(name)
        )
        lines = [
            f"recognised {self.ok:,} of {counted(self.photos, 'photo')} in {self.seconds:.1f} s; answers in {self.path}"
        ]
        if said:
            lines.append(f"answers: {said}")
        if self.regions is not None:
            lines.append(f"regions of each photo in {self.regions}")
        if self.rejected:
            lines.append(
                f"rejected: {counted(self.rejected, 'photo')} that cannot be decoded; the column error says why"
            )
        if self.failed:
            lines.append(
                f"failed: {counted(self.failed, 'photo')} that could not be read; run again to try them once more"
            )
        return "\n".join(lines)

    def table(self) -> pa.Table:
        """Return the answers, a row per photo; docs/results.md explains the columns.

        Raises
        ------
        StoreError
            If they are no longer there.
        """
        return read_predictions(self.path)

    def to_pandas(self) -> Any:
        """Return :meth:`table` as a pandas data frame; needs pandas."""
        return self.table().to_pandas()


def predictions_of(record: Mapping[str, Any]) -> Predictions:
    """Return the predictions for the record of :func:`fruits.training.pipeline.apply`."""
    names = ("photos", "ok", "rejected", "failed", "computed", "reused", "outcomes", "device")
    return Predictions(
        path=record["predictions"],
        seconds=float(record["seconds"]["total"]),
        regions=record.get("regions"),
        **{name: record[name] for name in names},
    )


def write_predictions(
    engine: Engine,
    objects: Objects,
    stored: EmbeddingTable,
    inventory: Inventory,
    classifier: Classifier,
    progress: Callable[[int], None],
) -> Predicted:
    """Write the answers for all photos of an inventory, whole or not at all.

    Parameters
    ----------
    engine : Engine
    objects : Objects
        Where results are written.
    stored : EmbeddingTable
    inventory : Inventory
    classifier : Classifier
    progress : callable
        Called with numbers of photos.
    """
    photos = sum(int((entry.catalogue_rows >= 0).sum()) for entry in inventory.file_rows)
    # What another call writes from now on stays: of two calls at once, each would remove the answers of the other.
    old_file, old_folders = objects.stat(_FILE), {folder for folder, complete in _folders(objects) if complete}
    if photos <= _HERE:
        with _file_writer(objects, classifier) as writer:
            counts = _write_answers(writer, stored, in_chunks(inventory), classifier, progress)
        _remove_folders(objects, old_folders)
        return Predicted(_FILE, dict(counts))
    # With microseconds: of two calls the one that began first is removed, also if both began in the same second.
    folder = f"{_FOLDER}/{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:12]}"
    groups = min(_GROUPS_PER_PART, max(1, sum(1 for _ in in_chunks(inventory)) // _PARTS))
    stage = PredictStage(stored, objects, folder, classifier)
    outcomes: Counter[str] = Counter()
    parts = 0
    try:
        objects.write(f"{folder}/{_WRITER}", json_text(this_process()).encode())
        for batch in engine.map_batches(_shards(inventory, groups), stage, _ANSWERED):
            for row in batch.to_pylist():
                outcomes.update(json.loads(row["outcomes"]))
                parts = max(parts, row["part"] + 1)
                progress(row["photos"])
        if photos <= ONE_FILE:
            with _file_writer(objects, classifier, folder) as writer:
                for part in range(parts):
                    with objects.open(_part(folder, part)) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
                        for number in range(parquet.num_row_groups):
                            writer.write_table(parquet.read_row_group(number, use_threads=False))
            _remove_folders(objects, {*old_folders, folder})
            return Predicted(_FILE, _in_order(outcomes))
        objects.write(f"{folder}/{_COMPLETE}", b"")
        objects.delete(f"{folder}/{_WRITER}")
    except BaseException:
        with suppress(Exception):  # the first error counts
            _remove(objects, folder)
        raise
    _remove_folders(objects, {one for one, complete in _folders(objects) if complete and one < folder})
    if old_file is not None:
        with _alone(objects):
            if objects.stat(_FILE) == old_file:
                objects.delete(_FILE)  # of a time with fewer photos
    return Predicted(folder, _in_order(outcomes))


def read_predictions(path: str) -> pa.Table:
    """Return the answers at the place that :func:`write_predictions` returned, all in memory."""
    root, _, name = path.rpartition("/")
    objects = Objects(root if name.endswith(".parquet") else path)
    names = [name] if name.endswith(".parquet") else sorted(key for key in objects.names() if key.endswith(".parquet"))
    tables = []
    for one in names:
        with objects.open(one) as file:
            tables.append(pq.read_table(file, use_threads=False, pre_buffer=False))
    return pa.concat_tables(tables)


@dataclass(frozen=True, slots=True)
class PredictStage:
    """Stage that answers the photos of some files and writes a part of the table.

    Parameters
    ----------
    stored : EmbeddingTable
    to : Objects
    folder : str
        Where the parts are written, below ``to``.
    classifier : Classifier
    """

    stored: EmbeddingTable
    to: Objects
    folder: str
    classifier: Classifier

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take the rows of a part, schema ``_ASKED``; yield one row of ``_ANSWERED``."""
        rows = list(chain.from_iterable(batch.to_pylist() for batch in batches))
        if not rows:
            return
        groups: dict[int, list[FileRows]] = {}
        for row in rows:
            places = np.frombuffer(row["catalogue_rows"], np.int64)
            file = File(row["uri"], row["size_bytes"], len(places), row["modified_ms"])
            groups.setdefault(row["group"], []).append(FileRows(file, places, ()))
        photos: list[int] = []
        number = rows[0]["part"]
        schema = schemas.predictions(self.classifier.components)
        with table_writer(self.to, _part(self.folder, number), schema) as writer:
            outcomes = _write_answers(writer, self.stored, groups.values(), self.classifier, photos.append)
        found = {"part": [number], "photos": [sum(photos)], "outcomes": [json_text(outcomes)]}
        yield pa.RecordBatch.from_pydict(found, schema=_ANSWERED)


@contextmanager
def _file_writer(objects: Objects, classifier: Classifier, parts: str = "") -> Iterator[pq.ParquetWriter]:
    """Open the one file for writing; it appears at the end, but not while another call removes that of before."""
    schema = schemas.predictions(classifier.components)
    with ExitStack() as until_there, table_writer(objects, _FILE, schema) as writer:
        yield writer
        others = {folder for folder, _ in _folders(objects)} - {parts}
        if objects.is_local or others:  # who writes no folder removes no file
            until_there.enter_context(_alone(objects))


@contextmanager
def _alone(objects: Objects) -> Iterator[None]:
    """Let no other call put or remove the one file during the block."""
    with locked(objects.root, wait=True) if objects.is_local else hold_lease(objects):
        yield


def _write_answers(
    writer: pq.ParquetWriter,
    stored: EmbeddingTable,
    groups: Iterable[list[FileRows]],
    classifier: Classifier,
    progress: Callable[[int], None],
) -> Counter[str]:
    """Write the answers for groups of files; return how many photos have which outcome."""
    outcomes: Counter[str] = Counter()
    for group in groups:
        table = answered(stored, group, classifier)
        outcomes.update(_outcomes(table))
        writer.write_table(table)
        progress(table.num_rows)
    return outcomes


def answered(stored: EmbeddingTable, group: list[FileRows], classifier: Classifier) -> pa.Table:
    """Return the answers for the used rows of some files, in the catalogue's order, schema ``predictions``."""
    rows = read_rows(stored, group, list(_COLUMNS))[0].combine_chunks()
    ok = pc.equal(rows["status"], "ok").combine_chunks().to_numpy(zero_copy_only=False)
    with threadpool_limits(1, "blas"):  # the last bits depend on how a product is split among threads
        features = classifier.project(vectors_of(rows)[ok])
        probabilities, ood_score = classifier.classify(features)
    decisions = classifier.decide(probabilities, ood_score)
    columns = {
        **_named(decisions, classifier),
        "ood_score": pa.array(ood_score, pa.float32()),
        "advice": pa.array(_advice(decisions, classifier, rows.filter(pa.array(ok))), pa.list_(pa.string())),
        "features": pa.FixedSizeListArray.from_arrays(
            pa.array(features.reshape(-1), pa.float32()), classifier.components
        ),
    }
    # Rows without an answer have nulls.
    place = pa.array(np.cumsum(ok) - 1, mask=~ok)
    schema = schemas.predictions(classifier.components)
    given = {name: rows[name].combine_chunks() for name in ("uri", "status", "error")}
    arrays = [given[name] if name in given else columns[name].take(place) for name in schema.names]
    return pa.Table.from_arrays(
        [array.cast(kind) for array, kind in zip(arrays, schema.types, strict=True)], schema=schema
    )


def _named(decisions: Decisions, classifier: Classifier) -> dict[str, pa.Array]:
    """Return the columns from ``outcome`` to ``probabilities`` for photos that are ok."""
    taxonomy = classifier.taxonomy
    of_variety = decisions.outcome == OUTCOMES.index("variety")
    of_kind = np.isin(decisions.outcome, [OUTCOMES.index("kind"), OUTCOMES.index("probable")])
    kind_of_variety = np.array(
        [taxonomy.kind_of_variety(one) for one in range(len(taxonomy.varieties))] or [0], np.int64
    )
    variety = np.where(of_variety, decisions.variety, 0)
    kind = np.where(of_variety, kind_of_variety[variety], decisions.kinds[:, 0])
    nothing = ~(of_variety | of_kind)
    # Varieties and kinds have one numbering here: kinds come after the varieties.
    name = pa.array(np.where(of_variety, variety, len(taxonomy.varieties) + kind), mask=nothing)
    names = [*taxonomy.varieties, *taxonomy.kinds]
    best = np.where(of_variety, decisions.variety_probability, decisions.kind_probabilities[:, 0])
    return {
        "outcome": pa.array(OUTCOMES, pa.string()).take(pa.array(decisions.outcome)),
        "kind": pa.array(taxonomy.kind_ids, pa.string()).take(pa.array(kind, mask=nothing)),
        "variety": pa.array([*taxonomy.variety_ids, ""], pa.string()).take(pa.array(variety, mask=~of_variety)),
        **{f"name_{code}": pa.array([one[code] for one in names], pa.string()).take(name) for code in LANGUAGES},
        "probability": pa.array(best, pa.float32()),
        "kinds": _lists(pa.array(taxonomy.kind_ids, pa.string()), decisions.kinds),
        "kind_probabilities": _lists(None, decisions.kind_probabilities),
        "labels": _lists(pa.array(taxonomy.labels, pa.string()), decisions.labels),
        "probabilities": _lists(None, decisions.label_probabilities),
    }


def _lists(of: pa.Array | None, rows: NDArray[Any]) -> pa.Array:
    """Return the rows of a matrix as lists: of the numbers, or of the values that they number."""
    values = pa.array(np.ascontiguousarray(rows).reshape(-1))
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), values if of is None else of.take(values))


def _advice(decisions: Decisions, classifier: Classifier, rows: pa.Table) -> list[tuple[str, ...]]:
    certain = np.isin(decisions.outcome, [OUTCOMES.index("variety"), OUTCOMES.index("kind")])
    sides = pc.min_element_wise(rows["width"], rows["height"])
    measured = zip(rows["brightness"].to_pylist(), rows["sharpness"].to_pylist(), sides.to_pylist(), strict=True)
    limits = classifier.certainty.limits
    return [() if sure else limits.advice(*of_one) for sure, of_one in zip(certain.tolist(), measured, strict=True)]


def _outcomes(table: pa.Table) -> dict[str, int]:
    counts = table["outcome"].drop_null().value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counts}


def _in_order(outcomes: Counter[str]) -> dict[str, int]:
    return {name: outcomes[name] for name in OUTCOMES if outcomes[name]}


def _shards(inventory: Inventory, groups: int) -> Iterator[pa.Table]:
    """Yield the rows of one part after the other, schema ``_ASKED``."""
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(in_chunks(inventory)):
        if rows and number % groups == 0:
            yield pa.Table.from_pylist(rows, schema=_ASKED)
            rows = []
        for entry in group:
            row = {
                "part": number // groups,
                "group": number,
                "uri": entry.file.name,
                "size_bytes": entry.file.size_bytes,
                "modified_ms": entry.file.modified_ms,
                "catalogue_rows": entry.catalogue_rows.astype(np.int64).tobytes(),
            }
            rows.append(row)
    if rows:
        yield pa.Table.from_pylist(rows, schema=_ASKED)


def _part(folder: str, number: int) -> str:
    return f"{folder}/part-{number:06d}.parquet"


def vacuum(objects: Objects, *, dry_run: bool = False) -> tuple[int, int]:
    """Remove the parts of answers that killed processes left; return the number of files and their bytes."""
    files, size = 0, 0
    for folder, complete in _folders(objects):
        if not complete and _is_stale(objects, folder):
            left = [found.size_bytes for found in objects.list(folder)]
            files, size = files + len(left), size + sum(left)
            if not dry_run:
                _remove(objects, folder)
    return files, size


def _remove_folders(objects: Objects, chosen: set[str]) -> None:
    """Remove chosen folders of answers, and those that killed processes left."""
    for folder, complete in _folders(objects):
        if folder in chosen or (not complete and _is_stale(objects, folder)):
            _remove(objects, folder)


def _folders(objects: Objects) -> list[tuple[str, bool]]:
    """Return the folders of answers, and whether each is complete."""
    if _FOLDER not in objects.names():
        return []
    return [(one, objects.size(f"{one}/{_COMPLETE}") is not None) for one in objects.level(_FOLDER)[0]]


def _is_stale(objects: Objects, folder: str) -> bool:
    """Return whether the process of an attempt has ended, or it began long ago and has finished no part since.

    Answers for very many photos take days; of a process on another machine nothing else is known.
    """
    writer = objects.read_if_present(f"{folder}/{_WRITER}")
    if writer is not None and has_ended(writer):
        return True
    limit = datetime.now(UTC) - _STALE_AFTER
    if folder.rpartition("/")[2] >= f"{limit:%Y%m%dT%H%M%S}":
        return False
    with suppress(AbsentError):
        return all(found.modified_s < limit.timestamp() for found in objects.list(folder))
    return False


def _remove(objects: Objects, folder: str) -> None:
    objects.delete(f"{folder}/{_COMPLETE}")  # first: a folder that is partly removed is not taken for a whole one
    if objects.is_local:  # a store does not list files that a killed process had not finished
        shutil.rmtree(Path(objects.root, folder), ignore_errors=True)
        with suppress(OSError):  # not empty
            Path(objects.root, _FOLDER).rmdir()
        return
    for found in objects.list(folder):
        objects.delete(found.key)
