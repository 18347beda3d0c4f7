"""Lets the tests of every page share their records, as the tests of engines do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
