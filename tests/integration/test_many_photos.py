"""A run on more photos than memory holds: the same results, on disk and by workers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fruits.config import RunConfig
from fruits.photos.catalogue import builder
from fruits.photos.generated import generator
from fruits.storage.embeddings import inventory
from fruits.storage.tables import catalogue_rows, spool
from fruits.training import finished, pipeline
from fruits.training.fitting import feature_file, features

#: What a record tells of the process that made it.
OWN = ("seconds", "peak_memory_mb", "timeline", "started", "config", "workers")
OWN_FILES = ("run.json", "report.html", "manifest.json")


def test_run_that_holds_nothing_in_memory_has_the_same_results(
    finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (spool, catalogue_rows, inventory, finished):
        monkeypatch.setattr(module, "ROWS_PER_BATCH", 32)
    sizes = ((spool, "IN_MEMORY", 50), (spool, "_ROWS_PER_BLOCK", 8), (builder, "_ROWS_PER_CHUNK", 20))
    sizes += ((features, "IN_MEMORY", 0), (features, "HERE", 0), (features, "ROWS_PER_BLOCK", 16))
    for module, name, value in (*sizes, (feature_file, "ROWS_PER_BLOCK", 16)):
        monkeypatch.setattr(module, name, value)
    record = finished_run.record
    config = RunConfig(sources=(str(finished_run.photos),), out=str(tmp_path), workers=2)
    found = pipeline.run(config)
    for key in ("photos", "ok", "labels", "splits", "confusions", "per_label", "evaluated"):
        assert found[key] == record[key], key
    for key in ("metrics", "kind_metrics", "leakage"):
        for name, value in record[key].items():
            assert found[key][name] == pytest.approx(value, rel=1e-4), (key, name)
    assert found["answers"]["outcomes"] == record["answers"]["outcomes"]
    tables = [pq.read_table(Path(out, "features.parquet")) for out in (finished_run.out, tmp_path)]
    assert tables[0].drop(["features"]).equals(tables[1].drop(["features"]))
    one, other = (np.stack(table["features"].to_pylist()) for table in tables)
    assert np.abs(one - other).max() < 1e-5
    catalogues = [pq.read_table(Path(out, "catalogue.parquet")) for out in (finished_run.out, tmp_path)]
    assert catalogues[0].equals(catalogues[1])
    again = pipeline.run(config)
    assert (again["up_to_date"], again["computed"]) == (True, 0)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 600 photos of 8 varieties, of which one is not tested and one is tested without training photos."""
    root = tmp_path_factory.mktemp("many")
    generator.write_photos(root / "photos", photos=600, varieties=8, workers=1)
    varieties = sorted(folder.name for folder in root.glob("photos/Training/*"))
    shutil.rmtree(root / "photos" / "Test" / varieties[0])
    shutil.rmtree(root / "photos" / "Training" / varieties[-1])
    run(root, root / "out")
    return root


def run(root: Path, out: Path, **choices: Any) -> dict[str, Any]:
    config = {"workers": 2, "backbone": "fruits-small", **choices}
    return pipeline.run(RunConfig(sources=(str(root / "photos"),), out=str(out), **config))


def fit_again(root: Path, out: Path, **choices: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Run on stored embeddings; return every file of the run, and of its record what does not tell when and how it was made."""
    shutil.copytree(root / "out" / "embeddings", out / "embeddings")
    record = run(root, out, **choices)
    assert record["computed"] == 0
    files = {str(path.relative_to(out)): path.read_bytes() for path in (out / "current").resolve().rglob("*.*")}
    told = {name: value for name, value in record.items() if name not in OWN}
    manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    manifest["about"].pop("config")  # with the number of workers
    told["manifest"] = {name: value for name, value in manifest.items() if name != "sha256"}
    return {name: data for name, data in files.items() if not name.endswith(OWN_FILES)}, told


@pytest.mark.parametrize("choices", [{}, {"components": 70}, {"head": "knn"}])
def test_results_of_workers_are_those_of_the_driver_to_the_bit(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: dict[str, Any]
) -> None:
    monkeypatch.setattr(feature_file, "ROWS_PER_BLOCK", 64)
    files, record = fit_again(embedded, tmp_path / "driver", **choices)
    assert record["evaluated"]["left_out_photos"] > 0
    assert record["per_label"][0]["evaluated"] == 0 < record["per_label"][0]["train"]
    assert record["leakage"]["photos"] > 50
    assert {"features.parquet", "catalogue.parquet", "whitening.npy"} <= {Path(name).name for name in files}
    monkeypatch.setattr(features, "HERE", 50)
    for workers in (3,) if choices else (1, 3):
        found = fit_again(embedded, tmp_path / f"workers {workers}", workers=workers, **choices)
        assert [name for name in files if found[0][name] != files[name]] == []
        assert found[0].keys() == files.keys()
        assert found[1] == record
