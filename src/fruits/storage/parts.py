"""Embedding rows as Parquet parts that count only once committed, so that any run can be killed and goes on.

A *plan* (one Parquet file per generation, put if absent) deals photos into shards. A worker writes a shard's rows to a part
under a name of its own attempt, then puts the shard's *record* (JSON: part, size, checksum, counts) if there is none. Readers
start at plan 1 and read what records name; nothing is ever found by listing. A part holds exactly the rows of its shard, in
the plan's order, so who has which photo is known from plans and records alone.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruits.errors import StoreError
from fruits.storage.objects import Objects
from fruits.storage.sanitising import json_text
from fruits.storage.schemas import WORK

_SHARDS_PER_PLAN: Final = 128
_ROWS_PER_SHARD: Final = (64, 4096)


class DamagedError(StoreError):
    """Stored bytes are not those that were written; ``--repair`` helps."""


@dataclass(frozen=True, slots=True)
class Record:
    """What makes a part count.

    Attributes
    ----------
    shard, part, sha256 : str
        Shard id, key of the part, checksum of its bytes.
    size_bytes, rows : int
        Of the part.
    errors : tuple of (int, str, str)
        Row, status and error of every photo that is not ok.
    """

    shard: str
    part: str
    size_bytes: int
    sha256: str
    rows: int
    errors: tuple[tuple[int, str, str], ...]

    def to_json(self) -> bytes:
        """Return the record as it is stored, with a checksum of its own: its counts are believed without the part."""
        text = json_text(asdict(self))
        return json_text({**asdict(self), "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()

    @classmethod
    def parse(cls, data: bytes, key: str) -> Record:
        """Read a record; raise :class:`StoreError` if it is damaged."""
        try:
            values = json.loads(data)
            values["errors"] = tuple((int(row), str(status), str(error)) for row, status, error in values["errors"])
            values.pop("checksum")
            record = cls(**values)
            if record.to_json() != data:
                raise ValueError("another checksum")
            return record
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise DamagedError(
                f"record '{key}' is damaged ({exc}); run again with --repair: its photos are computed again"
            ) from exc


@dataclass(frozen=True, slots=True)
class Holding:
    """The part of one committed shard and what its rows are to the present catalogue.

    Attributes
    ----------
    record : Record
    catalogue_rows : int64 array, shape (record.rows,)
        Row of the catalogue that each row of the part stands for; -1 where it stands for none.
    """

    record: Record
    catalogue_rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is there for a catalogue, and what is still to do.

    Attributes
    ----------
    holdings : list of Holding
        In plan order; every catalogue row stands in at most one.
    pending : pyarrow.Table
        Planned shards without a record whose photos are all still wanted; schema ``WORK``.
    missing : int64 array
        Catalogue rows that are neither held nor pending, or that failed and may work now.
    plans : int
        How many plans there were.
    """

    holdings: list[Holding]
    pending: pa.Table
    missing: NDArray[np.int64]
    plans: int


class Parts:
    """The parts of one computation under one prefix.

    Parameters
    ----------
    root : str
        Folder of the results.
    prefix : str
        Such as ``embeddings/<computation>``.
    """

    def __init__(self, root: str, prefix: str) -> None:
        self._objects = Objects(root)
        self.root = self._objects.root
        self.prefix = prefix
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self._copying = threading.Lock()

    def __reduce__(self) -> tuple[type[Parts], tuple[str, str]]:
        return Parts, (self.root, self.prefix)

    def inventory(self, catalogue: pa.Table) -> Inventory:
        """Compare plans and records with a catalogue.

        Parameters
        ----------
        catalogue : pyarrow.Table
            Columns ``uri`` and ``version``; each uri once.

        Raises
        ------
        StoreError
            If a plan or record cannot be read.
        """
        n = catalogue.num_rows
        holder = np.full(n, -1, np.int64)  # the shard that holds the row, counted over all plans
        failed_holder = np.full(n, -1, np.int64)
        uncommitted: list[tuple[pa.Table, NDArray[np.int64]]] = []
        committed: list[tuple[Record, NDArray[np.int64]]] = []
        plans = 0
        for plan in self._plans():
            plans += 1
            rows = _catalogue_rows(plan, catalogue)
            shards = plan["shard"].combine_chunks().dictionary_encode()
            if not plan.num_rows:
                continue
            starts = np.flatnonzero(np.r_[True, np.diff(shards.indices.to_numpy()) != 0])
            names = [plan["shard"][int(start)].as_py() for start in starts]
            records = self._records(names)
            for name, record, start, stop in zip(names, records, starts, np.r_[starts[1:], plan.num_rows], strict=True):
                shard_rows = rows[start:stop]
                if record is None:
                    uncommitted.append((plan.slice(start, stop - start), shard_rows))
                    continue
                if record.shard != name or record.rows != len(shard_rows):
                    raise DamagedError(
                        f"record '{self._record_key(name)}' is of shard {record.shard} with {record.rows} photos, its plan has "
                        f"{len(shard_rows)}; run again with --repair: its photos are computed again"
                    )
                number = len(committed)
                committed.append((record, shard_rows))
                failed = np.zeros(len(shard_rows), bool)
                failed[[row for row, status, _ in record.errors if status == "failed"]] = True
                good = shard_rows[~failed & (shard_rows >= 0)]
                holder[good[holder[good] < 0]] = number
                failed_holder[shard_rows[failed & (shard_rows >= 0)]] = number
        holder = np.where(holder < 0, failed_holder, holder)

        to_do = (holder < 0) | (holder == failed_holder)
        pending = []
        for shard, shard_rows in uncommitted:
            if (shard_rows >= 0).all() and to_do[shard_rows].all():
                pending.append(shard)
                to_do[shard_rows] = False
        holdings = []
        for number, (record, shard_rows) in enumerate(committed):
            held = np.where((shard_rows >= 0) & (holder[shard_rows] == number), shard_rows, -1)
            if (held >= 0).any():
                holdings.append(Holding(record, held))
        return Inventory(holdings, pa.concat_tables([WORK.empty_table(), *pending]), np.flatnonzero(to_do), plans)

    def plan(self, catalogue: pa.Table, rows: NDArray[np.int64], *, after: int) -> pa.Table | None:
        """Deal catalogue rows into new shards and commit the plan; return it, schema ``WORK``.

        None if another run has put a plan since the inventory, which had ``after`` of them, was taken: take it again. A plan
        that was put after looking for a free place instead would plan that run's photos once more.
        """
        low, high = _ROWS_PER_SHARD
        per_shard = min(max(-(-len(rows) // _SHARDS_PER_PLAN), low), high)
        generation = after + 1
        # Names of this plan alone: should it get lost, what its shards left is never taken for those of the plan in its place.
        mine = f"{generation:05d}-{uuid.uuid4().hex[:8]}"
        names = [f"{mine}-{index:05d}" for index in range(-(-len(rows) // per_shard))]
        wanted = catalogue.select(["uri", "label", "split", "version"])
        if len(rows) < catalogue.num_rows:  # else the plan shares the catalogue's memory
            wanted = wanted.take(pa.array(rows))
        shard = pa.DictionaryArray.from_arrays(
            pa.array(np.arange(len(rows), dtype=np.int32) // per_shard), pa.array(names)
        )
        table = wanted.append_column("shard", shard).select(WORK.names).cast(WORK)
        return table if self._objects.put_if_absent(self._plan_key(generation), _plan_bytes(table)) else None

    def commit(self, shard: str, table: pa.Table) -> Record:
        """Write the rows of a shard and make them count; called by workers.

        If another attempt made the shard count first, this attempt's part is deleted and the other's record returned.
        """
        out = BytesIO()
        # Floats of a network do not compress; trying costs more than the rest of the write.
        compressed = {name: "none" if name == "embedding" else "zstd" for name in table.column_names}
        compressed["embedding.list.element"] = compressed.pop("embedding")
        pq.write_table(table, out, compression=compressed, use_dictionary=["label", "split", "status", "error"])
        data = out.getvalue()
        part = f"{self.prefix}/parts/{shard}-{uuid.uuid4().hex[:12]}.parquet"
        self._objects.write(part, data)
        bad = np.flatnonzero(pc.not_equal(table["status"], "ok").combine_chunks().to_numpy(zero_copy_only=False))
        errors = tuple((int(row), table["status"][int(row)].as_py(), table["error"][int(row)].as_py()) for row in bad)
        record = Record(shard, part, len(data), hashlib.sha256(data).hexdigest(), table.num_rows, errors)
        key = self._record_key(shard)
        # The record names a part that no other attempt can have: if an answer is lost, what is stored says whose it is.
        if self._objects.put_if_absent(key, record.to_json()):
            return record
        self._objects.delete(part)
        return Record.parse(self._objects.read(key), key)

    def committed(self, shard: str) -> Record | None:
        """Return the record of a shard that counts already, by another attempt or another run; else None."""
        return self._records([shard])[0]

    def read(self, record: Record, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a part.

        Raises
        ------
        StoreError
            If its bytes are not the ones that were committed.
        """
        data = self._bytes(record)
        if data is None:
            raise DamagedError(
                f"part '{record.part}' is damaged or gone; expected {record.size_bytes:,} bytes of the checksum in its record: "
                f"run again with --repair, which computes its {record.rows:,} photos again and nothing else"
            )
        return read_table(data, columns)

    def repair(self, progress: Callable[[str], None] = lambda _: None) -> int:
        """Look at every byte that counts; make what is damaged not count, so that its photos are computed again.

        Parameters
        ----------
        progress : callable
            Told of everything that was damaged.

        Returns
        -------
        int
            Shards, and plans, that were damaged.
        """
        damaged = 0
        for generation, data in self._plan_files():
            try:
                plan = _parse_plan(data)
            except _PLAN_DAMAGE as exc:
                progress(
                    f"plan '{self._plan_key(generation)}' is damaged ({_first_line(exc)}): made again of its parts"
                )
                damaged += 1
                plan = self._plan_from_parts(generation)
                self._objects.write(self._plan_key(generation), _plan_bytes(plan))
            counts = {row["values"]: row["counts"] for row in plan["shard"].value_counts().to_pylist()}
            for shard, rows in counts.items():
                key = self._record_key(shard)
                try:
                    record = self.committed(shard)
                    whole = record is None or (record.shard == shard and record.rows == rows and self._bytes(record))
                except DamagedError:
                    whole = False
                if not whole:
                    progress(f"shard {shard} is damaged: its {rows:,} photos are computed again")
                    damaged += 1
                    self._objects.delete(key)
        return damaged

    def _plan_from_parts(self, generation: int) -> pa.Table:
        """Return a plan of the shards that are whole; here alone are names looked up by listing, since nothing else has them."""
        tables = [WORK.empty_table()]
        keys = [found.key for found in self._objects.list(f"{self.prefix}/records")]
        for key in sorted(key for key in keys if key.rpartition("/")[2].startswith(f"{generation:05d}-")):
            with suppress(DamagedError):
                record = Record.parse(self._objects.read(key), key)
                rows = self.read(record, ["uri", "label", "split", "version"])
                shard = pa.array([record.shard] * rows.num_rows)
                tables.append(rows.append_column("shard", shard).select(WORK.names).cast(WORK))
        return pa.concat_tables(tables)

    def _bytes(self, record: Record) -> bytes | None:
        """Return a part's bytes if they are those that were committed, else None.

        Every pass reads every part. Those of a bucket are kept on this machine's disk while the run lasts.
        """
        copy = None
        if not self._objects.is_local:
            with self._copying:  # of two folders, one would vanish under its readers
                self._copies = self._copies or tempfile.TemporaryDirectory(prefix="fruits-parts-")
            copy = Path(self._copies.name, record.sha256)
        if copy and copy.is_file():
            data: bytes | None = copy.read_bytes()
        else:
            data = self._objects.read_if_present(record.part)
        if data is None or len(data) != record.size_bytes or hashlib.sha256(data).hexdigest() != record.sha256:
            return None
        if copy and not copy.is_file():
            with suppress(OSError):  # a full disk costs time, nothing else
                copy.with_suffix(".new").write_bytes(data)
                copy.with_suffix(".new").rename(copy)
        return data

    def _plan_files(self) -> Iterator[tuple[int, bytes]]:
        generation = 1
        while (data := self._objects.read_if_present(self._plan_key(generation))) is not None:
            yield generation, data
            generation += 1

    def _plans(self) -> Iterator[pa.Table]:
        for generation, data in self._plan_files():
            try:
                yield _parse_plan(data)
            except _PLAN_DAMAGE as exc:
                raise DamagedError(
                    f"plan '{self._plan_key(generation)}' is damaged ({_first_line(exc)}); run again with --repair: "
                    "what it named is computed again where it must be"
                ) from exc

    def _records(self, shards: Sequence[str]) -> list[Record | None]:
        keys = [self._record_key(shard) for shard in shards]
        found = self._objects.read_many(keys)
        return [None if data is None else Record.parse(data, key) for key, data in zip(keys, found, strict=True)]

    def _plan_key(self, generation: int) -> str:
        return f"{self.prefix}/plans/{generation:05d}.parquet"

    def _record_key(self, shard: str) -> str:
        return f"{self.prefix}/records/{shard}.json"


def read_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file from memory, on this thread alone.

    Arrow's own threads may still hold Python objects when the interpreter ends, which then aborts the process (seen with pyarrow
    26, in 2 to 5 of 120 programs that read a table and end).
    """
    return pq.read_table(pa.BufferReader(data), columns=columns, use_threads=False, pre_buffer=False)


def write_table(objects: Objects, key: str, table: pa.Table) -> None:
    """Write a table as Parquet, whole or not at all."""
    out = BytesIO()
    pq.write_table(table, out, compression="zstd")
    objects.write(key, out.getvalue())


def _plan_bytes(plan: pa.Table) -> bytes:
    """Return a Parquet file whose footer holds a checksum of all its bytes, in whose place are zeros for the counting."""
    out = BytesIO()
    with pq.ParquetWriter(out, plan.schema, compression="zstd") as writer:
        writer.write_table(plan)
        writer.add_key_value_metadata({"checksum": _PLAN_MARK + _BLANK})
    data = bytearray(out.getvalue())
    start = data.rindex(_PLAN_MARK) + len(_PLAN_MARK)
    data[start : start + len(_BLANK)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


#: Parquet itself checks its pages at most; a byte changed in its footer can move rows without a word.
_PLAN_MARK: Final = b"fruits.sha256="
_BLANK: Final = b"0" * 64
#: Arrow raises OSError, too, for bytes that make no sense.
_PLAN_DAMAGE: Final = (pa.ArrowException, OSError)


def _parse_plan(data: bytes) -> pa.Table:
    """Read a plan, not a byte of which may be another than was written."""
    before, mark, after = data.rpartition(_PLAN_MARK)
    digest = hashlib.sha256(before + mark + _BLANK)
    digest.update(after[len(_BLANK) :])
    if not mark or digest.hexdigest().encode() != after[: len(_BLANK)]:
        raise pa.ArrowInvalid("its bytes have another checksum")
    plan = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).replace_schema_metadata(None)
    if plan.schema != WORK:
        raise pa.ArrowInvalid("it has other columns")
    return plan


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def _catalogue_rows(plan: pa.Table, catalogue: pa.Table) -> NDArray[np.int64]:
    """Return for each planned row the catalogue row of the same uri and version, -1 where there is none."""
    index = pc.index_in(plan["uri"], value_set=catalogue["uri"].combine_chunks())
    rows: NDArray[np.int64] = index.combine_chunks().fill_null(-1).to_numpy().astype(np.int64)
    found = np.flatnonzero(rows >= 0)
    same = pc.equal(plan["version"].take(pa.array(found)), catalogue["version"].take(pa.array(rows[found])))
    rows[found[~same.combine_chunks().to_numpy(zero_copy_only=False)]] = -1
    return rows
