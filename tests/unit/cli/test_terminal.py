"""What the command line says about itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fruits.cli import terminal


def test_module_is_named_as_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(terminal.__file__).parents[1] / "__main__.py"), "run"])
    assert terminal.shell() == f"{Path(sys.executable).name} -m fruits"
    monkeypatch.setattr(sys, "argv", ["fruits", "run"])
    assert terminal.shell() == "fruits"
