"""Lets worker processes import the stages of these tests by name, as they import fruits; and opens engines."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.running import linked_spark_home

sys.path.insert(0, str(Path(__file__).parent))

from masters import Engines

from fruits.engines.spark.session import check_requirements
from fruits.errors import EngineError

#: PySpark leaves it to the garbage collector to close the sockets through which it talks to its own Java.
PYSPARKS_SOCKETS = r"ignore:unclosed <socket.socket .*raddr=\('127\.0\.0\.1':ResourceWarning"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cluster the first value of every test.

    Spark in this process has all of them, and what differs between two values is decided before Spark is asked.
    """
    met: set[str] = set()
    left_out = []
    for item in [item for item in items if item.path.parent == Path(__file__).parent]:
        item.add_marker(pytest.mark.filterwarnings(PYSPARKS_SOCKETS))
        name = item.nodeid.partition("[")[0]
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if parameters.get("engine") == "spark-standalone" and len(parameters) > 1:
            if name in met:
                left_out.append(item)
            met.add(name)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Opens engines of Spark. All tests skip on this one line, so that pytest's summary shows one."""
    try:
        check_requirements(None)
    except EngineError as exc:
        missing = str(exc)
    else:
        missing = ""
    if missing:
        pytest.skip(f"engine 'spark' is not tested: {missing}")
    engines = Engines(tmp_path_factory.mktemp("standalone"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_HOME", str(linked_spark_home(tmp_path_factory.mktemp("spark-home"))))
        yield engines
        engines.close()
    gc.collect()  # here, where their warnings are expected
