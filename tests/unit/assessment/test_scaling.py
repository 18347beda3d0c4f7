"""Arithmetic of the scaling study: the law, the simulation against times worked out by hand, and plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fruits.assessment.study.scaling.projection import Offer, ProjectionOptions, project
from fruits.assessment.study.scaling.scalability import fit, intervals
from fruits.assessment.study.scaling.simulation import Cluster, Requests, Work, shards_of, simulate
from fruits.assessment.study.scaling.study import StudyOptions, elsewhere_of, work_of, worker_counts
from fruits.assessment.study.scaling.trials import Trial
from fruits.aws.pricing import prices
from fruits.aws.pricing.offers import offers
from fruits.errors import ConfigError

#: A worker that keeps one core busy, at 100 photos a second.
WORK = Work(photos_per_s=100.0, core_s=0.01)
EVEN = np.full(10, 100, np.int64)


def test_the_law_is_found_again_from_rates_that_follow_it() -> None:
    rates = {n: 100 * n / (1 + 0.05 * (n - 1) + 0.01 * n * (n - 1)) for n in (1, 2, 4, 8)}
    law = fit(rates)
    assert (law.rate, law.contention, law.coherence) == pytest.approx((100, 0.05, 0.01))
    assert law.at(8) == pytest.approx(rates[8])
    assert law.peak == pytest.approx((0.95 / 0.01) ** 0.5)


def test_too_few_numbers_of_workers_are_said_to_leave_parameters_open() -> None:
    two, one = fit({1: 100.0, 2: 160.0}), fit({1: 100.0})
    assert (two.fitted, one.fitted) == (("rate", "contention"), ("rate",))
    # 2 x 100 / (1 + contention) = 160.
    assert (two.rate, two.contention, two.coherence) == pytest.approx((100, 0.25, 0))
    assert (two.peak, one.at(7)) == (None, pytest.approx(700))


def test_parameters_are_never_negative() -> None:
    law = fit({1: 100.0, 2: 230.0, 3: 360.0})
    assert law.contention >= 0
    assert law.coherence >= 0


def test_intervals_come_from_the_repeats_and_hold_the_value() -> None:
    repeats = {1: [98.0, 100.0, 102.0], 2: [150.0, 160.0, 170.0]}
    found = intervals(repeats, draws=200)
    assert found.keys() == {"rate", "contention"}, "nothing is said of what was not fitted"
    assert found["contention"][0] < 0.25 < found["contention"][1]
    assert intervals(repeats, draws=200) == found
    still = intervals({1: [100.0] * 3, 2: [160.0] * 3}, draws=20)
    assert still["contention"] == pytest.approx((0.25, 0.25))


def test_workers_with_cores_of_their_own_divide_the_work() -> None:
    assert simulate(WORK, Cluster(workers=1, cores=2), EVEN).working_s == pytest.approx(10)
    assert simulate(WORK, Cluster(workers=2, cores=2), EVEN).working_s == pytest.approx(5)
    # Ten shards and three workers: the last shard runs alone, so one worker has four of them.
    assert simulate(WORK, Cluster(workers=3, cores=4), EVEN).working_s == pytest.approx(4)
    assert simulate(WORK, Cluster(machines=5, workers=2, cores=2), EVEN).working_s == pytest.approx(1)


def test_workers_that_want_more_cores_than_there_are_wait_for_each_other() -> None:
    wide = replace(WORK, core_s=0.015)  # decoding beside the network: 1.5 cores each
    assert simulate(wide, Cluster(workers=1, cores=2), EVEN).working_s == pytest.approx(10)
    two = simulate(wide, Cluster(workers=2, cores=2), EVEN)
    # 1,000 photos take 15 processor seconds of 2 cores.
    assert two.working_s == pytest.approx(7.5)
    assert two.busy == pytest.approx(1)
    # Four workers on the same cores gain nothing.
    assert simulate(wide, Cluster(workers=4, cores=2), np.full(12, 100)).working_s == pytest.approx(9)


def test_a_last_shard_alone_gets_all_the_cores_that_it_can_use() -> None:
    wide = replace(WORK, core_s=0.02)  # two cores each, on a machine of two
    # Two together take 2 s, then one alone takes 1 s.
    assert simulate(wide, Cluster(workers=2, cores=2), np.full(3, 100)).working_s == pytest.approx(3)


def test_fixed_costs_are_those_of_shards_workers_session_and_driver() -> None:
    work = replace(
        WORK, shard_s=0.5, session_s=3, worker_s=2, driver_s=1, driver_photo_s=0.001, merge_s=0.2, merge_photo_s=0.0004
    )
    took = simulate(work, Cluster(workers=2, cores=2), EVEN)
    assert took.session_s == 3
    assert took.start_s == pytest.approx(2)
    assert took.working_s == pytest.approx(5 * 1.5)
    assert took.driver_s == pytest.approx(2)
    assert took.merge_s == pytest.approx(0.2 + 0.4), "one chunk: a single worker adds its rows"
    assert took.total_s == pytest.approx(3 + 2 + 7.5 + 2 + 0.6)
    # Four workers that start on two cores take twice as long to start; a faster machine is faster in everything.
    assert simulate(work, Cluster(workers=4, cores=2), EVEN).start_s == pytest.approx(4)
    assert simulate(work, Cluster(workers=2, cores=2, speed=2), EVEN).total_s == pytest.approx(took.total_s / 2)


def test_workers_without_a_shard_are_not_started() -> None:
    took = simulate(replace(WORK, worker_s=1), Cluster(workers=8, cores=1), np.array([100]))
    assert took.start_s == pytest.approx(1)


def test_photos_of_a_bucket_come_as_fast_as_its_latency_and_connections_allow() -> None:
    # 0.1 s each, 4 at a time: 40 photos a second, less than the worker could do.
    slow = Requests(median_s=0.1, p99_s=0.1, connections=4)
    assert simulate(WORK, Cluster(workers=1, cores=1), EVEN, requests=slow).working_s == pytest.approx(25)
    # 400 a second: the processor limits.
    quick = replace(slow, connections=40)
    took = simulate(WORK, Cluster(workers=1, cores=1), EVEN, requests=quick)
    assert (took.working_s, took.requests, took.limit) == (pytest.approx(10), pytest.approx(1000), "processor")


def test_more_workers_than_a_prefix_answers_are_held_to_its_limit_and_ask_again() -> None:
    shards = np.full(1000, 100, np.int64)
    many = Cluster(machines=20, workers=10, cores=10)  # would do 20,000 a second
    bucket = Requests(per_s=5000.0)
    took = simulate(WORK, many, shards, requests=bucket)
    assert took.limit == "requests"
    # Those that begin before the limit is reached are quicker: 200 of 1,000 shards.
    assert 0.8 * 20 < took.working_s <= 1.05 * 20
    assert took.requests > 100_000, "refused requests are made again"
    assert took.requests <= 10 * 100_000, "at most ten times"
    spread = simulate(WORK, many, shards, requests=replace(bucket, prefixes=10))
    assert (spread.limit, spread.requests) == ("processor", pytest.approx(100_000))
    assert spread.working_s == pytest.approx(5, rel=0.05)


def test_latencies_have_the_median_and_the_tail_that_were_asked_for() -> None:
    model, rng = Requests(median_s=0.03, p99_s=0.2), np.random.default_rng(0)
    draws = model.means(1, 50_000, rng)
    assert np.median(draws) == pytest.approx(0.03, rel=0.02)
    assert np.percentile(draws, 99) == pytest.approx(0.2, rel=0.05)
    assert draws.mean() == pytest.approx(model.mean_s, rel=0.02)
    # Means of many: the same centre, a spread smaller by the root of their number; drawn one by one or by the normal.
    for count in (64, 65):
        means = model.means(count, 20_000, rng)
        assert means.mean() == pytest.approx(model.mean_s, rel=0.02)
        assert means.std() == pytest.approx(draws.std() / count**0.5, rel=0.1)


def test_packs_need_few_requests_and_large_photos_take_longer() -> None:
    single, packed = Requests.of(20_000), Requests.of(20_000, packed=True, prefixes=3)
    assert (single.per_photo, single.connections) == (1.0, 32)
    assert (packed.per_photo, packed.connections, packed.limit) == (0.005, 4, 16_500)
    assert Requests.of(10e6).median_s > 0.2
    assert Requests.of(10e6).connections == 1, "16 MB are read ahead"


def test_a_simulation_is_repeatable() -> None:
    cluster = Cluster(machines=3, workers=4, cores=4)
    assert simulate(WORK, cluster, EVEN, requests=Requests()) == simulate(WORK, cluster, EVEN, requests=Requests())
    assert simulate(WORK, cluster, EVEN, requests=Requests(), seed=1) == simulate(
        WORK, cluster, EVEN, requests=Requests(), seed=1
    )


@pytest.mark.parametrize(("photos", "workers"), [(100, 4), (5_000_000, 4), (10**9, 4), (10**9, 4096)])
def test_shards_are_grouped_so_that_a_billion_photos_can_be_simulated(photos: int, workers: int) -> None:
    shards = shards_of(photos, workers)
    assert shards.sum() == photos
    assert (shards > 0).all()
    assert len(shards) <= max(40_000, 100 * workers)
    assert len(shards) >= min(50 * workers, -(-photos // 4096)) / 1.01


def test_grouped_shards_take_as_long_as_single_ones() -> None:
    photos, cluster = 40_000_000, Cluster(machines=2, workers=4, cores=4)
    single = np.full(-(-photos // 4096), 4096)
    grouped = shards_of(photos, 8, shard=512)  # 78,125 shards, in groups
    assert len(grouped) < 40_000
    ours, theirs = (simulate(WORK, cluster, shards).working_s for shards in (grouped, single))
    assert ours == pytest.approx(theirs, rel=0.01)


def a_trial(photos: int, *, gap: float = 0.1, merge: float = 0.2) -> dict[str, Any]:
    shards = [
        {"photos": 64, "seconds": 0.8, "processor_s": 0.9, "gap_s": 0.0 if at == 0 else gap, "first": at == 0}
        for at in range(photos // 64)
    ]
    seconds = {"prepare": 0.5, "commit": 0.1 + photos * 0.002, "session": 2.0, "start": 3.0, "merge": merge}
    return {"shards": shards, "seconds": seconds, "driver_processor_s": 0.3 + photos * 0.001}


def test_what_the_job_takes_is_read_off_runs_of_one_worker() -> None:
    found = {
        Trial(kind="up", workers=1, photos=1024): [a_trial(1024)],
        Trial(kind="up", workers=1, photos=256): [a_trial(256)],
        Trial(kind="up", workers=2, photos=1024): [a_trial(1024, gap=9.0, merge=9.0)],
        Trial(kind="out", workers=1, photos=1024): [a_trial(1024, gap=9.0, merge=9.0)],
    }
    work = work_of(found, "up", 1024, {"photos_per_s": 100.0, "core_s_per_1000": 12.0})
    # A shard of 64 takes 0.64 s at the rate within long shards; 0.9 s were measured with the gap.
    assert (work.shard_s, work.shard_core_s) == pytest.approx((0.26, 0.9 - 64 * 0.012))
    assert (work.session_s, work.worker_s) == (2.0, 3.0)
    # 0.001 s of the processor for each more photo; what else the driver took of 1,024 is fixed.
    assert (work.driver_s, work.driver_photo_s) == pytest.approx((0.6 + 1.024, 0.001))
    assert (work.merge_s, work.merge_photo_s) == pytest.approx((0.2, 0))


def test_a_worker_that_others_kept_waiting_is_projected_with_a_core_of_its_own() -> None:
    kept_waiting = replace(WORK, photos_per_s=20.0)
    own = elsewhere_of(kept_waiting, 0.8, 0.002)
    assert own.photos_per_s == pytest.approx(80)
    assert own.core_s == pytest.approx(0.0125)
    assert own.driver_photo_s == pytest.approx(0.002)


SMALL = Offer(name="small", kind="up", cores=4, usd_hour=1.0, start_s=100)
LARGE = Offer(name="large", kind="up", cores=16, usd_hour=5.0, start_s=100)
CLUSTER = Offer(
    name="cluster", kind="out", cores=4, usd_hour=1.2, beside_usd_hour=2.0, start_s=400, idle_s=600, most=64
)


def test_the_cheapest_plan_is_named_and_those_within_a_deadline_or_a_budget() -> None:
    asked = ProjectionOptions(photos=(10_000_000,), deadline_h=3.0, budget_usd=9.0)
    (found,) = project({"up": WORK, "out": WORK}, [SMALL, LARGE, CLUSTER], asked, Requests(per_s=1e9))
    plans = found["plans"]
    assert [plan["hours"] for plan in plans] == sorted(plan["hours"] for plan in plans)
    cheapest = plans[found["cheapest"]]
    # 10^7 photos at 400 a second: 6.94 hours and the start, a dollar each.
    assert (cheapest["offer"], cheapest["machines"]) == ("small", 1)
    assert cheapest["hours"] == pytest.approx((10_000_000 / 400 + 100) / 3600, rel=0.01)
    assert cheapest["usd"] == pytest.approx(cheapest["hours"], rel=0.01)
    in_time, in_budget = plans[found["in_time"]], plans[found["in_budget"]]
    assert in_time["hours"] <= 3 < cheapest["hours"]
    assert in_time["usd"] == min(plan["usd"] for plan in plans if plan["hours"] <= 3)
    assert in_budget["usd"] <= 9
    assert in_budget["hours"] == min(plan["hours"] for plan in plans if plan["usd"] <= 9)
    assert found["fastest"] == 0
    for plan in plans:
        beaten = any(other["hours"] < plan["hours"] and other["usd"] < plan["usd"] for other in plans)
        assert plan["frontier"] <= (not beaten)


def test_no_plan_is_named_where_none_is_quick_or_cheap_enough() -> None:
    asked = ProjectionOptions(photos=(10_000_000,), deadline_h=0.01, budget_usd=0.01)
    (found,) = project({"up": WORK}, [SMALL, CLUSTER], asked, Requests())
    assert {plan["offer"] for plan in found["plans"]} == {"small"}, "Spark was not measured"
    assert (found["in_time"], found["in_budget"]) == (None, None)


def test_a_billion_photos_on_one_prefix_are_limited_by_its_requests() -> None:
    quick = replace(WORK, photos_per_s=1000.0, core_s=0.001)
    big = replace(CLUSTER, cores=64, most=64)
    asked = ProjectionOptions(photos=(10**9,), get_usd=4e-7)
    (one,) = project({"out": quick}, [big], asked, Requests())
    (many,) = project({"out": quick}, [big], asked, Requests(prefixes=100))
    fastest = one["plans"][one["fastest"]]
    assert fastest["limit"] == "requests"
    assert fastest["hours"] >= 10**9 / 5500 / 3600
    assert many["plans"][many["fastest"]]["hours"] < fastest["hours"] / 4
    assert min(plan["requests_usd"] for plan in one["plans"]) >= 400, "10^9 GETs"
    assert one["driver_gb"] == pytest.approx(80)


def test_what_aws_offers_is_priced_by_the_table() -> None:
    table = prices.load()
    found = {offer.name: offer for offer in offers(table)}
    single, double = found["EC2 m5.xlarge"], found["EC2 m5.2xlarge"]
    assert double.usd_hour - single.usd_hour == pytest.approx(table["m5_xlarge_hour"])
    assert (single.cores, double.cores, single.most) == (4, 8, 1)
    serverless = found["EMR Serverless, 4 vCPU"]
    assert serverless.usd_hour == pytest.approx(4 * table["serverless_vcpu_hour"] + 8 * table["serverless_gb_hour"])
    assert all(offer.beside_usd_hour > 0 for offer in found.values() if offer.kind == "out"), "a driver is paid for"


def test_numbers_of_workers_hold_one_and_are_refused_below() -> None:
    assert worker_counts(1) == (1,)
    assert worker_counts(2) == (1, 2)
    assert worker_counts(16) == (1, 2, 3, 4, 6, 8, 11, 16)
    assert StudyOptions(up=(4,), out=()).up == (1, 4)
    with pytest.raises(ConfigError, match="up_workers"):
        StudyOptions(up=(0,))
    with pytest.raises(ConfigError, match="repeats=0"):
        StudyOptions(up=(1,), repeats=0)
