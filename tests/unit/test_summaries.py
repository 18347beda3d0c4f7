"""Summaries of studies for the documentation: every row of the record, plots as whole files, and no folder of the machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def summarise() -> Any:
    spec = importlib.util.spec_from_file_location("summarise_study", ROOT / "docs" / "summarise_study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_run(workers: int) -> dict[str, Any]:
    stages = {"read": 0.5, "decode": 8.0, "infer": 16.25, "write": 0.25}
    names = ("prepare", "session", "start", "working", "commit", "merge")
    return {
        "kind": "up", "workers": workers, "photos": 2000, "photos_per_s": 100.0, "photos_per_s_low": 90.0,
        "photos_per_s_high": 110.0, "seconds": {**dict.fromkeys(names, 1.0), "total": 24.5}, "total_low": 24.0,
        "total_high": 25.0,
        "work": stages, "occupied": dict.fromkeys(stages, 0.81), "limits": "infer",
        "simulated": {"total": 26.0, "error": 0.061, "fed": workers == 1},
    }  # fmt: skip


def test_a_summary_of_scaling_holds_every_run_and_every_plan(summarise: Any) -> None:
    between = {"value": 0.125, "low": 0.1, "high": 0.2}
    plan = {"machines": 8, "cores": 32, "hours": 1.5, "usd": 40.0, "busy": 0.9, "limit": "requests", "frontier": True}
    study = {
        "study": "scaling", "started": "2026-11-29T05:00:00+00:00",
        "machine": {"cpu": "A processor", "cores": 2, "load": 7.25, "busy": True},
        "command": "fruits study scaling /home/me/my-photos --to /tmp/out", "photos": 2000, "labels": 50,
        "photo_bytes": 20_000.0, "backbone": "fruits-photo", "repeats": 3, "runs": [a_run(1), a_run(2)],
        "curves": [{"kind": "up", "points": 2, "fitted": ["rate", "contention"], "assumed": ["coherence"], "rate": between,
                    "contention": between, "line": [{"workers": n, "photos_per_s": 100.0} for n in (1, 4)], "speedup": 1.78,
                    "workers": 2}],
        "simulation": {"goal": 0.15, "not_fed": 1, "median_error": 0.061, "largest_error": 0.061, "within_goal": 1},
        "prices": "eu-west-1, 2026-11-25", "asked": {"deadline_h": 24.0, "budget_usd": None},
        "projected": [{"photos": 10**9, "plans": [{"offer": "A", **plan}, {"offer": "B", **plan, "hours": 9.0, "usd": 4.0}],
                       "cheapest": 1, "in_time": 1, "in_budget": None}],
    }  # fmt: skip
    page, plots = summarise.summary(study)
    assert "    fruits study scaling my-photos --to out" in page.splitlines()
    assert "| 2 local | 2,000 | 100 (90 to 110) | 24.5 (24.0 to 25.0) |" in page
    assert "**16.2 (81 %)**" in page
    assert "coherence assumed 0, as 2 numbers of workers cannot tell more" in page
    assert "| 2. B **cheapest** **cheapest within 24 hours** | 8 | 32 | 9.00 | 4.00 | 90 % | requests |" in page
    assert "**while other programs were running** (load 7.25)" in page
    assert plots.keys() == {"scaling-rates.svg", "scaling-check.svg", "scaling-plans-1000000000.svg"}
    for name, plot in plots.items():
        ElementTree.fromstring(plot)
        assert f"({name})" in page


def test_a_summary_of_preprocessing_holds_every_treatment(summarise: Any) -> None:
    def treated(name: str, gain: float, **more: Any) -> dict[str, Any]:
        return {
            "name": name, "base": False, "accuracy": 0.8 + gain, "low": 0.7, "high": 0.95, "gain": gain,
            "gain_low": gain - 0.02, "gain_high": gain + 0.02, "passes": 1, "pixels_ms": 1.25, "network_ms": 10.0,
            "cost_ms": 11.25, **more,
        }  # fmt: skip

    study = {
        "study": "preprocessing", "started": "2026-11-29T05:00:00+00:00", "command": "fruits study preprocessing photos --to out",
        "machine": {"cpu": "A processor", "cores": 2, "load": 0.1, "busy": False}, "photos": 600, "labels": 50, "sample": 12,
        "backbone": "fruits-photo", "size": 160, "asked": 420, "groups": 200, "protocol": "groups",
        "treatments": [treated("pad", 0.0, base=True), treated("crop", 0.05), treated("clahe", -0.05)],
        "together": {**treated("", 0.04), "treatments": ["crop"], "chosen_by_halves": [["crop"], ["pad"]],
                     "optimistic_accuracy": 0.85},
    }  # fmt: skip
    page, plots = summarise.summary(study)
    assert "| crop | 85.0 % (70.0 % to 95.0 %) | +5.0 % (+3.0 % to +7.0 %) **better** | 1 | 1.2 + 10.0 |" in page
    assert "-5.0 % (-7.0 % to -3.0 %) **worse**" in page
    assert "| best together: crop |" in page
    assert "other programs" not in page
    assert ElementTree.fromstring(plots["preprocessing-cost.svg"]).tag.endswith("svg")
