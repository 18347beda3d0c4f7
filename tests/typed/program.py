"""A program that uses the public API, for mypy (``make check``): what a type checker sees is what programs get.

mypy also refuses an ``ignore`` that nothing needs, so the option that does not exist must be noticed.
"""

from __future__ import annotations

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fruits


def program() -> None:
    """Use what needs a type."""
    run = fruits.run("photos", to="results", sample=3, only=["Apple*"])
    assert_type(run.recogniser().predict(b""), fruits.Answer)
    assert_type(fruits.load().predict([b"", "a.jpg"]), list[fruits.Answer])
    assert_type(run.metrics.accuracy if run.metrics else 0.0, float)
    assert_type(fruits.load().embed(["a.jpg"]), NDArray[np.float32])
    fruits.run("photos", to="results", sampel=3)  # type: ignore[call-arg]
