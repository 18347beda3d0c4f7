"""Is anything open that nobody decided on? Scanners over templates and Dockerfiles; published holes of what is locked.

    python -m scan
    python -m scan FILE...    templates of your own, under our rules alone

Exits 1 for what is not in ``exceptions.yaml``, and for an exception that nothing needs any more.
"""

# ruff: noqa: T201 - a command
from __future__ import annotations

import sys
from pathlib import Path

import yaml

from scan.advisories import advisories, asked_for, known
from scan.rules import check, templates
from scan.tools import ROOT, Said, cfn_lint, checkov, hadolint


def main() -> int:
    """Scan, compare with the exceptions, say what differs; with files as arguments, hold them to our rules."""
    if files := sys.argv[1:]:
        findings = check({name: Path(name).read_text("utf-8", "replace") for name in files}, whole=False)
        for one in findings:
            print(one)
        print(f"{len(files)} templates, {len(findings)} findings")
        return 1 if findings else 0
    folder = ROOT / "src/fruits/aws/templates"
    paths, dockerfiles = sorted(folder.glob("*.yaml")), sorted((ROOT / "docker").glob("Dockerfile.*"))
    dockerfiles = [path for path in dockerfiles if not path.name.endswith(".dockerignore")]
    found = {
        Said("fruits", one.rule, f"{one.template} {one.resource}".strip(), one.message) for one in check(templates())
    }
    found |= cfn_lint(paths)
    scanned, passed = checkov([folder, ROOT / "docker"], ["cloudformation", "dockerfile"])
    found |= scanned | hadolint(dockerfiles)
    locks = [*sorted((ROOT / "docker").glob("*.lock")), ROOT / "scan/requirements.txt"]
    found |= advisories(locks, asked_for())
    if not paths or not dockerfiles or not passed or len(locks) < 2:
        print("nothing was scanned", file=sys.stderr)
        return 1
    listed = yaml.safe_load((ROOT / "scan/exceptions.yaml").read_text(encoding="utf-8"))
    excepted = {(one["tool"], one["check"], one["where"]): one["reason"] for one in listed}
    # A scanner may say a thing in one run and not in the next; such an exception may be idle.
    at_times = {(one["tool"], one["check"], one["where"]) for one in listed if one.get("at_times")}
    new = [one for one in sorted(found) if (one.tool, one.check, one.where) not in excepted]
    idle = sorted(set(excepted) - at_times - {(one.tool, one.check, one.where) for one in found})
    for one in new:
        print(f"{one.tool} {one.check}: {one.where}: {one.message}")
    for tool, name, where in idle:
        print(f"{tool} {name}: {where}: in scan/exceptions.yaml, but nothing says so any more; take it out")
    if new or idle:
        return 1
    print(
        f"{len(paths)} templates, {len(dockerfiles)} Dockerfiles: clean in our rules, cfn-lint, checkov "
        f"({passed} checks passed) and hadolint, but for {len(excepted)} exceptions with their reasons in scan/exceptions.yaml"
    )
    date, entries = known()
    print(f"{len(locks)} locks and the lower bounds: none of the {len(entries)} published holes on our list of {date}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
