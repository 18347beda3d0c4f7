"""Photos in tar archives: labels, splits and bytes as webdataset means them; damage is told, and what is complete is kept."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.errors import CatalogueError
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.reading import tars
from fruits.photos.reading.access import Access
from fruits.photos.reading.containers import split_contained
from fruits.photos.reading.packing import pack
from fruits.photos.reading.reading import read_head, read_photo, read_photos

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
Members = Iterable[tuple[str, bytes]]


def written(path: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sample(key: str, **said: bytes | str) -> list[tuple[str, bytes]]:
    """Members of one sample, as webdataset writes them; the photo is called after its key."""
    more = [(f"{key}.{kind}", data.encode() if isinstance(data, str) else data) for kind, data in said.items()]
    return [(f"{key}.jpg", JPEG + key.encode()), *more]


def of(found: Catalogue, column: str = "label") -> dict[str, Any]:
    """Name of the photo in its archive to a column."""
    names = [split_contained(uri)[1].partition("/")[2] for uri in found.table["uri"].to_pylist()]
    return dict(zip(names, found.table[column].to_pylist(), strict=True))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_labels_are_what_the_members_of_a_sample_say(tmp_path: Path, form: int) -> None:
    members = [
        *sample("a", cls="1"), *sample("b", cls="pear\n"), *sample("c", txt="plum"), *sample("d", json='{"label": "fig"}'),
        *sample("e", json='{"label": 0}'), *sample("f", cls="0", txt="caption"), *sample("g", cls="7"),
        *sample("h", json="[1]"), *sample("i", json='{"label": true}'), *sample("j", cls=b"\xff\xfe"), *sample("k"),
        *sample("l", txt="long " * 99), *sample("m", json="{" * 10_000), *sample("n", cls=" "),
        ("o.cls", b"1"), ("o.jpg", JPEG), *sample("x/p.q", cls="kiwi"),
    ]  # fmt: skip
    written(tmp_path / "train-0.tar", members, form)
    (tmp_path / "classes.txt").write_text("apple\nquince\n")
    found = list_photos([str(tmp_path / "train-0.tar")])
    assert of(found) == {
        "a.jpg": "quince", "b.jpg": "pear", "c.jpg": "plum", "d.jpg": "fig", "e.jpg": "apple", "f.jpg": "apple",
        "g.jpg": "7", "o.jpg": "quince", "x/p.q.jpg": "kiwi",
    }  # fmt: skip
    assert found.skipped == {"no label": 7}
    (tmp_path / "classes.txt").unlink()
    assert of(list_photos([str(tmp_path / "train-0.tar")]))["a.jpg"] == "1"


def test_splits_follow_from_names_of_shards_and_folders(tmp_path: Path) -> None:
    for name in ("train-000", "set-val-000", "Testing/000", "000", "training/test-1"):
        written(tmp_path / f"{name}.tar", sample(name.replace("/", "-"), cls="a"))
    (tmp_path / "notes.md").write_text("no shard")
    found = of(list_photos([str(tmp_path)]), "split")
    assert found.pop("000.jpg") in ("train", "test")  # by hash
    assert found == {
        "train-000.jpg": "train",
        "set-val-000.jpg": "val",
        "Testing-000.jpg": "test",
        "training-test-1.jpg": "test",
    }


def test_patterns_name_shards(tmp_path: Path) -> None:
    for number in range(12):
        written(tmp_path / f"s-{number:03d}.tar", sample(f"{number}", cls="a"))
    for pattern, count in {"s-{000..011}.tar": 12, "s-{9..11}.tar": None, "s-01*.tar": 2, "s-00[1-3].tar": 3}.items():
        if count is None:
            with pytest.raises(CatalogueError, match=r"do(es)? not exist"):
                list_photos([str(tmp_path / pattern)])
        else:
            source = str(tmp_path / pattern)
            uris = list_photos([source]).table["uri"].to_pylist()
            assert len(uris) == count
            assert all(data for data, _ in read_photos(uris, Access.to([source])))
    with pytest.raises(CatalogueError, match=r"1 of 13 shards do not exist, such as 's-012.tar'"):
        list_photos([str(tmp_path / "s-{000..012}.tar")])
    for many in ("s-{0..900000000000}.tar", "s-{0..99999}{0..99999}{0..99999}.tar"):
        with pytest.raises(CatalogueError, match="more than 100,000"):
            list_photos([str(tmp_path / many)])


def test_tar_of_a_folder_is_that_folder(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(photos, arcname=".")
    folder, archive = list_photos([str(photos)]), list_photos([str(tmp_path / "all.tar")])
    columns = ["label", "split", "size_bytes", "group"]
    rows = [sorted(one.table.select(columns).to_pylist(), key=repr) for one in (folder, archive)]
    assert rows[0] == rows[1]
    uris = archive.table["uri"].to_pylist()
    for uri, data in zip(uris, read_photos(uris, archive.access), strict=True):
        assert data == ((photos / split_contained(uri)[1].partition("/")[2]).read_bytes(), "")
    assert read_head(uris[0], 3, archive.access) == b"\xff\xd8\xff"
    assert archive.table.equals(list_photos([str(tmp_path / "all.tar")]).table)  # nothing is computed again


def test_archive_that_changes_gives_its_photos_another_version(tmp_path: Path) -> None:
    source = str(written(tmp_path / "a.tar", sample("1", cls="a")))
    before = list_photos([source]).table["version"][0].as_py()
    written(tmp_path / "a.tar", [*sample("1", cls="a"), *sample("2", cls="a")])
    assert list_photos([source]).table["version"][0].as_py() != before


def test_photos_of_archives_are_packed_and_recognised_without_labels(tmp_path: Path) -> None:
    written(tmp_path / "in/a.tar", [("x/1.jpg", JPEG), ("2.png", JPEG + b"2")])
    found = list_photos([str(tmp_path / "in")], labelled=False)
    assert of(found) == {"x/1.jpg": None, "2.png": None}
    assert pack([str(tmp_path / "in")], str(tmp_path / "pack"), labelled=False)["photos"] == 2


def test_archive_among_photos_is_no_source(tmp_path: Path) -> None:
    written(tmp_path / "backup.tar", sample("1", cls="b"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(JPEG)
    found = list_photos([str(tmp_path)])
    assert found.table["label"].to_pylist() == ["a"]
    assert found.skipped == {"not an image": 1}


# --- Damage, and archives that somebody made on purpose --------------------------------------------------------------


def test_archive_cut_anywhere_keeps_its_complete_photos(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.tar", [member for n in range(5) for member in sample(f"{n}", txt="a")]).read_bytes()
    for cut in range(512, 11 * 1024, 300):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        complete = sum(cut >= 512 * (4 * n + 4) for n in range(5))  # photo and label, each a header and a block
        try:
            found = list_photos([str(tmp_path / "cut.tar")])
        except CatalogueError as exc:
            assert complete == 0
            assert "damaged archive" in str(exc) or "no label" in str(exc)  # noqa: PT017
            continue
        assert found.table.num_rows >= complete
        assert found.skipped.pop("damaged archive", 0) == (cut < 11 * 1024 - 512)
        uris = found.table["uri"].to_pylist()
        assert [data for data, _ in read_photos(uris, found.access)] == [JPEG + b"%d" % n for n in range(len(uris))]


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", [member for n in range(4) for member in sample(f"{n}", txt="a")])
    data = bytearray(path.read_bytes())
    data[512 * 8 : 512 * 8 + 100] = b"x" * 100
    path.write_bytes(data)
    found = list_photos([str(path)])
    assert sorted(of(found)) == ["0.jpg", "1.jpg"]
    assert found.skipped == {"damaged archive": 1}
    assert "cut or damaged after 4 complete members" in found.warnings[0]


def test_links_devices_and_paths_that_lead_out_are_skipped(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"a/{kind.decode()}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name in (
            "../up.jpg",
            "/top.jpg",
            "a/../../b.jpg",
            "a/.hidden.jpg",
            "a/notes.md",
            "@eaDir/a/1.jpg",
            "a/good.jpg",
        ):
            member = tarfile.TarInfo(name)
            member.size = len(JPEG)
            tar.addfile(member, io.BytesIO(JPEG))
    found = list_photos([str(tmp_path / "a.tar")])
    assert of(found) == {"a/good.jpg": "a"}
    assert found.skipped == {
        "not a file": 4, "path that leads out of its archive": 3, "hidden": 1, "not an image": 1, "system folder": 1,
    }  # fmt: skip


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of 512 bytes with a correct checksum, whatever it says."""
    block = bytearray(512)
    block[0 : len(name)], block[124 : 124 + len(size)], block[156:157], block[257:263] = name, size, kind, b"ustar\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "crafted",
    [
        header(b"x", b"77777777777\0", b"x"),  # an extended header of 8 GiB
        header(b"x", b"77777777777\0", b"L"),
        header(b"b.jpg", b"\xff" * 12),  # a negative size, which leads back to the beginning
        header(b"b.jpg", b"77777777777\0"),
        header(b"x", b"00000000003\0", b"L") + b"abc".ljust(512, b"\0"),
        b"".join(header(b"x", b"00000000003\0", b"L") + b"abc".ljust(512, b"\0") for _ in range(5000)),
        b"".join(header(b"x", b"00000000013\0", b"x") + b"11 path=abc\n".ljust(512, b"\0") for _ in range(5000)),
        header(b"s.jpg", b"00000000003\0", b"S") + bytes(512),
    ],
)
def test_crafted_header_ends_an_archive_and_costs_nothing(tmp_path: Path, crafted: bytes) -> None:
    path = written(tmp_path / "a.tar", sample("1", txt="a"))
    with path.open("r+b") as file:
        file.seek(4 * 512)
        file.write(crafted)
        file.truncate(20 << 30)  # a hole, so that sizes fit into the file
    found = list_photos([str(path)])
    assert of(found)["1.jpg"] == "a"
    assert found.table.num_rows <= 2


def test_photo_larger_than_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(header(b"a/1.jpg", b"04000000001\0"))  # 512 MiB and a byte
        file.truncate(2 << 30)
    found = list_photos([str(path)])
    [(data, reason)] = read_photos(found.table["uri"].to_pylist(), found.access)
    assert data is None
    assert reason.startswith("too large: 536,870,913 bytes")


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_told(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.tar"
    path.write_bytes(data)
    with pytest.raises(CatalogueError, match="no photos to use"):
        list_photos([str(path)])


def test_archive_that_was_cut_or_is_gone_since_it_was_listed_gives_reasons(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", [*sample("1", cls="a"), *sample("2", cls="a")])
    found = list_photos([str(path)])
    uris = found.table["uri"].to_pylist()
    path.write_bytes(path.read_bytes()[:1024])
    (_, first), (_, second) = read_photos(uris, found.access)
    assert (first, second) == ("", "unreadable: shorter than it says")
    path.unlink()
    assert {reason.partition(":")[0] for _, reason in read_photos(uris, found.access)} == {"not found"}


def test_archive_that_is_a_link_out_of_its_source_is_not_read(tmp_path: Path) -> None:
    theirs = written(tmp_path / "theirs/a.tar", sample("1", cls="a"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.tar").symlink_to(theirs)
    with pytest.raises(CatalogueError, match="link that leads out of its source"):
        list_photos([str(tmp_path / "mine")])
    uri = list_photos([str(theirs)]).table["uri"][0].as_py().replace("theirs", "mine")
    [(data, reason)] = read_photos([uri], Access.to([str(tmp_path / "mine")]))
    assert data is None
    assert reason.startswith("outside: ")


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(CatalogueError, match="is compressed"):
        list_photos([str(tmp_path / "a.tar.gz")])


def test_place_that_no_listing_gives_is_a_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", sample("1", cls="a"))
    for place in ("", "x", "1+", "99999999+5/1.jpg"):
        [(data, reason)] = read_photos([f"tar:{path}#{place}"], Access.to([str(path)]))
        assert data is None
        assert reason.startswith("unreadable: ")


def test_json_of_classes_names_them_too(tmp_path: Path) -> None:
    written(tmp_path / "a.tar", sample("1", cls="1"))
    (tmp_path / "classes.json").write_text(json.dumps(["apple", "pear"]))
    assert of(list_photos([str(tmp_path / "a.tar")])) == {"1.jpg": "pear"}


def test_members_are_listed_in_order(tmp_path: Path) -> None:
    names = [f"{'long/' * 30}{n}.jpg" for n in range(3)]  # longer than a plain header holds
    path = written(tmp_path / "a.tar", [(name, JPEG) for name in names])
    with path.open("rb") as file:
        assert [member.name for member in tars.members(file)] == names
    assert read_photo(list_photos([str(path)]).table["uri"][0].as_py(), Access.to([str(path)])) == JPEG


def test_names_that_no_disk_has_are_skipped(tmp_path: Path) -> None:
    members = [*sample("a", cls="0"), *sample("b", cls="1"), *sample("n" * 5000, cls="1")]
    written(tmp_path / "train-0.tar", members)
    (tmp_path / "classes.json").write_text('["a\\ud800", "pear"]')
    found = list_photos([str(tmp_path / "train-0.tar")])
    assert of(found) == {"b.jpg": "pear"}
    assert found.skipped == {"no label": 1, "name is too long": 2}
