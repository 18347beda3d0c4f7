"""Messages of what the Python API reaches name no option of the command line: :func:`fruits.errors.option` does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fruits
from fruits.errors import command, command_line, counted, option

ROOT = Path(fruits.__file__).parent
#: The command line itself, and what only it reaches.
COMMAND_LINE = (
    "cli/", "aws/", "service/", "embedding/sources/", "photos/reading/packing.py",
    "report/next_steps.py",
)  # fmt: skip
#: The end of the name of a directory bucket, an option of Java, and options of ``fruits runs``, which Python does not have.
NO_OPTIONS = ("--x-s3", "--add-modules", "--use", "--remove")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is neither a docstring nor the help text of an option."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "choice":
            documentation |= {id(part) for part in ast.walk(node)}  # help texts of options
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def test_only_the_command_line_writes_its_options() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]}"
        for path in sorted(ROOT.rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(COMMAND_LINE)
        for line, text in texts(path)
        for match in re.finditer(r"(?<![\w-])--[a-z][\w-]+", text)
        if not match[0].startswith(NO_OPTIONS) and text != match[0]  # an option by itself is a name, no message
    ]
    assert found == []


def test_options_and_commands_are_named_as_the_caller_writes_them() -> None:
    assert option("max_rejected", 2) == "max_rejected=2"
    assert option("device", "gpu") == "device='gpu'"
    assert option("repair", True) == "repair=True"
    assert command("run", "PHOTOS", to="out") == "fruits.run(PHOTOS, to='out')"
    with command_line():
        assert option("max_rejected", 2) == "--max-rejected 2"
        assert option("to", "") == "--to ''"
        assert option("repair", True) == "--repair"
        assert option("protocols", "luck") == "--protocol luck"
        assert command("run", "PHOTOS", to="out") == "'fruits run PHOTOS --to out'"
    assert option("sample") == "sample="


@pytest.mark.parametrize(("n", "said"), [(0, "0 photos"), (1, "1 photo"), (2, "2 photos"), (1200, "1,200 photos")])
def test_one_is_singular(n: int, said: str) -> None:
    assert counted(n, "photo") == said


#: Words of this project alone that once stood for terms of the field.
PRIVATE = re.compile(
    r"\b(strangeness|left aside|set aside|held back|films?|cooled|doubt(ful)?|alike|lanes?|doors?|forgotten|gathered|"
    r"dealt|given back)\b"
)


def test_catalogue_uses_the_terms_of_the_field() -> None:
    lines = (ROOT / "messages/fruits.pot").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("msgid") and PRIVATE.search(line)] == []


#: Parts of names in the code that a reader from outside would not understand; the terms are those of the messages.
PRIVATE_NAMES = re.compile(
    r"(?<![a-z])(alike|aside|believed|byrow|cooled|dealt|doubt|doors?|films?|forget|forgetting|forgotten|gathered|given_back|glance|"
    r"hear|heard|held_back|hold_back|holdings?|lanes?|learnable|nameless|orchard|saw|sayable|sought|strangeness|suspects?|"
    r"understood|undo)(?![a-z])",
    re.IGNORECASE,
)


def defined(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every class, function, parameter, variable and attribute that a module defines."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_names_in_the_code_are_terms_of_the_field() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), line, name)
        for path in sorted(ROOT.rglob("*.py"))
        for line, name in defined(path)
        if PRIVATE_NAMES.search(name)
    ]
    assert found == []
