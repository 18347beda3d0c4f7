"""How good is it really? The head of a run, fitted again under protocols that do not flatter, with intervals and leakage.

Reads what a run left (catalogue, embeddings, bundle), fits the same k and regularisation under each protocol of
``learning.folds``, and measures how many test photos have a near-duplicate among the training photos. Writes
``evaluation.json`` and the report again. Changes nothing of the recogniser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruits import bundle as bundles
from fruits import record as records
from fruits.embedding.backbone import BATCH_SIZE, Embedder, training_photos
from fruits.errors import ConfigError, ImageDecodeError, StoreError
from fruits.fitting import Rows, embeddings_of
from fruits.learning import folds as protocols
from fruits.learning import head as heads
from fruits.learning.folds import Fold
from fruits.learning.moments import Moments
from fruits.learning.neighbours import NearDuplicates, chained, groups_within, nearest, unit
from fruits.learning.pca import PCA
from fruits.measure import Clock, Progress, Silent
from fruits.photos.films import Films
from fruits.photos.images import Preprocessing, to_network_input
from fruits.photos.retouch import fingerprints, retouched
from fruits.photos.samples import example_photos
from fruits.report import render
from fruits.storage.objects import Objects, read_file
from fruits.storage.parts import Inventory, Parts

FORMAT: Final = 1
PROTOCOLS: Final = ("official", "axis", "arc", "variety", "groups")
#: Neighbours are searched among at most this many photos; whole groups are left out beyond it.
MAX_PHOTOS: Final = 50_000
#: From this share on, photos that the backbone was made from void a protocol.
SEEN: Final = 0.01
#: Neighbours are looked for among at most this many components: enough that only what is alike lies near.
NEIGHBOUR_COMPONENTS: Final = 256
_RETOUCHED: Final = 300
_FEWEST_RETOUCHED: Final = 20


@dataclass(frozen=True, slots=True)
class Material:
    """What is evaluated, as arrays over its n rows.

    Attributes
    ----------
    uris : list of str
    embeddings : float32 array, shape (n, d)
    labels : int64 array
        0 to c - 1.
    kinds, varieties : int64 array
        Of each row; a label without a variety counts as one.
    split : array of str
    group : int64 array
        From the catalogue.
    source : int64 array
    seen : bool array
        Whether the backbone was made from the photo.
    features : float32 array, shape (n, k)
        Unit rows, by the PCA of the training photos: where neighbours are looked for. The same k whatever k the head uses.
    """

    uris: list[str]
    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    kinds: NDArray[np.int64]
    varieties: NDArray[np.int64]
    split: NDArray[np.str_]
    group: NDArray[np.int64]
    source: NDArray[np.int64]
    seen: NDArray[np.bool_]
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run, as it was found."""

    out: str
    objects: Objects
    record: dict[str, Any]
    catalogue: pa.Table
    bundle: bundles.Bundle
    parts: Parts
    inventory: Inventory


def evaluate(out: str, wanted: Sequence[str] = (), *, progress: Progress | None = None) -> dict[str, Any]:
    """Evaluate the results of a run under one or several protocols.

    Parameters
    ----------
    out : str
        Folder of the results.
    wanted : sequence of str
        Of ``PROTOCOLS``; empty: all that apply.
    progress : Progress, optional

    Returns
    -------
    dict
        As in ``OUT/evaluation.json``; docs/evaluation.md explains it.

    Raises
    ------
    ConfigError
        If a protocol is unknown.
    StoreError
        If there is no finished run in ``out``, or it was changed since.
    """
    progress, clock = progress or Silent(), Clock()
    for name in wanted:
        if name not in PROTOCOLS:
            raise ConfigError(f"--protocol {name}: expected one of {', '.join(PROTOCOLS)}")
    started = datetime.now(UTC).isoformat(timespec="seconds")
    progress.start("material", None)
    run = open_run(out)
    material, seen = material_of(run)
    progress.start("near-duplicates", None)
    duplicates = _near_duplicates(run.bundle, material)
    films = _true_films(material, duplicates.threshold)
    found: list[dict[str, Any]] = []
    not_applicable: list[dict[str, str]] = []
    for name in wanted or PROTOCOLS:
        folds, reason = _folds(name, material, films, duplicates.threshold, run, asked_for=bool(wanted))
        if not folds:
            not_applicable.append({"protocol": name, "reason": reason})
            continue
        progress.start(name, len(folds))
        found.append(_measured(name, folds, material, films, duplicates.threshold, run.record, progress.advance))
    evaluation = {
        "format": FORMAT,
        "identity": run.record["identity"],
        "out": out,
        "sources": [source["source"] for source in run.record["sources"]],
        "started": started,
        "backbone": run.bundle.card.name,
        "size": run.bundle.preprocessing.size,
        "components": run.record["components"],
        "regularisation": run.record["head"]["regularisation"],
        "photos": len(material.uris),
        "near_duplicates": asdict(duplicates),
        "seen": seen,
        "protocols": found,
        "not_applicable": not_applicable,
        "seconds": clock.total(),
    }
    progress.start("report", None)
    run.objects.write("evaluation.json", json.dumps(evaluation, indent=1, ensure_ascii=False).encode())
    examples = example_photos(run.catalogue, records.wrong(run.record))
    run.objects.write("report.html", render(run.record, examples, evaluation).encode())
    return evaluation


def as_text(evaluations: Sequence[dict[str, Any]]) -> str:
    """Return one table of protocols, for a terminal."""
    lines = [("photos", "network", "protocol", "right label", "right kind", "near-duplicates", "asked")]
    notes = []
    for evaluation in evaluations:
        where = ", ".join(Path(source).name for source in evaluation["sources"])
        network = f"{evaluation['backbone']} at {evaluation['size']}"
        for row in evaluation["protocols"]:
            label, kind = ("seen" if row["seen"] else _share(row, prefix) for prefix in ("", "kind_"))
            lines.append((where, network, row["protocol"], label, kind, f"{row['leakage']:.1%}", f"{row['photos']:,}"))
        if any(row["seen"] for row in evaluation["protocols"]):
            notes.append(f"seen: {network} was made from {evaluation['seen']['share']:.0%} of these photos ({where})")
        duplicates = evaluation["near_duplicates"]
        notes.append(
            f"{where}, {network}: near-duplicate within {duplicates['threshold']:.3g}; "
            f"{duplicates['chance']:.1%} of the photos are that near to one of another label"
        )
        notes += [f"{where}: no {row['protocol']}: {row['reason']}" for row in evaluation["not_applicable"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, "", *dict.fromkeys(notes)])


def _share(row: dict[str, Any], prefix: str) -> str:
    if row[f"{prefix}accuracy"] is None:
        return "-"
    return f"{row[f'{prefix}accuracy']:.1%} ({row[f'{prefix}low']:.1%} to {row[f'{prefix}high']:.1%})"


def open_run(out: str) -> Finished:
    """Open the results of a finished run.

    Raises
    ------
    StoreError
        If something of it is missing.
    """
    objects = Objects(out)
    data, listed = objects.read_if_present("run.json"), objects.read_if_present("catalogue.parquet")
    if data is None or listed is None:
        raise StoreError(f"no finished run in '{out}'; expected the results of 'fruits run PHOTOS --to {out}'")
    try:
        record = json.loads(data)
        catalogue = pq.read_table(pa.BufferReader(listed)).combine_chunks()
    except (ValueError, pa.ArrowException) as exc:
        raise StoreError(f"the record in '{out}' is damaged ({exc}); run 'fruits run' again") from exc
    bundle = bundles.load(out)
    known = isinstance(record, dict) and record.get("format") == records.FORMAT
    if not known or bundle.manifest["about"]["identity"] != record.get("identity"):
        raise StoreError(f"the record and the bundle in '{out}' are of different runs; run 'fruits run' again")
    parts = Parts(out, f"embeddings/{bundle.computation}")
    inventory = parts.inventory(catalogue)
    if sum(int((holding.catalogue_rows >= 0).sum()) for holding in inventory.holdings) != catalogue.num_rows:
        raise StoreError(f"embeddings are missing in '{out}'; run 'fruits run' again, it computes them")
    return Finished(out, objects, record, catalogue, bundle, parts, inventory)


@dataclass(frozen=True, slots=True)
class Copies:
    """Lightly retouched copies of some photos: what near-duplicates are like.

    Attributes
    ----------
    rows : int64 array, shape (m,)
        The photos that were copied.
    embeddings : float32 array, shape (m, d)
        Of the copies.
    own_looks, looks : float32 array, shape (m, 768)
        What the photos and their copies look like from far away.
    """

    rows: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    own_looks: NDArray[np.float32]
    looks: NDArray[np.float32]


def copies_of(rows: NDArray[np.int64], uris: Sequence[str], model_path: Path, preprocessing: Preprocessing) -> Copies:
    """Make copies of some photos and embed them.

    Parameters
    ----------
    rows : int64 array
        Which photos to choose from; at most 300, spread evenly, are taken.
    uris : sequence of str
        Of all photos.
    model_path : Path
        The prepared network.
    preprocessing : Preprocessing

    Raises
    ------
    StoreError
        If too few of the photos can still be read.
    """
    chosen = rows[np.linspace(0, len(rows) - 1, min(_RETOUCHED, len(rows))).astype(int)]
    kept, pixels = [], []
    for row in chosen.tolist():
        try:
            pixels.append(to_network_input(read_file(uris[row]), preprocessing).pixels)
        except (OSError, ImageDecodeError):
            continue
        kept.append(row)
    if len(kept) < min(_FEWEST_RETOUCHED, len(rows)):
        raise StoreError(
            f"only {len(kept)} of {len(chosen)} photos can still be read; expected them where they were, such as "
            f"'{uris[int(chosen[0])]}': they show how near a near-duplicate is"
        )
    embedder = Embedder(model_path)
    own = np.stack(pixels)
    copies = retouched(own)
    vectors = [embedder.embed(copies[start : start + BATCH_SIZE]) for start in range(0, len(copies), BATCH_SIZE)]
    return Copies(np.array(kept, np.int64), np.concatenate(vectors), fingerprints(own), fingerprints(copies))


def _near_duplicates(bundle: bundles.Bundle, material: Material) -> NearDuplicates:
    """Derive from which distance on photos are near-duplicates, from copies of training photos."""
    train = np.flatnonzero(material.split == "train")
    copies = copies_of(train, material.uris, bundle.backbone_path, bundle.preprocessing)
    pca = PCA.from_moments(Moments.from_rows(material.embeddings[train]))
    return NearDuplicates.derive(
        material.features[copies.rows],
        unit(pca.transform(copies.embeddings, material.features.shape[1])),
        material.features[train],
        material.labels[train],
    )


def material_of(run: Finished) -> tuple[Material, dict[str, Any]]:
    """Return the photos that are evaluated, and how many of them the backbone was made from."""
    rows = Rows.of(run.catalogue, run.inventory)
    labels = run.bundle.labels
    learnt = np.array([labels.index(name) if name in labels else -1 for name in rows.names], np.int64)
    usable = np.flatnonzero(rows.ok & (learnt[rows.label] >= 0))
    usable = _at_most(usable, rows.group)
    vectors, digests = embeddings_of(run.parts, run.inventory, usable, len(rows.ok), run.bundle.card.embedding_size)
    label = learnt[rows.label[usable]]
    taxonomy = run.bundle.taxonomy
    # A label without a variety is one of its own, numbered after the others.
    variety = [number if number >= 0 else len(taxonomy.varieties) + at for at, number in enumerate(taxonomy.variety_of)]
    split = rows.split[usable]
    known = training_photos(run.bundle.card, run.record["config"]["backbone"])
    seen = (
        np.isin(np.array([int(digest[:16], 16) for digest in digests], np.uint64), known) if known is not None else None
    )
    train = split == "train"
    pca = PCA.from_moments(Moments.from_rows(vectors[train]))
    material = Material(
        run.catalogue["uri"].take(pa.array(usable)).to_pylist(),
        vectors,
        label,
        np.array(taxonomy.kind_of, np.int64)[label],
        np.array(variety, np.int64)[label],
        split,
        rows.group[usable],
        rows.source[usable],
        np.zeros(len(usable), bool) if seen is None else seen,
        unit(pca.transform(vectors, min(NEIGHBOUR_COMPONENTS, pca.max_components))),
    )
    about = {
        "checked": seen is not None,
        "photos": int(material.seen.sum()),
        "share": float(material.seen.mean()),
        "of": run.bundle.card.training_data,
    }
    return material, about


def _at_most(rows: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of as many groups, taken by their hashes, as ``MAX_PHOTOS`` allows."""
    if len(rows) <= MAX_PHOTOS:
        return rows
    _, number, sizes = np.unique(group[rows], return_inverse=True, return_counts=True)
    return rows[(np.cumsum(sizes) <= MAX_PHOTOS)[number]]


def _true_films(material: Material, threshold: float) -> Films:
    """Return the films whose consecutive frames are near-duplicates in half of the cases or more.

    Other numbered series, such as the photos of a holiday, tell nothing by their numbers.
    """
    films = Films.of(material.uris, material.labels)
    no_film = np.zeros(len(material.uris), bool)
    for number in range(int(films.film.max(initial=-1)) + 1):
        frames = np.flatnonzero(films.film == number)
        frames = frames[np.argsort(films.turn[frames])]
        distance = 1 - (material.features[frames[1:]] * material.features[frames[:-1]]).sum(axis=1)
        no_film[frames] = np.median(distance) > threshold
    return films.without(no_film)


def _folds(
    name: str, material: Material, films: Films, threshold: float, run: Finished, *, asked_for: bool
) -> tuple[list[Fold], str]:
    """Return the folds of a protocol, or none and the reason."""
    split = material.split
    if name == "official":
        asked = run.record["evaluated"]["split"] if run.record["evaluated"] else "test"
        return protocols.official(split == "train", split == asked), "no photos for testing have a label that is learnt"
    if name == "axis":
        return protocols.held_out_axis(films.axis, material.labels), "no label has photos of two films"
    if name == "arc":
        return protocols.held_out_arc(films.film, films.turn), "the photos are not frames of films"
    if name == "variety":
        return protocols.held_out_variety(material.varieties, material.kinds), "no kind has two varieties"
    if run.record["group_origin"] == "manifest":
        return protocols.held_out_groups(material.group, material.labels), "there is a single group"
    if (films.film >= 0).mean() > 0.5 and not asked_for:
        return [], "films are held out by axis and arc"
    return protocols.held_out_groups(_duplicate_groups(material, threshold), material.labels), "there is a single group"


def _duplicate_groups(material: Material, threshold: float) -> NDArray[np.int64]:
    return groups_within(material.features, threshold)


def _measured(
    name: str,
    folds: list[Fold],
    material: Material,
    films: Films,
    threshold: float,
    record: dict[str, Any],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Fit and ask under one protocol; only leakage is measured where the backbone has seen the photos."""
    asked = np.concatenate([fold.test for fold in folds])
    void = material.seen[asked if name == "official" else slice(None)].mean() >= SEEN
    label_right, kind_right, scored, near = [], [], [], []
    for fold in folds:
        distance, _ = nearest(material.features[fold.test], material.features[fold.train])
        near.append(distance[:, 0] <= threshold)
        if not void:
            label, kind, possible = _ask(fold, material, record, by_kind=name == "variety")
            label_right.append(label)
            kind_right.append(kind)
            scored.append(possible)
        progress(1)
    grouped_by, groups = _independent(name, material, films, threshold, record)
    result: dict[str, Any] = {
        "protocol": name,
        "seen": bool(void),
        "photos": len(asked),
        "left_out": 0,
        "folds": len(folds),
        "groups": len(np.unique(groups[asked])),
        "grouped_by": grouped_by,
        **dict.fromkeys(("accuracy", "low", "high", "kind_accuracy", "kind_low", "kind_high")),
        "leakage": float(np.concatenate(near).mean()),
    }
    if void:
        return result
    possible = np.concatenate(scored)
    own_groups = groups[asked][possible]
    counted = {"photos": int(possible.sum()), "left_out": int((~possible).sum())}
    result |= {**counted, "groups": len(np.unique(own_groups))}
    for prefix, right in (("", label_right), ("kind_", kind_right)):
        if not (prefix == "" and name == "variety") and possible.any():
            of = np.concatenate(right)[possible]
            low, high = protocols.interval(of, own_groups)
            result |= {f"{prefix}accuracy": float(of.mean()), f"{prefix}low": low, f"{prefix}high": high}
    return result


def _ask(
    fold: Fold, material: Material, record: dict[str, Any], *, by_kind: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each test row whether label and kind are right, and whether they could be: were they learnt?"""
    train, labels = fold.train, material.labels
    learnt, numbers = np.unique(labels[train], return_inverse=True)
    if len(learnt) < 2:  # nothing to tell apart is no question
        none = np.zeros(len(fold.test), bool)
        return none, none, none
    pca = PCA.from_moments(Moments.from_rows(material.embeddings[train]))
    k = min(record["components"], pca.max_components)
    weights = heads.balance(material.kinds[train], material.source[train]) if record["balanced"] else None
    head = heads.fit(
        pca.transform(material.embeddings[train], k),
        numbers,
        regularisation=record["head"]["regularisation"],
        weights=weights,
    )
    probabilities = head.predict_proba(pca.transform(material.embeddings[fold.test], k))
    kind_of_label = np.zeros(labels.max() + 1, np.int64)
    kind_of_label[labels] = material.kinds
    kinds = kind_of_label[learnt]
    by_kind_sums = np.zeros((len(probabilities), kinds.max() + 1), np.float32)
    np.add.at(by_kind_sums.T, kinds, probabilities.T)
    truth, kind = labels[fold.test], material.kinds[fold.test]
    possible = np.isin(kind, kinds) if by_kind else np.isin(truth, learnt)
    return learnt[probabilities.argmax(axis=1)] == truth, by_kind_sums.argmax(axis=1) == kind, possible


def _independent(
    name: str, material: Material, films: Films, threshold: float, record: dict[str, Any]
) -> tuple[str, NDArray[np.int64]]:
    """Return by what photos are grouped that stand or fall together, and the groups."""
    if name == "variety":
        return "variety", material.varieties
    if record["group_origin"] == "manifest":
        return "manifest", material.group
    in_film = films.film >= 0
    if in_film.all():
        return "film", films.film
    groups = _duplicate_groups(material, threshold)
    if not in_film.any():
        return "near-duplicates", groups
    # A film, and near-duplicates outside films; where they touch they are one.
    place = np.arange(len(groups), dtype=np.int64)
    first_of_group = np.unique(groups, return_index=True)[1][groups]
    order = np.flatnonzero(in_film)
    _, first, back = np.unique(films.film[order], return_index=True, return_inverse=True)
    pairs = np.concatenate([np.stack([place, first_of_group]), np.stack([order, order[first[back]]])], axis=1)
    return "film", chained(pairs[0], pairs[1], len(groups))
