"""The bundle and the single graph say the same of a photo, whatever network they are made of; damage is found and named."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fruits import bundle as bundles
from fruits import pipeline
from fruits.answers import Certainty
from fruits.embedding.backbone import Backbone, Embedder, find_backbone
from fruits.errors import BundleError, ImageDecodeError
from fruits.gallery import Gallery
from fruits.learning import head as heads
from fruits.learning.drift import Drift
from fruits.learning.moments import Moments
from fruits.learning.pca import PCA
from fruits.learning.unknown import Known
from fruits.photos.decoder import own_decoder
from fruits.photos.images import Preprocessing, to_network_input, to_thumbnail
from fruits.photos.quality import Limits, measure
from fruits.taxonomy import Taxonomy

OUTPUTS = ["probabilities", "features", "strangeness", "brightness", "sharpness"]

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def some(photos: Path) -> list[Path]:
    """80 photos of 8 labels."""
    return sorted(photos.glob("*/*/*.jpg"))[::4]


def save_bundle(
    folder: Path, found: Backbone, preprocessing: Preprocessing, some: list[Path], k: int
) -> bundles.Bundle:
    """Fit a recogniser on some photos, without the rest of a run, and save it."""
    model = found.prepared(preprocessing)
    pixels = np.stack([to_network_input(path.read_bytes(), preprocessing).pixels for path in some])
    names = sorted({path.parent.name for path in some})
    labels = np.array([names.index(path.parent.name) for path in some])
    embeddings = Embedder(model).embed(pixels)
    pca = PCA.from_moments(Moments.from_rows(embeddings))
    features = pca.transform(embeddings, k)
    head = heads.fit(features, labels, regularisation=30.0)
    known = Known.of(features, labels).scaled(features, head.predict_proba(features))
    certainty = Certainty(0.7, 0.8, 0.6, 2.0, Limits.of(*measure(pixels), preprocessing.size))
    bundles.save(
        folder,
        model=model,
        card=found.card,
        preprocessing=preprocessing,
        mean=pca.mean,
        components=pca.axes[:k],
        head=head,
        known=known,
        taxonomy=Taxonomy.of(names),
        certainty=certainty,
        drift=Drift.of(features, known.strangeness(features, head.predict_proba(features))),
        gallery=Gallery.of(features, labels, [to_thumbnail(path.read_bytes(), 64) for path in some]),
        about={},
    )
    return bundles.load(folder)


def assert_graph_agrees(bundle: bundles.Bundle, photos: list[bytes]) -> None:
    """All outputs of the single graph are what the bundle computes."""
    session = ort.InferenceSession(Path(bundle.root) / "recognizer.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs() if output.name != "evidence"] == OUTPUTS
    pixels = np.stack([to_network_input(photo, bundle.preprocessing).pixels for photo in photos])
    given = dict(zip(OUTPUTS, session.run(OUTPUTS, {"pixels": pixels}), strict=True))
    assert all(given[name].shape == (len(photos), 1) for name in OUTPUTS[2:])
    features, probabilities, strangeness = bundle.classify(Embedder(bundle.model_file.fetch()).embed(pixels))
    brightness, sharpness = measure(pixels)
    tolerance = bundles.PROBABILITY_TOLERANCE
    np.testing.assert_allclose(given["probabilities"], probabilities, atol=tolerance, rtol=0)
    np.testing.assert_allclose(given["features"], features, atol=tolerance * np.abs(features).max(), rtol=0)
    # In units of how far known photos differ: differences of squares of a few hundred, float32 sums in another order.
    np.testing.assert_allclose(given["strangeness"][:, 0], strangeness, atol=1e-3, rtol=1e-4)
    # Sums of whole numbers, exact in both; one is divided in float64, the other in float32.
    np.testing.assert_allclose(given["brightness"][:, 0], brightness, atol=2e-6, rtol=0)
    np.testing.assert_allclose(given["sharpness"][:, 0], sharpness, atol=2e-6, rtol=0)
    for row, answer in enumerate(bundle.recognise(photos)):
        assert answer.strangeness == pytest.approx(float(given["strangeness"][row, 0]), rel=1e-4, abs=1e-3)
        np.testing.assert_allclose(answer.probabilities, np.sort(probabilities[row])[::-1][:3], atol=tolerance)


# --- The same everywhere ------------------------------------------------------------------------------------------------


def test_graph_of_a_finished_run_says_what_its_bundle_says(finished_run: Any, some: list[Path]) -> None:
    assert_graph_agrees(bundles.load(finished_run.out), [path.read_bytes() for path in some])


@pytest.mark.parametrize(
    "opset",
    [{"opset": 9}, {"opset": 11}, {"opset": 17}, {"opset": 18}, {"opset": 21}, {"opset": 18, "domain": "ai.onnx"}],
    ids=str,
)
def test_graph_of_any_opset_says_what_its_bundle_says(
    save_network: Save, networks: Any, some: list[Path], tmp_path: Path, opset: dict[str, Any]
) -> None:
    found = find_backbone(str(save_network(networks[0]("NHWC", "uint8", **opset))))
    bundle = save_bundle(tmp_path / "bundle", found, Preprocessing(16), some, 3)
    assert_graph_agrees(bundle, [path.read_bytes() for path in some])
    onnx.checker.check_model(onnx.load(Path(bundle.root) / "recognizer.onnx"), full_check=True)


@pytest.mark.parametrize(("layout", "dtype", "size"), [("NCHW", "float32", 17), ("NHWC", "float32", 40)])
def test_graph_of_a_network_that_wants_other_pixels_says_what_its_bundle_says(
    save_network: Save, networks: Any, some: list[Path], tmp_path: Path, layout: str, dtype: str, size: int
) -> None:
    found = find_backbone(str(save_network(networks[0](layout, dtype), layout=layout, dtype=dtype, size=size)))
    bundle = save_bundle(tmp_path / "bundle", found, Preprocessing(size), some, 3)
    assert_graph_agrees(bundle, [path.read_bytes() for path in some])


def test_graph_measures_photos_without_any_change_as_the_bundle_does(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    session = ort.InferenceSession(Path(bundle.root) / "recognizer.onnx", providers=["CPUExecutionProvider"])
    flat = np.repeat(np.array([0, 128, 255], np.uint8), 100 * 100 * 3).reshape(3, 100, 100, 3)
    brightness, sharpness = session.run(["brightness", "sharpness"], {"pixels": flat})
    np.testing.assert_allclose(brightness[:, 0], [0, 128 / 255, 1], atol=2e-6)
    assert (sharpness == 0).all()


def test_graph_carries_all_that_its_numbers_mean(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    about = ort.InferenceSession(Path(bundle.root) / "recognizer.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["fruits.labels"]) == bundle.labels
    assert json.loads(about["fruits.preprocessing"]) == asdict(bundle.preprocessing)
    assert Taxonomy.parse(json.loads(about["fruits.taxonomy"])) == bundle.taxonomy
    assert Certainty.parse(json.loads(about["fruits.certainty"])) == bundle.certainty


def test_batch_and_single_photos_are_answered_alike(finished_run: Any, some: list[Path], tmp_path: Path) -> None:
    pipeline.apply(str(finished_run.out), list(map(str, some)), str(tmp_path / "to"), workers=1)
    rows = {row["uri"]: row for row in pq.read_table(tmp_path / "to" / "predictions.parquet").to_pylist()}
    bundle = bundles.load(finished_run.out)
    for path in some:
        (answer,), row = bundle.recognise([path.read_bytes()]), rows[str(path.resolve())]
        assert (row["outcome"], row["advice"]) == (answer.outcome, list(answer.advice))
        assert (row["kind"], row["variety"]) == (answer.kind or None, answer.variety or None)
        assert (row["name_en"], row["name_fr"]) == ((answer.name.en, answer.name.fr) if answer.name else (None, None))
        assert row["labels"][0] == answer.labels[0]
        assert row["kinds"][0] == answer.kinds[0][0]
        numbers = [answer.probability, *answer.probabilities, *(p for _, _, p in answer.kinds)]
        given = [row["probability"], *row["probabilities"], *row["kind_probabilities"]]
        np.testing.assert_allclose(given, numbers, atol=bundles.PROBABILITY_TOLERANCE)
        assert row["strangeness"] == pytest.approx(answer.strangeness, rel=1e-4, abs=1e-3)


def test_most_photos_like_the_known_ones_are_named(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    paths = sorted(finished_run.photos.glob("Test/*/*.jpg"))
    found = bundle.recognise([path.read_bytes() for path in paths])
    named = [(answer.kind, path.parent.name) for answer, path in zip(found, paths, strict=True) if answer.name]
    # 19 of 20 known photos are meant to be taken for known; these 80 are other frames than those it was set by.
    assert len(named) > 0.75 * len(paths)
    assert np.mean([kind == label for kind, label in named]) > 0.9


def test_photo_that_is_to_blame_itself_comes_with_advice(finished_run: Any, some: list[Path]) -> None:
    tiny = BytesIO()
    Image.open(some[0]).resize((12, 12)).point(lambda value: value // 12).save(tiny, "PNG")
    (answer,) = bundles.load(finished_run.out).recognise([tiny.getvalue()])
    assert answer.outcome in ("unsure", "unknown")
    assert answer.advice == ("small", "dark")


# --- Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(finished_run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run.out / "bundle", tmp_path / "bundle"))


def resealed(folder: Path, name: str, data: bytes) -> Path:
    """Put a file into a bundle as if it had been saved so: every checksum is right."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    del manifest["sha256"]
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_bytes(bundles.manifest_bytes(manifest))
    return folder


def changed(folder: Path, name: str, **values: Any) -> bytes:
    """The JSON file with other values; those of None are left out."""
    stored = {**json.loads((folder / name).read_text("utf-8")), **values}
    return json.dumps({key: value for key, value in stored.items() if value is not None}).encode()


def test_bundle_that_was_sealed_again_is_the_same(copied: Path) -> None:
    before = (copied / "manifest.json").read_bytes()
    assert (
        resealed(copied, "taxonomy.json", (copied / "taxonomy.json").read_bytes()) / "manifest.json"
    ).read_bytes() == before
    assert bundles.load(copied).labels


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b"3", b"\xff", b'"text"'])
@pytest.mark.parametrize("name", ["taxonomy.json", "certainty.json"])
def test_file_that_says_nothing_is_refused_even_if_it_was_saved_so(copied: Path, name: str, data: bytes) -> None:
    with pytest.raises(BundleError, match=r"bundle '.*'"):
        bundles.load(resealed(copied, name, data))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("taxonomy.json", {"labels": ["a", "b", "c", "d", "e", "f", "g", "h"]}),
        ("taxonomy.json", {"kind_of": [0] * 8}),
        ("taxonomy.json", {"kind_of": [9] * 8}),
        ("taxonomy.json", {"kinds": None}),
        ("certainty.json", {"kind": "high"}),
        ("certainty.json", {"offset": None}),
        ("certainty.json", {"entropy_scale": "1,5"}),
        ("certainty.json", {"limits": {"dark": 0.1}}),
    ],
    ids=str,
)
def test_value_that_does_not_fit_is_refused_even_if_it_was_saved_so(
    copied: Path, name: str, values: dict[str, Any]
) -> None:
    with pytest.raises(BundleError, match=r"bundle '.*'"):
        bundles.load(resealed(copied, name, changed(copied, name, **values)))


@pytest.mark.parametrize("found", [1, 99])
def test_bundle_of_another_format_is_refused_with_both_numbers(copied: Path, found: int) -> None:
    manifest = json.loads((copied / "manifest.json").read_text("utf-8"))
    del manifest["sha256"]
    (copied / "manifest.json").write_bytes(bundles.manifest_bytes({**manifest, "format": found}))
    with pytest.raises(BundleError, match=f"has format {found}; this version of fruits reads 3 to 4: run it again"):
        bundles.load(copied)


def test_bundle_of_the_format_before_is_read_and_says_nothing_is_probable(copied: Path, a_photo: bytes) -> None:
    stored = json.loads((copied / "certainty.json").read_text("utf-8"))
    del stored["probable"]
    resealed(copied, "certainty.json", json.dumps(stored).encode())
    manifest = json.loads((copied / "manifest.json").read_text("utf-8"))
    manifest = {name: value for name, value in manifest.items() if name not in ("sha256", "identity")}
    (copied / "manifest.json").write_bytes(bundles.manifest_bytes({**manifest, "format": 3}))
    bundle = bundles.load(copied)
    assert bundle.certainty.probable == bundle.certainty.kind > 0
    assert bundle.recognise([a_photo])[0].outcome != "probable"


def test_certainty_without_a_limit_of_strangeness_takes_everything_for_known(copied: Path, a_photo: bytes) -> None:
    stored = json.loads((copied / "certainty.json").read_text("utf-8"))
    resealed(copied, "certainty.json", json.dumps({**stored, "strange": None}).encode())
    bundle = bundles.load(copied)
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    (answer,) = bundle.answers(
        Embedder(bundle.model_file.fetch()).embed(noise[None]), *(np.zeros(1, np.float32),) * 2, np.array([100])
    )
    assert bundle.certainty.strange == float("inf")
    assert answer.outcome != "unknown"


def test_photo_that_kills_its_decoder_is_a_refusal(
    photos: Path, some: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_backbone("fruits-small")
    bundle = save_bundle(tmp_path / "bundle", found, found.card.preprocessing(None, None, 100), some, 8)
    faulty = Path(__file__).parents[1] / "faulty_decoder"
    photo = some[0].read_bytes()
    before = bundle.recognise([photo])
    monkeypatch.setenv("PYTHONPATH", str(faulty))
    own_decoder().close()
    try:
        with pytest.raises(ImageDecodeError, match="SIGSEGV") as caught:
            bundle.recognise([photo, runpy.run_path(str(faulty / "marked.py"))["marked"](photo, "crash")])
        assert caught.value.code == "crashed"
        assert bundle.recognise([photo])[0].probability == before[0].probability
    finally:
        own_decoder().close()
