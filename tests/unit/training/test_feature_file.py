"""The blocks of the file of features: every photo once, each block's from one row group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruits.storage.catalogue_rows import CatalogueRows
from fruits.storage.objects import Objects
from fruits.storage.schemas import CATALOGUE
from fruits.training import feature_file
from fruits.training.feature_file import FeatureFile, in_blocks
from fruits.training.features import positions
from fruits.training.training_set import TrainingSet

N, K = 200, 3


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("left_out", [1000, 3, 1])
def test_blocks_have_every_photo_once_and_photos_of_one_row_group_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, left_out: int
) -> None:
    monkeypatch.setattr(feature_file, "ROWS_PER_BLOCK", size)
    given = [
        {
            "uri": f"{number:03d}",
            "label": "a",
            "split": "train",
            "size_bytes": 1,
            "version": "",
            "source": "s",
            "group": 1,
        }
        for number in range(N)
    ]
    listed = CatalogueRows.of(pa.Table.from_pylist(given, schema=CATALOGUE))
    ok = np.arange(N) % (left_out + 1) != 0
    none = np.zeros(N, np.int8)
    rows = TrainingSet(none, listed.coded["split"], listed.group, ok, none, none, ["a"])
    features = np.random.default_rng(0).normal(size=(int(ok.sum()), K)).astype(np.float32)
    file = FeatureFile.write(Objects(str(tmp_path)), listed, rows, features, {})
    stored = pq.ParquetFile(tmp_path / "features.parquet")
    assert stored.num_row_groups == -(-len(features) // size)
    place = positions(ok)
    asked = np.flatnonzero(ok)[np.random.default_rng(1).random(len(features)) < 0.4]
    asked = asked[(asked < 60) | (asked > 130)]  # no photo of some blocks
    found = list(in_blocks(asked, place))
    assert np.concatenate([np.arange(some.start, some.stop) for some in found]).tolist() == list(range(len(asked)))
    for some in found:
        at = place[asked[some]]
        assert len(np.unique(at // size)) == 1
        assert np.array_equal(file.read(at), features[at])
    assert len(found) == len(np.unique(place[asked] // size))


def test_no_photos_are_in_no_block() -> None:
    assert list(in_blocks(np.empty(0, np.int64), positions(np.ones(5, bool)))) == []
    assert list(in_blocks(np.empty(0, np.int64), positions(np.empty(0, bool)))) == []
