"""Preprocessing as a list of steps, from a decoded photo to what a network takes; in cards, bundles and ``recognizer.onnx``.

``srgb, orient, resize:FIT:KERNEL`` make the pixels: :class:`~fruits.photos.decoding.images.Preprocessing` carries them out, in
training, batch, service and on a visitor's device. ``channels:BGR, float, scale:R,G,B, shift:R,G,B, layout:NCHW`` follow where a
network wants them, and become the first nodes of its graph. Knows nothing of photos or graphs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from fruits.errors import BackboneError

if TYPE_CHECKING:
    from fruits.embedding.card import Card

_NUMBERS: Final = r"(-?[0-9.]+(?:e[-+]?[0-9]+)?(?:,-?[0-9.]+(?:e[-+]?[0-9]+)?){2})"
#: Every step in the only order there is, and whether each card has it.
_STEPS: Final = {
    "srgb": ("srgb", True),
    "orient": ("orient", True),
    "resize": ("resize:(pad|crop|squash):(bilinear|bicubic|lanczos)", True),
    "channels": ("channels:(RGB|BGR)", False),
    "float": ("float", False),
    "scale": (f"scale:{_NUMBERS}", False),
    "shift": (f"shift:{_NUMBERS}", False),
    "layout": ("layout:(NHWC|NCHW)", False),
}
_SHOWN: Final = "srgb, orient, resize:pad:bicubic, channels:BGR, float, scale:R,G,B, shift:R,G,B, layout:NCHW"


def steps_of(card: Card) -> tuple[str, ...]:
    """Return the steps of a card; those that change nothing are left out."""
    return ("srgb", "orient", f"resize:{card.fit}:{card.kernel}", *graph_steps(card))


def graph_steps(card: Card) -> tuple[str, ...]:
    """Return the steps that are part of the network's graph."""
    steps = ["channels:BGR"] if card.channels == "BGR" else []
    if card.dtype == "float32":
        steps += ["float", f"scale:{_joined(card.scale)}", f"shift:{_joined(card.shift)}"]
    return (*steps, *(["layout:NCHW"] if card.layout == "NCHW" else []))


def fields_of(steps: Sequence[Any], name: str) -> dict[str, Any]:
    """Return the fields of a card that a list of steps stands for.

    Parameters
    ----------
    steps : sequence of str
    name : str
        Of the card, for messages.

    Raises
    ------
    BackboneError
        If a step is unknown, in another order or twice, or one is missing that every photo goes through.
    """
    found: dict[str, tuple[str, ...]] = {}
    rest = list(_STEPS)
    for step in steps:
        kind = str(step).partition(":")[0]
        match = re.fullmatch(_STEPS[kind][0], step) if kind in rest and isinstance(step, str) else None
        if match is None:
            raise BackboneError(
                f"card of '{name}': the step {str(step)[:100]!r} is unknown or out of order; expected {_SHOWN}"
            )
        found[kind] = match.groups()
        rest = rest[rest.index(kind) + 1 :]
    lacking = [kind for kind, (_, always) in _STEPS.items() if always and kind not in found]
    if lacking or (found.keys() & {"scale", "shift"} and "float" not in found):
        raise BackboneError(f"card of '{name}': steps lack {', '.join(lacking) or 'float'}; expected {_SHOWN}")
    try:
        scale, shift = (
            tuple(float(value) for value in found[kind][0].split(",")) if kind in found else (default,) * 3
            for kind, default in (("scale", 1.0), ("shift", 0.0))
        )
    except ValueError as exc:
        raise BackboneError(f"card of '{name}': steps: {exc}; expected {_SHOWN}") from exc
    fit, kernel = found["resize"]
    return {
        "fit": fit,
        "kernel": kernel,
        "channels": found.get("channels", ("RGB",))[0],
        "dtype": "float32" if "float" in found else "uint8",
        "layout": found.get("layout", ("NHWC",))[0],
        **({"scale": scale, "shift": shift} if "float" in found else {}),
    }


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{float(value)!r}" for value in values)
