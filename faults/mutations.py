"""Do the tests notice faults? Puts faults into a copy of the source, one at a time, and runs the tests that must fail.

    python -m faults.mutations [PART...]

With PARTs, only mutations of files whose path holds one of them. Exits 1 if a mutation survives. A mutation whose words do not
occur exactly once is an error, so none can silently become no change.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
_LIST = Path(__file__).with_suffix(".yaml")
#: Exit code of pytest if tests failed; others mean that no test was run, or that pytest itself failed.
_FAILED = 1


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault.

    Attributes
    ----------
    file : str
        Path below ``src/fruits``.
    old, new : str
        Words that occur once, and what replaces them.
    tests : tuple of str
        Files of tests, one of which must fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied_to(self, text: str) -> str:
        """Return the source with the fault."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {text.count(self.old)} times, expected once: {self.old!r}")
        return text.replace(self.old, self.new)


def mutations() -> list[Mutation]:
    """Return all of them."""
    return [Mutation(**{**one, "tests": tuple(one["tests"])}) for one in yaml.safe_load(_LIST.read_text("utf-8"))]


def is_noticed(mutation: Mutation, copy: Path) -> bool:
    """Whether the tests fail with the fault in a copy of the repository, and pass again without it is left to CI."""
    path = copy / "src/fruits" / mutation.file
    original = path.read_text("utf-8")
    path.write_text(mutation.applied_to(original), "utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.tests],
            check=False,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(original, "utf-8")
    if done.returncode not in (0, _FAILED):
        raise RuntimeError(f"{mutation.file}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.returncode == _FAILED


def main() -> None:
    """Try them all and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="parts of paths")
    parts = parser.parse_args().parts
    chosen = [one for one in mutations() if not parts or any(part in one.file for part in parts)]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        unwanted = shutil.ignore_patterns(".venv", ".git", "node_modules", "build", "demo", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=unwanted)
        if (ROOT.parent / "shared").exists():
            (copy.parent / "shared").symlink_to(ROOT.parent / "shared")
        for one in chosen:
            started = time.perf_counter()
            noticed = is_noticed(one, copy)
            survived += not noticed
            seconds = time.perf_counter() - started
            print(
                f"{'noticed ' if noticed else 'SURVIVED'} {seconds:5.1f} s  {one.file}: {one.old!r} -> {one.new!r}",
                flush=True,
            )
    print(f"{len(chosen) - survived} of {len(chosen)} mutations noticed")
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
