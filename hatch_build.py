"""Before the package is built: fetch the runtime of the service's on-device mode and the page of its API, if npm is there.

Without npm, without a network, or with FRUITS_WEB=0 the package is built all the same; its page then lacks that mode, /docs shows
the bare OpenAPI document, and nothing else is missing. What is there already and of the versions in package-lock.json is left
alone, so installing again costs nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_WEB = Path("src/fruits/service/web")
_VENDOR = Path("src/fruits/service/pages/vendor")
#: Of npm in all; it also gives up by itself where nothing answers.
_SECONDS = 180
_INSTALL = ("ci", "--omit=dev", "--fetch-retries=1", "--fetch-timeout=20000", "--loglevel=error")


class CustomBuildHook(BuildHookInterface):
    """What hatchling calls before it builds a wheel, or an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling calls it so
        """Build the runtime; say in one line what came of it."""
        root = Path(self.root)
        npm = shutil.which("npm")
        if _is_current(root):
            return
        if os.environ.get("FRUITS_WEB") == "0" or npm is None:
            self.app.display_info("fruits: no npm (or FRUITS_WEB=0): built without the on-device mode")
            return
        try:
            for command in ((npm, *_INSTALL), (npm, "run", "--silent", "build")):
                subprocess.run(  # noqa: S603 - fixed words
                    command, cwd=root / _WEB, check=True, timeout=_SECONDS, capture_output=True
                )
        except (OSError, subprocess.SubprocessError) as exc:
            self.app.display_warning(f"fruits: npm failed ({type(exc).__name__}): built without the on-device mode")
            shutil.rmtree(root / _VENDOR, ignore_errors=True)


def _is_current(root: Path) -> bool:
    try:
        lock = json.loads((root / _WEB / "package-lock.json").read_text("utf-8"))
        for written in ("runtime.json", "docs.json"):
            found = json.loads((root / _VENDOR / written).read_text("utf-8"))
            wanted = lock["packages"][f"node_modules/{found['name']}"]["version"]
            if found["version"] != wanted:
                return False
            if not all((root / _VENDOR.parent / f"{name}.gz").is_file() for name in found["files"]):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True
