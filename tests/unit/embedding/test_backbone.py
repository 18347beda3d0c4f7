"""Networks and their cards: found, checked, and given one input."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fruits.config import DEFAULT_BACKBONE
from fruits.embedding import backbone
from fruits.embedding.backbone import Embedder, computation_id, find_backbone, training_photos
from fruits.embedding.card import Card, parse_card, read_card
from fruits.errors import BackboneError
from fruits.photos.decoding.images import Preprocessing
from fruits.storage.tables import schemas

GOOD = {"name": "tiny", "sha256": "0" * 64, "embedding_size": 5, "size": 16}
SIXTEEN = Preprocessing(16)
ACTUAL = backbone.releases()

Save = Callable[..., Path]


def pixels(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


# --- Cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "HWC"},
        {"dtype": "float16"},
        {"scale": [1, 2]},
        {"shift": []},
        {"scale": "abc"},
        {"size": 7},
        {"size": 4096},
        {"size": [224, 96]},
        {"size": [96, 128, 224]},
        {"size": "100"},
        {"fit": "fill"},
        {"kernel": "nearest"},
        {"colour": "red"},
        {"embedding_size": 0},
        {"embedding_size": "256"},
    ],
    ids=str,
)
def test_impossible_card_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BackboneError):
        parse_card({**GOOD, **change})


@pytest.mark.parametrize("field", GOOD)
def test_card_that_lacks_a_field_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(BackboneError, match=field):
        parse_card({name: value for name, value in GOOD.items() if name != field})


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "3", '"card"'])
def test_card_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(BackboneError, match="card"):
        read_card(tmp_path / "card.json")


@pytest.mark.parametrize(
    ("card_size", "asked", "photo_side", "size"),
    [
        (100, None, None, 100),
        (100, None, 348, 100),
        (100, 64, 348, 64),
        ((96, 224), None, None, 224),
        ((96, 224), None, 50, 96),
        ((96, 224), None, 100, 100),
        ((96, 224), None, 4000, 224),
        ((96, 224), 64, 4000, 64),
    ],
)
def test_size_is_the_users_else_the_cards_else_that_of_the_photos(
    card_size: Any, asked: int | None, photo_side: int | None, size: int
) -> None:
    card = Card(name="tiny", sha256="", embedding_size=5, size=card_size)
    assert card.preprocessing(asked, None, photo_side).size == size


def test_fit_is_the_users_else_the_cards() -> None:
    card = Card(name="tiny", sha256="", embedding_size=5, size=16, fit="crop", kernel="lanczos")
    assert card.preprocessing(None, None) == Preprocessing(16, "crop", "lanczos")
    assert card.preprocessing(None, "squash") == Preprocessing(16, "squash", "lanczos")


def test_computation_changes_with_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(name="tiny", sha256="0" * 64, embedding_size=5, size=16)
    before = computation_id(card, SIXTEEN)
    monkeypatch.setattr(backbone, "DECODER", 10**6)
    assert computation_id(card, SIXTEEN) != before


def test_computation_changes_with_all_that_changes_an_embedding_and_with_nothing_else() -> None:
    card = Card(name="tiny", sha256="0" * 64, embedding_size=5, size=16)
    same = replace(card, name="other", title="Other", licence="MIT", figures={"accuracy": 1})
    assert computation_id(card, SIXTEEN) == computation_id(same, SIXTEEN)
    others = [
        computation_id(replace(card, sha256="1" * 64), SIXTEEN),
        computation_id(replace(card, layout="NHWC"), SIXTEEN),
        computation_id(replace(card, scale=(1.0, 1.0, 1.0)), SIXTEEN),
        computation_id(replace(card, shift=(0.0, 0.0, 0.0)), SIXTEEN),
        computation_id(card, Preprocessing(17)),
        computation_id(card, Preprocessing(16, "crop")),
        computation_id(card, Preprocessing(16, "pad", "lanczos")),
    ]
    assert len({computation_id(card, SIXTEEN), *others}) == len(others) + 1


def test_all_that_can_change_a_bit_of_an_embedding_is_part_of_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside network, card and preprocessing: who decodes and scales, who measures, who computes the network."""
    card = Card(name="tiny", sha256="0" * 64, embedding_size=5, size=16)
    assert set(backbone.releases()) == {"numpy", "onnxruntime", "pillow", "pillow-heif"}
    known = {computation_id(card, SIXTEEN)}
    for package, release in backbone.releases().items():
        with monkeypatch.context() as changed:
            changed.setattr(backbone, "releases", lambda new={package: f"{release}.1"}: {**ACTUAL, **new})
            known.add(computation_id(card, SIXTEEN))
    for module, name, value in ((backbone, "DECODER", -1), (schemas, "VERSION", -1)):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            known.add(computation_id(card, SIXTEEN))
    known.add(computation_id(replace(card, output="features"), SIXTEEN))
    assert len(known) == 8


def test_embeddings_of_an_older_schema_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(name="tiny", sha256="0" * 64, embedding_size=5, size=16)
    now = computation_id(card, SIXTEEN)
    monkeypatch.setattr(schemas, "VERSION", 1)  # without brightness and sharpness
    assert computation_id(card, SIXTEEN) != now


# --- What a network was made from -------------------------------------------------------------------------------------


def listed(path: Path, photos: list[bytes]) -> None:
    """Write a list of training photos."""
    known = sorted(int.from_bytes(hashlib.sha256(photo).digest()[:8], "big") for photo in photos)
    np.array(known, ">u8").tofile(path)


def test_training_photos_are_read_from_beside_the_network(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), training_photos="tiny.seen")
    listed(path.with_suffix(".seen"), [b"one", b"two"])
    known = training_photos(find_backbone(str(path)).card, str(path))
    assert known is not None
    assert int(hashlib.sha256(b"two").hexdigest()[:16], 16) in known.tolist()
    assert len(known) == 2


def test_list_of_a_network_made_anew_is_its_own_not_that_of_the_package(
    save_network: Save, networks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), training_photos="fruits-small.seen")
    card = find_backbone(str(path)).card
    with pytest.raises(BackboneError, match=r"names 'fruits-small\.seen' as the list of its training photos"):
        training_photos(card, str(path))
    listed(path.with_name("fruits-small.seen"), [b"one", b"two"])
    own = tmp_path / "data" / "fruits" / "backbones"
    own.mkdir(parents=True)
    for file in (path, path.with_suffix(".json"), path.with_name("fruits-small.seen")):
        shutil.copy(file, own)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in (str(path), path.stem):
        known = training_photos(card, name)
        assert known is not None
        assert len(known) == 2, name


def test_copy_of_a_network_of_the_package_has_its_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(find_backbone("fruits-small").network)
    known = training_photos(find_backbone(str(path)).card, str(path))
    assert known is not None
    assert len(known) == 19_312


def test_network_whose_card_names_no_list_is_not_checked(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"))
    assert training_photos(find_backbone(str(path)).card, str(path)) is None


def test_list_that_the_card_names_and_that_is_gone_is_asked_for(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), training_photos="../../etc/gone.seen")
    with pytest.raises(BackboneError, match=r"names '../../etc/gone.seen' as the list of its training photos"):
        training_photos(find_backbone(str(path)).card, str(path))


@pytest.mark.parametrize(("name", "photos"), [("fruits-small", 19_312), ("fruits-photo", 33_130)])
def test_list_of_an_embedded_network_is_whole_sorted_and_without_second_mentions(name: str, photos: int) -> None:
    known = training_photos(find_backbone(name).card, name)
    assert known is not None
    assert (known.dtype, len(known)) == (np.uint64, photos)
    assert (known[1:] > known[:-1]).all()


# --- Finding ----------------------------------------------------------------------------------------------------------


def test_embedded_backbone_is_whole_and_does_what_its_card_says() -> None:
    found = find_backbone(DEFAULT_BACKBONE)
    preprocessing = found.card.preprocessing(None, None)
    embedding = Embedder(found.prepared(preprocessing)).embed(pixels(2, preprocessing.size))
    assert embedding.shape == (2, found.card.embedding_size)
    assert np.isfinite(embedding).all()
    assert (embedding[0] != embedding[1]).any()


def test_large_photos_are_computed_a_few_at_a_time_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(find_backbone("fruits-small").prepared(Preprocessing(100)))
    photos, whole, counts = pixels(32, 100), embedder._run, []

    def run(some: np.ndarray) -> np.ndarray:
        counts.append(len(some))
        return whole(some)

    monkeypatch.setattr(embedder, "_run", run)
    np.testing.assert_array_equal(embedder.embed(photos), whole(photos))
    assert sum(counts) == 32
    assert max(counts) * 100 * 100 <= 100_000
    counts.clear()
    small = embedder.embed(pixels(32, 32))
    assert (small.shape[0], counts) == (32, [32])


def test_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BackboneError, match=f"no backbone 'resnet'; expected one of .*{DEFAULT_BACKBONE}"):
        find_backbone("resnet")


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + "+a", "x" * 5000 + ".onnx", "\udcff", ""])
def test_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(BackboneError, match=r"no backbone|cannot be read"):
        find_backbone(name)


def test_backbone_file_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BackboneError, match="cannot be read"):
        find_backbone("/nowhere/at/all.onnx")


def test_file_that_is_not_the_one_its_card_names_is_refused(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="1" * 64)
    with pytest.raises(BackboneError, match="its card names 111111111111"):
        find_backbone(str(path))


def test_card_without_a_checksum_takes_that_of_the_file(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    assert len(find_backbone(str(path)).card.sha256) == 64


def test_file_without_a_card_is_refused_with_an_example_that_works_once_completed(
    save_network: Save, networks: Any
) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), card=False)
    with pytest.raises(BackboneError, match="has no card") as caught:
        find_backbone(str(path))
    text = str(caught.value)
    example = json.loads(text[text.index("{") :])
    path.with_suffix(".json").write_text(
        json.dumps({**example, "embedding_size": 5, "size": 16, "layout": "NHWC", "dtype": "uint8"})
    )
    assert find_backbone(str(path)).prepared(SIXTEEN)


def test_known_network_needs_no_card_beside_it(shared: Path) -> None:
    found = find_backbone(str(shared / "backbones" / "mobilenet_v2_imagenet.onnx"))
    assert (found.card.embedding_size, found.card.layout) == (1280, "NCHW")


# --- Preparing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_prepared_network_gives_what_numpy_gives(save_network: Save, networks: Any, layout: str, dtype: str) -> None:
    tiny_network, answer = networks
    path = save_network(tiny_network(layout, dtype), layout=layout, dtype=dtype)
    photos = pixels(7)
    embedding = Embedder(find_backbone(str(path)).prepared(SIXTEEN)).embed(photos)
    assert embedding.dtype == np.float32
    # float32 means of 256 pixels of up to 255: 7 digits of numbers up to 255.
    np.testing.assert_allclose(embedding, answer(photos, dtype), atol=1e-3, rtol=1e-5)


def test_prepared_network_takes_pixels_by_that_name_and_any_number_of_photos(save_network: Save, networks: Any) -> None:
    found = find_backbone(str(save_network(networks[0]("NHWC", "uint8"))))
    session = backbone.open_session(found.prepared(SIXTEEN))
    (only,) = session.get_inputs()
    assert (only.name, only.type, only.shape[1:]) == ("pixels", "tensor(uint8)", [16, 16, 3])
    assert [output.name for output in session.get_outputs()] == ["embedding"]
    for n in (1, 5, 33):
        assert session.run(None, {"pixels": pixels(n)})[0].shape == (n, 5)


def test_network_with_two_inputs_is_refused(save_network: Save, networks: Any) -> None:
    found = find_backbone(str(save_network(networks[0]("NHWC", "uint8", inputs=2))))
    with pytest.raises(BackboneError, match="has 2 inputs and 1 output; expected one input, the pixels"):
        found.prepared(SIXTEEN)


@pytest.mark.parametrize("cut", [0.0, 0.5, 0.99])
def test_broken_file_is_refused(save_network: Save, networks: Any, cut: float) -> None:
    model = networks[0]("NHWC", "uint8")
    path = save_network(model[: int(cut * len(model))])
    with pytest.raises(BackboneError, match=r"not a whole ONNX file|has 0 inputs"):
        find_backbone(str(path)).prepared(SIXTEEN)


def test_network_of_another_layout_than_its_card_says_is_refused(save_network: Save, networks: Any) -> None:
    found = find_backbone(str(save_network(networks[0]("NCHW", "uint8"), layout="NHWC")))
    with pytest.raises(BackboneError, match=r"does its card fit|check size and layout in its card"):
        found.prepared(SIXTEEN)


def test_network_of_another_embedding_size_than_its_card_says_is_refused(save_network: Save, networks: Any) -> None:
    found = find_backbone(str(save_network(networks[0]("NHWC", "uint8"), embedding_size=6)))
    with pytest.raises(BackboneError, match=r"\(5, 5\).*expected \(5, 6\)|does its card fit"):
        found.prepared(SIXTEEN)


def test_network_that_announces_a_batch_of_one_takes_more_where_it_can(save_network: Save, networks: Any) -> None:
    # A batch of one is only a remark in this graph, and nothing in it holds it to that.
    found = find_backbone(str(save_network(networks[0]("NHWC", "uint8", static=True))))
    assert Embedder(found.prepared(SIXTEEN)).embed(pixels(3)).shape == (3, 5)


def test_scale_that_gives_infinite_numbers_is_refused(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "float32"), dtype="float32", scale=[3e38] * 3)
    with pytest.raises(BackboneError, match="finite"):
        find_backbone(str(path)).prepared(SIXTEEN)


def test_file_that_is_no_network_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(BackboneError, match="is not a whole ONNX file"):
        Embedder(tmp_path / "model.onnx")


def test_a_graph_too_old_to_be_extended_is_refused_at_once(save_network: Callable[..., Path], networks: Any) -> None:
    tiny_network, _ = networks
    path = save_network(tiny_network("NCHW", "float32", opset=7), layout="NCHW", dtype="float32")
    found = find_backbone(str(path))
    with pytest.raises(BackboneError, match="opset 7; expected 8 or newer"):
        found.prepared(found.card.preprocessing(None, None))


# --- Networks that answer by more than the photo ------------------------------------------------------------------------


def changed(path: Path, *nodes: Any, weights: tuple[Any, ...] = (), output: str = "odd") -> Path:
    """Append nodes behind a tiny network, from its output ``out`` to another."""
    model = onnx.load(path)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
    model.graph.output[0].name = output
    path.write_bytes(model.SerializeToString())
    return path


def array(name: str, value: Any, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def test_network_whose_answer_depends_on_other_photos_is_refused(save_network: Save, networks: Any) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["out"], ["all"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["all", "little"], ["some"]),
        helper.make_node("Add", ["out", "some"], ["odd"]),
    ]
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    found = find_backbone(str(changed(path, *nodes, weights=(array("little", 0.01),))))
    with pytest.raises(BackboneError, match=r"other numbers beside other photos than alone .*model\.eval"):
        found.prepared(SIXTEEN)


@pytest.mark.parametrize("kind", ["BatchNormalization", "DynamicQuantizeLinear"])
def test_normalisation_or_quantisation_by_the_batch_is_refused(save_network: Save, networks: Any, kind: str) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    if kind == "BatchNormalization":
        ones, zeros = np.ones(5), np.zeros(5)
        weights = (array("s", ones), array("b", zeros), array("m", zeros), array("v", ones))
        nodes = [helper.make_node(kind, ["out", "s", "b", "m", "v"], ["odd", "rm", "rv"], training_mode=1)]
    else:
        weights = ()
        nodes = [
            helper.make_node(kind, ["out"], ["q", "qs", "qz"]),
            helper.make_node("DequantizeLinear", ["q", "qs", "qz"], ["odd"]),
        ]
    found = find_backbone(str(changed(path, *nodes, weights=weights)))
    with pytest.raises(BackboneError, match=r"other numbers (beside other photos than alone|each time)"):
        found.prepared(SIXTEEN)


@pytest.mark.parametrize("kind", ["Dropout", "RandomNormalLike"])
def test_network_whose_answer_depends_on_chance_is_refused(save_network: Save, networks: Any, kind: str) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    if kind == "Dropout":
        nodes = [helper.make_node(kind, ["out", "ratio", "on"], ["odd"])]
    else:
        nodes = [
            helper.make_node(kind, ["out"], ["noise"], scale=1e-5),
            helper.make_node("Add", ["out", "noise"], ["odd"]),
        ]
    weights = (array("ratio", 0.5), array("on", True, bool)) if kind == "Dropout" else ()
    found = find_backbone(str(changed(path, *nodes, weights=weights)))
    with pytest.raises(BackboneError, match="the same photos other numbers each time"):
        found.prepared(SIXTEEN)


def test_network_that_says_the_same_of_every_photo_is_refused(save_network: Save, networks: Any) -> None:
    nodes = [helper.make_node("Mul", ["out", "nothing"], ["none"]), helper.make_node("Add", ["none", "one"], ["odd"])]
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    found = find_backbone(str(changed(path, *nodes, weights=(array("nothing", 0), array("one", 1)))))
    with pytest.raises(BackboneError, match="different photos the same numbers"):
        found.prepared(SIXTEEN)


@pytest.mark.parametrize("factor", [1e13, 1e30])
def test_network_of_numbers_that_cannot_be_squared_is_refused_in_one_sentence(
    save_network: Save, networks: Any, factor: float
) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    found = find_backbone(
        str(changed(path, helper.make_node("Mul", ["out", "f"], ["odd"]), weights=(array("f", factor),)))
    )
    with pytest.raises(BackboneError, match=r"numbers up to .*; expected .* up to 1e\+12: check"):
        found.prepared(SIXTEEN)


def test_network_without_numbers_for_some_photos_is_taken(save_network: Save, networks: Any) -> None:
    # The square root of how much brighter than 0.2 of the scale: none for dark photos.
    nodes = [
        helper.make_node("ReduceMax", ["out"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["most", "limit"], ["more"]),
        helper.make_node("Sqrt", ["more"], ["root"]),
        helper.make_node("Add", ["out", "root"], ["odd"]),
    ]
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    model = find_backbone(str(changed(path, *nodes, weights=(array("limit", 40),)))).prepared(SIXTEEN)
    light, dark = (np.full((1, 16, 16, 3), value, np.uint8) for value in (200, 10))
    assert backbone.usable(Embedder(model).embed(np.concatenate([light, dark]))).tolist() == [True, False]


# --- Several outputs ------------------------------------------------------------------------------------------------------


def with_outputs(path: Path, **outputs: list[Any]) -> Path:
    """Make a network give its pixels as a map, and more."""
    model = onnx.load(path)
    for name, shape in outputs.items():
        model.graph.node.append(helper.make_node("Identity", ["embedding" if len(shape) == 4 else "out"], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    path.write_bytes(model.SerializeToString())
    return path


def test_other_outputs_are_taken_away(save_network: Save, networks: Any) -> None:
    tiny_network, answer = networks
    path = save_network(tiny_network("NHWC", "uint8"), sha256="", output="out")
    with_outputs(path, logits=["n", 1000], hidden=["n", "h", "w", 3])
    model = find_backbone(str(path)).prepared(SIXTEEN)
    session = backbone.open_session(model)
    assert [output.name for output in session.get_outputs()] == ["embedding"]
    assert len(onnx.load_from_string(model).graph.node) == 3
    photos = pixels(3)
    np.testing.assert_allclose(Embedder(model).embed(photos), answer(photos, "uint8"), atol=1e-3, rtol=1e-5)


def test_embedding_among_several_outputs_is_the_one_of_its_size_or_asked_for(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    with_outputs(path, logits=["n", 1000], hidden=["n", "h", "w", 3])
    assert find_backbone(str(path)).prepared(SIXTEEN)
    with_outputs(path, other=["n", 5])
    with pytest.raises(
        BackboneError, match=r"has the outputs out, logits, hidden, other; .*name it in its card, as output"
    ):
        find_backbone(str(path)).prepared(SIXTEEN)
