"""A run record as one self-contained page."""

from fruits.report.page import render

__all__ = ["render"]
