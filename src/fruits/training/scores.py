"""Scores of a recogniser on the photos that it did not learn, for the run record.

Photos are classified a block at a time. Of each one, only its answer and whether that is right are kept; everything else is
counted, see :class:`fruits.learning.metrics.Counts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning import metrics
from fruits.learning.calibration import calibration_floor
from fruits.learning.folds import interval
from fruits.learning.heads import MAX_ROWS, softmax
from fruits.learning.neighbours import ByRow
from fruits.recogniser.answers import OUTCOMES, Certainty, decide
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.listed import Listed
from fruits.training.features import blocks, positions
from fruits.training.fit import Choice, Recogniser
from fruits.training.training_set import Rows

_CONFUSIONS_KEPT: Final = 100
_WRONG_KEPT: Final = 6
#: Photos classified at a time.
_ROWS_AT_ONCE: Final = 1 << 15


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
    listed: Listed,
    rows: Rows,
    features: ByRow,
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
    listed : Listed
        The catalogue.
    features : Features, shape (number of rows that are ok, k)
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
    known, enough = asked.rows, len(asked.rows) >= metrics.FEWEST_PHOTOS
    per_label_counts = {
        "train": np.bincount(rows.label[rows.of_split("train") & rows.ok], minlength=len(rows.names)),
        "evaluated": np.bincount(rows.label[known], minlength=len(rows.names)),
    }
    values, confused = None, []
    found: dict[str, Any] = {"kind_metrics": None, "calibration": None, "answers": None}
    if len(known):
        scored = _Scored(recogniser, taxonomy, certainty, choice)
        number = {name: position for position, name in enumerate(labels)}
        learnt = np.array([number.get(name, -1) for name in rows.names], np.int64)
        truth, place = learnt[rows.label[known]], positions(rows.ok)
        start = 0
        for some in blocks(known, _ROWS_AT_ONCE):
            scored.add(features[place[some]], truth[start : start + len(some)])
            start += len(some)
        predicted = np.concatenate(scored.predicted)
        values = metrics.evaluate(scored.counts, labels)
        values["accuracyInterval"] = list(interval(predicted == truth, groups))
        for pair in scored.counts.confusions()[:_CONFUSIONS_KEPT]:
            at = known[(truth == pair.label) & (predicted == pair.predicted)][:_WRONG_KEPT]
            named = {"label": labels[pair.label], "predicted": labels[pair.predicted]}
            confused.append({**named, "count": pair.count, "share": pair.share, "uris": listed.uris(at)})
        found["kind_metrics"] = {
            "kinds": len(taxonomy.kinds),
            "accuracy": metrics.accuracy(scored.kinds),
            "accuracyInterval": list(interval(np.concatenate(scored.right_kind), groups)),
            "top3Accuracy": metrics.top3_accuracy(scored.kinds),
            "expectedCalibrationError": metrics.calibration_error(scored.kinds),
        }
        if enough:
            found["calibration"] = scored.calibration()
        else:
            values["expectedCalibrationError"] = found["kind_metrics"]["expectedCalibrationError"] = None
        found["answers"] = scored.told()
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


class _Scored:
    """Answers of a recogniser to photos that come in blocks.

    Attributes
    ----------
    counts, kinds : Counts
        Of labels and of kinds.
    predicted : list of array
        Per block, the most probable label of each photo.
    right_kind : list of bool array
        Per block, whether the most probable kind is right.
    """

    def __init__(self, recogniser: Recogniser, taxonomy: Taxonomy, certainty: Certainty, choice: Choice) -> None:
        self._recogniser, self._taxonomy, self._certainty, self._choice = recogniser, taxonomy, certainty, choice
        held_back = choice.held_back
        self._temperature = held_back.temperature if held_back else 1.0
        self.counts = metrics.Counts.none(len(recogniser.labels))
        self.kinds = metrics.Counts.none(len(taxonomy.kinds))
        self._uncalibrated = metrics.Bins.of(np.empty(0, np.float32), np.empty(0, bool))
        self._told = np.zeros((2, len(OUTCOMES)), np.int64)
        self._accepted = 0
        self.predicted: list[NDArray[np.int32]] = []
        self.right_kind: list[NDArray[np.bool_]] = []
        self._confidence: list[NDArray[np.float32]] = []

    def add(self, features: NDArray[np.float32], truth: NDArray[np.int64]) -> None:
        """Classify a block of photos."""
        head = self._recogniser.head
        probabilities = head.predict_proba(features)
        self.counts = self.counts.merge(metrics.Counts.of(probabilities, truth))
        self.predicted.append(probabilities.argmax(axis=1).astype(np.int32))
        self._confidence.append(probabilities.max(axis=1))
        by_kind, kind = self._taxonomy.by_kind(probabilities), np.array(self._taxonomy.kind_of)[truth]
        self.kinds = self.kinds.merge(metrics.Counts.of(by_kind, kind))
        self.right_kind.append(by_kind.argmax(axis=1) == kind)
        before = softmax(head.scaled_logits(features) * np.float32(self._temperature))
        bins = metrics.Bins.of(before.max(axis=1), before.argmax(axis=1) == truth)
        self._uncalibrated = self._uncalibrated.merge(bins)
        del before
        ood_score = self._recogniser.known.ood_score(features, probabilities)
        self._accepted += int((ood_score <= self._certainty.ood_limit).sum())
        decisions = decide(probabilities, ood_score, self._taxonomy, self._certainty)
        variety = np.array(self._taxonomy.variety_of)[truth]
        right = {
            "variety": decisions.variety == variety,
            "kind": decisions.kinds[:, 0] == kind,
            "probable": decisions.kinds[:, 0] == kind,
            "unsure": (decisions.kinds == kind[:, None]).any(axis=1),
        }
        for number, outcome in enumerate(OUTCOMES):
            so = decisions.outcome == number
            self._told[:, number] += (so.sum(), right[outcome][so].sum() if outcome in right else 0)

    def calibration(self) -> dict[str, Any]:
        """Return the calibration of probabilities, before and after temperature scaling."""
        held_back, bins = self._choice.held_back, self.counts.bins
        few = self.counts.n <= MAX_ROWS
        return {
            "temperature": self._temperature,
            "validation_photos": len(held_back.answers.truth) if held_back else 0,
            "expectedCalibrationError": bins.error,
            "uncalibrated": self._uncalibrated.error,
            "noise_floor": calibration_floor(np.concatenate(self._confidence)) if few else bins.floor,
            "bins": bins.rows(),
        }

    def told(self) -> dict[str, Any]:
        """Return the outcomes for these photos, and the share that is right."""
        certainty, n = self._certainty, self.counts.n
        outcomes = []
        for outcome, photos, hits in zip(OUTCOMES, *self._told.tolist(), strict=True):
            right = hits / photos if outcome != "unknown" and photos else None
            outcomes.append({"outcome": outcome, "photos": photos, "share": photos / n, "right": right})
        limits = certainty.limits.as_dict()
        named = {name: getattr(certainty, name) for name in ("variety", "kind", "probable")}
        thresholds = {**named, "unknown": certainty.as_dict()["ood_limit"]}
        return {"thresholds": {**thresholds, **limits}, "outcomes": outcomes, "accepted": self._accepted / n}
