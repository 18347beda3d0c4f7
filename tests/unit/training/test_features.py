"""Features of all photos, in memory or in a file."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from fruits.training.fitting import features as module
from fruits.training.fitting.features import Features, Part


@pytest.fixture(params=["memory", "file"])
def filled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], Features]:
    """Features of an array, put in parts that are not in order and not all neighbours."""
    if request.param == "file":
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 16)

    def fill(values: np.ndarray) -> Features:
        found = Features(*values.shape)
        for rows in (np.arange(40, 100), np.arange(1, 40, 2), np.arange(0, 40, 2), np.array([], np.int64)):
            found.put(rows, values[rows])
        return found

    return fill


VALUES = np.random.default_rng(0).normal(size=(100, 7)).astype(np.float32)


@pytest.mark.parametrize(
    "rows",
    [np.arange(100), np.array([99, 3, 3, 50]), np.array([], np.int64), np.arange(100) % 3 == 0, np.arange(17, 35)],
)
def test_rows_are_read_as_they_were_put(filled: Callable[[np.ndarray], Features], rows: np.ndarray) -> None:
    features = filled(VALUES)
    assert np.array_equal(features[rows], VALUES[rows])
    assert np.array_equal(features.first(4)[rows], VALUES[:, :4][rows])
    assert (len(features), features.first(4).shape) == (100, (100, 4))


def test_rows_are_whole_on_a_disk_that_takes_parts_of_them(
    filled: Callable[[np.ndarray], Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[:10], at))
    assert np.array_equal(filled(VALUES)[np.arange(100)], VALUES)


def test_a_part_has_rows_of_its_own(filled: Callable[[np.ndarray], Features]) -> None:
    own = np.array([90, 2, 45, 46])
    part = Part(filled(VALUES), own, 3)
    assert part.shape == (4, 3)
    assert np.array_equal(part[np.array([0, 3])], VALUES[own[[0, 3]], :3])
    assert np.array_equal(part[np.array([False, True, True, False])], VALUES[[2, 45], :3])
