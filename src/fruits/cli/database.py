"""The command that prepares a PostgreSQL database for the service: parse, call one function, print."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from fruits.cli.conventions import SETTINGS, Group, command
from fruits.cli.terminal import JSON
from fruits.errors import ConfigError
from fruits.storage.sanitising import json_text

_PASSWORD: Final = "FRUITS_LOGIN_PASSWORD"  # noqa: S105 - the name of a variable


def add_to(app: typer.Typer) -> None:
    """Add ``database`` to the command line."""
    database = typer.Typer(cls=Group, help="Prepare PostgreSQL for the service.", **SETTINGS)
    command(database, "prepare")(database_prepare)
    database.callback()(lambda: None)  # for a group with one command, typer would omit the command's name
    app.add_typer(database, name="database")


def database_prepare(
    login: Annotated[
        str, typer.Option(help="Login to create: fruits_service_1; the next number to change the password.")
    ],
    database: Annotated[
        str, typer.Option(envvar="FRUITS_DATABASE", help="postgresql://... of a user who may create roles.")
    ] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Create the service's own login. Its password is read from the variable FRUITS_LOGIN_PASSWORD."""
    from fruits.service.submissions import logins  # noqa: PLC0415 - keeps 'fruits --help' quick

    password = os.environ.get(_PASSWORD)
    if password is None:
        raise ConfigError(f"{_PASSWORD} is not set; expected the password that the login gets")
    if not database:
        raise ConfigError("which database? give --database postgresql://..., or set FRUITS_DATABASE")
    removed = logins.prepare(database, login, password)
    if as_json:
        typer.echo(json_text({"login": login, "removed": removed}))
    else:
        also = f"; removed {', '.join(removed)}" if removed else ""
        typer.echo(f"login {login} is ready{also}")
