"""The owner's commands for a service on AWS: tokens, export and purge, each a one-off task inside its network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fruits.cli.aws.installation import NAME, REGION, check_name
from fruits.cli.conventions import command as add_command
from fruits.cli.terminal import JSON, Display
from fruits.errors import ConfigError, counted
from fruits.storage.sanitising import json_text

if TYPE_CHECKING:
    from fruits.aws.one_off_tasks import TaskResources


def add_to(aws: typer.Typer) -> None:
    """Add ``token``, ``export`` and ``purge`` to ``fruits aws``."""
    for one in (token, export, purge):
        add_command(aws)(one)


def token(
    who: Annotated[str, typer.Argument(help="User of the token; its secret is named <name>/tokens/WHO.")],
    role: Annotated[str, typer.Option(help="api: recognise; owner: also see and review submissions.")] = "api",
    rate: Annotated[int | None, typer.Option(help="Requests per minute; default: that of the service.", min=1)] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the token and delete its secret.")] = False,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Create a token for the deployed service. It is stored in Secrets Manager and never printed."""
    from fruits.aws import one_off_tasks  # noqa: PLC0415

    if role not in ("api", "owner"):
        raise ConfigError(f"--role {role}: expected api or owner")
    there, resources = _resources(name, region)
    with Display() as display:
        if revoke:
            done = one_off_tasks.revoke_token(there, resources, who, note=display.note)
        else:
            done = one_off_tasks.add_token(there, resources, who, role, rate, note=display.note)
    if as_json:
        typer.echo(json_text(done))
    elif revoke:
        typer.echo(f"revoked {who}; its secret is deleted")
    else:
        typer.echo(
            f"token {who}, role {role}, is in the secret {done['secret']}; read it with: aws secretsmanager get-secret-value "
            f"--secret-id {done['secret']} --query SecretString --output text --region {there.region}"
        )


def export(
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export the reviewed photos to the bucket. For 'fruits aws run reviewed'; withdrawn photos are removed there."""
    from fruits.aws import one_off_tasks  # noqa: PLC0415

    there, resources = _resources(name, region)
    with Display() as display:
        done = one_off_tasks.export(there, resources, note=display.note)
    if as_json:
        typer.echo(json_text(done))
        return
    labels = len(done.get("labels") or ())
    typer.echo(
        f"{counted(done.get('photos', 0), 'photo')} of {counted(labels, 'label')} in {done['to']}: "
        f"{done.get('written', 0):,} written, "
        f"{done.get('removed', 0):,} removed; learn from them with: fruits aws run PACK reviewed --to NAME"
    )


def purge(
    keep_days: Annotated[int, typer.Option(help="Delete older submissions; the service itself keeps 90 days.", min=1)],
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt", help="Assign the stored photos to the service's present database, for example a new one."
        ),
    ] = False,
    name: Annotated[str, NAME] = "fruits",
    region: Annotated[str | None, REGION] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Delete old submissions of the deployed service. Also scrubs its database."""
    from fruits.aws import one_off_tasks  # noqa: PLC0415

    there, resources = _resources(name, region)
    with Display() as display:
        done = one_off_tasks.purge(there, resources, keep_days, adopt=adopt, note=display.note)
    if as_json:
        typer.echo(json_text(done))
    else:
        typer.echo(
            f"deleted {counted(done.get('deleted', 0), 'submission')} of more than {counted(keep_days, 'day')} ago"
        )


def _resources(name: str, region: str | None) -> tuple[Any, TaskResources]:
    from fruits.aws.calls import Aws  # noqa: PLC0415
    from fruits.aws.one_off_tasks import TaskResources  # noqa: PLC0415

    check_name(name)
    there = Aws(region)
    return there, TaskResources.of(there, name)
