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
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import fruits
from fruits import extensions
from fruits.config import RunConfig
from fruits.embedding.backbone import computation_id, releases
from fruits.embedding.card import Card
from fruits.errors import StoreError, TooManyRejectedError, command, counted, option
from fruits.learning import metrics
from fruits.learning.calibration import calibration_floor
from fruits.learning.folds import interval
from fruits.learning.heads import softmax
from fruits.learning.pca import PCA
from fruits.learning.validation import Trial
from fruits.photos.catalogue.catalogue import Catalogue, labels_without_training
from fruits.photos.decoding.images import Preprocessing
from fruits.recogniser.answers import OUTCOMES, Certainty, decide
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage import schemas
from fruits.storage.inventory import Inventory
from fruits.storage.objects import Objects
from fruits.storage.runs import RECORD, Place
from fruits.storage.sanitising import csv_cell, json_text, printable
from fruits.storage.spool import ROWS_PER_BATCH
from fruits.training.fit import Choice, Recogniser
from fruits.training.training_set import Rows

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
        for reason, count in catalogue.left_aside.items()
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


def read_record(place: Place) -> dict[str, Any]:
    """Read the record of a finished run.

    Parameters
    ----------
    place : Place
        From :func:`fruits.storage.runs.find`.

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
    held = sum(int((holding.catalogue_rows >= 0).sum()) for holding in inventory.holdings)
    if held != photos:
        raise StoreError(
            f"listed: {counted(photos, 'photo')}, of which the embeddings have {held:,}; run again, nothing else is lost"
        )
    status = [
        status
        for holding in inventory.holdings
        for row, status, _ in holding.errors
        if holding.catalogue_rows[row] >= 0
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
        (int(holding.catalogue_rows[row]), status, error)
        for holding in inventory.holdings
        for row, status, error in holding.errors
        if holding.catalogue_rows[row] >= 0
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
            "temperature": choice.held_back.temperature if choice.held_back else recogniser.head.temperature,
            "validation_accuracy": best.accuracy if best else None,
            "validation_groups": choice.groups_held_back,
            "validation_groups_by": grouped_by,
            "trials": [_trial(trial, parameter) for trial in choice.setting_trials],
            "training_photos": recogniser.training_photos,
            "converged": recogniser.head.converged,
        },
    }


def _trial(trial: Trial, parameter: str) -> dict[str, Any]:
    """Return a trial as plain values, with its setting under the head's name for it."""
    return {parameter if name == "setting" else name: value for name, value in asdict(trial).items()}


@dataclass(frozen=True, slots=True)
class Asked:
    """The photos that a recogniser is scored on: the test split, or val if there is no test split.

    Photos whose label has no training photo are left out, since no head could name them; they are counted.

    Attributes
    ----------
    split : str
        ``test`` or ``val``; empty if there are no photos to score on.
    rows : int64 array
        Catalogue rows.
    left_out : int
        Number of photos of the split whose label was not learnt.
    """

    split: str
    rows: NDArray[np.int64]
    left_out: int

    @classmethod
    def of(cls, rows: Rows, labels: list[str]) -> Asked:
        """Select the photos, given the learnt labels."""
        learnt = np.isin(np.array(rows.names), labels)[rows.label]
        scorable = rows.ok & learnt
        split = next((name for name in ("test", "val") if (rows.of_split(name) & scorable).any()), "")
        asked = np.flatnonzero(rows.of_split(split) & rows.ok)
        known = asked[learnt[asked]]
        return cls(split, known, len(asked) - len(known))


def scores(
    catalogue: Catalogue,
    rows: Rows,
    features: NDArray[np.float32],
    recogniser: Recogniser,
    taxonomy: Taxonomy,
    certainty: Certainty,
    choice: Choice,
    *,
    asked: Asked,
    grouped_by: str,
    groups: NDArray[np.int64],
) -> dict[str, Any]:
    """Score the recogniser.

    With fewer than ``metrics.FEWEST_PHOTOS`` photos the calibration error is meaningless and left out.

    Parameters
    ----------
    features : float32 array, shape (number of rows that are ok, k)
    taxonomy : Taxonomy
        Taxonomy of the head's labels.
    asked : Asked
    grouped_by : str
        How dependent photos are grouped.
    groups : int64 array
        Group of each scored photo.

    Returns
    -------
    dict
        ``evaluated, metrics, per_label, confusions, kinds, kind_metrics, calibration, answers``; all but ``per_label``,
        ``confusions`` and ``kinds`` are None if there are no photos to score on.
    """
    labels = recogniser.labels
    number = {name: position for position, name in enumerate(labels)}
    learnt = np.array([number.get(name, -1) for name in rows.names], np.int64)
    position = np.cumsum(rows.ok) - 1
    known, enough = asked.rows, len(asked.rows) >= metrics.FEWEST_PHOTOS
    per_label_counts = {
        "train": np.bincount(rows.label[rows.of_split("train") & rows.ok], minlength=len(rows.names)),
        "evaluated": np.bincount(rows.label[known], minlength=len(rows.names)),
    }
    values, confused = None, []
    found: dict[str, Any] = {"kind_metrics": None, "calibration": None, "answers": None}
    if len(known):
        own = features[position[known]]
        probabilities, truth = recogniser.head.predict_proba(own), learnt[rows.label[known]]
        predicted = probabilities.argmax(axis=1)
        counts = metrics.Counts.of(probabilities, truth)
        values = metrics.evaluate(counts, labels)
        values["accuracyInterval"] = list(interval(predicted == truth, groups))
        pairs = counts.confusions()[:_CONFUSIONS_KEPT]
        for pair in pairs:
            at = known[(truth == pair.label) & (predicted == pair.predicted)][:_WRONG_KEPT]
            named = {"label": labels[pair.label], "predicted": labels[pair.predicted]}
            confused.append({**named, "count": pair.count, "share": pair.share, "uris": catalogue.listed.uris(at)})
        found["kind_metrics"] = _kind_metrics(probabilities, truth, taxonomy, groups)
        if enough:
            found["calibration"] = _calibration(
                probabilities, truth, choice, recogniser.head.scaled_logits(own), counts.bins
            )
        else:
            values["expectedCalibrationError"] = found["kind_metrics"]["expectedCalibrationError"] = None
        ood_score = recogniser.known.ood_score(own, probabilities)
        found["answers"] = _told(probabilities, ood_score, truth, taxonomy, certainty)
    per_label = []
    for code, name in enumerate(rows.names):
        given = {kind: int(count[code]) for kind, count in per_label_counts.items()}
        of = {key: values[f"{key}ByLabel"].get(name) if values else None for key in ("precision", "recall", "fMeasure")}
        per_label.append({"label": name, **given, **of})
    evaluated = None
    if len(known):
        evaluated = {"split": asked.split, "photos": len(known), "left_out_photos": asked.left_out}
        evaluated |= {
            "too_few_to_say": not enough,
            "groups": len(np.unique(groups)),
            "grouped_by": grouped_by,
        }
    return {
        "evaluated": evaluated,
        "metrics": values,
        "per_label": per_label,
        "confusions": confused,
        "kinds": len(taxonomy.kinds),
        **found,
    }


def wrong(record: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Return the uris of misclassified photos by (label, predicted), most photos first, from a run record."""
    return {(pair["label"], pair["predicted"]): pair["uris"] for pair in record["confusions"]}


def _kind_metrics(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], taxonomy: Taxonomy, groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the metrics of kinds instead of labels."""
    by_kind, kind = taxonomy.by_kind(probabilities), np.array(taxonomy.kind_of)[truth]
    counts = metrics.Counts.of(by_kind, kind)
    return {
        "kinds": len(taxonomy.kinds),
        "accuracy": metrics.accuracy(counts),
        "accuracyInterval": list(interval(by_kind.argmax(axis=1) == kind, groups)),
        "top3Accuracy": metrics.top3_accuracy(counts),
        "expectedCalibrationError": metrics.calibration_error(counts),
    }


def _calibration(
    probabilities: NDArray[np.float32],
    truth: NDArray[np.int64],
    choice: Choice,
    logits: NDArray[np.float32],
    bins: metrics.Bins,
) -> dict[str, Any]:
    """Return the calibration of probabilities, before and after temperature scaling."""
    held_back = choice.held_back
    temperature = held_back.temperature if held_back else 1.0
    before = softmax(logits * np.float32(temperature))
    return {
        "temperature": temperature,
        "validation_photos": len(held_back.answers.truth) if held_back else 0,
        "expectedCalibrationError": bins.error,
        "uncalibrated": metrics.expected_calibration_error(before.max(axis=1), before.argmax(axis=1) == truth),
        "noise_floor": calibration_floor(probabilities.max(axis=1)),
        "bins": bins.rows(),
    }


def _told(
    probabilities: NDArray[np.float32],
    ood_score: NDArray[np.float32],
    truth: NDArray[np.int64],
    taxonomy: Taxonomy,
    certainty: Certainty,
) -> dict[str, Any]:
    """Return the outcomes for these photos, and the share that is right."""
    decisions = decide(probabilities, ood_score, taxonomy, certainty)
    kind, variety = np.array(taxonomy.kind_of)[truth], np.array(taxonomy.variety_of)[truth]
    right = {
        "variety": decisions.variety == variety,
        "kind": decisions.kinds[:, 0] == kind,
        "probable": decisions.kinds[:, 0] == kind,
        "unsure": (decisions.kinds == kind[:, None]).any(axis=1),
    }
    outcomes = []
    for number, outcome in enumerate(OUTCOMES):
        so = decisions.outcome == number
        hits = float(right[outcome][so].mean()) if outcome in right and so.any() else None
        outcomes.append({"outcome": outcome, "photos": int(so.sum()), "share": float(so.mean()), "right": hits})
    limits = certainty.limits.as_dict()
    named = {name: getattr(certainty, name) for name in ("variety", "kind", "probable")}
    thresholds = {**named, "unknown": certainty.as_dict()["ood_limit"]}
    accepted = float((ood_score <= certainty.ood_limit).mean())
    return {"thresholds": {**thresholds, **limits}, "outcomes": outcomes, "accepted": accepted}


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
    packages = ("pyarrow", "scikit-learn", "scipy")
    return {
        "fruits": fruits.__version__,
        "python": platform.python_version(),
        "schema": str(schemas.VERSION),
        **releases(),
        **{package: version(package) for package in packages},
    }
