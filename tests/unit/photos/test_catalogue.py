"""Which photos are listed, under which label and split, and what is said of everything else."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.errors import CatalogueError
from fruits.photos.catalogue import builder, listing
from fruits.photos.catalogue import names as module
from fruits.photos.catalogue.catalogue import Catalogue, labels_without_training, list_photos, stable_hash
from fruits.photos.catalogue.files import keys
from fruits.photos.reading.access import Access
from fruits.storage.objects import ObjectInfo
from fruits.storage.tables import catalogue_rows, spool
from fruits.storage.tables.schemas import CATALOGUE

# Listing reads names, sizes and, where the suffix says nothing, the first bytes: these suffice.
JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"


def make(root: Path, *names: str, content: bytes = JPEG_HEAD) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def rows(found: Catalogue, root: Path, *columns: str) -> dict[str, Any]:
    """File to the columns asked for."""
    table = found.table.to_pylist()
    key = {row["uri"]: Path(row["uri"]).relative_to(root.resolve()).as_posix() for row in table}
    return {key[row["uri"]]: row[columns[0]] if len(columns) == 1 else tuple(row[c] for c in columns) for row in table}


def photos_of(labels: Iterable[str], count: int) -> list[str]:
    return [f"{label}/{number}.jpg" for label in labels for number in range(count)]


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_split_and_label_are_folders(tmp_path: Path) -> None:
    make(tmp_path, "Training/Apple Red 1/0_100.jpg", "Test/Apple Red 1/r_3_100.jpg", "val/Pear/x.png")
    found = list_photos([str(tmp_path)])
    assert rows(found, tmp_path, "label", "split") == {
        "Training/Apple Red 1/0_100.jpg": ("Apple Red 1", "train"),
        "Test/Apple Red 1/r_3_100.jpg": ("Apple Red 1", "test"),
        "val/Pear/x.png": ("Pear", "val"),
    }
    assert found.split_origin == "folders"
    assert found.table.schema == CATALOGUE
    assert found.skipped == {}


@pytest.mark.parametrize(("spelling", "split"), [*module.SPLIT_NAMES.items(), ("TRAIN", "train"), ("Valid", "val")])
def test_split_folder_in_any_spelling(tmp_path: Path, spelling: str, split: str) -> None:
    make(tmp_path, f"{spelling}/a/1.jpg", "Training/b/1.jpg", "Test/b/1.jpg")
    assert rows(list_photos([str(tmp_path)]), tmp_path, "split")[f"{spelling}/a/1.jpg"] == split


def test_label_is_the_folder_that_holds_the_photo_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path, "train/Fruit/Apple/Royal-Gala/1.jpg", "train/Fruit/Avocado/1.jpg", "val/Fruit/Avocado/2.jpg")
    assert rows(list_photos([str(tmp_path)]), tmp_path, "label", "split") == {
        "train/Fruit/Apple/Royal-Gala/1.jpg": ("Royal-Gala", "train"),
        "train/Fruit/Avocado/1.jpg": ("Avocado", "train"),
        "val/Fruit/Avocado/2.jpg": ("Avocado", "val"),
    }


def test_split_folder_below_the_label_does_not_become_a_label(tmp_path: Path) -> None:
    make(tmp_path, "Apple/train/1.jpg", "Training/Pear/1.jpg", "Test/Pear/1.jpg")
    found = list_photos([str(tmp_path)])
    assert set(rows(found, tmp_path, "label").values()) == {"Pear"}
    assert found.skipped == {"no label": 1}


def test_innermost_split_folder_counts(tmp_path: Path) -> None:
    make(tmp_path, "test/train/Apple/1.jpg", "test/Apple/2.jpg")
    assert rows(list_photos([str(tmp_path)]), tmp_path, "split") == {
        "test/train/Apple/1.jpg": "train",
        "test/Apple/2.jpg": "test",
    }


def test_split_name_above_the_source_plays_no_part(tmp_path: Path) -> None:
    root = make(tmp_path / "Test" / "photos", *photos_of("ab", 20))
    assert list_photos([str(root)]).split_origin == "hash"


def test_plain_folders_are_split_by_hash_and_every_label_keeps_training_photos(tmp_path: Path) -> None:
    make(tmp_path, *photos_of("abcdefgh", 50), *photos_of("xyz", 1), *photos_of("uvw", 2))
    found = list_photos([str(tmp_path)])
    splits = rows(found, tmp_path, "split")
    assert found.split_origin == "hash"
    assert set(splits.values()) == {"train", "test"}
    assert 0.12 < sum(split == "test" for split in splits.values()) / len(splits) < 0.28  # about a fifth
    assert labels_without_training(found.listed) == {}


def test_photos_moved_elsewhere_keep_their_split(tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", *photos_of("ab", 30)), make(tmp_path / "there", *photos_of("ab", 30))
    assert rows(list_photos([str(here)]), here, "split") == rows(list_photos([str(there)]), there, "split")


def test_added_photos_never_move_a_test_photo_into_training(tmp_path: Path) -> None:
    make(tmp_path, *photos_of("ab", 30))
    before = rows(list_photos([str(tmp_path)]), tmp_path, "split")
    make(tmp_path, *(f"{label}/more {number}.jpg" for label in "ab" for number in range(30)))
    after = rows(list_photos([str(tmp_path)]), tmp_path, "split")
    assert {name for name, split in before.items() if split == "test"} <= {n for n, s in after.items() if s == "test"}


def test_training_folder_alone_gives_a_fifth_to_test(tmp_path: Path) -> None:
    make(tmp_path, *(f"Training/{name}" for name in photos_of("ab", 40)))
    found = list_photos([str(tmp_path)])
    assert found.split_origin == "hash"
    assert set(rows(found, tmp_path, "split").values()) == {"train", "test"}


def test_train_and_val_are_left_as_they_are(tmp_path: Path) -> None:
    make(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in photos_of("ab", 20)))
    found = list_photos([str(tmp_path)])
    assert found.split_origin == "folders"
    assert set(rows(found, tmp_path, "split").values()) == {"train", "val"}


def test_folders_with_and_without_split_are_mixed(tmp_path: Path) -> None:
    make(tmp_path, "Training/a/1.jpg", "Test/a/1.jpg", *photos_of("b", 30))
    found = list_photos([str(tmp_path)])
    assert found.split_origin == "mixed"
    splits = rows(found, tmp_path, "split")
    assert splits["Training/a/1.jpg"] == "train"
    assert splits["Test/a/1.jpg"] == "test"
    assert None not in splits.values()


def test_labels_without_training_photos_are_told(tmp_path: Path) -> None:
    make(tmp_path, "Training/a/1.jpg", "Test/a/1.jpg", "Test/b/1.jpg", "Test/b/2.jpg")
    assert labels_without_training(list_photos([str(tmp_path)]).listed) == {"b": 2}


def test_label_spelled_in_two_unicode_forms_is_one_label(tmp_path: Path) -> None:
    make(tmp_path, "Training/P\u00eache/1.jpg", "Test/Pe\u0302che/2.jpg")
    assert set(rows(list_photos([str(tmp_path)]), tmp_path, "label").values()) == {"P\u00eache"}


def test_version_changes_with_time_and_size_and_not_otherwise(tmp_path: Path) -> None:
    make(tmp_path, "Training/a/1.jpg", "Test/a/1.jpg")
    path = tmp_path / "Training/a/1.jpg"
    versions = [rows(list_photos([str(tmp_path)]), tmp_path, "version")["Training/a/1.jpg"] for _ in range(2)]
    os.utime(path, ns=(1, 1))
    versions.append(rows(list_photos([str(tmp_path)]), tmp_path, "version")["Training/a/1.jpg"])
    path.write_bytes(JPEG_HEAD + b"more")
    os.utime(path, ns=(1, 1))
    versions.append(rows(list_photos([str(tmp_path)]), tmp_path, "version")["Training/a/1.jpg"])
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    make(tmp_path, "Training/a/1.jpg", "Test/a/1.jpg")
    assert set(rows(list_photos([str(tmp_path)]), tmp_path, "size_bytes").values()) == {len(JPEG_HEAD)}


# --- What is skipped -----------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with one training and one test photo."""
    return make(tmp_path / "photos", "Training/a/1.jpg", "Test/a/1.jpg")


def skipped(root: Path) -> dict[str, int]:
    found = list_photos([str(root)])
    assert found.table.num_rows == 2
    assert set(found.examples) == set(found.skipped)
    return found.skipped


def test_hidden_files_and_folders_are_skipped(two: Path) -> None:
    make(two, "Training/a/.1.jpg", "Training/.b/1.jpg", ".DS_Store")
    assert skipped(two) == {"hidden": 3}


def test_files_that_are_no_images_are_skipped(two: Path) -> None:
    make(two, "Training/a/notes.txt", "README.md", content=b"text, in short")
    assert skipped(two) == {"not an image": 2}


def test_photos_without_a_label_are_skipped(two: Path) -> None:
    make(two, "1.jpg", "Training/2.jpg")
    assert skipped(two) == {"no label": 2}


def test_empty_labels_are_skipped(two: Path) -> None:
    (two / "Training" / "b").mkdir()
    (two / "val").mkdir()
    assert skipped(two) == {"empty label": 1}


def test_jpeg_under_another_suffix_or_none_is_a_photo(two: Path) -> None:
    make(two, "Training/a/photo.dat", "Training/a/photo")
    found = list_photos([str(two)])
    assert {"Training/a/photo.dat", "Training/a/photo"} < set(rows(found, two, "label"))


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp", "jfif", "gif", "heic", "TIFF", "bmp", "avif"])
def test_file_with_the_suffix_of_an_image_is_listed_whatever_it_holds(two: Path, suffix: str) -> None:
    make(two, f"Training/a/photo.{suffix}", content=b"who knows")
    assert f"Training/a/photo.{suffix}" in rows(list_photos([str(two)]), two, "label")


@pytest.mark.parametrize("name", ["pipe", "pipe.jpg"])
def test_named_pipe_is_never_opened(two: Path, name: str) -> None:
    os.mkfifo(two / "Training" / "a" / name)
    assert sum(skipped(two).values()) == 1


def test_socket_is_skipped(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two / "Training" / "a")  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        assert sum(skipped(two).values()) == 1


def test_symlink_in_a_circle_is_skipped(two: Path) -> None:
    (two / "Training" / "again").symlink_to(two)
    found = list_photos([str(two)])
    assert found.skipped["symlink loop"] >= 1
    assert len(set(found.table["uri"].to_pylist())) == found.table.num_rows


@pytest.mark.parametrize("name", ["itself", "itself.jpg"])
def test_symlink_to_itself_is_skipped(two: Path, name: str) -> None:
    (two / "Training" / "a" / name).symlink_to(name)
    assert sum(skipped(two).values()) == 1


@pytest.mark.parametrize("name", ["gone", "gone.jpg"])
def test_broken_symlink_is_skipped(two: Path, name: str) -> None:
    (two / "Training" / "a" / name).symlink_to("/nowhere/at all.jpg")
    assert sum(skipped(two).values()) == 1


def test_symlinked_folder_and_file_are_followed(two: Path, tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", "b/1.jpg", "c.jpg")
    (two / "Training" / "b").symlink_to(elsewhere / "b")
    (two / "Training" / "a" / "linked.jpg").symlink_to(elsewhere / "c.jpg")
    found = list_photos([str(two)], access=Access.to([str(two)], follow_links=True))
    assert {"Training/b/1.jpg", "Training/a/linked.jpg"} < set(rows(found, two, "label"))


def test_names_that_are_not_utf8_are_skipped_and_told_printably(two: Path) -> None:
    folder = os.fsencode(two / "Training")
    Path(os.fsdecode(folder + b"/a/p\xe9che.jpg")).write_bytes(JPEG_HEAD)
    Path(os.fsdecode(folder + b"/P\xe9che")).mkdir()
    found = list_photos([str(two)])
    assert found.skipped == {"name is not UTF-8": 2}
    for name in found.examples["name is not UTF-8"]:
        assert name.encode().isascii()


@pytest.mark.parametrize("name", ["a b", "\N{GREEN APPLE}", "line\nbreak", "100% #1 ?&=", "quote\"'", "-rf", "\\"])
def test_odd_names_are_kept_as_they_are(two: Path, name: str) -> None:
    make(two, f"Training/{name}/{name}.jpg")
    assert rows(list_photos([str(two)]), two, "label")[f"Training/{name}/{name}.jpg"] == name


def test_only_the_first_examples_are_kept(two: Path) -> None:
    make(two, *(f"Training/a/{number}.txt" for number in range(20)), content=b"text")
    found = list_photos([str(two)])
    assert found.skipped == {"not an image": 20}
    assert len(found.examples["not an image"]) == 5


# --- Manifests --------------------------------------------------------------------------------------------------------


def csv(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    return make(tmp_path, "pile/1.jpg", "pile/2.jpg", "pile/3.jpg")


def test_csv_with_relative_paths_says_label_and_split(pile: Path) -> None:
    manifest = csv(pile / "list.csv", "uri,label,split,colour\npile/1.jpg,007,train,red\npile/2.jpg,NA,Test,\n")
    found = list_photos([str(manifest)])
    assert rows(found, pile, "label", "split") == {"pile/1.jpg": ("007", "train"), "pile/2.jpg": ("NA", "test")}
    assert found.split_origin == "manifest"


def test_parquet_with_absolute_paths_is_read(pile: Path) -> None:
    names = [str(pile / "pile" / f"{number}.jpg") for number in (1, 2)]
    table = pa.table({"uri": names, "label": pa.array(["a", "b"]).dictionary_encode(), "split": ["train", "test"]})
    pq.write_table(table, pile / "list.parquet")
    found = list_photos([str(pile / "list.parquet")])
    assert rows(found, pile, "label") == {"pile/1.jpg": "a", "pile/2.jpg": "b"}


def test_manifest_without_splits_is_split_by_hash(tmp_path: Path) -> None:
    make(tmp_path, *photos_of("p", 40))
    manifest = csv(tmp_path / "list.csv", "uri,label\n" + "".join(f"p/{n}.jpg,{'ab'[n % 2]}\n" for n in range(40)))
    found = list_photos([str(manifest)])
    assert found.split_origin == "hash"
    assert set(rows(found, tmp_path, "split").values()) == {"train", "test"}


def test_group_of_a_manifest_keeps_photos_together(pile: Path) -> None:
    manifest = csv(pile / "list.csv", "uri,label,group\npile/1.jpg,a,one\npile/2.jpg,a,one\npile/3.jpg,a,two\n")
    found = list_photos([str(manifest)])
    groups = rows(found, pile, "group")
    assert groups["pile/1.jpg"] == groups["pile/2.jpg"] != groups["pile/3.jpg"]
    assert found.group_origin == "manifest"


def test_file_that_a_manifest_names_and_nobody_has_is_still_a_row(pile: Path) -> None:
    manifest = csv(pile / "list.csv", "uri,label\npile/1.jpg,a\npile/gone.jpg,a\n")
    assert rows(list_photos([str(manifest)]), pile, "version")["pile/gone.jpg"] == "missing"


def test_byte_order_mark_of_a_spreadsheet_is_ignored(pile: Path) -> None:
    manifest = csv(pile / "list.csv", "\ufeffuri,label\npile/1.jpg,p\u00eache\n")
    assert rows(list_photos([str(manifest)]), pile, "label") == {"pile/1.jpg": "p\u00eache"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("uri\npile/1.jpg\n", "label missing"),
        ("photo_id,label\npile/1.jpg,a\n", "uri missing"),
        ("uri;label\npile/1.jpg;a\n", "uri, label missing"),
        ("uri,label,split\npile/1.jpg,a,exam\n", "row 1: split 'exam'"),
        ("uri,label\npile/1.jpg,a\npile/2.jpg,\n", r"row 2 \('pile/2.jpg'\): no label"),
        ("uri,label\n,a\n", "row 1: no uri"),
        ("", "cannot be read"),
        ("uri,label\npile/1.jpg\n", "cannot be read"),
        ("uri,label\npile/1.jpg,a\npile/1.jpg,b\n", "two labels, 'a' and 'b'|two labels, 'b' and 'a'"),
        ("uri,label,label\npile/1.jpg,a,b\n", "label"),
        ("uri,label\n\0,a\n", "row 1"),
        ("uri,label\n", "no photos"),
    ],
)
def test_manifest_that_cannot_be_used_says_why(pile: Path, text: str, complaint: str) -> None:
    with pytest.raises(CatalogueError, match=complaint):
        list_photos([str(csv(pile / "list.csv", text))])


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_manifest_of_rubbish_says_what_is_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01" * 20)
    with pytest.raises(CatalogueError, match=r"expected UTF-8 CSV|missing"):
        list_photos([str(tmp_path / name)])


def test_parquet_manifest_with_columns_of_another_kind_says_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["1.jpg"], "label": [{"name": "a"}]}), tmp_path / "list.parquet")
    with pytest.raises(CatalogueError, match="expected"):
        list_photos([str(tmp_path / "list.parquet")])


@pytest.mark.parametrize(
    ("columns", "version"),
    [
        ({"uri": "s3://b/1.jpg", "size": 7, "etag": '"abc"'}, "abc"),
        ({"Path": "s3://b/1.jpg", "Size-Bytes": 7, "ETag": "abc", "LastModified": "2026-01-02"}, "abc"),
        ({"file_name": "s3://b/1.jpg", "file size": 7, "last_modified": "1970-01-02T00:00:01.5Z"}, "86401.500000-7"),
        ({"url": "s3://b/1.jpg", "size": 7, "last_modified": datetime(1970, 1, 2, 0, 0, 1, 500000)}, "86401.500000-7"),
        ({"url": "s3://b/1.jpg", "size": 7, "last_modified": datetime(1970, 1, 2, tzinfo=UTC)}, "86400.000000-7"),
        ({"uri": "s3://b/1.jpg", "size": 7, "mtime": 86400}, "86400-7"),
        ({"uri": "s3://b/1.jpg", "size": 7}, "asked"),
        ({"uri": "s3://b/1.jpg", "etag": "abc"}, "asked"),
        ({"uri": "s3://b/1.jpg", "size": -7, "etag": "abc"}, "asked"),
        ({"uri": "s3://b/1.jpg", "size": "large", "etag": "abc"}, "asked"),
        ({"uri": "s3://b/1.jpg", "size": str(10**30), "etag": "abc"}, "asked"),
    ],
)
def test_table_that_gives_size_and_version_needs_no_request_per_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any], version: str
) -> None:
    monkeypatch.setattr(listing, "_stat", lambda _: ObjectInfo("1.jpg", 7, "asked", 0.0))
    table = pa.table({name: [value] for name, value in {**columns, "category": "apple"}.items()})
    pq.write_table(table, tmp_path / "list.parquet")
    source = str(tmp_path / "list.parquet")
    [row] = list_photos([source], access=Access.to([source], ["s3://b"])).table.to_pylist()
    assert (row["uri"], row["label"], row["size_bytes"], row["version"]) == ("s3://b/1.jpg", "apple", 7, version)
    [row] = list_photos([source], access=Access.to([source], ["s3://b"]), labelled=False).table.to_pylist()
    assert (row["label"], row["version"]) == (None, version)


def test_table_that_gives_size_and_version_may_name_no_other_files_than_any_manifest(tmp_path: Path) -> None:
    make(tmp_path, "in/1.jpg", "out/2.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    lines = ["uri,label,size,etag", "1.jpg,a,5,x", "../out/2.jpg,a,5,x", "link/2.jpg,a,5,x", "s3://b/1.jpg,a,5,x"]
    found = list_photos([str(csv(tmp_path / "in" / "list.csv", "\n".join(lines)))])
    assert rows(found, tmp_path / "in", "version") == {"1.jpg": "x"}
    assert found.skipped == {"outside of its source": 3}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"format": "fruits"}, "cannot be used"),
        ([], "cannot be used"),
        ({"fileFormat": "Avro"}, "is in Avro; expected CSV, Parquet or ORC"),
        ({"fileFormat": "Parquet", "sourceBucket": "b", "files": [{"key": "x"}]}, "allow_source='s3://b/'"),
        (
            {"fileFormat": "CSV", "fileSchema": "Bucket, Key", "sourceBucket": "c", "files": [{"key": "i/x"}]},
            "is not there",
        ),
    ],
)
def test_inventory_that_cannot_be_used_says_why(tmp_path: Path, content: Any, complaint: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    source = str(tmp_path / "manifest.json")
    with pytest.raises(CatalogueError, match=complaint):
        list_photos([source], access=Access.to([source], ["s3://c/photos"]))


def test_photo_listed_twice_with_one_label_counts_once(pile: Path) -> None:
    found = list_photos([str(csv(pile / "list.csv", "uri,label\npile/1.jpg,a\npile/1.jpg,a\npile/2.jpg,b\n"))])
    assert found.table.num_rows == 2
    assert found.skipped == {"listed twice": 1}


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_manifest_row_that_is_no_file_is_skipped(pile: Path, kind: str) -> None:
    os.mkfifo(pile / "odd") if kind == "pipe" else (pile / "odd").mkdir()
    found = list_photos([str(csv(pile / "list.csv", "uri,label\npile/1.jpg,a\nodd,a\n"))])
    assert set(rows(found, pile, "label")) == {"pile/1.jpg"}
    assert sum(found.skipped.values()) == 1


# --- Several sources --------------------------------------------------------------------------------------------------


def test_labels_of_several_sources_are_united_by_name(tmp_path: Path) -> None:
    one = make(tmp_path / "one", "Training/a/1.jpg", "Test/a/1.jpg")
    two = make(tmp_path / "two", "Training/a/1.jpg", "Training/b/1.jpg")
    found = list_photos([str(one), str(two)])
    assert found.sources == {str(one): 2, str(two): 2}
    assert sorted(rows(found, tmp_path, "label").values()) == ["a", "a", "a", "b"]


def test_source_given_twice_counts_once(two: Path) -> None:
    found = list_photos([str(two), str(two)])
    assert found.table.num_rows == 2
    assert found.skipped == {"listed twice": 2}


def test_order_of_sources_does_not_matter(tmp_path: Path) -> None:
    sources = [str(make(tmp_path / name, *photos_of(labels, 10))) for name, labels in (("one", "ab"), ("two", "bc"))]
    one, other = list_photos(sources), list_photos(sources[::-1])
    columns = ["uri", "label", "split", "version", "group"]
    assert one.table.select(columns).to_pylist() == other.table.select(columns).to_pylist()


def test_manifest_and_folder_go_together(pile: Path, two: Path) -> None:
    manifest = csv(pile / "list.csv", "uri,label,split\npile/1.jpg,a,train\n")
    assert list_photos([str(manifest), str(two)]).table.num_rows == 3


def test_hundreds_of_single_photos_are_taken_when_labels_do_not_matter(tmp_path: Path) -> None:
    make(tmp_path, *(f"{number}.jpg" for number in range(300)))
    found = list_photos([str(path) for path in sorted(tmp_path.iterdir())], labelled=False)
    assert found.table.num_rows == 300


def test_without_labels_any_layout_will_do(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "Training/2.jpg", "a/b/c/3.jpg")
    found = list_photos([str(tmp_path)], labelled=False)
    assert rows(found, tmp_path, "label", "split") == dict.fromkeys(
        ["1.jpg", "Training/2.jpg", "a/b/c/3.jpg"], (None, None)
    )
    assert found.split_origin == "none"


# --- A choice of photos -----------------------------------------------------------------------------------------------


def test_only_labels_that_match_a_glob_are_used(tmp_path: Path) -> None:
    make(tmp_path, *photos_of(["Apple Red", "Apple Gold", "Pear", "apple"], 3))
    found = list_photos([str(tmp_path)], only=["Apple *", "P?ar"])
    assert set(rows(found, tmp_path, "label").values()) == {"Apple Red", "Apple Gold", "Pear"}
    assert found.skipped == {"not selected": 3}


def test_glob_that_matches_nothing_names_the_labels_there_are(tmp_path: Path) -> None:
    make(tmp_path, *photos_of(["Apple", "Pear"], 3))
    with pytest.raises(CatalogueError, match=r"no label .* matches 'Kiwi'; labels there: Apple, Pear"):
        list_photos([str(tmp_path)], only=["Kiwi"])


def test_sample_keeps_so_many_photos_of_each_label(tmp_path: Path) -> None:
    make(tmp_path, *photos_of("ab", 30), *photos_of("c", 2))
    labels = list(rows(list_photos([str(tmp_path)], sample=5), tmp_path, "label").values())
    assert {label: labels.count(label) for label in "abc"} == {"a": 5, "b": 5, "c": 2}


def test_sample_depends_on_the_seed_alone(tmp_path: Path) -> None:
    make(tmp_path, *photos_of("ab", 50))
    first, again, other = (
        set(rows(list_photos([str(tmp_path)], sample=10, seed=seed), tmp_path, "uri")) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_larger_sample_contains_the_smaller(tmp_path: Path) -> None:
    make(tmp_path, *photos_of("ab", 50))
    small, large = (set(rows(list_photos([str(tmp_path)], sample=count), tmp_path, "uri")) for count in (5, 20))
    assert small < large


@pytest.mark.parametrize("labelled", [True, False])
def test_result_does_not_depend_on_the_order_of_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    make(tmp_path, *photos_of("abc", 20), "Training/x/1.jpg", ".hidden")
    options: dict[str, Any] = {"sample": 7} if labelled else {"labelled": False}
    before = list_photos([str(tmp_path)], **options)
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: _Reversed(real, path))
    after = list_photos([str(tmp_path)], **options)
    assert before.table.to_pylist() == after.table.to_pylist()
    assert before.skipped == after.skipped


class _Reversed:
    """What os.scandir gives, the other way round."""

    def __init__(self, scandir: Callable[[str], Any], path: str) -> None:
        with scandir(path) as entries:
            self._entries = iter(list(entries)[::-1])

    def __enter__(self) -> _Reversed:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> _Reversed:
        return self

    def __next__(self) -> Any:
        return next(self._entries)


# --- Groups -----------------------------------------------------------------------------------------------------------


def test_neighbouring_frames_of_one_sequence_share_a_group(tmp_path: Path) -> None:
    frames = [0, 3, 27, 30, 57, 300]
    make(tmp_path, *(f"Training/a/{axis}{frame}_100.jpg" for axis in ("", "r_", "r2_") for frame in frames))
    groups = rows(list_photos([str(tmp_path)]), tmp_path, "group")
    for axis in ("", "r_", "r2_"):
        one = [groups[f"Training/a/{axis}{frame}_100.jpg"] for frame in frames]
        assert one[0] == one[1] == one[2]
        assert one[3] == one[4]
        assert len({one[0], one[3], one[5]}) == 3
    assert groups["Training/a/0_100.jpg"] != groups["Training/a/r_0_100.jpg"]


def test_names_without_numbers_are_groups_of_their_own(tmp_path: Path) -> None:
    make(tmp_path, "Training/a/left.jpg", "Training/a/right.jpg", "Training/b/left.jpg")
    found = list_photos([str(tmp_path)])
    groups = rows(found, tmp_path, "group")
    assert len(set(groups.values())) == 3
    assert found.group_origin == "names"


def test_same_names_under_two_labels_are_not_neighbours(tmp_path: Path) -> None:
    make(tmp_path, "Training/a/1.jpg", "Training/b/1.jpg")
    assert len(set(rows(list_photos([str(tmp_path)]), tmp_path, "group").values())) == 2


# --- Nothing to use ---------------------------------------------------------------------------------------------------


def test_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nowhere' does not exist; expected a folder"):
        list_photos([str(tmp_path / "nowhere")])


def test_single_file_is_no_source_of_labelled_photos(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg")
    with pytest.raises(CatalogueError, match="is a file; expected a folder"):
        list_photos([str(tmp_path / "1.jpg")])


def test_folder_without_photos_says_what_was_found_and_what_is_expected(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(CatalogueError, match=r"2 no label \(such as '1.jpg'\).*PHOTOS/<label>/photo.jpg"):
        list_photos([str(tmp_path)])


@pytest.mark.parametrize("labelled", [True, False])
def test_empty_folder_is_refused(tmp_path: Path, labelled: bool) -> None:
    with pytest.raises(CatalogueError, match="no photos to use"):
        list_photos([str(tmp_path)], labelled=labelled)


# --- Hash -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8")))
def test_hash_has_63_bits_and_is_stable(text: str) -> None:
    assert 0 <= stable_hash(text) < 2**63
    assert stable_hash(text) == stable_hash(text)


def test_hash_is_the_same_on_every_machine() -> None:
    assert stable_hash("Training/Apple/0_100.jpg") == 5_119_279_443_040_248_612


def test_sample_leaves_a_share_for_testing(tmp_path: Path) -> None:
    make(tmp_path / "photos", *photos_of(["a", "b", "c", "d"], 200))
    for seed in range(3):
        splits = list_photos([str(tmp_path / "photos")], sample=50, seed=seed).table["split"].to_pylist()
        assert len(splits) == 200
        assert 20 <= splits.count("test") <= 60, seed


def test_groups_of_a_manifest_are_never_cut_by_the_split(tmp_path: Path) -> None:
    make(tmp_path / "photos", *photos_of(["a", "b"], 100))
    rows = [f"{label}/{path.name},{label},thing {number // 5}" for label in "ab" for number, path in
            enumerate(sorted((tmp_path / "photos" / label).iterdir()))]  # fmt: skip
    (tmp_path / "photos" / "m.csv").write_text("\n".join(["uri,label,group", *rows]))
    table = list_photos([str(tmp_path / "photos" / "m.csv")]).table
    splits: dict[int, set[str]] = {}
    for row in table.to_pylist():
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "test"}


def test_photo_listed_for_training_and_for_testing_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "m.csv").write_text("uri,label,split\na/1.jpg,a,train\nb/2.jpg,b,train\na/1.jpg,a,test\n")
    with pytest.raises(CatalogueError, match="two splits"):
        list_photos([str(tmp_path / "m.csv")])


def test_source_called_as_a_split_is_that_split(tmp_path: Path) -> None:
    make(tmp_path, "Training/a/1.jpg", "Training/b/2.jpg", "Test/a/3.jpg")
    table = list_photos([str(tmp_path / "Training"), str(tmp_path / "Test")]).table
    assert sorted((Path(row["uri"]).name, row["split"]) for row in table.to_pylist()) == [
        ("1.jpg", "train"),
        ("2.jpg", "train"),
        ("3.jpg", "test"),
    ]


# --- Size -------------------------------------------------------------------------------------------------------------


def test_texts_of_photos_have_64_bit_offsets_and_lie_in_batches(tmp_path: Path) -> None:
    """With 32-bit offsets, texts of more than 2 GiB of paths (23 million photos) could not be combined or cast."""
    make(tmp_path, *photos_of("ab", 12))
    found = list_photos([str(tmp_path)])
    for one in (found.table, found.listed.texts.table()):
        assert {one.schema.field(name).type for name in ("uri", "version")} == {pa.large_string()}


@pytest.mark.parametrize("layout", ["folders", "sample", "only", "manifest"])
def test_a_catalogue_on_disk_equals_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    photos = [f"{folder}/{label}/{n}_{n * 7 % 50}.jpg" for folder in ("a", "b") for label in "xyz" for n in range(40)]
    make(tmp_path, *photos)
    sources, choices = [str(tmp_path / "b"), str(tmp_path / "a"), str(tmp_path / "b")], {}
    if layout == "manifest":
        lines = [f"{one},{one.split('/')[1]},,{number // 9},{number % 3}" for number, one in enumerate(photos)]
        (tmp_path / "list.csv").write_text("\n".join(["uri,label,split,group,source", *lines, lines[0]]))
        sources = [str(tmp_path / "list.csv")]
    elif layout != "folders":
        choices = {"sample": 7} if layout == "sample" else {"only": ["x", "z"]}
    in_memory = list_photos(sources, **choices)
    expected = in_memory.table
    for name, rows in (("IN_MEMORY", 50), ("ROWS_PER_BATCH", 16), ("_ROWS_PER_BLOCK", 5)):
        monkeypatch.setattr(spool, name, rows)
    monkeypatch.setattr(catalogue_rows, "ROWS_PER_BATCH", 16)
    monkeypatch.setattr(builder, "_ROWS_PER_CHUNK", 11)
    on_disk = list_photos(sources, **choices)
    assert in_memory.listed.texts.in_memory
    assert layout == "sample" or not on_disk.listed.texts.in_memory
    assert on_disk.table.equals(expected)
    assert on_disk.table["uri"].to_pylist() == sorted(on_disk.table["uri"].to_pylist())
    for name in ("split_origin", "group_origin", "sources", "skipped", "examples"):
        assert getattr(on_disk, name) == getattr(in_memory, name)
    rows = np.array([20, 2, 2, 17])
    columns = ["label", "uri", "group"]
    assert on_disk.listed.take(rows, columns).equals(expected.select(columns).take(pa.array(rows)))


def test_a_photo_with_two_labels_is_told_across_runs_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *photos_of("ab", 30))
    rows = [f"{label}/{n}.jpg,{label}" for label in "ab" for n in range(30)]
    monkeypatch.setattr(spool, "IN_MEMORY", 20)
    monkeypatch.setattr(builder, "_ROWS_PER_CHUNK", 10)
    (tmp_path / "list.csv").write_text("\n".join(["uri,label", *rows, "a/3.jpg,b"]))
    with pytest.raises(CatalogueError, match=r"3.jpg' is listed with two labels, 'a' and 'b'"):
        list_photos([str(tmp_path / "list.csv")])


@pytest.mark.parametrize("in_memory", [100, 2])
def test_listing_of_a_bucket_is_sorted_and_has_64_bit_offsets(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", in_memory)
    monkeypatch.setattr(spool, "ROWS_PER_BATCH", 2)
    runs = spool.SortedRuns("key")
    for some in ("eb", "ad", "c"):
        rows = {"key": list(some), "size": [1] * len(some), "version": ["x"] * len(some)}
        runs.add(pa.RecordBatch.from_pydict(rows, schema=keys.LISTED))
    listing_of_all = keys.sorted_by_key(runs)
    table = listing_of_all.table()
    assert table["key"].to_pylist() == list("abcde")
    assert {table.schema.field(name).type for name in ("key", "version")} == {pa.large_string()}
    assert listing_of_all.in_memory == (in_memory == 100)
