"""Copies as near-duplicates are: like their photo, never the same."""

from __future__ import annotations

import numpy as np
import pytest

from fruits.photos.decoding.retouch import retouched
from fruits.photos.generated import generator


@pytest.fixture(scope="module")
def fruit() -> np.ndarray:
    """One photo each of 12 varieties."""
    return np.stack([generator.photo(variety, "", 10) for variety in generator.VARIETIES[:12]])


def test_copies_have_the_shape_of_their_photos_and_leave_them_alone(fruit: np.ndarray) -> None:
    before = fruit.copy()
    copies = retouched(fruit)
    assert (copies.shape, copies.dtype) == (fruit.shape, np.uint8)
    assert (fruit == before).all()


def test_copy_depends_on_seed_and_place_alone(fruit: np.ndarray) -> None:
    copies = retouched(fruit, seed=3)
    assert (retouched(fruit[:5], seed=3) == copies[:5]).all()
    assert (retouched(fruit, seed=4) != copies).any(axis=(1, 2, 3)).all()
    twice = retouched(np.stack([fruit[0], fruit[0]]), seed=3)
    assert (twice[0] != twice[1]).any()


def test_copy_is_nearest_to_its_own_photo_but_not_the_same(fruit: np.ndarray) -> None:
    copies = retouched(fruit).astype(np.float64)
    distance = np.abs(copies[:, None] - fruit[None]).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(len(fruit))).all()
    assert (distance.diagonal() > 0).all()


def test_copy_is_a_few_per_cent_lighter_or_darker_at_most(fruit: np.ndarray) -> None:
    grey = np.full((8, 64, 64, 3), 100, np.uint8)
    level = retouched(grey).mean(axis=(1, 2, 3)) / 100
    assert len(set(level.tolist())) > 1
    assert (np.abs(level - 1) < 0.1).all()  # 8 % and what JPEG rounds
