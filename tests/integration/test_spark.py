"""The whole job on Spark: the rows, the arrays and the metrics of the local engine."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fruits.config import RunConfig
from fruits.recogniser import bundle as bundles
from fruits.storage.embeddings.inventory import take
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.embeddings.upkeep import vacuum
from fruits.training import pipeline
from fruits.training.fitting import features, fit
from fruits.training.fitting.training_set import vectors_of

ARRAYS = ("mean", "components", "weights", "bias", "whitening", "centres", "background")
#: As options and as arguments. A whole run by the command line is in tests/engines/test_contract.py.
OPTIONS, SPARK = ("--engine", "spark", "--master", "local[2]"), {"engine": "spark", "master": "local[2]"}

pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java on PATH: install Java 17 or newer to test Spark"),
    # py4j leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings(r"ignore:unclosed <socket.socket .*raddr=\('127\.0\.0\.1':ResourceWarning"),
]
pytest.importorskip("pyspark", reason="no pyspark: pip install -e '.[spark]' to test Spark")
sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from masters import end_java  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def java() -> Iterator[None]:
    """One Java for all sessions of these tests, which ends with them."""
    yield
    end_java()
    gc.collect()


def run_on_spark(finished_run: Any, out: Path, **choices: Any) -> dict[str, Any]:
    return pipeline.run(RunConfig(sources=(str(finished_run.photos),), out=str(out), **SPARK, **choices))


@pytest.fixture(scope="module")
def on_spark(finished_run: Any, java: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("spark") / "results"
    assert run_on_spark(finished_run, out)["computed"] == finished_run.record["photos"]
    return out


def embeddings(out: Path) -> tuple[list[str], np.ndarray]:
    listed = pq.read_table(out / "catalogue.parquet")
    bundle = bundles.load(out)
    stored = EmbeddingTable(str(out), f"embeddings/{bundle.computation}")
    vectors = np.full((listed.num_rows, bundle.card.embedding_size), np.nan, np.float32)
    for entry in take(stored, listed).file_rows:
        vectors[entry.catalogue_rows] = vectors_of(stored.read(entry.file))
    return listed["uri"].to_pylist(), vectors


def test_embeddings_are_those_of_the_local_engine_to_the_bit(finished_run: Any, on_spark: Path) -> None:
    uris, local = embeddings(finished_run.out)
    uris_on_spark, spark = embeddings(on_spark)
    assert uris == uris_on_spark
    assert np.isfinite(local).all()
    assert (local == spark).all()


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_the_bundle_are_those_of_the_local_engine_to_the_bit(
    finished_run: Any, on_spark: Path, name: str
) -> None:
    files = [out / "bundle" / f"{name}.npy" for out in (finished_run.out, on_spark)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_metrics_and_choices_are_those_of_the_local_engine(finished_run: Any, on_spark: Path) -> None:
    record = json.loads((on_spark / "run.json").read_text())
    for name in (
        "metrics",
        "components",
        "explained_variance_ratio",
        "identity",
        "photos",
        "ok",
        "rejected",
        "per_label",
    ):
        assert record[name] == finished_run.record[name]


def test_run_on_spark_goes_on_with_what_the_local_engine_did(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    (prefix,) = (path.parent for path in out.glob("embeddings/*/_delta_log"))
    stored = EmbeddingTable(str(out), f"embeddings/{prefix.name}")
    assert stored.commit([], list(stored.snapshot().files.values())[:2], epoch=0)
    vacuum(stored)
    record = run_on_spark(finished_run, out)
    assert 0 < record["computed"] < finished_run.record["photos"]
    assert record["metrics"] == finished_run.record["metrics"]


def test_apply_on_spark_answers_as_the_local_engine(finished_run: Any, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for photo in sorted(finished_run.photos.glob("Test/*/*.jpg"))[:20]:
        shutil.copy(photo, inbox / f"{photo.parent.name} {photo.name}")
    (inbox / "broken.jpg").write_bytes(b"\xff\xd8\xff half a photo")
    tables = []
    for engine in ({}, SPARK):
        out = tmp_path / f"answers{len(engine)}"
        done = pipeline.apply(str(finished_run.out), [str(inbox)], str(out), **engine)
        assert (done["ok"], done["rejected"]) == (20, 1)
        tables.append(pq.read_table(out / "predictions.parquet"))
    assert tables[0].equals(tables[1])


def test_without_java_the_message_says_what_to_install(finished_run: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fruits", "run", finished_run.photos, "--to", tmp_path / "out", *OPTIONS]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "JAVA_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert re.search(r"needs Java (17 or newer|8, 11 or 17): install one", done.stderr)
    assert "Traceback" not in done.stderr


def test_settings_of_spark_are_refused_by_the_local_engine_and_malformed_ones_by_spark(
    finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    for arguments in (["--master", "local[2]"], ["--engine", "abacus"], [*OPTIONS, "--spark-conf", "no equals sign"]):
        done = fruits("run", finished_run.photos, "--to", tmp_path / "out", *arguments)
        assert (done.code, done.stdout) == (2, "")
        assert not (tmp_path / "out" / "embeddings").exists()


def test_head_of_more_photos_than_one_machine_takes_is_fitted_by_spark_on_all_of_them(
    finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "MAX_ROWS", 100)
    monkeypatch.setattr(features, "HERE", 0)  # the executors project them, too
    components = finished_run.record["components"]
    record = run_on_spark(finished_run, tmp_path / "out", workers=2, components=components)
    assert record["head"]["training_photos"] == finished_run.record["splits"]["train"] > 100
    assert record["metrics"]["accuracy"] == finished_run.record["metrics"]["accuracy"]
    one, other = bundles.load(finished_run.out), bundles.load(tmp_path / "out")
    vectors = embeddings(finished_run.out)[1]
    probabilities = [bundle.classify(vectors)[1] for bundle in (one, other)]
    assert (probabilities[0].argmax(axis=1) == probabilities[1].argmax(axis=1)).all()
    # Both stop when hardly anything is gained, the local one sooner.
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.02
