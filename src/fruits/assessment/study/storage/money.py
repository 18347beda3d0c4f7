"""What bytes cost on S3 in a month, by storage class, and after how many months moving them pays.

Arithmetic only; prices are given by the caller. Infrequent Access and Glacier Instant Retrieval bill small objects as 128 KiB,
charge for what is read, and bill a minimum of days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

GB: Final = 1e9
_SMALLEST: Final = 128 << 10


@dataclass(frozen=True, slots=True)
class StorageClass:
    """A storage class of S3: names of its prices, and what it bills at least.

    Attributes
    ----------
    name : str
        As in the API.
    month, get : str
        Names of the prices of a GB for a month, and of one GET.
    retrieval, transition : str
        Names of the prices of a GB read, and of one object moved there; empty if there is none.
    least_bytes, least_days : int
        Billed at least for every object.
    """

    name: str
    month: str
    get: str
    retrieval: str = ""
    transition: str = ""
    least_bytes: int = 0
    least_days: int = 0


CLASSES: Final = (
    StorageClass("STANDARD", "s3_standard_gb_month", "s3_get"),
    StorageClass(
        "STANDARD_IA", "s3_infrequent_gb_month", "s3_infrequent_get", "s3_infrequent_retrieval_gb", "s3_infrequent_transition",
        _SMALLEST, 30,
    ),
    StorageClass(
        "GLACIER_IR", "s3_archive_gb_month", "s3_archive_get", "s3_archive_retrieval_gb", "s3_archive_transition", _SMALLEST, 90
    ),
)  # fmt: skip
#: Names of all prices that are needed.
PRICES: Final = tuple(
    sorted({name for one in CLASSES for name in (one.month, one.get, one.retrieval, one.transition) if name})
)


def monthly(
    kept: StorageClass, prices: Mapping[str, float], size: float, objects: float, reads: float
) -> dict[str, float]:
    """Return the cost of a month in USD: ``storage``, ``requests``, ``retrieval`` and ``total``.

    Parameters
    ----------
    kept : StorageClass
    prices : mapping
        Name to USD.
    size, objects : float
        Bytes, and the number of objects that hold them.
    reads : float
        How often all of it is read in a month.
    """
    billed = max(size, objects * kept.least_bytes) / GB
    cost = {
        "storage": billed * prices[kept.month],
        "requests": objects * reads * prices[kept.get],
        "retrieval": size / GB * reads * prices[kept.retrieval] if kept.retrieval else 0.0,
    }
    return {**cost, "total": sum(cost.values())}


def break_even_months(
    kept: StorageClass, prices: Mapping[str, float], size: float, objects: float, reads: float
) -> int | None:
    """Return after how many whole months moving objects from STANDARD has paid for itself; None if it never does.

    Moving costs a request per object once. The minimum duration is part of it: less would be billed as that.
    """
    if not kept.transition:
        return 0
    saved = (
        monthly(CLASSES[0], prices, size, objects, reads)["total"]
        - monthly(kept, prices, size, objects, reads)["total"]
    )
    if saved <= 0:
        return None
    return max(math.ceil(objects * prices[kept.transition] / saved - 1e-9), math.ceil(kept.least_days / 30))
