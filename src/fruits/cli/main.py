"""The main commands: parse, call one function, print. Results on stdout, progress and logs on stderr.

Exit codes: 0 done, 1 failed (the message says what and what to do next), 2 misused, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import atexit
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from fruits import __version__
from fruits.cli import backbones, predict, runs, service, study
from fruits.cli import watch as watches
from fruits.cli.aws import installation, jobs, owner
from fruits.cli.conventions import QUIET, SETTINGS, VERBOSE, Group, close_streams, command, open_streams
from fruits.cli.options import configured
from fruits.cli.terminal import JSON, OUTPUT, Display, fail, set_volume, shell
from fruits.config import RunConfig
from fruits.errors import ConfigError, EvaluationError, FruitsError, LeakageError, StoreError, counted
from fruits.storage.sanitising import json_text

app = typer.Typer(cls=Group, pretty_exceptions_enable=False, **SETTINGS)

_PHOTOS = typer.Argument(
    help="Folders (PHOTOS/<label>/photo.jpg), packs, datasets (.parquet, .tar) or manifests (.csv, .parquet); also s3://..."
)
_OUT = typer.Option(
    *OUTPUT,
    metavar="OUT",
    help="Folder for the results, or s3://bucket/prefix; created if absent, otherwise continued.",
)
_ON_ENGINE = ("workers", "engine", "master", "spark_conf", "device", "repair", "follow_links", "allow_source")
#: Keys of the run record that --json prints. The rest, such as the photos of every label, is in OUT/run.json.
_CHOSEN = {
    "validation": "chosen by validation",
    "seen": "a fixed share: the network was made from these photos",
    "variance": "the share asked for",
    "components": "the number asked for",
}
_SUMMARY = (
    "photos", "ok", "rejected", "failed", "computed", "reused", "labels", "splits", "labels_without_training", "skipped",
    "warnings", "backbone", "embedding_size", "components", "components_chosen_by", "explained_variance", "head", "balanced",
    "evaluated", "metrics", "leakage", "kinds", "kind_metrics", "calibration", "answers", "coverage", "seconds", "peak_memory_mb",
    "up_to_date", "run", "current",
)  # fmt: skip


@app.callback(invoke_without_command=True)
def fruits(
    version: Annotated[bool, typer.Option("-V", "--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, VERBOSE] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """From a folder of labelled photos to a recogniser."""
    set_volume(verbose=verbose, quiet=quiet)
    if version:
        typer.echo(__version__)
        raise typer.Exit


@command(app)
@configured(RunConfig)
def run(
    photos: Annotated[list[str], _PHOTOS],
    to: Annotated[str, _OUT],
    options: dict[str, Any],
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="List the photos again and again, and run when they have changed. One line per round."
        ),
    ] = False,
    interval: Annotated[
        float | None, typer.Option(help="With --watch: seconds between two rounds; default: 300.", min=0)
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Train a recogniser on labelled photos and report its accuracy. A second run computes only what is new."""
    config = RunConfig(sources=tuple(photos), out=to, **options)
    if interval is not None and not watch:
        raise ConfigError("--interval is of --watch; expected it with it")
    if watch:
        watches.watch(config, watches.INTERVAL_S if interval is None else interval, _SUMMARY, as_json=as_json)
        return
    _run(config, as_json=as_json)


@command(app)
@configured(RunConfig, only=_ON_ENGINE)
def apply(
    out: Annotated[str, typer.Argument(help="Results of 'fruits run', or a bundle.")],
    photos: Annotated[list[str], typer.Argument(help="Folders in any layout, manifests with a column uri, or photos.")],
    to: Annotated[str, _OUT],
    options: dict[str, Any],
    regions: Annotated[
        bool,
        typer.Option(
            "--regions",
            help="Also look for several kinds in each photo and write OUT/regions.parquet; takes about fifteen times as long.",
        ),
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Recognise photos in batch; write a Parquet table of answers."""
    from fruits.training import pipeline  # noqa: PLC0415 - keeps 'fruits --help' quick
    from fruits.training.predicting.predictions import predictions_of  # noqa: PLC0415

    with Display() as display:
        done = pipeline.apply(out, photos, to, progress=display, regions=regions, **options)
    if as_json:
        typer.echo(json_text(done))
        return
    typer.echo(str(predictions_of(done)))


command(app)(predict.predict)
command(app)(runs.vacuum)


@command(app)
def demo(
    to: Annotated[str, typer.Option(*OUTPUT, help="Folder for the photos and the results.")] = "demo",
    photos: Annotated[int, typer.Option(help="Number of photos to generate.", min=100)] = 2400,
    seed: Annotated[int, typer.Option(help="Random seed; another seed gives other fruit of the same varieties.")] = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Generate photos of fruit and run the whole chain on them."""
    from fruits.photos.generated import generator  # noqa: PLC0415

    folder, results = Path(to) / "photos", Path(to) / "results"
    meaning = Path(to) / "taxonomy.csv"
    if meaning.exists() and not results.exists():
        raise StoreError(f"'{meaning}' is not of 'fruits demo', which would replace it; choose another --to")
    with Display() as display:
        display.start("making photos", photos)
        try:
            generator.write_photos(folder, photos=photos, seed=seed, progress=display.advance)
        except OSError as exc:
            raise StoreError(f"photos cannot be written to '{folder}' ({exc.strerror}); choose another --to") from exc
        meaning.write_text(generator.taxonomy(), "utf-8")
    _run(RunConfig(sources=(str(folder),), out=str(results), taxonomy=str(meaning)), as_json=as_json)
    if not as_json:
        example = sorted((folder / "Test").rglob("*.jpg"))[0]
        from fruits.recogniser import bundle  # noqa: PLC0415

        (answer,) = bundle.load(results).recognise([example.read_bytes()])
        typer.echo(f"{example}: {predict.in_words(answer)}")
        typer.echo(f"report:    {(results / 'report.html').absolute()}")
        typer.echo(f"recognise: {shell()} predict {results} {shlex.quote(str(example))}")
        typer.echo(f"evaluate:  {shell()} evaluate {results}")
        typer.echo(f"serve:     {shell()} serve {results}")


@command(app)
def evaluate(
    out: Annotated[list[str], typer.Argument(help="Results of 'fruits run'; several are compared in one table.")],
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="official, source, axis, arc, variety or groups; may be repeated. Default: all that apply."),
    ] = None,
    fail_on_leak: Annotated[
        float | None,
        typer.Option(help="Exit 1 if a larger share of test photos has a near-duplicate in training.", min=0, max=1),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Evaluate a recogniser under strict protocols. With confidence intervals and leakage."""
    from fruits.assessment import evaluation as evaluations  # noqa: PLC0415
    from fruits.assessment.dataset import open_run  # noqa: PLC0415
    from fruits.assessment.printed import as_text  # noqa: PLC0415
    from fruits.assessment.results import evaluation_of  # noqa: PLC0415

    wanted = evaluations.in_order(protocol or ())
    found = []
    for one in out:  # report an error in the last one before working on the first
        open_run(one)
    with Display(unit="fold") as display:
        for one in out:
            found.append(evaluations.evaluate(one, wanted, progress=display))
    if as_json:
        typer.echo(json_text({"evaluations": found}))
    else:
        typer.echo(as_text([evaluation_of(one) for one in found]))
    for evaluation in found:
        if not evaluation["protocols"]:
            reasons = "; ".join(f"{row['protocol']}: {row['reason']}" for row in evaluation["not_applicable"])
            raise EvaluationError(
                f"nothing could be measured of '{evaluation['out']}' ({reasons}); choose another --protocol"
            )
    if fail_on_leak is not None:
        leaks = [
            f"{evaluation['out']}, {row['protocol']}: {row['leakage']:.1%}"
            for evaluation in found
            for row in evaluation["protocols"]
            if row["leakage"] > fail_on_leak
        ]
        if leaks:
            raise LeakageError(
                f"more than {fail_on_leak:.1%} of the test photos have a near-duplicate in training ({'; '.join(leaks)}): "
                "keep photos of the same thing on one side, for instance with a manifest's column group"
            )


command(app)(runs.runs)


@command(app)
@configured(RunConfig, only=("backbone", "size", "workers", "only", "follow_links", "allow_source"))
def audit(
    photos: Annotated[list[str], _PHOTOS],
    to: Annotated[str, _OUT],
    options: dict[str, Any],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Find duplicates, label errors and poor photos. Writes a page and a table; poor: blurred, dark or of odd size."""
    from fruits.assessment import audit as audits  # noqa: PLC0415
    from fruits.assessment.results import audit_of  # noqa: PLC0415

    config = RunConfig(sources=tuple(photos), out=to, **options)
    with Display() as display:
        record = audits.audit(config, progress=display, command=shlex.join(["fruits", *sys.argv[1:]]))
    if as_json:
        typer.echo(json_text({name: value for name, value in record.items() if name != "findings"}))
        return
    typer.echo(str(audit_of(record, to)))


@command(app)
@configured(RunConfig, only=("follow_links", "allow_source"))
def pack(
    photos: Annotated[
        list[str], typer.Argument(help="Sources as for 'fruits run': folders, buckets, datasets, manifests, packs.")
    ],
    to: Annotated[
        str, typer.Option(*OUTPUT, help="Folder or s3://bucket/prefix for the pack; an older one is replaced.")
    ],
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Photos in any layout, for 'fruits apply' only.")
    ] = False,
    *,
    options: dict[str, Any],
    target_mb: Annotated[int, typer.Option(help="Megabytes of photos per file.", min=1)] = 128,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Pack many photos, with labels and splits, into a few files. Faster and cheaper to store in a bucket and to read."""
    from fruits.photos.reading import packing  # noqa: PLC0415
    from fruits.photos.reading.access import Access  # noqa: PLC0415

    with Display() as display:
        done = packing.pack(
            photos,
            to,
            labelled=not unlabelled,
            access=Access.to(photos, **options),
            target_bytes=target_mb << 20,
            progress=display,
        )
    bad = done["unreadable"]
    if as_json:
        typer.echo(json_text(done))
    else:
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in done["skipped"].items())
        typer.echo(
            f"packed {counted(done['photos'], 'photo')} ({done['photo_bytes'] / 1e6:,.1f} MB) into "
            f"{counted(done['files'], 'file')} in {done['seconds']['total']:.1f} s"
            f"{f'; skipped: {skipped}' if skipped else ''}; pack in {to}"
        )
    if bad:
        first = done["unreadable_photos"][0]
        fail(
            f"photos that could not be read and are not in the pack: {bad:,}, such as {first['uri']!r} "
            f"({first['reason']}); put them right and pack again",
            1,
        )


@command(app)
def unpack(
    packed: Annotated[str, typer.Argument(metavar="PACK", help="A pack: folder or s3://bucket/prefix.")],
    to: Annotated[str, typer.Option(*OUTPUT, help="Folder for the photos; created if absent.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of the same name with other content.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write the photos of a pack as files. Each is verified by its checksum."""
    from fruits.photos.reading import packing  # noqa: PLC0415

    with Display() as display:
        done = packing.unpack(packed, to, overwrite=overwrite, progress=display)
    if as_json:
        typer.echo(json_text(done))
    else:
        typer.echo(
            f"wrote {done['written']:,} of {counted(done['photos'], 'photo')} in {done['seconds']['total']:.1f} s, "
            f"{done['there_already']:,} already there; photos in {to}"
        )
        if done["labels_elsewhere"]:
            typer.echo("labels came from a manifest, not from folders: keep it beside the photos")
    if done["failed"]:
        first = done["failed_photos"][0]
        fail(f"photos that were not written: {done['failed']:,}, such as {first['path']!r} ({first['reason']})", 1)


study.add_to(app)  # added last, so that help lists the main flow first
backbones.add_to(app)
service.add_to(app)
installation.add_to(app)
jobs.add_to(installation.aws)
owner.add_to(installation.aws)


def main() -> None:
    """Run the command line; translate errors into one message and an exit code."""
    try:
        app(prog_name="fruits", standalone_mode=True)
    except ConfigError as exc:
        fail(exc, 2)
    except FruitsError as exc:
        fail(exc, 1)


def leave() -> None:
    """Run the command line as a program: like :func:`main`, but exit without finalising the interpreter.

    During finalisation, threads of Arrow and obstore that still hold Python objects may abort the process with exit code 134
    after all work is done; seen in one of forty runs that had nothing to do.
    """
    open_streams()
    code: object = 0
    try:
        main()
    except SystemExit as exc:
        code = exc.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except KeyboardInterrupt:  # between two steps, where no other handler is active
        code = 130
    # Any other exception is a bug and ends with its traceback, as usual.
    atexit._run_exitfuncs()
    if why := close_streams():
        with suppress(OSError):
            os.write(2, f"fruits: results could not be printed ({why}); print them elsewhere\n".encode())
        code = code or 1
    os._exit(code if isinstance(code, int) else 1 if code else 0)


def _scores(record: dict[str, Any], out: str) -> list[str]:
    """Return the lines on a run's score: accuracy with its interval, and leakage between the splits."""
    from fruits.learning.metrics import FEWEST_PHOTOS  # noqa: PLC0415

    if not record["evaluated"]:
        return ["no test or val photos of a label that was learnt: no scores"]
    scored, metrics, leakage = record["evaluated"], record["metrics"], record["leakage"]
    photos = counted(scored["photos"], f"{scored['split']} photo")
    interval = "95% interval {:.1%} to {:.1%}".format(*metrics["accuracyInterval"])
    if scored["too_few_to_say"]:
        right = round(metrics["accuracy"] * scored["photos"])
        told = f"accuracy: too few to say: {right} of {photos} right ({interval}); expected {FEWEST_PHOTOS} or more"
    else:
        told = (
            f"accuracy {metrics['accuracy']:.2%} ({interval}) on {photos}, f1 {metrics['f1']:.4f}, "
            f"top-3 {metrics['top3Accuracy']:.2%}, calibration error {metrics['expectedCalibrationError']:.4f}"
        )
    if leakage is None:
        return [told, "leakage: not known, as too few photos could be read again"]
    looked = f"{scored['split']} photos"
    if leakage["photos"] != scored["photos"]:
        looked = counted(leakage["photos"], f"{scored['split']} photo")
    shared = (
        f"leakage: {leakage['share']:.1%} of {looked} have a near-duplicate in training, or a "
        "neighbour in an image sequence"
    )
    if leakage["high"]:
        shared += f": part of the score is memory; '{shell()} evaluate {shlex.quote(out)}' scores without it"
    return [told, shared]


def _run(config: RunConfig, *, as_json: bool) -> None:
    from fruits.training import pipeline  # noqa: PLC0415

    with Display() as display:
        record = pipeline.run(config, progress=display, command=shlex.join(["fruits", *sys.argv[1:]]))
    if as_json:
        typer.echo(json_text({name: record[name] for name in _SUMMARY}))
        return
    bad = record["rejected"] + record["failed"]
    seconds = record["seconds"]
    typer.echo(
        f"{counted(record['photos'], 'photo')} of {counted(record['labels'], 'label')}: {record['ok']:,} ok, "
        f"{record['rejected']:,} rejected, "
        f"{record['failed']:,} failed{f' (see {config.out}/rejected.csv)' if bad else ''}; "
        f"{record['computed']:,} computed in {seconds['embeddings']:.1f} s, {record['reused']:,} reused"
    )
    typer.echo(
        f"{record['components']} of {record['embedding_size']} components: {record['explained_variance']:.2%} "
        f"of the variance ({_CHOSEN[record['components_chosen_by']]})"
    )
    for line in _scores(record, config.out):
        typer.echo(line)
    if record["up_to_date"]:
        typer.echo(f"nothing has changed since the last run: results in {config.out} are up to date")
    # A bucket has no links.
    bundle = "bundle" if (Path(config.out) / "bundle").is_dir() else f"runs/{record['run']}/bundle"
    typer.echo(
        f"done in {seconds['total']:.1f} s; report in {config.out}/report.html, recogniser in {config.out}/{bundle}"
    )
