"""From where on is which answer given, by what was said of the photos held back?

Sets the limits of sure answers, of those that say "probably" and of strange things, and says what people would be told of the
photos held back. Knows nothing of how these were chosen or what was learnt from the others.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning import calibration as confidence
from fruits.learning.out_of_distribution import ACCEPTED
from fruits.photos.decoding.quality import Limits
from fruits.recogniser.answers import Certainty
from fruits.recogniser.taxonomy import Taxonomy
from fruits.training.fit import Choice
from fruits.training.training_set import Rows

#: Rank of answers that are given wherever a limit of less sure ones is drawn: they count first.
_GIVEN: Final = np.float32(2)


def certainty_by(
    choice: Choice, rows: Rows, limits: Limits, taxonomy_file: str | None, min_precision: float
) -> tuple[Certainty, dict[str, Any] | None]:
    """Return from where on which answer is given, by the photos held back, and what people would be told of these.

    Sure answers begin where ``confidence.sure_precision(min_precision)`` of them are right, answers that say "probably" where
    ``min_precision`` of all that name something are. Photos beyond the limit of strange things get no name.

    Parameters
    ----------
    limits : Limits
        Beyond which a photo is to blame.
    taxonomy_file : str, optional
        The user's.
    min_precision : float

    Returns
    -------
    Certainty
    dict, optional
        ``photos, min_precision, curve, sure, named``, see docs/results.md; None if no photo could be held back.
    """
    held_back = choice.held_back
    if held_back is None:
        certain = confidence.DEFAULT_CERTAIN
        return Certainty(certain, certain, confidence.DEFAULT_PROBABLE, float("inf"), limits), None
    # The labels that were learnt beside photos held back; of more photos than are used for choosing, perhaps not all.
    taxonomy = Taxonomy.of([rows.names[label] for label in held_back.answers.labels], taxonomy_file)
    truth, probabilities = held_back.answers.truth, held_back.probabilities
    strangeness = held_back.known.strangeness(held_back.features, probabilities)
    strange = float(np.quantile(strangeness, ACCEPTED))
    known = strangeness <= strange
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
        # A variety that is named stands in the place of its kind: both sorts of answers together must be right as often, too.
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
    return Certainty(variety, kind, min(probable, kind), strange, limits), told


def _share_and_right(answered: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return which share of photos is answered, and which share of the answers is right."""
    precision = float(right[answered].mean()) if answered.any() else None
    return {"coverage": float(answered.mean()), "precision": precision}
