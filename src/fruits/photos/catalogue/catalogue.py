"""The catalogue: one row per photo with label, split and version, and a reason for every file skipped.

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

from fruits.errors import CatalogueError, option
from fruits.photos.catalogue.builder import SPLITS, CatalogueBuilder, stable_hash
from fruits.photos.catalogue.listing import OUTSIDE, add_sources
from fruits.photos.reading.access import Access
from fruits.storage.tables.catalogue_rows import CODED, TEXTS, CatalogueRows, CodedText, smallest_type
from fruits.storage.tables.spool import Spool

TEST_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The photos of a run, and counts of what was skipped.

    Attributes
    ----------
    listed : CatalogueRows
        The photos, sorted by uri, each uri once.
    split_origin : str
        ``folders``, ``manifest``, ``hash`` or ``mixed``.
    group_origin : str
        ``manifest`` if a manifest gives the groups, ``names`` if they follow from numbers in file names, or ``mixed``.
    sources : dict of str to int
        Photos per source, in the order given.
    skipped : dict of str to int
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

    listed: CatalogueRows
    split_origin: str
    group_origin: str
    sources: dict[str, int]
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    warnings: list[str]
    split_folders: dict[str, str]
    access: Access

    @property
    def table(self) -> pa.Table:
        """All rows, schema ``CATALOGUE``, in memory: for commands that hold all photos anyway."""
        return self.listed.table()

    @property
    def num_rows(self) -> int:
        """n, number of photos."""
        return self.listed.num_rows

    def remarks(self) -> list[str]:
        """Return remarks for the user: what was skipped, warnings, and which folders gave a split."""
        said = []
        for reason, count in self.skipped.items():
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
        Labels, or globs of labels. Photos of other labels are skipped.
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
    found = _Numbers(builder, only)
    texts = _sampled(found, sample, seed)
    if not texts.num_rows:
        raise CatalogueError(_nothing_found(sources, builder))
    origin = _split_by_hash(found) if labelled else "none"
    coded = {name: CodedText(list(builder.codes[name]), smallest_type(found.columns[name])) for name in CODED}
    coded["split"] = CodedText(list(SPLITS) if labelled else [], coded["split"].codes)
    listed = CatalogueRows(texts, coded, found.columns["group"])
    counts = coded["source"].counts()
    # Release the memory that sorting took: a run keeps the catalogue until its end, beside its workers.
    pa.default_memory_pool().release_unused()
    return Catalogue(
        listed,
        origin,
        _group_origin(listed.group),
        {source: counts.get(source, 0) for source in dict.fromkeys(sources)},
        dict(sorted(builder.skipped.items())),
        {reason: builder.examples[reason] for reason in sorted(builder.examples)},
        builder.warnings,
        dict(sorted(builder.split_folders.items())),
        access,
    )


def labels_without_training(listed: CatalogueRows) -> dict[str, int]:
    """Return the labels without training photos, with their number of photos."""
    label, train = listed.coded["label"], listed.coded["split"].having("train")
    trained = np.bincount(label.codes[train], minlength=len(label.names))
    without = {name for name, photos in zip(label.names, trained, strict=True) if not photos}
    return {name: photos for name, photos in sorted(label.counts().items()) if name in without}


class _Numbers:
    """The photos of a builder: text into a spool, small numbers into arrays.

    Attributes
    ----------
    texts : Spool
        Schema ``TEXTS``.
    columns : dict of str to array
        Codes of the columns ``CODED`` (-1 for null), ``group`` and ``key``, the hash of the path.
    """

    def __init__(self, builder: CatalogueBuilder, only: Sequence[str]) -> None:
        self.builder = builder
        self.texts = Spool(TEXTS, "uri")
        parts: dict[str, list[np.ndarray]] = {name: [] for name in (*CODED, "group", "key")}
        wanted: np.ndarray | None = None
        for table in builder.merged():
            rows = table
            if only:
                wanted = _chosen(list(builder.codes["label"]), only, builder) if wanted is None else wanted
                keep = wanted[rows["label"].to_numpy()]
                builder.skipped["not selected"] += int((~keep).sum())
                rows = rows.filter(pa.array(keep))
            self.texts.append(rows.select(TEXTS.names).cast(TEXTS))
            for name, arrays in parts.items():
                column = rows[name].combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)
                arrays.append(smallest_type(column) if name in CODED else column)
        self.texts.close()
        self.columns: dict[str, np.ndarray] = {}
        for name in list(parts):  # one after the other: parts and whole columns together would be twice the memory
            self.columns[name] = np.concatenate(parts.pop(name) or [np.empty(0, np.int64)])


def _sampled(found: _Numbers, sample: int | None, seed: int) -> Spool:
    """Keep a sample of each label, if one is asked for; return the texts."""
    builder, columns = found.builder, found.columns
    texts = found.texts
    if sample is not None and texts.num_rows:
        labels = columns["label"]
        # A bijection on 64 bits that mixes in the seed: it depends on path and seed only, and is independent of the split by
        # hash, which uses the largest of the same keys for testing.
        mixed = columns["key"].astype(np.uint64) ^ np.uint64(stable_hash(f"sample {seed}"))
        for _ in range(2):
            mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        order = np.lexsort((mixed, labels))
        rank = np.empty(len(order), np.int64)
        starts = np.flatnonzero(np.r_[True, labels[order][1:] != labels[order][:-1]])
        rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        keep = rank < sample
        builder.skipped["not selected"] += int((~keep).sum())
        found.columns = {name: column[keep] for name, column in columns.items()}
        texts = texts.filter(keep)
    if not builder.skipped["not selected"]:
        del builder.skipped["not selected"]
    return texts


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


def _split_by_hash(found: _Numbers) -> str:
    """Assign a split by hash to photos without one, or to all photos if all are for training: scores need test photos.

    Codes become indices into ``SPLITS``. Returns the origin of the splits.
    """
    columns = found.columns
    code = np.array([*(SPLITS.index(name) for name in found.builder.codes["split"]), -1], np.int8)
    split = code[columns["split"]]
    missing = split < 0
    origin = "mixed" if missing.any() and not missing.all() else "hash" if missing.all() else ""
    if not split.any():
        missing[:] = True
        origin = "hash"
    labels, key = columns["label"], columns["key"]
    is_test = key >= (1 - TEST_SHARE) * 2.0**63
    # The photo with a label's lowest hash is always for training, so that no small label is left without training photos.
    first = np.full(labels.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, labels, key)
    is_test &= key != first[labels]
    split[missing] = np.where(is_test, SPLITS.index("test"), SPLITS.index("train"))[missing]
    columns["split"] = split
    return origin or ("manifest" if found.builder.from_manifest else "folders")


def _group_origin(group: np.ndarray) -> str:
    given = group < 0
    return "manifest" if given.all() else "mixed" if given.any() else "names"


def _nothing_found(sources: Sequence[str], builder: CatalogueBuilder) -> str:
    where = ", ".join(f"'{source}'" for source in sources)
    skipped = builder.skipped_text()
    layout = (
        "PHOTOS/<label>/photo.jpg, with or without Training/ and Test/ above it"
        if builder.labelled
        else "JPEG, PNG or WebP files"
    )
    if builder.skipped[OUTSIDE]:
        layout = f"{option('allow_source', 'FOLDER')} for photos that lie elsewhere, or {layout}"
    return f"no photos to use in {where or 'an empty list of sources'}{f' ({skipped})' if skipped else ''}; expected {layout}"
