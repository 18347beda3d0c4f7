"""Audit of labelled photos: duplicates, suspected label errors, photos that are blurred, dark or of odd size.

Computes embeddings as a run does and stores them; fits no model. Findings are suspicions: the page shows the photos, and the user
decides. Every photo is compared with every other, and some 4 kB per photo are in memory, so there is a limit, :data:`MAX_PHOTOS`.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import fruits
from fruits.config import RunConfig
from fruits.embedding.backbone import BATCH_SIZE
from fruits.engines import get_engine
from fruits.errors import CatalogueError, ImageDecodeError, counted, option
from fruits.learning.folds import rows_by
from fruits.learning.label_errors import find_label_errors
from fruits.learning.moments import Moments, unit
from fruits.learning.neighbours import COPIES_SHARE, NearDuplicates, connected_groups, nearest
from fruits.learning.pca import PCA
from fruits.monitoring.clock import Clock, Progress, Silent, Watcher
from fruits.photos.catalogue.catalogue import Catalogue
from fruits.photos.decoding.decoder import own_decoder
from fruits.photos.decoding.retouch import fingerprints
from fruits.photos.reading.access import Access
from fruits.photos.reading.reading import read_photo
from fruits.photos.reading.samples import thumbnail
from fruits.report import render_audit
from fruits.storage.embeddings.inventory import Inventory
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.objects import Objects
from fruits.storage.outputs.marker import claim
from fruits.storage.sanitising import json_text
from fruits.storage.tables import schemas
from fruits.storage.tables.parquet import write_table
from fruits.storage.tables.spool import on_disk
from fruits.training import run_record as records
from fruits.training.embed import Network, Prepared, access_of, catalogued, embed, prepare
from fruits.training.fitting.training_set import (
    TrainingSet,
    embeddings_of,
    in_chunks,
    read_embeddings,
    read_rows,
    vectors_of,
)
from fruits.training.scoring.leakage import NEIGHBOUR_COMPONENTS, copies_of

FORMAT: Final = 1
SORTS: Final = ("exact_duplicate", "near_duplicate", "label", "blurred", "dark", "odd_size", "unreadable")
#: Most photos of an audit: comparing them takes hours on two cores, and 0.8 GB.
MAX_PHOTOS: Final = 200_000
#: With more photos than this, embeddings are read twice, a chunk at a time, instead of being in memory.
_IN_MEMORY: Final = 50_000
_SHOWN: Final = 48
_PHOTOS_SHOWN: Final = 12
#: Neighbours per photo: among all photos, among those of other splits, and among those with other labels.
_NEIGHBOURS: Final = 12
#: Pairs compared per batch.
_PAIRS: Final = 8192
#: A photo counts as blurred, or as dark, below this share of the typical sharpness, or brightness, of these photos.
_BLURRED: Final = 0.4
_DARK: Final = 0.35
#: A photo has an odd size if its area differs from the typical one by this factor, or if its sides do from each other.
_ODD_AREA: Final = 8.0
_NARROW: Final = 3.0


@dataclass(slots=True)
class _Photos:
    """The photos that could be read, as arrays over their n rows."""

    uris: list[str]
    labels: list[str]
    splits: list[str]
    label: NDArray[np.int64]
    split: NDArray[np.int64]
    digest: NDArray[np.int64]
    pca: PCA
    features: NDArray[np.float32]
    measured: dict[str, NDArray[np.float64]]
    found: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {sort: [] for sort in SORTS})
    table: list[dict[str, Any]] = field(default_factory=list)

    def of(self, row: int) -> dict[str, str]:
        return {"uri": self.uris[row], "label": self.labels[row], "split": self.splits[row]}


def audit(config: RunConfig, *, progress: Progress | None = None, command: str = "fruits audit") -> dict[str, Any]:
    """Audit labelled photos.

    Parameters
    ----------
    config : RunConfig
        Uses ``sources``, ``out``, ``backbone``, ``size``, ``resize_mode``, ``workers``, ``only``, ``sample`` and ``seed``.
    progress : Progress, optional
    command : str
        The user's command line, for the record.

    Returns
    -------
    dict
        Content of ``DIR/audit.json``: counts per type of finding and the first few of each. All are in ``findings.parquet``.

    Raises
    ------
    FruitsError
        A subclass; the message says what to do.
    """
    progress, clock, started = progress or Silent(), Clock(), datetime.now(UTC).isoformat(timespec="seconds")
    network = Network.of(config, progress)
    access_of(config)
    objects, engine = Objects(config.out), get_engine("local", config.workers)
    claim(objects, "results")
    with Watcher() as memory:
        with clock.step("catalogue"):
            progress.start("catalogue", None)
            catalogue = catalogued(config, progress)
            for remark in catalogue.remarks():
                progress.note(remark)
            _refuse_too_many(catalogue)
            prepared = prepare(config, network, catalogue, objects)
        inventory, computed = embed(
            engine, catalogue, prepared, progress, clock, keep_missing=bool(config.only or config.sample)
        )
        counts = records.counts(catalogue, inventory, computed)
        with clock.step("duplicates"):
            photos = _photos(catalogue.table, prepared.stored, inventory)
            _note_groups(photos, "exact_duplicate", photos.digest, np.zeros(len(photos.uris)))
        with clock.step("labels"):
            progress.start("labels", None)
            mislabelled = _labels(photos)
        with clock.step("duplicates"):
            progress.start("duplicates", None)
            others = np.setdiff1d(np.arange(len(photos.uris)), mislabelled)
            if len(others) < len(mislabelled):  # with so many, the photos are too few to judge labels
                others = np.arange(len(photos.uris))
            duplicates = _near(photos, prepared, others, catalogue.access, progress)
        with clock.step("photos"):
            _pixels(photos)
            _unreadable(photos, catalogue.table, records.rejections(catalogue, inventory))
        with clock.step("report"):
            progress.start("report", None)
            table = pa.Table.from_pylist(photos.table, schema=schemas.FINDINGS)
            write_table(objects, "findings.parquet", table)
            splits = {name: photos.splits.count(name) for name in sorted(set(photos.splits))}
            record = {
                "format": FORMAT,
                "fruits": fruits.__version__,
                "started": started,
                "command": command,
                "sources": [{"source": name, "photos": count} for name, count in catalogue.sources.items()],
                **counts,
                "labels": len(set(photos.labels)),
                "splits": splits,
                "backbone": {"name": prepared.card.name, "size": prepared.preprocessing.size},
                "near_duplicates": asdict(duplicates),
                "flagged": _flagged(table),
                "counts": _counts(photos),
                "findings": {sort: photos.found[sort][:_SHOWN] for sort in SORTS},
                "seconds": {**clock.seconds, "total": clock.total()},
                "peak_memory_mb": memory.megabytes,
            }
            objects.write("audit.html", render_audit(record, _thumbnails(record, catalogue.access)).encode())
        record["seconds"] = {**clock.seconds, "total": clock.total()}
        objects.write("audit.json", json_text(record, indent=1, ensure_ascii=False).encode())
    return record


def _refuse_too_many(catalogue: Catalogue) -> None:
    """Raise before the long work if there are more photos than can be compared."""
    n = catalogue.num_rows
    if n <= MAX_PHOTOS:
        return
    few = option("sample", max(1, MAX_PHOTOS // len(catalogue.listed.coded["label"].counts())))
    raise CatalogueError(
        f"{counted(n, 'photo')} to audit; expected at most {MAX_PHOTOS:,}, because every photo is compared with every other: "
        f"audit some labels at a time ({option('only')}), or some photos of each ({few})"
    )


def _photos(table: pa.Table, stored: EmbeddingTable, inventory: Inventory) -> _Photos:
    """Collect the features and measurements of the photos that could be read."""
    rows = np.flatnonzero(TrainingSet.of(table, inventory).ok)
    if len(rows) < 2:
        raise CatalogueError(
            f"{len(rows)} of {counted(table.num_rows, 'photo')} could be read; expected two or more to compare"
        )
    measures = ["width", "height", "brightness", "sharpness"]
    if len(rows) <= _IN_MEMORY:
        vectors, others = embeddings_of(stored, inventory, rows, table.num_rows, ["sha256", *measures])
        pca = PCA.from_moments(Moments.from_rows(vectors))
        features = unit(pca.transform(vectors, min(NEIGHBOUR_COMPONENTS, pca.max_components)))
        del vectors
    else:
        pca, features, others = _in_chunks(stored, inventory, rows, table.num_rows, ["sha256", *measures])
    chosen = table.take(pa.array(rows))
    (labels, label), (splits, split) = _codes(chosen["label"]), _codes(chosen["split"])
    return _Photos(
        chosen["uri"].to_pylist(),
        labels,
        splits,
        label,
        split,
        np.unique(np.array(others["sha256"].to_pylist(), "S64"), return_inverse=True)[1].astype(np.int64),
        pca,
        features,
        {name: others[name].to_numpy().astype(np.float64) for name in measures},
    )


def _in_chunks(
    stored: EmbeddingTable, inventory: Inventory, wanted: NDArray[np.int64], n: int, columns: list[str]
) -> tuple[PCA, NDArray[np.float32], pa.Table]:
    """Return PCA, features and other columns of some catalogue rows, reading the embeddings twice, a chunk at a time."""
    moments, others, places = None, [], []
    for group in in_chunks(inventory):
        table, at = read_rows(stored, group, ["status", *columns, "embedding"])
        good = pc.equal(table["status"], "ok").combine_chunks().to_numpy(zero_copy_only=False)
        found = Moments.from_rows(vectors_of(table)[good])
        moments = found if moments is None else moments.merge(found)
        others.append(table.select(columns).filter(pa.array(good)))
        places.append(at[good])
    assert moments is not None  # noqa: S101 - there are photos
    pca = PCA.from_moments(moments)
    position = np.full(n, -1, np.int64)
    position[wanted] = np.arange(len(wanted))
    features = np.empty((len(wanted), min(NEIGHBOUR_COMPONENTS, pca.max_components)), np.float32)
    for group in in_chunks(inventory):
        vectors, at = read_embeddings(stored, group)
        features[position[at]] = unit(pca.transform(vectors, features.shape[1]))
    order = np.argsort(position[np.concatenate(places)])
    return pca, features, pa.concat_tables(others).take(pa.array(order))


def _codes(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """Return the values of a column of few different texts, each text once in memory, and their ranks."""
    encoded = column.combine_chunks()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    values = [names[code] for code in codes.tolist()]
    rank = {name: number for number, name in enumerate(sorted(set(values)))}
    return values, np.array([rank.get(name, -1) for name in names], np.int64)[codes]


def _near(
    photos: _Photos, prepared: Prepared, others: NDArray[np.int64], access: Access, progress: Progress
) -> NearDuplicates:
    """Record pairs of photos as close as a photo and its retouched copy, both by embedding and by a small image.

    A network trained to classify fruit puts all photos of one fruit close together; images of 16 x 16 pixels distinguish the
    views, but alone would match all white pages. So both must agree.

    Parameters
    ----------
    others : int64 array
        Rows without a suspected label error; the threshold is derived from them.
    """
    retouched = copies_of(others, photos.uris, prepared.model.fetch(), prepared.preprocessing, access)
    copied = unit(photos.pca.transform(retouched.embeddings, photos.features.shape[1]))
    once = others[np.unique(photos.digest[others], return_index=True)[1]]
    duplicates = NearDuplicates.derive(
        photos.features[retouched.rows], copied, photos.features[once], photos.label[once]
    )
    left, right = _candidates(photos, duplicates.threshold)
    wanted = np.unique(np.r_[left, right])
    descriptors = _matrix(len(wanted), retouched.descriptors.shape[1])
    for start in range(0, len(wanted), BATCH_SIZE):
        rows = wanted[start : start + BATCH_SIZE]
        descriptors[start : start + len(rows)] = _descriptors(photos, rows, prepared, access)
        progress.advance(len(rows))
    own, partners = np.searchsorted(wanted, left), np.searchsorted(wanted, right)
    limit = float(np.quantile(1 - (retouched.own_descriptors * retouched.descriptors).sum(axis=1), COPIES_SHARE))
    distance = np.empty(len(left), np.float32)
    for start in range(0, len(left), _PAIRS):
        at = slice(start, start + _PAIRS)
        distance[at] = 1 - (descriptors[own[at]] * descriptors[partners[at]]).sum(axis=1)
    near = distance <= limit
    left, right, distance = left[near], right[near], np.maximum(distance[near], 0)
    # The partner reported for each photo: prefer another label, then another split, then the closest.
    same_label, same_split = photos.label[left] == photos.label[right], photos.split[left] == photos.split[right]
    order = np.lexsort((right, distance, same_split, same_label, left))
    first = order[np.r_[True, np.diff(left[order]) != 0]] if len(order) else order
    closest, partner = np.full(len(photos.uris), np.inf), np.full(len(photos.uris), -1, np.int64)
    closest[left[first]], partner[left[first]] = distance[first], right[first]
    groups = connected_groups(left, right, len(photos.uris))
    _note_groups(photos, "near_duplicate", groups, closest, partner)
    return duplicates


def _matrix(rows: int, columns: int) -> NDArray[np.float32]:
    """Return a matrix to be filled: in memory while it is small, else in a temporary file without a name."""
    if rows <= _IN_MEMORY or not columns:
        return np.zeros((rows, columns), np.float32)
    with on_disk(), tempfile.TemporaryFile(prefix="fruits-audit-") as file:
        if hasattr(os, "posix_fallocate"):  # else a disk that gets full ends the process with SIGBUS
            os.posix_fallocate(file.fileno(), 0, 4 * rows * columns)
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))


def _candidates(photos: _Photos, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of photos that are close by embedding, each in both directions.

    Candidates are the nearest photos of all, of other splits and of other labels: in an image sequence, the nearest of all are
    adjacent frames, which would hide pairs across splits or labels. Exact copies are reported separately.
    """
    rows = np.arange(len(photos.uris), dtype=np.int64)
    pairs = []
    for marks in (photos.digest, photos.split, photos.label):
        if len(np.unique(marks)) > 1:
            distance, index = nearest(photos.features, photos.features, count=_NEIGHBOURS, other_than=(marks, marks))
            near = distance <= threshold
            pairs.append(np.stack([np.repeat(rows, near.sum(axis=1)), index[near]]))
    found = np.concatenate(pairs, axis=1)
    found = found[:, photos.digest[found[0]] != photos.digest[found[1]]]
    both = np.unique(np.concatenate([found, found[::-1]], axis=1), axis=1)
    return both[0], both[1]


def _descriptors(photos: _Photos, rows: NDArray[np.int64], prepared: Prepared, access: Access) -> NDArray[np.float32]:
    """Return the fingerprints of photos; that of a photo deleted meanwhile is zero."""
    size = prepared.preprocessing.size
    pixels = np.zeros((len(rows), size, size, 3), np.uint8)
    for place, row in enumerate(rows.tolist()):
        with suppress(OSError, ImageDecodeError):
            pixels[place] = (
                own_decoder().to_network_input(read_photo(photos.uris[row], access), prepared.preprocessing).pixels
            )
    return fingerprints(pixels)


def _note_groups(
    photos: _Photos,
    sort: str,
    groups: NDArray[np.int64],
    distance: NDArray[np.float64],
    partner: NDArray[np.int64] | None = None,
) -> None:
    """Record every group of two or more photos: first those across labels, then across splits, then the closest."""
    kept = []
    for rows in rows_by(groups):
        if len(rows) < 2:
            continue
        across = {
            "across_splits": len(np.unique(photos.split[rows])) > 1,
            "across_labels": len(np.unique(photos.label[rows])) > 1,
        }
        kept.append((rows, across, float(distance[rows].min())))
    kept.sort(key=lambda group: (not group[1]["across_labels"], not group[1]["across_splits"], group[2], group[0][0]))
    for number, (rows, across, least) in enumerate(kept):
        # The closest first; in a group across labels, photos that differ from the most common label come first.
        common = np.bincount(photos.label[rows]).argmax()
        shown = rows[np.lexsort((rows, distance[rows], photos.label[rows] == common))][:_PHOTOS_SHOWN]
        if across["across_labels"] and len(shown) < len(rows) and (photos.label[shown] != common).all():
            shown = np.r_[shown[:-1], rows[photos.label[rows] == common][:1]]
        group = {"photos": [photos.of(row) for row in shown.tolist()], "size": len(rows), "distance": least, **across}
        photos.found[sort].append(group)
        for row in rows.tolist():
            if partner is not None:
                other = int(partner[row])
            else:
                others = rows[rows != row]
                same = (photos.label[others] == photos.label[row], photos.split[others] == photos.split[row])
                other = int(others[np.lexsort((others, same[1], same[0]))[0]])
            _add(
                photos,
                sort,
                row,
                group=number,
                distance=float(distance[row]),
                other_uri=photos.uris[other],
                other_label=photos.labels[other],
                other_split=photos.splits[other],
                across_splits=photos.splits[other] != photos.splits[row],
                across_labels=photos.labels[other] != photos.labels[row],
            )


def _labels(photos: _Photos) -> NDArray[np.int64]:
    """Record suspected label errors; return their rows."""
    if len(set(photos.labels)) < 2:
        return np.empty(0, np.int64)
    names = sorted(set(photos.labels))
    found = find_label_errors(photos.features, photos.label, photos.digest)
    told = zip(
        found.rows.tolist(),
        found.suggested.tolist(),
        found.given_probability.tolist(),
        found.suggested_probability.tolist(),
        strict=True,
    )
    for row, suggested, given, likely in told:
        details = {"suggested": names[suggested], "given_probability": given, "suggested_probability": likely}
        photos.found["label"].append({**photos.of(row), **details})
        _add(photos, "label", row, **details)
    return found.rows


def _pixels(photos: _Photos) -> None:
    """Record photos that are blurred, dark or of odd size, compared with the typical values of these photos."""
    for sort, name, share in (("blurred", "sharpness", _BLURRED), ("dark", "brightness", _DARK)):
        values = photos.measured[name]
        limit = share * float(np.median(values))
        for row in np.flatnonzero(values < limit)[np.argsort(values[values < limit], kind="stable")].tolist():
            told = {"value": float(values[row]), "limit": limit}
            photos.found[sort].append({**photos.of(row), **told})
            _add(photos, sort, row, **told)
    width, height = photos.measured["width"], photos.measured["height"]
    area, ratio = width * height, np.maximum(width, height) / np.minimum(width, height)
    times = area / np.median(area)
    why = np.select([ratio > _NARROW, times < 1 / _ODD_AREA, times > _ODD_AREA], ["narrow", "small", "large"], "")
    for row in np.flatnonzero(why != "").tolist():
        size = {"width": int(width[row]), "height": int(height[row]), "why": str(why[row])}
        photos.found["odd_size"].append({**photos.of(row), **size})
        _add(photos, "odd_size", row, message=f"{why[row]}: {size['width']} x {size['height']}")


def _add(photos: _Photos, sort: str, row: int, **more: Any) -> None:
    photos.table.append({"sort": sort, **photos.of(row), **more})


def _unreadable(photos: _Photos, table: pa.Table, rejections: list[dict[str, str]]) -> None:
    """Record files that could not be decoded."""
    uris = pa.array([rejection["uri"] for rejection in rejections], pa.large_string())
    splits = table["split"].take(pc.index_in(uris, table["uri"].combine_chunks())).to_pylist()
    for rejection, split in zip(rejections, splits, strict=True):
        photos.found["unreadable"].append(rejection)
        known = {name: rejection[name] for name in ("uri", "label", "message")}
        photos.table.append({"sort": "unreadable", "split": split, **known})


def _counts(photos: _Photos) -> dict[str, dict[str, int]]:
    """Return the number of findings of each type."""
    counts: dict[str, dict[str, int]] = {}
    for sort in SORTS:
        found = photos.found[sort]
        if sort.endswith("duplicate"):
            across = {name: sum(group[name] for group in found) for name in ("across_splits", "across_labels")}
            counts[sort] = {"photos": sum(group["size"] for group in found), "groups": len(found), **across}
        else:
            counts[sort] = {"photos": len(found)}
    return counts


def _flagged(table: pa.Table) -> int:
    """Return the number of flagged photos; near-duplicates count only across labels.

    In image sequences every frame has near-duplicates, which are no errors.
    """
    expected = pc.and_(
        pc.equal(table["sort"], "near_duplicate"), pc.invert(pc.fill_null(table["across_labels"], False))
    )
    return int(pc.count_distinct(table.filter(pc.invert(expected))["uri"]).as_py())


def _thumbnails(record: dict[str, Any], access: Access) -> dict[str, bytes]:
    """Return thumbnails of the photos shown on the page."""
    shown: list[str] = []
    for sort, found in record["findings"].items():
        if sort != "unreadable":
            shown += [photo["uri"] for one in found for photo in one.get("photos", [one])]
    pictures = ((uri, thumbnail(uri, access)) for uri in dict.fromkeys(shown))
    return {uri: picture for uri, picture in pictures if picture is not None}
