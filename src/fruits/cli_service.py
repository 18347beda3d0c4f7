"""The commands of the recognition service: parse, call one function, print."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from fruits.terminal import JSON

_OUT = typer.Argument(help="Results of 'fruits run', or a bundle.")
_DATA = typer.Option(help="Folder for the database and kept photos; default: OUT/service.")
_DATABASE = typer.Option(help="sqlite:///FILE or postgresql://...; default: service.db in the data folder.")
_KEPT = typer.Option(
    "--photos", help="Folder or s3://bucket/prefix for kept photos; default: photos in the data folder."
)


def add_to(app: typer.Typer) -> None:
    """Add ``serve``, ``tokens`` and ``submissions`` to the command line."""
    app.command()(serve)


def serve(
    out: Annotated[str, _OUT],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8080,
    data: Annotated[str, _DATA] = "",
    database: Annotated[str, _DATABASE] = "",
    photos: Annotated[str, _KEPT] = "",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name that people call the service by, *.example.org or *; may be repeated."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Site whose pages may call the API, https://...; may be repeated.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address or network of a reverse proxy, whose X-Forwarded-For is believed; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Photos worked on at the same time; 0 for one per core.")] = 0,
    batch: Annotated[int, typer.Option(help="Photos of different requests recognised together, at most.")] = 8,
    max_bytes: Annotated[int, typer.Option(help="Bytes of a request.")] = 10_000_000,
    max_photos: Annotated[int, typer.Option(help="Photos of a request.")] = 8,
    max_fields: Annotated[int, typer.Option(help="Other fields of a request.")] = 8,
    max_pixels: Annotated[int, typer.Option(help="Pixels of a photo.")] = 50_000_000,
    max_frames: Annotated[int, typer.Option(help="Frames of an animation; the first is looked at.")] = 100,
    max_connections: Annotated[int, typer.Option(help="Open connections.")] = 1000,
    max_wait: Annotated[float, typer.Option(help="Seconds to wait in line; who would wait longer is refused.")] = 2.0,
    send_timeout: Annotated[float, typer.Option(help="Seconds to send a request.")] = 20.0,
    decode_timeout: Annotated[float, typer.Option(help="Seconds of processor time to decode a photo.")] = 5.0,
    rate: Annotated[int, typer.Option(help="Requests per minute and address; 0: any number.")] = 60,
    token_rate: Annotated[int, typer.Option(help="Requests per minute and token, if it says nothing else.")] = 600,
    tokens_only: Annotated[bool, typer.Option("--tokens-only", help="Recognise only for those with a token.")] = False,
    public_metrics: Annotated[bool, typer.Option("--public-metrics", help="Let anybody read /metrics.")] = False,
    keep_days: Annotated[int, typer.Option(help="Days after which what was kept is deleted.")] = 90,
    watch: Annotated[float, typer.Option(help="Seconds between looks for a new bundle; 0: only on SIGHUP.")] = 10.0,
    drain: Annotated[float, typer.Option(help="Seconds to go on refusing politely when told to stop.")] = 0.5,
    check: Annotated[
        bool, typer.Option("--check", help="Open, warm up, recognise one made photo, print what came out, and exit.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Serve the web page and the HTTP API: a photo in, the name of the fruit out."""
    from fruits.service.settings import ServiceConfig  # noqa: PLC0415 - keeps 'fruits --help' quick

    config = ServiceConfig(
        out=out, host=host, port=port, data=data, database=database, photos=photos, workers=workers, batch=batch,
        allow_hosts=tuple(allow_host or ()), allow_origins=tuple(allow_origin or ()),
        trusted_proxies=tuple(trusted_proxy or ()), max_bytes=max_bytes, max_photos=max_photos, max_fields=max_fields,
        max_pixels=max_pixels, max_frames=max_frames, max_connections=max_connections, max_wait_s=max_wait,
        send_s=send_timeout, decode_s=decode_timeout, rate=rate, token_rate=token_rate, tokens_only=tokens_only,
        public_metrics=public_metrics, keep_days=keep_days, watch_s=watch, drain_s=drain,
    )  # fmt: skip
    if check:
        _check(config, as_json=as_json)
        return
    from fruits.service.server import serve as run  # noqa: PLC0415

    started = time.monotonic()

    def listening(address: str) -> None:
        if as_json:
            typer.echo(json.dumps({"address": address, "out": out, "data": config.data, "database": _shown(config)}))
        else:
            typer.echo(f"serving {out} at {address} after {time.monotonic() - started:.1f} s; stop with Ctrl-C")

    run(config, listening=listening)


def _check(config: Any, *, as_json: bool) -> None:
    from fruits.service.recogniser import check  # noqa: PLC0415

    done = check(config)
    if as_json:
        typer.echo(json.dumps(done))
    else:
        typer.echo(
            f"bundle {done['model']} of {done['labels']:,} labels is fine: opened in {done['seconds']['open']:.2f} s, warm after "
            f"{done['seconds']['warm']:.2f} s, a photo in {done['milliseconds']:.1f} ms"
        )


def _shown(config: Any) -> str:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - a password must not be shown

    return make_url(config.database).render_as_string(hide_password=True)
