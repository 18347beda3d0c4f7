"""Imports go one way, what is heavy is imported only where it is used, and what must be done in one way has one place."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
HEAVY = ("pyspark", "sklearn", "scipy", "boto3", "torch", "onnx")


def test_import_contracts_are_kept() -> None:
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "fruits.cli.main",
        "fruits.recogniser.bundle",
        "fruits.embedding.stage",
        "fruits.engines.local",
        "fruits.service.app",
    ],
)
def test_importing_leaves_heavy_libraries_out(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_does_not_import_the_flow() -> None:
    program = (
        "import sys, contextlib\n"
        "from fruits.cli.main import app\n"
        "with contextlib.suppress(SystemExit): app(['--help'])\n"
        "print(*sorted({'fruits.training.pipeline', 'onnxruntime', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return the package's modules by their path in it, parsed once."""
    package = REPOSITORY / "src/fruits"
    paths = [path for path in package.rglob("*.py") if "node_modules" not in path.parts]
    return {path.relative_to(package).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


def places_of(*names: str) -> set[str]:
    """Return the modules of the package in which one of these names stands, alone or as ``module.name``."""
    found, last = set(), {name.rpartition(".")[2] for name in names}
    for place, tree in modules().items():
        for node in ast.walk(tree):
            text = {ast.Attribute: "attr", ast.Name: "id", ast.alias: "name", ast.Constant: "value"}.get(type(node))
            if (text and getattr(node, text) in names) or (
                isinstance(node, ast.Attribute) and node.attr in last and ast.unparse(node) in names
            ):
                found.add(place)
    return found


@pytest.mark.slow
def test_networks_are_opened_in_one_place_which_looks_through_them_before() -> None:
    assert places_of("InferenceSession") == {"embedding/session.py"}
    # Other ways to run or read a network, which would open the files that it names.
    assert not places_of("ReferenceEvaluator", "load_external_data_for_model", "load_model", "onnx.load")


@pytest.mark.slow
def test_json_is_written_in_one_place_which_knows_no_nan() -> None:
    assert places_of("json.dumps", "json.dump", "JSONEncoder") == {"storage/sanitising.py"}
