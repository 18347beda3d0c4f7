"""The commands of jobs on the AWS cluster: ``run``, ``apply``, ``evaluate``; how they are started, followed and cancelled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fruits.cli.aws.installation import COMPUTE, DRY, EXECUTORS, NAME, PRICES, REGION, check_name, checked_compute, plan
from fruits.cli.conventions import command as add_command
from fruits.cli.options import configured
from fruits.cli.terminal import OUTPUT, Display, fail
from fruits.config import DEFAULT_BACKBONE, RunConfig, choice
from fruits.errors import ConfigError, counted
from fruits.storage.sanitising import json_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from fruits.aws.jobs.job import Job
    from fruits.aws.jobs.submission import Installation
    from fruits.aws.pricing.prices import Prices

_REPAIR = typer.Option("--repair", help="Verify all stored data first; recompute what is damaged.")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Options of every job on the cluster; each field is an option."""

    count: int | None = choice(
        None, "Number of photos, for the estimate; default in a dry run: 100,000.", names=("--photos",), least=1
    )
    executors: int = choice(5, EXECUTORS.help, least=1)
    architecture: str | None = choice(None, "X86_64 or ARM64; default: that of the application.")
    compute: str = choice("serverless", COMPUTE.help)
    prices_file: str | None = choice(None, PRICES.help, names=("--prices",))
    cancel: bool = choice(False, "Cancel the running job on these results, and wait until it has ended.")
    no_follow: bool = choice(False, "Start the job without following it.")
    name: str = choice("fruits", NAME.help)
    region: str | None = choice(None, REGION.help)
    dry_run: bool = choice(False, DRY.help)
    as_json: bool = choice(False, "Print one JSON object on stdout.", names=("--json",))


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


@configured(JobOptions, into="given")
@configured(RunConfig, without=_OF_THE_CLUSTER)
def run(
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Uploaded packs: names, or s3://.../packs/NAME; reviewed: the export of 'fruits aws export'."
        ),
    ],
    to: Annotated[str, typer.Option(*OUTPUT, help="s3://<results bucket>/runs/NAME, or NAME alone.")],
    options: dict[str, Any],
    given: dict[str, Any],
) -> None:
    """Run on the cluster and follow the job. The same command again resumes following; the terminal may be closed."""
    from fruits.aws.jobs import job, submission  # noqa: PLC0415

    job_options = JobOptions(**given)
    there, installation, table = _there(job_options)
    config = RunConfig(
        sources=tuple(_at(source, installation.photos, "packs") for source in photos),
        out=_at(to, installation.results, "runs"), **options
    )  # fmt: skip
    config = submission.cluster_config(installation, config)
    if job_options.cancel:
        _cancel(there, installation, job.run_job(config), job_options)
        return
    plain, carried, own = submission.collect_files(installation, config)

    def made(usd: float) -> Job:
        return job.run_job(replace(plain, core_hour_usd=usd), carried)

    _start(
        there, installation, table, made, job_options,
        sources=config.sources, own=own, backbone=config.backbone, size=config.size,
    )  # fmt: skip


@configured(JobOptions, into="given")
def apply(
    results: Annotated[
        str, typer.Argument(help="Results of 'fruits aws run': NAME, or s3://<results bucket>/runs/NAME.")
    ],
    photos: Annotated[list[str], typer.Argument(help="Uploaded packs, as for 'fruits aws run'.")],
    to: Annotated[
        str, typer.Option(*OUTPUT, help="s3://<results bucket>/runs/NAME, or NAME alone, for the predictions.")
    ],
    given: dict[str, Any],
    repair: Annotated[bool, _REPAIR] = False,
) -> None:
    """Recognise many photos on the cluster. Uses the results of a run there."""
    from fruits.aws.jobs import submission  # noqa: PLC0415
    from fruits.aws.jobs.job import Job  # noqa: PLC0415

    job_options = JobOptions(**given)
    there, installation, table = _there(job_options)
    sources = tuple(_at(source, installation.photos, "packs") for source in photos)
    bundle, out = _at(results, installation.results, "runs"), _at(to, installation.results, "runs")
    submission.check_sources(installation, sources)
    submission.check_results(installation, "RESULTS", bundle)
    submission.check_results(installation, "--to", out)
    if bundle.rstrip("/") == out.rstrip("/"):
        raise ConfigError(f"--to '{to}' are the results that are applied; expected another name for the predictions")

    def made(_: float) -> Job:
        return Job("apply", out, {"bundle": bundle, "sources": list(sources), "repair": repair})

    if job_options.cancel:
        _cancel(there, installation, made(0), job_options)
        return
    _start(there, installation, table, made, job_options, sources=sources)


@configured(JobOptions, without=("count", "executors"), into="given")
def evaluate(
    results: Annotated[
        str, typer.Argument(help="Results of 'fruits aws run': NAME, or s3://<results bucket>/runs/NAME.")
    ],
    given: dict[str, Any],
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="official, source, axis, arc, variety or groups; may be repeated. Default: all that apply."),
    ] = None,
) -> None:
    """Evaluate a run on the cluster. Writes evaluation.json and the section of the report beside its results."""
    from fruits.assessment import evaluation  # noqa: PLC0415
    from fruits.aws.jobs import submission  # noqa: PLC0415
    from fruits.aws.jobs.job import Job  # noqa: PLC0415

    job_options = JobOptions(**given)
    there, installation, table = _there(job_options)
    out = _at(results, installation.results, "runs")
    submission.check_results(installation, "RESULTS", out)
    wanted = list(evaluation.in_order(protocol or ()))

    def made(_: float) -> Job:
        return Job("evaluate", out, {"protocols": wanted})

    if job_options.cancel:
        _cancel(there, installation, made(0), job_options)
        return
    # At most 50,000 photos are evaluated, by the driver alone.
    _start(there, installation, table, made, replace(job_options, count=50_000, executors=1))


def _there(job_options: JobOptions) -> tuple[Any, Installation, Prices]:
    """Return the AWS client, the installation, and the prices there."""
    from fruits.aws.calls import Aws  # noqa: PLC0415
    from fruits.aws.jobs import submission  # noqa: PLC0415
    from fruits.aws.pricing import prices  # noqa: PLC0415

    check_name(job_options.name)
    there = Aws(job_options.region)
    table = prices.load(job_options.prices_file).for_region(there.region)
    compute = checked_compute(job_options.compute)
    unknown = submission.Installation.unknown(job_options.name, there.region, compute) if job_options.dry_run else None
    return there, unknown or submission.Installation.of(there, job_options.name), table


def _start(
    there: Any, installation: Installation, table: Prices, made: Callable[[float], Job], job_options: JobOptions, *,
    sources: tuple[str, ...] = (), own: tuple[Any, ...] = (), backbone: str = DEFAULT_BACKBONE, size: int | None = None,
) -> None:  # fmt: skip
    """Start a job, unless it is already running; print its estimated cost first, and follow it."""
    from fruits.aws.installation import quotas  # noqa: PLC0415
    from fruits.aws.jobs import cluster, package, submission  # noqa: PLC0415
    from fruits.aws.pricing import cost, rates  # noqa: PLC0415

    out = made(0).out
    if not job_options.dry_run and (started := cluster.running_job(there, installation, made(0))):
        _follow(there, installation, made(0), started, table, job_options)
        return
    count, photo_bytes = job_options.count, rates.PHOTO_BYTES
    if count is None and not job_options.dry_run:
        count, photo_bytes = _count(sources)
    with Display() as display:
        cores = installation.max_cores
        if not job_options.dry_run and installation.compute == "serverless":
            cores = quotas.run_cores(there, cores, display.note)
        shape = cost.shape_for(
            count or 100_000,
            compute=installation.compute,
            executors=job_options.executors,
            max_cores=cores,
            max_memory_gb=installation.max_memory_gb,
        )
        job = made(round(cost.core_hour_usd(table, shape), 6))
        known = rates.scaled(rates.MEASURED, backbone=backbone, size=size, photo_bytes=photo_bytes)
        estimate = cost.run_cost(count or 100_000, table, rates=known, shape=shape, photo_bytes=photo_bytes)
        image = installation.compute == "serverless"
        packed = package.build(
            architecture=job_options.architecture or installation.architecture, image=image, progress=display
        )
        whole = submission.Submission(installation, job, packed, shape, own)
        if job_options.dry_run:
            plan([*quotas.of_run(installation.compute), *whole.planned()], [estimate], as_json=job_options.as_json)
            return
        display.note(
            f"estimated: {estimate.usd:,.2f} USD for {counted(count or 0, 'photo')} on {estimate.title.partition(' on ')[2]}"
        )
        started = cluster.submit(there, whole, estimate_usd=round(estimate.usd, 4))
        display.note(f"job {started['job']} on {out}; the same command follows it from anywhere, --cancel ends it")
    _follow(there, installation, job, started, table, job_options)


def _follow(
    there: Any, installation: Installation, job: Job, started: dict[str, Any], table: Prices, job_options: JobOptions
) -> None:
    """Follow a job to its end, or print its id and return."""
    if job_options.no_follow:
        typer.echo(json_text(started) if job_options.as_json else f"under way: {started['job']}")
        return
    from fruits.aws.jobs import cluster  # noqa: PLC0415

    last: dict[str, Any] = {"state": "", "details": "", "billed": None}
    with Display() as display:
        try:
            for event in cluster.follow(there, installation, started):
                if "state" in event:
                    last = event
                    display.note(f"{event['state']} {event['details']}".rstrip())
                else:
                    display.note(_in_words(event))
        except KeyboardInterrupt:
            fail(
                f"you stopped following; {started['job']} goes on at AWS: the same command follows it, --cancel ends it",
                130,
            )
    if last["state"] not in cluster.GOOD:
        words = "".join(f"\n  {line}" for line in cluster.last_log_lines(there, installation, started))
        fail(
            f"the run is {last['state']} ({last['details'] or 'no reason given'}); logs are in "
            f"{cluster.logs_at(installation, started)}; what was computed is kept: the same command goes on{words}",
            1,
        )
    billed: dict[str, float] = last["billed"] or {}
    vcpu, memory = billed.get("vCPUHour", 0.0), billed.get("memoryGBHour", 0.0)
    paid = vcpu * table["serverless_vcpu_hour"] + memory * table["serverless_gb_hour"] if billed else None
    if job_options.as_json:
        typer.echo(json_text({**started, "state": last["state"], "billed": billed, "billed_usd": paid}))
        return
    if paid is not None:
        typer.echo(f"billed: {vcpu:,.3f} vCPU hours, {memory:,.3f} GB hours: {paid:,.4f} USD")
    made = {
        "run": f"report in {job.out}/report.html, recogniser in {job.out}",
        "apply": f"predictions in {job.out}/predictions.parquet; those of more than a million photos in {job.out}/predictions",
        "evaluate": f"evaluation.json beside the run's record, and a section in {job.out}/report.html",
    }
    typer.echo(f"done; {made[job.command]}")


def _in_words(line: dict[str, Any]) -> str:
    """Return a progress line of the driver as text."""
    kind = line.get("fruits")
    if kind == "progress":
        rate = f"{line.get('photos_per_second', 0):,.0f} per s"
        cost = f", {line['cost_per_million_usd']:.2f} USD per million" if "cost_per_million_usd" in line else ""
        return f"  {line.get('photos', 0):,} of {counted(line.get('total') or 0, 'photo')}, {rate}{cost}"
    if kind == "step":
        return f"  {line.get('step')}"
    if kind == "done":
        if line.get("command") == "evaluate":
            return f"  {counted(line.get('photos', 0), 'photo')} by {', '.join(line.get('protocols') or ()) or 'no protocol'}"
        components = f", {counted(line['components'], 'component')}" if "components" in line else ""
        return f"  {line.get('ok', 0):,} of {counted(line.get('photos', 0), 'photo')} ok{components}"
    return f"  {line.get('message', json_text(line))}"


def _cancel(there: Any, installation: Installation, job: Job, job_options: JobOptions) -> None:
    from fruits.aws.jobs import cluster, submission  # noqa: PLC0415

    if job_options.dry_run:
        raise ConfigError("--cancel with --dry-run: only AWS knows what is under way; expected one of them")
    started = cluster.read_job(there, installation, submission.key_of(installation, job.folder))
    ended = started is not None and cluster.state(there, started)["state"] not in (*cluster.GOOD, *cluster.BAD)
    if started is not None and ended:
        cluster.cancel(there, started)
    which = started["job"] if started else None
    if job_options.as_json:
        typer.echo(json_text({"job": which, "cancelled": ended}))
    else:
        typer.echo(f"ended {which}; what it computed is kept" if ended else "no run is under way there")


def _count(sources: tuple[str, ...]) -> tuple[int, float]:
    """Return the number of photos in packs, and their mean size in bytes. An export is counted from its listing."""
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
    """Return the URI for a name; a URI is returned unchanged. ``reviewed`` is the export."""
    if folder == "packs" and given.strip("/") == "reviewed":
        return f"s3://{bucket}/reviewed"
    return given if "://" in given else f"s3://{bucket}/{folder}/{given.strip('/')}"
