"""``fruits predict``: recognise a few photos and print or draw the answers; for batches there is ``fruits apply``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fruits.cli.terminal import JSON
from fruits.errors import ConfigError, ImageDecodeError, StoreError
from fruits.storage.sanitising import json_text

if TYPE_CHECKING:
    from fruits.recogniser.answers import Answer
    from fruits.recogniser.recogniser import Recogniser
    from fruits.recogniser.regions import Region


#: In place of a photo: its bytes are read from stdin.
_STDIN: Final = "-"


def predict(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="[OUT] PHOTOS",
            help="Photos, or - for one on stdin; first the results of 'fruits run', or a bundle. Default: the recogniser "
            "of the package.",
        ),
    ],
    explain: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Also draw the regions behind each answer: FOLDER/<photo>.png."),
    ] = None,
    regions: Annotated[
        bool, typer.Option("--regions", help="Also look for several kinds in each photo: an answer for each region.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Recognise one photo or a few, and print the answers."""
    from fruits.photos.decoding.decoder import own_decoder  # noqa: PLC0415
    from fruits.recogniser.recogniser import load  # noqa: PLC0415
    from fruits.storage.disk.local import MAX_PHOTO_BYTES  # noqa: PLC0415

    out = photos.pop(0) if _is_bundle(photos[0]) else None
    if not photos:
        raise ConfigError(
            f"no photos given: '{out}' is taken for the results of a run; expected photos, such as: fruits predict photo.jpg, "
            "fruits predict results photo.jpg, or, for all photos of a folder, fruits predict photos/*.jpg"
        )
    if explain is not None and Path(explain).exists() and not Path(explain).is_dir():
        raise ConfigError(f"--explain '{explain}' is a file; expected a folder for the pictures, new or not")
    own_decoder().start()  # in parallel with loading
    recogniser = load(out)
    rows: list[dict[str, Any]] = []
    drawn = Counter[str]()
    for name in photos:
        photo: str | bytes = sys.stdin.buffer.read(MAX_PHOTO_BYTES) if name == _STDIN else name
        answer, picture = _answered(recogniser, photo, name, explain, drawn)
        rows.append({"uri": name, "status": answer.status, "error": answer.error})
        said = str(answer)
        if answer.status == "ok":
            rows[-1] |= _as_row(answer) | ({"explained": picture} if picture else {})
            said = in_words(answer) + (f"; see {picture}" if picture else "")
        found = recogniser.regions(photo) if regions and answer.status == "ok" else []
        if regions:
            rows[-1]["regions"] = [{"box": region.box, **_as_row(region.answer)} for region in found]
        if not as_json:
            typer.echo(f"{name}: {said}")
            if found:
                _print_regions(found)
    if as_json:
        typer.echo(json_text({"photos": rows}))
    if any(row["status"] != "ok" for row in rows):
        raise typer.Exit(1)


def _is_bundle(name: str) -> bool:
    """Return whether the first argument names results or a bundle rather than a photo, which may be in a bucket or on stdin."""
    from fruits.photos.catalogue.files.folders import has_photo_suffix  # noqa: PLC0415
    from fruits.recogniser import bundle  # noqa: PLC0415
    from fruits.storage.objects import is_remote  # noqa: PLC0415

    return name != _STDIN and bundle.is_bundle(name) and not (is_remote(name) and has_photo_suffix(name))


def _print_regions(found: list[Region]) -> None:
    from fruits.recogniser import regions  # noqa: PLC0415

    if seen := regions.in_words(found):
        typer.echo(f"  {seen}")
    for region in found:
        box = ",".join(f"{side:.2f}" for side in region.box)
        typer.echo(f"  {box}: {in_words(region.answer)}")


def in_words(answer: Answer) -> str:
    """Return an answer as a line of text, followed by advice."""
    from fruits.messages import SOURCE, catalogue  # noqa: PLC0415
    from fruits.recogniser.taxonomy import in_a_sentence  # noqa: PLC0415

    best = ", ".join(f"{name.en} {_share(probability)}" for _, name, probability in answer.kinds)
    if answer.outcome == "unknown":
        said = f"none of the things I know (nearest: {answer.kinds[0][1].en})"
    elif answer.outcome == "unsure" or answer.name is None:
        said = f"not sure: {best}"
    elif answer.outcome == "probable":
        others = ", ".join(f"{name.en} {_share(probability)}" for _, name, probability in answer.kinds[1:])
        said = (
            f"probably {in_a_sentence(answer.name.en)} ({answer.probability:.0%}){f'; or {others}' if others else ''}"
        )
    else:
        told: dict[str, tuple[str, float]] = {}  # labels that differ only in capitals are one thing to a person
        for label, probability in zip(answer.labels, answer.probabilities, strict=True):
            first, total = told.get(label.casefold(), (label, 0.0))
            told[label.casefold()] = first, total + float(probability)
        labels = ", ".join(f"{label} {_share(probability)}" for label, probability in told.values())
        said = f"{answer.name.en} {_share(answer.probability)} ({labels})"
    return " ".join([said, *(f"[{catalogue(SOURCE).text(f'page.{advice}')}]" for advice in answer.advice)])


def _share(probability: float) -> str:
    # No model is certain: what would be rounded to 100.0 % is shown as more than 99.9 %.
    return ">99.9%" if probability >= 0.9995 else f"{probability:.1%}"


def _answered(
    recogniser: Recogniser, photo: str | bytes, name: str, explain: str | None, drawn: Counter[str]
) -> tuple[Answer, str | None]:
    """Recognise a photo; with ``explain``, also draw the regions behind the answer into that folder and return the file name.

    Photos of several folders may have the same name; ``drawn`` counts them, and the second picture is ``photo.jpg-2.png``.
    That of stdin is ``stdin.png``.
    """
    if explain is None:
        return recogniser.predict([photo])[0], None
    from fruits.photos.reading.inputs import as_status  # noqa: PLC0415
    from fruits.recogniser.answers import Answer  # noqa: PLC0415

    try:
        found = recogniser.explain(photo)
    except (ImageDecodeError, StoreError) as exc:
        return Answer.without(*as_status(exc)), None
    file = "stdin" if name == _STDIN else Path(name).name
    drawn[file] += 1
    number = f"-{drawn[file]}" if drawn[file] > 1 else ""
    picture = Path(explain) / f"{file}{number}.png"
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        found.picture().save(picture)
    except OSError as exc:
        raise StoreError(f"'{picture}' cannot be written ({exc.strerror}); give another folder with --explain") from exc
    return found.answer, str(picture)


def _as_row(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain values for JSON."""
    return {
        "outcome": answer.outcome,
        "kind": answer.kind or None,
        "variety": answer.variety or None,
        "name": answer.name.as_dict() if answer.name else None,
        "probability": answer.probability,
        "kinds": [{"kind": kind, **name.names(), "probability": p} for kind, name, p in answer.kinds],
        "labels": answer.labels,
        "probabilities": answer.probabilities,
        "ood_score": answer.ood_score,
        "advice": answer.advice,
    }
