"""Which photos are measured, and how fruits is run on them: as its user runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fruits.photos.generated import generator

_SHARED = Path(__file__).parents[2] / "shared" / "fruits-360"


def find_photos(folder: Path | None, scratch: Path, *, at_least: int) -> tuple[list[Path], str]:
    """Return photos, sorted, and where they are from: the folder asked for, ``FRUITS_DATA``, Fruits-360, generated fruit."""
    for given in (folder, os.environ.get("FRUITS_DATA"), _SHARED):
        if given and Path(given).is_dir():
            return _listed(Path(given)), str(given)
        if given and given is not _SHARED:
            sys.exit(f"'{given}' is no folder; expected one of photos: PHOTOS/Training/<label>/photo.jpg")
    planted = scratch / "orchard"
    generator.write_photos(planted, photos=at_least)
    return _listed(planted), f"generated fruit (fruits.photos.generated.generator, {at_least:,} photos)"


def spread(photos: list[Path], count: int) -> list[Path]:
    """Return ``count`` of the photos, or all if there are fewer, evenly spread over the labels."""
    count = min(count, len(photos))
    return [photos[i * len(photos) // count] for i in range(count)]


def link(photos: list[Path], into: Path, copies: int = 1) -> None:
    """Put photos into ``into/<copy>/<split>/<label>/``, as hard links where the file system has them."""
    for copy in range(copies):
        for photo in photos:
            target = into / f"copy{copy:02d}" / Path(*photo.parts[-3:])
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(photo, target)
            except OSError:  # another file system, or one without links
                target.write_bytes(photo.read_bytes())


def fruits_run(photos: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start ``fruits run``; :func:`record_of` waits for it."""
    command = [sys.executable, "-m", "fruits", "run", str(photos), "--to", str(out), "--json", *options]
    with out.with_suffix(".json").open("wb") as said, out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=said, stderr=log)


def record_of(run: subprocess.Popen[bytes], out: Path) -> dict[str, Any]:
    """Wait for a run and return what it says of itself."""
    if run.wait():
        sys.exit(f"fruits run failed ({run.returncode}):\n{out.with_suffix('.log').read_text()[-2000:]}")
    record: dict[str, Any] = json.loads(out.with_suffix(".json").read_bytes())
    return record


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.jpg") if not path.name.startswith("."))
