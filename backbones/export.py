"""A trained network as ONNX: batch norm folded, uint8 pixels in, embeddings out, then quantised to int8.

The graph is written operator by operator, so that what ships is exactly what is read here. Input ``pixels`` is uint8
(batch, height, width, 3), RGB as the decoder hands it over; scaling to [-1, 1] is the first thing the graph does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from torch import nn

from network import EMBEDDING_SIZE, SmallResidualNetwork

OPSET = 17


class _Graph:
    """Collects nodes and weights of the graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x: str, layer: nn.Sequential, name: str) -> str:
        """Append a convolution with its batch norm folded into weight and bias."""
        conv, norm = layer[0], layer[1]
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = (conv.weight * gain[:, None, None, None]).detach().numpy().astype(np.float32)
        bias = (norm.bias - norm.running_mean * gain).detach().numpy().astype(np.float32)
        pad = conv.padding[0]
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.add(
            "Conv", inputs, name, kernel_shape=list(conv.kernel_size), strides=list(conv.stride), pads=[pad] * 4
        )


def to_onnx(network: SmallResidualNetwork) -> onnx.ModelProto:
    """Return the float32 graph of ``network.embed`` on uint8 pixels."""
    g = _Graph()
    x = g.add("Cast", ["pixels"], "as_float", to=TensorProto.FLOAT)
    x = g.add("Mul", [x, g.constant("scale", np.float32([1 / 127.5]))], "scaled")
    x = g.add("Add", [x, g.constant("shift", np.float32([-1.0]))], "centred")
    x = g.add("Transpose", [x], "planar", perm=[0, 3, 1, 2])
    x = g.add("Relu", [g.conv(x, network.stem, "stem")], "stem.relu")
    for s, stage in enumerate(network.stages):
        if stage.down is not None:
            x = g.add("Relu", [g.conv(x, stage.down, f"stage{s}.down")], f"stage{s}.down.relu")
        for b, block in enumerate(stage.blocks):
            name = f"stage{s}.block{b}"
            y = g.add("Relu", [g.conv(x, block.first, f"{name}.first")], f"{name}.first.relu")
            y = g.conv(y, block.second, f"{name}.second")
            x = g.add("Relu", [g.add("Add", [x, y], f"{name}.sum")], f"{name}.relu")
    x = g.add("Relu", [g.conv(x, network.widen, "widen")], "widen.relu")
    x = g.add("GlobalAveragePool", [x], "pooled")
    g.add("Flatten", [x], "embedding", axis=1)
    graph = helper.make_graph(
        g.nodes,
        "fruits-small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", EMBEDDING_SIZE])],
        initializer=g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="fruits/training")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def quantise(source: Path, target: Path, calibration: Iterable[np.ndarray]) -> None:
    """Write the int8 version of ``source``: static, per channel, in QDQ form.

    Weights take 7 bits (``reduce_range``): on processors without VNNI, ``vpmaddubsw`` adds two products into 16 bits and
    saturates with 8-bit weights, so that the same photo would get another embedding on an older machine.
    """
    quantize_static(
        source,
        target,
        _Batches(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=["Conv", "Add"],
        extra_options={"ActivationSymmetric": False},
    )
