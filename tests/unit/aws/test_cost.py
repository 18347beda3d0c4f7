"""Every figure follows from its line, and the table says where its numbers come from."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest

from fruits.aws.installation import stacks
from fruits.aws.pricing import cost, prices, rates, standing
from fruits.errors import ConfigError
from fruits.learning.heads import MAX_ROWS

TABLE = prices.load()


@pytest.mark.parametrize(
    ("photos", "compute"),
    [(1, "serverless"), (90_380, "serverless"), (10_000_000, "serverless"), (1, "ec2"), (1_000_000, "ec2")],
)
def test_estimate_is_the_sum_of_its_lines_and_each_line_can_be_recomputed(photos: int, compute: str) -> None:
    shape = cost.shape_for(photos, compute=compute)
    for estimate in (
        cost.run_cost(photos, TABLE, shape=shape), cost.stored_cost(photos, TABLE),
        standing.standing_cost(TABLE, {"storage": {}, "batch": {"Compute": compute}, "service": {}}),
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
    shape, known = cost.shape_for(90_380), rates.Rates(300.0, 3e-5, 2e-4, 6e-4, 1.0, 1200.0, "by hand")
    assert shape == cost.Shape("serverless", 5, 4, 8, 4, 8)
    together, alone = 90_380 / (300 * 20) + 6e-4 * 90_380 / 20, (3e-5 + 2e-4) * 90_380
    vcpu = 20 * (cost.START_S + together + cost.IDLE_S) / 3600 + 4 * (cost.START_S + together + alone) / 3600
    memory = 2 * vcpu  # 8 GB for 4 vCPU, driver and executors alike
    requests = (104 + 2 * 23) * TABLE["s3_get"] + (4 * 23 + 50) * TABLE["s3_put"]
    by_hand = vcpu * TABLE["serverless_vcpu_hour"] + memory * TABLE["serverless_gb_hour"] + requests
    by_hand += cost.LIVE_LOG_GB * TABLE["logs_gb"]
    assert cost.run_cost(90_380, TABLE, rates=known, shape=shape).usd == pytest.approx(by_hand)


def test_learning_ends_at_a_sample_and_the_head_of_all_photos_begins_there() -> None:
    assert rates.LEARNT_PHOTOS == MAX_ROWS
    known = rates.Rates(300.0, 1e-5, 1e-4, 1e-3, 1e-2, 1200.0, "by hand")
    assert known.alone_s(200_000) == pytest.approx(2 + 20)
    assert known.alone_s(10_000_000) == pytest.approx(100 + 20)
    assert known.passes_core_s(200_000) == pytest.approx(200)
    assert known.passes_core_s(200_001) == pytest.approx(2200, rel=1e-4)
    said = [any("8 labels" in note for note in cost.run_cost(n, TABLE, rates=own).notes)
            for n, own in ((200_000, rates.MEASURED), (200_001, rates.MEASURED), (200_001, known))]  # fmt: skip
    assert said == [False, True, False]


def test_the_measured_rates_give_the_times_that_they_were_measured_as() -> None:
    """docs/scale.md, "Work": two workers, microseconds per photo of a million."""
    alone_us, passes_us = rates.MEASURED.alone_s(10**6), rates.MEASURED.passes_core_s(10**6) / 2
    assert alone_us == pytest.approx(13.9 + 7.6, abs=0.2)
    assert passes_us == pytest.approx(29.4 + 18.4 - 8.3 + 150)


def test_driver_grows_with_the_photos_and_the_rest_makes_room() -> None:
    large = cost.shape_for(70_000_000)
    assert large.driver_memory_gb >= 11
    assert large.driver_disk_gb >= 10 + 70_000_000 * (200 + 4 * 118) / 1e9, "text and features in the temporary folder"
    assert large.driver_cores + large.worker_cores <= 24
    with pytest.raises(ConfigError, match=r"need 250 GB of disk .* 200 at most"):
        cost.shape_for(100_000_000)
    with pytest.raises(ConfigError, match="120 GB at most"):
        cost.shape_for(70_000_000, max_memory_gb=16)


@pytest.mark.parametrize("photos", [1, 8_000_000, 36_000_000, 40_000_000, 70_000_000, 79_000_000])
def test_workers_are_such_as_emr_serverless_has_and_all_of_them_fit_into_the_application(photos: int) -> None:
    """8 to 30 GB by 1 for 4 vCPU, 16 to 60 by 4 for 8, 32 to 120 by 8 for 16; 24 vCPU and 120 GB are the template's own."""
    shape = cost.shape_for(photos)
    sizes = {4: range(8, 31), 8: range(16, 61, 4), 16: range(32, 121, 8)}
    assert shape.driver_memory_gb in sizes[shape.driver_cores]
    assert shape.driver_memory_gb >= 6 + 80e-9 * photos
    assert shape.memory_gb in sizes[shape.cores]
    assert 1 <= shape.executors <= 5
    assert shape.driver_cores + shape.worker_cores <= 24
    assert shape.driver_memory_gb + shape.executors * shape.memory_gb <= 120
    defaults = stacks.parse(stacks.template("batch"))["Parameters"]
    assert (defaults["MaxCpu"]["Default"], defaults["MaxMemory"]["Default"]) == (
        f"{cost.MAX_CORES} vCPU",
        f"{cost.MAX_MEMORY_GB} GB",
    )


def test_a_larger_application_has_room_for_the_executors_that_are_asked_for() -> None:
    assert cost.shape_for(1000, executors=10).executors == 5
    assert cost.shape_for(1000, executors=10, max_cores=48).executors == 10


def test_a_cluster_is_refused_where_its_driver_would_be_too_small() -> None:
    assert cost.shape_for(20_000_000, compute="ec2").driver_memory_gb == 10
    with pytest.raises(
        ConfigError, match=r"need 10 GB of memory and 130 GB .* m5.xlarge has 10 and 64 .* EMR Serverless"
    ):
        cost.shape_for(50_000_000, compute="ec2")


def test_more_photos_never_cost_less() -> None:
    costs = [cost.run_cost(n, TABLE).usd for n in (1, 1000, 90_380, 1_000_000, 5_000_000, 10_000_000)]
    assert costs == sorted(costs)


@pytest.mark.parametrize(("engine", "photos", "learning_s", "head"), [
    ("local", 1_000_000, 8 + 4, rates.MEASURED.head_core_s_per_photo), ("spark", 1_000_000, 8, 4 * 3 / 1_000_000),
    ("spark", 100_000, 8 + 4, rates.MEASURED.head_core_s_per_photo),
])  # fmt: skip
def test_steps_of_a_run_are_the_driver_s_or_passes(engine: str, photos: int, learning_s: float, head: float) -> None:
    steps = {
        "engine": 5,
        "catalogue": 10,
        "embeddings": 50,
        "moments": 2,
        "features": 1,
        "leakage": 1.5,
        "metrics": 0.5,
        "head": 4,
    }
    record = {
        "engine": engine, "photos": photos, "computed": photos, "started": "today", "seconds": {**steps, "total": 82},
        "timeline": {"photos_per_core_s": 100.0, "cores": 3},
    }  # fmt: skip
    known = rates.rates_of(record)
    assert known.alone_s(photos) == pytest.approx(10 + learning_s)
    assert known.pass_core_s_per_photo * photos == pytest.approx(5 * 3)
    assert known.head_core_s_per_photo == pytest.approx(head)


@pytest.mark.slow
def test_rates_of_a_run_of_ones_own_are_its_own(finished_run: object) -> None:
    record = json.loads((finished_run.out / "run.json").read_text())  # type: ignore[attr-defined]
    known = rates.rates_of(record)
    assert known.photos_per_core_s == record["timeline"]["photos_per_core_s"]
    assert known.source.endswith("320 photos")
    with pytest.raises(ConfigError, match="no rate of its own"):
        rates.rates_of({**record, "computed": 0})


@pytest.mark.parametrize("text", [
    "", "[]", "1", "null", '{"photos": 1, "computed": 1, "timeline": 5}',
    '{"photos": 1, "computed": 1, "timeline": {"photos_per_core_s": 1}}',
    '{"photos": 1, "computed": 1, "timeline": {"photos_per_core_s": "x"}, "seconds": {"total": 1, "embeddings": 1}}',
])  # fmt: skip
def test_a_file_that_is_no_record_of_a_run_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"'mine\.json' is no run\.json"):
        rates.read_rates(text, "mine.json")


def test_assumptions_are_those_of_the_machines() -> None:
    serverless, machines = (
        cost.run_cost(10, TABLE, shape=cost.shape_for(10, compute=kind)) for kind in ("serverless", "ec2")
    )
    assert any("start in 2 minutes" in note for note in serverless.notes)
    assert any("work after 8 minutes" in note for note in machines.notes)
    assert (cost.CLUSTER_START_S, cost.CLUSTER_IDLE_S) == (8 * 60, 10 * 60)


def test_prices_of_another_region_say_so() -> None:
    assert TABLE.for_region(TABLE.region) is TABLE
    other = TABLE.for_region("eu-west-3")
    assert other.table == TABLE.table
    assert "not those of eu-west-3" in other.note
    assert any("not those of eu-west-3" in note for note in cost.run_cost(10, other).notes)


def test_core_hour_includes_its_share_of_memory() -> None:
    shape = cost.Shape("serverless", 5, 4, 8, 4, 8)
    assert cost.core_hour_usd(TABLE, shape) == pytest.approx(
        TABLE["serverless_vcpu_hour"] + 2 * TABLE["serverless_gb_hour"]
    )


def test_every_price_has_a_source_and_the_table_a_date() -> None:
    assert date.fromisoformat(TABLE.date) <= date.fromisoformat("2100-01-01")
    for name in TABLE.table:
        assert TABLE.source(name)
        assert TABLE.description(name)
        assert TABLE.table[name].keys() == {"usd", "what", "source", "service", "usage", "match"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"region": 1}', '{"region":"x","date":"d","note":"","prices":{}}'])
def test_a_file_that_is_no_price_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(ConfigError, match="no price table"):
        prices.load(str(tmp_path / "prices.json"))


def test_standing_costs_count_the_endpoints_of_the_templates() -> None:
    def endpoints(which: str, condition: str = "") -> int:
        blocks = re.split(r"\n  (?=\w+:\n)", stacks.template(which))
        interface = [block for block in blocks if "VpcEndpointType: Interface" in block and condition in block]
        return sum(len(re.findall(r"!Ref Subnet", re.search(r"SubnetIds: \[(.*?)\]", block)[1])) for block in interface)  # type: ignore[index]

    assert endpoints("service") == standing.SERVICE_ENDPOINTS
    assert endpoints("batch", "Condition: Machines") == standing.CLUSTER_ENDPOINTS
    assert endpoints("batch", "Condition: Live") == 1


def test_standing_costs_are_of_what_is_deployed_as_it_is_deployed() -> None:
    def usd(**stacks: dict[str, str]) -> float:
        return standing.standing_cost(TABLE, stacks).usd

    assert usd(roles={}, budget={}) == 0
    assert usd(storage={}) == TABLE["kms_key_month"]
    assert usd(batch={"LiveLogs": "no"}) == 0
    assert usd(batch={}) == pytest.approx(730 * TABLE["endpoint_hour"])
    assert usd(batch={"Compute": "ec2"}) == pytest.approx(standing.CLUSTER_ENDPOINTS * 730 * TABLE["endpoint_hour"])
    told = standing.standing_cost(TABLE, {"batch": {"Compute": "ec2", "CoreNodes": "2", "InstanceType": "m6i.xlarge"}})
    assert "3 m6i.xlarge (at the price of m5.xlarge)" in told.as_text()
    more = {"MinTasks": "2", "Cpu": "2048", "DatabaseZones": "two"}
    tasks = 3 * TABLE["fargate_vcpu_hour"] + 2 * TABLE["fargate_gb_hour"]
    database = 730 * TABLE["database_hour"] + 20 * TABLE["database_gb_month"]
    logs = standing.TASK_LOGS_GB * TABLE["logs_gb"]
    assert usd(service=more) - usd(service={}) == pytest.approx(730 * tasks + database + logs)


def test_what_is_assumed_of_parameters_is_their_default() -> None:
    for which, assumed in standing.STANDING.items():
        parameters = stacks.parse(stacks.template(which))["Parameters"]
        assert assumed == {name: str(parameters[name]["Default"]) for name in assumed}


# --- Other networks, other photos -------------------------------------------------------------------------------------


def test_the_rate_of_other_photos_and_networks_is_scaled_by_what_was_measured() -> None:
    same = rates.scaled(rates.MEASURED)
    assert same == rates.MEASURED
    seconds = 1 / rates.MEASURED.photos_per_core_s
    phone = rates.scaled(rates.MEASURED, photo_bytes=200_000)
    assert 1 / phone.photos_per_core_s == pytest.approx(seconds + rates.DECODE_S_PER_BYTE * 195_400)
    assert "200.0 kB" in phone.source
    mobile = rates.scaled(rates.MEASURED, backbone="mobilenet_v2_imagenet", size=224)
    assert 1 / mobile.photos_per_core_s == pytest.approx(seconds + 1 / 68 - 1 / 1240)
    assert rates.scaled(rates.MEASURED, backbone="mobilenet_v2_imagenet") == mobile, "its card's largest"
    sizes = [
        rates.scaled(rates.MEASURED, backbone="mobilenet_v2_imagenet", size=side).photos_per_core_s
        for side in (96, 100, 160, 224)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert rates.scaled(rates.MEASURED, size=200).photos_per_core_s < rates.MEASURED.photos_per_core_s
    assert rates.scaled(rates.MEASURED, photo_bytes=100).photos_per_core_s < 1.05 * rates.MEASURED.photos_per_core_s
    with pytest.raises(
        ConfigError, match="expected fruits-small or fruits-photo or mobilenet_v2_imagenet, or the path"
    ):
        rates.scaled(rates.MEASURED, backbone="resnet")


def test_a_network_of_ones_own_is_measured_beside_the_embedded_one() -> None:
    from fruits.embedding import backbone

    path = Path(backbone.__file__).with_name("backbones") / "fruits-small.onnx"
    found = rates.scaled(rates.MEASURED, backbone=str(path), size=64)
    assert found.photos_per_core_s > 0
    assert f"'{path}' at 64 x 64, measured here" in found.source


def test_photos_of_phones_cost_more_than_those_that_were_measured() -> None:
    small = cost.run_cost(1_000_000, TABLE)
    known = rates.scaled(rates.MEASURED, backbone="mobilenet_v2_imagenet", photo_bytes=200_000)
    large = cost.run_cost(1_000_000, TABLE, rates=known, photo_bytes=200_000)
    assert large.usd > 2 * small.usd


def test_what_is_billed_beside_machines_is_a_line_or_said() -> None:
    told = standing.standing_cost(TABLE, {"service": {}})
    lines = {line.what: line.usd for line in told.lines}
    assert lines["its public IPv4 addresses"] == pytest.approx(2 * 730 * TABLE["public_ipv4_hour"])
    assert lines["Container Insights"] == pytest.approx(30 * TABLE["metric_month"])
    assert lines["secrets"] == pytest.approx(2 * TABLE["secret_month"])
    assert lines["logs, ingested"] > 0
    assert lines["flow logs, delivered"] > 0
    stored = "\n".join(cost.stored_cost(1_000_000, TABLE).notes)
    assert "reading all of them" in stored
    assert "30 days from when it came into Standard-IA, 90 from when it came into the archive" in stored
    assert any("billed for reading" in note for note in cost.run_cost(10, TABLE).notes)
    assert any(line.what == "live logs" for line in cost.run_cost(10, TABLE).lines)
    disk = cost.run_cost(10_000_000, TABLE, shape=cost.shape_for(10_000_000))
    assert any(line.what == "driver, disk beyond 20 GB" for line in disk.lines)


def test_addresses_and_secrets_that_are_counted_are_those_of_the_template() -> None:
    template = stacks.template("service")
    assert (
        template.count("AWS::SecretsManager::Secret\n") + template.count("ManageMasterUserPassword: true")
        == standing.SECRETS
    )
    assert (
        len(re.findall(r"!Ref Edge", re.search(r"Subnets: \[(!Ref Edge.*?)\]", template)[1]))
        == standing.PUBLIC_ADDRESSES
    )  # type: ignore[index]
