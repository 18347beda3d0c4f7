"""Making a backbone of a published network: one file, one input, one vector per photo, and a complete card.

Used for networks that :mod:`~fruits.embedding.sources.hub` fetches and :mod:`~fruits.embedding.sources.export` creates. They are
checked as any backbone, their reference on known pixels is computed, and they are stored where ``--backbone NAME`` finds them.
A separate module because it imports ``onnx``.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper

from fruits.embedding.backbone import Backbone
from fruits.embedding.card import Card
from fruits.embedding.graphs.graph import parse
from fruits.embedding.session import first_line, open_session
from fruits.errors import BackboneError
from fruits.storage.sanitising import json_text

#: Output names that exporters use for embeddings, in order of preference; logits of a classifier come last.
_OUTPUTS: Final = ("embedding", "image_embeds", "pooler_output", "features", "last_hidden_state", "logits")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def checked_name(name: str) -> str:
    """Return the name if ``--backbone`` accepts it, else raise :class:`BackboneError`."""
    if not _NAME.fullmatch(name):
        raise BackboneError(
            f"name {name[:100]!r}: expected letters, digits, dots, hyphens and underscores, such as my-network"
        )
    return name


def as_backbone(network: bytes, card: dict[str, Any], output: str = "") -> Backbone:
    """Make a backbone of a network: find its input and its embedding, and complete its card.

    Parameters
    ----------
    network : bytes
        The ONNX file, without external data.
    card : dict
        Known fields: name, size, scale, shift and texts. Layout, dtype, embedding size and reference are determined here.
    output : str
        Name of the output that is the embedding; empty: the most likely one.

    Raises
    ------
    BackboneError
        If it does not take one image, or none of its outputs can be an embedding.
    """
    name = card["name"]
    session = open_session(network)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        told = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise BackboneError(f"'{name}' takes {told or 'nothing'}; expected one image: take the file of its image part")
    (only,) = inputs
    if only.type not in ("tensor(float)", "tensor(uint8)"):
        raise BackboneError(f"'{name}' takes {only.type}; expected float32 or uint8: take the file in full precision")
    layout = "NHWC" if only.shape[3] == 3 and only.shape[1] != 3 else "NCHW"
    dtype = "uint8" if only.type == "tensor(uint8)" else "float32"
    size = _size(name, card["size"], only.shape[1:3] if layout == "NHWC" else only.shape[2:])
    shape = (2, size, size, 3) if layout == "NHWC" else (2, 3, size, size)
    zeros = np.zeros(shape, np.uint8 if dtype == "uint8" else np.float32)
    try:
        values = dict(
            zip([one.name for one in session.get_outputs()], session.run(None, {only.name: zeros}), strict=True)
        )
    except Exception as exc:  # ONNX Runtime raises plain subclasses of Exception
        raise BackboneError(
            f"'{name}' cannot take photos of {size} x {size} ({first_line(exc)}); expected another size in its card"
        ) from exc
    chosen = _chosen(name, {one: np.shape(value) for one, value in values.items()}, output)
    single, d = _with_one_output(network, name, chosen, np.shape(values[chosen]))
    sides = card["size"] if isinstance(card["size"], tuple) and size == card["size"][1] else size
    whole = Card(
        **{**card, "size": sides, "layout": layout, "dtype": dtype, "embedding_size": d},
        sha256=hashlib.sha256(single).hexdigest(),
    )
    found = Backbone(whole, single)
    found.prepared(whole.preprocessing(size, None))
    return replace(found, card=replace(whole, reference=found.reference(size)))


def save(found: Backbone, folder: Path) -> Path:
    """Write a network and its card into a folder, which is created if absent; return the path of the network."""
    path = folder / f"{checked_name(found.card.name)}.onnx"
    values = {name: value for name, value in asdict(found.card).items() if value not in ("", {})}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The card first: a network without a card is refused with a hint that would be misleading here.
        for target, data in ((path.with_suffix(".json"), json_text(values, indent=1).encode()), (path, found.network)):
            new = target.with_name(f".{target.name}.{os.getpid()}")
            new.write_bytes(data)
            new.replace(target)
    except OSError as exc:
        raise BackboneError(f"'{path}' cannot be written ({exc.strerror}); choose another --to") from exc
    return path


def _size(name: str, wanted: int | tuple[int, int], declared: list[Any]) -> int:
    """Return the size at which the network is checked: the one declared in its file, else the largest of its card."""
    largest = wanted if isinstance(wanted, int) else wanted[1]
    fixed = [side for side in declared if isinstance(side, int)]
    if fixed and (len(set(fixed)) > 1 or not 8 <= fixed[0] <= 2048):
        raise BackboneError(
            f"'{name}' takes photos of {' x '.join(map(str, declared))}; expected a square of 8 to 2048 pixels"
        )
    return fixed[0] if fixed else largest


def _chosen(name: str, shapes: dict[str, tuple[int, ...]], output: str) -> str:
    good = [one for one, shape in shapes.items() if len(shape) in (2, 3, 4) and shape[0] == 2]
    if output:
        if output not in good:
            raise BackboneError(
                f"'{name}' has the outputs {', '.join(shapes)}; expected --embedding to name one of a row per photo"
            )
        return output
    ranked = [one for known in _OUTPUTS for one in good if one == known]
    if not ranked and len(good) != 1:
        raise BackboneError(f"'{name}' has the outputs {', '.join(shapes)}; say with --embedding which one it is")
    return (ranked or good)[0]


def _with_one_output(network: bytes, name: str, output: str, shape: tuple[int, ...]) -> tuple[bytes, int]:
    """Return the network with this output only, as ``embedding`` (batch, d), and d."""
    model = parse(network, name)
    graph = model.graph
    (told,) = [value for value in graph.output if value.name == output]
    if len(shape) == 2 and output == "embedding" and len(graph.output) == 1:
        return network, shape[1]
    used = {value for node in graph.node for value in (*node.input, *node.output)}
    final = "embedding" if "embedding" not in used else "fruits/embedding"
    ending, d = _ending(output, final, shape)
    graph.node.extend(ending)
    if told.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
        graph.node[-1].output[0] = f"{final}/narrow"
        graph.node.append(helper.make_node("Cast", [f"{final}/narrow"], [final], to=TensorProto.FLOAT))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(final, TensorProto.FLOAT, ["batch", d]))
    return bytes(model.SerializeToString()), d


def _ending(x: str, out: str, shape: tuple[int, ...]) -> tuple[list[Any], int]:
    """Return the nodes that reduce an output to one vector per photo, and its size."""
    if len(shape) == 2:
        return [helper.make_node("Identity", [x], [out])], shape[1]
    if len(shape) == 4:  # a feature map, possibly averaged already
        pooled = helper.make_node("GlobalAveragePool", [x], [f"{out}/pooled"])
        return [pooled, helper.make_node("Flatten", [f"{out}/pooled"], [out], axis=1)], shape[1]
    tokens = shape[1]
    if round((tokens - 1) ** 0.5) ** 2 == tokens - 1:  # a square of patches and the class token
        index = helper.make_node("Constant", [], [f"{out}/first"], value_int=0)
        return [index, helper.make_node("Gather", [x, f"{out}/first"], [out], axis=1)], shape[2]
    turned = helper.make_node("Transpose", [x], [f"{out}/turned"], perm=[0, 2, 1])
    pooled = helper.make_node("GlobalAveragePool", [f"{out}/turned"], [f"{out}/pooled"])
    return [turned, pooled, helper.make_node("Flatten", [f"{out}/pooled"], [out], axis=1)], shape[2]
