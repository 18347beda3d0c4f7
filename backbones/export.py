"""A trained network as ONNX: batch norm folded, uint8 pixels in, embeddings out.

The graph is written operator by operator, so that what ships is exactly what is read here. Input ``pixels`` is uint8
(batch, height, width, 3), RGB as the decoder hands it over; scaling to [-1, 1] is the first thing the graph does.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from network import EMBEDDING_SIZE, SmallResidualNetwork
from onnx_graph import Graph


class _Graph(Graph):
    """With the convolutions of the network."""

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
    return g.model(
        "fruits-small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", EMBEDDING_SIZE])],
    )
