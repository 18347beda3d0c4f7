"""What may be read on behalf of a caller who named some photos: nothing that links or manifests lead to beside them, no giant."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fruits.errors import CatalogueError, ConfigError
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.reading import reading
from fruits.photos.reading.access import NO_LINKS, Access
from fruits.photos.reading.reading import read_head, read_photo, read_photos
from fruits.storage.disk import local
from fruits.storage.disk.local import RefusedError

JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"


def make(root: Path, *names: str, content: bytes = JPEG_HEAD) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def names(found: Catalogue) -> set[str]:
    return {Path(uri).name for uri in found.table["uri"].to_pylist()}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with one training and one test photo."""
    return make(tmp_path / "photos", "Training/a/1.jpg", "Test/a/2.jpg")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A photo and a folder of somebody else's."""
    return make(tmp_path / "elsewhere", "b/3.jpg", "4.jpg", content=JPEG_HEAD + b"another user's")


# --- Links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
def test_links_that_lead_out_of_the_photos_are_skipped_and_named(two: Path, elsewhere: Path, labelled: bool) -> None:
    (two / "Training/a/linked.jpg").symlink_to(elsewhere / "4.jpg")
    (two / "Training/a/without suffix").symlink_to(elsewhere / "4.jpg")
    (two / "Training/b").symlink_to(elsewhere / "b")
    (two / "Training/a/relative.jpg").symlink_to("../../../elsewhere/4.jpg")
    found = list_photos([str(two)], labelled=labelled)
    assert names(found) == {"1.jpg", "2.jpg"}
    assert found.skipped == {"link out of its source": 4}
    assert "Training/b" in found.examples["link out of its source"]


def test_link_to_a_link_that_leads_out_is_skipped(two: Path, elsewhere: Path) -> None:
    (two / ".hidden").symlink_to(elsewhere)
    (two / "Training/b").symlink_to(two / ".hidden" / "b")
    assert names(list_photos([str(two)])) == {"1.jpg", "2.jpg"}


def test_link_within_the_photos_is_a_photo_and_read(two: Path) -> None:
    (two / "Training/b").symlink_to(two / "Training/a")
    found = list_photos([str(two)])
    assert len(found.table) == 3
    assert [data for data, _ in read_photos(found.table["uri"].to_pylist(), found.access)] == [JPEG_HEAD] * 3


def test_link_from_one_source_into_another_is_followed(two: Path, elsewhere: Path) -> None:
    (two / "Training/b").symlink_to(elsewhere / "b")
    assert names(list_photos([str(two), str(elsewhere)])) == {"1.jpg", "2.jpg", "3.jpg"}


def allow(place: str) -> Callable[[Path, Path], Access]:
    return lambda two, elsewhere: Access.to([str(two)], [str(elsewhere / place)])


@pytest.mark.parametrize(
    ("access", "followed"),
    [
        (lambda two, _: Access.to([str(two)], follow_links=True), {"3.jpg", "linked.jpg"}),
        (allow(""), {"3.jpg", "linked.jpg"}),
        (allow("b"), {"3.jpg"}),
        (allow("4.jpg"), {"linked.jpg"}),
    ],
)
def test_links_are_followed_where_that_is_allowed(
    two: Path, elsewhere: Path, access: Callable[[Path, Path], Access], followed: set[str]
) -> None:
    (two / "Training/a/linked.jpg").symlink_to(elsewhere / "4.jpg")
    (two / "Training/b").symlink_to(elsewhere / "b")
    found = list_photos([str(two)], access=access(two, elsewhere))
    assert names(found) == {"1.jpg", "2.jpg"} | followed
    assert all(data for data, _ in read_photos(found.table["uri"].to_pylist(), found.access))


def test_folder_whose_name_begins_like_the_source_is_outside(two: Path) -> None:
    other = make(two.parent / "photos of others", "3.jpg")
    (two / "Training/a/3.jpg").symlink_to(other / "3.jpg")
    assert names(list_photos([str(two)])) == {"1.jpg", "2.jpg"}


def test_source_that_is_a_link_itself_is_what_it_leads_to(two: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(two)
    found = list_photos([str(tmp_path / "link")])
    assert names(found) == {"1.jpg", "2.jpg"}
    assert not found.skipped


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_photo_that_becomes_a_link_after_listing_is_not_read(two: Path, elsewhere: Path, swapped: str) -> None:
    found = list_photos([str(two)])
    uri = next(uri for uri in found.table["uri"].to_pylist() if uri.endswith("1.jpg"))
    photo = Path(uri)
    if swapped == "file":
        photo.unlink()
        photo.symlink_to(elsewhere / "4.jpg")
    else:
        (elsewhere / "b" / "1.jpg").write_bytes(b"another user's")
        photo.unlink()
        photo.parent.rmdir()
        photo.parent.symlink_to(elsewhere / "b")
    [(data, reason)] = read_photos([uri], found.access)
    assert data is None
    assert reason.startswith("outside: ")
    assert "follow_links=True" in reason
    with pytest.raises(RefusedError):
        read_head(uri, 12, found.access)
    assert read_photo(uri, Access.to([str(two)], follow_links=True)).endswith(b"another user's")


def test_photo_that_is_replaced_while_it_is_open_is_read(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def replaced(path: str, flags: int) -> int:
        descriptor = real(path, flags)
        Path(path).unlink()
        return descriptor

    monkeypatch.setattr(os, "open", replaced)
    assert read_photo(str(two / "Training/a/1.jpg")) == JPEG_HEAD


def test_machine_without_proc_follows_no_link_either(
    two: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_proc(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", no_proc)
    assert read_photo(str(two / "Training/a/1.jpg")) == JPEG_HEAD


def test_what_is_allowed_and_not_there_is_said(two: Path) -> None:
    with pytest.raises(ConfigError, match="allow_source='nowhere' does not exist"):
        Access.to([str(two)], ["nowhere"])


# --- Manifests --------------------------------------------------------------------------------------------------------


def test_rows_that_lead_out_of_the_manifests_folder_are_skipped(two: Path, elsewhere: Path) -> None:
    (two / "out").symlink_to(elsewhere)
    rows = [
        "../elsewhere/4.jpg",
        str(elsewhere / "4.jpg"),
        f"file://{elsewhere}/4.jpg",
        "s3://other-bucket/4.jpg",
        "Training/../../elsewhere/4.jpg",
        "out/4.jpg",
        "../../../../../../../../../etc/hostname",
        "/etc/hostname",
        "/dev/zero",
    ]
    inside = ["Training/a/1.jpg", str(two / "Test/a/2.jpg")]
    (two / "m.csv").write_text("uri,label\n" + "".join(f"{row},a\n" for row in rows + inside))
    found = list_photos([str(two / "m.csv")])
    assert names(found) == {"1.jpg", "2.jpg"}
    assert found.skipped == {"outside of its source": len(rows)}
    assert found.examples["outside of its source"] == rows[:5]
    (two / "m.csv").write_text(f"uri,label\n{elsewhere}/4.jpg,a\n")
    with pytest.raises(
        CatalogueError, match=r"expected allow_source='FOLDER' for photos that lie elsewhere, or PHOTOS/"
    ):
        list_photos([str(two / "m.csv")])


def test_rows_are_read_where_that_is_allowed(two: Path, elsewhere: Path) -> None:
    (two / "m.csv").write_text("uri,label\n../elsewhere/4.jpg,a\nTraining/a/1.jpg,a\n/etc/hostname,a\n")
    manifest = str(two / "m.csv")
    found = list_photos([manifest], access=Access.to([manifest], [str(elsewhere)]))
    assert names(found) == {"1.jpg", "4.jpg"}
    assert [bool(data) for data, _ in read_photos(found.table["uri"].to_pylist(), found.access)] == [True, True]


def test_following_links_does_not_open_the_machine_to_a_manifest(two: Path, elsewhere: Path) -> None:
    (two / "out").symlink_to(elsewhere)
    (two / "m.csv").write_text("uri,label\nout/4.jpg,a\nTraining/a/1.jpg,a\n/etc/hostname,a\n../elsewhere/b/3.jpg,a\n")
    manifest = str(two / "m.csv")
    found = list_photos([manifest], access=Access.to([manifest], follow_links=True))
    assert names(found) == {"1.jpg", "4.jpg"}
    assert found.skipped == {"outside of its source": 2}


def test_absolute_paths_by_way_of_a_link_to_the_manifests_own_folder_are_inside(two: Path, tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to(two)
    (two / "m.csv").write_text(f"uri,label\n{tmp_path}/home/Training/a/1.jpg,a\nTest/a/2.jpg,a\n")
    found = list_photos([str(tmp_path / "home" / "m.csv")])
    assert names(found) == {"1.jpg", "2.jpg"}
    assert all(data for data, _ in read_photos(found.table["uri"].to_pylist(), found.access))


# --- Sizes and sorts of files ---------------------------------------------------------------------------------------


def test_giant_photo_is_refused_before_it_is_read(two: Path) -> None:
    giant = two / "Training/a/giant.jpg"
    with giant.open("wb") as file:
        file.write(JPEG_HEAD)
        file.truncate(40 << 30)
    found = list_photos([str(two)])
    contents = dict(zip(found.table["uri"].to_pylist(), read_photos(found.table["uri"].to_pylist()), strict=True))
    assert contents[str(giant)] == (None, f"too large: {40 << 30:,} bytes; expected at most {256 << 20:,}")
    assert reading.will_never_work(contents[str(giant)][1])
    assert sum(data is not None for data, _ in contents.values()) == 2


def test_photo_that_grows_while_it_is_read_is_held_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, "1.jpg") / "1.jpg"
    real = os.read

    def growing(descriptor: int, length: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x" * 100)
        return real(descriptor, length)

    monkeypatch.setattr(os, "read", growing)
    with pytest.raises(RefusedError, match="expected at most 50"):
        local.read_regular(str(path), 50, NO_LINKS.allows_opened)


def test_pipe_is_never_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    os.mkfifo(path)
    [(data, reason)] = read_photos([str(path)])
    assert data is None
    assert reason.startswith("not a file")
    assert not reading.will_never_work(reason)


def test_device_behind_a_link_is_not_opened(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (two / "Training/a/zero.jpg").symlink_to("/dev/zero")
    (two / "Training/a/zero").symlink_to("/dev/zero")
    for access in (Access.to([str(two)]), Access.to([str(two)], follow_links=True)):
        found = list_photos([str(two)], access=access)
        assert names(found) == {"1.jpg", "2.jpg"}
        assert sum(found.skipped.values()) == 2
    with pytest.raises(RefusedError, match="a pipe or a device"):
        read_photo(str(two / "Training/a/zero.jpg"), Access.to([str(two)], follow_links=True))
