"""Building the catalogue in columns: lists of rows would take ten times the memory.

Listings add photos, in sorted runs beyond a few hundred thousand; :meth:`CatalogueBuilder.merged` yields them sorted, each once.
Independent of where photos are stored.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fruits.errors import CatalogueError
from fruits.storage.tables.schemas import CATALOGUE
from fruits.storage.tables.spool import SortedRuns

SPLITS: Final = ("train", "val", "test")
_EXAMPLES_KEPT: Final = 5
_ROWS_PER_CHUNK: Final = 8192
_COLUMNS: Final = (*CATALOGUE.names, "key")
_CODED: Final = ("label", "split", "source", "manifest_source")
#: Types of the columns while building; columns of few distinct values hold codes.
_TYPES: Final = (
    pa.large_string(), pa.int32(), pa.int8(), pa.int64(), pa.large_string(), pa.int32(), pa.int64(), pa.int32(), pa.int64(),
)  # fmt: skip


def stable_hash(text: str) -> int:
    """Return a 63-bit hash of ``text`` that is the same on every machine and in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(slots=True)
class CatalogueBuilder:
    """Collects the photos of a catalogue in columns.

    Parameters
    ----------
    labelled : bool
        Whether photos need a label.
    progress : callable
        Called with the number of photos found since the last call.
    """

    labelled: bool
    progress: Callable[[int], None]
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    runs: SortedRuns = field(default_factory=lambda: SortedRuns("uri"))
    pending: list[tuple[object, ...]] = field(default_factory=list)
    codes: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in _CODED})
    source: str = ""
    #: Source to the common prefix of its photos' uris; the rest of a uri is the path within the source.
    roots: dict[str, str] = field(default_factory=dict)
    from_manifest: bool = False
    #: Warnings for the user, besides the counts of ``skipped``.
    warnings: list[str] = field(default_factory=list)
    #: Folder name to the split that was derived from it.
    split_folders: dict[str, str] = field(default_factory=dict)

    def start(self, source: str) -> None:
        """Set the source of the photos added from now on."""
        self.source = source
        self._code("source", source)

    def lies_below(self, root: str) -> None:
        """Set the prefix of the uris of the present source's photos."""
        self.roots[self.source] = root

    def skip(self, reason: str, name: str) -> None:
        """Count a file or folder that is skipped."""
        self.skipped[reason] += 1
        if len(self.examples[reason]) < _EXAMPLES_KEPT:
            self.examples[reason].append(name.encode("utf-8", "backslashreplace").decode())

    def skipped_text(self) -> str:
        """Return a summary of what was skipped: counts by reason, with an example each."""
        return "; ".join(
            f"{count} {reason} (such as {self.examples[reason][0]!r})"
            if self.examples.get(reason)
            else f"{count} {reason}"
            for reason, count in self.skipped.items()
        )

    def add(
        self,
        uri: str,
        key: str,
        size: int,
        version: str,
        *,
        label: str | None,
        split: str | None,
        group: int | None = None,
        manifest_source: str | None = None,
    ) -> None:
        """Add a photo; ``key`` is its path within the source, whose hash determines split, sample and default group."""
        label_code = None if label is None else self._code("label", label)
        split_code = None if split is None else self._code("split", split)
        hashed = stable_hash(key)
        self.pending.append(
            (
                uri,
                label_code,
                split_code,
                size,
                version,
                self.codes["source"][self.source],
                hashed if group is None else group,
                None if manifest_source is None else self._code("manifest_source", manifest_source),
                hashed,
            )
        )
        if len(self.pending) >= _ROWS_PER_CHUNK:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Add a record batch with columns ``uri, label, split, size_bytes, version, group, manifest_source, key``.

        Label, split and manifest_source are dictionary arrays of text; ``key`` is the :func:`stable_hash` of the path.
        """
        self._flush()
        columns = {name: batch.column(name) for name in batch.schema.names}
        for name, kind in (("label", pa.int32()), ("split", pa.int8()), ("manifest_source", pa.int32())):
            values = columns[name].dictionary.to_pylist()
            codes = pa.array([self._code(name, value) for value in values], kind)
            columns[name] = codes.take(columns[name].indices)
        columns["source"] = pa.repeat(pa.scalar(self.codes["source"][self.source], pa.int32()), batch.num_rows)
        arrays = [columns[name].cast(kind) for name, kind in zip(_COLUMNS, _TYPES, strict=True)]
        self.runs.add(pa.RecordBatch.from_arrays(arrays, names=list(_COLUMNS)))
        self.progress(batch.num_rows)

    def merged(self) -> Iterator[pa.Table]:
        """Yield the photos sorted by uri, each once, with codes in the columns of few values; may be called once.

        Raises
        ------
        CatalogueError
            If a photo is listed with two labels or splits.
        """
        self._flush()
        before: pa.Table | None = None
        for table in self.runs.merged():
            rows = table if before is None else pa.concat_tables([before, table])
            uris = rows["uri"].combine_chunks()
            again = pc.equal(uris.slice(1), uris.slice(0, len(uris) - 1)).to_numpy(zero_copy_only=False)
            again = np.append(False, again)
            if again.any():
                self._note_second_mentions(rows, again)
                rows = rows.filter(pa.array(~again))
            rows = rows.slice(0 if before is None else 1)
            if rows.num_rows:
                yield rows.combine_chunks()
                before = rows.slice(rows.num_rows - 1)

    def _note_second_mentions(self, rows: pa.Table, again: np.ndarray) -> None:
        labels = rows["label"].combine_chunks().fill_null(-1).to_numpy()
        splits = rows["split"].combine_chunks().fill_null(-1).to_numpy()
        clash = np.flatnonzero(again[1:] & ((labels[1:] != labels[:-1]) | (splits[1:] != splits[:-1])))
        if len(clash):
            at = int(clash[0])
            what, codes = ("label", labels) if labels[at] != labels[at + 1] else ("split", splits)
            names = [*self.codes[what], None]
            raise CatalogueError(
                f"'{rows['uri'][at].as_py()}' is listed with two {what}s, '{names[codes[at]]}' and '{names[codes[at + 1]]}'; "
                "expected one: remove it from one of the sources"
            )
        for row in np.flatnonzero(again):
            self.skip("listed twice", rows["uri"][int(row)].as_py())

    def _code(self, column: str, value: str) -> int:
        codes = self.codes[column]
        return codes.setdefault(value, len(codes))

    def _flush(self) -> None:
        if not self.pending:
            return
        columns = zip(*self.pending, strict=True)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, _TYPES, strict=True)]
        self.runs.add(pa.RecordBatch.from_arrays(arrays, names=list(_COLUMNS)))
        self.progress(len(self.pending))
        self.pending.clear()
