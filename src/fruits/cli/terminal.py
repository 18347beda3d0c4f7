"""What every command needs at the terminal: progress on stderr, one message when it fails, options of the same meaning.

How much is said is chosen once per process, by ``-v`` and ``-q``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from fruits.errors import ConfigError

#: Names of the option that says where results go.
OUTPUT: Final = ("-o", "--output", "--to")
JSON: Final[Any] = typer.Option("--json", help="Print one JSON object on stdout.")


@dataclass(slots=True)
class _Volume:
    """How much is said on stderr."""

    verbose: bool = False
    quiet: bool = False


_volume = _Volume()


def set_volume(*, verbose: bool = False, quiet: bool = False) -> None:
    """Choose how much is said; what was chosen before the command's name holds, too.

    Raises
    ------
    ConfigError
        If more and less are wanted at once.
    """
    _volume.verbose |= verbose
    _volume.quiet |= quiet
    if _volume.verbose and _volume.quiet:
        raise ConfigError("both --verbose and --quiet given; expected one of them")


def is_quiet() -> bool:
    """Whether only results and errors are wanted."""
    return _volume.quiet


class _Rate(ProgressColumn):
    """Photos per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="cyan")


class Display:
    """Progress on stderr: bars on a terminal, a line per finished step elsewhere.

    Parameters
    ----------
    unit : str
        What is counted.
    of_step : mapping, optional
        Step to what it counts, where that is something else.
    """

    def __init__(self, unit: str = "photo", *, of_step: Mapping[str, str] | None = None) -> None:
        self._unit, self._of_step = unit, of_step or {}
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
        )  # fmt: skip
        self._bars = Progress(*columns, console=self._console, disable=_volume.quiet or not self._console.is_terminal)
        self._task: Any = None
        self._step, self._photos, self._started = "", 0, 0.0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish()
        self._bars.stop()
        if kind is KeyboardInterrupt:  # here, because Typer turns it into a silent exit
            fail("stopped; what was computed is kept: the same command goes on", 130)

    def start(self, step: str, total: int | None) -> None:
        """Begin a step."""
        self._finish()
        self._step, self._photos, self._started = step, 0, time.monotonic()
        self._task = self._bars.add_task(step, total=total)

    def advance(self, photos: int) -> None:
        """Count photos of the step."""
        self._photos += photos
        self._bars.advance(self._task, photos)

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        if not _volume.quiet:
            self._console.print(Text(message, style="dim"), soft_wrap=True)

    def _finish(self) -> None:
        if self._task is None:
            return
        self._bars.update(self._task, total=self._photos or 1, completed=self._photos or 1)
        self._task = None
        if _volume.quiet or (self._console.is_terminal and not _volume.verbose):
            return
        seconds = time.monotonic() - self._started
        rate = f" ({self._photos / seconds:,.0f} per s)" if self._photos and seconds > 0.1 else ""
        unit = self._of_step.get(self._step, self._unit)
        photos = f"{self._photos:,} {unit}{'' if self._photos == 1 else 's'} in " if self._photos else ""
        self._console.print(f"{self._step}: {photos}{seconds:.1f} s{rate}", soft_wrap=True)


def shell() -> str:
    """Return how this program can be called from the present folder."""
    program = Path(sys.argv[0])
    if program.parent == Path():
        return program.name
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)


def note(message: str) -> None:
    """Print a line on stderr that is no result; not if only results are wanted."""
    if not _volume.quiet:
        typer.echo(message, err=True)


def confirm(question: str) -> bool:
    """Ask on stderr; only y and yes are a yes."""
    typer.echo(f"{question} [y/N]: ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def fail(message: object, code: int) -> NoReturn:
    """End the program with one message; with what caused it, if more is to be said."""
    console = Console(stderr=True, highlight=False)
    console.print(Text(f"fruits: {message}", style="red"), soft_wrap=True)
    cause = message.__cause__ or message.__context__ if isinstance(message, BaseException) else None
    while _volume.verbose and cause is not None:
        console.print(Text(f"  because of {type(cause).__name__}: {cause}", style="dim"), soft_wrap=True)
        cause = cause.__cause__ or cause.__context__
    sys.exit(code)
