"""Parts of answers that a bundle fixes, encoded as JSON once: names in every language, lines about kinds, advice.

They are nearly all of the bytes of an answer and the same for every photo: an answer joins them with its numbers. Knows
nothing of photos and of HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fruits.messages import translations
from fruits.photos.decoding.quality import ADVICE
from fruits.storage.sanitising import json_text


class Pieces:
    """Pieces of answers, each JSON without its numbers.

    Parameters
    ----------
    names, kinds : dict of dict
        Names of every label and of every kind, in every language.
    said : iterable of (str, str, dict or None, dict or None)
        Kind, variety, name and line of everything that an answer may name; empty strings and None for nothing.
    gallery : iterable of str
        Labels of the gallery's photos.
    thumbnails : str
        Address of the folder of their thumbnails.
    identity : str
        Of the bundle.

    Attributes
    ----------
    labels, kinds : dict of str
        An object that lacks its last field, the probability.
    said : dict of str
        By kind and variety: the fields ``kind`` to ``line`` of an answer.
    similar : list of str
        An object for each photo of the gallery that lacks its last field, the similarity.
    advice : dict of str
        An object for each advice.
    model : str
        The object about the bundle.
    """

    def __init__(
        self,
        names: Mapping[str, Mapping[str, str]],
        kinds: Mapping[str, Mapping[str, str]],
        said: Iterable[tuple[str, str, Mapping[str, str] | None, Mapping[str, str] | None]],
        *,
        gallery: Iterable[str],
        thumbnails: str,
        identity: str,
    ) -> None:
        probability = '"probability":'
        self.labels = {label: _open({"label": label, **name}) + probability for label, name in names.items()}
        self.kinds = {kind: _open({"kind": kind, **name}) + probability for kind, name in kinds.items()}
        self.said = {
            (kind, variety): _open({"kind": kind or None, "variety": variety or None, "name": name, "line": line})[1:-1]
            for kind, variety, name, line in said
        }
        of_label = {label: _open({"label": label, **name}) for label, name in names.items()}
        self.similar = [
            f'{of_label[label]}{_open({"thumbnail": f"{thumbnails}/{number}.jpg"})[1:]}"similarity":'
            for number, label in enumerate(gallery)
        ]
        self.advice = {code: compact({"code": code, **translations(f"page.{code}")}) for code in ADVICE}
        self.model = compact({"identity": identity, "labels": len(names)})


def compact(value: Any) -> str:
    """Return JSON without blanks."""
    return json_text(value, ensure_ascii=False, separators=(",", ":"))


def number(value: float) -> str:
    """Return a number as :func:`compact` does; null if it is not finite."""
    return _SPECIAL.get(written := float.__repr__(value), written)


_SPECIAL: Final = {"nan": "null", "inf": "null", "-inf": "null"}


def _open(value: Mapping[str, Any]) -> str:
    """Return an object that lacks its last field, and the brace after it."""
    return compact(value)[:-1] + ","
