"""What all processes of a test run share, made by the first that needs it."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def once_for_all_workers(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Let the first process that asks fill a folder, which all processes of a test run read.

    What ``make`` returns is kept beside the folder: see :func:`kept_beside`.
    """
    root = folders.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, kept = root / name, root / f"{name}.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            kept.write_bytes(pickle.dumps(make(folder)))
    return folder


def kept_beside(folder: Path) -> Any:
    """What was returned when the folder was filled."""
    return pickle.loads(folder.with_name(f"{folder.name}.pickle").read_bytes())
