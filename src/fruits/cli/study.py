"""The commands for studies: parse, call one function, print."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Annotated, Any

import typer

from fruits.cli.conventions import SETTINGS, Group, command
from fruits.cli.options import configured
from fruits.cli.terminal import JSON, OUTPUT, Display
from fruits.config import DEFAULT_BACKBONE, RunConfig
from fruits.errors import ConfigError, option
from fruits.storage.sanitising import json_text

_Photos = Annotated[
    list[str],
    typer.Argument(help="Folders (PHOTOS/<label>/photo.jpg), packs or manifests (.csv, .parquet); also s3://..."),
]
_Shared = Annotated[
    str,
    typer.Option(*OUTPUT, metavar="OUT", help="Results of 'fruits run', which share the embeddings; or a new folder."),
]
_Prices = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Price table made by 'fruits aws cost --update-prices'; default: the package's."),
]
_OF_RUN = (
    "resize_mode", "workers", "only", "sample", "taxonomy", "seed", "head", "device", "follow_links", "allow_source",
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Add ``study`` to the command line."""
    group = typer.Typer(cls=Group, help="Measure one choice on your own photos; write a page with plots.", **SETTINGS)
    command(group, "backbones")(study_backbones)
    command(group, "preprocessing")(study_preprocessing)
    command(group, "scaling")(study_scaling)
    command(group, "storage")(study_storage)
    app.add_typer(group, name="study")


@configured(RunConfig, only=_OF_RUN)
def study_backbones(
    photos: _Photos,
    to: _Shared,
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
    repeats: Annotated[int, typer.Option(help="Passes of the measurement of speed; the median counts.", min=1)] = 5,
    speed_photos: Annotated[int, typer.Option(help="Photos in each pass of the measurement of speed.", min=1)] = 256,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare networks and input sizes: accuracy under strict protocols, calibration, speed, memory and size."""
    from fruits.assessment.study import backbones as study  # noqa: PLC0415 - keeps 'fruits --help' quick

    study_options = study.StudyOptions(protocols=tuple(protocol or ()), repeats=repeats, photos=speed_photos)
    config = RunConfig(sources=tuple(photos), out=to, **options)
    names = [name.strip() for name in backbones.split(",") if name.strip()]
    sides = _numbers("sizes", sizes, "100,160")
    _show(study, partial(study.study_backbones, config, names, sides, options=study_options), as_json=as_json)


def _show(study: ModuleType, measure: Callable[..., dict[str, Any]], *, as_json: bool) -> None:
    """Measure, with progress on the terminal, and print what a study found."""
    with Display() as display:
        found = measure(progress=display, command=shlex.join(["fruits", *sys.argv[1:]]))
    typer.echo(json_text(found) if as_json else study.as_text(found))


def _numbers(name: str, text: str, such_as: str) -> list[int]:
    """Return whole numbers with commas between; ``1e9`` is one, too."""
    found: list[int] = []
    try:
        for one in filter(None, (each.strip() for each in text.split(","))):
            value = float(one)
            if not value.is_integer():
                raise ValueError(one)
            found.append(int(value))
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option(name, text)}: expected whole numbers with commas between, such as {such_as}"
        ) from None
    return found


_OF_JOB = (
    "backbone", "size", "resize_mode", "only", "sample", "seed", "device", "follow_links", "allow_source",
)  # fmt: skip


@configured(RunConfig, only=_OF_JOB)
def study_scaling(
    photos: _Photos,
    to: Annotated[
        str,
        typer.Option(
            *OUTPUT, metavar="OUT", help="Where the study is written: results of 'fruits run', or a new folder."
        ),
    ],
    options: dict[str, Any],
    up_workers: Annotated[
        str, typer.Option(metavar="N,...", help="Numbers of worker processes; default: 1 to the number of cores.")
    ] = "",
    out_workers: Annotated[
        str,
        typer.Option(
            metavar="N,...",
            help="Numbers of Spark workers of one core; 0: without Spark; default: 1 to the number of cores.",
        ),
    ] = "",
    repeats: Annotated[int, typer.Option(help="Runs of each; the median counts.", min=1)] = 3,
    projected: Annotated[
        str, typer.Option(metavar="PHOTOS,...", help="Numbers of photos to project hours and money for.")
    ] = "1e6,1e9",
    deadline: Annotated[
        float | None, typer.Option(metavar="HOURS", help="Name the cheapest plan that is done in time.", min=0)
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="Name the fastest plan that costs no more.", min=0)
    ] = None,
    packed: Annotated[bool, typer.Option("--packed", help="Project photos in packs, not as single objects.")] = False,
    prefixes: Annotated[
        int,
        typer.Option(help="Prefixes of the bucket among which the photos are spread; each answers 5,500 GET/s.", min=1),
    ] = 1,
    vcpu_speed: Annotated[
        float, typer.Option(help="Speed of a rented vCPU relative to a core of this machine.", min=0.01)
    ] = 1.0,
    prices: _Prices = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure a bigger machine against more machines; project hours and money for many photos, with the cheapest plan."""
    from fruits.assessment.study.scaling import projection, study  # noqa: PLC0415
    from fruits.aws.pricing import offers  # noqa: PLC0415
    from fruits.aws.pricing import prices as tables  # noqa: PLC0415
    from fruits.monitoring.cores import usable_cores  # noqa: PLC0415

    table, cores = tables.load(prices), study.worker_counts(usable_cores())
    projected_for = projection.ProjectionOptions(
        photos=tuple(_numbers("projected", projected, "1e6,1e9")),
        deadline_h=deadline,
        budget_usd=budget,
        packed=packed,
        prefixes=prefixes,
        get_usd=table["s3_get"],
        put_usd=table["s3_put"],
        speed=vcpu_speed,
    )
    some = tuple(_numbers("out_workers", out_workers, "1,2"))
    study_options = study.StudyOptions(
        up=tuple(_numbers("up_workers", up_workers, "1,2")) or cores,
        out=() if some == (0,) else some or cores,
        repeats=repeats,
        projection=projected_for,
    )
    config = RunConfig(sources=tuple(photos), out=to, **options)
    prices_of, some_offers = f"{table.region}, {table.date}", offers.offers(table)
    _show(study, partial(study.study_scaling, config, some_offers, prices_of, options=study_options), as_json=as_json)


def study_storage(
    out: Annotated[str, typer.Argument(help="Results of 'fruits run': folder or s3://bucket/prefix.")],
    reads_per_month: Annotated[
        float, typer.Option(help="How often all of it is read in a month, for costs on S3.", min=0)
    ] = 1.0,
    prices: _Prices = None,
    repeats: Annotated[int, typer.Option(help="Repeats of every measurement of time; the median counts.", min=1)] = 3,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure what results take on disk and cost on S3, and the accuracy left with fewer or smaller numbers."""
    from fruits.assessment.study.storage import money, study  # noqa: PLC0415
    from fruits.aws.pricing import prices as tables  # noqa: PLC0415

    study_options, table = study.StudyOptions(reads=reads_per_month, repeats=repeats), tables.load(prices)
    usd, prices_of = {name: table[name] for name in money.PRICES}, f"{table.region}, {table.date}"
    _show(study, partial(study.study_storage, out, usd, prices_of, options=study_options), as_json=as_json)


_OF_SAMPLE = (
    "backbone", "size", "resize_mode", "workers", "only", "sample", "taxonomy", "seed", "head", "device", "follow_links",
    "allow_source",
)  # fmt: skip


@configured(RunConfig, only=_OF_SAMPLE)
def study_preprocessing(
    photos: _Photos,
    to: _Shared,
    options: dict[str, Any],
    sampled: Annotated[
        int,
        typer.Option(
            "--photos", help="Size of the sample, spread over labels; --sample gives a number per label instead.", min=1
        ),
    ] = 1000,
    treatments: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Some of pad, crop, squash, crops, closer, augment, background, white_balance, sharpen, clahe; default: all.",
        ),
    ] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="official, source, axis, arc, variety or groups; default: source if named, else the strictest."
        ),
    ] = "",
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the network with the best resize mode in its card to FILE.onnx, for --backbone of 'fruits run'.",
        ),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure what geometry, views, colour and background give and cost, one at a time and the best together."""
    from fruits.assessment.study.preprocessing import study  # noqa: PLC0415

    chosen = tuple(name.strip() for name in treatments.split(",") if name.strip())
    study_options = study.StudyOptions(photos=sampled, treatments=chosen, protocol=protocol, keep=keep)
    config = RunConfig(sources=tuple(photos), out=to, **options)
    _show(study, partial(study.study_preprocessing, config, options=study_options), as_json=as_json)
