"""Parquet files with photos in them, as Hugging Face's datasets writes: labels, splits, bytes; a bad row is a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from fruits.errors import CatalogueError
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.reading import pack_groups
from fruits.photos.reading.access import Access
from fruits.photos.reading.packing import pack, unpack
from fruits.photos.reading.reading import read_head, read_photos

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def dataset(path: Path, rows: list[dict[str, Any]], classes: list[str] | None = None, **options: Any) -> Path:
    """Write rows as datasets 5.2.0 does: ``name`` and ``bytes`` become the column image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {
        "image": pa.array([None if row.get("bytes", 0) is None else {"bytes": row.get("bytes", JPEG + repr(row).encode()),
                                                                       "path": row.get("name")} for row in rows], IMAGE)
    }  # fmt: skip
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    for name in [name for name in rows[0] if name not in ("bytes", "name")]:
        columns[name] = pa.array([row[name] for row in rows])
        features[name] = {"dtype": str(columns[name].type), "_type": "Value"}
    if classes is not None:
        features["label"] = {"names": classes, "_type": "ClassLabel"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **{"compression": {"image.bytes": "none"}, "use_dictionary": ["label"], **options})
    return path


def rows_of(found: Catalogue, *columns: str) -> list[Any]:
    rows = found.table.select([*columns]).to_pylist()
    return [tuple(row.values()) if len(columns) > 1 else row[columns[0]] for row in rows]


def content(found: Catalogue) -> list[tuple[bytes | None, str]]:
    return list(read_photos(found.table["uri"].to_pylist(), found.access))


@pytest.mark.parametrize("options", [{}, {"row_group_size": 7}, {"dictionary_pagesize_limit": 50}])
def test_names_in_one_dictionary_or_several_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = [{"name": f"{n // 2}.jpg", "label": "ab"[n % 2]} for n in range(40)]
    found = list_photos([str(dataset(tmp_path / "x.parquet", rows, use_dictionary=True, **options))])
    names = [(uri.rpartition("/")[2], label) for uri, label in rows_of(found, "uri", "label")]
    assert names == [(row["name"], row["label"]) for row in rows]


@pytest.mark.parametrize(
    ("length", "count"), [(2 << 20, 3), (64 << 10, 40)], ids=["more than the column may have", "longer than a name"]
)
def test_long_text_that_many_rows_share_is_refused(tmp_path: Path, length: int, count: int) -> None:
    rows = [{"name": "n" * length, "label": "a", "bytes": JPEG}] * count
    path = dataset(tmp_path / "x.parquet", rows, use_dictionary=True, dictionary_pagesize_limit=1 << 30)
    group = pq.ParquetFile(path).metadata.row_group(0)
    (size,) = [
        column.total_uncompressed_size
        for column in map(group.column, range(group.num_columns))
        if column.path_in_schema == "image.path"
    ]
    assert size < 2 * length, "the text is there once"
    with pytest.raises(CatalogueError, match="bytes; expected at most"):
        list_photos([str(path)])


def test_splits_are_names_of_files_and_labels_those_of_the_metadata(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"):
        rows = [{"name": f"{n}.jpg", "label": n % 2, "bytes": JPEG + f"{name}{n}".encode()} for n in range(3)]
        dataset(tmp_path / f"data/{name}.parquet", rows, ["apple", "pear"])
    (tmp_path / "README.md").write_text("a dataset")
    found = list_photos([str(tmp_path)])
    assert rows_of(found, "label", "split") == [
        (label, split) for split in ("test", "train", "train", "val") for label in ("apple", "pear", "apple")
    ]
    assert [data for data, _ in content(found)] == [
        JPEG + f"{name}{n}".encode()
        for name in ("test-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")
        for n in range(3)
    ]
    assert found.split_origin == "folders"
    assert found.table.equals(list_photos([str(tmp_path)]).table)  # a second run computes nothing
    assert read_head(found.table["uri"][0].as_py(), 3, found.access).startswith(b"\xff\xd8\xff")
    pattern = str(tmp_path / "data/train-*.parquet")
    assert list_photos([pattern]).table.num_rows == 6


def test_split_of_a_row_goes_before_that_of_its_file(tmp_path: Path) -> None:
    rows = [{"label": "a", "split": split} for split in ("train", "validation", "test", None, "", "holdout")]
    found = list_photos([str(dataset(tmp_path / "train.parquet", rows))])
    assert rows_of(found, "split") == ["train", "val", "test", "train", "train"]
    assert found.skipped == {"split of an unknown name": 1}


@pytest.mark.parametrize(
    "labels", [["a", "b", "", None], [0, 1, -1, None], [0, 1, 7, None], pa.array(["a", "b", " ", None])]
)
def test_row_without_a_label_is_skipped(tmp_path: Path, labels: list[Any]) -> None:
    classes = ["a", "b"] if labels[0] == 0 else None
    path = dataset(
        tmp_path / "x.parquet", [{"name": f"{n}.jpg", "label": label} for n, label in enumerate(labels)], classes
    )
    found = list_photos([str(path)])
    assert rows_of(found, "label") == ["a", "b"]
    assert found.skipped == {"no label": 2}
    assert rows_of(list_photos([str(path)], labelled=False), "label") == [None] * 4


def test_numbers_without_names_are_labels(tmp_path: Path) -> None:
    found = list_photos([str(dataset(tmp_path / "x.parquet", [{"label": 7}, {"label": 3}]))])
    assert rows_of(found, "label") == ["7", "3"]


def test_rows_with_names_are_split_as_the_folder_of_their_labels(photos: Path, tmp_path: Path) -> None:
    files = sorted((photos / "Training").rglob("*.jpg"))
    rows = [{"name": file.name, "label": file.parent.name, "bytes": file.read_bytes()} for file in files]
    found = list_photos([str(dataset(tmp_path / "x.parquet", rows, row_group_size=50))])
    folder = list_photos(
        [str(photos / "Training")]
    )  # a name that is a split: a fifth of its labels is for testing all the same
    assert rows_of(found, "label") == rows_of(folder, "label")
    assert rows_of(found, "split") == rows_of(folder, "split")
    assert [data for data, _ in content(found)] == [file.read_bytes() for file in files]


def test_names_that_repeat_or_are_missing_keep_photos_apart(tmp_path: Path) -> None:
    rows = [{"name": name, "label": "a"} for name in ["image.jpg"] * 40 + [None] * 40]
    found = list_photos([str(dataset(tmp_path / "x.parquet", rows))])
    assert found.table.num_rows == 80
    assert len(set(rows_of(found, "group"))) == 80
    assert set(rows_of(found, "split")) == {"train", "test"}


def test_changed_file_gives_its_photos_another_version(tmp_path: Path) -> None:
    path = dataset(tmp_path / "x.parquet", [{"label": "a"}])
    before = list_photos([str(path)])
    dataset(path, [{"label": "a", "bytes": JPEG}, {"label": "a", "bytes": JPEG}])
    after = list_photos([str(path)])
    assert rows_of(before, "version") != rows_of(after, "version")[:1]
    assert [data for data, _ in content(after)] == [JPEG, JPEG]


def test_row_without_bytes_fails_alone(tmp_path: Path) -> None:
    rows = [{"label": "a", "bytes": JPEG}, {"label": "a", "bytes": None}]
    path = dataset(tmp_path / "x.parquet", rows)
    table = pq.read_table(path)
    linked = pa.table({"image": pa.array([{"bytes": None, "path": "/etc/passwd"}], IMAGE), "label": ["a"]})
    pq.write_table(pa.concat_tables([table.replace_schema_metadata(None), linked]), path)
    (first, *others) = content(list_photos([str(path)]))
    assert first == (JPEG, "")
    assert len(others) == 2
    assert all(data is None and "holds no bytes" in reason for data, reason in others)


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"image": [JPEG], "label": ["a"]}, "a"),
        ({"img": pa.array([{"bytes": JPEG, "path": "x"}], IMAGE), "category": ["a"]}, "a"),
        ({"picture": pa.array([{"bytes": JPEG}], pa.struct([("bytes", pa.large_binary())])), "labels": [3]}, "3"),
        ({"bytes": [JPEG], "file_name": ["1.jpg"], "class": pa.array(["a"]).dictionary_encode()}, "a"),
    ],
)
def test_other_names_of_the_columns_are_understood(tmp_path: Path, columns: dict[str, Any], label: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = list_photos([str(tmp_path / "x.parquet")])
    assert rows_of(found, "label") == [label]
    assert content(found) == [(JPEG, "")]


def test_datasets_are_packed_and_unpacked(tmp_path: Path) -> None:
    rows = [{"name": f"{n}.jpg", "label": "ab"[n % 2], "bytes": JPEG + bytes([n])} for n in range(9)]
    source = str(dataset(tmp_path / "in" / "train-0.parquet", rows).parent)
    assert pack([source], str(tmp_path / "pack"))["photos"] == 9
    assert rows_of(list_photos([str(tmp_path / "pack")]), "label") == rows_of(list_photos([source]), "label")
    unpack(str(tmp_path / "pack"), str(tmp_path / "out"))
    assert sorted(path.read_bytes() for path in (tmp_path / "out").rglob("*.jpg")) == [row["bytes"] for row in rows]


def test_several_columns_that_might_be_the_label_are_named(tmp_path: Path) -> None:
    features = {name: {"names": ["x"], "_type": "ClassLabel"} for name in ("variety", "colour")}
    table = pa.table({"image": [JPEG], "variety": [0], "colour": [0]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
        tmp_path / "x.parquet",
    )
    with pytest.raises(CatalogueError, match="rename the one of variety, colour that is meant"):
        list_photos([str(tmp_path / "x.parquet")])


def test_table_without_photos_in_a_dataset_is_said(tmp_path: Path) -> None:
    dataset(tmp_path / "a.parquet", [{"label": "a"}])
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(CatalogueError, match="has the columns text; expected a column image"):
        list_photos([str(tmp_path)])


@pytest.mark.parametrize(
    "metadata", [b"{", b"[" * 9999, b'{"info": {"features": {"image": 7, "label": [1]}}}', b"\xff"]
)
def test_metadata_of_rubbish_is_ignored(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": pa.array([{"bytes": JPEG, "path": "x"}], IMAGE), "label": ["a"]})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet")
    assert content(list_photos([str(tmp_path / "x.parquet")])) == [(JPEG, "")]


def test_damaged_file_is_said_and_one_that_is_gone_is_a_reason(tmp_path: Path) -> None:
    path = dataset(tmp_path / "x.parquet", [{"label": "a"}])
    found = list_photos([str(path)])
    data = path.read_bytes()
    path.unlink()
    [(_, reason)] = content(list_photos([str(path)]) if path.exists() else found)
    assert reason.startswith("not found")
    path.write_bytes(data[:-30])
    with pytest.raises(CatalogueError, match="cannot be read"):
        list_photos([str(path)])


@pytest.mark.parametrize("place", ["", "x/1.jpg", "-1/x", "000000000009/x", "99999999999999999999/x"])
def test_row_that_the_file_lacks_is_a_reason(tmp_path: Path, place: str) -> None:
    path = dataset(tmp_path / "x.parquet", [{"label": "a"}])
    [(data, reason)] = read_photos([f"parquet:{path}#{place}"], Access.to([str(path)]))
    assert data is None
    assert reason.startswith("not found")


def test_file_that_unpacks_to_gigabytes_costs_its_own_rows_alone(tmp_path: Path) -> None:
    value = bytes(8 << 20)
    codes = pa.array([0] * 512, pa.int32())
    repeated = pa.DictionaryArray.from_arrays(codes, pa.array([value]))  # 4 GiB
    path = tmp_path / "x.parquet"
    options: dict[str, Any] = {"use_dictionary": True, "compression": "zstd", "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(pa.table({"image": repeated, "label": ["a"] * 512}), path, **options)
    found = list_photos([str(path)])
    held = pa.total_allocated_bytes()
    assert all(data is None and reason.startswith("too large: ") for data, reason in content(found))
    assert pa.total_allocated_bytes() - held < 64 << 20


def test_large_row_groups_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_groups, "_BYTES_KEPT", 150)
    held: list[int] = []
    real = pack_groups.Groups.get

    def get(self: pack_groups.Groups, number: int) -> pack_groups.RowGroup:
        found = real(self, number)
        held.append(len(self))
        return found

    monkeypatch.setattr(pack_groups.Groups, "get", get)
    rows = [{"label": "a", "bytes": JPEG + bytes(100)} for _ in range(20)]
    assert all(data for data, _ in content(list_photos([str(dataset(tmp_path / "x.parquet", rows, row_group_size=1))])))
    assert max(held) <= 2


def test_link_out_of_the_source_is_not_read(tmp_path: Path) -> None:
    theirs = dataset(tmp_path / "theirs/x.parquet", [{"label": "a"}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x.parquet").symlink_to(theirs)
    with pytest.raises(CatalogueError):
        list_photos([str(tmp_path / "mine")])
    uri = list_photos([str(theirs)]).table["uri"][0].as_py().replace("theirs", "mine")
    [(data, reason)] = read_photos([uri], Access.to([str(tmp_path / "mine")]))
    assert data is None
    assert reason.startswith("outside: ")


def test_folder_of_tables_that_name_photos_is_a_manifest_in_parts(tmp_path: Path) -> None:
    for part in ("part-0000", "deep/part-0001"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"path": [f"s3://b/{part}.jpg"], "label": ["a"], "size": [7], "etag": [part]}),
                       tmp_path / f"{part}.parquet")  # fmt: skip
    (tmp_path / "_SUCCESS").touch()
    found = list_photos([str(tmp_path)], access=Access.to([str(tmp_path)], ["s3://b"]))
    assert rows_of(found, "uri", "version") == [
        ("s3://b/deep/part-0001.jpg", "deep/part-0001"), ("s3://b/part-0000.jpg", "part-0000")
    ]  # fmt: skip


def test_delta_table_of_photos_is_refused_with_what_to_do(tmp_path: Path) -> None:
    rows = pq.read_table(dataset(tmp_path / "part-0.parquet", [{"label": "a"}]))
    write_deltalake(tmp_path / "table", rows)
    with pytest.raises(CatalogueError, match=r"has the columns image, label; .* write what it holds now as Parquet"):
        list_photos([str(tmp_path / "table")])


def test_pack_below_a_folder_is_no_source(tmp_path: Path) -> None:
    source = dataset(tmp_path / "data" / "x.parquet", [{"label": "a"}])
    pack([str(source)], str(tmp_path / "data" / "packed"))
    assert list_photos([str(tmp_path / "data")]).table.num_rows == 1
    source.unlink()
    with pytest.raises(CatalogueError, match="written by fruits"):
        list_photos([str(tmp_path / "data")])


@pytest.mark.parametrize("name", ["image", "label", "split"])
def test_two_columns_of_one_name_are_refused_by_name(tmp_path: Path, name: str) -> None:
    columns = {
        "image": pa.array([{"bytes": JPEG, "path": "1.jpg"}], IMAGE),
        "label": pa.array(["a"]),
        "split": pa.array(["train"]),
    }
    table = pa.table(columns).append_column("note", pa.array(["x"]))
    pq.write_table(table.append_column("note", pa.array(["y"])), tmp_path / "train.parquet")
    assert rows_of(list_photos([str(tmp_path)]), "label") == ["a"], "columns that are not used may be"
    pq.write_table(table.append_column(name, columns[name]), tmp_path / "train.parquet")
    with pytest.raises(CatalogueError, match=f"2 columns are called '{name}'"):
        list_photos([str(tmp_path)])


def test_label_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = dataset(tmp_path / "x.parquet", [{"name": "1.jpg", "label": 0}], ["a\ud800", "b"])
    with pytest.raises(CatalogueError, match="a label's name is not UTF-8"):
        list_photos([str(path)])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1 half of a table", b"not a table at all"])
def test_damaged_table_in_a_folder_of_photos_is_called_one(tmp_path: Path, data: bytes) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.jpg").write_bytes(JPEG)
    (tmp_path / "a" / "more.parquet").write_bytes(data)
    (tmp_path / "a" / "readme.txt").write_bytes(data)
    pq.write_table(pa.table({"price": [1.5]}), tmp_path / "b" / "prices.parquet")
    found = list_photos([str(tmp_path)])
    assert found.skipped == {"damaged table": 1, "not an image": 2}
    assert found.examples["damaged table"] == ["a/more.parquet"]


def test_damaged_table_alone_is_named_and_does_not_hide_the_whole_ones_beside_it(tmp_path: Path) -> None:
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "0.parquet").write_bytes(b"PAR1 half of a table")
    with pytest.raises(CatalogueError, match=r"no photos .*1 damaged table \(such as 'label/0\.parquet'\)"):
        list_photos([str(tmp_path)])
    dataset(tmp_path / "label" / "1.parquet", [{"label": "a"}, {"label": "b"}])
    with pytest.raises(CatalogueError, match=r"0\.parquet' is damaged"):
        list_photos([str(tmp_path)])
