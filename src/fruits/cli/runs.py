"""The commands for finished runs: list, go back, remove; and remove from results what nothing needs any more."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated, Any

import typer

from fruits.cli.terminal import JSON, shell
from fruits.errors import ConfigError
from fruits.storage.sanitising import json_text, printable


def runs(
    out: Annotated[str, typer.Argument(help="Results of 'fruits run': folder or s3://bucket/prefix.")],
    use: Annotated[
        str | None, typer.Option(metavar="ID", help="Make this run the current one; its first characters are enough.")
    ] = None,
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Remove this run.")] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove all runs but the current one, those in use, and --keep.")
    ] = False,
    keep: Annotated[int, typer.Option(help="With --prune: keep that many of the newest others.", min=0)] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --prune: say what would go, remove nothing.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List finished runs, go back to one, or remove old ones. Embeddings are left as they are."""
    from fruits.training import finished  # noqa: PLC0415 - keeps 'fruits --help' quick

    if (use is not None) + (remove is not None) + prune > 1:
        raise ConfigError("--use, --remove and --prune do not go together; expected one of them")
    if (keep or dry_run) and not prune:
        raise ConfigError("--keep and --dry-run are of --prune; expected them with it")
    done: dict[str, Any] = {}
    said = ""
    if use is not None:
        done = {"used": finished.use(out, use)}
        said = f"current in {out}: {done['used']}; services take it up by themselves"
    elif remove is not None:
        done = {"removed": [finished.remove(out, remove)]}
        said = f"removed from {out}: {done['removed'][0]}"
    elif prune:
        pruned = finished.prune(out, keep=keep, dry_run=dry_run)
        done = {"removed": pruned.removed, "in_use": pruned.in_use, "dry_run": dry_run}
        names = "".join(f"\n  {name}" for name in pruned.removed)
        kept = f"; in use, so kept: {', '.join(name[:12] for name in pruned.in_use)}" if pruned.in_use else ""
        count = f"{len(pruned.removed):,} run{'' if len(pruned.removed) == 1 else 's'}"
        said = f"{'would remove' if dry_run else 'removed'} {count} from {out}{kept}{names}"
    if said and not as_json:
        typer.echo(said)
        return
    rows = finished.listed(out)
    if as_json:
        typer.echo(json_text({"out": out, **done, "runs": rows}))
        return
    typer.echo(_table(rows))


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


def _table(rows: list[dict[str, Any]]) -> str:
    from fruits.assessment.printed import aligned, with_interval  # noqa: PLC0415 - keeps 'fruits --help' quick

    lines = [("", "run", "started", "photos", "labels", "components", "accuracy (95% interval)")]
    broken = []
    for row in reversed(rows):
        mark, name = "current" if row["current"] else "", row["run"][:12] or "-"
        if row["error"]:
            broken.append(f"{name}: {printable(row['error'])}")
            continue
        score = "not scored"
        if row["accuracy"] is not None:
            score = f"{with_interval(row)} on {row['evaluated']:,} {row['split']}"
        counts = (f"{row['photos']:,}", f"{row['labels']:,}", f"{row['components']:,}")
        lines.append((mark, name, row["started"][:19].replace("T", " "), *counts, score))
    return "\n".join([*aligned(lines), *broken])
