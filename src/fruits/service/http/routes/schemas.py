"""Pydantic models of the API's requests and responses; they validate requests and define the OpenAPI document."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from fruits.messages import LANGUAGES
from fruits.recogniser.explain import MOST_PLACES
from fruits.recogniser.regions import LEAST_SIDE, MOST
from fruits.service.http import errors as http_errors
from fruits.service.http.uploads import PHOTO_TYPES
from fruits.service.submissions.types import Submission

#: Pattern of a submission's id: 128 random bits, URL-safe.
ID: Final = r"^[A-Za-z0-9_-]{22}$"
#: Pattern of a bundle's identity.
IDENTITY: Final = r"^[0-9a-f]{16}$"
_CODES: Final[list[Any]] = sorted(http_errors.KINDS)


def _in_every_language(schema: dict[str, Any]) -> None:
    """List the languages that there are, which are not known before the service starts."""
    schema["properties"] |= {language: {"type": "string"} for language in LANGUAGES}
    schema["required"] = [*LANGUAGES, *(name for name in schema.get("required", ()) if name not in LANGUAGES)]


class Text(BaseModel):
    """A text in every language, by language code."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_in_every_language)
    __pydantic_extra__: dict[str, str] = {}

    en: str


class ErrorBody(BaseModel):
    """The error, and the id of the request in the service's log."""

    code: str = Field(json_schema_extra={"enum": _CODES})
    message: Text
    request_id: str


_EXAMPLE_ERRORS: Final[list[Any]] = [
    {"error": {"code": code, "message": http_errors.KINDS[code].message, "request_id": "q2Vn0cW1Qm2s8vT5"}}
    for code in ("not_an_image", "rate_limited")
]


class Error(BaseModel):
    """An error response."""

    model_config = ConfigDict(json_schema_extra={"examples": _EXAMPLE_ERRORS})

    error: ErrorBody


class KindShare(Text):
    """A kind and its probability."""

    kind: str
    probability: float


class LabelShare(Text):
    """A label of the training photos and its probability."""

    label: str
    probability: float


class SimilarPhoto(Text):
    """A training photo similar to the submitted one; similarity is the cosine of their features."""

    label: str
    thumbnail: str
    similarity: float


class Advice(Text):
    """A quality problem of the photo: too small, too dark or blurred."""

    code: Literal["small", "dark", "blurred"]


class Milliseconds(BaseModel):
    """Processing time by stage, in milliseconds."""

    queue: float
    decode: float
    infer: float
    total: float


class Map(BaseModel):
    """Class activation map: how much each position of the photo contributes to the first of ``kinds``."""

    rows: int = Field(ge=1, le=MOST_PLACES)
    columns: int = Field(ge=1, le=MOST_PLACES)
    values: list[float] = Field(
        min_length=1, max_length=MOST_PLACES**2, description="Row by row from the top left; 0 to 1, the largest is 1."
    )
    fit: Literal["crop", "pad", "squash"] = Field(
        description="What the map covers: the largest centred square of the photo (crop), the photo padded to a square, or all "
        "of it."
    )


_BOX: Final = "Left, top, right and bottom as fractions of the upright photo."
Side = Annotated[float, Field(ge=0, le=1)]


class AnswerBase(BaseModel):
    """What is said of a photo, or of a region of it."""

    outcome: Literal["variety", "kind", "probable", "unsure", "unknown"]
    kind: str | None
    variety: str | None
    name: Text | None
    line: Text | None
    probability: float
    kinds: list[KindShare]
    labels: list[LabelShare]
    ood_score: float | None = Field(description="Out-of-distribution score; null if it is infinite.")
    advice: list[Advice]


class Region(AnswerBase):
    """A region of a photo with its own answer, as of a photo that shows the region alone."""

    box: list[Side] = Field(min_length=4, max_length=4, description=_BOX)


class Answer(AnswerBase):
    """The answer for one photo, or for the part of it that was asked about."""

    id: str
    secret: str
    similar: list[SimilarPhoto]
    kept: bool
    box: list[Side] | None = Field(
        None, min_length=4, max_length=4, description=f"Only with box: the part that the answer is for. {_BOX}"
    )
    map: Map | None = Field(
        None,
        description="Only with explain=true; null if the network or the head does not tell where answers come from.",
    )
    regions: list[Region] | None = Field(
        None,
        max_length=MOST,
        description="Only with regions=true: what the photo shows, part by part, those with a name first; null if the network "
        "or the head does not tell where answers come from.",
    )
    milliseconds: Milliseconds


class PhotoErrorBody(BaseModel):
    """The reason why a photo has no answer."""

    code: str
    message: Text


class PhotoError(BaseModel):
    """Takes the place of an answer if one of several photos cannot be opened."""

    name: str
    error: PhotoErrorBody


_EXAMPLE_SIMILAR: Final[dict[str, Any]] = {
    "label": "Apple Braeburn", "en": "Braeburn apple", "fr": "Pomme Braeburn",
    "thumbnail": "/v1/gallery/0123456789abcdef/17.jpg", "similarity": 0.93,
}  # fmt: skip
_EXAMPLE_ANSWER: Final[dict[str, Any]] = {
    "id": "Xk3n0cW1Qm2s8vT5yZ7aBg", "secret": "r4nd0m-0f-24-bytes-url-safe-0000", "outcome": "variety", "kind": "apple",
    "variety": "apple/braeburn", "name": {"en": "Braeburn apple", "fr": "Pomme Braeburn"}, "line": None, "probability": 0.972,
    "kinds": [{"kind": "apple", "en": "Apple", "fr": "Pomme", "probability": 0.995}],
    "labels": [{"label": "Apple Braeburn", "en": "Braeburn apple", "fr": "Pomme Braeburn", "probability": 0.972}],
    "ood_score": 0.41, "advice": [],
    "similar": [_EXAMPLE_SIMILAR], "kept": False, "milliseconds": {"queue": 0.1, "decode": 2.4, "infer": 1.6, "total": 5.2},
}  # fmt: skip


class ModelInfo(BaseModel):
    """The bundle that gave the answers, and its number of labels."""

    identity: str
    labels: int


class Recognition(BaseModel):
    """The answers, in the order of the photos."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"photos": [_EXAMPLE_ANSWER], "model": {"identity": "0123456789abcdef", "labels": 114}}]
        }
    )

    photos: list[Answer | PhotoError]
    model: ModelInfo


class Feedback(BaseModel):
    """A visitor's feedback on an answer."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "id": _EXAMPLE_ANSWER["id"],
                    "secret": _EXAMPLE_ANSWER["secret"],
                    "right": False,
                    "label": "Apple Golden 1",
                    "note": "it was still green",
                }
            ]
        },
    )

    id: str = Field(pattern=ID)
    secret: str = Field(min_length=1, max_length=100)
    right: bool
    label: str | None = Field(None, max_length=100)
    note: str | None = Field(None, max_length=500)


class StoredEvaluation(BaseModel):
    """The answer of a later recogniser to a stored photo; null if it could not read it."""

    model: str = Field(description="Identity of the bundle.")
    outcome: str | None
    kind: str | None
    label: str | None
    probability: float | None
    ood_score: float | None


class Stored(BaseModel):
    """Everything that is stored about a photo; null for what is not stored."""

    id: str
    created: datetime = Field(description="UTC; without a photo, the start of the day.")
    deleted_by: datetime = Field(description="Time of automatic deletion.")
    has_photo: bool
    may_show: bool
    outcome: str | None
    kind: str | None
    variety: str | None
    label: str | None
    probability: float | None
    ood_score: float | None
    language: str | None
    model: str | None
    features: str | None = Field(description="Note that features computed from the photo are stored with it.")
    right: bool | None
    said_label: str | None
    note: str | None
    decision: str | None
    reviewed_label: str | None
    split: str | None = Field(description="Once reviewed: train, or test if it is only used to score recognisers.")
    evaluations: list[StoredEvaluation] = Field(description="What later recognisers answered to the stored photo.")

    @classmethod
    def of(cls, found: Submission, evaluations: list[dict[str, Any]], *, keep_days: int, feedback_hours: int) -> Stored:
        """Return the visitor's view of a submission, without the reviewer's name."""
        lasts = timedelta(days=keep_days) if found.has_photo else timedelta(days=1, hours=feedback_hours)
        features = "the numbers of the photo that the answer was made from" if found.has_photo else None
        made_here = {"deleted_by", "features", "evaluations"}
        given = {name: getattr(found, name) for name in cls.model_fields.keys() - made_here}
        later = [StoredEvaluation(**one) for one in evaluations]
        return cls(**given, deleted_by=found.created + lasts, features=features, evaluations=later)


class Label(Text):
    """A label that can be recognised."""

    label: str
    kind: str
    variety: str | None


class KindName(Text):
    """A kind that has labels."""

    kind: str


class Labels(BaseModel):
    """All labels and kinds that can be recognised."""

    labels: list[Label]
    kinds: list[KindName]


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": Error, "description": "The error of the request, in every language."},
    "503": {"model": Error, "description": "Busy, starting or stopping: retry after Retry-After seconds."},
}
#: Authentication of programs. Declared here for OpenAPI; checked in ``limits/access.py``.
TOKEN: Final = HTTPBearer(auto_error=False, scheme_name="token", description="Created by 'fruits tokens add NAME OUT'.")
TOKEN_OR_NONE: Final[dict[str, Any]] = {"security": [{}, {TOKEN.scheme_name: []}]}
_BINARY: Final = {"type": "string", "format": "binary"}
_FRACTION: Final = r"(0|1|0?\.[0-9]+|[01]\.[0-9]*)"
_BOX_PATTERN: Final = f"^{_FRACTION}(,{_FRACTION}){{3}}$"
UPLOAD: Final = {
    **TOKEN_OR_NONE,
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "properties": {
                        "photo": {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": 8},
                        "keep": {"type": "string", "enum": ["true", "false"]},
                        "show": {"type": "string", "enum": ["true", "false"]},
                        "explain": {"type": "string", "enum": ["true", "false"]},
                        "regions": {"type": "string", "enum": ["true", "false"]},
                        "box": {"type": "string", "pattern": _BOX_PATTERN},
                        "again": {"type": "string", "enum": ["true", "false"]},
                        "lang": {"type": "string", "enum": [*LANGUAGES]},
                    },
                    "example": {"keep": "false", "lang": "en"},
                }
            },
            **{kind: {"schema": _BINARY} for kind in PHOTO_TYPES},
        },
    },
    "parameters": [
        {
            "name": "keep", "in": "query", "required": False, "schema": {"type": "string", "enum": ["true", "false"]},
            "example": "false",
            "description": "Whether the photo may be stored to improve recognition; false by default.",
        },
        {
            "name": "show", "in": "query", "required": False, "schema": {"type": "string", "enum": ["true", "false"]},
            "description": "Whether others may see a thumbnail of the stored photo (answers, reports); false by default.",
        },
        {
            "name": "explain", "in": "query", "required": False, "schema": {"type": "string", "enum": ["true", "false"]},
            "description": "Whether to return where each answer comes from, in the field map; false by default.",
        },
        {
            "name": "regions", "in": "query", "required": False, "schema": {"type": "string", "enum": ["true", "false"]},
            "description": "Whether to look for several kinds in the photo and return an answer for each region, in the field "
            "regions; takes about fifteen times as long; false by default.",
        },
        {
            "name": "box", "in": "query", "required": False, "schema": {"type": "string", "pattern": _BOX_PATTERN},
            "description": "The part of the single photo to answer for: left, top, right and bottom as fractions of the upright "
            f"photo, at least {LEAST_SIDE:g} apart, such as 0.5,0,1,0.5. Not with keep=true or regions=true.",
        },
        {
            "name": "again", "in": "query", "required": False, "schema": {"type": "string", "enum": ["true", "false"]},
            "description": "Whether the photo was sent before, so that the owner's statistics do not count it as a new one (nor "
            "with box); false by default.",
        },
        {"name": "lang", "in": "query", "required": False, "schema": {"type": "string", "enum": [*LANGUAGES]},
            "example": "en", "description": "Language of the visitor."},
    ],
}  # fmt: skip
