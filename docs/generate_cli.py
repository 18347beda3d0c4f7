"""Writes docs/cli.md from the commands themselves; a test holds that it is up to date.

.venv/bin/python docs/generate_cli.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from fruits.cli.conventions import default_of, described, usage, with_names
from fruits.cli.main import app

TARGET = Path(__file__).with_name("cli.md")
_COMMON = (
    "Results go to stdout, progress and messages to stderr. Exit 0 done, 1 failed, 2 misused, 130 stopped with Ctrl-C. "
    "Every command also takes `-h`, `-v` (say more) and `-q` (results and errors only); `fruits -V` is the version, "
    "`fruits --install-completion` teaches the shell to complete commands and options."
)


def cli_markdown() -> str:
    """Return the reference of every command, from the text that --help shows."""
    lines = [
        "# Commands",
        "",
        "Made from the commands' own help by `docs/generate_cli.py`; change it there.",
        "",
        _COMMON,
    ]
    for name, command in _commands("", get_command(app)):
        words = "".join(f" {usage(param)}" for param in command.params if param.param_type_name == "argument")
        lines += ["", f"## fruits {name}", "", command.help or "", "", f"    fruits {name} [OPTIONS]{words}", ""]
        lines += ["| | | default |", "|---|---|---|"]
        for param in command.params:
            if param.name not in ("verbose", "quiet"):
                default = "required" if param.required else default_of(param)
                shown = described(param)[0].replace("|", "\\|")
                lines.append(
                    f"| `{shown}` | {with_names(param.help or '', own=True).replace('<', '&lt;')} | {default} |"
                )
    return "\n".join(lines) + "\n"


def _commands(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name, those of groups in their place."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{prefix}{name} ", command)
        else:
            yield f"{prefix}{name}", command


if __name__ == "__main__":
    TARGET.write_text(cli_markdown(), encoding="utf-8")
