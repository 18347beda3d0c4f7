"""The single graph that browsers run: nothing in it may depend on how a processor rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fruits.config import RunConfig
from fruits.recogniser import bundle
from fruits.training import pipeline


def _outputs(model: onnx.ModelProto, name: str, pixels: np.ndarray) -> np.ndarray:
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], {"pixels": pixels})[0])


@pytest.fixture(scope="module")
def small_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of fruits-small, which rounds pixels; the default network takes each of the 256 values as it is."""
    out = tmp_path_factory.mktemp("small") / "results"
    pipeline.run(RunConfig(sources=(str(photos),), out=str(out), workers=2, backbone="fruits-small"))
    return out / "bundle"


@pytest.mark.slow
def test_what_a_quantised_network_does_to_single_pixels_is_a_table(small_run: Path) -> None:
    folder = small_run
    graph = onnx.load(folder / "recognizer.onnx").graph
    tables = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert tables["fruits/pixel_table"].shape == (768,)
    assert tables["fruits/pixel_table"].dtype == np.uint8
    (gather,) = [node for node in graph.node if "fruits/pixel_table" in node.input]
    size = bundle.load(folder).preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    ours, batch = (
        _outputs(onnx.load(folder / name), gather.output[0], pixels) for name in ("recognizer.onnx", "backbone.onnx")
    )
    np.testing.assert_array_equal(ours, batch)
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used, "what the table replaces is gone"


@pytest.mark.slow
def test_every_output_is_the_same_however_much_the_runtime_fuses(small_run: Path) -> None:
    """A browser's runtime fuses other operations; before the table, probabilities moved by up to 0.06."""
    path = small_run / "recognizer.onnx"
    size = bundle.load(path.parent).preprocessing.size
    pixels = np.random.default_rng(1).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    found = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found.append(session.run(["probabilities"], {"pixels": pixels})[0])
    assert np.abs(found[0] - found[1]).max() < 0.01
