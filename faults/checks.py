"""Is anything lost, doubled or wrong in what a run left? Compared with what an undisturbed run left.

Reads the files themselves, not through fruits: a mistake there must not hide itself. Photos are named by the end of their
uri, ``Training/<label>/<name>``, so that the results of a folder can be compared with those of a bucket.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from fruits.errors import StoreError
from fruits.storage.outputs.runs import find

#: What must be the same of every photo, beside the bits of its embedding.
COLUMNS = ("sha256", "width", "height", "brightness", "sharpness", "status", "error")
#: What must be the same of the recogniser: the numbers that were learnt.
LEARNT = ("mean.npy", "components.npy", "weights.npy", "bias.npy", "whitening.npy", "centres.npy", "background.npy")
_EXAMPLES = 3


@dataclass
class Verdict:
    """What is wrong with results: photos that are missing, photos that count twice, anything else."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wrong)

    def note(self, what: str, *, lost: int = 0, doubled: int = 0, wrong: int = 0) -> None:
        """Count something that is wrong."""
        self.lost += lost
        self.doubled += doubled
        self.wrong += wrong
        if lost or doubled or wrong:
            self.notes.append(what)

    def add(self, other: Verdict) -> None:
        """Count what another verdict found, too."""
        self.lost += other.lost
        self.doubled += other.doubled
        self.wrong += other.wrong
        self.notes += other.notes


@dataclass(frozen=True)
class Results:
    """All that a run left, as plain values.

    Attributes
    ----------
    record : dict
        ``run.json``.
    catalogue : list of str
        Names of the photos that were found.
    embeddings : dict
        By name, the rows of all files that the table names: usually one each.
    features : dict
        By name, the rows of ``features.parquet``.
    learnt : dict
        Checksums of the arrays in the bundle.
    identities : dict
        Of which run each file says it is.
    """

    record: dict[str, Any]
    catalogue: list[str]
    embeddings: dict[str, list[tuple[Hashable, ...]]]
    features: dict[str, list[tuple[Hashable, ...]]]
    learnt: dict[str, str]
    identities: dict[str, str | None]


def check(out: Path, expected: Results, *, to_the_bit: bool = True) -> Verdict:
    """Compare what is in a folder with the results of an undisturbed run.

    Parameters
    ----------
    out : Path
        Results, or a copy of them.
    expected : Results
        Of a run on the same photos with the same choices.
    to_the_bit : bool
        Whether features and arrays must be the same bits. Where photos were planned in another order, sums differ in their
        last digits: then only embeddings must be.
    """
    verdict = Verdict()
    found = read(out, verdict)
    if found is None:
        return verdict
    _same_photos("catalogue", Counter(found.catalogue), Counter(expected.catalogue), verdict)
    bad = sum(found.record.get(name, 0) for name in ("ok", "rejected", "failed"))
    if not found.record.get("photos") == bad == len(found.catalogue):
        verdict.note(f"counts do not close: {found.record.get('photos')} photos, {bad} accounted for", wrong=1)
    for name in ("photos", "ok", "rejected", "failed", "labels", "splits", "components"):
        if found.record.get(name) != expected.record.get(name):
            got, want = found.record.get(name), expected.record.get(name)
            verdict.note(f"run.json says {name} {got}, an undisturbed run {want}", wrong=1)
    _same_rows("embeddings", found.embeddings, expected.embeddings, verdict)
    if to_the_bit:
        _same_rows("features", found.features, expected.features, verdict)
        for name in LEARNT:
            if found.learnt.get(name) != expected.learnt.get(name):
                verdict.note(f"the bundle's {name} differs", wrong=1)
        if found.record.get("metrics") != expected.record.get("metrics"):
            verdict.note("metrics differ", wrong=1)
    else:
        _same_photos(
            "features",
            Counter(name for name, rows in found.features.items() for _ in rows),
            Counter(name for name, rows in expected.features.items() for _ in rows),
            verdict,
        )
    return verdict


def mixed(out: Path) -> Verdict:
    """Say whether the files of a folder are of different runs."""
    verdict = Verdict()
    read(out, verdict)
    return verdict


def read(out: Path, verdict: Verdict) -> Results | None:
    """Read what a run left; anything missing, damaged or of another run goes into ``verdict``. None if there is no result."""
    try:
        folder = Path(find(str(out)).folder)
        record = json.loads((folder / "run.json").read_bytes())
        catalogue = [name_of(uri) for uri in pq.read_table(folder / "catalogue.parquet")["uri"].to_pylist()]
        table = pq.read_table(folder / "features.parquet")
        bundle = folder / "bundle"
        manifest = json.loads((bundle / "manifest.json").read_bytes())
    except (OSError, ValueError, StoreError, pa.ArrowException) as exc:
        verdict.note(f"results cannot be read: {type(exc).__name__}: {str(exc).replace(str(out), 'OUT')}", wrong=1)
        return None
    features: dict[str, list[tuple[Hashable, ...]]] = {}
    columns = [table[name].to_pylist() for name in ("uri", "label", "split")]
    for uri, label, split, values in zip(*columns, _bits(table["features"]), strict=True):
        features.setdefault(name_of(uri), []).append((label, split, values))
    identities = {
        "run.json": record.get("identity"),
        "features.parquet": json.loads((table.schema.metadata or {}).get(b"fruits", b"{}")).get("identity"),
        "bundle": manifest.get("about", {}).get("identity"),
    }
    if len(set(identities.values())) > 1:
        verdict.note(f"files of different runs: {identities}", wrong=1)
    for file, digest in manifest.get("files", {}).items():
        wanted = digest["sha256"] if isinstance(digest, dict) else digest
        if not (bundle / file).is_file() or _sha256(bundle / file) != wanted:
            verdict.note(f"the bundle's {file} is not the one that its manifest names", wrong=1)
    learnt = {name: _sha256(bundle / name) for name in LEARNT if (bundle / name).is_file()}
    return Results(record, catalogue, _embeddings(out, verdict), features, learnt, identities)


def name_of(uri: str) -> str:
    """Return the end of a uri that says which photo it is, wherever the photos are."""
    return "/".join(uri.split("/")[-3:])


def _embeddings(out: Path, verdict: Verdict) -> dict[str, list[tuple[Hashable, ...]]]:
    """Return the rows of every file that a table of embeddings names."""
    rows: dict[str, list[tuple[Hashable, ...]]] = {}
    for file, count in sorted(committed(out).items()):
        if not file.is_file() or not file.stem.endswith(_sha256(file)):
            verdict.note(f"file {file.name} of the table is {'damaged' if file.is_file() else 'gone'}", wrong=1)
            continue
        table = pq.read_table(file)
        if table.num_rows != count:
            verdict.note(f"file {file.name} of the table has {table.num_rows} rows, its log says {count}", wrong=1)
        columns = [table[name].to_pylist() for name in ("uri", *COLUMNS)]
        for (uri, *values), bits in zip(zip(*columns, strict=True), _bits(table["embedding"]), strict=True):
            if values[COLUMNS.index("status")] != "failed":  # those are tried again, and then stand twice
                rows.setdefault(name_of(uri), []).append((*values, bits))
    return rows


def committed(out: Path) -> dict[Path, int]:
    """Return the files that the tables of embeddings name, with their rows, as any Delta reader sees them."""
    found: dict[Path, int] = {}
    for log in out.glob("embeddings/*/_delta_log"):
        actions = pa.table(DeltaTable(log.parent).get_add_actions(flatten=True))
        if actions.num_rows:
            names, counts = actions["path"].to_pylist(), actions["num_records"].to_pylist()
            found |= {log.parent / name: count for name, count in zip(names, counts, strict=True)}
    return found


def _same_photos(what: str, found: Counter[str], expected: Counter[str], verdict: Verdict) -> None:
    lost, more = expected - found, found - expected
    verdict.note(f"{what}: {lost.total()} lost, such as {_some(lost)}", lost=lost.total())
    doubled = Counter({name: count for name, count in more.items() if name in expected})
    verdict.note(f"{what}: {doubled.total()} doubled, such as {_some(doubled)}", doubled=doubled.total())
    strange = more - doubled
    verdict.note(f"{what}: {strange.total()} that nobody gave, such as {_some(strange)}", wrong=strange.total())


def _same_rows(
    what: str,
    found: dict[str, list[tuple[Hashable, ...]]],
    expected: dict[str, list[tuple[Hashable, ...]]],
    verdict: Verdict,
) -> None:
    def counted(rows: dict[str, list[tuple[Hashable, ...]]]) -> Counter[str]:
        return Counter({name: len(given) for name, given in rows.items()})

    _same_photos(what, counted(found), counted(expected), verdict)
    differ = {name for name, rows in expected.items() if name in found and not set(found[name]) <= set(rows)}
    verdict.note(f"{what}: {len(differ)} rows differ, such as {_some(differ)}", wrong=len(differ))


def _some(names: Any) -> str:
    return ", ".join(sorted(names)[:_EXAMPLES])


def _bits(column: pa.ChunkedArray) -> list[bytes | None]:
    """Return the bytes of each row of a column of float32 lists, None for null."""
    return [one.values.to_numpy().tobytes() if one.is_valid else None for one in column]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
