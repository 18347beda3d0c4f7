"""Studies on photos: networks compared by what is measured, on the embeddings and runs that 'fruits run' uses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fruits.assessment.evaluation import evaluate
from fruits.assessment.study import backbones as study
from fruits.assessment.study.preprocessing import study as preprocessing
from fruits.assessment.study.scaling import study as scaling
from fruits.assessment.study.scaling.trials import STAGES, Trial, run_trial
from fruits.config import RunConfig
from fruits.embedding.backbones import FRUITS_SMALL
from fruits.errors import BackboneError, CatalogueError
from fruits.monitoring.clock import Silent
from fruits.storage.objects import Objects
from fruits.storage.outputs import publishing
from fruits.training import pipeline
from fruits.training.embed import Network, catalogued

Fruits = Callable[..., Any]


def config(photos: Path, out: Path, **choices: Any) -> RunConfig:
    return RunConfig(sources=(str(photos),), out=str(out), workers=1, **choices)


def test_networks_are_measured_on_runs_that_fruits_run_finds_done(
    own_photos: Path, tmp_path: Path, fruits: Fruits
) -> None:
    out = tmp_path / "out"
    done = fruits(
        "study", "backbones", own_photos, "--backbones", "fruits-small", "--sizes", "32,64", "--protocol", "groups",
        "--repeats", 2, "--speed-photos", 16, "--workers", 1, "--to", out, "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = done.json()
    assert found == json.loads((out / "study" / "backbones.json").read_text("utf-8"))
    assert [(row["name"], row["size"], row["embedding_size"]) for row in found["rows"]] == [
        ("fruits-small", 32, 256),
        ("fruits-small", 64, 256),
    ]
    for row in found["rows"]:
        # Every figure is one that was measured, or follows from one.
        assert row["photos_per_s_low"] <= row["photos_per_s"] <= row["photos_per_s_high"]
        assert row["measured_photos"] == 16
        assert row["core_s_per_1000"] > 0
        assert row["number_format"] == "int8"
        assert row["embedding_bytes_per_million"] == 1_024_000_000
        levels = [level["components"] for level in row["components_for"]]
        assert levels == sorted(levels)
        assert levels[0] >= 1
    # The same score as that of 'fruits evaluate' on the run.
    (again,) = evaluate(f"{out}/runs/{found['rows'][0]['run']}", ["groups"])["protocols"]
    assert found["rows"][0]["protocols"]["groups"] == {
        name: again[name] for name in found["rows"][0]["protocols"]["groups"]
    }
    assert found["protocol"] == "groups"
    assert found["recommended"] in {row["run"] for row in found["rows"] if row["frontier"]}
    page = (out / "study" / "backbones.html").read_text("utf-8")
    assert page.count('class="tried-text"') == 2 * 3, "two networks, in three languages"
    # There was no current run, so the recommended one became it; 'fruits run' has nothing left to do for either network.
    assert publishing.current(Objects(str(out))) == found["recommended"]
    record = pipeline.run(config(own_photos, out, backbone="fruits-small", size=64))
    assert (record["up_to_date"], record["computed"], record["run"]) == (True, 0, found["rows"][1]["run"])


def test_a_study_leaves_the_current_run_as_it_is(own_photos: Path, tmp_path: Path) -> None:
    first = pipeline.run(config(own_photos, tmp_path / "out", backbone="fruits-small", size=32, components=4))
    found = study.study_backbones(
        config(own_photos, tmp_path / "out", components=4),
        ["fruits-small"],
        [32, 40],
        options=study.StudyOptions(protocols=("official",), repeats=1, photos=4),
    )
    assert publishing.current(Objects(str(tmp_path / "out"))) == first["run"] == found["rows"][0]["run"]
    assert found["rows"][1]["run"] in publishing.finished(Objects(str(tmp_path / "out")))
    assert "fruits-small" in study.as_text(found)


def test_what_cannot_be_compared_is_said_before_anything_is_computed(
    own_photos: Path, tmp_path: Path, fruits: Fruits
) -> None:
    with pytest.raises(BackboneError, match="no-such-network"):
        study.study_backbones(config(own_photos, tmp_path / "out"), ["fruits-small", "no-such-network"])
    assert not (tmp_path / "out").exists()
    done = fruits("study", "backbones", own_photos, "--sizes", "100,large", "--to", tmp_path / "out")
    assert (done.code, done.stdout) == (2, "")
    assert "--sizes 100,large: expected whole numbers with commas between" in done.stderr


def test_storage_is_measured_on_a_run_and_leaves_it_as_it_is(own_photos: Path, tmp_path: Path, fruits: Fruits) -> None:
    out = tmp_path / "out"
    record = pipeline.run(config(own_photos, out, backbone="fruits-small", size=32, components=4))
    done = fruits("study", "storage", out, "--repeats", 1, "--reads-per-month", 0, "--json")
    assert done.code == 0, done.stderr
    found = done.json()
    assert found == json.loads((out / "study" / "storage.json").read_text("utf-8"))
    assert (found["run"], found["embedding_size"], found["components"]) == (record["run"], 256, 4)
    settings = {(one["vectors"], one["numbers"], one["number_format"]): one for one in found["settings"]}
    assert {("embeddings", 256, "float32"), ("embeddings", 256, "int8"), ("features", 4, "float16")} <= settings.keys()
    for (_, numbers, number_format), one in settings.items():
        plain = next(codec for codec in one["codecs"] if codec["codec"] == "none")
        assert plain["bytes_per_photo"] >= numbers * {"float32": 4, "float16": 2, "int8": 1}[number_format]
        assert one["bytes_per_photo"] == min(codec["bytes_per_photo"] for codec in one["codecs"])
        assert 0 <= one["low"] <= one["accuracy"] <= one["high"] <= 1
    best, whole = found["settings"][found["recommended"]], max(found["settings"], key=lambda one: one["accuracy"])
    assert best["frontier"]
    assert best["accuracy"] >= whole["low"]
    # Photos as files are what the file system says; a pack holds the same bytes in few objects.
    files, pack = found["photo_files"]
    sizes = [path.stat().st_size for path in own_photos.rglob("*.jpg")]
    assert files["bytes_per_photo"] == pytest.approx(sum(sizes) / len(sizes))
    assert pack["bytes_per_photo"] > 0.9 * files["bytes_per_photo"]
    assert pack["photos_read"] == files["photos_read"] == len(sizes)
    costs = {one["kept"]: one for one in found["costs"]}
    assert costs["photos_files"]["cheapest"] == "STANDARD", "small files are billed as 128 KiB elsewhere"
    assert (out / "study" / "storage.html").read_text("utf-8").count('class="tried-text"') == 3 * len(settings)
    assert pipeline.run(config(own_photos, out, backbone="fruits-small", size=32, components=4))["up_to_date"]


@pytest.fixture
def many_photos(own_photos: Path, tmp_path: Path) -> Path:
    """The same photos several times, so that workers have several shards each."""
    files = sorted(own_photos.rglob("*.jpg"))
    for copy in range(-(-scaling.FEWEST // len(files))):
        for file in files:
            to = tmp_path / "many" / file.parent.name / f"{copy}-{file.name}"
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
    return tmp_path / "many"


@pytest.mark.slow
def test_scaling_is_measured_simulated_and_projected(many_photos: Path, tmp_path: Path, fruits: Fruits) -> None:
    out = tmp_path / "out"
    done = fruits(
        "study", "scaling", many_photos, "--backbone", "fruits-small", "--size", 32, "--up-workers", "1,2", "--out-workers", 0,
        "--repeats", 1, "--projected", "1e6", "--deadline", 1000, "--budget", 0, "--to", out, "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = done.json()
    assert found == json.loads((out / "study" / "scaling.json").read_text("utf-8"))
    assert [(row["kind"], row["workers"], row["photos"]) for row in found["runs"]] == [
        ("up", 1, found["photos"]),
        ("up", 2, found["photos"]),
    ]
    for row in found["runs"]:
        # Every second is that of a part, and no part is counted twice.
        parts = [row["seconds"][name] for name in ("prepare", "session", "start", "working", "commit", "merge")]
        assert sum(parts) == pytest.approx(row["seconds"]["total"], rel=0.02)
        assert min(parts) >= 0
        assert row["limits"] in STAGES
        assert row["simulated"]["fed"] == (row["workers"] == 1)
    (curve,) = found["curves"]
    assert (curve["fitted"], curve["assumed"]) == (["rate", "contention"], ["coherence"])
    assert found["simulation"]["not_fed"] == 1
    (projected,) = found["projected"]
    assert {plan["kind"] for plan in projected["plans"]} == {"up"}
    assert projected["in_time"] == projected["cheapest"]
    assert projected["in_budget"] is None
    assert list((out / "embeddings").rglob("*.parquet")) == [], "runs are made elsewhere"
    page = (out / "study" / "scaling.html").read_text("utf-8")
    assert page.count('class="tried-text"') == 3 * (2 + 2 + len(projected["plans"]))


def test_too_few_photos_to_share_among_workers_are_refused(own_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=f"expected {scaling.FEWEST} or more"):
        scaling.study_scaling(
            config(own_photos, tmp_path / "out"), [], "nowhere", options=scaling.StudyOptions(up=(1,), out=())
        )


# py4j leaves its sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(shutil.which("java") is None, reason="no Java on PATH: install Java 17 or newer to test Spark")
@pytest.mark.spark
def test_spark_workers_of_one_core_are_all_there_before_the_work_begins(many_photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyspark", reason="no pyspark: pip install -e '.[spark]' to test Spark")
    asked = config(many_photos, tmp_path / "out", backbone="fruits-small", size=32)
    catalogue = catalogued(asked, Silent())
    trial = Trial(kind="out", workers=2, photos=catalogue.num_rows)
    found = run_trial(asked, Network.of(asked, Silent()), catalogue, trial)
    assert found["embedded"] == catalogue.num_rows == sum(shard["photos"] for shard in found["shards"])
    assert sum(shard["first"] for shard in found["shards"]) == 2, "one Python worker per executor"
    assert all(found["seconds"][name] > 0 for name in ("session", "start", "working", "merge"))


@pytest.mark.slow
def test_treatments_are_compared_on_the_folds_of_evaluate(own_photos: Path, tmp_path: Path, fruits: Fruits) -> None:
    out = tmp_path / "out"
    done = fruits(
        "study", "preprocessing", own_photos, "--backbone", "fruits-photo", "--size", 64, "--workers", 1, "--protocol", "groups",
        "--treatments", "squash,closer,augment,clahe", "--to", out, "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = done.json()
    assert found == json.loads((out / "study" / "preprocessing.json").read_text("utf-8"))
    assert [(row["name"], row["passes"], row["base"]) for row in found["treatments"]] == [
        ("crop", 1, True), ("squash", 1, False), ("closer", 2, False), ("augment", 4, False), ("clahe", 1, False),
    ]  # fmt: skip
    base, *others = found["treatments"]
    (evaluated,) = evaluate(f"{out}/runs/{found['run']}", ["groups"])["protocols"]
    # The pixels of the study are scaled twice, so a photo at the border between two labels may change sides.
    assert base["accuracy"] == pytest.approx(evaluated["accuracy"], abs=2 / evaluated["photos"])
    assert (found["asked"], found["groups"]) == (evaluated["photos"], evaluated["groups"])
    for row in others:
        assert row["gain"] == pytest.approx(row["accuracy"] - base["accuracy"])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert others[2]["network_ms"] > base["network_ms"], "four passes"
    assert set(found["together"]["treatments"]) <= {"crop", "squash", "closer", "augment", "clahe"}
    page = (out / "study" / "preprocessing.html").read_text("utf-8")
    assert page.count('class="tried-text"') == 3 * 6
    assert publishing.current(Objects(str(out))) == found["run"]


def test_a_sample_holds_as_many_photos_as_were_asked_for_or_fewer(own_photos: Path, tmp_path: Path) -> None:
    whole = catalogued(config(own_photos, tmp_path / "out"), Silent())
    labels = len(whole.listed.coded["label"].counts())
    bounded = preprocessing.bounded(config(own_photos, tmp_path / "out"), 2 * labels, Silent())
    assert bounded.sample == 2
    assert catalogued(bounded, Silent()).num_rows == 2 * labels
    asked = config(own_photos, tmp_path / "out", sample=3)
    assert preprocessing.bounded(asked, 1, Silent()) is asked, "a sample that was asked for is taken"
    every = config(own_photos, tmp_path / "out")
    assert preprocessing.bounded(every, whole.num_rows, Silent()) is every


@pytest.mark.slow
def test_treatments_are_scored_by_the_sources_of_a_manifest_that_are_not_seen(own_photos: Path, tmp_path: Path) -> None:
    listed, network = tmp_path / "photos.csv", tmp_path / "twin.onnx"
    files = sorted(own_photos.rglob("*.jpg"))
    sources = ("at home", "shop", "web")
    lines = [f"{file},{file.parent.name},{sources[at % 3]}" for at, file in enumerate(files)]
    listed.write_text("\n".join(["uri,label,source", *lines]), "utf-8")
    shutil.copy(FRUITS_SMALL.with_suffix(".onnx"), network)
    card = json.loads(FRUITS_SMALL.with_suffix(".json").read_text("utf-8"))
    network.with_suffix(".json").write_text(
        json.dumps(card | {"name": "twin", "training_photos": "twin.seen"}), "utf-8"
    )
    of_web = sorted(hashlib.sha256(file.read_bytes()).digest()[:8] for file in files[2::3])
    network.with_suffix(".seen").write_bytes(b"".join(of_web))
    asked = config(
        listed, tmp_path / "out", backbone=str(network), size=32, components=4, allow_source=(str(own_photos),)
    )
    found = preprocessing.study_preprocessing(asked, options=preprocessing.StudyOptions(treatments=("clahe",)))
    assert (found["protocol"], found["folds"]) == ("source", 2)
    (evaluated,) = evaluate(f"{asked.out}/runs/{found['run']}", ["source"])["protocols"]
    assert [source["seen"] for source in evaluated["sources"]] == [False, False, True]
    assert found["asked"] == evaluated["photos"] == sum(at % 3 != 2 for at in range(len(files)))
    base, clahe = found["treatments"]
    assert base["accuracy"] == pytest.approx(evaluated["kind_accuracy"], abs=2 / evaluated["photos"])
    assert base["calibration_error"] is clahe["calibration_error"] is None, "it is that of labels"
    assert "source" in preprocessing.as_text(found)
