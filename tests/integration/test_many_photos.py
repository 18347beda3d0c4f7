"""A run on more photos than memory holds: the same results, on disk and by workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fruits.config import RunConfig
from fruits.photos.catalogue import builder
from fruits.storage import inventory, listed, spool
from fruits.training import features, finished, pipeline, scores


def test_run_that_holds_nothing_in_memory_has_the_same_results(
    finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (spool, listed, inventory, finished):
        monkeypatch.setattr(module, "ROWS_PER_BATCH", 32)
    sizes = ((spool, "IN_MEMORY", 50), (spool, "_ROWS_PER_BLOCK", 8), (builder, "_ROWS_PER_CHUNK", 20))
    sizes += ((features, "IN_MEMORY", 0), (features, "HERE", 0), (features, "ROWS_PER_BLOCK", 16))
    for module, name, value in (*sizes, (scores, "_ROWS_AT_ONCE", 16)):
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
