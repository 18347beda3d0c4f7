"""The table of regions beside answers, on a disk and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruits.errors import StoreError
from fruits.storage.objects import Objects
from fruits.storage.tables import schemas
from fruits.storage.tables.spool import Spool
from fruits.training.predicting import regions
from fruits.training.predicting.regions import delete_regions


@pytest.fixture(params=["disk", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects(request.getfixturevalue("prefix") if request.param == "bucket" else str(tmp_path))


def listed(*photos: tuple[str, str]) -> Spool:
    columns = zip(*photos, strict=True)
    return Spool.of(pa.table([pa.array(column, pa.large_string()) for column in columns], ["uri", "version"]), "uri")


def test_rows_of_photos_that_left_leave_and_the_others_stay_as_they_are(objects: Objects) -> None:
    schema = schemas.REGIONS.with_metadata({b"fruits.recogniser": b"one"})
    photos = [(f"/{name}.jpg", "1") for name in "dabec"]
    rows = [{"uri": uri, "version": version, "error": None, "regions": []} for uri, version in photos]
    with objects.writer(regions.KEY) as stream, pq.ParquetWriter(stream, schema) as writer:
        for start in range(0, len(rows), 2):
            writer.write_table(pa.Table.from_pylist(rows[start : start + 2], schema))
    with objects.open(regions.KEY) as file:
        before = pq.read_table(file)
    delete_regions(objects, listed(("/a.jpg", "1"), ("/b.jpg", "2"), ("/c.jpg", "1"), ("/d.jpg", "1"), ("/z.jpg", "1")))
    with objects.open(regions.KEY) as file:
        table = pq.read_table(file)
    assert table["uri"].to_pylist() == ["/d.jpg", "/a.jpg", "/c.jpg"]
    assert table.equals(before.take([0, 1, 4]), check_metadata=True)
    written = objects.stat(regions.KEY)
    delete_regions(objects, listed(("/a.jpg", "1"), ("/c.jpg", "1"), ("/d.jpg", "1")))
    assert objects.stat(regions.KEY) == written, "nothing is written again where nothing left"


def test_no_table_is_no_error_and_a_damaged_one_is_named(objects: Objects) -> None:
    delete_regions(objects, listed(("/a.jpg", "1")))
    assert objects.stat(regions.KEY) is None
    objects.write(regions.KEY, b"junk")
    with pytest.raises(StoreError, match=r"regions.parquet' is damaged .* delete it, or run again with regions=True"):
        delete_regions(objects, listed(("/a.jpg", "1")))
