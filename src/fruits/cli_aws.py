"""The commands of AWS: parse, call one function, print."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add ``aws`` to the command line."""
