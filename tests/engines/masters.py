"""Engines for these tests: at most one of Spark is open at a time, and stays open until another is asked for."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import java

from fruits.engines import Engine, get_engine

#: As tests call them; a master of our own is started for "standalone".
LOCAL = ["local-1", "local-3"]
#: Spark in this process and on a cluster differ in who runs the executors. A cluster of Spark's own making ("local-cluster")
#: would be a third session and differs from ours only in code of Spark.
SPARK = ["spark-standalone", "spark-local[2]"]
#: Engines that the contract is held against.
CONTRACT = [*SPARK, *LOCAL]
#: How a worker dies on which engine: to Spark both are a worker that hung up, so each of its engines has one of them.
DEATHS = {"spark-standalone": ("kill",), "spark-local[2]": ("exit",), **dict.fromkeys(LOCAL, ("exit", "kill"))}
#: Spark's workers find the stages here.
PYTHONPATH = f"spark.executorEnv.PYTHONPATH={Path(__file__).parent}"
#: The worker of our cluster gives an application one executor of all its cores unless told otherwise.
TWO_EXECUTORS = "spark.executor.cores=1"


def brief_java() -> str:
    """Return the setting of Spark by which its executors start soon."""
    return f"spark.executor.defaultJavaOptions={java.options()}"


def conf() -> list[str]:
    """Return the settings of every session."""
    # On a cluster Spark itself tries tasks again, four times in all unless told otherwise; twice takes half the time.
    return [PYTHONPATH, "spark.task.maxFailures=2", brief_java()]


@dataclass
class Engines:
    """Gives engines by name."""

    folder: Path
    _name: str | None = None
    _engine: Engine | None = None
    _stack: ExitStack = field(default_factory=ExitStack)
    _standalone: str | None = None

    def open(self, name: str) -> Engine:
        """Return the engine of that name, that of the last test if it has the name."""
        kind, _, which = name.partition("-")
        if kind == "local":
            return get_engine("local", int(which))
        if self._engine is None or name != self._name:
            self.close_spark()
            self._engine = get_engine("spark", 2, master=self.master(name), conf=[*conf(), TWO_EXECUTORS])
            self._name = name
        return self._engine

    def master(self, name: str) -> str:
        """Return what Spark calls the master."""
        if name != "spark-standalone":
            return name.removeprefix("spark-")
        if self._standalone is None:
            self._standalone = self._stack.enter_context(standalone(self.folder))
        return self._standalone

    def close_spark(self) -> None:
        """Stop the session that is open."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._name = None

    def close(self) -> None:
        """Stop all, and the Java beneath it."""
        self.close_spark()
        self._stack.close()
        end_java()


def end_java() -> None:
    """End the Java that PySpark keeps for a next session."""
    from pyspark import SparkContext

    if (gateway := SparkContext._gateway) is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(60)
        SparkContext._gateway = SparkContext._jvm = None


@contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """A master with a worker of two cores on the loopback; they end with this process, however it ends."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        master = f"spark://127.0.0.1:{port}"
        common = ["--host", "127.0.0.1", "--webui-port", "0"]
        log = _start(stack, folder / "master", "master.Master", [*common, "--port", str(port)])
        assert eventually(lambda: "New state: ALIVE" in log.read_text()), log.read_text()
        limits = ["--cores", "2", "--memory", "2048m", "--work-dir", str(folder / "worker")]
        _start(stack, folder / "worker", "worker.Worker", [*common, *limits, master])
        assert eventually(lambda: "Registering worker" in log.read_text()), log.read_text()
        yield master


def _start(stack: ExitStack, folder: Path, name: str, options: list[str]) -> Path:
    """Start one of Spark's daemons; return its log."""
    folder.mkdir(parents=True)
    log = folder / "log"
    command = [f"{os.environ['SPARK_HOME']}/bin/spark-class", f"org.apache.spark.deploy.{name}", *options]
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, preexec_fn=_die_with_parent)  # noqa: PLW1509 - a lone call

    def stop() -> None:
        process.kill()
        process.wait()

    stack.callback(stop)
    return log


def _die_with_parent() -> None:
    """In a child on Linux: be killed when the parent ends. The shell that starts Java becomes Java, and keeps this."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def eventually(condition: Callable[[], bool], limit_s: float = 180) -> bool:
    """Poll; the limit only keeps a broken test from waiting for ever."""
    end = time.monotonic() + limit_s
    while not (fulfilled := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return fulfilled
