"""The embedded backbone as a torch module: a small residual network made for photos of one fruit.

A 5x5 stem with stride 5, then residual blocks of two 3x3 convolutions at 32, 64 and 128 channels (He et al. 2016), a 1x1
convolution to ``d`` and global average pooling. 0.9 M weights and 52 M multiply-adds at 100x100. Only plain convolutions,
ReLU and additions, because those are what int8 kernels do fastest; batch norm is folded away on export.
"""

from __future__ import annotations

import torch
from torch import nn

STEM = 5
STAGES = ((32, 2), (64, 2), (128, 2))
EMBEDDING_SIZE = 256


def conv_bn(n_in: int, n_out: int, size: int, stride: int = 1, padding: int | None = None) -> nn.Sequential:
    """Return a convolution without bias followed by batch norm; the pair that export folds into one convolution."""
    pad = size // 2 if padding is None else padding
    return nn.Sequential(nn.Conv2d(n_in, n_out, size, stride, pad, bias=False), nn.BatchNorm2d(n_out))


class Block(nn.Module):
    """Two 3x3 convolutions around an identity shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv_bn(width, width, 3)
        self.second = conv_bn(width, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class SmallResidualNetwork(nn.Module):
    """Pixels in [-1, 1], shape (batch, 3, height, width), to label logits, shape (batch, n_labels)."""

    def __init__(self, n_labels: int) -> None:
        super().__init__()
        self.stem = conv_bn(3, STAGES[0][0], STEM, stride=STEM, padding=0)
        self.stages = nn.ModuleList()
        before = STAGES[0][0]
        for width, depth in STAGES:
            stage = nn.Module()
            stage.down = conv_bn(before, width, 3, stride=2) if width != before else None
            stage.blocks = nn.ModuleList(Block(width) for _ in range(depth))
            self.stages.append(stage)
            before = width
        self.widen = conv_bn(before, EMBEDDING_SIZE, 1)
        self.head = nn.Linear(EMBEDDING_SIZE, n_labels)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the embedding, shape (batch, EMBEDDING_SIZE)."""
        x = torch.relu(self.stem(x))
        for stage in self.stages:
            if stage.down is not None:
                x = torch.relu(stage.down(x))
            for block in stage.blocks:
                x = block(x)
        return torch.relu(self.widen(x)).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))
