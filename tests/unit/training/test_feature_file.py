"""The blocks of the file of features: every photo once, each block's from one row group."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruits.errors import StoreError
from fruits.storage.objects import Objects
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.storage.tables.schemas import CATALOGUE
from fruits.training.fitting import feature_file
from fruits.training.fitting.feature_file import FeatureFile, in_blocks
from fruits.training.fitting.features import positions
from fruits.training.fitting.training_set import TrainingSet

N, K = 200, 3


def written(objects: Objects, ok: np.ndarray) -> tuple[FeatureFile, np.ndarray]:
    """The features of the photos that are ok, as a file and as an array."""
    one = {"label": "a", "split": "train", "size_bytes": 1, "version": "", "source": "s", "group": 1}
    listed = CatalogueRows.of(pa.Table.from_pylist([{"uri": f"{n:03d}", **one} for n in range(N)], schema=CATALOGUE))
    none = np.zeros(N, np.int8)
    rows = TrainingSet(none, listed.coded["split"], listed.group, ok, none, none, ["a"])
    features = np.random.default_rng(0).normal(size=(int(ok.sum()), K)).astype(np.float32)
    return FeatureFile.write(objects, listed, rows, features, {}), features


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("left_out", [1000, 3, 1])
def test_blocks_have_every_photo_once_and_photos_of_one_row_group_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, left_out: int
) -> None:
    monkeypatch.setattr(feature_file, "ROWS_PER_BLOCK", size)
    ok = np.arange(N) % (left_out + 1) != 0
    file, features = written(Objects(str(tmp_path)), ok)
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


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_another_process_reads_the_file_where_it_is_and_says_if_it_is_gone(
    place: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(str(tmp_path) if place == "disk" else f"{request.getfixturevalue('prefix')}/run")
    with monkeypatch.context() as patch:  # the other process has another number of its own
        patch.setattr(feature_file, "ROWS_PER_BLOCK", 64)
        file, features = written(objects, np.ones(N, bool))
    given = pickle.loads(pickle.dumps(file))
    for rows in (np.array([0]), np.array([64, 70, 127]), np.arange(192, N)):
        assert np.array_equal(given.read(rows), features[rows])
    objects.delete("features.parquet")
    with pytest.raises(StoreError, match=r"features\.parquet'.* is not there"):
        given.read(np.array([0]))


def test_no_photos_are_in_no_block() -> None:
    assert list(in_blocks(np.empty(0, np.int64), positions(np.ones(5, bool)))) == []
    assert list(in_blocks(np.empty(0, np.int64), positions(np.empty(0, bool)))) == []
