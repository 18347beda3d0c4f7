"""Delta tables that name photos: the rows of their latest version; what is not read is refused, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from fruits.errors import CatalogueError
from fruits.photos.catalogue import listing
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.reading.access import Access


def photos(*rows: tuple[str, int, str, str]) -> pa.Table:
    return pa.table(dict(zip(("uri", "size", "etag", "label"), map(list, zip(*rows, strict=True)), strict=True)))


FIRST = photos(("a.jpg", 1, "x", "p q%/é"), ("b.jpg", 2, "y", "r"), ("c.jpg", 3, "z", "r"))


def listed(root: Path, **more: Any) -> Catalogue:
    return list_photos([str(root)], access=Access.to([str(root)], ["s3://b"]), **more)


def rows(found: Catalogue) -> list[tuple[str, str, int, str]]:
    return [
        (row["uri"].rpartition("/")[2], row["label"], row["size_bytes"], row["version"])
        for row in found.table.to_pylist()
    ]


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No photo of these tables is there: reading one would fail."""
    monkeypatch.setattr(listing, "_stat", None)


@pytest.mark.parametrize("partition_by", [[], ["label"], ["label", "size"]])
def test_rows_of_the_latest_version_count(tmp_path: Path, partition_by: list[str]) -> None:
    root = tmp_path / "table"
    write_deltalake(root, FIRST, partition_by=partition_by)
    assert rows(listed(root)) == [("a.jpg", "p q%/é", 1, "x"), ("b.jpg", "r", 2, "y"), ("c.jpg", "r", 3, "z")]
    DeltaTable(root).delete("uri = 'b.jpg'")
    more = photos(("d.jpg", 4, "w", "s")).append_column("split", pa.array(["test"]))
    write_deltalake(root, more, mode="append", schema_mode="merge", partition_by=partition_by)
    found = listed(root)
    assert rows(found) == [("a.jpg", "p q%/é", 1, "x"), ("c.jpg", "r", 3, "z"), ("d.jpg", "s", 4, "w")]
    assert found.table["split"].to_pylist()[-1] == "test"
    DeltaTable(root).create_checkpoint()
    DeltaTable(root).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert listed(root).table.equals(found.table)
    assert rows(listed(root, labelled=False)) == [(name, None, *rest) for name, _, *rest in rows(found)]


def test_last_modified_and_uris_of_a_bucket_will_do(tmp_path: Path) -> None:
    root = tmp_path / "table"
    table = pa.table({
        "s3_uri": ["s3://b/1.jpg"], "Size": [7], "Last Modified": pa.array([86_401_500_000], pa.timestamp("us", "UTC")),
        "category": ["apple"],
    })  # fmt: skip
    write_deltalake(root, table)
    assert rows(listed(root)) == [("1.jpg", "apple", 7, "86401.500000-7")]


def test_row_outside_of_the_table_is_skipped(tmp_path: Path) -> None:
    root = tmp_path / "table"
    write_deltalake(
        root,
        photos(
            ("../a.jpg", 1, "x", "p"), ("/b.jpg", 1, "x", "p"), ("c.jpg", 1, "x", "p"), ("s3://c/d.jpg", 1, "x", "p")
        ),
    )
    found = listed(root)
    assert rows(found) == [("c.jpg", "p", 1, "x")]
    assert found.skipped == {"outside of its source": 3}


def change(root: Path, what: Callable[[dict[str, Any]], None]) -> None:
    """Change every action of the first commit."""
    path = root / "_delta_log" / f"{0:020d}.json"
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        what(action)
    path.write_text("\n".join(map(json.dumps, actions)) + "\n")


def protocol(version: int, *features: str) -> Callable[[dict[str, Any]], None]:
    named = {"readerFeatures": list(features), "writerFeatures": list(features)} if version == 3 else {}
    writer = 7 if version == 3 else 5

    def put(action: dict[str, Any]) -> None:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": version, "minWriterVersion": writer, **named}

    return put


def vector(action: dict[str, Any]) -> None:
    protocol(3, "deletionVectors")(action)
    if "add" in action:
        action["add"]["deletionVector"] = {
            "storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40, "cardinality": 1,
        }  # fmt: skip


def mapping(action: dict[str, Any]) -> None:
    protocol(2)(action)
    if "metaData" in action:
        action["metaData"]["configuration"]["delta.columnMapping.mode"] = "name"
        schema = json.loads(action["metaData"]["schemaString"])
        for number, field in enumerate(schema["fields"], 1):
            field["metadata"] = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": f"col-{number}"}
        action["metaData"]["schemaString"] = json.dumps(schema)


def elsewhere(path: str) -> Callable[[dict[str, Any]], None]:
    def put(action: dict[str, Any]) -> None:
        if "add" in action:
            action["add"]["path"] = path

    return put


@pytest.mark.parametrize(
    "readable", [protocol(2), protocol(3), protocol(3, "timestampNtz"), protocol(3, "deletionVectors")]
)
def test_features_that_hide_no_rows_are_read(tmp_path: Path, readable: Callable[[dict[str, Any]], None]) -> None:
    write_deltalake(tmp_path / "table", FIRST)
    change(tmp_path / "table", readable)
    assert len(rows(listed(tmp_path / "table"))) == 3


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        (vector, "has deletion vectors, which are not read.*REORG TABLE"),
        (mapping, "has column mapping 'name'"),
        (protocol(4), "reader version"),
        (protocol(3, "variantType"), "variantType"),
        (protocol(3, "nobodyKnowsThis"), "nobodyKnowsThis"),
        (elsewhere("/etc/passwd"), "has a file elsewhere, '/etc/passwd'"),
        (elsewhere("file:///etc/passwd"), "has a file elsewhere"),
        (elsewhere("s3://other/x.parquet"), "has a file elsewhere"),
        (elsewhere("%2E%2E/x.parquet"), "has a file elsewhere"),
        (elsewhere("gone.parquet"), "its file 'gone.parquet' is gone; expected it"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(
    tmp_path: Path, what: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    write_deltalake(tmp_path / "table", FIRST)
    change(tmp_path / "table", what)
    with pytest.raises(CatalogueError, match=complaint):
        listed(tmp_path / "table")


def test_damaged_log_or_file_is_named(tmp_path: Path) -> None:
    root = tmp_path / "table"
    write_deltalake(root, FIRST)
    [file] = root.glob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(CatalogueError, match=f"{file.name}' cannot be read"):
        listed(root)
    file.write_bytes(whole)
    (root / "_delta_log" / f"{0:020d}.json").write_text('{"add": 1}\n{"protocol"\n')
    with pytest.raises(CatalogueError, match=r"Delta table .* cannot be read"):
        listed(root)


def test_data_file_that_is_a_link_out_of_the_table_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "table"
    write_deltalake(root, FIRST)
    [file] = root.glob("*.parquet")
    file.rename(tmp_path / "private.parquet")
    file.symlink_to(tmp_path / "private.parquet")
    with pytest.raises(CatalogueError, match=f"{file.name}' cannot be read"):
        listed(root)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (photos(("a.jpg", 1, "x", "")), "row 1 .*no label"),
        (FIRST.drop_columns("label"), "label missing"),
        (FIRST.drop_columns("uri"), "expected rows that name photos"),
        (FIRST.set_column(1, "size", pa.array([[1], [2], [3]])), "expected one column each, of text"),
    ],
)
def test_rows_that_are_of_no_manifest_say_why(tmp_path: Path, table: pa.Table, complaint: str) -> None:
    write_deltalake(tmp_path / "table", table)
    with pytest.raises(CatalogueError, match=complaint):
        listed(tmp_path / "table")


def test_delta_table_below_a_source_is_to_be_named_itself(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "lake" / "table", FIRST)
    with pytest.raises(CatalogueError, match="expected the table's own folder as the source"):
        listed(tmp_path / "lake")
