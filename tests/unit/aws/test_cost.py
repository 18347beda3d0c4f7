"""Every figure follows from its line, and the table says where its numbers come from."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest

from fruits.aws import cost, deploy, prices
from fruits.errors import ConfigError

TABLE = prices.load()


@pytest.mark.parametrize("photos", [1, 90_380, 10_000_000])
@pytest.mark.parametrize("compute", ["serverless", "ec2"])
def test_estimate_is_the_sum_of_its_lines_and_each_line_can_be_recomputed(photos: int, compute: str) -> None:
    shape = cost.shape_for(photos, compute=compute)
    for estimate in (
        cost.run_cost(photos, TABLE, shape=shape), cost.stored_cost(photos, TABLE), cost.standing_cost(TABLE, service=True),
    ):  # fmt: skip
        assert estimate.usd == pytest.approx(sum(line.usd or 0 for line in estimate.lines))
        for line in estimate.lines:
            if line.usd is not None:
                quantity, price = re.findall(r"([\d,.]+)[^=]*? x ([\d.e-]+)$", line.how.rpartition(" = ")[2])[0]
                assert float(quantity.replace(",", "")) * float(price) == pytest.approx(line.usd, rel=2e-2, abs=2e-5), (
                    line
                )
        shown = estimate.as_text()
        assert f"{estimate.usd:,.2f}" in shown
        assert TABLE.date in shown


def test_cost_of_the_reference_run_by_hand() -> None:
    """90,380 photos on 5 executors of 4 vCPU and 8 GB, worked out from the table and the rates alone."""
    shape, rates = cost.shape_for(90_380), cost.Rates(300.0, 0.0003, 1200.0, "by hand")
    assert shape == cost.Shape("serverless", 5, 4, 8, 4, 8)
    embed, alone = 90_380 / (300 * 20), 0.0003 * 90_380
    vcpu = 20 * (cost.START_S + embed + cost.IDLE_S) / 3600 + 4 * (cost.START_S + embed + alone) / 3600
    memory = 2 * vcpu  # 8 GB for 4 vCPU, driver and executors alike
    requests = (104 + 2 * 23) * TABLE["s3_get"] + (4 * 23 + 50) * TABLE["s3_put"]
    by_hand = vcpu * TABLE["serverless_vcpu_hour"] + memory * TABLE["serverless_gb_hour"] + requests
    assert cost.run_cost(90_380, TABLE, rates=rates, shape=shape).usd == pytest.approx(by_hand)


def test_driver_grows_with_the_photos_and_the_rest_makes_room() -> None:
    large = cost.shape_for(10_000_000)
    assert large.driver_memory_gb >= 33
    assert large.driver_cores + large.worker_cores <= 24
    with pytest.raises(ConfigError, match="120 at most"):
        cost.shape_for(1_000_000_000)


def test_more_photos_never_cost_less() -> None:
    costs = [cost.run_cost(n, TABLE).usd for n in (1, 1000, 90_380, 1_000_000, 5_000_000, 10_000_000)]
    assert costs == sorted(costs)


def test_rates_of_a_run_of_ones_own_are_its_own(finished_run: object) -> None:
    record = json.loads((finished_run.out / "run.json").read_text())  # type: ignore[attr-defined]
    rates = cost.rates_of(record)
    assert rates.photos_per_core_s == record["timeline"]["photos_per_core_s"]
    assert rates.source.endswith("320 photos")
    with pytest.raises(ConfigError, match="no rate of its own"):
        cost.rates_of({**record, "computed": 0})


def test_core_hour_includes_its_share_of_memory() -> None:
    shape = cost.Shape("serverless", 5, 4, 8, 4, 8)
    assert cost.core_hour_usd(TABLE, shape) == pytest.approx(
        TABLE["serverless_vcpu_hour"] + 2 * TABLE["serverless_gb_hour"]
    )


def test_every_price_has_a_source_and_the_table_a_date() -> None:
    assert date.fromisoformat(TABLE.date) <= date.fromisoformat("2100-01-01")
    for name in TABLE.table:
        assert TABLE.source(name)
        assert TABLE.what(name)
        assert TABLE.table[name].keys() == {"usd", "what", "source", "service", "usage", "match"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"region": 1}', '{"region":"x","date":"d","note":"","prices":{}}'])
def test_a_file_that_is_no_price_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(ConfigError, match="no price table"):
        prices.load(str(tmp_path / "prices.json"))


def test_standing_costs_count_the_endpoints_of_the_templates() -> None:
    def endpoints(which: str, condition: str = "") -> int:
        blocks = re.split(r"\n  (?=\w+:\n)", deploy.template(which))
        interface = [block for block in blocks if "VpcEndpointType: Interface" in block and condition in block]
        return sum(len(re.findall(r"!Ref Subnet", re.search(r"SubnetIds: \[(.*?)\]", block)[1])) for block in interface)  # type: ignore[index]

    assert endpoints("service") == cost.SERVICE_ENDPOINTS
    assert endpoints("batch", "Condition: Machines") == cost.CLUSTER_ENDPOINTS
    assert endpoints("batch", "Condition: Live") == 1
    assert "cluster" in cost.standing_cost(TABLE, service=False, compute="ec2").as_text()
