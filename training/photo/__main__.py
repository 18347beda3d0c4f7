"""Makes ``fruits-photo``, the network for photos that people take.

    python -m pip install -e '.[train]'
    python training/photo judge ../shared --left-out fold-1 --work build/photo-1     # for a new source
    python training/photo train ../shared --work build/photo

Each run goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from data import collect, decode, of_sources
from fit import Recipe, fit
from judge import confusions, logits_of, score

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


def main() -> None:
    """Parse and run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "judge"])
    parser.add_argument("shared", type=Path, help="the folder with real-photos, grocery-store and fruits-360")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--left-out", nargs="*", default=[], help="sources, or the name of a fold")
    parser.add_argument("--stated-licences", action="store_true", help="train from sources with a stated licence alone")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other values of the recipe")
    parser.add_argument("--sizes", type=int, nargs="*", default=[224])
    arguments = parser.parse_args()
    torch.set_num_threads(torch.get_num_threads())
    left_out = [source for name in arguments.left_out for source in FOLDS.get(name, (name,))]
    values = dict(pair.split("=") for pair in arguments.set)
    recipe = replace(Recipe(), steps=arguments.steps)
    recipe = replace(recipe, **{name: type(getattr(recipe, name))(value) for name, value in values.items()})
    photos = collect(arguments.shared, left_out=left_out, stated_only=arguments.stated_licences)
    print(
        f"{len(photos):,} photos of {len({p.kind for p in photos})} kinds in {len({p.source for p in photos})} sources; {recipe}",
        flush=True,
    )
    network, names = fit(photos, decode(photos), recipe, arguments.work / "checkpoint.pt")
    if arguments.command == "judge":
        judged = of_sources(arguments.shared, [*left_out, "grocery-store/val"])
        for size in arguments.sizes:
            logits, _ = logits_of(network, judged, size)
            table = score(logits, judged, names["kind"])
            (arguments.work / f"scores-{size}.json").write_text(json.dumps(table, indent=1))
            print(
                f"at {size}:",
                *(
                    f"{s:18} {v['n']:5} first {v['first']:.3f} three {v['three']:.3f} kinds {v['kinds']:.3f}"
                    for s, v in table.items()
                ),
                sep="\n",
            )
            print(*confusions(logits, judged, names["kind"]), sep="\n")


if __name__ == "__main__":
    main()
