"""Joining two networks into one: both get the same pixels, and their embeddings are concatenated.

Each keeps its own scaling. Each embedding is divided by its typical length on synthetic photos, so that neither dominates the
principal components. A separate module because it imports ``onnx``.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from fruits.embedding.card import Card
from fruits.embedding.graphs.graph import parse, rename, with_pixel_input
from fruits.errors import BackboneError


def joined(
    names: tuple[str, str], cards: tuple[Card, Card], networks: tuple[bytes, bytes], lengths: tuple[float, float]
) -> tuple[Card, bytes]:
    """Return one network, with its card, whose embedding is the concatenation of those of two networks.

    Parameters
    ----------
    names : tuple of str
        Names as given by the user.
    cards, networks : tuple
        Cards and ONNX files of both.
    lengths : tuple of float
        Typical length of the embeddings of each.

    Raises
    ------
    BackboneError
        If they have no size in common, or their operators cannot be combined in one file.
    """
    low, high = (
        max(sides) if end == 0 else min(sides) for end, sides in enumerate(zip(*map(_bounds, cards), strict=True))
    )
    if low > high:
        raise BackboneError(
            f"'{names[0]}' takes photos of {_sides(cards[0])} pixels and '{names[1]}' of {_sides(cards[1])}; expected two "
            "networks with a size in common: give wider bounds in a card whose network takes any size"
        )
    models = [parse(with_pixel_input(data, card, high), card.name) for card, data in zip(cards, networks, strict=True)]
    opset = max(map(_opset, models))
    models = [_converted(model, opset, card) for model, card in zip(models, cards, strict=True)]
    if {(one.domain, one.name) for one in models[0].functions} & {
        (one.domain, one.name) for one in models[1].functions
    }:
        raise BackboneError(
            f"'{names[0]}' and '{names[1]}' define the same function; export one of them without functions"
        )
    joint, other = models
    for number, model in enumerate(models):
        rename(model.graph, {"pixels": "pixels", "": ""}, f"{'ab'[number]}/")
    graph = joint.graph
    graph.node.extend(other.graph.node)
    graph.initializer.extend(other.graph.initializer)
    graph.sparse_initializer.extend(other.graph.sparse_initializer)
    joint.functions.extend(other.functions)
    domains = {entry.domain: entry.version for entry in other.opset_import}
    for entry in joint.opset_import:
        entry.version = max(entry.version, domains.pop(entry.domain, 0))
    joint.opset_import.extend(helper.make_opsetid(domain, number) for domain, number in domains.items())
    joint.ir_version = max(joint.ir_version, other.ir_version)
    for number, length in enumerate(lengths):
        side = "ab"[number]
        graph.initializer.append(numpy_helper.from_array(np.array(1 / length, np.float32), f"{side}/one_over_length"))
        graph.node.append(helper.make_node("Mul", [f"{side}/embedding", f"{side}/one_over_length"], [f"{side}/scaled"]))
    graph.node.append(helper.make_node("Concat", ["a/scaled", "b/scaled"], ["embedding"], axis=1))
    del graph.input[:]
    del graph.output[:]
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", "rows", "columns", 3]))
    d = sum(card.embedding_size for card in cards)
    graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", d]))
    network = bytes(joint.SerializeToString())
    return _card(names, cards, network, (low, high)), network


def typical_length(embeddings: NDArray[np.float32]) -> float:
    """Return the root mean square length of embeddings (n, d)."""
    return float(np.sqrt(np.square(embeddings, dtype=np.float64).sum(axis=1).mean())) or 1.0


def _card(names: tuple[str, str], cards: tuple[Card, Card], network: bytes, bounds: tuple[int, int]) -> Card:
    first = cards[0]
    return replace(
        first,
        name="+".join(card.name for card in cards),
        title=" + ".join(card.title or card.name for card in cards),
        sha256=hashlib.sha256(network).hexdigest(),
        embedding_size=sum(card.embedding_size for card in cards),
        size=bounds[0] if bounds[0] == bounds[1] else bounds,
        layout="NHWC",
        dtype="uint8",
        channels="RGB",
        output="",
        licence=_both(cards, "licence"),
        attribution=_both(cards, "attribution"),
        made_by=f"joined by fruits from {names[0]} and {names[1]}",
        training_data=_both(cards, "training_data"),
        training_photos="+" if any(card.training_photos for card in cards) else "",
        backdrop="white" if all(card.backdrop == "white" for card in cards) else "",
        source="",
        reference={},
        figures={},
    )


def _both(cards: tuple[Card, Card], field: str) -> str:
    return "; ".join(dict.fromkeys(text for card in cards if (text := getattr(card, field))))


def _bounds(card: Card) -> tuple[int, int]:
    return card.size if isinstance(card.size, tuple) else (card.size, card.size)


def _sides(card: Card) -> str:
    low, high = _bounds(card)
    return str(low) if low == high else f"{low} to {high}"


def _opset(model: onnx.ModelProto) -> int:
    return int(max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _converted(model: onnx.ModelProto, opset: int, card: Card) -> onnx.ModelProto:
    """Return a model converted to a newer opset, so that both can be combined in one file."""
    if _opset(model) == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as exc:  # the converter raises RuntimeError and others
        raise BackboneError(
            f"'{card.name}' cannot be brought to ONNX opset {opset}, which the other network needs ({type(exc).__name__}); "
            "export both with the same opset"
        ) from exc
