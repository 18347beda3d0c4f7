"""Daily counts of the service: photos, outcomes, refusals, latency, drift. No personal data.

Counts are kept in memory and written every few seconds, so that counting adds no latency to a request; counts not yet written
when a process is killed are lost. Any number of processes add to the same counts. The bundle defines the bins of drift.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select

from fruits.learning.drift import BINS
from fruits.recogniser.answers import OUTCOMES
from fruits.service.submissions.database import Database
from fruits.service.submissions.tables import CountRow

#: Buckets of latency per doubling: a quantile read from them is off by 9 % at most.
_PER_DOUBLING: Final = 4
_FIRST_S: Final = 0.001
_LAST_BUCKET: Final = 80
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_CODE: Final = re.compile(r"[a-z_]{1,32}")
#: Days for which counts are kept.
KEEP_DAYS: Final = 400


class Statistics:
    """Counts by day (UTC); thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._counted: Counter[tuple[str, str, int]] = Counter()
        #: Photos in the bins of drift, by day and name: an array for each, since every photo falls into many bins.
        self._drifted: dict[tuple[str, str], NDArray[np.int64]] = {}

    def answered(
        self, outcome: str, seconds: float, *, kept: bool, model: str, bins: NDArray[np.int64] | None = None
    ) -> None:
        """Count a photo that got an answer.

        Parameters
        ----------
        outcome : str
            Of ``fruits.recogniser.answers.OUTCOMES``.
        seconds : float
            From the request's head to the answer.
        kept : bool
            Whether the photo was stored, with the visitor's consent.
        model : str
            Identity of the bundle; every bundle has its own deciles.
        bins : int array, shape (m + 1,), optional
            Decile of the training distribution that each measured value falls into, from ``bundle.drift.bins``.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome is {outcome!r}; expected one of {', '.join(OUTCOMES)}")
        names = [(f"outcome:{outcome}", 0), ("latency", _bucket(seconds))]
        names += [("kept", 0)] if kept else []
        self._count(names)
        if bins is not None:
            name = _today().isoformat(), f"drift:{model[:32]}"
            with self._lock:
                if name not in self._drifted:
                    self._drifted[name] = np.zeros((len(bins), BINS), np.int64)
                self._drifted[name][np.arange(len(bins)), bins] += 1

    def refused(self, code: str) -> None:
        """Count a recognition request, or one photo among several, that got an error, by the error's code."""
        self._count([(f"refused:{code if _CODE.fullmatch(code) else 'internal'}", 0)])

    def feedback(self, *, right: bool) -> None:
        """Count a visitor's feedback."""
        self._count([("feedback:right" if right else "feedback:wrong", 0)])

    def flush(self) -> None:
        """Write the counts since the last flush to the database.

        Raises
        ------
        StoreError
            If that fails; the counts are kept for the next flush.
        """
        with self._lock:
            counted, self._counted = self._counted, Counter()
            drifted, self._drifted = self._drifted, {}
        for (day, name), table in drifted.items():
            counted.update({(day, name, int(at)): int(table.flat[at]) for at in np.flatnonzero(table)})
        if not counted:
            return
        rows = [{"day": day, "name": name, "bucket": bucket, "count": n} for (day, name, bucket), n in counted.items()]
        # All processes lock rows in the same order: no deadlocks.
        rows.sort(key=lambda row: (row["day"], row["name"], row["bucket"]))
        try:
            with self._database.writing() as connection:
                self._database.add_up(connection, CountRow, rows, "count")
        except BaseException:
            with self._lock:
                self._counted.update(counted)
            raise

    def purge(self, today: date | None = None) -> int:
        """Delete counts older than 400 days; return the number of rows."""
        first = ((today or _today()) - timedelta(days=KEEP_DAYS)).isoformat()
        with self._database.writing() as connection:
            return connection.execute(delete(CountRow).where(CountRow.day < first)).rowcount

    def summary(self, days: int = 30, *, today: date | None = None) -> dict[str, Any]:
        """Return the counts of the last days, today included, oldest first; pending counts are flushed first.

        Returns
        -------
        dict
            ``days``: per day ``day, photos, kept, outcomes, refused, right, wrong, unsure_share, p50, p95, p99`` (seconds;
            None without photos) and ``drift``: identity of a bundle to int64 counts (m + 1, 10). ``total``: the same of all
            days together.
        """
        self.flush()
        last = today or _today()
        wanted = [(last - timedelta(days=ago)).isoformat() for ago in reversed(range(max(1, min(days, KEEP_DAYS))))]
        with self._database.reading() as connection:
            rows = connection.execute(
                select(CountRow.day, CountRow.name, CountRow.bucket, CountRow.count).where(
                    CountRow.day >= wanted[0], CountRow.day <= wanted[-1]
                )
            ).all()
        by_day: dict[str, Counter[tuple[str, int]]] = {day: Counter() for day in wanted}
        total: Counter[tuple[str, int]] = Counter()
        for day, name, bucket, count in rows:
            by_day[day][name, bucket] += count
            total[name, bucket] += count
        return {
            "days": [{"day": day, **_summary(counts)} for day, counts in by_day.items()],
            "total": _summary(total),
        }

    def _count(self, names: list[tuple[str, int]]) -> None:
        day = _today().isoformat()
        with self._lock:
            for name, bucket in names:
                self._counted[day, name, bucket] += 1


def _summary(counts: Counter[tuple[str, int]]) -> dict[str, Any]:
    outcomes = {outcome: counts[f"outcome:{outcome}", 0] for outcome in OUTCOMES}
    photos = sum(outcomes.values())
    latency = {bucket: count for (name, bucket), count in counts.items() if name == "latency"}
    drift: dict[str, NDArray[np.int64]] = {}
    for model in sorted({name for name, _ in counts if name.startswith("drift:")}):
        cells = {bucket: count for (name, bucket), count in counts.items() if name == model}
        table = np.zeros((max(cells) // BINS + 1, BINS), np.int64)
        table.flat[list(cells)] = list(cells.values())
        drift[model.removeprefix("drift:")] = table
    return {
        "photos": photos,
        "kept": counts["kept", 0],
        "outcomes": outcomes,
        "refused": {
            name.removeprefix("refused:"): count
            for (name, _), count in sorted(counts.items())
            if name.startswith("refused:")
        },
        "right": counts["feedback:right", 0],
        "wrong": counts["feedback:wrong", 0],
        "unsure_share": (outcomes["unsure"] + outcomes["unknown"]) / photos if photos else None,
        **{name: _quantile(latency, share) for name, share in QUANTILES.items()},
        "drift": drift,
    }


def _bucket(seconds: float) -> int:
    if not seconds > _FIRST_S:
        return 0
    return math.ceil(min(_LAST_BUCKET, _PER_DOUBLING * math.log2(seconds / _FIRST_S)))


def _quantile(latency: dict[int, int], share: float) -> float | None:
    """Return the midpoint of the bucket that contains the quantile."""
    left = share * sum(latency.values())
    for bucket in sorted(latency):
        left -= latency[bucket]
        if left <= 0:
            return round(float(_FIRST_S * 2 ** ((bucket - 0.5) / _PER_DOUBLING)), 6)
    return None


def _today() -> date:
    return datetime.now(UTC).date()
