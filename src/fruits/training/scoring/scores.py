"""Scores of a recogniser on the photos that it did not learn, for the run record.

All of them come from counts, see :mod:`fruits.training.scoring.scored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.engines import Engine
from fruits.learning import metrics
from fruits.learning.calibration import calibration_floor
from fruits.learning.folds import count_groups, interval_of
from fruits.learning.heads import MAX_ROWS
from fruits.learning.neighbours import FeatureRows
from fruits.recogniser.answers import OUTCOMES, Certainty
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.training.fitting.feature_file import FeatureFile
from fruits.training.fitting.features import positions
from fruits.training.fitting.fit import Choice, Recogniser
from fruits.training.fitting.training_set import TrainingSet
from fruits.training.scoring.scored import Scored, Scorer, Tally, score_all

_CONFUSIONS_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class ScoredPhotos:
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
    def of(cls, training_set: TrainingSet, labels: list[str]) -> ScoredPhotos:
        """Select the photos, given the learnt labels."""
        learnt = np.isin(np.array(training_set.names), labels)[training_set.label]
        scorable = training_set.ok & learnt
        split = next((name for name in ("test", "val") if (training_set.of_split(name) & scorable).any()), "")
        asked = np.flatnonzero(training_set.of_split(split) & training_set.ok)
        known = asked[learnt[asked]]
        return cls(split, known, len(asked) - len(known))


def scores(
    engine: Engine,
    listed: CatalogueRows,
    training_set: TrainingSet,
    file: FeatureFile,
    features: FeatureRows,
    recogniser: Recogniser,
    taxonomy: Taxonomy,
    certainty: Certainty,
    choice: Choice,
    *,
    to_score: ScoredPhotos,
    grouped_by: str,
    groups: NDArray[np.int64],
) -> dict[str, Any]:
    """Score the recogniser.

    With fewer than ``metrics.FEWEST_PHOTOS`` photos the calibration error is meaningless and left out.

    Parameters
    ----------
    engine : Engine
    listed : CatalogueRows
        The catalogue.
    file : FeatureFile
        The features, for workers of the engine.
    features : Features, shape (number of rows that are ok, k)
        The same, for the driver.
    taxonomy : Taxonomy
        Taxonomy of the head's labels.
    to_score : ScoredPhotos
    grouped_by : str
        How dependent photos are grouped.
    groups : int64 array
        Group of each scored photo, numbered from 0.

    Returns
    -------
    dict
        ``evaluated, metrics, per_label, confusions, kinds, kind_metrics, calibration, answers``; all but ``per_label``,
        ``confusions`` and ``kinds`` are None if there are no photos to score on.
    """
    labels = recogniser.labels
    known, enough = to_score.rows, len(to_score.rows) >= metrics.FEWEST_PHOTOS
    per_label_counts = {
        "train": np.bincount(
            training_set.label[training_set.of_split("train") & training_set.ok], minlength=len(training_set.names)
        ),
        "evaluated": np.bincount(training_set.label[known], minlength=len(training_set.names)),
    }
    values, confused = None, []
    found: dict[str, Any] = {"kind_metrics": None, "calibration": None, "answers": None}
    sizes = np.bincount(groups)
    if len(known):
        number = {name: position for position, name in enumerate(labels)}
        learnt = np.array([number.get(name, -1) for name in training_set.names], np.int32)
        temperature = choice.held_out.temperature if choice.held_out else 1.0
        few = len(known) <= MAX_ROWS
        scorer = Scorer(recogniser.head, recogniser.ood_detector, taxonomy, certainty, temperature, with_confidence=few)
        tally = score_all(
            engine, file, features, scorer,
            rows=known, place=positions(training_set.ok), truth=learnt[training_set.label[known]], groups=groups,
        )  # fmt: skip
        scored = tally.scored
        values = metrics.evaluate(scored.counts, labels)
        values["accuracyInterval"] = list(interval_of(count_groups(tally.right, sizes)))
        for pair in scored.counts.confusions()[:_CONFUSIONS_KEPT]:
            at = known[scored.wrong[1][scored.wrong[0] == pair.label * len(labels) + pair.predicted]]
            named = {"label": labels[pair.label], "predicted": labels[pair.predicted]}
            confused.append({**named, "count": pair.count, "share": pair.share, "uris": listed.uris(at)})
        found["kind_metrics"] = {
            "kinds": len(taxonomy.kinds),
            "accuracy": metrics.accuracy(scored.kinds),
            "accuracyInterval": list(interval_of(count_groups(tally.right_kind, sizes))),
            "top3Accuracy": metrics.top3_accuracy(scored.kinds),
            "expectedCalibrationError": metrics.calibration_error(scored.kinds),
        }
        if enough:
            found["calibration"] = _calibration(tally, choice)
        else:
            values["expectedCalibrationError"] = found["kind_metrics"]["expectedCalibrationError"] = None
        found["answers"] = _outcome_counts(scored, certainty)
    per_label = []
    for code, name in enumerate(training_set.names):
        given = {kind: int(count[code]) for kind, count in per_label_counts.items()}
        of = {key: values[f"{key}ByLabel"].get(name) if values else None for key in ("precision", "recall", "fMeasure")}
        per_label.append({"label": name, **given, **of})
    evaluated = None
    if len(known):
        evaluated = {"split": to_score.split, "photos": len(known), "left_out_photos": to_score.left_out}
        evaluated |= {
            "too_few_to_say": not enough,
            "groups": int((sizes > 0).sum()),
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


def _calibration(tally: Tally, choice: Choice) -> dict[str, Any]:
    """Return the calibration of probabilities, before and after temperature scaling."""
    held_out, bins = choice.held_out, tally.scored.counts.bins
    return {
        "temperature": held_out.temperature if held_out else 1.0,
        "validation_photos": len(held_out.answers.truth) if held_out else 0,
        "expectedCalibrationError": bins.error,
        "uncalibrated": tally.scored.uncalibrated.error,
        "noise_floor": calibration_floor(tally.confidence) if len(tally.confidence) else bins.floor,
        "bins": bins.rows(),
    }


def _outcome_counts(scored: Scored, certainty: Certainty) -> dict[str, Any]:
    """Return the outcomes for the photos, and the share that is right."""
    n, outcomes = scored.counts.n, []
    for outcome, photos, hits in zip(OUTCOMES, *scored.told.tolist(), strict=True):
        right = hits / photos if outcome != "unknown" and photos else None
        outcomes.append({"outcome": outcome, "photos": photos, "share": photos / n, "right": right})
    limits = certainty.limits.as_dict()
    named = {name: getattr(certainty, name) for name in ("variety", "kind", "probable")}
    thresholds = {**named, "unknown": certainty.as_dict()["ood_limit"]}
    return {"thresholds": {**thresholds, **limits}, "outcomes": outcomes, "accepted": scored.accepted / n}
