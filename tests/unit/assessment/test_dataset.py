"""Of more photos than can be compared, whole groups are used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.assessment import dataset


@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(2, 200))
def test_groups_are_taken_in_order_as_long_as_they_fit(seed: int, n: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(-50, rng.integers(-40, 100), n)
    group = np.where(rng.random(n) < rng.random() / 2, 7, group)  # a large one
    rows = np.flatnonzero(rng.random(n) < 0.9)
    taken: list[int] = []
    total = 0
    for one in np.unique(group[rows]).tolist():
        if total + (size := int((group[rows] == one).sum())) <= most:
            taken, total = [*taken, one], total + size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "MAX_PHOTOS", most)
        found = dataset._at_most(rows, group)
    if len(rows) <= most:
        assert found.tolist() == rows.tolist()
    elif total >= most // 2:
        assert found.tolist() == rows[np.isin(group[rows], taken)].tolist()
    else:
        assert len(set(found.tolist())) == most, "with groups that are too large, photos are taken one by one"
