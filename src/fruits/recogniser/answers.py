"""Answers: a variety, a kind, a probable kind, "not sure" or "none of the things I know"; and advice on the photo.

Maps calibrated probabilities and the out-of-distribution score to one of five outcomes, for many photos at once. Used by batch,
command line and service; ``recognizer.onnx`` computes the numbers, and the bundle's ``taxonomy.json`` and ``certainty.json`` hold
the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fruits.learning.metrics import best_labels
from fruits.photos.decoding.quality import Limits
from fruits.recogniser.taxonomy import Name, Taxonomy, in_a_sentence

#: Status of a photo: recognised; cannot be decoded; failed, a retry may work.
Status = Literal["ok", "rejected", "failed"]
Outcome = Literal["variety", "kind", "probable", "unsure", "unknown"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("variety", "kind", "probable", "unsure", "unknown")
#: Outcomes that name a variety or a kind.
NAMING: Final[tuple[Outcome, ...]] = ("variety", "kind", "probable")
#: Maximum number of kinds and labels in an answer.
BEST: Final = 3


@dataclass(frozen=True, slots=True)
class Certainty:
    """Thresholds between the outcomes.

    Attributes
    ----------
    variety, kind : float
        Minimum probability to name a variety, or a kind, as certain.
    probable : float
        Minimum probability of the best kind to name it as probable; with ``kind`` or more, this outcome never occurs.
    ood_limit : float
        Out-of-distribution score above which a photo is out of distribution; infinite to disable.
    limits : Limits
        Limits of photo quality, for advice.
    """

    variety: float
    kind: float
    probable: float
    ood_limit: float
    limits: Limits

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which cannot represent infinity."""
        return {**asdict(self), "ood_limit": self.ood_limit if np.isfinite(self.ood_limit) else None}

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Certainty:
        """Parse the output of :meth:`as_dict`; in that of older bundles, ``ood_limit`` is called ``strange``.

        Before format 4 there is no ``probable``, and this outcome never occurs.
        """
        limit = values["ood_limit"] if "ood_limit" in values else values["strange"]
        ood_limit = float("inf") if limit is None else float(limit)
        variety, kind = float(values["variety"]), float(values["kind"])
        return cls(variety, kind, float(values.get("probable", kind)), ood_limit, Limits(**values["limits"]))


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions for n photos, as arrays of shape (n,) or (n, up to ``BEST``).

    Attributes
    ----------
    outcome : int64 array, shape (n,)
        Position in ``OUTCOMES``.
    variety : int64 array, shape (n,)
        The most probable variety; -1 if the taxonomy has none.
    variety_probability : float32 array, shape (n,)
    kinds, kind_probabilities : arrays, shape (n, up to 3)
        Best first.
    labels, label_probabilities : arrays, shape (n, up to 3)
        Best first.
    """

    outcome: NDArray[np.int64]
    variety: NDArray[np.int64]
    variety_probability: NDArray[np.float32]
    kinds: NDArray[np.int64]
    kind_probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    label_probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer for one photo.

    ``str(answer)`` is a line of English text: ``banana (97 %)``, ``probably kiwi (69 %)``.

    Attributes
    ----------
    outcome : {"variety", "kind", "probable", "unsure", "unknown"}, optional
        A variety, a kind, a probable kind, not sure, or none of the known things; None unless ``status`` is ``ok``.
    name : Name, optional
        Name of the variety or the kind; None if nothing is named.
    probability : float
        Probability of the named variety or kind; of the best kind if nothing is named. From 0 to 1.
    kind, variety : str
        Identifiers of the named kind and variety: ``apple``, ``apple/braeburn``; empty if nothing is named.
    kinds : tuple of (str, Name, float)
        The most probable kinds with their probabilities, best first; at most three.
    labels : tuple of str
        The most probable labels, best first; at most three.
    probabilities : tuple of float
        Probabilities of these labels.
    ood_score : float
        Out-of-distribution score: the distance from the training photos.
    advice : tuple of str
        Quality problems of the photo: ``small``, ``dark``, ``blurred``; only if the answer is not certain.
    features : float32 array, shape (k,)
        Of length 0 unless ``status`` is ``ok``. Not part of comparisons.
    status : {"ok", "rejected", "failed"}
        Whether there is an answer. Rejected: the photo cannot be decoded. Failed: it could not be read; a retry may work.
    error : str, optional
        Reason if there is no answer: a code, a colon and what was found, as in the tables of ``fruits apply``.
    """

    outcome: Outcome | None
    name: Name | None
    probability: float
    kind: str
    variety: str
    kinds: tuple[tuple[str, Name, float], ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    ood_score: float
    advice: tuple[str, ...]
    features: NDArray[np.float32] = field(compare=False, repr=False)
    status: Status = "ok"
    error: str | None = None

    @classmethod
    def without(cls, status: Status, error: str) -> Answer:
        """Return the answer of a photo that could not be read or decoded."""
        nothing = np.empty(0, np.float32)
        return cls(None, None, 0.0, "", "", (), (), (), 0.0, (), nothing, status, error)

    def as_row(self) -> dict[str, Any]:
        """Return the answer as a row of a table, as ``fruits apply`` writes it; docs/results.md explains the columns."""
        row: dict[str, Any] = {"status": self.status, "error": self.error}
        if self.status != "ok":
            return row
        return row | {
            "outcome": self.outcome,
            "kind": self.kind or None,
            "variety": self.variety or None,
            **({f"name_{language}": name for language, name in self.name.names().items()} if self.name else {}),
            "probability": self.probability,
            "kinds": [kind for kind, _, _ in self.kinds],
            "kind_probabilities": [probability for _, _, probability in self.kinds],
            "labels": self.labels,
            "probabilities": self.probabilities,
            "ood_score": self.ood_score,
            "advice": self.advice,
            "features": self.features,
        }

    def __str__(self) -> str:
        if self.status != "ok":
            return f"{self.status}: {self.error}"
        if self.outcome == "unknown":
            return f"none of the things I know (nearest: {in_a_sentence(self.kinds[0][1].en)})"
        if self.name is None:
            return f"not sure: {', '.join(_share(name, probability) for _, name, probability in self.kinds)}"
        return f"{'probably ' if self.outcome == 'probable' else ''}{_share(self.name, self.probability)}"


def _share(name: Name, probability: float) -> str:
    # No model is certain, so 99.5 % or more is shown as "> 99 %", never as 100 %.
    return f"{in_a_sentence(name.en)} ({'> 99' if probability >= 0.995 else f'{100 * probability:.0f}'} %)"


def decide(
    probabilities: NDArray[np.float32], ood_score: NDArray[np.float32], taxonomy: Taxonomy, certainty: Certainty
) -> Decisions:
    """Decide the outcomes of n photos.

    Parameters
    ----------
    probabilities : float32 array, shape (n, c)
        Calibrated probabilities.
    ood_score : float32 array, shape (n,)
    taxonomy : Taxonomy
        Taxonomy of the c labels.
    certainty : Certainty
    """
    n = len(probabilities)
    by_kind = taxonomy.by_kind(probabilities)
    by_variety = taxonomy.by_variety(probabilities)
    kinds, labels = best_labels(by_kind, BEST), best_labels(probabilities, BEST)
    kind_probabilities = np.take_along_axis(by_kind, kinds, 1)
    if taxonomy.varieties:
        variety = by_variety.argmax(axis=1)
        variety_probability = by_variety[np.arange(n), variety]
    else:
        variety, variety_probability = np.full(n, -1, np.int64), np.zeros(n, np.float32)
    outcome = np.full(n, OUTCOMES.index("unsure"), np.int64)
    outcome[kind_probabilities[:, 0] >= certainty.probable] = OUTCOMES.index("probable")
    outcome[kind_probabilities[:, 0] >= certainty.kind] = OUTCOMES.index("kind")
    outcome[variety_probability >= certainty.variety] = OUTCOMES.index("variety")
    outcome[~(ood_score <= certainty.ood_limit)] = OUTCOMES.index("unknown")  # also if it is NaN
    return Decisions(
        outcome,
        variety,
        variety_probability,
        kinds,
        kind_probabilities,
        labels,
        np.take_along_axis(probabilities, labels, 1),
    )


def answers(
    decisions: Decisions,
    ood_score: NDArray[np.float32],
    features: NDArray[np.float32],
    taxonomy: Taxonomy,
    advice: Sequence[tuple[str, ...]],
) -> list[Answer]:
    """Turn decisions into answers: names instead of indices, and advice if the answer is not certain.

    Parameters
    ----------
    advice : sequence of tuple of str
        What is wrong with each photo, as ``Limits.advice`` says.
    """
    return [_answer(decisions, row, ood_score, features, taxonomy, advice[row]) for row in range(len(features))]


def _answer(
    decisions: Decisions,
    row: int,
    ood_score: NDArray[np.float32],
    features: NDArray[np.float32],
    taxonomy: Taxonomy,
    advice: tuple[str, ...],
) -> Answer:
    outcome = OUTCOMES[int(decisions.outcome[row])]
    name, kind, variety = None, "", ""
    probability = float(decisions.kind_probabilities[row, 0])
    if outcome == "variety":
        number = int(decisions.variety[row])
        name, probability = taxonomy.varieties[number], float(decisions.variety_probability[row])
        variety, kind = taxonomy.variety_ids[number], taxonomy.kind_ids[taxonomy.kind_of_variety(number)]
    elif outcome in NAMING:
        best = int(decisions.kinds[row, 0])
        name, kind = taxonomy.kinds[best], taxonomy.kind_ids[best]
    kinds = zip(decisions.kinds[row].tolist(), decisions.kind_probabilities[row].tolist(), strict=True)
    return Answer(
        outcome,
        name,
        probability,
        kind,
        variety,
        tuple((taxonomy.kind_ids[number], taxonomy.kinds[number], p) for number, p in kinds),
        tuple(taxonomy.labels[label] for label in decisions.labels[row]),
        tuple(decisions.label_probabilities[row].tolist()),
        float(ood_score[row]),
        () if outcome in ("variety", "kind") else advice,
        features[row],
    )
