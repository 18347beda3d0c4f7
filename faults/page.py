"""Keeps the table of figures in docs/reliability.md: a row per scenario, replaced when the scenario is run again."""

from __future__ import annotations

import fcntl
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from faults.running import REPOSITORY
from faults.trials import Figure

PAGE = REPOSITORY / "docs" / "reliability.md"
_BEGIN, _END = "<!-- faults: begin -->", "<!-- faults: end -->"
_HEAD = (
    "| scenario | what is done | trials | lost | doubled | wrong | how it ended | when, where |",
    "|---|---|--:|--:|--:|--:|---|---|",
)


def write(figures: list[Figure], order: list[str], page: Path = PAGE) -> None:
    """Put rows into the page; the rows of other scenarios stay.

    Parameters
    ----------
    figures : list of Figure
    order : list of str
        Names of all scenarios, as the table should have them.
    page : Path

    Raises
    ------
    ValueError
        If the page has lost its markers.
    """
    with page.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several calls may run at once, each for some scenarios
        _write(figures, order, page)


def _write(figures: list[Figure], order: list[str], page: Path) -> None:
    text = page.read_text("utf-8")
    before, begin, rest = text.partition(_BEGIN)
    table, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"'{page.name}' has no lines {_BEGIN} and {_END}; put them back around the table")
    rows = {line.split("|")[1].strip(" `"): line for line in table.splitlines() if line.startswith("| `")}
    rows |= {figure.name: _row(figure) for figure in figures}
    lines = [*_HEAD, *(rows[name] for name in order if name in rows)]
    page.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after, "utf-8")


def _row(figure: Figure) -> str:
    verdict = figure.verdict
    counts = [f"{number:,}" for number in (figure.trials, verdict.lost, verdict.doubled, verdict.wrong)]
    outcome = figure.outcome() + ("" if figure.good else "; **not as it should be**")
    when = f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}"
    cells = [f"`{figure.name}`", figure.what, *counts, outcome, when]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _machine() -> str:
    """Say in words what the figures were made on."""
    info = Path("/proc/cpuinfo")
    named = [line.partition(":")[2].strip() for line in _lines(info) if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {named[0] if named else platform.machine()}, {platform.system()} {platform.release().split('-')[0]}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
