"""Makes ``fruits-photo``, the network for photos that people take, and the recogniser that ships.

    python -m pip install -e '.[train]'
    python backbones/photo train ../shared --left-out fold-1 --work build/photo-1   # the twin: knows nothing of some sources
    python backbones/photo train ../shared --work build/photo                       # the network itself
    python backbones/photo train ../shared --after build/photo --work build/photo-2         # more steps, from those weights
    python backbones/photo export ../shared --left-out fold-1 --work build/photo-1  # int8, with card; the same for build/photo
    python backbones/photo judge ../shared --left-out fold-1 --work build/photo-1   # what to expect of a new source
    python backbones/photo recogniser ../shared --work build/photo --twin build/photo-1 --left-out fold-1 --to build/recogniser
    python backbones/photo several ../shared --left-out fold-1 --work build/photo-1   # several kinds in one picture, by the twin
    python backbones/photo labels ../shared --work build/photo                      # lists wrong labels for the next training

``train`` goes on from its checkpoint, on a GPU if there is one. Everything else takes minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import torch
from calibrate import across_sources, calibrate
from card import NAME, write_card
from data import GROCERY, TURNTABLE, Photo, collect, decode, identity, of_sources
from fit import Recipe, fit
from judge import confusions, score
from labels import find, write
from recogniser import Embedded, Fitted, Layers, embed, embed_backgrounds, embed_pictures, save
from recogniser import fit as fit_head

from fruits.embedding.backbone import Backbone, find_backbone
from fruits.learning.metrics import wilson_interval
from fruits.photos.decoding.images import Preprocessing, to_network_input
from fruits.recogniser import bundle as bundles
from network import Lite

# What both networks share is beside this folder; ``network`` and ``export`` are still those in it.
sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.scenes import scenes

from export import to_onnx
from onnx_graph import quantise
from several import measure

#: Every source but the two largest is left out once.
FOLDS = {
    "fold-1": (
        "own-fruteria", "own-lanshi", "own-jetson", "web-hellonico", "web-paddle", "web-fids30", "web-shopa", "orchard-pear",
    ),
    "fold-2": (
        "own-cande", "own-alenunez", "own-msiot", "web-artha", "web-khowpod", "web-agtheo", "web-rawripe", "web-shopb",
        "orchard-apple", "orchard-cherry",
    ),
}  # fmt: skip
#: Also judged on: validation photos of a set whose training photos were learnt.
VALIDATION = "grocery-store/val"
CALIBRATION_PHOTOS = 512
#: Share of each collection among the photos drawn, where few real photos are left.
STATED_SHARES = {"real": 0.1, GROCERY: 0.5, TURNTABLE: 0.4}


def main() -> None:
    """Parse and run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "export", "judge", "recogniser", "several", "labels"])
    parser.add_argument("shared", type=Path, help="the folder with real-photos, grocery-store and fruits-360")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--left-out", nargs="*", default=[], help="sources, or the name of a fold")
    parser.add_argument("--stated-licences", action="store_true", help="train from sources with a stated licence alone")
    parser.add_argument(
        "--every-label",
        action="store_true",
        help="with the photos of wrong_labels.txt; the network must have been trained so",
    )
    parser.add_argument("--after", type=Path, help="train: --work folder of the training to go on from")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other values of the recipe")
    parser.add_argument("--size", type=int, default=224, help="side of the input when judging and in the recogniser")
    parser.add_argument("--twin", type=Path, help="recogniser: --work folder of the network made without --left-out")
    parser.add_argument("--pictures", type=int, default=100, help="several: pictures of each number of kinds")
    parser.add_argument("--to", type=Path, help="recogniser: folder of the bundle; export: folder of network and card")
    arguments = parser.parse_args()
    arguments.left_out = [source for name in arguments.left_out for source in FOLDS.get(name, (name,))]
    commands = {
        "train": train, "export": export, "judge": judge, "recogniser": recogniser, "several": several, "labels": labels,
    }  # fmt: skip
    commands[arguments.command](arguments)


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune; leave the averaged weights in the checkpoint."""
    values = dict(pair.split("=") for pair in arguments.set)
    recipe = replace(Recipe(), steps=arguments.steps)
    if arguments.stated_licences:
        recipe = replace(recipe, shares=STATED_SHARES)
    recipe = replace(recipe, **{name: type(getattr(recipe, name))(value) for name, value in values.items()})
    earlier = arguments.after and arguments.after / "checkpoint.pt"
    if earlier:
        recipe = replace(recipe, after=sha256(earlier.read_bytes()).hexdigest())
    photos = _photos(arguments)
    print(f"{_counted(photos)}; {recipe}", flush=True)
    fit(photos, decode(photos), recipe, arguments.work / "checkpoint.pt", earlier)


def export(arguments: argparse.Namespace) -> None:
    """Write the network as float32 and int8 ONNX, with its card and the list of the photos it has seen."""
    state = torch.load(arguments.work / "checkpoint.pt", weights_only=True, map_location="cpu")
    photos = _photos(arguments)
    _same_photos(arguments.work, state["made_by"], photos)
    network = Lite(
        state["made_by"]["recipe"]["variant"], {task: len(names) for task, names in state["made_by"]["names"].items()}
    )
    network.load_state_dict(state["average"])
    to = arguments.to or arguments.work
    to.mkdir(parents=True, exist_ok=True)
    floating, target = arguments.work / f"{NAME}-float32.onnx", to / f"{NAME}.onnx"
    onnx.save(to_onnx(network.eval(), NAME), floating)
    people = [photo for photo in photos if not photo.white]
    chosen = np.random.default_rng(0).permutation(len(people))[:CALIBRATION_PHOTOS]
    preprocessing = Preprocessing(192, "crop")
    pixels = np.stack([to_network_input(people[i].path.read_bytes(), preprocessing).pixels for i in chosen])
    pixels[0, :8, :8], pixels[0, :8, 8:16] = 0, 255  # all values that a pixel can have
    quantise(floating, target, [pixels[i : i + 16] for i in range(0, len(pixels), 16)], ("Conv", "Add", "Clip"))
    write_card(target, photos, state["made_by"]["recipe"], state["step"])
    print(f"{target}: {target.stat().st_size:,} bytes of {state['step']:,} steps; float32 in {floating}")


def judge(arguments: argparse.Namespace) -> None:
    """Print how well kinds of the sources left out are named by the recogniser that would ship."""
    backbone = find_backbone(str(arguments.work / f"{NAME}.onnx"))
    asked = embed(
        backbone, of_sources(arguments.shared, [*arguments.left_out, VALIDATION]), arguments.size, arguments.work
    )
    learnt = embed(backbone, _photos(arguments), arguments.size, arguments.work)
    fitted = _fitted(arguments.work, backbone, learnt, arguments.size)
    by_kind = fitted.taxonomy.by_kind(fitted.head.predict_proba(fitted.features(asked.vectors)))
    logits, kinds = np.log(by_kind + 1e-30), list(fitted.taxonomy.kind_ids)
    print("source, photos, right kind first (95 % interval), among three (95 % interval), first by kind")
    for source, found in score(logits, asked.photos, kinds, [VALIDATION]).items():
        n = int(found["n"])
        shares = []
        for share in (found["first"], found["three"]):
            low, high = wilson_interval(round(share * n), n)
            shares.append(f"{share:.3f} ({low:.3f} to {high:.3f})")
        print(f"{source:18} {n:5} {shares[0]} {shares[1]} {found['kinds']:.3f}")
    print("most frequent errors:", *confusions(logits, asked.photos, kinds), sep="\n")


def recogniser(arguments: argparse.Namespace) -> None:
    """Fit and calibrate the recogniser that ships, and write its bundle."""
    backbone, twin = (find_backbone(str(folder / f"{NAME}.onnx")) for folder in (arguments.work, arguments.twin))
    without = embed(twin, _photos(arguments), arguments.size, arguments.twin)
    left_out = embed(twin, of_sources(arguments.shared, arguments.left_out), arguments.size, arguments.twin)
    fitted = _fitted(arguments.twin, twin, without, arguments.size)
    calibration = calibrate(fitted, left_out)
    nothing = embed_pictures(twin, [picture for _, picture in scenes(300)], arguments.size)
    checked = across_sources(fitted, left_out, nothing)
    print("limits derived on the other sources and applied to one:", json.dumps(checked, indent=1))
    print(
        json.dumps(
            {**calibration.report, "limits": [calibration.kind, calibration.probable, calibration.ood_limit]}, indent=1
        )
    )
    every = collect(arguments.shared, every_label=arguments.every_label)
    learnt = embed(backbone, every, arguments.size, arguments.work)
    fitted = _fitted(arguments.work, backbone, learnt, arguments.size)
    about = {
        "made_by": "backbones/photo recogniser",
        "photos": _counted(learnt.photos),
        "components": fitted.components,
        "calibrated_on": {"sources left out of a twin": sorted(arguments.left_out), **calibration.report},
        "limits_of_other_sources": checked["all"],
        "look_alikes": calibration.look_alikes,
        "twin": asdict(twin.card)["sha256"],
    }
    save(arguments.to, backbone, arguments.size, fitted, learnt, calibration, about)
    pictures = [picture for _, picture in scenes(300)]
    named = sum(answer.name is not None for answer in bundles.load(arguments.to).recognise(pictures))
    print(
        f"{arguments.to}: {len(fitted.taxonomy.labels)} labels, {len(fitted.taxonomy.kinds)} kinds, k {fitted.components}; "
        f"of {len(pictures)} pictures without fruit {named} get a name"
    )


def several(arguments: argparse.Namespace) -> None:
    """Print how many kinds are found, rightly named and invented in pictures composed of photos of the sources left out."""
    bundle = arguments.work / "recogniser"
    if not bundle.exists():
        twin = find_backbone(str(arguments.work / f"{NAME}.onnx"))
        learnt = embed(twin, _photos(arguments), arguments.size, arguments.work)
        left_out = embed(twin, of_sources(arguments.shared, arguments.left_out), arguments.size, arguments.work)
        fitted = _fitted(arguments.work, twin, learnt, arguments.size)
        about = {"made_by": "backbones/photo several", "left_out": sorted(arguments.left_out)}
        save(bundle, twin, arguments.size, fitted, learnt, calibrate(fitted, left_out), about)
    measure(bundle, of_sources(arguments.shared, arguments.left_out), arguments.pictures, seed=1)


def labels(arguments: argparse.Namespace) -> None:
    """List web photos with a wrong label, by the embeddings of a network that was trained on every label."""
    backbone = find_backbone(str(arguments.work / f"{NAME}.onnx"))
    write(find(embed(backbone, collect(arguments.shared, every_label=True), arguments.size, arguments.work)))


def _fitted(work: Path, backbone: Backbone, learnt: Embedded, size: int) -> Fitted:
    checkpoint = work / "checkpoint.pt"
    _same_photos(work, torch.load(checkpoint, weights_only=True, map_location="cpu")["made_by"], learnt.photos)
    return fit_head(learnt, Layers.load(checkpoint), embed_backgrounds(backbone, learnt.photos, size))


def _same_photos(work: Path, made_by: dict, photos: list[Photo]) -> None:
    """Refuse other photos than a network was trained on; checkpoints of before 2026-11-29 do not say on which."""
    if made_by.get("photos") not in (None, identity(photos)):
        raise SystemExit(
            f"the network in {work} was trained on other photos than these {len(photos):,}; give the same --left-out, "
            "--stated-licences and --every-label as for train"
        )


def _photos(arguments: argparse.Namespace) -> list[Photo]:
    return collect(
        arguments.shared, left_out=arguments.left_out, stated_only=arguments.stated_licences,
        every_label=arguments.every_label,
    )  # fmt: skip


def _counted(photos: list[Photo]) -> str:
    kinds, sources = len({photo.kind for photo in photos}), len({photo.source for photo in photos})
    return f"{len(photos):,} photos of {kinds} kinds in {sources} sources"


if __name__ == "__main__":
    main()
