"""``python -m fruits`` is ``fruits``."""

from fruits.cli import main

if __name__ == "__main__":
    main()
