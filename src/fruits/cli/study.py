"""The commands for studies: parse, call one function, print."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any

import typer

from fruits.cli.conventions import SETTINGS, Group, command
from fruits.cli.options import configured
from fruits.cli.terminal import JSON, OUTPUT, Display
from fruits.config import DEFAULT_BACKBONE, RunConfig
from fruits.errors import ConfigError
from fruits.storage.sanitising import json_text

_PHOTOS = typer.Argument(help="Folders (PHOTOS/<label>/photo.jpg), packs or manifests (.csv, .parquet); also s3://...")
_OF_RUN = (
    "resize_mode", "workers", "only", "sample", "taxonomy", "seed", "head", "device", "follow_links", "allow_source",
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Add ``study`` to the command line."""
    group = typer.Typer(cls=Group, help="Measure one choice on your own photos; write a page with plots.", **SETTINGS)
    command(group, "backbones")(study_backbones)
    command(group, "storage")(study_storage)
    app.add_typer(group, name="study")


@configured(RunConfig, only=_OF_RUN)
def study_backbones(
    photos: Annotated[list[str], _PHOTOS],
    to: Annotated[
        str,
        typer.Option(
            *OUTPUT, metavar="OUT", help="Results of 'fruits run', which share the embeddings; or a new folder."
        ),
    ],
    options: dict[str, Any],
    backbones: Annotated[
        str,
        typer.Option(metavar="NAME,FILE,...", help="Networks as for --backbone of 'fruits run', with commas between."),
    ] = DEFAULT_BACKBONE,
    sizes: Annotated[
        str,
        typer.Option(
            metavar="PIXELS,...", help="Sides of the input, tried with each network; default: as 'fruits run'."
        ),
    ] = "",
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="official, source, axis, arc, variety or groups; may be repeated. Default: all that apply."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Passes of the measurement of speed; their median counts.", min=1)] = 5,
    speed_photos: Annotated[int, typer.Option(help="Photos of a pass.", min=1)] = 256,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare networks and input sizes: accuracy under strict protocols, calibration, speed, memory and size."""
    from fruits.assessment.study import backbones as study  # noqa: PLC0415 - keeps 'fruits --help' quick

    measuring = study.Measuring(protocols=tuple(protocol or ()), repeats=repeats, photos=speed_photos)
    config = RunConfig(sources=tuple(photos), out=to, **options)
    with Display() as display:
        found = study.study_backbones(
            config,
            [name.strip() for name in backbones.split(",") if name.strip()],
            _numbers(sizes),
            measuring=measuring,
            progress=display,
            command=shlex.join(["fruits", *sys.argv[1:]]),
        )
    typer.echo(json_text(found) if as_json else study.as_text(found))


def _numbers(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",") if one.strip()]
    except ValueError:
        raise ConfigError(f"--sizes {text}: expected whole numbers with commas between, such as 100,160") from None


def study_storage(
    out: Annotated[str, typer.Argument(help="Results of 'fruits run': folder or s3://bucket/prefix.")],
    reads_per_month: Annotated[
        float, typer.Option(help="How often all of it is read in a month, for costs on S3.", min=0)
    ] = 1.0,
    prices: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Price table made by 'fruits aws cost --update-prices'; default: the package's."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Repeats of every time; the median counts.", min=1)] = 3,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure what results take on disk and cost on S3, and the accuracy left with fewer or smaller numbers."""
    from fruits.assessment.study import money  # noqa: PLC0415
    from fruits.assessment.study import storage as study  # noqa: PLC0415
    from fruits.aws import prices as tables  # noqa: PLC0415

    asked, table = study.Asked(reads=reads_per_month, repeats=repeats), tables.load(prices)
    with Display() as display:
        found = study.study_storage(
            out,
            {name: table[name] for name in money.PRICES},
            f"{table.region}, {table.date}",
            asked=asked,
            progress=display,
            command=shlex.join(["fruits", *sys.argv[1:]]),
        )
    typer.echo(json_text(found) if as_json else study.as_text(found))
