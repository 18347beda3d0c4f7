"""The commands of the recognition service: parse, call one function, print."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from fruits.cli.conventions import SETTINGS, Group, command
from fruits.cli.options import configured
from fruits.cli.terminal import JSON, OUTPUT, is_quiet, note
from fruits.errors import ConfigError, counted
from fruits.service.settings import ServiceConfig, StorageLocations
from fruits.storage.sanitising import json_text, printable

if TYPE_CHECKING:
    from fruits.service.submissions.database import Database
    from fruits.service.submissions.repository import Submission, Submissions

_SERVED = typer.Argument(
    metavar="OUT", help="Results of 'fruits run', or a bundle; default: the recogniser of the package."
)
_OF = typer.Argument(
    metavar="OUT", help="Results served by 'fruits serve'; or give --data, or --database and --photos."
)
_of_tokens = configured(ServiceConfig, only=("data", "database"))
_of_submissions = configured(ServiceConfig, only=("data", "database", "photos"))
#: Retention for commands that list or export: they delete nothing by age.
_FOR_EVER_DAYS = 36500
#: Variable with the password of a login that is prepared.
_PASSWORD: Final = "FRUITS_LOGIN_PASSWORD"  # noqa: S105


def add_to(app: typer.Typer) -> None:
    """Add ``serve``, ``tokens``, ``submissions`` and ``database`` to the command line."""
    command(app)(serve)
    tokens = typer.Typer(cls=Group, help="Create, list and revoke tokens of programs and of the owner.", **SETTINGS)
    command(tokens, "add")(tokens_add)
    command(tokens, "list")(tokens_list)
    command(tokens, "revoke")(tokens_revoke)
    app.add_typer(tokens, name="tokens")
    submissions = typer.Typer(cls=Group, help="List, export and delete submissions of visitors.", **SETTINGS)
    command(submissions, "list")(submissions_list)
    command(submissions, "export")(submissions_export)
    command(submissions, "purge")(submissions_purge)
    app.add_typer(submissions, name="submissions")
    database = typer.Typer(cls=Group, help="Prepare PostgreSQL for the service.", **SETTINGS)
    command(database, "prepare")(database_prepare)
    database.callback()(lambda: None)  # for a group with one command, typer would omit the command's name
    app.add_typer(database, name="database")


@configured(ServiceConfig)
def serve(
    options: dict[str, Any],
    out: Annotated[str, _SERVED] = "",
    check: Annotated[
        bool,
        typer.Option("--check", help="Open the bundle, recognise one synthetic photo, print the result, and exit."),
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Serve the web page and the HTTP API. Both take a photo and answer with the name of the fruit."""
    from fruits.recogniser import shipped  # noqa: PLC0415 - keeps 'fruits --help' quick

    if not out:  # submissions must not be stored inside the package
        options["data"] = options["data"] or "fruits-service"
    config = ServiceConfig(out=out or shipped.path(), **options)
    if check:
        _check(config, as_json=as_json)
        return
    from fruits.service.http.server import serve as run  # noqa: PLC0415

    started = time.monotonic()

    def listening(address: str) -> None:
        if as_json:
            typer.echo(
                json_text({"address": address, "out": config.out, "data": config.data, "database": _shown(config)})
            )
        else:
            typer.echo(
                f"serving {out or shipped.NAME} at {address} after {time.monotonic() - started:.1f} s; stop with Ctrl-C"
            )

    if run(config, listening=listening, quiet=is_quiet()):
        raise typer.Exit(130)


def _check(config: Any, *, as_json: bool) -> None:
    from fruits.service.inference.workers import check  # noqa: PLC0415

    done = check(config)
    if as_json:
        typer.echo(json_text(done))
    else:
        typer.echo(
            f"bundle {done['model']} of {counted(done['labels'], 'label')} is fine: opened in "
            f"{done['seconds']['open']:.2f} s, warm after "
            f"{done['seconds']['warm']:.2f} s, a photo in {done['milliseconds']:.1f} ms"
        )


def _shown(config: Any) -> str:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - a password must not be shown

    return make_url(config.database).render_as_string(hide_password=True)


# --- Tokens -------------------------------------------------------------------------------------------------------------


@_of_tokens
def tokens_add(
    options: dict[str, str],
    name: Annotated[str, typer.Argument(help="User of the token.")],
    out: Annotated[str, _OF] = "",
    role: Annotated[str, typer.Option(help="api: recognise; owner: also see and review submissions.")] = "api",
    rate: Annotated[
        int | None, typer.Option(help="Requests per minute; default: --token-rate of 'fruits serve'.")
    ] = None,
    days: Annotated[int, typer.Option(help="Days until it expires; 0: valid until revoked.", min=0)] = 365,
    digest: Annotated[
        str, typer.Option("--sha256", help="sha256 of a token created elsewhere; the token is not printed.")
    ] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Create a token and print it once; only its hash is stored."""
    from fruits.service.submissions.tokens import Role, Tokens  # noqa: PLC0415

    with closing(_open(out, options, make=True)) as opened:
        if digest:
            Tokens(opened).add_hashed(name, cast("Role", role), digest, rate_per_minute=rate, days=days or None)
            told = {"name": name, "role": role}
            typer.echo(json_text(told) if as_json else f"added {printable(name)}, role {role}")
            return
        token = Tokens(opened).add(name, cast("Role", role), rate_per_minute=rate, days=days or None)
    if as_json:
        typer.echo(json_text({"name": name, "role": role, "token": token}))
    else:
        typer.echo(token)
        note("keep it now, it cannot be shown again; programs send it as 'Authorization: Bearer ...'")


@_of_tokens
def tokens_list(
    options: dict[str, str],
    out: Annotated[str, _OF] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List tokens: name, role, age, last use and expiry; never the tokens themselves."""
    from fruits.service.submissions.tokens import Tokens  # noqa: PLC0415

    with closing(_open(out, options)) as opened:
        found = Tokens(opened).list()
    if as_json:
        typer.echo(json_text({"tokens": [asdict(token) | {"age_days": token.age_days} for token in found]}))
        return
    for token in found:
        rate = f"{token.rate_per_minute:,} per minute" if token.rate_per_minute else "usual rate"
        used = f"used {token.last_used_day}" if token.last_used_day else "never used"
        age = f"{counted(token.age_days, 'day')} old"
        if token.revoked:
            state = "revoked"
        elif token.expires_day is None:
            state = "never expires"
        else:
            state = f"expire{'d' if token.expired else 's'} {token.expires_day}"
        typer.echo(
            f"{token.id}  {token.role:5}  {printable(token.name)}: made {token.created_day}, {age}, {used}, {rate}, {state}"
        )
    if not found:
        typer.echo("no tokens")


@_of_tokens
def tokens_revoke(
    options: dict[str, str],
    name: Annotated[str, typer.Argument(help="Name or id of the token.")],
    out: Annotated[str, _OF] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Revoke a token; a running service refuses it within seconds."""
    from fruits.service.submissions.tokens import Tokens  # noqa: PLC0415

    with closing(_open(out, options)) as opened:
        token = Tokens(opened).revoke(name)
    if as_json:
        typer.echo(json_text(asdict(token) | {"revoked": True}))
    else:
        typer.echo(f"revoked {token.id}, {printable(token.name)}")


# --- Submissions --------------------------------------------------------------------------------------------------------


@_of_submissions
def submissions_list(
    options: dict[str, str],
    out: Annotated[str, _OF] = "",
    state: Annotated[str, typer.Option(help="pending, wrong, reviewed or kept.")] = "kept",
    limit: Annotated[int, typer.Option(help="Number of submissions, newest first.", min=1, max=200)] = 50,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List submissions, newest first."""
    from fruits.service.submissions.repository import Filter  # noqa: PLC0415

    with closing(_open(out, options)) as opened:
        submissions = _submissions(opened, out, options)
        page, counts = submissions.page(cast("Filter", state), limit=limit), submissions.counts()
    if as_json:
        rows = [asdict(one) | {"created": one.created.isoformat()} for one in page.submissions]
        typer.echo(json_text({"submissions": rows, "counts": counts}))
        return
    for one in page.submissions:
        said = {None: "", True: "; right", False: "; wrong"}[one.right]
        said += f", it is {one.said_label}" if one.said_label else ""
        said += f"; {one.decision} {one.reviewed_label or ''}".rstrip() if one.decision else ""
        typer.echo(printable(f"{one.id}  {one.created:%Y-%m-%d %H:%M}  {_answer(one)}{said}"))
    typer.echo(
        f"{counted(counts['all'], 'submission')}: {counts['kept']:,} with a photo, {counts['wrong']:,} said to be wrong, "
        f"{counts['pending']:,} to be reviewed, {counts['reviewed']:,} reviewed"
    )


def _answer(one: Submission) -> str:
    return f"{one.outcome}: {one.variety or one.kind or one.label}" if one.has_photo else "photo and answer not kept"


@_of_submissions
def submissions_export(
    options: dict[str, str],
    to: Annotated[str, typer.Option(*OUTPUT, help="Folder or s3://bucket/prefix for PHOTOS/<label>/<id>.jpg.")],
    out: Annotated[str, _OF] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export reviewed photos as files for the next 'fruits run'. Only photos stored with consent."""
    from fruits.service.submissions.reviewed.export import export  # noqa: PLC0415

    with closing(_open(out, options)) as opened:
        done = export(_submissions(opened, out, options), to, note=note)
    if as_json:
        typer.echo(json_text(asdict(done)))
        return
    for label, folder in done.folders.items():
        typer.echo(f"no folder can be called {printable(label)!r}: its photos are in {folder!r}")
    typer.echo(
        f"{counted(done.photos, 'photo')} of {counted(len(done.labels), 'label')} in {to}: {done.written:,} "
        f"written, {done.removed:,} removed; "
        f"learn from them with: fruits run PHOTOS {shlex.quote(to)} --to OUT"
    )


@configured(ServiceConfig, only=("data", "database", "photos", "feedback_hours", "adopt"))
def submissions_purge(
    options: dict[str, Any],
    keep_days: Annotated[int, typer.Option(help="Delete older submissions; as given to 'fruits serve'.", min=1)],
    out: Annotated[str, _OF] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Delete submissions older than --keep-days. Also finishes interrupted deletions and scrubs the database's files."""
    adopt, feedback_hours = options.pop("adopt"), options.pop("feedback_hours")
    with closing(_open(out, options)) as opened:
        submissions = _submissions(opened, out, options, keep_days, feedback_hours)
        finished = submissions.recover()
        count = submissions.purge(thorough=True, adopt=adopt)
        in_quarantine = submissions.quarantined()
    if as_json:
        typer.echo(json_text({"deleted": count, "finished": finished}))
    else:
        also = f"; finished {finished:,} deletions that were cut short" if finished else ""
        typer.echo(f"deleted {counted(count, 'submission')} of more than {counted(keep_days, 'day')} ago{also}")
        if in_quarantine:
            typer.echo(
                f"in quarantine: {counted(in_quarantine, 'photo')} that no submission names, to be deleted after a week"
            )


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


def _open(out: str, options: dict[str, str], *, make: bool = False) -> Database:
    """Open the database of a service; only ``tokens add`` may create it (``make``)."""
    from fruits.service.submissions.database import Database  # noqa: PLC0415

    places = StorageLocations.of(out, **options)
    return Database.open(_said(places.database), make=make)


def _submissions(
    database: Database, out: str, options: dict[str, str], keep_days: int = _FOR_EVER_DAYS, feedback_hours: int = 6
) -> Submissions:
    from fruits.service.submissions.repository import Submissions  # noqa: PLC0415
    from fruits.storage.objects import Objects  # noqa: PLC0415

    place = _said(StorageLocations.of(out, **options).photos)
    return Submissions(database, Objects(place), keep_days=keep_days, feedback_hours=feedback_hours)


def _said(place: str) -> str:
    if not place:
        raise ConfigError(
            "which service? give the OUT that 'fruits serve' serves, or its --data, or --database and --photos"
        )
    return place
