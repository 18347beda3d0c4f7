"""Imports go one way, and what is heavy is imported only where it is used."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    "module", ["fruits.cli", "fruits.bundle", "fruits.embedding.stage", "fruits.engines.local", "fruits.service.app"]
)
def test_importing_leaves_heavy_libraries_out(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_does_not_import_the_flow() -> None:
    program = (
        "import sys, contextlib\n"
        "from fruits.cli import app\n"
        "with contextlib.suppress(SystemExit): app(['--help'])\n"
        "print(*sorted({'fruits.pipeline', 'onnxruntime', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
