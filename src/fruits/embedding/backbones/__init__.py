"""The networks of the package: ONNX files, each with its card (JSON) beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
FRUITS_PHOTO: Final = FOLDER / "fruits-photo.onnx"
FRUITS_SMALL: Final = FOLDER / "fruits-small.onnx"
