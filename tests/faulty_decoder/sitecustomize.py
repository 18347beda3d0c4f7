"""Makes Pillow's JPEG reader die of marked photos, but only in the child process that decodes.

Python imports this at start where its folder is on PYTHONPATH. There is no photo known to crash the Pillow of today, and no
back door in fruits; a JPEG whose comment is one of these words stands in for one that would. ``marked.py`` makes such photos.
"""

from __future__ import annotations

import sys


def _crash() -> None:
    """Read memory that is not ours: SIGSEGV, in native code."""
    import ctypes

    ctypes.string_at(0)


def _loop() -> None:
    """Compute for ever."""
    while True:
        pass


def _bomb() -> None:
    """Take memory without end; without touching it, because the limit counts what is asked for."""
    taken = []
    while True:
        taken.append(bytearray(64 << 20))


def _hang() -> None:
    """Wait for ever without computing."""
    import time

    time.sleep(3600)


def _killed() -> None:
    """Die as if the system had run out of memory."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


_FAULTS = {b"crash": _crash, b"loop": _loop, b"bomb": _bomb, b"hang": _hang, b"killed": _killed}


def _patch() -> None:
    from PIL import JpegImagePlugin

    reader = JpegImagePlugin.JpegImageFile
    load = reader.load

    def faulty(self: JpegImagePlugin.JpegImageFile) -> object:
        fault = _FAULTS.get(self.info.get("comment", b""))
        if fault is not None:
            fault()
        return load(self)

    reader.load = faulty


if any("fruits.photos.decoding.decoder_process" in argument for argument in sys.orig_argv):
    _patch()
