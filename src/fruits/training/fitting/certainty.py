"""Thresholds between outcomes, set on the validation photos.

Sets the thresholds of certain and of probable answers and of the out-of-distribution score, and reports coverage and precision on
the validation photos. Independent of how these were chosen and of the model.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning import calibration as confidence
from fruits.learning.out_of_distribution import ACCEPTED
from fruits.photos.decoding.quality import Limits
from fruits.recogniser.answers import Certainty
from fruits.recogniser.knowledge import confused_kinds
from fruits.recogniser.taxonomy import Taxonomy
from fruits.training.fitting.fit import Choice
from fruits.training.fitting.training_set import TrainingSet

#: Rank of answers that are given at any threshold of less certain ones: they are counted first.
_GIVEN: Final = np.float32(2)


def look_alikes(choice: Choice, training_set: TrainingSet, taxonomy_file: str | None) -> dict[str, Any]:
    """Return the kinds that validation photos were taken for, as part of the manifest; nothing without validation photos."""
    held_out = choice.held_out
    if held_out is None:
        return {}
    taxonomy = Taxonomy.of([training_set.names[label] for label in held_out.answers.labels], taxonomy_file)
    predicted = taxonomy.by_kind(held_out.probabilities).argmax(axis=1)
    truth = np.array(taxonomy.kind_of)[held_out.answers.truth]
    return {"look_alikes": confused_kinds(predicted, truth, taxonomy.kind_ids)}


def certainty_by(
    choice: Choice, training_set: TrainingSet, limits: Limits, taxonomy_file: str | None, min_precision: float
) -> tuple[Certainty, dict[str, Any] | None]:
    """Return the thresholds between outcomes, set on the validation photos, and the resulting coverage.

    The threshold of certain answers is the one at which a share of ``confidence.sure_precision(min_precision)`` of them is right;
    that of probable answers, the one at which a share of ``min_precision`` of all named answers is. Photos above the threshold of
    the out-of-distribution score are not named.

    Parameters
    ----------
    limits : Limits
        Limits of photo quality.
    taxonomy_file : str, optional
        The user's taxonomy file.
    min_precision : float

    Returns
    -------
    Certainty
    dict, optional
        ``photos, min_precision, curve, sure, named``, see docs/results.md; None without validation photos.
    """
    held_out = choice.held_out
    if held_out is None:
        certain = confidence.DEFAULT_CERTAIN
        return Certainty(certain, certain, confidence.DEFAULT_PROBABLE, float("inf"), limits), None
    # The labels with training photos during validation; if the photos were sampled for it, perhaps not all labels.
    taxonomy = Taxonomy.of([training_set.names[label] for label in held_out.answers.labels], taxonomy_file)
    truth, probabilities = held_out.answers.truth, held_out.probabilities
    ood_score = held_out.ood_detector.ood_score(held_out.features, probabilities)
    ood_limit = float(np.quantile(ood_score, ACCEPTED))
    known = ood_score <= ood_limit
    by_kind = taxonomy.by_kind(probabilities)
    of_kind, right = by_kind.max(axis=1), by_kind.argmax(axis=1) == np.array(taxonomy.kind_of)[truth]
    sure = confidence.sure_precision(min_precision)
    kind = variety = confidence.certain_from(of_kind[known], right[known], sure)
    certain = of_kind >= kind
    if taxonomy.varieties:
        by_variety = taxonomy.by_variety(probabilities)
        of_variety = by_variety.max(axis=1)
        right_variety = by_variety.argmax(axis=1) == np.array(taxonomy.variety_of)[truth]
        with_variety = int((np.array(taxonomy.variety_of)[truth] >= 0)[known].sum())
        variety = confidence.certain_from(of_variety[known], right_variety[known], sure, photos=with_variety)
        # A named variety replaces its kind: both types of answers together must reach the same precision.
        right = np.where(of_variety >= variety, right_variety, right)
        rank = np.where(of_variety >= variety, _GIVEN, of_kind)
        kind = max(kind, confidence.certain_from(rank[known], right[known], sure))
        certain = (of_kind >= kind) | (of_variety >= variety)
    rank = np.where(certain, _GIVEN, of_kind)
    probable = confidence.certain_from(
        rank[known],
        right[known],
        min_precision,
        least=confidence.LEAST_PROBABLE,
        default=confidence.DEFAULT_PROBABLE,
    )
    curve = confidence.precision_by_coverage(of_kind[known], right[known], len(truth))
    named = known & (certain | (of_kind >= probable))
    told = {
        "photos": len(truth),
        "min_precision": min_precision,
        "curve": [dict(zip(("limit", "coverage", "precision"), point, strict=True)) for point in curve],
        "sure": _share_and_right(known & certain, right),
        "named": _share_and_right(named, right),
    }
    return Certainty(variety, kind, min(probable, kind), ood_limit, limits), told


def _share_and_right(answered: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the coverage, the share of photos answered, and the precision, the share of answers that is right."""
    precision = float(right[answered].mean()) if answered.any() else None
    return {"coverage": float(answered.mean()), "precision": precision}
