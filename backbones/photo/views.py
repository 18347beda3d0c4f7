"""One random training view of a photo: cut out and put elsewhere, cropped, turned, lit, blurred and saved badly.

Pixels in, pixels out, uint8; randomness comes from the generator that is passed, so a view can be made again.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def cut_out(pixels: np.ndarray, *, tolerance: int = 18) -> np.ndarray:
    """Return how much each pixel belongs to the object, uint8 (height, width): 0 on white that touches the border."""
    from scipy import ndimage  # noqa: PLC0415 - only white photos need it

    near_white = pixels.min(axis=2) >= 255 - tolerance
    regions, _ = ndimage.label(near_white)
    border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    outside = np.isin(regions, border[border > 0])
    inside = ndimage.binary_erosion(~outside, iterations=1, border_value=1)
    return np.asarray(Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.7)))


def generated_background(side: int, rng: np.random.Generator) -> Image.Image:
    """Return something to put fruit on: a table, a cloth, leaves, a wall; nothing that could be taken for fruit."""
    if rng.random() < 0.25:  # a wall or a plate: one colour, unevenly lit
        corners = rng.integers(60, 256, 3) + rng.integers(-40, 41, (2, 2, 3))
        return Image.fromarray(np.clip(corners, 0, 255).astype(np.uint8)).resize((side, side), BILINEAR)
    palettes = (
        [120, 84, 50],
        [70, 95, 50],
        [130, 130, 130],
        [180, 170, 150],
        [60, 60, 70],
        [200, 200, 205],
        [90, 60, 40],
    )
    base = np.array(palettes[rng.integers(len(palettes))]) + rng.integers(-25, 26, 3)
    total = np.zeros((side, side, 1))
    stretched = rng.random() < 0.4  # the grain of wood
    for octave in (2, 4, 8, 16, 32, 64):
        rows, columns = (octave, max(2, octave // 8)) if stretched else (octave, octave)
        noise = Image.fromarray((rng.random((rows, columns)) * 255).astype(np.uint8)).resize((side, side), BICUBIC)
        total[..., 0] += (np.asarray(noise) / 127.5 - 1) / (1 + 0.15 * octave)
    tint = np.array([1.0, rng.uniform(0.8, 1.1), rng.uniform(0.7, 1.1)])
    return Image.fromarray(np.clip(base + total * tint * rng.uniform(10, 60), 0, 255).astype(np.uint8))


def real_background(pixels: np.ndarray, side: int, rng: np.random.Generator) -> Image.Image:
    """Return another photo so blurred that only its light and colours are left."""
    small = Image.fromarray(pixels).resize((int(rng.integers(2, 6)),) * 2, Image.Resampling.BOX)
    return small.resize((side, side), BICUBIC)


def without_objects(photos: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a background alone, uint8 (side, side, 3): generated or a blurred photo, at times with a bowl, fingers, plastic."""
    picture = (
        real_background(photos[rng.integers(len(photos))], side, rng)
        if rng.random() < 0.45
        else generated_background(side, rng)
    )
    for draw, share in ((_bowl, 0.15), (_fingers, 0.15), (_bag, 0.12)):
        if rng.random() < share:
            draw(picture, rng)
    return random_light(np.asarray(picture)[None], rng)[0]


def composite(
    objects: list[tuple[np.ndarray, np.ndarray]], background: Image.Image, rng: np.random.Generator
) -> np.ndarray:
    """Put one to five cut-out objects of one kind on a background: scaled, turned, shaded, held, in a bag.

    Parameters
    ----------
    objects : list of (pixels, mask)
        One is drawn for every place.
    background : Image
        Square; it is drawn over.
    rng : Generator
    """
    side = background.width
    picture = background.copy()
    n = int(rng.choice([1, 1, 1, 2, 3, 4, 5]))
    extent = rng.uniform(0.35, 1.0) if n == 1 else rng.uniform(0.25, 0.6)
    if rng.random() < 0.15:
        _bowl(picture, rng)
    for _ in range(n):
        pixels, mask = objects[rng.integers(len(objects))]
        rgba = Image.fromarray(np.dstack([pixels, mask]))
        longest = max(8, int(side * extent * rng.uniform(0.8, 1.2)))
        scale = longest / max(rgba.size)
        rgba = rgba.resize((max(4, int(rgba.width * scale)), max(4, int(rgba.height * scale))), BICUBIC)
        rgba = rgba.rotate(rng.uniform(0, 360), BILINEAR, expand=True)
        free_x, free_y = side - rgba.width, side - rgba.height
        at = (int(free_x * rng.uniform(-0.1, 1.1)), int(free_y * rng.uniform(-0.1, 1.1)))
        if n > 1:  # a heap: near the middle, over one another
            at = tuple(int(side / 2 - extent_px / 2 + rng.normal(0, side * 0.17)) for extent_px in rgba.size)
        shadow = Image.new("RGBA", rgba.size, (0, 0, 0, 0))
        opacity = np.asarray(rgba.getchannel("A").filter(ImageFilter.GaussianBlur(side / 40))) * rng.uniform(0.2, 0.6)
        shadow.putalpha(Image.fromarray(opacity.astype(np.uint8)))
        drop = int(side * rng.uniform(0.0, 0.05))
        picture.paste(shadow.convert("RGB"), (at[0] + drop, at[1] + drop), shadow.getchannel("A"))
        picture.paste(rgba.convert("RGB"), at, rgba.getchannel("A"))
    if rng.random() < 0.15:
        _fingers(picture, rng)
    if rng.random() < 0.12:
        _bag(picture, rng)
    return np.asarray(picture)


def _bowl(picture: Image.Image, rng: np.random.Generator) -> None:
    side, colour = picture.width, tuple(int(v) for v in rng.integers(90, 250, 3))
    x, y = (int(side * v) for v in rng.uniform(0.0, 0.15, 2))
    ImageDraw.Draw(picture).ellipse(
        (x, y, side - x, side - y), fill=colour, outline=tuple(v // 2 for v in colour), width=3
    )


def _fingers(picture: Image.Image, rng: np.random.Generator) -> None:
    side = picture.width
    skin = np.array([[224, 172, 140], [198, 134, 66], [141, 85, 36], [241, 194, 160]][rng.integers(4)])
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    drawn = ImageDraw.Draw(layer)
    width, start, step = side * rng.uniform(0.09, 0.16), rng.uniform(0, 0.5) * side, side * rng.uniform(0.1, 0.17)
    for finger in range(int(rng.integers(1, 5))):
        colour = tuple(int(v) for v in np.clip(skin + rng.integers(-12, 13, 3), 0, 255))
        x, length = start + finger * step, side * rng.uniform(0.25, 0.5)
        drawn.rounded_rectangle(
            (x, side - length, x + width, side + width),
            radius=width / 2,
            fill=(*colour, 255),
            outline=(*(v // 2 for v in colour), 160),
        )
    layer = layer.rotate(float(rng.choice([0, 90, 180, 270])) + rng.uniform(-20, 20), BILINEAR).filter(
        ImageFilter.GaussianBlur(0.8)
    )
    picture.paste(layer.convert("RGB"), (0, 0), layer.getchannel("A"))


def _bag(picture: Image.Image, rng: np.random.Generator) -> None:
    """Cover the picture with thin plastic: paler, with bright creases."""
    side = picture.width
    veil = Image.new("L", picture.size, int(rng.uniform(15, 80)))
    drawn = ImageDraw.Draw(veil)
    for _ in range(int(rng.integers(4, 16))):
        line = [tuple(v) for v in (rng.random((3, 2)) * side).tolist()]
        drawn.line(line, fill=int(rng.uniform(80, 220)), width=int(rng.integers(1, 4)))
    veil = veil.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2)))
    picture.paste(Image.new("RGB", picture.size, (245, 245, 245)), (0, 0), veil)


def random_view(pixels: np.ndarray, size: int, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Return a view of ``size`` x ``size`` pixels: a crop of 25 to 100 % of the area, turned, lit and degraded at random."""
    image = Image.fromarray(pixels)
    if rng.random() < 0.2:
        image = image.rotate(
            rng.uniform(-25, 25) if rng.random() < 0.7 else float(rng.choice([90, 180, 270])),
            BILINEAR,
            expand=False,
            fillcolor=tuple(int(v) for v in pixels[0, 0]),
        )
    width, height = image.size
    area, ratio = rng.uniform(1 - 0.75 * strength, 1.0) * width * height, np.exp(rng.uniform(-0.3, 0.3))
    w, h = min(width, np.sqrt(area * ratio)), min(height, np.sqrt(area / ratio))
    if rng.random() < 0.5:  # squares keep shapes; long photos lose their ends, as at test time
        w = h = min(w, h)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    image = image.resize(
        (size, size), BICUBIC if rng.random() < 0.7 else BILINEAR, box=(x, y, x + w, y + h), reducing_gap=2
    )
    if rng.random() < 0.15:  # a photo that once was small
        small = int(size * rng.uniform(0.3, 0.8))
        image = image.resize((small, small), BILINEAR).resize((size, size), BICUBIC)
    if rng.random() < 0.1:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.25:
        saved = io.BytesIO()
        image.save(saved, "JPEG", quality=int(rng.integers(25, 90)))
        image = Image.open(saved)
    view = np.asarray(image)
    return view[:, ::-1] if rng.random() < 0.5 else view


def random_light(views: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change light, contrast, saturation and white balance of a batch, uint8 (batch, height, width, 3), each photo on its own."""
    n = len(views)
    shape = (n, 1, 1, 1)
    x = views.astype(np.float32)
    changed = rng.random(shape) < 0.8
    balance = np.exp(rng.normal(0, 0.07, (n, 1, 1, 3)) + rng.normal(0, 0.08, shape) * np.array([1.0, 0.0, -1.0]))
    gain = np.exp(rng.uniform(-0.35, 0.35, shape)) * balance
    y = x * np.where(changed, gain, 1.0).astype(np.float32)
    mean = y.mean((1, 2), keepdims=True).mean(3, keepdims=True)
    y = (y - mean) * np.where(changed, rng.uniform(0.65, 1.3, shape), 1.0).astype(np.float32) + mean
    grey = y.mean(3, keepdims=True)
    y = grey + (y - grey) * np.where(changed, rng.uniform(0.65, 1.35, shape), 1.0).astype(np.float32)
    noisy = rng.random(n) < 0.1
    if noisy.any():
        y[noisy] += rng.normal(0, 6, y[noisy].shape).astype(np.float32)
    return np.clip(y, 0, 255).astype(np.uint8)
