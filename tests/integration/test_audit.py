"""Faults that were planted are found, and the page shows them."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from fruits.assessment import audit
from fruits.config import RunConfig
from fruits.errors import CatalogueError, StoreError
from fruits.learning import neighbours
from fruits.storage.tables.schemas import FINDINGS


def saved(path: Path, image: Image.Image, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=quality)
    return path


@pytest.fixture(scope="module")
def audited(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, fruits: Callable[..., Any]
) -> tuple[Path, dict[str, Any], list[dict[str, Any]], dict[str, Path]]:
    """Made-up photos with one fault of each sort; the folder, the JSON, the table, and what was planted."""
    root = tmp_path_factory.mktemp("audit") / "photos"
    shutil.copytree(photos, root)
    pear, plum = (
        sorted((root / "Training" / "Moon Pear 1").iterdir()),
        sorted((root / "Training" / "Tuskana Yellow").iterdir()),
    )
    planted = {"label": Path(shutil.move(pear[3], root / "Training" / "Tuskana Yellow" / "moved.jpg"))}
    planted["exact"] = Path(shutil.copy(pear[5], root / "Test" / "Moon Pear 1" / "same.jpg"))
    with Image.open(pear[8]) as image:
        lighter = (
            image.convert("RGB")
            .crop((1, 1, 98, 98))
            .resize((100, 100))
            .point(lambda value: min(255, round(value * 1.04)))
        )
        planted["near"] = saved(root / "Test" / "Moon Pear 1" / "nearly.jpg", lighter, 80)
    with Image.open(plum[4]) as image:
        rgb = image.convert("RGB")
        planted["blurred"] = saved(
            root / "Training" / "Tuskana Yellow" / "blurred.jpg", rgb.filter(ImageFilter.GaussianBlur(4))
        )
        planted["dark"] = saved(root / "Training" / "Tuskana Yellow" / "dark.jpg", rgb.point(lambda value: value // 8))
        planted["odd_size"] = saved(root / "Training" / "Tuskana Yellow" / "stamp.jpg", rgb.resize((24, 24)))
    planted["unreadable"] = root / "Training" / "Tuskana Yellow" / "no photo.jpg"
    planted["unreadable"].write_bytes(b"\xff\xd8\xff nothing more")
    # The network that tells generated photos on white apart best.
    done = fruits("audit", root, "--to", root.parent / "audit", "--backbone", "fruits-small", "--json")
    assert done.code == 0, done.stderr
    return (
        root.parent / "audit",
        done.json(),
        pq.read_table(root.parent / "audit" / "findings.parquet").to_pylist(),
        planted,
    )


def found(audited: Any, sort: str) -> dict[str, dict[str, Any]]:
    return {row["uri"]: row for row in audited[2] if row["sort"] == sort}


def test_a_wrong_label_is_suspected_with_the_right_one(audited: Any) -> None:
    row = found(audited, "label")[str(audited[3]["label"])]
    assert row["suggested"].startswith("Moon Pear")
    assert row["suggested_probability"] > row["given_probability"]


def test_an_exact_copy_in_the_test_split_is_found(audited: Any) -> None:
    row = found(audited, "exact_duplicate")[str(audited[3]["exact"])]
    assert row["across_splits"]
    assert not row["across_labels"]
    assert row["other_split"] == "train"


def test_a_retouched_copy_is_found(audited: Any) -> None:
    row = found(audited, "near_duplicate")[str(audited[3]["near"])]
    assert row["other_label"] == "Moon Pear 1"


@pytest.mark.parametrize("sort", ["blurred", "dark", "odd_size", "unreadable"])
def test_a_bad_photo_is_found(audited: Any, sort: str) -> None:
    assert str(audited[3][sort]) in found(audited, sort)


def test_counts_are_those_of_the_table(audited: Any) -> None:
    folder, record, table, _ = audited
    for sort, counts in record["counts"].items():
        assert counts["photos"] == sum(row["sort"] == sort for row in table)
    assert record["photos"] == record["ok"] + record["rejected"] + record["failed"]
    assert record["rejected"] == 1
    assert pq.read_schema(folder / "findings.parquet").equals(FINDINGS)
    assert json.loads((folder / "audit.json").read_text())["counts"] == record["counts"]


def test_the_page_shows_the_photos_and_loads_nothing(audited: Any) -> None:
    page = (audited[0] / "audit.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") > 5
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "moved.jpg" in page


def test_a_second_audit_computes_nothing(audited: Any, fruits: Callable[..., Any]) -> None:
    again = fruits("audit", audited[0].parent / "photos", "--to", audited[0], "--backbone", "fruits-small", "--json")
    assert again.json()["computed"] == 0
    assert again.json()["counts"] == audited[1]["counts"]


def test_one_photo_is_nothing_to_compare(tmp_path: Path, a_photo: bytes, fruits: Callable[..., Any]) -> None:
    saved(tmp_path / "photos" / "Pear" / "1.jpg", Image.open(io.BytesIO(a_photo)))
    done = fruits("audit", tmp_path / "photos", "--to", tmp_path / "audit")
    assert done.code == 1
    assert "two or more to compare" in done.stderr


def test_one_label_is_audited_without_suspicions(own_photos: Path, tmp_path: Path, fruits: Callable[..., Any]) -> None:
    done = fruits("audit", own_photos, "--to", tmp_path / "audit", "--only", "Moon Pear 1", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["counts"]["label"] == {"photos": 0}


def test_many_photos_are_read_in_chunks_with_the_same_findings(
    audited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, record, rows, _ = audited
    copy = shutil.copytree(out, tmp_path / "audit")
    monkeypatch.setattr(audit, "_IN_MEMORY", 10)
    monkeypatch.setattr(neighbours, "_PRODUCTS", 5_000)
    config = RunConfig(sources=(record["sources"][0]["source"],), out=str(copy), backbone="fruits-small", workers=1)
    again = audit.audit(config)
    assert again["computed"] == 0
    assert (again["counts"], again["flagged"]) == (record["counts"], record["flagged"])
    numbers = ("distance", "given_probability", "suggested_probability")
    table = pq.read_table(copy / "findings.parquet").to_pylist()
    for row, one in zip(table, rows, strict=True):
        assert {name: row[name] for name in row if name not in numbers} == {
            name: one[name] for name in one if name not in numbers
        }
        for name in numbers:
            assert row[name] == (one[name] if one[name] is None else pytest.approx(one[name], abs=1e-4))


def test_small_images_for_which_there_is_no_room_are_an_error_and_not_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(audit, "_IN_MEMORY", 10)
    assert audit._matrix(11, 3).shape == (11, 3)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="No space left on device"):
        audit._matrix(11, 3)


def test_more_photos_than_can_be_compared_are_refused_before_any_work(
    own_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_PHOTOS", 10)
    config = RunConfig(sources=(str(own_photos),), out=str(tmp_path / "out"), backbone="fruits-small", workers=1)
    with pytest.raises(CatalogueError, match=r"to audit; expected at most 10, .*only=.*sample=\d"):
        audit.audit(config)
    assert not (tmp_path / "out" / "embeddings").exists()
