"""What will it cost? Every figure with its derivation: how many of what, at which price, and where the numbers come from.

An estimate is arithmetic on a price table, on what was measured here, and on a few assumptions, each of which is a line. Calls
AWS only to see what rests in buckets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fruits.aws.calls import Aws
from fruits.aws.prices import Prices
from fruits.errors import ConfigError

#: Hours in a month, as AWS counts them.
MONTH_HOURS: Final = 730
_GB: Final = 1e9
_STORAGE_PRICE: Final = {
    "STANDARD": "s3_standard_gb_month",
    "STANDARD_IA": "s3_infrequent_gb_month",
    "GLACIER_IR": "s3_archive_gb_month",
}


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured, by whom.

    Attributes
    ----------
    photos_per_core_s : float
        Through Spark: read, decode, network, write.
    driver_s_per_photo : float
        Of the steps that the driver does alone, after the embeddings.
    result_bytes_per_photo : float
        Stored in OUT.
    source : str
    """

    photos_per_core_s: float
    driver_s_per_photo: float
    result_bytes_per_photo: float
    source: str


#: docs/aws.md, "Where the numbers come from", says how to measure them again.
MEASURED: Final = Rates(
    photos_per_core_s=703.0,
    driver_s_per_photo=0.00028,
    result_bytes_per_photo=1200.0,
    source="docs/benchmarks.md: 26,300 photos of 100 x 100 through Spark on two cores in 18.7 s",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The machines of a run.

    Attributes
    ----------
    compute : {"serverless", "ec2"}
    executors, cores, memory_gb : int
        Executors, and of each of them vCPUs and memory. On EC2, a node has 16 GB, of which Spark is given this much.
    driver_cores, driver_memory_gb : int
    """

    compute: str
    executors: int
    cores: int
    memory_gb: int
    driver_cores: int
    driver_memory_gb: int

    @property
    def worker_cores(self) -> int:
        """Return the vCPUs of all executors."""
        return self.executors * self.cores


@dataclass(frozen=True, slots=True)
class Line:
    """One step of a derivation; ``usd`` is None where it is no money yet."""

    what: str
    how: str
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A cost with its derivation."""

    title: str
    lines: Sequence[Line]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def usd(self) -> float:
        """Return the sum of all lines that are money."""
        return math.fsum(line.usd for line in self.lines if line.usd is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {**asdict(self), "usd": self.usd}

    def as_text(self) -> str:
        """Return it line by line."""
        rows = [(line.what, line.how, "" if line.usd is None else f"{line.usd:,.4f}") for line in self.lines]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        shown = [f"  {what:{widths[0]}}  {how:{widths[1]}}  {usd:>12}".rstrip() for what, how, usd in rows]
        total = f"  {'total, USD':{widths[0]}}  {'':{widths[1]}}  {self.usd:>12,.2f}"
        return "\n".join([self.title, *shown, total, *(f"  note: {note}" for note in self.notes)])


def rates_of(record: Mapping[str, Any], result_bytes: int | None = None) -> Rates:
    """Return what a run of one's own measured, from its ``run.json``.

    Raises
    ------
    ConfigError
        If it computed nothing, so that there is nothing to learn from it.
    """
    timeline = record.get("timeline") or {}
    rate, photos = timeline.get("photos_per_core_s"), record.get("photos")
    if not rate or not photos or record.get("computed") != photos:
        raise ConfigError(
            "the run has no rate of its own (it computed nothing, or not all); expected a first run on its photos"
        )
    seconds = record["seconds"]
    alone = seconds["total"] - seconds["embeddings"] - seconds.get("engine", 0.0)
    stored = result_bytes / photos if result_bytes else MEASURED.result_bytes_per_photo
    return Rates(float(rate), alone / photos, stored, f"run of {record['started']} on {photos:,} photos")


def read_rates(text: str | bytes, name: str) -> Rates:
    """Return the rates of a ``run.json``; ``name`` is what messages call it."""
    try:
        return rates_of(json.loads(text))
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as exc:
        raise ConfigError(
            f"--rates-of '{name}' is no run.json ({exc}); expected that of a first run on its photos"
        ) from exc


#: Memory that EMR Serverless gives to a worker, by its vCPUs: least, most and step, in GB.
_WORKER_GB: Final = {4: (8, 30, 1), 8: (16, 60, 4), 16: (32, 120, 8)}
#: Of all serverless workers together, unless the batch stack is told otherwise: its MaxCpu and MaxMemory.
MAX_CORES: Final = 24
MAX_MEMORY_GB: Final = 120
#: A node of 16 GB gives 12 to YARN: the driver gets this much of it, an executor on another node 9.
_NODE_DRIVER_GB: Final = 10


def shape_for(
    photos: int,
    *,
    compute: str = "serverless",
    executors: int = 5,
    max_cores: int = MAX_CORES,
    max_memory_gb: int = MAX_MEMORY_GB,
) -> Shape:
    """Return machines that can do a run: the reference size, with a driver that holds the features of all photos.

    The driver needs 2.7 kB per photo (docs/benchmarks.md: 970 bytes of catalogue and 1.7 kB of head and features) beside
    4 GB for Java and 2 GB of its own. Executors get 2 GB per core: 1 for Java, 1 for Python.

    Raises
    ------
    ConfigError
        If no driver is large enough, or none leaves room for an executor.
    """
    needed = math.ceil(6 + 2.7e3 * photos / _GB)
    if compute == "ec2":
        if needed > _NODE_DRIVER_GB:
            raise ConfigError(
                f"{photos:,} photos need {needed} GB in the driver, and an m5.xlarge has {_NODE_DRIVER_GB} for it; expected "
                "EMR Serverless for so many (batch.Compute=serverless), or split the photos"
            )
        return Shape("ec2", max(1, executors - 1), 4, 9, 4, _NODE_DRIVER_GB)  # of the core nodes, one has the driver
    for cores, (least, most, step) in _WORKER_GB.items():
        memory = least + step * max(0, math.ceil((needed - least) / step))
        room = min((max_cores - cores) // 4, (max_memory_gb - memory) // 8)
        if memory <= most and room >= 1:
            return Shape("serverless", min(executors, room), 4, 8, cores, memory)
    raise ConfigError(
        f"{photos:,} photos need {needed} GB in the driver; expected a driver of {_WORKER_GB[16][1]} GB at most and an executor "
        f"of 8 GB within {max_cores} vCPU and {max_memory_gb} GB: raise batch.MaxCpu and batch.MaxMemory, or split the photos"
    )


def run_cost(
    photos: int, prices: Prices, *, rates: Rates = MEASURED, shape: Shape | None = None, photo_bytes: float = 4600.0
) -> Estimate:
    """Estimate a first run on so many photos.

    Parameters
    ----------
    photos : int
        1 or more.
    prices : Prices
    rates : Rates
    shape : Shape, optional
        By default :func:`shape_for`.
    photo_bytes : float
        Mean size of a photo; the default is that of Fruits-360 (100 x 100 pixels).
    """
    if photos < 1:
        raise ConfigError(f"--photos {photos}: expected 1 or more")
    shape = shape or shape_for(photos)
    embed = photos / (rates.photos_per_core_s * shape.worker_cores)
    alone = rates.driver_s_per_photo * photos
    lines = [
        Line("photos per second", f"{rates.photos_per_core_s:,.0f} per vCPU ({rates.source}) x {shape.worker_cores} vCPU = "
                                  f"{rates.photos_per_core_s * shape.worker_cores:,.0f}"),
        Line("embeddings", f"{photos:,} photos / that = {_duration(embed)}"),
        Line("driver alone", f"{rates.driver_s_per_photo * 1e3:.3f} ms per photo x {photos:,} = {_duration(alone)}"),
    ]  # fmt: skip
    if shape.compute == "serverless":
        lines += _serverless(prices, shape, embed, alone)
    else:
        lines += _machines(prices, shape, embed, alone)
    reads = math.ceil(photos * photo_bytes / 4e6) + 2 * math.ceil(photos / 4096)
    writes = 4 * max(math.ceil(photos / 4096), shape.worker_cores) + 50
    lines += [
        _priced(prices, "s3_get", reads, f"{photos:,} photos of {photo_bytes:,.0f} bytes in pieces of 4 MB, and parts"),
        _priced(prices, "s3_put", writes, "4 per shard of 4,096 photos, and 50"),
    ]
    assumed = (
        "workers start in 2 minutes, executors end a minute after their last task"
        if shape.compute == "serverless"
        else "machines work after 8 minutes, the cluster ends 10 minutes after its last work"
    )
    notes = [_of(prices), f"assumptions: {assumed}"]
    notes += ["a second run on the same photos computes nothing: start and driver alone remain"]
    return Estimate(f"a run of {photos:,} photos on {_machines_in_words(shape)}", lines, notes)


#: Assumed, not measured: from the request until a worker has unpacked the package; and until an idle executor is given back.
START_S: Final = 120.0
IDLE_S: Final = 60.0
#: Of a cluster on EC2: until its machines work, and its auto-termination.
CLUSTER_START_S: Final = 480.0
CLUSTER_IDLE_S: Final = 600.0


def _serverless(prices: Prices, shape: Shape, embed: float, alone: float) -> list[Line]:
    workers, driver = START_S + embed + IDLE_S, START_S + embed + alone
    spans = f"{START_S:.0f} s start + embeddings"
    return [
        _hours(
            prices,
            "serverless_vcpu_hour",
            "executors, vCPU",
            shape.worker_cores,
            workers,
            f"{spans} + {IDLE_S:.0f} s idle",
        ),
        _hours(
            prices, "serverless_gb_hour", "executors, memory", shape.executors * shape.memory_gb, workers, "the same"
        ),
        _hours(prices, "serverless_vcpu_hour", "driver, vCPU", shape.driver_cores, driver, f"{spans} + alone"),
        _hours(prices, "serverless_gb_hour", "driver, memory", shape.driver_memory_gb, driver, "the same"),
    ]


def _machines(prices: Prices, shape: Shape, embed: float, alone: float) -> list[Line]:
    seconds = CLUSTER_START_S + embed + alone + CLUSTER_IDLE_S
    why = f"{CLUSTER_START_S:.0f} s start + embeddings + alone + {CLUSTER_IDLE_S:.0f} s idle"
    count = shape.executors + 2  # beside them a node with the driver and the primary
    disk = 2 * 64 * count * seconds / 3600 / MONTH_HOURS
    return [
        _hours(prices, "m5_xlarge_hour", f"{count} m5.xlarge", count, seconds, why),
        _hours(prices, "emr_m5_xlarge_hour", "EMR on them", count, seconds, "the same"),
        Line("disks", f"{count} x 128 GB for that time = {disk:.3f} GB-months x {prices['ebs_gb_month']:g}",
             disk * prices["ebs_gb_month"]),
    ]  # fmt: skip


def stored_cost(photos: int, prices: Prices, *, rates: Rates = MEASURED, photo_bytes: float = 4600.0) -> Estimate:
    """Estimate what a month of keeping photos and results costs, and bringing the photos there once."""
    packs, results = photos * photo_bytes / _GB, photos * rates.result_bytes_per_photo / _GB
    parts = math.ceil(photos * photo_bytes / (16 << 20)) + 3 * math.ceil(photos * photo_bytes / (128 << 20)) + 1
    lines = [
        _month(prices, "packs", f"{photos:,} x {photo_bytes:,.0f} bytes", packs, "s3_standard_gb_month"),
        _month(
            prices,
            "results",
            f"{photos:,} x {rates.result_bytes_per_photo:,.0f} bytes",
            results,
            "s3_standard_gb_month",
        ),
        _priced(prices, "s3_put", parts, "upload, once: parts of 16 MB, 3 calls per file of 128 MB"),
    ]
    later = packs * prices["s3_archive_gb_month"]
    notes = [f"after 90 days the packs are in Glacier Instant Retrieval: {later:,.4f} a month instead", _of(prices)]
    return Estimate(f"{photos:,} photos and their results in S3, for a month", lines, notes)


#: Parameters of the templates that decide what stands, with their defaults; a test compares them.
STANDING: Final[Mapping[str, Mapping[str, str]]] = {
    "batch": {"Compute": "serverless", "LiveLogs": "yes", "CoreNodes": "5", "InstanceType": "m5.xlarge"},
    "service": {
        "Cpu": "1024", "Memory": "2048", "MinTasks": "1", "DatabaseClass": "db.t4g.micro", "DatabaseZones": "one",
    },
}  # fmt: skip
#: Interface endpoints of the templates 'service' and 'batch' (on EC2), one per service and zone; a test compares them.
SERVICE_ENDPOINTS: Final = 8
CLUSTER_ENDPOINTS: Final = 6


def standing_cost(prices: Prices, stacks: Mapping[str, Mapping[str, str]]) -> Estimate:
    """Estimate what stands while it is deployed, whether somebody uses it or not, for a month.

    Parameters
    ----------
    prices : Prices
    stacks : mapping
        Template to its parameters; one that is not given has its default.
    """
    month = MONTH_HOURS * 3600
    lines = []
    if "storage" in stacks:
        lines.append(Line("key", f"1 x {prices['kms_key_month']:g}", prices["kms_key_month"]))
    if "batch" in stacks:
        lines += _standing_batch(prices, {**STANDING["batch"], **stacks["batch"]}, month)
    if "service" in stacks:
        lines += _standing_service(prices, {**STANDING["service"], **stacks["service"]}, month)
    title = f"{', '.join(stacks)} deployed, nobody working, for a month"
    return Estimate(title, lines or [Line("nothing", "what was named costs nothing while it stands")], [_of(prices)])


def _standing_batch(prices: Prices, given: Mapping[str, str], month: float) -> list[Line]:
    if given["Compute"] == "ec2":
        nodes = 1 + int(given["CoreNodes"])
        hourly = nodes * (prices["m5_xlarge_hour"] + prices["emr_m5_xlarge_hour"])
        priced = _priced_as(given["InstanceType"], "m5.xlarge")
        return [
            Line("cluster", f"{nodes} {priced}, {hourly:.2f} an hour from when it is made until its end"),
            _hours(prices, "endpoint_hour", "endpoints of the cluster", CLUSTER_ENDPOINTS, month, "a month"),
        ]
    if given["LiveLogs"] != "yes":
        return []
    why = "a month; batch.LiveLogs=no saves it"
    return [_hours(prices, "endpoint_hour", "endpoint for live logs", 1, month, why)]


def _standing_service(prices: Prices, given: Mapping[str, str], month: float) -> list[Line]:
    tasks, databases = int(given["MinTasks"]), 2 if given["DatabaseZones"] == "two" else 1
    cores, memory = tasks * int(given["Cpu"]) / 1024, tasks * int(given["Memory"]) / 1024
    disk = databases * 20
    database = f"database, {_priced_as(given['DatabaseClass'], 'db.t4g.micro')}"
    return [
        _hours(prices, "fargate_vcpu_hour", "service, vCPU", cores, month, "a month"),
        _hours(prices, "fargate_gb_hour", "service, memory", memory, month, "a month"),
        _hours(prices, "load_balancer_hour", "load balancer", 1, month, "a month, without traffic"),
        _hours(prices, "database_hour", database, databases, month, "a month"),
        Line("database, disk", f"{disk} GB x {prices['database_gb_month']:g}", disk * prices["database_gb_month"]),
        _hours(prices, "endpoint_hour", "endpoints of the service", SERVICE_ENDPOINTS, month, "a month"),
    ]


def _priced_as(kind: str, known: str) -> str:
    """Name a kind of machine; the table has the price of one."""
    return kind if kind == known else f"{kind} (at the price of {known})"


def storage_now(aws: Aws, buckets: Mapping[str, str], prices: Prices) -> Estimate:
    """Return what the bytes in buckets cost a month at their present size: by class, old versions and rests included.

    Parameters
    ----------
    buckets : mapping
        What a bucket is for, to its name.
    """
    lines = []
    for purpose, bucket in buckets.items():
        held: dict[tuple[str, bool], tuple[int, int]] = {}
        for page in aws.pages("s3", "list_object_versions", Bucket=bucket):
            for version in page.get("Versions", ()):
                key = version.get("StorageClass") or "STANDARD", bool(version.get("IsLatest"))
                count, size = held.get(key, (0, 0))
                held[key] = count + 1, size + version["Size"]
        for (kind, latest), (count, size) in sorted(held.items()):
            name = _STORAGE_PRICE.get(kind, "s3_standard_gb_month")
            what = f"{purpose}, {kind}{'' if latest else ', old versions'}"
            lines.append(_month(prices, what, f"{count:,} objects, {size:,} bytes", size / _GB, name))
        unfinished = sum(
            len(page.get("Uploads", ())) for page in aws.pages("s3", "list_multipart_uploads", Bucket=bucket)
        )
        if unfinished:
            lines.append(
                Line(f"{purpose}, unfinished uploads", f"{unfinished:,}; deleted after 3 days, billed until then")
            )
    return Estimate(
        "what is in the buckets now, for a month", lines or [Line("nothing", "the buckets are empty")], [_of(prices)]
    )


def core_hour_usd(prices: Prices, shape: Shape) -> float:
    """Return what a vCPU of the executors costs in an hour, its share of memory included."""
    if shape.compute == "ec2":
        return (prices["m5_xlarge_hour"] + prices["emr_m5_xlarge_hour"]) / 4
    return prices["serverless_vcpu_hour"] + prices["serverless_gb_hour"] * shape.memory_gb / shape.cores


def _hours(prices: Prices, name: str, what: str, count: float, seconds: float, why: str) -> Line:
    hours = count * seconds / 3600
    return Line(
        what, f"{count:g} x {_duration(seconds)} ({why}) = {hours:,.3f} hours x {prices[name]:g}", hours * prices[name]
    )


def _month(prices: Prices, what: str, how: str, gb: float, name: str) -> Line:
    return Line(what, f"{how} = {gb:,.3f} GB x {prices[name]:g}", gb * prices[name])


def _priced(prices: Prices, name: str, count: int, why: str) -> Line:
    return Line(prices.what(name), f"{count:,} ({why}) x {prices[name]:g}", count * prices[name])


def _of(prices: Prices) -> str:
    return f"prices of {prices.region}, {prices.date}: {prices.note}"


def _machines_in_words(shape: Shape) -> str:
    if shape.compute == "ec2":
        return f"EMR on EC2: a primary and {shape.executors + 1} core nodes of m5.xlarge, one of them for the driver"
    return (
        f"EMR Serverless: {shape.executors} executors of {shape.cores} vCPU and {shape.memory_gb} GB, "
        f"a driver of {shape.driver_cores} vCPU and {shape.driver_memory_gb} GB"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.2f} h"
