"""The owner's routes under ``/v1/owner``: statistics, submissions, reviews.

Only for tokens of role owner; the caller of :func:`owner_router` supplies the check. Statistics are totals over all visitors;
photos are those stored with consent. The pages that show them are in ``pages/``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response, Security
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fruits.learning.drift import Drift
from fruits.service.http.errors import KINDS
from fruits.service.http.routes.schemas import TOKEN, Text
from fruits.service.statistics import KEEP_DAYS, QUANTILES, Statistics
from fruits.service.submissions.repository import Decision, Filter, Page, Submission, Submissions
from fruits.service.submissions.tokens import TokenInfo

#: Photos from which the drift index is given; with fewer, chance dominates.
_ENOUGH: Final = 50
_PRIVATE: Final = {"Cache-Control": "no-store"}


class OwnerResources(Protocol):
    """Resources that the owner's routes need."""

    @property
    def submissions(self) -> Submissions:
        """The repository of submissions."""

    @property
    def statistics(self) -> Statistics:
        """Counts by day."""

    def drift(self) -> Drift:
        """Return the reference distribution of the open bundle's training photos."""

    def identity(self) -> str:
        """Return the identity of the open bundle."""


class Latency(BaseModel):
    """Quantiles of the seconds from request to response; null without photos."""

    p50: float | None
    p95: float | None
    p99: float | None


class DriftOut(BaseModel):
    """Drift of submitted photos from training photos: population stability index (0.1: small, 0.25: large)."""

    photos: int
    index: float | None = Field(
        description="Mean over the out-of-distribution score and the first features; null for fewer than 50 photos."
    )
    chance: float | None = Field(description="Expected index of as many photos without drift.")
    worst: float | None = Field(description="Index of the feature with the largest drift.")
    ood_score: float | None = Field(description="Index of the out-of-distribution score alone.")


class Counts(BaseModel):
    """Counts of a period."""

    photos: int
    kept: int
    outcomes: dict[str, int]
    refused: dict[str, int]
    right: int
    wrong: int
    unsure_share: float | None
    latency: Latency
    drift: DriftOut


class Day(Counts):
    """Counts of one day, UTC."""

    day: str


class Waiting(BaseModel):
    """Number of submissions in all and by state."""

    all: int
    kept: int
    pending: int
    wrong: int
    reviewed: int


class Summary(BaseModel):
    """Statistics of the service."""

    identity: str
    keep_days: int
    submissions: Waiting
    reasons: dict[str, Text] = Field(description="Meaning of the error codes in ``refused``.")
    total: Counts
    days: list[Day]


class Review(BaseModel):
    """The owner's decision on a photo."""

    model_config = ConfigDict(extra="forbid")

    decision: Decision
    label: str | None = Field(None, max_length=200, description="What the photo shows; required for corrected.")


def owner_router(resources: Callable[[Request], OwnerResources], signed_in: Callable[..., Any]) -> APIRouter:
    """Return the owner's routes.

    Parameters
    ----------
    resources : callable
        Returns the resources for a request.
    signed_in : callable
        Dependency that returns the :class:`TokenInfo` of a token of role owner, or raises an error with status 401 or 403.
    """
    # The token is checked before anything else, including validation of the request.
    router = APIRouter(prefix="/v1/owner", tags=["owner"], dependencies=[Depends(signed_in), Security(TOKEN)])
    owner_resources, owner_of = Depends(resources), Depends(signed_in)

    # Plain functions: the framework runs them in threads, so that database access does not block the event loop.
    @router.get("/summary")
    def summary(
        response: Response, at: OwnerResources = owner_resources, days: Annotated[int, Query(ge=1, le=KEEP_DAYS)] = 30
    ) -> Summary:
        """Volume, latency, refusals, unsure share and drift by day, and the number of pending submissions."""
        response.headers.update(_PRIVATE)
        counted = at.statistics.summary(days)
        identity, drift = at.identity(), at.drift()
        return Summary(
            identity=identity,
            keep_days=at.submissions.keep_days,
            submissions=Waiting(**at.submissions.counts()),
            reasons={
                code: Text.model_validate(KINDS[code].reason) for code in counted["total"]["refused"] if code in KINDS
            },
            total=Counts(**_counts(counted["total"], identity, drift)),
            days=[Day(day=day["day"], **_counts(day, identity, drift)) for day in counted["days"]],
        )

    @router.get("/submissions")
    def submissions(
        response: Response,
        at: OwnerResources = owner_resources,
        state: Filter = "pending",
        cursor: Annotated[str | None, Query(max_length=40)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Page:
        """Submissions that are pending, have feedback that the answer was wrong, are reviewed, or have a photo; newest first."""
        response.headers.update(_PRIVATE)
        return at.submissions.page(state, cursor, limit)

    @router.get(
        "/submissions/{submission_id}/photo", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}}
    )
    def photo(submission_id: str, at: OwnerResources = owner_resources) -> Response:
        """The photo of a submission, stored with the visitor's consent."""
        return Response(at.submissions.photo(submission_id), media_type="image/jpeg", headers=_PRIVATE)

    @router.post("/submissions/{submission_id}/review")
    def review(
        submission_id: str,
        decided: Review,
        response: Response,
        at: OwnerResources = owner_resources,
        owner: TokenInfo = owner_of,
    ) -> Submission:
        """Record what a photo shows, or that it must not be used for training; replaces earlier decisions."""
        response.headers.update(_PRIVATE)
        return at.submissions.review(submission_id, decided.decision, decided.label, reviewer=owner.name)

    @router.delete("/submissions/{submission_id}", status_code=204)
    def remove(submission_id: str, at: OwnerResources = owner_resources) -> None:
        """Delete a submission: photo, answer, features, feedback."""
        at.submissions.remove(submission_id)

    return router


def _counts(counted: dict[str, Any], identity: str, drift: Drift) -> dict[str, Any]:
    plain = {name: value for name, value in counted.items() if name not in (*QUANTILES, "drift", "day")}
    latency = Latency(**{name: counted[name] for name in QUANTILES})
    return {**plain, "latency": latency, "drift": _drift(counted["drift"].get(identity), drift)}


def _drift(counts: NDArray[np.int64] | None, drift: Drift) -> DriftOut:
    """Return the drift of photos from training; counts of other bundles are not comparable and are left out."""
    photos = int(counts[0].sum()) if counts is not None else 0
    if counts is None or photos < _ENOUGH:
        return DriftOut(photos=photos, index=None, chance=None, worst=None, ood_score=None)
    index = drift.psi(counts)
    return DriftOut(
        photos=photos,
        index=round(float(index.mean()), 4),
        chance=round(drift.chance(photos), 4),
        worst=round(float(index.max()), 4),
        ood_score=round(float(index[0]), 4),
    )
