"""A few photos, opened to look at: their typical size, and thumbnails for people."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from fruits.photos.catalogue.catalogue import list_photos
from fruits.photos.decoding.decoder import own_decoder
from fruits.photos.reading.samples import (
    example_photos,
    gallery_thumbnails,
    thumbnail,
    thumbnails,
    typical_side,
    white_backdrops,
)
from fruits.storage.tables.spool import Spool

FAULTY = Path(__file__).parents[2] / "faulty_decoder"


def save(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "red").save(path)


def test_typical_side_is_the_median_of_the_short_sides(tmp_path: Path) -> None:
    for number, size in enumerate([(40, 90), (90, 50), (60, 60)]):
        save(tmp_path / "a" / f"{number}.png", *size)
    assert typical_side(list_photos([str(tmp_path)]).listed) == 50


def test_sharpest_source_decides(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "small" / "a" / f"{number}.png", 20, 20)
    save(tmp_path / "large" / "a" / "0.png", 200, 100)
    assert typical_side(list_photos([str(tmp_path / "small"), str(tmp_path / "large")]).listed) == 100


def test_photos_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    save(tmp_path / "a" / "0.png", 30, 30)
    for number in range(1, 9):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"text")
    assert typical_side(list_photos([str(tmp_path)]).listed) == 30


def test_nothing_readable_has_no_typical_side(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"text")
    assert typical_side(list_photos([str(tmp_path)]).listed) is None


def test_thumbnails_are_small_and_skip_what_does_not_open(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 400, 200)
    (tmp_path / "b.png").write_bytes(b"text")
    save(tmp_path / "c.png", 10, 10)
    uris = [str(tmp_path / name) for name in ("gone.png", "b.png", "a.png", "c.png")]
    sizes = [Image.open(BytesIO(data)).size for data in thumbnails(uris, 5)]
    assert sizes == [(128, 64), (10, 10)]
    assert len(thumbnails(uris, 1)) == 1


def test_every_label_has_an_example_and_every_confused_pair_its_photos(photos: Path) -> None:
    listed = list_photos([str(photos)]).listed
    wrong = sorted(map(str, photos.glob("Test/Moon Pear 1/*.jpg")))[:2]
    found = example_photos(listed, {("Moon Pear 1", "Starrib Yellow"): wrong})
    labels = {folder.name for folder in photos.glob("*/*")}
    assert set(found) == labels | {"Moon Pear 1\0Starrib Yellow"}
    assert len(found["Moon Pear 1"]) == len(found["Starrib Yellow"]) == 3
    assert len(found["Moon Pear 1\0Starrib Yellow"]) == 2


def test_confused_photos_come_with_what_led_to_the_answer(photos: Path) -> None:
    listed = list_photos([str(photos)]).listed
    wrong = sorted(map(str, photos.glob("Test/Moon Pear 1/*.jpg")))[:2]
    asked: list[tuple[bytes, str]] = []

    def explained(photo: bytes, label: str) -> bytes | None:
        asked.append((photo, label))
        return b"map" if len(asked) == 1 else None

    pair = ("Moon Pear 1", "Starrib Yellow")
    found = example_photos(listed, {pair: [*wrong, "gone.jpg"]}, explained=explained)
    assert found["\0".join((*pair, "map"))] == [b"map"]
    assert asked == [(Path(uri).read_bytes(), "Starrib Yellow") for uri in wrong]


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A photo that kills the process that decodes it, and this process's decoder started so that it does."""
    monkeypatch.setenv("PYTHONPATH", str(FAULTY))
    own_decoder().close()
    save(tmp_path / "k.jpg", 60, 40)
    path = tmp_path / "killer.jpg"
    path.write_bytes(runpy.run_path(str(FAULTY / "marked.py"))["marked"]((tmp_path / "k.jpg").read_bytes(), "crash"))
    yield path
    own_decoder().close()


def test_photo_that_kills_costs_its_own_thumbnail_and_no_other(killer: Path) -> None:
    good = str(killer.with_name("k.jpg"))
    assert thumbnail(str(killer)) is None
    assert [one is None for one in gallery_thumbnails([good, str(killer), good, "gone"], 32, 80)] == [
        False,
        True,
        False,
        True,
    ]
    assert len(thumbnails([str(killer), good], 2)) == 1


def test_gallery_of_many_photos_comes_in_order(tmp_path: Path) -> None:
    """Enough for more than one decoder where there is more than one core."""
    for number in range(8):
        save(tmp_path / f"{number}.png", 20 + number, 10)
    uris = [str(tmp_path / f"{number % 8}.png") for number in range(500)]
    widths = [Image.open(BytesIO(data)).width for data in gallery_thumbnails(uris, 64, 80) if data]
    assert widths == [20 + number % 8 for number in range(500)]


@pytest.mark.parametrize(
    ("colour", "white"), [((255, 255, 255), 6), ((240, 235, 230), 6), ((200, 255, 255), 0), ((40, 90, 30), 0)]
)
def test_photos_on_white_are_told_by_their_margins(tmp_path: Path, colour: tuple[int, int, int], white: int) -> None:
    for number in range(6):
        image = Image.new("RGB", (90, 70), colour)
        image.paste((190, 20, 20), (20, 15, 70, 55))
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no photo")
    uris = Spool.of(pa.table({"uri": [str(path) for path in sorted(tmp_path.iterdir())]}))
    assert white_backdrops(uris) == (6, white)
