"""Sandbox of the decoding process: it may compute and communicate with its parent, nothing else.

An exploit of the decoder can reach no file, no network, no other program, and no other process by signals. Three mechanisms of
Linux, each used where the kernel supports it: resource limits, Landlock (no paths, no ports), and seccomp, which allows only the
system calls listed here. None can be undone. All numbers are those of Linux's headers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final

#: Most open files: three standard streams, the socket, one per mapped buffer, one being received.
_MAX_FILES: Final = 64

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_SET_MODE_FILTER: Final = 1
#: Flags TSYNC (apply to all threads) and SPEC_ALLOW (no mitigation of speculation, which slows down memory accesses).
_SECCOMP_FLAGS: Final = 1 | 4
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION: Final = 1


class Locks(IntFlag):
    """Locks of the process that are in effect."""

    NO_NEW_PRIVILEGES = 1
    NOT_DUMPABLE = 2
    LANDLOCK = 4
    SECCOMP = 8


ALL: Final = Locks.NO_NEW_PRIVILEGES | Locks.NOT_DUMPABLE | Locks.LANDLOCK | Locks.SECCOMP


def lock(*, threads: bool) -> Locks:
    """Lock this process permanently; return which locks hold. All imports and files must be loaded before.

    Parameters
    ----------
    threads : bool
        Whether a library needs threads of its own. New processes are forbidden in any case.
    """
    if not threads:  # the limit counts all processes of the user: only zero is useful
        _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, _MAX_FILES)
    if sys.platform != "linux":
        return Locks(0)
    libc = ctypes.CDLL(None, use_errno=True)
    held = Locks(0)
    if _call(libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0) == 0:
        held |= Locks.NOT_DUMPABLE
    if _call(libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return held  # the other two require it
    held |= Locks.NO_NEW_PRIVILEGES
    if _landlock(libc):
        held |= Locks.LANDLOCK
    machine = _MACHINES.get(platform.machine())
    if machine is not None and _seccomp(libc, machine, threads=threads):
        held |= Locks.SECCOMP
    return held


def _call(function: Any, *arguments: int | bytes | None) -> int:
    """Call a C function with arguments as wide as registers: ctypes passes a plain int as 32 bits."""
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(function(*wide))


def _limit(what: int, most: int) -> None:
    """Set the soft and the hard limit, permanently; a lower hard limit stays."""
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _landlock(libc: ctypes.CDLL) -> bool:
    """Forbid all paths, ports, and sockets and signals outside this process, as far as the kernel supports each."""
    version = _call(libc.syscall, _LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    files = (1 << 13) - 1  # from execute to make_sym: all rights of the first version
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):  # refer, truncate, ioctl_dev
        files |= right if version >= since else 0
    attributes = struct.pack("<QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _call(libc.syscall, _LANDLOCK_CREATE_RULESET, attributes, size, 0)
    if rules < 0:
        return False
    try:
        return _call(libc.syscall, _LANDLOCK_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


@dataclass(frozen=True, slots=True)
class _Machine:
    """System calls of an architecture: its audit constant, and numbers by name."""

    audit: int
    numbers: dict[str, int]


# Numbers: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
            "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25,
            "madvise": 28, "nanosleep": 35, "setitimer": 38, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46,
            "recvmsg": 47, "clone": 56, "exit": 60, "kill": 62, "fcntl": 72, "gettimeofday": 96, "getrusage": 98,
            "sysinfo": 99, "times": 100, "sigaltstack": 131, "gettid": 186, "futex": 202, "sched_getaffinity": 204,
            "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231, "tgkill": 234,
            "newfstatat": 262, "ppoll": 271, "set_robust_list": 273, "prlimit64": 302, "getrandom": 318,
            "membarrier": 324, "rseq": 334, "clone3": 435,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {
            "fcntl": 25, "close": 57, "lseek": 62, "read": 63, "write": 64, "ppoll": 73, "newfstatat": 79, "fstat": 80,
            "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99, "nanosleep": 101, "setitimer": 103,
            "clock_gettime": 113, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
            "restart_syscall": 128, "kill": 129, "tgkill": 131, "sigaltstack": 132, "rt_sigaction": 134,
            "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "getrusage": 165, "gettimeofday": 169,
            "getpid": 172, "gettid": 178, "sysinfo": 179, "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212,
            "brk": 214, "munmap": 215, "mremap": 216, "clone": 220, "mmap": 222, "mprotect": 226, "madvise": 233,
            "prlimit64": 261, "getrandom": 278, "membarrier": 283, "rseq": 293, "clone3": 435,
        },
    ),
}  # fmt: skip
#: Bit in the numbers of x32, a second set of system calls on x86_64.
_X32: Final = 0x40000000
_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 2, 3, 1030
_AT_EMPTY_PATH: Final = 0x1000
_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x10000
#: Opcodes of classic BPF, and return values of a filter.
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_REFUSE: Final = _ERROR | errno.EPERM
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16


def bpf(machine: str, pid: int, *, threads: bool) -> bytes:
    """Return the seccomp filter: BPF instructions of 8 bytes that decide on one system call.

    Parameters
    ----------
    machine : str
        As printed by ``uname -m``: x86_64 or aarch64.
    pid : int
        Id of this process, the only one that it may signal.
    threads : bool
        Whether it may create threads.
    """
    audit, numbers = _MACHINES[machine].audit, _MACHINES[machine].numbers
    # Conditions on the low half of an argument: a value, or bits that must or must not be set. Calls without one are allowed.
    conditions: dict[str, list[bytes]] = {
        "mmap": _unless_bits(2, _PROT_EXEC),
        "mprotect": _unless_bits(2, _PROT_EXEC),
        "kill": _if_equal(0, [pid]),
        "tgkill": _if_equal(0, [pid]),
        "fcntl": _if_equal(1, [_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC]),
        "newfstatat": _if_bits(3, _AT_EMPTY_PATH),
        "prlimit64": [*_if_equal(0, [0])[:-1], *_if_equal(1, [resource.RLIMIT_DATA])],
        "clone": _if_bits(0, _CLONE_THREAD) if threads else [_op(_RETURN, _REFUSE)],
        # Its flags lie in memory, which a filter cannot read. With ENOSYS, the C library falls back to clone.
        "clone3": [_op(_RETURN, _ERROR | errno.ENOSYS)],
    }
    program = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_EQUAL, audit, then=1),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_op(_AT_LEAST, _X32, otherwise=1), _op(_RETURN, _KILL)]
    for name, number in sorted(numbers.items(), key=lambda one: _ORDER.get(one[0], len(_ORDER))):
        body = conditions.get(name, [_op(_RETURN, _ALLOW)])
        program += [_op(_EQUAL, number, otherwise=len(body)), *body]
    return b"".join([*program, _op(_RETURN, _REFUSE)])


#: The most frequent calls come first, because a filter is evaluated from its beginning.
_ORDER: Final = {
    name: place
    for place, name in enumerate(
        (
            "setitimer",
            "munmap",
            "mmap",
            "brk",
            "madvise",
            "mremap",
            "futex",
            "clock_gettime",
            "recvmsg",
            "recvfrom",
            "sendto",
        )
    )
}


def _op(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)


def _low(argument: int) -> bytes:
    return _op(_LOAD, _ARGUMENTS + 8 * argument)


def _if_equal(argument: int, values: list[int]) -> list[bytes]:
    n = len(values)
    tests = [_op(_EQUAL, value, then=n - place) for place, value in enumerate(values)]
    return [_low(argument), *tests, _op(_RETURN, _REFUSE), _op(_RETURN, _ALLOW)]


def _if_bits(argument: int, bits: int) -> list[bytes]:
    return [_low(argument), _op(_ANY_BIT, bits, otherwise=1), _op(_RETURN, _ALLOW), _op(_RETURN, _REFUSE)]


def _unless_bits(argument: int, bits: int) -> list[bytes]:
    return [_low(argument), _op(_ANY_BIT, bits, then=1), _op(_RETURN, _ALLOW), _op(_RETURN, _REFUSE)]


def _seccomp(libc: ctypes.CDLL, machine: _Machine, *, threads: bool) -> bool:
    name = next(name for name, one in _MACHINES.items() if one is machine)
    code = bpf(name, os.getpid(), threads=threads)
    instructions = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the length, padding, the address.
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    call = {"x86_64": 317, "aarch64": 277}[name]
    for flags in (_SECCOMP_FLAGS, 0):
        if _call(libc.syscall, call, _SECCOMP_SET_MODE_FILTER, flags, program) == 0:
            return True
    # Kernels before 3.17 lack the seccomp call.
    return _call(libc.prctl, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0
