"""Runs ``fruits`` in processes that are forked from one that has imported it.

To a test they are what ``python -W error -m fruits`` is: processes of their own, with arguments, a folder, an environment and
streams of their own, which can be killed. Only imports, more than a second of processor time, are done once for all of them.
Where an interpreter would start otherwise (a locale, threads of BLAS, a ``sitecustomize.py`` on ``PYTHONPATH``), a new one is
started.

Started by its path, this file is the process that forks.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver, util
from pathlib import Path
from typing import IO, NoReturn

#: What commands import before or while they work; what is not installed is left out.
IMPORTED = (
    "fruits.cli.main", "fruits.training.pipeline", "fruits.training.vacuum", "fruits.training.results",
    "fruits.assessment.audit", "fruits.assessment.evaluation", "fruits.assessment.printed", "fruits.assessment.results",
    "fruits.embedding.stage", "fruits.embedding.graphs.graph", "fruits.recogniser.recogniser", "fruits.photos.reading.packing",
    "fruits.photos.decoding.decoder", "deltalake", "deltalake.exceptions", "deltalake.transaction", "onnx",
    "sklearn.linear_model", "sklearn.exceptions", "scipy.cluster.hierarchy", "scipy.optimize", "scipy.sparse.csgraph",
    "threadpoolctl", "rich.progress", "fruits.service.http.server", "fruits.service.submissions.repository",
    "fruits.service.submissions.tokens", "alembic.command", "uvicorn",
)  # fmt: skip
#: Commands that start workers.
WITH_WORKERS = ("run", "apply", "audit", "demo", "study")
#: Variables that an interpreter, or a library that it loads, reads once: who sets another value gets a new interpreter.
READ_ONCE = ("PYTHON", "LANG", "LC_", "LD_", "OPENBLAS_", "OMP_", "MKL_", "TZ", "ORT_")
#: The environment before any test changed it.
AT_START = dict(os.environ)


class Commands:
    """Starts commands of fruits; ``stop`` ends what forks them, not them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *arguments: object,
        stdout: int,
        stderr: int,
        env: dict[str, str] | None = None,
        warnings: str = "error",
    ) -> Command | subprocess.Popen[bytes]:
        """Start a command that reads nothing and writes to two descriptors; ``warnings`` as with ``python -W``."""
        words, environment = [*map(str, arguments)], dict(os.environ if env is None else env)
        with self._lock:
            if self._ours is None:
                self._begin()
            if self._ours is None or not _can_be_forked(environment):
                interpreter = [sys.executable, "-W", warnings, "-m", "fruits", *words]
                return subprocess.Popen(
                    interpreter, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment
                )
            ours, theirs = socket.socketpair()
            with theirs, tempfile.TemporaryFile() as told, Path(os.devnull).open("rb") as nothing:
                about = {"words": words, "folder": str(Path.cwd()), "environment": environment, "warnings": warnings}
                told.write(json.dumps(about).encode())
                told.flush()
                given = [nothing.fileno(), stdout, stderr, told.fileno(), theirs.fileno()]
                socket.send_fds(self._ours, [b"."], given)
        return Command(words, ours)

    def run(self, *arguments: object, timeout_s: float) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code and what it wrote."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self.start(*arguments, stdout=out.fileno(), stderr=err.fileno())
            try:
                code = process.wait(timeout_s)
            except BaseException:
                process.kill()
                process.wait()
                raise
            return code, _text(out), _text(err)

    def stop(self) -> None:
        """End the process that forks; a next command starts another."""
        if self._ours is not None and self._process is not None:
            self._ours.close()
            self._process.wait()
        self._ours = self._process = None

    def _begin(self) -> None:
        if sys.platform != "linux":
            return  # elsewhere libraries do not bear a fork
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=AT_START,
                start_new_session=True,  # Ctrl-C at the tests ends it by closing its socket
            )  # fmt: skip


class Command:
    """A running command: what ``subprocess.Popen`` is, as far as tests ask."""

    def __init__(self, words: list[str], reply: socket.socket) -> None:
        self._words, self._reply, self._said = words, reply, b""
        self.returncode: int | None = None
        while b"\n" not in self._said:
            self._hear(None)
        self.pid = int(self._said.split(b"\n")[0])

    def poll(self) -> int | None:
        """Return the exit code, as :class:`subprocess.Popen` does; None if the command still runs."""
        if self.returncode is None:
            self._end(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        if self.returncode is None and not self._end(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._words, timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _end(self, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        while self._said.count(b"\n") < 2:
            if not self._hear(None if end is None else max(0.0, end - time.monotonic())):
                return False
        self.returncode = int(self._said.split(b"\n")[1])
        self._reply.close()
        return True

    def _hear(self, timeout: float | None) -> bool:
        """Take in what is said of the command; return whether it came in time."""
        self._reply.settimeout(timeout)
        try:
            said = self._reply.recv(64)
        except (TimeoutError, BlockingIOError):
            return False
        if not said:
            self._reply.close()
            raise RuntimeError(f"nobody tells what becomes of the command: {self._words}")
        self._said += said
        return True


def _can_be_forked(environment: Mapping[str, str]) -> bool:
    hooks = [Path(folder, f"{who}customize.py") for folder in _path(environment) for who in ("site", "user")]
    return _read_once(environment) == _read_once(AT_START) and not any(hook.exists() for hook in hooks)


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    """What an interpreter, or a library that it loads, reads once; ``PYTHONPATH`` can be put right afterwards."""
    return {name: value for name, value in environment.items() if name.startswith(READ_ONCE) and name != "PYTHONPATH"}


def _path(environment: Mapping[str, str]) -> list[str]:
    return list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    # As text files are read: commands may write line ends of other systems into messages.
    return file.read().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


# --- The process that forks -------------------------------------------------------------------------------------------


def serve(control: socket.socket) -> None:
    """Fork a process for every message, until the other side is gone."""
    before = set(os.environ)
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] == "fruits":
                raise  # it has another place now
    set_by_imports = {name: value for name, value in os.environ.items() if name not in before}
    signal.signal(signal.SIGCHLD, _bury)
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 5)
        if not message:
            return
        if _fork() == 0:
            control.close()
            _look_after(descriptors, set_by_imports)
        for descriptor in descriptors:
            os.close(descriptor)


def _bury(*_: object) -> None:
    """Collect those that looked after commands; their processor time then counts as that of the tests."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, of threads: those of BLAS bear it
        return os.fork()


def _look_after(descriptors: list[int], set_by_imports: dict[str, str]) -> NoReturn:
    """Start the command and tell its process id and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, told, reply = descriptors
    pid = _fork()
    if pid == 0:
        os.close(reply)
        _be(streams, told, set_by_imports)
    for descriptor in (*streams, told):
        os.close(descriptor)  # the reader of a pipe sees its end when the command ends
    os.write(reply, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(reply, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _be(streams: list[int], told: int, set_by_imports: dict[str, str]) -> NoReturn:
    """Be ``python -m fruits`` with the words, folder, environment and streams that were told."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    with open(told, "rb") as file:
        file.seek(0)
        given = json.load(file)
    # A shell starts what runs in its background with Ctrl-C ignored, and so would be every process below these tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.filterwarnings(given["warnings"].partition(":")[0], category=_category(given["warnings"]))
    os.chdir(given["folder"])
    os.environ.clear()
    os.environ.update(set_by_imports | given["environment"])
    from fruits import __main__ as program

    ours = _path(AT_START)
    sys.path[:] = [given["folder"], *_path(os.environ), *(each for each in sys.path[1:] if each not in ours)]
    importlib.invalidate_caches()
    sys.argv = [str(program.__file__), *given["words"]]
    if given["words"][:1] and given["words"][0] in WITH_WORKERS:
        _prepare_workers()
    try:
        program.leave()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def _prepare_workers() -> None:
    """Start the process that forks workers as a fork of this one, which has its imports, too, and no threads yet."""
    real, util.spawnv_passfds = util.spawnv_passfds, _spawned
    try:
        forkserver.set_forkserver_preload(["fruits.embedding.stage"])
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = real


def _spawned(_: object, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """What multiprocessing does to start ``python -c``, but forked; return the process id."""
    if pid := _fork():
        return pid
    try:
        for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if number > 2 and number not in passed:
                with suppress(OSError):
                    os.close(number)
        exec(arguments[-1], {})
    finally:
        os._exit(0)


def _category(option: str) -> type[Warning]:
    name = option.rpartition(":")[2]
    return getattr(builtins, name) if name.endswith("Warning") else Warning


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given_by_tests:
        serve(given_by_tests)
