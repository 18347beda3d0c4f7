"""A few training photos stand for all, and the nearest of them are shown."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fruits.recogniser import bundle as bundles
from fruits.recogniser import gallery as galleries
from fruits.recogniser.bundle_files import manifest_bytes
from fruits.recogniser.gallery import Gallery, choose

RNG = np.random.default_rng(3)


def test_every_label_gets_the_same_number_and_the_first_of_all_come_first() -> None:
    labels = np.repeat([0, 1, 2], [50, 4, 1])
    chosen = choose(RNG.normal(size=(55, 6)).astype(np.float32), labels, 12)
    assert labels[chosen].tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1]
    assert len(set(chosen.tolist())) == 9


def test_photos_of_a_label_are_spread_and_copies_are_shown_once() -> None:
    corners = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    features = np.repeat(corners, 25, axis=0)
    chosen = choose(features, np.zeros(100, np.int64), 16)
    assert sorted(map(tuple, features[chosen].tolist())) == sorted(map(tuple, corners.tolist()))


def test_with_more_labels_than_places_some_have_none() -> None:
    assert len(choose(RNG.normal(size=(30, 2)).astype(np.float32), np.arange(30), 7)) == 7


def test_nearest_are_by_angle_best_first_and_ties_in_order() -> None:
    gallery = Gallery.of(
        np.array([[1, 0], [0, 1], [2, 0], [1, 1]], np.float32), np.array([0, 1, 2, 3]), [b"a", b"bb", b"c", b"d"]
    )
    ((best, second, third),) = gallery.nearest(np.array([[3, 0.0]], np.float32), 3)
    assert [best[0], second[0], third[0]] == [0, 2, 3]
    assert best[1] == pytest.approx(1)
    assert third[1] == pytest.approx(np.sqrt(0.5))
    assert gallery.thumbnail(1) == b"bb"
    for wrong in (-1, 4):
        with pytest.raises(IndexError):
            gallery.thumbnail(wrong)


def test_photos_that_do_not_open_and_bytes_beyond_the_bound_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "MAX_BYTES", 10)
    gallery = Gallery.of(np.eye(4, dtype=np.float32), np.arange(4), [b"12345", None, b"123456", b"12345"])
    assert gallery.labels.tolist() == [0, 3]
    assert gallery.jpegs == b"1234512345"


def test_an_empty_gallery_has_no_neighbours() -> None:
    assert Gallery.empty(5).nearest(np.ones((2, 5), np.float32), 6) == [[], []]


def test_parts_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        Gallery(np.zeros(2, np.int64), np.zeros((2, 1), np.float32), np.array([0, 1, 2]), b"abc")


def test_bundle_of_a_run_shows_photos_of_the_label_it_names(finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    assert len(bundle.gallery) >= 8 * 8
    assert set(bundle.gallery.labels.tolist()) == set(range(8))
    picture = Image.open(BytesIO(bundle.gallery.thumbnail(0)))
    assert max(picture.size) <= galleries.SIDE
    assert not picture.getexif()
    right, asked = 0, sorted(finished_run.photos.glob("Test/*/*.jpg"))[::2]
    for path, answer in zip(asked, bundle.recognise([path.read_bytes() for path in asked]), strict=True):
        ((nearest, _),) = bundle.gallery.nearest(answer.features[None], 1)[0]
        right += bundle.labels[bundle.gallery.labels[nearest]] == path.parent.name
    assert right > 0.8 * len(asked)


@pytest.mark.slow
def test_gallery_is_a_choice_of_the_run(fruits: Any, finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    assert len(bundles.load(out).gallery) > 0
    done = fruits("run", finished_run.photos, "--to", out, "--gallery", 0, "--json")
    assert done.code == 0, done.stderr
    assert len(bundles.load(out).gallery) == 0
    assert fruits("run", finished_run.photos, "--to", out, "--gallery", 4000).code == 2


def test_identity_tells_bundles_apart(finished_run: Any, tmp_path: Path) -> None:
    first = bundles.load(finished_run.out)
    assert len(first.identity) == 16
    copied = finished_run.copy_to(tmp_path) / "bundle"
    manifest = json.loads((copied / "manifest.json").read_text("utf-8"))
    del manifest["sha256"]
    manifest["about"]["identity"] = "other"
    (copied / "manifest.json").write_bytes(manifest_bytes(manifest))
    assert bundles.load(copied).identity != first.identity
