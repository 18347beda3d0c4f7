"""The bundle and the single graph say the same of a photo, whatever network they are made of; damage is found and named."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
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

from fruits.embedding.backbone import Backbone, Embedder, find_backbone
from fruits.errors import BundleError, ImageDecodeError
from fruits.learning.drift import Drift
from fruits.learning.heads import get_head
from fruits.learning.moments import Moments
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.pca import PCA
from fruits.messages import LANGUAGES
from fruits.photos.decoding.decoder import own_decoder
from fruits.photos.decoding.images import Preprocessing, to_network_input, to_thumbnail
from fruits.photos.decoding.quality import Limits, measure
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import Certainty
from fruits.recogniser.bundle_files import manifest_bytes
from fruits.recogniser.gallery import Gallery
from fruits.recogniser.saving import save
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.objects import Objects
from fruits.training import pipeline

OUTPUTS = ["probabilities", "features", "ood_score", "brightness", "sharpness"]

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def some(photos: Path) -> list[Path]:
    """80 photos of 8 labels."""
    return sorted(photos.glob("*/*/*.jpg"))[::4]


@functools.cache
def decoded(photo: bytes, preprocessing: Preprocessing) -> np.ndarray:
    return to_network_input(photo, preprocessing).pixels


@functools.cache
def thumbnail(photo: bytes) -> bytes:
    return to_thumbnail(photo, 64)


def save_bundle(
    folder: Path, found: Backbone, preprocessing: Preprocessing, some: list[Path], k: int, head_name: str = "logistic"
) -> bundles.Bundle:
    """Fit a recogniser on some photos, without the rest of a run, and save it."""
    save(folder, **fitted(found, preprocessing, some, k, head_name))
    return bundles.load(folder)


def fitted(
    found: Backbone, preprocessing: Preprocessing, some: list[Path], k: int, head_name: str = "logistic"
) -> dict[str, Any]:
    """What a bundle is saved from."""
    model = found.prepared(preprocessing)
    pixels = np.stack([decoded(path.read_bytes(), preprocessing) for path in some])
    names = sorted({path.parent.name for path in some})
    labels = np.array([names.index(path.parent.name) for path in some])
    embeddings = Embedder(model).embed(pixels)
    pca = PCA.from_moments(Moments.from_rows(embeddings))
    features = pca.transform(embeddings, k)
    kind = get_head(head_name)
    head = kind.fit(features, labels, setting=kind.settings[2])
    if not head.own_scale:
        head = head.temperature_scaled(0.05)
    ood_detector = OodDetector.of(features, labels).scaled(features, head.predict_proba(features))
    certainty = Certainty(0.7, 0.8, 0.6, 2.0, Limits.of(*measure(pixels), preprocessing.size))
    return {
        "model": model,
        "card": found.card,
        "preprocessing": preprocessing,
        "mean": pca.mean,
        "components": pca.axes[:k],
        "head": head,
        "head_name": head_name,
        "ood_detector": ood_detector,
        "taxonomy": Taxonomy.of(names),
        "certainty": certainty,
        "drift": Drift.of(features, ood_detector.ood_score(features, head.predict_proba(features))),
        "gallery": Gallery.of(features, labels, [thumbnail(path.read_bytes()) for path in some]),
        "about": {},
    }


def assert_graph_agrees(bundle: bundles.Bundle, photos: list[bytes]) -> None:
    """All outputs of the single graph are what the bundle computes."""
    session = ort.InferenceSession(Path(bundle.root) / "recognizer.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs() if output.name != "evidence"] == OUTPUTS
    pixels = np.stack([decoded(photo, bundle.preprocessing) for photo in photos])
    given = dict(zip(OUTPUTS, session.run(OUTPUTS, {"pixels": pixels}), strict=True))
    assert all(given[name].shape == (len(photos), 1) for name in OUTPUTS[2:])
    features, probabilities, ood_score = bundle.classify(Embedder(bundle.model_file.fetch()).embed(pixels))
    brightness, sharpness = measure(pixels)
    tolerance = bundles.PROBABILITY_TOLERANCE
    np.testing.assert_allclose(given["probabilities"], probabilities, atol=tolerance, rtol=0)
    np.testing.assert_allclose(given["features"], features, atol=tolerance * np.abs(features).max(), rtol=0)
    # In units of how far known photos differ: differences of squares of a few hundred, float32 sums in another order.
    np.testing.assert_allclose(given["ood_score"][:, 0], ood_score, atol=1e-3, rtol=1e-4)
    # Sums of whole numbers, exact in both; one is divided in float64, the other in float32.
    np.testing.assert_allclose(given["brightness"][:, 0], brightness, atol=1e-5, rtol=0)
    np.testing.assert_allclose(given["sharpness"][:, 0], sharpness, atol=2e-6, rtol=0)
    for row, answer in zip(range(0, len(photos), 4), bundle.recognise(photos[::4]), strict=True):
        assert answer.ood_score == pytest.approx(float(given["ood_score"][row, 0]), rel=1e-4, abs=1e-3)
        np.testing.assert_allclose(answer.probabilities, np.sort(probabilities[row])[::-1][:3], atol=tolerance)


# --- The same everywhere ------------------------------------------------------------------------------------------------


def test_graph_of_a_finished_run_says_what_its_bundle_says(finished_run: Any, some: list[Path]) -> None:
    assert_graph_agrees(bundles.load(finished_run.out), [path.read_bytes() for path in some[::2]])


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


@pytest.mark.parametrize("opset", [9, 10, 17, 21])
@pytest.mark.parametrize("head_name", ["knn", "kernel"])
def test_graph_with_references_of_any_opset_says_what_its_bundle_says(
    save_network: Save, networks: Any, some: list[Path], tmp_path: Path, opset: int, head_name: str
) -> None:
    found = find_backbone(str(save_network(networks[0]("NHWC", "uint8", opset=opset))))
    uneven = [path for number, path in enumerate(some) if number % 10 < 2 + number // 10]  # 2 to 9 photos of a label
    bundle = save_bundle(tmp_path / "bundle", found, Preprocessing(16), uneven, 3, head_name)
    assert_graph_agrees(bundle, [path.read_bytes() for path in some])
    onnx.checker.check_model(onnx.load(Path(bundle.root) / "recognizer.onnx"), full_check=True)


def test_bundle_with_neighbours_names_its_head_and_keeps_its_arrays(
    some: list[Path], tmp_path: Path, a_photo: bytes
) -> None:
    found = find_backbone("fruits-small")
    preprocessing = found.card.preprocessing(None, None, 100)
    bundle = save_bundle(tmp_path / "bundle", found, preprocessing, some, 8, "knn")
    assert bundle.manifest["head"] == {"name": "knn", "temperature": 0.05}
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert {"references.npy", "counts.npy", "neighbours.npy"} < names
    assert not names & {"weights.npy", "bias.npy"}
    assert_graph_agrees(bundle, [path.read_bytes() for path in some[::4]])
    # Places of a photo add up for linear heads only: no such output, and a sentence where one asks for it.
    session = ort.InferenceSession(tmp_path / "bundle" / "recognizer.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == OUTPUTS
    with pytest.raises(
        BundleError, match="the head 'knn' is not linear in the features; expected one that is: run again"
    ):
        bundle.explain(a_photo)


def test_neighbours_that_do_not_fit_and_heads_that_are_not_there_are_refused(some: list[Path], tmp_path: Path) -> None:
    found = find_backbone("fruits-small")
    folder = tmp_path / "bundle"
    save_bundle(folder, found, found.card.preprocessing(None, None, 100), some, 8, "knn")
    counts = np.load(folder / "counts.npy")
    out = BytesIO()
    np.save(out, np.r_[counts[:-1], counts[-1] + 1])
    before = (folder / "counts.npy").read_bytes()
    with pytest.raises(BundleError, match="counts of 81 references in all, of 80"):
        bundles.load(resealed(folder, "counts.npy", out.getvalue()))
    resealed(folder, "counts.npy", before)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for head, said in (
        (
            {"name": "tail", "temperature": 1.0},
            "made with head='tail': no head 'tail'; expected logistic, knn or kernel",
        ),
        ({"name": "logistic", "temperature": 1.0}, "no file, 'bias.npy'"),
        ({"name": "knn", "temperature": 0}, "a head without a name and a temperature"),
        ({"name": 3, "temperature": 1.0}, "a head without a name and a temperature"),
        (3, "head of another type"),
    ):
        changed = {name: value for name, value in manifest.items() if name not in ("sha256", "identity")} | {
            "head": head
        }
        (folder / "manifest.json").write_bytes(manifest_bytes(changed))
        with pytest.raises(BundleError, match=said):
            bundles.load(folder)


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
    side = bundle.preprocessing.size
    flat = np.repeat(np.array([0, 128, 255], np.uint8), side * side * 3).reshape(3, side, side, 3)
    brightness, sharpness = session.run(["brightness", "sharpness"], {"pixels": flat})
    # A float32 sum of some 5,000 values, each already scaled.
    np.testing.assert_allclose(brightness[:, 0], [0, 128 / 255, 1], atol=1e-5)
    assert (sharpness == 0).all()


def test_graph_carries_all_that_its_numbers_mean(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    about = ort.InferenceSession(Path(bundle.root) / "recognizer.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["fruits.labels"]) == bundle.labels
    assert json.loads(about["fruits.preprocessing"]) == asdict(bundle.preprocessing)
    assert Taxonomy.parse(json.loads(about["fruits.taxonomy"])) == bundle.taxonomy
    assert Certainty.parse(json.loads(about["fruits.certainty"])) == bundle.certainty


@pytest.mark.slow
def test_batch_and_single_photos_are_answered_alike(finished_run: Any, some: list[Path], tmp_path: Path) -> None:
    some = some[::2]
    pipeline.apply(str(finished_run.out), list(map(str, some)), str(tmp_path / "to"), workers=1)
    rows = {row["uri"]: row for row in pq.read_table(tmp_path / "to" / "predictions.parquet").to_pylist()}
    bundle = bundles.load(finished_run.out)
    for path in some:
        (answer,), row = bundle.recognise([path.read_bytes()]), rows[str(path.resolve())]
        assert (row["outcome"], row["advice"]) == (answer.outcome, list(answer.advice))
        assert (row["kind"], row["variety"]) == (answer.kind or None, answer.variety or None)
        for language in LANGUAGES:
            assert row[f"name_{language}"] == (answer.name.names()[language] if answer.name else None)
        assert row["labels"][0] == answer.labels[0]
        assert row["kinds"][0] == answer.kinds[0][0]
        numbers = [answer.probability, *answer.probabilities, *(p for _, _, p in answer.kinds)]
        given = [row["probability"], *row["probabilities"], *row["kind_probabilities"]]
        np.testing.assert_allclose(given, numbers, atol=bundles.PROBABILITY_TOLERANCE)
        assert row["ood_score"] == pytest.approx(answer.ood_score, rel=1e-4, abs=1e-3)


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


@pytest.mark.slow
def test_bundle_that_two_processes_replace_again_and_again_stays_whole(some: list[Path], tmp_path: Path) -> None:
    folder, name = tmp_path / "made" / "bundle", "fruits-small"
    program = (
        "import runpy, sys\nfrom pathlib import Path\n"
        "from fruits.recogniser.saving import save\nfrom fruits.embedding.backbone import find_backbone\n"
        "from fruits.photos.decoding.images import Preprocessing\n"
        "test, to, name, *photos = sys.argv[1:]\n"
        "fitted = runpy.run_path(test)['fitted'](find_backbone(name), Preprocessing(96), [*map(Path, photos)], 8)\n"
        "for _ in range(15):\n    save(to, **fitted)\n"
    )
    command = [sys.executable, "-c", program, __file__, folder, name, *some[::4]]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    alone = save_bundle(tmp_path / "alone", find_backbone(name), Preprocessing(96), some[::4], 8)
    assert bundles.load(folder).labels == alone.labels
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


# --- Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(some: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a small network, as a run saves it."""
    folder, found = tmp_path_factory.mktemp("whole") / "bundle", find_backbone("fruits-small")
    save_bundle(folder, found, found.card.preprocessing(None, None, 100), some, 8)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def resealed(folder: Path, name: str, data: bytes) -> Path:
    """Put a file into a bundle as if it had been saved so: every checksum is right."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    del manifest["sha256"]
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
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
    (copied / "manifest.json").write_bytes(manifest_bytes({**manifest, "format": found}))
    with pytest.raises(BundleError, match=f"has format {found}; this version of fruits reads 3 to 6: run it again"):
        bundles.load(copied)


@pytest.mark.parametrize("found", [3, 4, 5])
def test_bundles_of_older_formats_give_the_same_answers(copied: Path, a_photo: bytes, found: int) -> None:
    now = bundles.load(copied)
    (answer,) = now.recognise([a_photo])
    stored = json.loads((copied / "certainty.json").read_text("utf-8"))
    stored["strange"] = stored.pop("ood_limit")
    if found == 3:
        del stored["probable"]
    resealed(copied, "certainty.json", json.dumps(stored).encode())
    network = onnx.load(copied / "recognizer.onnx")
    for node in network.graph.node:
        node.output[:] = ["strangeness" if name == "ood_score" else name for name in node.output]
    for output in network.graph.output:
        output.name = "strangeness" if output.name == "ood_score" else output.name
    resealed(copied, "recognizer.onnx", network.SerializeToString())
    manifest = json.loads((copied / "manifest.json").read_text("utf-8"))
    left_out = ("sha256", "identity", *(["head"] if found < 5 else []))  # before format 5, the head was always logistic
    manifest = {name: value for name, value in manifest.items() if name not in left_out}
    (copied / "manifest.json").write_bytes(manifest_bytes({**manifest, "format": found}))
    bundle = bundles.load(copied)
    assert bundle.certainty.ood_limit == now.certainty.ood_limit
    (before,) = bundle.recognise([a_photo])
    assert before.ood_score == answer.ood_score
    np.testing.assert_array_equal(before.probabilities, answer.probabilities)
    if found == 3:
        assert bundle.certainty.probable == bundle.certainty.kind > 0
        assert before.outcome != "probable"
    else:
        assert before.outcome == answer.outcome


def test_certainty_without_a_limit_of_the_ood_score_takes_everything_for_known(copied: Path, a_photo: bytes) -> None:
    stored = json.loads((copied / "certainty.json").read_text("utf-8"))
    resealed(copied, "certainty.json", json.dumps({**stored, "ood_limit": None}).encode())
    bundle = bundles.load(copied)
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    (answer,) = bundle.answers(
        Embedder(bundle.model_file.fetch()).embed(noise[None]), *(np.zeros(1, np.float32),) * 2, np.array([100])
    )
    assert bundle.certainty.ood_limit == float("inf")
    assert answer.outcome != "unknown"


def test_photo_that_kills_its_decoder_is_a_refusal(
    whole: Path, some: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles.load(whole)
    faulty = Path(__file__).parents[2] / "faulty_decoder"
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


# --- A stranger's bundle: no file of the machine, no memory beyond its bytes --------------------------------------------------


def with_files(folder: Path, **changes: str | None) -> Path:
    """Seal a bundle that names other files; None takes one away."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    del manifest["sha256"]
    for name, digest in changes.items():
        if digest is None:
            del manifest["files"][name]
        else:
            manifest["files"][name] = digest
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../x", "a file too many, '../../x'"),
        ("/etc/hostname", "a file too many, '/etc/hostname'"),
        ("extra.npy", "a file too many, 'extra.npy'"),
        ("mean.npy", "no file, 'mean.npy'"),
    ],
)
def test_bundle_holds_its_files_no_more_and_no_less(copied: Path, name: str, said: str) -> None:
    with_files(copied, **{name: None if name == "mean.npy" else "0" * 64})
    with pytest.raises(BundleError, match=f"manifest.json holds {said}"):
        bundles.load(copied)


@pytest.mark.parametrize("name", ["manifest.json", "mean.npy", "backbone.onnx", "taxonomy.json", "gallery.jpegs"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder"])
def test_what_is_no_file_of_its_own_is_refused_in_a_bundle(copied: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = copied / name
    if kind == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
    with pytest.raises(BundleError, match=rf"{name} (is refused|cannot be read) \((a link|not a regular file)"):
        bundles.load(copied)


def test_file_beyond_all_measure_is_refused_unread(copied: Path) -> None:
    with (copied / "certainty.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=r"certainty\.json is refused \(1,099,511,627,776 bytes; expected at most"):
        bundles.load(copied)


def header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD_ARRAYS = {
    "36 TiB": header("(10000000000000,)"),
    "of nothing": header("(10000000000000, 0)"),
    "negative": header("(-1,)"),
    "short": header("(8,)") + bytes(31),
    "long": header("(8,)") + bytes(33),
    "float64": header("(8,)", "<f8") + bytes(64),
    "objects": header("(8,)", "|O") + bytes(64),
    "another c": header("(9,)") + bytes(36),
    "no axis": header("()") + bytes(4),
    "two axes": header("(2, 4)") + bytes(32),
    "big-endian": header("(8,)", ">f4") + bytes(32),
    "version": b"\x93NUMPY\x09\x00" + bytes(100),
    "endless header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "empty": b"",
    "rubbish": b"x" * 200,
    "NaN": header("(8,)") + np.full(8, np.nan, "<f4").tobytes(),
    "code": header("(__import__('os'),)") + bytes(32),
}


@pytest.mark.parametrize("data", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_array_that_is_not_what_it_must_be_is_one_error(copied: Path, data: bytes) -> None:
    resealed(copied, "bias.npy", data)
    with pytest.raises(BundleError, match=r"bundle '.*' lacks something \(bias\.npy"):
        bundles.load(copied)


def test_array_saved_by_columns_is_the_same(copied: Path) -> None:
    plain = bundles.load(copied)
    out = BytesIO()
    np.save(out, np.asfortranarray(np.load(copied / "components.npy")))
    again = bundles.load(resealed(copied, "components.npy", out.getvalue()))
    np.testing.assert_array_equal(again._components, plain._components)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "[" * 100_000])
def test_json_that_no_other_reader_takes_is_refused(copied: Path, text: str) -> None:
    stored = json.loads((copied / "certainty.json").read_text("utf-8"))
    data = json.dumps({**stored, "offset": "HERE"}).replace('"HERE"', text).encode()
    with pytest.raises(BundleError, match=r"bundle '.*' lacks something"):
        bundles.load(resealed(copied, "certainty.json", data))


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"[]", b"null", b"{", b"\xff" * 40, b'{"format": NaN}'], ids=lambda data: str(data[:8])
)
def test_manifest_that_is_none_is_one_error(copied: Path, data: bytes) -> None:
    (copied / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json is not the file that was saved"):
        bundles.load(copied)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": "abc"},
        {"labels": [1, 2]},
        {"labels": []},
        {"files": []},
        {"backbone": 3},
        {"preprocessing": None},
        {"about": "x"},
    ],
    ids=str,
)
def test_manifest_of_other_types_is_one_error(copied: Path, changes: dict[str, Any]) -> None:
    manifest = json.loads((copied / "manifest.json").read_text("utf-8"))
    del manifest["sha256"]
    (copied / "manifest.json").write_bytes(manifest_bytes({**manifest, **changes}))
    with pytest.raises(BundleError, match=r"manifest\.json holds"):
        bundles.load(copied)


@pytest.mark.parametrize("name", ["backbone.onnx", "recognizer.onnx"])
def test_network_of_a_bundle_that_names_a_file_of_the_machine_is_refused(copied: Path, name: str) -> None:
    model = onnx.load(copied / name)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="etc/passwd")
    resealed(copied, name, model.SerializeToString())
    with pytest.raises(BundleError, match=rf"'{name}' keeps weights in other files \('etc/passwd'\), which is refused"):
        bundles.load(copied)


@pytest.mark.slow
def test_bundle_in_a_bucket_is_read_as_carefully(copied: Path, prefix: str) -> None:
    objects = Objects(f"{prefix}/stranger")
    with_files(copied, **{"../secret": "0" * 64})
    for path in copied.iterdir():
        objects.write(path.name, path.read_bytes())
    with pytest.raises(BundleError, match=r"a file too many, '\.\./secret'"):
        bundles.load(f"{prefix}/stranger")
    with_files(copied, **{"../secret": None})
    objects.write("manifest.json", (copied / "manifest.json").read_bytes())
    assert bundles.load(f"{prefix}/stranger").labels
    objects.write("certainty.json", bytes((1 << 20) + 1))
    with pytest.raises(BundleError, match=r"certainty\.json is refused \(1,048,577 bytes"):
        bundles.load(f"{prefix}/stranger")


def test_embeddings_far_beyond_those_of_training_give_finite_answers(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    far = np.full((3, bundle.card.embedding_size), 1e12, np.float32) * np.array([[1], [-1], [0]], np.float32)
    for answer in bundle.answers(far, *(np.zeros(3, np.float32),) * 2, np.full(3, 100)):
        assert np.isfinite([answer.probability, answer.ood_score, *answer.probabilities, *answer.features]).all()


@pytest.mark.parametrize("name", ["weights.npy", "mean.npy", "backbone.onnx", "taxonomy.json"])
def test_a_file_with_one_other_byte_is_refused(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[-1] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(BundleError, match="another sha256"):
        bundles.load(copied)
