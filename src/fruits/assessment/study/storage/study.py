"""``fruits study storage``: the cost of storing the results of a run, and the accuracy with fewer or smaller numbers.

Measured on the embeddings of a finished run: bytes, time to write and read, and the accuracy of the head, fitted again on the
reduced vectors, on the run's validation photos. The photos themselves are measured as files and as a pack.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.assessment.dataset import FinishedRun, access_of_run, open_run
from fruits.assessment.printed import with_interval
from fruits.assessment.study.frontier import mark_frontier, recommended
from fruits.assessment.study.record import begun, text_of, write
from fruits.assessment.study.speed import evenly_spaced
from fruits.assessment.study.storage.encoding import FORMATS, codecs_for, encoded, measured_files
from fruits.assessment.study.storage.money import CLASSES, break_even_months, monthly
from fruits.config import RunConfig
from fruits.errors import ConfigError, FruitsError, counted, option
from fruits.learning.folds import interval
from fruits.learning.heads import Head, get_head
from fruits.learning.metrics import FEWEST_PHOTOS
from fruits.learning.moments import Moments
from fruits.learning.pca import PCA
from fruits.monitoring.clock import Clock, Progress, Silent
from fruits.photos.reading.access import Access
from fruits.photos.reading.packing import pack
from fruits.photos.reading.reading import read_photos
from fruits.report import render_storage_study
from fruits.storage.objects import Objects
from fruits.storage.outputs.marker import claim
from fruits.training.embed import TRAINING_PHOTOS
from fruits.training.fitting.fit import ValidationSplit
from fruits.training.fitting.training_set import TrainingSet, embeddings_of, grouped_by_clusters, seen_rows

#: k that are tried, beside the k of the run.
GRID: Final = (8, 16, 32, 64, 128, 256)
#: Rows per file that are tried, beside all in one file.
ROWS_PER_FILE: Final = (64, 256, 1024, 4096)
#: Photos of which the files are read and packed, at most.
PHOTOS_READ: Final = 400
#: Size of the files in which packs and vectors of a million photos are kept.
FILE_BYTES: Final = 128 << 20
#: Costs are those of so many photos, and of so many months.
MILLION: Final = 1_000_000
MONTHS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How a storage study measures.

    Attributes
    ----------
    reads : float
        How often everything is read in a month, for the costs of S3.
    repeats : int
        Repeats of every time; the median counts.
    """

    reads: float = 1.0
    repeats: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.reads < 1e6:
            raise ConfigError(
                f"{option('reads_per_month', self.reads)}: expected how often all of it is read, such as 1"
            )
        if self.repeats < 1:
            raise ConfigError(f"{option('repeats', self.repeats)}: expected 1 or more")


def study_storage(
    out: str,
    prices: Mapping[str, float],
    prices_of: str,
    *,
    options: StudyOptions | None = None,
    progress: Progress | None = None,
    command: str = "fruits study storage",
) -> dict[str, Any]:
    """Measure the storage of a finished run; write ``study/storage.json`` and ``study/storage.html`` into the output.

    Parameters
    ----------
    out : str
        Results of a run.
    prices : mapping
        Name of a price to USD, those of :data:`fruits.assessment.study.storage.money.CLASSES`.
    prices_of : str
        Region and date of the prices.
    options : StudyOptions, optional
    progress : Progress, optional
    command : str
        The user's command line, for the record.

    Returns
    -------
    dict
        Content of ``study/storage.json``; docs/studies.md explains it.

    Raises
    ------
    StoreError
        If there is no finished run in ``out``.
    ConfigError
        If the run has too few training photos to hold some out.
    """
    progress, options, clock = progress or Silent(), options or StudyOptions(), Clock()
    about = begun("storage", command)
    progress.start("embeddings", None)
    run = open_run(out)
    split = _split(run)
    progress.start("vectors", None)
    settings = _settings(run, split, options.repeats, progress)
    best = _compare(settings)
    progress.start("file sizes", None)
    files = _file_sizes(split, settings[best], options.repeats)
    progress.start("photos", None)
    photos = _photos(run, options.repeats)
    objects = Objects(run.place.out)
    claim(objects, "results")
    study = {
        **about,
        "out": run.place.out,
        "run": run.place.name,
        "backbone": run.bundle.card.name,
        "embedding_size": run.bundle.card.embedding_size,
        "components": run.record["components"],
        "photos": run.record["photos"],
        "labels": run.record["labels"],
        "repeats": options.repeats,
        "vectors": len(split.vectors),
        "validation_photos": int(split.held.sum()),
        "trusted": split.trusted,
        "settings": settings,
        "recommended": best,
        "files": files,
        "photo_files": photos,
        "prices": {"of": prices_of, "reads_per_month": options.reads, "months": MONTHS, "photos": MILLION},
        "costs": _costs(settings, best, photos, prices, options.reads),
        "seconds": {"total": clock.total()},
    }
    write(objects, study, render_storage_study)
    return study


@dataclass(frozen=True, slots=True)
class _Split:
    """Training photos of a run in memory, with those that are held out for validation.

    Attributes
    ----------
    vectors : float32 array, shape (n, d)
    labels, groups : int64 array, shape (n,)
    held : bool array, shape (n,)
    trusted : bool
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    held: NDArray[np.bool_]
    trusted: bool


def _split(run: FinishedRun) -> _Split:
    """Return the split by which the run made its choices."""
    training_set, _ = grouped_by_clusters(run.stored, run.inventory, TrainingSet.of(run.catalogue, run.inventory))
    listed = Objects(run.place.out).read_if_present(f"{run.stored.prefix}/{TRAINING_PHOTOS}")
    seen = None if listed is None else seen_rows(run.stored, run.inventory, listed, len(training_set.ok))
    split = ValidationSplit.of(training_set, int(run.record["config"].get("seed", 0)), seen)
    vectors, _ = embeddings_of(run.stored, run.inventory, split.train, len(training_set.ok), ["sha256"])
    held = split.held_out
    if held.sum() < FEWEST_PHOTOS or (~held).sum() < 2:
        raise ConfigError(
            f"{counted(int(held.sum()), 'validation photo')} in '{run.place.out}'; expected {FEWEST_PHOTOS} or more to tell what "
            "accuracy is left: run on more training photos"
        )
    return _Split(vectors, training_set.label[split.train], training_set.group[split.train], held, split.trusted)


def _settings(run: FinishedRun, split: _Split, repeats: int, progress: Progress) -> list[dict[str, Any]]:
    """Measure embeddings and features of every k in every number format, and each with every codec."""
    own, found = run.record["components"], []
    learnt = ~split.held
    pca = PCA.from_moments(Moments.from_rows(split.vectors[learnt]))
    k_run = min(own, pca.max_components)
    grid = sorted({k_run, *(k for k in GRID if k <= pca.max_components)})
    for number_format in FORMATS:
        kept = encoded(split.vectors, number_format)
        progress.note(f"embeddings of {split.vectors.shape[1]:,} numbers in {number_format}")
        decoded = kept.decoded
        own_pca = PCA.from_moments(Moments.from_rows(decoded[learnt]))
        right = _right(run, split, own_pca.transform(decoded, k_run))
        found.append(_measured("embeddings", split, number_format, kept.values, right, repeats))
    for k in grid:
        features = pca.transform(split.vectors, k)
        for number_format in FORMATS:
            kept = encoded(features, number_format)
            right = _right(run, split, kept.decoded)
            found.append(_measured("features", split, number_format, kept.values, right, repeats))
    return found


def _right(run: FinishedRun, split: _Split, features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Fit the run's head on the learnt rows; return whether it is right on each validation row."""
    about = run.record["head"]
    head_class: type[Head] = get_head(about.get("name", "logistic"))
    learnt, numbers = np.unique(split.labels[~split.held], return_inverse=True)
    head = head_class.fit(features[~split.held], numbers, setting=about[head_class.parameter])
    return np.asarray(learnt[head.predict_proba(features[split.held]).argmax(axis=1)] == split.labels[split.held])


def _measured(
    vectors: str, split: _Split, number_format: str, values: NDArray[Any], right: NDArray[np.bool_], repeats: int
) -> dict[str, Any]:
    n, k = values.shape
    low, high = interval(right, split.groups[split.held])
    codecs = []
    for name in codecs_for(number_format):
        codecs.append({"codec": name, **_each(measured_files(values, name, n, repeats), n)})
    best = min(codecs, key=lambda one: (one["bytes_per_photo"], one["codec"]))
    return {
        "vectors": vectors, "numbers": k, "number_format": number_format, "accuracy": float(right.mean()), "low": low,
        "high": high, "codecs": codecs, **best,
    }  # fmt: skip


def _compare(settings: list[dict[str, Any]]) -> int:
    """Mark the frontier of few bytes and high accuracy; return the position of the recommended setting."""
    costs, values = ([one[name] for one in settings] for name in ("bytes_per_photo", "accuracy"))
    mark_frontier(settings, costs, values)
    return recommended(costs, values, [one["low"] for one in settings])


def _file_sizes(split: _Split, setting: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    """Measure the recommended setting in files of several sizes."""
    vectors = split.vectors
    if setting["vectors"] == "features":
        pca = PCA.from_moments(Moments.from_rows(vectors[~split.held]))
        vectors = pca.transform(vectors, setting["numbers"])
    values, n = encoded(vectors, setting["number_format"]).values, len(vectors)
    found = []
    for rows_per_file in sorted({n, *(rows for rows in ROWS_PER_FILE if rows < n)}):
        one = measured_files(values, setting["codec"], rows_per_file, repeats)
        found.append({"rows_per_file": rows_per_file, "files": one["files"], **_each(one, n)})
    return found


def _each(files: Mapping[str, Any], n: int) -> dict[str, float]:
    """Return bytes and times of files per photo."""
    return {
        "bytes_per_photo": files["bytes"] / n,
        "write_us": files["write_s"] / n * 1e6,
        "read_us": files["read_s"] / n * 1e6,
    }


def _photos(run: FinishedRun, repeats: int) -> list[dict[str, Any]]:
    """Measure the photos as files and, where they can be packed, as a pack: bytes, files, write and read time per photo."""
    catalogue, access = run.catalogue, access_of_run(run.record["config"])
    rows = catalogue.take(evenly_spaced(catalogue.num_rows, PHOTOS_READ), ["uri", "label"]).to_pylist()
    uris = [row["uri"] for row in rows]
    sizes = (batch.column(0).to_numpy().sum() for batch in catalogue.batches(["size_bytes"]))
    size = float(sum(sizes) / catalogue.num_rows)
    found = [
        {
            "kind": "files",
            "bytes_per_photo": size,
            "objects_per_photo": 1.0,
            "write_us": None,
            **_reading(uris, access, repeats),
        }
    ]
    with TemporaryDirectory(prefix="fruits-study-") as folder:
        listed, packed = Path(folder) / "photos.csv", Path(folder) / "pack"
        with listed.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["uri", "label"])
            writer.writeheader()
            writer.writerows(rows)
        try:
            allowed = tuple(run.record["config"]["sources"])
            config = RunConfig(sources=(str(listed),), out=folder, allow_source=allowed)
            started = time.perf_counter()
            done = pack([str(listed)], str(packed), access=Access.to(config.sources, config.allow_source))
            seconds = time.perf_counter() - started
            own = _uris_of_pack(str(packed))
        except FruitsError:  # such as photos that are in packs already
            return found
        n, bytes_of_pack = done["photos"], sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())
        reading = _reading(own, Access.to([str(packed)]), repeats)
        found.append({"kind": "pack", "bytes_per_photo": bytes_of_pack / n, "objects_per_photo": bytes_of_pack / n / FILE_BYTES,
                      "write_us": seconds / n * 1e6, **reading})  # fmt: skip
    return found


def _uris_of_pack(packed: str) -> list[str]:
    """Return the uris of the photos of a pack."""
    from fruits.photos.catalogue.catalogue import list_photos  # noqa: PLC0415 - a study lists a pack only here

    uris: list[str] = list_photos([packed], access=Access.to([packed])).table["uri"].to_pylist()
    return uris


def _reading(uris: list[str], access: Access, repeats: int) -> dict[str, Any]:
    times, n = [], 0
    for _ in range(repeats):
        started = time.perf_counter()
        n = sum(data is not None for data, _ in read_photos(uris, access))
        times.append(time.perf_counter() - started)
    return {"read_us": float(np.median(times)) / n * 1e6 if n else None, "photos_read": n}


def _costs(
    settings: list[dict[str, Any]],
    best: int,
    photos: list[dict[str, Any]],
    prices: Mapping[str, float],
    reads: float,
) -> list[dict[str, Any]]:
    """Return what a million photos cost in each storage class, kept in several ways."""
    whole = next(one for one in settings if one["vectors"] == "embeddings" and one["number_format"] == "float32")
    kept = [(f"photos_{one['kind']}", one["bytes_per_photo"], one["objects_per_photo"]) for one in photos]
    kept.append(("embeddings_float32", whole["bytes_per_photo"], whole["bytes_per_photo"] / FILE_BYTES))
    if settings[best] is not whole:
        kept.append(("recommended", settings[best]["bytes_per_photo"], settings[best]["bytes_per_photo"] / FILE_BYTES))
    found = []
    for name, size, objects in kept:
        total, count = size * MILLION, max(1.0, objects * MILLION)
        in_class: list[dict[str, Any]] = []
        for one in CLASSES:
            month = monthly(one, prices, total, count, reads)
            moving = count * prices[one.transition] if one.transition else 0.0
            in_class.append(
                {
                    "class": one.name,
                    **month,
                    "moving": moving,
                    "months": MONTHS,
                    "whole": MONTHS * month["total"] + moving,
                    "least_days": one.least_days,
                    "break_even_months": break_even_months(one, prices, total, count, reads),
                }
            )
        cheapest = min(in_class, key=lambda one: one["whole"])["class"]
        found.append({"kept": name, "bytes": total, "objects": count, "classes": in_class, "cheapest": cheapest})
    return found


def as_text(study: Mapping[str, Any]) -> str:
    """Return a study as text for a terminal: a table, the recommended setting with its reason, and costs."""
    rows = [
        ("", "vectors", "numbers", "format", "codec", "bytes/photo", "write us", "read us", "accuracy (95% interval)")
    ]
    for at, one in enumerate(study["settings"]):
        mark = "recommended" if at == study["recommended"] else "frontier" if one["frontier"] else ""
        figures = (f"{one['bytes_per_photo']:,.0f}", f"{one['write_us']:.1f}", f"{one['read_us']:.1f}")
        about = (one["vectors"], f"{one['numbers']:,}", one["number_format"], one["codec"])
        rows.append((mark, *about, *figures, with_interval(one)))
    best = study["settings"][study["recommended"]]
    lines = [
        (
            f"recommended: {best['vectors']} of {counted(best['numbers'], 'number')} in {best['number_format']}, codec "
            f"{best['codec']}: the fewest bytes whose accuracy is not below the interval of the most accurate setting"
        )
    ]
    for one in study["costs"]:
        in_class = next(row for row in one["classes"] if row["class"] == one["cheapest"])
        lines.append(
            f"{one['kept']}: {one['bytes'] / 1e9:,.2f} GB a million; cheapest over {MONTHS} months in {one['cheapest']}, "
            f"{in_class['total']:.2f} USD a month (prices of {study['prices']['of']})"
        )
    return text_of(study, rows, lines)
