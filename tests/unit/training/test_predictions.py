"""Answers written by workers, in parts: the same rows as answers one by one, on any engine, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruits.assessment.dataset import open_run
from fruits.engines import get_engine
from fruits.engines.local import LocalEngine
from fruits.errors import StoreError
from fruits.recogniser.answers import OUTCOMES, Certainty, answers
from fruits.storage.disk.processes import this_process
from fruits.storage.objects import Objects
from fruits.storage.outputs.marker import claim
from fruits.training import pipeline
from fruits.training.fitting import training_set
from fruits.training.fitting.training_set import in_chunks, read_rows, vectors_of
from fruits.training.predicting import predictions
from fruits.training.predicting.predictions import answered, read_predictions, write_predictions
from fruits.training.vacuum import vacuum


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a part of every chunk: two catalogues make two chunks."""
    monkeypatch.setattr(predictions, "_HERE", 0)
    monkeypatch.setattr(predictions, "_GROUPS_PER_PART", 1)
    monkeypatch.setattr(training_set, "ROWS_PER_CHUNK", 1)


@pytest.fixture(scope="module")
def begun(finished_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The output of two applies, of which each brought a chunk, and the photos of the second, one of them broken."""
    folder = tmp_path_factory.mktemp("begun")
    photos = [str(photo) for photo in sorted(finished_run.photos.glob("Test/*/*.jpg"))[:30]]
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff half a photo")
    photos.insert(5, str(folder / "broken.jpg"))
    for some in (photos[:12], photos):
        pipeline.apply(str(finished_run.out), some, str(folder / "out"), workers=1)
    return folder / "out", photos


@pytest.fixture
def apply(finished_run: Any, begun: tuple[Path, list[str]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Apply again to a copy of that output: all is embedded, and the answers are written anew."""
    before, photos = begun

    def call(name: str, **options: Any) -> dict[str, Any]:
        if not (tmp_path / name).exists():
            shutil.copytree(before, tmp_path / name, symlinks=True)
            # Not the answers of before, which are the same: they would hide that none are written.
            (tmp_path / name / "predictions.parquet").write_bytes(b"of before")
        return pipeline.apply(str(finished_run.out), photos, str(tmp_path / name), **options)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("limits", [(0.99, 0.95, 0.9, np.inf), (0.6, 0.5, 0.4, 1.0), (2.0, 0.3, 0.1, np.inf)])
def test_columns_hold_what_single_answers_say(finished_run: Any, limits: tuple[float, ...]) -> None:
    run = open_run(str(finished_run.out))
    given = run.bundle.classifier
    classifier = replace(given, certainty=Certainty(*limits, replace(given.certainty.limits, small=10_000)))
    (group,) = in_chunks(run.inventory)
    rows = read_rows(run.stored, group, ["status", "width", "height", "brightness", "sharpness", "embedding"])[0]
    features = classifier.project(vectors_of(rows))
    decisions = classifier.decide(*classifier.classify(features))
    small = [
        classifier.certainty.limits.advice(row["brightness"], row["sharpness"], min(row["width"], row["height"]))
        for row in rows.drop_columns("embedding").to_pylist()
    ]
    expected = answers(decisions, classifier.classify(features)[1], features, classifier.taxonomy, small)
    table = answered(run.stored, group, classifier)
    assert table.num_rows == len(expected) > 100
    for row, one in zip(table.to_pylist(), expected, strict=True):
        told = pa.Table.from_pylist([{"uri": row["uri"], **one.as_row()}], schema=table.schema).to_pylist()[0]
        for name in ("probability", "probabilities", "kind_probabilities", "ood_score", "features"):
            assert told.pop(name) == pytest.approx(row.pop(name), abs=1e-5)
        assert told == row


@pytest.mark.slow
def test_parts_of_workers_are_joined_to_the_same_file(
    apply: Callable[..., dict[str, Any]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(training_set, "ROWS_PER_CHUNK", 1)  # the same groups of rows
    here = apply("here", workers=1)
    request.getfixturevalue("in_parts")
    one, two = apply("one", workers=1), apply("two", workers=2)
    tables = [pq.read_table(tmp_path / name / "predictions.parquet") for name in ("here", "one", "two")]
    assert tables[0].num_rows == here["photos"]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    counts = Counter(tables[0]["outcome"].drop_null().to_pylist())
    assert here["outcomes"] == one["outcomes"] == two["outcomes"] == dict(counts)
    assert [name for name in two["outcomes"] if name in OUTCOMES] == list(two["outcomes"])
    assert not (tmp_path / "two" / "predictions").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
def test_answers_for_many_photos_are_a_folder_that_is_read_as_one_table(
    apply: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = apply("to", workers=1)
    table = read_predictions(few["predictions"])
    monkeypatch.setattr(predictions, "ONE_FILE", few["photos"] - 1)
    many = apply("to", workers=1)
    folder = Path(many["predictions"])
    assert folder.parent == tmp_path / "to" / "predictions"
    assert len(list(folder.glob("part-*.parquet"))) == 2
    assert pq.read_table(folder).equals(table)
    assert read_predictions(many["predictions"]).equals(table)
    assert not (tmp_path / "to" / "predictions.parquet").exists(), "answers of before are not left beside the new ones"
    (folder / "part-000000.parquet#1").write_bytes(b"as a killed worker leaves it")
    other = folder.parent / "29990101T000000-begun-later" / "_SUCCESS"
    other.parent.mkdir()
    other.write_bytes(b"")
    again = Path(apply("to", workers=1)["predictions"])
    assert again.is_dir()
    assert not folder.exists()
    assert other.exists(), "two calls at once would remove the answers of each other"
    monkeypatch.setattr(predictions, "ONE_FILE", few["photos"])
    assert apply("to", workers=1)["predictions"].endswith("predictions.parquet")
    assert not again.parent.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("few_began_first", [True, False])
def test_of_two_calls_at_once_none_removes_the_answers_of_the_other(
    finished_run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, few_began_first: bool
) -> None:
    run, objects = open_run(str(finished_run.out)), Objects(str(tmp_path))
    table = answered(run.stored, next(iter(in_chunks(run.inventory))), run.bundle.classifier)
    written: list[str] = []

    def write(few: bool, meanwhile: Callable[[], Any] = lambda: None) -> None:
        monkeypatch.setattr(predictions, "_HERE", table.num_rows if few else 0)
        monkeypatch.setattr(predictions, "ONE_FILE", 0)
        given = (run.stored, run.inventory, run.bundle.classifier)
        written.append(write_predictions(InOrder(1), objects, *given, lambda _: meanwhile()).key)

    write(few=True)
    write(few=False)
    before = written.pop()
    written.clear()
    assert [name for name in (before, "predictions.parquet") if (tmp_path / name).exists()] == [before]
    others = [not few_began_first]
    write(few=few_began_first, meanwhile=lambda: others and write(few=others.pop()))
    assert sorted(name.split("/")[0] for name in written) == ["predictions", "predictions.parquet"]
    for name in written:
        assert read_predictions(str(tmp_path / name)).equals(table)
    assert not (tmp_path / before).exists()
    write(few=False)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"], "the next call removes what both have left"
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == [Path(written[-1]).name]


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_file_that_is_finished_while_the_one_of_before_is_removed_stays(
    finished_run: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path, where: str
) -> None:
    root = str(tmp_path) if where == "disk" else request.getfixturevalue("prefix")
    run, few, many = open_run(str(finished_run.out)), Objects(root), Objects(root)
    given = (run.stored, run.inventory, run.bundle.classifier)
    few.write("predictions.parquet", b"of before")
    delete, computed, removing = many.delete, threading.Event(), threading.Event()

    def hold(_: int) -> None:
        computed.set()
        removing.wait(120)

    def delete_late(key: str) -> None:
        """Between the look at the file and its end, time enough to write another."""
        if key == "predictions.parquet":
            removing.set()
            wait([file], timeout=2)
        delete(key)

    monkeypatch.setattr(many, "delete", delete_late)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(predictions, "_HERE", 10**6)
        file = pool.submit(write_predictions, InOrder(1), few, *given, hold)
        try:
            assert computed.wait(120)
            monkeypatch.setattr(predictions, "_HERE", 0)
            monkeypatch.setattr(predictions, "ONE_FILE", 0)
            folder = write_predictions(InOrder(1), many, *given, lambda _: None)
        finally:
            removing.set()
    table = read_predictions(f"{root}/{folder.key}")
    assert read_predictions(f"{root}/{file.result().key}").equals(table)
    assert table.num_rows > 100


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
def test_answers_that_cannot_be_finished_leave_those_of_before(finished_run: Any, tmp_path: Path) -> None:
    run = open_run(str(finished_run.copy_to(tmp_path)))
    objects = Objects(str(tmp_path / "to"))
    objects.write("predictions.parquet", b"of before")
    for file in run.inventory.files:
        (Path(run.stored.root) / run.stored.key(file.name)).unlink()
    with pytest.raises(StoreError):
        write_predictions(
            get_engine("local", 2), objects, run.stored, run.inventory, run.bundle.classifier, lambda _: None
        )
    assert objects.names() == {"predictions.parquet"}
    assert objects.read("predictions.parquet") == b"of before"


def test_parts_that_a_killed_process_left_are_removed_and_those_of_a_running_one_are_not(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    claim(objects, "results")
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for name in ("20250101T000000-old", "20250101T000000-whole/_SUCCESS", f"{now}-running"):
        folder = name.partition("/")[0]
        objects.write(f"predictions/{folder}/part-000000.parquet", b"12345")
        if name != folder:
            objects.write(f"predictions/{name}", b"")
    began = time.time() - 2 * 86_400
    os.utime(tmp_path / "predictions" / "20250101T000000-old" / "part-000000.parquet", (began, began))
    objects.write("predictions/20250101T000000-slow/part-000000.parquet", b"has just finished a part")
    ended = json.dumps({**this_process(), "born": 0.0}).encode()
    objects.write(f"predictions/{now}-running/_writer", json.dumps(this_process()).encode())
    objects.write(f"predictions/{now}-killed/_writer", ended)
    objects.write(f"predictions/{now}-killed/part-000000.parquet", b"12345")
    for dry_run in (True, False):
        removed = vacuum(str(tmp_path), dry_run=dry_run)
        assert (removed.files, removed.size_bytes) == (3, 10 + len(ended))
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "20250101T000000-slow", "20250101T000000-whole", f"{now}-running",
    ]  # fmt: skip


class InOrder(LocalEngine):
    """The engine of CONTRIBUTING.md: one shard after the other, in this process."""

    def map_batches(self, shards: Any, stage: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for shard in shards:
            yield from (batch.cast(schema) for batch in stage(iter(shard.to_batches())))


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
def test_parts_in_a_bucket_are_joined_or_stay_as_on_a_disk(
    finished_run: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, objects = open_run(str(finished_run.out)), Objects(prefix)
    table = answered(run.stored, next(iter(in_chunks(run.inventory))), run.bundle.classifier)

    def write() -> str:
        given = (run.stored, run.inventory, run.bundle.classifier)
        return write_predictions(InOrder(1), objects, *given, lambda _: None).key

    assert write() == "predictions.parquet"
    assert [found.key for found in objects.list()] == ["predictions.parquet"]
    assert read_predictions(f"{prefix}/predictions.parquet").equals(table)
    monkeypatch.setattr(predictions, "ONE_FILE", 0)
    first, second = write(), write()
    names = sorted(found.key for found in objects.list() if not found.key.startswith("lease/"))
    assert names == [f"{second}/_SUCCESS", f"{second}/part-000000.parquet"]
    assert first != second
    assert read_predictions(f"{prefix}/{second}").equals(table)
