"""Conventions of all commands: help format, ``-v`` and ``-q``, Ctrl-C, missing packages, closed streams.

They follow the conventions of Python command lines and are kept in one place, so that a command is its parameters and one call.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Final, TextIO, cast

import typer
from typer.core import TyperCommand, TyperGroup

from fruits import extensions
from fruits.cli.terminal import fail, set_volume
from fruits.errors import command_line

#: Arguments of ``typer.Typer`` that all groups of commands share.
SETTINGS: Final[dict[str, Any]] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
VERBOSE: Final[Any] = typer.Option(
    "-v", "--verbose", help="Print more on stderr: every finished step, and the cause of an error."
)
QUIET: Final[Any] = typer.Option("-q", "--quiet", help="Print results and errors only.")
#: Module -> the extra that installs it.
_EXTRAS: Final = {
    "alembic": "serve", "fastapi": "serve", "httptools": "serve", "prometheus_client": "serve", "psycopg": "serve",
    "pydantic": "serve", "python_multipart": "serve", "sqlalchemy": "serve", "starlette": "serve", "uvicorn": "serve",
    "uvloop": "serve", "boto3": "aws", "botocore": "aws", "yaml": "aws", "pyspark": "spark", "pillow_heif": "heic",
    "huggingface_hub": "hub", "torch": "train",
}  # fmt: skip
#: Old spellings of options: accepted, but not shown in help.
_OLD_SPELLINGS: Final = ("--fit",)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a function to the command line, with ``-v`` and ``-q`` in addition to its parameters.

    Parameters
    ----------
    app : typer.Typer
    name : str, optional
        By default the function's name.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, cls=Command)(_with_volume(function))
        return function

    return add


def _with_volume(function: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for name, option in (("verbose", VERBOSE), ("quiet", QUIET))
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()]

    def called(*, verbose: bool, quiet: bool, **values: Any) -> None:
        set_volume(verbose=verbose, quiet=quiet)
        function(**values)

    called.__name__, called.__doc__, called.__module__ = function.__name__, function.__doc__, function.__module__
    called.__signature__ = signature.replace(parameters=[*parameters, *more])  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in (*parameters, *more)}
    return called


class _PlainHelp:
    """Help in the usual Python style: ``[OPTIONS] PHOTOS...``, upper-case values, untruncated summaries."""

    params: list[Any]
    options_metavar: str | None

    def get_short_help_str(self: Any, limit: int = 45) -> str:  # noqa: ARG002 - a sentence is never cut off
        return summary(self)

    def _sections(self: Any, ctx: Any, formatter: Any) -> None:
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [
                described(param)
                for param in self.get_params(ctx)
                if param.param_type_name == kind and not getattr(param, "hidden", False)
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Command(_PlainHelp, TyperCommand):
    """A command."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as Click calls it
        """Return the parts of the usage line after the command's name."""
        return [self.options_metavar or "", *(usage(param) for param in self.params if _is_argument(param))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        self._sections(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; report an interrupt or a missing extra in one line."""
        try:
            with command_line():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("stopped", 130)
        except ModuleNotFoundError as exc:
            module = (exc.name or "").partition(".")[0]
            if module not in _EXTRAS:
                raise
            extra = _EXTRAS[module]
            fail(
                f"'{ctx.command_path}' needs {module}, which is not installed; pip install 'fruits[{extra}]' "
                f"(in a checkout: pip install '.[{extra}]')",
                1,
            )


class Group(_PlainHelp, TyperGroup):
    """A group of commands."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write options, then commands."""
        self._sections(ctx, formatter)
        self.format_commands(ctx, formatter)


def summary(shown: Any) -> str:
    """Return the first sentence of a command's help."""
    text = " ".join((shown.short_help or shown.help or "").split())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def described(param: Any) -> tuple[str, str]:
    """Return a parameter's row in help: names with the value's placeholder, and the text with default and bounds."""
    notes = []
    if _is_argument(param):
        names = usage(param, optional="{}")
    else:
        shown = [name for name in param.opts if name not in _OLD_SPELLINGS]
        names = ", ".join(
            sorted(shown, key=lambda name: name.startswith("--"))
        )  # Click gives the names of --help in any order
        if not param.is_flag and not getattr(param, "count", False):
            names += f" {metavar(param)}"
        if param.secondary_opts:
            names += f" / {', '.join(param.secondary_opts)}"
    if param.envvar:
        notes.append(f"env var: {param.envvar}")
    if (default := default_of(param)) != "":
        notes.append(f"default: {default}")
    if bounds := _bounds(param):
        notes.append(bounds)
    if param.required:
        notes.append("required")
    text = with_names(param.help or "")
    return names, f"{text}  [{'; '.join(notes)}]" if notes else text


def with_names(text: str, *, own: bool = False) -> str:
    """Fill the names of engines and heads into a help text: all installed ones, or only those of fruits (``own``).

    Done only when help is shown, because looking up entry points of other packages takes time.
    """
    for kind in ("engine", "head"):
        if (place := f"{{{kind}s}}") in text:
            text = text.replace(place, extensions.alternatives(extensions.OWN[kind] if own else extensions.names(kind)))
    return text


def usage(param: Any, *, optional: str = "[{}]") -> str:
    """Return an argument as shown in the usage line: ``PHOTOS...``, ``[OUT]``."""
    name = (param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")
    return name if param.required else optional.format(name)


def metavar(param: Any) -> str:
    """Return the placeholder of an option's value, in upper case."""
    if param.metavar:
        return str(param.metavar)
    described_type = getattr(param, "type_descriptor", None)
    kind = str(described_type.annotation if described_type is not None else getattr(param.type, "name", "")).lower()
    if "int" in kind:
        return "N"
    if "float" in kind:
        return "NUMBER"
    return "FILE" if "path" in kind else str(param.name).upper()


def default_of(param: Any) -> object:
    """Return the default to show in help, or an empty string."""
    value = param.default
    if param.required or value is None or value is ... or isinstance(value, bool):
        return ""
    return value if isinstance(value, int | float) else value or ""  # zero is shown, an empty list is not


def _bounds(param: Any) -> str:
    low, high = (
        getattr(param, name, None) if getattr(param, name, None) is not None else getattr(param.type, name, None)
        if hasattr(param, "type") else None
        for name in ("min", "max")
    )  # fmt: skip
    if low is None or getattr(param, "is_flag", False):
        return ""
    return f"{low} or more" if high is None else f"{low} to {high}"


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


# --- Streams ------------------------------------------------------------------------------------------------------------


def open_streams() -> None:
    """Make stdin, stdout and stderr usable even if the caller closed them; call it in a program before anything is printed.

    A closed descriptor would be reused for the next opened file, and output would be written into that file. If the reader of a
    pipe exits, output is discarded and the work continues.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.FileIO(0, "r", closefd=False))
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, _patient(getattr(sys, name), number))


def close_streams() -> str:
    """Flush the output; return why it could not be written, such as a full disk, or an empty string."""
    why = ""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # a replaced stream, in a test
            stream.flush()
            why = why or cast("Any", stream.buffer).raw.why
    return why


class _PipeTolerant(io.FileIO):
    """A stream that is redirected to the null device when its reader exits, for this process and its children."""

    why = ""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as exc:
            if not isinstance(exc, BrokenPipeError):
                self.why = exc.strerror or type(exc).__name__
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def _patient(stream: TextIO | None, number: int) -> TextIO:
    raw = _PipeTolerant(number, "w", closefd=False)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=number == 2)
    with suppress(OSError, ValueError):
        stream.flush()
    line_buffering = getattr(stream, "line_buffering", number == 2)
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=line_buffering)
