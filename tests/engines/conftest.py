"""Lets worker processes import the stages of these tests by name, as they import fruits."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
