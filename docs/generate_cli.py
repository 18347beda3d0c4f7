"""Writes docs/cli.md from the commands themselves; a test holds that it is up to date.

.venv/bin/python docs/generate_cli.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from fruits.cli import app

TARGET = Path(__file__).with_name("cli.md")


def cli_markdown() -> str:
    """Return the reference of every command, from the text that --help shows."""
    lines = [
        "# Commands",
        "",
        "Made from the commands' own help by `docs/generate_cli.py`; change it there.",
        "",
        "Results go to stdout, progress and messages to stderr. Exit 0 done, 1 failed, 2 misused.",
    ]
    for name, command in _commands("", get_command(app)):
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        usage = "".join(f" {_usage(param)}" for param in arguments)
        lines += ["", f"## fruits {name}", "", command.help or "", "", f"    fruits {name}{usage} [OPTIONS]", ""]
        lines += ["| | | default |", "|---|---|---|"]
        for param in command.params:
            is_argument = param.param_type_name == "argument"
            shown = param.name.upper() if is_argument else ", ".join(param.opts)
            default = "required" if param.required else "" if param.default in (None, False, [], ()) else param.default
            lines.append(f"| `{shown}` | {(param.help or '').replace('<', '&lt;')} | {default} |")
    return "\n".join(lines) + "\n"


def _usage(argument: Any) -> str:
    """Return an argument as it stands in the line of usage."""
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _commands(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name, those of groups in their place."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{prefix}{name} ", command)
        else:
            yield f"{prefix}{name}", command


if __name__ == "__main__":
    TARGET.write_text(cli_markdown(), encoding="utf-8")
