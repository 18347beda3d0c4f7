"""The card of a network: preprocessing, licence and provenance, and reference values.

JSON beside the ONNX file. Independent of the networks themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from fruits.config import Fit
from fruits.embedding.steps import fields_of, steps_of
from fruits.errors import BackboneError, ConfigError
from fruits.photos.decoding.images import Kernel, Preprocessing
from fruits.storage.disk.local import read_plain

#: Fields of a card that are text.
_TEXTS: Final = (
    "name", "sha256", "title", "output", "licence", "attribution", "made_by", "training_data", "training_photos", "source",
)  # fmt: skip
_MAX_CARD_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Metadata of a network that is needed to use it correctly.

    Attributes
    ----------
    name, title : str
        Names for display.
    sha256 : str
        Hash of the ONNX file, 64 hexadecimal digits.
    embedding_size : int
        Size d of the embedding.
    size : int or tuple of two int
        Side of the input in pixels; or, for a network that takes any size, the smallest and the largest useful side. Then a run
        uses the side of its photos within these bounds: scaling photos up costs time without a benefit.
    layout : {"NHWC", "NCHW"}
        Order of the input's axes.
    dtype : {"uint8", "float32"}
        Type of the input. uint8 takes pixels unscaled.
    channels : {"RGB", "BGR"}
        Order of the input's channels.
    scale, shift : tuple of 3 float
        Per channel in that order, float32 input only: ``pixel * scale + shift``.
    output : str
        Name of the output that is the embedding; needed if there are several and none is called ``embedding``.
    fit, kernel : str
        How a photo is fitted into a square; see ``Preprocessing``.
    licence, attribution, made_by : str
        Licence and provenance.
    backdrop : {"", "white"}
        Background of the training photos if it is the same on all; accuracy is lower on other backgrounds.
    reference : dict
        Embeddings of synthetic photos, as returned by :meth:`fruits.embedding.backbone.Backbone.reference`: ``size`` and
        ``values``. They do not match if scale or channel order of the card were changed. Empty: not checked.
    source : str
        Pinned address that it was pulled or exported from.
    training_data : str
        Description of the training data.
    training_photos : str
        Name of a file beside the card that lists the training photos: the first 8 bytes of the sha256 of each, sorted. Empty:
        not known.
    figures : dict
        Measured figures, for display.

    Raises
    ------
    BackboneError
        If a value is invalid.
    """

    name: str
    sha256: str
    embedding_size: int
    size: int | tuple[int, int]
    title: str = ""
    layout: Literal["NHWC", "NCHW"] = "NCHW"
    dtype: Literal["uint8", "float32"] = "float32"
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: tuple[float, float, float] = (1 / 127.5, 1 / 127.5, 1 / 127.5)
    shift: tuple[float, float, float] = (-1.0, -1.0, -1.0)
    output: str = ""
    fit: Fit = "pad"
    kernel: Kernel = "bicubic"
    licence: str = ""
    attribution: str = ""
    made_by: str = ""
    training_data: str = ""
    training_photos: str = ""
    source: str = ""
    backdrop: Literal["", "white"] = ""
    reference: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layout not in ("NHWC", "NCHW") or self.dtype not in ("uint8", "float32"):
            raise BackboneError(
                f"card of '{self.name}': layout {self.layout}, dtype {self.dtype}; expected NHWC or NCHW, uint8 or float32"
            )
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                raise BackboneError(f"card of '{self.name}': {name} is {getattr(self, name)!r}; expected text")
        if self.channels not in ("RGB", "BGR"):
            raise BackboneError(f"card of '{self.name}': channels {self.channels!r}; expected RGB or BGR")
        if self.backdrop not in ("", "white"):
            raise BackboneError(f"card of '{self.name}': backdrop {self.backdrop!r}; expected white, or nothing")
        self._check_reference()
        numbers = (*self.scale, *self.shift)
        if len(self.scale) != 3 or len(self.shift) != 3 or not all(isinstance(value, int | float) for value in numbers):
            raise BackboneError(f"card of '{self.name}': expected 3 numbers each in scale and shift, one per channel")
        if not isinstance(self.embedding_size, int) or self.embedding_size < 1:
            raise BackboneError(f"card of '{self.name}': embedding_size {self.embedding_size!r}; expected 1 or more")
        bounds = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        if len(bounds) != 2 or not 8 <= bounds[0] <= bounds[1] <= 2048:
            raise BackboneError(
                f"card of '{self.name}': size {self.size}; expected one side or two, from 8 to 2048 pixels"
            )
        try:
            Preprocessing(bounds[0], self.fit, self.kernel)
        except ConfigError as exc:
            raise BackboneError(f"card of '{self.name}': {exc}") from exc

    def _check_reference(self) -> None:
        if not isinstance(self.reference, dict):
            raise BackboneError(f"card of '{self.name}': reference is no JSON object")
        if not self.reference:
            return
        size, rows = self.reference.get("size"), self.reference.get("values")
        rows = rows if isinstance(rows, list | tuple) else []
        numbers = [row for row in rows if isinstance(row, list | tuple) and row and all(map(_is_number, row))]
        if not isinstance(size, int) or not 8 <= size <= 2048 or not rows or len(numbers) < len(rows):
            raise BackboneError(
                f"card of '{self.name}': reference holds something else than size and values; take it out, or fetch "
                "the card again"
            )

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done to a photo, from its decoded pixels to what the network takes: see :mod:`fruits.embedding.steps`."""
        return steps_of(self)

    def preprocessing(self, size: int | None, fit: Fit | None, photo_side: int | None = None) -> Preprocessing:
        """Return the preprocessing of a run: the card's values unless the user overrides them.

        Parameters
        ----------
        size, fit : optional
            Values given by the user.
        photo_side : int, optional
            Typical short side of the photos, used if the card gives bounds.
        """
        if size is None:
            low, high = self.size if isinstance(self.size, tuple) else (self.size, self.size)
            size = high if photo_side is None else min(max(photo_side, low), high)
        return Preprocessing(size, fit or self.fit, self.kernel)


def _with_steps(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a card whose preprocessing is a list of steps, as fields of their own."""
    steps = fields.pop("steps")
    name = str(fields.get("name", ""))
    if not isinstance(steps, tuple):
        raise BackboneError(f"card of '{name}': steps is {steps!r}; expected a list")
    told = fields_of(steps, name)
    if twice := sorted(fields.keys() & {*told, "scale", "shift"}):
        raise BackboneError(f"card of '{name}': {', '.join(twice)} and steps say the same; expected one of them")
    return {**fields, **told}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def read_card(path: Path) -> Card:
    """Read a card.

    Raises
    ------
    BackboneError
        If it is not JSON, lacks a field or has an unknown one.
    """
    return parse_card(read_fields(path))


def read_fields(path: Path) -> dict[str, Any]:
    """Read the fields of a card, which may be incomplete; lists become tuples.

    Raises
    ------
    BackboneError
        If it is not a JSON object.
    """
    try:
        values = json.loads(read_plain(path, _MAX_CARD_BYTES))
    except (OSError, ValueError, RecursionError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise BackboneError(f"card '{path.name}' cannot be read ({why}); docs/backbones.md shows a whole one") from exc
    if not isinstance(values, dict):
        raise BackboneError(f"card '{path.name}' is no JSON object; docs/backbones.md shows a whole one")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return _with_steps(fields) if "steps" in fields else fields


def parse_card(values: dict[str, Any]) -> Card:
    """Make a card from plain JSON values.

    Raises
    ------
    BackboneError
        If a field is missing, unknown or invalid.
    """
    try:
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        if "steps" in fields:
            fields = _with_steps(fields)
        return Card(**fields)
    except (TypeError, AttributeError) as exc:
        raise BackboneError(f"the backbone's card cannot be used ({exc}); docs/backbones.md shows a whole one") from exc
