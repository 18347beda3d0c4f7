"""From labelled photos to trained weights: SGD with a one-cycle rate from random weights, nothing pretrained."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from augment import random_views
from network import SmallResidualNetwork

BATCH = 128
PEAK_RATE = 0.2
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1


def train(
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    small_epochs: int = 0,
    seed: int = 0,
    weights: Path | None = None,
) -> SmallResidualNetwork:
    """Train the network and return it in evaluation mode.

    Parameters
    ----------
    pixels : uint8 array, shape (n, size, size, 3)
    labels : int array, shape (n,), values 0 to c - 1
    epochs : int
        Passes over the photos.
    small_epochs : int
        How many of them, the first ones, see the photos at 3/5 of the size: nearly as instructive, at a third of the cost.
    seed : int
        Of weights, order and views. The result still depends on the number of threads, by rounding.
    weights : Path, optional
        Trained weights: load them instead of training.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    photos, targets = torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))
    network = SmallResidualNetwork(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network.eval()
    network.train()
    n, size = photos.shape[:2]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        momentum=0.9,
        nesterov=True,
    )
    steps = n // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=epochs * steps, pct_start=0.25)
    for epoch in range(epochs):
        started, total, right = time.monotonic(), 0.0, 0
        order = torch.randperm(n, generator=generator)
        side = size * 3 // 5 if epoch < small_epochs else size
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            logits = network(random_views(photos[chosen], side, generator))
            loss = F.cross_entropy(logits, targets[chosen], label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
            right += int((logits.argmax(1) == targets[chosen]).sum())
        print(
            f"epoch {epoch + 1}/{epochs} at {side}: loss {total / steps:.3f}, "
            f"training accuracy {right / (steps * BATCH):.4f}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    return network.eval()
