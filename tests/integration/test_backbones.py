"""``fruits backbones``: networks from a hub, pinned, checked and kept; what is listed; and runs that start from them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from fruits.cli.backbones import _pixels
from fruits.embedding.backbone import Embedder, find_backbone, probes
from fruits.embedding.sources.export import export
from fruits.embedding.sources.hub import pixels_of
from fruits.embedding.sources.published import save
from fruits.errors import BackboneError
from fruits.photos.decoding.images import Preprocessing

Fruits = Callable[..., Any]
D, SIDE = 6, 16
SETTINGS = {
    "do_normalize": True, "do_rescale": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2],
    "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": 20}, "resample": 3,
}  # fmt: skip


def network(*, more_outputs: bool = True) -> bytes:
    """What transformers export: planar float32 pixels, a feature map and what is pooled from it."""
    weights = np.random.default_rng(0).normal(size=(D, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["last_hidden_state"]),
        helper.make_node("GlobalAveragePool", ["last_hidden_state"], ["pooler_output"]),
    ]
    outputs = [helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["n", D, 1, 1])]
    if more_outputs:
        outputs.insert(0, helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", D, "r", "c"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, "h", "w"])], outputs,
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub of our own, and nothing of the machine's caches."""
    server = runpy.run_path(str(Path(__file__).parents[1] / "hub_server.py"))["HubServer"]()
    server.repositories["someone/net"] = {
        "model.onnx": network(),
        "preprocessor_config.json": json.dumps(SETTINGS).encode(),
    }
    server.card_data["someone/net"] = {"license": "apache-2.0", "datasets": ["imagenet-1k"]}
    with server:
        for name, value in {
            "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hf"), "XDG_DATA_HOME": str(tmp_path / "data"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield server


def test_network_is_pulled_at_a_pinned_revision_with_a_card_of_what_the_repository_says(
    hub: Any, fruits: Fruits
) -> None:
    done = fruits("backbones", "pull", "hf:someone/net", "--json")
    assert done.code == 0, done.stderr
    told = done.json()
    commit = hub.commit("someone/net")
    assert told["source"] == f"hf:someone/net/model.onnx@{commit}"
    found = find_backbone("net")
    card = found.card
    assert (card.size, card.layout, card.dtype, card.fit, card.kernel) == (SIDE, "NCHW", "float32", "crop", "bicubic")
    np.testing.assert_allclose(card.scale, 1 / (255 * np.array([0.5, 0.25, 0.2])))
    np.testing.assert_allclose(card.shift, [-1, -1.6, -1.5])
    assert (card.licence, card.training_data, card.embedding_size) == ("apache-2.0", "imagenet-1k", D)
    assert told["sha256"] == card.sha256 == hashlib.sha256(found.network).hexdigest()
    listed = fruits("backbones", "list", "--json").json()["backbones"]
    assert [row["name"] for row in listed][-1] == "net"
    assert [row["default"] for row in listed].count(True) == 1

    asked = len(hub.asked)
    again = fruits("backbones", "pull", told["source"], "--json")
    assert (again.code, again.json()) == (0, told)
    assert len(hub.asked) == asked, "a pinned network that is there needs no hub"


def test_pulled_network_says_what_its_own_graph_says_and_a_run_starts_from_it(
    hub: Any, fruits: Fruits, own_photos: Path, tmp_path: Path
) -> None:
    assert fruits("backbones", "pull", "hf:someone/net", "--name", "mine").code == 0
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    given = pixels.astype(np.float32) / 255
    given = ((given - SETTINGS["image_mean"]) / SETTINGS["image_std"]).astype(np.float32).transpose(0, 3, 1, 2)
    expected = ReferenceEvaluator(onnx.load_from_string(network())).run(["pooler_output"], {"pixel_values": given})
    embedded = Embedder(find_backbone("mine").prepared(Preprocessing(SIDE))).embed(pixels)
    np.testing.assert_allclose(embedded, expected[0][:, :, 0, 0], rtol=1e-4, atol=1e-4)
    done = fruits("run", own_photos, "--to", tmp_path / "out", "--backbone", "mine", "--workers", 1, "--json")
    assert done.code == 0, done.stderr
    assert done.json()["embedding_size"] == D
    both = fruits("run", own_photos, "--to", tmp_path / "two", "--backbone", "mine+mine", "--workers", 1, "--json")
    assert (both.code, both.json()["embedding_size"]) == (0, 2 * D)


def test_weights_beside_a_network_on_the_hub_are_taken_in(hub: Any, fruits: Fruits, tmp_path: Path) -> None:
    model = onnx.load_from_string(network())
    tensor = model.graph.initializer[0]
    values = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx_data")
    files = hub.repositories["someone/net"]
    files["onnx/model.onnx"] = model.SerializeToString()
    del files["model.onnx"]
    missing = fruits("backbones", "pull", "hf:someone/net")
    assert missing.code == 1
    assert "keeps weights in 'model.onnx_data', which is not in the repository" in missing.stderr
    files["onnx/model.onnx_data"] = values
    assert fruits("backbones", "pull", "hf:someone/net/onnx/model.onnx", "--to", tmp_path / "here").code == 0
    assert find_backbone(str(tmp_path / "here/net.onnx")).card.embedding_size == D


def test_another_file_than_announced_or_known_is_refused(hub: Any, fruits: Fruits, tmp_path: Path) -> None:
    known = hashlib.sha256(network()).hexdigest()
    assert fruits("backbones", "pull", "hf:someone/net", "--sha256", known, "--to", tmp_path / "good").code == 0
    done = fruits("backbones", "pull", "hf:someone/net", "--sha256", "0" * 64, "--to", tmp_path / "other")
    assert (done.code, "another file than the one you know" in done.stderr) == (1, True)
    hub.announced["model.onnx"] = "1" * 64
    done = fruits("backbones", "pull", "hf:someone/net", "--to", tmp_path / "third")
    assert (done.code, "is not the file that the hub announced" in done.stderr) == (1, True)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "third").exists()


def test_choices_count_for_a_network_that_was_pulled_before(hub: Any, fruits: Fruits, tmp_path: Path) -> None:
    pinned = fruits("backbones", "pull", "hf:someone/net", "--json").json()["source"]
    wrong = fruits("backbones", "pull", pinned, "--sha256", "0" * 64)
    assert (wrong.code, "another file than the one you know" in wrong.stderr) == (1, True)
    named = fruits("backbones", "pull", pinned, "--name", "mine", "--json").json()
    assert Path(named["file"]).name == "mine.onnx"
    assert find_backbone("mine").card.source == pinned
    (tmp_path / "card.json").write_text(json.dumps({"fit": "squash"}))
    assert fruits("backbones", "pull", pinned, "--card", tmp_path / "card.json").code == 0
    assert find_backbone("net").card.fit == "squash"


def test_offline_what_was_pulled_is_used_and_nothing_is_asked(
    hub: Any, fruits: Fruits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = fruits("backbones", "pull", "hf:someone/net")
    assert (done.code, hub.asked) == (1, [])
    assert "was not pulled before, and HF_HUB_OFFLINE is set" in done.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    first = fruits("backbones", "pull", "hf:someone/net", "--json").json()
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fruits("backbones", "pull", "hf:someone/net", "--json").json() == first
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf:someone/nothing", "cannot be fetched from http://127.0.0.1"),
        ("hf:someone/net@0123456789", "cannot be fetched from http://127.0.0.1"),
        ("hf:someone/net/other.onnx", "has no other.onnx; its networks: model.onnx"),
        ("someone/net", "is no address; expected hf:owner/name"),
        ("hf:../net", "is no address"),
    ],
)
def test_what_cannot_be_pulled_is_told_in_a_sentence(hub: Any, fruits: Fruits, address: str, said: str) -> None:
    done = fruits("backbones", "pull", address)
    assert done.code == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_hub_that_is_gone_is_told_in_a_sentence(hub: Any, fruits: Fruits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = fruits("backbones", "pull", "hf:someone/net")
    assert done.code == 1
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_repository_that_does_not_say_its_pixels_needs_a_card(hub: Any, fruits: Fruits, tmp_path: Path) -> None:
    del hub.repositories["someone/net"]["preprocessor_config.json"]
    done = fruits("backbones", "pull", "hf:someone/net")
    assert (done.code, "does not say how its pixels are prepared; give --card" in done.stderr) == (1, True)
    (tmp_path / "card.json").write_text(
        json.dumps({"size": SIDE, "scale": [1 / 255] * 3, "shift": [0, 0, 0], "fit": "pad"})
    )
    assert fruits("backbones", "pull", "hf:someone/net", "--card", tmp_path / "card.json").code == 0
    assert find_backbone("net").card.fit == "pad"


@pytest.mark.parametrize(
    "change", [{"scale": [1 / 255] * 3}, {"channels": "BGR"}, {"layout": "NHWC"}, {"shift": [0, 0, 0]}]
)
def test_card_that_was_changed_is_caught_on_known_pixels(
    hub: Any, fruits: Fruits, own_photos: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert fruits("backbones", "pull", "hf:someone/net").code == 0
    card = tmp_path / "data/fruits/backbones/net.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    done = fruits("run", own_photos, "--to", tmp_path / "out", "--backbone", "net", "--workers", 1)
    assert done.code == 1
    assert "does not say of known pixels what its card says" in done.stderr or "check size and layout" in done.stderr


@pytest.mark.parametrize("name", ["fruits-photo", "fruits-small"])
def test_networks_that_ship_are_held_to_known_pixels(name: str) -> None:
    found = find_backbone(name)
    size = found.card.reference["size"]
    preprocessing = found.card.preprocessing(size, None)
    assert Embedder(found.prepared(preprocessing)).embed(probes(size)).shape == (5, found.card.embedding_size)
    with pytest.raises(BackboneError, match="does not say of known pixels what its card says"):
        replace(found, card=replace(found.card, channels="BGR")).prepared(preprocessing)


@pytest.mark.parametrize(
    ("settings", "size", "fit", "kernel"),
    [
        ({**SETTINGS, "do_center_crop": False, "size": {"height": 20, "width": 20}}, 20, "squash", "bicubic"),
        ({**SETTINGS, "do_center_crop": False, "size": {"shortest_edge": 20}, "resample": 2}, 20, "crop", "bilinear"),
        ({"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "size": 20}, 20, "squash", "bilinear"),
        ({"pretrained_cfg": {"input_size": [3, 20, 20], "mean": [0] * 3, "std": [1] * 3}}, 20, "crop", "bicubic"),
    ],
)  # fmt: skip
def test_what_repositories_say_of_pixels_is_understood(
    settings: dict[str, Any], size: int, fit: str, kernel: str
) -> None:
    found = pixels_of([{"model_type": "resnet"}, settings])
    assert (found["size"], found["fit"], found["kernel"]) == (size, fit, kernel)
    assert len(found["scale"]) == len(found["shift"]) == 3


def test_photos_unlike_those_that_the_network_was_made_from_are_warned_of(tmp_path: Path, fruits: Fruits) -> None:
    rng = np.random.default_rng(0)
    for label, colour in (("Plum", (90, 30, 90)), ("Lime", (90, 200, 40))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(rng.integers(20, 120, (80, 80, 3), dtype=np.uint8))
            image.paste(colour, (20, 20, 60 + number, 60))
            image.save(tmp_path / "photos" / label / f"{number}.png")
    done = fruits("run", tmp_path / "photos", "--to", tmp_path / "out", "--workers", 1, "--backbone", "fruits-small")
    assert done.code == 0, done.stderr
    said = "24 of 24 photos looked at: not on white. fruits-small was made from photos on white"
    assert said in done.stderr.replace("\n", " ")
    (warning,) = json.loads((tmp_path / "out/run.json").read_text("utf-8"))["warnings"]
    assert said in warning
    assert "fruits backbones export efficientnet-lite0" in warning or "--backbone fruits-photo" in warning


def test_photos_on_white_are_warned_of_by_nobody(finished_run: Any) -> None:
    assert finished_run.record["warnings"] == []


@pytest.mark.parametrize("variant", ["0", "2"])
def test_exported_network_says_what_torch_says(variant: str, photos: Path, tmp_path: Path, fruits: Fruits) -> None:
    pytest.importorskip("torch", reason="torch is not installed: fruits[train]")
    name = f"efficientnet-lite{variant}"
    done = fruits("backbones", "export", name, "--photos", photos, "--to", tmp_path / "own", "--json")
    assert done.code == 0, done.stderr
    card = find_backbone(str(tmp_path / "own" / f"{name}.onnx")).card
    assert (card.embedding_size, card.layout, card.licence) == (1280, "NCHW", "Apache-2.0")


def test_network_of_timm_says_what_torch_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights stand in for the published ones, which need the network."""
    torch = pytest.importorskip("torch", reason="torch is not installed: fruits[train]")
    timm = pytest.importorskip("timm", reason="timm is not installed")
    create = timm.create_model

    def without_download(name: str, *, pretrained: bool, num_classes: int) -> Any:
        assert (pretrained, num_classes) == (True, 0)
        torch.manual_seed(0)
        return create(name, pretrained=False, num_classes=0)

    monkeypatch.setattr(timm, "create_model", without_download)
    found, apart = export("timm:mobilenetv3_small_050")
    assert apart < 1e-3
    assert (found.card.embedding_size, found.card.size, found.card.layout) == (1024, 224, "NCHW")
    assert (found.card.fit, found.card.kernel, found.card.licence) == ("crop", "bicubic", "apache-2.0")
    np.testing.assert_allclose(found.card.scale, 1 / 255 / np.array([0.229, 0.224, 0.225]), rtol=1e-6)
    kept = find_backbone(str(save(found, tmp_path)))
    assert kept.card.source == "timm:mobilenetv3_small_050"
    assert kept.prepared(kept.card.preprocessing(224, None))
    with pytest.raises(BackboneError, match="timm cannot make 'no_such_network'"):
        export("timm:no_such_network")


def test_export_without_torch_names_the_extra(fruits: Fruits, tmp_path: Path) -> None:
    if importlib.util.find_spec("torch"):
        pytest.skip("torch is installed")
    done = fruits("backbones", "export", "efficientnet-lite0", "--to", tmp_path)
    assert (done.code, "needs torch; install the extra: fruits[train]" in done.stderr) == (1, True)


def test_network_that_cannot_be_exported_is_told_what_can(fruits: Fruits, tmp_path: Path) -> None:
    done = fruits("backbones", "export", "efficientnet-lite7", "--to", tmp_path)
    assert (
        done.code,
        "expected efficientnet-lite0, efficientnet-lite1, efficientnet-lite2, or timm:NAME" in done.stderr,
    ) == (1, True)


def test_what_is_no_photo_among_those_to_compare_on_is_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "good.jpg")
    (tmp_path / "words.png").write_bytes(b"words")
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(1 << 36)
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    assert _pixels(tmp_path, SIDE).shape == (1, SIDE, SIDE, 3)
    (tmp_path / "good.jpg").unlink()
    with pytest.raises(BackboneError, match="expected JPEG, PNG or WebP that open"):
        _pixels(tmp_path, SIDE)
