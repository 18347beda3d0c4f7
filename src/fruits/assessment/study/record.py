"""What the records of all studies have in common: how they begin, where they are written, and how they are said on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import fruits
from fruits.assessment.study.machine import machine
from fruits.storage.objects import Objects, under
from fruits.storage.sanitising import json_text

FORMAT: Final = 1


def record_of(study: str) -> str:
    """Return the key of a study's record, below OUT."""
    return f"study/{study}.json"


def page_of(study: str) -> str:
    """Return the key of a study's page, below OUT."""
    return f"study/{study}.html"


def begun(study: str, command: str) -> dict[str, Any]:
    """Return what a record begins with: format, name, version, command, time, and the machine and its load.

    Parameters
    ----------
    study : str
        Its name, such as ``backbones``.
    command : str
        The user's command line.
    """
    return {
        "format": FORMAT,
        "study": study,
        "fruits": fruits.__version__,
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
    }


def write(objects: Objects, study: Mapping[str, Any], render: Callable[[Mapping[str, Any]], str]) -> None:
    """Write the record of a study and its page into an output."""
    objects.write(record_of(study["study"]), json_text(study, indent=1, ensure_ascii=False).encode())
    objects.write(page_of(study["study"]), render(study).encode())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, with columns of equal width; the first row holds the names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def last_lines(study: Mapping[str, Any]) -> list[str]:
    """Return how a study's text ends: whether the machine was busy, and where the page is."""
    about = study["machine"]
    busy = [f"other programs were running (load {about['load']}): a quiet machine is faster"] if about["busy"] else []
    return [*busy, f"page: {under(study['out'], page_of(study['study']))}"]
