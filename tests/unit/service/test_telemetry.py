"""Log lines and metrics: JSON, complete at the end, no address, nothing that holds up."""

from __future__ import annotations

import io
import json
import logging

import pytest

from fruits.service import telemetry as module
from fruits.service.telemetry import LogHandler, Telemetry


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_all_lines_are_written_in_order_when_it_stops() -> None:
    stream = io.StringIO()
    telemetry = Telemetry(stream)
    telemetry.start()
    for number in range(5000):
        telemetry.log("one", number=number)
    telemetry.stop()
    assert [line["number"] for line in lines(stream)] == list(range(5000))


def test_lines_that_nobody_takes_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINES_WAITING", 10)
    telemetry = Telemetry(io.StringIO())  # its writer does not run
    for _ in range(25):
        telemetry.log("one")
    assert b"fruits_log_lines_dropped_total 15.0" in telemetry.exposition()


def test_closed_stream_ends_nothing() -> None:
    stream = io.StringIO()
    telemetry = Telemetry(stream)
    telemetry.start()
    stream.close()
    telemetry.log("one")
    telemetry.stop()
    assert b"fruits_log_lines_dropped_total 1.0" in telemetry.exposition()


def test_clients_are_told_apart_today_and_by_nobody_tomorrow() -> None:
    telemetry = Telemetry(io.StringIO())
    today = telemetry.client("203.0.113.7")
    assert today == telemetry.client("203.0.113.7")
    assert today != telemetry.client("203.0.113.8")
    assert "203" not in today or len(today) == 12
    telemetry._salt_day = "2000-01-01"
    assert telemetry.client("203.0.113.7") != today
    assert Telemetry(io.StringIO()).client("203.0.113.7") != today


def test_lines_of_libraries_hold_no_values() -> None:
    stream = io.StringIO()
    telemetry = Telemetry(stream)
    logger = logging.getLogger("some.library")
    handler = LogHandler(telemetry)
    logger.addHandler(handler)
    logger.propagate = False
    telemetry.start()
    logger.warning("odd file %s", "holiday.jpg")
    logger.removeHandler(handler)
    telemetry.stop()
    (line,) = lines(stream)
    assert (line["event"], line["message"]) == ("library", "odd file %s")
    assert "holiday" not in stream.getvalue()
