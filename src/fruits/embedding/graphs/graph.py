"""Editing of ONNX graphs: pixels as input, and later steps appended.

A separate module because it imports ``onnx``, which takes half a second that workers and the service do not need to spend.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fruits.embedding.graphs.onnx_file import refuse_outside
from fruits.embedding.session import open_session
from fruits.embedding.steps import graph_steps
from fruits.errors import BackboneError, BundleError, counted
from fruits.learning.heads import Head
from fruits.learning.out_of_distribution import LEAST_PROBABILITY, OodDetector
from fruits.photos.decoding.quality import NOISE, STEP

if TYPE_CHECKING:
    from fruits.embedding.card import Card

#: Operators that act on each pixel separately, if the other operand is a constant per channel.
_PER_PIXEL = ("Cast", "Mul", "Add", "Sub", "Div", "QuantizeLinear", "DequantizeLinear")
#: Oldest supported opset: before it, operators could not broadcast two values of different shapes.
_OLDEST = 8


def with_pixel_input(model_bytes: bytes, card: Card, size: int) -> bytes:
    """Return the graph with input ``pixels``, uint8 (batch, size, size, 3), and output ``embedding``, float32 (batch, d).

    If the embedding is the mean over the positions of a feature map, that map becomes a second output ``map``, float32
    (batch, d, rows, columns): a linear head applied to each position shows which parts of a photo support an answer.

    Raises
    ------
    BackboneError
        If it is not ONNX, has more than one input, or no output can be identified as the embedding.

    Notes
    -----
    Other outputs, and the nodes that only they need, are removed.
    """
    model = parse(model_bytes, card.name)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise BackboneError(
            f"'{card.name}' has {counted(len(inputs), 'input')} and {counted(len(graph.output), 'output')}; "
            "expected one input, the pixels"
        )
    old_input, old_output = inputs[0].name, _embedding_output(graph, card)
    pooled = _pooled_map(model, old_output)
    if len(graph.output) > 1:
        _keep_only(graph, {old_output})
    nodes, ours, x = _beginning(card)
    # All names of the network get a prefix, so that they cannot collide with the added ones.
    names = {old_input: x, old_output: "embedding", "": ""}
    if pooled is not None:
        names[pooled] = "map"
    rename(graph, names, "network/")
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
    if pooled is not None:
        shape: list[str | int | None] = ["batch", card.embedding_size, "rows", "columns"]
        graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, shape))
    del graph.value_info[:]
    return bytes(model.SerializeToString())


def _beginning(card: Card) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Return the nodes that carry out the card's steps, their constants, and the name of their result.

    The numbers are those of the steps in their order. Planes are made of bytes, before everything else, and a constant is one
    number if the channels are alike: ONNX Runtime then computes over whole planes. With three numbers along the last axis it
    took 150 microseconds per photo of 100 x 100, an eighth of MobileNetV2.
    """
    steps = dict(step.partition(":")[::2] for step in graph_steps(card))
    planar = "layout" in steps
    nodes, constants, x = [], [], "pixels"

    def add(operator: str, out: str, constant: str = "", values: NDArray[Any] | None = None, **attributes: Any) -> None:
        nonlocal x
        if values is not None:
            constants.append(numpy_helper.from_array(values, f"fruits/{constant}"))
        inputs = [x] if values is None else [x, f"fruits/{constant}"]
        nodes.append(helper.make_node(operator, inputs, [f"fruits/{out}"], **attributes))
        x = f"fruits/{out}"

    def per_channel(given: str) -> NDArray[Any]:
        values = np.asarray([float(value) for value in given.split(",")], np.float32)
        if (values == values[0]).all():
            return values[:1]
        return values[:, None, None] if planar else values

    if planar:
        add("Transpose", "planar", perm=[0, 3, 1, 2])
    if "channels" in steps:
        add("Gather", "turned", "order", np.array([2, 1, 0]), axis=1 if planar else 3)
    if "float" in steps:
        add("Cast", "float", to=TensorProto.FLOAT)
        add("Mul", "scaled", "scale", per_channel(steps["scale"]))
        add("Add", "shifted", "shift", per_channel(steps["shift"]))
    return nodes, constants, x


def _pooled_map(model: onnx.ModelProto, output: str) -> str | None:
    """Return the value whose mean over rows and columns is the output; None if the output is computed in another way."""
    made_by = {value: node for node in model.graph.node for value in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    node = made_by.get(output)
    while node is not None and node.op_type in ("Flatten", "Squeeze", "Reshape", "Identity"):
        node = made_by.get(node.input[0])
    if node is None:
        return None
    if node.op_type == "ReduceMean":
        axes = [list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"]
        if len(node.input) > 1 and node.input[1] in constants:
            axes = [numpy_helper.to_array(constants[node.input[1]]).tolist()]
        if not axes or sorted(axis % 4 for axis in axes[0]) != [2, 3]:
            return None
    elif node.op_type != "GlobalAveragePool":
        return None
    return None if node.input[0] in {value.name for value in model.graph.input} else str(node.input[0])


def _embedding_output(graph: onnx.GraphProto, card: Card) -> str:
    """Return the output that is the embedding: the one named by the card, the only one, or the one called ``embedding``."""
    names = [value.name for value in graph.output]
    wanted = card.output or (names[0] if len(names) == 1 else "embedding")
    if wanted not in names and not card.output:
        # Among several, take the only one that is a vector of the card's size.
        vectors = [value.name for value in graph.output if _shape(value)[1:] == [card.embedding_size]]
        wanted = vectors[0] if len(vectors) == 1 else wanted
    if wanted not in names:
        raise BackboneError(
            f"'{card.name}' has the outputs {', '.join(names[:8]) or 'none'}; expected one that is the embedding: name it in its "
            f"card, as output{f' (it names {card.output})' if card.output else ''}"
        )
    return wanted


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _keep_only(graph: onnx.GraphProto, outputs: set[str]) -> None:
    """Remove the nodes and weights that these outputs do not need."""
    needed = set(outputs)
    kept = []
    for node in reversed(graph.node):  # nodes are in topological order: consumers come after producers
        if needed & set(node.output):
            kept.append(node)
            needed |= _read_by(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.output if value.name not in outputs]:
        graph.output.remove(value)


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Return the names of all values that a node reads, including outer values read by its subgraphs."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            names |= {value.name for value in graph.output}
            for inner in graph.node:
                names |= _read_by(inner)
    return names


def with_recogniser(
    model_bytes: bytes,
    *,
    mean: NDArray[np.float32],
    components: NDArray[np.float32],
    head: Head,
    ood_detector: OodDetector,
    size: int,
    metadata: dict[str, str],
) -> bytes:
    """Return the single graph from ``pixels`` to all numbers that answers are derived from.

    Outputs, float32: ``probabilities`` (batch, c), ``features`` (batch, k), ``ood_score``, ``brightness`` and ``sharpness``
    (batch, 1); and ``evidence`` (batch, places, c), row by row, if the backbone outputs a map and the head has a linear part:
    its logits at each position of the map, whose mean are those of the photo.

    Parameters
    ----------
    model_bytes : bytes
        A prepared backbone.
    mean : array, shape (d,)
    components : array, shape (k, d)
    head : Head
        For c labels.
    ood_detector : OodDetector
    size : int
        Side of the input in pixels.
    metadata : dict
        Text stored in the file, such as the labels.
    """
    model = parse(model_bytes, "backbone")
    graph = model.graph
    more = _Nodes(graph, _opset(model))
    _tabulate_pixels(model, model_bytes, size)
    centred = more.node("Sub", "embedding", more.constant("mean", mean))
    features = more.node("MatMul", centred, more.constant("components", components.T), out="features")
    logits = _add_head(more, head, features)
    probabilities = more.node("Softmax", logits, out="probabilities", axis=1)
    _add_ood_score(more, features, probabilities, ood_detector)
    _add_quality(more, size)
    has_map = head.linear and any(value.name == "map" for value in graph.output)
    if has_map:
        _add_evidence(more, head.linear_part, len(mean))
    del graph.output[:]
    widths = {
        "probabilities": len(ood_detector.centres),
        "features": len(components),
        "ood_score": 1,
        "brightness": 1,
        "sharpness": 1,
    }
    for name, width in widths.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
    if has_map:
        shape: list[str | int | None] = ["batch", "places", len(ood_detector.centres)]
        graph.output.append(helper.make_tensor_value_info("evidence", TensorProto.FLOAT, shape))
    helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


def _tabulate_pixels(model: onnx.ModelProto, model_bytes: bytes, size: int) -> None:
    """Replace the per-pixel operations at the input of a quantised network by a lookup table of their 8-bit results.

    Centring by 127.5 with a quantisation step of 1 gives values halfway between two integers. Their rounding depends on the order
    of a processor's operations, so a browser and a server would see different pixels (probabilities differed by up to 0.06). The
    table holds the results of this machine's batch kernel for all 256 values of each channel. Other networks are not changed.
    """
    found = _quantised_beginning(model.graph)
    if found is None:
        return
    name, before = found
    seen = parse(model_bytes, "backbone")
    seen.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = open_session(seen.SerializeToString())
    shape = (-(-256 // size**2), size, size, 1)
    ramp = np.repeat(np.resize(np.arange(256, dtype=np.uint8), shape), 3, axis=3)
    (result,) = session.run([name], {"pixels": ramp})
    table = result.reshape(-1, 3)[:256].T  # by channel, then by value
    graph = model.graph
    for node in before:
        graph.node.remove(node)
    used = {value for node in graph.node for value in node.input} | {name}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    for constant, value in (
        ("pixel_table", np.ascontiguousarray(table).reshape(-1)),
        ("channel_offsets", np.array([0, 256, 512], np.int32)),
    ):
        graph.initializer.append(numpy_helper.from_array(value, f"fruits/{constant}"))
    nodes = [
        helper.make_node("Cast", ["pixels"], ["fruits/pixel_values"], to=TensorProto.INT32),
        helper.make_node("Add", ["fruits/pixel_values", "fruits/channel_offsets"], ["fruits/pixel_places"]),
        helper.make_node("Gather", ["fruits/pixel_table", "fruits/pixel_places"], [name], axis=0),
    ]
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])


def _quantised_beginning(graph: onnx.GraphProto) -> tuple[str, list[onnx.NodeProto]] | None:
    """Return the last 8-bit value computed per pixel, and the nodes that compute it; None if there is none."""
    constants = {tensor.name for tensor in graph.initializer if _is_per_channel(tensor)}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and all(name in constants for name in node.input):
            constants.update(node.output)
    value, way = "pixels", []
    found = None
    while True:
        users = [node for node in graph.node if value in node.input]
        if len(users) != 1 or users[0].op_type not in _PER_PIXEL:
            return found
        (node,) = users
        if not all(name in constants for name in node.input if name != value) or len(node.output) != 1:
            return found
        way.append(node)
        (value,) = node.output
        if node.op_type == "QuantizeLinear":
            found = value, list(way)


def _is_per_channel(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor is one number, or one per channel, with the three channels last."""
    return math.prod(tensor.dims) in (1, *tensor.dims[-1:]) and list(tensor.dims[-1:]) in ([], [1], [3])


def _add_ood_score(more: _Nodes, features: str, probabilities: str, ood_detector: OodDetector) -> None:
    """Append the computation of ``OodDetector.ood_score``."""
    white = more.node("MatMul", features, more.constant("whitening", ood_detector.whitening))
    length = more.sum(more.node("Mul", white, white), ood_detector.whitening.shape[1])
    cross = more.node("MatMul", white, more.constant("centres", -2 * ood_detector.centres.T))
    squares = more.constant("centre_squares", np.square(ood_detector.centres).sum(axis=1))
    nearest = more.reduce("ReduceMin", more.node("Add", cross, squares), since=18)
    own = more.node("Add", length, nearest)
    background = more.constant("background", ood_detector.background[:, None])
    distance = more.node("Sub", own, more.node("MatMul", more.node("Mul", features, features), background))
    least = more.constant("least_probability", np.float32(LEAST_PROBABILITY))
    log_p = more.node("Log", more.node("Max", probabilities, least))
    entropy = more.sum(
        more.node("Mul", probabilities, log_p), len(ood_detector.centres), scale=-ood_detector.entropy_scale
    )
    scaled = more.node("Mul", distance, more.constant("distance_scale", np.float32(ood_detector.distance_scale)))
    total = more.node("Add", entropy, scaled)
    more.node("Sub", total, more.constant("offset", np.float32(ood_detector.offset)), out="ood_score")


def _add_head(more: _Nodes, head: Head, features: str) -> str:
    """Append the head, temperature included; return the name of its logits."""
    try:
        logits = head.add_to_graph(more, features)
    except Exception as exc:  # a head of another package may raise anything
        raise BundleError(
            f"the head {type(head).__name__} cannot be put into the single graph ({type(exc).__name__}: {exc}); correct its "
            "add_to_graph"
        ) from exc
    if head.temperature == 1:
        return logits
    return more.node("Mul", logits, more.constant("one_over_temperature", np.float32(1 / head.temperature)))


def _add_evidence(more: _Nodes, head: Head, width: int) -> None:
    """Append the logits of each position of the map, with the same constants as for the photo's logits."""
    flat = more.node("Reshape", "map", more.constant("map_shape", np.array([0, width, -1], np.int64)))
    places = more.node("Sub", more.node("Transpose", flat, perm=[0, 2, 1]), "fruits/mean")
    more.named(_add_head(more, head, more.node("MatMul", places, "fruits/components")), "evidence")


def _add_quality(more: _Nodes, size: int) -> None:
    """Append the computation of ``photos.decoding.quality.measure``."""
    noise = more.constant("noise", np.float32(NOISE))
    sums: dict[str, list[str]] = {"sudden": [], "gradual": []}
    for along, across in ((2, 1), (1, 2)):
        lines = more.node(
            "Cast", more.slice(more.slice("pixels", 3, 1, 2), across, 0, size, STEP), to=TensorProto.FLOAT
        )
        count = -(-size // STEP)
        if along == 2:
            whole = more.node("Flatten", lines, axis=1)
            more.sum(whole, count * size, scale=1 / (255 * count * size), out="brightness")
        before, here, after = (more.slice(lines, along, start, size - 2 + start) for start in range(3))
        twice = more.node("Add", here, here)
        second = more.node("Sub", more.node("Add", before, after), twice)
        for name, differences in (("sudden", second), ("gradual", more.node("Sub", after, before))):
            beyond = more.node("Relu", more.node("Sub", more.node("Abs", differences), noise))
            sums[name].append(more.sum(more.node("Flatten", beyond, axis=1), count * (size - 2)))
    sudden, gradual = (more.node("Add", *sums[name]) for name in ("sudden", "gradual"))
    # Both are integers: dividing by at least 1 avoids a division by 0, and the product with 0 or 1 gives 0 without any change.
    one = more.constant("one", np.float32(1))
    ratio = more.node("Div", sudden, more.node("Max", gradual, one))
    more.node("Mul", ratio, more.node("Min", gradual, one), out="sharpness")


class _Nodes:
    """Appends nodes to a graph under unique names."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self._graph, self.opset, self._count = graph, opset, 0
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> str:
        """Add a constant, int64, int8 or float32; return its name, a new one if the given name has another value already."""
        given = np.asarray(value).dtype
        kept = np.asarray(value, given if given in (np.int64, np.int8) else np.float32, order="C")
        tensor = numpy_helper.from_array(kept, f"fruits/{name}")
        if (before := self._constants.get(name)) is not None and before != tensor:
            return self._own(kept)
        if before is None:
            self._graph.initializer.append(tensor)
            self._constants[name] = tensor
        return f"fruits/{name}"

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Append a node; return the name of its output."""
        self._count += 1
        out = out or f"fruits/{self._count}"
        self._graph.node.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def named(self, value: str, out: str) -> None:
        """Rename a value; only add a node for it if the last node did not compute the value."""
        last = self._graph.node[-1]
        if list(last.output) == [value]:
            last.output[0] = out
        else:
            self.node("Identity", value, out=out)

    def largest(self, x: str, count: int) -> str:
        """Append the ``count`` largest values along the last axis, in descending order."""
        self._count += 1
        values, places = f"fruits/{self._count}", f"fruits/{self._count} places"
        if self.opset < 10:  # in these opsets, the count is an attribute
            node = helper.make_node("TopK", [x], [values, places], axis=-1, k=count)
        else:
            node = helper.make_node("TopK", [x, self._own(np.array([count], np.int64))], [values, places], axis=-1)
        self._graph.node.append(node)
        return values

    def sum(self, x: str, width: int, *, scale: float = 1.0, out: str = "") -> str:
        """Append the sum over the last axis, times ``scale``: (batch, width) to (batch, 1)."""
        # A product, not ReduceSum, whose signature differs between versions of ONNX.
        return self.node("MatMul", x, self._own(np.full((width, 1), scale, np.float32)), out=out)

    def reduce(self, kind: str, x: str, *, since: int) -> str:
        """Append a reduction of the second axis; from opset ``since`` on, the axis is an input, not an attribute."""
        if self.opset < since:
            return self.node(kind, x, axes=[1], keepdims=1)
        return self.node(kind, x, self._own(np.array([1], np.int64)), keepdims=1)

    def slice(self, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        """Append ``x[start:stop:step]`` along an axis."""
        if self.opset < 10:  # in these opsets, Slice has no step
            return self.node("Gather", x, self._own(np.arange(start, stop, step)), axis=axis)
        return self.node("Slice", x, *(self._own(np.array([value], np.int64)) for value in (start, stop, axis, step)))

    def _own(self, value: NDArray[Any]) -> str:
        self._count += 1
        return self.constant(f"constant {self._count}", value)


def parse(model_bytes: bytes, name: str) -> onnx.ModelProto:
    """Parse and check a model; raise :class:`BackboneError` if it is invalid, has external data or an unsupported opset."""
    refuse_outside(model_bytes, name)
    try:
        model = onnx.load_model_from_string(model_bytes)
        onnx.checker.check_model(model)
    except Exception as exc:  # protobuf and onnx raise unrelated types
        raise BackboneError(f"'{name}' is not a whole ONNX file ({type(exc).__name__}); fetch it again") from exc
    opset = _opset(model)
    if opset < _OLDEST:
        raise BackboneError(
            f"'{name}' is of ONNX opset {opset}; expected {_OLDEST} or newer: convert it (onnx.version_converter)"
        )
    return model


def _opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set, whose domain has two names."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return int(opsets.get("", opsets.get("ai.onnx", 1)))


def rename(graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
    """Rename every value and node of a graph, subgraphs included."""

    def new(name: str) -> str:
        return names.get(name, prefix + name)

    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for value in (*graph.input, *graph.output):
        value.name = new(value.name)
    for node in graph.node:
        if node.name:  # names of nodes are optional but must be unique
            node.name = prefix + node.name
        for values in (node.input, node.output):
            values[:] = [new(value) for value in values]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename(attribute.g, names, prefix)
