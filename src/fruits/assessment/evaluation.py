"""Evaluation: the head of a run, fitted again under strict protocols, with confidence intervals and leakage.

Reads the results of a run (catalogue, embeddings, bundle), fits the same head with the same k and setting under each protocol of
``learning.folds``, and measures the share of test photos with a near-duplicate among the training photos. Writes
``evaluation.json`` and updates the report. The recogniser is not changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.assessment.dataset import Dataset, FinishedRun, access_of_run, dataset_of, open_run
from fruits.errors import ConfigError, counted, option
from fruits.learning import folds as protocols
from fruits.learning.folds import Fold
from fruits.learning.heads import get_head
from fruits.learning.metrics import FEWEST_PHOTOS, best_labels, expected_calibration_error
from fruits.learning.moments import Moments
from fruits.learning.neighbours import nearest
from fruits.learning.pca import PCA
from fruits.learning.validation import balance
from fruits.monitoring.clock import Clock, Progress, Silent
from fruits.photos.reading.samples import example_photos
from fruits.report import render
from fruits.storage.objects import Objects
from fruits.storage.outputs.marker import claim
from fruits.storage.outputs.publishing import tidy
from fruits.storage.outputs.runs import REPORT
from fruits.storage.sanitising import json_text
from fruits.training import run_record as records

FORMAT: Final = 1
PROTOCOLS: Final = ("official", "source", "axis", "arc", "variety", "groups")
#: If the backbone was trained on at least this share of the photos, a protocol, or a source of it, gets no score.
SEEN: Final = 0.01
#: Prefix of the shares of kinds in a record, and the attribute of :class:`FoldScores` that says which photos are right.
_OF_KINDS: Final = {"kind_": "kind", "kind_top3_": "three"}


def evaluate(out: str, wanted: Sequence[str] = (), *, progress: Progress | None = None) -> dict[str, Any]:
    """Evaluate the results of a run under one or several protocols.

    Parameters
    ----------
    out : str
        Folder of the results, or of one run in them.
    wanted : sequence of str
        Names from ``PROTOCOLS``; empty for all that apply.
    progress : Progress, optional

    Returns
    -------
    dict
        Content of the run's ``evaluation.json``; documented in docs/evaluation.md.

    Raises
    ------
    ConfigError
        If a protocol is unknown.
    StoreError
        If there is no finished run in ``out``, or it has changed since.
    """
    progress, clock = progress or Silent(), Clock()
    wanted = in_order(wanted)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    progress.start("dataset", None)
    run = open_run(out)
    dataset, seen = dataset_of(run)
    found: list[dict[str, Any]] = []
    not_applicable: list[dict[str, str]] = []
    for name in wanted or PROTOCOLS:
        folds, reason, instead = folds_of(name, dataset, run, asked_for=bool(wanted))
        if folds:
            progress.start(name, len(folds))
            measured = _measured(name, folds, dataset, run.record, progress.advance)
            if measured["photos"]:
                found.append(measured)
                continue
            reason, instead = "no test photo has a label or kind learnt from the others", ""
        not_applicable.append({"protocol": name, "reason": reason, "found": instead})
    evaluation = {
        "format": FORMAT,
        "identity": run.record["identity"],
        "out": run.place.out,
        "run": run.place.name,
        "sources": [source["source"] for source in run.record["sources"]],
        "started": started,
        "backbone": run.bundle.card.name,
        "size": run.bundle.preprocessing.size,
        "components": run.record["components"],
        **_about_head(run.record["head"]),
        "photos": len(dataset.uris),
        "available": dataset.available,
        "near_duplicates": asdict(dataset.duplicates),
        "seen": seen,
        "protocols": found,
        "not_applicable": not_applicable,
        "seconds": clock.total(),
    }
    progress.start("report", None)
    kept = _with_earlier(run, evaluation)
    out_of_runs = Objects(run.place.out)
    claim(out_of_runs, "results")
    run.objects.write("evaluation.json", json_text(kept, indent=1, ensure_ascii=False).encode())
    examples = example_photos(
        run.catalogue, records.misclassified(run.record), access_of_run(run.record["config"]),
        explained=run.bundle.explained_thumbnail,
    )  # fmt: skip
    run.objects.write(REPORT, render(run.record, examples, kept).encode())
    tidy(out_of_runs)
    return evaluation


def _about_head(about: dict[str, Any]) -> dict[str, Any]:
    """Return the head and its setting from a run record; older records contain only the regularisation."""
    parameter = about.get("parameter", "regularisation")
    return {"head": about.get("name", "logistic"), parameter: about[parameter]}


def in_order(names: Sequence[str]) -> list[str]:
    """Return names of protocols, each once, in the order of ``PROTOCOLS``; raise :class:`ConfigError` for an unknown one."""
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f"{option('protocols', name)}: expected one of {', '.join(PROTOCOLS)}")
    return [name for name in PROTOCOLS if name in names]


def _with_earlier(run: FinishedRun, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the evaluation together with protocols measured earlier on the same results."""
    try:
        earlier = json.loads(run.objects.read_if_present("evaluation.json") or b"{}")
        same = all(earlier[name] == evaluation[name] for name in ("format", "identity", "near_duplicates"))
        if not same:
            return evaluation
        kept = dict(evaluation)
        now = {row["protocol"] for part in ("protocols", "not_applicable") for row in evaluation[part]}
        for part in ("protocols", "not_applicable"):
            rows = [*evaluation[part], *(row for row in earlier[part] if row["protocol"] not in now)]
            kept[part] = sorted(rows, key=lambda row: PROTOCOLS.index(row["protocol"]))
    except (ValueError, KeyError, TypeError):
        return evaluation  # the earlier file is damaged: keep only the present protocols
    return kept


def folds_of(name: str, dataset: Dataset, run: FinishedRun, *, asked_for: bool) -> tuple[list[Fold], str, str]:
    """Return the folds of a protocol; if there are none, why not, and what was found instead."""
    split, sequences, labels = dataset.split, dataset.sequences, dataset.labels
    in_sequence = sequences.sequence >= 0
    if name == "official":
        asked = run.record["evaluated"]["split"] if run.record["evaluated"] else "test"
        folds = protocols.official(split == "train", split == asked)
        return folds, "no test photo has a label that was learnt", counted(int((split == asked).sum()), "test photo")
    if name == "source":
        folds, n_sources = protocols.held_out_sources(dataset.named_source), len(_distinct(dataset.named_source))
        return folds, "no manifest names two sources", counted(n_sources, "named source")
    if name == "axis":
        found = f"{counted(len(_distinct(sequences.sequence)), 'image sequence')} in {counted(len(_distinct(labels)), 'label')}"
        return protocols.held_out_axis(sequences.axis, labels), "no label has two image sequences", found
    if name == "arc":
        folds = protocols.held_out_arc(sequences.sequence, sequences.turn)
        reason = "the photos are not frames of image sequences"
        return folds, reason, f"{int(in_sequence.sum()):,} such frames in {counted(len(labels), 'photo')}"
    if name == "variety":
        found = f"kinds: {len(_distinct(dataset.kinds))}, varieties: {len(_distinct(dataset.varieties))}"
        return protocols.held_out_variety(dataset.varieties, dataset.kinds), "no kind has two varieties", found
    _, groups = dataset.belonging
    if in_sequence.mean() > 0.5 and not (dataset.group < 0).any() and not asked_for:
        found = f"{int(in_sequence.sum()):,} such frames in {counted(len(labels), 'photo')}"
        return [], "frames of image sequences are held out by axis and arc", found
    return (
        protocols.held_out_groups(groups, labels),
        "all photos belong to one group",
        counted(len(_distinct(groups)), "group"),
    )


def _distinct(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(numbers[numbers >= 0])


def seen_folds(name: str, folds: Sequence[Fold], dataset: Dataset) -> list[bool]:
    """Return for each fold whether the backbone was trained on what is tested, which makes any score meaningless.

    Each held-out source is judged by its own photos. Other protocols are judged as a whole: ``official`` by its test photos, the
    rest by all photos.
    """
    if name == "source":
        return [bool(dataset.seen[fold.test].mean() >= SEEN) for fold in folds]
    rows = np.concatenate([fold.test for fold in folds]) if name == "official" else slice(None)
    return [bool(dataset.seen[rows].mean() >= SEEN)] * len(folds)


def _measured(
    name: str,
    folds: list[Fold],
    dataset: Dataset,
    record: dict[str, Any],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Fit and score the folds that the backbone has not seen; if it has seen all of them, measure only leakage."""
    seen = seen_folds(name, folds, dataset)
    void = all(seen)
    used = [fold for fold, was_seen in zip(folds, seen, strict=True) if void or not was_seen]
    asked = np.concatenate([fold.test for fold in used])
    progress(len(folds) - len(used))
    near, scored = [], []
    for fold in used:
        distance, _ = nearest(dataset.features[fold.test], dataset.features[fold.train])
        copied = np.isin(dataset.digest[fold.test], dataset.digest[fold.train])
        near.append(copied | (distance[:, 0] <= dataset.duplicates.threshold))
        if not void:
            scored.append(score_fold(fold, dataset, record, by_kind=name in ("variety", "source")))
        progress(1)
    grouped_by, groups = dataset.belonging
    if name == "variety":
        grouped_by, groups = "variety", dataset.varieties
    result: dict[str, Any] = {
        "protocol": name,
        "seen": void,
        "photos": len(asked),
        "left_out": 0,
        "too_few_to_say": len(asked) < FEWEST_PHOTOS,
        "folds": len(used),
        "groups": len(np.unique(groups[asked])),
        "grouped_by": grouped_by,
        **_no_shares("", *_OF_KINDS),
        "calibration_error": None,
        "leakage": float(np.concatenate(near).mean()),
    }
    if name == "source":
        own = iter(scored)
        result["sources"] = [
            _of_source(dataset, groups, fold, None if was_seen else next(own))
            for fold, was_seen in zip(folds, seen, strict=True)
        ]
    if void:
        return result
    possible = np.concatenate([one.possible for one in scored])
    own_groups = groups[asked][possible]
    counted = {"photos": int(possible.sum()), "left_out": int((~possible).sum())}
    result |= {**counted, "groups": len(np.unique(own_groups)), "too_few_to_say": counted["photos"] < FEWEST_PHOTOS}
    if not possible.any():
        return result
    for prefix, part in (("", "label"), *_OF_KINDS.items()):
        if prefix or name not in ("variety", "source"):
            right = np.concatenate([getattr(one, part) for one in scored])[possible]
            result |= _share(prefix, right, own_groups)
    if result["accuracy"] is not None:
        result["calibration_error"] = expected_calibration_error(
            np.concatenate([one.confidence for one in scored])[possible],
            np.concatenate([one.label for one in scored])[possible],
        )
    return result


def _of_source(dataset: Dataset, groups: NDArray[np.int64], fold: Fold, scored: FoldScores | None) -> dict[str, Any]:
    """Return the accuracy of kinds on one source for a head trained on the other sources; without scores, it was seen."""
    name = dataset.source_names[int(dataset.named_source[fold.test[0]])]
    possible = np.ones(len(fold.test), bool) if scored is None else scored.possible
    photos = int(possible.sum())
    about: dict[str, Any] = {
        "source": name,
        "seen": scored is None,
        "photos": photos,
        "left_out": len(possible) - photos,
        "too_few_to_say": photos < FEWEST_PHOTOS,
        **_no_shares(*_OF_KINDS),
    }
    if scored is not None and photos:
        for prefix, part in _OF_KINDS.items():
            about |= _share(prefix, getattr(scored, part)[possible], groups[fold.test][possible])
    return about


def _share(prefix: str, right: NDArray[np.bool_], groups: NDArray[np.int64]) -> dict[str, float]:
    """Return a share with its interval."""
    low, high = protocols.interval(right, groups)
    return {f"{prefix}accuracy": float(right.mean()), f"{prefix}low": low, f"{prefix}high": high}


def _no_shares(*prefixes: str) -> dict[str, None]:
    return dict.fromkeys(f"{prefix}{name}" for prefix in prefixes for name in ("accuracy", "low", "high"))


@dataclass(frozen=True, slots=True)
class FoldScores:
    """For each test row: whether label, kind and one of three kinds are right, and whether they were learnt at all.

    ``confidence`` is the probability of the most probable label.
    """

    label: NDArray[np.bool_]
    kind: NDArray[np.bool_]
    three: NDArray[np.bool_]
    possible: NDArray[np.bool_]
    confidence: NDArray[np.float32]


def score_fold(fold: Fold, dataset: Dataset, record: dict[str, Any], *, by_kind: bool) -> FoldScores:
    """Fit the head on the training rows of a fold and score it on the test rows."""
    train, labels = fold.train, dataset.labels
    learnt, numbers = np.unique(labels[train], return_inverse=True)
    if len(learnt) < 2:  # a single label cannot be scored
        none = np.zeros(len(fold.test), bool)
        return FoldScores(none, none, none, none, np.zeros(len(fold.test), np.float32))
    own = np.array_equal(train, np.flatnonzero(dataset.split == "train"))
    pca = dataset.pca if own else PCA.from_moments(Moments.from_rows(dataset.embeddings[train]))
    k = min(record["components"], pca.max_components)
    weights = balance(dataset.kinds[train], dataset.source[train]) if record["balanced"] else None
    about = record["head"]
    head_class = get_head(about.get("name", "logistic"))
    head = head_class.fit(
        pca.transform(dataset.embeddings[train], k), numbers, setting=about[head_class.parameter], weights=weights
    )
    if not head_class.own_scale:  # probabilities of kinds are sums, so calibration matters
        head = head.temperature_scaled(about["temperature"])
    probabilities = np.zeros((len(fold.test), len(dataset.taxonomy.labels)), np.float32)
    probabilities[:, learnt] = head.predict_proba(pca.transform(dataset.embeddings[fold.test], k))
    truth, kind = labels[fold.test], dataset.kinds[fold.test]
    possible = np.isin(kind, dataset.kinds[train]) if by_kind else np.isin(truth, learnt)
    kinds = best_labels(dataset.taxonomy.by_kind(probabilities), 3)
    right = kinds == kind[:, None]
    named = probabilities.argmax(axis=1) == truth
    return FoldScores(named, right[:, 0], right.any(axis=1), possible, probabilities.max(axis=1))
