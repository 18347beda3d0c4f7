"""A timeline says what happened, stays bounded and disturbs nobody."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fruits.monitoring import timeline
from fruits.monitoring.clock import Silent
from fruits.monitoring.timeline import Timeline
from fruits.report.timeline import view_timeline


def test_timeline_of_a_run_closes_with_its_counts(finished_run: Any) -> None:
    seen = finished_run.record["timeline"]
    assert seen["photos"] == finished_run.record["computed"] == 320
    assert seen["points"][-1]["photos"] == 320
    assert [point["at_s"] for point in seen["points"]] == sorted({point["at_s"] for point in seen["points"]})
    assert seen["cores"] == 2
    assert seen["photos_per_s"] == pytest.approx(320 / finished_run.record["seconds"]["embeddings"])
    assert seen["work_seconds"].keys() == {"read", "decode", "infer", "write"}
    assert seen["work_seconds"]["infer"] > 0
    assert max(point["cores_busy"] for point in seen["points"]) > 0
    assert max(point["memory_mb"] for point in seen["points"]) <= finished_run.record["peak_memory_mb"]
    assert seen["usd_per_million"] is None, "no price was given"


@pytest.mark.slow
@pytest.mark.parametrize("looks", [20, 300])
def test_a_long_run_has_no_more_points_than_a_page_shows(looks: int) -> None:
    watched = Timeline(Silent(), list)
    watched.start("embeddings", None)
    for _ in range(looks):
        watched.advance(5)
        watched.sample(last=True)  # a point each, as if a quarter of a second had passed
    watched.start("moments", None)
    watched.advance(7)  # not of the embeddings
    seen = watched.summary(seconds=2.0, cores=4, work={}, usd=None)
    assert looks == 20 == len(seen["points"]) or 100 < len(seen["points"]) <= 240
    photos = [point["photos"] for point in seen["points"]]
    assert photos == sorted(photos)
    assert photos[-1] == 5 * looks
    assert seen["photos_per_core_s"] == 5 * looks / 2.0 / 4


def test_photos_since_the_last_point_are_part_of_what_was_seen() -> None:
    with Timeline(Silent(), list) as watched:
        watched._every = 1000.0
        watched.start("embeddings", None)
        watched.advance(5)
        seen = watched.summary(seconds=1.0, cores=1, work={}, usd=None)
    assert [point["photos"] for point in seen["points"]] == [5]


def test_executors_say_how_many_cores_there_were() -> None:
    told = [{"id": "1", "active": True, "cores": 4, "tasks_active": 3, "tasks_done": 9, "tasks_failed": 0}]
    with Timeline(Silent(), lambda: told) as watched:
        watched.start("embeddings", None)
        watched.look()
        watched.advance(100)
        deadline = time.monotonic() + 60
        while not any(point.tasks for point in watched._points) and time.monotonic() < deadline:
            time.sleep(0.05)
    seen = watched.summary(seconds=10.0, cores=1, work={}, usd=0.5)
    assert seen["cores"] == 4
    assert max(point["tasks"] or 0 for point in seen["points"]) == 3
    assert seen["executors"] == told
    assert seen["usd_per_million"] == pytest.approx(0.5 * 4 / 3600 / 10 * 1e6)


def test_executors_that_have_nothing_left_to_do_are_not_shown_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_ASK_EVERY_S", 0.01)
    told = {"id": "1", "active": True, "cores": 4, "tasks_active": 3, "tasks_done": 9, "tasks_failed": 0}
    with Timeline(Silent(), lambda: [dict(told)]) as watched:
        watched.start("embeddings", None)
        _wait_for_point(watched, tasks=3)
        watched.start("head", None)
        told["tasks_active"] = 0
        _wait_for_point(watched, tasks=0)
    assert watched._points[-1].tasks == 0


def _wait_for_point(watched: Timeline, *, tasks: int) -> None:
    deadline = time.monotonic() + 60
    while not (watched._points and watched._points[-1].tasks == tasks) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_plots_stay_inside_and_their_highest_level_is_below_the_top() -> None:
    points = [
        {"at_s": at, "photos": 0, "photos_per_s": rate, "cores_busy": 1.5, "memory_mb": 0, "tasks": None, "cores": None}
        for at, rate in ((1.0, 0.0), (2.0, 333.0), (7.0, 100.0))
    ]
    shown = view_timeline(
        {"timeline": {"points": points, "photos_per_s": 100.0, "photos_per_core_s": 50.0, "cores": 2}}
    )
    assert shown is not None
    for panel in shown.panels:
        for x, y in (pair.split(",") for pair in panel.line.split()):
            assert 0 <= float(x) <= 100
            assert 0 <= float(y) <= 100
    assert [value for _, value in shown.panels[0].levels] == [0, 100, 200, 300]
    assert shown.panels[2].levels == [(100.0, 0.0)], "nothing but zeros"
    assert [second for _, second in shown.ticks] == [0, 2, 4, 6]


@pytest.mark.parametrize("record", [{}, {"timeline": {"points": []}}, {"timeline": None}])
def test_a_record_without_a_timeline_has_no_section(record: dict[str, Any]) -> None:
    assert view_timeline(record) is None
