"""Holes made in the CloudFormation templates on purpose, and who notices: our own rules, cfn-lint alone, checkov alone.

    python -m faults.templates [--checkov .venv/scan/bin/checkov]

writes the table of docs/aws-security.md. The tests hold our rules to the same list. A mutant is the text of a template with a few
words changed or added; words that are not there exactly once are an error, so that no mutant can quietly become none.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from scan.rules import check, templates
from scan.tools import BIN, REGIONS, ROOT, Said, cfn_lint, checkov

_MUTANTS = Path(__file__).with_suffix(".yaml")
_PAGE = ROOT / "docs/aws-security.md"
_BEGIN, _END = "<!-- made by python -m faults.templates -->", "<!-- end -->"
#: What scanners say of how a hole was written rather than of the hole: shown in brackets, not counted.
BESIDE = {
    "CKV_AWS_23": "a rule without a description",
    "E3002": "a word that CloudFormation does not know",
    "W2001": "a parameter that is not used any more",
    "W7001": "a mapping that is not used any more",
}


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
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one: ten times as fast
    for entry in yaml.load(_MUTANTS.read_text(encoding="utf-8"), loader):
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


def table(program: Path) -> str:
    """Return the table of all mutants and who notices each, with the counts.

    A scanner notices a hole if it says something of the template with it that it does not say without it.
    """
    whole, holes = templates(), mutants()
    with tempfile.TemporaryDirectory() as folder:
        named = {f"{at:03d}.{hole.template}": hole.text(whole[hole.template]) for at, hole in enumerate(holes)}
        for name, text in (whole | named).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        with ThreadPoolExecutor() as at_once:
            lint = at_once.submit(cfn_lint, [Path(folder) / name for name in whole | named], REGIONS[:1])
            scan = at_once.submit(checkov, [Path(folder)], ["cloudformation"], program)
        linted, scanned = _by_file(lint.result()), _by_file(scan.result()[0])
    lines = ["| hole | template | our rules | cfn-lint alone | checkov alone |", "|---|---|---|---|---|"]
    counts = dict.fromkeys(("ours", "cfn-lint", "checkov", "either"), 0)
    for at, hole in enumerate(holes):
        name = f"{at:03d}.{hole.template}"
        ours = by_our_rules(hole)
        by_lint, by_scan = (
            {check for check, _ in said.get(name, set()) - said.get(hole.template, set())} for said in (linted, scanned)
        )
        for key, noticed in zip(counts, (ours, by_lint, by_scan, by_lint | by_scan), strict=True):
            counts[key] += bool(noticed - set(BESIDE))
        lines.append(
            f"| {hole.what} | {hole.template.removesuffix('.yaml')} | {' | '.join(map(_cell, (ours, by_lint, by_scan)))} |"
        )
    beside = ", ".join(f"{check}: {what}" for check, what in BESIDE.items())
    lines += ["", f"In brackets what is said of how a hole was written, not of the hole ({beside}); it is not counted.", "", (
        f"Of {len(holes)} holes our rules notice {counts['ours']}, cfn-lint alone {counts['cfn-lint']}, checkov alone "
        f"{counts['checkov']}, either of the two {counts['either']}."
    )]  # fmt: skip
    return "\n".join(lines)


def _by_file(said: set[Said]) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for one in said:
        name, _, resource = one.where.partition(" ")
        # Messages of cfn-lint name what is wrong; those of checkov are the same for every resource.
        found.setdefault(name, set()).add((one.check, resource or one.message))
    return found


def _cell(said: set[str]) -> str:
    return ", ".join(f"({check})" if check in BESIDE else check for check in sorted(said)) or "no"


def main() -> None:
    """Write the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkov", type=Path, default=BIN / "checkov")
    page = _PAGE.read_text(encoding="utf-8")
    before, rest = page.split(_BEGIN)
    after = rest.split(_END)[1]
    made = table(parser.parse_args().checkov)
    _PAGE.write_text(f"{before}{_BEGIN}\n{made}\n{_END}{after}", encoding="utf-8")
    print(made.rpartition("\n")[2])


if __name__ == "__main__":
    main()
