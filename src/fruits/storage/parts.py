"""Embedding rows as Parquet parts that count only once committed, so that any run can be killed and goes on.

A *plan* (one Parquet file per generation, put if absent) deals photos into shards. A worker writes a shard's rows to a part
under a name of its own attempt, then puts the shard's *record* (JSON: part, size, checksum, counts) if there is none. Readers
start at plan 1 and read what records name; nothing is ever found by listing. A part holds exactly the rows of its shard, in
the plan's order, so who has which photo is known from plans and records alone.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruits.errors import StoreError
from fruits.storage.objects import Objects
from fruits.storage.schemas import WORK

_SHARDS_PER_PLAN: Final = 128
_ROWS_PER_SHARD: Final = (64, 4096)


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
        text = json.dumps(asdict(self))
        return json.dumps({**asdict(self), "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()

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
            raise StoreError(
                f"record '{key}' is damaged ({exc}); delete it and run again: its photos are computed again"
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
    """

    holdings: list[Holding]
    pending: pa.Table
    missing: NDArray[np.int64]


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
        for plan in self._plans():
            rows = _catalogue_rows(plan, catalogue)
            shards = plan["shard"].combine_chunks().dictionary_encode()
            starts = np.flatnonzero(np.r_[True, np.diff(shards.indices.to_numpy()) != 0])
            for start, stop in zip(starts, np.r_[starts[1:], plan.num_rows], strict=True):
                shard_rows = rows[start:stop]
                name = plan["shard"][int(start)].as_py()
                record = self._record(name)
                if record is None:
                    uncommitted.append((plan.slice(start, stop - start), shard_rows))
                    continue
                if record.shard != name or record.rows != len(shard_rows):
                    raise StoreError(
                        f"record '{self._record_key(name)}' is of shard {record.shard} with {record.rows} photos, its plan has "
                        f"{len(shard_rows)}; delete it and run again: its photos are computed again"
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
        return Inventory(holdings, pa.concat_tables([WORK.empty_table(), *pending]), np.flatnonzero(to_do))

    def plan(self, catalogue: pa.Table, rows: NDArray[np.int64]) -> pa.Table | None:
        """Deal catalogue rows into new shards and commit the plan; return it, schema ``WORK``.

        None if another run put a plan first: take the inventory again.
        """
        low, high = _ROWS_PER_SHARD
        per_shard = min(max(-(-len(rows) // _SHARDS_PER_PLAN), low), high)
        generation = 1
        while self._objects.read_if_present(self._plan_key(generation)) is not None:
            generation += 1
        names = [f"{generation:05d}-{index:05d}" for index in range(-(-len(rows) // per_shard))]
        wanted = catalogue.select(["uri", "label", "split", "version"])
        if len(rows) < catalogue.num_rows:  # else the plan shares the catalogue's memory
            wanted = wanted.take(pa.array(rows))
        shard = pa.DictionaryArray.from_arrays(
            pa.array(np.arange(len(rows), dtype=np.int32) // per_shard), pa.array(names)
        )
        table = wanted.append_column("shard", shard).select(WORK.names).cast(WORK)
        out = BytesIO()
        pq.write_table(table, out, compression="zstd", write_page_checksum=True)
        return table if self._objects.put_if_absent(self._plan_key(generation), out.getvalue()) else None

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
        if self._objects.put_if_absent(key, record.to_json()):
            return record
        self._objects.delete(part)
        return Record.parse(self._objects.read(key), key)

    def read(self, record: Record, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a part.

        Raises
        ------
        StoreError
            If its bytes are not the ones that were committed.
        """
        data = self._objects.read_if_present(record.part)
        if data is None or len(data) != record.size_bytes or hashlib.sha256(data).hexdigest() != record.sha256:
            found = "is gone" if data is None else f"is damaged ({len(data):,} bytes, another checksum)"
            raise StoreError(
                f"part '{record.part}' {found}; expected {record.size_bytes:,} bytes: "
                f"delete '{self._record_key(record.shard)}' and run again, its {record.rows} photos are computed again"
            )
        return pq.read_table(pa.BufferReader(data), columns=columns)

    def _plans(self) -> Iterator[pa.Table]:
        generation = 1
        while (data := self._objects.read_if_present(self._plan_key(generation))) is not None:
            try:
                plan = pq.read_table(pa.BufferReader(data), schema=WORK, page_checksum_verification=True)
                plan.validate(full=True)
                if any(plan[field.name].null_count for field in WORK if not field.nullable):
                    raise pa.ArrowInvalid("a column is missing")
            except (pa.ArrowException, OSError) as exc:  # Arrow raises OSError, too, for bytes that make no sense
                key = self._plan_key(generation)
                first = (str(exc).splitlines() or [type(exc).__name__])[0]
                raise StoreError(
                    f"plan '{key}' is damaged ({first}); delete the folder '{self.prefix}' and run again"
                ) from exc
            yield plan
            generation += 1

    def _record(self, shard: str) -> Record | None:
        key = self._record_key(shard)
        data = self._objects.read_if_present(key)
        return None if data is None else Record.parse(data, key)

    def _plan_key(self, generation: int) -> str:
        return f"{self.prefix}/plans/{generation:05d}.parquet"

    def _record_key(self, shard: str) -> str:
        return f"{self.prefix}/records/{shard}.json"


def write_table(objects: Objects, key: str, table: pa.Table) -> None:
    """Write a table as Parquet, whole or not at all."""
    out = BytesIO()
    pq.write_table(table, out, compression="zstd")
    objects.write(key, out.getvalue())


def _catalogue_rows(plan: pa.Table, catalogue: pa.Table) -> NDArray[np.int64]:
    """Return for each planned row the catalogue row of the same uri and version, -1 where there is none."""
    index = pc.index_in(plan["uri"], value_set=catalogue["uri"].combine_chunks())
    rows: NDArray[np.int64] = index.combine_chunks().fill_null(-1).to_numpy().astype(np.int64)
    found = np.flatnonzero(rows >= 0)
    same = pc.equal(plan["version"].take(pa.array(found)), catalogue["version"].take(pa.array(rows[found])))
    rows[found[~same.combine_chunks().to_numpy(zero_copy_only=False)]] = -1
    return rows
