"""Projection of stored embeddings on the cluster, for when the features do not fit on one machine.

The stage takes rows that name a file, with the label and weight of each of its photos, and yields labelled features. The engine
then fits the head on all of them. Independent of how photos were chosen and of what is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.learning.pca import project
from fruits.storage.inventory import Inventory
from fruits.storage.table import EmbeddingTable, File
from fruits.training.training_set import vectors_of

#: One row per file of the table: its properties, and of each of its rows the label index (int32, -1: left out) and the weight
#: (float64).
PROJECTED: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ms", pa.int64(), nullable=False),
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
    """Stage that reads files and projects the selected rows.

    Parameters
    ----------
    stored : EmbeddingTable
    mean : float32 array, shape (d,)
    axes : float32 array, shape (k, d)
    """

    stored: EmbeddingTable
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take rows of ``PROJECTED``; yield one batch of ``LABELLED`` per file with selected rows."""
        for batch in batches:
            for row in batch.to_pylist():
                labels = np.frombuffer(row["labels"], np.int32)
                wanted = labels >= 0
                if not wanted.any():
                    continue
                file = File(row["uri"], row["size_bytes"], len(labels), row["modified_ms"])
                table = self.stored.read(file, ["embedding"])
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
    """Yield one shard for the stage per file.

    Parameters
    ----------
    labels : int64 array, shape (n,)
        Label index of each catalogue row, -1 for rows to leave out.
    weights : float64 array, shape (n,), optional
        Weight of each catalogue row; 1 by default.
    """
    for holding in inventory.holdings:
        held = holding.catalogue_rows >= 0
        own = np.where(held, labels[holding.catalogue_rows], -1).astype(np.int32)
        counts = np.ones(len(own)) if weights is None else np.where(held, weights[holding.catalogue_rows], 0.0)
        row = {
            "uri": holding.file.name,
            "size_bytes": holding.file.size_bytes,
            "modified_ms": holding.file.modified_ms,
            "labels": own.tobytes(),
            "weights": counts.tobytes(),
        }
        yield pa.Table.from_pylist([row], schema=PROJECTED)
