"""What networks are computed on: what is wanted where it works, else the processor and a word."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from fruits.config import RunConfig
from fruits.embedding import session
from fruits.embedding.backbone import computation_id, find_backbone
from fruits.errors import BackboneError, ConfigError
from fruits.recogniser.bundle import load
from fruits.training import pipeline

Save = Callable[..., Path]


class Heard:
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, step: str, total: int | None) -> None: ...
    def advance(self, count: int) -> None: ...
    def note(self, line: str) -> None:
        self.said.append(line)


def test_processor_is_used_where_there_is_nothing_else() -> None:
    assert session.usable_device("cpu") == ("cpu", "")
    assert session.usable_device("auto") == ("cpu", "")


@pytest.mark.parametrize(("wanted", "extra"), [("cuda", "gpu"), ("openvino", "openvino")])
def test_device_that_is_not_there_is_replaced_with_a_word(wanted: str, extra: str) -> None:
    if session._PROVIDERS[wanted][0] in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {wanted}")
    used, word = session.usable_device(wanted)
    assert used == "cpu"
    assert word == f"no {wanted} in this ONNX Runtime: the processor computes; fruits[{extra}] brings it"


def test_device_that_is_installed_and_does_not_work_is_replaced_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As with onnxruntime-gpu on a machine without a driver: the provider is listed, and sessions go on with the processor.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setitem(session._PROVIDERS, "cuda", ("CUDAExecutionProvider", {}))
    for wanted in ("cuda", "auto"):
        used, word = session.usable_device(wanted)
        assert used == "cpu"
        assert word.startswith("cuda is installed and does not work here (")
        assert word.endswith("): the processor computes")


def test_worker_without_the_device_of_the_run_says_so(save_network: Save, networks: Any) -> None:
    model = find_backbone(str(save_network(networks[0]("NHWC", "uint8")))).network
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackboneError, match=r"use device='cpu'|cannot open the network"):
        session.open_session(model, "cuda")


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="device='gpu': expected one of auto, cpu, cuda, openvino"):
        RunConfig(sources=("x",), out="y", device="gpu")


@pytest.mark.slow
def test_run_records_what_it_was_computed_on_and_cost_and_says_what_was_replaced(
    own_photos: Path, tmp_path: Path
) -> None:
    heard = Heard()
    config = RunConfig(
        sources=(str(own_photos),),
        out=str(tmp_path / "out"),
        device="openvino",
        backbone="fruits-small",
        workers=2,
        core_hour_usd=0.36,
    )
    record = pipeline.run(config, progress=heard)
    rate = record["timeline"]["photos_per_s"]
    assert record["timeline"]["usd_per_million"] == pytest.approx(0.36 * 2 / 3600 / rate * 1e6)
    assert "a million photos cost" in (tmp_path / "out/report.html").read_text("utf-8")
    assert (record["config"]["device"], record["backbone"]["device"]) == ("openvino", "cpu")
    assert any("no openvino" in line for line in heard.said)
    bundle = load(tmp_path / "out")
    assert bundle.manifest["about"]["device"] == "cpu"
    assert bundle.computation == computation_id(bundle.card, bundle.preprocessing)
    assert bundle.computation != bundle.computation_on("cuda"), "another device gives other bits"
    applied = pipeline.apply(str(tmp_path / "out"), [str(own_photos)], str(tmp_path / "to"), workers=1, device="cpu")
    assert applied["device"] == "cpu"


def test_using_a_network_leaves_no_trace_of_telemetry(tmp_path: Path) -> None:
    told = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    told |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    code = "import fruits, numpy; fruits.load().predict(numpy.zeros((64, 64, 3), numpy.uint8))"
    subprocess.run([sys.executable, "-c", code], env=told, check=True, timeout=100)
    # ONNX Runtime keeps the machine's id and the events that wait to be sent in the cache folder.
    assert not list(tmp_path.rglob("*onnxruntime*"))
