"""What the cluster is told is what was chosen; what it says can be read by machines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.aws.jobs import job
from fruits.config import RunConfig
from fruits.errors import ConfigError

NAMES = st.text(min_size=1, max_size=12).filter(str.strip)


@given(
    sources=st.lists(NAMES, min_size=1, max_size=3), only=st.lists(NAMES, max_size=2), seed=st.integers(0, 2**63 - 1),
    components=st.none() | st.integers(1, 500), balance=st.none() | st.booleans(), usd=st.none() | st.floats(0, 9),
)  # fmt: skip
def test_choices_arrive_as_they_were_made(
    sources: Any, only: Any, seed: Any, components: Any, balance: Any, usd: Any
) -> None:
    config = RunConfig(
        sources=tuple(sources), out="s3://b/runs/a", only=tuple(only), seed=seed, components=components, balance=balance,
        core_hour_usd=usd, engine="spark", workers=1,
    )  # fmt: skip
    assert job.from_json(job.to_json(config)) == config


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"sources": ["a"]}', '{"sources": ["a"], "out": "b", "colour": 1}', "{"]
)
def test_what_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        job.from_json(text)


def test_lines_of_progress_are_json_with_rate_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(job.time, "monotonic", lambda: now[0])
    said: list[str] = []
    lines = job.Lines(lambda: 20, 0.06, write=said.append)
    lines.start("embeddings", 1000)
    now[0] += 10
    lines.advance(100)  # too early for a line
    now[0] += 30
    lines.advance(500)
    now[0] += 1
    lines.advance(400)  # the last photos are always told
    lines.note("anything\nat all")
    told = [json.loads(line) for line in said]
    assert [one["fruits"] for one in told] == ["step", "progress", "progress", "message"]
    assert told[1]["photos_per_second"] == 15.0
    assert told[1]["cost_per_million_usd"] == pytest.approx(0.06 * 20 / 3600 / 15 * 1e6, abs=1e-4)
    assert told[2]["photos"] == told[2]["total"] == 1000
    assert all(line.endswith("\n") and "\n" not in line[:-1] for line in said)
