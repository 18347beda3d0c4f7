"""Two networks as one file: the same pixels into both, their embeddings side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fruits.embedding.backbone import Embedder, find_backbone, probes, training_photos, usable
from fruits.embedding.graphs.joining import typical_length
from fruits.errors import BackboneError
from fruits.photos.decoding.images import Preprocessing

Save = Callable[..., Path]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def embedded(name: str, size: int = 16) -> np.ndarray:
    return Embedder(find_backbone(name).prepared(Preprocessing(size))).embed(PIXELS[:, :size, :size])


@pytest.mark.parametrize(("opset", "other"), [(17, 17), (13, 17), (17, 18)])
def test_joined_network_gives_both_embeddings_each_of_length_one_on_the_whole(
    save_network: Save, networks: Any, opset: int, other: int
) -> None:
    tiny, _ = networks
    one = save_network(tiny("NHWC", "uint8", opset=opset), name="one")
    two = save_network(tiny("NCHW", "float32", opset=other), name="two", layout="NCHW", dtype="float32")
    both = embedded(f"{one}+{two}")
    start = 0
    for path in (one, two):
        own = embedded(str(path))
        model = Embedder(find_backbone(str(path)).prepared(Preprocessing(16)))
        length = typical_length(model.embed(probes(16)))
        np.testing.assert_allclose(both[:, start : start + own.shape[1]], own / length, rtol=2e-5, atol=1e-6)
        start += own.shape[1]
    assert both.shape[1] == start


def test_joined_network_is_one_file_with_one_input_of_pixels(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "float32"), dtype="float32")
    found = find_backbone(f"{path}+{path}")
    assert (found.card.layout, found.card.dtype, found.card.embedding_size) == ("NHWC", "uint8", 10)
    assert found.card.sha256 == hashlib.sha256(found.network).hexdigest()
    model = onnx.load_from_string(found.network)
    onnx.checker.check_model(model, full_check=True)
    assert ([one.name for one in model.graph.input], [one.name for one in model.graph.output]) == (
        ["pixels"],
        ["embedding"],
    )
    assert usable(Embedder(found.prepared(Preprocessing(16))).embed(PIXELS)).all()
    assert find_backbone(f"{path}+{path}").network == found.network


def test_sizes_of_a_joined_network_suit_both(save_network: Save, networks: Any) -> None:
    wide = save_network(networks[0]("NHWC", "uint8"), name="wide", size=[12, 64])
    other = save_network(networks[0]("NHWC", "uint8"), name="other", size=[32, 96])
    small = save_network(networks[0]("NHWC", "uint8"), name="small", size=8)
    assert find_backbone(f"{wide}+{other}").card.size == (32, 64)
    with pytest.raises(
        BackboneError, match=r"of 12 to 64 pixels and '.*small.onnx' of 8; expected two networks with a size"
    ):
        find_backbone(f"{wide}+{small}")


@pytest.mark.parametrize("name", ["fruits-small+", "+", "a+b+c", "fruits-small+nothing"])
def test_what_cannot_be_joined_is_told_in_a_sentence(name: str) -> None:
    with pytest.raises(BackboneError, match=r"expected two networks|no backbone 'nothing'"):
        find_backbone(name)


def test_joined_network_has_seen_what_either_has_seen(save_network: Save, networks: Any) -> None:
    path = save_network(networks[0]("NHWC", "uint8"), size=[16, 128], training_photos="tiny.seen")
    np.array([5, 7], ">u8").tofile(path.with_suffix(".seen"))
    name = f"fruits-small+{path}"
    seen = training_photos(find_backbone(name).card, name)
    assert seen is not None
    assert len(seen) == 19_312 + 2
    assert {5, 7} <= set(seen[:5].tolist())
