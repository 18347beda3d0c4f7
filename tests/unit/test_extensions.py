"""Engines, heads and backbones of other packages: found by entry points, and a broken one is told in a sentence."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fruits import extensions
from fruits.embedding.backbone import backbone_names, find_backbone
from fruits.embedding.backbones import FRUITS_SMALL
from fruits.engines import get_engine
from fruits.errors import BackboneError, ConfigError, ExtensionError
from fruits.learning.heads import get_head
from fruits.recogniser import bundle as bundles

REPOSITORY = Path(__file__).parents[2]
SIMPLE = '''
from fruits.engines import merge_in_order

class InOrder:
    """One shard after the other, in this process."""

    name = "in-order"

    def __init__(self, workers): self.workers = workers
    def start(self): pass
    def map_batches(self, shards, stage, schema):
        for shard in shards: yield from stage(iter(shard.to_batches()))
    def reduce_batches(self, shards, partial, merge): return merge_in_order(map(partial, shards), merge)
    def executors(self): return []
    def close(self): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
'''

Install = Callable[..., Path]


def test_own_parts_are_registered_as_those_of_others_are() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert declared == {f"fruits.{kind}s": names for kind, names in extensions.OWN.items()}
    for kind, names in extensions.OWN.items():
        for name in names:
            assert extensions.get(kind, name).load() is not None
        installed = {point.name: point.value for point in entry_points(group=f"fruits.{kind}s")}
        assert installed.items() >= names.items()


def test_unknown_names_are_told_what_is_installed_and_how_to_get_more(install: Install) -> None:
    install("addition", SIMPLE, {"fruits.engines": {"in-order": "addition:InOrder"}})
    with pytest.raises(
        ConfigError, match="no engine 'abacus'; expected local, spark or in-order, or install a package that"
    ):
        get_engine("abacus", 1)
    with pytest.raises(
        ConfigError, match="no head 'tail'; expected logistic, knn or kernel, or install a package that adds one"
    ):
        get_head("tail")
    with pytest.raises(BackboneError, match=r"no backbone 'spine'; expected one of fruits-photo.*fruits\.backbones"):
        find_backbone("spine")


@pytest.mark.slow
def test_engine_of_another_package_runs_the_whole_chain(
    install: Install, finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    install("addition", SIMPLE, {"fruits.engines": {"in-order": "addition:InOrder"}})
    done = fruits("run", finished_run.photos, "--to", tmp_path / "out", "--engine", "in-order", "--json")
    assert done.code == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["engine"] == "in-order"
    assert record["metrics"] == finished_run.record["metrics"]
    for name in ("mean.npy", "components.npy", "weights.npy", "bias.npy"):
        same = (tmp_path / "out" / "bundle" / name).read_bytes() == (finished_run.out / "bundle" / name).read_bytes()
        assert same, name
    shown = fruits("run", "--help").stdout
    assert "local, spark or in-order" in " ".join(shown.split())
    assert "logistic, knn or kernel" in " ".join(shown.split())


def test_choices_that_an_engine_does_not_have_are_refused(install: Install) -> None:
    install("addition", SIMPLE, {"fruits.engines": {"in-order": "addition:InOrder"}})
    with pytest.raises(ConfigError, match="engine 'in-order' has no master and no conf"):
        get_engine("in-order", 1, master="local[2]")
    assert get_engine("in-order", 3).workers == 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("", "AttributeError"),
        ("Broken = 3", "is no class or function"),
        (
            "def Broken(workers): raise RuntimeError('no licence\\nmore')",
            "cannot be started (RuntimeError: no licence)",
        ),
        ("class Broken:\n    def __init__(self, workers): pass", "lacks start, map_batches, reduce_batches"),
        ("def Broken(): pass", "cannot be started (TypeError"),
    ],
    ids=str,
)
def test_broken_engine_of_another_package_is_told_in_a_sentence(
    install: Install, fruits: Callable[..., Any], tmp_path: Path, code: str, said: str
) -> None:
    install("faulty", code, {"fruits.engines": {"broken": "faulty:Broken"}}, version="0.3")
    with pytest.raises(ExtensionError) as caught:
        get_engine("broken", 1)
    message = str(caught.value)
    assert said in message
    assert message.startswith("engine 'broken' of the package faulty 0.3 ")
    assert "\n" not in message
    assert get_engine("local", 1).workers == 1  # what is whole still works


@pytest.mark.slow
def test_broken_parts_leave_no_traceback_at_the_terminal(
    install: Install, finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    kinds = {f"fruits.{kind}s": {"broken": "faulty:Broken"} for kind in extensions.OWN}
    install("faulty", "import nowhere_to_be_found", kinds)
    for option in ("--engine", "--head", "--backbone"):
        done = fruits("run", finished_run.photos, "--to", tmp_path / "out", option, "broken")
        assert done.code == 1
        assert "Traceback" not in done.stderr
        assert "of the package faulty 1.0 cannot be loaded" in done.stderr
    rows = {row["name"]: row["error"] for row in fruits("backbones", "list", "--json").json()["backbones"]}
    assert rows["fruits-photo"] is None
    assert "cannot be loaded" in rows["broken"]


def test_same_name_in_two_packages_is_refused_and_our_own_names_stay_ours(install: Install) -> None:
    for module in ("one", "other"):
        points = {"twice": f"{module}:InOrder", "local": f"{module}:InOrder"}
        install(module, SIMPLE, {"fruits.engines": points})
    with pytest.raises(ExtensionError, match=r"one 1\.0 and other 1\.0 both bring the engine 'twice'"):
        get_engine("twice", 1)
    assert type(get_engine("local", 1)).__module__ == "fruits.engines.local"


@pytest.mark.slow
@pytest.mark.parametrize("code", ["from pathlib import Path\nNET = Path(__file__).with_name('net.onnx')", "{function}"])
def test_backbone_of_another_package_is_found_by_its_name(
    install: Install, fruits: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    function = "def NET(): return __file__.replace('.py', '/../net.onnx')".replace("/../", "_")
    site = install("added", code.format(function=function), {"fruits.backbones": {"net": "added:NET"}})
    for suffix in (".onnx", ".json"):
        for name in ("net", "added_net"):
            shutil.copy(FRUITS_SMALL.with_suffix(suffix), site / f"{name}{suffix}")
    found = find_backbone("net")
    assert found.network == FRUITS_SMALL.read_bytes()
    assert backbone_names()[-1] == "net"
    assert "net: " in fruits("backbones", "list").stdout


def test_backbone_that_names_no_file_is_told_in_a_sentence(install: Install) -> None:
    install("added", "NET = '/nowhere/net.onnx'\ndef RAISES(): raise OSError('gone')\nNONE = 3",
            {"fruits.backbones": {"net": "added:NET", "raises": "added:RAISES", "none": "added:NONE"}})  # fmt: skip
    for name, said in (
        ("net", "names no file"),
        ("raises", "cannot be found .OSError: gone"),
        ("none", "names no file"),
    ):
        with pytest.raises(ExtensionError, match=f"backbone '{name}' of the package added 1.0 {said}"):
            find_backbone(name)


def test_head_without_its_parts_is_told_in_a_sentence(install: Install) -> None:
    install("added", "class Half:\n    def fit(self): pass", {"fruits.heads": {"half": "added:Half"}})
    with pytest.raises(ExtensionError, match="lacks logits, add_to_graph, temperature_scaled"):
        get_head("half")


def test_engine_sees_batches_of_the_schema(install: Install) -> None:
    install("addition", SIMPLE, {"fruits.engines": {"in-order": "addition:InOrder"}})
    table = pa.table({"uri": ["a", "b"]})
    with get_engine("in-order", 1) as engine:
        assert [
            batch.num_rows for batch in engine.map_batches([table, table], lambda batches: batches, table.schema)
        ] == [2, 2]


def test_shipped_recogniser_names_its_head() -> None:
    from fruits.recogniser import shipped

    bundle = bundles.load(shipped.path())
    assert bundle.manifest["format"] == 6
    assert bundle.manifest["head"] == {"name": "kernel", "temperature": 1.0}
