"""``fruits.run``, ``apply``, ``evaluate``, ``audit`` and ``open_run``: the commands' results as values and Arrow tables."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import fruits
from fruits.errors import ConfigError, StoreError, TooManyRejectedError
from fruits.training.options import as_call


@pytest.fixture(scope="module")
def run(finished_run: Any) -> fruits.Run:
    return fruits.open_run(finished_run.out)


def test_a_run_is_opened_from_its_folder(run: fruits.Run, finished_run: Any) -> None:
    record = finished_run.record
    assert (run.photos, run.ok, run.rejected, run.failed) == (record["photos"], record["ok"], 0, 0)
    assert run.metrics is not None
    assert run.metrics.accuracy == record["metrics"]["accuracy"]
    assert [run.metrics.low, run.metrics.high] == record["metrics"]["accuracyInterval"]
    assert run.leakage == record["leakage"]["share"]
    assert run.metrics.top3_accuracy == record["metrics"]["top3Accuracy"]
    assert run.labels == tuple(sorted(row["label"] for row in record["per_label"]))
    assert (run.components, run.embedding_size) == (record["components"], record["embedding_size"])
    assert Path(run.report).is_file()
    assert f"accuracy {run.metrics.accuracy:.1%} ({run.metrics.low:.1%} to {run.metrics.high:.1%})" in str(run)
    assert run == fruits.open_run(str(finished_run.out))


def test_tables_are_arrow_and_become_data_frames(run: fruits.Run, finished_run: Any) -> None:
    features = run.features()
    assert isinstance(features, pa.Table)
    assert features.num_rows == run.ok
    assert features.equals(pq.read_table(finished_run.out / "features.parquet"))
    assert len(features.to_pandas()["features"][0]) == run.components
    assert run.catalogue().num_rows == run.photos
    assert run.metrics is not None
    values = run.metrics.to_pandas().set_index("metric")["value"]
    assert values["accuracy"] == run.metrics.accuracy
    assert len(values) == 10
    by_label = run.metrics.by_label
    assert by_label["label"].to_pylist() == list(run.labels)
    assert pc.sum(by_label["evaluated"]).as_py() == run.evaluated_photos


def test_predictions_are_those_that_were_scored(run: fruits.Run) -> None:
    predictions = run.predictions()
    assert predictions["uri"].to_pylist() == run.features()["uri"].to_pylist()
    test = run.predictions("test")
    assert test.num_rows == run.evaluated_photos
    frame = test.to_pandas()
    best = frame["labels"].str[0]
    assert run.metrics is not None
    assert (best == frame["label"]).mean() == pytest.approx(run.metrics.accuracy)
    told = run.recogniser().predict(test["uri"])
    assert [one.kind or None for one in told] == test["kind"].to_pylist()
    assert np.allclose([one.probability for one in told], frame["probability"], atol=1e-4)
    assert run.predictions("val").num_rows == 0


def test_run_takes_the_options_of_the_command(
    own_photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    first = fruits.run(own_photos, to=out, only="*", sample=12, workers=2, backbone="fruits-small", gallery=0)
    assert first.backbone == "fruits-small"
    assert first.photos == first.ok <= 12 * 2 * len(first.labels)
    assert not first.up_to_date
    assert capfd.readouterr() == ("", ""), "progress is shown on a terminal alone"
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["only"] == ["*"]
    assert record["command"] == (
        f"fruits.run({str(own_photos)!r}, to={str(out)!r}, only=('*',), sample=12, workers=2, backbone='fruits-small', gallery=0)"
    )
    again = fruits.run(
        [own_photos], to=out, only=["*"], sample=12, workers=2, backbone="fruits-small", gallery=0, progress=True
    )
    assert again.up_to_date
    assert again.computed == 0
    assert "catalogue" in capfd.readouterr().err
    opened = fruits.open_run(out)
    assert dataclasses.replace(again, up_to_date=False, seconds=0, computed=0, reused=0) == dataclasses.replace(
        opened, seconds=0, computed=0, reused=0
    )


def test_secret_options_are_not_told() -> None:
    told = as_call("run", ("a", "b"), "out", {"engine": "spark", "spark_conf": ["spark.a.secret=1234"]})
    assert told == "fruits.run(['a', 'b'], to='out', engine='spark')"


def test_errors_are_those_of_the_command_line(own_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="variance=2: expected a share"):
        fruits.run(own_photos, to=out, variance=2)
    with pytest.raises(ConfigError, match="no option sampel; expected some of"):
        fruits.run(own_photos, to=out, sampel=2)  # type: ignore[call-arg]
    with pytest.raises(fruits.FruitsError, match="nothing here"):
        fruits.run(tmp_path / "nothing here", to=out)
    with pytest.raises(ConfigError, match="no option components"):
        fruits.audit(own_photos, to=out, components=2)  # type: ignore[call-arg]
    with pytest.raises(StoreError, match="no finished run in"):
        fruits.open_run(tmp_path)
    with pytest.raises(StoreError, match="no finished run in"):
        fruits.evaluate(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        fruits.open_run(tmp_path / "broken")
    (tmp_path / "broken/run.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="another version"):
        fruits.open_run(tmp_path / "broken")


def test_too_many_bad_photos_stop_a_run(own_photos: Path, tmp_path: Path) -> None:
    for photo in sorted(own_photos.rglob("*.jpg"))[::2]:
        photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(TooManyRejectedError, match="damaged"):
        fruits.run(own_photos, to=tmp_path / "out", backbone="fruits-small", workers=1)


def test_apply_gives_a_table_of_answers(run: fruits.Run, own_photos: Path, tmp_path: Path) -> None:
    photos = own_photos / "Test"
    bad = photos / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no more")
    done = fruits.apply(run, [photos], to=tmp_path / "answers", workers=1)
    table = done.table()
    assert (done.photos, done.rejected) == (table.num_rows, 1)
    rows = {row["uri"]: row for row in table.to_pylist()}
    assert rows[str(bad)]["status"] == "rejected"
    some = sorted(rows)[:5]
    for uri, answer in zip(some, run.recogniser().predict(some), strict=True):
        row = answer.as_row()
        assert rows[uri]["status"] == row["status"]
        assert rows[uri]["error"] == row["error"], "one bad photo is told alike in batch and in a program"
        if answer.status == "ok":
            assert rows[uri].keys() - {"uri"} == row.keys()
            assert rows[uri]["kinds"] == row["kinds"]
            assert rows[uri]["probability"] == pytest.approx(row["probability"], abs=1e-4)
    assert len(done.to_pandas()) == done.photos


def test_apply_without_results_uses_the_recogniser_that_ships(own_photos: Path, tmp_path: Path) -> None:
    one = sorted(own_photos.rglob("*.jpg"))[0]
    done = fruits.apply(None, one, to=tmp_path / "answers", workers=1)
    assert done.table()["kind"].to_pylist() == [fruits.load().predict(one).kind or None]


def test_evaluation_is_a_table_of_protocols(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    found = fruits.evaluate(fruits.open_run(out), "official")
    [official] = found.protocols
    assert official.protocol == "official"
    assert official.accuracy is not None
    assert official.low is not None
    assert official.high is not None
    assert official.low <= official.accuracy <= official.high
    assert found.table().num_rows == 1
    assert found.to_pandas()["photos"][0] == official.photos
    assert "official" in str(found)
    assert "right label" in str(found)
    assert f"details and confusions: {found.report}" in str(found)
    assert (out / "evaluation.json").is_file()
    with pytest.raises(ConfigError, match="protocols='nonsense'"):
        fruits.evaluate(out, ["nonsense"])


def test_audit_is_counts_and_a_table_of_findings(own_photos: Path, tmp_path: Path) -> None:
    original = sorted(own_photos.rglob("*.jpg"))[0]
    (original.parent / "copy.jpg").write_bytes(original.read_bytes())
    found = fruits.audit(own_photos, to=tmp_path / "audit", workers=1, backbone="fruits-small")
    counts = {one.sort: one for one in found.counts}
    assert counts["exact_duplicate"].photos == 2
    assert counts["exact_duplicate"].groups == 1
    findings = found.findings()
    copies = findings.filter(pc.equal(findings["sort"], "exact_duplicate"))["uri"].to_pylist()
    assert {Path(uri).name for uri in copies} == {original.name, "copy.jpg"}
    assert len(found.to_pandas()) == findings.num_rows
    assert Path(found.page).is_file()


def test_a_script_needs_no_guard(own_photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import fruits\n"
        "print('once')\n"
        f"run = fruits.run({str(own_photos)!r}, to={str(tmp_path / 'out')!r}, backbone='fruits-small', components=4, workers=2)\n"
        "print(run.photos)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, photos = done.stdout.split()
    assert first == "once"
    assert int(photos) > 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("sample", "5"), ("components", 3.5), ("workers", True), ("variance", "0.9"), ("repair", "no"), ("backbone", 3)],
)
def test_an_option_of_another_type_is_refused_before_anything_is_done(
    tmp_path: Path, option: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=rf"{option}=.*: expected"):
        fruits.run(tmp_path, to=tmp_path / "out", **{option: value})
    assert not (tmp_path / "out").exists()


def test_what_is_no_path_is_refused(tmp_path: Path) -> None:
    for call in (
        lambda: fruits.run(None, to=tmp_path / "out"),  # type: ignore[arg-type]
        lambda: fruits.run(tmp_path, to=None),  # type: ignore[arg-type]
        lambda: fruits.run([tmp_path, 3], to=tmp_path / "out"),  # type: ignore[list-item]
        lambda: fruits.open_run(None),  # type: ignore[arg-type]
        lambda: fruits.load(3),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="expected"):
            call()


def test_a_split_that_is_none_is_refused(run: fruits.Run) -> None:
    with pytest.raises(ConfigError, match="split='nope': expected one of train, val, test"):
        run.predictions("nope")
