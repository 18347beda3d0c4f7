"""Opening networks with ONNX Runtime, and selecting the device.

The only module that creates inference sessions. A network with external data is refused, whatever its origin: ONNX Runtime would
open any file that it names, in some releases anywhere on the disk. Independent of cards and of the purpose of a network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

# ONNX Runtime (1.32) keeps an id of the machine in the user's cache folder and sends events of use to its maker, unless this is
# set before it is imported. What people do with their photos is told to nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from fruits.config import DEVICES
from fruits.embedding.graphs.onnx_file import MAX_BYTES, refuse_outside
from fruits.errors import BackboneError, ConfigError, option
from fruits.storage.disk.local import read_plain

if os.environ["ORT_DISABLE_TELEMETRY"] == "1":
    ort.disable_telemetry_events()  # somebody else in this process may have imported it before

#: ONNX Runtime's provider and settings for each device. TF32 is off: it rounds to 10 bits, so results would differ from those of
#: other devices.
_PROVIDERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "openvino": ("OpenVINOExecutionProvider", {"device_type": "CPU"}),
}
#: Device to the extra that provides it, for messages.
_EXTRAS: Final = {"cuda": "gpu", "openvino": "openvino"}


def usable_device(wanted: str) -> tuple[str, str]:
    """Return the device to use for a wanted one, and a message if it is another than the wanted one, else an empty text.

    Parameters
    ----------
    wanted : str
        One of ``DEVICES``; ``auto`` selects the first of CUDA and OpenVINO that works on this machine, else the processor.

    Raises
    ------
    ConfigError
        If there is no such device.
    """
    if wanted not in DEVICES:
        raise ConfigError(f"{option('device', wanted)}: expected one of {', '.join(DEVICES)}")
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
        As returned by :func:`usable_device`.

    Raises
    ------
    BackboneError
        If it has external data, or ONNX Runtime cannot open it on the device.
    """
    if isinstance(model, Path):
        try:
            data = read_plain(model, MAX_BYTES, follow=True)
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
        session = ort.InferenceSession(
            data, options, providers=[_PROVIDERS[name] for name in dict.fromkeys((device, "cpu"))]
        )
    except Exception as exc:  # ONNX Runtime raises plain subclasses of Exception
        raise BackboneError(
            f"ONNX Runtime cannot open the network ({first_line(exc)}); is the file whole, and does its card fit it?"
        ) from exc
    if session.get_providers()[0] != _PROVIDERS[device][0]:
        # ONNX Runtime falls back to the processor silently: then embeddings of one run would come from different devices.
        raise BackboneError(
            f"{device} does not work on this machine, as it did where the run began; use {option('device', 'cpu')}"
        )
    return session


def _fault(device: str) -> str:
    """Return why an installed device does not work; empty if it works."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - half a second, only where there is such a device

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "probe", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if device == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA's libraries installed by pip
    try:
        open_session(model.SerializeToString(), device)
    except BackboneError as exc:
        return str(exc)
    return ""


def first_line(exc: BaseException) -> str:
    """Return the first line of an error message of ONNX Runtime, at most 200 characters."""
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]
