"""What only Spark does: waves, tasks, sessions that others use, too. On two cores of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from masters import PYTHONPATH, Engines, eventually
from sklearn.linear_model import LogisticRegression
from stages import SCHEMA, Double, Features, HangAt, Linger, Raise, RaiseBesides, RaiseFrom, StageError, Tasks

from fruits.engines import get_engine
from fruits.engines.spark.engine import MOST_SHARDS_PER_TASK, TASKS_PER_CORE, WAVES, SparkEngine, _Wave, _Work
from fruits.errors import ConfigError, EngineError
from fruits.learning.heads import softmax
from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.validation import balance
from fruits.training.fitting.projection import FeatureStage

TASKS = TASKS_PER_CORE * 2
WAVE = TASKS * MOST_SHARDS_PER_TASK  # of shards as small as those here


@pytest.fixture(scope="module")
def engine(spark: Engines) -> SparkEngine:
    opened = spark.open("spark-local[2]")
    assert isinstance(opened, SparkEngine)
    return opened


def shard(number: int) -> pa.Table:
    return pa.table({"uri": [f"/photos/{number}.jpg"], "number": pa.array([number], pa.int64())})


def numbers(engine: Any, shards: Any, stage: Any) -> list[int]:
    return sorted(n for batch in engine.map_batches(shards, stage, SCHEMA) for n in batch["number"].to_pylist())


# --- Waves and tasks --------------------------------------------------------------------------------------------------


def tasks_of(engine: SparkEngine, shards: list[pa.Table]) -> list[int]:
    """Which of its wave's tasks did each shard; numbered as they are met, since Spark 3.5 numbers them as it likes."""
    rows = [row for batch in engine.map_batches(shards, Tasks(), SCHEMA) for row in batch.to_pylist()]
    assert len({row["uri"] for row in rows}) == 1, "one stage: rows are distributed without a shuffle"
    met: dict[int, int] = {}
    return [met.setdefault(row["number"], len(met)) for row in rows]


def test_every_large_shard_of_a_wave_has_a_task_of_its_own(engine: SparkEngine) -> None:
    large = pa.concat_tables([shard(0)] * 2000).combine_chunks()
    assert tasks_of(engine, [large] * TASKS) == list(range(TASKS))


def test_small_shards_share_tasks(engine: SparkEngine) -> None:
    expected = [task for task in range(TASKS) for _ in range(MOST_SHARDS_PER_TASK)]
    assert tasks_of(engine, list(map(shard, range(WAVE)))) == expected


def test_few_small_shards_are_spread_over_all_cores(engine: SparkEngine) -> None:
    assert tasks_of(engine, list(map(shard, range(TASKS)))) == list(range(TASKS))


def test_first_error_of_a_wave_is_raised(engine: SparkEngine) -> None:
    bad = [pa.table({"uri": [f"/{n}", f"/{n}"], "number": [n, n]}) for n in range(WAVE)]
    with pytest.raises(EngineError, match=r"ZeroDivisionError: 13$"):
        numbers(engine, bad, RaiseFrom(13))


def test_workers_are_forked_from_a_process_that_has_what_they_need(engine: SparkEngine) -> None:
    batches = engine.map_batches(map(shard, range(TASKS)), Double(), SCHEMA)
    daemons = {psutil.Process(pid).parent() for batch in batches for pid in batch["pid"].to_pylist()}
    assert len(daemons) == 1
    assert "fruits.engines.spark.daemon" in " ".join(daemons.pop().cmdline())


def test_shards_are_taken_as_waves_need_them(engine: SparkEngine) -> None:
    taken = 0

    def shards() -> Iterator[pa.Table]:
        nonlocal taken
        for taken in range(1, 1001):
            yield shard(taken)

    batches = engine.map_batches(shards(), Double(), SCHEMA)
    next(batches)
    assert taken == WAVES * WAVE
    for _ in range(WAVE):
        next(batches)
    assert taken <= (WAVES + 2) * WAVE
    batches.close()


def test_waves_hold_as_many_answers_as_fit_into_the_driver() -> None:
    shards = (_Work(number, "", 4096, b"") for number in range(1000))
    stage = FeatureStage(None, np.zeros(8, np.float32), np.zeros((512, 8), np.float32))  # type: ignore[arg-type]
    wave = _Wave.of(shards, 4 * 256, stage.bytes_per_row)
    assert sum(work.rows * stage.bytes_per_row for works in wave.tasks for work in works) < 80 << 20
    assert len(_Wave.of(shards, 4 * 8, 0).tasks) == 32


def test_workers_stop_computing_when_the_caller_stops_early(engine: SparkEngine, tmp_path: Path) -> None:
    batches = engine.map_batches(map(shard, range(2 * WAVE)), HangAt(tmp_path, 2 * WAVE - 1), SCHEMA)
    next(batches)
    assert eventually(lambda: any(tmp_path.iterdir()))
    started = time.monotonic()
    batches.close()
    assert time.monotonic() - started < 30
    assert eventually(lambda: not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir()))


def test_error_of_one_wave_ends_the_other(engine: SparkEngine, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="besides"):
        numbers(engine, map(shard, range(2 * WAVE)), RaiseBesides(HangAt(tmp_path, 2 * WAVE - 1), WAVE - 1))
    assert eventually(lambda: not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir()))


def test_workers_are_kept_for_the_next_shards(engine: SparkEngine, tmp_path: Path) -> None:
    for _ in range(3):
        numbers(engine, map(shard, range(TASKS)), Linger(tmp_path, 0.05))
    assert len(list(tmp_path.iterdir())) <= 3  # two, and one more if a worker was slow to be free


# --- Sessions ---------------------------------------------------------------------------------------------------------


def test_session_that_is_there_is_used_and_left_as_it_was(engine: SparkEngine) -> None:
    from pyspark.sql import SparkSession

    before = SparkSession.getActiveSession()
    assert before is not None
    settings = ("spark.sql.execution.arrow.maxRecordsPerBatch", "spark.sql.adaptive.enabled")
    values = [before.conf.get(name) for name in settings]
    with get_engine("spark", 7) as other:
        assert numbers(other, [shard(3)], Double()) == [6]
        assert SparkSession.getActiveSession() is not None
        assert [SparkSession.getActiveSession().conf.get(name) for name in settings] == values
    after = SparkSession.getActiveSession()
    assert after is not None
    assert [after.conf.get(name) for name in settings] == values == ["10000", "true"]
    assert after.range(3).count() == 3
    assert numbers(engine, [shard(4)], Double()) == [8]


def test_another_master_than_that_of_the_session_is_refused(engine: SparkEngine) -> None:
    engine.spark.session.range(1).count()
    with (
        get_engine("spark", 2, master="local[1]") as other,
        pytest.raises(ConfigError, match=r"local\[1\]', but this process has a Spark session at local\[2\] already"),
    ):
        numbers(other, [shard(1)], Double())


def test_setting_that_comes_too_late_is_refused(engine: SparkEngine) -> None:
    engine.spark.session.range(1).count()
    with (
        get_engine("spark", 2, conf=["spark.executor.memory=9g"]) as other,
        pytest.raises(ConfigError, match=r"spark.executor.memory=9g: the Spark session of this process is running"),
    ):
        numbers(other, [shard(1)], Double())


@pytest.mark.parametrize("setting", ["spark.ui.enabled", "=true", ""])
def test_setting_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"Spark setting '{setting}'; expected key=value"):
        get_engine("spark", 1, conf=[setting])


# --- The head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [2, 5])
def test_head_is_that_of_scikit_learn(engine: SparkEngine, c: int) -> None:
    rng = np.random.default_rng(c)
    n, k = 900, 12
    labels = np.r_[np.arange(c), rng.integers(0, c, n - c)]
    centres = rng.normal(size=(c, k)) * 2
    features = (centres[labels] + rng.normal(size=(n, k)) * 2 + 1).astype(np.float32)
    weights = balance(labels, rng.integers(0, 3, n))
    table = pa.table(
        {
            "label": pa.array(labels, pa.int32()),
            "weight": weights,
            "features": pa.array(list(features), pa.list_(pa.float32())),
        }
    )
    scale = 1 / float(np.sqrt(np.mean(np.square(features, dtype=np.float64).sum(axis=1))))
    slopes, intercepts = engine.fit_head(
        [table.slice(start, 250) for start in range(0, n, 250)], Features(), labels=c, regularisation=3.0, scale=scale
    )
    assert (slopes.shape, intercepts.shape, slopes.dtype) == ((c, k), (c,), np.float64)
    probabilities = softmax(features.astype(np.float64) @ slopes.T + intercepts)
    scaled = features.astype(np.float64) * scale
    exact = LogisticRegression(C=3.0, tol=1e-10, max_iter=10_000).fit(scaled, labels, weights).predict_proba(scaled)
    # Both stop within rounding of the one minimum: off by 4e-7 when this was written.
    np.testing.assert_allclose(probabilities, exact, atol=1e-5)
    # The head of the other engines stops earlier.
    expected = LogisticHead.fit(features, labels, setting=3.0, weights=weights).predict_proba(features)
    np.testing.assert_allclose(probabilities, expected, atol=0.01)
    assert (probabilities.argmax(1) == labels).mean() == pytest.approx((expected.argmax(1) == labels).mean(), abs=0.005)


def test_error_while_rows_are_read_for_a_head_surfaces_as_itself(engine: SparkEngine) -> None:
    with pytest.raises(StageError, match="nothing to learn"):
        engine.fit_head(
            [shard(1)], Raise("/photos/1.jpg", StageError("nothing to learn")), labels=2, regularisation=1.0, scale=1.0
        )


# --- Beginning and end ------------------------------------------------------------------------------------------------


def test_closing_stops_the_session_and_its_workers(spark: Engines, tmp_path: Path) -> None:
    from pyspark.sql import SparkSession

    spark.close_spark()
    with get_engine("spark", 2, conf=[PYTHONPATH]) as engine:
        assert numbers(engine, map(shard, range(TASKS)), Linger(tmp_path, 0.05)) == list(range(0, 2 * TASKS, 2))
        assert SparkSession.getActiveSession() is not None
    assert SparkSession.getActiveSession() is None
    assert eventually(lambda: not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir()))


def test_late_messages_are_left_out_of_the_log_while_a_session_stops_and_no_longer(
    spark: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = spark.open("spark-local[2]").spark.session  # type: ignore[attr-defined]
    logs = session.sparkContext._jvm.org.apache.logging.log4j.LogManager
    stopped, seen = session.stop, []

    def look() -> None:
        names = ("network.server.TransportRequestHandler", "network.server.TransportChannelHandler", "SparkContext")
        seen.append([logs.getLogger(f"org.apache.spark.{name}").isErrorEnabled() for name in names])

    def stop() -> None:
        look()
        stopped()
        look()

    monkeypatch.setattr(session, "stop", stop)
    look()
    spark.close_spark()
    look()
    quiet, every = [False, True, True], [True, True, True]
    assert seen == [every, quiet, quiet, every]


def test_master_that_is_none_ends_in_an_error_that_names_it(spark: Engines) -> None:
    spark.close_spark()
    with (
        get_engine("spark", 2, master="nowhere") as engine,
        pytest.raises(EngineError, match=r"Spark did not start at nowhere: .*Could not parse Master URL"),
    ):
        numbers(engine, [shard(1)], Double())
