"""Commands that are forked are to tests what those of a new interpreter are to users."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.commands import Command, Commands

Fruits = Callable[..., Any]


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("predict", "gone \udcff.jpg", "--json"),
        ("run", "nowhere", "--to", "out", "--workers", "0"),
        ("evaluate", "nowhere"),
        ("tokens", "list", "--data", "nowhere"),
    ],
    ids=" ".join,
)
def test_forked_command_says_and_ends_as_one_of_a_new_interpreter(
    words: tuple[str, ...], fruits: Fruits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forked = fruits(*words)
    new = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fruits", *words], capture_output=True, text=True, check=False
    )
    assert (forked.code, forked.stdout, forked.stderr) == (new.returncode, new.stdout, new.stderr)


def test_forked_command_has_folder_and_environment_of_the_test(
    fruits: Fruits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    made = tmp_path / "data/fruits/backbones"
    made.mkdir(parents=True)
    (made / "mine.onnx").write_bytes(b"no network")
    assert "mine" in fruits("backbones", "list").stdout + fruits("backbones", "list").stderr
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "mine" not in fruits("backbones", "list").stdout
    assert f"'{tmp_path}" not in fruits("evaluate", "here").stderr
    assert "'here'" in fruits("evaluate", "here").stderr


def test_what_an_interpreter_reads_once_gives_a_new_one(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("")
    with (tmp_path / "said").open("wb") as said:
        streams = {"stdout": said.fileno(), "stderr": said.fileno()}
        forked = commands.start("--version", **streams)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        other = commands.start("--version", **streams)
        assert (type(forked), type(other)) == (Command, subprocess.Popen)
        assert (forked.wait(60), other.wait(60)) == (0, 0)


def test_forked_command_is_a_process_that_can_be_killed(commands: Commands, tmp_path: Path) -> None:
    fifo = tmp_path / "photo.jpg"
    os.mkfifo(fifo)
    with tempfile.TemporaryFile() as said:
        running = commands.start("predict", fifo, stdout=said.fileno(), stderr=said.fileno())
        assert psutil.Process(running.pid).is_running()
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.2)
        assert running.poll() is None
        running.kill()
        assert running.wait(60) == -signal.SIGKILL == running.poll()
        with pytest.raises(psutil.NoSuchProcess):
            psutil.Process(running.pid)
