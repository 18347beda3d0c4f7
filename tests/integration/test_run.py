"""The main job on generated photos: what comes out, what is computed again, and what survives kills and damage."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest
from faults import checks
from PIL import Image

from fruits.config import DEFAULT_BACKBONE, RunConfig
from fruits.embedding.backbone import Embedder, find_backbone
from fruits.errors import (
    BackboneError,
    BundleError,
    CatalogueError,
    ConfigError,
    FruitsError,
    TaxonomyError,
    TooManyRejectedError,
)
from fruits.photos.decoding.images import Preprocessing, to_network_input
from fruits.recogniser import bundle as bundles
from fruits.storage.embeddings import upkeep
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.tables import schemas
from fruits.training import finished, pipeline
from fruits.training.vacuum import vacuum

FILES = (
    "backbone.onnx", "recognizer.onnx", "taxonomy.json", "certainty.json", "mean.npy", "components.npy", "weights.npy",
    "bias.npy", "whitening.npy", "centres.npy", "background.npy", "drift_edges.npy", "drift_shares.npy", "gallery.jpegs",
    "gallery_labels.npy", "gallery_features.npy", "gallery_offsets.npy", "manifest.json",
)  # fmt: skip


#: What runs that begin anew are computed with: a fifth of the work of the default network, whose results the finished run has.
SMALL = "fruits-small"


def run(out: Path, *sources: Path, **choices: Any) -> dict[str, Any]:
    config = {"workers": 1, "backbone": SMALL, **choices}
    return pipeline.run(RunConfig(sources=tuple(map(str, sources)), out=str(out), **config))


def go_on(out: Path, finished: Any) -> dict[str, Any]:
    """With the choices of the finished run."""
    return run(out, finished.photos, backbone=DEFAULT_BACKBONE)


def assert_same_results(one: Path, other: Path) -> None:
    """To the last bit: the features, and the arrays and graphs of the bundle."""
    assert (one / "features.parquet").read_bytes() == (other / "features.parquet").read_bytes()
    for name in FILES[:-1]:
        assert (one / "bundle" / name).read_bytes() == (other / "bundle" / name).read_bytes(), name


def labels_of(photos: Path) -> list[str]:
    return sorted({folder.name for folder in photos.glob("T*/*")})


# --- What a run leaves ------------------------------------------------------------------------------------------------


def test_counts_close(finished_run: Any) -> None:
    record = finished_run.record
    files = len(list(finished_run.photos.glob("*/*/*.jpg")))
    assert record["photos"] == files == record["ok"] + record["rejected"] + record["failed"]
    assert record["photos"] == record["computed"] + record["reused"] == sum(record["splits"].values())
    assert record["evaluated"]["photos"] == record["splits"]["test"]
    assert sum(label["train"] for label in record["per_label"]) == record["splits"]["train"]
    assert record["labels"] == 8 == len(record["per_label"])


def test_made_up_fruit_is_recognised_far_better_than_by_chance(finished_run: Any) -> None:
    assert finished_run.record["metrics"]["accuracy"] > 0.5  # of 8 labels; says that the chain hangs together, no more


def test_record_on_disk_is_the_one_that_was_returned(finished_run: Any) -> None:
    stored = json.loads((finished_run.out / "run.json").read_text("utf-8"))
    told = {"up_to_date": False, "run": (finished_run.out / "bundle").resolve().parent.name, "current": True}
    assert json.loads(json.dumps(finished_run.record)) == {**stored, **told}


def test_report_is_written_and_needs_nothing_else(finished_run: Any) -> None:
    page = (finished_run.out / "report.html").read_text("utf-8")
    assert "Apfelino Red 1" in page
    assert not any(mark in page for mark in ('src="http', "src='http", 'link rel="stylesheet"'))


def test_features_have_a_row_for_every_photo_and_say_what_they_are(finished_run: Any) -> None:
    table = pq.read_table(finished_run.out / "features.parquet")
    k = finished_run.record["components"]
    assert table.schema.equals(schemas.features(k), check_metadata=False)
    about = json.loads(table.schema.metadata[b"fruits"])
    assert about["components"] == k
    assert about["backbone"] == DEFAULT_BACKBONE
    assert about["identity"] == finished_run.record["identity"]
    for row in table.to_pylist():
        path = Path(row["uri"])
        assert path.is_relative_to(finished_run.photos.resolve())
        assert row["label"] == path.parent.name
        assert row["split"] == {"Training": "train", "Test": "test"}[path.parent.parent.name]
    assert table["uri"].to_pylist() == sorted(map(str, finished_run.photos.resolve().glob("*/*/*.jpg")))


def test_features_of_training_photos_are_centred_and_uncorrelated(finished_run: Any) -> None:
    table = pq.read_table(finished_run.out / "features.parquet").to_pylist()
    features = np.array([row["features"] for row in table if row["split"] == "train"], np.float64)
    spread = features.std(axis=0)
    assert np.abs(features.mean(axis=0)).max() < 1e-3 * spread.max()  # float32 projections
    covariance = np.cov(features, rowvar=False)
    beside = covariance - np.diag(np.diag(covariance))
    assert np.abs(beside).max() < 1e-3 * covariance.max()
    assert (np.diff(spread) <= 1e-3 * spread.max()).all()


def test_precision_asked_for_is_part_of_what_a_run_is(own_photos: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "out", own_photos, components=8)
    assert first["config"]["min_precision"] == first["coverage"]["min_precision"] == 0.92
    again = run(tmp_path / "out", own_photos, components=8, min_precision=0.6)
    assert (again["up_to_date"], again["computed"]) == (False, 0)
    assert again["coverage"]["min_precision"] == 0.6
    assert run(tmp_path / "out", own_photos, components=8, min_precision=0.6)["up_to_date"]


@pytest.mark.parametrize("precision", [0.49, 1.0, 92.0, float("nan"), -1.0])
def test_precision_that_nothing_can_have_is_refused(own_photos: Path, tmp_path: Path, precision: float) -> None:
    with pytest.raises(ConfigError, match=r"min_precision=.*expected a share from 0.5 to below 1, such as 0.92"):
        run(tmp_path / "out", own_photos, min_precision=precision)


def test_explained_variance_curve_is_complete(finished_run: Any) -> None:
    ratio = finished_run.record["explained_variance_ratio"]
    assert len(ratio) == finished_run.record["embedding_size"]
    assert sum(ratio) == pytest.approx(1)
    assert sum(ratio[: finished_run.record["components"]]) == pytest.approx(finished_run.record["explained_variance"])


def test_bundle_holds_what_recognising_needs_and_nothing_else(finished_run: Any) -> None:
    assert {path.name for path in (finished_run.out / "bundle").iterdir()} == set(FILES)


# --- The same answer everywhere ---------------------------------------------------------------------------------------


def test_predict_apply_single_graph_and_features_agree(finished_run: Any, tmp_path: Path) -> None:
    bundle = bundles.load(finished_run.out)
    session = ort.InferenceSession(finished_run.out / "bundle" / "recognizer.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    labels, preprocessing = (
        json.loads(about["fruits.labels"]),
        Preprocessing(**json.loads(about["fruits.preprocessing"])),
    )
    assert labels == bundle.labels == labels_of(finished_run.photos)

    pipeline.apply(str(finished_run.out), [str(finished_run.photos / "Test")], str(tmp_path / "to"), workers=1)
    applied = {row["uri"]: row for row in pq.read_table(tmp_path / "to" / "predictions.parquet").to_pylist()}
    stored = {row["uri"]: row["features"] for row in pq.read_table(finished_run.out / "features.parquet").to_pylist()}
    uris = sorted(applied)[::3]
    photos = [Path(uri).read_bytes() for uri in uris]
    pixels = np.stack([to_network_input(photo, preprocessing).pixels for photo in photos])
    probabilities, features = session.run(["probabilities", "features"], {"pixels": pixels})
    tolerance = {"atol": bundles.PROBABILITY_TOLERANCE, "rtol": 0}
    scale = np.abs(features).max()
    for uri, answer, whole, graph in zip(uris, bundle.recognise(photos), probabilities, features, strict=True):
        best = np.argsort(-whole, kind="stable")[:3]
        np.testing.assert_allclose(answer.probabilities, whole[best], **tolerance)
        np.testing.assert_allclose(applied[uri]["probabilities"], whole[best], **tolerance)
        assert answer.labels[0] == applied[uri]["labels"][0] == labels[best[0]]
        # Features are as large as embeddings are: relative to the largest, float32 sums in another order.
        for other in (answer.features, applied[uri]["features"], stored[uri]):
            np.testing.assert_allclose(np.float32(other) / scale, graph / scale, **tolerance)


def test_accuracy_of_the_record_is_that_of_the_bundle(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    paths = sorted(finished_run.photos.glob("Test/*/*.jpg"))
    answers = bundle.recognise([path.read_bytes() for path in paths])
    right = np.mean([answer.labels[0] == path.parent.name for answer, path in zip(answers, paths, strict=True)])
    # One photo of the few dozen may lie on the border between two labels, where the last bit decides.
    assert right == pytest.approx(finished_run.record["metrics"]["accuracy"], abs=1.5 / len(paths))


# --- Only what is new -------------------------------------------------------------------------------------------------


def test_second_run_computes_nothing_and_says_the_same(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    again = go_on(out, finished_run)
    assert (again["computed"], again["reused"], again["up_to_date"]) == (0, again["photos"], True)
    for name in ("metrics", "components", "per_label", "confusions", "evaluated", "identity"):
        assert again[name] == finished_run.record[name]
    assert_same_results(out, finished_run.out)


def test_each_change_of_the_photos_costs_only_itself(own_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(out, own_photos, components=10)
    photos = first["photos"]
    assert first["computed"] == photos
    some = sorted(own_photos.glob("Training/*/*.jpg"))

    shutil.copy(some[0], some[0].with_name("added.jpg"))
    added = run(out, own_photos, components=10)
    assert (added["photos"], added["computed"], added["up_to_date"]) == (photos + 1, 1, False)

    some[1].write_bytes(some[40].read_bytes())
    changed = run(out, own_photos, components=10)
    assert (changed["photos"], changed["computed"], changed["up_to_date"]) == (photos + 1, 1, False)

    some[2].rename(some[2].with_name("renamed.jpg"))
    renamed = run(out, own_photos, components=10)
    assert (renamed["photos"], renamed["computed"]) == (photos + 1, 1)

    some[3].unlink()
    deleted = run(out, own_photos, components=10)
    assert (deleted["photos"], deleted["computed"], deleted["up_to_date"]) == (photos, 0, False)

    fresh = run(tmp_path / "fresh", own_photos, components=10)
    assert fresh["metrics"]["accuracy"] == pytest.approx(deleted["metrics"]["accuracy"], abs=0.051)  # one of 20 photos
    one, other = (pq.read_table(folder / "features.parquet") for folder in (out, tmp_path / "fresh"))
    assert one["uri"].to_pylist() == other["uri"].to_pylist()
    left, right = (np.array(table["features"].to_pylist()) for table in (one, other))
    # Summed in other pieces: float64 moments, float32 projections.
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-3 * np.abs(left).max())


def test_choices_after_embedding_recompute_no_embedding_and_those_before_recompute_all(
    own_photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    photos = run(out, own_photos, components=10)["photos"]
    by_number = run(out, own_photos, components=5)
    assert (by_number["computed"], by_number["components"], by_number["components_chosen_by"]) == (0, 5, "components")
    by_share = run(out, own_photos, variance=0.9)
    assert (by_share["computed"], by_share["components_chosen_by"]) == (0, "variance")
    assert by_share["explained_variance"] >= 0.9
    ratio = by_share["explained_variance_ratio"]
    assert sum(ratio[: by_share["components"] - 1]) < 0.9
    fitted_otherwise = run(out, own_photos, components=5, resize_mode="crop")
    assert fitted_otherwise["computed"] == photos
    assert run(out, own_photos, components=5)["computed"] == 0  # the earlier embeddings are still there


def test_another_size_recomputes_all_or_is_refused(own_photos: Path, tmp_path: Path) -> None:
    try:
        find_backbone("fruits-small").prepared(Preprocessing(64))
    except BackboneError:
        with pytest.raises(BackboneError, match="64 x 64"):
            run(tmp_path / "out", own_photos, components=5, size=64)
    else:
        photos = run(tmp_path / "out", own_photos, components=5)["photos"]
        other = run(tmp_path / "out", own_photos, components=5, size=64)
        assert other["computed"] == photos
        assert other["config"]["size"] == 64


def test_size_of_a_network_that_takes_any_follows_the_first_photos_and_then_stays(
    own_photos: Path, tmp_path: Path, save_network: Callable[..., Path], networks: Any
) -> None:
    backbone = str(save_network(networks[0]("NHWC", "uint8"), size=[16, 224]))
    first = run(tmp_path / "out", own_photos, backbone=backbone, components=3)
    assert first["config"]["size"] == 100
    paths = sorted(own_photos.glob("Training/*/*.jpg"))
    for path in paths:
        Image.open(path).resize((150, 150)).save(path.with_name(f"large {path.name}"))
    second = run(tmp_path / "out", own_photos, backbone=backbone, components=3)
    assert (second["config"]["size"], second["computed"]) == (100, len(paths))
    for path in paths:
        path.unlink()
    # Fewer than half of the 50 photos looked at can now be small ones, whichever they are.
    assert len(list(own_photos.glob("Test/*/*.jpg"))) < 25
    fresh = run(tmp_path / "fresh", own_photos, backbone=backbone, components=3)
    assert fresh["config"]["size"] == 150


@pytest.mark.parametrize("lost", ["report.html", "features.parquet", "run.json", "catalogue.parquet", "bundle"])
def test_lost_result_is_put_back_without_computing_embeddings(finished_run: Any, tmp_path: Path, lost: str) -> None:
    out = finished_run.copy_to(tmp_path)
    path = (out / lost).resolve()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = go_on(out, finished_run)
    assert again["computed"] == 0
    assert_same_results(out, finished_run.out)
    assert (out / "report.html").is_file()
    assert [path.name for path in (out / "runs").iterdir()] == [again["run"]]


def test_lost_links_and_pointer_are_put_back_without_fitting(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    for lost in ("report.html", "bundle", "current", "current.json"):
        (out / lost).unlink()
    again = go_on(out, finished_run)
    assert again["up_to_date"]
    assert_same_results(out, finished_run.out)
    assert (out / "report.html").read_bytes() == (finished_run.out / "report.html").read_bytes()


def test_damaged_bundle_is_put_back(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    (out / "bundle" / "weights.npy").write_bytes(b"rubbish")
    assert go_on(out, finished_run)["computed"] == 0
    assert_same_results(out, finished_run.out)


# --- The same to the last bit -----------------------------------------------------------------------------------------


def test_number_of_workers_changes_no_bit(finished_run: Any, tmp_path: Path) -> None:
    go_on(tmp_path / "out", finished_run)  # the finished run had two
    assert_same_results(tmp_path / "out", finished_run.out)


def test_order_of_sources_changes_no_bit(own_photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other photos"
    for split in ("Training", "Test"):
        (other / split).mkdir(parents=True)
        (own_photos / split / "Moon Pear 1").rename(other / split / "Moon Pear 1")
    one = run(tmp_path / "one", own_photos, other, components=8)
    two = run(tmp_path / "two", other, own_photos, components=8)
    assert one["labels"] == two["labels"] == 4
    assert {source["photos"] for source in one["sources"]} == {source["photos"] for source in two["sources"]}
    assert_same_results(tmp_path / "one", tmp_path / "two")


def moments(out: Path) -> list[Callable[[], bool]]:
    """When to kill: as soon as each of these is true."""

    def there(pattern: str, count: int = 1) -> Callable[[], bool]:
        return lambda: len(list(out.glob(pattern))) >= count

    return [
        there("embeddings/*/backbone.onnx"),
        there("embeddings/*/*.parquet"),
        there("embeddings/*/_delta_log/*.json"),
        there("embeddings/*/_delta_log/*.json", 2),
        there("embeddings/*/*.parquet", 4),
        there("runs/*/unpublished.json"),
        there("runs/*/features.parquet"),
        there("runs/*/bundle.new-*"),
        there("runs/*/bundle"),
        there("runs/*/report.html"),
        there("runs/*/run.json"),
        there("current.json"),
        there("report.html"),
    ]


def test_run_killed_again_and_again_ends_with_the_results_of_an_undisturbed_one(
    finished_run: Any, commands: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    chance = random.Random(0)
    with Path(os.devnull).open("wb") as nowhere:
        streams = {"stdout": nowhere.fileno(), "stderr": nowhere.fileno()}
        for reached in moments(out):
            process = commands.start("run", finished_run.photos, "--to", out, "--workers", 2, **streams)
            while not reached() and process.poll() is None:
                time.sleep(0.003)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait()
    # Workers of the last kills may still be writing: that must not matter, either.
    record = go_on(out, finished_run)
    assert record["photos"] == record["ok"] == finished_run.record["photos"]
    assert record["metrics"] == finished_run.record["metrics"]
    assert_same_results(out, finished_run.out)


def test_two_runs_at_once_on_one_output_both_succeed(own_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fruits", "run", own_photos, "--to", out, "--workers", "1", "--components", "8"]
    command += ["--backbone", SMALL]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    run(tmp_path / "alone", own_photos, components=8)
    one, other = (np.load(folder / "bundle" / "components.npy") for folder in (out, tmp_path / "alone"))
    np.testing.assert_array_equal(one, other)  # whichever of the two computed which photo
    assert run(out, own_photos, components=8)["computed"] == 0


# --- Photos that are not as they should be ----------------------------------------------------------------------------


@pytest.fixture
def with_bad_photos(own_photos: Path) -> Path:
    """Six photos of Moon Pear that cannot be decoded, among those that can."""
    label = own_photos / "Training" / "Moon Pear 1"
    whole = min(label.iterdir()).read_bytes()
    contents = [b"", b"text", whole[:900], b"GIF89a" + bytes(9), b"\xff\xd8\xff", b"\0\0\0\x18ftypheic"]
    for number, content in enumerate(contents):
        (label / f"bad {number}.jpg").write_bytes(content)
    return own_photos


def test_rejected_photos_are_counted_listed_and_left_out(with_bad_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = run(out, with_bad_photos, components=8, max_rejected=0.2)
    assert (record["rejected"], record["failed"]) == (6, 0)
    assert record["photos"] == record["ok"] + 6
    listed = list(csv.DictReader((out / "rejected.csv").read_text("utf-8").splitlines()))
    assert [Path(row["uri"]).name for row in listed] == [f"bad {number}.jpg" for number in range(6)]
    assert {row["status"] for row in listed} == {"rejected"}
    assert {row["label"] for row in listed} == {"Moon Pear 1"}
    assert {row["code"] for row in listed} == {"empty", "not an image", "damaged", "unsupported format"}
    assert record["rejections_total"] == len(record["rejections"]) == 6
    assert pq.read_metadata(out / "features.parquet").num_rows == record["ok"]
    again = run(out, with_bad_photos, components=8, max_rejected=0.2)
    assert (again["computed"], again["up_to_date"], again["rejected"]) == (0, True, 6)  # they will never decode


def test_removing_rejected_photos_takes_the_list_away(with_bad_photos: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", with_bad_photos, components=8, max_rejected=0.2)
    for path in with_bad_photos.glob("Training/*/bad *"):
        path.unlink()
    record = run(tmp_path / "out", with_bad_photos, components=8)
    assert (record["computed"], record["rejected"]) == (0, 0)
    assert not (tmp_path / "out" / "rejected.csv").exists()


def test_too_many_rejected_photos_stop_the_run_and_keep_what_was_computed(
    with_bad_photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(TooManyRejectedError, match=r"rejected or failed: 6 of .* photos; at most a share of 0.01"):
        run(tmp_path / "out", with_bad_photos, components=8, max_rejected=0.01)
    assert not (tmp_path / "out" / "bundle").exists()
    assert run(tmp_path / "out", with_bad_photos, components=8, max_rejected=0.2)["computed"] == 0


def test_photo_that_appears_later_is_tried_again(own_photos: Path, tmp_path: Path) -> None:
    paths = sorted(own_photos.glob("T*/*/*.jpg"))
    lines = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in paths]
    gone = own_photos / "Training" / "Moon Pear 1" / "later.jpg"
    manifest = tmp_path / "list.csv"
    manifest.write_text("\n".join(["uri,label,split", *lines, f"{gone},Moon Pear 1,train"]), "utf-8")
    first = run(tmp_path / "out", manifest, components=8)
    assert (first["failed"], first["ok"]) == (1, len(paths))
    second = run(tmp_path / "out", manifest, components=8)
    assert (second["failed"], second["computed"]) == (1, 1)
    shutil.copy(paths[0], gone)
    third = run(tmp_path / "out", manifest, components=8)
    assert (third["failed"], third["computed"], third["ok"]) == (0, 1, len(paths) + 1)


def test_labels_without_training_photos_are_left_out_of_the_scores_and_said(
    own_photos: Path, tmp_path: Path, fruits: Callable[..., Any]
) -> None:
    shutil.rmtree(own_photos / "Training" / "Starrib Yellow")
    unseen = len(list((own_photos / "Test" / "Starrib Yellow").iterdir()))
    done = fruits(
        "run", own_photos, "--to", tmp_path / "out", "--components", 8, "--workers", 1, "--backbone", SMALL, "--json"
    )
    assert done.code == 0, done.stderr
    record = done.json()
    assert record["labels_without_training"] == [{"label": "Starrib Yellow", "photos": unseen}]
    assert record["evaluated"]["left_out_photos"] == unseen
    assert record["evaluated"]["photos"] == record["splits"]["test"] - unseen
    assert f"Starrib Yellow ({unseen})" in done.stderr
    assert bundles.load(tmp_path / "out").labels == ["Apfelino Red 1", "Moon Pear 1", "Tuskana Yellow"]


@pytest.mark.parametrize("kept", [1, 2])
def test_very_few_photos_are_enough_or_refused_with_a_reason(own_photos: Path, tmp_path: Path, kept: int) -> None:
    for folder in own_photos.glob("T*/*"):
        for path in sorted(folder.iterdir())[kept:]:
            path.unlink()
    record = run(tmp_path / "out", own_photos)
    assert record["ok"] == record["photos"] == 8 * kept
    assert len(bundles.load(tmp_path / "out").labels) == 4


@pytest.mark.parametrize("folder", ["Training/Moon Pear 1", "Test"])
def test_photos_that_leave_nothing_to_tell_apart_are_refused(own_photos: Path, tmp_path: Path, folder: str) -> None:
    chosen = own_photos / folder if folder == "Test" else own_photos / "Training" / "Moon Pear 1"
    root = tmp_path / "few"
    shutil.copytree(chosen, root / "Test" if folder == "Test" else root / "Moon Pear 1")
    with pytest.raises(FruitsError, match="expected"):
        run(tmp_path / "out", root)


def test_more_components_than_the_photos_determine_are_refused(own_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(FruitsError, match="ask for at most"):
        run(tmp_path / "out", own_photos, components=5000)


def test_photos_of_any_shape_and_kind_go_through(own_photos: Path, tmp_path: Path) -> None:
    label = own_photos / "Training" / "Moon Pear 1"
    photo = Image.open(min(label.iterdir()))
    photo.resize((300, 40)).save(label / "wide.png")
    photo.resize((20, 200)).convert("L").save(label / "tall, grey.jpg")
    photo.convert("RGBA").save(label / "with alpha.webp")
    photo.convert("P").save(label / "palette.png")
    record = run(tmp_path / "out", own_photos, components=8)
    assert record["ok"] == record["photos"]


def test_photos_and_results_in_folders_with_odd_names(own_photos: Path, tmp_path: Path) -> None:
    photos = own_photos.rename(tmp_path / "phot\u00f6s \N{GREEN APPLE} #1 100%")
    (photos / "Training" / "Moon Pear 1").rename(photos / "Training" / "Poire 'Doyenn\u00e9' & \n co")
    record = run(tmp_path / "r\u00e9sults 'a' #2 100%", photos, components=8)
    assert record["ok"] == record["photos"]
    assert "Poire 'Doyenn\u00e9' & \n co" in bundles.load(tmp_path / "r\u00e9sults 'a' #2 100%").labels
    pipeline.apply(str(tmp_path / "r\u00e9sults 'a' #2 100%"), [str(photos)], to=str(tmp_path / "ans [1]?"))
    assert (tmp_path / "ans [1]?" / "predictions.parquet").exists()


# --- The bundle is checked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_bundle_with_one_flipped_byte_is_refused_by_the_name_of_the_file(
    finished_run: Any, tmp_path: Path, name: str, share: float
) -> None:
    folder = Path(shutil.copytree(finished_run.out / "bundle", tmp_path / "bundle"))
    data = bytearray((folder / name).read_bytes())
    data[round(share * (len(data) - 1))] ^= 0x04
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        bundles.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_bundle_that_lacks_a_file_is_refused(finished_run: Any, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(finished_run.out / "bundle", tmp_path / "bundle"))
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        bundles.load(folder)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"format": 1}', b'{"format": 2}'])
def test_bundle_with_another_manifest_is_refused(finished_run: Any, tmp_path: Path, data: bytes) -> None:
    folder = Path(shutil.copytree(finished_run.out / "bundle", tmp_path / "bundle"))
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundles.load(folder)


def test_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle in .*fruits.run"):
        bundles.load(tmp_path)


def test_bundle_works_alone_after_being_moved(finished_run: Any, tmp_path: Path, a_photo: bytes) -> None:
    folder = Path(shutil.copytree(finished_run.out / "bundle", tmp_path / "elsewhere"))
    (here,) = bundles.load(folder).recognise([a_photo])
    (there,) = bundles.load(finished_run.out).recognise([a_photo])
    assert here.labels == there.labels
    assert here.probabilities == there.probabilities


def test_more_photos_than_a_batch_are_recognised_in_order(finished_run: Any) -> None:
    photos = [path.read_bytes() for path in sorted(finished_run.photos.glob("Test/*/*.jpg"))[:40]]
    bundle = bundles.load(finished_run.out)
    one_by_one = [bundle.recognise([photo])[0].probabilities for photo in photos]
    together = [answer.probabilities for answer in bundle.recognise(photos)]
    np.testing.assert_allclose(one_by_one, together, atol=bundles.PROBABILITY_TOLERANCE)
    assert bundle.recognise([]) == []


# --- Batch ------------------------------------------------------------------------------------------------------------


def test_apply_answers_for_every_photo_and_computes_only_what_is_new(
    finished_run: Any, with_bad_photos: Path, tmp_path: Path
) -> None:
    to = tmp_path / "predictions"
    first = pipeline.apply(str(finished_run.out), [str(with_bad_photos)], str(to), workers=1)
    assert first["photos"] == first["ok"] + first["rejected"] + first["failed"] == first["computed"]
    assert first["rejected"] == 6
    table = pq.read_table(to / "predictions.parquet")
    assert table.schema.equals(schemas.predictions(finished_run.record["components"]), check_metadata=False)
    assert table.num_rows == first["photos"] == len(set(table["uri"].to_pylist()))
    for row in table.to_pylist():
        if row["status"] == "ok":
            assert len(row["labels"]) == len(row["probabilities"]) == 3
            assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
            assert row["error"] is None
        else:
            assert row["error"]
            assert {name for name, value in row.items() if value is not None} == {"uri", "status", "error"}
    second = pipeline.apply(str(finished_run.out), [str(with_bad_photos)], str(to), workers=1)
    assert (second["computed"], second["reused"]) == (0, first["photos"])


def test_apply_takes_single_photos(finished_run: Any, tmp_path: Path) -> None:
    photos = sorted(map(str, finished_run.photos.glob("Test/*/*.jpg")))[:3]
    pipeline.apply(str(finished_run.out), photos, str(tmp_path / "to"), workers=1)
    assert pq.read_table(tmp_path / "to" / "predictions.parquet").num_rows == 3


def test_apply_of_nothing_but_bad_photos_is_a_table_of_reasons(finished_run: Any, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"text")
    done = pipeline.apply(str(finished_run.out), [str(tmp_path / "text.jpg")], str(tmp_path / "to"), workers=1)
    assert (done["ok"], done["rejected"]) == (0, 1)
    (row,) = pq.read_table(tmp_path / "to" / "predictions.parquet").to_pylist()
    assert (row["status"], row["labels"]) == ("rejected", None)


def test_batch_uses_the_network_of_the_bundle(finished_run: Any, a_photo: bytes) -> None:
    bundle = bundles.load(finished_run.out)
    pixels = to_network_input(a_photo, bundle.preprocessing).pixels[None]
    original = find_backbone(DEFAULT_BACKBONE)
    expected = Embedder(original.prepared(bundle.preprocessing)).embed(pixels)
    assert (Embedder(bundle.model_file.fetch()).embed(pixels) == expected).all()


# --- What a reviewer found --------------------------------------------------------------------------------------------


def test_results_with_the_record_of_another_run_are_not_used(own_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    run(out, own_photos, components=8)
    record = (out / "run.json").read_bytes()
    run(out, own_photos, components=12)
    (out / "run.json").write_bytes(record)  # the record of another run
    again = run(out, own_photos, components=12)
    assert not again["up_to_date"]
    assert bundles.load(out).components == 12


@pytest.mark.parametrize("damaged", [b"{", b"[]"])
def test_damaged_record_is_put_right(finished_run: Any, tmp_path: Path, damaged: bytes) -> None:
    out = finished_run.copy_to(tmp_path)
    (out / "run.json").write_bytes(damaged)
    again = go_on(out, finished_run)
    assert (again["computed"], again["up_to_date"]) == (0, False)
    assert again["metrics"] == finished_run.record["metrics"]


@pytest.mark.parametrize("damaged", [b"", b"{", b"[1]", b'{"a": "b"}'])
def test_damaged_note_of_the_input_size_is_as_good_as_none(own_photos: Path, tmp_path: Path, damaged: bytes) -> None:
    out = tmp_path / "results"
    out.mkdir()
    (out / "preprocessing.json").write_bytes(damaged)
    assert run(out, own_photos, components=4)["ok"] > 0


def test_damaged_network_among_the_results_is_put_right(own_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    run(out, own_photos, components=4)
    network = next(out.glob("embeddings/*/backbone.onnx"))
    whole = network.read_bytes()
    network.write_bytes(whole[: len(whole) // 2])
    next(own_photos.glob("Training/*/*.jpg")).unlink()
    assert run(out, own_photos, components=4)["failed"] == 0
    assert network.read_bytes() == whole


def test_file_that_stays_missing_fits_nothing_again(own_photos: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name},train" for path in sorted(own_photos.glob("Training/*/*.jpg"))]
    manifest = tmp_path / "photos.csv"
    manifest.write_text("\n".join(["uri,label,split", *rows, "gone.jpg,Starrib Yellow,train"]) + "\n")
    first = run(tmp_path / "results", manifest, components=4)
    again = run(tmp_path / "results", manifest, components=4)
    assert (first["failed"], again["failed"], again["computed"], again["up_to_date"]) == (1, 1, 1, True)


@pytest.mark.parametrize("label", ["Starrib Yellow", None])
def test_run_with_nothing_to_tell_apart_is_refused_before_any_work(
    own_photos: Path, tmp_path: Path, label: str | None
) -> None:
    source = own_photos / "Test" if label is None else own_photos
    with pytest.raises(CatalogueError, match="for training"):
        run(tmp_path / "results", source, only=(label,) if label else ())
    assert not list((tmp_path / "results").glob("embeddings/*/*.parquet"))


def test_features_name_the_source_of_every_photo(own_photos: Path, tmp_path: Path) -> None:
    sources = (own_photos / "Training", own_photos / "Test")
    run(tmp_path / "results", *sources, components=4)
    features = pq.read_table(tmp_path / "results" / "features.parquet").to_pylist()
    assert {(row["source"], row["split"]) for row in features} == {
        (str(sources[0]), "train"),
        (str(sources[1]), "test"),
    }


@pytest.mark.parametrize("where", ["x" * 5000, "photos\udcff"])
def test_impossible_names_of_sources_are_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(CatalogueError):
        run(tmp_path / "results", Path(where))


@pytest.mark.parametrize("out", ["", "results\udcff", "results %41", "a%2Fb/results", "results\\1"])
def test_impossible_names_of_results_are_refused(own_photos: Path, out: str) -> None:
    with pytest.raises(ConfigError, match=f"to={re.escape(repr(out))}: .*expected a folder"):
        RunConfig(sources=(str(own_photos),), out=out)


def test_broken_taxonomy_is_refused_before_the_long_work(own_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match="cannot be read"):
        pipeline.run(
            RunConfig(sources=(str(own_photos),), out=str(tmp_path / "out"), taxonomy=str(tmp_path / "none.csv"))
        )
    assert not (tmp_path / "out" / "embeddings").exists()


def test_groups_of_one_manifest_leave_other_photos_their_looks(own_photos: Path, tmp_path: Path) -> None:
    rows = [
        f"{path},{path.parent.name},,{'together' if number % 9 == 0 else ''}"
        for number, path in enumerate(sorted(own_photos.rglob("*.jpg")))
    ]
    (tmp_path / "some.csv").write_text("uri,label,split,group\n" + "\n".join(rows) + "\n", "utf-8")
    record = run(tmp_path / "out", tmp_path / "some.csv")
    assert record["group_origin"] == "mixed"
    assert record["head"]["validation_groups_by"] == "clusters"


# --- What leaves, and what an earlier version left ---------------------------------------------------------------------


def uris_on_disk(out: Path) -> set[str]:
    """The uris in all files of embeddings, whether the table names them or not."""
    return {uri for path in out.glob("embeddings/*/*.parquet") for uri in pq.read_table(path)["uri"].to_pylist()}


def test_photo_that_left_is_gone_from_the_disk_after_a_run_and_a_vacuum(own_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, own_photos, components=4)
    gone = min(own_photos.glob("Training/*/*.jpg"))
    gone.unlink()
    run(out, own_photos, components=4, keep_missing=True)
    assert checks.committed(out).keys() == set(out.glob("embeddings/*/*.parquet")), "kept"
    some = run(out, own_photos, components=4, sample=20)
    assert checks.committed(out).keys() == set(out.glob("embeddings/*/*.parquet")), "a part of the photos removes none"
    record = run(out, own_photos, components=4)
    assert record["computed"] == some["computed"] == 0
    left = set(out.glob("embeddings/*/*.parquet")) - checks.committed(out).keys()
    assert len(left) == 1
    assert str(gone) in uris_on_disk(out)
    listed = vacuum(str(out), dry_run=True)
    assert (listed.files, str(gone) in uris_on_disk(out)) == (1, True)
    assert vacuum(str(out)) == listed
    assert str(gone) not in uris_on_disk(out)
    assert len(uris_on_disk(out)) == record["photos"]
    again = run(out, own_photos, components=4)
    assert (again["computed"], again["up_to_date"]) == (0, True)


def test_run_of_other_photos_says_before_how_many_leave_and_how_to_keep_them(
    own_photos: Path, tmp_path: Path, fruits: Callable[..., Any]
) -> None:
    out, arguments = tmp_path / "out", ("--components", 4, "--backbone", SMALL)
    assert "leave the table" not in fruits("run", own_photos, "--to", out, *arguments).stderr
    other = Path(shutil.copytree(own_photos, tmp_path / "other"))
    before = len(list(own_photos.rglob("*.jpg")))
    kept = fruits("run", other, "--to", out, *arguments, "--keep-missing")
    assert (kept.code, "leave the table" in kept.stderr) == (0, False)
    min(other.rglob("*.jpg")).unlink()
    done = fruits("run", other, "--to", out, *arguments)
    assert done.code == 0, done.stderr
    said = f"warning: {before + 1:,} stored photos are not among the photos listed now and leave the table"
    assert said in done.stderr
    assert "with --keep-missing their embeddings stay" in done.stderr
    assert "leave" not in fruits("run", other, "--to", out, *arguments).stderr


@pytest.mark.parametrize("damage", ["bundle", "pointer"])
def test_vacuum_keeps_all_embeddings_while_a_bundle_cannot_be_read(
    own_photos: Path, tmp_path: Path, fruits: Callable[..., Any], damage: str
) -> None:
    out = tmp_path / "out"
    first = run(out, own_photos, components=4)
    run(out, own_photos, components=4, size=96)
    tables = sorted(out.glob("embeddings/*"))
    assert len(tables) == 2
    victim = out / "runs" / first["run"] / "bundle" / "manifest.json" if damage == "bundle" else out / "current.json"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-7])
    done = fruits("vacuum", out)
    assert done.code == 0, done.stderr
    assert (
        f"kept every table: bundles that cannot be read ({first['run'][:12] if damage == 'bundle' else '.'})"
        in done.stdout
    )
    assert sorted(out.glob("embeddings/*")) == tables
    victim.unlink()  # gone altogether is no better for a finished run, and no matter for the pointer
    assert vacuum(str(out)).unreadable == ([first["run"]] if damage == "bundle" else [])
    victim.write_bytes(whole)
    assert vacuum(str(out)).computations == []
    assert run(out, own_photos, components=4)["computed"] == 0


def test_embeddings_in_another_layout_are_computed_again_and_vacuumed(
    own_photos: Path, tmp_path: Path, fruits: Callable[..., Any]
) -> None:
    out, old = tmp_path / "out", "embeddings/0a1b2c3d4e5f6071"
    for name in ("plans/00001.parquet", "parts/00001-0a1b2c3d-00000-0a1b2c3d4e5f.parquet", "records/00001.json"):
        (out / old / name).parent.mkdir(parents=True, exist_ok=True)
        (out / old / name).write_bytes(b"of before")
    arguments = ("run", own_photos, "--to", out, "--components", 4, "--backbone", SMALL, "--json")
    done = fruits(*arguments)
    assert done.code == 0, done.stderr
    vacuumed = fruits("vacuum", out, "--compact", "--json")
    assert vacuumed.code == 0, vacuumed.stderr
    assert vacuumed.json()["computations"] == ["0a1b2c3d4e5f6071"]
    assert vacuumed.json()["merged"] > 0
    assert not (out / old).exists() or not [path for path in (out / old).rglob("*") if path.is_file()]
    assert fruits(*arguments).json()["computed"] == 0


def test_vacuum_leaves_the_embeddings_of_a_run_that_goes_on(
    own_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another size than the finished run, so no finished run uses them yet."""
    out = tmp_path / "out"
    run(out, own_photos, components=4)
    fitted, vacuumed = pipeline._fitted, []

    def after_a_vacuum(*arguments: Any) -> Any:
        vacuumed.append(vacuum(str(out)).computations)
        return fitted(*arguments)

    monkeypatch.setattr(pipeline, "_fitted", after_a_vacuum)
    record = run(out, own_photos, components=4, size=96)
    assert (record["ok"], vacuumed) == (record["photos"], [[]])
    finished.prune(str(out))
    assert len(vacuum(str(out)).computations) == 1, "of the run before, once nobody writes or uses them"


def test_vacuum_of_what_is_no_results_is_refused(own_photos: Path, fruits: Callable[..., Any]) -> None:
    done = fruits("vacuum", own_photos)
    assert done.code == 1
    assert "expected a folder of 'fruits run', 'apply' or 'audit'" in done.stderr


def test_run_during_which_a_vacuum_runs_loses_nothing(
    own_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    commit, vacuumed = EmbeddingTable.commit, []

    def with_a_vacuum(self: EmbeddingTable, *arguments: Any, **more: Any) -> bool:
        if len(vacuumed) < 2 and self.snapshot().version >= 0:
            vacuumed.append(upkeep.vacuum(EmbeddingTable(self.root, self.prefix)))
        return commit(self, *arguments, **more)

    run(tmp_path / "alone", own_photos, components=8)
    monkeypatch.setattr(EmbeddingTable, "commit", with_a_vacuum)
    record = run(out, own_photos, components=8)
    assert len(vacuumed) == 2
    assert record["ok"] == record["photos"]
    monkeypatch.undo()
    assert_same_results(out, tmp_path / "alone")
