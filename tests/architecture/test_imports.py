"""What is heavy is imported only where it is used, and what must be done in one way has one place.

That imports go one way is held by import-linter (``make check``).
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
HEAVY = ("pyspark", "sklearn", "scipy", "boto3", "torch", "onnx")


@pytest.mark.slow
def test_importing_leaves_heavy_libraries_out() -> None:
    modules = ("recogniser.bundle", "embedding.stage", "engines.local", "service.app", "cli.main")
    program = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(f'fruits.{module}')\n"
        f"    print(module, *sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(modules)


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
def names() -> dict[str, set[str]]:
    """Return every name, attribute and text of the package's modules by their path in it; attributes as ``module.name``, too."""
    package, found = REPOSITORY / "src/fruits", {}
    for path in package.rglob("*.py"):
        if "node_modules" not in path.parts:
            nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
            here = {node.id for node in nodes if isinstance(node, ast.Name)}
            here |= {node.name for node in nodes if isinstance(node, ast.alias)}
            here |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
            for node in nodes:
                if isinstance(node, ast.Attribute):
                    here |= {node.attr, *([f"{node.value.id}.{node.attr}"] if isinstance(node.value, ast.Name) else [])}
            found[path.relative_to(package).as_posix()] = here
    return found


def places_of(*wanted: str) -> set[str]:
    """Return the modules of the package in which one of these names stands, alone or as ``module.name``."""
    return {place for place, here in names().items() if here & set(wanted)}


def test_networks_are_opened_in_one_place_which_looks_through_them_before() -> None:
    assert places_of("InferenceSession") == {"embedding/session.py"}
    # Other ways to run or read a network, which would open the files that it names.
    assert not places_of("ReferenceEvaluator", "load_external_data_for_model", "load_model", "onnx.load")


def test_json_is_written_in_one_place_which_knows_no_nan() -> None:
    assert places_of("json.dumps", "json.dump", "JSONEncoder") == {"storage/sanitising.py"}
