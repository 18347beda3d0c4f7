"""The location of the bundle that ships with the package.

Built by ``python backbones/photo recogniser``; its training data is described in docs/backbones.md. It contains no photos, so its
gallery is empty.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

#: Shown instead of a path inside the package.
NAME: Final = "the recogniser that ships with fruits"


def path() -> str:
    """Return the folder of the bundle."""
    return str(resources.files("fruits.recogniser.shipped") / "bundle")
