"""Whose a folder is: somebody else's is never written into, one of an older version is known again."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fruits.storage.objects import Objects
from fruits.storage.outputs.marker import NAME, OccupiedError, claim, content, kind_of, mark, may_be_ours


@pytest.fixture(params=["disk", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty place."""
    root = str(tmp_path / "out") if request.param == "disk" else f"{request.getfixturevalue('prefix')}/some/out"
    return Objects(root)


def all_in(objects: Objects) -> dict[str, bytes]:
    return {found.key: objects.read(found.key) for found in objects.list()}


def test_an_empty_place_is_claimed_once_and_again(objects: Objects) -> None:
    assert kind_of(objects) is None
    claim(objects, "results")
    before = all_in(objects)
    assert before.keys() == {NAME}
    claim(objects, "results")
    assert all_in(objects) == before
    assert kind_of(objects) == "results"
    objects.write("report.html", b"ours")
    claim(objects, "results")


@pytest.mark.parametrize(
    "theirs",
    [
        {"report.html": b"<p>Theirs", "run.json": b'{"run": "of another program"}'},
        {"run.json": b"no JSON"},
        {"run.json": b"[1]"},
        {"report.html": b"<p>Theirs"},
        {"bundle/manifest.json": b'{"format": 3}'},
        {"embeddings/words.npy": b"1"},
        {"data/2019.csv": b"1"},
        {"pack.json": b'{"name": "of another program"}'},
        {"manifest.json": b"{}"},
        {"Apple/1.jpg": b"\xff\xd8\xff"},
        {".fruits": b"what a person noted"},
        {".fruits": b'{"format": "another", "kind": "fruit"}'},
        {".fruits-export/of another program": b""},
        {"service.db": b"theirs"},
        {".env": b"SECRET=1"},
    ],
)
@pytest.mark.parametrize(
    ("objects", "kind"), [("disk", "results"), ("disk", "pack"), ("bucket", "results")], indirect=["objects"]
)
def test_a_place_that_holds_anything_else_is_refused_and_left_as_it_is(
    objects: Objects, theirs: dict[str, bytes], kind: str
) -> None:
    for key, data in theirs.items():
        objects.write(key, data)
    with pytest.raises(OccupiedError, match=r"holds '.*expected a new or an empty folder"):
        claim(objects, kind)  # type: ignore[arg-type]
    assert all_in(objects) == theirs


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("results", {"current.json": b'{"format": "fruits current run"}'}),
        ("results", {"run.json": json.dumps({"fruits": "1", "backbone": {}, "sources": [], "splits": {}}).encode()}),
        ("results", {"audit.json": json.dumps({"fruits": "1", "near_duplicates": {}, "findings": {}}).encode()}),
        ("results", {"embeddings/0a1b2c3d4e5f6071/plans/00001.parquet": b"", "notes.txt": b"put here since"}),
        ("results", {"embeddings/0a1b2c3d4e5f6071/_delta_log/00000000000000000000.json": b"", "notes.txt": b"put here since"}),
        ("results", {"run.json": b"{damaged", "embeddings/0a1b2c3d4e5f6071/backbone.onnx": b""}),
        ("results", {"preprocessing.json": b"{}", "lease/holder.json": b"{}"}),
        ("results", {"job.json": b"{}"}),
        ("pack", {"pack.json": b'{"format": "fruits pack"}', "data/x.parquet": b""}),
        ("pack", {"pack.json": b"damaged", "data/20261128T214626-0123456789ab-00000.parquet": b""}),
        ("pack", {"data/20261128T214626-0123456789ab-00000.parquet": b""}),
    ],
)  # fmt: skip
def test_what_versions_before_the_marker_wrote_is_ours(objects: Objects, kind: str, files: dict[str, bytes]) -> None:
    for key, data in files.items():
        objects.write(key, data)
    claim(objects, kind)  # type: ignore[arg-type]
    assert kind_of(objects) == kind
    assert all_in(objects).keys() == {*files, NAME}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"service.db": b"SQLite format 3\0..."}, "service"),
        ({".fruits-export/ledger.json": b"{}", "Pear/1.jpg": b""}, "export"),
        ({"manifest.json": b'{"format": 3, "labels": [], "backbone": {}, "preprocessing": {}, "files": {}}'}, "bundle"),
        ({"pack.json": b'{"format": "fruits pack"}'}, "pack"),
    ],
)
def test_what_fruits_wrote_for_another_purpose_is_refused_by_its_name(
    objects: Objects, files: dict[str, bytes], kind: str
) -> None:
    for key, data in files.items():
        objects.write(key, data)
    assert kind_of(objects) == kind
    assert may_be_ours(objects.names())
    with pytest.raises(OccupiedError, match="expected a new or an empty folder, or one with results"):
        claim(objects, "results")
    assert all_in(objects) == files


def test_a_service_may_have_other_things_beside_its_data(objects: Objects) -> None:
    objects.write("other", b"1")
    mark(objects, "service")
    mark(objects, "results")
    assert kind_of(objects) == "service"


def test_what_systems_leave_in_an_empty_folder_is_nothing(tmp_path: Path) -> None:
    for name in (".DS_Store", ".gitkeep"):
        (tmp_path / name).touch()
    (tmp_path / "lost+found").mkdir()
    claim(Objects(str(tmp_path)), "results")


def test_names_that_are_not_utf8_and_folders_called_like_our_files_do_no_harm(tmp_path: Path) -> None:
    for name in (b"\xff\xfe", b"run.json", b".fruits", b"service.db"):
        folder = tmp_path / name.hex()
        folder.mkdir()
        (Path(str(folder)) / name.decode(errors="surrogateescape")).mkdir()
        with pytest.raises(OccupiedError, match="not made by fruits"):
            claim(Objects(str(folder)), "results")


def test_a_marker_that_was_never_finished_leaves_the_folder_free(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}#1").write_bytes(b"")
    claim(Objects(str(tmp_path)), "results")
    assert kind_of(Objects(str(tmp_path))) == "results"


def test_of_many_that_begin_on_an_empty_place_none_is_refused(objects: Objects) -> None:
    def begin(number: int) -> None:
        claim(objects, "results")
        objects.write(f"begun by {number}", b"")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))
    assert kind_of(objects) == "results"


@pytest.mark.parametrize("name", [NAME, "run.json", "audit.json", "manifest.json", "pack.json", "service.db"])
@pytest.mark.parametrize("what", ["pipe", "device", "sparse", "nested", "link"])
def test_what_strangers_call_like_a_marker_is_never_waited_for_nor_read_without_end(
    name: str, what: str, tmp_path: Path
) -> None:
    place = tmp_path / "photos"
    place.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(content("results"))
    if what == "pipe":
        os.mkfifo(place / name)
    elif what in ("device", "link"):
        (place / name).symlink_to("/dev/zero" if what == "device" else elsewhere)
    elif what == "nested":
        (place / name).write_bytes(b"[" * 1_000_000)
    else:
        with (place / name).open("wb") as file:
            file.truncate(1 << 36)
    assert kind_of(Objects(str(place))) is None


def test_a_folder_of_ours_that_is_reached_by_a_link_is_known(tmp_path: Path) -> None:
    claim(Objects(str(tmp_path / "out")), "results")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert kind_of(Objects(str(tmp_path / "link"))) == "results"
