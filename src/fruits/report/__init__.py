"""Reports of runs, audits and studies: one self-contained HTML page each."""

from fruits.report.audit import render_audit
from fruits.report.page import load_ahead, render
from fruits.report.study.costs import render_preprocessing_study, render_storage_study, render_study
from fruits.report.study.scaling import render_scaling_study

__all__ = [
    "load_ahead",
    "render",
    "render_audit",
    "render_preprocessing_study",
    "render_scaling_study",
    "render_storage_study",
    "render_study",
]
