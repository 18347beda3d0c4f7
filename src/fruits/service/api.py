"""The HTTP API for visitors and programs: photos in, answers out; feedback, deletion, labels, the model itself.

What a request must be like is said by the models below, which are also what ``/openapi.json`` is made of. The way of a photo is
written by hand, without validation of what we ourselves made: it is the one that counts. Knows nothing of how answers come
about.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, FastAPI, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from fruits.errors import ImageDecodeError
from fruits.photos.quality import ADVICE
from fruits.service import problems
from fruits.service.limits import place_of
from fruits.service.problems import Problem
from fruits.service.recogniser import Model, Recognised
from fruits.service.resources import Resources
from fruits.service.submissions import NewSubmission, Receipt
from fruits.service.tokens import TokenInfo
from fruits.service.uploads import PHOTO_TYPES, Upload, read_upload

RECOGNISE: Final = "/v1/recognise"
_ID: Final = r"^[A-Za-z0-9_-]{22}$"
_IDENTITY: Final = r"^[0-9a-f]{16}$"
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class Text(BaseModel):
    """In both languages."""

    en: str
    fr: str


class ErrorBody(BaseModel):
    code: str = Field(json_schema_extra={"enum": sorted(problems.KINDS)})
    message: Text
    request_id: str


class Error(BaseModel):
    """Every answer that is an error."""

    error: ErrorBody


class KindShare(Text):
    kind: str
    probability: float


class LabelShare(Text):
    label: str
    probability: float


class Alike(Text):
    label: str
    thumbnail: str
    similarity: float


class Advice(Text):
    code: Literal["small", "dark", "blurred"]


class Milliseconds(BaseModel):
    queue: float
    decode: float
    infer: float
    total: float


class Answer(BaseModel):
    """What is said of a photo."""

    id: str
    secret: str
    outcome: Literal["variety", "kind", "unsure", "unknown"]
    kind: str | None
    variety: str | None
    name: Text | None
    line: Text | None
    probability: float
    kinds: list[KindShare]
    labels: list[LabelShare]
    strangeness: float | None
    advice: list[Advice]
    alike: list[Alike]
    kept: bool
    milliseconds: Milliseconds


class PhotoErrorBody(BaseModel):
    code: str
    message: Text


class PhotoError(BaseModel):
    """In the place of a photo that cannot be opened, among several."""

    name: str
    error: PhotoErrorBody


class ModelInfo(BaseModel):
    identity: str
    labels: int


class Recognition(BaseModel):
    photos: list[Answer | PhotoError]
    model: ModelInfo


class Feedback(BaseModel):
    """A visitor's word on an answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(pattern=_ID)
    secret: str = Field(min_length=1, max_length=100)
    right: bool
    label: str | None = Field(None, max_length=100)
    note: str | None = Field(None, max_length=500)


class Label(Text):
    label: str
    kind: str
    variety: str | None


class KindName(Text):
    kind: str


class Labels(BaseModel):
    labels: list[Label]
    kinds: list[KindName]


_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": Error, "description": "What was wrong with the request, in both languages."},
    "503": {"model": Error, "description": "Busy, starting or stopping: try again after Retry-After seconds."},
}
_BINARY: Final = {"type": "string", "format": "binary"}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            **{kind: {"schema": _BINARY} for kind in PHOTO_TYPES},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "properties": {
                        "photo": {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": 8},
                        "keep": {"type": "string", "enum": ["true", "false"]},
                        "lang": {"type": "string", "enum": ["en", "fr"]},
                    },
                }
            },
        },
    },
    "parameters": [
        {
            "name": "keep", "in": "query", "required": False, "schema": {"type": "string", "enum": ["true", "false"]},
            "description": "Whether the photo may be kept to improve recognition; false by default.",
        },
        {"name": "lang", "in": "query", "required": False, "schema": {"type": "string", "enum": ["en", "fr"]}},
    ],
}  # fmt: skip


def resources_of(request: Request) -> Resources:
    """Return what the service holds."""
    resources: Resources = request.app.state.resources
    return resources


async def caller(request: Request) -> TokenInfo | None:
    """Return whose token came with a request, None without one; count it against its limit.

    Raises
    ------
    Problem
        ``unauthorised`` for a token that is none, ``rate_limited``.
    """
    resources, about = resources_of(request), request.scope["fruits"]
    given = about["headers"].get(b"authorization")
    config = resources.config
    place = place_of(about["address"])
    if given is None:
        _within(resources.limits.take(place, config.rate))
        return None
    scheme, _, token = given.decode("latin-1").partition(" ")
    found = None
    if scheme.lower() == "bearer":
        found = await asyncio.to_thread(resources.tokens.check, token.strip())
    if found is None:
        _within(resources.limits.take(place, config.rate))  # so that nobody guesses for long
        raise Problem("unauthorised")
    rate = config.token_rate if found.rate_per_minute is None else found.rate_per_minute
    _within(resources.limits.take(f"token {found.id}", rate))
    about["token"] = found.id
    return found


def _within(wait_s: float) -> None:
    if wait_s:
        raise Problem("rate_limited", retry_after_s=wait_s)


async def recognise(request: Request) -> Response:
    """Recognise one photo, sent as the body, or up to eight, sent as the fields ``photo`` of a form.

    Photos are JPEG, PNG or WebP by their content. Of one photo that cannot be opened the answer is an error; among several, an
    error stands in its place. A photo is kept only if ``keep`` says so; ``id`` and ``secret`` of the answer delete it.
    """
    resources, about = resources_of(request), request.scope["fruits"]
    about["route"] = RECOGNISE
    _admit(resources)
    token = await caller(request)
    if resources.config.tokens_only and token is None:
        raise Problem("unauthorised")
    upload = await read_upload(request.receive, about["headers"], resources.config)
    about["bytes_in"], about["photos"] = upload.bytes_in, len(upload.photos)
    keep, lang = _wishes(request, upload)
    _admit(resources)
    arrived = time.perf_counter()
    outcomes = await asyncio.gather(*resources.recogniser.submit(upload.photos, keep=keep), return_exceptions=True)
    upload.photos.clear()
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, ImageDecodeError):
            raise outcome
    for outcome in outcomes:
        if isinstance(outcome, ImageDecodeError):
            code = problems.of(outcome).code
            resources.telemetry.rejected.labels(code).inc()
            if len(outcomes) == 1:
                raise outcome
    good = [outcome for outcome in outcomes if isinstance(outcome, Recognised)]
    seconds = time.perf_counter() - arrived

    def count() -> None:
        for one in good:
            resources.statistics.answered(
                one.answer.outcome, seconds, kept=one.kept is not None, model=one.model.identity, bins=one.bins
            )

    receipts = iter(await resources.receipts.add([_submission(one, lang) for one in good], count)) if good else iter(())
    total_s = time.perf_counter() - about["started"]
    resources.telemetry.seconds.observe(total_s)
    about["outcomes"] = [one.answer.outcome for one in good]
    photos = [
        _answer(outcome, next(receipts), total_s)
        if isinstance(outcome, Recognised)
        else {"name": f"photo {place}", "error": problems.said(problems.of(outcome))}
        for place, outcome in enumerate(outcomes, 1)
    ]
    for one in good:
        resources.telemetry.photos.labels(one.answer.outcome).inc()
    model = good[0].model if good else resources.recogniser.model
    body = json.dumps(
        {"photos": photos, "model": {"identity": model.identity, "labels": len(model.bundle.labels)}},
        ensure_ascii=False, separators=(",", ":"),
    )  # fmt: skip
    return Response(body.encode(), media_type="application/json", headers={"Cache-Control": "no-store"})


def _admit(resources: Resources) -> None:
    """Refuse now who would wait too long."""
    if not resources.ready:
        raise Problem("stopping")
    wait_s = resources.recogniser.wait_s()
    if wait_s > resources.config.max_wait_s:
        raise Problem("busy", retry_after_s=wait_s)


def _wishes(request: Request, upload: Upload) -> tuple[bool, str]:
    """Return whether the photo may be kept, and the language; of body and address, the body counts."""
    found = {}
    for name, known, otherwise in (("keep", ("true", "false"), "false"), ("lang", ("en", "fr"), "en")):
        value = upload.fields.get(name) or request.query_params.get(name) or otherwise
        if value not in known:
            raise Problem("bad_request", f"{name} is none of {', '.join(known)}", status=422)
        found[name] = value
    return found["keep"] == "true", found["lang"]


def _submission(one: Recognised, lang: str) -> NewSubmission:
    answer = one.answer
    return NewSubmission(
        outcome=answer.outcome,
        kind=answer.kind or None,
        variety=answer.variety or None,
        label=answer.labels[0],
        probability=answer.probability,
        strangeness=answer.strangeness,
        language=lang,
        model=one.model.identity,
        photo=one.kept,
        features=answer.features if one.kept is not None else None,
    )


def _answer(one: Recognised, receipt: Receipt, total_s: float) -> dict[str, Any]:
    answer, model = one.answer, one.model
    name, labels = answer.name, model.bundle.labels
    return {
        "id": receipt.id,
        "secret": receipt.secret,
        "outcome": answer.outcome,
        "kind": answer.kind or None,
        "variety": answer.variety or None,
        "name": {"en": name.en, "fr": name.fr} if name else None,
        "line": {"en": name.line_en, "fr": name.line_fr} if name and name.line_en else None,
        "probability": round(answer.probability, 6),
        "kinds": [
            {"kind": kind, "en": called.en, "fr": called.fr, "probability": round(p, 6)}
            for kind, called, p in answer.kinds
        ],
        "labels": [
            {"label": label, **model.names[label], "probability": round(p, 6)}
            for label, p in zip(answer.labels, answer.probabilities, strict=True)
        ],
        "strangeness": round(answer.strangeness, 6) if abs(answer.strangeness) < 1e30 else None,
        "advice": [{"code": code, "en": ADVICE["en"][code], "fr": ADVICE["fr"][code]} for code in answer.advice],
        "alike": [
            {
                "label": (label := labels[model.bundle.gallery.labels[number]]),
                **model.names[label],
                "thumbnail": f"/v1/gallery/{model.identity}/{number}.jpg",
                "similarity": round(cosine, 4),
            }
            for number, cosine in one.alike
        ],
        "kept": one.kept is not None,
        "milliseconds": {
            "queue": round(1000 * one.queue_s, 2),
            "decode": round(1000 * one.decode_s, 2),
            "infer": round(1000 * one.infer_s, 2),
            "total": round(1000 * total_s, 2),
        },
    }


async def feedback(request: Request, said: Feedback) -> Response:
    """Say whether an answer was right, and if not, what the photo shows; the last word counts."""
    resources = resources_of(request)
    await caller(request)
    await asyncio.to_thread(
        resources.submissions.feedback, said.id, said.secret, right=said.right, label=said.label, note=said.note
    )
    resources.statistics.feedback(right=said.right)
    return Response(status_code=204)


async def delete(
    request: Request,
    id: Annotated[str, Path(pattern=_ID)],
    x_fruits_secret: Annotated[str, Header(min_length=1, max_length=100)],
) -> Response:
    """Delete everything that is kept of a photo."""
    resources = resources_of(request)
    await caller(request)
    await asyncio.to_thread(resources.submissions.delete, id, x_fruits_secret)
    return Response(status_code=204)


async def labels(request: Request) -> Response:
    """Return what can be recognised, with names in both languages."""
    return _json(resources_of(request).recogniser.model.labels_body)


async def model(request: Request) -> Response:
    """Return what a browser needs to recognise photos itself: where the network is, and what its numbers mean."""
    return _json(resources_of(request).recogniser.model.model_body)


async def network(request: Request, identity: Annotated[str, Path(pattern=_IDENTITY)]) -> Response:
    """Return the network, pixels in, all numbers out."""
    found = _model(request, identity)
    return _immutable(request, found.bundle.recognizer, "application/octet-stream")


async def thumbnail(
    request: Request, identity: Annotated[str, Path(pattern=_IDENTITY)], number: Annotated[int, Path(ge=0, le=100_000)]
) -> Response:
    """Return a training photo, small."""
    gallery = _model(request, identity).bundle.gallery
    if number >= len(gallery):
        raise Problem("not_found")
    return _immutable(request, gallery.thumbnail(number), "image/jpeg")


async def healthz() -> Response:
    """Say that the process lives."""
    return Response(b'{"alive":true}', media_type="application/json", headers={"Cache-Control": "no-store"})


async def readyz(request: Request) -> Response:
    """Say whether photos are taken now: not before all is warmed up, not while stopping."""
    if not resources_of(request).ready:
        raise Problem("stopping")
    return Response(b'{"ready":true}', media_type="application/json", headers={"Cache-Control": "no-store"})


async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus' text format; to this machine and to the owner's token, unless they are public."""
    resources, about = resources_of(request), request.scope["fruits"]
    if not resources.config.public_metrics and not _is_local(request):
        token = await caller(request)
        if token is None or token.role != "owner":
            raise Problem("unauthorised" if token is None else "forbidden")
    about["route"] = "/metrics"
    resources.telemetry.waiting.set(resources.recogniser.waiting)
    return Response(
        resources.telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8",
        headers={"Cache-Control": "no-store"},
    )  # fmt: skip


def routes() -> APIRouter:
    """Return the routes of the API."""
    router = APIRouter()
    add = router.add_api_route
    add(RECOGNISE, recognise, methods=["POST"], tags=["photos"], openapi_extra=_BODY,
        responses={200: {"model": Recognition}, **_ERRORS})  # fmt: skip
    add("/v1/feedback", feedback, methods=["POST"], status_code=204, tags=["photos"], responses=_ERRORS,
        response_class=Response)  # fmt: skip
    add("/v1/submissions/{id}", delete, methods=["DELETE"], status_code=204, tags=["photos"], responses=_ERRORS,
        response_class=Response)  # fmt: skip
    add("/v1/labels", labels, methods=["GET"], tags=["model"], responses={200: {"model": Labels}, **_ERRORS})
    add("/v1/model", model, methods=["GET"], tags=["model"], responses=_ERRORS)
    add("/v1/model/{identity}/recognizer.onnx", network, methods=["GET"], tags=["model"],
        responses={200: {"content": {"application/octet-stream": {}}}, **_ERRORS}, response_class=Response)  # fmt: skip
    add("/v1/gallery/{identity}/{number}.jpg", thumbnail, methods=["GET"], tags=["model"],
        responses={200: {"content": {"image/jpeg": {}}}, **_ERRORS}, response_class=Response)  # fmt: skip
    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        add(path, endpoint, methods=["GET"], tags=["operation"], responses=_ERRORS)
    return router


def add_to(app: FastAPI) -> None:
    """Add the routes of the API."""
    app.include_router(routes())


def _model(request: Request, identity: str) -> Model:
    found = resources_of(request).recogniser.model_of(identity)
    if found is None:
        raise Problem("not_found")
    return found


def _is_local(request: Request) -> bool:
    """Whether a request comes from this machine and not through a proxy on it."""
    about = request.scope["fruits"]
    through = {b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"} & about["headers"].keys()
    return not through and (about["address"] == "::1" or about["address"].startswith("127."))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-cache"})


def _immutable(request: Request, body: bytes, media_type: str) -> Response:
    if request.headers.get("if-none-match"):  # whoever has it has the right one: its address names its content
        return Response(status_code=304, headers={"Cache-Control": _FOR_EVER})
    return Response(body, media_type=media_type, headers={"Cache-Control": _FOR_EVER, "ETag": '"1"'})
