"""Cost estimates, each figure with its derivation: quantity, price and source.

An estimate is computed from a price table, measured rates and a few assumptions, each of which is a line. AWS is called only to
measure the current content of buckets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fruits.aws.calls import Aws
from fruits.aws.pricing.prices import Prices
from fruits.aws.pricing.rates import LEARNT_PHOTOS, MEASURED, PHOTO_BYTES, Rates
from fruits.errors import ConfigError, counted

#: Hours in a month, as AWS counts them.
MONTH_HOURS: Final = 730
_GB: Final = 1e9
_STORAGE_PRICE: Final = {
    "STANDARD": "s3_standard_gb_month",
    "STANDARD_IA": "s3_infrequent_gb_month",
    "GLACIER_IR": "s3_archive_gb_month",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The machines of a run.

    Attributes
    ----------
    compute : {"serverless", "ec2"}
    executors, cores, memory_gb : int
        Number of executors, and vCPUs and memory of each. On EC2, a node has 16 GB, of which Spark gets ``memory_gb``.
    driver_cores, driver_memory_gb, driver_disk_gb : int
    """

    compute: str
    executors: int
    cores: int
    memory_gb: int
    driver_cores: int
    driver_memory_gb: int
    driver_disk_gb: int = 20

    @property
    def worker_cores(self) -> int:
        """Return the vCPUs of all executors."""
        return self.executors * self.cores


@dataclass(frozen=True, slots=True)
class Line:
    """One step of a derivation; ``usd`` is None for an intermediate quantity."""

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
        """Return the sum of all lines with an amount."""
        return math.fsum(line.usd for line in self.lines if line.usd is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values for JSON."""
        return {**asdict(self), "usd": self.usd}

    def as_text(self) -> str:
        """Return the estimate as text, line by line."""
        rows = [(line.what, line.how, "" if line.usd is None else f"{line.usd:,.4f}") for line in self.lines]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        shown = [f"  {what:{widths[0]}}  {how:{widths[1]}}  {usd:>12}".rstrip() for what, how, usd in rows]
        total = f"  {'total, USD':{widths[0]}}  {'':{widths[1]}}  {self.usd:>12,.2f}"
        return "\n".join([self.title, *shown, total, *(f"  note: {note}" for note in self.notes)])


#: Memory of an EMR Serverless worker by its vCPUs: minimum, maximum and step, in GB.
_WORKER_GB: Final = {4: (8, 30, 1), 8: (16, 60, 4), 16: (32, 120, 8)}
#: Default limits of all serverless workers together: MaxCpu and MaxMemory of the batch stack.
MAX_CORES: Final = 24
MAX_MEMORY_GB: Final = 120
#: Disk of an EMR Serverless worker: free size and maximum. The driver's disk holds the package and, twice, the results.
_FREE_DISK_GB: Final = 20
_MOST_DISK_GB: Final = 200
#: A node of 16 GB gives 12 to YARN: the driver gets 10 of them, an executor on another node 9. Their files have a disk of 64 GB.
_NODE_DRIVER_GB: Final = 10
_NODE_DISK_GB: Final = 64
#: Memory of the driver: 4 GB for Java and 2 GB for its process, and so many bytes per photo (docs/growth.md: 29, and 50 while
#: Spark fits the head).
_DRIVER_GB: Final = 6
_DRIVER_BYTES_PER_PHOTO: Final = 80


def shape_for(
    photos: int,
    *,
    compute: str = "serverless",
    executors: int = 5,
    max_cores: int = MAX_CORES,
    max_memory_gb: int = MAX_MEMORY_GB,
) -> Shape:
    """Return the machines for a run: the reference size, with a driver whose memory and disk are enough for the photos.

    Executors get 2 GB per core: 1 for Java, 1 for Python.

    Raises
    ------
    ConfigError
        If no driver is large enough, or none leaves enough for an executor within the limits.
    """
    needed = math.ceil(_DRIVER_GB + _DRIVER_BYTES_PER_PHOTO * photos / _GB)
    disk = max(_FREE_DISK_GB, math.ceil(10 + 2 * MEASURED.result_bytes_per_photo * photos / _GB))
    if compute == "ec2":
        if needed > _NODE_DRIVER_GB or disk > _NODE_DISK_GB:
            raise ConfigError(
                f"{counted(photos, 'photo')} need {needed} GB of memory and {disk} GB of disk in the driver, and an "
                f"m5.xlarge has {_NODE_DRIVER_GB} and {_NODE_DISK_GB} for it; expected EMR Serverless for so many "
                "(batch.Compute=serverless), or split the photos"
            )
        return Shape("ec2", max(1, executors - 1), 4, 9, 4, _NODE_DRIVER_GB)  # of the core nodes, one has the driver
    if disk > _MOST_DISK_GB:
        raise ConfigError(
            f"{counted(photos, 'photo')} need {disk} GB of disk in the driver, and EMR Serverless has {_MOST_DISK_GB} at most; "
            "expected fewer: split the photos among several outputs"
        )
    for cores, (least, most, step) in _WORKER_GB.items():
        memory = least + step * max(0, math.ceil((needed - least) / step))
        room = min((max_cores - cores) // 4, (max_memory_gb - memory) // 8)
        if memory <= most and room >= 1:
            return Shape("serverless", min(executors, room), 4, 8, cores, memory, disk)
    raise ConfigError(
        f"{counted(photos, 'photo')} need {needed} GB in the driver; expected a driver of {_WORKER_GB[16][1]} GB at "
        "most and an executor "
        f"of 8 GB within {max_cores} vCPU and {max_memory_gb} GB: raise batch.MaxCpu and batch.MaxMemory, or split the photos"
    )


def run_cost(
    photos: int,
    prices: Prices,
    *,
    rates: Rates = MEASURED,
    shape: Shape | None = None,
    photo_bytes: float = PHOTO_BYTES,
) -> Estimate:
    """Estimate the cost of a first run.

    Parameters
    ----------
    photos : int
        1 or more.
    prices : Prices
    rates : Rates
    shape : Shape, optional
        By default :func:`shape_for`.
    photo_bytes : float
        Mean size of a photo; the default is that of Fruits-360 (100 x 100 pixels). For other sizes and networks the rates
        are those of :func:`fruits.aws.pricing.rates.scaled`.
    """
    if photos < 1:
        raise ConfigError(f"--photos {photos}: expected 1 or more")
    shape = shape or shape_for(photos)
    embed = photos / (rates.photos_per_core_s * shape.worker_cores)
    alone, passes = rates.alone_s(photos), rates.passes_core_s(photos) / shape.worker_cores
    learnt = min(photos, LEARNT_PHOTOS)
    lines = [
        Line("photos per second", f"{rates.photos_per_core_s:,.0f} per vCPU ({rates.source}) x {shape.worker_cores} vCPU = "
                                  f"{rates.photos_per_core_s * shape.worker_cores:,.0f}"),
        Line("embeddings", f"{counted(photos, 'photo')} / that = {_duration(embed)}"),
        Line("driver alone", f"{rates.driver_s_per_photo * 1e6:.1f} us per photo x {photos:,} + "
                             f"{rates.learning_s_per_photo * 1e6:.1f} us x {learnt:,} = {_duration(alone)}"),
        Line("other passes", f"{rates.passes_core_s(photos) / photos * 1e6:.1f} us of a vCPU per photo x {photos:,} / "
                             f"{shape.worker_cores} vCPU = {_duration(passes)}"),
    ]  # fmt: skip
    if shape.compute == "serverless":
        lines += _serverless(prices, shape, embed + passes, alone)
    else:
        lines += _machines(prices, shape, embed + passes, alone)
    reads = math.ceil(photos * photo_bytes / 4e6) + 2 * math.ceil(photos / 4096)
    writes = 4 * max(math.ceil(photos / 4096), shape.worker_cores) + 50
    lines += [
        _priced(
            prices,
            "s3_get",
            reads,
            f"{counted(photos, 'photo')} of {photo_bytes:,.0f} bytes in pieces of 4 MB, and parts",
        ),
        _priced(prices, "s3_put", writes, "4 per shard of 4,096 photos, and 50"),
    ]
    assumed = (
        "workers start in 2 minutes, executors end a minute after their last task"
        if shape.compute == "serverless"
        else "machines work after 8 minutes, the cluster ends 10 minutes after its last work"
    )
    notes = [of_prices(prices), f"assumptions: {assumed}"]
    notes += ["a second run on the same photos computes nothing: start and driver alone remain"]
    if photos > LEARNT_PHOTOS and rates.head_core_s_per_photo == MEASURED.head_core_s_per_photo:
        notes += ["the head of all photos was measured with 8 labels and 4 components; more take longer"]
    read = photos * photo_bytes / _GB
    cold = (read * prices[f"s3_{kind}_retrieval_gb"] for kind in ("infrequent", "archive"))
    notes.append(
        "packs that have grown cold are billed for reading: {:,.4f} from Standard-IA, {:,.4f} from the archive".format(
            *cold
        )
    )
    return Estimate(f"a run of {counted(photos, 'photo')} on {_machines_in_words(shape)}", lines, notes)


#: Assumed, not measured: time until a worker has unpacked the package, and until an idle executor is released.
START_S: Final = 120.0
IDLE_S: Final = 60.0
#: The same for a cluster on EC2: time until its machines work, and until auto-termination.
CLUSTER_START_S: Final = 480.0
CLUSTER_IDLE_S: Final = 600.0
#: Logs of a serverless run's driver to CloudWatch (batch.LiveLogs).
LIVE_LOG_GB: Final = 0.02


def _serverless(prices: Prices, shape: Shape, together: float, alone: float) -> list[Line]:
    workers, driver = START_S + together + IDLE_S, START_S + together + alone
    spans = f"{START_S:.0f} s start + embeddings + passes"
    lines = []
    if (disk := shape.driver_disk_gb - _FREE_DISK_GB) > 0:
        lines.append(hours(prices, "serverless_disk_gb_hour", "driver, disk beyond 20 GB", disk, driver, "the same"))
    # Independent of the size of the run: Spark's log at level INFO.
    lines.append(month(prices, "live logs", f"{LIVE_LOG_GB:g} GB assumed", LIVE_LOG_GB, "logs_gb"))
    return [
        *lines,
        hours(
            prices,
            "serverless_vcpu_hour",
            "executors, vCPU",
            shape.worker_cores,
            workers,
            f"{spans} + {IDLE_S:.0f} s idle",
        ),
        hours(
            prices, "serverless_gb_hour", "executors, memory", shape.executors * shape.memory_gb, workers, "the same"
        ),
        hours(prices, "serverless_vcpu_hour", "driver, vCPU", shape.driver_cores, driver, f"{spans} + alone"),
        hours(prices, "serverless_gb_hour", "driver, memory", shape.driver_memory_gb, driver, "the same"),
    ]


def _machines(prices: Prices, shape: Shape, together: float, alone: float) -> list[Line]:
    seconds = CLUSTER_START_S + together + alone + CLUSTER_IDLE_S
    why = f"{CLUSTER_START_S:.0f} s start + embeddings + passes + alone + {CLUSTER_IDLE_S:.0f} s idle"
    count = shape.executors + 2  # plus a node with the driver and the primary node
    disk = 2 * 64 * count * seconds / 3600 / MONTH_HOURS
    return [
        hours(prices, "m5_xlarge_hour", f"{count} m5.xlarge", count, seconds, why),
        hours(prices, "emr_m5_xlarge_hour", "EMR on them", count, seconds, "the same"),
        Line("disks", f"{count} x 128 GB for that time = {disk:.3f} GB-months x {prices['ebs_gb_month']:g}",
             disk * prices["ebs_gb_month"]),
    ]  # fmt: skip


#: Minimum days billed in a storage class, and days after which packs are moved to it (template 'storage').
INFREQUENT_DAYS: Final = 30
ARCHIVE_DAYS: Final = 90


def stored_cost(photos: int, prices: Prices, *, rates: Rates = MEASURED, photo_bytes: float = PHOTO_BYTES) -> Estimate:
    """Estimate the cost of storing photos and results for a month, and of uploading the photos once."""
    packs, results = photos * photo_bytes / _GB, photos * rates.result_bytes_per_photo / _GB
    parts = math.ceil(photos * photo_bytes / (16 << 20)) + 3 * math.ceil(photos * photo_bytes / (128 << 20)) + 1
    lines = [
        month(prices, "packs", f"{photos:,} x {photo_bytes:,.0f} bytes", packs, "s3_standard_gb_month"),
        month(
            prices,
            "results",
            f"{photos:,} x {rates.result_bytes_per_photo:,.0f} bytes",
            results,
            "s3_standard_gb_month",
        ),
        _priced(prices, "s3_put", parts, "upload, once: parts of 16 MB, 3 calls per file of 128 MB"),
    ]
    later = packs * prices["s3_archive_gb_month"]
    objects = math.ceil(photos * photo_bytes / (128 << 20)) + 1
    moved = objects * (prices["s3_infrequent_transition"] + prices["s3_archive_transition"])
    again = packs * prices["s3_archive_retrieval_gb"]
    cold = (
        f"after {ARCHIVE_DAYS} days the packs are in Glacier Instant Retrieval: {later:,.4f} a month instead; moving them there "
        f"costs {moved:,.4f} once, reading all of them {again:,.4f} a time"
    )
    early = (
        f"a pack that is deleted or replaced early is billed on: {INFREQUENT_DAYS} days from when it came into Standard-IA, "
        f"{ARCHIVE_DAYS} from when it came into the archive, {3 * later:,.4f} for all of them"
    )
    return Estimate(
        f"{counted(photos, 'photo')} and their results in S3, for a month", lines, [cold, early, of_prices(prices)]
    )


def storage_now(aws: Aws, buckets: Mapping[str, str], prices: Prices) -> Estimate:
    """Return the monthly cost of the current content of buckets, by class, with old versions and unfinished uploads.

    Parameters
    ----------
    buckets : mapping
        Purpose of a bucket -> its name.
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
            lines.append(month(prices, what, f"{count:,} objects, {size:,} bytes", size / _GB, name))
        unfinished = sum(
            len(page.get("Uploads", ())) for page in aws.pages("s3", "list_multipart_uploads", Bucket=bucket)
        )
        if unfinished:
            lines.append(
                Line(f"{purpose}, unfinished uploads", f"{unfinished:,}; deleted after 3 days, billed until then")
            )
    return Estimate(
        "what is in the buckets now, for a month",
        lines or [Line("nothing", "the buckets are empty")],
        [of_prices(prices)],
    )


def core_hour_usd(prices: Prices, shape: Shape) -> float:
    """Return the hourly cost of an executor's vCPU, with its share of memory."""
    if shape.compute == "ec2":
        return (prices["m5_xlarge_hour"] + prices["emr_m5_xlarge_hour"]) / 4
    return prices["serverless_vcpu_hour"] + prices["serverless_gb_hour"] * shape.memory_gb / shape.cores


def hours(prices: Prices, name: str, what: str, count: float, seconds: float, why: str) -> Line:
    """Return the line for a number of units during some seconds, at a price per hour."""
    hours = count * seconds / 3600
    return Line(
        what, f"{count:g} x {_duration(seconds)} ({why}) = {hours:,.3f} hours x {prices[name]:g}", hours * prices[name]
    )


def month(prices: Prices, what: str, how: str, gb: float, name: str) -> Line:
    """Return the line for an amount of GB at its price."""
    return Line(what, f"{how} = {gb:,.3f} GB x {prices[name]:g}", gb * prices[name])


def _priced(prices: Prices, name: str, count: int, why: str) -> Line:
    return Line(prices.description(name), f"{count:,} ({why}) x {prices[name]:g}", count * prices[name])


def of_prices(prices: Prices) -> str:
    """Return region, date and note of the prices."""
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
