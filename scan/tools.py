"""One scanner after the other over files, each as a set of what it says. Nothing leaves the machine."""

# ruff: noqa: S603 - programs of ours, files of ours
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REGIONS = ("eu-west-1", "eu-west-3", "eu-central-1")
#: Where ``make scan`` installs checkov and hadolint.
BIN = ROOT / ".venv/scan/bin"


@dataclass(frozen=True, slots=True, order=True)
class Said:
    """What a scanner says of a file.

    Attributes
    ----------
    tool, check : str
    where : str
        Name of the file, and of the resource where the scanner names one.
    message : str
    """

    tool: str
    check: str
    where: str
    message: str


def cfn_lint(paths: Iterable[Path], regions: Iterable[str] = REGIONS) -> set[Said]:
    """Return what cfn-lint says of templates, down to its remarks."""
    command = [
        str(Path(sys.executable).with_name("cfn-lint")),
        "--format",
        "json",
        "--include-checks",
        "I",
        "--regions",
        *regions,
    ]
    done = subprocess.run([*command, "--", *map(str, paths)], capture_output=True, text=True, check=False)
    if done.returncode not in range(0, 16, 2):  # a sum of 2, 4 and 8 for errors, warnings and remarks
        raise RuntimeError(f"cfn-lint failed: {done.stderr[-2000:]}")
    return {
        Said("cfn-lint", one["Rule"]["Id"], Path(one["Filename"]).name, one["Message"])
        for one in json.loads(done.stdout or "[]")
    }


def checkov(
    folders: Iterable[Path], frameworks: Iterable[str], program: Path = BIN / "checkov"
) -> tuple[set[Said], int]:
    """Return what checkov says of everything below folders, and how many checks passed."""
    command = [
        str(program),
        "--framework",
        *frameworks,
        "--output",
        "json",
        "--compact",
        "--skip-download",
        "--soft-fail",
    ]
    for folder in folders:
        command += ["--directory", str(folder)]
    # Without a key and without downloads it asks nobody; what could name a key is taken away all the same.
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("BC_", "PRISMA_", "CKV_", "CHECKOV_"))
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**kept, "LOG_LEVEL": "ERROR"})
    if done.returncode != 0:
        raise RuntimeError(f"checkov failed: {done.stderr[-2000:]}")
    found: set[Said] = set()
    passed = 0
    for report in _documents(done.stdout):
        results = report.get("results", {})
        passed += report.get("summary", {}).get("passed", 0)
        for one in results.get("failed_checks", []):
            where = f"{Path(one['file_path']).name} {one['resource']}"
            found.add(Said("checkov", one["check_id"], where, one["check_name"]))
        found |= {
            Said("checkov", "unreadable", Path(path).name, "cannot be parsed")
            for path in results.get("parsing_errors", [])
        }
    return found, passed


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """Yield checkov's reports: one document for each folder, each a report or a list of them."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        yield from document if isinstance(document, list) else [document]
        text = text[end:].strip()


def hadolint(paths: Iterable[Path], program: Path = BIN / "hadolint") -> set[Said]:
    """Return what hadolint says of Dockerfiles."""
    command = [str(program), "--no-fail", "--format", "json", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"hadolint failed: {done.stderr[-2000:]}")
    return {Said("hadolint", one["code"], Path(one["file"]).name, one["message"]) for one in json.loads(done.stdout)}
