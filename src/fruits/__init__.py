"""From labelled photos to a recogniser."""

__version__ = "0.1.0"
