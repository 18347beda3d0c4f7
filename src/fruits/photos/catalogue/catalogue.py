"""The catalogue: one row per photo with label, split and version, and a reason for every file left aside.

The label is the name of the folder that holds the photo. The split is given by a folder above it named Training, train, val,
Test ..., else by a hash of the path. A manifest (CSV or Parquet) gives both itself. Only file names, sizes and times are read
here, so a photo that cannot be decoded is in the catalogue too. Rows do not depend on the order of listing; label, split and
group do not depend on whether photos lie on disk, in a bucket or in a pack.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fruits.errors import CatalogueError
from fruits.photos.catalogue.builder import SPLITS, CatalogueBuilder, stable_hash
from fruits.photos.catalogue.listing import add_sources
from fruits.photos.reading.access import Access
from fruits.storage.schemas import CATALOGUE

TEST_SHARE: Final = 0.2
#: With paths of at most 4,096 bytes, the text of a column of one chunk is less than 2 GiB.
_ROWS_PER_CHUNK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The photos of a run, and counts of what was left aside.

    Attributes
    ----------
    table : pyarrow.Table
        Schema ``CATALOGUE``, sorted by uri, each uri once.
    split_origin : str
        ``folders``, ``manifest``, ``hash`` or ``mixed``.
    group_origin : str
        ``manifest`` if a manifest gives the groups, ``names`` if they follow from numbers in file names, or ``mixed``.
    sources : dict of str to int
        Photos per source, in the order given.
    left_aside : dict of str to int
        Reason to number of files or folders.
    examples : dict of str to list of str
        Reason to the first few names, made printable.
    warnings : list of str
        Warnings about the layout of the folders.
    split_folders : dict of str to str
        Folder name to the split derived from it.
    access : Access
        Which paths may be read.
    """

    table: pa.Table
    split_origin: str
    group_origin: str
    sources: dict[str, int]
    left_aside: dict[str, int]
    examples: dict[str, list[str]]
    warnings: list[str]
    split_folders: dict[str, str]
    access: Access

    def remarks(self) -> list[str]:
        """Return remarks for the user: what was left aside, warnings, and which folders gave a split."""
        said = []
        for reason, count in self.left_aside.items():
            examples = ", ".join(self.examples.get(reason, []))
            said.append(f"skipped: {count:,} {reason}{f' ({examples})' if examples else ''}")
        said += [f"warning: {warning}" for warning in self.warnings]
        if self.split_folders:
            found = ", ".join(f"{folder}/ is {split}" for folder, split in self.split_folders.items())
            said.append(f"splits by names of folders: {found}")
        return said


def list_photos(
    sources: Sequence[str],
    *,
    only: Sequence[str] = (),
    sample: int | None = None,
    seed: int = 0,
    labelled: bool = True,
    access: Access | None = None,
    progress: Callable[[int], None] | None = None,
) -> Catalogue:
    """List the photos of all sources.

    Parameters
    ----------
    sources : sequence of str
        Folders, packs and manifests, on disk or in a bucket (``s3://bucket/prefix``); single photos if ``labelled`` is False.
    only : sequence of str
        Labels, or globs of labels. Photos of other labels are left aside.
    sample : int, optional
        Keep at most this many photos per label, chosen by a seeded hash of their paths.
    seed : int
        Random seed of the sample.
    labelled : bool
        If False (photos that users submitted), label and split stay null and any layout of folders is accepted.
    access : Access, optional
        Where links and manifests may lead; by default within the sources.
    progress : callable, optional
        Called with the number of photos found since the last call.

    Returns
    -------
    Catalogue

    Raises
    ------
    CatalogueError
        If a source is missing or unreadable, an item of ``only`` matches no label, or no photos are left.
    StoreError
        If a request to a bucket is refused.
    """
    builder = CatalogueBuilder(labelled=labelled, progress=progress or (lambda _: None))
    access = Access.to(sources) if access is None else access
    add_sources(builder, sources, access)
    table = builder.finish()
    table = _select(table, builder, only, sample, seed)
    if table.num_rows == 0:
        raise CatalogueError(_nothing_found(sources, builder))
    counts = {row["values"]: row["counts"] for row in table["source"].combine_chunks().value_counts().to_pylist()}
    if labelled:
        table, origin = _split_by_hash(table, builder)
    else:
        origin = "none"
    # Chunks that a consumer can still cast to text with 32-bit offsets, or send to a worker; without a copy.
    table = pa.Table.from_batches(table.to_batches(_ROWS_PER_CHUNK), table.schema)
    # Release the memory that sorting took: a run keeps the catalogue until its end, beside its workers.
    pa.default_memory_pool().release_unused()
    return Catalogue(
        table,
        origin,
        _group_origin(table["group"].to_numpy()),
        {source: counts.get(source, 0) for source in dict.fromkeys(sources)},
        dict(sorted(builder.left_aside.items())),
        {reason: builder.examples[reason] for reason in sorted(builder.examples)},
        builder.warnings,
        dict(sorted(builder.split_folders.items())),
        access,
    )


def labels_without_training(table: pa.Table) -> dict[str, int]:
    """Return the labels without training photos, with their number of photos."""
    labels = table["label"].combine_chunks()
    trained = set(
        labels.filter(pc.equal(table["split"].combine_chunks().cast(pa.string()), "train")).unique().to_pylist()
    )
    counts = {row["values"]: row["counts"] for row in labels.value_counts().to_pylist()}
    return {label: counts[label] for label in sorted(counts) if label not in trained}


def _select(table: pa.Table, builder: CatalogueBuilder, only: Sequence[str], sample: int | None, seed: int) -> pa.Table:
    if only and table.num_rows:
        labels = table["label"].combine_chunks()
        wanted = _chosen(labels.dictionary.to_pylist(), only, builder)
        keep = wanted[labels.indices.to_numpy()]
        builder.left_aside["not selected"] += int((~keep).sum())
        table = table.filter(pa.array(keep))
    if sample is not None and table.num_rows:
        labels = table["label"].combine_chunks().indices.to_numpy()
        # A bijection on 64 bits that mixes in the seed: it depends on path and seed only, and is independent of the split by
        # hash, which uses the largest of the same keys for testing.
        mixed = table["key"].to_numpy().astype(np.uint64) ^ np.uint64(stable_hash(f"sample {seed}"))
        for _ in range(2):
            mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        order = np.lexsort((mixed, labels))
        rank = np.empty(len(order), np.int64)
        starts = np.flatnonzero(np.r_[True, labels[order][1:] != labels[order][:-1]])
        rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        builder.left_aside["not selected"] += int((rank >= sample).sum())
        table = table.filter(pa.array(rank < sample))
    if not builder.left_aside["not selected"]:
        del builder.left_aside["not selected"]
    return table


def _chosen(labels: list[str], only: Sequence[str], builder: CatalogueBuilder) -> np.ndarray:
    """Return which labels are selected: by their exact name, which may contain ``[``, or by a glob.

    Names and globs are compared in Unicode form NFC: file systems and keyboards use different forms.
    """
    plain = [unicodedata.normalize("NFC", label) for label in labels]
    wanted = np.zeros(len(plain), bool)
    idle = []
    for given in only:
        glob = unicodedata.normalize("NFC", given)
        matching = [label == glob or fnmatchcase(label, glob) for label in plain]
        wanted |= matching
        if not any(matching):
            idle.append(given)
    if idle:
        known = sorted(plain)
        raise CatalogueError(
            f"no label in {', '.join(map(repr, builder.roots))} matches {', '.join(map(repr, idle))}; labels there: "
            f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"
        )
    return wanted


def _split_by_hash(table: pa.Table, builder: CatalogueBuilder) -> tuple[pa.Table, str]:
    """Assign a split by hash to photos without one, or to all photos if all are for training: scores need test photos."""
    given = table["split"].combine_chunks()
    # Codes rather than names: at millions of rows, Python strings would be most of the memory.
    code = np.array([SPLITS.index(name) for name in given.dictionary.to_pylist()] or [0], np.int8)
    split = np.where(given.is_null(), -1, code[given.indices.fill_null(0).to_numpy()])
    missing = split < 0
    origin = "mixed" if missing.any() and not missing.all() else "hash" if missing.all() else ""
    if not split.any():
        missing[:] = True
        origin = "hash"
    labels = table["label"].combine_chunks().indices.to_numpy()
    key = table["key"].to_numpy()
    is_test = key >= (1 - TEST_SHARE) * 2.0**63
    # The photo with a label's lowest hash is always for training, so that no small label is left without training photos.
    first = np.full(labels.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, labels, key)
    is_test &= key != first[labels]
    split[missing] = np.where(is_test, SPLITS.index("test"), SPLITS.index("train"))[missing]
    column = pa.DictionaryArray.from_arrays(pa.array(split, pa.int8()), pa.array(SPLITS))
    table = table.set_column(2, CATALOGUE.field("split"), column).select(CATALOGUE.names).cast(CATALOGUE)
    return table, origin or ("manifest" if builder.from_manifest else "folders")


def _group_origin(group: np.ndarray) -> str:
    given = group < 0
    return "manifest" if given.all() else "mixed" if given.any() else "names"


def _nothing_found(sources: Sequence[str], builder: CatalogueBuilder) -> str:
    where = ", ".join(f"'{source}'" for source in sources)
    aside = builder.aside()
    layout = (
        "PHOTOS/<label>/photo.jpg, with or without Training/ and Test/ above it"
        if builder.labelled
        else "JPEG, PNG or WebP files"
    )
    return (
        f"no photos to use in {where or 'an empty list of sources'}{f' ({aside})' if aside else ''}; expected {layout}"
    )
