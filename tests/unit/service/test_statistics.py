from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from fruits.errors import StoreError
from fruits.service import statistics as module
from fruits.service.statistics import Statistics
from fruits.service.submissions.database import Database
from fruits.service.submissions.tables import CountRow

TODAY = date(2026, 11, 25)


@pytest.fixture
def statistics(database: Database, monkeypatch: pytest.MonkeyPatch) -> Statistics:
    monkeypatch.setattr(module, "_today", lambda: TODAY)
    return Statistics(database)


def test_what_was_counted_comes_back_by_day(
    statistics: Statistics, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for outcome in ("variety", "kind", "kind", "probable", "unsure", "unknown"):
        statistics.answered(outcome, 0.02, kept=outcome == "kind", model="m")
    statistics.refused("damaged")
    statistics.refused("damaged")
    statistics.refused("A code; that is none")
    statistics.feedback(right=True)
    statistics.feedback(right=False)
    monkeypatch.setattr(module, "_today", lambda: TODAY + timedelta(days=1))
    statistics.answered("variety", 0.02, kept=False, model="m")
    found = Statistics(database).summary(3)  # not yet written: another process sees none of it
    assert [day["photos"] for day in found["days"]] == [0, 0, 0]
    found = statistics.summary(3)
    assert [day["day"] for day in found["days"]] == ["2026-11-24", "2026-11-25", "2026-11-26"]
    before, day, after = found["days"]
    assert (before["photos"], day["photos"], after["photos"]) == (0, 6, 1)
    assert day["outcomes"] == {"variety": 1, "kind": 2, "probable": 1, "unsure": 1, "unknown": 1}
    assert day["refused"] == {"damaged": 2, "internal": 1}
    assert (day["kept"], day["right"], day["wrong"]) == (2, 1, 1)
    assert day["unsure_share"] == pytest.approx(1 / 3)
    assert before["unsure_share"] is before["p50"] is None
    assert found["total"]["photos"] == 7
    assert Statistics(database).summary(3) == found or found["total"]["drift"] == {}


def test_counts_of_several_processes_add_up(database: Database, statistics: Statistics) -> None:
    others = [Statistics(database) for _ in range(4)]

    def work(one: Statistics) -> None:
        for turn in range(60):
            one.answered("kind", 0.001 * (turn % 7), kept=True, model="m", bins=np.arange(17) % 10)
            if turn % 10 == 9:
                one.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, others))
    found = statistics.summary(1)["total"]
    assert found["photos"] == found["kept"] == 240
    assert found["drift"]["m"].sum() == 240 * 17


def test_drift_is_counted_by_model_number_and_decile(statistics: Statistics) -> None:
    statistics.answered("kind", 0.1, kept=False, model="old", bins=np.array([9, 9, 9]))
    statistics.answered("kind", 0.1, kept=False, model="new", bins=np.array([0, 5, 9]))
    statistics.answered("kind", 0.1, kept=False, model="new", bins=np.array([0, 6, 9]))
    found = statistics.summary(1)["total"]["drift"]
    expected = np.zeros((3, 10), np.int64)
    expected[0, 0], expected[1, 5], expected[1, 6], expected[2, 9] = 2, 1, 1, 2
    np.testing.assert_array_equal(found["new"], expected)
    assert found["old"].sum() == 3


@pytest.mark.parametrize("seconds", [0.0015, 0.02, 0.4, 3.0, 60.0])
def test_latency_quantiles_are_near(statistics: Statistics, seconds: float) -> None:
    for _ in range(98):
        statistics.answered("kind", seconds, kept=False, model="m")
    for _ in range(2):
        statistics.answered("kind", seconds * 8, kept=False, model="m")
    found = statistics.summary(1)["total"]
    assert found["p50"] == pytest.approx(seconds, rel=0.1)
    assert found["p95"] == pytest.approx(seconds, rel=0.1)
    assert found["p99"] == pytest.approx(seconds * 8, rel=0.1)


def test_odd_latencies_are_counted_all_the_same(statistics: Statistics) -> None:
    for seconds in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        statistics.answered("kind", seconds, kept=False, model="m")
    assert statistics.summary(1)["total"]["photos"] == 5


def test_counts_that_cannot_be_written_are_kept_for_the_next_time(
    statistics: Statistics, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refuse(_: object) -> Any:
        raise StoreError("the disk is full")
        yield

    statistics.refused("busy")
    with monkeypatch.context() as patch:
        patch.setattr(Database, "writing", refuse)
        with pytest.raises(StoreError):
            statistics.flush()
    statistics.refused("busy")
    assert statistics.summary(1)["total"]["refused"] == {"busy": 2}
    assert statistics.summary(1)["total"]["refused"] == {"busy": 2}, "and are written once"


def test_nothing_but_counts_is_stored(statistics: Statistics, database: Database) -> None:
    statistics.answered("kind", 0.1, kept=True, model="0123456789abcdef" * 9, bins=np.array([3]))
    statistics.refused("photo of Ada, 203.0.113.7")
    statistics.flush()
    with database.reading() as connection:
        rows = connection.execute(select(CountRow.__table__)).all()
    assert {row.name for row in rows} == {
        "outcome:kind", "kept", "latency", "refused:internal", "drift:" + ("0123456789abcdef" * 9)[:32],
    }  # fmt: skip
    with pytest.raises(ValueError, match="outcome"):
        statistics.answered("Ada's photo", 0.1, kept=True, model="m")


def test_old_counts_go(statistics: Statistics, monkeypatch: pytest.MonkeyPatch) -> None:
    for ago in (401, 400, 0):
        monkeypatch.setattr(module, "_today", lambda ago=ago: TODAY - timedelta(days=ago))
        statistics.refused("busy")
        statistics.flush()
    assert statistics.purge(TODAY) == 1
    assert statistics.purge(TODAY) == 0
