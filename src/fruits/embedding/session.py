"""The one place where ONNX Runtime opens a network.

A network is looked through before: what names files outside itself is refused, whoever made it (ONNX Runtime would open any file
that it names, some releases wherever it lies). Knows nothing of cards or of what a network is for.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from fruits.embedding.onnx_file import MAX_BYTES, refuse_outside
from fruits.errors import BackboneError
from fruits.storage.files import read_regular


def open_session(model: bytes | Path) -> ort.InferenceSession:
    """Open an ONNX graph on one thread.

    Raises
    ------
    BackboneError
        If it names files outside itself, or ONNX Runtime cannot open it.
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
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime raises plain subclasses of Exception
        raise BackboneError(
            f"ONNX Runtime cannot open the network ({first_line(exc)}); is the file whole, and does its card fit it?"
        ) from exc


def first_line(exc: BaseException) -> str:
    """Return what an error of ONNX Runtime says first."""
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]
