"""The one place where ONNX Runtime opens a network, and what it computes on.

A network is looked through before: what names files outside itself is refused, whoever made it (ONNX Runtime would open any file
that it names, some releases wherever it lies). Knows nothing of cards or of what a network is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from fruits.config import DEVICES
from fruits.embedding.onnx_file import MAX_BYTES, refuse_outside
from fruits.errors import BackboneError, ConfigError
from fruits.storage.files import read_regular

#: ONNX Runtime's name of each device, and its settings. TF32 would round to 10 bits: other numbers than any other device gives.
_PROVIDERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "openvino": ("OpenVINOExecutionProvider", {"device_type": "CPU"}),
}
#: What an extra brings, for whoever asks for a device that is not there.
_EXTRAS: Final = {"cuda": "gpu", "openvino": "openvino"}


def usable_device(wanted: str) -> tuple[str, str]:
    """Return the device that is used where one is wanted, and what to say of it; nothing where it is the one.

    Parameters
    ----------
    wanted : str
        One of ``DEVICES``; ``auto`` takes the first of CUDA and OpenVINO that works here, else the processor.

    Raises
    ------
    ConfigError
        If there is no such device.
    """
    if wanted not in DEVICES:
        raise ConfigError(f"--device {wanted}: expected one of {', '.join(DEVICES)}")
    if wanted == "cpu":
        return "cpu", ""
    tried = [name for name in _EXTRAS if wanted in ("auto", name)]
    for name in tried:
        if _PROVIDERS[name][0] in ort.get_available_providers():
            why = _fault(name)
            if not why:
                return name, ""
            return "cpu", f"{name} is installed and does not work here ({why}): the processor computes"
    if wanted == "auto":
        return "cpu", ""
    return "cpu", f"no {wanted} in this ONNX Runtime: the processor computes; fruits[{_EXTRAS[wanted]}] brings it"


def open_session(model: bytes | Path, device: str = "cpu") -> ort.InferenceSession:
    """Open an ONNX graph on one thread.

    Parameters
    ----------
    model : bytes or Path
    device : str
        As :func:`usable_device` gave it.

    Raises
    ------
    BackboneError
        If it names files outside itself, or ONNX Runtime cannot open it there.
    """
    if isinstance(model, Path):
        try:
            data = read_regular(model, MAX_BYTES, follow=True)
        except OSError as exc:
            raise BackboneError(
                f"network '{model.name}' cannot be read ({exc.strerror}); make or fetch it again"
            ) from exc
        name = model.name
    else:
        data, name = model, "network"
    refuse_outside(data, name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(data, options, providers=_asked(device))
    except Exception as exc:  # ONNX Runtime raises plain subclasses of Exception
        raise BackboneError(
            f"ONNX Runtime cannot open the network ({first_line(exc)}); is the file whole, and does its card fit it?"
        ) from exc
    if session.get_providers()[0] != _PROVIDERS[device][0]:
        # ONNX Runtime goes on with the processor by itself: then some photos would have other numbers than others.
        raise BackboneError(f"{device} does not work on this machine, as it did where the run began; use --device cpu")
    return session


def _asked(device: str) -> list[tuple[str, dict[str, Any]]]:
    return [_PROVIDERS[name] for name in dict.fromkeys((device, "cpu"))]


def _fault(device: str) -> str:
    """Return why a device that is installed does not work; nothing if it does."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - half a second, only where there is such a device

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "probe", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if device == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA's libraries as pip installs them
    try:
        open_session(model.SerializeToString(), device)
    except BackboneError as exc:
        return str(exc)
    return ""


def first_line(exc: BaseException) -> str:
    """Return what an error of ONNX Runtime says first."""
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]
