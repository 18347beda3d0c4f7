"""Bytes under names: whole or not at all, and only one writer makes an object."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruits.errors import StoreError
from fruits.storage.objects import Objects


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "results"))


def test_what_is_written_is_read(objects: Objects) -> None:
    objects.write("a/b/c.bin", b"\x00\xff")
    assert objects.read("a/b/c.bin") == b"\x00\xff"
    assert (Path(objects.root) / "a/b/c.bin").read_bytes() == b"\x00\xff"


def test_writing_again_replaces(objects: Objects) -> None:
    objects.write("a", b"first, and longer")
    objects.write("a", b"second")
    assert objects.read("a") == b"second"


def test_absent_object_is_none_or_an_error_that_names_it(objects: Objects) -> None:
    assert objects.read_if_present("a/b") is None
    with pytest.raises(StoreError, match="a/b"):
        objects.read("a/b")


def test_deleting_is_done_once_and_again_without_complaint(objects: Objects) -> None:
    objects.write("a", b"1")
    objects.delete("a")
    objects.delete("a")
    assert objects.read_if_present("a") is None


def test_put_that_is_tried_again_is_not_taken_for_another_writers(objects: Objects) -> None:
    assert objects.put_if_absent("a", b"mine")
    assert objects.put_if_absent("a", b"mine")
    assert objects.read("a") == b"mine"


def test_put_if_absent_keeps_what_is_there(objects: Objects) -> None:
    assert objects.put_if_absent("a", b"first") is True
    assert objects.put_if_absent("a", b"second") is False
    assert objects.read("a") == b"first"


def test_of_many_writers_at_once_exactly_one_makes_the_object(objects: Objects) -> None:
    contents = [bytes([writer]) * 100_000 for writer in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for number in range(25):
            key = f"records/{number}.json"
            made = list(pool.map(lambda content, key=key: objects.put_if_absent(key, content), contents))
            assert made.count(True) == 1
            assert objects.read(key) == contents[made.index(True)]


def test_stream_appears_when_it_is_whole(objects: Objects) -> None:
    table = pa.table({"n": list(range(1000))})
    with objects.writer("t.parquet") as stream, pq.ParquetWriter(stream, table.schema) as writer:
        writer.write_table(table)
        assert objects.read_if_present("t.parquet") is None
    assert pq.read_table(Path(objects.root) / "t.parquet").equals(table)


def test_stream_that_fails_leaves_what_was_there(objects: Objects) -> None:
    objects.write("t", b"before")

    def fail() -> None:
        with objects.writer("t") as stream:
            stream.write(b"half")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
    assert objects.read("t") == b"before"
    assert [path.name for path in Path(objects.root).iterdir()] == ["t"]


@pytest.mark.parametrize("name", ["with space", "100% #1?", "p\u00eache \N{GREEN APPLE}", "a+b&c=d", "~", "%41"])
def test_folder_of_any_name_holds_objects_where_paths_expect_them(tmp_path: Path, name: str) -> None:
    objects = Objects(str(tmp_path / name))
    objects.write("a/b.bin", b"1")
    assert (tmp_path / name / "a" / "b.bin").read_bytes() == b"1"


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="is a file; expected a folder"):
        Objects(str(tmp_path / "file"))


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="run again"):
        Objects(str(tmp_path / "file" / "results"))


def test_object_that_cannot_be_written_is_an_error_that_names_it(objects: Objects) -> None:
    objects.write("a", b"1")
    with pytest.raises(StoreError, match="a/b"):
        objects.write("a/b", b"1")


def test_relative_folder_is_not_lost_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    objects = Objects("results")
    monkeypatch.chdir("/")
    objects.write("a", b"1")
    assert (tmp_path / "results" / "a").read_bytes() == b"1"


def test_an_object_beyond_the_limit_is_refused(objects: Objects) -> None:
    objects.write("large", b"12345")
    assert objects.read("large", limit=5) == b"12345"
    with pytest.raises(StoreError, match="5 bytes"):
        objects.read("large", limit=4)
