"""The training set: label, split, group and source of every catalogue row as arrays, and chunked reading of embeddings.

Also decides where groups come from: a manifest, names of files, or clusters of similar photos. Fits nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fruits.learning import clusters, validation
from fruits.storage.embeddings.inventory import ROWS_PER_CHUNK, FileRows, Inventory
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.tables.catalogue_rows import CatalogueRows, CodedText, smallest_type

#: With more photos than this, groups come from names only, without clustering.
_ROWS_FOR_CLUSTERS: Final = 200_000


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Label, split, group and source of each catalogue row, as arrays of shape (n,): those of other splits are scored.

    Attributes
    ----------
    label : int32 array
        Index of the label in ``names``.
    split : CodedText
    group : int64 array
    ok : bool array
        Whether there is an embedding.
    source : integer array
        Index of the source of the photo: the publisher named in a manifest, else the source given on the command line.
    named_source : integer array
        Index of the source named in a manifest; -1 without one.
    names : list of str
        All labels of the catalogue, sorted.
    """

    label: NDArray[Any]
    split: CodedText
    group: NDArray[np.int64]
    ok: NDArray[np.bool_]
    source: NDArray[Any]
    named_source: NDArray[Any]
    names: list[str]

    @classmethod
    def of(cls, catalogue: CatalogueRows | pa.Table, inventory: Inventory) -> TrainingSet:
        """Build the arrays from a catalogue and its inventory."""
        listed = catalogue if isinstance(catalogue, CatalogueRows) else CatalogueRows.of(catalogue)
        label = listed.coded["label"]
        names = sorted(label.counts())
        number = {name: position for position, name in enumerate(names)}
        recode = np.array([number.get(name, -1) for name in label.names], np.int32)
        ok = np.zeros(listed.num_rows, bool)
        for entry in inventory.file_rows:
            good = entry.catalogue_rows >= 0
            good[[row for row, _, _ in entry.errors]] = False
            ok[entry.catalogue_rows[good]] = True
        source, named = listed.coded["source"].codes, _named_sources(listed)
        if (named >= 0).any():
            source = np.where(named >= 0, int(source.max(initial=0)) + 1 + named.astype(np.int32), source)
        return cls(recode[label.codes], listed.coded["split"], listed.group, ok, source, named, names)

    def of_split(self, name: str) -> NDArray[np.bool_]:
        """Return which rows are in a split, shape (n,)."""
        return self.split.having(name)

    @property
    def train_rows(self) -> NDArray[np.int64]:
        """Rows of the training split with an embedding."""
        return np.flatnonzero(self.of_split("train") & self.ok)

    def balance(self, kind_of: Sequence[int]) -> NDArray[np.float64]:
        """Return sample weights, shape (n,), with which all kinds, and all sources within a kind, count equally.

        Parameters
        ----------
        kind_of : sequence of int
            Kind of each label of ``names``.
        """
        train = self.train_rows
        weights = np.zeros(len(self.ok))
        weights[train] = validation.balance(np.array(kind_of, np.int64)[self.label[train]], self.source[train])
        return weights


def source_names(catalogue: CatalogueRows | pa.Table) -> list[str]:
    """Return the sources named in manifests, sorted."""
    if isinstance(catalogue, CatalogueRows):
        names = catalogue.coded["manifest_source"].names
    elif "manifest_source" in catalogue.column_names:
        names = catalogue["manifest_source"].combine_chunks().dictionary.to_pylist()
    else:
        return []
    return sorted({name for name in names if name})


def _named_sources(listed: CatalogueRows) -> NDArray[Any]:
    """Return the index of the source named in a manifest for each row, in the order of names; -1 without one."""
    column, used = listed.coded["manifest_source"], source_names(listed)
    number = np.array([*(used.index(name) if name else -1 for name in column.names), -1])
    return np.asarray(smallest_type(number)[column.codes])


def grouped_by_clusters(
    stored: EmbeddingTable, inventory: Inventory, training_set: TrainingSet
) -> tuple[TrainingSet, str]:
    """Return the rows with groups that keep similar photos together, so that leaving out groups is meaningful; and their origin.

    Groups of a manifest stay, and so do groups from numbers in file names if these turn out to be informative; otherwise
    similar photos of a label form a group. Only training photos are examined.

    Returns
    -------
    TrainingSet
    str
        Origin of the groups: ``manifest``, ``names`` or ``clusters``; for photos not grouped by a manifest, if any.
    """
    train = training_set.train_rows
    train = train[training_set.group[train] >= 0]
    if not len(train):
        return training_set, "manifest"
    if len(train) > _ROWS_FOR_CLUSTERS:
        return training_set, "names"
    position = np.full(len(training_set.ok), -1, np.int64)
    position[train] = np.arange(len(train))
    sketches = np.empty((len(train), 0), np.float32)
    for entry in inventory.file_rows:
        vectors, at = read_embeddings(stored, [entry])
        to = position[at]
        if (to >= 0).any():
            some = clusters.sketch(vectors[to >= 0])
            sketches = sketches if sketches.shape[1] else np.empty((len(train), some.shape[1]), np.float32)
            sketches[to[to >= 0]] = some
    if clusters.numbers_are_informative(sketches, training_set.label[train], training_set.group[train]):
        return training_set, "names"
    group = training_set.group.copy()
    group[train] = clusters.cluster(sketches, training_set.label[train])
    return replace(training_set, group=group), "clusters"


def embeddings_of(
    stored: EmbeddingTable, inventory: Inventory, wanted: NDArray[np.int64], n: int, columns: Sequence[str]
) -> tuple[NDArray[np.float32], pa.Table]:
    """Return the embeddings of some catalogue rows, shape (m, d), in memory, and other columns of the same rows.

    Parameters
    ----------
    wanted : int64 array, shape (m,)
        Catalogue rows that have an embedding; m at least 1.
    n : int
        Rows of the catalogue.
    columns : sequence of str
        Of the schema ``embeddings``.
    """
    position = np.full(n, -1, np.int64)
    position[wanted] = np.arange(len(wanted))
    vectors, others, places = np.empty((len(wanted), 0), np.float32), [], []
    for entry in inventory.file_rows:
        to = np.where(entry.catalogue_rows >= 0, position[entry.catalogue_rows], -1)
        if (to >= 0).any():
            table = stored.read(entry.file, [*columns, "embedding"])
            some = vectors_of(table)[to >= 0]
            vectors = vectors if vectors.shape[1] else np.empty((len(wanted), some.shape[1]), np.float32)
            vectors[to[to >= 0]] = some
            others.append(table.select(list(columns)).filter(pa.array(to >= 0)))
            places.append(to[to >= 0])
    order = np.argsort(np.concatenate(places))
    return vectors, pa.concat_tables(others).take(pa.array(order))


def seen_rows(stored: EmbeddingTable, inventory: Inventory, listed: bytes, n: int) -> NDArray[np.bool_]:
    """Return which catalogue rows are training photos of the backbone, shape (n,).

    Parameters
    ----------
    listed : bytes
        The first 8 bytes of the sha256 of these photos, big-endian, sorted.
    n : int
        Rows of the catalogue.
    """
    known = np.frombuffer(listed, ">u8")
    seen = np.zeros(n, bool)
    for entry in inventory.file_rows:
        digests = stored.read_keys(entry.file, ["sha256"])["sha256"].to_pylist()
        first = np.array([int(digest[:16], 16) if digest else 0 for digest in digests], np.uint64)
        there = entry.catalogue_rows >= 0
        seen[entry.catalogue_rows[there]] = np.isin(first, known)[there]
    return seen


def in_chunks(inventory: Inventory) -> Iterator[list[FileRows]]:
    """Group whole chunks until they have :data:`ROWS_PER_CHUNK` rows or more; the last group may be smaller.

    Which photos a group has does not depend on which file has them.
    """
    group: list[FileRows] = []
    size = 0
    for _, members in groupby(inventory.file_rows, key=lambda entry: entry.file.chunk):
        for entry in members:
            group.append(entry)
            size += int((entry.catalogue_rows >= 0).sum())
        if size >= ROWS_PER_CHUNK:
            yield group
            group, size = [], 0
    if group:
        yield group


def read_rows(stored: EmbeddingTable, group: list[FileRows], columns: list[str]) -> tuple[pa.Table, NDArray[np.int64]]:
    """Return the used rows of some files, and their catalogue rows, in the catalogue's order."""
    tables, at = [], []
    for entry in group:
        used = entry.catalogue_rows >= 0
        table = stored.read(entry.file, columns)
        tables.append(table if used.all() else table.filter(pa.array(used)))
        at.append(entry.catalogue_rows[used])
    rows, places = pa.concat_tables(tables), np.concatenate(at)
    order = np.argsort(places, kind="stable")
    if (order[1:] < order[:-1]).any():
        return rows.take(pa.array(order)), places[order]
    return rows, places


def read_embeddings(stored: EmbeddingTable, group: list[FileRows]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the embeddings of some files, shape (m, d), and their catalogue rows; photos that are not ok are left out."""
    rows, at = read_rows(stored, group, ["status", "embedding"])
    good = pc.equal(rows["status"], "ok").combine_chunks().to_numpy(zero_copy_only=False)
    return vectors_of(rows)[good], at[good]


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    """Return the column ``embedding`` as a matrix, shape (n, d); rows of photos that are not ok are undefined."""
    column = table["embedding"].combine_chunks()
    values: NDArray[np.float32] = column.values.to_numpy(zero_copy_only=False)
    return values.reshape(-1, column.type.list_size)
