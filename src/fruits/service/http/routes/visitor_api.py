"""The HTTP API for visitors and programs: recognition, feedback, deletion, labels, the model itself.

Requests and responses are defined in :mod:`fruits.service.http.routes.schemas`. Recognition itself is implemented in
:mod:`fruits.service.http.routes.recognise`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Final

from fastapi import APIRouter, FastAPI, Header, Path, Request, Response
from fastapi.responses import PlainTextResponse

from fruits.errors import StoreError
from fruits.photos.catalogue.consent import unmark
from fruits.service.http.errors import HttpError
from fruits.service.http.limits.access import owner
from fruits.service.http.limits.rate_limits import is_loopback
from fruits.service.http.middleware import host_of
from fruits.service.http.routes import recognise as answering
from fruits.service.http.routes.owner_api import owner_router
from fruits.service.http.routes.owner_insights import insights_router
from fruits.service.http.routes.schemas import (
    ERRORS,
    ID,
    IDENTITY,
    TOKEN_OR_NONE,
    UPLOAD,
    Feedback,
    Labels,
    Recognition,
    Stored,
)
from fruits.service.inference.model import Model
from fruits.service.pages.routes import takes_gzip
from fruits.service.resources import Resources
from fruits.service.settings import LOOPBACK

#: Prefixes of headers that proxies, load balancers and content delivery networks add to a request.
_OF_PROXIES: Final = (
    b"x-forwarded", b"forwarded", b"via", b"x-real-ip", b"x-original-", b"x-client-ip", b"x-cluster-client", b"true-client",
    b"cf-", b"cdn-loop", b"fastly-", b"x-amz", b"x-azure", b"x-envoy", b"x-proxy", b"x-scheme", b"x-url-scheme", b"x-varnish",
    b"proxy-", b"x-appengine", b"x-cloud-trace", b"akamai-", b"x-akamai",
)  # fmt: skip
SubmissionId = Annotated[str, Path(pattern=ID)]
Secret = Annotated[str, Header(min_length=1, max_length=100)]
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_FOR_NOBODY: Final = {"Cache-Control": "no-store"}


def resources_of(request: Request) -> Resources:
    """Return the resources of the service."""
    resources: Resources = request.app.state.resources
    return resources


async def recognise() -> Response:
    """Recognise one photo, sent as the body, or up to eight, sent as the fields ``photo`` of a form.

    Photos are JPEG, PNG or WebP, judged by their content. If a single photo cannot be opened, the response is an error; among
    several, an error takes the place of its answer. A photo is stored only with ``keep=true``; ``id`` and ``secret`` of the
    answer delete it.
    """
    raise HttpError("method_not_allowed")  # POST requests never get here: the application passes them to http.recognise


async def feedback(request: Request, said: Feedback) -> Response:
    """Report whether an answer was right, and if not, what the photo shows; replaces earlier feedback."""
    resources = resources_of(request)
    await asyncio.to_thread(
        resources.submissions.feedback, said.id, said.secret, right=said.right, label=said.label, note=said.note
    )
    resources.statistics.feedback(right=said.right)
    return Response(status_code=204)


async def delete(
    request: Request,
    submission_id: SubmissionId,
    x_fruits_secret: Secret,
) -> Response:
    """Delete everything that is stored about a photo."""
    resources = resources_of(request)
    await asyncio.to_thread(resources.submissions.delete, submission_id, x_fruits_secret)
    with suppress(StoreError):  # the deletion succeeded; a background task retries this within seconds
        await asyncio.to_thread(resources.hide_withdrawn)
    return Response(status_code=204)


async def stored(
    request: Request,
    submission_id: SubmissionId,
    x_fruits_secret: Secret,
) -> Stored:
    """Return everything that is stored about a photo; requires its secret."""
    resources = resources_of(request)
    found = await asyncio.to_thread(resources.submissions.of, submission_id, x_fruits_secret)
    later = await asyncio.to_thread(resources.evaluations.of, submission_id)
    return Stored.of(found, later, keep_days=resources.config.keep_days, feedback_hours=resources.config.feedback_hours)


async def stored_photo(
    request: Request,
    submission_id: SubmissionId,
    x_fruits_secret: Secret,
) -> Response:
    """Return the stored photo; requires its secret."""
    resources = resources_of(request)
    await asyncio.to_thread(resources.submissions.of, submission_id, x_fruits_secret)
    photo = await asyncio.to_thread(resources.submissions.photo, submission_id)
    return Response(photo, media_type="image/jpeg", headers=_FOR_NOBODY)


async def labels(request: Request) -> Response:
    """Return the labels that can be recognised, with names in every language."""
    return _json(resources_of(request).recogniser.model.labels_body)


async def model(request: Request) -> Response:
    """Return the model card that a browser needs to recognise photos itself: URL of the network, and its outputs."""
    found = resources_of(request).recogniser.model
    answer = _json(found.model_body_packed if (packed := takes_gzip(request)) else found.model_body)
    answer.headers["Vary"] = "Accept-Encoding"
    if packed:
        answer.headers["Content-Encoding"] = "gzip"
    return answer


async def network(request: Request, identity: Annotated[str, Path(pattern=IDENTITY)]) -> Response:
    """Return the network as ONNX: from pixels to all outputs of the recogniser."""
    found = await _model(request, identity)
    return _immutable(request, found.bundle.recognizer, "application/octet-stream")


async def thumbnail(
    request: Request, identity: Annotated[str, Path(pattern=IDENTITY)], number: Annotated[int, Path(ge=0, le=100_000)]
) -> Response:
    """Return the thumbnail of a training photo; of a visitor's photo only with current consent, and not cacheable."""
    gallery = (await _model(request, identity)).bundle.gallery
    if number >= len(gallery):
        raise HttpError("not_found")
    submission_id = gallery.submission_ids.get(number)
    if submission_id is None:
        return _immutable(request, gallery.thumbnail(number), "image/jpeg")
    if not await asyncio.to_thread(resources_of(request).submissions.shown, [submission_id]):
        raise HttpError("not_found")
    return Response(unmark(gallery.thumbnail(number)), media_type="image/jpeg", headers=_FOR_NOBODY)


async def gallery_features(request: Request, identity: Annotated[str, Path(pattern=IDENTITY)]) -> Response:
    """Return the gallery's labels (int32, n), then its features (float32, n x k), little-endian.

    Browsers cache this for a year, so visitors' photos, whose consent may be withdrawn, are masked: label -1 and features of 0.
    """
    gallery = (await _model(request, identity)).bundle.gallery
    labels, features = gallery.labels.astype("<i4"), gallery.features.astype("<f4")
    given = list(gallery.submission_ids)
    labels[given], features[given] = -1, 0
    return _immutable(request, labels.tobytes() + features.tobytes(), "application/octet-stream")


async def healthz() -> Response:
    """Liveness: the process runs."""
    return Response(b'{"alive":true}', media_type="application/json", headers={"Cache-Control": "no-store"})


async def readyz(request: Request) -> Response:
    """Readiness: the service accepts photos, that is, it is warmed up and not stopping."""
    if not resources_of(request).ready:
        raise HttpError("stopping")
    return Response(b'{"ready":true}', media_type="application/json", headers={"Cache-Control": "no-store"})


async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus' text format; only for this machine or the owner's token, unless they are public."""
    resources, about = resources_of(request), request.scope["fruits"]
    if not resources.config.public_metrics and not _is_local(request):
        await owner(request)
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
    add(answering.PATH, recognise, methods=["POST"], tags=["photos"], openapi_extra=UPLOAD,
        responses={200: {"model": Recognition}, **ERRORS})  # fmt: skip
    add("/v1/feedback", feedback, methods=["POST"], status_code=204, tags=["photos"], responses=ERRORS,
        openapi_extra=TOKEN_OR_NONE, response_class=Response)  # fmt: skip
    add("/v1/submissions/{submission_id}", delete, methods=["DELETE"], status_code=204, tags=["photos"], responses=ERRORS,
        openapi_extra=TOKEN_OR_NONE, response_class=Response)  # fmt: skip
    add("/v1/submissions/{submission_id}", stored, methods=["GET"], tags=["photos"], responses=ERRORS,
        openapi_extra=TOKEN_OR_NONE)  # fmt: skip
    add("/v1/submissions/{submission_id}/photo", stored_photo, methods=["GET"], tags=["photos"],
        openapi_extra=TOKEN_OR_NONE, responses={200: {"content": {"image/jpeg": {}}}, **ERRORS},
        response_class=Response)  # fmt: skip
    add("/v1/labels", labels, methods=["GET"], tags=["model"], responses={200: {"model": Labels}, **ERRORS})
    add("/v1/model", model, methods=["GET"], tags=["model"], responses=ERRORS)
    add("/v1/model/{identity}/recognizer.onnx", network, methods=["GET"], tags=["model"],
        responses={200: {"content": {"application/octet-stream": {}}}, **ERRORS}, response_class=Response)  # fmt: skip
    add("/v1/gallery/{identity}/{number}.jpg", thumbnail, methods=["GET"], tags=["model"],
        responses={200: {"content": {"image/jpeg": {}}}, **ERRORS}, response_class=Response)  # fmt: skip
    add("/v1/gallery/{identity}/features.bin", gallery_features, methods=["GET"], tags=["model"],
        responses={200: {"content": {"application/octet-stream": {}}}, **ERRORS}, response_class=Response)  # fmt: skip
    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz)):
        add(path, endpoint, methods=["GET"], tags=["operation"], responses=ERRORS)
    add("/metrics", metrics, methods=["GET"], tags=["operation"], responses=ERRORS, openapi_extra=TOKEN_OR_NONE,
        response_class=PlainTextResponse)  # fmt: skip
    return router


def add_to(app: FastAPI) -> None:
    """Add the routes of the API."""
    app.include_router(routes())
    for made in (owner_router, insights_router):
        app.include_router(made(resources_of, owner), responses=ERRORS)


async def _model(request: Request, identity: str) -> Model:
    resources = resources_of(request)
    found = resources.recogniser.model_of(identity)
    if found is None:  # another process may have answered with a bundle that this one has not loaded yet
        await resources.look_for_a_new_bundle()
        found = resources.recogniser.model_of(identity)
    if found is None:
        raise HttpError("not_found")
    return found


def _is_local(request: Request) -> bool:
    """Return whether a request comes from this machine, to a loopback name, and not through a proxy on it.

    Proxies are recognised by their headers; one that adds none is not detected.
    """
    about = request.scope["fruits"]
    through = any(name.startswith(_OF_PROXIES) for name in about["headers"])
    return not through and host_of(about["headers"]) in LOOPBACK and is_loopback(about["address"])


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-cache"})


def _immutable(request: Request, body: bytes, media_type: str) -> Response:
    if request.headers.get("if-none-match"):  # the URL identifies the content, so a cached copy is always valid
        return Response(status_code=304, headers={"Cache-Control": _FOR_EVER})
    return Response(body, media_type=media_type, headers={"Cache-Control": _FOR_EVER, "ETag": '"1"'})
