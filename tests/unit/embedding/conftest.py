"""Tiny networks, made here, whose answers NumPy can give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

#: (channels, d) of the tiny networks: the mean colour times these numbers.
WEIGHTS = np.arange(15, dtype=np.float32).reshape(3, 5) / 10 - 0.4
SCALE, SHIFT = (0.01, 0.02, 0.03), (-0.5, 0.25, 1.0)


def tiny_network(layout: str, dtype: str, *, inputs: int = 1, static: bool = False) -> bytes:
    """Mean of each channel, times WEIGHTS; a network of real framework habits: names such as 'pixels' are taken."""
    batch = 1 if static else "n"
    shape = [batch, 3, "h", "w"] if layout == "NCHW" else [batch, "h", "w", 3]
    kind = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
    names = ["pixels", *(f"more {number}" for number in range(1, inputs))]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["embedding"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("ReduceMean", ["embedding"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "fruits/scale"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(WEIGHTS, "fruits/scale")],
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def answer(pixels: np.ndarray, dtype: str) -> np.ndarray:
    """What a tiny network says of pixels (n, size, size, 3)."""
    values = pixels.astype(np.float64)
    if dtype == "float32":
        values = values * SCALE + SHIFT
    return values.mean(axis=(1, 2)) @ WEIGHTS


@pytest.fixture
def save_network(tmp_path: Path) -> Callable[..., Path]:
    """Write a network and its card; return the path of the network."""

    def save(model: bytes, *, card: bool = True, name: str = "tiny", **changes: Any) -> Path:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model)
        if card:
            values = {
                "name": name,
                "sha256": hashlib.sha256(model).hexdigest(),
                "embedding_size": 5,
                "size": 16,
                "layout": "NHWC",
                "dtype": "uint8",
                "scale": SCALE,
                "shift": SHIFT,
                **changes,
            }
            path.with_suffix(".json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        return path

    return save


@pytest.fixture
def networks() -> Any:
    """The two functions above, for tests that cannot import this file by name."""
    return tiny_network, answer
