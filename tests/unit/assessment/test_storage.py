"""Arithmetic of the storage study: what bytes cost, when moving them pays, and what number formats and codecs keep."""

from __future__ import annotations

import numpy as np
import pytest

from fruits.assessment.study.storage.encoding import FORMATS, codecs_for, encoded, measured_files
from fruits.assessment.study.storage.money import CLASSES, break_even_months, monthly
from fruits.aws.pricing import prices

STANDARD, INFREQUENT, ARCHIVE = CLASSES
#: Made up, so that sums can be done by hand.
PRICES = {
    "s3_standard_gb_month": 0.02, "s3_get": 0.001, "s3_infrequent_gb_month": 0.01, "s3_infrequent_get": 0.002,
    "s3_infrequent_retrieval_gb": 0.005, "s3_infrequent_transition": 0.03, "s3_archive_gb_month": 0.004, "s3_archive_get": 0.01,
    "s3_archive_retrieval_gb": 0.03, "s3_archive_transition": 0.05,
}  # fmt: skip


def test_a_month_is_storage_requests_and_retrieval() -> None:
    # 100 GB in 50 objects, read twice: 100 x 0.02 + 100 GETs x 0.001.
    assert monthly(STANDARD, PRICES, 100e9, 50, 2) == pytest.approx(
        {"storage": 2.0, "requests": 0.1, "retrieval": 0.0, "total": 2.1}
    )
    # 100 x 0.01 + 100 x 0.002 + 200 GB x 0.005.
    assert monthly(INFREQUENT, PRICES, 100e9, 50, 2) == pytest.approx(
        {"storage": 1.0, "requests": 0.2, "retrieval": 1.0, "total": 2.2}
    )


def test_small_objects_are_billed_as_128_kib_outside_standard() -> None:
    # A million objects of 5 kB: 5 GB in STANDARD, 131.072 GB as billed elsewhere.
    assert monthly(STANDARD, PRICES, 5e9, 1e6, 0)["storage"] == pytest.approx(0.1)
    assert monthly(INFREQUENT, PRICES, 5e9, 1e6, 0)["storage"] == pytest.approx(1.31072)
    assert break_even_months(INFREQUENT, PRICES, 5e9, 1e6, 0) is None


@pytest.mark.parametrize(
    ("kept", "size", "objects", "reads", "expected"),
    [
        # Saves 100 x 0.01 = 1 a month; moving 50 objects costs 1.5: paid after 2 months.
        (INFREQUENT, 100e9, 50, 0, 2),
        # Moving 100 costs 3: after exactly 3 months.
        (INFREQUENT, 100e9, 100, 0, 3),
        # Moving 5 costs 0.15, but 30 days are billed at least.
        (INFREQUENT, 100e9, 5, 0, 1),
        # Saves 100 x 0.016 = 1.6; moving costs 0.25, but 90 days are billed at least.
        (ARCHIVE, 100e9, 5, 0, 3),
        # Read once a month: 100 GB x 0.03 is more than the 1.6 saved.
        (ARCHIVE, 100e9, 5, 1, None),
        (STANDARD, 100e9, 5, 1, 0),
    ],
)
def test_moving_pays_once_the_requests_are_saved(
    kept: object, size: float, objects: float, reads: float, expected: int | None
) -> None:
    assert break_even_months(kept, PRICES, size, objects, reads) == expected  # type: ignore[arg-type]


def test_the_price_table_of_the_package_has_every_price() -> None:
    table = prices.load()
    named = {name for kept in CLASSES for name in (kept.month, kept.get, kept.retrieval, kept.transition) if name}
    assert named <= table.table.keys()
    assert table["s3_get"] < table["s3_infrequent_get"] < table["s3_archive_get"]


def test_int8_keeps_every_number_within_half_a_step() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * np.array(
        [1, 10, 0.1, 3, 1, 0], np.float32
    )
    kept = encoded(vectors, "int8")
    assert kept.values.dtype == np.int8
    assert (np.abs(kept.decoded - vectors) <= np.abs(vectors).max(axis=0) / 127 / 2 + 1e-6).all()
    assert (encoded(vectors, "float32").decoded == vectors).all()
    assert np.allclose(encoded(vectors, "float16").decoded, vectors, rtol=1e-3)


@pytest.mark.parametrize("number_format", FORMATS)
def test_files_hold_all_rows_and_compress(number_format: str) -> None:
    values = encoded(np.zeros((300, 8), np.float32), number_format).values
    plain = measured_files(values, "none", 100, 1)
    assert plain["files"] == 3
    assert values.nbytes < plain["bytes"] < values.nbytes + 3 * 1500, "the numbers, and the headers of three files"
    for codec in codecs_for(number_format)[1:]:
        assert measured_files(values, codec, 300, 1)["bytes"] < plain["bytes"]
