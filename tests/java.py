"""Options of the Javas that tests start, among them an archive of Spark's classes, from which one starts in half the time.

All of them live for seconds. Without an archive each reads, checks and links some 10,000 classes anew: 3 s of processor time.
The archive is made by the first test of Spark, once in a virtual environment, and lies there. Java itself compares it with its
own version and with Spark's files, and does without where they differ.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

#: To compile thoroughly costs what lives for seconds more than it gains.
BRIEF = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
#: A session, its Python workers and their answers.
_SESSION = """
from pyspark.sql import SparkSession

def same(batches):
    yield from batches

building = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
session = building.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
for _ in range(2):
    frame = session.createDataFrame([([n], [b"work"]) for n in range(4)], "shards array<int>, works array<binary>")
    assert frame.coalesce(1).repartition(4).mapInArrow(same, "shards array<int>, works array<binary>").toArrow().num_rows == 4
gateway = session.sparkContext._gateway
session.stop()
gateway.shutdown()
gateway.proc.stdin.close()  # its Java ends, and writes the archive
gateway.proc.wait()
"""


def set_options() -> None:
    """Set what Javas started from now on read, unless the environment says something else; makes the archive if need be."""
    for variable in ("SPARK_SUBMIT_OPTS", "SPARK_DAEMON_JAVA_OPTS"):
        os.environ.setdefault(variable, options())
    os.environ.setdefault("SPARK_LAUNCHER_OPTS", BRIEF)


def options() -> str:
    """Return the options of a Java that lives for seconds."""
    archive = _archive()
    return f"{BRIEF} -XX:SharedArchiveFile={archive} -Xlog:disable" if archive else BRIEF


def _archive() -> Path | None:
    """Return the archive; None if there can be none."""
    found, java = find_spec("pyspark"), shutil.which("java")
    if found is None or found.origin is None or java is None:
        return None
    of = f"{Path(java).resolve()} {Path(java).stat().st_mtime_ns} {found.origin} {metadata.version('pyspark')}"
    archive = Path(sys.prefix, f"spark-{hashlib.sha256(of.encode()).hexdigest()[:12]}.jsa")
    if " " in str(archive) or not os.access(sys.prefix, os.W_OK):
        return None  # Spark splits options at spaces
    with archive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(archive, Path(found.origin).parent)
    return archive if archive.stat().st_size else None


def _make(archive: Path, spark_home: Path) -> None:
    """Write the archive; an empty file where this Java makes none, so that none is made again and again."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        made = Path(folder, "made.jsa")
        environment = {
            **os.environ,
            "SPARK_HOME": str(spark_home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_SUBMIT_OPTS": f"{BRIEF} -XX:ArchiveClassesAtExit={made} -Xlog:disable",
            "PYSPARK_PYTHON": sys.executable,
        }
        command = [sys.executable, "-c", _SESSION]
        subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=300, check=False)
        if not made.exists():
            made.touch()
        made.replace(archive)
