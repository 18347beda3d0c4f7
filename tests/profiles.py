"""Colour profiles made byte by byte (ICC.1:2022), and pictures whose colours are the same in them: no library's word for it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

#: Columns of red, green and blue in XYZ under D50, and the gamma.
SPACES: dict[str, tuple[list[tuple[float, float, float]], float]] = {
    "Display P3": ([(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)], 2.2),
    "Adobe RGB": ([(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], 2.2),
    "ProPhoto": ([(0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.8249)], 1.8),
    "green, blue, red": ([(0.38515, 0.71688, 0.09708), (0.14307, 0.06061, 0.7141), (0.43607, 0.22249, 0.01392)], 2.2),
}
SRGB = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71688, 0.09708), (0.14307, 0.06061, 0.7141)]


def _s15(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def srgb_curve() -> bytes:
    """The curve of sRGB as a parametric one."""
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _s15(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def table_curve(entries: int = 1024) -> bytes:
    """The curve of sRGB as a table, as most writers have it."""
    x = np.linspace(0, 1, entries)
    values = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", entries) + np.round(values * 65535).astype(">u2").tobytes()


def profile(space: bytes, tags: dict[bytes, bytes], *, kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """A profile of version 2 with these tags, and those that each must have."""
    name = b"made here\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    white = (0.9642, 1.0, 0.8249)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": b"XYZ \0\0\0\0" + _s15(*white), **tags}
    offset, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += tag + struct.pack(">II", offset + len(body), len(padded))
        body += padded
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI", size, b"", 0x02100000) + kind + space + pcs + bytes(12) + b"acsp" + bytes(28)
    return head + _s15(*white) + bytes(48) + table + body


def rgb(columns: Sequence[tuple[float, float, float]], curve: bytes) -> bytes:
    tags = {
        channel + b"XYZ": b"XYZ \0\0\0\0" + _s15(*column)
        for channel, column in zip((b"r", b"g", b"b"), columns, strict=True)
    }
    return profile(b"RGB ", tags | {channel + b"TRC": curve for channel in (b"r", b"g", b"b")})


def named(name: str) -> bytes:
    columns, gamma = SPACES[name]
    return rgb(columns, gamma_curve(gamma))


def grey(curve: bytes) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve})


def cmyk(nodes: np.ndarray) -> bytes:
    """A press whose 16 combinations of full inks have these L*, a*, b*: shape (2, 2, 2, 2, 3)."""
    lab = nodes.reshape(16, 3) * [255 / 100, 1, 1] + [0, 128, 128]
    steps = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _s15(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * steps
    table += np.round(lab).astype(np.uint8).tobytes() + 3 * steps
    return profile(b"CMYK", {b"A2B0": table}, kind=b"prtr", pcs=b"Lab ")


def converted(pixels: np.ndarray, name: str) -> np.ndarray:
    """Return the levels that show the colours of sRGB ``pixels`` in another space, whose gamut must hold them."""
    columns, gamma = SPACES[name]
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    theirs = linear @ np.array(SRGB) @ np.linalg.inv(np.array(columns))
    return np.round(255 * np.clip(theirs, 0, 1) ** (1 / (round(gamma * 256) / 256))).astype(np.uint8)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """Return levels of sRGB for L*, a*, b* under D50."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8249]
    linear = np.clip(xyz @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
