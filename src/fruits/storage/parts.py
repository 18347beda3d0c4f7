"""Embedding rows as Parquet parts with atomic commits, so that a killed run can be resumed.

A *plan* (one Parquet file per generation, put if absent) assigns photos to shards. A worker writes a shard's rows to a part with
a name unique to its attempt, then commits by putting the shard's *record* (JSON: part, size, checksum, counts) if absent. Readers
start at plan 1 and read the parts that records name; nothing is found by listing. A part holds exactly the rows of its shard, in
the plan's order, so plans and records alone tell which part has which photo.
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

from fruits.errors import StoreError, counted, option
from fruits.storage.objects import Objects
from fruits.storage.sanitising import json_text
from fruits.storage.schemas import WORK

_SHARDS_PER_PLAN: Final = 128
_ROWS_PER_SHARD: Final = (64, 4096)


class DamagedError(StoreError):
    """Stored bytes are damaged; run again with ``repair``."""


@dataclass(frozen=True, slots=True)
class Record:
    """The commit record of a part.

    Attributes
    ----------
    shard, part, sha256 : str
        Shard id, key of the part, checksum of its bytes.
    size_bytes, rows : int
        Size of the part.
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
        """Return the record as stored, with its own checksum, because its counts are used without reading the part."""
        text = json_text(asdict(self))
        return json_text({**asdict(self), "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()

    @classmethod
    def parse(cls, data: bytes, key: str) -> Record:
        """Parse a record; raise :class:`DamagedError` if it is damaged."""
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
                f"record '{key}' is damaged ({exc}); run again with {option('repair', True)}: its photos are computed again"
            ) from exc


@dataclass(frozen=True, slots=True)
class Holding:
    """The part of a committed shard and the catalogue rows that its rows belong to.

    Attributes
    ----------
    record : Record
    catalogue_rows : int64 array, shape (record.rows,)
        Catalogue row of each row of the part; -1 for rows that are not used.
    """

    record: Record
    catalogue_rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The stored embeddings of a catalogue, and the work that is left.

    Attributes
    ----------
    holdings : list of Holding
        In plan order; every catalogue row is in at most one.
    pending : pyarrow.Table
        Planned shards without a record whose photos are all still needed; schema ``WORK``.
    missing : int64 array
        Catalogue rows that are neither stored nor pending, or that failed and may work now.
    plans : int
        Number of plans.
    """

    holdings: list[Holding]
    pending: pa.Table
    missing: NDArray[np.int64]
    plans: int


class Parts:
    """The parts of one embedding job under one prefix.

    Parameters
    ----------
    root : str
        Folder of the results.
    prefix : str
        Prefix of all keys, such as ``embeddings/<job>``.
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
        holder = np.full(n, -1, np.int64)  # number, over all plans, of the shard that has the row
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
                        f"record '{self._record_key(name)}' is of shard {record.shard} with "
                        f"{counted(record.rows, 'photo')}, its plan has "
                        f"{len(shard_rows)}; run again with {option('repair', True)}: its photos are computed again"
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
        """Assign catalogue rows to new shards and commit the plan; return it, schema ``WORK``.

        Returns None if another run has put a plan since the inventory, which had ``after`` plans: take the inventory again.
        Putting the plan at the next free number instead would plan the other run's photos a second time.
        """
        low, high = _ROWS_PER_SHARD
        per_shard = min(max(-(-len(rows) // _SHARDS_PER_PLAN), low), high)
        generation = after + 1
        # Unique shard names per plan: if a plan is lost, its shards' files are never mistaken for those of its replacement.
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
        """Write the rows of a shard and commit them; called by workers.

        If another attempt committed the shard first, this attempt's part is deleted and the other's record is returned.
        """
        out = BytesIO()
        # Embeddings do not compress; trying costs more than the rest of the write.
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
        # The record names a part unique to this attempt: if a response is lost, the stored record shows who wrote it.
        if self._objects.put_if_absent(key, record.to_json()):
            return record
        self._objects.delete(part)
        return Record.parse(self._objects.read(key), key)

    def committed(self, shard: str) -> Record | None:
        """Return the record of a shard committed by another attempt or another run; None if there is none."""
        return self._records([shard])[0]

    def read(self, record: Record, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a part.

        Raises
        ------
        StoreError
            If its bytes differ from the committed ones.
        """
        data = self._bytes(record)
        if data is None:
            raise DamagedError(
                f"part '{record.part}' is damaged or gone; expected {record.size_bytes:,} bytes of the checksum in its record: "
                f"run again with {option('repair', True)}, which computes its {counted(record.rows, 'photo')} again "
                "and nothing else"
            )
        return read_table(data, columns)

    def repair(self, progress: Callable[[str], None] = lambda _: None) -> int:
        """Verify all committed bytes; remove the records of damaged shards, so that their photos are computed again.

        Parameters
        ----------
        progress : callable
            Called with a message for every damaged plan or shard.

        Returns
        -------
        int
            Number of damaged shards and plans.
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
                    progress(f"shard {shard} is damaged: {counted(rows, 'photo')} to compute again")
                    damaged += 1
                    self._objects.delete(key)
        return damaged

    def _plan_from_parts(self, generation: int) -> pa.Table:
        """Rebuild a plan from its undamaged shards; only here are names found by listing, because nothing else has them."""
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
        """Return a part's bytes if they match the record, else None.

        Every pass reads every part, so parts in a bucket are cached on the local disk during the run.
        """
        copy = None
        if not self._objects.is_local:
            with self._copying:  # with two folders, one would be deleted while in use
                self._copies = self._copies or tempfile.TemporaryDirectory(prefix="fruits-parts-")
            copy = Path(self._copies.name, record.sha256)
        if copy and copy.is_file():
            data: bytes | None = copy.read_bytes()
        else:
            data = self._objects.read_if_present(record.part)
        if data is None or len(data) != record.size_bytes or hashlib.sha256(data).hexdigest() != record.sha256:
            return None
        if copy and not copy.is_file():
            with suppress(OSError):  # a full disk only costs time
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
                    f"plan '{self._plan_key(generation)}' is damaged ({_first_line(exc)}); run again with "
                    f"{option('repair', True)}: what it named is computed again where it must be"
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
    """Read a Parquet file from memory, on the calling thread only.

    Arrow's threads may still hold Python objects when the interpreter ends, which then aborts the process (seen with pyarrow 26,
    in 2 to 5 of 120 programs that read a table and end).
    """
    return pq.read_table(pa.BufferReader(data), columns=columns, use_threads=False, pre_buffer=False)


def write_table(objects: Objects, key: str, table: pa.Table) -> None:
    """Write a table as Parquet, atomically."""
    out = BytesIO()
    pq.write_table(table, out, compression="zstd")
    objects.write(key, out.getvalue())


def _plan_bytes(plan: pa.Table) -> bytes:
    """Return a Parquet file whose footer holds a checksum of all its bytes, computed with zeros in place of the checksum."""
    out = BytesIO()
    with pq.ParquetWriter(out, plan.schema, compression="zstd") as writer:
        writer.write_table(plan)
        writer.add_key_value_metadata({"checksum": _PLAN_MARK + _BLANK})
    data = bytearray(out.getvalue())
    start = data.rindex(_PLAN_MARK) + len(_PLAN_MARK)
    data[start : start + len(_BLANK)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


#: Parquet has checksums of pages only; a changed byte in the footer can move rows without an error.
_PLAN_MARK: Final = b"fruits.sha256="
_BLANK: Final = b"0" * 64
#: Arrow raises OSError too for malformed bytes.
_PLAN_DAMAGE: Final = (pa.ArrowException, OSError)


def _parse_plan(data: bytes) -> pa.Table:
    """Parse a plan after verifying its checksum, which covers every byte."""
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
    """Return for each planned row the catalogue row of the same uri and version; -1 if there is none."""
    index = pc.index_in(plan["uri"], value_set=catalogue["uri"].combine_chunks())
    rows: NDArray[np.int64] = index.combine_chunks().fill_null(-1).to_numpy().astype(np.int64)
    found = np.flatnonzero(rows >= 0)
    same = pc.equal(plan["version"].take(pa.array(found)), catalogue["version"].take(pa.array(rows[found])))
    rows[found[~same.combine_chunks().to_numpy(zero_copy_only=False)]] = -1
    return rows
