"""Photos in a bucket are those of the same folder on disk: labels, splits, groups, what is skipped. On a real S3 server."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import boto3
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from faults.s3_server import FOREIGN, S3Server
from pyarrow import orc

from fruits.errors import CatalogueError, StoreError
from fruits.photos.catalogue import listing
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.catalogue.files import keys
from fruits.photos.reading import packs
from fruits.photos.reading.access import Access
from fruits.photos.reading.packing import pack, unpack
from fruits.photos.reading.reading import read_head, read_photo, read_photos
from fruits.photos.reading.samples import thumbnails, typical_side
from fruits.storage.objects import Objects, opened
from fruits.storage.objects.buckets import delta_options

JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
COLUMNS = ["label", "split", "size_bytes", "group"]


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Iterator[str]:
    """A bucket for all of these tests, and the environment that leads there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        opened.cache_clear()
        yield s3.make_bucket(f"catalogue-{uuid.uuid4().hex[:8]}")
    opened.cache_clear()


@pytest.fixture
def place(bucket: str) -> Iterator[str]:
    """A prefix of its own."""
    packs.opened_pack.cache_clear()
    yield f"{bucket}/catalogue/{uuid.uuid4().hex[:8]}"
    opened.cache_clear()  # some tests change what it is opened with
    packs.opened_pack.cache_clear()


def upload(folder: Path, place: str) -> str:
    objects = Objects(place)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            objects.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return place


def make(root: Path, *names: str, content: bytes = JPEG_HEAD) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def alike(one: Catalogue, other: Catalogue) -> None:
    assert one.table.select(COLUMNS).to_pylist() == other.table.select(COLUMNS).to_pylist()
    assert one.skipped == other.skipped
    assert {why: sorted(names) for why, names in one.examples.items()} == {
        why: sorted(names) for why, names in other.examples.items()
    }
    assert (one.split_origin, one.group_origin) == (other.split_origin, other.group_origin)


@pytest.mark.slow
def test_orchard_in_a_bucket_is_the_orchard_on_disk(own_photos: Path, place: str) -> None:
    upload(own_photos, place)
    disk, bucket = list_photos([str(own_photos)]), list_photos([place])
    alike(disk, bucket)
    names = [str(Path(uri).relative_to(own_photos.resolve())) for uri in disk.table["uri"].to_pylist()]
    assert bucket.table["uri"].to_pylist() == [f"{place}/{name}" for name in names]
    assert list(read_photos(bucket.table["uri"].to_pylist())) == list(read_photos(disk.table["uri"].to_pylist()))
    assert typical_side(bucket.listed) == typical_side(disk.listed) == 100
    assert len(thumbnails(bucket.table["uri"].to_pylist(), 3)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False])
def test_odd_layouts_are_understood_as_on_disk(tmp_path: Path, place: str, labelled: bool) -> None:
    root = make(
        tmp_path / place.rpartition("/")[2],
        *(f"a/{number}.jpg" for number in range(40)), "a/b/1.jpg", "a/b c/1.jpg", "a.b/1.jpg", "a/zz.JPEG", "top.jpg",
        "Training/x.jpg", "Training/Pear/1.jpg", "test/train/Pear/2.jpg", "a/photo", "a/photo.dat",
        "p\u00eache %23 #1?/\u00e9 &.jpg",
        ".hidden/1.jpg", ".hidden/2/3.jpg", "a/.thumb.jpg", "a/.b/1.jpg", "Pe\u0302che/1.jpg", "a/heic.heic",
    )  # fmt: skip
    make(root, "a/notes.txt", "only text/notes.txt", "README", content=b"text, in short")
    options: dict[str, Any] = {"sample": 20} if labelled else {"labelled": False}
    alike(list_photos([str(root)], **options), list_photos([upload(root, place)], **options))


def test_version_is_the_etag_and_changes_with_the_content(place: str) -> None:
    objects = Objects(place)
    for name in ("a/1.jpg", "b/1.jpg"):
        objects.write(name, JPEG_HEAD)
    before = list_photos([place]).table["version"].to_pylist()
    objects.write("b/1.jpg", JPEG_HEAD + b"more")
    after = list_photos([f"{place}/"]).table["version"].to_pylist()
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert '"' not in "".join(after)


def test_marker_of_a_folder_is_no_photo(place: str) -> None:
    objects = Objects(place)
    for name, data in {"a/1.jpg": JPEG_HEAD, "a": b"", "b": b"", "b/1.jpg": JPEG_HEAD}.items():
        objects.write(name, data)
    found = list_photos([place])
    assert found.table.num_rows == 2
    assert found.skipped == {}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_manifest_in_a_bucket_names_photos_beside_it_and_elsewhere(tmp_path: Path, place: str, suffix: str) -> None:
    objects = Objects(place)
    for number in range(3):
        objects.write(f"pile/{number}.jpg", JPEG_HEAD + bytes([number]))
    make(tmp_path, "local.jpg")
    uris = ["../pile/0.jpg", f"{place}/pile/./1.jpg", f"{place}/pile/gone.jpg", f"{place}/pile//2.jpg",
            str(tmp_path / "local.jpg"), "s3://no-such-bucket/1.jpg"]  # fmt: skip
    table = pa.table({"uri": uris, "label": list("ababab"), "split": ["train", "test"] * 3})
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table, sink) if suffix == "csv" else pq.write_table(table, sink)
    objects.write(f"lists/list.{suffix}", sink.getvalue().to_pybytes())
    manifest = f"{place}/lists/list.{suffix}"
    found = list_photos([manifest], access=Access.to([manifest], [place, str(tmp_path), "s3://no-such-bucket"]))
    by_uri = {row["uri"]: row for row in found.table.to_pylist()}
    assert set(by_uri) == {f"{place}/pile/{name}.jpg" for name in ("0", "1", "gone", "2")} | {
        str(tmp_path / "local.jpg"), "s3://no-such-bucket/1.jpg"
    }  # fmt: skip
    assert [uri for uri, row in by_uri.items() if row["version"] == "missing"] == sorted(
        [f"{place}/pile/gone.jpg", "s3://no-such-bucket/1.jpg"], key=list(by_uri).index
    )
    assert by_uri[f"{place}/pile/0.jpg"]["label"] == "a"
    assert by_uri[f"{place}/pile/1.jpg"]["version"] == Objects(place).stat("pile/1.jpg").version  # type: ignore[union-attr]


def test_manifest_on_disk_names_photos_in_a_bucket(tmp_path: Path, place: str) -> None:
    Objects(place).write("1.jpg", JPEG_HEAD)
    (tmp_path / "list.csv").write_text(f"uri,label,split\n{place}/1.jpg,a,train\n")
    manifest = str(tmp_path / "list.csv")
    [row] = list_photos([manifest], access=Access.to([manifest], [place])).table.to_pylist()
    assert (row["uri"], row["size_bytes"]) == (f"{place}/1.jpg", len(JPEG_HEAD))


def test_single_photo_of_a_bucket_when_labels_do_not_matter(place: str) -> None:
    Objects(place).write("in/1.jpg", JPEG_HEAD)
    found = list_photos([f"{place}/in/1.jpg"], labelled=False).table
    assert found["uri"].to_pylist() == [f"{place}/in/1.jpg"]
    with pytest.raises(CatalogueError, match="is an object"):
        list_photos([f"{place}/in/1.jpg"])


def test_nothing_there_is_said(place: str) -> None:
    for missing in (f"{place}/nowhere", f"{place}/nowhere/list.csv"):
        with pytest.raises(CatalogueError, match=r"nothing is stored|does not exist"):
            list_photos([missing])
    with pytest.raises(StoreError, match="no bucket"):
        list_photos(["s3://no-such-bucket/photos"])


def test_bucket_that_denies_is_an_error_and_not_a_catalogue_of_failures(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(place)
    for number in range(40):
        objects.write(f"a/{number:02}.jpg", JPEG_HEAD)
    uris = list_photos([place]).table["uri"].to_pylist()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    opened.cache_clear()
    with pytest.raises(StoreError, match="denied"):
        list_photos([place])
    with pytest.raises(StoreError, match="denied"):
        list(read_photos(uris))


@pytest.mark.slow
def test_pack_in_a_bucket_is_that_on_disk(own_photos: Path, place: str, tmp_path: Path) -> None:
    pack([str(own_photos)], f"{place}/packed", target_bytes=100_000)
    pack([str(own_photos)], str(tmp_path / "pack"), target_bytes=100_000)
    disk, bucket = list_photos([str(tmp_path / "pack")]), list_photos([f"{place}/packed"])
    alike(disk, bucket)
    assert disk.table["version"].to_pylist() == bucket.table["version"].to_pylist()
    uris = bucket.table["uri"].to_pylist()
    assert list(read_photos(uris)) == list(read_photos(disk.table["uri"].to_pylist()))
    assert read_photo(uris[0])[:2] == b"\xff\xd8"
    assert typical_side(bucket.listed) == 100
    unpack(f"{place}/packed", str(tmp_path / "out"))
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.jpg")} == {
        path.relative_to(own_photos) for path in own_photos.rglob("*.jpg")
    }


@pytest.mark.slow
def test_photos_of_a_bucket_are_packed_and_replaced_packs_leave_nothing(own_photos: Path, place: str) -> None:
    upload(own_photos, f"{place}/photos")
    for target in (100_000, 1 << 20):
        done = pack([f"{place}/photos"], f"{place}/packed", target_bytes=target)
    alike(list_photos([str(own_photos)]), list_photos([f"{place}/packed"]))
    found = {one.key for one in Objects(f"{place}/packed").list()}
    named = {file["name"] for file in json.loads(Objects(f"{place}/packed").read("pack.json"))["files"]}
    assert found == named | {"pack.json", ".fruits"}
    assert done["unreadable"] == 0


@pytest.mark.slow
def test_listing_out_of_order_changes_nothing(own_photos: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(own_photos, place)
    before = list_photos([place])
    real = Objects.list
    monkeypatch.setattr(Objects, "list", lambda self, prefix="", **how: reversed(list(real(self, prefix, **how))))
    after = list_photos([place])
    assert before.table.to_pylist() == after.table.to_pylist()


def inventory_of(place: str, to: str, form: str, extra: list[dict[str, Any]]) -> str:
    """Write an inventory of a prefix as S3 does, and return the uri of its manifest."""
    name, _, prefix = place.removeprefix("s3://").partition("/")
    seen = [
        {"bucket": name, "key": f"{prefix}/{one.key}", "is_latest": True, "is_delete_marker": False,
         "size": one.size_bytes, "last_modified_date": datetime.fromtimestamp(one.modified_s, UTC), "e_tag": one.version}
        for one in Objects(place).list()
    ]  # fmt: skip
    seen += [{**seen[0], "key": f"{prefix}/{row.pop('key')}", **row} for row in extra]
    about = {
        "sourceBucket": name,
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "fileFormat": form,
    }
    objects, files = Objects(to), []
    for number, some in enumerate((seen[::2], seen[1::2])):  # in no order
        sink = pa.BufferOutputStream()
        if form == "Parquet":
            pq.write_table(pa.Table.from_pylist(some), sink)
        elif form == "ORC":
            orc.write_table(pa.Table.from_pylist(some), sink, compression="zlib")
        else:
            about["fileSchema"] = "Bucket, Key, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
            for row in some:
                row["key"] = quote_plus(row["key"], safe="/")
                row["last_modified_date"] = row["last_modified_date"].isoformat()
            written = pa.Table.from_pylist(some).cast(pa.schema([(field, pa.string()) for field in some[0]]))
            with pa.CompressedOutputStream(sink, "gzip") as packed:
                pa.csv.write_csv(written, packed, pa.csv.WriteOptions(include_header=False))
        objects.write(f"data/{number}.x", sink.getvalue().to_pybytes())
        files.append({"key": f"{to.removeprefix('s3://').partition('/')[2]}/data/{number}.x"})
    objects.write("2026-01-01T01-00Z/manifest.json", json.dumps({**about, "files": files}).encode())
    return f"{to}/2026-01-01T01-00Z/manifest.json"


@pytest.mark.parametrize("form", ["CSV", "Parquet", "ORC"])
def test_inventory_of_a_bucket_is_its_listing(tmp_path: Path, place: str, form: str) -> None:
    make(tmp_path, *(f"Training/a b/{n}.jpg" for n in range(4)), "Training/pêche +%2/1.jpg", "Test/a b/9.jpg",
         "Test/a b/notes", "Training/.hidden/1.jpg", "1.jpg")  # fmt: skip
    photos = upload(tmp_path, f"{place}/photos")
    gone = [
        {"key": "Training/a b/old.jpg", "is_latest": False},
        {"key": "Training/a b/deleted.jpg", "is_delete_marker": True, "size": None, "e_tag": None},
    ]
    other = [{"key": "../others/a/1.jpg"}, {"key": "Training/a//1.jpg"}]
    manifest = inventory_of(photos, f"{place}/inventory", form, [*gone, *other])
    listed, read = list_photos([photos]), list_photos([manifest], access=Access.to([manifest], [photos]))
    assert read.skipped.pop("key that is no path") == len(read.examples.pop("key that is no path")) == 2
    alike(listed, read)
    assert read.table["uri"].equals(listed.table["uri"])
    assert read.table["version"].equals(listed.table["version"])
    # A copy on a disk, and only a part of the bucket.
    for name in ("data/0.x", "data/1.x", "2026-01-01T01-00Z/manifest.json"):
        make(tmp_path / "copy", name, content=Objects(f"{place}/inventory").read(name))
    copy = str(tmp_path / "copy/2026-01-01T01-00Z/manifest.json")
    part = list_photos([copy], access=Access.to([copy], [f"{photos}/Training"]))
    assert part.table["uri"].to_pylist() == list_photos([f"{photos}/Training"]).table["uri"].to_pylist()
    assert part.skipped["outside of its source"] > 0


def test_delta_table_in_a_bucket_names_photos_with_the_versions_of_the_listing(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(place)
    for name in ("train/a b/1.jpg", "train/a b/2.jpg", "train/ç/3.jpg"):
        objects.write(name, JPEG_HEAD)
    found = list(objects.list())
    rows = {
        "uri": [f"{place}/{one.key}" for one in found],
        "label": [one.key.split("/")[1] for one in found],
        "size": [one.size_bytes for one in found],
        "etag": [f'"{one.version}"' for one in found],
    }
    root = f"{place}/lake/table"
    write_deltalake(root, pa.table(rows), partition_by=["label"], storage_options=delta_options(root))
    DeltaTable(root, storage_options=delta_options(root)).delete(f"uri = '{place}/train/a b/2.jpg'")
    monkeypatch.setattr(listing, "_stat", None)  # no request for any photo
    listed = list_photos([root], access=Access.to([root], [place])).table
    expected = [(f"{place}/{one.key}", one.version) for one in found if not one.key.endswith("/2.jpg")]
    assert [(row["uri"], row["version"]) for row in listed.to_pylist()] == sorted(expected)
    assert listed["label"].to_pylist() == ["a b", "ç"]
    with pytest.raises(CatalogueError, match="expected the table's own folder"):
        list_photos([f"{place}/lake"])


def test_damaged_table_among_photos_of_a_bucket_is_called_one(place: str) -> None:
    objects = Objects(place)
    for name, data in {
        "a/1.jpg": JPEG_HEAD,
        "b/1.jpg": JPEG_HEAD,
        "a/x.parquet": b"PAR1 half",
        "b/notes": b"x",
    }.items():
        objects.write(name, data)
    found = list_photos([place])
    assert found.skipped == {"damaged table": 1, "not an image": 1}
    assert found.examples["damaged table"] == ["a/x.parquet"]


def test_table_of_a_listing_gives_the_versions_of_the_listing(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(place)
    for name in ("a/1.jpg", "b/1.jpg"):
        objects.write(name, JPEG_HEAD)
    rows = [{"uri": f"{place}/{one.key}", "size": one.size_bytes, "etag": f'"{one.version}"'} for one in objects.list()]
    pq.write_table(
        pa.Table.from_pylist([{**row, "label": "ab"[at]} for at, row in enumerate(rows)]), tmp_path / "t.parquet"
    )
    monkeypatch.setattr(Objects, "stat", None)  # no request for a single object
    table = str(tmp_path / "t.parquet")
    found = list_photos([table], access=Access.to([table], [place])).table
    listed = list_photos([place]).table
    columns = ["uri", "label", "size_bytes", "version"]
    assert found.select(columns).equals(listed.select(columns))


def test_tars_in_a_bucket_are_those_on_disk_and_read_by_ranges(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard, split in enumerate(("train", "train", "val")):
        with tarfile.open(tmp_path / f"{split}-{shard:06d}.tar", "w") as tar:
            for number in range(6):
                members = {"jpg": JPEG_HEAD + bytes([shard]) * 100_000, "cls": b"%d" % (number % 2)}
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{shard}_{number:05d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (tmp_path / "classes.txt").write_text("apple\npear\n")
    disk = list_photos([str(tmp_path)])
    uploaded = upload(tmp_path, place)
    for source in (uploaded, f"{place}/*-{{000000..000002}}.tar"):
        bucket = list_photos([source])
        assert bucket.table.select(COLUMNS).to_pylist() == disk.table.select(COLUMNS).to_pylist()
        assert bucket.table["label"].to_pylist()[:2] == ["apple", "pear"]
        with monkeypatch.context() as patch:
            patch.setattr(Objects, "read", None)
            read = list(read_photos(bucket.table["uri"].to_pylist()))
        assert read == list(read_photos(disk.table["uri"].to_pylist(), disk.access))
    assert len(read_head(bucket.table["uri"][0].as_py(), 10)) == 10
    assert typical_side(bucket.listed) is None  # what they hold is no photo


def test_datasets_in_a_bucket_are_those_on_disk(tmp_path: Path, place: str) -> None:
    for split in ("train", "test"):
        images = [{"bytes": JPEG_HEAD + f"{split}{n}".encode(), "path": f"{n}.jpg"} for n in range(9)]
        table = pa.table({"image": images, "label": [str(n % 2) for n in range(9)]})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet", row_group_size=2)
    disk = list_photos([str(tmp_path)])
    upload(tmp_path, place)
    pack([str(tmp_path)], f"{place}/packed")  # what fruits wrote is no photo
    for source in (place, f"{place}/t*-00000-of-*.parquet"):
        bucket = list_photos([source])
        assert bucket.table.select(COLUMNS).to_pylist() == disk.table.select(COLUMNS).to_pylist()
        read = list(read_photos(bucket.table["uri"].to_pylist()))
        assert read == list(read_photos(disk.table["uri"].to_pylist(), disk.access))
        assert all(data for data, _ in read)


@pytest.mark.parametrize("page", [2, 7])
def test_folders_listed_side_by_side_give_the_serial_listing(
    place: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    good = [
        f"{split}/{label}/{n}.jpg" for split in ("Training", "Test") for label in ("a", "b c", "é") for n in range(9)
    ]
    good += [
        "Training/deep/er/x/y/z/1.jpg",
        "top.jpg",
        "README",
        ".hidden/1.jpg",
        "Training/.b/2.jpg",
        "Test-1/a/1.jpg",
    ]
    put_raw(place, [*good, "Training/", "Training/a/", "marker/", "a//2.jpg", "Training/b//3.jpg", "Test/a/../4.jpg"])
    before, prefixes = list_photos([place]), []
    real = Objects.list

    def seen(self: Objects, prefix: str = "", **how: Any) -> Iterator[Any]:
        prefixes.append(prefix)
        return real(self, prefix, **how)

    monkeypatch.setattr(Objects, "list", seen)
    monkeypatch.setattr(keys, "_PAGE", page)
    monkeypatch.setattr(keys, "_OWN", 0.5)  # a share of a page this small
    after = list_photos([place])
    assert after.table.equals(before.table)
    assert (after.skipped, after.warnings) == (before.skipped, before.warnings)
    assert before.skipped["key that is no path"] == 3
    assert len(set(prefixes)) > 1  # folders of their own


@pytest.mark.parametrize("page", [2])
def test_divided_listing_finds_each_object_once(place: str, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    good = {f"{top}/{label}/{n}.jpg" for top in ("x", "y", "x y") for label in ("a", "b") for n in range(6)} | {
        "x",
        "1.jpg",
    }
    put_raw(place, [*sorted(good), "x/", "y/a/"])
    monkeypatch.setattr(keys, "_PAGE", page)
    monkeypatch.setattr(keys, "_OWN", 0.9)
    found = [uri.removeprefix(f"{place}/") for uri in list_photos([place], labelled=False).table["uri"].to_pylist()]
    assert found == sorted(good)


@pytest.mark.slow
def test_every_request_for_a_photo_goes_over_one_client(own_photos: Path, place: str) -> None:
    upload(own_photos, place)
    list(read_photos(list_photos([place]).table["uri"].to_pylist()))
    assert opened.cache_info().currsize <= 2


BAD_KEYS = ["a//2.jpg", "/3.jpg", "a/../4.jpg", "../5.jpg", "b/./6.jpg", "b/c//d/7.jpg"]


def put_raw(place: str, names: list[str]) -> None:
    """Put objects as other programs do, under any key."""
    name, _, prefix = place.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name=os.environ["AWS_REGION"])
    for key in names:
        client.put_object(Bucket=name, Key=f"{prefix}/{key}", Body=b"" if key.endswith("/") else JPEG_HEAD)


def test_keys_that_are_no_paths_are_skipped_and_all_others_listed(place: str) -> None:
    good = ["a/1.jpg", "b/2.jpg", "b/z 9.jpg", "c/é.jpg", "c/folder/"]
    put_raw(place, good + BAD_KEYS)
    found = list_photos([place])
    assert sorted(uri.removeprefix(f"{place}/") for uri in found.table["uri"].to_pylist()) == good[:-1]
    assert found.skipped["key that is no path"] == len(BAD_KEYS)
    assert set(found.examples["key that is no path"]) <= set(BAD_KEYS)
    assert set(found.skipped) <= {"key that is no path", "empty label"}
    assert Objects(place).names() >= {"a", "b", "c"}
    versions = {row["uri"]: row["version"] for row in found.table.to_pylist()}
    assert versions[f"{place}/a/1.jpg"] == Objects(place).stat("a/1.jpg").version  # type: ignore[union-attr]


@pytest.mark.slow
def test_keys_that_are_no_paths_beyond_the_first_page_double_nothing(place: str) -> None:
    put_raw(place, ["a/1.jpg", "b/z//1.jpg"])
    objects = Objects(place)
    for number in range(120):  # the server's pages have 100
        objects.write(f"a/x{number:04d}.jpg", JPEG_HEAD)
    found = [one.key for one in objects.list()]
    assert len(found) == len(set(found)) == 121


def test_bucket_with_such_a_key_says_what_to_install(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_raw(place, ["a/1.jpg", "a//2.jpg"])
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StoreError, match=r"segment: rename or delete it, .* pip install 'fruits\[aws\]'"):
        list_photos([place])
