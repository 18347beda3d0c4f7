"""Standing cost of an installation: the monthly cost without any use, line by line, by its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fruits.aws.pricing.cost import MONTH_HOURS, Estimate, Line, hours, month, of_prices
from fruits.aws.pricing.prices import Prices

#: Parameters of the templates that determine the standing cost, with their defaults; a test compares them.
STANDING: Final[Mapping[str, Mapping[str, str]]] = {
    "batch": {"Compute": "serverless", "LiveLogs": "yes", "CoreNodes": "5", "InstanceType": "m5.xlarge"},
    "service": {
        "Cpu": "1024", "Memory": "2048", "MinTasks": "1", "DatabaseClass": "db.t4g.micro", "DatabaseZones": "one",
    },
}  # fmt: skip
#: Interface endpoints of the templates 'service' and 'batch' (on EC2), one per service and zone; a test compares them.
SERVICE_ENDPOINTS: Final = 8
CLUSTER_ENDPOINTS: Final = 6
#: IPv4 addresses of the load balancer, one per subnet.
PUBLIC_ADDRESSES: Final = 2
#: Metrics of Container Insights for a cluster, a service and a task family: 8, 11 and 11, by AWS's pricing page.
INSIGHTS_METRICS: Final = 30
#: Secrets of the service: the application's login and the database's master.
SECRETS: Final = 2
#: Assumed monthly logs to CloudWatch, in GB: of the database (a line per minute) and Container Insights together; of each task
#: (health checks of the load balancer, a pulse every 30 s); flow logs of an otherwise idle network.
LOGS_GB: Final = 0.6
TASK_LOGS_GB: Final = 0.15
FLOW_GB: Final = 0.1


def standing_cost(prices: Prices, stacks: Mapping[str, Mapping[str, str]]) -> Estimate:
    """Estimate the monthly standing cost of deployed stacks, whether used or not.

    Parameters
    ----------
    prices : Prices
    stacks : mapping
        Template -> its parameters; missing ones have their defaults.
    """
    whole = MONTH_HOURS * 3600
    lines = []
    if "storage" in stacks:
        lines.append(Line("key", f"1 x {prices['kms_key_month']:g}", prices["kms_key_month"]))
    if "batch" in stacks:
        lines += _standing_batch(prices, {**STANDING["batch"], **stacks["batch"]}, whole)
    if "service" in stacks:
        lines += _standing_service(prices, {**STANDING["service"], **stacks["service"]}, whole)
    title = f"{', '.join(stacks)} deployed, nobody working, for a month"
    return Estimate(
        title, lines or [Line("nothing", "what was named costs nothing while it stands")], [of_prices(prices)]
    )


def _standing_batch(prices: Prices, given: Mapping[str, str], whole: float) -> list[Line]:
    if given["Compute"] == "ec2":
        nodes = 1 + int(given["CoreNodes"])
        hourly = nodes * (prices["m5_xlarge_hour"] + prices["emr_m5_xlarge_hour"])
        priced = _priced_as(given["InstanceType"], "m5.xlarge")
        return [
            Line("cluster", f"{nodes} {priced}, {hourly:.2f} an hour from when it is made until its end"),
            hours(prices, "endpoint_hour", "endpoints of the cluster", CLUSTER_ENDPOINTS, whole, "a month"),
        ]
    if given["LiveLogs"] != "yes":
        return []
    why = "a month; batch.LiveLogs=no saves it"
    return [hours(prices, "endpoint_hour", "endpoint for live logs", 1, whole, why)]


def _standing_service(prices: Prices, given: Mapping[str, str], whole: float) -> list[Line]:
    tasks, databases = int(given["MinTasks"]), 2 if given["DatabaseZones"] == "two" else 1
    cores, memory = tasks * int(given["Cpu"]) / 1024, tasks * int(given["Memory"]) / 1024
    disk = databases * 20
    database = f"database, {_priced_as(given['DatabaseClass'], 'db.t4g.micro')}"
    return [
        hours(prices, "fargate_vcpu_hour", "service, vCPU", cores, whole, "a month"),
        hours(prices, "fargate_gb_hour", "service, memory", memory, whole, "a month"),
        hours(prices, "load_balancer_hour", "load balancer", 1, whole, "a month, without traffic"),
        hours(prices, "public_ipv4_hour", "its public IPv4 addresses", PUBLIC_ADDRESSES, whole, "a month"),
        hours(prices, "database_hour", database, databases, whole, "a month"),
        Line("database, disk", f"{disk} GB x {prices['database_gb_month']:g}", disk * prices["database_gb_month"]),
        hours(prices, "endpoint_hour", "endpoints of the service", SERVICE_ENDPOINTS, whole, "a month"),
        _each(prices, "Container Insights", "metrics", INSIGHTS_METRICS, "metric_month"),
        _each(prices, "secrets", "of application and master", SECRETS, "secret_month"),
        month(
            prices,
            "logs, ingested",
            f"{LOGS_GB:g} GB and {TASK_LOGS_GB:g} per task, assumed",
            LOGS_GB + tasks * TASK_LOGS_GB,
            "logs_gb",
        ),
        month(prices, "flow logs, delivered", f"{FLOW_GB:g} GB, assumed", FLOW_GB, "flow_logs_gb"),
    ]


def _each(prices: Prices, what: str, how: str, count: int, name: str) -> Line:
    return Line(what, f"{how}: {count} x {prices[name]:g}", count * prices[name])


def _priced_as(kind: str, known: str) -> str:
    """Return the name of an instance type, with a note if the table has only the price of another."""
    return kind if kind == known else f"{kind} (at the price of {known})"
