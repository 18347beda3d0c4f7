"""What can go wrong for a client: one shape, one table from errors to codes and statuses, in both languages.

A message says what happened and what to do, never a trace, a path, a library or what was sent. The unexpected is logged in
full and answered without detail.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from fruits.errors import EngineError, FruitsError, ImageDecodeError, StoreError


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its status and what a person is told."""

    status: int
    en: str
    fr: str


KINDS: Final[dict[str, Kind]] = {
    "too_large": Kind(
        413, "The photo is too large: send a smaller one.", "La photo est trop grande : envoyez-en une plus petite."
    ),
    "too_many_parts": Kind(
        413,
        "Too many photos or fields at once: send fewer.",
        "Trop de photos ou de champs à la fois : envoyez-en moins.",
    ),
    "not_an_image": Kind(
        415, "This is not a photo: send a JPEG, PNG or WebP.", "Ce n'est pas une photo : envoyez un JPEG, PNG ou WebP."
    ),
    "unsupported_format": Kind(
        415,
        "This format is not read here: send a JPEG, PNG or WebP. On a phone, choose 'most compatible' in the camera's settings.",
        "Ce format n'est pas lu ici : envoyez un JPEG, PNG ou WebP. Sur un téléphone, choisissez « le plus compatible » dans les "
        "réglages de l'appareil photo.",
    ),
    "damaged": Kind(
        422,
        "The photo is damaged or cut short: send it again.",
        "La photo est endommagée ou incomplète : renvoyez-la.",
    ),
    "empty": Kind(422, "The photo is empty: choose another.", "La photo est vide : choisissez-en une autre."),
    "timeout": Kind(
        422,
        "The photo takes too long to open: send a smaller one.",
        "La photo est trop longue à ouvrir : envoyez-en une plus petite.",
    ),
    "crashed": Kind(
        422,
        "The photo cannot be opened: is the file damaged? Send another.",
        "La photo ne s'ouvre pas : le fichier est-il endommagé ? Envoyez-en une autre.",
    ),
    "rate_limited": Kind(
        429, "Too many requests: wait a little, then go on.", "Trop de requêtes : patientez un peu, puis continuez."
    ),
    "busy": Kind(
        503,
        "The service is busy: try again in a moment.",
        "Le service est très demandé : réessayez dans un instant.",
    ),
    "stopping": Kind(
        503,
        "The service is starting or stopping: try again in a moment.",
        "Le service démarre ou s'arrête : réessayez dans un instant.",
    ),
    "slow": Kind(
        408, "The request took too long to arrive: try again.", "La requête a mis trop de temps à arriver : réessayez."
    ),
    "bad_request": Kind(
        400,
        "The request is not what was expected: see the documentation of the API.",
        "La requête n'est pas celle attendue : voir la documentation de l'API.",
    ),
    "unauthorised": Kind(
        401, "The token is missing, unknown or revoked.", "Le jeton est absent, inconnu ou révoqué."
    ),
    "forbidden": Kind(403, "This is not for you.", "Ceci n'est pas pour vous."),
    "not_found": Kind(404, "There is no such thing here.", "Cela n'existe pas ici."),
    "method_not_allowed": Kind(
        405, "This address does not take such requests.", "Cette adresse n'accepte pas ce type de requête."
    ),
    "unknown_host": Kind(
        400, "The service does not go by this name.", "Le service n'est pas connu sous ce nom."
    ),
    "internal": Kind(500, "Something went wrong here; it was noted.", "Une erreur est survenue ici ; elle est notée."),
}  # fmt: skip
#: What ``ImageDecodeError`` says, in the words of this interface.
_OF_PHOTO: Final = {
    "empty": "empty",
    "not an image": "not_an_image",
    "unsupported format": "unsupported_format",
    "damaged": "damaged",
    "too large": "too_large",
    "crashed": "crashed",
    "timeout": "timeout",
}
_OF_STATUS: Final = {
    401: "unauthorised", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 408: "slow", 413: "too_large",
    415: "not_an_image", 422: "bad_request", 429: "rate_limited", 500: "internal", 503: "busy",
}  # fmt: skip


class Problem(FruitsError):  # noqa: N818 - it is an answer more than an error
    """A request is answered with an error.

    Parameters
    ----------
    code : str
        One of ``KINDS``.
    detail : str, optional
        Which part of the request was not as expected, in English, of our own words: added to a ``bad_request``'s message.
    status : int, optional
        Another status than the usual one.
    retry_after_s : float, optional
        When to try again.
    headers : dict, optional
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail or KINDS[code].en)
        self.code, self.detail = code, detail
        self.status = status or KINDS[code].status
        self.headers = dict(headers or {})
        if retry_after_s is None and code in ("busy", "stopping", "rate_limited"):
            retry_after_s = 1
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, int(retry_after_s + 0.999)))
        if code == "unauthorised":
            self.headers["WWW-Authenticate"] = "Bearer"


def of(error: BaseException) -> Problem:
    """Return what a client is told of an error: the one table."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ImageDecodeError):
        return Problem(_OF_PHOTO.get(error.code, "damaged"))
    if isinstance(error, StoreError | EngineError):
        return Problem("busy", retry_after_s=5)
    if isinstance(error, FruitsError) and isinstance(error, LookupError):
        return Problem("not_found")
    if isinstance(error, FruitsError) and isinstance(error, ValueError):
        return Problem("bad_request")
    return Problem("internal")


def of_status(status: int) -> Problem:
    """Return the problem of a status that the web framework came up with."""
    return Problem(_OF_STATUS.get(status, "bad_request" if status < 500 else "internal"), status=status)


def said(problem: Problem) -> dict[str, Any]:
    """Return code and messages, without the request's number."""
    kind = KINDS[problem.code]
    en, fr = kind.en, kind.fr
    if problem.detail:
        en, fr = f"{en} ({problem.detail})", f"{fr} ({problem.detail})"
    return {"code": problem.code, "message": {"en": en, "fr": fr}}


def body(problem: Problem, request_id: str) -> bytes:
    """Return the bytes of an answer that is an error."""
    return json.dumps({"error": {**said(problem), "request_id": request_id}}, ensure_ascii=False).encode()
