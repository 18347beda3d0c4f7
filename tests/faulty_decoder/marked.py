"""Photos that kill: marked ones, for ``sitecustomize.py`` beside this file, and a real one."""

from __future__ import annotations

import struct
from io import BytesIO

from PIL import Image

#: What a photo may be marked with, and the code of the row that it must become.
CODES = {"crash": "crashed", "loop": "timeout", "bomb": "too large", "hang": "timeout", "killed": "crashed"}


def marked(jpeg: bytes, fault: str) -> bytes:
    """Return the JPEG with a comment that names the fault; without the hook, it decodes as before."""
    comment = fault.encode()
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + jpeg[2:]


def endless(side: int, scans: int) -> bytes:
    """Return a valid progressive JPEG that goes over all of its pixels ``scans`` times: minutes for a megabyte."""
    out = BytesIO()
    Image.new("L", (side, side), 90).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    # The table of codes that the last scan uses is just before it.
    start = data.rindex(b"\xff\xc4", 0, last)
    return data[:start] + data[start:-2] * scans + data[-2:]
