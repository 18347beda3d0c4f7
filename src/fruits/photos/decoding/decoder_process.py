"""The child process of ``decoder.py``: receives orders and decodes photo by photo within resource limits.

Protocol: an order is JSON preceded by its length (uint32), sent through a socket together with the file descriptor of the shared
memory if the child does not have it yet. The shared memory holds one record per photo, then the concatenated files, then, from a
multiple of 64 bytes on, the output, without gaps for rejected photos. The child writes the state of every photo to its record
and sends one byte at the end to wake its parent. Before the first order it enters the sandbox (``sandbox.py``) and sends one
byte with the locks that hold. Imports are few, because they delay the first photo.
"""

from __future__ import annotations

import array  # noqa: F401 - socket.recv_fds imports it, which the sandbox would prevent
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np

from fruits.errors import ImageDecodeError
from fruits.photos.decoding import images
from fruits.photos.decoding.formats import has_extra
from fruits.photos.decoding.images import Preprocessing, read_size, to_network_input, to_thumbnail
from fruits.photos.decoding.sandbox import lock

#: Record of a photo: state, lengths of code and text, width and height (or length of the thumbnail), seconds; then code and text.
RECORD: Final = struct.Struct("<BxHHxxIId")
RECORD_SIZE: Final = 512
#: States of a photo, in order.
NOTHING, BEGUN, DONE, REFUSED, BUG = range(5)
#: Bit that marks the byte that reports the locks; its other bits are those of ``sandbox.Locks``.
LOCKED: Final = 0x80
_MAX_STDERR_BYTES: Final = 1 << 20
_ZEROS: Final = memoryview(bytes(1 << 16))


def serve(fd: int, parent: int, cpu_s: float, memory_mib: int) -> None:
    """Carry out orders until the parent closes the socket.

    Parameters
    ----------
    fd : int
        File descriptor of the socket.
    parent : int
        Process id of the parent.
    cpu_s : float
        Processor time per photo in seconds.
    memory_mib : int
        Memory per photo in MiB.
    """
    # The child inherits blocked and ignored signals from the parent; these must work.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole process group; the parent handles it
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    # When the parent is gone, its end of stdin closes and the system sends SIGIO, which kills even in an endless loop.
    # Unlike PR_SET_PDEATHSIG, this depends on the parent process, not on the thread that started the child, and is portable.
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if os.getppid() != parent:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_FSIZE, _MAX_STDERR_BYTES)
    low = os.dup(fd)  # a parent with many open files may pass a number above the sandbox's limit
    os.close(fd)
    buffers: dict[int, mmap.mmap] = {}
    with socket.socket(fileno=low) as orders:
        _warm_up()
        at_start = _data_bytes()
        held = lock(threads=has_extra())  # HEIC's decoder works in a thread
        with suppress(OSError):  # the parent is gone
            orders.sendall(bytes([LOCKED | held]))
        while (received := _receive(orders)) is not None:
            order, fds = received
            if order["new"]:
                buffers[order["buffer"]] = mmap.mmap(fds[0], order["bytes"])
                os.close(fds[0])
            for dropped in buffers.keys() - set(order["known"]):
                buffers.pop(dropped).close()
            allowed = at_start + (memory_mib << 20) + max(order["sizes"], default=0)
            _limit(resource.RLIMIT_DATA, allowed)
            _decode_all(order, buffers[order["buffer"]], cpu_s, memory_mib)
            orders.sendall(b".")


def _decode_all(order: dict[str, Any], memory: mmap.mmap, cpu_s: float, memory_mib: int) -> None:
    """Carry out one order. The state of a record is written last, so that a half-written record is never read."""
    operation = _OPERATIONS[order["operation"]](**order["arguments"])
    sizes, room, done = order["sizes"], order["room"], order["done"]
    place = RECORD_SIZE * len(sizes) + sum(sizes[: order["first"]])
    for row in range(order["first"], len(sizes)):
        record = row * RECORD_SIZE
        memory[record] = BEGUN
        # SIGPROF kills after cpu_s of processor time. RLIMIT_CPU has whole seconds only, counted from the start of the process.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        started = time.perf_counter()
        width = height = 0
        state, code, text = DONE, b"", b""
        try:
            out = order["output"] + done * room
            width, height = operation(memory[place : place + sizes[row]], memory, out)
            done += 1
        except ImageDecodeError as exc:
            state, code, text = REFUSED, exc.code.encode(), str(exc).encode()
        except MemoryError:
            said = f"takes more than {memory_mib:,} MiB of memory to decode; scale it down"
            state, code, text = REFUSED, b"too large", said.encode()
        except Exception:
            state, text = BUG, traceback.format_exc()[-400:].encode()
        if text:
            text = text[: RECORD_SIZE - RECORD.size - len(code)]
            start = record + RECORD.size
            memory[start : start + len(code) + len(text)] = code + text
        RECORD.pack_into(memory, record, BEGUN, len(code), len(text), width, height, time.perf_counter() - started)
        memory[record] = state
        # Cleared so that the next photo cannot read this one. The parent clears the pixels once it has read them.
        _clear(memory, place, sizes[row])
        place += sizes[row]


def _clear(memory: mmap.mmap, start: int, size: int) -> None:
    """Overwrite a part of the memory with zeros."""
    if size <= len(_ZEROS):  # a third of the time of the other
        memory[start : start + size] = _ZEROS[:size]
    else:
        np.frombuffer(memory, np.uint8, size, start)[:] = 0


def _pixels(**preprocessing: Any) -> Callable[[bytes, mmap.mmap, int], tuple[int, int]]:
    chosen = Preprocessing(**preprocessing)

    def write(data: bytes, memory: mmap.mmap, out: int) -> tuple[int, int]:
        photo = to_network_input(data, chosen)
        memory[out : out + photo.pixels.size] = photo.pixels.data
        return photo.width, photo.height

    return write


def _thumbnail(side: int, quality: int) -> Callable[[bytes, mmap.mmap, int], tuple[int, int]]:
    def write(data: bytes, memory: mmap.mmap, out: int) -> tuple[int, int]:
        thumbnail = to_thumbnail(data, side, quality)
        memory[out : out + len(thumbnail)] = thumbnail
        return len(thumbnail), 0

    return write


def _size() -> Callable[[bytes, mmap.mmap, int], tuple[int, int]]:
    return lambda data, memory, out: read_size(data)  # noqa: ARG005


def _warm_up() -> None:
    """Run every code path of decoding once, so that lazy imports are done: in the sandbox no file can be opened."""
    for photo in images.made_photos():
        to_network_input(photo, Preprocessing(8))
        to_thumbnail(photo, 8)
        read_size(photo)
        for broken in (photo[:40], photo[: len(photo) // 2], photo[:20] + bytes(40) + photo[60:]):
            with suppress(ImageDecodeError):
                to_network_input(broken, Preprocessing(8))
    for other in (b"", b"text", b"\0\0\0\x18ftypheic" + bytes(100)):
        with suppress(ImageDecodeError):
            read_size(other)
    try:
        raise MemoryError
    except MemoryError:
        traceback.format_exc()


_OPERATIONS: Final[dict[str, Callable[..., Callable[[bytes, mmap.mmap, int], tuple[int, int]]]]] = {
    "pixels": _pixels,
    "thumbnail": _thumbnail,
    "size": _size,
}


def _receive(orders: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next order and its file descriptors; None when the socket is closed."""
    head, fds, _, _ = socket.recv_fds(orders, 4, 1)
    while len(head) < 4:
        if not (more := orders.recv(4 - len(head))):
            return None
        head += more
    body = b""
    while len(body) < struct.unpack("<I", head)[0]:
        if not (more := orders.recv(struct.unpack("<I", head)[0] - len(body))):
            return None
        body += more
    return json.loads(body), fds


def _limit(what: int, amount: int) -> None:
    """Set a soft limit, within the hard one."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))


def _data_bytes() -> int:
    """Return the bytes that count towards RLIMIT_DATA already; an estimate where /proc is missing."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib is of no use here
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 256 << 20
