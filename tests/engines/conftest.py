"""Lets worker processes import the stages of these tests by name, as they import fruits; and opens engines."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from masters import Engines, linked_spark_home

from fruits.engines.spark_session import check_requirements
from fruits.errors import EngineError


@pytest.fixture(scope="session")
def _spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    engines = Engines(tmp_path_factory.mktemp("standalone"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_HOME", str(linked_spark_home(tmp_path_factory.mktemp("spark-home"))))
        yield engines
        engines.close()


@pytest.fixture(scope="session")
def missing() -> str | None:
    """What Spark needs and this machine lacks."""
    try:
        check_requirements(None)
    except EngineError as exc:
        return str(exc)
    return None


@pytest.fixture(scope="session")
def spark(missing: str | None, request: pytest.FixtureRequest) -> Engines:
    """Opens engines of Spark. All tests skip on one line, so that pytest's summary shows one."""
    if missing:
        pytest.skip(f"engine 'spark' is not tested: {missing}")
    engines: Engines = request.getfixturevalue("_spark")
    return engines
