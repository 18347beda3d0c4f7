"""Throughput per core: the reference measurement, that of a finished run, and scaling to other networks and photos.

The time of a photo is the sum of decoding (by bytes), inference (by network and input size) and the rest (read, hash, transfer,
store). The total is measured for one network and one kind of photo; other cases add the measured differences of these parts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from fruits.errors import ConfigError, counted

#: Mean size of the photos that were measured: Fruits-360, 100 x 100 pixels.
PHOTO_BYTES: Final = 4600.0
#: Core seconds per byte of a larger JPEG, decoded at reduced scale: 1.9 ms for 175 kB, 4.2 ms for 459 kB, 11 ms for 1.15 MB.
DECODE_S_PER_BYTE: Final = 1.0e-8
#: Core seconds per photo, by side of the input; docs/backbones.md, "photos per second and thread, inference alone".
INFERENCE_S: Final[Mapping[str, Mapping[int, float]]] = {
    "fruits-small": {100: 1 / 1240},
    # Measured as 0.29 of fruits-small's rate at 100 pixels on another machine, and scaled to the machine of the other figures.
    "fruits-photo": {100: 1 / 361, 224: 1 / 73},
    "mobilenet_v2_imagenet": {100: 1 / 267, 224: 1 / 68},
}
_REFERENCE: Final = "fruits-small"
#: Photos that choices, head, gallery and report learn from at most (fruits.learning.heads.MAX_ROWS).
LEARNT_PHOTOS: Final = 200_000
#: Steps of ``run.json`` that are passes over all photos on the executors.
_PASSES: Final = ("moments", "features", "leakage", "metrics")


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured rates, and their source.

    Attributes
    ----------
    photos_per_core_s : float
        Photos per second and core, through Spark: read, decode, infer, write.
    driver_s_per_photo : float
        Seconds of the driver alone: listing, sorting, planning.
    learning_s_per_photo : float
        The same: choices, head, gallery, report; of :data:`LEARNT_PHOTOS` at most.
    pass_core_s_per_photo : float
        Seconds of an executor's core: moments, features, leakage, metrics.
    head_core_s_per_photo : float
        The same: the head, which Spark fits on all photos if there are more than :data:`LEARNT_PHOTOS`.
    result_bytes_per_photo : float
        Bytes stored in OUT.
    source : str
    """

    photos_per_core_s: float
    driver_s_per_photo: float
    learning_s_per_photo: float
    pass_core_s_per_photo: float
    head_core_s_per_photo: float
    result_bytes_per_photo: float
    source: str

    def alone_s(self, photos: int) -> float:
        """Return the seconds for which the driver works alone."""
        return self.driver_s_per_photo * photos + self.learning_s_per_photo * min(photos, LEARNT_PHOTOS)

    def passes_core_s(self, photos: int) -> float:
        """Return the seconds of a core for all passes after the embeddings."""
        head_s = self.head_core_s_per_photo if photos > LEARNT_PHOTOS else 0.0
        return (self.pass_core_s_per_photo + head_s) * photos


#: To repeat the measurement: docs/aws.md, "Where the numbers come from".
MEASURED: Final = Rates(
    photos_per_core_s=703.0,
    # docs/scale.md, "Work", at 10^6 photos, two cores. Listing, sorting, planning: 13.9 us with fruits-small. With eight numbers
    # a photo 12.3, and 13.5 on Spark; 13.1 at 10^7 photos.
    driver_s_per_photo=14e-6,
    # Choices, head, gallery, report with fruits-small: 7.6 s, of a sample of 200,000.
    learning_s_per_photo=7.6 / LEARNT_PHOTOS,
    # Two cores: on Spark 29.4 us with eight numbers, and the 10.1 by which fruits-small takes longer on the local engine.
    pass_core_s_per_photo=2 * 39.5e-6,
    # Two cores: docs/benchmarks.md, "A million rows"; eight labels, and features of four numbers.
    head_core_s_per_photo=2 * 150e-6,
    result_bytes_per_photo=1200.0,
    source="docs/benchmarks.md: 26,300 photos of 100 x 100 through Spark on two cores in 18.7 s",
)


def rates_of(record: Mapping[str, Any], result_bytes: int | None = None) -> Rates:
    """Return the rates that a run measured, from its ``run.json``.

    The head of all photos is that of the run if it had one, on Spark; otherwise that of :data:`MEASURED`.

    Raises
    ------
    ConfigError
        If the run did not compute all of its embeddings, so that it has no rate.
    """
    timeline = record.get("timeline") or {}
    rate, photos = timeline.get("photos_per_core_s"), record.get("photos")
    if not rate or not photos or record.get("computed") != photos:
        raise ConfigError(
            "the run has no rate of its own (it computed nothing, or not all); expected a first run on its photos"
        )
    seconds, cores = record["seconds"], timeline["cores"]
    passes = sum(seconds.get(step, 0.0) for step in _PASSES)
    fits_all = photos > LEARNT_PHOTOS and record["engine"] == "spark"
    head = seconds.get("head", 0.0) if fits_all else 0.0
    other = seconds["catalogue"] + seconds["embeddings"] + seconds.get("engine", 0.0) + passes + head
    return Rates(
        photos_per_core_s=float(rate),
        driver_s_per_photo=seconds["catalogue"] / photos,
        learning_s_per_photo=max(0.0, seconds["total"] - other) / min(photos, LEARNT_PHOTOS),
        pass_core_s_per_photo=passes * cores / photos,
        head_core_s_per_photo=head * cores / photos if fits_all else MEASURED.head_core_s_per_photo,
        result_bytes_per_photo=result_bytes / photos if result_bytes else MEASURED.result_bytes_per_photo,
        source=f"run of {record['started']} on {counted(photos, 'photo')}",
    )


def read_rates(text: str | bytes, name: str) -> Rates:
    """Return the rates of a ``run.json``; ``name`` identifies it in messages."""
    try:
        return rates_of(json.loads(text))
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as exc:
        raise ConfigError(
            f"--rates-of '{name}' is no run.json ({exc}); expected that of a first run on its photos"
        ) from exc


def scaled(
    rates: Rates, *, backbone: str = _REFERENCE, size: int | None = None, photo_bytes: float = PHOTO_BYTES
) -> Rates:
    """Scale measured rates to another network, input size or photo size.

    Parameters
    ----------
    rates : Rates
        Rates of the embedded network on photos of :data:`PHOTO_BYTES`.
    backbone : str
        A name of :data:`INFERENCE_S`; or an ONNX file, which is measured on this machine relative to the embedded network.
    size : int, optional
        Side of its input; by default that of its card, the largest allowed.
    photo_bytes : float

    Raises
    ------
    ConfigError
        If there is no such network.
    """
    network, how = _inference_s(backbone, size)
    small, _ = _inference_s(_REFERENCE, None)
    decode = DECODE_S_PER_BYTE * (photo_bytes - PHOTO_BYTES)
    if network == small and abs(decode) < 1e-6:
        return rates
    # Smaller photos cannot save more than the cost of decoding.
    seconds = 1 / rates.photos_per_core_s + network - small + max(decode, -3e-5)
    words = f"{how}, {(network - small) * 1e3:+.2f} ms per photo; {photo_bytes / 1e3:,.1f} kB, {decode * 1e3:+.2f} ms"
    return replace(rates, photos_per_core_s=1 / seconds, source=f"{rates.source}; {words}")


def _inference_s(backbone: str, size: int | None) -> tuple[float, str]:
    """Return the core seconds per photo, and a description of the network."""
    if backbone.lower().endswith(".onnx"):
        return _measured_s(backbone, size)
    known = INFERENCE_S.get(backbone)
    if known is None:
        raise ConfigError(f"--backbone '{backbone}': expected {' or '.join(INFERENCE_S)}, or the path of an .onnx file")
    side = size or max(known)
    # Convolutions cost time per pixel: scale in proportion, or interpolate between two measured sizes.
    (low, least), (high, most) = min(known.items()), max(known.items())
    if low == high:
        seconds = least * (side / low) ** 2
    else:
        seconds = least + (most - least) * (side**2 - low**2) / (high**2 - low**2)
    return max(seconds, least * (side / low) ** 2 / 2), f"{backbone} at {side} x {side}"


def _measured_s(path: str, size: int | None) -> tuple[float, str]:
    """Measure a network on this machine relative to the embedded one, whose time on the reference machine is known."""
    import numpy as np  # noqa: PLC0415 - only where a network is measured

    from fruits.embedding.backbone import Embedder, find_backbone  # noqa: PLC0415

    def seconds(name: str, side: int | None) -> tuple[float, int]:
        found = find_backbone(name)
        preprocessing = found.card.preprocessing(side, None)
        network = Embedder(found.prepared(preprocessing))
        pixels = np.full((8, preprocessing.size, preprocessing.size, 3), 128, np.uint8)
        network.embed(pixels)
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            network.embed(pixels)
            best = min(best, time.process_time() - started)
        return max(best, 1e-6) / len(pixels), preprocessing.size

    own, side = seconds(path, size)
    reference, _ = seconds(_REFERENCE, None)
    return INFERENCE_S[_REFERENCE][100] * own / reference, f"'{path}' at {side} x {side}, measured here"
