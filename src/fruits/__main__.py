"""``python -m fruits`` is ``fruits``."""

from fruits.cli import leave

if __name__ == "__main__":
    leave()
