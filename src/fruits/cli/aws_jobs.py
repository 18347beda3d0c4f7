"""The commands of jobs on AWS's cluster: ``run``, ``apply``, ``evaluate``; started, followed and ended alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fruits.cli.aws import COMPUTE, DRY, EXECUTORS, NAME, PRICES, REGION, check_name, checked_compute, plan
from fruits.cli.conventions import command as add_command
from fruits.cli.options import configured
from fruits.cli.terminal import JSON, OUTPUT, Display, fail
from fruits.config import DEFAULT_BACKBONE, RunConfig
from fruits.errors import ConfigError
from fruits.storage.sanitising import json_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from fruits.aws.cluster import Place
    from fruits.aws.job import Job
    from fruits.aws.prices import Prices

_ARCHITECTURE = typer.Option(help="X86_64 or ARM64; default: as the application was made.")
_CANCEL = typer.Option("--cancel", help="End what is under way on --to, and wait until it has ended.")
_NO_FOLLOW = typer.Option("--no-follow", help="Start it and leave.")
_COUNT = typer.Option(
    "--photos", help="How many there are, for the estimate; a dry run takes 100,000 if not told.", min=1
)
_REPAIR = typer.Option("--repair", help="Check every stored byte first; compute again what is damaged.")


def add_to(aws: typer.Typer) -> None:
    """Add ``run``, ``apply`` and ``evaluate`` to ``fruits aws``."""
    for one in (run, apply, evaluate):
        add_command(aws)(one)


#: Options of a run that the cluster decides itself.
_OF_THE_CLUSTER = (
    "workers",
    "engine",
    "master",
    "spark_conf",
    "device",
    "core_hour_usd",
    "follow_links",
    "allow_source",
)


@configured(RunConfig, without=_OF_THE_CLUSTER)
def run(
    photos: Annotated[
        list[str],
        typer.Argument(help="Packs that were uploaded: their names, or s3://.../packs/NAME; reviewed: the export."),
    ],
    to: Annotated[str, typer.Option(*OUTPUT, help="s3://<results bucket>/runs/NAME, or NAME alone.")],
    options: dict[str, Any],
    count: Annotated[int | None, _COUNT] = None,
    executors: Annotated[int, EXECUTORS] = 5,
    architecture: Annotated[str | None, _ARCHITECTURE] = None,
    compute: Annotated[str, COMPUTE] = "serverless",
    prices_file: Annotated[str | None, PRICES] = None,
    cancel: Annotated[bool, _CANCEL] = False,
    no_follow: Annotated[bool, _NO_FOLLOW] = False,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    dry_run: Annotated[bool, DRY] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run on the cluster and follow it. The same command again goes on following; the terminal is not needed."""
    from fruits.aws import cluster, job  # noqa: PLC0415

    there, place, table = _there(name, region, compute, prices_file, dry_run=dry_run)
    config = RunConfig(
        sources=tuple(_at(source, place.photos, "packs") for source in photos), out=_at(to, place.results, "runs"), **options
    )  # fmt: skip
    config = cluster.check_places(place, config)
    if cancel:
        _cancel(there, place, job.run_job(config), dry_run=dry_run, as_json=as_json)
        return
    plain, carried, own = cluster.carry(place, config)

    def made(usd: float) -> Job:
        return job.run_job(replace(plain, core_hour_usd=usd), carried)

    _start(
        there, place, table, made, sources=config.sources, own=own, count=count, executors=executors,
        backbone=config.backbone, size=config.size, architecture=architecture, follow=not no_follow, dry_run=dry_run,
        as_json=as_json,
    )  # fmt: skip


def apply(
    results: Annotated[
        str, typer.Argument(help="Results of 'fruits aws run': NAME, or s3://<results bucket>/runs/NAME.")
    ],
    photos: Annotated[list[str], typer.Argument(help="Packs that were uploaded, as 'fruits aws run' takes them.")],
    to: Annotated[
        str, typer.Option(*OUTPUT, help="s3://<results bucket>/runs/NAME, or NAME alone, for the predictions.")
    ],
    repair: Annotated[bool, _REPAIR] = False,
    count: Annotated[int | None, _COUNT] = None,
    executors: Annotated[int, EXECUTORS] = 5,
    architecture: Annotated[str | None, _ARCHITECTURE] = None,
    compute: Annotated[str, COMPUTE] = "serverless",
    prices_file: Annotated[str | None, PRICES] = None,
    cancel: Annotated[bool, _CANCEL] = False,
    no_follow: Annotated[bool, _NO_FOLLOW] = False,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    dry_run: Annotated[bool, DRY] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Recognise many photos on the cluster. With what a run there has learnt."""
    from fruits.aws import cluster  # noqa: PLC0415
    from fruits.aws.job import Job  # noqa: PLC0415

    there, place, table = _there(name, region, compute, prices_file, dry_run=dry_run)
    sources = tuple(_at(source, place.photos, "packs") for source in photos)
    bundle, out = _at(results, place.results, "runs"), _at(to, place.results, "runs")
    cluster.check_sources(place, sources)
    cluster.check_results(place, "RESULTS", bundle)
    cluster.check_results(place, "--to", out)
    if bundle.rstrip("/") == out.rstrip("/"):
        raise ConfigError(f"--to '{to}' are the results that are applied; expected another name for the predictions")

    def made(_: float) -> Job:
        return Job("apply", out, {"bundle": bundle, "sources": list(sources), "repair": repair})

    if cancel:
        _cancel(there, place, made(0), dry_run=dry_run, as_json=as_json)
        return
    _start(
        there, place, table, made, sources=sources, count=count, executors=executors, architecture=architecture,
        follow=not no_follow, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


def evaluate(
    results: Annotated[
        str, typer.Argument(help="Results of 'fruits aws run': NAME, or s3://<results bucket>/runs/NAME.")
    ],
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="official, axis, arc, variety or groups; may be repeated. Default: all that apply."),
    ] = None,
    architecture: Annotated[str | None, _ARCHITECTURE] = None,
    compute: Annotated[str, COMPUTE] = "serverless",
    prices_file: Annotated[str | None, PRICES] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the evaluation that is under way.")] = False,
    no_follow: Annotated[bool, _NO_FOLLOW] = False,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    dry_run: Annotated[bool, DRY] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Evaluate a run on the cluster. Writes evaluation.json and the section of the report beside its results."""
    from fruits.assessment import evaluation  # noqa: PLC0415
    from fruits.aws import cluster  # noqa: PLC0415
    from fruits.aws.job import Job  # noqa: PLC0415

    there, place, table = _there(name, region, compute, prices_file, dry_run=dry_run)
    out = _at(results, place.results, "runs")
    cluster.check_results(place, "RESULTS", out)
    wanted = list(evaluation.in_order(protocol or ()))

    def made(_: float) -> Job:
        return Job("evaluate", out, {"protocols": wanted})

    if cancel:
        _cancel(there, place, made(0), dry_run=dry_run, as_json=as_json)
        return
    # At most 50,000 photos are evaluated, by the driver alone.
    _start(
        there, place, table, made, sources=(), count=50_000, executors=1, architecture=architecture, follow=not no_follow,
        dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


def _there(
    name: str, region: str | None, compute: str, prices_file: str | None, *, dry_run: bool
) -> tuple[Any, Place, Prices]:
    """Return who asks AWS, where jobs happen, and the prices there."""
    from fruits.aws import cluster, prices  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    check_name(name)
    there = Aws(region)
    table = prices.load(prices_file).told_in(there.region)
    chosen = checked_compute(compute)
    return there, cluster.Place.unknown(name, there.region, chosen) if dry_run else cluster.Place.of(there, name), table


def _start(
    there: Any, place: Place, table: Prices, made: Callable[[float], Job], *, sources: tuple[str, ...], count: int | None,
    executors: int, architecture: str | None, follow: bool, dry_run: bool, as_json: bool, own: tuple[Any, ...] = (),
    backbone: str = DEFAULT_BACKBONE, size: int | None = None,
) -> None:  # fmt: skip
    """Start a job, unless it is under way; say before what it costs, and follow it."""
    from fruits.aws import cluster, cost, package, quotas, rates  # noqa: PLC0415

    out = made(0).out
    if not dry_run and (started := cluster.under_way(there, place, made(0))):
        _lead(there, place, made(0), started, table, follow=follow, as_json=as_json)
        return
    photo_bytes = rates.PHOTO_BYTES
    if count is None and not dry_run:
        count, photo_bytes = _count(sources)
    with Display() as display:
        cores = place.max_cores
        if not dry_run and place.compute == "serverless":
            cores = quotas.run_cores(there, cores, display.say)
        shape = cost.shape_for(
            count or 100_000,
            compute=place.compute,
            executors=executors,
            max_cores=cores,
            max_memory_gb=place.max_memory_gb,
        )
        job = made(round(cost.core_hour_usd(table, shape), 6))
        known = rates.scaled(rates.MEASURED, backbone=backbone, size=size, photo_bytes=photo_bytes)
        estimate = cost.run_cost(count or 100_000, table, rates=known, shape=shape, photo_bytes=photo_bytes)
        image = place.compute == "serverless"
        packed = package.build(architecture=architecture or place.architecture, image=image, progress=display)
        submission = cluster.Submission(place, job, packed, shape, own)
        if dry_run:
            plan([*quotas.of_run(place.compute), *submission.planned()], [estimate], as_json=as_json)
            return
        display.say(f"estimated: {estimate.usd:,.2f} USD for {count:,} photos on {estimate.title.partition(' on ')[2]}")
        started = cluster.submit(there, submission, estimate_usd=round(estimate.usd, 4))
        display.say(f"job {started['job']} on {out}; the same command follows it from anywhere, --cancel ends it")
    _lead(there, place, job, started, table, follow=follow, as_json=as_json)


def _lead(
    there: Any, place: Place, job: Job, started: dict[str, Any], table: Prices, *, follow: bool, as_json: bool
) -> None:
    """Follow a job to its end, or say which it is and leave."""
    if not follow:
        typer.echo(json_text(started) if as_json else f"under way: {started['job']}")
        return
    from fruits.aws import cluster  # noqa: PLC0415

    last: dict[str, Any] = {"state": "", "details": "", "billed": None}
    with Display() as display:
        try:
            for event in cluster.follow(there, place, started):
                if "state" in event:
                    last = event
                    display.say(f"{event['state']} {event['details']}".rstrip())
                else:
                    display.say(_in_words(event))
        except KeyboardInterrupt:
            fail(
                f"you stopped following; {started['job']} goes on at AWS: the same command follows it, --cancel ends it",
                130,
            )
    if last["state"] not in cluster.GOOD:
        words = "".join(f"\n  {line}" for line in cluster.last_words(there, place, started))
        fail(
            f"the run is {last['state']} ({last['details'] or 'no reason given'}); logs are in "
            f"{cluster.logs_at(place, started)}; what was computed is kept: the same command goes on{words}",
            1,
        )
    billed: dict[str, float] = last["billed"] or {}
    vcpu, memory = billed.get("vCPUHour", 0.0), billed.get("memoryGBHour", 0.0)
    paid = vcpu * table["serverless_vcpu_hour"] + memory * table["serverless_gb_hour"] if billed else None
    if as_json:
        typer.echo(json_text({**started, "state": last["state"], "billed": billed, "billed_usd": paid}))
        return
    if paid is not None:
        typer.echo(f"billed: {vcpu:,.3f} vCPU hours, {memory:,.3f} GB hours: {paid:,.4f} USD")
    made = {
        "run": f"report in {job.out}/report.html, recogniser in {job.out}/bundle",
        "apply": f"predictions in {job.out}/predictions.parquet",
        "evaluate": f"{job.out}/evaluation.json, and its section in {job.out}/report.html",
    }
    typer.echo(f"done; {made[job.command]}")


def _in_words(line: dict[str, Any]) -> str:
    """Return a line of the driver's progress for a person."""
    kind = line.get("fruits")
    if kind == "progress":
        rate = f"{line.get('photos_per_second', 0):,.0f} per s"
        cost = f", {line['cost_per_million_usd']:.2f} USD per million" if "cost_per_million_usd" in line else ""
        return f"  {line.get('photos', 0):,} of {line.get('total') or 0:,} photos, {rate}{cost}"
    if kind == "step":
        return f"  {line.get('step')}"
    if kind == "done":
        if line.get("command") == "evaluate":
            return f"  {line.get('photos', 0):,} photos by {', '.join(line.get('protocols') or ()) or 'no protocol'}"
        components = f", {line['components']} components" if "components" in line else ""
        return f"  {line.get('ok', 0):,} of {line.get('photos', 0):,} photos ok{components}"
    return f"  {line.get('message', json_text(line))}"


def _cancel(there: Any, place: Place, job: Job, *, dry_run: bool, as_json: bool) -> None:
    from fruits.aws import cluster  # noqa: PLC0415

    if dry_run:
        raise ConfigError("--cancel with --dry-run: only AWS knows what is under way; expected one of them")
    started = cluster.read_job(there, place, cluster.key_of(place, job.home))
    ended = started is not None and cluster.state(there, started)["state"] not in (*cluster.GOOD, *cluster.BAD)
    if started is not None and ended:
        cluster.cancel(there, started)
    which = started["job"] if started else None
    if as_json:
        typer.echo(json_text({"job": which, "cancelled": ended}))
    else:
        typer.echo(f"ended {which}; what it computed is kept" if ended else "no run is under way there")


def _count(sources: tuple[str, ...]) -> tuple[int, float]:
    """Return how many photos packs hold, and the mean of their bytes. What was exported is counted as it lies there."""
    from fruits.photos.reading.packs import read_contents  # noqa: PLC0415
    from fruits.storage.objects import Objects  # noqa: PLC0415

    photos = size = 0
    found = {}
    for source in sources:
        if source.rstrip("/").endswith("/reviewed"):
            listed = [one.size_bytes for one in Objects(source).list() if one.key.endswith(".jpg")]
            photos, size = photos + len(listed), size + sum(listed)
        else:
            found[source] = read_contents(Objects(source))
    for source, contents in found.items():
        if contents is None:
            raise ConfigError(f"there is no pack at {source}; bring it there with 'fruits aws upload PHOTOS --to NAME'")
        photos, size = photos + contents.photos, size + sum(file.size_bytes for file in contents.files)
    if not photos:
        raise ConfigError(
            "there are no photos to work on; expected a pack that holds some, or an export of reviewed photos"
        )
    return photos, size / photos


def _at(given: str, bucket: str, folder: str) -> str:
    """Return a full address for a name; an address as it is. ``reviewed`` is what was exported."""
    if folder == "packs" and given.strip("/") == "reviewed":
        return f"s3://{bucket}/reviewed"
    return given if "://" in given else f"s3://{bucket}/{folder}/{given.strip('/')}"
