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
    return Rates(rate, alone / photos, stored, f"run of {record['started']} on {photos:,} photos")


def shape_for(photos: int, *, compute: str = "serverless", executors: int = 5, max_cores: int = 24) -> Shape:
    """Return machines that can do a run: the reference size, with a driver that holds the features of all photos.

    The driver needs 2.7 kB per photo (docs/benchmarks.md: 970 bytes of catalogue and 1.7 kB of head and features) beside
    4 GB for Java and 2 GB of its own. Executors get 2 GB per core: 1 for Java, 1 for Python.
    """
    if compute == "ec2":
        return Shape("ec2", max(1, executors - 1), 4, 9, 4, 10)  # of the core nodes, one has the driver
    needed = math.ceil(6 + 2.7e3 * photos / _GB)
    driver_cores = next((cores for cores, most in ((4, 30), (8, 60), (16, 120)) if needed <= most), None)
    if driver_cores is None:
        raise ConfigError(
            f"{photos:,} photos need {needed} GB in the driver, and a serverless worker has 120 at most; split the photos"
        )
    least = {4: 8, 8: 16, 16: 32}[driver_cores]
    fitting = max(1, min(executors, (max_cores - driver_cores) // 4))
    return Shape("serverless", fitting, 4, 8, driver_cores, max(least, needed))


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
    notes = [_of(prices), "assumptions: workers start in 2 minutes, executors end a minute after their last task"]
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


def standing_cost(prices: Prices, *, service: bool, compute: str = "serverless") -> Estimate:
    """Estimate what stands while it is deployed, whether somebody uses it or not, for a month."""
    month = MONTH_HOURS * 3600
    lines = [Line("key", f"1 x {prices['kms_key_month']:g}", prices["kms_key_month"])]
    if compute == "ec2":
        hourly = 6 * (prices["m5_xlarge_hour"] + prices["emr_m5_xlarge_hour"])
        lines.append(Line("cluster", f"6 m5.xlarge, {hourly:.2f} an hour from now until idle for 10 minutes"))
        lines.append(_hours(prices, "endpoint_hour", "endpoints of the cluster", CLUSTER_ENDPOINTS, month, "a month"))
    else:
        why = "a month; LiveLogs=no saves it"
        lines.append(_hours(prices, "endpoint_hour", "endpoint for live logs", 1, month, why))
    if service:
        lines += [
            _hours(prices, "fargate_vcpu_hour", "service, 1 task, vCPU", 1, month, "a month"),
            _hours(prices, "fargate_gb_hour", "service, 1 task, memory", 2, month, "a month"),
            _hours(prices, "load_balancer_hour", "load balancer", 1, month, "a month, without traffic"),
            _hours(prices, "database_hour", "database", 1, month, "a month"),
            Line("database, disk", f"20 GB x {prices['database_gb_month']:g}", 20 * prices["database_gb_month"]),
            _hours(prices, "endpoint_hour", "endpoints of the service", SERVICE_ENDPOINTS, month, "a month"),
        ]
    named = "storage, roles, batch and service" if service else "storage, roles and batch"
    return Estimate(f"{named} deployed, nobody working, for a month", lines, [_of(prices)])


#: Interface endpoints of the templates 'service' and 'batch' (on EC2), one per service and zone; a test compares them.
SERVICE_ENDPOINTS: Final = 8
CLUSTER_ENDPOINTS: Final = 6


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


def _hours(prices: Prices, name: str, what: str, count: int, seconds: float, why: str) -> Line:
    hours = count * seconds / 3600
    return Line(
        what, f"{count} x {_duration(seconds)} ({why}) = {hours:,.3f} hours x {prices[name]:g}", hours * prices[name]
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


def read_rates(text: str | bytes) -> Rates:
    """Return the rates of a ``run.json``."""
    try:
        record = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"--rates-of: not a run.json ({exc})") from exc
    return rates_of(record)
