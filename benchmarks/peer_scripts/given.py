"""What every peer is given, and what it gives back: ``python PEER.py SPEC``, a JSON file with network, photos and cores.

A peer prints one line of JSON: the seconds from its first photo to embeddings on the disk, and what it measured besides. Its
imports are not counted, its workers' are. Needs NumPy, Pillow and ONNX Runtime alone, so that it runs beside any peer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Given:
    """The specification that a peer is started with."""

    def __init__(self, path: str) -> None:
        self.path = path
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
        self.model: str = spec["model"]
        self.size: int = spec["size"]
        self.cores: int = spec["cores"]
        self.photos: list[str] = spec["photos"]
        self.labels: list[str] = spec["labels"]
        self.train: list[bool] = spec["train"]
        self.components: int = spec["components"]
        self.to: str = spec["to"]
        self._card: dict[str, Any] = spec["card"]

    def pixels(self, path: str) -> np.ndarray:
        """Read and decode one photo: uint8, shape (size, size, 3)."""
        with Image.open(path) as image:
            return self.fitted(image)

    def fitted(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC))

    def batch(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Return what the network takes, as its card says."""
        rows, card = np.stack(pixels), self._card
        if card["channels"] == "BGR":
            rows = rows[..., ::-1]
        if card["dtype"] == "float32":
            rows = rows.astype(np.float32) * np.float32(card["scale"]) + np.float32(card["shift"])
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2) if card["layout"] == "NCHW" else rows)

    def session(self, threads: int = 1) -> Network:
        return Network(self, threads)

    def save(self, rows: np.ndarray) -> None:
        np.save(self.to, rows)


class Network:
    """The network file in ONNX Runtime."""

    def __init__(self, given: Given, threads: int) -> None:
        import onnxruntime as ort  # noqa: PLC0415 - some peers open it in their workers alone

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        outputs = [one.name for one in self._session.get_outputs()]
        self._output = "embedding" if "embedding" in outputs else outputs[0]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run([self._output], {self._input: batch})[0], np.float32)


def given() -> Given:
    """Return what the process was started with, in a worker what its driver was started with."""
    return Given(os.environ.setdefault("PEER_SPEC", sys.argv[1]))


def batches(items: list[str], size: int = 32) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def started() -> float:
    return time.perf_counter()


def tell(since: float, packages: list[str], **more: Any) -> None:
    """Print the result: seconds since ``since``, and the releases that were measured."""
    seconds = time.perf_counter() - since
    print(json.dumps({"seconds": seconds, "versions": {name: version(name) for name in packages}, **more}), flush=True)
