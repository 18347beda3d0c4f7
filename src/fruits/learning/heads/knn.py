"""k nearest neighbours by cosine: labels are scored by the similarity of their nearest reference photos.

The logit of a label is the mean cosine between a photo and the nearest references of that label. The number of references is
bounded, so memory and time do not grow with the training photos. Independent of files, and of ONNX itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fruits.errors import counted
from fruits.learning.folds import rows_by
from fruits.learning.heads import Graph, Head, check_labels
from fruits.learning.moments import unit

#: Most references of all labels together (one per label if there are more labels): 8,192 of 128 numbers are 4 MB.
MAX_REFERENCES: Final = 8192
#: Added to the cosine of padding, so that it is below any real cosine.
_NONE: Final = np.float32(-4)
#: Photos compared at a time: their cosines with all references take 8 MB.
_BLOCK: Final = 256


@dataclass(frozen=True)
class KnnHead(Head):
    """References of every label, and the number of neighbours.

    Attributes
    ----------
    references : float32 array, shape (r, k)
        Unit rows, grouped by label.
    counts : int64 array, shape (c,)
        References of each label, 1 or more.
    neighbours : int64 array, shape (1,)
        Number of a label's references that are averaged; a label with fewer averages all.

    Raises
    ------
    ValueError
        If the counts do not match the references.

    Notes
    -----
    The mean over a label's own neighbours is continuous in the features. Votes among the nearest of all labels are not: with tied
    distances, sums in another order could give a different answer in the single graph than in batch.

    References
    ----------
    Mitani and Hamamoto (2006), "A local mean-based nonparametric classifier", Pattern Recognition Letters 27.
    """

    arrays: ClassVar = {"references": ("f4", ("r", "k")), "counts": ("i8", ("c",)), "neighbours": ("i8", ("1",))}
    parameter: ClassVar = "neighbours"
    settings: ClassVar = (1.0, 2.0, 4.0, 8.0, 16.0)
    default: ClassVar = 4.0

    references: NDArray[np.float32]
    counts: NDArray[np.int64]
    neighbours: NDArray[np.int64]

    def __post_init__(self) -> None:
        most = len(self.references)
        if len(self.counts) == 0 or self.counts.min() < 1 or self.counts.max() > most or self.counts.sum() != most:
            raise ValueError(
                f"counts of {counted(self.counts.sum(), 'reference')} in all, of {most}; expected 1 or more per label"
            )
        if len(self.counts) * self.counts.max() > max(
            MAX_REFERENCES, len(self.counts)
        ):  # what is computed is padded to this
            raise ValueError(
                f"{counted(self.counts.max(), 'reference')} of one of {counted(len(self.counts), 'label')}; "
                f"expected at most {MAX_REFERENCES:,} if "
                "all labels had as many"
            )
        if self.neighbours[0] < 1:
            raise ValueError(f"{counted(self.neighbours[0], 'neighbour')}; expected 1 or more")

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        *,
        setting: float,
        weights: NDArray[np.float64] | None = None,
    ) -> KnnHead:
        """See :class:`fruits.learning.heads.Head`; the setting is the number of neighbours per label.

        Selects the references: at most the same number for each label, spread evenly over its rows, by weight.
        """
        check_labels(labels)
        rows_of = rows_by(labels)
        most = max(1, MAX_REFERENCES // len(rows_of))
        chosen = [spread(rows, most, None if weights is None else weights[rows]) for rows in rows_of]
        counts = np.array([len(rows) for rows in chosen], np.int64)
        return cls(unit(features[np.concatenate(chosen)]), counts, np.array([max(1, round(setting))], np.int64))

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, shape (n, c), of features of shape (n, k). O(n r k)."""
        padded, missing, shares = self._padded
        shape, count = missing.shape, shares.shape[1]
        logits = np.empty((len(features), len(self.counts)), np.float32)
        for start in range(0, len(features), _BLOCK):
            cosine = (unit(features[start : start + _BLOCK]) @ padded.T).reshape(-1, *shape) + missing
            nearest = -np.sort(-np.partition(cosine, -count, axis=2)[..., -count:], axis=2)
            logits[start : start + _BLOCK] = (nearest * shares).sum(axis=2)
        return logits

    def add_to_graph(self, graph: Graph, features: str) -> str:
        """See :class:`fruits.learning.heads.Head`."""
        padded, missing, shares = self._padded
        c, r = missing.shape
        square = graph.sum(graph.node("Mul", features, features), self.references.shape[1])
        length = graph.node("Max", graph.node("Sqrt", square), graph.constant("least_length", np.float32(1e-12)))
        products = graph.node("MatMul", graph.node("Div", features, length), graph.constant("references", padded.T))
        cosine = graph.node("Add", products, graph.constant("missing", missing.reshape(-1)))
        by_label = graph.node("Reshape", cosine, graph.constant("by_label", np.array([-1, c, r], np.int64)))
        nearest = graph.largest(by_label, shares.shape[1])
        mean = graph.sum(graph.node("Mul", nearest, graph.constant("shares", shares)), shares.shape[1])
        return graph.node("Reshape", mean, graph.constant("one_per_label", np.array([-1, c], np.int64)))

    @cached_property
    def _padded(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return the references padded with zeros to r per label, shape (c * r, k); the number added to each cosine, shape
        (c, r); and the weights of a label's nearest references, shape (c, neighbours).
        """
        c, r = len(self.counts), int(self.counts.max())
        missing = np.where(np.arange(r) < self.counts[:, None], np.float32(0), _NONE)
        padded = np.zeros((c * r, self.references.shape[1]), np.float32)
        padded[missing.reshape(-1) == 0] = self.references
        averaged = np.minimum(self.counts, self.neighbours[0])[:, None]
        shares = (np.arange(min(r, int(self.neighbours[0]))) < averaged) / averaged
        return padded, missing, shares.astype(np.float32)


def spread(rows: NDArray[np.int64], most: int, weights: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Return at most ``most`` of some rows, spread evenly over their order, in proportion to their weights."""
    if len(rows) <= most:
        return rows
    reached = np.cumsum(np.ones(len(rows)) if weights is None else weights)
    at = np.searchsorted(reached, (np.arange(most) + 0.5) / most * reached[-1])
    return np.asarray(rows[np.unique(np.minimum(at, len(rows) - 1))], np.int64)
