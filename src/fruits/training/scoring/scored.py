"""Answers of a recogniser to the photos that it is scored on, counted: a pass over the features, block by block.

Beyond :data:`fruits.training.fitting.features.HERE` photos, workers of the engine count. Counts are integers that merge, so
neither the engine nor the order of blocks matters. Independent of the run record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fruits.engines import Engine
from fruits.learning.heads import Head, softmax
from fruits.learning.metrics import Bins, Counts
from fruits.learning.neighbours import FeatureRows
from fruits.learning.out_of_distribution import OodDetector
from fruits.recogniser.answers import OUTCOMES, Certainty, decide
from fruits.recogniser.taxonomy import Taxonomy
from fruits.training.fitting.feature_file import FeatureFile, in_blocks
from fruits.training.fitting.features import by_workers

#: Most photos kept of each pair of a label and another one that was predicted.
WRONG_KEPT: Final = 6

#: One row per photo of a block: its number among those that are asked for and in the features, and its label's number.
_ASKED: Final = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("truth", pa.int32(), nullable=False),
    ]
)
#: One row per block; see :class:`Block`.
_COUNTED: Final = pa.schema(
    [
        pa.field("first", pa.int64(), nullable=False),
        pa.field("right", pa.binary(), nullable=False),
        pa.field("right_kind", pa.binary(), nullable=False),
        pa.field("confidence", pa.binary(), nullable=False),
        pa.field("counts", pa.binary(), nullable=False),
        pa.field("kinds", pa.binary(), nullable=False),
        pa.field("uncalibrated", pa.binary(), nullable=False),
        pa.field("told", pa.binary(), nullable=False),
        pa.field("accepted", pa.int64(), nullable=False),
        pa.field("wrong", pa.binary(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Scored:
    """Answers to some photos, as integers; those of parts of the photos merge to those of all.

    Attributes
    ----------
    counts, kinds : Counts
        Of labels and of kinds.
    uncalibrated : Bins
        Of labels, before temperature scaling.
    told : int64 array, shape (2, number of outcomes)
        Photos by outcome, and those that are right.
    accepted : int
        Photos that are not out of distribution.
    wrong : int64 array, shape (2, m)
        Photos taken for another label: the pair as in ``counts.pairs``, and the number of the photo; ascending. Of each pair, the
        first :data:`WRONG_KEPT`.
    """

    counts: Counts
    kinds: Counts
    uncalibrated: Bins
    told: NDArray[np.int64]
    accepted: int
    wrong: NDArray[np.int64]

    @classmethod
    def none(cls, labels: int, kinds: int) -> Self:
        """Return the answers to no photos, with which a merge begins."""
        bins = Bins.of(np.empty(0, np.float32), np.empty(0, bool))
        told, wrong = np.zeros((2, len(OUTCOMES)), np.int64), np.empty((2, 0), np.int64)
        return cls(Counts.none(labels), Counts.none(kinds), bins, told, 0, wrong)

    def merge(self, other: Self) -> Self:
        """Return the answers of both."""
        return type(self)(
            self.counts.merge(other.counts),
            self.kinds.merge(other.kinds),
            self.uncalibrated.merge(other.uncalibrated),
            self.told + other.told,
            self.accepted + other.accepted,
            _first(np.concatenate([self.wrong, other.wrong], axis=1)),
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Answers to consecutive photos of those that are asked for.

    Attributes
    ----------
    first : int
        Number of the first photo.
    right, right_kind : bool array, shape (n,)
        Whether the most probable label, and kind, of each photo is right.
    confidence : float32 array, shape (n,) or (0,)
        Probability of each label; empty if nobody asks for it.
    scored : Scored
    """

    first: int
    right: NDArray[np.bool_]
    right_kind: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    scored: Scored

    def to_batch(self) -> pa.RecordBatch:
        """Return one row of ``_COUNTED``: a bit per photo and answer, and counts."""
        scored = self.scored
        row = {
            "first": self.first,
            "right": np.packbits(self.right).tobytes(),
            "right_kind": np.packbits(self.right_kind).tobytes(),
            "confidence": self.confidence.tobytes(),
            "counts": scored.counts.to_bytes(),
            "kinds": scored.kinds.to_bytes(),
            "uncalibrated": scored.uncalibrated.to_bytes(),
            "told": scored.told.tobytes(),
            "accepted": scored.accepted,
            "wrong": scored.wrong.tobytes(),
        }
        return pa.RecordBatch.from_pylist([row], schema=_COUNTED)

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Self:
        """Return the block that :meth:`to_batch` wrote."""
        counts = Counts.from_bytes(row["counts"])
        scored = Scored(
            counts,
            Counts.from_bytes(row["kinds"]),
            Bins.from_bytes(row["uncalibrated"]),
            np.frombuffer(row["told"], np.int64).reshape(2, -1),
            row["accepted"],
            np.frombuffer(row["wrong"], np.int64).reshape(2, -1),
        )
        right, right_kind = (_bits(row[name], counts.n) for name in ("right", "right_kind"))
        return cls(row["first"], right, right_kind, np.frombuffer(row["confidence"], np.float32), scored)


@dataclass(frozen=True, slots=True)
class Scorer:
    """What answers are counted with; picklable.

    Parameters
    ----------
    head : Head
    ood_detector : OodDetector
    taxonomy : Taxonomy
        Of the head's labels.
    certainty : Certainty
    temperature : float
        With which the head was calibrated.
    with_confidence : bool
        Whether blocks have the probability of each answer.
    """

    head: Head
    ood_detector: OodDetector
    taxonomy: Taxonomy
    certainty: Certainty
    temperature: float
    with_confidence: bool

    def __call__(self, features: NDArray[np.float32], truth: NDArray[np.int64], first: int) -> Block:
        """Classify some photos.

        Parameters
        ----------
        features : float32 array, shape (n, k)
        truth : int64 array, shape (n,)
            Numbers of their labels.
        first : int
            Number of the first photo; the others follow.
        """
        probabilities = self.head.predict_proba(features)
        counts = Counts.of(probabilities, truth)
        predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        by_kind, kind = self.taxonomy.by_kind(probabilities), np.array(self.taxonomy.kind_of)[truth]
        kinds = Counts.of(by_kind, kind)
        right_kind = by_kind.argmax(axis=1) == kind
        before = softmax(self.head.scaled_logits(features) * np.float32(self.temperature))
        uncalibrated = Bins.of(before.max(axis=1), before.argmax(axis=1) == truth)
        del before
        ood_score = self.ood_detector.ood_score(features, probabilities)
        accepted = int((ood_score <= self.certainty.ood_limit).sum())
        decisions = decide(probabilities, ood_score, self.taxonomy, self.certainty)
        variety = np.array(self.taxonomy.variety_of)[truth]
        right = {
            "variety": decisions.variety == variety,
            "kind": decisions.kinds[:, 0] == kind,
            "probable": decisions.kinds[:, 0] == kind,
            "unsure": (decisions.kinds == kind[:, None]).any(axis=1),
        }
        told = np.zeros((2, len(OUTCOMES)), np.int64)
        for number, outcome in enumerate(OUTCOMES):
            so = decisions.outcome == number
            told[:, number] = (so.sum(), right[outcome][so].sum() if outcome in right else 0)
        wrong = np.flatnonzero(predicted != truth)
        pairs = np.stack([truth[wrong] * counts.c + predicted[wrong], wrong + first])
        scored = Scored(counts, kinds, uncalibrated, told, accepted, _first(pairs))
        return Block(
            first, predicted == truth, right_kind, confidence if self.with_confidence else confidence[:0], scored
        )


class Tally:
    """Answers to all photos that are asked for, from blocks in any order.

    Parameters
    ----------
    scorer : Scorer
    groups : int64 array, shape (m,)
        Group of each photo, numbered from 0.

    Attributes
    ----------
    scored : Scored
    right, right_kind : int32 array, shape (g,)
        Photos of each group whose label, and kind, is right.
    confidence : float32 array, shape (m,) or (0,)
        As in :class:`Block`.
    """

    def __init__(self, scorer: Scorer, groups: NDArray[np.int64]) -> None:
        self._groups = groups
        self.scored = Scored.none(len(scorer.taxonomy.labels), len(scorer.taxonomy.kinds))
        self.right = np.zeros(int(groups.max(initial=-1)) + 1, np.int32)
        self.right_kind = np.zeros_like(self.right)
        self.confidence = np.empty(len(groups) if scorer.with_confidence else 0, np.float32)

    def add(self, block: Block) -> None:
        """Count a block."""
        groups = self._groups[block.first : block.first + len(block.right)]
        np.add.at(self.right, groups[block.right], 1)
        np.add.at(self.right_kind, groups[block.right_kind], 1)
        self.confidence[block.first : block.first + len(block.confidence)] = block.confidence
        self.scored = self.scored.merge(block.scored)


@dataclass(frozen=True, slots=True)
class ScoreStage:
    """Stage that reads a block of features, answers the photos asked for and counts."""

    file: FeatureFile
    scorer: Scorer

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take the photos of a block, schema ``_ASKED``; yield one row of ``_COUNTED``."""
        photos = pa.Table.from_batches(list(batches), _ASKED)
        if not photos.num_rows:
            return
        features = self.file.read(photos["place"].to_numpy())
        with threadpool_limits(1, "blas"):  # the last bits depend on how a product is split among threads
            block = self.scorer(features, photos["truth"].to_numpy().astype(np.int64), photos["number"][0].as_py())
        yield block.to_batch()


def score_all(
    engine: Engine,
    file: FeatureFile,
    features: FeatureRows,
    scorer: Scorer,
    *,
    rows: NDArray[np.int64],
    place: NDArray[Any],
    truth: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> Tally:
    """Count the answers to some photos.

    Parameters
    ----------
    engine : Engine
    file : FeatureFile
        The features, for workers.
    features : Features, shape (number of rows that are ok, k)
        The same, for the driver.
    scorer : Scorer
    rows : int64 array, shape (m,)
        Catalogue rows of the photos, ascending.
    place : integer array, shape (n,)
        Number of each catalogue row in the features.
    truth : integer array, shape (m,)
        Number of the label of each photo.
    groups : int64 array, shape (m,)
        Group of each photo, numbered from 0.
    """
    tally = Tally(scorer, groups)
    if by_workers(len(rows)):
        for batch in engine.map_batches(_asked(rows, place, truth), ScoreStage(file, scorer), _COUNTED):
            for row in batch.to_pylist():
                tally.add(Block.of_row(row))
        return tally
    with threadpool_limits(1, "blas"):
        for some in in_blocks(rows, place):
            tally.add(scorer(features[place[rows[some]]], truth[some].astype(np.int64), some.start))
    return tally


def _asked(rows: NDArray[np.int64], place: NDArray[Any], truth: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield a shard per block in which photos are asked for."""
    for some in in_blocks(rows, place):
        columns = (np.arange(some.start, some.stop), place[rows[some]].astype(np.int64), truth[some].astype(np.int32))
        yield pa.Table.from_arrays([pa.array(column) for column in columns], schema=_ASKED)


def _first(wrong: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs and photos in order; of each pair, the first :data:`WRONG_KEPT` photos."""
    wrong = wrong[:, np.lexsort((wrong[1], wrong[0]))]
    before = np.arange(wrong.shape[1]) - np.searchsorted(wrong[0], wrong[0])
    return wrong[:, before < WRONG_KEPT]


def _bits(data: bytes, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(bool)
