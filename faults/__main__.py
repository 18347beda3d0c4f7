"""Runs the scenarios, prints a table as it grows and keeps it in docs/reliability.md. Exit 1 if anything was not right."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from faults import damage, decoders, deletions, device, disk, hostile, kills, pairs, stores
from faults.page import PAGE, write
from faults.trials import Figure, SkippedError, Trials

#: In the order of the table.
SCENARIOS: dict[str, Callable[[Trials], Figure]] = {
    "kill-local": kills.kill_local,
    "kill-spark": kills.kill_spark,
    "kill-s3": kills.kill_s3,
    "executor": kills.executor,
    "python-worker": kills.python_worker,
    "pairs": pairs.pairs,
    "pairs-s3": pairs.pairs_s3,
    **stores.PROXIES,
    "race": stores.race,
    "race-control": stores.race_control,
    "commits": stores.commits,
    "commits-control": stores.commits_control,
    "disk-full": disk.disk_full,
    "flips": damage.flips,
    "decoders-local": decoders.decoders_local,
    "decoders-spark": decoders.decoders_spark,
    **hostile.scenarios(),
    "delete-sqlite": deletions.delete_sqlite,
    "delete-postgresql": deletions.delete_postgresql,
    "keep-sqlite": deletions.keep_sqlite,
    "device-only": device.device_only,
}

#: Columns. Rich leaves cells out where 80 is all there is, as in a pipe.
_NARROWEST = 125


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}, s3, or hostile; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="a few trials of each; docs/reliability.md stays as it is")
    parser.add_argument("--small", action="store_true", help="320 photos and the small network; the row says so")
    parser.add_argument("--trials", type=int, help="so many trials of each; without --keep, the page stays as it is")
    parser.add_argument("--keep", action="store_true", help="keep the rows of --trials in docs/reliability.md, too")
    parser.add_argument("--seed", type=int, default=0, help="other moments, other bytes")
    parser.add_argument(
        "--at-once", type=int, default=1, help="so many trials of a scenario side by side; 1 by default"
    )
    parser.add_argument("--scratch", type=Path, help="work in this folder and leave photos, results and logs there")
    choices = parser.parse_args()
    kept = not choices.quick and (choices.keep or not choices.trials)
    wanted = _wanted(choices.names, parser)
    console = Console(stderr=True, highlight=False)
    figures: list[Figure] = []
    with ExitStack() as stack:
        if choices.scratch:
            choices.scratch.mkdir(parents=True, exist_ok=True)
        scratch = choices.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fruits-faults-")))
        trials = Trials(
            scratch.resolve(),
            choices.quick,
            choices.trials,
            choices.seed,
            lambda line: console.print(line, style="dim"),
            choices.at_once,
            choices.small,
        )
        for name in wanted:
            figures.append(_run(name, trials))
            page = Console(width=max(Console().width, _NARROWEST))
            page.print(_table(figures[-1:], header=len(figures) == 1))
            for failure in figures[-1].failed[:10]:
                page.print(f"  {name}: {failure}", style="red", markup=False, highlight=False)
            if kept:
                write(figures[-1:], list(SCENARIOS))  # now: the next scenario may take an hour
    if kept:
        console.print(f"kept in {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE.name}")
    bad = [figure.name for figure in figures if not figure.good]
    if bad:
        sys.exit(f"not as it should be: {', '.join(bad)}")


def _wanted(names: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return the scenarios that names stand for, in the order of the table."""
    groups = {"s3": list(stores.PROXIES), "hostile": list(hostile.scenarios())}
    names = [each for name in names for each in groups.get(name, [name])]
    if unknown := set(names) - SCENARIOS.keys():
        parser.error(
            f"no scenario {', '.join(sorted(unknown))}; expected some of {', '.join(SCENARIOS)}, s3, or hostile"
        )
    return [name for name in SCENARIOS if not names or name in names]


def _run(name: str, trials: Trials) -> Figure:
    """Run a scenario; what the machine lacks makes it a row that says so."""
    started = time.monotonic()
    try:
        figure = SCENARIOS[name](trials)
    except SkippedError as exc:
        figure = Figure(name, SCENARIOS[name].__doc__ or "", skipped=str(exc))
    if trials.small and trials.uses_photos:
        figure.what += "; 320 photos, the small network"
    trials.say(f"{name}: {figure.trials} trials in {time.monotonic() - started:.0f} s")
    return figure


def _table(figures: list[Figure], *, header: bool) -> Table:
    """Return rows for the terminal; the same widths every time, so that they join into one table."""
    table = Table(show_header=header, box=None, pad_edge=False)
    widths = {"scenario": 22, "trials": 7, "lost": 5, "doubled": 7, "wrong": 6, "": 4, "outcome": 60}
    for title, width in widths.items():
        table.add_column(title, width=width, justify="left" if title in ("scenario", "", "outcome") else "right")
    for figure in figures:
        verdict = figure.verdict
        good = "-" if figure.skipped else "[green]ok[/]" if figure.good else "[red]BAD[/]"
        counts = [f"{number:,}" for number in (figure.trials, verdict.lost, verdict.doubled, verdict.wrong)]
        table.add_row(figure.name, *counts, good, figure.outcome().replace("[", "\\["))
    return table


if __name__ == "__main__":
    main()
