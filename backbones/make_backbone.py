"""Makes the embedded backbone: from labelled photos to ``fruits-small.onnx`` and its card.

    python -m pip install -e '.[train]'
    python backbones/make_backbone.py ../shared/fruits-360 --to src/fruits/embedding/backbones

Only training photos are looked at, also for calibrating the quantisation. The float32 network is kept beside the checkpoint in
the working folder, so that the two can be compared. Started again, it goes on from the checkpoint.

    python backbones/make_backbone.py ../shared/fruits-360 --half --work build/half --to build/half

makes a network from every second frame of each image sequence: `fruits run` with it shows how well the others are embedded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx

from export import to_onnx
from fruits.embedding.backbone import Backbone
from fruits.embedding.card import parse_card
from fruits.photos.catalogue.catalogue import list_photos
from fruits.photos.decoding.images import Preprocessing, to_network_input
from network import EMBEDDING_SIZE
from onnx_graph import quantise
from train import train

NAME = "fruits-small"
SIZE = 100
EPOCHS, SMALL_EPOCHS = 40, 16
CALIBRATION_PHOTOS = 512


def main() -> None:
    """Train, export, quantise, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a folder that `fruits run` would take")
    parser.add_argument("--to", type=Path, required=True, help="folder for the network and its card")
    parser.add_argument(
        "--work", type=Path, default=Path("build/backbone"), help="folder for weights and the float network"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--half", action="store_true", help="train on every second frame of each label only")
    arguments = parser.parse_args()

    pixels, labels, digests = load(arguments.photos, half=arguments.half)
    print(f"{len(pixels):,} training photos of {labels.max() + 1} labels")
    arguments.work.mkdir(parents=True, exist_ok=True)
    small_epochs = arguments.epochs * SMALL_EPOCHS // EPOCHS
    network = train(
        pixels, labels, epochs=arguments.epochs, small_epochs=small_epochs, checkpoint=arguments.work / f"{NAME}.pt"
    )

    float_file, target = arguments.work / f"{NAME}-float32.onnx", arguments.to / f"{NAME}.onnx"
    onnx.save(to_onnx(network), float_file)
    chosen = np.random.default_rng(0).permutation(len(pixels))[:CALIBRATION_PHOTOS]
    quantise(float_file, target, [pixels[chosen[i : i + 64]] for i in range(0, len(chosen), 64)])
    learnt_from = (
        f"{len(pixels):,} training photos of {Path(arguments.photos).resolve().name}"
        f"{', every second frame' if arguments.half else ''}, {arguments.epochs} epochs"
    )
    write_card(target, learnt_from)
    # Evaluations on these photos must know that the network was made from them.
    np.sort(np.array([int(digest[:16], 16) for digest in digests], ">u8")).tofile(target.with_suffix(".seen"))
    print(f"{target}: {target.stat().st_size:,} bytes; float32 in {float_file}")


def load(photos: str, *, half: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return pixels, uint8 of shape (n, SIZE, SIZE, 3), label numbers and sha256 of the training photos, in order.

    ``half``: without every second frame of each label, frames in the order of the numbers in their names.
    """
    table = list_photos([photos]).table
    rows = [row for row in table.select(["uri", "label", "split"]).to_pylist() if row["split"] == "train"]
    numbers = {label: number for number, label in enumerate(sorted({row["label"] for row in rows}))}
    if half:
        frames = sorted(rows, key=lambda row: (row["label"], _frame(row["uri"])))
        rows = frames[::2]
    pixels = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
    digests = []
    for photo, row in zip(pixels, rows, strict=True):
        data = Path(row["uri"]).read_bytes()
        photo[...] = to_network_input(data, Preprocessing(SIZE)).pixels
        digests.append(hashlib.sha256(data).hexdigest())
    return pixels, np.array([numbers[row["label"]] for row in rows]), digests


def _frame(uri: str) -> list[tuple[str, int]]:
    """Return what sorts the names of frames as filmed: r_2_100.jpg before r_10_100.jpg."""
    parts = re.findall(r"(\D*)(\d+)", uri.rpartition("/")[2])
    return [(text, int(number)) for text, number in parts]


def write_card(network: Path, learnt_from: str) -> None:
    """Write the card; what was measured is added by hand from the runs that measured it."""
    card_path = network.with_suffix(".json")
    figures = json.loads(card_path.read_text()).get("figures", {}) if card_path.exists() else {}
    card = {
        "name": NAME,
        "title": "Small residual network, int8, made from Fruits-360",
        "sha256": hashlib.sha256(network.read_bytes()).hexdigest(),
        "embedding_size": EMBEDDING_SIZE,
        "size": SIZE,
        "layout": "NHWC",
        "dtype": "uint8",
        "fit": "pad",
        "kernel": "bicubic",
        "licence": "CC-BY-SA-4.0",
        "attribution": (
            "Trained on Fruits-360, version 2020.05.18, by Horea Muresan and Mihai Oltean "
            "(Fruit recognition from images using deep learning, arXiv:1712.00580), CC BY-SA 4.0"
        ),
        "made_by": (
            f"backbones/make_backbone.py of fruits, from random weights, on {learnt_from}; no photo of its test was used"
        ),
        "training_data": f"Fruits-360, version 2020.05.18: {learnt_from}",
        "training_photos": f"{NAME}.seen",
        "backdrop": "white",
        "figures": figures,
    }
    card["reference"] = Backbone(parse_card(card), network.read_bytes()).reference(SIZE)
    card_path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
