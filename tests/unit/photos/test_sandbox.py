"""What sandbox.py promises: a process taken over by a photo finds nothing to read, to reach, to start or to break."""

from __future__ import annotations

import errno
import logging
import os
import platform
import re
import resource
import runpy
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fruits.errors import ImageDecodeError
from fruits.photos.decoding import formats, sandbox
from fruits.photos.decoding.decoder import Decoder, Limits
from fruits.photos.decoding.decoder_process import RECORD_SIZE
from fruits.photos.decoding.images import Preprocessing, made_photos, to_network_input
from fruits.photos.decoding.sandbox import Locks, bpf

HOOK = Path(__file__).parents[2] / "locked_decoder"
marked: Callable[[bytes, str], bytes] = runpy.run_path(str(HOOK.parent / "faulty_decoder" / "marked.py"))["marked"]
SMALL = Preprocessing(32)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the locks are Linux's")


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    monkeypatch.setenv("PYTHONPATH", str(HOOK))
    with Decoder(Limits(wall_s=20)) as opened:
        yield opened


def photo() -> bytes:
    out = BytesIO()
    Image.new("RGB", (20, 20), "red").save(out, "JPEG")
    return out.getvalue()


def outcome(decoder: Decoder, name: str, argument: object = "") -> str:
    with pytest.raises(ImageDecodeError) as caught:
        decoder.to_network_input(marked(photo(), f"try:{name}:{argument}"), SMALL)
    tried = re.search(r"\(tried (.*)\)$", str(caught.value))
    assert tried, caught.value
    return tried[1]


def pid(decoder: Decoder) -> int:
    decoder.to_network_input(photo(), SMALL)
    assert decoder._child is not None
    return decoder._child.process.pid


# --- Tried within the process -----------------------------------------------------------------------------------------

PORTABLE = [
    "read a file",
    "write a file",
    "list a folder",
    "look for a file",
    "remove a file",
    "rename a file",
    "make a link",
    "connect",
    "connect to a socket's path",
    "netlink",
    "pair of sockets",
    "fork",
    "start a program",
    "become a program",
    "raise a limit",
    "shrink the buffers",
    "memory for code",
    "new memory file",
    "change of user",
    "read the parent",
    "kill the parent",
    "starve the parent",
    "signals of files",
]
BY_NUMBER = ["trace", "read the parent's memory", "namespaces", "keys", "bpf", "io_uring", "open by another call"]


def test_photo_that_takes_the_process_over_can_do_nothing_with_it(decoder: Decoder, tmp_path: Path) -> None:
    names = PORTABLE + (BY_NUMBER if platform.machine() == "x86_64" else [])
    victim = tmp_path / "victim"
    victim.touch()
    found = {}
    for name in names:
        about_parent = "parent" in name or name in ("trace", "signals of files")
        argument = (
            os.getpid() if about_parent else tmp_path / "new" if name in ("write a file", "make a link") else victim
        )
        found[name] = outcome(decoder, name, argument)
    assert found == dict.fromkeys(names, os.strerror(errno.EPERM))
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    # None of it cost the process, and it decodes on.
    assert decoder.to_network_input(photo(), SMALL).pixels.any()


def test_process_may_end_itself(decoder: Decoder) -> None:
    with pytest.raises(ImageDecodeError, match="SIGABRT") as caught:
        decoder.to_network_input(marked(photo(), "try:die:"), SMALL)
    assert caught.value.code == "crashed"


def test_secrets_of_the_caller_are_not_in_the_environment(monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> None:
    for name in (
        "DATABASE_URL",
        "FRUITS_DATABASE",
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HOME",
        "X",
    ):
        monkeypatch.setenv(name, "planted-4711")
    monkeypatch.setenv("LC_TIME", "C")
    allowed = "PATH|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR|PYTHON[A-Z]+|LD_LIBRARY_PATH|DYLD_[A-Z_]+PATH|O[A-Z]+_NUM_THREADS"
    assert outcome(decoder, "environment", allowed) == "others:"
    # Python sets LC_CTYPE by itself where no locale is given (PEP 538).
    assert outcome(decoder, "environment", allowed.replace("LC_[A-Z]+", "LC_CTYPE")) == "others:LC_TIME"
    try:
        environ = Path(f"/proc/{pid(decoder)}/environ").read_bytes()
    except PermissionError:
        return  # as it is not dumpable
    assert b"planted-4711" not in environ


# --- As the kernel says -----------------------------------------------------------------------------------------------


def test_kernel_says_that_the_locks_hold(decoder: Decoder) -> None:
    process = pid(decoder)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":\t" in line
    )
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    limits = Path(f"/proc/{process}/limits").read_text()
    assert re.search(r"Max open files +64 +64 ", limits)
    assert re.search(r"Max core file size +0 +0 ", limits)
    if not formats.has_extra():
        assert re.search(r"Max processes +0 +0 ", limits)
    assert decoder.locks == sandbox.ALL


def test_parent_with_many_files_open_has_a_child_with_few(decoder: Decoder) -> None:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(200)]
    try:
        assert pid(decoder)
    finally:
        for fd in opened:
            os.close(fd)


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_not_dumpable() -> None:
    script = """
import ctypes
from fruits.photos.decoding import formats, sandbox
sandbox._MACHINES.clear()  # or the question itself is refused
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)
print(before, bool(sandbox.lock(threads=False) & sandbox.Locks.NOT_DUMPABLE), libc.prctl(3, 0, 0, 0, 0))
"""
    assert run(script) == "1 True 0"


def test_landlock_alone_gives_up_every_file_and_port() -> None:
    script = """
import os, socket, tempfile
from fruits.photos.decoding import formats, sandbox
sandbox._MACHINES.clear()
folder = tempfile.mkdtemp()
server = socket.create_server(("127.0.0.1", 0))
held = sandbox.lock(threads=True)
if not held & sandbox.Locks.LANDLOCK:
    print("no landlock")
    raise SystemExit
for trial in (lambda: open("/etc/passwd"), lambda: open(folder + "/x", "w"), lambda: os.listdir("/"), lambda: os.rmdir(folder),
              lambda: os.execv("/bin/true", ["true"])):
    try:
        trial()
    except PermissionError:
        continue
    raise SystemExit("done")
print("refused")
"""
    assert run(script) in ("refused", "no landlock")


# --- The filter, on both machines -------------------------------------------------------------------------------------

KILL, REFUSE, ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: From the kernel's tables.
FORBIDDEN = {
    "x86_64": {
        "open": 2, "stat": 4, "lstat": 6, "ioctl": 16, "access": 21, "pipe": 22, "socket": 41, "connect": 42, "accept": 43,
        "bind": 49, "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "truncate": 76, "ftruncate": 77, "getdents": 78,
        "rename": 82, "mkdir": 83, "creat": 85, "link": 86, "unlink": 87, "chmod": 90, "ptrace": 101, "setuid": 105,
        "prctl": 157, "setrlimit": 160, "mount": 165, "openat": 257, "unshare": 272, "splice": 275, "signalfd": 282,
        "open_by_handle_at": 304, "process_vm_readv": 310, "process_vm_writev": 311, "seccomp": 317, "memfd_create": 319,
        "bpf": 321, "execveat": 322, "userfaultfd": 323, "pkey_mprotect": 329, "statx": 332, "pidfd_send_signal": 424,
        "io_uring_setup": 425, "pidfd_open": 434, "openat2": 437, "pidfd_getfd": 438, "landlock_restrict_self": 446,
    },
    "aarch64": {
        "ioctl": 29, "mkdirat": 34, "unlinkat": 35, "mount": 40, "truncate": 45, "ftruncate": 46, "faccessat": 48,
        "fchmodat": 53, "openat": 56, "pipe2": 59, "getdents64": 61, "splice": 76, "unshare": 97, "ptrace": 117, "setuid": 146,
        "setrlimit": 164, "prctl": 167, "socket": 198, "socketpair": 199, "bind": 200, "accept": 202, "connect": 203,
        "execve": 221, "open_by_handle_at": 265, "process_vm_readv": 270, "process_vm_writev": 271, "seccomp": 277,
        "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282, "pkey_mprotect": 288, "statx": 291,
        "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "openat2": 437, "pidfd_getfd": 438,
    },
}  # fmt: skip


def verdict(program: bytes, number: int, audit: int, *arguments: int) -> int:
    """Run a filter as the kernel does."""
    data = struct.pack("<iIQ6Q", number, audit, 0, *(one & (2**64 - 1) for one in (*arguments, *[0] * 6)[:6]))
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = held = 0
    while True:
        what, then, otherwise, value = code[at]
        at += 1
        if what == 0x06:
            return value
        if what == 0x20:
            held = struct.unpack_from("<I", data, value)[0]
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[what]
            at += then if holds else otherwise


@pytest.mark.parametrize("machine", AUDIT)
@pytest.mark.parametrize("threads", [False, True])
def test_filter_lets_through_what_is_listed_and_nothing_else(machine: str, threads: bool) -> None:
    program = bpf(machine, 4711, threads=threads)
    numbers = sandbox._MACHINES[machine].numbers
    assert not set(FORBIDDEN[machine].values()) & set(numbers.values())

    def ask(name: str, *arguments: int) -> int:
        return verdict(program, numbers[name], AUDIT[machine], *arguments)

    plain = set(numbers) - {"mmap", "mprotect", "kill", "tgkill", "fcntl", "newfstatat", "prlimit64", "clone", "clone3"}
    assert {ask(name) for name in plain} == {ALLOW}
    others = set(range(600)) - set(numbers.values())
    assert {verdict(program, number, AUDIT[machine]) for number in others} == {REFUSE}
    for name in ("mmap", "mprotect"):
        assert [ask(name, 0, 4096, protection) for protection in (0, 1, 3, 4, 7)] == [ALLOW] * 3 + [REFUSE] * 2
    for name in ("kill", "tgkill"):
        assert [ask(name, who, 9) for who in (4711, 1, 0, -1, -4711)] == [ALLOW] + [REFUSE] * 4
    assert [ask("fcntl", 3, what) for what in (1, 2, 3, 1030, 0, 4, 8, 10, 1033)] == [ALLOW] * 4 + [REFUSE] * 5
    assert [ask("newfstatat", 3, 0, 0, flags) for flags in (0x1000, 0, 0x100)] == [ALLOW, REFUSE, REFUSE]
    data, files = resource.RLIMIT_DATA, resource.RLIMIT_NOFILE
    assert [ask("prlimit64", *one) for one in ((0, data), (0, files), (1, data))] == [ALLOW, REFUSE, REFUSE]
    assert ask("clone", 0x3D0F00) == (ALLOW if threads else REFUSE)  # as the C library starts threads
    assert ask("clone", 0x1200011) == REFUSE  # and processes
    assert ask("clone3") == 0x00050000 | errno.ENOSYS


@pytest.mark.parametrize("machine", AUDIT)
def test_filter_kills_calls_of_another_machine(machine: str) -> None:
    program = bpf(machine, 1, threads=False)
    read = sandbox._MACHINES[machine].numbers["read"]
    for audit in (0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0):  # i386, arm, and both of ours
        assert verdict(program, read, audit) == (ALLOW if audit == AUDIT[machine] else KILL)
    if machine == "x86_64":
        assert verdict(program, read | 0x40000000, AUDIT[machine]) == KILL


@pytest.mark.skipif(not Path("/usr/include/asm-generic/unistd.h").is_file(), reason="no headers of the kernel")
def test_numbers_are_those_of_the_headers() -> None:
    headers = {
        "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "aarch64": "/usr/include/asm-generic/unistd.h",
    }
    for machine, header in headers.items():
        if not Path(header).is_file():
            continue
        said = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
        said["newfstatat"] = said.get("newfstatat") or said["fstatat"]
        ours = {**sandbox._MACHINES[machine].numbers, **FORBIDDEN[machine]}
        known = {name: number for name, number in ours.items() if name in said}
        assert len(known) > 60
        assert known == {name: int(said[name]) for name in known}


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_no_photo_finds_the_one_before_it(decoder: Decoder) -> None:
    files = [*made_photos(), b"text", photo()]
    with decoder.begin(files, SMALL) as decoding:
        decoding.outcomes()
        memory, place = decoding.buffer.memory, RECORD_SIZE * len(files)
        assert not any(memory[place : place + sum(map(len, files))]), "files are gone once they are decoded"
        assert decoding.pixels(32).any()
    assert not any(memory[:]), "and all of it with the batch"
    decoder.to_thumbnail(photo(), 16)
    assert not any(any(buffer.memory[:]) for buffer in decoder._free)


def test_buffers_can_neither_shrink_nor_grow(decoder: Decoder) -> None:
    with decoder.begin([photo()], SMALL) as decoding:
        for size in (0, 1 << 24):
            with pytest.raises(PermissionError):
                os.ftruncate(decoding.buffer.fd, size)
        decoding.outcomes()


# --- Where the kernel has less ----------------------------------------------------------------------------------------


def test_kernel_that_lacks_the_locks_is_told_in_the_log(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONOLDKERNEL", "1")
    with caplog.at_level(logging.DEBUG, "fruits"):
        assert outcome(decoder, "read a file") == "done"
    assert decoder.locks == Locks.NO_NEW_PRIVILEGES | Locks.NOT_DUMPABLE
    assert caplog.messages == ["photos are decoded without landlock, seccomp: this system does not have it"]
    assert (decoder.to_network_input(photo(), SMALL).pixels == to_network_input(photo(), SMALL).pixels).all()


def test_locked_process_decodes_every_kind_as_a_free_one(decoder: Decoder) -> None:
    random = np.random.default_rng(0)
    files = list(made_photos())
    for whole in list(files):
        for _ in range(40):
            damaged = np.frombuffer(whole, np.uint8).copy()
            places = random.integers(0, len(damaged), 4)
            damaged[places] = random.integers(0, 256, 4)
            files.append(damaged.tobytes())
    with decoder.begin(files, SMALL) as decoding:
        outcomes = decoding.outcomes()
        pixels = iter(decoding.pixels(32))
        for data, found in zip(files, outcomes, strict=True):
            try:
                expected = to_network_input(data, SMALL)
            except ImageDecodeError as exc:
                refusal = (exc.code, str(exc))
            else:
                assert found == (expected.width, expected.height)
                assert (next(pixels) == expected.pixels).all()
                continue
            assert isinstance(found, ImageDecodeError)
            assert (found.code, str(found)) == refusal
