"""The commands of AWS: parse, call, print. Nothing is spent before it was said what it costs."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fruits.command import SETTINGS, Group, command
from fruits.config import Fit, RunConfig
from fruits.errors import ConfigError, StoreError
from fruits.harmless import json_text
from fruits.terminal import JSON, OUTPUT, RESIZE_MODE, Display, confirm, fail

if TYPE_CHECKING:
    from fruits.aws.cluster import Place
    from fruits.aws.cost import Estimate
    from fruits.aws.prices import Prices

aws = typer.Typer(cls=Group, help="Run the same job and the service on AWS; see docs/aws.md.", **SETTINGS)

_NAME = typer.Option("--name", help="Of the installation: begins the name of everything it has at AWS.")
_REGION = typer.Option("--region", help="Default: AWS_REGION, else eu-west-1.")
_DRY = typer.Option("--dry-run", help="Print every call and the estimated cost; call nothing.")
_STACK = typer.Option("--stack", help="storage, roles, batch, service or budget; may be repeated.")
_PRICES = typer.Option("--prices", help="A price table of your own; default: that of the package.")
_COMPUTE = typer.Option("--compute", help="serverless, or ec2: the reference cluster of five m5.xlarge.")
_EXECUTORS = typer.Option(
    "--executors", help="Executors of 4 vCPU, if MaxCpu and MaxMemory have room for so many; on ec2, core nodes.", min=1
)
_INSTALLATION = r"[a-z][a-z0-9-]{1,15}"


def add_to(app: typer.Typer) -> None:
    """Add ``aws`` to the command line."""
    app.add_typer(aws, name="aws")


@command(aws)
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, dir_okay=False, help="Templates of your own; default: those of the package."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Hold templates to our own rules. Nothing open, nothing unencrypted, no right that is not needed."""
    from fruits.aws import rules  # noqa: PLC0415 - keeps 'fruits --help' quick

    importlib.import_module("yaml")  # without it no template could be judged, and each would be a finding
    templates = {str(path): path.read_text("utf-8", "replace") for path in files} if files else rules.templates()
    findings = rules.check(templates, whole=not files)
    if as_json:
        told = [
            {name: getattr(found, name) for name in ("template", "resource", "rule", "message")} for found in findings
        ]
        typer.echo(json_text({"templates": sorted(templates), "findings": told}))
    else:
        for found in findings:
            typer.echo(found)
        typer.echo(f"{len(templates)} templates, {len(findings)} findings")
    if findings:
        raise typer.Exit(1)


@command(aws)
def deploy(
    stack: Annotated[list[str] | None, _STACK] = None,
    service: Annotated[
        bool, typer.Option("--service", help="Also the service, which costs while nobody uses it.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter, template.Key=value; may be repeated. See docs/aws.md."),
    ] = None,
    name: Annotated[str, _NAME] = "fruits",
    region: Annotated[str | None, _REGION] = None,
    dry_run: Annotated[bool, _DRY] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Make the stacks of an installation, or change them."""
    from fruits.aws import cost, deploy, prices  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    _check_name(name)
    stacks = deploy.in_order(stack or [*deploy.USUAL, *(["service"] if service else [])])
    parameters = deploy.parse_parameters(settings or [], stacks)
    there = Aws(region)
    table = prices.load().told_in(there.region)
    if not dry_run:
        _need_parameters(there, name, stacks, parameters)
    if dry_run:
        standing = cost.standing_cost(table, {which: parameters.get(which, {}) for which in stacks})
        _plan(deploy.planned(name, stacks, parameters, there.region), [standing], as_json=as_json)
        return
    with Display() as display:
        done = deploy.deploy(there, name, stacks, parameters, progress=display)
    standing = cost.standing_cost(table, {one.name.removeprefix(f"{name}-"): one.parameters for one in done})
    if as_json:
        told = {one.name: {"state": one.state, "outputs": dict(one.outputs)} for one in done}
        typer.echo(json_text({"stacks": told, "standing_usd_per_month": standing.usd}))
        return
    for one in done:
        for key, value in sorted(one.outputs.items()):
            typer.echo(f"{one.name}  {key} = {value}")
    typer.echo(
        f"deployed {len(done)} stacks in {there.region}; while nobody works they cost {standing.usd:,.2f} USD a month"
    )


@command(aws)
def status(
    name: Annotated[str, _NAME] = "fruits",
    region: Annotated[str | None, _REGION] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say what is deployed and what runs."""
    from fruits.aws import deploy  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    _check_name(name)
    told = deploy.status(Aws(region), name)
    if as_json:
        typer.echo(json_text(told))
        return
    for which, found in told["stacks"].items():
        typer.echo(f"{name}-{which}: {found['state'] if found else 'not deployed'}")
    if told["application"]:
        typer.echo(f"application {told['application']['id']}: {told['application']['state']}")
    if told["cluster"]:
        typer.echo(f"cluster {told['cluster']['id']}: {told['cluster']['state']}")
    for job in told["jobs"]:
        typer.echo(f"job {job['id']} ({job['name']}): {job['state']}, since {job['created']}")
    typer.echo(f"{len(told['jobs'])} jobs under way in {told['region']}")


@command(aws)
def delete(
    stack: Annotated[list[str] | None, _STACK] = None,
    name: Annotated[str, _NAME] = "fruits",
    region: Annotated[str | None, _REGION] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Stop what runs and delete the stacks. Buckets, images and the key that reads them are kept and named."""
    from fruits.aws import deploy  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    _check_name(name)
    stacks = deploy.in_order(stack or deploy.ORDER)
    there = Aws(region)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("delete asks before it deletes, and nobody can answer here; add --yes")
        named = ", ".join(f"{name}-{which}" for which in stacks)
        if not confirm(f"End all runs of '{name}' in {there.region} and delete {named}?"):
            fail("nothing was ended or deleted", 1)
    with Display() as display:
        done = deploy.delete(there, name, stacks, progress=display)
    if as_json:
        typer.echo(json_text(done))
        return
    if done["cancelled"]:
        typer.echo(f"ended jobs: {', '.join(done['cancelled'])}")
    for key, value in done["kept"].items():
        typer.echo(f"kept  {key} = {value}")
    typer.echo(
        f"deleted {len(done['deleted'])} stacks, {len(done['absent'])} were not there; docs/aws.md says how to empty what is kept"
    )


@command(aws)
def upload(
    photos: Annotated[list[str], typer.Argument(help="What 'fruits pack' takes, or a pack on this disk.")],
    to: Annotated[str, typer.Option(*OUTPUT, help="Name of the pack: s3://<photos bucket>/packs/NAME.")] = "photos",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Photos in any layout, for 'fruits apply' alone.")
    ] = False,
    name: Annotated[str, _NAME] = "fruits",
    region: Annotated[str | None, _REGION] = None,
    bucket: Annotated[
        str | None,
        typer.Option("--bucket", help="Bucket of photos; default: that of the installation."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Pack photos and bring the pack to the bucket. The same command again goes on where it broke."""
    from fruits.aws import upload  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    _check_name(name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", to):
        raise ConfigError(
            f"--to '{to}': expected a name for the pack, such as summer/2026, of letters, digits, . _ - and /"
        )
    there = Aws(region)
    bucket = bucket or _photos_bucket(there, name)
    with Display(of_step={"upload": "byte"}) as display:
        done = upload.upload_photos(there, photos, bucket, f"packs/{to}", labelled=not unlabelled, progress=display)
    if as_json:
        typer.echo(json_text(done))
    else:
        kept = f", {done['parts_kept']:,} parts were there already" if done["parts_kept"] else ""
        files = f"{done['files']:,} file{'' if done['files'] == 1 else 's'}"
        typer.echo(
            f"{done['photos']:,} photos in {files} ({done['bytes'] / 1e6:,.1f} MB): sent "
            f"{done['sent_bytes'] / 1e6:,.1f} MB{kept}; pack in {done['pack']}"
        )
        if done["files_of_an_older_pack"]:
            typer.echo(
                f"{done['files_of_an_older_pack']:,} files of an older pack are still there: nobody who uploads may delete"
            )
    if done["unreadable"]:
        first = done["unreadable_photos"][0]
        fail(f"photos that could not be read and are not there: {done['unreadable']:,}, such as {first['uri']!r}", 1)


@command(aws)
def run(
    photos: Annotated[list[str], typer.Argument(help="Packs that were uploaded: their names, or s3://.../packs/NAME.")],
    to: Annotated[str, typer.Option(*OUTPUT, help="s3://<results bucket>/runs/NAME, or NAME alone.")],
    backbone: Annotated[str, typer.Option(help="Name of an embedded network.")] = "fruits-small",
    size: Annotated[int | None, typer.Option(help="Side of the network's input in pixels.")] = None,
    resize_mode: Annotated[
        str | None, typer.Option(*RESIZE_MODE, metavar="MODE", help="pad, crop or squash a photo that is not square.")
    ] = None,
    variance: Annotated[float | None, typer.Option(help="Keep components for this share of the variance.")] = None,
    components: Annotated[int | None, typer.Option(help="Keep this many components.")] = None,
    max_rejected: Annotated[float, typer.Option(help="Largest share of photos that may be rejected or failed.")] = 0.05,
    only: Annotated[list[str] | None, typer.Option(help="Use labels that match; may be repeated.")] = None,
    sample: Annotated[int | None, typer.Option(help="Use at most so many photos per label.")] = None,
    taxonomy: Annotated[str | None, typer.Option(help="none: every label is its own kind.")] = None,
    min_precision: Annotated[
        float, typer.Option(help="Share of the answers that name something which must be right.")
    ] = 0.92,
    balance: Annotated[bool | None, typer.Option(help="Count every kind the same in training.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and of the groups held back.")] = 0,
    gallery: Annotated[int, typer.Option(help="Thumbnails of training photos in the bundle; 0: none.")] = 1000,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check every stored byte first; compute again what is damaged.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--photos", help="How many there are, for the estimate; a dry run takes 100,000 if not told.", min=1
        ),
    ] = None,
    executors: Annotated[int, _EXECUTORS] = 5,
    architecture: Annotated[str, typer.Option(help="X86_64 or ARM64, as the application was made.")] = "X86_64",
    compute: Annotated[str, _COMPUTE] = "serverless",
    prices_file: Annotated[str | None, _PRICES] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the run that is under way on --to.")] = False,
    no_follow: Annotated[bool, typer.Option("--no-follow", help="Start it and leave.")] = False,
    name: Annotated[str, _NAME] = "fruits",
    region: Annotated[str | None, _REGION] = None,
    dry_run: Annotated[bool, _DRY] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run on the cluster and follow it. The same command again goes on following; the terminal is not needed."""
    from fruits.aws import cluster, cost, package, prices  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    _check_name(name)
    there = Aws(region)
    table = prices.load(prices_file).told_in(there.region)
    place = cluster.Place.unknown(name, there.region, _compute(compute)) if dry_run else cluster.Place.of(there, name)
    config = RunConfig(
        sources=tuple(_at(source, place.photos, "packs") for source in photos), out=_at(to, place.results, "runs"),
        backbone=backbone, size=size, fit=cast("Fit | None", resize_mode), variance=variance, components=components,
        max_rejected=max_rejected, only=tuple(only or ()), sample=sample, taxonomy=taxonomy,
        min_precision=min_precision, balance=balance, seed=seed, gallery=gallery, repair=repair,
    )  # fmt: skip
    config = cluster.check_places(place, config)
    if cancel:
        if dry_run:
            raise ConfigError("--cancel with --dry-run: only AWS knows what is under way; expected one of them")
        _cancel(there, place, cluster.key_of(place, config.out), as_json=as_json)
        return
    if not dry_run and (started := cluster.under_way(there, place, config)):
        _lead(there, place, config.out, started, table, follow=not no_follow, as_json=as_json)
        return
    if count is None and not dry_run:
        count = _count(config.sources)
    shape = cost.shape_for(
        count or 100_000, compute=place.compute, executors=executors, max_cores=place.max_cores,
        max_memory_gb=place.max_memory_gb,
    )  # fmt: skip
    config = _priced(config, round(cost.core_hour_usd(table, shape), 6))
    estimate = cost.run_cost(count or 100_000, table, shape=shape)
    with Display() as display:
        made = package.build(architecture=architecture, progress=display)
        submission = cluster.Submission(place, config, made, shape)
        if dry_run:
            _plan(submission.planned(), [estimate], as_json=as_json)
            return
        display.say(f"estimated: {estimate.usd:,.2f} USD for {count:,} photos on {estimate.title.partition(' on ')[2]}")
        started = cluster.submit(there, submission, estimate_usd=round(estimate.usd, 4))
        display.say(
            f"job {started['job']} on {config.out}; the same command follows it from anywhere, --cancel ends it"
        )
    _lead(there, place, config.out, started, table, follow=not no_follow, as_json=as_json)


@command(aws, "cost")
def cost_of(
    photos: Annotated[
        int | None, typer.Option("--photos", help="A run on so many; without, what buckets hold.", min=1)
    ] = None,
    photo_kb: Annotated[float, typer.Option("--photo-kb", help="Mean size of a photo.", min=0.1)] = 4.6,
    compute: Annotated[str, _COMPUTE] = "serverless",
    executors: Annotated[int, _EXECUTORS] = 5,
    rates_of: Annotated[
        Path | None, typer.Option("--rates-of", help="run.json of a run of yours, to go by instead of ours.")
    ] = None,
    prices_file: Annotated[str | None, _PRICES] = None,
    update: Annotated[
        Path | None, typer.Option("--update-prices", help="Ask AWS for all prices in --region; write a new table here.")
    ] = None,
    name: Annotated[str, _NAME] = "fruits",
    region: Annotated[str | None, _REGION] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say what a run would cost, or what storage costs. Line by line, this month."""
    from fruits.aws import cost, deploy, prices  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    _check_name(name)
    table = prices.load(prices_file)
    if update is not None:
        made = prices.update(table, Aws, Aws(region).region)
        try:
            update.write_text(json_text(made, indent=1) + "\n", "utf-8")
        except OSError as exc:
            raise StoreError(f"'{update}' cannot be written ({exc.strerror}); choose another file") from exc
        changed = sum(made["prices"][key]["usd"] != table[key] for key in made["prices"])
        typer.echo(
            json_text({"written": str(update), "changed": changed})
            if as_json
            else f"{len(made['prices'])} prices of {made['region']}, {changed} changed; use them with --prices {update}"
        )
        return
    there = Aws(region)
    table = table.told_in(there.region)
    if photos is None:
        told = deploy.outputs(there, name, ["storage"])
        buckets = {
            key.removesuffix("Bucket").lower(): told[key] for key in ("PhotosBucket", "ResultsBucket", "LogsBucket")
        }
        stacks = {which: found.parameters for which in deploy.ORDER if (found := deploy.find(there, name, which))}
        _costs([cost.storage_now(there, buckets, table), cost.standing_cost(table, stacks)], as_json=as_json)
        return
    rates = cost.MEASURED
    if rates_of is not None:
        try:
            rates = cost.read_rates(rates_of.read_bytes(), str(rates_of))
        except OSError as exc:
            raise StoreError(f"--rates-of '{rates_of}' cannot be read ({exc.strerror}); expected a run.json") from exc
    shape = cost.shape_for(photos, compute=_compute(compute), executors=executors)
    _costs(
        [
            cost.run_cost(photos, table, rates=rates, shape=shape, photo_bytes=photo_kb * 1000),
            cost.stored_cost(photos, table, rates=rates, photo_bytes=photo_kb * 1000),
            cost.standing_cost(table, {which: {} for which in deploy.USUAL} | {"batch": {"Compute": compute}}),
        ],
        as_json=as_json,
    )


def _lead(
    there: Any, place: Place, out: str, started: dict[str, Any], table: Prices, *, follow: bool, as_json: bool
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
    typer.echo(f"done; report in {out}/report.html, recogniser in {out}/bundle")


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
        return f"  {line.get('ok', 0):,} of {line.get('photos', 0):,} photos ok, {line.get('components')} components"
    return f"  {line.get('message', json_text(line))}"


def _cancel(there: Any, place: Place, out_key: str, *, as_json: bool) -> None:
    from fruits.aws import cluster  # noqa: PLC0415

    started = cluster.read_job(there, place, out_key)
    ended = started is not None and cluster.state(there, started)["state"] not in (*cluster.GOOD, *cluster.BAD)
    if started is not None and ended:
        cluster.cancel(there, started)
    job = started["job"] if started else None
    if as_json:
        typer.echo(json_text({"job": job, "cancelled": ended}))
    else:
        typer.echo(f"ended {job}; what it computed is kept" if ended else "no run is under way there")


def _plan(calls: list[Any], estimates: list[Estimate], *, as_json: bool) -> None:
    if as_json:
        told = {"calls": [call.as_dict() for call in calls], "costs": [one.as_dict() for one in estimates]}
        typer.echo(json_text(told))
        return
    for number, call in enumerate(calls, 1):
        typer.echo(f"{number:2}. {call.as_text()}")
    for one in estimates:
        typer.echo(f"\n{one.as_text()}")
    typer.echo("\nnothing was called and nothing spent; the same command without --dry-run does it")


def _costs(estimates: list[Estimate], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_text({"costs": [one.as_dict() for one in estimates]}))
    else:
        typer.echo("\n\n".join(one.as_text() for one in estimates))


def _photos_bucket(there: Any, name: str) -> str:
    """Return the bucket for photos: as the stack says, else as the template names it, since the uploader sees no stacks."""
    from fruits.aws import deploy  # noqa: PLC0415
    from fruits.aws.calls import AwsAbsentError, AwsError  # noqa: PLC0415

    try:
        return deploy.outputs(there, name, ["storage"])["PhotosBucket"]
    except AwsAbsentError:
        raise
    except AwsError:
        return f"{name}-photos-{there.who()['account']}-{there.region}"


def _count(sources: tuple[str, ...]) -> int:
    """Return how many photos packs hold."""
    from fruits.photos.packs import read_contents  # noqa: PLC0415
    from fruits.storage.objects import Objects  # noqa: PLC0415

    found = {source: read_contents(Objects(source)) for source in sources}
    for source, contents in found.items():
        if contents is None:
            raise ConfigError(f"there is no pack at {source}; bring it there with 'fruits aws upload PHOTOS --to NAME'")
    return sum(contents.photos for contents in found.values() if contents)


def _priced(config: RunConfig, usd: float) -> RunConfig:
    from dataclasses import replace  # noqa: PLC0415

    return replace(config, core_hour_usd=usd)


def _at(given: str, bucket: str, folder: str) -> str:
    """Return a full address for a name; an address as it is."""
    return given if "://" in given else f"s3://{bucket}/{folder}/{given.strip('/')}"


def _compute(given: str) -> str:
    if given not in ("serverless", "ec2"):
        raise ConfigError(f"--compute {given}: expected serverless or ec2")
    return given


def _check_name(name: str) -> None:
    if not re.fullmatch(_INSTALLATION, name):
        raise ConfigError(f"--name '{name}': expected 2 to 16 small letters, digits and -, beginning with a letter")


def _need_parameters(there: Any, name: str, stacks: list[str], parameters: dict[str, dict[str, str]]) -> None:
    """Say before anything is made what only a person can know, such as whom the budget warns; a stack that is there knows it."""
    from fruits.aws import deploy  # noqa: PLC0415

    for which in stacks:
        lacking = [key for key in deploy.must_be_given(which) if key not in parameters.get(which, {})]
        if lacking and deploy.find(there, name, which) is None:
            wanted = " ".join(f"--set {which}.{key}=..." for key in lacking)
            raise ConfigError(
                f"stack {name}-{which} needs to be told {', '.join(lacking)}; add {wanted}, or choose stacks with --stack"
            )
