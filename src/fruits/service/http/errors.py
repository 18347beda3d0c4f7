"""What can go wrong for a client: one shape, one table from errors to codes and statuses, in both languages.

A message says what happened and what to do, never a trace, a path, a library or what was sent. The unexpected is logged in
full and answered without detail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fruits.errors import EngineError, FruitsError, ImageDecodeError, PermanentStoreError, StoreError
from fruits.storage.sanitising import json_text


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem.

    Attributes
    ----------
    status : int
    reason : dict of str to str
        What happened, in English and French: what the owner's page calls it.
    message : dict of str to str
        What a client is told: the reason, and what to do.
    """

    status: int
    reason: dict[str, str]
    message: dict[str, str]


def _kind(status: int, en: str, fr: str, do_en: str = "", do_fr: str = "") -> Kind:
    message = {"en": f"{en}: {do_en}." if do_en else f"{en}.", "fr": f"{fr} : {do_fr}." if do_fr else f"{fr}."}
    return Kind(status, {"en": en, "fr": fr}, message)


KINDS: Final[dict[str, Kind]] = {
    "too_large": _kind(
        413, "The photo is too large", "La photo est trop grande", "send a smaller one", "envoyez-en une plus petite"
    ),
    "too_many_parts": _kind(
        413, "Too many photos or fields at once", "Trop de photos ou de champs à la fois", "send fewer", "envoyez-en moins"
    ),
    "not_an_image": _kind(
        415, "This is not a photo", "Ce n'est pas une photo", "send a JPEG, PNG or WebP", "envoyez un JPEG, PNG ou WebP"
    ),
    "unsupported_format": _kind(
        415, "This format is not read here", "Ce format n'est pas lu ici",
        "send a JPEG, PNG or WebP. On a phone, choose 'most compatible' in the camera's settings",
        "envoyez un JPEG, PNG ou WebP. Sur un téléphone, choisissez « le plus compatible » dans les réglages de l'appareil photo",
    ),
    "damaged": _kind(
        422, "The photo is damaged or cut short", "La photo est endommagée ou incomplète", "send it again", "renvoyez-la"
    ),
    "empty": _kind(422, "The photo is empty", "La photo est vide", "choose another", "choisissez-en une autre"),
    "timeout": _kind(
        422, "The photo takes too long to open", "La photo est trop longue à ouvrir", "send a smaller one",
        "envoyez-en une plus petite",
    ),
    "crashed": _kind(
        422, "The photo cannot be opened", "La photo ne s'ouvre pas", "is the file damaged? Send another",
        "le fichier est-il endommagé ? Envoyez-en une autre",
    ),
    "no_embedding": _kind(
        422, "The photo cannot be recognised", "La photo ne peut pas être reconnue", "send another", "envoyez-en une autre"
    ),
    "rate_limited": _kind(
        429, "Too many requests", "Trop de requêtes", "wait a little, then go on", "patientez un peu, puis continuez"
    ),
    "busy": _kind(
        503, "The service is busy", "Le service est très demandé", "try again in a moment", "réessayez dans un instant"
    ),
    "stopping": _kind(
        503, "The service is starting or stopping", "Le service démarre ou s'arrête", "try again in a moment",
        "réessayez dans un instant",
    ),
    "slow": _kind(
        408, "The request took too long to arrive", "La requête a mis trop de temps à arriver", "try again", "réessayez"
    ),
    "bad_request": _kind(
        400, "The request is not what was expected", "La requête n'est pas celle attendue",
        "see the documentation of the API, /openapi.json", "voir la documentation de l'API, /openapi.json",
    ),
    "unauthorised": _kind(
        401, "The token is missing, unknown or revoked", "Le jeton est absent, inconnu ou révoqué"
    ),
    "forbidden": _kind(403, "This is not for you", "Ceci n'est pas pour vous"),
    "not_found": _kind(404, "There is no such thing here", "Cela n'existe pas ici"),
    "method_not_allowed": _kind(
        405, "This address does not take such requests", "Cette adresse n'accepte pas ce type de requête"
    ),
    "unknown_host": _kind(400, "The service does not go by this name", "Le service n'est pas connu sous ce nom"),
    "internal": _kind(500, "Something went wrong here", "Une erreur est survenue ici", "it was noted", "elle est notée"),
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
    "no embedding": "no_embedding",
}
_OF_STATUS: Final = {
    401: "unauthorised", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 408: "slow", 413: "too_large",
    415: "not_an_image", 422: "bad_request", 429: "rate_limited", 500: "internal", 503: "busy",
}  # fmt: skip


class HttpError(FruitsError):
    """A request is answered with an error.

    Parameters
    ----------
    code : str
        One of ``KINDS``.
    detail : (str, str), optional
        Which part of the request was not as expected, in English and French, of our own words: added to the message.
    sentence : (str, str), optional
        What is said instead of the usual message, such as which of the limits it was.
    status : int, optional
        Another status than the usual one.
    retry_after_s : float, optional
        When to try again.
    headers : dict, optional
    """

    def __init__(
        self,
        code: str,
        detail: tuple[str, str] | None = None,
        *,
        sentence: tuple[str, str] | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__((sentence or detail or (KINDS[code].message["en"],))[0])
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
    """A photo is over a limit of the service.

    Parameters
    ----------
    problem : HttpError
        What its sender is told.
    """

    def __init__(self, problem: HttpError) -> None:
        super().__init__("too large", str(problem))
        self.problem = problem


def over(limit: int, en: str, fr: str, *, code: str = "too_large", status: int | None = None) -> HttpError:
    """Return the problem of a request that is over a limit: each has a sentence of its own.

    Parameters
    ----------
    limit : int
        Put where the sentences say ``{}``.
    en, fr : str
    code : str
    status : int, optional
    """
    number = f"{limit:,}"
    return HttpError(code, sentence=(en.format(number), fr.format(number.replace(",", "\u202f"))), status=status)


def of(error: BaseException) -> HttpError:
    """Return what a client is told of an error: the one table."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, OverLimitError):
        return error.problem
    if isinstance(error, ImageDecodeError):
        return HttpError(_OF_PHOTO.get(error.code, "damaged"))
    if isinstance(error, PermanentStoreError):  # trying again would not help
        return HttpError("internal")
    if isinstance(error, StoreError | EngineError):
        return HttpError("busy", retry_after_s=5)
    if isinstance(error, FruitsError) and isinstance(error, LookupError):
        return HttpError("not_found")
    if isinstance(error, FruitsError) and isinstance(error, ValueError):
        return HttpError("bad_request")
    return HttpError("internal")


def of_status(status: int) -> HttpError:
    """Return the problem of a status that the web framework came up with."""
    return HttpError(_OF_STATUS.get(status, "bad_request" if status < 500 else "internal"), status=status)


def said(problem: HttpError) -> dict[str, Any]:
    """Return code and messages, without the request's number."""
    message = KINDS[problem.code].message
    if problem.sentence:
        message = dict(zip(("en", "fr"), problem.sentence, strict=True))
    if problem.detail:
        details = dict(zip(("en", "fr"), problem.detail, strict=True))
        message = {lang: f"{told.removesuffix('.')} ({details[lang]})." for lang, told in message.items()}
    return {"code": problem.code, "message": message}


def body(problem: HttpError, request_id: str) -> bytes:
    """Return the bytes of an answer that is an error."""
    return json_text({"error": {**said(problem), "request_id": request_id}}, ensure_ascii=False).encode()
