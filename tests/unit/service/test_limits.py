"""Token buckets: a minute's worth at once, then as it drips."""

from __future__ import annotations

import pytest

from fruits.service.http.limits import rate_limits as limits
from fruits.service.http.limits.rate_limits import Limits, place_of


class Clock:
    """Time that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_at_once_then_one_by_one() -> None:
    clock = Clock()
    bucket = Limits(clock)
    assert [bucket.take("a", 6) for _ in range(6)] == [0.0] * 6
    assert bucket.take("a", 6) == pytest.approx(10)
    clock.now += 9.9
    assert 0 < bucket.take("a", 6) < 0.2  # asking in vain costs nothing
    clock.now += 0.2
    assert bucket.take("a", 6) == 0
    assert bucket.take("b", 6) == 0


def test_a_quiet_hour_saves_up_no_more_than_a_minute() -> None:
    clock = Clock()
    bucket = Limits(clock)
    bucket.take("a", 3)
    clock.now += 3600
    assert [bucket.take("a", 3) > 0 for _ in range(4)] == [False, False, False, True]


def test_several_at_once_are_taken_or_none() -> None:
    bucket = Limits(Clock())
    assert bucket.take("a", 10, 8) == 0
    assert bucket.take("a", 10, 3) > 0
    assert bucket.take("a", 10, 2) == 0
    assert Limits(Clock()).take("a", 5, 50) == 0  # more than it ever holds is all that it holds


def test_what_was_done_already_is_charged_beyond_the_bottom() -> None:
    clock = Clock()
    bucket = Limits(clock)
    bucket.charge("a", 60, 20)
    assert bucket.take("a", 60, 40) == 0
    bucket.charge("a", 60, 1000)
    assert bucket.take("a", 60) == pytest.approx(61)
    clock.now += 61
    assert bucket.take("a", 60) == 0
    bucket.charge("a", 0, 1000)
    assert bucket.take("a", 0) == 0


def test_uses_are_noted_by_hash_as_far_as_they_were_deducted() -> None:
    bucket = Limits(Clock())
    bucket.take("a", 10)
    assert bucket.uses() == {}, "nobody wants to know"
    bucket.hash_with(b"key")
    assert bucket.take("a", 10, 8) == 0
    assert bucket.take("a", 10, 8) > 0
    bucket.charge("a", 10, 1000)
    ((name, rate),) = uses = bucket.uses()
    assert (len(name), rate, uses[name, rate]) == (16, 10, 20)
    assert bucket.uses() == {}
    bucket.charge_elsewhere(name, 10, 95)
    assert bucket.take("a", 10) == pytest.approx(60 * 10.6), (
        "charged under the same name, and deeper than work done here"
    )
    bucket.charge("a", 10, 5)
    assert bucket.uses() == {(name, 10): 0}
    assert bucket.take("a", 10) == pytest.approx(60 * 10.6)
    bucket.hash_with(b"another key")
    assert bucket.take("a", 10, 10) == 0


def test_uses_that_nobody_fetches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST", 10)
    bucket = Limits(Clock())
    bucket.hash_with(b"key")
    for number in range(100):
        bucket.take(str(number), 1)
    assert len(bucket.uses()) == 10


def test_no_rate_no_limit() -> None:
    bucket = Limits(Clock())
    assert all(bucket.take("a", 0) == 0 for _ in range(1000))


def test_memory_is_bounded_and_the_quietest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST", 10)
    bucket = Limits(Clock())
    for number in range(100):
        bucket.take("busy", 200)
        bucket.take(str(number), 1)
    assert len(bucket._buckets) == 10
    assert bucket._buckets.get("busy") is not None


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("nonsense", "unknown"),
        ("", "unknown"),
    ],
)
def test_place_of_an_address(address: str, place: str) -> None:
    assert place_of(address) == place
