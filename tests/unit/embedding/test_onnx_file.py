"""A network of a stranger reads no file of the machine; a user's network may keep its weights beside itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fruits.embedding.backbone import Embedder, find_backbone
from fruits.embedding.graphs import onnx_file
from fruits.embedding.graphs.onnx_file import refuse_outside, whole_file
from fruits.embedding.session import open_session
from fruits.errors import BackboneError
from fruits.photos.decoding.images import Preprocessing

Save = Callable[..., Path]
WEIGHTS = np.arange(15, dtype=np.float32).reshape(3, 5)


def outside(location: str = "/etc/passwd", **more: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name="w", dims=WEIGHTS.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(tensor: TensorProto | None, nodes: list[Any] | None = None) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return helper.make_graph(nodes or [], "g", [], [out], [tensor] if tensor else [])


def sparse(values: TensorProto, indices: TensorProto | None = None) -> onnx.SparseTensorProto:
    found = onnx.SparseTensorProto(dims=[4])
    found.values.CopyFrom(values)
    found.indices.CopyFrom(indices or numpy_helper.from_array(np.arange(3), "i"))
    return found


def in_attribute(**values: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["out"], **values)


def with_training() -> onnx.ModelProto:
    model = helper.make_model(graph_of(None))
    model.training_info.add().initialization.CopyFrom(graph_of(outside()))
    return model


def with_function() -> onnx.ModelProto:
    inner = in_attribute(value=outside())
    function = helper.make_function("loc", "F", [], ["out"], [inner], [helper.make_opsetid("", 17)])
    return helper.make_model(graph_of(None), functions=[function])


def with_sparse_initializer(**parts: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(graph_of(None))
    model.graph.sparse_initializer.append(sparse(**parts))
    return model


def in_attribute_lists() -> onnx.ModelProto:
    node = helper.make_node("Odd", [], ["out"])
    node.attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.append(outside())
    return helper.make_model(graph_of(None, [node]))


HIDDEN: dict[str, Callable[[], onnx.ModelProto]] = {
    "initialiser": lambda: helper.make_model(graph_of(outside())),
    "attribute": lambda: helper.make_model(graph_of(None, [in_attribute(value=outside())])),
    "attributes": in_attribute_lists,
    "sparse attribute": lambda: helper.make_model(graph_of(None, [in_attribute(sparse_value=sparse(outside()))])),
    "sparse initialiser": lambda: with_sparse_initializer(values=outside()),
    "sparse indices": lambda: with_sparse_initializer(values=numpy_helper.from_array(WEIGHTS), indices=outside()),
    "subgraph": lambda: helper.make_model(
        graph_of(
            None, [helper.make_node("If", ["c"], ["out"], then_branch=graph_of(outside()), else_branch=graph_of(None))]
        )
    ),
    "attribute of a subgraph": lambda: helper.make_model(
        graph_of(None, [helper.make_node("Loop", ["c"], ["out"], body=graph_of(None, [in_attribute(value=outside())]))])
    ),
    "function": with_function,
    "training": with_training,
}


@pytest.mark.parametrize("where", HIDDEN)
def test_network_that_names_another_file_anywhere_is_refused_before_anything_opens_it(where: str) -> None:
    data = HIDDEN[where]().SerializeToString()
    for look in (lambda: refuse_outside(data, "net.onnx"), lambda: open_session(data)):
        with pytest.raises(BackboneError, match=r"keeps weights in other files \('/etc/passwd'\), which is refused"):
            look()


def test_every_place_in_which_onnx_can_keep_a_tensor_is_looked_at() -> None:
    """Of the messages of onnx.proto, those that lead to a tensor, and by which fields."""
    messages = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
    leads = {"TensorProto"}
    while True:
        more = {
            name
            for name, message in messages.items()
            if any(field.message_type is not None and field.message_type.name in leads for field in message.fields)
        }
        if more <= leads:
            break
        leads |= more
    expected = {
        name: {
            field.number: field.message_type.name
            for field in messages[name].fields
            if field.message_type is not None and field.message_type.name in leads
        }
        for name in leads
    }
    assert expected == onnx_file.TREE


def test_every_type_that_has_a_size_is_known() -> None:
    undefined, text = TensorProto.UNDEFINED, TensorProto.STRING
    for number in set(TensorProto.DataType.values()) - {undefined, text}:
        assert onnx_file._BITS[number] in (2, 4, 6, 8, 16, 32, 64, 128)


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="w", dims=[3, 5], data_type=1, data_location=TensorProto.EXTERNAL, raw_data=WEIGHTS.tobytes()),
        outside("*/_ORT_MEM_ADDR_/*", offset="140000000000000", length="60"),
        outside(""),
    ],
    ids=["says so without a place", "an address in memory", "no name"],
)
def test_tensor_that_only_half_says_where_it_lies_is_refused_as_well(tensor: TensorProto) -> None:
    with pytest.raises(BackboneError, match="keeps weights in other files"):
        open_session(helper.make_model(graph_of(tensor)).SerializeToString())


def test_location_that_a_later_field_takes_back_is_refused_all_the_same() -> None:
    # Protobuf lets the last of two values count; readers of other habits would differ, so any value counts.
    data = helper.make_model(graph_of(outside())).SerializeToString()
    assert data.count(b"\x70\x01") == 1
    with pytest.raises(BackboneError, match="keeps weights in other files"):
        refuse_outside(data.replace(b"\x70\x01", b"\x70\x00"), "net")


def test_compiled_network_that_names_its_binary_is_refused() -> None:
    node = helper.make_node(
        "EPContext", [], ["out"], domain="com.microsoft", embed_mode=0, ep_cache_context="../../x.bin"
    )
    with pytest.raises(BackboneError, match="EPContext"):
        open_session(helper.make_model(graph_of(None, [node])).SerializeToString())


@pytest.mark.parametrize(
    "data",
    [
        b"rubbish",
        b"\x3a\xff\xff\xff\xff\x7f",
        b"\x3b\x3c",
        b"\x3a\x02\x0a",
        b"\x00\x01",
        b"\xba\x80\x80\x80\x80\x01\x00",
        b"\x08",
    ],
    ids=["text", "length", "group", "cut", "field 0", "long tag", "no value"],
)
def test_bytes_that_are_no_onnx_are_one_error(data: bytes) -> None:
    with pytest.raises(BackboneError, match="is not a whole ONNX file"):
        refuse_outside(data, "net.onnx")


def test_messages_within_messages_without_end_are_one_error() -> None:
    data = b""
    for _ in range(2000):
        for tag in (0x32, 0x2A, 0x0A):  # graph of an attribute of a node
            data = bytes([tag]) + onnx_file._as_varint(len(data)) + data
    with pytest.raises(BackboneError, match="messages within each other"):
        refuse_outside(b"\x3a" + onnx_file._as_varint(len(data)) + data, "net.onnx")


def test_network_in_the_own_format_of_onnx_runtime_is_refused() -> None:
    with pytest.raises(BackboneError, match="ONNX Runtime's own format"):
        open_session(b"\x18\0\0\0ORTM" + bytes(64))


# --- A user's network, with its weights beside it -----------------------------------------------------------------------


def beside(path: Path, location: str = "tiny.bin", **more: str) -> Path:
    """Make a network keep its matrix in another file, which it does not write."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [3, 5])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def values_of(path: Path) -> bytes:
    return next(bytes(tensor.raw_data) for tensor in onnx.load(path).graph.initializer if list(tensor.dims) == [3, 5])


@pytest.mark.parametrize(
    ("location", "before", "more"),
    [
        ("tiny.bin", b"", {}),
        ("tiny.bin", b"abcd", {"offset": "4", "length": "60"}),
        ("sub/tiny.bin", b"", {"length": "60"}),
    ],
)
def test_weights_beside_a_network_are_taken_into_one_file(
    save_network: Save, networks: Any, location: str, before: bytes, more: dict[str, str]
) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    whole = Embedder(find_backbone(str(path)).prepared(Preprocessing(16))).embed(pixels)
    values = values_of(path)
    beside(path, location, **more)
    (path.parent / location).parent.mkdir(exist_ok=True)
    (path.parent / location).write_bytes(before + values)
    found = find_backbone(str(path))
    refuse_outside(found.network, "net")
    np.testing.assert_array_equal(Embedder(found.prepared(Preprocessing(16))).embed(pixels), whole)
    onnx.checker.check_model(found.network)


def test_identity_of_a_network_is_that_of_its_weights_wherever_they_lie(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    values = values_of(path)
    beside(path)
    digests = []
    for data in (values, values[::-1]):
        (path.parent / "tiny.bin").write_bytes(data)
        digests.append(find_backbone(str(path)).card.sha256)
    assert digests[0] != digests[1]
    assert digests[1] == hashlib.sha256(whole_file(path)[1]).hexdigest()


def test_card_may_name_the_file_as_it_is_or_as_a_whole(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"))
    values = values_of(path)
    beside(path)
    (path.parent / "tiny.bin").write_bytes(values)
    card = path.with_suffix(".json")
    for data in whole_file(path):
        card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": hashlib.sha256(data).hexdigest()}))
        assert find_backbone(str(path)).card.sha256 == hashlib.sha256(whole_file(path)[1]).hexdigest()
    card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": "1" * 64}))
    with pytest.raises(BackboneError, match="its card names 111111111111"):
        find_backbone(str(path))


def test_missing_file_of_weights_is_named(save_network: Save, networks: Any) -> None:
    path = beside(save_network(networks[0]("NHWC", "uint8"), sha256=""), "tiny.onnx.data")
    with pytest.raises(
        BackboneError, match=r"keeps weights in 'tiny\.onnx\.data', which is not beside it; fetch that file"
    ):
        find_backbone(str(path))


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "/etc/passwd",
        "sub/../../secret.bin",
        "..\\secret.bin",
        "C:secret.bin",
        "",
        ".",
        "a\0b",
        "a\nb",
    ],
)
def test_name_that_leads_elsewhere_is_refused(save_network: Save, networks: Any, location: str) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    (path.parent.parent / "secret.bin").write_bytes(bytes(60))
    (path.parent / "tiny.bin").write_bytes(bytes(60))
    beside(path, location)
    with pytest.raises(BackboneError, match=r"is not read \(not a plain name"):
        find_backbone(str(path))


@pytest.mark.parametrize("kind", ["link", "link to a folder", "hard link", "pipe", "folder", "device"])
def test_what_is_no_file_of_its_own_is_refused(save_network: Save, networks: Any, tmp_path: Path, kind: str) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tiny.bin").write_bytes(bytes(60))
    place = path.parent / "tiny.bin"
    if kind == "link":
        place.symlink_to(elsewhere / "tiny.bin")
    elif kind == "link to a folder":
        (path.parent / "sub").symlink_to(elsewhere)
    elif kind == "hard link":
        os.link(elsewhere / "tiny.bin", place)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()
    beside(path, "sub/tiny.bin" if kind == "link to a folder" else "tiny.bin", length="60")
    with pytest.raises(BackboneError, match=r"is not read \((a link|a file with a second name|not a regular file)"):
        find_backbone(str(path))


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({"offset": "4"}, 60), ({"offset": "61", "length": "60"}, 60), ({"length": "60"}, 59), ({"length": "56"}, 60),
        ({"length": "-1"}, 60), ({"offset": "1e3"}, 60), ({"offset": str(2**63), "length": "60"}, 60), ({}, 10**7),
    ],
    ids=str,
)  # fmt: skip
def test_place_that_does_not_fit_the_file_or_the_tensor_is_refused(
    save_network: Save, networks: Any, more: dict[str, str], size: int
) -> None:
    path = beside(save_network(networks[0]("NHWC", "uint8"), sha256=""), **more)
    (path.parent / "tiny.bin").write_bytes(bytes(size))
    with pytest.raises(BackboneError, match=r"'w'|'fruits/scale'|values in another file"):
        find_backbone(str(path))


def test_more_than_a_file_can_hold_is_refused_before_it_is_read(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), sha256="")
    model = onnx.load(path)
    for number in range(3):  # the same gigabyte three times over
        tensor = outside("tiny.bin")
        tensor.name, tensor.dims[:] = f"w{number}", [1 << 28]
        model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    with (path.parent / "tiny.bin").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BackboneError, match=r"are 3,221,\d+,\d+ bytes; expected at most 2,147,483,647"):
        find_backbone(str(path))


@pytest.mark.parametrize("name", ["net.onnx", "net.json"])
def test_pipe_in_place_of_a_network_or_its_card_does_not_hang(save_network: Save, networks: Any, name: str) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), name="net")
    (path.parent / name).unlink()
    os.mkfifo(path.parent / name)
    with pytest.raises(BackboneError, match=r"cannot be read \(not a regular file"):
        find_backbone(str(path))
