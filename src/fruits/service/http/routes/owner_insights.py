"""The owner's routes about learning: score on the test set, what is not known, precision by coverage, the next run's manifest.

Only for tokens of role owner. Everything is computed from photos stored with consent, and from the record of the last run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from pydantic import BaseModel, Field

from fruits.learning.metrics import FEWEST_PHOTOS
from fruits.recogniser.bundle import Bundle
from fruits.service import insights
from fruits.service.http.routes.schemas import TOKEN
from fruits.service.submissions.repository import Submissions
from fruits.service.submissions.reviewed.evaluations import MOST_UNKNOWN, Evaluations
from fruits.service.submissions.reviewed.manifest import FORMATS, Format, command_of, manifest_of
from fruits.service.submissions.reviewed.test_set import ONE_IN, Split

_PRIVATE: Final = {"Cache-Control": "no-store"}
_TYPES: Final[dict[Format, str]] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


class InsightResources(Protocol):
    """Resources that these routes need."""

    @property
    def submissions(self) -> Submissions:
        """The repository of submissions."""

    @property
    def evaluations(self) -> Evaluations:
        """Answers of bundles to stored photos."""

    def bundle(self) -> Bundle:
        """Return the open bundle."""

    def record(self) -> dict[str, Any] | None:
        """Return the record of the run that made it."""


class ShareOut(BaseModel):
    """A share with its 95 % interval (Wilson)."""

    share: float
    low: float
    high: float


class BundleScoreOut(BaseModel):
    """Score of one bundle on the test photos that are stored now."""

    identity: str
    since: str = Field(description="Day (UTC) on which the service first asked it.")
    photos: int
    kind: ShareOut | None = Field(description="Share with the right kind; null if there are too few photos to say.")
    label: ShareOut | None = Field(description="Share with the right label; null if there are too few photos to say.")


class TestSetOut(BaseModel):
    """The test set of visitors' photos, and how good every bundle was on it."""

    one_in: int = Field(description="One reviewed photo of so many belongs to the test set, by a hash of its id.")
    fewest: int = Field(description="Smallest number of photos that gets a score.")
    photos: int
    open: str = Field(description="Identity of the open bundle.")
    bundles: list[BundleScoreOut] = Field(description="Oldest first.")


class Named(BaseModel):
    """A name with the number of times it was given."""

    name: str
    count: int


class GroupOut(BaseModel):
    """Similar photos that are not known."""

    photos: int
    reviewed: int = Field(description="How many of them the owner confirmed or corrected.")
    nearest: str | None = Field(description="The label they look most like.")
    said: list[Named] = Field(description="What visitors say they show.")
    samples: list[str] = Field(description="Ids of typical photos, at most 6.")


class UnknownOut(BaseModel):
    """What visitors ask about that is not known."""

    photos: int
    most: int = Field(description="Maximum number of photos that are grouped; the newest.")
    groups: list[GroupOut] = Field(description="Largest first; photos that resemble no other are in none.")
    names: list[Named] = Field(description="Names in feedback that are no label and no kind, most frequent first.")


class PointOut(BaseModel):
    """Answers at a limit of the probability."""

    limit: float
    answered: int
    right: int
    coverage: ShareOut | None = Field(
        description="Share of photos that get an answer; null where the run has no record of it, below 20 answers."
    )
    precision: ShareOut | None = Field(description="Share of the answers that is right; null without answers.")
    min_precision: float | None = Field(description="Value of --min-precision that leads to this limit, if any does.")


class CurveOut(BaseModel):
    """Precision against coverage, of a number of photos."""

    photos: int
    points: list[PointOut] = Field(description="By rising limit.")


class PrecisionOut(BaseModel):
    """Precision against coverage: on the validation photos of the last run, and on reviewed photos."""

    limit: float = Field(description="The limit in use: probability from which the best kind is named as probable.")
    wanted: float | None = Field(description="--min-precision of the last run.")
    validation: CurveOut | None
    reviewed: CurveOut | None
    command: str = Field(description="The command that applies a limit, once --min-precision and its value are added.")


class NextRunOut(BaseModel):
    """What the next run can learn from."""

    photos: int
    labels: dict[str, int]
    new_labels: list[str] = Field(description="Labels that the open bundle does not have.")
    left_out: int = Field(description="Photos that an older version stored; 'fruits submissions export' exports them.")
    test_photos: int = Field(description="Reviewed photos of the test set, in none of this.")
    commands: dict[str, str] = Field(description="The command to run, by format of the manifest.")


def insights_router(resources: Callable[[Request], InsightResources], signed_in: Callable[..., Any]) -> APIRouter:
    """Return the routes; parameters as for :func:`fruits.service.http.routes.owner_api.owner_router`."""
    router = APIRouter(prefix="/v1/owner", tags=["owner"], dependencies=[Depends(signed_in), Security(TOKEN)])
    insight_resources = Depends(resources)

    @router.get("/test-set")
    def test_set(response: Response, at: InsightResources = insight_resources) -> TestSetOut:
        """How good every bundle is on the test set of visitors' photos, which is never trained on."""
        response.headers.update(_PRIVATE)
        bundle = at.bundle()
        found = insights.scores(at.evaluations.scored(), insights.Kinds(bundle.taxonomy))
        return TestSetOut(
            one_in=ONE_IN,
            fewest=FEWEST_PHOTOS,
            photos=at.evaluations.test_photos(),
            open=bundle.identity,
            bundles=[
                BundleScoreOut(
                    identity=one.identity, since=one.since, photos=one.photos, kind=_share(one.kind), label=_share(one.label)
                )
                for one in found
            ],
        )  # fmt: skip

    @router.get("/unknown")
    def unknown(response: Response, at: InsightResources = insight_resources) -> UnknownOut:
        """What visitors ask about that is not known: groups of similar photos, and names given in feedback."""
        response.headers.update(_PRIVATE)
        bundle = at.bundle()
        photos = at.evaluations.unknown(bundle.identity)
        return UnknownOut(
            photos=len(photos),
            most=MOST_UNKNOWN,
            groups=[
                GroupOut(
                    photos=one.photos, reviewed=one.reviewed, nearest=one.nearest, said=_named(one.said), samples=one.samples
                )
                for one in insights.groups_of(photos, bundle)
            ],
            names=_named(insights.names_not_known(at.evaluations.feedback_labels(), insights.Kinds(bundle.taxonomy))),
        )  # fmt: skip

    @router.get("/precision")
    def precision(response: Response, at: InsightResources = insight_resources) -> PrecisionOut:
        """Precision and coverage at every limit of the probability, and the option of ``fruits run`` that applies it."""
        response.headers.update(_PRIVATE)
        bundle, record = at.bundle(), at.record()
        validation = insights.curve_of_record(record)
        reviewed = insights.curve_of_reviewed(
            at.evaluations.reviewed(bundle.identity), insights.Kinds(bundle.taxonomy), bundle.certainty.ood_limit
        )
        # A run sets its threshold on validation photos of its own; reviewed ones stand in where there is no record of them.
        basis = validation or reviewed
        return PrecisionOut(
            limit=min(bundle.certainty.probable, 1.0),
            wanted=((record or {}).get("coverage") or {}).get("min_precision"),
            validation=_curve(validation, basis),
            reviewed=_curve(reviewed, basis),
            command=command_of(record, leave=("min_precision",)),
        )

    @router.get("/next-run")
    def next_run(response: Response, at: InsightResources = insight_resources) -> NextRunOut:
        """What the next run can learn from, and the command for it."""
        response.headers.update(_PRIVATE)
        found, kinds = manifest_of(at.submissions, "train"), insights.Kinds(at.bundle().taxonomy)
        record, root = at.record(), at.submissions.photo_root
        return NextRunOut(
            photos=len(found.rows),
            labels=found.labels,
            new_labels=[label for label in found.labels if label not in kinds],
            left_out=found.left_out,
            test_photos=at.evaluations.test_photos(),
            commands={kind: command_of(record, manifest=found.file_name(kind), photo_root=root) for kind in FORMATS},
        )

    @router.get(
        "/manifest", response_class=Response, responses={200: {"content": {kind: {} for kind in _TYPES.values()}}}
    )
    def manifest(
        at: InsightResources = insight_resources,
        kind: Annotated[Format, Query(alias="format")] = "parquet",
        split: Annotated[
            Split, Query(description="train: to learn from; test: the test set, to evaluate on.")
        ] = "train",
    ) -> Response:
        """The manifest of reviewed photos, which ``fruits run`` takes as PHOTOS: uri and label of each."""
        found = manifest_of(at.submissions, split)
        name = {"Content-Disposition": f'attachment; filename="{found.file_name(kind)}"'}
        return Response(found.encode(kind), media_type=_TYPES[kind], headers={**_PRIVATE, **name})

    return router


def _share(share: insights.Share | None) -> ShareOut | None:
    if share is None:
        return None
    # More digits than the page shows: a share that is rounded twice, 0.78846 to 0.7885 to 78.9 %, is not the nearest one.
    return ShareOut(share=round(share.share, 6), low=round(share.low, 6), high=round(share.high, 6))


def _named(names: list[tuple[str, int]]) -> list[Named]:
    return [Named(name=name, count=count) for name, count in names]


def _curve(curve: insights.Curve | None, basis: insights.Curve | None) -> CurveOut | None:
    if curve is None or basis is None:
        return None
    points = [
        PointOut(
            limit=one.limit,
            answered=one.answered,
            right=one.right,
            coverage=_share(one.coverage),
            precision=_share(one.precision),
            min_precision=insights.min_precision_for(basis, one.limit),
        )
        for one in curve.points
    ]
    return CurveOut(photos=curve.photos, points=points)
