"""The recogniser that ships with the package: where its bundle lies.

Made by ``python backbones/photo recogniser``; docs/backbones.md says from what. It holds no photo, so its gallery is empty.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

#: What is shown in place of a path in the package.
NAME: Final = "the recogniser that ships with fruits"


def path() -> str:
    """Return the folder of the bundle."""
    return str(resources.files("fruits.recogniser.shipped") / "bundle")
