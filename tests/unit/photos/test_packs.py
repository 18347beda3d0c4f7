"""What goes into a pack comes out of it: bytes, labels, splits and groups; damage and strangers are told."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.errors import CatalogueError, StoreError
from fruits.photos.catalogue import builder
from fruits.photos.catalogue.catalogue import list_photos
from fruits.photos.reading import pack_groups, packing, packs
from fruits.photos.reading.access import Access
from fruits.photos.reading.containers import split_contained
from fruits.photos.reading.packing import pack, unpack
from fruits.photos.reading.packs import MANIFEST, find_pack
from fruits.photos.reading.reading import read_photo, read_photos
from fruits.storage.tables import spool

COLUMNS = ["label", "split", "size_bytes", "group"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    packs.opened_pack.cache_clear()
    yield
    packs.opened_pack.cache_clear()


def make(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def data_files(root: Path) -> list[Path]:
    return sorted((root / "data").iterdir())


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """60 files of two labels, without splits; what they hold says which they are."""
    return make(
        tmp_path / "some", {f"{label}/{n}.jpg": f"{label}{n}".encode() * 9 for label in "ab" for n in range(30)}
    )


def only_file(root: Path) -> Path:
    [file] = data_files(root)
    return file


# --- There and back ---------------------------------------------------------------------------------------------------


def test_catalogue_of_a_pack_is_that_of_its_folder(photos: Path, tmp_path: Path) -> None:
    done = pack([str(photos)], str(tmp_path / "pack"))
    folder, packed = list_photos([str(photos)]), list_photos([str(tmp_path / "pack")])
    assert done["photos"] == folder.table.num_rows == 320
    assert packed.table.schema == folder.table.schema
    assert packed.table.select(COLUMNS).to_pylist() == folder.table.select(COLUMNS).to_pylist()
    assert (packed.split_origin, packed.group_origin) == (folder.split_origin, folder.group_origin)
    paths = [split_contained(uri)[1] for uri in packed.table["uri"].to_pylist()]
    assert paths == [str(Path(uri).relative_to(photos.resolve())) for uri in folder.table["uri"].to_pylist()]


def test_split_and_sample_by_hash_are_those_of_the_folder(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    for options in ({}, {"sample": 7, "seed": 3}, {"only": ["a"]}):
        folder, packed = list_photos([str(some)], **options), list_photos([str(tmp_path / "pack")], **options)
        assert packed.table.select(COLUMNS).to_pylist() == folder.table.select(COLUMNS).to_pylist()
        assert packed.split_origin == folder.split_origin == "hash"


def test_groups_splits_and_hashes_of_a_manifest_are_kept(some: Path, tmp_path: Path) -> None:
    rows = [f"{label}/{n}.jpg,x{n % 3},thing {n // 4}" for label in "ab" for n in range(30)]
    (some / "list.csv").write_text("\n".join(["uri,label,group", *rows]))
    pack([str(some / "list.csv")], str(tmp_path / "pack"))
    listed, packed = list_photos([str(some / "list.csv")]), list_photos([str(tmp_path / "pack")])
    assert packed.table.select(COLUMNS).to_pylist() == listed.table.select(COLUMNS).to_pylist()
    assert packed.group_origin == "manifest"


def test_photos_are_read_back_byte_for_byte(photos: Path, tmp_path: Path) -> None:
    pack([str(photos)], str(tmp_path / "pack"), target_bytes=100_000)
    uris = [*list_photos([str(photos)]).table["uri"].to_pylist()]
    packed = [*list_photos([str(tmp_path / "pack")]).table["uri"].to_pylist()]
    assert list(read_photos(packed)) == list(read_photos(uris))
    assert read_photo(packed[-1]) == Path(uris[-1]).read_bytes()


def test_photos_without_labels_are_packed_for_apply(photos: Path, tmp_path: Path) -> None:
    make(tmp_path / "in", {"1.jpg": b"\xff\xd8\xff\xe0one", "x/Test/2.jpg": b"two"})
    pack([str(tmp_path / "in")], str(tmp_path / "pack"), labelled=False)
    found = list_photos([str(tmp_path / "pack")], labelled=False).table
    assert found["label"].null_count == found.num_rows == 2
    with pytest.raises(CatalogueError, match="no labels"):
        list_photos([str(tmp_path / "pack")])


def test_labelled_pack_serves_apply_too(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    one, other = (list_photos([str(root)], labelled=False).table for root in (some, tmp_path / "pack"))
    assert one.select(COLUMNS).to_pylist() == other.select(COLUMNS).to_pylist()


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: not name.startswith(".") and len(name.encode()) < 200
)


@pytest.mark.slow
@given(st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=300), min_size=1, max_size=8))
def test_pack_and_unpack_give_back_any_bytes_under_any_names(
    tmp_path_factory: pytest.TempPathFactory, found: dict[tuple[str, str], bytes]
) -> None:
    tmp_path = tmp_path_factory.mktemp("any%23 #name")
    files = {f"L{folder}/{name}.jpg": data for (folder, name), data in found.items()}
    make(tmp_path / "in", files)
    pack([str(tmp_path / "in")], str(tmp_path / "pack"))
    assert unpack(str(tmp_path / "pack"), str(tmp_path / "out"))["written"] == len(files)
    assert contents(tmp_path / "out") == files
    uris = list_photos([str(tmp_path / "pack")], labelled=False).table["uri"].to_pylist()
    assert [read_photo(uri) for uri in uris] == [files[name] for name in sorted(files)]


@given(st.text(), st.text(st.characters(exclude_characters="\0")))
def test_uri_gives_root_and_path_again(root: str, path: str) -> None:
    quoted = root.replace("%", "%25").replace("#", "%23")
    assert split_contained(f"pack:{quoted}#{path}") == (root, path)


def test_same_photos_give_the_same_pack(some: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack([str(some)], str(tmp_path / name), target_bytes=400)
    one, two = (data_files(tmp_path / name) for name in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    assert len(one) > 1
    about = [json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("one", "two")]
    assert [file["sha256"] for file in about[0]["files"]] == [file["sha256"] for file in about[1]["files"]]


def test_paths_sorted_on_disk_give_the_same_pack(some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack([str(some)], str(tmp_path / "one"), target_bytes=400)
    monkeypatch.setattr(spool, "IN_MEMORY", 8)
    monkeypatch.setattr(spool, "ROWS_PER_BATCH", 8)
    monkeypatch.setattr(spool, "_ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(builder, "_ROWS_PER_CHUNK", 7)
    pack([str(some)], str(tmp_path / "two"), target_bytes=400)
    one, two = (data_files(tmp_path / name) for name in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    assert len(one) > 1


def test_photos_that_would_be_one_in_the_pack_are_refused() -> None:
    listed = builder.CatalogueBuilder(labelled=False, progress=lambda _: None)
    listed.start("lists/list.csv")
    listed.lies_below("/lists/")
    for uri in ("/x/1.jpg", "/x/2.jpg", "s3://x/1.jpg"):
        listed.add(uri, uri, 1, "0", label=None, split=None)
    with pytest.raises(CatalogueError, match=r"two photos would both be 'elsewhere/x/1\.jpg'"):
        list(packing._Photos.of(listed).rows())


def test_packing_a_pack_changes_nothing_but_its_place(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "one"), target_bytes=300)
    pack([str(tmp_path / "one")], str(tmp_path / "two"))
    one, two = (list_photos([str(tmp_path / name)]).table for name in ("one", "two"))
    assert one.select([*COLUMNS, "version"]).to_pylist() == two.select([*COLUMNS, "version"]).to_pylist()
    pack([str(tmp_path / "two")], str(tmp_path / "two"), target_bytes=1)  # in place
    assert list_photos([str(tmp_path / "two")]).table.select(COLUMNS).to_pylist() == two.select(COLUMNS).to_pylist()


def test_several_sources_keep_apart_by_name(tmp_path: Path) -> None:
    sources = [make(tmp_path / where / "photos", {"a/1.jpg": where.encode()}) for where in ("one", "two")]
    (tmp_path / "list.csv").write_text(f"uri,label\n{sources[0]}/a/1.jpg,b\n")
    pack([*map(str, sources)], str(tmp_path / "pack"))
    unpack(str(tmp_path / "pack"), str(tmp_path / "out"))
    assert contents(tmp_path / "out") == {"photos/a/1.jpg": b"one", "photos-2/a/1.jpg": b"two"}


def test_photos_beyond_the_folder_of_a_manifest_stay_within_the_pack(some: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text(f"uri,label\n../some/a/1.jpg,a\n{some}/b/2.jpg,b\n")
    manifest = str(tmp_path / "lists" / "list.csv")
    pack([manifest], str(tmp_path / "pack"), access=Access.to([manifest], [str(some)]))
    unpack(str(tmp_path / "pack"), str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.jpg")) == ["1.jpg", "2.jpg"]


# --- How it is stored -------------------------------------------------------------------------------------------------


def test_files_and_row_groups_are_bounded_and_sorted(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(packing, "_GROUP_BYTES", 20_000)
    done = pack([str(photos)], str(tmp_path / "pack"), target_bytes=100_000)
    assert done["files"] > 1
    found = find_pack(str(tmp_path / "pack"))
    assert found is not None
    paths: list[str] = []
    for file in found.contents.files:
        parquet = pq.ParquetFile(tmp_path / "pack" / file.name)
        assert parquet.num_row_groups == len(file.first)
        for number in range(parquet.num_row_groups):
            group = parquet.read_row_group(number)
            assert sum(group["size_bytes"].to_pylist()) < 20_000 + max(group["size_bytes"].to_pylist())
            assert group["image"][0]["path"].as_py() == file.first[number]
            paths += [image["path"] for image in group["image"].to_pylist()]
    assert paths == sorted(paths)
    uris = list_photos([str(tmp_path / "pack")]).table["uri"].to_pylist()
    assert all(data for data, _ in read_photos(uris))
    assert len(packs.opened_pack(found.root)._groups) <= 3


def test_replaced_pack_leaves_nothing_behind_and_open_readers_find_the_new(some: Path, tmp_path: Path) -> None:
    root = tmp_path / "pack"
    pack([str(some)], str(root))
    uris = list_photos([str(root)]).table["uri"].to_pylist()
    before = [read_photo(uri) for uri in uris]
    packs.opened_pack(str(root))._groups.clear()
    pack([str(some)], str(root), target_bytes=200)
    named = {file["name"] for file in json.loads((root / MANIFEST).read_text())["files"]}
    assert {path.relative_to(root).as_posix() for path in data_files(root)} == named
    assert [read_photo(uri) for uri in uris] == before


def test_what_a_killed_pack_left_goes_after_a_day_and_what_is_being_made_stays(some: Path, tmp_path: Path) -> None:
    old, new = (f"data/{when}T000000-0123456789ab-00000.parquet" for when in ("20200101", "29990101"))
    root = make(tmp_path / "pack", {old: b"old", new: b"new"})
    pack([str(some)], str(root))
    assert not (root / old).exists()
    assert (root / new).exists()


def test_failed_pack_leaves_the_old_one_whole(some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "pack"
    pack([str(some)], str(root))
    before = contents(root)

    def fail(*_: object) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(packing._Hashed, "write", fail)
    with pytest.raises(StoreError, match="no space"):
        pack([str(some)], str(root), target_bytes=200)
    assert contents(root) == before


def test_photo_that_cannot_be_read_is_named_and_the_others_are_packed(some: Path, tmp_path: Path) -> None:
    (some / "list.csv").write_text("uri,label\na/1.jpg,a\na/gone.jpg,a\n")
    done = pack([str(some / "list.csv")], str(tmp_path / "pack"))
    assert (done["photos"], done["unreadable"]) == (1, 1)
    assert done["unreadable_photos"][0]["uri"].endswith("a/gone.jpg")


def test_nothing_readable_makes_no_pack(some: Path, tmp_path: Path) -> None:
    (some / "list.csv").write_text("uri,label\na/gone.jpg,a\n")
    with pytest.raises(StoreError, match="none of 1 photo could"):
        pack([str(some / "list.csv")], str(tmp_path / "pack"))
    assert not (tmp_path / "pack" / MANIFEST).exists()


def test_place_that_holds_other_things_is_refused(some: Path) -> None:
    with pytest.raises(StoreError, match=r"holds '[ab]/.*and no pack"):
        pack([str(some)], str(some))


# --- Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda text: text.replace('"format_version": 2', '"format_version": 3'), "format 3; expected 2"),
        (lambda text: re.sub(r'"photos": \d+', '"photos": 7', text), "contradict"),
        (lambda text: text.replace('"files"', '"fils"'), "damaged"),
        (lambda text: re.sub(r'"name": ".*?"', '"name": "../../x.parquet"', text), "contradict"),
    ],
)
def test_manifest_that_is_damaged_or_of_another_version_is_said(
    some: Path, tmp_path: Path, change: Any, complaint: str
) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    manifest = tmp_path / "pack" / MANIFEST
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(CatalogueError, match=complaint):
        list_photos([str(tmp_path / "pack")])


def test_pack_json_of_another_program_is_just_a_file(some: Path) -> None:
    (some / MANIFEST).write_text('{"pack": {"pack_format": 15}}')
    assert list_photos([str(some)]).table.num_rows == 60


@pytest.mark.parametrize("damage", ["gone", "cut", "rubbish"])
def test_data_file_that_is_gone_or_damaged_is_said(some: Path, tmp_path: Path, damage: str) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    uri = list_photos([str(tmp_path / "pack")]).table["uri"][0].as_py()
    file = only_file(tmp_path / "pack")
    data = file.read_bytes()
    file.unlink() if damage == "gone" else file.write_bytes(data[:-50] if damage == "cut" else b"x" * len(data))
    with pytest.raises(CatalogueError, match="cannot be read"):
        list_photos([str(tmp_path / "pack")])
    [(content, reason)] = read_photos([uri])
    assert content is None
    assert reason.startswith("not found" if damage == "gone" else "unreadable")


def test_damaged_photo_fails_alone(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    uris = list_photos([str(tmp_path / "pack")]).table["uri"].to_pylist()
    file = only_file(tmp_path / "pack")
    file.write_bytes(file.read_bytes().replace(b"b7b7", b"b7x7", 1))
    bad = [(uri, reason) for uri, (data, reason) in zip(uris, read_photos(uris), strict=True) if data is None]
    assert [uri.rpartition("#")[2] for uri, _ in bad] == ["b/7.jpg"]
    assert "another checksum" in bad[0][1]
    done = unpack(str(tmp_path / "pack"), str(tmp_path / "out"))
    assert (done["written"], done["failed"]) == (59, 1)


def test_photo_that_the_pack_lacks_is_not_found(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    uri = list_photos([str(tmp_path / "pack")]).table["uri"][0].as_py()
    for path in ("a/nowhere.jpg", "", "zz"):
        [(data, reason)] = read_photos([f"{uri.rpartition('#')[0]}#{path}"])
        assert data is None
        assert reason.startswith("not found")


# --- Unpacking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../out.jpg", "/tmp/out.jpg", "a/../../out.jpg", "a//b.jpg", "", ".", "a/\0.jpg"])
def test_paths_that_would_leave_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    folder = packing._Folder(str(tmp_path / "in" / "folder"), overwrite=True)
    folder.add(path, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", b"x")
    folder.close()
    assert (folder.failed_count, folder.written) == (1, 0)
    assert contents(tmp_path) == {}


def test_link_in_the_folder_is_not_followed_out_of_it(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    done = unpack(str(tmp_path / "pack"), str(tmp_path / "out"))
    assert (done["written"], done["failed"]) == (30, 30)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_other_files_are_kept_unless_overwriting_is_asked_for(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    make(tmp_path / "out", {"a/1.jpg": b"mine", "a/2.jpg": b"a2" * 9})
    done = unpack(str(tmp_path / "pack"), str(tmp_path / "out"))
    assert (done["written"], done["there_already"], done["failed"]) == (58, 1, 1)
    assert done["failed_photos"][0]["path"] == "a/1.jpg"
    assert (tmp_path / "out" / "a/1.jpg").read_bytes() == b"mine"
    done = unpack(str(tmp_path / "pack"), str(tmp_path / "out"), overwrite=True)
    assert (done["written"], done["there_already"], done["failed"]) == (1, 59, 0)
    assert contents(tmp_path / "out") == contents(some)


def test_folder_that_is_no_pack_is_said(some: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="is no pack"):
        unpack(str(some), str(tmp_path / "out"))
    with pytest.raises(CatalogueError, match="is no pack"):
        unpack(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert not os.path.lexists(tmp_path / "nowhere")


# --- Packs of strangers that are larger than they look ----------------------------------------------------------------


def rewritten(root: Path, groups: list[pa.Table], **options: Any) -> list[str]:
    """Put other row groups into a pack of one file, make pack.json say so, and return the uris of its photos."""
    about = json.loads((root / MANIFEST).read_text())
    [file] = about["files"]
    path = root / file["name"]
    with pq.ParquetWriter(path, groups[0].schema, **options) as writer:
        for group in groups:
            writer.write_table(group.cast(groups[0].schema), row_group_size=group.num_rows)
    firsts = [group["path"][0].as_py() for group in groups]
    rows = sum(group.num_rows for group in groups)
    file |= {"rows": rows, "first": firsts, "size_bytes": path.stat().st_size}
    (root / MANIFEST).write_text(json.dumps(about | {"photos": rows}))
    packs.opened_pack.cache_clear()
    return [f"pack:{root}#{name}" for group in groups for name in group["path"].to_pylist()]


def bomb(rows: int, value: bytes, *, size: int, path: str = "z/{:05d}.jpg") -> pa.Table:
    """A row group whose photos are all the same bytes, stored once."""
    codes = pa.array([0] * rows, pa.int32())
    columns: dict[str, Any] = {
        "label": ["z"] * rows,
        "split": pa.nulls(rows, pa.string()),
        "manifest_source": pa.nulls(rows, pa.string()),
        "group": pa.array(range(rows), pa.int64()),
        "key": pa.array(range(rows), pa.int64()),
        "size_bytes": pa.array([size] * rows, pa.int64()),
        "version": ["0" * 16] * rows,
        "path": [path.format(row) for row in range(rows)],
        "sha256": [hashlib.sha256(value).hexdigest()] * rows,
        "bytes": pa.DictionaryArray.from_arrays(codes, pa.array([value], pa.binary())),
    }
    return pa.table(columns)


FORMAT_1 = [
    "label", "split", "manifest_source", "group", "key", "size_bytes", "version", "path", "sha256", "bytes",
]  # fmt: skip


def honest(root: Path) -> pa.Table:
    """The rows of a pack as format 1 has them, with the photos in a dictionary."""
    [file] = (root / "data").iterdir()
    table = pq.read_table(file)
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    contents, paths = table["image"].combine_chunks().flatten()
    labels = pa.array([names[code] for code in table["label"].to_pylist()])
    table = table.set_column(0, "label", labels).drop_columns(["image"]).append_column("path", paths)
    table = table.append_column("bytes", contents.dictionary_encode()).replace_schema_metadata(None)
    return table.select(FORMAT_1)


@pytest.fixture
def small_pack(some: Path, tmp_path: Path) -> Path:
    pack([str(some)], str(tmp_path / "pack"))
    return (tmp_path / "pack").resolve()


@pytest.mark.parametrize("declared", ["true", "small"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_pack_that_unpacks_to_gigabytes_costs_its_own_rows_alone(
    small_pack: Path, declared: str, compression: str
) -> None:
    value = bytes(8 << 20)
    good = honest(small_pack)
    giant = bomb(512, value, size=len(value) if declared == "true" else 18)  # 4 GiB
    uris = rewritten(
        small_pack, [good, giant], compression=compression, use_dictionary=["bytes", "label"],
        dictionary_pagesize_limit=1 << 30,
    )  # fmt: skip
    assert sum(path.stat().st_size for path in small_pack.rglob("*.parquet")) < 10 << 20
    held = pa.total_allocated_bytes()
    found = list(read_photos(uris[-3:]))
    assert all(data is None for data, _ in found)
    assert pa.total_allocated_bytes() - held < 64 << 20
    assert list_photos([str(small_pack)]).table.num_rows == good.num_rows + 512
    assert all(data for data, _ in read_photos(uris[: good.num_rows]))
    assert found[0][1].startswith("too large: " if declared == "true" else "unreadable: ")
    assert declared == "true" or "other sizes than it declares" in found[0][1]


def test_row_group_that_says_it_is_too_large_is_never_read(small_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [uri, *_] = rewritten(small_pack, [honest(small_pack)], compression="none", use_dictionary=False)
    monkeypatch.setattr(pack_groups, "_MAX_GROUP_BYTES", 10)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    [(data, reason)] = read_photos([uri])
    assert data is None
    assert reason.startswith("too large: ")
    assert reason.endswith("expected at most 10")


def test_text_of_megabytes_in_a_pack_is_refused(small_pack: Path) -> None:
    rewritten(small_pack, [bomb(3, b"x", size=1, path="{}/" + "p" * (1 << 20))], compression="zstd")
    with pytest.raises(CatalogueError, match=r"cannot be read \(.*bytes; expected at most"):
        list_photos([str(small_pack)])


def test_file_of_a_pack_that_is_a_link_out_of_it_is_refused(small_pack: Path, tmp_path: Path) -> None:
    [file] = (small_pack / "data").iterdir()
    file.rename(tmp_path / "theirs.parquet")
    file.symlink_to(tmp_path / "theirs.parquet")
    with pytest.raises(CatalogueError, match="a link that leads out of its source"):
        list_photos([str(small_pack)])


@pytest.mark.parametrize("content", ["giant", "deep", "pipe"])
def test_pack_json_that_no_pack_has_is_an_error_or_no_pack(small_pack: Path, content: str) -> None:
    about = small_pack / MANIFEST
    if content == "giant":
        with about.open("r+b") as file:
            file.truncate(40 << 30)
    elif content == "deep":
        about.write_text("[" * 100_000)
    else:
        about.unlink()
        os.mkfifo(about)
    if content == "pipe":
        assert find_pack(str(small_pack)) is None
        return
    with pytest.raises(CatalogueError, match="make it again with 'fruits pack'"):
        find_pack(str(small_pack))


def test_source_of_a_manifest_goes_into_the_pack_and_out_of_it(some: Path, tmp_path: Path) -> None:
    (some / "m.csv").write_text("uri,label,source\na/1.jpg,a,market\nb/2.jpg,b,\n")
    pack([str(some / "m.csv")], str(tmp_path / "pack"))
    for source in (some / "m.csv", tmp_path / "pack"):
        table = list_photos([str(source)]).table
        assert dict(zip(table["label"].to_pylist(), table["manifest_source"].to_pylist(), strict=True)) == {
            "a": "market", "b": None,
        }  # fmt: skip


def test_pack_of_an_older_version_without_sources_is_listed(small_pack: Path) -> None:
    rewritten(small_pack, [honest(small_pack).drop_columns(["manifest_source"])], compression="none")
    table = list_photos([str(small_pack)]).table
    assert table.num_rows
    assert table["manifest_source"].null_count == table.num_rows


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_pack_of_format_1_is_read_as_before(small_pack: Path, tmp_path: Path, compression: str) -> None:
    columns = ["uri", "version", "label", "split", "size_bytes", "group"]
    before = list_photos([str(small_pack)]).table.select(columns)
    data = list(read_photos(before["uri"].to_pylist()))
    uris = rewritten(small_pack, [honest(small_pack)], compression=compression)
    about = small_pack / MANIFEST
    about.write_text(about.read_text().replace('"format_version": 2', '"format_version": 1'))
    assert list_photos([str(small_pack)]).table.select(columns).equals(before)
    assert before["uri"].to_pylist() == uris
    assert list(read_photos(uris)) == data
    assert unpack(str(small_pack), str(tmp_path / "out"))["written"] == 60


def test_pack_has_the_columns_and_features_of_datasets(some: Path, tmp_path: Path) -> None:
    """As written by datasets 5.2.0, and read by ``load_dataset("parquet", data_files="PACK/data/*.parquet")``."""
    pack([str(some)], str(tmp_path / "pack"))
    schema = pq.read_schema(only_file(tmp_path / "pack"))
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert schema.field("label").type == pa.int64()
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": ["a", "b"], "_type": "ClassLabel"}
    assert features["split"] == {"dtype": "string", "_type": "Value"}
    [first, *_] = pq.read_table(only_file(tmp_path / "pack")).to_pylist()
    assert first["image"] == {"bytes": (some / "a/0.jpg").read_bytes(), "path": "a/0.jpg"}
    assert first["label"] == 0


def test_files_of_a_pack_alone_are_a_dataset(some: Path, tmp_path: Path) -> None:
    pack([str(some)], str(tmp_path / "pack"))
    (tmp_path / "copy").mkdir()
    only_file(tmp_path / "pack").rename(tmp_path / "copy" / "train-00000-of-00001.parquet")
    found = list_photos([str(tmp_path / "copy")])
    assert found.table.num_rows == 60
    assert {data for data, _ in read_photos(found.table["uri"].to_pylist(), found.access)} == set(
        contents(some).values()
    )
