"""The run record: configuration, photos and results of a run, as plain values for JSON, the report and later commands.

Counts are taken from the stored data, not from reports of workers, and always add up: photos = ok + rejected + failed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import pyarrow as pa

import fruits
from fruits import extensions
from fruits.config import RunConfig
from fruits.embedding.backbone import computation_id, releases
from fruits.embedding.card import Card
from fruits.errors import StoreError, TooManyRejectedError, command, counted, option
from fruits.learning.pca import PCA
from fruits.learning.validation import Trial
from fruits.photos.catalogue.catalogue import Catalogue, labels_without_training
from fruits.photos.decoding.images import Preprocessing
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.embeddings.inventory import Inventory
from fruits.storage.objects import Objects
from fruits.storage.outputs.runs import RECORD, RunLocation
from fruits.storage.sanitising import csv_cell, json_text, printable
from fruits.storage.tables import schemas
from fruits.storage.tables.spool import ROWS_PER_BATCH
from fruits.training.fitting.fit import Choice, Recogniser

FORMAT: Final = 2
#: Keys that readers of a record rely on.
KEYS: Final = (
    "identity", "config", "sources", "group_origin", "balanced", "components", "head", "evaluated", "metrics", "confusions",
    "answers", "coverage", "calibration", "kind_metrics", "leakage", "per_label", "seconds",
)  # fmt: skip
REJECTIONS_KEPT: Final = 1000
_CONFUSIONS_KEPT: Final = 100
_WRONG_KEPT: Final = 6


def about(
    config: RunConfig,
    catalogue: Catalogue,
    card: Card,
    preprocessing: Preprocessing,
    *,
    device: str,
    command: str,
    started: str,
) -> dict[str, Any]:
    """Return the configuration and the photos of a run."""
    listed = catalogue.listed
    labels, splits = listed.coded["label"].counts(), listed.coded["split"].counts()
    skipped = [
        {"reason": reason, "count": count, "examples": catalogue.examples.get(reason, [])}
        for reason, count in catalogue.skipped.items()
    ]
    shown = ("name", "title", "sha256", "embedding_size", "licence", "attribution", "made_by", "training_data")
    return {
        "format": FORMAT,
        "fruits": fruits.__version__,
        "started": started,
        "command": command,
        "engine": config.engine,
        "workers": config.workers,
        "config": {**config.as_dict(), "size": preprocessing.size, "resize_mode": preprocessing.fit},
        "sources": [{"source": source, "photos": photos} for source, photos in catalogue.sources.items()],
        "labels": len(labels),
        "splits": {split: splits[split] for split in ("train", "val", "test") if split in splits},
        "split_origin": catalogue.split_origin,
        "group_origin": catalogue.group_origin,
        "skipped": skipped,
        "warnings": catalogue.warnings,
        "labels_without_training": [
            {"label": label, "photos": photos} for label, photos in labels_without_training(listed).items()
        ],
        "balanced": config.balance,
        "backbone": {**{name: getattr(card, name) for name in shown}, **asdict(preprocessing), "device": device},
        "embedding_size": card.embedding_size,
    }


def read_record(place: RunLocation) -> dict[str, Any]:
    """Read the record of a finished run.

    Parameters
    ----------
    place : RunLocation
        From :func:`fruits.storage.outputs.runs.find`.

    Raises
    ------
    StoreError
        If there is none, it is damaged, or another version of fruits wrote it.
    """
    where, data = printable(place.out), place.objects().read_if_present(RECORD)
    if data is None:
        raise StoreError(f"no finished run in '{where}'; expected the results of {command('run', 'PHOTOS', to=where)}")
    try:
        record = json.loads(data)
    except ValueError as exc:
        raise StoreError(f"the record in '{where}' is damaged ({exc}); run {command('run')} again") from exc
    if not isinstance(record, dict) or record.get("format") != FORMAT or not record.keys() >= set(KEYS):
        raise StoreError(f"the record in '{where}' is another version's; run {command('run')} again")
    return record


def counts(catalogue: Catalogue, inventory: Inventory, computed: int) -> dict[str, int]:
    """Return the number of photos by status.

    Raises
    ------
    StoreError
        If a photo is in no file, so that the counts do not add up.
    """
    photos = catalogue.num_rows
    held = sum(int((entry.catalogue_rows >= 0).sum()) for entry in inventory.file_rows)
    if held != photos:
        raise StoreError(
            f"listed: {counted(photos, 'photo')}, of which the embeddings have {held:,}; run again, nothing else is lost"
        )
    status = [
        status for entry in inventory.file_rows for row, status, _ in entry.errors if entry.catalogue_rows[row] >= 0
    ]
    rejected, failed = status.count("rejected"), status.count("failed")
    return {
        "photos": photos,
        "ok": photos - rejected - failed,
        "rejected": rejected,
        "failed": failed,
        "computed": computed,
        "reused": photos - computed,
    }


def rejections(catalogue: Catalogue, inventory: Inventory) -> list[dict[str, str]]:
    """Return all photos that are not ok, with the reason, in the catalogue's order."""
    found = sorted(
        (int(entry.catalogue_rows[row]), status, error)
        for entry in inventory.file_rows
        for row, status, error in entry.errors
        if entry.catalogue_rows[row] >= 0
    )
    rows = catalogue.listed.take(np.array([row for row, _, _ in found], np.int64), ["uri", "label"]).to_pylist()
    listed = []
    for row, (_, status, error) in zip(rows, found, strict=True):
        code, _, message = error.partition(": ")
        listed.append({**row, "status": status, "code": code, "message": message})
    return listed


def write_rejections(objects: Objects, rejections: list[dict[str, str]]) -> None:
    """Write ``rejected.csv``, or delete an old one."""
    if not rejections:
        objects.delete("rejected.csv")
        return
    out = io.StringIO()
    writer = csv.DictWriter(out, ["uri", "label", "status", "code", "message"])
    writer.writeheader()
    # Names of folders and files are untrusted: they must not inject formulas into a spreadsheet or control codes into a terminal.
    writer.writerows({name: csv_cell(printable(value)) for name, value in row.items()} for row in rejections)
    objects.write("rejected.csv", out.getvalue().encode())


def refuse_too_many(counts: dict[str, int], rejected: list[dict[str, str]], limit: float, where: str) -> None:
    """Raise :class:`TooManyRejectedError` with a list if more than ``limit`` of the photos are not ok, or none is."""
    bad = counts["rejected"] + counts["failed"]
    if bad <= limit * counts["photos"] and counts["ok"]:
        return
    some = "\n".join(f"  {row['uri']}: {row['code']}: {row['message']}" for row in rejected[:10])
    more = f"\n  ... and {len(rejected) - 10:,} more" if len(rejected) > 10 else ""
    raise TooManyRejectedError(
        f"rejected or failed: {bad:,} of {counted(counts['photos'], 'photo')}; at most a share of {limit:g} may be "
        f"({option('max_rejected')}):\n"
        f"{some}{more}\nall of them are in {where}; repair or remove them and run again, or raise {option('max_rejected')}"
    )


def fitted(pca: PCA, choice: Choice, recogniser: Recogniser, grouped_by: str, head: str) -> dict[str, Any]:
    """Return the fitted model's parameters and how its hyperparameters were chosen."""
    ratio = pca.explained_variance_ratio
    parameter = choice.head.parameter
    best = next((trial for trial in choice.setting_trials if trial.setting == choice.setting), None)
    return {
        "components": choice.components,
        "components_chosen_by": choice.chosen_by,
        "component_trials": [_trial(trial, parameter) for trial in choice.component_trials],
        "explained_variance": float(ratio[: choice.components].sum()),
        "explained_variance_ratio": ratio.tolist(),
        "head": {
            "name": head,
            "parameter": parameter,
            parameter: choice.setting,
            "temperature": choice.held_out.temperature if choice.held_out else recogniser.head.temperature,
            "validation_accuracy": best.accuracy if best else None,
            "validation_groups": choice.groups_held_out,
            "validation_groups_by": grouped_by,
            "trials": [_trial(trial, parameter) for trial in choice.setting_trials],
            "training_photos": recogniser.training_photos,
            "converged": recogniser.head.converged,
        },
    }


def _trial(trial: Trial, parameter: str) -> dict[str, Any]:
    """Return a trial as plain values, with its setting under the head's name for it."""
    return {parameter if name == "setting" else name: value for name, value in asdict(trial).items()}


def misclassified(record: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Return the uris of misclassified photos by (label, predicted), most photos first, from a run record."""
    return {(pair["label"], pair["predicted"]): pair["uris"] for pair in record["confusions"]}


def identity(
    config: RunConfig,
    catalogue: Catalogue,
    inventory: Inventory,
    card: Card,
    preprocessing: Preprocessing,
    device: str,
    meaning: Taxonomy,
) -> str:
    """Return a hash of everything that determines what is fitted; if it equals that of the last run, there is nothing to do.

    ``meaning`` is the taxonomy of all labels of the catalogue, in order.
    """
    digest = hashlib.sha256()
    choices: list[Any] = [
        config.variance,
        config.components,
        config.seed,
        config.balance,
        config.min_precision,
        config.gallery,
        meaning.as_dict(),
    ]
    if config.head != "logistic":
        choices += [config.head, extensions.get("head", config.head).package]
    choices += [computation_id(card, preprocessing, device), versions()]
    digest.update(json_text(choices, sort_keys=True).encode())
    # Depends on which photos share a source, not on the order in which the sources were given.
    codes = catalogue.listed.coded["source"].codes
    first = np.zeros(int(codes.max(initial=0)) + 1, np.int64)
    for code in np.unique(codes).tolist():
        first[code] = int(np.argmax(codes == code))
    for start in range(0, len(codes), ROWS_PER_BATCH):
        digest.update(first[codes[start : start + ROWS_PER_BATCH]].tobytes())
    for batch in _pieces(catalogue.listed.batches()):
        for name in ("uri", "label", "split", "version"):
            values = batch.column(name)
            text = values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values
            digest.update("\0".join(text.fill_null("").to_pylist()).encode())
        digest.update(np.ascontiguousarray(batch.column("group").to_numpy()).tobytes())
        if batch.column("manifest_source").null_count < batch.num_rows:
            given = batch.column("manifest_source").cast(pa.string()).fill_null("")
            digest.update("\0".join(given.to_pylist()).encode())
    digest.update(inventory.content.encode())
    return digest.hexdigest()


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches in pieces of 8,192 rows."""
    for batch in batches:
        for start in range(0, batch.num_rows, 8192):
            yield batch.slice(start, 8192)


def versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    packages = ("pyarrow", "scipy")
    return {
        "fruits": fruits.__version__,
        "python": platform.python_version(),
        "schema": str(schemas.VERSION),
        **releases(),
        **{package: version(package) for package in packages},
    }
