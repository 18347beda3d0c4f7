"""What CONTRIBUTING.md shows of adding a backbone, a head, an engine and a metric, done to the letter."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from fruits.config import RunConfig
from fruits.embedding.backbones import FRUITS_SMALL
from fruits.learning import metrics
from fruits.photos.decoding.images import to_network_input
from fruits.recogniser import bundle as bundles
from fruits.training import pipeline

pytestmark = pytest.mark.slow
TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
BLOCK = re.compile(r"```(python|toml)\n(.*?)```", re.DOTALL)


def shown(module: str) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the code of a module and the entry points that lead to it, as they stand in CONTRIBUTING.md."""
    blocks = BLOCK.findall(TEXT)
    code = next(text for kind, text in blocks if kind == "python" and text.startswith(f"# {module}.py"))
    points = next(text for kind, text in blocks if kind == "toml" and f'"{module}:' in text)
    return code, tomllib.loads(points)["project"]["entry-points"]


@pytest.mark.parametrize("module", ["my_backbone", "my_head", "my_engine"])
def test_each_is_shown_in_few_lines(module: str) -> None:
    code, _ = shown(module)
    lines = [
        line for line in code.splitlines() if line.strip() and not line.lstrip().startswith(("#", "import", "from"))
    ]
    assert len(lines) < 10


def test_backbone_that_is_shown_works(
    install: Callable[..., Path], finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    site = install("my_backbone", *shown("my_backbone"))
    for suffix in (".onnx", ".json"):
        shutil.copy(FRUITS_SMALL.with_suffix(suffix), site / f"my-net{suffix}")
    shutil.copy(FRUITS_SMALL.with_suffix(".seen"), site)
    done = fruits("run", finished_run.photos, "--to", tmp_path / "out", "--backbone", "my-net")
    assert done.code == 0, done.stderr
    assert (
        bundles.load(tmp_path / "out").card.embedding_size
        == json.loads(FRUITS_SMALL.with_suffix(".json").read_text())["embedding_size"]
    )
    assert "my-net: " in fruits("backbones", "list").stdout


def test_head_that_is_shown_works(
    install: Callable[..., Path], finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    install("my_head", *shown("my_head"))
    out = finished_run.copy_to(tmp_path)
    done = fruits("run", finished_run.photos, "--to", out, "--head", "nearest-mean", "--json")
    assert done.code == 0, done.stderr
    record = done.json()
    assert record["head"]["name"] == "nearest-mean"
    assert record["metrics"]["accuracy"] > 0.8
    photos = [path.read_bytes() for path in sorted(finished_run.photos.glob("Test/*/*.jpg"))[::9]]
    bundle = bundles.load(out)
    pixels = np.stack([to_network_input(photo, bundle.preprocessing).pixels for photo in photos])
    session = ort.InferenceSession(out / "bundle" / "recognizer.onnx", providers=["CPUExecutionProvider"])
    (graph,) = session.run(["probabilities"], {"pixels": pixels})
    for row, answer in zip(graph, bundle.recognise(photos), strict=True):
        np.testing.assert_allclose(answer.probabilities, np.sort(row)[::-1][:3], atol=bundles.PROBABILITY_TOLERANCE)
    evaluated = fruits("evaluate", out, "--protocol", "official", "--json").json()["evaluations"][0]
    assert evaluated["head"] == "nearest-mean"
    assert evaluated["protocols"][0]["accuracy"] == pytest.approx(record["metrics"]["accuracy"])


def test_head_that_says_otherwise_in_the_graph_is_refused(
    install: Callable[..., Path], finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    code, points = shown("my_head")
    out = finished_run.copy_to(tmp_path)
    install("my_head", code.replace("self.means.T))", "-self.means.T))"), points)
    done = fruits("run", finished_run.photos, "--to", out, "--head", "nearest-mean")
    assert done.code == 1
    assert "gives other probabilities in the single graph than in logits" in done.stderr
    assert "Traceback" not in done.stderr


def test_engine_that_is_shown_works(
    install: Callable[..., Path], finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    install("my_engine", *shown("my_engine"))
    done = fruits("run", finished_run.photos, "--to", tmp_path / "out", "--engine", "in-order", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["metrics"] == finished_run.record["metrics"]


def test_metric_that_is_shown_is_in_the_record_and_in_the_report(
    finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    code = next(text for kind, text in BLOCK.findall(TEXT) if kind == "python" and "@metric" in text)
    assert len(code.splitlines()) < 10
    exec(code, {"metric": metrics.metric, "np": np})
    out = finished_run.copy_to(tmp_path)
    (out / "run.json").resolve().unlink()
    record = pipeline.run(RunConfig(sources=(str(finished_run.photos),), out=str(out), workers=2))
    added = record["metrics"].pop("balancedAccuracy")
    assert added == pytest.approx(np.mean(list(record["metrics"]["recallByLabel"].values())))
    assert record["metrics"] == finished_run.record["metrics"]
    assert "balancedAccuracy" in (out / "report.html").read_text("utf-8")
