"""What the makers of embedded networks share: a graph written operator by operator, and its int8 version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

OPSET = 17


class Graph:
    """Collects nodes and weights of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a weight; return its name."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        """Add a node; return the name of its output, which is its own."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return the whole, checked."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, initializer=self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="fruits/training")
        made.ir_version = 8
        onnx.checker.check_model(made, full_check=True)
        return made


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def quantise(
    source: Path, target: Path, calibration: Iterable[np.ndarray], operators: tuple[str, ...] = ("Conv", "Add")
) -> None:
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
        op_types_to_quantize=list(operators),
        extra_options={"ActivationSymmetric": False},
    )
