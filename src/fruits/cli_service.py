"""The commands of the recognition service: parse, call one function, print."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add ``serve``, ``tokens`` and ``submissions`` to the command line."""
