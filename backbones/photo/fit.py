"""Fine-tuning: batches that any process can make again from their number, AdamW with a cosine, averaged weights, checkpoints.

What is drawn is balanced: first a collection, then a kind (by the root of its count), then a source of it (by the root, too),
then a photo. Classification layers: ``kind`` for all photos, ``grocery`` and ``turntable`` for the varieties of the two
published sets, so that the embedding keeps what tells varieties apart.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from data import GROCERY, TURNTABLE, Photo, identity
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from views import composite, cut_out, generated_background, random_light, random_view, real_background

from network import Lite, pretrained, scaled

NO_TASK = -1


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights, besides the photos."""

    variant: str = "lite0"
    steps: int = 4000
    batch: int = 32
    rate: float = 2.5e-4
    head_rate: float = 2e-3
    decay: float = 0.02
    smoothing: float = 0.1
    average: float = 0.998
    sizes: tuple[int, ...] = (128, 144, 160, 176)
    shares: dict[str, float] = field(default_factory=lambda: {"real": 0.62, GROCERY: 0.13, TURNTABLE: 0.25})
    composited: float = 0.5
    strength: float = 1.0
    seed: int = 0
    after: str = ""  # sha256 of the checkpoint that this training goes on from, with a new cosine


class Batches(Dataset):
    """Batch number -> (views, {task: targets}); the same number gives the same batch in any process."""

    def __init__(self, photos: list[Photo], pixels: list[np.ndarray], recipe: Recipe) -> None:
        self.photos, self.pixels, self.recipe = photos, pixels, recipe
        self.names = task_names(photos)
        number = {task: {name: i for i, name in enumerate(names)} for task, names in self.names.items()}
        self.targets = {
            task: np.array([number[task].get(_name(photo, task), NO_TASK) for photo in photos]) for task in self.names
        }
        groups: dict[str, dict[str, dict[str, list[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for i, photo in enumerate(photos):
            collection = photo.source if photo.source in (GROCERY, TURNTABLE) else "real"
            groups[collection][photo.kind if collection == "real" else photo.variety][photo.source].append(i)
        self.groups = {
            collection: [[np.array(members) for members in sources.values()] for sources in classes.values()]
            for collection, classes in groups.items()
        }
        self.white = defaultdict(list)
        for i, photo in enumerate(photos):
            if photo.white:
                self.white[(photo.source == TURNTABLE, photo.variety or photo.kind)].append(i)
        self.real = np.array([i for i, photo in enumerate(photos) if photo.source not in (GROCERY, TURNTABLE)])

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, number: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, number])
        size = int(rng.choice(recipe.sizes))
        chosen = [self._draw(rng) for _ in range(recipe.batch)]
        views = np.stack([self._view(i, size, rng) for i in chosen])
        views = random_light(views, rng)
        return torch.from_numpy(views), {
            task: torch.from_numpy(targets[chosen]) for task, targets in self.targets.items()
        }

    def _draw(self, rng: np.random.Generator) -> int:
        collections = list(self.groups)
        collection = collections[_weighted([self.recipe.shares[name] for name in collections], rng)]
        classes = self.groups[collection]
        power = 0.0 if collection == TURNTABLE else 0.5
        sources = classes[_weighted([sum(map(len, sources)) ** power for sources in classes], rng)]
        members = sources[_weighted([len(members) ** 0.5 for members in sources], rng)]
        return int(members[_weighted([self.photos[i].weight for i in members], rng)])

    def _view(self, i: int, size: int, rng: np.random.Generator) -> np.ndarray:
        photo = self.photos[i]
        pixels, strength = self.pixels[i], self.recipe.strength
        if photo.white and rng.random() < self.recipe.composited:
            candidates = self.white[(photo.source == TURNTABLE, photo.variety or photo.kind)]
            others = [i, *(int(j) for j in rng.choice(candidates, min(2, len(candidates))))]
            side = size + 24
            background = (
                real_background(self.pixels[int(rng.choice(self.real))], side, rng)
                if len(self.real) and rng.random() < 0.45
                else generated_background(side, rng)
            )
            pixels = composite([(self.pixels[j], cut_out(self.pixels[j])) for j in others], background, rng)
            strength *= 0.6
        elif photo.source == TURNTABLE:
            strength *= 0.6
        return random_view(pixels, size, rng, strength=strength)


def task_names(photos: list[Photo]) -> dict[str, list[str]]:
    """Return the classes of each task that the photos have."""
    names = {task: sorted({_name(photo, task) for photo in photos} - {""}) for task in ("kind", "grocery", "turntable")}
    return {task: classes for task, classes in names.items() if classes}


def _name(photo: Photo, task: str) -> str:
    if task == "kind":
        return photo.kind
    return photo.variety if photo.source == {"grocery": GROCERY, "turntable": TURNTABLE}[task] else ""


def _weighted(weights: list[float], rng: np.random.Generator) -> int:
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def fit(
    photos: list[Photo], pixels: list[np.ndarray], recipe: Recipe, checkpoint: Path, earlier: Path | None = None
) -> tuple[Lite, dict[str, list[str]]]:
    """Return the averaged network, in evaluation mode, and the names of its tasks.

    Goes on from ``checkpoint`` if it is of the same recipe and the same classes; writes it every few minutes. A new training
    begins with the averaged weights of the checkpoint ``earlier``, if given, else with the published ImageNet weights.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    batches = Batches(photos, pixels, recipe)
    network = pretrained(recipe.variant, {task: len(names) for task, names in batches.names.items()}).to(device)
    average = pretrained(recipe.variant, {task: len(names) for task, names in batches.names.items()}).to(device)
    if earlier:
        state = torch.load(earlier, weights_only=True, map_location=device)
        if state["made_by"]["names"] != batches.names:
            raise SystemExit(f"{earlier} knows other classes than these photos have; train from the start instead")
        network.load_state_dict(state["average"])
        average.load_state_dict(state["average"])
    heads = list(network.heads.parameters())
    known = {id(p) for p in heads}
    body = [p for p in network.parameters() if id(p) not in known]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in body if p.ndim > 1], "lr": recipe.rate, "weight_decay": recipe.decay},
            {"params": [p for p in body if p.ndim <= 1], "lr": recipe.rate, "weight_decay": 0.0},
            {"params": heads, "lr": recipe.head_rate, "weight_decay": recipe.decay},
        ]
    )
    warm = min(100, recipe.steps // 10)

    def factor(step: int) -> float:
        return (
            (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (recipe.steps - warm)))
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    start, made_by = 0, {"recipe": asdict(recipe), "names": batches.names, "photos": identity(photos)}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if state["made_by"] != _plain(made_by):
            raise SystemExit(f"{checkpoint} is of another recipe or other photos; give another --work folder")
        start = state["step"]
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    loader = DataLoader(batches, batch_size=None, sampler=range(start, recipe.steps), num_workers=1, prefetch_factor=6)
    saved = shown = time.monotonic()
    total, right = 0.0, 0
    network.train()
    for step, (views, targets) in enumerate(loader, start):
        x = scaled(views.to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            _, logits = network(x)
        loss = torch.zeros((), device=device)
        for task, wanted in targets.items():
            there = (wanted != NO_TASK).to(device)
            if there.any():
                part = F.cross_entropy(
                    logits[task].float()[there],
                    wanted.to(device)[there],
                    label_smoothing=recipe.smoothing,
                    reduction="sum",
                )
                loss = loss + part / len(wanted) * (1.0 if task == "kind" else 0.5)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        decay = min(recipe.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        total += loss.item()
        right += int((logits["kind"].argmax(1).cpu() == targets["kind"]).sum())
        if (step + 1) % 100 == 0:
            now = time.monotonic()
            rate = 100 * recipe.batch / (now - shown)
            print(
                f"step {step + 1}/{recipe.steps}: loss {total / 100:.3f}, "
                f"kinds right {right / 100 / recipe.batch:.3f}, {rate:.0f} photos/s",
                flush=True,
            )
            total, right, shown = 0.0, 0, now
        if time.monotonic() - saved > 180 or step + 1 == recipe.steps:
            _save(checkpoint, {
                "made_by": _plain(made_by), "step": step + 1, "network": network.state_dict(), "average": average.state_dict(),
                "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
            })  # fmt: skip
            saved = time.monotonic()
    return average.eval().cpu(), batches.names


def _plain(made_by: dict) -> dict:
    recipe = {key: list(value) if isinstance(value, tuple) else value for key, value in made_by["recipe"].items()}
    return {**made_by, "recipe": recipe}


def _save(checkpoint: Path, state: dict) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    unfinished = checkpoint.with_suffix(".new")
    torch.save(state, unfinished)
    unfinished.replace(checkpoint)
