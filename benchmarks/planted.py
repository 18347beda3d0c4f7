"""Plant faults in a copy of labelled photos and count which of them `fruits audit` finds, and what it claims besides.

    python -m benchmarks.planted ../shared/fruits-360 --to /tmp/planted [--backbone FILE]

200 training photos get another label, 100 training photos are copied into the test split byte for byte, and 100 retouched:
scaled to 92 %, cut by 3 %, 5 % lighter, saved at quality 72; other numbers than those from which the audit derives its threshold.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from fruits.assessment.audit import audit
from fruits.config import RunConfig
from fruits.photos.catalogue.catalogue import list_photos

RELABELLED, EXACT, NEAR = 200, 100, 100


def main() -> None:
    """Plant, audit, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--to", type=Path, default=Path(tempfile.gettempdir()) / "planted")
    parser.add_argument("--backbone", default="fruits-small")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.to / "photos", ignore_errors=True)
    planted = plant(arguments.photos, arguments.to / "photos")
    config = RunConfig(
        sources=(str(arguments.to / "photos"),), out=str(arguments.to / "audit"), backbone=arguments.backbone
    )
    record = audit(config)
    table = pq.read_table(arguments.to / "audit" / "findings.parquet").to_pylist()
    print(json.dumps(count(planted, table) | {"seconds": record["seconds"], "counts": record["counts"]}, indent=1))


def plant(source: str, to: Path) -> dict[str, dict[str, str]]:
    """Make a copy with faults; return for each sort the planted paths with what they were made of or labelled before."""
    rows = list_photos([source]).table.select(["uri", "label", "split"]).to_pylist()
    rng = np.random.default_rng(0)
    train = [row for row in rows if row["split"] == "train"]
    chosen = iter(rng.permutation(len(train)).tolist())
    labels = sorted({row["label"] for row in train})
    planted: dict[str, dict[str, str]] = {"label": {}, "exact": {}, "near": {}}
    moved = {}
    for _ in range(RELABELLED):
        row = train[next(chosen)]
        other = str(rng.choice([label for label in labels if label != row["label"]]))
        target = to / "Training" / other / f"moved {len(moved)} {Path(row['uri']).name}"
        moved[row["uri"]] = target
        planted["label"][str(target)] = row["label"]
    for sort, number in (("exact", EXACT), ("near", NEAR)):
        for place in range(number):
            row = train[next(chosen)]
            target = to / "Test" / row["label"] / f"{sort} {place}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            data = Path(row["uri"]).read_bytes()
            target.write_bytes(data if sort == "exact" else retouch(data))
            planted[sort][str(target)] = str(to / "Training" / row["label"] / Path(row["uri"]).name)
    for row in rows:
        folder = "Training" if row["split"] == "train" else "Test"
        target = moved.get(row["uri"], to / folder / row["label"] / Path(row["uri"]).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(row["uri"])
    return planted


def retouch(data: bytes) -> bytes:
    """Return a copy that anybody would call the same photo."""
    image = Image.open(BytesIO(data)).convert("RGB")
    width, height = image.size
    image = image.crop((2, 1, width - 1, height - 2)).resize(
        (round(width * 0.92), round(height * 0.92)), Image.Resampling.BICUBIC
    )
    out = BytesIO()
    image.point(lambda value: min(255, round(value * 1.05))).save(out, "JPEG", quality=72)
    return out.getvalue()


def count(planted: dict[str, dict[str, str]], table: list[dict[str, str]]) -> dict[str, object]:
    """Return found and wrongly claimed, by sort."""
    labels = {row["uri"]: row for row in table if row["sort"] == "label"}
    exact = {row["uri"] for row in table if row["sort"] == "exact_duplicate"}
    near = [row for row in table if row["sort"] == "near_duplicate" and row["other_uri"]]
    sequence = _sequence
    partners = {row["uri"]: row["other_uri"] for row in near}
    copies = planted["near"]
    found_near = [
        copy
        for copy, original in copies.items()
        if copy in partners and sequence(copies, partners[copy]) == sequence(copies, original)
    ]
    other_sequence = [
        row
        for row in near
        if sequence(copies, row["uri"]) != sequence(copies, row["other_uri"]) and not _planted(planted, row)
    ]
    return {
        "relabelled": {
            "planted": len(planted["label"]),
            "found": sum(uri in labels for uri in planted["label"]),
            "with the right suggestion": sum(
                labels[uri]["suggested"] == was for uri, was in planted["label"].items() if uri in labels
            ),
            "claimed besides": len(set(labels) - set(planted["label"])),
        },
        "exact duplicates": {
            "planted": len(planted["exact"]),
            "found": sum(copy in exact and original in exact for copy, original in planted["exact"].items()),
            "claimed besides": len(exact - set(planted["exact"]) - set(planted["exact"].values())),
        },
        "near-duplicates": {
            "planted": len(copies),
            "found": len([copy for copy in copies if copy in partners]),
            "found beside a frame of the same sequence": len(found_near),
            "found, the very original named": sum(partners.get(copy) == original for copy, original in copies.items()),
            "photos claimed in all": len(near),
            "of these, beside a photo of another sequence": len(other_sequence),
            "of these, beside a photo of another label": sum(row["across_labels"] for row in other_sequence),
        },
    }


def _sequence(copies: dict[str, str], uri: str) -> tuple[str, str]:
    """Return label and axis of a photo of Fruits-360; a copy is of its original's sequence."""
    path = Path(copies.get(uri, uri))
    name = path.name.split(" ")[-1]
    return path.parent.name, name.split("_")[0] if name.startswith("r") else ""


def _planted(planted: dict[str, dict[str, str]], row: dict[str, str]) -> bool:
    return any(uri in planted["label"] for uri in (row["uri"], row["other_uri"]))


if __name__ == "__main__":
    main()
