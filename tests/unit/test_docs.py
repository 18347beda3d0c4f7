"""What the docs say is what there is."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fruits.cli.main import app

ROOT = Path(__file__).parents[2]
COMMANDS: Any = get_command(app)
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_command_reference_is_made_from_the_commands() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert written == generator.cli_markdown(), "run .venv/bin/python docs/generate_cli.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_architecture_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    root = ROOT / "src" / "fruits"
    named_as_a_whole = {root / "service/submissions/migrations", root / "service/web"}
    unnamed = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not path.name.startswith("__")
        and not named_as_a_whole & set(path.parents)
        and not re.search(rf"[`/]{path.stem}`", text)
    ]
    assert unnamed == []


def test_readme_shows_both_commands_at_its_top() -> None:
    top = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:12])
    assert "make demo" in top
    assert "make test" in top


#: Words of this project alone, and the field's terms for them.
PRIVATE = {
    r"held back": "validation photos, held out", r"given back|gave back": "submitted, returned", r"dealt": "assigned",
    r"gathered": "collected", r"harmless": "sanitised", r"lanes?": "inference workers", r"receipts?": "group commit, record",
    r"forgetting|forgotten": "erasure, deleted", r"films?": "image sequences", r"suspects": "label errors",
    r"cooled": "temperature-scaled", r"doubt(s|ed)?": "label smoothing", r"is believed": "is trusted", r"made-up": "generated",
    r"set aside|left aside": "skipped, quarantined", r"last word": "replaces", r"strangers?": "untrusted, somebody else",
}  # fmt: skip
#: Made from the help of the commands; a history; a page that is rewritten with the code it maps.
NOT_JUDGED = {"cli.md", "CHANGELOG.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOT_JUDGED], ids=lambda page: page.name)
def test_prose_uses_the_terms_of_the_field(page: Path) -> None:
    text = re.sub(r"```.*?```|<!--.*?-->\n\|.*?<!--.*?-->|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    prose = [line for line in text.splitlines() if not line.startswith("    ")]
    found = [
        f"{match[0]!r} in {line.strip()[:80]!r}; say: {instead}"
        for line in prose
        for word, instead in PRIVATE.items()
        if (match := re.search(rf"\b({word})\b", line, re.IGNORECASE))
    ]
    assert found == []


def test_commands_of_the_docs_have_the_options_that_they_show() -> None:
    wrong = [
        f"{page.name}: {text}: {problem}" for page in PAGES for text in _commands(page) if (problem := _problem(text))
    ]
    assert wrong == []
    assert sum(len(_commands(page)) for page in PAGES) > 100
    assert _problem("fruits run photos --to results --sampel 3") == "no option --sampel"
    assert _problem("fruits aws fly") == "no command 'aws fly'"


def _commands(page: Path) -> list[str]:
    """Return what a page shows as commands of fruits: lines of code, and code within a line."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks: list[str] = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    ")]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    shown = [re.split(r"\s+#|\s{3,}|;|\|\||&&", line.strip())[0] for line in [*lines, *spans]]
    return [command for command in shown if re.match(r"fruits [a-z]", command)]


def _problem(text: str) -> str:
    """Return what is wrong with a command; empty if nothing is."""
    try:
        words = shlex.split(text)[1:]
    except ValueError:
        return ""  # prose that only begins like a command
    command: Any = COMMANDS
    path: list[str] = []
    while hasattr(command, "commands"):
        if not words or not re.fullmatch(r"[a-z-]+", words[0]):
            return ""  # a group, named as such
        path.append(words.pop(0))
        if path[-1] not in command.commands:
            return f"no command '{' '.join(path)}'"
        command = command.commands[path[-1]]
    known = {"-h", "--help", "-v", "--verbose", "-q", "--quiet"}
    known.update(name for param in command.params for name in [*param.opts, *param.secondary_opts])
    unknown = [word.split("=")[0].strip("[]") for word in words if word.strip("[").startswith("-") and word != "-"]
    return next((f"no option {word}" for word in unknown if word not in known), "")
