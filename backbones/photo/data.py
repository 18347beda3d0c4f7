"""Which photos the network is made from: kinds, varieties, sources and licences of three collections, decoded once.

Real photos (a manifest with ``label``, ``source``, ``background``, ``licence``), Grocery Store (its ``train`` alone) and
Fruits-360 (its ``Training`` alone). Test and validation photos of the two published sets are never opened.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fruits.recogniser.taxonomy import Taxonomy

#: Shorter side of a photo in memory, in pixels: what the largest training view needs.
SIDE = 208
GROCERY, TURNTABLE = "grocery-store", "fruits-360"
#: Two spellings of one kind in the real photos.
SAME = {"currant": "redcurrant"}
#: Licences that those who took the photos stated; the switch ``--stated-licences`` keeps these alone. That of a repository says
#: nothing about photos that its owner found on the web.
STATED = ("MIT", "CC BY 4.0", "CC BY-SA 4.0", "GPL-3.0", "MIT (repository of Microsoft, photos made for the course)")
#: Photos that show something else than their label says; see ``labels``.
WRONG_LABELS = Path(__file__).with_name("wrong_labels.txt")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and what it shows."""

    path: Path
    kind: str
    source: str
    licence: str
    variety: str = ""  # label within Grocery Store or Fruits-360
    white: bool = False  # on a white background, so that it can be cut out
    weight: float = 1.0  # how often it is drawn, against its like
    uri: str = ""  # within the real photos


def collect(
    shared: Path, *, left_out: Iterable[str] = (), stated_only: bool = False, every_label: bool = False
) -> list[Photo]:
    """Return every training photo but those of the sources left out, in a fixed order.

    Photos with a wrong label are left out too, unless ``every_label``: the first ``fruits-photo`` was trained with them.
    """
    photos = [*_real(shared / "real-photos"), *_grocery(shared / GROCERY), *_turntable(shared / TURNTABLE)]
    absent = set(left_out) - {photo.source for photo in photos}
    if absent:
        raise SystemExit(f"no such source: {', '.join(sorted(absent))}")
    wrong = set() if every_label else wrong_labels()
    kept = [photo for photo in photos if photo.source not in set(left_out) and photo.uri not in wrong]
    return [photo for photo in kept if photo.licence in STATED] if stated_only else kept


def identity(photos: Iterable[Photo]) -> str:
    """Return a digest of which photos these are and what they show, the same wherever the folder lies."""
    lines = sorted(f"{photo.source} {photo.kind} {'/'.join(photo.path.parts[-3:])}" for photo in photos)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def wrong_labels() -> set[str]:
    """Return the uris of real photos that are known to show something else than their label says."""
    lines = WRONG_LABELS.read_text("utf-8").splitlines() if WRONG_LABELS.exists() else []
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def of_sources(shared: Path, sources: Iterable[str]) -> list[Photo]:
    """Return the photos of some sources, to judge on; ``grocery-store/val`` gives the validation photos of that set."""
    wanted = set(sources)
    photos = [
        *_real(shared / "real-photos"),
        *_grocery(shared / GROCERY, "val"),
        *_turntable(shared / TURNTABLE, "Test"),
    ]
    return [photo for photo in photos if photo.source in wanted]


def _real(folder: Path) -> list[Photo]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        return [
            Photo(
                folder / row["uri"],
                SAME.get(row["label"], row["label"]),
                row["source"],
                row["licence"],
                white=row["background"] == "white",
                uri=row["uri"],
            )
            for row in csv.DictReader(lines)
        ]


def _grocery(folder: Path, part: str = "train") -> list[Photo]:
    with (folder / "classes.csv").open(encoding="utf-8", newline="") as lines:
        fine = {row["Class ID (int)"]: row["Class Name (str)"] for row in csv.DictReader(lines)}
    rows = [line.split(", ") for line in (folder / f"{part}.txt").read_text("utf-8").split("\n") if line.strip()]
    kinds = _kinds([fine[row[1]] for row in rows])
    source = GROCERY if part == "train" else f"{GROCERY}/{part}"
    return [
        Photo(folder / row[0], kind, source, "MIT", variety=fine[row[1]])
        for row, kind in zip(rows, kinds, strict=True)
        if (folder / row[0]).exists()
    ]


def _turntable(folder: Path, part: str = "Training") -> list[Photo]:
    files = sorted((folder / part).glob("*/*.jpg"))
    kinds = _kinds([file.parent.name for file in files])
    source = TURNTABLE if part == "Training" else f"{TURNTABLE}/{part}"
    return [
        Photo(file, kind, source, "CC BY-SA 4.0", variety=file.parent.name, white=True)
        for file, kind in zip(files, kinds, strict=True)
    ]


def _kinds(labels: list[str]) -> list[str]:
    names = sorted(set(labels))
    taxonomy = Taxonomy.of(names)
    kind = {name: taxonomy.kind_ids[number] for name, number in zip(names, taxonomy.kind_of, strict=True)}
    return [SAME.get(kind[label], kind[label]) for label in labels]


def decode(photos: list[Photo], side: int = SIDE) -> list[np.ndarray]:
    """Return the pixels of each photo, uint8 (height, width, 3), the shorter side at most ``side``."""

    def one(photo: Photo) -> np.ndarray:
        with Image.open(photo.path) as opened:
            image = opened.convert("RGB")
        shorter = min(image.size)
        if shorter > side:
            scale = side / shorter
            image = image.resize(
                (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC, reducing_gap=2
            )
        return np.asarray(image)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, photos))


def digests(photos: list[Photo]) -> np.ndarray:
    """Return the first 8 bytes of the sha256 of every photo, sorted, as big-endian numbers: what the card lists as seen."""
    return np.sort(np.array([int(hashlib.sha256(p.path.read_bytes()).hexdigest()[:16], 16) for p in photos], ">u8"))
