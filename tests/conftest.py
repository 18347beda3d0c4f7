"""What several rooms need: photos, one finished run on them, the command line, and tiny networks."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from fruits.config import RunConfig
from fruits.photos.generated import generator
from fruits.training import pipeline

# Time limits per example say more about the machine than about the code. The same examples every time, so that red means
# a change; to look for new ones: pytest --hypothesis-profile=search tests/properties
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=5000, print_blob=True)
settings.load_profile("repeatable")

# Programs that tests start, hundreds of them, do not compile the package each time, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))  # for faults, which is no part of the package; "pytest" alone does not do it

from faults import postgres_server  # noqa: E402
from faults.s3_server import FOREIGN, S3Server, why_not  # noqa: E402
from tests import java  # noqa: E402
from tests.commands import Commands  # noqa: E402
from tests.once import kept_beside, once_for_all_workers  # noqa: E402

# --- Groups: which tests are slow, and which stay together when pytest-xdist spreads them over processes ---------------

#: What shares a service, or a service and a browser, which are started once, in one process; elsewhere a module stays together.
#: Pages that compute a network in the browser are apart from the others: each take as long.
TOGETHER = {
    **dict.fromkeys(
        (f"browser/test_{name}.py" for name in ("camera", "device", "device_only", "regions")), "browser's network"
    ),
    "browser/": "browser",
    **dict.fromkeys(
        (f"service/test_{name}.py" for name in ("api", "bad_input", "content", "delivery", "load")), "service"
    ),
}
#: What begins, in this order: it waits for others (clusters, browsers, stand-ins) more than it computes, so that the short
#: modules fill the gaps; and what is long must not be waited for in the end.
FIRST = (
    *("browser", "browser's network"),
    "engines/test_contract.py on Spark",
    "service/test_instances.py",
    *("integration/test_aws.py", "integration/test_run.py", "service/test_operation.py", "integration/test_s3.py"),
    *("engines/test_spark.py", "integration/test_spark.py", "integration/test_faults.py", "integration/test_runs.py"),
    *("service", "integration/test_study.py", "integration/test_spark_clusters.py", "service/test_owner_loop.py"),
    *("service/test_loop.py", "integration/test_evaluation.py", "service/test_hostile.py", "service/test_processes.py"),
    *(
        "integration/test_cli.py",
        "integration/test_backbones.py",
        "integration/test_watch.py",
        "integration/test_sklearn.py",
    ),
    *("unit/photos/test_decoder.py", "unit/recogniser/test_bundle.py", "unit/test_site.py", "unit/test_extensions.py"),
)
#: Marks of folders and modules.
MARKS = {
    "engines": "spark",
    "integration/test_spark": "spark",
    "integration/test_aws.py": "aws",
    "browser": "browser",
}
#: Folders of tests that start programs or run whole pipelines.
SLOW = ("browser", "engines", "integration", "service")
#: Fixtures that start a server, and parameters of tests that ask for one of them.
SERVERS, ON_SERVERS = {"s3", "postgres"}, {"bucket", "postgresql"}
#: Seconds that a test may take with the fixtures that it is the first to ask for; a bound on what hangs, not on speed.
PATIENCE_S = 600


def group_of(nodeid: str) -> str:
    """Return the group of a test: the tests of one group run one after another in one process; that of most is their module."""
    place = nodeid.partition("::")[0].removeprefix("tests/")
    if shared := next((group for prefix, group in TOGETHER.items() if place.startswith(prefix)), None):
        return shared
    # The contract of engines is that of the local one, too, which starts no cluster.
    return f"{place} on Spark" if place == "engines/test_contract.py" and "[spark" in nodeid else place


def needs_a_server(item: pytest.Item) -> bool:
    """Tell whether a test, or this variant of it, needs PostgreSQL or an S3 server."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return not SERVERS.isdisjoint(getattr(item, "fixturenames", ())) or any(
        isinstance(value, str) and value in ON_SERVERS for value in parameters
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what was imported to list tests out of every later look for garbage: a tenth of the processor time of quick ones."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(700, 10, 100)  # the oldest objects are looked at a tenth as often, the young ones as ever
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the tests of slow folders where slow tests are not wanted; None leaves it to others."""
    slow = collection_path.parent == REPOSITORY / "tests" and collection_path.name in SLOW
    wanted = config.option.markexpr
    return True if slow and re.search(r"\bnot slow\b", wanted) and " or " not in wanted else None


@pytest.hookimpl(tryfirst=True)  # before -m looks at marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their place; what is long comes first, so that none is waited for in the end."""
    for item in items:
        place, group = item.nodeid.removeprefix("tests/"), group_of(item.nodeid)
        mark = next((mark for prefix, mark in MARKS.items() if place.startswith(prefix)), None)
        if mark and group != "engines/test_contract.py":
            item.add_marker(getattr(pytest.mark, mark))
        if place.startswith(SLOW) or needs_a_server(item):
            item.add_marker(pytest.mark.slow)
        if any(item.get_closest_marker(name) for name in ("slow", "spark", "aws", "browser")):
            item.add_marker(pytest.mark.timeout(PATIENCE_S))
    order = {group: number for number, group in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))  # else as they were


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the first test that starts a Java, see to it that it starts soon."""
    if item.get_closest_marker("spark") or item.get_closest_marker("aws"):
        java.set_options()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Assign tests to processes by group, in their order. Marks of ``xdist_group`` would do the same, but not with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@dataclass(frozen=True)
class FinishedRun:
    """A run on the planted photos; tests only read it, or copy it first."""

    photos: Path
    out: Path
    record: dict[str, Any]

    def copy_to(self, folder: Path) -> Path:
        """Return a copy of the results that a test may change."""
        return Path(shutil.copytree(self.out, folder / "copied results", symlinks=True))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos."""
    for folder in (REPOSITORY.parent / "shared", Path(os.environ.get("FRUITS_DATA", "/nowhere"))):
        if (folder / "fruits-360").is_dir():
            return folder
    pytest.skip(
        "no real photos: set FRUITS_DATA to a folder that holds fruits-360 and grocery-store; generated ones test the same paths"
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 generated photos of 8 varieties under Training/ and Test/; nobody may change them."""

    def plant(folder: Path) -> None:
        generator.write_photos(folder / "photos", photos=320, varieties=8, workers=1)

    return once_for_all_workers(tmp_path_factory, "orchard", plant) / "photos"


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos of 4 varieties, with the times of their files, that a test may change."""
    root = tmp_path / "own photos"
    for folder in sorted(photos.glob("T*/*")):
        if folder.name in ("Apfelino Red 1", "Moon Pear 1", "Starrib Yellow", "Tuskana Yellow"):
            for photo in sorted(folder.iterdir())[::2] if folder.parent.name == "Test" else sorted(folder.iterdir()):
                copied = root / photo.relative_to(photos)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(photo, copied)
    return root


@pytest.fixture(scope="session")
def a_photo(photos: Path) -> bytes:
    """One JPEG of 100 x 100."""
    return min(photos.glob("Training/*/*.jpg")).read_bytes()


@pytest.fixture(scope="session")
def finished_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The planted photos, run to the end in two processes."""

    def run(folder: Path) -> dict[str, Any]:
        return pipeline.run(RunConfig(sources=(str(photos),), out=str(folder / "results"), workers=2))

    folder = once_for_all_workers(tmp_path_factory, "run", run)
    return FinishedRun(photos, folder / "results", kept_beside(folder))


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, Any]:
        """Parse stdout, which must be one JSON object and nothing else."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Starts commands of fruits at a hundredth of what a new interpreter costs: see tests/commands.py."""
    starting = Commands()
    yield starting
    starting.stop()


@pytest.fixture(scope="session")
def fruits(commands: Commands) -> Callable[..., Finished]:
    """The command line, as a user has it: ``fruits("run", photos, "--to", out)``."""
    return lambda *args: Finished(*commands.run(*args, timeout_s=300))


# --- A package of somebody else ---------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a package as pip would: a module, and metadata with its entry points; for this process and those it starts."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))

    def put(module: str, code: str, points: dict[str, dict[str, str]], *, version: str = "1.0") -> Path:
        (site / f"{module}.py").write_text(code, "utf-8")
        about = site / f"{module}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n", "utf-8")
        lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for group, of in points.items()]
        (about / "entry_points.txt").write_text("".join(lines), "utf-8")
        sys.modules.pop(module, None)
        return site

    return put


# --- A bucket ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on this machine; one for all tests, started by the first that asks."""
    folder = tmp_path_factory.mktemp("s3")
    if reason := why_not(folder):
        pytest.skip(reason)
    with S3Server(folder) as server:
        yield server


@pytest.fixture
def s3_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that lead to the server, set for the length of a test, and none that lead elsewhere."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3.environment()


@pytest.fixture
def bucket(s3: S3Server, s3_environment: dict[str, str]) -> str:
    """The address, ``s3://...``, of an empty bucket of the test's own."""
    return s3.make_bucket(f"tests-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def common_bucket(s3: S3Server) -> str:
    """A bucket for all tests."""
    return s3.make_bucket(f"common-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def prefix(common_bucket: str, s3_environment: dict[str, str]) -> str:
    """The address of an empty place in a bucket, as good as a bucket where nothing is said of the bucket itself."""
    return f"{common_bucket}/{uuid.uuid4().hex[:12]}"


# --- A database -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.PostgresServer]:
    """A real PostgreSQL on this machine; one for all tests, started by the first that asks."""
    if reason := postgres_server.why_not():
        pytest.skip(reason)
    with postgres_server.PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The url of an empty database; every test that asks runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/service.db"
    server: postgres_server.PostgresServer = request.getfixturevalue("postgres")
    return server.empty_database()


# --- Tiny networks, whose answers NumPy can give ------------------------------------------------------------------

#: (channels, d) of the tiny networks: the mean colour times these numbers.
WEIGHTS = np.arange(15, dtype=np.float32).reshape(3, 5) / 10 - 0.4
SCALE, SHIFT = (0.01, 0.02, 0.03), (-0.5, 0.25, 1.0)


def tiny_network(
    layout: str, dtype: str, *, inputs: int = 1, static: bool = False, opset: int = 17, domain: str = ""
) -> bytes:
    """Mean of each channel, times WEIGHTS; a network of real framework habits: names such as 'pixels' are taken."""
    batch = 1 if static else "n"
    shape = [batch, 3, "h", "w"] if layout == "NCHW" else [batch, "h", "w", 3]
    kind = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
    names = ["pixels", *(f"more {number}" for number in range(1, inputs))]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    weights = [numpy_helper.from_array(WEIGHTS, "fruits/scale")]
    mean = helper.make_node("ReduceMean", ["embedding"], ["mean"], axes=axes, keepdims=0)
    if opset >= 18:  # from then on, the axes are an input
        weights.append(numpy_helper.from_array(np.array(axes), "axes"))
        mean = helper.make_node("ReduceMean", ["embedding", "axes"], ["mean"], keepdims=0)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["embedding"], to=TensorProto.FLOAT, name="cast"),
        mean,
        helper.make_node("MatMul", ["mean", "fruits/scale"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 5])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)
    return bytes(made.SerializeToString())


def answer(pixels: np.ndarray, dtype: str) -> np.ndarray:
    """What a tiny network says of pixels (n, size, size, 3)."""
    values = pixels.astype(np.float64)
    if dtype == "float32":
        values = values * SCALE + SHIFT
    return values.mean(axis=(1, 2)) @ WEIGHTS


@pytest.fixture
def save_network(tmp_path: Path) -> Callable[..., Path]:
    """Write a network and its card; return the path of the network."""

    def save(model: bytes, *, card: bool = True, name: str = "tiny", **changes: Any) -> Path:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model)
        if card:
            values = {
                "name": name,
                "sha256": hashlib.sha256(model).hexdigest(),
                "embedding_size": 5,
                "size": 16,
                "layout": "NHWC",
                "dtype": "uint8",
                "scale": SCALE,
                "shift": SHIFT,
                **changes,
            }
            path.with_suffix(".json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        return path

    return save


@pytest.fixture(scope="session")
def networks() -> Any:
    """The two functions above, for tests that cannot import this file by name."""
    return tiny_network, answer
