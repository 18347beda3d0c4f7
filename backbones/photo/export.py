"""A fine-tuned network as ONNX: uint8 pixels in; embedding and last feature map out.

The graph is written operator by operator, so that what ships is exactly what is read here. Input ``pixels`` is uint8 (batch,
height, width, 3), RGB as the decoder hands it over. ``map`` is what ``embedding`` is the mean of: a linear head applied to each
place of it says how much that place spoke for each label.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from network import EMBEDDING_SIZE, Lite, NormedConv
from onnx_graph import Graph


class _Graph(Graph):
    """With the convolutions of the network."""

    def conv(self, x: str, layer: NormedConv, name: str) -> str:
        weight, bias = layer.folded().detach().numpy(), layer.bias.detach().numpy()
        k, s = layer.kernel, layer.stride
        # Padding "same" depends on the size of the photo where the stride is 2, so the runtime works it out.
        padding = {"auto_pad": "SAME_UPPER"} if s > 1 else {"pads": [k // 2] * 4}
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        y = self.add("Conv", inputs, name, kernel_shape=[k, k], strides=[s, s], group=layer.groups, **padding)
        return self.add("Clip", [y, "zero", "six"], f"{name}.relu6") if layer.clip else y


def to_onnx(network: Lite, name: str) -> onnx.ModelProto:
    """Return the float32 graph of ``network.map`` and ``network.embed`` on uint8 pixels."""
    g = _Graph()
    g.constant("zero", np.float32(0))
    g.constant("six", np.float32(6))
    x = g.add("Cast", ["pixels"], "as_float", to=TensorProto.FLOAT)
    x = g.add("Sub", [x, g.constant("middle", np.float32([127.0]))], "centred")
    x = g.add("Mul", [x, g.constant("scale", np.float32([1 / 128]))], "scaled")
    x = g.add("Transpose", [x], "planar", perm=[0, 3, 1, 2])
    x = g.conv(x, network.stem, "stem")
    for number, block in enumerate(network.blocks):
        at = f"block{number}"
        y = x if block.expand is None else g.conv(x, block.expand, f"{at}.expand")
        y = g.conv(g.conv(y, block.depthwise, f"{at}.depthwise"), block.project, f"{at}.project")
        x = g.add("Add", [x, y], f"{at}.sum") if block.shortcut else y
    x = g.conv(x, network.last, "last")
    g.nodes[-1].output[0] = x = "map"
    x = g.add("GlobalAveragePool", [x], "pooled")
    g.add("Flatten", [x], "embedding", axis=1)
    return g.model(
        name,
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", EMBEDDING_SIZE]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", EMBEDDING_SIZE, "rows", "columns"]),
        ],
    )
