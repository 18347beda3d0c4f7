"""ImageSequences told from file names: frames of one turn, in whatever folders, and nothing that only looks numbered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.photos.catalogue.files.sequences import ImageSequences, number_frames


def sequences_of(names: list[str], labels: list[int] | None = None) -> ImageSequences:
    return ImageSequences.of(names, np.array(labels or [0] * len(names), np.int64))


def fruit(label: str, axis: str, frames: range) -> list[str]:
    """Paths as in Fruits-360: every fourth frame is under Test."""
    return [f"/data/{'Test' if i % 4 == 3 else 'Training'}/{label}/{axis}{i}_100.jpg" for i in frames]


def test_frames_of_training_and_test_are_one_sequence_and_prefixes_name_the_axis() -> None:
    paths = [
        *fruit("Apple", "", range(0, 328, 3)),
        *fruit("Apple", "r_", range(300)),
        *fruit("Apple", "r2_", range(30)),
    ]
    sequences = sequences_of(paths)
    name = np.array([path.rpartition("/")[2].rpartition("_100")[0].rpartition("_")[0] for path in paths])
    by_axis = {axis: sequences.axis[name == axis] for axis in ("", "r", "r2")}
    assert {axis: set(ranks.tolist()) for axis, ranks in by_axis.items()} == {"": {0}, "r": {2}, "r2": {1}}
    assert len(np.unique(sequences.sequence)) == 3
    assert ((sequences.turn >= 0) & (sequences.turn < 1)).all()


def test_place_in_the_turn_follows_the_frame_number_not_the_order_of_the_files() -> None:
    paths = fruit("Apple", "", range(328))
    order = np.random.default_rng(0).permutation(len(paths))
    sequences = sequences_of([paths[i] for i in order])
    np.testing.assert_allclose(sequences.turn, order / 328, atol=1e-12)  # frame 164 of 328 is half a turn


def test_each_label_has_sequences_of_its_own_with_ranks_from_nought() -> None:
    paths = [*fruit("Apple", "", range(40)), *fruit("Pear", "", range(40)), *fruit("Pear", "r_", range(40))]
    sequences = sequences_of(paths, [0] * 40 + [1] * 80)
    assert sequences.sequence.tolist() == [0] * 40 + [1] * 40 + [2] * 40
    assert sequences.axis.tolist() == [0] * 40 + [0] * 40 + [1] * 40


def test_number_that_occurs_twice_within_a_label_tells_nothing() -> None:
    # Two cameras, or two folders, that each count from 1.
    sequences = sequences_of(
        [f"/data/{folder}/Apple/IMG_{i:04d}.jpg" for folder in ("train", "val") for i in range(50)]
    )
    assert set(sequences.sequence.tolist()) == set(sequences.axis.tolist()) == {-1}
    assert not sequences.turn.any()


def test_the_same_numbers_in_another_label_do_no_harm() -> None:
    paths = [f"/data/{label}/{i}.jpg" for label in ("Apple", "Pear") for i in range(40)]
    assert sequences_of(paths, [0] * 40 + [1] * 40).sequence.tolist() == [0] * 40 + [1] * 40


@pytest.mark.parametrize("count", [23, 24])
def test_a_few_frames_are_no_sequence(count: int) -> None:
    assert (sequences_of(fruit("Apple", "", range(count))).sequence >= 0).all() == (count >= 24)


def test_names_without_digits_are_in_no_sequence_and_disturb_none() -> None:
    sequences = sequences_of([*fruit("Apple", "", range(30)), "/data/Apple/best.jpg", "/data/Apple/worst.jpg"])
    assert sequences.sequence.tolist() == [0] * 30 + [-1, -1]
    assert sequences.axis.tolist() == [0] * 30 + [-1, -1]


def test_no_photos_have_no_sequences() -> None:
    assert len(ImageSequences.of([], np.empty(0, np.int64)).sequence) == 0


def test_sequences_can_be_taken_out() -> None:
    sequences = sequences_of([*fruit("Apple", "", range(30)), *fruit("Apple", "r_", range(30))])
    fewer = sequences.without(sequences.axis == 0)
    assert fewer.sequence.tolist() == [-1] * 30 + [1] * 30
    assert fewer.axis.tolist() == [-1] * 30 + [1] * 30


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=200), st.randoms(use_true_random=False))
def test_sequences_do_not_depend_on_the_order_of_the_photos(photos: list[tuple[int, int]], random: object) -> None:
    labels = np.array([label for label, _ in photos], np.int64)
    paths = [f"/data/{label}/{'r_' if frame % 2 else ''}{frame}_100.jpg" for label, frame in photos]
    order = np.array(random.sample(range(len(photos)), len(photos)), np.int64)
    one, other = ImageSequences.of(paths, labels), ImageSequences.of([paths[i] for i in order], labels[order])
    for name in ("sequence", "axis", "turn"):
        assert (getattr(one, name)[order] == getattr(other, name)).all()


@given(st.lists(st.text(alphabet="ab_-.0123456789", min_size=1, max_size=12), max_size=60))
def test_every_name_with_digits_is_numbered_in_a_series(names: list[str]) -> None:
    for name, numbered in zip(names, number_frames(names), strict=True):
        if numbered is None:
            assert not any(character.isdigit() for character in name)
        else:
            series, frame = numbered
            assert str(frame) in name
            assert series.count("/") >= 1


def test_a_dozen_frames_of_each_planted_sequence_are_too_few(photos: Path) -> None:
    paths = sorted(map(str, photos.glob("*/*/*.jpg")))
    names = sorted({Path(path).parent.name for path in paths})
    labels = np.array([names.index(Path(path).parent.name) for path in paths], np.int64)
    # 40 photos of each make 13 or 14 frames per sequence: too few to call them sequences.
    assert set(ImageSequences.of(paths, labels).sequence.tolist()) == {-1}


def test_real_photos_are_sequences(shared: Path) -> None:
    paths = sorted(map(str, (shared / "fruits-360").glob("T*/Apple Braeburn/*.jpg")))
    sequences = sequences_of(paths)
    assert (sequences.sequence >= 0).all()
    assert len(set(sequences.axis.tolist())) == 2  # upright and lying
    for axis in (0, 1):
        # Training and Test are interleaved, so frames lie close all around.
        assert np.diff(np.sort(sequences.turn[sequences.axis == axis])).max() < 0.05
    shop = sorted(map(str, (shared / "grocery-store").rglob("Royal-Gala/*.jpg")))
    assert len(shop) > 24
    assert set(sequences_of(shop).sequence.tolist()) == {-1}
