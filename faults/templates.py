"""Holes made in the CloudFormation templates on purpose, and who notices: our own rules, cfn-lint alone, checkov alone.

    python -m faults.templates [--checkov .venv-scan/bin/checkov]

writes the table of docs/aws-security.md. The tests hold our rules to the same list. A mutant is the text of a template with a few
words changed or added; words that are not there exactly once are an error, so that no mutant can quietly become none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from fruits.aws.rules import check, templates

_ROOT = Path(__file__).parents[1]
_MUTANTS = Path(__file__).with_suffix(".yaml")
_PAGE = _ROOT / "docs/aws-security.md"
_BEGIN, _END = "<!-- made by python -m faults.templates -->", "<!-- end -->"
REGION = "eu-west-1"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One hole.

    Attributes
    ----------
    what : str
        For a person.
    template : str
        File name.
    rule : str
        Our rule that must notice; others may as well.
    edits : tuple of (str, str)
        Words, each there once, and what stands in their place.
    """

    what: str
    template: str
    rule: str
    edits: tuple[tuple[str, str], ...]

    def text(self, original: str) -> str:
        """Return the template with the hole."""
        for old, new in self.edits:
            if original.count(old) != 1:
                raise ValueError(
                    f"'{self.what}': {original.count(old)} times in {self.template}, expected once: {old!r}"
                )
            original = original.replace(old, new)
        return original


def mutants() -> list[Mutant]:
    """Return the mutants of ``templates.yaml``."""
    made = []
    for entry in yaml.safe_load(_MUTANTS.read_text(encoding="utf-8")):
        edits = []
        for edit in entry["edits"]:
            if "append" in edit:
                edits.append(("\nOutputs:\n", f"\n{edit['append']}\nOutputs:\n"))
            elif "after" in edit:
                edits.append((edit["after"], edit["after"] + edit["add"]))
            elif "before" in edit:
                edits.append((edit["before"], edit["add"] + edit["before"]))
            else:
                edits.append((edit["old"], edit["new"]))
        made.append(Mutant(entry["what"], entry["template"], entry["rule"], tuple(edits)))
    return made


# --- Who notices ------------------------------------------------------------------------------------------------------------


def by_our_rules(mutant: Mutant) -> set[str]:
    """Return the names of our rules that notice."""
    texts = templates()
    texts[mutant.template] = mutant.text(texts[mutant.template])
    return {finding.rule for finding in check(texts)}


def by_cfn_lint(text: str, folder: Path) -> set[str]:
    """Return what cfn-lint says of a template."""
    path = folder / "template.yaml"
    path.write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "cfnlint",
        "--format",
        "json",
        "--regions",
        REGION,
        "--include-checks",
        "I",
        "--",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 2, 4, 6, 8, 10, 12, 14}:
        raise RuntimeError(f"cfn-lint failed: {done.stderr[-2000:]}")
    return {f"{one['Rule']['Id']} {one['Message']}" for one in json.loads(done.stdout or "[]")}


def by_checkov(texts: dict[str, str], checkov: Path, folder: Path) -> dict[str, set[str]]:
    """Return what checkov says of each of many templates, in one run of it."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [
        str(checkov),
        "--directory",
        str(folder),
        "--framework",
        "cloudformation",
        "--output",
        "json",
        "--quiet",
        "--compact",
    ]
    command += ["--skip-download", "--soft-fail"]
    # No key, no platform: nothing is sent anywhere; its log would otherwise say what it could not reach.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("BC_", "PRISMA_", "CKV_"))}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**environment, "LOG_LEVEL": "ERROR"}
    )
    if done.returncode != 0:
        raise RuntimeError(f"checkov failed: {done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    found: dict[str, set[str]] = {name: set() for name in texts}
    for one in report.get("results", {}).get("failed_checks", []):
        found[Path(one["file_path"]).name].add(f"{one['check_id']} {one['resource']}")
    unread = set(report.get("results", {}).get("parsing_errors", []))
    for name in texts:
        if any(Path(path).name == name for path in unread):
            found[name].add("unreadable")
    return found


def table(checkov: Path) -> str:
    """Return the table of all mutants and who notices each, with the counts."""
    whole, holes = templates(), mutants()
    with tempfile.TemporaryDirectory() as folder:
        plain_lint = {name: by_cfn_lint(text, Path(folder)) for name, text in whole.items()}
        linted = [by_cfn_lint(one.text(whole[one.template]), Path(folder)) - plain_lint[one.template] for one in holes]
    with tempfile.TemporaryDirectory() as folder:
        names = {f"{at:03d}-{one.template}": one.text(whole[one.template]) for at, one in enumerate(holes)}
        said = by_checkov(names | whole, checkov, Path(folder))
    scanned = [said[f"{at:03d}-{one.template}"] - said[one.template] for at, one in enumerate(holes)]
    ours = [by_our_rules(one) for one in holes]
    lines = ["| hole | template | our rules | cfn-lint alone | checkov alone |", "|---|---|---|---|---|"]
    for one, own, lint, scan in zip(holes, ours, linted, scanned, strict=True):
        cells = (", ".join(sorted(own)) or "no", _cell(lint), _cell(scan))
        lines.append(f"| {one.what} | {one.template.removesuffix('.yaml')} | {' | '.join(cells)} |")
    count = len(holes)
    either = sum(bool(lint or scan) for lint, scan in zip(linted, scanned, strict=True))
    lines.append(
        f"\nOf {count} holes our rules notice {sum(map(bool, ours))}, cfn-lint alone {sum(map(bool, linted))}, "
        f"checkov alone {sum(map(bool, scanned))}, either of the two {either}."
    )
    return "\n".join(lines)


def _cell(said: set[str]) -> str:
    return ", ".join(sorted({one.split()[0] for one in said})) or "no"


def main() -> None:
    """Write the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkov", type=Path, default=_ROOT / ".venv-scan/bin/checkov")
    page = _PAGE.read_text(encoding="utf-8")
    before, rest = page.split(_BEGIN)
    after = rest.split(_END)[1]
    made = table(parser.parse_args().checkov)
    _PAGE.write_text(f"{before}{_BEGIN}\n{made}\n{_END}{after}", encoding="utf-8")
    print(made.rpartition("\n")[2])


if __name__ == "__main__":
    main()
