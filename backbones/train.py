"""From labelled photos to trained weights: SGD with a one-cycle rate from random weights, nothing pretrained.

What is returned is the running average of the weights over about 200 steps, which embeds photos that were not trained on better
than the last weights do. A checkpoint after every epoch allows training to resume.
"""

from __future__ import annotations

import copy
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
AVERAGE = 0.995


def train(
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    small_epochs: int = 0,
    seed: int = 0,
    checkpoint: Path,
) -> SmallResidualNetwork:
    """Train the network and return the average of its weights, in evaluation mode.

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
    checkpoint : Path
        File of the state after each epoch. Training goes on from it if it is there; of a finished training it is the result.

    Raises
    ------
    SystemExit
        If the checkpoint is of another number of photos, labels or epochs.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    photos, targets = torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))
    network = SmallResidualNetwork(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    network.train()
    average = copy.deepcopy(network)
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
    made_by = {"photos": n, "labels": int(labels.max()) + 1, "epochs": epochs, "small": small_epochs, "seed": seed}
    parts = {"network": network, "average": average, "optimiser": optimiser, "schedule": schedule}
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["made_by"] != made_by:
            raise SystemExit(f"{checkpoint} is of another training, {state['made_by']}; give another --work folder")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        generator.set_state(state["generator"])
        done = state["epoch"]
    for epoch in range(done, epochs):
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
            _follow(average, network)
            total += loss.item()
            right += int((logits.argmax(1) == targets[chosen]).sum())
        print(
            f"epoch {epoch + 1}/{epochs} at {side}: loss {total / steps:.3f}, "
            f"training accuracy {right / (steps * BATCH):.4f}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
        state = {name: part.state_dict() for name, part in parts.items()}
        unfinished = checkpoint.with_suffix(".new")
        torch.save({**state, "generator": generator.get_state(), "epoch": epoch + 1, "made_by": made_by}, unfinished)
        unfinished.replace(checkpoint)
    return average.eval()


@torch.no_grad()
def _follow(average: SmallResidualNetwork, network: SmallResidualNetwork) -> None:
    """Draw the average towards the network: weights, and the means and variances of batch norm."""
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - AVERAGE)
        else:
            mean.copy_(now)
