"""Rendering synthetic fruit, from shape parameters and random numbers to the pixels of one view.

A fruit is a body with one radius per direction, stored on an octahedral map of the sphere (Meyer et al., 2010) with its
normals and colours, all computed once by :func:`grow`. :func:`render` traces parallel rays into that map, so the
texture turns with the fruit. Independent of labels, seeds, sequences, files and JPEG.

Pixels depend only on operations that IEEE 754 rounds exactly, and on trigonometry rounded to nine digits, so that all
machines agree: no power, and no matrix product, whose last digits depend on the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]
Rgb = tuple[int, int, int]

CELLS = 32  # per side of the frame; the body's points in a cell give the depth at which its rays start
TRACE_STEPS = 3  # Newton steps from there to the surface
SCAN_STEPS = 16  # samples further back
GRIP = 0.35  # least cosine between normal and ray used in a step
STEM_WIDTH = 0.05  # half of it


@dataclass(frozen=True)
class Variety:
    """Parameters shared by the fruits of one variety; lengths in units of the fruit's half width."""

    name: str  # label of the photos
    kind: str  # family of shapes it belongs to
    skin: Rgb  # ground colour
    blush: Rgb  # colour of the sunny side
    marks: Rgb  # colour of streaks, specks, stripes and seeds
    height: float = 1.0  # half of it
    taper: float = 0.0  # narrowing towards the stem
    blunt: float = 0.0  # flatness of the ends
    bend: float = 0.0  # curvature of the long axis
    dimple: float = 0.0  # depth at stem and flower
    ribs: int = 0  # lengthwise
    rib_depth: float = 0.0
    lumps: float = 0.04  # irregularity of the body
    peel: float = 0.0  # roughness of the skin
    cells: int = 0  # drupelets (cell_height above 0) or pits that hold a seed (below 0)
    cell_height: float = 0.0
    sunny: float = 0.3  # share of the skin that blushes, 0 to 1
    streaks: float = 0.0  # strength of lengthwise streaks, 0 to 1
    specks: float = 0.0  # strength of small specks, 0 to 1
    stripes: float = 0.0  # strength of stripes that follow the ribs, 0 to 1
    gloss: float = 0.3  # strength of the highlight
    stem: float = 0.0  # length
    sepals: int = 0  # number of leaves around the stem


class _Frame(NamedTuple):
    """The frame on the image plane."""

    left: np.float32
    top: np.float32
    unit: np.float32  # width of a pixel
    n: int  # pixels


@dataclass(frozen=True)
class Fruit:
    """One fruit on an octahedral map of side x side directions, flattened; y runs along its axis, the stem on top."""

    side: int
    radius: Floats  # (side²,)
    slope: Floats  # (side²,) cosine between direction and normal
    normal: Floats  # (3, side²)
    albedo: Floats  # (3, side²) linear light
    points: Floats  # (3, side² / 2) every other row of points of the body
    gloss: float
    stem: Floats | None  # (3, 2) foot and tip


def grow(variety: Variety, rng: np.random.Generator, side: int) -> Fruit:
    """Grow one fruit of a variety; O(side²), about 10 ms at 200.

    Parameters
    ----------
    variety : Variety
        Variety of the fruit.
    rng : Generator
        Source of all differences between two fruits of the variety.
    side : int
        Width of the map in texels, even. Less than twice the width of the photos makes texels visible.
    """
    v = replace(variety, height=variety.height * rng.uniform(0.97, 1.03), sunny=variety.sunny * rng.uniform(0.92, 1.08))
    ray = _directions(side)
    flat = np.maximum(np.sqrt(ray[0] * ray[0] + ray[2] * ray[2]), np.float32(1e-6))
    across, along = ray[0] / flat, ray[2] / flat
    rib, lumps, fine = _cos_multiple(across, along, v.ribs), _noise(rng, ray * 1.6), _noise(rng, ray * 22.0)
    # Ribs fade out at the poles, where all meet.
    ribbed = 1.0 + v.rib_depth * np.minimum(1.0, 1.6 * flat) * (np.abs(rib) * rib * 0.5 + rib * 0.5 - 0.3)
    radius = _radius(v, ray) * (1.0 + v.lumps * lumps) * ribbed + v.peel * 0.014 * fine
    if v.cells:
        near = _nearest_cell(rng, ray, v.cells)
        dome = np.maximum(0.0, 1.0 - 0.85 * near * near) if v.cell_height > 0 else _smooth(0.75, 0.2, near)
        radius = radius + v.cell_height * dome
    if v.sepals:
        reach = 0.42 + 0.3 * _cos_multiple(across, along, v.sepals) + 0.1 * lumps
        leaf = _smooth(-0.05, 0.05, reach - flat) * (ray[1] > 0)
        radius = radius + 0.05 * leaf
    points, normal = _surface(ray, radius, side)

    sun = _unit(rng.normal(size=3) * np.array([1.0, 0.35, 1.0]))
    sunny = _dot(ray, sun) * 0.7 + _noise(rng, ray * 2.5) * 0.55 + (v.sunny - 0.5) * 2.2
    streak = _noise(rng, np.stack([across * 9.0, ray[1] * 1.3, along * 9.0]))
    blush = _smooth(-0.45, 0.45, sunny + v.streaks * streak)
    colour = _mix(_linear(v.skin), v.blush, blush)
    speck = v.specks * _smooth(0.42, 0.75, _noise(rng, ray * 17.0))
    colour = _mix(colour, v.marks, np.maximum(v.streaks * 0.7 * _smooth(0.1, 0.8, streak) * blush, speck))
    if v.stripes:
        colour = _mix(colour, v.marks, v.stripes * _smooth(-0.25, 0.35, rib + 0.9 * _noise(rng, ray * 6.0)))
    if v.cell_height < 0:
        colour = _mix(colour, v.marks, _smooth(0.3, 0.2, near))
    if v.cell_height > 0:
        colour = colour * (0.25 + 0.75 * dome)
    ragged = flat + 0.05 * fine
    ends = np.maximum(_smooth(0.2, 0.06, ragged) * (ray[1] < 0), 0.5 * _smooth(0.3, 0.05, ragged))
    colour = _mix(colour, (70, 52, 26), ends * (0.8 / max(1.0, v.height)))
    if v.sepals:
        colour = _mix(colour, (70, 112, 34), leaf)
    foot = np.array([0.0, 0.9 * float(radius[side * (side + 1) // 2]), 0.0])
    tip = foot + v.stem * _unit(np.array([*rng.uniform(-0.35, 0.35, 2), 1.0]))[[0, 2, 1]]
    return Fruit(
        side=side,
        radius=radius,
        slope=_dot(ray, normal),
        normal=normal,
        albedo=colour * (1.0 + 0.07 * fine + 0.08 * lumps),
        points=points.reshape(3, side, side)[:, ::2].reshape(3, -1),
        gloss=v.gloss,
        stem=np.stack([foot, tip], axis=1).astype(np.float32) if v.stem else None,
    )


def _radius(v: Variety, ray: Floats) -> Floats:
    """Radius (m,) of the smooth body in each direction (3, m): a turned profile, bent if the variety is."""
    turn = np.linspace(0.0, math.pi, 721)
    c, s = np.round(np.cos(turn), 9), np.round(np.sin(turn), 9)
    hollow = v.dimple / (1.0 + (turn / 0.42) ** 2) ** 2 - 0.6 * v.dimple / (1.0 + ((math.pi - turn) / 0.36) ** 2) ** 2
    wide = ((1.0 - v.blunt) * s + v.blunt * np.sqrt(np.maximum(s, 0.0))) * (1.0 - v.taper * (0.55 * c + 0.45 * c * c))
    high = v.height * c - hollow
    reach = np.sqrt(wide**2 + high**2)
    # The height of a direction on the unit sphere falls along the profile; np.interp needs it increasing.
    cosine, reach = (high / reach)[::-1], reach[::-1]
    far: Floats = np.interp(ray[1], cosine, reach).astype(np.float32)
    for _ in range(10 if v.bend else 0):
        x, y, z = ray * far
        x = x - v.bend * (y * y - 0.35)
        length = np.maximum(np.sqrt(x * x + y * y + z * z), 1e-6)
        far = far * np.sqrt(np.interp(y / length, cosine, reach).astype(np.float32) / length)
    return far


def _surface(ray: Floats, radius: Floats, side: int) -> tuple[Floats, Floats]:
    """Points and outward normals, both (3, side²), of the body."""
    points = ray * radius
    # An edge of the octahedral map meets itself, reversed.
    grid = np.pad(points.reshape(3, side, side), ((0, 0), (1, 1), (1, 1)))
    grid[:, 0], grid[:, -1] = grid[:, 1, ::-1], grid[:, -2, ::-1]
    grid[:, :, 0], grid[:, :, -1] = grid[:, ::-1, 1], grid[:, ::-1, -2]
    a = (grid[:, 1:-1, 2:] - grid[:, 1:-1, :-2]).reshape(3, -1)
    b = (grid[:, 2:, 1:-1] - grid[:, :-2, 1:-1]).reshape(3, -1)
    normal = np.stack([b[1] * a[2] - b[2] * a[1], b[2] * a[0] - b[0] * a[2], b[0] * a[1] - b[1] * a[0]])
    # In four texels both differences are parallel: there the direction replaces the normal.
    return points, _unit(normal * np.sign(_dot(normal, ray)) + np.float32(1e-9) * ray)


@lru_cache(maxsize=2)
def _directions(side: int) -> Floats:
    """Unit vectors (3, side²) of an octahedral map: +y in the middle, -y in the corners."""
    at = ((np.arange(side) + 0.5) / side * 2.0 - 1.0).astype(np.float32)
    u, w = np.tile(at, side), np.repeat(at, side)
    y = 1.0 - np.abs(u) - np.abs(w)
    fold = np.maximum(-y, 0.0)
    ray = _unit(np.stack([u - np.copysign(fold, u), y, w - np.copysign(fold, w)]))
    ray.flags.writeable = False  # shared by every fruit of this size
    return ray


def _nearest_cell(rng: np.random.Generator, ray: Floats, n: int) -> Floats:
    """Distance (m,) to the nearest of n points spread over the sphere, 1 at about the edge of a cell."""
    best = np.full(ray.shape[1], -1.0, np.float32)
    for i in range(n):
        height, angle = 1.0 - 2.0 * (i + 0.5) / n, math.pi * (3.0 - math.sqrt(5.0)) * i
        flat = math.sqrt(1.0 - height * height)
        centre = np.array([round(math.cos(angle), 9) * flat, height, round(math.sin(angle), 9) * flat])
        np.maximum(best, _dot(ray, _unit(centre + rng.uniform(-0.25, 0.25, 3) / math.sqrt(n))), out=best)
    return np.asarray(np.sqrt(np.maximum(0.0, 2.0 - 2.0 * best)) * np.float32(math.sqrt(n) / 2.2))


def _noise(rng: np.random.Generator, at: Floats) -> Floats:
    """Smooth noise (m,) in -1 to 1 at points (3, m): random values on a lattice, a cell wide, blended between."""
    lattice = np.pad(rng.uniform(-1.0, 1.0, (16, 16, 16)).astype(np.float32), ((0, 1), (0, 1), (0, 1)), "wrap").ravel()
    at = at + rng.uniform(0.0, 16.0, (3, 1)).astype(np.float32)
    floor = np.floor(at)
    at -= floor
    blend = at * at * (3.0 - 2.0 * at)
    x, y, z = floor.astype(np.int32) & 15
    corner = (x * 289 + y * 17 + z).astype(np.intp)

    planes: list[Floats] = [lattice[i + j + k :].take(corner) for i in (0, 289) for j in (0, 17) for k in (0, 1)]
    for share in blend[::-1]:
        planes = [low + (high - low) * share for low, high in zip(planes[::2], planes[1::2], strict=True)]
    return planes[0]


def _cos_multiple(cosine: Floats, sine: Floats, n: int) -> Floats:
    """cos(n angle), 0 for n = 0, by Chebyshev's recurrence: additions and products only."""
    before, now = np.ones_like(cosine), cosine if n else np.zeros_like(sine)
    for _ in range(n - 1):
        before, now = now, 2.0 * cosine * now - before
    return now


def render(fruit: Fruit, pose: Floats, light: Floats, tint: Floats, n: int) -> Floats:
    """Render a fruit on white, filling the frame as in the crops of Fruits-360.

    Parameters
    ----------
    fruit : Fruit
        See :func:`grow`.
    pose : ndarray of shape (3, 3), float32
        Rotation from fruit to camera: x right, y up, z towards the camera.
    light, tint : ndarray of shape (3,), float32
        Direction towards the light in camera axes, of any length; colour of the light, about 1.
    n : int
        Width and height in pixels.

    Returns
    -------
    ndarray of shape (3, n, n), float32
        Linear light, 1 for white; above 1 in highlights.
    """
    seen = np.stack([_dot(fruit.points, axis) for axis in pose])
    stem = None if fruit.stem is None else np.stack([_dot(fruit.stem, axis) for axis in pose])
    bodies = [seen] if stem is None else [seen, stem]
    low = np.min([body[:2].min(axis=1) for body in bodies], axis=0)
    high = np.max([body[:2].max(axis=1) for body in bodies], axis=0)
    unit = np.float32(1.03) * (high - low).max() / np.float32(n)
    left, top = (low + high) / 2 + np.array([-0.5, 0.5], np.float32) * (np.float32(n) * unit)
    frame = _Frame(left, top, unit, n)
    facing = _dot(fruit.normal, pose[2])
    pixel, texel, depth, cover = _trace(fruit, seen, facing, pose, frame)

    light = _unit(light)  # _dot with the rows of the pose transforms it to the fruit's axes
    normal = [plane.take(texel) for plane in fruit.normal]
    lit = _dot(normal, _dot(pose, light))
    shine = np.maximum(_dot(normal, _dot(pose, _unit(light + np.array([0, 0, 1], np.float32)))), 0.0)
    powers = [shine]
    for _ in range(6):
        powers.append(powers[-1] * powers[-1])
    diffuse = np.maximum(0.84 * lit + 0.21, 0.0) + 0.2 + 0.1 * _dot(normal, pose[1])
    diffuse *= 0.45 + 0.55 * np.maximum(facing.take(texel), 0.0)
    gleam = (powers[6] * 0.75 + powers[3] * 0.12) * fruit.gloss
    canvas = np.ones((3, n * n), np.float32)
    for plane, albedo, part in zip(canvas, fruit.albedo, tint, strict=True):
        plane[pixel] = 1.0 + (albedo.take(texel) * diffuse * part + gleam - 1.0) * cover
    if stem is not None:
        behind = np.full(n * n, -np.inf, np.float32)
        behind[pixel] = np.where(cover > 0.5, depth, np.float32(-np.inf))
        _draw_stem(canvas.reshape(3, n, n), behind.reshape(n, n), stem.T, light, frame)
    return canvas.reshape(3, n, n)


def _trace(
    fruit: Fruit, seen: Floats, facing: Floats, pose: Floats, frame: _Frame
) -> tuple[Ints, Ints, Floats, Floats]:
    """Trace parallel rays onto the body: pixels hit, their texels, depth towards the camera, share covered.

    Some points of the body, sorted into coarse cells, give the starting depth; a few Newton steps follow.
    """
    start, held = _begin(seen, facing.reshape(fruit.side, -1)[::2].ravel() > 0.0, frame)
    column, line, cell = _grid(frame.n)
    pixel = np.flatnonzero(np.isfinite(start).take(cell))
    cell = cell.take(pixel)
    x, y = column.take(pixel) * frame.unit + frame.left, frame.top - line.take(pixel) * frame.unit
    rays = np.stack([*(x * right + y * up for right, up in zip(pose[0], pose[1], strict=True)), x * x + y * y])
    # Where a ray grazes the surface, a full step would leave the body on the other side.
    grip = np.maximum(facing, GRIP)
    z = start.take(cell)
    lowest, best_far = np.full_like(z, np.inf), np.full_like(z, np.inf)
    best_z, best_texel = z.copy(), np.zeros_like(pixel)
    for _ in range(TRACE_STEPS):
        gap, texel = _gap(fruit, rays, pose[2], z)
        # A ray that misses the body keeps its nearest point; the gap there is its distance from the outline.
        np.minimum(lowest, gap, out=lowest)
        far = np.abs(gap)
        better = far < best_far
        for best, new in ((best_z, z), (best_far, far), (best_texel, texel)):
            np.copyto(best, new, where=better)
        z -= gap / grip.take(texel)
    # A ray that missed may still hit the body further back, such as the next rib: sample the whole depth at once.
    passed = np.flatnonzero((lowest > 0.4 * frame.unit) & held.take(cell))
    if len(passed):
        z = best_z[passed] - np.linspace(0.0, np.ptp(seen[2]), SCAN_STEPS, dtype=np.float32)[:, None]
        first = np.argmax(_gap(fruit, rays[:, None, passed], pose[2], z)[0] < 0.0, axis=0)
        met, z = passed[first > 0], z[first, np.arange(len(passed))][first > 0]
        for _ in range(3):
            gap, texel = _gap(fruit, rays[:, met], pose[2], z)
            z = z - gap / grip.take(texel)
        best_z[met], lowest[met], best_texel[met] = z, 0.0, texel
    return pixel, best_texel, best_z, np.clip(1.4 - lowest / frame.unit, 0.0, 1.0)


def _gap(fruit: Fruit, rays: Floats, view: Floats, z: Floats) -> tuple[Floats, Ints]:
    """Distance of the point at depth z on each ray from the surface, to first order, negative inside; its texel.

    A ray is given by the point where it crosses the image plane, and the squared distance of that point from the centre.
    """
    x, y, up = rays[0] + z * view[0], rays[2] + z * view[2], rays[1] + z * view[1]
    # The inverse of _directions.
    high = np.abs(up)
    fold = (high - up) * np.float32(0.5)
    half = np.float32(0.5 * fruit.side)
    scale = half * np.float32(1.0 - 1e-6) / (np.abs(x) + high + np.abs(y))
    column = ((x + np.copysign(fold, x)) * scale + half).astype(np.int32)
    row = ((y + np.copysign(fold, y)) * scale + half).astype(np.int32)
    texel = (row * fruit.side + column).astype(np.intp)
    return (np.sqrt(z * z + rays[3]) - fruit.radius.take(texel)) * fruit.slope.take(texel), texel


def _begin(seen: Floats, front: NDArray[np.bool_], frame: _Frame) -> tuple[Floats, NDArray[np.bool_]]:
    """Starting depth of rays (CELLS²,), inf where nothing is near; the cells that lie on the body, not beside it."""
    scale = np.float32(CELLS / frame.n) / frame.unit
    column = ((seen[0] - frame.left) * scale).astype(np.intp)
    line = ((frame.top - seen[1]) * scale).astype(np.intp)
    depth = np.full((CELLS + 2, CELLS + 2), -np.inf, np.float32)
    np.maximum.at(depth.ravel(), (line + 1) * (CELLS + 2) + column + 1, np.where(front, seen[2], np.float32(-np.inf)))
    around = np.stack([depth[i : i + CELLS, j : j + CELLS] for i in range(3) for j in range(3)])
    full = np.isfinite(around)
    # Just outside the outline, the deepest neighbouring cell is the best guess of where a ray passes closest.
    deepest = np.where(full, around, np.float32(np.inf)).min(axis=0)
    held = full[4] | full[1] & full[7] | full[3] & full[5]
    return np.where(full[4], around[4], deepest).ravel(), held.ravel()


@lru_cache(maxsize=2)
def _grid(n: int) -> tuple[Floats, Floats, Ints]:
    """Column and row of the centre of each pixel of a frame, and its cell: three arrays (n²,)."""
    middle = np.arange(n, dtype=np.float32) + np.float32(0.5)
    cell = (middle * CELLS / n).astype(np.intp)
    return np.tile(middle, n), np.repeat(middle, n), np.repeat(cell, n) * CELLS + np.tile(cell, n)


def _draw_stem(canvas: Floats, behind: Floats, stem: Floats, light: Floats, frame: _Frame) -> None:
    """Draw a round stem on the canvas (3, n, n) where it is nearer to the camera than the depth ``behind`` (n, n)."""
    foot, span = stem[0], stem[1] - stem[0]
    low, high = stem.min(axis=0) - STEM_WIDTH, stem.max(axis=0) + STEM_WIDTH
    corners = ((low[0] - frame.left, high[0] - frame.left), (frame.top - high[1], frame.top - low[1]))
    columns, rows = (slice(max(0, int(a / frame.unit)), int(b / frame.unit) + 1) for a, b in corners)
    at = (np.arange(frame.n, dtype=np.float32) + np.float32(0.5)) * frame.unit
    dx, dy = at[columns] + (frame.left - foot[0]), (frame.top - foot[1] - at[rows])[:, None]
    share = np.clip((dx * span[0] + dy * span[1]) / max(span[0] * span[0] + span[1] * span[1], 1e-6), 0.0, 1.0)
    off_x, off_y = dx - share * span[0], dy - share * span[1]
    # Thinnest near the middle.
    thick = STEM_WIDTH * (0.65 + 2.7 * (share - 0.45) * (share - 0.45))
    rise = np.sqrt(np.maximum(thick * thick - off_x * off_x - off_y * off_y, 0.0))
    shown = (rise > 0) & (foot[2] + share * span[2] + rise > behind[rows, columns])
    lit = 0.25 + 0.9 * np.maximum((off_x * light[0] + off_y * light[1] + rise * light[2]) / thick, 0.0)
    for plane, value in zip(canvas, _linear((104, 80, 44))[:, 0], strict=True):
        plane[rows, columns][shown] = (value * lit)[shown]


def _dot(vectors: Floats | list[Floats], by: Floats) -> Floats:
    """Dot product (m,) of vectors (3, m) with one (3,) or as many (3, m)."""
    return np.asarray(vectors[0] * by[0] + vectors[1] * by[1] + vectors[2] * by[2])


def _unit(vectors: NDArray[np.floating]) -> Floats:
    """Scale vectors (3,) or (3, m) to length 1."""
    length = np.sqrt(vectors[0] * vectors[0] + vectors[1] * vectors[1] + vectors[2] * vectors[2])
    return np.asarray(vectors / length, np.float32)


def _linear(colour: Rgb) -> Floats:
    """Linear light (3, 1) of a screen colour; gamma 2, because a square root is exact on all machines and a power is not."""
    return np.asarray(np.square(np.array(colour, np.float32)[:, None] / np.float32(255.0)))


def _mix(colour: Floats, other: Rgb, share: Floats) -> Floats:
    """Mix linear colours with a screen colour by share (m,)."""
    return colour + (_linear(other) - colour) * share


def _smooth(low: float, high: float, at: Floats) -> Floats:
    """Smoothstep: 0 below low, 1 above high, smooth between; low may be the greater one."""
    t = np.clip((at - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))
