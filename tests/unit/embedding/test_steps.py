"""Preprocessing as a list of steps: the same card, the same graph and the same pixels as its fields say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from fruits.embedding.backbone import Embedder, computation_id, find_backbone
from fruits.embedding.card import Card, parse_card, read_card
from fruits.embedding.graphs.graph import with_pixel_input
from fruits.errors import BackboneError
from fruits.photos.decoding.images import Preprocessing

numbers = st.floats(-1e6, 1e6, allow_nan=False)
three = st.tuples(numbers, numbers, numbers)
OWN = ("fit", "kernel", "channels", "dtype", "scale", "shift", "layout")


@given(
    st.fixed_dictionaries(
        {
            "fit": st.sampled_from(["pad", "crop", "squash"]),
            "kernel": st.sampled_from(["bilinear", "bicubic", "lanczos"]),
            "channels": st.sampled_from(["RGB", "BGR"]),
            "layout": st.sampled_from(["NHWC", "NCHW"]),
            "scale": three,
            "shift": three,
        }
    ),
    st.sampled_from(["float32", "uint8"]),
)
def test_card_that_lists_its_steps_is_the_card_that_has_the_fields(fields: dict[str, Any], dtype: Any) -> None:
    if dtype == "uint8":  # takes pixels as they are
        del fields["scale"], fields["shift"]
    card = Card(name="a", sha256="", embedding_size=4, size=32, dtype=dtype, **fields)
    same = parse_card({"name": "a", "sha256": "", "embedding_size": 4, "size": 32, "steps": list(card.steps)})
    assert same == card
    assert same.steps == card.steps
    preprocessing = card.preprocessing(32, None)
    assert computation_id(same, preprocessing) == computation_id(card, preprocessing)
    assert card.steps[:3] == preprocessing.steps


@pytest.mark.parametrize(("layout", "dtype", "channels"), [("NCHW", "float32", "BGR"), ("NHWC", "float32", "RGB")])
def test_network_of_a_card_with_steps_is_prepared_to_the_same_bytes(
    save_network: Any, networks: Any, layout: str, dtype: str, channels: str
) -> None:
    network = networks[0](layout, dtype)
    path: Path = save_network(network, layout=layout, dtype=dtype, channels=channels)
    before = find_backbone(str(path))
    values = json.loads(path.with_suffix(".json").read_text("utf-8"))
    fields = {name: value for name, value in values.items() if name not in OWN} | {"steps": list(before.card.steps)}
    path.with_suffix(".json").write_text(json.dumps(fields), "utf-8")
    after = find_backbone(str(path))
    assert after.card == before.card
    assert with_pixel_input(network, after.card, 16) == with_pixel_input(network, before.card, 16)


@pytest.mark.parametrize(
    "numbers_of_channels", [((0.017, 0.018, 0.0175), (-2.1, -2.0, -1.8)), ((1 / 127.5,) * 3, (-1.0,) * 3)]
)
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_graph_computes_the_steps_to_the_last_bit(layout: Any, channels: Any, numbers_of_channels: Any) -> None:
    scale, shift = numbers_of_channels
    card = Card(
        name="a", sha256="", embedding_size=192, size=8, layout=layout, channels=channels, scale=scale, shift=shift
    )
    shape = ["n", 3, 8, 8] if layout == "NCHW" else ["n", 8, 8, 3]
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 192])],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    prepared = with_pixel_input(network.SerializeToString(), card, 8)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    given = pixels[..., ::-1] if channels == "BGR" else pixels
    expected = given.astype(np.float32) * np.float32(scale) + np.float32(shift)
    expected = expected.transpose(0, 3, 1, 2) if layout == "NCHW" else expected
    np.testing.assert_array_equal(Embedder(prepared).embed(pixels), expected.reshape(5, -1))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["orient", "srgb", "resize:pad:bicubic"], "'srgb' is unknown or out of order"),
        (["srgb", "orient"], "steps lack resize"),
        ([], "steps lack srgb, orient, resize"),
        (["srgb", "orient", "resize:pad:bicubic", "blur:3"], "'blur:3' is unknown or out of order"),
        (["srgb", "orient", "resize:fill:bicubic"], "'resize:fill:bicubic' is unknown"),
        (["srgb", "orient", "resize:pad:bicubic", "scale:1,1,1"], "steps lack float"),
        (["srgb", "orient", "resize:pad:bicubic", "float", "scale:1,1"], "'scale:1,1' is unknown"),
        (["srgb", "orient", "resize:pad:bicubic", "float", "scale:1,1,1.2.3"], "could not convert"),
        (["srgb", "srgb", "orient", "resize:pad:bicubic"], "'srgb' is unknown or out of order"),
        (["srgb", 3], "'3' is unknown"),
        ("srgb", "expected a list"),
    ],
    ids=str,
)
def test_steps_that_cannot_be_are_refused_with_those_that_can(steps: Any, said: str, tmp_path: Path) -> None:
    values = {"name": "a", "sha256": "", "embedding_size": 4, "size": 32, "steps": steps}
    (tmp_path / "card.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(BackboneError, match=f"card of 'a': .*{said}"):
        read_card(tmp_path / "card.json")


def test_steps_and_fields_together_are_refused() -> None:
    steps = ["srgb", "orient", "resize:pad:bicubic"]
    values = {"name": "a", "sha256": "", "embedding_size": 4, "size": 32, "steps": steps, "fit": "crop"}
    with pytest.raises(BackboneError, match="fit and steps say the same"):
        parse_card(values)


def test_single_graph_names_its_steps(finished_run: Any) -> None:
    session = ort.InferenceSession(finished_run.out / "bundle" / "recognizer.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    preprocessing = Preprocessing(**json.loads(about["fruits.preprocessing"]))
    assert json.loads(about["fruits.steps"])[:3] == list(preprocessing.steps)
    assert asdict(preprocessing).keys() == {"size", "fit", "kernel"}  # what bundles of before have, too
