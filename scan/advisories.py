"""Is a release with a published hole locked, or allowed by a lower bound? Against a dated list of our own, offline."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scan.tools import ROOT, Said

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
LIST = ROOT / "scan/advisories.yaml"


def known() -> tuple[str, list[dict[str, Any]]]:
    """Return the day of the list, and its entries."""
    told = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return str(told["date"]), told["advisories"]


def advisories(locks: Iterable[Path], project: dict[str, Any]) -> set[Said]:
    """Return what the list says of locked releases and of the lowest that a project allows.

    Parameters
    ----------
    locks : iterable of Path
        Files of ``name==version`` lines.
    project : dict
        The table of that name in pyproject.toml.
    """
    _, entries = known()
    found = set()
    for where, name, version in (*_pinned(locks), *_allowed(project)):
        for entry in entries:
            if canonicalize_name(entry["package"]) == name and version < Version(str(entry["fixed"])):
                message = f"{name} {version} ({entry['what']}: {entry['ids']}); expected {entry['fixed']} or newer"
                found.add(Said("advisories", str(entry["ids"]), f"{where} {name}", message))
    return found


def asked_for(path: Path = ROOT / "pyproject.toml") -> dict[str, Any]:
    """Return the table ``project`` of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return project


def _pinned(locks: Iterable[Path]) -> Iterator[tuple[str, str, Version]]:
    for lock in locks:
        for name, version in _PIN.findall(lock.read_text(encoding="utf-8")):
            yield lock.name, canonicalize_name(name), Version(version)


def _allowed(project: dict[str, Any]) -> Iterator[tuple[str, str, Version]]:
    """Yield the lowest release that each requirement allows; without a lower bound that is release 0."""
    extras = project.get("optional-dependencies", {})
    for line in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        wanted = Requirement(line)
        lowest = [one.version for one in wanted.specifier if one.operator in (">=", "==", "~=", ">")]
        bound = max((Version(text.removesuffix(".*")) for text in lowest), default=Version("0"))
        yield "pyproject.toml", canonicalize_name(wanted.name), bound
