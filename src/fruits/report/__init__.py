"""The record of a run, and that of an audit, each as one self-contained page."""

from fruits.report.audit import render_audit
from fruits.report.page import render

__all__ = ["render", "render_audit"]
