"""Terminal output of all commands: progress on stderr, one message on failure, shared options.

The amount of output is set once per process, by ``-v`` and ``-q``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from fruits.errors import ConfigError
from fruits.monitoring import display

#: Names of the option for the destination of results.
OUTPUT: Final = ("-o", "--output", "--to")
JSON: Final[Any] = typer.Option("--json", help="Print one JSON object on stdout.")


@dataclass(slots=True)
class _Volume:
    """Amount of output on stderr."""

    verbose: bool = False
    quiet: bool = False


_volume = _Volume()


def set_volume(*, verbose: bool = False, quiet: bool = False) -> None:
    """Set the amount of output; adds to the options given before the command's name.

    Raises
    ------
    ConfigError
        If both are set.
    """
    _volume.verbose |= verbose
    _volume.quiet |= quiet
    if _volume.verbose and _volume.quiet:
        raise ConfigError("both --verbose and --quiet given; expected one of them")


def is_quiet() -> bool:
    """Return whether only results and errors are printed."""
    return _volume.quiet


class Display(display.Display):
    """Progress of a command, as much of it as ``-v`` and ``-q`` ask for; Ctrl-C ends the program with one message.

    Parameters
    ----------
    unit : str
        Unit of the count.
    of_step : mapping, optional
        Step -> its unit, where it differs.
    """

    def __init__(self, unit: str = "photo", *, of_step: Mapping[str, str] | None = None) -> None:
        super().__init__(unit, of_step=of_step, quiet=_volume.quiet, verbose=_volume.verbose)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        super().__exit__(kind)
        if kind is KeyboardInterrupt:  # handled here, because Typer turns it into a silent exit
            fail("stopped; what was computed is kept: the same command goes on", 130)


def shell() -> str:
    """Return the command that calls this program from the current folder."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":  # python -m fruits
        return f"{Path(sys.executable).name} -m fruits"
    if program.parent == Path() or (
        (found := shutil.which(program.name)) and Path(found).absolute() == program.absolute()
    ):
        return program.name
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)


def note(message: str) -> None:
    """Print a line on stderr, unless quiet."""
    if not _volume.quiet:
        typer.echo(message, err=True)


def confirm(question: str) -> bool:
    """Ask on stderr for confirmation; only y and yes confirm."""
    typer.echo(f"{question} [y/N]: ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def fail(message: object, code: int) -> NoReturn:
    """Exit with one message; with the chain of causes, if verbose."""
    console = Console(stderr=True, highlight=False)
    console.print(Text(f"fruits: {message}", style="red"), soft_wrap=True)
    cause = message.__cause__ or message.__context__ if isinstance(message, BaseException) else None
    while _volume.verbose and cause is not None:
        console.print(Text(f"  because of {type(cause).__name__}: {cause}", style="dim"), soft_wrap=True)
        cause = cause.__cause__ or cause.__context__
    sys.exit(code)
