"""Surgery on ONNX graphs: pixels in, and later steps behind.

Kept apart because it alone imports ``onnx``, which takes half a second that workers and the service need not spend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fruits.errors import BackboneError

if TYPE_CHECKING:
    from fruits.embedding.backbone import Card

_OPSET = 17


def with_pixel_input(model_bytes: bytes, card: Card, size: int) -> bytes:
    """Return the graph with input ``pixels``, uint8 (batch, size, size, 3), and output ``embedding``, float32 (batch, d).

    Raises
    ------
    BackboneError
        If it is not ONNX or has more than one input or output.
    """
    model = _parse(model_bytes, card.name)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise BackboneError(
            f"'{card.name}' has {len(inputs)} inputs and {len(graph.output)} outputs; expected one of each: pixels, embedding"
        )
    old_input, old_output = inputs[0].name, graph.output[0].name
    prefix = "fruits/"
    nodes, ours = [], []
    x = "pixels"
    if card.dtype == "float32":
        for name, values in (("scale", card.scale), ("shift", card.shift)):
            ours.append(numpy_helper.from_array(np.asarray(values, np.float32), prefix + name))
        nodes.append(helper.make_node("Cast", [x], [prefix + "float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [prefix + "float", prefix + "scale"], [prefix + "scaled"]))
        nodes.append(helper.make_node("Add", [prefix + "scaled", prefix + "shift"], [prefix + "shifted"]))
        x = prefix + "shifted"
    if card.layout == "NCHW":
        nodes.append(helper.make_node("Transpose", [x], [prefix + "planar"], perm=[0, 3, 1, 2]))
        x = prefix + "planar"
    # All names of the network get a prefix, so that they cannot collide with ours.
    _rename(graph, {old_input: x, old_output: "embedding", "": ""}, "network/")
    graph.initializer.extend(ours)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])
    others = [value for value in graph.input if value.name in {w.name for w in graph.initializer}]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", size, size, 3]))
    graph.input.extend(others)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", card.embedding_size]))
    del graph.value_info[:]
    return bytes(model.SerializeToString())


def with_recogniser(
    model_bytes: bytes,
    *,
    mean: NDArray[np.float32],
    components: NDArray[np.float32],
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    metadata: dict[str, str],
) -> bytes:
    """Return the single graph: ``pixels`` in, ``probabilities`` (batch, c) and ``features`` (batch, k) out.

    Parameters
    ----------
    model_bytes : bytes
        A prepared backbone.
    mean : array, shape (d,)
    components : array, shape (k, d)
    weights : array, shape (c, k)
    bias : array, shape (c,)
    metadata : dict
        Text that travels in the file, such as the labels.
    """
    model = _parse(model_bytes, "backbone")
    graph = model.graph
    arrays = {"mean": mean, "components": components.T, "weights": weights.T, "bias": bias}
    for name, value in arrays.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), f"fruits/{name}"))
    graph.node.extend(
        [
            helper.make_node("Sub", ["embedding", "fruits/mean"], ["fruits/centred"]),
            helper.make_node("MatMul", ["fruits/centred", "fruits/components"], ["features"]),
            helper.make_node("MatMul", ["features", "fruits/weights"], ["fruits/products"]),
            helper.make_node("Add", ["fruits/products", "fruits/bias"], ["fruits/logits"]),
            helper.make_node("Softmax", ["fruits/logits"], ["probabilities"], axis=1),
        ]
    )
    del graph.output[:]
    for name, width in (("probabilities", len(bias)), ("features", len(components))):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
    helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


def _parse(model_bytes: bytes, name: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(model_bytes)
        onnx.checker.check_model(model)
    except Exception as exc:  # protobuf and onnx raise unrelated types
        raise BackboneError(f"'{name}' is not a whole ONNX file ({type(exc).__name__}); fetch it again") from exc
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise BackboneError(f"'{name}' keeps weights in other files; save it as one file")
    return model


def _rename(graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
    """Rename every value and node of a graph, subgraphs included."""

    def new(name: str) -> str:
        return names.get(name, prefix + name)

    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for value in (*graph.input, *graph.output):
        value.name = new(value.name)
    for node in graph.node:
        if node.name:  # names of nodes are optional, and two of the same are refused
            node.name = prefix + node.name
        for values in (node.input, node.output):
            values[:] = [new(value) for value in values]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names, prefix)
