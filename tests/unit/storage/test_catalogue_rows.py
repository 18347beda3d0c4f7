"""The rows of a catalogue are the same in memory, in a temporary file and as Parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruits.storage.objects import Objects
from fruits.storage.tables import catalogue_rows, spool
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.storage.tables.schemas import CATALOGUE


def catalogue(n: int) -> pa.Table:
    rows = [
        {
            "uri": f"/photos/{number:03d}.jpg",
            "label": None if number % 7 == 0 else f"label {number % 5}",
            "split": ("train", "test")[number % 2],
            "size_bytes": number,
            "version": str(number % 3),
            "source": "/photos",
            "group": number // 4,
            "manifest_source": None if number < 20 else "shop",
        }
        for number in range(n)
    ]
    return pa.Table.from_pylist(rows, schema=CATALOGUE)


@pytest.mark.parametrize("in_memory", [1 << 18, 8])
def test_catalogue_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    for module in (catalogue_rows, spool):
        monkeypatch.setattr(module, "ROWS_PER_BATCH", 8)
    monkeypatch.setattr(spool, "IN_MEMORY", in_memory)
    objects, table = Objects(str(tmp_path)), catalogue(45)
    CatalogueRows.of(table).write(objects, "catalogue.parquet")
    found = CatalogueRows.read(objects, "catalogue.parquet")
    assert found.texts.in_memory == (in_memory > 45)
    assert found.table().to_pylist() == table.to_pylist()


def test_catalogue_of_an_older_run_has_short_texts_and_no_named_sources(tmp_path: Path) -> None:
    table = catalogue(30).drop_columns("manifest_source")
    for name in ("uri", "version"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, pa.field(name, pa.string(), nullable=False), table[name].cast(pa.string()))
    pq.write_table(table, tmp_path / "catalogue.parquet", row_group_size=7)
    found = CatalogueRows.read(Objects(str(tmp_path)), "catalogue.parquet").table()
    assert found.drop_columns("manifest_source").to_pylist() == table.to_pylist()
    assert found["manifest_source"].null_count == 30


def test_empty_catalogue_is_read(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    CatalogueRows.of(catalogue(0)).write(objects, "catalogue.parquet")
    assert CatalogueRows.read(objects, "catalogue.parquet").num_rows == 0
