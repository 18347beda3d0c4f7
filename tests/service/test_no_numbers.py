"""A photo that the network has no usable numbers for is the same rejection in every way; no JSON holds NaN."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from fruits.config import RunConfig
from fruits.training import pipeline

SAID = "no embedding: the network gave numbers that are not finite or beyond 1e+12"


def png(brightness: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (64, 64), (brightness,) * 3).save(out, "PNG")
    return out.getvalue()


def strict(text: str) -> Any:
    """Parse JSON as any other reader would: NaN and infinities are none."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def blind(save_network: Callable[..., Path], networks: Any, own_photos: Path, tmp_path: Path) -> Path:
    """Results of a run whose network has no numbers for dark photos, of which there was one."""
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    model = onnx.load(path)
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["out"], ["most"], axes=[1], keepdims=1),
            helper.make_node("Sub", ["most", "limit"], ["more"]),
            helper.make_node("Sqrt", ["more"], ["root"]),
            helper.make_node("Add", ["out", "root"], ["odd"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(20), "limit"))
    model.graph.output[0].name = "odd"
    path.write_bytes(model.SerializeToString())
    label = min((own_photos / "Training").iterdir())
    (label / "dark.png").write_bytes(png(3))
    out = tmp_path / "blind"
    record = pipeline.run(RunConfig(sources=(str(own_photos),), out=str(out), backbone=str(path), workers=1))
    assert (record["rejected"], record["rejections"][0]["code"]) == (1, "no embedding")
    strict((out / "run.json").read_text("utf-8"))
    return out


def test_photo_without_numbers_is_the_same_rejection_everywhere(
    blind: Path, own_photos: Path, tmp_path: Path, fruits: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    dark, light = tmp_path / "dark.png", min(own_photos.glob("Training/*/*.jpg"))
    dark.write_bytes(png(3))

    pipeline.apply(str(blind), [str(dark), str(light)], str(tmp_path / "to"), workers=1)
    rows = pq.read_table(tmp_path / "to" / "predictions.parquet").sort_by("status").to_pylist()
    assert [(row["status"], row["error"]) for row in rows] == [("ok", None), ("rejected", SAID)]
    assert rows[1]["probability"] is None

    done = fruits("predict", blind, dark, light, "--json")
    assert done.code == 1
    assert [(row["status"], row["error"]) for row in strict(done.stdout)["photos"]] == [
        ("rejected", SAID),
        ("ok", None),
    ]

    service = serve(out=blind)
    answer = service.recognise(dark.read_bytes())
    assert (answer.status_code, strict(answer.text)["error"]["code"]) == (422, "no_embedding")
    assert service.recognise(light.read_bytes()).status_code == 200
    files = [("photo", (name.name, name.read_bytes())) for name in (dark, light)]
    told = strict(service.client.post("/v1/recognise", files=files).text)["photos"]
    assert told[0]["error"]["code"] == "no_embedding"
    assert told[1]["outcome"]
    metrics = service.client.get("/metrics").text
    assert 'fruits_photos_rejected_total{code="no_embedding"} 2.0' in metrics
    assert 'fruits_errors_total{code="no_embedding"} 1.0' in metrics


@pytest.mark.parametrize("brightness", [0, 3, 8])
def test_alone_or_among_others_a_photo_has_the_same_outcome(
    blind: Path, serve: Callable[..., Any], brightness: int
) -> None:
    service = serve(out=blind)
    files = [("photo", (f"{number}.png", png(value))) for number, value in enumerate((brightness, 200, brightness, 90))]
    told = strict(service.client.post("/v1/recognise", files=files).text)["photos"]
    alone = service.recognise(png(brightness))
    assert told[0] == {
        "name": "photo 1",
        "error": {k: v for k, v in alone.json()["error"].items() if k != "request_id"},
    }
    assert ["error" in one for one in told] == [True, False, True, False]
