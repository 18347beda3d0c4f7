"""Logistic regression corrected by the votes of reference photos: what a line cannot separate, near examples can.

The votes of a group of labels are the sum of a kernel over its references, as a share of all; the logit of each label of the
group gains a multiple of the logarithm of that share. Every step is continuous in the features, so batch, service, single graph
and browser agree. The number of references is bounded. Independent of files, and of ONNX itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isqrt
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fruits.errors import ConfigError, counted, option
from fruits.learning.folds import rows_by
from fruits.learning.heads import Graph, Head
from fruits.learning.heads.knn import spread
from fruits.learning.heads.logistic import (
    DEFAULT_REGULARISATION,
    DEFAULT_REGULARISATION_SEEN,
    REGULARISATIONS,
    LogisticHead,
)
from fruits.learning.moments import unit

#: Most references of all groups together, fewer for more than 2,048 groups: with 192 axes they are 1.6 MB.
MAX_REFERENCES: Final = 8192
#: Most features that are compared; later ones vary least.
MAX_AXES: Final = 192
#: Of the kernel exp(concentration * cosine): references farther than about 0.1 of cosine from the nearest one count little.
CONCENTRATION: Final = 30.0
#: Weight of the logarithm of the votes beside the logistic regression.
STRENGTH: Final = 0.4
#: A reference is left out if its cosine with another one of its group reaches this: it adds bytes, not information.
THINNED: Final = 0.7
#: Shrinkage of the scatter within groups towards a sphere.
SHRINKAGE: Final = 0.3
#: Added to the share of votes: a group without votes loses 1.6 (with the strength above), not everything.
_FLOOR: Final = np.float32(0.02)
_LEAST_LENGTH: Final = np.float32(1e-12)
#: Largest product of references and groups that a bundle may ask for: the votes are counted by a matrix of this size.
_MOST_CELLS: Final = 1 << 24
#: Photos compared at a time: their cosines with all references take 8 MB.
_BLOCK: Final = 256
#: Number of the type float32 in ONNX.
_FLOAT: Final = 1


@dataclass(frozen=True)
class KernelHead(Head):
    """A logistic regression, the references that vote, and how their votes count.

    Attributes
    ----------
    weights : float32 array, shape (c, k)
    bias : float32 array, shape (c,)
    axes : float32 array, shape (k, p)
        From features to the space in which photos are compared.
    origin : float32 array, shape (p,)
        Subtracted there, before rows are scaled to length 1.
    references : int8 array, shape (r, p)
        Unit rows divided by a common step, grouped.
    counts : int64 array, shape (g,)
        References of each group, 1 or more.
    voted : int64 array, shape (c,)
        The group whose votes each label gets, from 0 to g - 1.
    kernel : float32 array, shape (3,)
        Concentration, strength, and the step of the references.
    converged : bool
        False if the solver of the logistic regression stopped early.

    Raises
    ------
    ValueError
        If the arrays do not match each other.

    References
    ----------
    Nadaraya (1964), "On estimating regression", for the shares; the kernel is that of von Mises and Fisher on the sphere.
    """

    arrays: ClassVar = {
        "weights": ("f4", ("c", "k")),
        "bias": ("f4", ("c",)),
        "axes": ("f4", ("k", "p")),
        "origin": ("f4", ("p",)),
        "references": ("i1", ("r", "p")),
        "counts": ("i8", ("groups",)),
        "voted": ("i8", ("c",)),
        "kernel": ("f4", ("3",)),
    }
    parameter: ClassVar = "regularisation"
    settings: ClassVar = REGULARISATIONS
    default: ClassVar = DEFAULT_REGULARISATION
    default_seen: ClassVar = DEFAULT_REGULARISATION_SEEN
    linear: ClassVar = True
    starts: ClassVar = True

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    axes: NDArray[np.float32]
    origin: NDArray[np.float32]
    references: NDArray[np.int8]
    counts: NDArray[np.int64]
    voted: NDArray[np.int64]
    kernel: NDArray[np.float32]
    converged: bool = True

    def __post_init__(self) -> None:
        r, groups = len(self.references), len(self.counts)
        if groups == 0 or self.counts.min() < 1 or self.counts.max() > r or self.counts.sum() != r:
            raise ValueError(
                f"counts of {counted(int(self.counts.sum()), 'reference')}, of {r}; expected 1 or more per group"
            )
        if r * groups > _MOST_CELLS:
            raise ValueError(f"{r:,} references of {groups:,} groups; expected a product of at most {_MOST_CELLS:,}")
        if self.voted.min() < 0 or self.voted.max() >= groups:
            raise ValueError(f"votes of group {self.voted.max():,} of {groups:,}; expected groups that are there")

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        *,
        setting: float,
        weights: NDArray[np.float64] | None = None,
        start: Mapping[float, KernelHead] | None = None,
    ) -> KernelHead:
        """See :class:`fruits.learning.heads.logistic.LogisticHead`; every label is a group of its own, and weights do not
        concern the references.

        Raises
        ------
        ConfigError
            If there are so many labels that one reference of each would exceed what a bundle may ask for.
        """
        groups = int(labels.max(initial=-1)) + 1
        if groups**2 > _MOST_CELLS:
            raise ConfigError(
                f"{option('head', 'kernel')}: {counted(groups, 'label')}; expected at most {isqrt(_MOST_CELLS):,}: take "
                f"{option('head', 'logistic')}"
            )
        begin = {other: head.linear_part for other, head in (start or {}).items()}
        linear = LogisticHead.fit(features, labels, setting=setting, weights=weights, start=begin)
        first = np.eye(features.shape[1], min(features.shape[1], MAX_AXES), dtype=np.float32)
        return cls.voting(linear, features, labels, directions=first, voted=np.arange(len(linear.bias)))

    @classmethod
    def voting(
        cls,
        linear: LogisticHead,
        features: NDArray[np.float32],
        groups: NDArray[np.int64],
        *,
        directions: NDArray[np.float32],
        voted: NDArray[np.int64],
    ) -> KernelHead:
        """Return a fitted linear head with the votes of some photos.

        Parameters
        ----------
        linear : LogisticHead
            For c labels and k features.
        features : float32 array, shape (n, k)
            Of the photos from which references are taken.
        groups : int64 array, shape (n,)
            The group of each; every value from 0 to g - 1 occurs.
        directions : float32 array, shape (k, p)
            Span of the space in which photos are compared; within it, the scatter within groups is whitened.
        voted : int64 array, shape (c,)
            The group whose votes each label gets.
        """
        there = features @ directions
        rows_of = rows_by(groups)
        origin = there.mean(axis=0, dtype=np.float64)
        within = there.astype(np.float64)
        for rows in rows_of:
            within[rows] -= within[rows].mean(axis=0)
        scatter = within.T @ within / len(within)
        spherical = max(float(np.trace(scatter)) / len(scatter), float(np.square(there - origin).mean()) * 1e-6, 1e-20)
        scatter = (1 - SHRINKAGE) * scatter + SHRINKAGE * spherical * np.eye(len(scatter))
        values, turned = np.linalg.eigh(scatter)
        whitening = (turned / np.sqrt(values)) @ turned.T
        axes = (directions @ whitening).astype(np.float32)
        origin = (origin @ whitening).astype(np.float32)
        unit_rows = unit(features @ axes - origin)
        chosen = _references(unit_rows, rows_of)
        kept = unit_rows[np.concatenate(chosen)]
        step = max(float(np.abs(kept).max()) / 127, 1e-12)
        return cls(
            linear.weights,
            linear.bias,
            axes,
            origin,
            np.rint(kept / np.float32(step)).astype(np.int8),
            np.array([len(rows) for rows in chosen], np.int64),
            np.asarray(voted, np.int64),
            np.array([CONCENTRATION, STRENGTH, step], np.float32),
            linear.converged,
        )

    @property
    def linear_part(self) -> LogisticHead:
        """The logistic regression, without votes."""
        return LogisticHead(self.weights, self.bias, self.converged)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, shape (n, c), of features of shape (n, k). O(n r p)."""
        logits = self.linear_part.logits(features)
        concentration, strength, step = self.kernel
        starts = np.cumsum(self.counts) - self.counts
        for start in range(0, len(features), _BLOCK):
            block = slice(start, start + _BLOCK)
            cosine = unit(features[block] @ self.axes - self.origin) @ self._columns
            near = np.exp((cosine - cosine.max(axis=1, keepdims=True)) * (concentration * step))
            votes = np.add.reduceat(near, starts, axis=1)
            shares = votes / votes.sum(axis=1, keepdims=True)
            logits[block] += (np.log(shares + _FLOOR) * strength)[:, self.voted]
        return logits

    def add_to_graph(self, graph: Graph, features: str) -> str:
        """See :class:`fruits.learning.heads.Head`."""
        concentration, strength, step = self.kernel
        groups = len(self.counts)
        there = graph.node("MatMul", features, graph.constant("axes", self.axes))
        centred = graph.node("Sub", there, graph.constant("origin", self.origin))
        square = graph.sum(graph.node("Mul", centred, centred), len(self.origin))
        length = graph.node("Max", graph.node("Sqrt", square), graph.constant("least_length", _LEAST_LENGTH))
        references = graph.node("Cast", graph.constant("references", self.references.T), to=_FLOAT)
        cosine = graph.node("MatMul", graph.node("Div", centred, length), references)
        beyond = graph.node("Sub", cosine, graph.largest(cosine, 1))
        near = graph.node("Exp", graph.node("Mul", beyond, graph.constant("concentration", concentration * step)))
        group_of = graph.constant("group_of", np.repeat(np.arange(groups), self.counts)[:, None])
        belongs = graph.node("Equal", group_of, graph.constant("groups", np.arange(groups)[None]))
        votes = graph.node("MatMul", near, graph.node("Cast", belongs, to=_FLOAT))
        shares = graph.node("Div", votes, graph.sum(votes, groups))
        logarithm = graph.node("Log", graph.node("Add", shares, graph.constant("floor", _FLOOR)))
        gained = graph.node("Mul", logarithm, graph.constant("strength", strength))
        of_label = graph.node("Gather", gained, graph.constant("voted", self.voted), axis=1)
        return graph.node("Add", self.linear_part.add_to_graph(graph, features), of_label)

    def temperature_scaled(self, temperature: float) -> KernelHead:
        """Return the head with logits divided by a temperature, which is folded into weights and strength."""
        linear = self.linear_part.temperature_scaled(temperature)
        kernel = self.kernel * np.array([1, 1 / temperature, 1], np.float32)
        return replace(self, weights=linear.weights, bias=linear.bias, kernel=kernel)

    @cached_property
    def _columns(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.references.T, np.float32)


def _references(rows: NDArray[np.float32], rows_of: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return the rows of each group that become references: no two alike, one at least, together at most ``MAX_REFERENCES`` and
    as many as may vote for so many groups.
    """
    together = min(MAX_REFERENCES, _MOST_CELLS // len(rows_of))
    each = max(1, together // len(rows_of))
    thinned = [_thinned(rows, spread(of_group, 4 * each, None)) for of_group in rows_of]
    sizes = np.array([len(of_group) for of_group in thinned])
    most = each
    while np.minimum(sizes, most + 1).sum() <= together and most < sizes.max():
        most += 1
    return [spread(of_group, most, None) for of_group in thinned]


def _thinned(rows: NDArray[np.float32], of_group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of some unit rows whose cosine with all earlier returned ones is below ``THINNED``."""
    own = rows[of_group]
    nearest = np.full(len(own), -1.0, np.float32)
    kept = []
    for place in range(len(own)):
        if nearest[place] < THINNED:
            kept.append(place)
            np.maximum(nearest, own @ own[place], out=nearest)
    return of_group[kept]
