"""Releases with published holes are neither locked nor allowed, and a list that says so is looked at by 'make scan'."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from packaging.version import Version
from scan.advisories import advisories, asked_for, known
from scan.tools import ROOT

LOCKS = sorted((ROOT / "docker").glob("*.lock"))


def test_no_release_with_a_published_hole_is_locked_or_allowed() -> None:
    assert len(LOCKS) == 3
    assert advisories(LOCKS, asked_for()) == set()


@pytest.mark.parametrize(
    ("pin", "line", "where"),
    [
        ("onnx==1.20.1", "onnx>=1.21", "some.lock onnx"),
        ("onnx==1.21.0", "onnx>=1.17,<2", "pyproject.toml onnx"),
        ("Pillow==12.2.0 \\", "pillow", "some.lock pillow"),
        ("pillow==13.0.0", "Pillow<14", "pyproject.toml pillow"),
    ],
)
def test_one_that_is_locked_or_allowed_is_told(pin: str, line: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text(f"{pin}\n    --hash=sha256:0\n")
    found = advisories([tmp_path / "some.lock"], {"dependencies": [], "optional-dependencies": {"x": [line]}})
    assert where in {one.where for one in found}


def test_list_is_dated_and_says_of_each_hole_what_it_is_and_where_it_is_mended() -> None:
    date, entries = known()
    assert date >= "2026-11-28"
    for entry in entries:
        assert set(entry) == {"package", "fixed", "ids", "what"}
        assert Version(str(entry["fixed"])) > Version("0")
    assert importlib.util.find_spec("scan.__main__")
