"""Where an answer comes from: the logits of places are what the photo's logits are made of, whatever runs the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from fruits.embedding.backbone import Embedder, find_backbone
from fruits.embedding.graphs.graph import with_recogniser
from fruits.learning.heads import softmax
from fruits.learning.heads.kernel import KernelHead
from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.pca import project
from fruits.photos.decoding.images import Preprocessing
from fruits.recogniser import explain


def pooled_network(pooling: str, *, opset: int = 17, extra: bool = False) -> bytes:
    """A convolution of 4 x 4 patches to 5 channels, clipped, and its mean over places; colours decide."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(0, 0.1, (5, 3, 4, 4)).astype(np.float32), "w")]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4]), helper.make_node("Relu", ["c"], ["relu"])]
    if pooling == "GlobalAveragePool":
        nodes.append(helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]))
    elif opset >= 18:
        weights.append(numpy_helper.from_array(np.array([-2, -1]), "axes"))
        nodes.append(helper.make_node(pooling, ["relu", "axes"], ["pooled"], keepdims=1))
    else:
        nodes.append(helper.make_node(pooling, ["relu"], ["pooled"], axes=[2, 3], keepdims=1))
    name = "embedding" if extra else "out"
    nodes.append(helper.make_node("Flatten", ["pooled"], [name], axis=1))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 5])]
    if extra:
        outputs.append(helper.make_tensor_value_info("relu", TensorProto.FLOAT, ["n", 5, "h", "w"]))
    pixels = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = helper.make_graph(nodes, "pooled", [pixels], outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())


def pixels(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "network",
    [
        pooled_network("GlobalAveragePool"),
        pooled_network("ReduceMean"),
        pooled_network("ReduceMean", opset=18),
        pooled_network("GlobalAveragePool", extra=True),
    ],
    ids=["pooling", "mean", "mean of opset 18", "several outputs"],
)
def test_map_is_what_the_embedding_is_the_mean_of(save_network: Any, network: bytes) -> None:
    path = save_network(network, layout="NCHW", dtype="float32")
    embedder = Embedder(find_backbone(str(path)).prepared(Preprocessing(16)))
    assert embedder.has_map
    embedding, maps = embedder.embed_with_map(pixels(3))
    assert maps.shape == (3, 5, 4, 4)
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), embedding, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(embedding, embedder.embed(pixels(3)))


def test_network_that_does_not_end_in_a_mean_has_no_map(save_network: Any, networks: Any) -> None:
    others = [pooled_network("ReduceMax"), networks[0]("NCHW", "float32")]
    for number, network in enumerate(others):
        path = save_network(network, layout="NCHW", dtype="float32", name=f"other{number}")
        assert not Embedder(find_backbone(str(path)).prepared(Preprocessing(16))).has_map


def test_single_graph_gives_the_logits_of_places_and_their_mean_is_the_answer(save_network: Any) -> None:
    path = save_network(pooled_network("GlobalAveragePool"), layout="NCHW", dtype="float32")
    model = find_backbone(str(path)).prepared(Preprocessing(16))
    rng = np.random.default_rng(2)
    mean, components = rng.normal(size=5).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    head = LogisticHead(rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32))
    features = rng.normal(size=(40, 3)).astype(np.float32)
    ood_detector = OodDetector.of(features, np.arange(40) % 4).scaled(features, head.predict_proba(features))
    graph = with_recogniser(
        model, mean=mean, components=components, head=head, ood_detector=ood_detector, size=16, metadata={}
    )
    onnx.checker.check_model(onnx.load_model_from_string(graph), full_check=True)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    probabilities, places = session.run(["probabilities", "evidence"], {"pixels": pixels(2)})
    np.testing.assert_allclose(softmax(places.mean(axis=1)), probabilities, atol=1e-5)
    embedding, maps = Embedder(model).embed_with_map(pixels(2))
    ours = explain.Evidence.of(mean, components, head).logits(maps)
    np.testing.assert_allclose(ours.reshape(2, 16, 4), places, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(ours.mean(axis=(1, 2)), head.logits(project(embedding, mean, components)), atol=1e-4)


def test_places_are_those_of_the_line_where_references_vote(save_network: Any) -> None:
    path = save_network(pooled_network("GlobalAveragePool"), layout="NCHW", dtype="float32")
    model = find_backbone(str(path)).prepared(Preprocessing(16))
    rng = np.random.default_rng(2)
    mean, components = rng.normal(size=5).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    features, labels = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 4
    head = KernelHead.fit(features, labels, setting=3).temperature_scaled(0.5)
    ood_detector = OodDetector.of(features, labels).scaled(features, head.predict_proba(features))
    graph = with_recogniser(
        model, mean=mean, components=components, head=head, ood_detector=ood_detector, size=16, metadata={}
    )
    onnx.checker.check_model(onnx.load_model_from_string(graph), full_check=True)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    probabilities, places = session.run(["probabilities", "evidence"], {"pixels": pixels(2)})
    there = project(Embedder(model).embed(pixels(2)), mean, components)
    np.testing.assert_allclose(places.mean(axis=1), head.linear_part.logits(there), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(probabilities, head.predict_proba(there), atol=1e-5)
    assert np.abs(probabilities - softmax(places.mean(axis=1))).max() > 1e-3, "votes count"


def test_contribution_is_highest_where_the_evidence_for_the_label_is() -> None:
    evidence = np.zeros((3, 3, 4), np.float32)
    evidence[0, 2, 1] = 5  # the second label's place
    evidence[2, 0, 3] = 4
    probabilities = np.array([0.1, 0.6, 0.1, 0.2], np.float32)
    of_labels = explain.Evidence(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))  # the map holds the logits
    logits = np.moveaxis(evidence, 2, 0)
    places = of_labels.contribution(logits, probabilities, np.array([False, True, False, False]))
    assert np.unravel_index(places.argmax(), places.shape) == (0, 2)
    assert places[2, 0] < 0, "what speaks for another label speaks against this one"
    both = of_labels.contribution(logits, probabilities, np.array([False, True, False, True]))
    assert both[0, 2] == pytest.approx(0.75 * 5 - 5 / 4)


def test_contribution_of_labels_without_any_probability_is_their_mean() -> None:
    of_labels = explain.Evidence(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    logits = np.moveaxis(np.arange(8, dtype=np.float32).reshape(1, 2, 4), 2, 0)
    probabilities, labels = np.array([0, 0, 0.5, 0.5], np.float32), np.array([True, True, False, False])
    np.testing.assert_allclose(of_labels.contribution(logits, probabilities, labels), [[-1, -1]])


def test_overlay_is_brightest_where_the_answer_comes_from() -> None:
    photo = np.full((60, 60, 3), 100, np.uint8)
    places = np.zeros((3, 3), np.float32)
    places[1, 2] = 2
    shown = explain.overlay(photo, places)
    assert shown.shape == photo.shape
    assert shown.dtype == np.uint8
    brightness = shown.sum(axis=2)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert 20 <= row < 40 <= column
    assert brightness[30, 50] > 2 * brightness[5, 5]


def test_overlay_of_nothing_is_even() -> None:
    shown = explain.overlay(np.full((8, 8, 3), 100, np.uint8), np.full((2, 2), -1, np.float32))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1


def test_relative_contributions_are_bounded_in_value_and_in_number() -> None:
    places = np.linspace(-3, 6, 50 * 7, dtype=np.float32).reshape(50, 7)
    shown = explain.relative(places)
    assert shown.shape == (explain.MOST_PLACES, 7)
    assert (shown.min(), shown.max()) == (0, 1)
    assert (np.diff(shown, axis=0) >= 0).all(), "means of neighbours keep the order"
    assert (explain.relative(np.full((3, 3), -1, np.float32)) == 0).all()
