"""Leakage: the share of test photos with a near-duplicate, or a neighbour in an image sequence, among the training photos.

This check is part of every run. It compares bounded samples with the training photos: beyond 200,000 of these, a pass of the
engine. Image sequences are searched by the driver, label by label.
Near-duplicates are defined as in ``fruits evaluate``, which checks all photos; the functions shared by both are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.embedding.backbone import BATCH_SIZE, Embedder, usable
from fruits.engines import Engine
from fruits.errors import ImageDecodeError, StoreError, counted
from fruits.learning.moments import unit
from fruits.learning.neighbours import LEAK_LIMIT, FeatureRows, NearDuplicates
from fruits.learning.pca import PCA
from fruits.photos.catalogue.files.sequences import ImageSequences
from fruits.photos.decoding.decoder import own_decoder
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.decoding.retouch import fingerprints, retouched
from fruits.photos.reading.access import NO_LINKS, Access
from fruits.photos.reading.reading import read_photos
from fruits.storage.embeddings.inventory import Inventory
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.training.embed import Prepared
from fruits.training.fitting.feature_file import FeatureFile
from fruits.training.fitting.features import Features, Part, positions, project_all
from fruits.training.fitting.training_set import TrainingSet
from fruits.training.scoring.nearest import NearestQueries, nearest_distances

#: Maximum number of components for nearest-neighbour search: enough to separate photos that are not alike.
NEIGHBOUR_COMPONENTS: Final = 256
#: Minimum number of components for the check: with fewer, photos of one label are indistinguishable.
_LEAST_COMPONENTS: Final = 64
_RETOUCHED: Final = 300
_FEWEST_RETOUCHED: Final = 20
#: Sample sizes of the check: a share of 500 photos has a standard error of about 2 percentage points.
_TEST_PHOTOS: Final = 500
_TRAINING_PHOTOS: Final = 200
_COPIES: Final = 60
#: Photos read into memory and decoded at a time.
_DECODED_AT_ONCE: Final = 8
#: Most photos of a label among which image sequences are searched by their names.
_NAMES_AT_ONCE: Final = 200_000


@dataclass(frozen=True, slots=True)
class LeakageCheck:
    """Result of the leakage check.

    Attributes
    ----------
    leakage : dict, optional
        For the run record; None without test photos, or if too few photos could be read again.
    grouped_by : str
        How dependent test photos are grouped: ``manifest``, ``sequence`` or ``photo``.
    groups : int64 array
        Group number of each test photo.
    """

    leakage: dict[str, Any] | None
    grouped_by: str
    groups: NDArray[np.int64]


def check(
    test_rows: NDArray[np.int64],
    training_set: TrainingSet,
    *,
    listed: CatalogueRows,
    access: Access,
    prepared: Prepared,
    inventory: Inventory,
    engine: Engine,
    pca: PCA,
    file: FeatureFile,
    features: Features,
    numbers_are_informative: bool,
) -> LeakageCheck:
    """Search the training photos for near-duplicates of test photos and for neighbours in image sequences.

    The result does not depend on the engine or the number of workers: samples are drawn with a fixed seed from the sorted
    catalogue.

    Parameters
    ----------
    test_rows : int64 array
        Catalogue rows of the test photos.
    training_set : TrainingSet
    listed : CatalogueRows
        The catalogue.
    file : FeatureFile
        The features, for workers of the engine.
    features : Features, shape (number of rows that are ok, k)
        The same, for the driver.
    numbers_are_informative : bool
        Whether numbers in file names may indicate image sequences.
    """
    train = training_set.train_rows
    if not len(test_rows):
        return LeakageCheck(None, "photo", test_rows)
    sequence, beside = np.full(len(training_set.ok), -1, np.int32), np.zeros(len(training_set.ok), bool)
    few = train[np.linspace(0, len(train) - 1, min(_COPIES, len(train))).astype(int)]
    try:
        copies = copies_of(
            np.arange(len(few)),
            listed.uris(few),
            prepared.model.fetch(),
            prepared.preprocessing,
            access,
            device=prepared.device,
        )
    except StoreError:  # photos were removed during the run: no reason to fail
        return LeakageCheck(None, *_groups(test_rows, training_set, sequence))
    written: FeatureFile | None = file
    if features.shape[1] < (least := min(_LEAST_COMPONENTS, pca.max_components)):
        features, written = project_all(engine, prepared.stored, inventory, pca, least, training_set.ok), None
    short = features.first(NEIGHBOUR_COMPONENTS)
    at = positions(training_set.ok)  # catalogue row -> row of features

    some, sampled = _sample(train, _TRAINING_PHOTOS), _sample(test_rows, _TEST_PHOTOS)
    queries = NearestQueries(unit(short[at[some]]), training_set.label[some], unit(short[at[sampled]]))
    others, nearest = nearest_distances(
        engine, written, short, queries, train=train, place=at, label=training_set.label
    )
    copied = unit(pca.transform(copies.embeddings, short.shape[1]))
    duplicates = NearDuplicates.of(unit(short[at[few[copies.rows]]]), copied, others)

    if numbers_are_informative:
        wanted = np.zeros(len(training_set.ok), bool)
        wanted[train], wanted[test_rows] = True, True
        sequence, beside = _sequences(wanted, training_set, listed, short, at, duplicates.threshold)
    near = nearest <= duplicates.threshold
    frame = beside[sampled]
    group = training_set.group[sampled]
    given = group < 0  # by a manifest; without one, nothing of the training photos needs to be sorted
    if given.any():
        given &= np.isin(group, training_set.group[train])
    share = float((near | frame | given).mean())
    leakage = {
        "share": share,
        "high": share > LEAK_LIMIT,
        "near_duplicates": float(near.mean()),
        "sequence_neighbours": float(frame.mean()),
        "same_group": float(given.mean()),
        "photos": len(sampled),
        "threshold": duplicates.threshold,
    }
    return LeakageCheck(leakage, *_groups(test_rows, training_set, sequence))


def confirmed_sequences(sequences: ImageSequences, features: FeatureRows, threshold: float) -> ImageSequences:
    """Return the sequences in which at least half of the consecutive frames are near-duplicates.

    Other numbered series, such as holiday photos, are no image sequences.

    Parameters
    ----------
    sequences : ImageSequences
        Candidate sequences of n photos.
    features : array or Features, shape (n, k)
    """
    in_none = np.zeros(len(sequences.sequence), bool)
    for frames in _in_order(sequences):
        rows = unit(features[frames])
        in_none[frames] = np.median(1 - (rows[1:] * rows[:-1]).sum(axis=1)) > threshold
    return sequences.without(in_none)


@dataclass(frozen=True, slots=True)
class RetouchedCopies:
    """Lightly retouched copies of some photos, from which the threshold for near-duplicates is derived.

    Attributes
    ----------
    rows : int64 array, shape (m,)
        The original photos.
    embeddings : float32 array, shape (m, d)
        Embeddings of the copies.
    own_descriptors, descriptors : float32 array, shape (m, 768)
        Fingerprints of the originals and of the copies: their pixels at 16 x 16.
    """

    rows: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    own_descriptors: NDArray[np.float32]
    descriptors: NDArray[np.float32]


def copies_of(
    rows: NDArray[np.int64],
    uris: Sequence[str],
    model_path: Path,
    preprocessing: Preprocessing,
    access: Access = NO_LINKS,
    *,
    device: str = "cpu",
) -> RetouchedCopies:
    """Make copies of some photos and embed them.

    Parameters
    ----------
    rows : int64 array
        Candidates; at most 300 of them, evenly spread, are used.
    uris : sequence of str
        Uris of all photos.
    model_path : Path
        The prepared network.
    preprocessing : Preprocessing
    access : Access
        Locations that links among the photos may lead to.
    device : str
        Device that runs the network.

    Raises
    ------
    StoreError
        If too few of the photos can still be read.
    """
    chosen = rows[np.linspace(0, len(rows) - 1, min(_RETOUCHED, len(rows))).astype(int)].tolist()
    kept, pixels = [], []
    read = zip(chosen, read_photos((uris[row] for row in chosen), access), strict=True)
    there = ((row, data) for row, (data, _) in read if data is not None)
    while batch := list(islice(there, _DECODED_AT_ONCE)):
        with own_decoder().begin([data for _, data in batch], preprocessing) as decoding:
            outcomes = decoding.outcomes()
            pixels.append(decoding.pixels(preprocessing.size).copy())
        kept += [row for (row, _), one in zip(batch, outcomes, strict=True) if not isinstance(one, ImageDecodeError)]
    if not kept or len(kept) < min(_FEWEST_RETOUCHED, len(rows)):
        raise StoreError(
            f"only {len(kept)} of {counted(len(chosen), 'photo')} can still be read; expected them where they were, such as "
            f"'{uris[chosen[0]] if chosen else 'none'}': they show how near a near-duplicate is"
        )
    embedder = Embedder(model_path, device)
    own = np.concatenate(pixels)
    copies = retouched(own)
    vectors = [embedder.embed(copies[start : start + BATCH_SIZE]) for start in range(0, len(copies), BATCH_SIZE)]
    embeddings = np.concatenate(vectors)
    good = usable(embeddings)  # a copy may have no usable embedding
    if not good.any():
        raise StoreError(
            f"the network gives no usable embedding for any of {len(kept)} retouched photos; expected some, which show how near "
            "a near-duplicate is"
        )
    return RetouchedCopies(
        np.array(kept, np.int64)[good], embeddings[good], fingerprints(own)[good], fingerprints(copies)[good]
    )


def _sample(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return a reproducible sample of at most ``count`` rows, in order."""
    return rows if len(rows) <= count else np.sort(np.random.default_rng(0).choice(rows, count, replace=False))


def _sequences(
    wanted: NDArray[np.bool_],
    training_set: TrainingSet,
    listed: CatalogueRows,
    features: FeatureRows,
    at: NDArray[Any],
    threshold: float,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Search confirmed sequences among some catalogue rows; groups of a manifest are excluded.

    Label by label, because names take far more memory than numbers. A label with more than ``_NAMES_AT_ONCE`` photos has none.

    Returns
    -------
    int32 array, shape (n,)
        Number of the sequence; -1 for photos in none.
    bool array, shape (n,)
        Whether a photo is a frame directly before or after a training frame.
    """
    n, learnt = len(training_set.ok), training_set.of_split("train")
    sequence, beside = np.full(n, -1, np.int32), np.zeros(n, bool)
    wanted = wanted & (training_set.group >= 0)
    first = 0
    for label in range(len(training_set.names)):
        members = np.flatnonzero(wanted & (training_set.label == label))
        if not 0 < len(members) <= _NAMES_AT_ONCE:
            continue
        found = ImageSequences.of(listed.uris(members), training_set.label[members])
        in_one = np.flatnonzero(found.sequence >= 0)
        members = members[in_one]
        found = ImageSequences(found.sequence[in_one], found.axis[in_one], found.turn[in_one])
        found = confirmed_sequences(found, Part(features, at[members]), threshold)
        sequence[members] = np.where(found.sequence >= 0, found.sequence + first, -1)
        beside[members] = _beside(found, learnt[members])
        first = max(first, int(sequence[members].max(initial=-1)) + 1)
    return sequence, beside


def _in_order(sequences: ImageSequences) -> list[NDArray[np.int64]]:
    """Return the rows of each sequence, in the order of frames."""
    rows = np.flatnonzero(sequences.sequence >= 0)
    rows = rows[np.lexsort((sequences.turn[rows], sequences.sequence[rows]))]
    return np.split(rows, np.flatnonzero(np.diff(sequences.sequence[rows])) + 1) if len(rows) else []


def _beside(sequences: ImageSequences, learnt: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows are frames directly before or after a training frame."""
    beside = np.zeros(len(learnt), bool)
    for frames in _in_order(sequences):
        beside[frames[1:]] |= learnt[frames[:-1]]
        beside[frames[:-1]] |= learnt[frames[1:]]
    return beside


def _groups(
    test_rows: NDArray[np.int64], training_set: TrainingSet, sequence: NDArray[np.int32]
) -> tuple[str, NDArray[np.int64]]:
    """Return how test photos are grouped, and the group number of each; an ungrouped photo is a group of its own."""
    given, in_one = training_set.group[test_rows] < 0, sequence[test_rows] >= 0
    # One number per group: those of manifests are negative, those of sequences have 32 bits.
    single = np.arange(len(test_rows), dtype=np.int64) + (1 << 32)
    value = np.where(given, training_set.group[test_rows], np.where(in_one, sequence[test_rows], single))
    name = "sequence" if in_one.any() else "manifest" if given.any() else "photo"
    return name, np.unique(value, return_inverse=True)[1].astype(np.int64)
