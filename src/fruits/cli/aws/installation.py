"""The commands of an installation on AWS: parse, call, print. The cost is printed before anything is spent.

Jobs on the cluster are in ``jobs.py``, the service's owner in ``owner.py``; both use the common options defined here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fruits.cli.conventions import SETTINGS, Group, command
from fruits.cli.terminal import JSON, OUTPUT, Display, confirm, fail
from fruits.config import DEFAULT_BACKBONE
from fruits.errors import ConfigError, StoreError, counted
from fruits.storage.sanitising import json_text

if TYPE_CHECKING:
    from fruits.aws.pricing.cost import Estimate

aws = typer.Typer(cls=Group, help="Run the same job and the service on AWS; see docs/aws.md.", **SETTINGS)

NAME = typer.Option("--name", help="Name of the installation: the prefix of its resources at AWS.")
REGION = typer.Option("--region", help="Default: AWS_REGION, else eu-west-1.")
DRY = typer.Option("--dry-run", help="Print every call and the estimated cost, without calling AWS.")
_STACK = typer.Option("--stack", help="storage, roles, batch, service or budget; may be repeated.")
PRICES = typer.Option("--prices", help="Your own price table; default: that of the package.")
COMPUTE = typer.Option("--compute", help="serverless, or ec2: the reference cluster of five m5.xlarge.")
EXECUTORS = typer.Option(
    "--executors", help="Executors of 4 vCPU each, within MaxCpu and MaxMemory; on ec2, core nodes.", min=1
)
_INSTALLATION = r"[a-z][a-z0-9-]{1,15}"


def add_to(app: typer.Typer) -> None:
    """Add ``aws`` to the command line."""
    app.add_typer(aws, name="aws")


@command(aws)
def deploy(
    stack: Annotated[list[str] | None, _STACK] = None,
    service: Annotated[
        bool, typer.Option("--service", help="Also deploy the service, which costs money even while idle.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Stack parameter, template.Key=value; may be repeated. See docs/aws.md."),
    ] = None,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    dry_run: Annotated[bool, DRY] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Create or update the stacks of an installation."""
    from fruits.aws.calls import Aws  # noqa: PLC0415
    from fruits.aws.installation import deploy, stacks  # noqa: PLC0415
    from fruits.aws.pricing import prices, standing  # noqa: PLC0415

    check_name(name)
    chosen = stacks.in_order(stack or [*stacks.USUAL, *(["service"] if service else [])])
    parameters = stacks.parse_parameters(settings or [], chosen)
    for which in chosen:  # report contradictions before any call, as far as they can be detected locally
        stacks.check_rules(which, stacks.effective(which, parameters.get(which, {})))
    there = Aws(region)
    table = prices.load().for_region(there.region)
    if not dry_run:
        _need_parameters(there, name, chosen, parameters)
        if "budget" not in chosen and {"batch", "service"} & set(chosen) and stacks.find(there, name, "budget"):
            chosen.append("budget")  # the standing cost has changed, and with it the default budget
    if dry_run:
        stands = standing.standing_cost(table, {which: parameters.get(which, {}) for which in chosen})
        plan(deploy.planned(name, chosen, parameters, there.region), [stands], as_json=as_json)
        return
    with Display() as display:
        done = deploy.deploy(there, name, chosen, parameters, progress=display)
    stands = standing.standing_cost(table, {one.name.removeprefix(f"{name}-"): one.parameters for one in done})
    if as_json:
        told = {one.name: {"state": one.state, "outputs": dict(one.outputs)} for one in done}
        typer.echo(json_text({"stacks": told, "standing_usd_per_month": stands.usd}))
        return
    for one in done:
        for key, value in sorted(one.outputs.items()):
            typer.echo(f"{one.name}  {key} = {value}")
    if any(one.outputs.get("HasImage") == "no" for one in done):
        typer.echo("no run can start yet: the application lacks the workers' image; docs/aws.md says how to make it")
    typer.echo(
        f"deployed {len(done)} stacks in {there.region}; while nobody works they cost {stands.usd:,.2f} USD a month"
    )


@command(aws)
def status(
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what is deployed and which jobs run."""
    from fruits.aws.calls import Aws  # noqa: PLC0415
    from fruits.aws.installation import deploy  # noqa: PLC0415

    check_name(name)
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
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Cancel running jobs and delete the stacks. Buckets, images and their encryption key are kept and listed."""
    from fruits.aws.calls import Aws  # noqa: PLC0415
    from fruits.aws.installation import deploy, stacks  # noqa: PLC0415

    check_name(name)
    chosen = stacks.in_order(stack or stacks.ORDER)
    there = Aws(region)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("delete asks before it deletes, and nobody can answer here; add --yes")
        named = ", ".join(f"{name}-{which}" for which in chosen)
        if not confirm(f"End all runs of '{name}' in {there.region} and delete {named}?"):
            fail("nothing was ended or deleted", 1)
    with Display() as display:
        done = deploy.delete(there, name, chosen, progress=display)
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
    photos: Annotated[list[str], typer.Argument(help="Sources as for 'fruits pack', or a pack on this disk.")],
    to: Annotated[str, typer.Option(*OUTPUT, help="Name of the pack: s3://<photos bucket>/packs/NAME.")] = "photos",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Photos in any layout, for 'fruits apply' only.")
    ] = False,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    bucket: Annotated[
        str | None,
        typer.Option("--bucket", help="Bucket of photos; default: that of the installation."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Pack photos and upload the pack to the bucket. The same command again resumes an interrupted upload."""
    from fruits.aws import upload  # noqa: PLC0415
    from fruits.aws.calls import Aws  # noqa: PLC0415

    check_name(name)
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
        kept = f", {counted(done['parts_kept'], 'part')} already there" if done["parts_kept"] else ""
        files = counted(done["files"], "file")
        typer.echo(
            f"{counted(done['photos'], 'photo')} in {files} ({done['bytes'] / 1e6:,.1f} MB): sent "
            f"{done['sent_bytes'] / 1e6:,.1f} MB{kept}; pack in {done['pack']}"
        )
        if done["files_of_an_older_pack"]:
            typer.echo(
                f"kept: {counted(done['files_of_an_older_pack'], 'file')} of an older pack: nobody who uploads may delete"
            )
    if done["unreadable"]:
        first = done["unreadable_photos"][0]
        fail(f"photos that could not be read and are not there: {done['unreadable']:,}, such as {first['uri']!r}", 1)


@command(aws, "cost")
def cost_of(
    photos: Annotated[
        int | None,
        typer.Option(
            "--photos", help="Estimate a run on this many photos; default: the content of the buckets.", min=1
        ),
    ] = None,
    photo_kb: Annotated[float, typer.Option("--photo-kb", help="Mean size of a photo in kB.", min=0.1)] = 4.6,
    backbone: Annotated[
        str,
        typer.Option(
            help="fruits-photo, fruits-small, mobilenet_v2_imagenet, or an ONNX file, which is measured here."
        ),
    ] = DEFAULT_BACKBONE,
    size: Annotated[int | None, typer.Option(help="Side of the network's input in pixels.", min=8, max=2048)] = None,
    compute: Annotated[str, COMPUTE] = "serverless",
    executors: Annotated[int, EXECUTORS] = 5,
    rates_of: Annotated[
        Path | None, typer.Option("--rates-of", help="run.json of your own run, used instead of our measured rates.")
    ] = None,
    prices_file: Annotated[str | None, PRICES] = None,
    update: Annotated[
        Path | None,
        typer.Option("--update-prices", help="Query AWS for all prices in --region; write a new table to this file."),
    ] = None,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Estimate the cost of a run, or the monthly cost of storage. Line by line."""
    from fruits.aws.calls import Aws  # noqa: PLC0415
    from fruits.aws.installation import stacks  # noqa: PLC0415
    from fruits.aws.pricing import cost, prices, rates, standing  # noqa: PLC0415

    check_name(name)
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
    table = table.for_region(there.region)
    if photos is None:
        told = stacks.outputs(there, name, ["storage"])
        buckets = {
            key.removesuffix("Bucket").lower(): told[key] for key in ("PhotosBucket", "ResultsBucket", "LogsBucket")
        }
        deployed = {which: found.parameters for which in stacks.ORDER if (found := stacks.find(there, name, which))}
        _costs([cost.storage_now(there, buckets, table), standing.standing_cost(table, deployed)], as_json=as_json)
        return
    photo_bytes = photo_kb * 1000
    if rates_of is None:
        known = rates.scaled(rates.MEASURED, backbone=backbone, size=size, photo_bytes=photo_bytes)
    else:
        try:
            known = rates.read_rates(rates_of.read_bytes(), str(rates_of))
        except OSError as exc:
            raise StoreError(f"--rates-of '{rates_of}' cannot be read ({exc.strerror}); expected a run.json") from exc
    shape = cost.shape_for(photos, compute=checked_compute(compute), executors=executors)
    _costs(
        [
            cost.run_cost(photos, table, rates=known, shape=shape, photo_bytes=photo_bytes),
            cost.stored_cost(photos, table, rates=known, photo_bytes=photo_bytes),
            standing.standing_cost(table, {which: {} for which in stacks.USUAL} | {"batch": {"Compute": compute}}),
        ],
        as_json=as_json,
    )


def plan(calls: list[Any], estimates: list[Estimate], *, as_json: bool) -> None:
    """Print the calls that a command would make and what it would cost."""
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
    """Return the bucket for photos: from the stack, else by the template's naming, since the uploader may not read stacks."""
    from fruits.aws.calls import AwsAbsentError, AwsError  # noqa: PLC0415
    from fruits.aws.installation import stacks  # noqa: PLC0415

    try:
        return stacks.outputs(there, name, ["storage"])["PhotosBucket"]
    except AwsAbsentError:
        raise
    except AwsError:
        return f"{name}-photos-{there.caller_identity()['account']}-{there.region}"


def checked_compute(given: str) -> str:
    """Return the value of --compute if it is valid."""
    if given not in ("serverless", "ec2"):
        raise ConfigError(f"--compute {given}: expected serverless or ec2")
    return given


def check_name(name: str) -> None:
    """Raise :class:`ConfigError` unless the name is valid for an installation."""
    if not re.fullmatch(_INSTALLATION, name):
        raise ConfigError(f"--name '{name}': expected 2 to 16 small letters, digits and -, beginning with a letter")


def _need_parameters(there: Any, name: str, chosen: list[str], parameters: dict[str, dict[str, str]]) -> None:
    """Raise an error, before anything is created, for parameters that only the user knows, such as the budget's e-mail.

    An existing stack already has them.
    """
    from fruits.aws.installation import stacks  # noqa: PLC0415

    for which in chosen:
        lacking = [key for key in stacks.must_be_given(which) if key not in parameters.get(which, {})]
        if lacking and stacks.find(there, name, which) is None:
            wanted = " ".join(f"--set {which}.{key}=..." for key in lacking)
            raise ConfigError(
                f"stack {name}-{which} needs to be told {', '.join(lacking)}; add {wanted}, or choose stacks with --stack"
            )
