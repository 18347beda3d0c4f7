"""What the process that decodes may still do once it has begun: compute, and talk to its parent. Nothing else.

A photo that takes a decoder over finds no file, no network, no other program and no process to signal. Three locks of Linux, each
of them where the kernel has it: a limit on what is opened, Landlock (no path, no port), and seccomp, which lets through the
system calls listed here and no others. There is no way back from any. Linux's headers are the source of all numbers.
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

#: Open files at most: three of the terminal, the socket, one for each buffer that is mapped, one that comes.
_MAX_FILES: Final = 64

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_SET_MODE_FILTER: Final = 1
#: All threads at once; and no slower memory for a process that runs no code of strangers.
_SECCOMP_FLAGS: Final = 1 | 4
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION: Final = 1


class Locks(IntFlag):
    """What holds the process."""

    NO_NEW_PRIVILEGES = 1
    NOT_DUMPABLE = 2
    LANDLOCK = 4
    SECCOMP = 8


ALL: Final = Locks.NO_NEW_PRIVILEGES | Locks.NOT_DUMPABLE | Locks.LANDLOCK | Locks.SECCOMP


def lock(*, threads: bool) -> Locks:
    """Lock this process for good; return which locks hold. Whatever it imports or opens, it must have by now.

    Parameters
    ----------
    threads : bool
        Whether a library needs threads of its own. Other processes cannot be made either way.
    """
    if not threads:  # a limit of the user's, of all processes together: so it is none at all or no use
        _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, _MAX_FILES)
    if sys.platform != "linux":
        return Locks(0)
    libc = ctypes.CDLL(None, use_errno=True)
    held = Locks(0)
    if _call(libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0) == 0:
        held |= Locks.NOT_DUMPABLE
    if _call(libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return held  # the other two ask for it
    held |= Locks.NO_NEW_PRIVILEGES
    if _landlock(libc):
        held |= Locks.LANDLOCK
    machine = _MACHINES.get(platform.machine())
    if machine is not None and _seccomp(libc, machine, threads=threads):
        held |= Locks.SECCOMP
    return held


def _call(function: Any, *arguments: int | bytes | None) -> int:
    """Call the C library with whole registers: of a plain number, ctypes fills half of one."""
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(function(*wide))


def _limit(what: int, most: int) -> None:
    """Set both limits, for good; a hard one that is lower already stays."""
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _landlock(libc: ctypes.CDLL) -> bool:
    """Give up every path, every port, and sockets and signals beyond this process, as far as the kernel knows each."""
    version = _call(libc.syscall, _LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    files = (1 << 13) - 1  # execute to make a link, all of the first version
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):  # refer, truncate, ioctl of devices
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
    """A processor's system calls: its mark in a filter's view, and numbers by name."""

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
#: Bit of the numbers of x32, a second set of calls beside those of x86_64.
_X32: Final = 0x40000000
_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 2, 3, 1030
_AT_EMPTY_PATH: Final = 0x1000
_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x10000
#: Of the classic BPF and of what a filter returns.
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_REFUSE: Final = _ERROR | errno.EPERM
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16


def bpf(machine: str, pid: int, *, threads: bool) -> bytes:
    """Return the filter as the kernel takes it: instructions of 8 bytes that see one call and say what becomes of it.

    Parameters
    ----------
    machine : str
        As ``uname -m`` says it: x86_64 or aarch64.
    pid : int
        The process, which may signal itself alone.
    threads : bool
        Whether it may have more threads.
    """
    audit, numbers = _MACHINES[machine].audit, _MACHINES[machine].numbers
    # Which value the low half of an argument must have, or which bits it must or must not have; others are let through whole.
    conditions: dict[str, list[bytes]] = {
        "mmap": _unless_bits(2, _PROT_EXEC),
        "mprotect": _unless_bits(2, _PROT_EXEC),
        "kill": _if_equal(0, [pid]),
        "tgkill": _if_equal(0, [pid]),
        "fcntl": _if_equal(1, [_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC]),
        "newfstatat": _if_bits(3, _AT_EMPTY_PATH),
        "prlimit64": [*_if_equal(0, [0])[:-1], *_if_equal(1, [resource.RLIMIT_DATA])],
        "clone": _if_bits(0, _CLONE_THREAD) if threads else [_op(_RETURN, _REFUSE)],
        # Its flags lie in memory, which a filter cannot see. "Not there" makes the C library take the other one.
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


#: The calls of every photo come first: a filter is gone through from its beginning.
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
    # struct sock_fprog: a length, and behind padding the address.
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    call = {"x86_64": 317, "aarch64": 277}[name]
    for flags in (_SECCOMP_FLAGS, 0):
        if _call(libc.syscall, call, _SECCOMP_SET_MODE_FILTER, flags, program) == 0:
            return True
    # A kernel from before that call.
    return _call(libc.prctl, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0
