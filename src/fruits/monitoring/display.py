"""Progress on stderr: bars on a terminal, a line per finished step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fruits.errors import counted

if TYPE_CHECKING:
    from fruits.monitoring.clock import Progress


class Display:
    """Shows steps while they last; a :class:`~fruits.monitoring.clock.Progress`.

    Parameters
    ----------
    unit : str
        What is counted.
    of_step : mapping, optional
        Step to what it counts, where that is something else.
    quiet : bool
        Show nothing.
    verbose : bool
        Leave a line per finished step on a terminal, too.
    """

    def __init__(
        self,
        unit: str = "photo",
        *,
        of_step: Mapping[str, str] | None = None,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self._unit, self._of_step, self._quiet, self._verbose = unit, of_step or {}, quiet, verbose
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
        )  # fmt: skip
        self._bars = Bars(*columns, console=self._console, disable=quiet or not self._console.is_terminal)
        self._task: Any = None
        self._step, self._photos, self._started = "", 0, 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish()
        self._bars.stop()

    def start(self, step: str, total: int | None) -> None:
        """Begin a step."""
        self._finish()
        self._step, self._photos, self._started = step, 0, time.monotonic()
        self._task = self._bars.add_task(step, total=total)

    def advance(self, photos: int) -> None:
        """Count photos of the step."""
        self._photos += photos
        self._bars.advance(self._task, photos)

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        if not self._quiet:
            self._console.print(Text(message, style="dim"), soft_wrap=True)

    def _finish(self) -> None:
        if self._task is None:
            return
        self._bars.update(self._task, total=self._photos or 1, completed=self._photos or 1)
        self._task = None
        if self._quiet or (self._console.is_terminal and not self._verbose):
            return
        seconds = time.monotonic() - self._started
        rate = f" ({self._photos / seconds:,.0f} per s)" if self._photos and seconds > 0.1 else ""
        unit = self._of_step.get(self._step, self._unit)
        photos = f"{counted(self._photos, unit)} in " if self._photos else ""
        self._console.print(f"{self._step}: {photos}{seconds:.1f} s{rate}", soft_wrap=True)


class _Rate(ProgressColumn):
    """Photos per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="cyan")


@contextmanager
def shown(progress: Progress | bool | None, unit: str = "photo") -> Iterator[Progress]:
    """Yield what is told how far a call from a program is.

    Parameters
    ----------
    progress : Progress or bool, optional
        True: on stderr; False: nowhere; None: on stderr if that is a terminal.
    unit : str
        What is counted.
    """
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not isinstance(progress, bool):
        yield progress
    elif progress:
        with Display(unit) as display:
            yield display
    else:
        from fruits.monitoring.clock import Silent  # noqa: PLC0415 - psutil is nothing that 'fruits --help' needs

        yield Silent()
