"""Several kinds in one photo on the command line and in batch: ``predict --regions``, ``apply --regions``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import fruits
import fruits.service.pages

Fruits = Callable[..., Any]
SAMPLES = Path(fruits.service.pages.__file__).parent / "samples"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A photo of an apple and an orange, one of a tomato, and a file that is no photo."""
    folder = tmp_path / "photos"
    folder.mkdir()
    both = Image.new("RGB", (600, 300), "white")
    for at, number in enumerate((1, 4)):
        with Image.open(SAMPLES / f"{number}.jpg") as one:
            both.paste(one.convert("RGB").resize((300, 300)), (300 * at, 0))
    both.save(folder / "both.png")
    (folder / "one.jpg").write_bytes((SAMPLES / "3.jpg").read_bytes())
    (folder / "none.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def test_predict_says_what_it_sees_and_where(fruits: Fruits, photos: Path) -> None:
    done = fruits("predict", photos / "both.png", "--regions")
    assert done.code == 0, done.stderr
    assert "I see two: apple and orange" in done.stdout
    plain = fruits("predict", photos / "both.png", "--json").json()["photos"]
    (row,) = fruits("predict", photos / "both.png", "--regions", "--json").json()["photos"]
    regions = row.pop("regions")
    assert [row] == plain
    assert [region["kind"] for region in regions] == ["apple", "orange"]
    left, top, right, bottom = regions[1]["box"]
    assert 0.4 < left < right <= 1
    assert 0 <= top < bottom <= 1
    bad = fruits("predict", photos / "none.jpg", "--regions", "--json")
    assert bad.code == 1
    assert bad.json()["photos"][0]["regions"] == []


def test_apply_writes_a_row_of_regions_per_photo_and_computes_only_what_is_new(photos: Path, tmp_path: Path) -> None:
    (photos / "one.jpg").rename(tmp_path / "one.jpg")
    first = fruits.apply(None, photos, to=tmp_path / "out", regions=True, workers=1, progress=False)
    assert first.regions == str(tmp_path / "out" / "regions.parquet")
    assert first.regions in str(first)
    table = pq.read_table(first.regions)
    (row,) = table.to_pylist()
    assert row["uri"].endswith("both.png")
    expected = fruits.load().regions(photos / "both.png")
    assert [region["kind"] for region in row["regions"]] == ["apple", "orange"]
    for region, found in zip(row["regions"], expected, strict=True):
        assert (region["left"], region["top"], region["right"], region["bottom"]) == tuple(found.box)
        assert region["probability"] == pytest.approx(found.answer.probability, abs=1e-6)
        assert region["name_en"] == found.answer.name.en
        assert region["kinds"] == [kind for kind, _, _ in found.answer.kinds]

    # A row that is there is used again: its content is not what the photo would give.
    row["regions"] = []
    pq.write_table(type(table).from_pylist([row], schema=table.schema), first.regions)
    (tmp_path / "one.jpg").rename(photos / "one.jpg")
    second = fruits.apply(None, photos, to=tmp_path / "out", regions=True, workers=1, progress=False)
    rows = {Path(one["uri"]).name: one for one in pq.read_table(second.regions).to_pylist()}
    assert rows["both.png"]["regions"] == []
    assert [region["kind"] for region in rows["one.jpg"]["regions"]] == ["tomato"]
    # Of another recogniser, it is not.
    changed = pq.read_table(second.regions).replace_schema_metadata({"fruits.recogniser": "another"})
    pq.write_table(changed, second.regions)
    third = fruits.apply(None, photos, to=tmp_path / "out", regions=True, workers=1, progress=False)
    rows = {Path(one["uri"]).name: one for one in pq.read_table(third.regions).to_pylist()}
    assert len(rows["both.png"]["regions"]) == 2
    # Rows of photos that left go also if no regions are asked for.
    (photos / "both.png").unlink()
    assert fruits.apply(None, photos, to=tmp_path / "out", workers=1, progress=False).regions is None
    left = pq.read_table(third.regions)
    assert [Path(uri).name for uri in left["uri"].to_pylist()] == ["one.jpg"]
    assert left.schema.metadata[b"fruits.recogniser"]
    assert fruits.apply(None, photos, to=tmp_path / "other", workers=1, progress=False).regions is None
    assert not (tmp_path / "other" / "regions.parquet").exists()
