"""The common parts of the records of all studies: their beginning, where they are written, and how they are printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import fruits
from fruits.assessment.printed import aligned
from fruits.assessment.study.machine import machine
from fruits.storage.objects import Objects, uri_of
from fruits.storage.sanitising import json_text

FORMAT: Final = 1


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
    objects.write(f"study/{study['study']}.json", json_text(study, indent=1, ensure_ascii=False).encode())
    objects.write(_page_of(study), render(study).encode())


def text_of(study: Mapping[str, Any], rows: Sequence[Sequence[str]], lines: Sequence[str]) -> str:
    """Return a study as text: a table, lines, whether the machine was busy, and where the page is."""
    about = study["machine"]
    busy = [f"other programs were running (load {about['load']}): a quiet machine is faster"] if about["busy"] else []
    return "\n".join([*aligned(rows), *lines, *busy, f"page: {uri_of(study['out'], _page_of(study))}"])


def _page_of(study: Mapping[str, Any]) -> str:
    return f"study/{study['study']}.html"
