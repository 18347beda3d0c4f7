"""Reports of runs and audits: one self-contained HTML page each."""

from fruits.report.audit import render_audit
from fruits.report.page import render

__all__ = ["render", "render_audit"]
