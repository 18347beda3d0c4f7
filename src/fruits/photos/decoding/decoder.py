"""Decoding in a child process, so that a photo that crashes the decoder fails alone.

A native crash, an endless loop or a decompression bomb ends a child process with resource limits, never the caller. The photo at
fault gives an :class:`~fruits.errors.ImageDecodeError` like any other, and a new child continues with the next photo. The child
runs ``decoder_process.py``, which calls :mod:`fruits.photos.decoding.images`. It receives orders through a socket; files and
pixels lie in shared memory, so a batch costs a handful of system calls.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import IO, Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fruits.errors import EngineError, ImageDecodeError
from fruits.photos.decoding.decoder_process import BEGUN, BUG, DONE, LOCKED, NOTHING, RECORD, RECORD_SIZE
from fruits.photos.decoding.images import Photo, Preprocessing
from fruits.photos.decoding.sandbox import ALL, Locks
from fruits.storage.sanitising import json_text

#: Attempts per photo when the child may have been killed from outside: by the system for lack of memory, or by an operator.
_ATTEMPTS: Final = 3
#: Children in a row that may die before they begin a photo. After that many, the photos are not at fault.
_STARTS: Final = 5
_OUTSIDERS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Environment variables passed to the child: paths of Python and its libraries, locale and time zone. No secrets of the caller,
#: such as database passwords or cloud keys.
_ENVIRONMENT: Final = re.compile(
    r"PATH|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR|PYTHON[A-Z]+|LD_LIBRARY_PATH|DYLD_[A-Z_]+PATH"
)
_log: Final = logging.getLogger(__name__)
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fruits.photos.decoding.decoder_process import serve; serve(*json.loads(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits per photo.

    The defaults allow every photo of up to ``images.MAX_PIXELS``. Measured at 10,000 x 10,000 pixels on an EPYC (Zen 4)
    with Pillow 12, input of 2,048 pixels for JPEG: lossless WebP with transparency 6.1 s and 2,172 MiB (the most), lossy 3.7 s
    and 2,043 MiB; PNG with transparency 4.7 s and 1,241 MiB, 16-bit grey PNG 4.4 s and 1,335 MiB; progressive JPEG 1.9 s and
    668 MiB, in CMYK 3.0 s and 860 MiB.

    Parameters
    ----------
    cpu_s : float
        Seconds of processor time; unlike wall time, it does not depend on the load of the machine.
    wall_s : float
        Seconds of wall time, for decoders that hang without computing; the wait is between one and two times this.
    memory_mib : int
        MiB beyond the memory of the child and of the file. Enforced where RLIMIT_DATA covers mapped memory (Linux).
    """

    cpu_s: float = 30.0
    wall_s: float = 120.0
    memory_mib: int = 4096


class Size(NamedTuple):
    """Original width and height in pixels of an upright photo."""

    width: int
    height: int


class Decoder:
    """A handle to one child process that decodes one photo at a time.

    The child starts with the first photo, or with :meth:`start`, and is replaced when it dies. It ends with :meth:`close`, when
    the parent process ends in any way, or when the handle is garbage-collected. Threads may share a handle and take turns. A
    handle belongs to the process that created it; a forked process needs its own.

    Parameters
    ----------
    limits : Limits, optional
        Resource limits per photo.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lock = threading.RLock()
        self._child: _Child | None = None
        self._outstanding: Decoding | None = None
        self._free: list[_Buffer] = []
        self._starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def locks(self) -> Locks | None:
        """Sandbox locks of the child; None if there is no child, or it has not reported them yet."""
        return None if self._child is None else self._child.locks

    def start(self) -> None:
        """Start the child without waiting for it, so that its imports run in parallel with other work."""
        with self._lock:
            if self._child is None:
                self._child = _Child(self._limits)

    def close(self) -> None:
        """End the child. Outstanding photos are lost; the next photo starts a new child."""
        with self._lock:
            if self._outstanding is not None:
                self._outstanding.failure = EngineError("the decoder was closed while it had photos")
                self._outstanding = None
            self._drop_child()
            self._free.clear()

    def begin(self, files: Sequence[bytes], preprocessing: Preprocessing) -> Decoding:
        """Submit photos to the child and return immediately.

        The child decodes one batch at a time: if a batch is outstanding, this waits until it is done.

        Parameters
        ----------
        files : sequence of bytes
            Whole files; they are copied, so the caller need not keep them.
        preprocessing : Preprocessing
            As for :func:`fruits.photos.decoding.images.to_network_input`, which does the work.
        """
        size = preprocessing.size
        return self._begin(files, "pixels", _arguments(preprocessing), size * size * 3)

    def to_network_input(self, data: bytes, preprocessing: Preprocessing) -> Photo:
        """As :func:`fruits.photos.decoding.images.to_network_input`, with the further error codes ``crashed`` and ``timeout``."""
        with self.begin([data], preprocessing) as decoding:
            (outcome,) = decoding.outcomes()
            if isinstance(outcome, ImageDecodeError):
                raise outcome
            size = preprocessing.size
            return Photo(outcome.width, outcome.height, decoding.pixels(size)[0].copy())

    def to_thumbnail(self, data: bytes, side: int, quality: int = 80) -> bytes:
        """As :func:`fruits.photos.decoding.images.to_thumbnail`, with the further error codes ``crashed`` and ``timeout``."""
        # A JPEG by Pillow takes less than four bytes per pixel: noise at quality 100 in full colour stays below 3.5.
        room = 4 * side * side + (64 << 10)
        with self._begin([data], "thumbnail", {"side": side, "quality": quality}, room) as decoding:
            (outcome,) = decoding.outcomes()
            if isinstance(outcome, ImageDecodeError):
                raise outcome
            return decoding.output(outcome.width)

    def read_sizes(self, files: Sequence[bytes]) -> list[Size | ImageDecodeError]:
        """As :func:`fruits.photos.decoding.images.read_size` for several files; the first bytes of each are enough."""
        with self._begin(files, "size", {}, 0) as decoding:
            return decoding.outcomes()

    def _begin(self, files: Sequence[bytes], operation: str, arguments: dict[str, Any], room: int) -> Decoding:
        with self._lock:
            if self._outstanding is not None:
                self._finish(self._outstanding)
            sizes = [len(data) for data in files]
            place = RECORD_SIZE * len(files)
            output = -(-(place + sum(sizes)) // 64) * 64
            used = output + room * len(files)
            decoding = Decoding(self, self._buffer(used), len(files), output, used)
            memory = decoding.buffer.memory
            memory[:place] = bytes(place)
            for data in files:
                memory[place : place + len(data)] = data
                place += len(data)
            decoding.order = {"operation": operation, "arguments": arguments, "room": room}
            decoding.order |= {"sizes": sizes, "output": output}
            self._outstanding = decoding
            if files:
                self._send(decoding)
            return decoding

    def _buffer(self, size: int) -> _Buffer:
        """Return a free buffer that is large enough; drop those too small, and those much too large, left by a huge photo."""
        self._free = [one for one in self._free if size <= one.size <= max(4 * size, 64 << 20)]
        return self._free.pop() if self._free else _Buffer(size)

    def _send(self, decoding: Decoding) -> None:
        """Send the photos without a result to the child. A dead child is detected later, while waiting for results."""
        self.start()
        if self._child is not None:
            self._child.order({**decoding.order, "first": decoding.finished, "done": decoding.decoded}, decoding.buffer)

    def _finish(self, decoding: Decoding) -> None:
        """Wait until every photo of the outstanding batch has an outcome, restarting the child as often as needed."""
        try:
            while decoding.advance() < decoding.n:
                hung = not self._wait(decoding)
                if decoding.advance() == decoding.n:
                    break
                self._blame(decoding, hung=hung)
                if decoding.advance() < decoding.n:
                    self._send(decoding)
            if decoding.n:
                self._starts = 0
        except Exception as exc:
            decoding.failure = exc
            self._drop_child()
        except BaseException:  # interrupted: further messages of the child would be attributed to the next batch
            decoding.failure = EngineError("decoding was interrupted")
            self._drop_child()
            raise
        finally:
            self._outstanding = None

    def _wait(self, decoding: Decoding) -> bool:
        """Return True when the batch is done or the child is gone, False after ``wall_s`` seconds without progress."""
        child = self._child
        if child is None:
            return True
        child.socket.settimeout(self._limits.wall_s)
        while True:
            before = decoding.finished
            try:
                if not (said := child.socket.recv(64)):
                    return True
                child.listen(said)
            except TimeoutError:
                if decoding.advance() == before:
                    return False
            except OSError:
                return True
            if decoding.advance() == decoding.n:
                return True

    def _blame(self, decoding: Decoding, *, hung: bool) -> None:
        """End the child and derive from its exit code the outcome of the photo that it was decoding."""
        child, at = self._child, decoding.finished
        if child is None:
            return
        code, said = child.end(patient=not hung)
        self._child = None
        # Check again: the child may have made progress between the last check and its end. Then it did not hang on this photo.
        hung = hung and decoding.advance() == at
        if decoding.advance() == decoding.n:
            return
        if decoding.state(decoding.finished) != BEGUN:
            self._starts += 1
            if self._starts >= _STARTS:
                raise EngineError(
                    f"the process that decodes photos died {_STARTS} times before it began one ({_name(code)}); expected it to "
                    f"run '{sys.executable}' and import fruits. It said: {said or 'nothing'}"
                )
            return
        self._starts = 0
        if hung:
            decoding.refuse("timeout", f"takes more than {self._limits.wall_s:g} s to decode; the decoder hangs")
        elif code == -signal.SIGPROF:
            limit = self._limits.cpu_s
            decoding.refuse("timeout", f"takes more than {limit:g} s of processor time to decode; is the file damaged?")
        elif -code in _OUTSIDERS and decoding.attempts < _ATTEMPTS:
            decoding.again()
        else:
            decoding.refuse("crashed", f"the decoder died of this photo ({_name(code)}); is the file damaged?")

    def _drop_child(self) -> None:
        if self._child is not None:
            self._child.end(patient=False)
            self._child = None


@lru_cache(maxsize=16)
def _arguments(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the fields of the preprocessing; not to be changed."""
    return asdict(preprocessing)


def own_decoder() -> Decoder:
    """Return the shared decoder of this process, created on first use and kept open."""
    return _own_decoder(os.getpid())


@lru_cache(maxsize=1)
def _own_decoder(process: int) -> Decoder:  # noqa: ARG001 - a forked process must not talk to its parent's child
    return Decoder()


class Decoding:
    """A batch submitted to the decoder; created by :meth:`Decoder.begin`.

    A context manager that releases the shared memory at the end, as :meth:`release` does.
    """

    def __init__(self, decoder: Decoder, buffer: _Buffer, n: int, output: int, used: int) -> None:
        self._decoder, self.buffer, self.n, self._output, self._used = decoder, buffer, n, output, used
        self.order: dict[str, Any] = {}
        self.failure: Exception | None = None
        self.finished = self.decoded = 0
        self.attempts = 1
        self.seconds = 0.0  # wall time in the child
        self._released = False
        self._outcomes: list[Size | ImageDecodeError] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def outcomes(self) -> list[Size | ImageDecodeError]:
        """Wait for the child and return, for every photo in order, its size, or the error if it has no pixels.

        Raises
        ------
        EngineError
            If no child can be started, or the decoder was closed.
        """
        with self._decoder._lock:
            if self._decoder._outstanding is self:
                self._decoder._finish(self)
        if self.failure is not None:
            raise self.failure
        return self._outcomes

    def pixels(self, size: int) -> NDArray[np.uint8]:
        """Return the pixels of the decoded photos, in order: uint8, shape (decoded, size, size, 3), valid until release."""
        shape = (self.decoded, size, size, 3)
        return np.frombuffer(self.buffer.memory, np.uint8, self.decoded * size * size * 3, self._output).reshape(shape)

    def output(self, length: int) -> bytes:
        """Return the first ``length`` bytes of the child's output."""
        return self.buffer.memory[self._output : self._output + length]

    def release(self) -> None:
        """Return the shared memory to the decoder for reuse. Otherwise, a later batch allocates new memory."""
        with self._decoder._lock:
            if self._decoder._outstanding is self:
                self._decoder._finish(self)
            if not self._released:
                self.buffer.clear(self._used)
                self._decoder._free.append(self.buffer)
            self._released = True

    def state(self, row: int) -> int:
        """Return the child's state of a photo."""
        return self.buffer.memory[row * RECORD_SIZE]

    def advance(self) -> int:
        """Collect the outcomes written by the child so far; return how many photos have one."""
        memory = self.buffer.memory
        while self.finished < self.n and (state := memory[start := self.finished * RECORD_SIZE]) > BEGUN:
            _, code_size, text_size, width, height, seconds = RECORD.unpack_from(memory, start)
            # A compromised child may write anything: it may cause wrong results, but nothing worse.
            self.seconds += seconds if 0 <= seconds < 1e6 else 0.0
            if state == DONE:
                self._outcomes.append(Size(width, height))
                self.finished += 1
                self.decoded += 1
                self.attempts = 1
                continue
            start += RECORD.size
            said = memory[start : start + code_size + text_size]
            code, text = (part.decode(errors="replace") for part in (said[:code_size], said[code_size:]))
            if state == BUG:
                raise EngineError(f"decoding failed in a way that it should not: {text}")
            self.refuse(code, text)
        return self.finished

    def refuse(self, code: str, message: str) -> None:
        """Set the outcome of the next photo to an error, in place of the child."""
        self._outcomes.append(ImageDecodeError(code, message))
        self.finished += 1
        self.attempts = 1

    def again(self) -> None:
        """Retry the next photo."""
        self.buffer.memory[self.finished * RECORD_SIZE] = NOTHING
        self.attempts += 1


class _Buffer:
    """Memory shared by parent and child: a record per photo, the files, then the output."""

    _numbers = itertools.count()

    def __init__(self, size: int) -> None:
        self.number = next(self._numbers)
        self.size = max(1, -(-size // (1 << 20))) * (1 << 20)
        sealed = hasattr(os, "memfd_create")
        if sealed:
            self.fd = os.memfd_create("fruits photos", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile(prefix="fruits-photos-") as file:
                self.fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, self.size)
        if sealed:
            # Access to mapped memory whose file was truncated raises SIGBUS. Sealed, so that the child cannot truncate it.
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.memory = mmap.mmap(self.fd, self.size)

    def clear(self, used: int) -> None:
        """Overwrite the used part, so that no photo can read data of an earlier one."""
        np.frombuffer(self.memory, np.uint8, used)[:] = 0


class _Child:
    """The parent's handle of the child process."""

    def __init__(self, limits: Limits) -> None:
        self.socket, theirs = socket.socketpair()
        # Not the terminal: the end of a crash's message is part of the error.
        self._stderr = tempfile.TemporaryFile(prefix="fruits-decoder-")  # noqa: SIM115 - closed by _end
        try:
            orders = [theirs.fileno(), os.getpid(), limits.cpu_s, limits.memory_mib]
            self.process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-P", "-c", _START, json_text(sys.path), json_text(orders)],
                stdin=subprocess.PIPE,  # never written to: the child ends when it closes
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                # A decoder needs no thread pool of NumPy.
                env={
                    **{name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)},
                    "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                },
            )
        except OSError as exc:
            self.socket.close()
            self._stderr.close()
            raise EngineError(f"cannot start the process that decodes photos, '{sys.executable}': {exc}") from exc
        finally:
            theirs.close()
        #: Sandbox locks of the child; None until reported.
        self.locks: Locks | None = None
        self._known: weakref.WeakSet[_Buffer] = weakref.WeakSet()
        self._end = weakref.finalize(self, _end, self.process, self.socket, self._stderr, os.getpid())

    def order(self, order: dict[str, Any], buffer: _Buffer) -> None:
        new = buffer not in self._known
        self._known.add(buffer)
        known = [one.number for one in self._known]
        body = json_text({**order, "buffer": buffer.number, "bytes": buffer.size, "new": new, "known": known}).encode()
        message = struct.pack("<I", len(body)) + body
        with suppress(OSError):  # the child died; the wait for results detects it
            sent = socket.send_fds(self.socket, [message], [buffer.fd] if new else [])
            self.socket.sendall(message[sent:])

    def listen(self, said: bytes) -> None:
        """Read the locks that the child reports; its other bytes are only wake-ups."""
        for byte in said:
            if byte & LOCKED:
                self.locks = Locks(byte & ~LOCKED & ALL)
                if missing := ALL & ~self.locks:
                    names = ", ".join(str(one.name).lower().replace("_", " ") for one in missing)
                    _log.debug("photos are decoded without %s: this system does not have it", names)

    def end(self, *, patient: bool) -> tuple[int, str]:
        """End the child; return its exit code, negative for a signal, and the end of its stderr."""
        if patient:
            # The child's end of the socket closes a moment before its exit code is available.
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        self.process.kill()
        code = self.process.wait()
        size = os.fstat(self._stderr.fileno()).st_size
        said = os.pread(self._stderr.fileno(), 500, max(0, size - 500)).decode(errors="replace").strip()
        self._end()
        return code, said


def _end(process: subprocess.Popen[bytes], ours: socket.socket, stderr: IO[bytes], owner: int) -> None:
    """Release the resources of a child; a forked process does not end its parent's child."""
    if os.getpid() == owner:
        process.kill()
        process.wait()
    ours.close()
    stderr.close()
    if process.stdin is not None:
        process.stdin.close()


def _name(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
