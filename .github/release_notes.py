"""Print the changelog's section of a version, for its release page.

    python .github/release_notes.py 0.2.0

Exits 1 if the section is missing or empty, or if pyproject.toml or ``fruits.__version__`` names another version.
"""

# ruff: noqa: T201 - a command
from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(root: Path, version: str) -> str:
    """Return the section of a version.

    Raises
    ------
    ValueError
        If there is none, or the tree is of another version.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    package = re.search(r'^__version__ = "([^"]+)"', (root / "src/fruits/__init__.py").read_text("utf-8"), re.MULTILINE)
    found = {"pyproject.toml": project, "src/fruits/__init__.py": package[1] if package else "none"}
    for place, named in found.items():
        if named != version:
            raise ValueError(f"{place} says version {named}, expected {version}; change it, or the tag")
    sections = re.split(r"^## ", (root / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, body = section.partition("\n")
        if heading.split()[:1] == [version]:
            if not body.strip():
                raise ValueError(f"CHANGELOG.md says nothing under '{heading}'; expected what changed")
            return body.strip() + "\n"
    raise ValueError(f"CHANGELOG.md has no heading '## {version}'; rename '## Unreleased' to '## {version} (date)'")


if __name__ == "__main__":
    try:
        print(notes(ROOT, sys.argv[1]), end="")
    except ValueError as exc:
        sys.exit(str(exc))
    except IndexError:
        print("which version? python .github/release_notes.py 0.2.0", file=sys.stderr)
        sys.exit(2)
