"""What a submission is: what comes in with an answer, what the visitor gets, what the owner sees. No behaviour."""

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
    """What there is to keep of a recognised photo.

    Attributes
    ----------
    outcome : str
        Of ``fruits.recogniser.answers.OUTCOMES``.
    kind, variety : str, optional
        Identifiers of what was named.
    label : str, optional
        The most probable label of the training photos.
    probability, strangeness : float
    language : str
        ``en`` or ``fr``.
    model : str
        Identity of the bundle.
    photo : bytes, optional
        JPEG made from the pixels, never the upload; given only with consent. Without it nothing of the answer is stored.
    features : float32 array, shape (k,), optional
        Given only with consent.
    may_show : bool
        Whether the visitor also agreed that others may see the photo, small: beside answers and in reports.
    """

    outcome: str
    kind: str | None
    variety: str | None
    label: str | None
    probability: float
    strangeness: float
    language: str
    model: str
    photo: bytes | None = None
    features: NDArray[np.float32] | None = None
    may_show: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the visitor gets: the name of the submission, and what proves that it is theirs."""

    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission, as the owner sees it.

    Attributes
    ----------
    id : str
    created : datetime
        UTC, to the second; of a receipt the day.
    outcome, kind, variety, label, probability, strangeness, language, model
        The answer, as in :class:`NewSubmission`; None without a photo.
    has_photo : bool
    may_show : bool
        As in :class:`NewSubmission`.
    right : bool, optional
        The visitor's word; None if there is none.
    said_label, note : str, optional
        What the visitor says it is; whatever else they wrote.
    decision : str, optional
        The owner's: confirmed, corrected or refused.
    reviewed_label : str, optional
        The owner's label.
    reviewer : str, optional
        Name of the token.
    """

    id: str
    created: datetime
    outcome: str | None
    kind: str | None
    variety: str | None
    label: str | None
    probability: float | None
    strangeness: float | None
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


@dataclass(frozen=True, slots=True)
class Page:
    """Some submissions, newest first, and where the next page begins; None after the last."""

    submissions: tuple[Submission, ...]
    cursor: str | None
