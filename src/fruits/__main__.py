"""``python -m fruits`` is ``fruits``."""

from fruits.cli.main import leave

if __name__ == "__main__":
    leave()
