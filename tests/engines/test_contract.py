"""What every engine must do. A new engine is added to ``masters`` and passes all of it; a known gap is a strict xfail."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from faults import checks
from masters import CONTRACT, DEATHS, LOCAL, SPARK, Engines, brief_java, conf, eventually
from scoring import Made, Mortal
from stages import (
    SCHEMA,
    Die,
    DieAfter,
    Double,
    Linger,
    Raise,
    StageError,
    Stream,
    die,
    joined,
    merged,
    moments,
    refuse,
    text,
)

from fruits.engines import Engine, get_engine, merge_in_order
from fruits.engines.local import LocalEngine
from fruits.engines.spark.engine import SparkEngine
from fruits.errors import ConfigError, EngineError, FruitsError, ImageDecodeError, StoreError
from fruits.training.fitting import feature_file, features


@pytest.fixture(params=CONTRACT, scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine for all tests before the next one: sessions of Spark take seconds to start.

    pytest orders by the position of a parameter, so tests of fewer engines name them from the first on. Of a test with values
    the cluster gets the first, see conftest.py.
    """
    if request.param in LOCAL:
        return get_engine("local", int(request.param[-1]))
    spark: Engines = request.getfixturevalue("spark")
    return spark.open(request.param)


def shard(start: int, n: int) -> pa.Table:
    numbers = range(start, start + n)
    return pa.table({"uri": [f"/photos/{number}.jpg" for number in numbers], "number": pa.array(numbers, pa.int64())})


SHARDS = [shard(start, 7) for start in range(0, 70, 7)]


def mapped(engine: Engine, shards: list[pa.Table], stage: Any) -> list[dict[str, Any]]:
    return pa.Table.from_batches(engine.map_batches(shards, stage, SCHEMA), SCHEMA).to_pylist()


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["number"] for row in rows)


# --- map_batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [3, 1, 100])
def test_every_row_is_mapped_once_whatever_the_batches(engine: Engine, rows: int) -> None:
    assert numbers(mapped(engine, SHARDS, Double(rows))) == list(range(0, 140, 2))


def test_fewer_shards_than_workers_are_fine(engine: Engine) -> None:
    assert numbers(mapped(engine, SHARDS[:1], Double())) == list(range(0, 14, 2))


def test_no_shards_give_no_rows(engine: Engine) -> None:
    assert mapped(engine, [], Double()) == []


def test_shard_without_rows_gives_no_rows(engine: Engine) -> None:
    assert numbers(mapped(engine, [shard(0, 0), shard(0, 2)], Double())) == [0, 2]


def test_slices_of_one_table_are_shards(engine: Engine) -> None:
    whole = shard(0, 50)
    assert numbers(mapped(engine, [whole.slice(at, 5) for at in range(0, 50, 5)], Double())) == list(range(0, 100, 2))


def test_batches_have_the_schema_that_was_asked_for(engine: Engine) -> None:
    wider = pa.schema([pa.field("uri", pa.large_string()), SCHEMA.field("number"), SCHEMA.field("pid")])
    for batch in engine.map_batches(SHARDS[:3], Double(), wider):
        assert batch.schema == wider


def test_stage_runs_in_other_processes_no_more_than_workers(engine: Engine) -> None:
    pids = {row["pid"] for row in mapped(engine, SHARDS, Double())}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= engine.workers


@pytest.mark.parametrize(
    "error",
    [
        StageError("bad stage"),
        StoreError("cannot write 'a': no space"),
        ImageDecodeError("damaged", "half a photo"),
        EngineError("of its own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_of_fruits_surfaces_as_itself(engine: Engine, error: FruitsError) -> None:
    with pytest.raises(type(error)) as caught:
        mapped(engine, SHARDS, Raise("/photos/30.jpg", error))
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "code", None) == getattr(error, "code", None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_other_error_of_a_stage_names_its_type(engine: Engine) -> None:
    with pytest.raises(EngineError, match="ZeroDivisionError: by zero"):
        mapped(engine, SHARDS, Raise("/photos/30.jpg", ZeroDivisionError("by zero")))


@pytest.fixture
def deaths(request: pytest.FixtureRequest, engine: Engine) -> tuple[str, ...]:
    """How workers of this engine die. Not a parameter beside the engine: that would start sessions in turns."""
    return DEATHS[request.node.callspec.params["engine"]]


def test_stage_that_always_kills_its_process_ends_in_an_error_that_names_the_photos(
    engine: Engine, deaths: tuple[str, ...]
) -> None:
    for how in deaths:
        with pytest.raises(EngineError, match=r"died.*same 7 photos, from '/photos/28.jpg' on"):
            mapped(engine, SHARDS, Die("/photos/30.jpg", how=how))


def test_shard_whose_worker_died_once_is_done_again_and_every_row_given_once(
    engine: Engine, deaths: tuple[str, ...], tmp_path: Path
) -> None:
    for how in deaths:
        (tmp_path / "life").touch()
        assert numbers(mapped(engine, SHARDS, Die("/photos/30.jpg", tmp_path, how))) == list(range(0, 140, 2))
        assert not list(tmp_path.iterdir())


def test_stage_that_takes_a_stream_of_shards_answers_each_once(engine: Engine) -> None:
    rows = mapped(engine, [*SHARDS, shard(70, 0), shard(70, 3)], Stream())
    assert numbers(rows) == list(range(0, 146, 2))


def test_shard_that_kills_a_stage_that_looks_ahead_is_named_and_its_neighbours_are_not(
    engine: Engine, deaths: tuple[str, ...]
) -> None:
    for how in deaths:
        with pytest.raises(EngineError, match=r"died.*same 7 photos, from '/photos/28.jpg' on"):
            mapped(engine, SHARDS, Stream("/photos/30.jpg", how=how))


def test_stream_whose_worker_died_goes_on_with_every_row_given_once(
    engine: Engine, deaths: tuple[str, ...], tmp_path: Path
) -> None:
    for how in deaths:
        (tmp_path / "life").touch()
        assert numbers(mapped(engine, SHARDS, Stream("/photos/30.jpg", tmp_path, how))) == list(range(0, 140, 2))
        assert not list(tmp_path.iterdir())


def test_worker_has_the_next_shard_before_it_has_answered_until_the_last_ones_are_dealt_out() -> None:
    rows = mapped(get_engine("local", 1), SHARDS[:5], Stream(ahead=3))
    in_time = {row["number"] // 14: row["pid"] for row in rows}
    assert [in_time[number] for number in range(4)] == [1, 1, 1, 0], "the last goes to the worker that is free"


def test_large_shards_given_ahead_hold_up_neither_the_engine_nor_the_worker() -> None:
    """Larger than what a pipe holds: the writer waits until the other side reads."""
    shards = [shard(start, 40_000) for start in range(0, 240_000, 40_000)]
    assert len(mapped(get_engine("local", 1), shards, Double(40_000))) == 240_000


def test_workers_that_started_early_do_the_work_and_those_without_any_end() -> None:
    engine = LocalEngine(3)
    engine.start_early(9)
    early = [worker.process.pid for worker in engine._early]
    assert len(early) == 3
    assert {row["pid"] for row in mapped(engine, SHARDS[:2], Double())} <= set(early)
    assert not [pid for pid in early if psutil.pid_exists(pid)]
    assert numbers(mapped(engine, SHARDS, Double())) == list(range(0, 140, 2))


def test_workers_that_started_early_end_with_their_decoders_when_nothing_comes() -> None:
    with LocalEngine(2) as engine:
        engine.start_early(1)
        (worker,) = [psutil.Process(worker.process.pid) for worker in engine._early]
        assert eventually(worker.children)
        decoders = worker.children()
    assert not worker.is_running()
    assert eventually(lambda: not any(decoder.is_running() for decoder in decoders))


def test_shard_of_a_worker_that_died_before_it_had_a_stage_is_done_by_another() -> None:
    engine = LocalEngine(1)
    engine.start_early(1)
    engine._early[0].process.kill()
    assert numbers(mapped(engine, SHARDS, Double())) == list(range(0, 140, 2))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_are_gone_after_the_last_batch(workers: int) -> None:
    # Spark keeps its workers until the session stops; see test_spark.py.
    engine = get_engine("local", workers)
    pids = {row["pid"] for row in mapped(engine, SHARDS, Double())}
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_are_gone_when_the_caller_stops_early(workers: int) -> None:
    # The same of Spark, where a batch comes with its wave, is in test_spark.py.
    engine = get_engine("local", workers)
    batches = engine.map_batches(SHARDS[:3], Double(1), SCHEMA)
    pid = next(iter(batches))["pid"][0].as_py()
    batches.close()
    assert eventually(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize("engine", SPARK[:1], indirect=True)
def test_executor_that_is_killed_costs_no_row_and_doubles_none(engine: Engine, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    running = threading.Thread(target=lambda: found.extend(mapped(engine, SHARDS, Linger(tmp_path, 0.3))))
    running.start()
    assert eventually(lambda: any(tmp_path.iterdir()))
    executor = psutil.Process(int(next(tmp_path.iterdir()).name)).parent().parent()
    assert "org.apache.spark.executor.CoarseGrainedExecutorBackend" in executor.cmdline()
    executor.kill()
    running.join()
    assert numbers(found) == list(range(0, 140, 2))


def test_engine_can_be_used_again_after_an_error(engine: Engine) -> None:
    with pytest.raises(StageError):
        mapped(engine, SHARDS, Raise("/photos/30.jpg", StageError("once")))
    assert numbers(mapped(engine, SHARDS, Double())) == list(range(0, 140, 2))


def test_other_threads_may_run_meanwhile(engine: Engine) -> None:
    over = threading.Event()
    busy = threading.Thread(target=lambda: over.wait(60))
    busy.start()
    try:
        assert numbers(mapped(engine, SHARDS, Double())) == list(range(0, 140, 2))
    finally:
        over.set()
        busy.join()


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import pyarrow as pa
from stages import SCHEMA, Announce
from fruits.engines import get_engine

if __name__ == "__main__":
    shards = [pa.table({{"uri": ["a"], "number": [number]}}) for number in range(10)]
    for _ in get_engine({name!r}, {workers}, **{more!r}).map_batches(shards, Announce(Path(sys.argv[1])), SCHEMA):
        pass
"""


@pytest.mark.parametrize("name", LOCAL + SPARK)
def test_workers_end_when_their_parent_is_killed(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    workers, more = 2, {}
    if name in LOCAL:
        workers = int(name[-1])
    else:
        spark: Engines = request.getfixturevalue("spark")
        more = {"master": spark.master(name), "conf": conf()}
        if name == "spark-standalone":
            spark.close_spark()  # its executors hold every core
    script, announced = tmp_path / "parent.py", tmp_path / "announced"
    script.write_text(
        PARENT.format(here=str(Path(__file__).parent), name=name.split("-", maxsplit=1)[0], workers=workers, more=more),
        "utf-8",
    )
    announced.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(announced)])
    try:
        assert eventually(lambda: len(list(announced.iterdir())) == workers)
        started = [psutil.Process(int(path.name)) for path in announced.iterdir()]
        started += psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert eventually(lambda: not any(process.is_running() for process in started))


@pytest.mark.parametrize("name", ["spark-standalone"])
def test_run_on_a_cluster_is_the_local_run_to_the_bit(
    name: str, spark: Engines, photos: Path, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    """The recipe of docs/spark.md, by the command line."""
    small = ("run", photos, "--backbone", "fruits-small", "--components", 4)
    done = fruits(*small, "--to", tmp_path / "local", "--workers", 1)
    assert done.code == 0, done.stderr
    verdict = checks.Verdict()
    expected = checks.read(tmp_path / "local", verdict)
    assert expected is not None
    assert verdict.good, verdict.notes
    spark.close_spark()  # its executors hold every core
    settings = ("--spark-conf", "spark.driver.memory=1g", "--spark-conf", brief_java())
    options = ("--engine", "spark", "--master", spark.master(name), *settings)
    done = fruits(*small, "--to", tmp_path / "out", *options, "--json")
    assert done.code == 0, done.stderr
    assert done.json()["computed"] == done.json()["photos"] == 320
    verdict = checks.check(tmp_path / "out", expected)
    assert verdict.good, verdict.notes


# --- reduce_batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["abcdefghijklmnopqrst", "abcdefghi", "a"])
def test_partial_results_are_merged_in_the_order_of_the_shards(engine: Engine, letters: str) -> None:
    found = engine.reduce_batches(letters, text, joined)["text"][0].as_py()
    assert found.replace("(", "").replace(")", "") == letters


@pytest.mark.parametrize(
    ("n", "tree"),
    [
        (10, "((((((((01)2)3)4)5)6)7)(89))"),
        (9, "((((((((01)2)3)4)5)6)7)8)"),
        (8, "(((((((01)2)3)4)5)6)7)"),
    ],
)
def test_tree_of_merges_is_eight_from_the_left_and_eight_of_those(engine: Engine, n: int, tree: str) -> None:
    assert engine.reduce_batches("0123456789"[:n], text, joined)["text"].to_pylist() == [tree]


@pytest.mark.parametrize("n", [65, 1, 9, 300])
def test_sums_of_floats_have_the_bits_of_one_process(engine: Engine, n: int) -> None:
    assert engine.reduce_batches(range(n), moments, merged) == merge_in_order(map(moments, range(n)), merged)


def test_shards_of_a_reduction_may_be_an_iterator(engine: Engine) -> None:
    assert engine.reduce_batches(iter("ab"), text, joined)["text"].to_pylist() == ["(ab)"]


def test_error_of_a_partial_result_surfaces_as_itself(engine: Engine) -> None:
    with pytest.raises(StageError, match="no x"):
        engine.reduce_batches("abcdefghixklm", refuse, joined)


@pytest.mark.parametrize("engine", SPARK, indirect=True)
def test_reduction_that_kills_its_workers_ends_in_an_error(engine: Engine) -> None:
    # The local engine computes partial results in its own process.
    with pytest.raises(EngineError, match="workers died in 3 attempts to merge 3 shards"):
        engine.reduce_batches("abc", die, joined)


def test_reducing_nothing_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="at least one"):
        engine.reduce_batches([], text, joined)


# --- Passes over features ---------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Features in 13 blocks."""
    monkeypatch.setattr(feature_file, "ROWS_PER_BLOCK", 44)
    return Made.of(tmp_path / "run")


def test_scores_and_distances_are_those_of_the_driver_to_the_bit(
    engine: Engine, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally, distances = made.tally(engine), made.distances(engine)
    monkeypatch.setattr(features, "HERE", 10)
    assert made.tally(engine) == tally
    assert made.distances(engine) == distances
    assert sum(tally["told"][0]) == len(made.asked)
    assert 0 < sum(tally["right"]) < len(made.asked)


def test_worker_that_dies_in_a_pass_costs_no_photo_and_doubles_none(
    engine: Engine, deaths: tuple[str, ...], made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally, distances = made.tally(engine), made.distances(engine)
    monkeypatch.setattr(features, "HERE", 10)
    lives = tmp_path / "lives"
    lives.mkdir()
    for how in deaths:
        mortal = Mortal(engine, lambda stage, how=how: DieAfter(stage, lives, how))
        for find, expected in ((made.tally, tally), (made.distances, distances)):
            (lives / "one").touch()
            assert find(mortal) == expected
            assert not list(lives.iterdir())


def test_pass_over_a_damaged_file_says_so(
    engine: Engine, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "HERE", 10)
    path = tmp_path / "run" / "features.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"features.parquet' is damaged"):
        made.tally(engine), made.distances(engine)


# --- ValidationSplit an engine -----------------------------------------------------------------------------------------------


def test_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no engine 'abacus'; expected local or spark"):
        get_engine("abacus", 1)


@pytest.mark.parametrize("more", [{"master": "local[2]"}, {"conf": ["a=b"]}])
def test_local_engine_has_no_master_and_no_conf(more: Any) -> None:
    with pytest.raises(ConfigError, match="engine 'local' has no master and no conf"):
        get_engine("local", 1, **more)


def test_engine_tells_its_name_and_its_workers(engine: Engine) -> None:
    assert engine.name in ("local", "spark")
    assert engine.workers in (1, 2, 3)


def test_every_engine_has_the_operations_of_the_protocol_with_their_signatures() -> None:
    for operation in ("map_batches", "reduce_batches", "close"):
        wanted = inspect.signature(getattr(Engine, operation))
        for kind in (LocalEngine, SparkEngine):
            assert inspect.signature(getattr(kind, operation)) == wanted
