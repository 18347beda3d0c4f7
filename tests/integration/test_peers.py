"""`make peers` measures fruits beside what people would write instead, on the same photos, and says what is not there."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import __main__ as command_line
from benchmarks import peer_serving, peers


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> list[Path]:
    """Photos of one's own: they get links, which a run elsewhere would refuse."""
    return sorted(Path(shutil.copytree(photos, tmp_path / "photos")).rglob("*.jpg"))


@pytest.mark.slow
def test_fruits_and_its_peers_embed_the_same_photos(copied: list[Path], tmp_path: Path) -> None:
    loop, pool = peers.PEERS[:2]
    whole = next(peer for peer in peers.PEERS if peer.package == "sklearn")
    gone = replace(loop, name="gone", package="no_such_package")
    wrong = replace(loop, name="wrong", script="no_such_script.py")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    result = peers.measure(
        copied, scratch, most=80, repeat=1, backbone="fruits-small", size=64,
        pythons={"": sys.executable}, peers=(loop, pool, whole, gone, wrong), quiet=False,
    )  # fmt: skip
    assert result["photos_measured"] == 80
    measured = result["repetitions"]
    assert measured.keys() == {peers.FRUITS, loop.name, pool.name, whole.name}
    for name, (one,) in measured.items():
        assert 0 < one["seconds"] <= one["wall"], name
        assert one["cpu"] > 0, "fork servers and decoders too"
        assert one["versions"], name
    assert "no_such_package" in result["absent"]["gone"]
    assert "no_such_script" in result["absent"]["wrong"]
    assert measured[whole.name][0]["accuracy"] > 0.5
    for said in (*measured, "gone", "times as fast as the best peer"):
        assert said in result["markdown"]
    assert {len(line.split("|")) for line in result["lines"] if line.startswith("|")} == {11}


def test_peer_that_computes_something_else_is_no_peer(tmp_path: Path) -> None:
    import numpy as np

    rows, told = tmp_path / "peers-embeddings.npy", {"photos": ["a", "b"]}
    given = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    for found, exact, said in (
        (given, True, None),
        (given + 1e-5, True, None),
        (given[::-1], True, "other embeddings"),
        (given[::-1], False, None),
        (given[:1], False, "1 embeddings of 2 photos"),
        (given * np.nan, False, "2 embeddings of 2 photos"),
    ):
        np.save(rows, found)
        fault = peers._differs(rows, told, exact=exact)
        assert (fault is None) if said is None else said in str(fault)


@pytest.mark.slow
def test_fruits_and_a_handler_serve_the_same_photos(copied: list[Path], tmp_path: Path) -> None:
    own, handler = peer_serving.SERVERS[0], next(one for one in peer_serving.SERVERS if one.package == "fastapi")
    gone = replace(handler, name="gone", package="no_such_package")
    result = peer_serving.measure(
        copied, tmp_path, learnt=80, served=6, repeat=1, seconds=0.5, pythons={"": sys.executable},
        options=("--backbone", "fruits-small", "--size", "64", "--components", "8"), servers=(own, handler, gone), quiet=False,
    )  # fmt: skip
    assert result["absent"].keys() == {"gone"}, result["absent"]
    for name, (one,) in result["repetitions"].items():
        assert one["per_second"] > 0, name
        assert 0 < one["p50"] <= one["p99"], name
        assert one["others"] == 0, name
    assert result["repetitions"][own.name][0]["wrong"] == 0
    for said in (own.name, handler.name, "no_such_package", "times the requests of the best peer"):
        assert said in result["markdown"]
    assert {len(line.split("|")) for line in result["lines"] if line.startswith("|")} == {11}


def test_peer_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "peers", "--only", "plain loop, nobody"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert "no peer nobody; expected some of plain loop, thread pool" in " ".join(capsys.readouterr().err.split())
