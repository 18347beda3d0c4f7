"""Pictures of nothing that anybody would teach: noise, colours, patterns, drawn scenes. Made here, the same for the same seed.

What a recogniser must not take for fruit; for measuring how often it does.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def scenes(count: int, *, side: int = 256, seed: int = 0) -> list[tuple[str, bytes]]:
    """Return ``count`` pictures as (sort, JPEG), every sort in turn."""
    sorts = list(_SORTS.items())
    made = []
    for number in range(count):
        name, paint = sorts[number % len(sorts)]
        out = BytesIO()
        paint(np.random.default_rng([seed, number]), side).save(out, "JPEG", quality=88)
        made.append((name, out.getvalue()))
    return made


def _noise(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))


def _clouds(rng: np.random.Generator, side: int) -> Image.Image:
    """Noise at every scale, as in skies and plaster."""
    total = np.zeros((side, side, 3))
    for cells in (2, 4, 8, 16, 32):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), float) / cells
    total -= total.min()
    return Image.fromarray((255 * total / total.max()).astype(np.uint8))


def _colour(rng: np.random.Generator, side: int) -> Image.Image:
    """One colour, a shade darker towards one side: a wall, a pocket, a finger on the lens."""
    colour = rng.integers(0, 256, 3) * np.ones((side, side, 3))
    shade = np.linspace(1, rng.uniform(0.6, 1), side)[:, None, None]
    return Image.fromarray(np.clip(colour * shade + rng.normal(0, 3, colour.shape), 0, 255).astype(np.uint8))


def _stripes(rng: np.random.Generator, side: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    turn, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
    wave = np.sin(2 * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / period) > 0
    if rng.random() < 0.5:
        wave ^= np.sin(2 * np.pi * (y * np.cos(turn) - x * np.sin(turn)) / period) > 0
    return Image.fromarray(rng.integers(0, 256, (2, 3), np.uint8)[wave.astype(int)])


def _page(rng: np.random.Generator, side: int) -> Image.Image:
    """A page of something like writing."""
    page = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(225, 256, 3)))
    draw, y = ImageDraw.Draw(page), 14
    while y < side - 14:
        x = 12
        while x < side - 12 - rng.integers(0, 30):
            width = int(rng.integers(4, 34))
            for stroke in range(x, min(x + width, side - 12), 3):
                top = y + int(rng.integers(-2, 3))
                draw.line([(stroke, top), (stroke + int(rng.integers(-2, 3)), y + 7)], fill=(30, 30, 40))
            x += width + 6
        y += 15
    return page


def _room(rng: np.random.Generator, side: int) -> Image.Image:
    """Walls, a floor, boxes and a window."""
    wall, floor = (tuple(int(v) for v in rng.integers(90, 240, 3)) for _ in range(2))
    room = Image.new("RGB", (side, side), wall)
    draw = ImageDraw.Draw(room)
    horizon = int(side * rng.uniform(0.5, 0.8))
    draw.rectangle([0, horizon, side, side], fill=floor)
    for _ in range(int(rng.integers(3, 8))):
        x, w, h = int(rng.integers(0, side)), int(rng.integers(20, 90)), int(rng.integers(20, 120))
        fill = tuple(int(v) for v in rng.integers(20, 230, 3))
        draw.rectangle([x, horizon - h + 20, x + w, horizon + 20], fill=fill, outline=(20, 20, 20))
    draw.rectangle([20, 20, 90, 100], fill=(200, 225, 250), outline=(60, 40, 30), width=4)
    return room.filter(ImageFilter.GaussianBlur(0.8))


def _landscape(rng: np.random.Generator, side: int) -> Image.Image:
    """Sky, hills, trees and a sun."""
    sky = np.linspace(0, 1, side)[:, None, None] * rng.integers(0, 90, 3) + (110, 150, 200)
    scene = Image.fromarray(np.broadcast_to(np.clip(sky, 0, 255), (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(scene)
    sun = int(rng.integers(30, side - 30))
    draw.ellipse([sun - 12, 20, sun + 12, 44], fill=(255, 244, 200))
    for layer in range(3):
        base, wave = side * (0.5 + 0.15 * layer), rng.uniform(20, 60)
        line = [(x, base + wave * np.sin(x / rng.uniform(38, 42) + 5 * layer)) for x in range(0, side + 8, 8)]
        draw.polygon([(0, side), *line, (side, side)], fill=(60 - 10 * layer, 130 - 28 * layer, 60 - 10 * layer))
    for _ in range(12):
        x, y, r = int(rng.integers(0, side)), int(rng.integers(side * 0.6, side)), int(rng.integers(6, 20))
        draw.rectangle([x - 2, y, x + 2, y + 2 * r], fill=(80, 50, 30))
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(20, int(rng.integers(60, 130)), 30))
    return scene.filter(ImageFilter.GaussianBlur(0.7))


_SORTS: dict[str, Callable[[np.random.Generator, int], Image.Image]] = {
    "noise": _noise,
    "clouds": _clouds,
    "colour": _colour,
    "stripes": _stripes,
    "page": _page,
    "room": _room,
    "landscape": _landscape,
}
