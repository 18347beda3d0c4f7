"""HTTP errors: one JSON shape, and one table from exceptions to codes and statuses, in every language.

A message says what happened and what to do; it never contains a traceback, a path, the name of a library or client data. Its text
is in the message catalogues (``http.*``, ``detail.*``, ``limit.*``). Unexpected errors are logged in full and answered without
detail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fruits.errors import EngineError, FruitsError, ImageDecodeError, PermanentStoreError, StoreError
from fruits.messages import SOURCE, catalogue, translations
from fruits.storage.sanitising import json_text


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of error.

    Attributes
    ----------
    status : int
    reason : dict of str to str
        What happened, by language; shown on the owner's page.
    message : dict of str to str
        Message for the client, by language: the reason, and what to do.
    """

    status: int
    reason: dict[str, str]
    message: dict[str, str]


def _kind(status: int, code: str) -> Kind:
    reason, advice = translations(f"http.{code}"), f"http.{code}_advice"
    if advice in catalogue(SOURCE):
        return Kind(status, reason, translations("http.with_advice", reason=reason, advice=translations(advice)))
    return Kind(status, reason, translations("http.alone", reason=reason))


_STATUSES: Final = {
    "too_large": 413, "too_many_parts": 413, "not_an_image": 415, "unsupported_format": 415, "damaged": 422, "empty": 422,
    "timeout": 422, "crashed": 422, "no_embedding": 422, "rate_limited": 429, "busy": 503, "stopping": 503, "slow": 408,
    "bad_request": 400, "unauthorised": 401, "forbidden": 403, "not_found": 404, "method_not_allowed": 405,
    "unknown_host": 400, "internal": 500,
}  # fmt: skip
KINDS: Final[dict[str, Kind]] = {code: _kind(status, code) for code, status in _STATUSES.items()}
#: Codes of ``ImageDecodeError`` -> codes of the API.
_OF_PHOTO: Final = {
    "empty": "empty",
    "not an image": "not_an_image",
    "unsupported format": "unsupported_format",
    "damaged": "damaged",
    "too large": "too_large",
    "crashed": "crashed",
    "timeout": "timeout",
    "no embedding": "no_embedding",
}
_OF_STATUS: Final = {
    401: "unauthorised", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 408: "slow", 413: "too_large",
    415: "not_an_image", 422: "bad_request", 429: "rate_limited", 500: "internal", 503: "busy",
}  # fmt: skip


class HttpError(FruitsError):
    """An error response to a request.

    Parameters
    ----------
    code : str
        One of ``KINDS``.
    detail : dict of str to str, optional
        Which part of the request was not as expected, by language; added to the message. No client data.
    sentence : dict of str to str, optional
        Replaces the usual message, by language, for example to name the limit that was exceeded.
    status : int, optional
        Replaces the usual status.
    retry_after_s : float, optional
        Seconds after which to retry (header ``Retry-After``).
    headers : dict, optional
    """

    def __init__(
        self,
        code: str,
        detail: dict[str, str] | None = None,
        *,
        sentence: dict[str, str] | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__((sentence or detail or KINDS[code].message)[SOURCE])
        self.code, self.detail, self.sentence = code, detail, sentence
        self.status = status or KINDS[code].status
        self.headers = dict(headers or {})
        if retry_after_s is None and code in ("busy", "stopping", "rate_limited"):
            retry_after_s = 1
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, int(retry_after_s + 0.999)))
        if code == "unauthorised":
            self.headers["WWW-Authenticate"] = "Bearer"


class OverLimitError(ImageDecodeError):
    """A photo exceeds a limit of the service.

    Parameters
    ----------
    problem : HttpError
        The response to the client.
    """

    def __init__(self, problem: HttpError) -> None:
        super().__init__("too large", str(problem))
        self.problem = problem


def over(limit: int, what: str, *, code: str = "too_large", status: int | None = None, name: str = "") -> HttpError:
    """Return the error of a request that exceeds a limit; every limit has its own sentence.

    Parameters
    ----------
    limit : int
    what : str
        The message is ``limit.what``.
    code : str
    status : int, optional
    name : str
        Name of the field, if the limit is that of a field.
    """
    return HttpError(code, sentence=translations(f"limit.{what}", limit=limit, name=name), status=status)


def from_exception(error: BaseException) -> HttpError:
    """Return the HTTP error of an exception: the one table."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, OverLimitError):
        return error.problem
    if isinstance(error, ImageDecodeError):
        return HttpError(_OF_PHOTO.get(error.code, "damaged"))
    if isinstance(error, PermanentStoreError):  # a retry would not help
        return HttpError("internal")
    if isinstance(error, StoreError | EngineError):
        return HttpError("busy", retry_after_s=5)
    if isinstance(error, FruitsError) and isinstance(error, LookupError):
        return HttpError("not_found")
    if isinstance(error, FruitsError) and isinstance(error, ValueError):
        return HttpError("bad_request")
    return HttpError("internal")


def of_status(status: int) -> HttpError:
    """Return the HTTP error of a status raised by the web framework."""
    return HttpError(_OF_STATUS.get(status, "bad_request" if status < 500 else "internal"), status=status)


def code_and_messages(problem: HttpError) -> dict[str, Any]:
    """Return code and messages, without the request id."""
    message = problem.sentence or KINDS[problem.code].message
    if problem.detail:
        whole = {language: sentence.removesuffix(".") for language, sentence in message.items()}
        message = translations("http.with_detail", message=whole, detail=problem.detail)
    return {"code": problem.code, "message": message}


def body(problem: HttpError, request_id: str) -> bytes:
    """Return the JSON body of an error response."""
    return json_text({"error": {**code_and_messages(problem), "request_id": request_id}}, ensure_ascii=False).encode()
