"""The recognition endpoint: admit, read, recognise, store, respond.

Pure ASGI, without the web framework and without validation of responses: the one endpoint where speed matters. A request is
refused as early as possible. Inference is in ``service/inference``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from fruits.errors import ConfigError, ImageDecodeError
from fruits.messages import LANGUAGES, SOURCE, translations
from fruits.recogniser.regions import LEAST_SIDE, Box, box_of
from fruits.service.http import errors as http_errors
from fruits.service.http.delivery import Delivery
from fruits.service.http.errors import HttpError, OverLimitError, over
from fruits.service.http.limits.access import caller, charge
from fruits.service.http.middleware import Receive, Scope, Send, reply
from fruits.service.http.routes.answer_body import body_of, photo_of
from fruits.service.http.uploads import GoneError, Upload, read_upload
from fruits.service.inference.image_header import ImageHeader, read_header
from fruits.service.inference.pieces import compact
from fruits.service.inference.workers import Recognised, UnreadableError
from fruits.service.resources import Resources
from fruits.service.settings import ServiceConfig
from fruits.service.submissions.repository import NewSubmission, Receipt

PATH: Final = "/v1/recognise"
_CHOICES: Final = (
    ("keep", ("true", "false"), "false"),
    ("show", ("true", "false"), "false"),
    ("explain", ("true", "false"), "false"),
    ("regions", ("true", "false"), "false"),
    ("again", ("true", "false"), "false"),
    ("lang", LANGUAGES, SOURCE),
)


async def recognise(resources: Resources, scope: Scope, receive: Receive, send: Send) -> None:
    """Handle one recognition request."""
    about = scope["fruits"]
    about["route"] = PATH
    upload = Upload(resources.budget)
    kept: list[Receipt] = []
    try:
        body = await _answer(resources, scope, receive, upload, kept)
    except BaseException as exc:
        resources.undelivered.lost(kept)
        if isinstance(exc, Exception) and not isinstance(
            exc, GoneError
        ):  # a client that is gone gets no response to count
            resources.statistics.refused(http_errors.from_exception(exc).code)
        raise
    finally:
        about["bytes_in"], about["photos"] = upload.bytes_in, upload.count
        about["waiting"] = resources.recogniser.waiting  # a log filter on AWS scales the service by it
        upload.close()
    if kept:
        await _deliver(resources, scope, receive, send, body, kept)
    else:
        await reply(send, 200, body)


async def _deliver(
    resources: Resources, scope: Scope, receive: Receive, send: Send, body: bytes, kept: list[Receipt]
) -> None:
    """Send the response with the receipts of stored photos; if it is not delivered, delete the photos."""
    delivery = Delivery(scope, receive, resources.config.send_timeout)
    try:
        if await delivery.is_client_gone():
            raise GoneError
        await reply(send, 200, body)
    except BaseException:
        delivery.close()
        resources.undelivered.lost(kept)
        raise
    resources.undelivered.follow(kept, delivery, len(body))


async def _answer(resources: Resources, scope: Scope, receive: Receive, upload: Upload, kept: list[Receipt]) -> bytes:
    """Return the response body; append the receipts of stored photos to ``kept``."""
    about = scope["fruits"]
    _admit(resources)
    token = await caller(resources, about)
    if resources.config.tokens_only and token is None:
        raise HttpError("unauthorised")
    await read_upload(upload, receive, about["headers"], resources.config)
    if upload.count > 1:
        await caller(resources, about, upload.count - 1)
    options = _parse_options(scope["query_string"], upload.fields)
    outcomes = await _outcomes(resources, about, upload, options)
    good = [outcome for outcome in outcomes if isinstance(outcome, Recognised)]
    given = await _store(resources, good, options, about["started"]) if good else []
    kept += [receipt for receipt, one in zip(given, good, strict=True) if one.kept is not None]
    receipts = iter(given)
    about["outcomes"] = [one.answer.outcome for one in good]
    total_s = time.perf_counter() - about["started"]
    photos = [
        photo_of(
            outcome,
            next(receipts),
            total_s,
            box=options.box,
            explain=options.explain,
            regions=options.regions,
        )
        if isinstance(outcome, Recognised)
        else compact(
            {"name": f"photo {place}", "error": http_errors.code_and_messages(http_errors.from_exception(outcome))}
        )
        for place, outcome in enumerate(outcomes, 1)
    ]
    return body_of(photos, good[0].model if good else resources.recogniser.model)


def _admit(resources: Resources, *, heavy: bool = False) -> None:
    """Refuse requests whose expected wait is over the limit."""
    if not resources.ready:
        raise HttpError("stopping")
    wait_s = resources.recogniser.wait_s(heavy=heavy)
    if wait_s > resources.config.max_wait:
        raise HttpError("busy", retry_after_s=wait_s)


class _Options(NamedTuple):
    """The options of a request."""

    keep: bool
    show: bool
    explain: bool
    lang: str
    regions: bool = False
    box: Box | None = None
    again: bool = False

    @property
    def is_new(self) -> bool:
        """Whether the photo counts as a new one: not if the client has an answer to it, and asks about its parts."""
        return not self.again and self.box is None

    @property
    def in_parts(self) -> bool:
        """Whether parts of the photo are looked at, which takes long."""
        return self.regions or self.box is not None


def _parse_options(query: bytes, fields: dict[str, str]) -> _Options:
    """Return the options; form fields take precedence over the query string."""
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=True) if query else {}
    found = {}
    for name, known, otherwise in _CHOICES:
        values = [*([fields[name]] if name in fields else ()), *asked.get(name, ()), otherwise]
        if not set(values) <= set(known):  # values without effect are validated, too
            choices = {language: f" {word} ".join(known) for language, word in translations("detail.or").items()}
            detail = translations("detail.expected", name=name, choices=choices)
            raise HttpError("bad_request", detail, status=422)
        found[name] = values[0]
    keep, show, explain = (found[name] == "true" for name in ("keep", "show", "explain"))
    if show and not keep:
        raise HttpError("bad_request", translations("detail.show_needs_keep"), status=422)
    regions, again = (found[name] == "true" for name in ("regions", "again"))
    return _Options(keep, show, explain, found["lang"], regions, _box(asked, fields, found), again)


def _box(asked: dict[str, list[str]], fields: dict[str, str], found: dict[str, str]) -> Box | None:
    """Return the part of the photo that is asked about; None for all of it."""
    given = [*([fields["box"]] if "box" in fields else ()), *asked.get("box", ())]
    if not given:
        return None
    try:
        boxes = [box_of(one.split(",")) for one in given]
    except ConfigError:
        raise HttpError("bad_request", translations("detail.box", least=f"{LEAST_SIDE:g}"), status=422) from None
    for other in ("keep", "regions"):
        if found[other] == "true":
            raise HttpError("bad_request", translations("detail.box_without", name=other), status=422)
    return boxes[0]


async def _outcomes(
    resources: Resources, about: dict[str, Any], upload: Upload, options: _Options
) -> list[Recognised | ImageDecodeError]:
    """Return the outcome of each photo; raise if there is only one and it cannot be opened."""
    if options.box is not None and upload.count > 1:
        raise HttpError("bad_request", translations("detail.box_of_one"), status=422)
    seen = [read_header(data) for data in upload.photos]
    refusals = [_refusal(one, resources.config) for one in seen]
    # Photos that are refused anyway do not queue: their error is returned even if the service is busy.
    if not all(refusals):
        heavy = [one.heavy for one, refusal in zip(seen, refusals, strict=True) if refusal is None]
        _admit(resources, heavy=options.in_parts or any(heavy))
    outcomes: list[Any] = [
        refusal
        or resources.recogniser.submit(
            data,
            keep=options.keep,
            heavy=one.heavy or options.in_parts,
            explain=options.explain,
            regions=options.regions,
            box=options.box,
        )
        for refusal, one, data in zip(refusals, seen, upload.photos, strict=True)
    ]
    upload.photos.clear()
    if len(outcomes) > 1:
        settled = await asyncio.gather(*map(_settled, outcomes), return_exceptions=True)
    else:  # nearly always: without the task that gathering needs
        try:
            settled = [await _settled(outcomes[0])]
        except ImageDecodeError as exc:
            settled = [exc]
    for place, outcome in enumerate(settled):
        if isinstance(outcome, BaseException) and not isinstance(outcome, ImageDecodeError):
            raise outcome
        outcomes[place] = outcome
    charge(resources, about, sum(_decode_s(outcome) for outcome in outcomes), regions=options.regions)
    for outcome in outcomes:
        if isinstance(outcome, ImageDecodeError):
            code = http_errors.from_exception(outcome).code
            resources.telemetry.rejected.labels(code).inc()
            if len(outcomes) == 1:
                raise outcome
            resources.statistics.refused(code)
    return outcomes


async def _settled(outcome: Any) -> Any:
    return outcome if isinstance(outcome, ImageDecodeError) else await outcome


def _decode_s(outcome: Recognised | ImageDecodeError) -> float:
    """Return the decoding time of a photo: its share of its batch's; with that of looking for regions, if it was asked for."""
    if isinstance(outcome, Recognised):
        regions_s = outcome.infer_s if outcome.regions is not None else 0.0
        return outcome.decode_s / outcome.batch_size + regions_s
    return outcome.decode_s if isinstance(outcome, UnreadableError) else 0.0


def _refusal(seen: ImageHeader, config: ServiceConfig) -> ImageDecodeError | None:
    """Return the error of a photo that exceeds a limit by its header; None if it may be decoded."""
    if seen.width * seen.height > config.max_pixels:
        return OverLimitError(over(config.max_pixels, "pixels"))
    if seen.frames > config.max_frames:
        return OverLimitError(over(config.max_frames, "frames"))
    return None


async def _store(resources: Resources, good: list[Recognised], options: _Options, started: float) -> list[Receipt]:
    """Store answers and return their receipts; counting happens later, in the writer's thread."""

    def count() -> None:
        telemetry, seconds = resources.telemetry, time.perf_counter() - started
        telemetry.seconds.observe(seconds)
        for one in good:
            telemetry.batches.inc(1 / one.batch_size)
            for stage, taken_s in (("queue", one.queue_s), ("decode", one.decode_s), ("infer", one.infer_s)):
                telemetry.stages[stage].inc(taken_s / (1 if stage == "queue" else one.batch_size))
            if not options.is_new:
                telemetry.again.inc()
                continue
            outcome = str(one.answer.outcome)  # never None: photos that were not recognised are errors
            telemetry.photos.labels(outcome).inc()
            resources.statistics.answered(
                outcome, seconds, kept=one.kept is not None, model=one.model.identity, bins=one.bins
            )

    writing = resources.group_commit.add([_submission(one, options.lang, show=options.show) for one in good], count)
    if any(one.kept is not None for one in good):
        return await resources.undelivered.written(writing)
    return await writing


def _submission(one: Recognised, lang: str, *, show: bool) -> NewSubmission:
    answer = one.answer
    return NewSubmission(
        outcome=str(answer.outcome),
        kind=answer.kind or None,
        variety=answer.variety or None,
        label=answer.labels[0],
        probability=answer.probability,
        ood_score=answer.ood_score,
        language=lang,
        model=one.model.identity,
        photo=one.kept,
        features=answer.features if one.kept is not None else None,
        may_show=show and one.kept is not None,
    )
