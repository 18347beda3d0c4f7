"""What fruits wrote is never listed as photos: not this run's results, not older ones, not what a service keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fruits.errors import CatalogueError
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.reading.packing import pack
from fruits.storage.objects import Objects
from fruits.storage.outputs import marker

JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
LABELS = {"Apple", "Pear"}


def make(root: Path, *names: str, content: bytes = JPEG_HEAD) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def labels(found: Catalogue) -> set[str]:
    return set(found.table["label"].to_pylist())


def upload(folder: Path, place: str) -> str:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            Objects(place).write(path.relative_to(folder).as_posix(), path.read_bytes())
    return place


def bundle(root: Path) -> None:
    manifest = {"format": 3, "labels": [], "backbone": {}, "preprocessing": {}, "files": {}}
    make(root, "manifest.json", content=json.dumps(manifest).encode())
    make(root, "gallery.jpegs", "recognizer.onnx")


def results(root: Path) -> None:
    """As an older version left them, without a marker."""
    bundle(root / "bundle")
    record = {"fruits": "0.1.0", "backbone": {}, "sources": [], "splits": {}}
    make(root, "run.json", content=json.dumps(record).encode())
    make(root, "thumbnails/Apple/1.jpg")
    service(root / "service")


def service(root: Path) -> None:
    make(root, "service.db", content=b"SQLite format 3\0")
    make(root, "photos/kept.jpg", "photos/Plum/kept too.jpg")


def audit(root: Path) -> None:
    make(root, "audit.json", content=json.dumps({"fruits": "0.1.0", "near_duplicates": {}, "findings": {}}).encode())
    make(root, "pictures/1.jpg")


def export(root: Path) -> None:
    make(root, ".fruits-export/ledger.json", content=b'{"photos": []}')
    make(root, "Plum/1.jpg")


def packed(root: Path) -> None:
    make(root.parent / "to pack", "Plum/1.jpg")
    pack([str(root.parent / "to pack")], str(root))
    shutil.rmtree(root.parent / "to pack")
    make(root, "left/1.jpg")


def marked(kind: marker.Kind) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        marker.mark(Objects(str(root)), kind)
        make(root, "Plum/1.jpg")

    return write


WRITTEN = {
    "results": results, "bundle": bundle, "service": service, "audit": audit, "export": export, "pack": packed,
    **{f"marked {kind}": marked(kind) for kind in ("results", "bundle", "pack", "export", "service", "photos")},
}  # fmt: skip


@pytest.mark.parametrize("what", WRITTEN)
@pytest.mark.parametrize("where", ["results", "Apple/deep/results"])
def test_below_photos_what_fruits_wrote_is_skipped_whole(tmp_path: Path, what: str, where: str) -> None:
    make(tmp_path, "Apple/1.jpg", "Pear/2.jpg")
    WRITTEN[what](tmp_path / where)
    found = list_photos([str(tmp_path)])
    assert labels(found) == LABELS
    assert found.skipped == {"written by fruits": 1}
    assert found.examples == {"written by fruits": [where]}
    assert len(list_photos([str(tmp_path)], labelled=False).table) == 2


@pytest.mark.slow
@pytest.mark.parametrize("what", ["results", "service", "marked results", "marked photos"])
def test_in_a_bucket_it_is_the_same(tmp_path: Path, prefix: str, what: str) -> None:
    make(tmp_path, "Apple/1.jpg", "Pear/2.jpg")
    WRITTEN[what](tmp_path / "data" / "results")
    found = list_photos([upload(tmp_path, f"{prefix}/photos")])
    assert labels(found) == LABELS
    assert found.examples == {"written by fruits": ["data/results"]}
    assert len(list_photos([f"{prefix}/photos"], labelled=False).table) == 2


@pytest.mark.slow
def test_results_that_lie_among_the_photos_of_an_older_run_are_skipped(tmp_path: Path, prefix: str) -> None:
    """OUT was PHOTOS itself, which older versions allowed."""
    make(tmp_path, "Apple/1.jpg", "Pear/2.jpg")
    results(tmp_path)
    shutil.rmtree(tmp_path / "thumbnails")
    for place in (str(tmp_path), upload(tmp_path, f"{prefix}/same")):
        found = list_photos([place])
        assert labels(found) == LABELS
        assert sorted(found.examples["written by fruits"]) == ["bundle", "service"]


def test_exports_and_packs_are_listed_when_they_are_the_source(tmp_path: Path) -> None:
    export(tmp_path / "given")
    packed(tmp_path / "packed")
    for root in (tmp_path / "given", tmp_path / "packed"):
        assert labels(list_photos([str(root)])) == {"Plum"}


@pytest.mark.parametrize("what", ["bundle", "service", "marked bundle", "marked service"])
def test_bundle_or_data_of_a_service_is_no_source(tmp_path: Path, what: str) -> None:
    WRITTEN[what](tmp_path / "it")
    with pytest.raises(CatalogueError, match=r"'fruits (run|serve)'.*; expected photos"):
        list_photos([str(tmp_path / "it")])


@pytest.mark.parametrize("name", ["run.json", "manifest.json", "bundle/x.jpg", "data/1.jpg", "embeddings/1.jpg"])
def test_other_programs_files_of_the_same_names_hide_nothing(tmp_path: Path, name: str) -> None:
    make(tmp_path, "Apple/1.jpg", "Pear/2.jpg")
    make(tmp_path / "Plum", "3.jpg")
    make(tmp_path / "Plum", name, content=b"{}" if name.endswith("json") else JPEG_HEAD)
    assert "Plum" in labels(list_photos([str(tmp_path)]))
