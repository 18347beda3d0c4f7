"""Is anything left open? Our own rules over the templates, for what scanners miss.

Three differences from a scanner: a template is judged as what it can become (``cloudformation``), what cannot be judged is a
finding and not a pass, and the rules know what this system needs, so they can ask for it: one port, these roles, an end to
every cluster. Exceptions are few, stand beside the rule with their reason, and are as narrow as it goes. Makes no call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from fruits.aws.installation.stacks import TemplateError, parse
from scan.cloudformation import Variant, variants
from scan.rules import access, data, network, running

#: What the rules have an opinion of. Anything else is a finding: nobody looked at it.
_JUDGED = access.TYPES | data.TYPES | network.TYPES | running.TYPES
_TOP = {
    "AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Mappings", "Conditions", "Rules", "Resources",
    "Outputs",
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that is open, or that nobody can judge.

    Attributes
    ----------
    template, resource : str
        Where; ``resource`` is empty for the template as a whole.
    rule : str
        Short name, such as ``open-to-the-world``.
    message : str
        What was found, what was expected.
    """

    template: str
    resource: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.template}: {self.resource or 'whole template'}: {self.rule}: {self.message}"


def templates() -> dict[str, str]:
    """Return the templates of the package: file name to text."""
    folder = resources.files("fruits.aws") / "templates"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {entry.name: entry.read_text(encoding="utf-8") for entry in sorted(found, key=lambda entry: entry.name)}


def check(texts: Mapping[str, str], *, whole: bool = True) -> list[Finding]:
    """Judge templates.

    Parameters
    ----------
    texts : mapping of str to str
        Name to text.
    whole : bool
        Whether these are all templates of an installation, so that what none of them has is missing (a budget).

    Returns
    -------
    list of Finding
        Sorted; empty if there is nothing to say.
    """
    judged = {name: _judged(text) for name, text in texts.items()}
    found = {Finding(name, *finding) for name, (findings, _) in judged.items() for finding in findings}
    if whole:
        found.update(
            Finding("", "", rule, message)
            for rule, message in running.missing([variant for _, seen in judged.values() for variant in seen])
        )
    return sorted(found)


@lru_cache(maxsize=32)
def _judged(text: str) -> tuple[frozenset[tuple[str, str, str]], tuple[Variant, ...]]:
    """Return resource, rule and message of what one template has open, and what it can become."""
    found: set[tuple[str, str, str]] = set()
    seen: list[Variant] = []
    try:
        template = parse(text)
        for key in sorted(set(template) - _TOP):
            found.add(("", "not-judged", f"'{key}' changes the template before it is used; expected none of it"))
        for variant in variants(template):
            seen.append(variant)
            found.update(_judge(variant))
    except TemplateError as exc:
        found.add(("", "not-judged", str(exc)))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        # A shape that no rule foresaw is no pass.
        found.add(("", "not-judged", f"unexpected shape ({type(exc).__name__}: {exc})"))
    return frozenset(found), tuple(seen)


def _judge(variant: Variant) -> Iterator[tuple[str, str, str]]:
    for resource in variant.resources.values():
        if resource.type not in _JUDGED:
            yield (
                resource.name,
                "not-judged",
                f"no rule knows {resource.type}; expected a type that the templates of fruits use",
            )
    for part in (access, data, network, running):
        yield from part.judge(variant)
