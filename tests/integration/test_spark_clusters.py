"""Spark Connect as docs/spark.md starts it, of what the PySpark wheel brings; a standalone cluster is in tests/engines."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import checks
from faults.running import linked_spark_home
from faults.s3_server import free_port

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None, reason="no Java on PATH: install Java 17 or newer to test Spark"
)
pyspark = pytest.importorskip("pyspark", reason="no pyspark: pip install -e '.[spark]' to test Spark")
ENGINES = Path(__file__).parents[1] / "engines"
sys.path.insert(0, str(ENGINES))

from masters import eventually  # noqa: E402

SMALL = ("--backbone", "fruits-small", "--components", 4)


@pytest.fixture(scope="module")
def expected(photos: Path, fruits: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> checks.Results:
    """What the local engine leaves."""
    out = tmp_path_factory.mktemp("local") / "out"
    done = fruits("run", photos, "--to", out, *SMALL, "--workers", 1)
    assert done.code == 0, done.stderr
    verdict = checks.Verdict()
    results = checks.read(out, verdict)
    assert results is not None
    assert verdict.good, verdict.notes
    return results


@pytest.fixture(scope="module")
def spark_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        home = linked_spark_home(tmp_path_factory.mktemp("spark-home"))
        patch.setenv("SPARK_HOME", str(home))
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        yield home


def stages_on_path() -> dict[str, str]:
    """The environment, with the stages of the engines' tests for Python workers to find."""
    path = filter(None, [str(ENGINES), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture(scope="module")
def connect(spark_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of Spark Connect on two cores, as docs/spark.md starts it."""
    if not list(Path(pyspark.__file__).parent.glob("jars/spark-connect_*.jar")):
        pytest.skip("no server of Spark Connect: PySpark 3.5 has none; pip install 'pyspark[connect]>=4'")
    pytest.importorskip("grpc", reason="no grpcio: pip install 'pyspark[connect]>=4' to test Spark Connect")
    folder, port = tmp_path_factory.mktemp("connect"), free_port()
    command = [
        str(spark_home / "bin/spark-submit"), "--class", "org.apache.spark.sql.connect.service.SparkConnectServer",
        "--master", "local[2]", "--conf", f"spark.connect.grpc.binding.port={port}",
        "--conf", "spark.connect.grpc.binding.address=127.0.0.1", "--conf", "spark.driver.host=127.0.0.1",
        "--conf", "spark.ui.enabled=false", "--conf", f"spark.sql.warehouse.dir={folder / 'warehouse'}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**stages_on_path(), "SPARK_LOCAL_IP": "127.0.0.1"}
        )

    def answers() -> bool:
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert eventually(answers), (folder / "log").read_text()[-2000:]
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def test_run_over_spark_connect_is_the_local_run_to_the_bit(
    photos: Path, expected: checks.Results, connect: str, tmp_path: Path
) -> None:
    options = ("--engine", "spark", "--master", connect, "--json")
    # Without -W error: PySpark's client of Connect warns of its own imports.
    command = [sys.executable, "-m", "fruits", "run", photos, "--to", tmp_path / "out", *SMALL, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    verdict = checks.check(tmp_path / "out", expected)
    assert verdict.good, verdict.notes


ENGINE = """
import sys
import pyarrow as pa
from pyspark.sql import SparkSession
from stages import SCHEMA, Double, StageError, joined, refuse
from fruits.engines import get_engine

session = SparkSession.builder.remote(sys.argv[1]).getOrCreate()
shards = [pa.table({"uri": ["a"], "number": [number]}) for number in range(20)]
with get_engine("spark", 2) as engine:
    print(sorted(n for batch in engine.map_batches(shards, Double(), SCHEMA) for n in batch["number"].to_pylist()))
    print(engine.reduce_batches("abcdefghi", refuse, joined)["text"][0].as_py())
    try:
        engine.reduce_batches("xy", refuse, joined)
    except StageError as error:
        print(error)
print(session.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch"), session.range(3).count())
session.stop()
"""


def test_engine_over_spark_connect_gives_the_same_and_leaves_the_session(connect: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, connect],
        capture_output=True,
        text=True,
        timeout=300,
        env=stages_on_path(),
        check=False,
    )
    assert done.stdout.splitlines() == [
        str(list(range(0, 40, 2))),
        "((((((((ab)c)d)e)f)g)h)i)",
        "no x",
        "10000 3",
    ], done.stderr


HEAD = """
import sys
from fruits.engines import get_engine
from fruits.errors import EngineError, command_line
with command_line(), get_engine("spark", 2, master=sys.argv[1]) as engine:
    try:
        engine.fit_head([], str, labels=2, regularisation=1.0, scale=1.0)
    except EngineError as error:
        print(error)
"""


def test_head_of_very_many_photos_is_refused_over_connect_with_what_to_do(connect: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAD, connect], capture_output=True, text=True, timeout=300, check=False
    )
    assert "Spark Connect (sc://) does not offer; expected another master" in done.stdout, done.stderr
    assert "Embeddings are kept: run again with" in done.stdout
    assert "--engine local" in done.stdout
