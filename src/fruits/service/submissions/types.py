"""Data types of submissions: a new submission, its receipt, the stored record, a page of records. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Decision = Literal["confirmed", "corrected", "refused"]
Filter = Literal["pending", "wrong", "reviewed", "kept"]
DECISIONS: Final[tuple[Decision, ...]] = ("confirmed", "corrected", "refused")
FILTERS: Final[tuple[Filter, ...]] = ("pending", "wrong", "reviewed", "kept")


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """A recognised photo to be stored.

    Attributes
    ----------
    outcome : str
        Of ``fruits.recogniser.answers.OUTCOMES``.
    kind, variety : str, optional
        Identifiers of the named kind and variety.
    label : str, optional
        Most probable label.
    probability, ood_score : float
    language : str
        ``en`` or ``fr``.
    model : str
        Identity of the bundle.
    photo : bytes, optional
        JPEG re-encoded from the pixels, never the upload; given only with consent. Without it, the answer is not stored.
    features : float32 array, shape (k,), optional
        Given only with consent.
    may_show : bool
        Whether the visitor also consented to show a thumbnail to others: beside answers and in reports.
    """

    outcome: str
    kind: str | None
    variety: str | None
    label: str | None
    probability: float
    ood_score: float
    language: str
    model: str
    photo: bytes | None = None
    features: NDArray[np.float32] | None = None
    may_show: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """Receipt of a submission: its id, and the secret that authorises its sender."""

    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A stored submission.

    Attributes
    ----------
    id : str
    created : datetime
        UTC, to the second; for a receipt the start of the day.
    outcome, kind, variety, label, probability, ood_score, language, model
        The answer, as in :class:`NewSubmission`; None without a photo.
    has_photo : bool
    may_show : bool
        As in :class:`NewSubmission`.
    right : bool, optional
        The visitor's feedback; None without feedback.
    said_label, note : str, optional
        Label and note given by the visitor.
    decision : str, optional
        The owner's decision: confirmed, corrected or refused.
    reviewed_label : str, optional
        The owner's label.
    reviewer : str, optional
        Name of the token.
    split : str, optional
        ``train`` or ``test``, from the first review on.
    marked : bool, optional
        Whether the stored photo carries the consent; None if an older version stored it.
    """

    id: str
    created: datetime
    outcome: str | None
    kind: str | None
    variety: str | None
    label: str | None
    probability: float | None
    ood_score: float | None
    language: str | None
    model: str | None
    has_photo: bool
    may_show: bool
    right: bool | None
    said_label: str | None
    note: str | None
    decision: str | None
    reviewed_label: str | None
    reviewer: str | None
    split: str | None = None
    marked: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of submissions, newest first, and the cursor of the next page; None after the last."""

    submissions: tuple[Submission, ...]
    cursor: str | None
