"""``fruits vacuum``: remove from results what nothing needs any more."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from fruits.cli.terminal import JSON, shell
from fruits.storage.sanitising import json_text


def vacuum(
    out: Annotated[str, typer.Argument(help="Results of 'fruits run', 'apply' or 'audit'.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    compact: Annotated[bool, typer.Option("--compact", help="Merge small files of the embeddings first.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Delete embeddings of photos and networks that no run uses.

    A run removes the rows of photos that are no longer listed from the table; their files stay until a vacuum. Runs may continue
    meanwhile.
    """
    from fruits.training import vacuum as vacuums  # noqa: PLC0415 - keeps 'fruits --help' quick

    done = vacuums.vacuum(out, dry_run=dry_run, compact=compact)
    if as_json:
        typer.echo(json_text({**asdict(done), "dry_run": dry_run}))
        return
    merged = f"; {done.merged:,} files fewer by merging" if done.merged else ""
    old = f", {len(done.computations)} of them whole tables of other networks or versions" if done.computations else ""
    would = "would remove" if dry_run else "removed"
    typer.echo(f"{would} {done.files:,} files of {done.size_bytes / 1e6:,.1f} MB{old}{merged}")
    if done.unreadable:
        typer.echo(
            f"kept every table: bundles that cannot be read ({', '.join(name[:12] for name in done.unreadable)}) may need any of "
            f"them; copy them again, or remove these runs with '{shell()} runs {shlex.quote(out)} --remove ID'"
        )
