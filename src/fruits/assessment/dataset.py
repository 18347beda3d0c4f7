"""The dataset of a finished run as arrays: photos, embeddings, groups and near-duplicates; used by evaluation.

Embeddings are kept in memory, so at most ``MAX_PHOTOS`` photos are used; of the others, a few numbers each are. Fits only the PCA
for neighbours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.errors import StoreError, command
from fruits.learning.moments import Moments, unit
from fruits.learning.neighbours import NearDuplicates, connected_groups, groups_within
from fruits.learning.pca import PCA
from fruits.photos.catalogue.files.sequences import ImageSequences
from fruits.photos.reading.access import Access
from fruits.recogniser import bundle as bundles
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.embeddings.inventory import Inventory, take
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.objects import Objects, is_remote
from fruits.storage.outputs.runs import RECORD, RunLocation, find
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.training import run_record as records
from fruits.training.embed import TRAINING_PHOTOS
from fruits.training.fitting.training_set import TrainingSet, embeddings_of, source_names
from fruits.training.scoring.leakage import NEIGHBOUR_COMPONENTS, confirmed_sequences, copies_of

#: Maximum number of photos for neighbour search; beyond it, whole groups are left out.
MAX_PHOTOS: Final = 50_000


@dataclass(frozen=True)
class Dataset:
    """The evaluated photos, as arrays over n rows.

    Attributes
    ----------
    uris : list of str
    available : int
        Number of photos that could have been used; more than n if only whole groups of them are.
    embeddings : float32 array, shape (n, d)
    labels : int64 array
        0 to c - 1.
    kinds, varieties : int64 array
        Kind and variety of each row; a label without a variety counts as one.
    split : array of str
    group : int64 array
        From the catalogue; negative if defined by a manifest.
    digest : int64 array
        Equal for rows with the same file content.
    source, named_source : int64 array
        As in :class:`fruits.training.fitting.training_set.TrainingSet`.
    source_names : list of str
        Names of the sources in ``named_source``.
    seen : bool array
        Whether the backbone was trained on the photo.
    taxonomy : Taxonomy
        Taxonomy of the c labels.
    pca : PCA
        PCA of the training photos.
    features : float32 array, shape (n, k)
        Rows of unit length for neighbour search, by the PCA of the training photos. k does not depend on that of the head.
    duplicates : NearDuplicates
    sequences : ImageSequences
        Confirmed sequences: their consecutive frames are near-duplicates.
    """

    uris: list[str]
    available: int
    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    kinds: NDArray[np.int64]
    varieties: NDArray[np.int64]
    split: NDArray[np.str_]
    group: NDArray[np.int64]
    digest: NDArray[np.int64]
    source: NDArray[np.int64]
    named_source: NDArray[np.int64]
    source_names: list[str]
    seen: NDArray[np.bool_]
    taxonomy: Taxonomy
    pca: PCA
    features: NDArray[np.float32]
    duplicates: NearDuplicates
    sequences: ImageSequences

    @cached_property
    def duplicate_groups(self) -> NDArray[np.int64]:
        """Group number per row, shape (n,): connected by near-duplicates and exact copies."""
        near = groups_within(self.features, self.duplicates.threshold)
        return joined(near, self.digest)

    @cached_property
    def belonging(self) -> tuple[str, NDArray[np.int64]]:
        """Return how dependent rows are grouped, and the groups, shape (n,).

        Groups come from a manifest, else from image sequences, else from near-duplicates. Overlapping groups are merged.
        """
        given, in_sequence = self.group < 0, self.sequences.sequence >= 0
        name = "manifest" if given.all() else "sequence" if in_sequence.any() else "near-duplicates"
        groups = self.duplicate_groups if not (given | in_sequence).all() else np.arange(len(self.uris), dtype=np.int64)
        for inside, of in ((given, self.group), (in_sequence & ~given, self.sequences.sequence)):
            groups = joined(groups, of, inside)
        return name, groups


def joined(
    groups: NDArray[np.int64], others: NDArray[np.int64], inside: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Return the union of two groupings; of ``others``, only rows ``inside`` are used."""
    rows = np.arange(len(groups), dtype=np.int64)
    pairs = [(rows, np.unique(groups, return_index=True)[1][np.unique(groups, return_inverse=True)[1]])]
    own = rows if inside is None else np.flatnonzero(inside)
    if len(own):
        _, first, back = np.unique(others[own], return_index=True, return_inverse=True)
        pairs.append((own, own[first[back]]))
    left, right = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return connected_groups(left, right, len(groups))


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run, opened.

    Attributes
    ----------
    place : RunLocation
        Where it is.
    objects : Objects
        Its own folder.
    """

    place: RunLocation
    objects: Objects
    record: dict[str, Any]
    catalogue: CatalogueRows
    bundle: bundles.Bundle
    stored: EmbeddingTable
    inventory: Inventory


def open_run(out: str) -> FinishedRun:
    """Open the results of a finished run.

    Raises
    ------
    StoreError
        If part of it is missing.
    """
    place = find(out)
    objects = place.objects()
    data = objects.read_if_present(RECORD)
    if data is None or objects.size("catalogue.parquet") is None:
        raise StoreError(f"no finished run in '{out}'; expected the results of {command('run', 'PHOTOS', to=out)}")
    try:
        record = json.loads(data)
        catalogue = CatalogueRows.read(objects, "catalogue.parquet")
    except StoreError:  # of the temporary folder or the bucket: nothing is damaged
        raise
    except (ValueError, KeyError, OSError, pa.ArrowException) as exc:
        raise StoreError(f"the record in '{out}' is damaged ({exc}); run {command('run')} again") from exc
    bundle = bundles.load(place.folder)
    known = isinstance(record, dict) and record.get("format") == records.FORMAT and record.keys() >= set(records.KEYS)
    if not known or bundle.manifest["about"]["identity"] != record.get("identity"):
        raise StoreError(f"the record and the bundle in '{out}' are of different runs; run {command('run')} again")
    stored = EmbeddingTable(place.out, f"embeddings/{bundle.computation}")
    inventory = take(stored, catalogue.texts)
    if len(inventory.absent):
        raise StoreError(f"embeddings are missing in '{out}'; run {command('run')} again, it computes them")
    return FinishedRun(place, objects, record, catalogue, bundle, stored, inventory)


def dataset_of(run: FinishedRun) -> tuple[Dataset, dict[str, Any]]:
    """Return the dataset for evaluation, and the number of its photos that the backbone was trained on."""
    training_set = TrainingSet.of(run.catalogue, run.inventory)
    labels = run.bundle.labels
    learnt = np.array([labels.index(name) if name in labels else -1 for name in training_set.names], np.int64)
    usable = np.flatnonzero(training_set.ok & (learnt[training_set.label] >= 0))
    available = len(usable)
    usable = _at_most(usable, training_set.group)
    vectors, others = embeddings_of(run.stored, run.inventory, usable, len(training_set.ok), ["sha256"])
    digests = others["sha256"].to_pylist()
    label = learnt[training_set.label[usable]]
    taxonomy = run.bundle.taxonomy
    # A label without a variety is a variety of its own, numbered after the others.
    variety = [number if number >= 0 else len(taxonomy.varieties) + at for at, number in enumerate(taxonomy.variety_of)]
    split = training_set.split.values(usable)
    listed = Objects(run.place.out).read_if_present(f"{run.stored.prefix}/{TRAINING_PHOTOS}")
    hashes = np.array([int(digest[:16], 16) for digest in digests], np.uint64)
    seen = np.zeros(len(usable), bool) if listed is None else np.isin(hashes, np.frombuffer(listed, ">u8"))
    digest = np.unique(digests, return_inverse=True)[1].astype(np.int64)
    train = np.flatnonzero(split == "train")
    pca = PCA.from_moments(Moments.from_rows(vectors[train]))
    features = unit(pca.transform(vectors, min(NEIGHBOUR_COMPONENTS, pca.max_components)))
    uris = run.catalogue.uris(usable)
    duplicates = _near_duplicates(
        run.bundle, uris, train, label, digest, pca, features, access_of_run(run.record["config"])
    )
    dataset = Dataset(
        uris,
        available,
        vectors,
        label,
        np.array(taxonomy.kind_of, np.int64)[label],
        np.array(variety, np.int64)[label],
        split,
        training_set.group[usable],
        digest,
        training_set.source[usable],
        training_set.named_source[usable],
        source_names(run.catalogue),
        seen,
        taxonomy,
        pca,
        features,
        duplicates,
        confirmed_sequences(ImageSequences.of(uris, label), features, duplicates.threshold),
    )
    about = {
        "checked": listed is not None,
        "photos": int(seen.sum()),
        "share": float(seen.mean()),
        "of": run.bundle.card.training_data,
    }
    return dataset, about


def _at_most(rows: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of as many whole groups, in the order of their hashes, as fit into ``MAX_PHOTOS``."""
    if len(rows) <= MAX_PHOTOS:
        return rows
    groups, sizes = np.unique(group[rows], return_counts=True)
    taken, left, after = np.zeros(len(sizes), bool), MAX_PHOTOS, 0
    while len(fits := after + np.flatnonzero(sizes[after:] <= left)):
        # Those that fit one after the other; the next one is passed over.
        some = fits[: max(1, int(np.searchsorted(np.cumsum(sizes[fits]), left, "right")))]
        taken[some] = True
        left, after = left - int(sizes[some].sum()), int(some[-1]) + 1
    if MAX_PHOTOS - left < MAX_PHOTOS // 2:  # groups are too large: sample photos instead
        return np.sort(np.random.default_rng(0).choice(rows, MAX_PHOTOS, replace=False))
    chosen = groups[taken]
    place = np.minimum(np.searchsorted(chosen, group[rows]), len(chosen) - 1)
    return np.asarray(rows[chosen[place] == group[rows]], np.int64)


def _near_duplicates(
    bundle: bundles.Bundle,
    uris: list[str],
    train: NDArray[np.int64],
    labels: NDArray[np.int64],
    digest: NDArray[np.int64],
    pca: PCA,
    features: NDArray[np.float32],
    access: Access,
) -> NearDuplicates:
    """Derive the distance threshold for near-duplicates from copies of training photos."""
    copies = copies_of(train, uris, bundle.model_file.fetch(), bundle.preprocessing, access)
    # A file with two labels would distort the distance between labels.
    once = train[np.unique(digest[train], return_index=True)[1]]
    copied = unit(pca.transform(copies.embeddings, features.shape[1]))
    return NearDuplicates.derive(features[copies.rows], copied, features[once], labels[once])


def access_of_run(config: dict[str, Any]) -> Access:
    """Return the locations that the run was allowed to read; those that no longer exist are left out."""
    allowed = [place for place in config.get("allow_source", ()) if is_remote(place) or Path(place).exists()]
    return Access.to(config["sources"], allowed, follow_links=config.get("follow_links", False))
