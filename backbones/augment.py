"""Random views of a photo, made on whole batches: turn, flip, stretch, shift and colour."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def random_views(pixels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return one random view of each photo.

    Parameters
    ----------
    pixels : uint8 tensor, shape (batch, height, width, 3)
    size : int
        Height and width of the views.
    generator : torch.Generator
        Source of all randomness.

    Returns
    -------
    float32 tensor in [-1, 1], shape (batch, 3, size, size), channels last in memory
    """

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    n = len(pixels)
    # White is 0 here, so that what a turn uncovers is filled with the white background by zero padding.
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 2.0
    zoom, stretch = uniform(0.85, 1.15, n), uniform(1 / 1.15, 1.15, n)
    shape = torch.zeros(n, 2, 2)
    shape[:, 0, 0], shape[:, 1, 1] = zoom * stretch, zoom / stretch
    flip = torch.eye(2).repeat(n, 1, 1)
    flip[:, 0, 0] = torch.where(uniform(0, 1, n) < 0.5, -1.0, 1.0)
    # A turn before and after, so that the stretch has any direction.
    turned = _turns(uniform(-math.pi, math.pi, n)) @ shape @ _turns(uniform(-math.pi, math.pi, n)) @ flip
    shift = uniform(-0.08, 0.08, n, 2, 1)
    grid = F.affine_grid(torch.cat([turned, shift], dim=2), [n, 3, size, size], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + 1.0

    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * uniform(0.9, 1.1, n, 1, 1, 1)  # saturation
    x = x * uniform(0.92, 1.08, n, 1, 1, 1) + uniform(-0.05, 0.05, n, 1, 1, 1)  # contrast, brightness
    x = x * uniform(0.97, 1.03, n, 3, 1, 1)  # colour of the light
    return x.clamp(-1.0, 1.0).contiguous(memory_format=torch.channels_last)


def _turns(angles: torch.Tensor) -> torch.Tensor:
    """Return rotation matrices, shape (n, 2, 2)."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
