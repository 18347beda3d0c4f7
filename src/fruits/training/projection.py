"""Features where the embeddings are: a stage that projects committed parts, for when features are too many for one machine.

Takes rows that name a part and say of each of its photos which label it has and what it counts; gives labelled features. The
head is then fitted by the engine over all of them. Knows nothing of how photos were chosen or of what is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.learning.pca import project
from fruits.storage.parts import Inventory, Parts, Record
from fruits.training.training_set import vectors_of

#: One row per part: its record, and of each of its rows the label's number (int32, -1: leave out) and weight (float64).
PROJECTED: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("record", pa.binary(), nullable=False),
        pa.field("labels", pa.binary(), nullable=False),
        pa.field("weights", pa.binary(), nullable=False),
    ]
)
LABELLED: Final = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("features", pa.list_(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class ProjectStage:
    """Reads parts and projects the rows that are wanted.

    Parameters
    ----------
    parts : Parts
    mean : float32 array, shape (d,)
    axes : float32 array, shape (k, d)
    """

    parts: Parts
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take rows of ``PROJECTED``; yield one batch of ``LABELLED`` per part that has rows that are wanted."""
        for batch in batches:
            for row in batch.to_pylist():
                labels = np.frombuffer(row["labels"], np.int32)
                wanted = labels >= 0
                if not wanted.any():
                    continue
                table = self.parts.read(Record.parse(row["record"], row["uri"]), ["embedding"])
                features = project(vectors_of(table)[wanted], self.mean, self.axes)
                offsets = np.arange(len(features) + 1, dtype=np.int32) * features.shape[1]
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(labels[wanted]),
                        pa.array(np.frombuffer(row["weights"])[wanted]),
                        pa.ListArray.from_arrays(pa.array(offsets), pa.array(features.reshape(-1))),
                    ],
                    schema=LABELLED,
                )


def shards_of(
    inventory: Inventory, labels: NDArray[np.int64], weights: NDArray[np.float64] | None
) -> Iterator[pa.Table]:
    """Yield a shard for the stage per part.

    Parameters
    ----------
    labels : int64 array, shape (n,)
        Number of the label of each catalogue row, -1 for rows to leave out.
    weights : float64 array, shape (n,), optional
        What each catalogue row counts; 1 by default.
    """
    for holding in inventory.holdings:
        held = holding.catalogue_rows >= 0
        own = np.where(held, labels[holding.catalogue_rows], -1).astype(np.int32)
        counts = np.ones(len(own)) if weights is None else np.where(held, weights[holding.catalogue_rows], 0.0)
        row = {
            "uri": holding.record.part,
            "record": holding.record.to_json(),
            "labels": own.tobytes(),
            "weights": counts.tobytes(),
        }
        yield pa.Table.from_pylist([row], schema=PROJECTED)
