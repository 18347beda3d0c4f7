"""The conventions of the Python command line: short options, quiet and verbose, help, closed streams, extras, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import fruits as package
from fruits.cli.main import app

ROOT = Path(__file__).parents[2]
Fruits = Callable[..., Any]


def _commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*prefix, name), command
        if hasattr(command, "commands"):
            yield from _commands(command, (*prefix, name))


ALL = dict(_commands(get_command(app)))


@pytest.fixture(scope="module")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two labels, eight each."""
    root = tmp_path_factory.mktemp("few")
    for label in ("Moon Pear 1", "Starrib Yellow"):
        (root / label).mkdir()
        for photo in sorted((photos / "Training" / label).iterdir())[:8]:
            (root / label / photo.name).write_bytes(photo.read_bytes())
    return root


#: A fifth of the work of the default network.
SMALL = "--backbone fruits-small"


def _shell(line: str, **values: object) -> subprocess.CompletedProcess[str]:
    given = {name: shlex.quote(str(value)) for name, value in values.items()}
    words = line.format(fruits=f"{shlex.quote(sys.executable)} -W error -m fruits", **given)
    return subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_short_help_that_fits(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app([*words, "-h"], prog_name="fruits")
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(len(line) <= 80 for line in told.splitlines())
    usage = told.splitlines()[0]
    assert usage.startswith(f"Usage: fruits {' '.join(words)} [OPTIONS]")
    for word in re.findall(r"[\w{}]+(?=\.\.\.|\]|$| )", usage.partition("[OPTIONS]")[2]):
        assert word.isupper(), usage
    assert not re.search(r"<(str|int|float|list|path|file)\b", told), told
    assert not re.search(r"\.\.\.$", told.partition("Commands:")[2], re.MULTILINE), told
    if not hasattr(ALL[words], "commands"):
        assert "-q, --quiet" in told
        assert "-v, --verbose" in told


def test_summaries_of_all_commands_stand_on_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["--help"], prog_name="fruits")
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == [words[0] for words in ALL if len(words) == 1]
    assert all(line.endswith((".", "docs/aws.md.")) for line in listed)


def test_version_has_a_short_option(fruits: Fruits) -> None:
    assert fruits("-V").stdout == f"{package.__version__}\n"


def test_shells_learn_the_commands(fruits: Fruits) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fruits"],
        env={**os.environ, "_FRUITS_COMPLETE": "complete_bash", "COMP_WORDS": "fruits ev", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["evaluate"], done.stderr


@pytest.mark.parametrize(
    "given", [("-o", "OUT", "--resize-mode", "crop"), ("--output", "OUT", "--fit", "crop"), ("--to=OUT", "--fit=crop")]
)
def test_options_have_their_usual_names_and_those_of_before(
    given: tuple[str, ...], few: Path, fruits: Fruits, tmp_path: Path
) -> None:
    given = tuple(word.replace("OUT", str(tmp_path / "out")) for word in given)
    done = fruits("run", few, *given, *SMALL.split(), "--json", "--quiet")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    assert done.json()["photos"] == 16
    assert "--fit" not in fruits("run", "-h").stdout


def test_quiet_leaves_results_and_errors_and_may_stand_before_the_command(few: Path, tmp_path: Path) -> None:
    done = _shell(f"{{fruits}} -q run {{few}} -o {{out}} {SMALL}", few=few, out=tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "report in" in done.stdout
    failed = _shell("{fruits} predict {out} x.jpg -q", out=tmp_path / "nothing")
    assert failed.returncode == 1
    assert "no bundle in" in failed.stderr


def test_verbose_names_what_caused_an_error(tmp_path: Path, few: Path) -> None:
    line = "{fruits} run {few} -o {out} --taxonomy {names}"
    short = _shell(line, few=few, out=tmp_path / "out", names=tmp_path / "names.csv")
    long = _shell(line + " -v", few=few, out=tmp_path / "out", names=tmp_path / "names.csv")
    assert "because of" not in short.stderr
    assert "because of FileNotFoundError" in long.stderr
    assert short.returncode == long.returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>&1 | true", "2>/dev/null | true"])
def test_closed_streams_do_not_make_a_finished_run_fail(closed: str, few: Path, tmp_path: Path) -> None:
    done = _shell(
        f"set -o pipefail; {{fruits}} run {{few}} -o {{out}} --components 4 {SMALL} {closed}",
        few=few,
        out=tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    # Nothing that was meant for a closed stream landed in a file that was opened in its place.
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b" of the variance (" not in path.read_bytes() or path.name == "report.html"


def test_results_that_do_not_fit_on_the_disk_are_a_failure(few: Path, tmp_path: Path) -> None:
    done = _shell(f"{{fruits}} run {{few}} -o {{out}} {SMALL} --json > /dev/full", few=few, out=tmp_path / "out")
    assert done.returncode == 1
    assert "results could not be printed (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (("serve", "OUT"), "uvicorn", "serve"),
        (("serve", "OUT"), "fastapi", "serve"),
        (("tokens", "add", "me", "OUT"), "sqlalchemy", "serve"),
        (("tokens", "list", "OUT"), "sqlalchemy", "serve"),
        (("submissions", "list", "OUT"), "sqlalchemy", "serve"),
        (("submissions", "export", "OUT", "-o", "given"), "sqlalchemy", "serve"),
        (("submissions", "purge", "OUT", "--keep-days", "9"), "sqlalchemy", "serve"),
        (("aws", "deploy", "--dry-run"), "yaml", "aws"),
        (("aws", "status"), "boto3", "aws"),
        (("aws", "deploy"), "boto3", "aws"),
        (("aws", "cost"), "boto3", "aws"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_missing_extra_is_named_in_one_line(
    words: tuple[str, ...], module: str, extra: str, finished_run: Any, tmp_path: Path
) -> None:
    given = [str(finished_run.copy_to(tmp_path)) if word == "OUT" else word for word in words]
    script = f"import sys; sys.modules[{module!r}] = None; from fruits.cli.main import leave; sys.argv[0] = 'fruits'; leave()"
    command = [sys.executable, "-W", "error", "-c", script, *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(rf"needs (py)?{module}[,;].* '?fruits\[{extra}\]", done.stderr), done.stderr


def test_ctrl_c_ends_with_130_wherever_a_command_is(finished_run: Any, tmp_path: Path) -> None:
    # predict draws no bar that would notice.
    fifo = tmp_path / "photo.jpg"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, "-m", "fruits", "predict", str(finished_run.out), str(fifo)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    # A writer can open a pipe without waiting only once a reader waits there: then the command is at work.
    writer = -1
    while writer < 0 and process.poll() is None:
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    if writer >= 0:
        os.close(writer)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr


def test_who_is_asked_and_interrupts_ends_with_130_and_who_says_no_with_1() -> None:
    def answered(answer: bytes) -> int:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "fruits", "aws", "delete", "--region", "eu-west-1"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        os.close(follower)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(leader, 4096)
        if answer:
            os.write(leader, answer)
        else:
            process.send_signal(signal.SIGINT)
        code = process.wait(60)
        os.close(leader)
        return code

    assert answered(b"n\n") == 1
    assert answered(b"") == 130


def _lines_of_docs() -> Iterator[tuple[str, str]]:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if page.name == "cli.md":
            continue
        text = page.read_text("utf-8")
        for found in re.findall(r"`(fruits [^`\n]+)`", text):
            yield page.name, found
        for line in text.splitlines():
            bare = line.strip().removeprefix(".venv/bin/")
            if line.startswith(("    ", ".venv", "fruits")) and bare.startswith("fruits "):
                yield page.name, bare.removesuffix("\\").strip()


@pytest.mark.parametrize(("page", "line"), sorted(set(_lines_of_docs())))
def test_commands_in_the_docs_are_understood(page: str, line: str) -> None:
    words = shlex.split(line.partition("  #")[0].partition(" > ")[0], comments=True)[1:]
    words = [word for word in words if word not in ("...", "…")]
    group, known = get_command(app), ()
    while words and hasattr(group, "commands") and words[0] in group.commands:
        known, group, words = (*known, words[0]), group.commands[words[0]], words[1:]
    options = {name for param in group.params for name in (*param.opts, *param.secondary_opts)}
    if not known:
        assert words[0].startswith("-"), f"{page}: no such command: {line}"
    unknown = [
        word for word in words if word.startswith("-") and word.partition("=")[0] not in options | {"-h", "--help"}
    ]
    assert unknown == [], f"{page}: {line}"


def test_readme_says_how_to_call_fruits_before_it_does() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("fruits "))
    assert any(line.startswith((". .venv/bin/activate", "pip install .")) for line in lines[:first])
