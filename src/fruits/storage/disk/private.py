"""Folders and files that only this user of the machine can access."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def make_private_folder(path: Path) -> None:
    """Create a folder that only this user can access; an existing folder is not changed."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user can access, atomically. A killed process leaves ``<name>#<number>`` at most."""
    make_private_folder(path.parent)
    piece = path.with_name(f"{path.name}#{secrets.randbits(48)}")
    try:
        with open(piece, "xb", opener=private) as file:
            file.write(data)
        piece.replace(path)
    except BaseException:
        piece.unlink(missing_ok=True)
        raise


def private(path: str, flags: int) -> int:
    """Opener for :func:`open` that creates files with mode 0600."""
    return os.open(path, flags, 0o600)
