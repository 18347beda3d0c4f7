"""Projection of committed parts on the cluster, for when the features do not fit on one machine.

The stage takes rows that name a part, with the label and weight of each of its photos, and yields labelled features. The engine
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
from fruits.storage.parts import Inventory, Parts, Record
from fruits.training.training_set import vectors_of

#: One row per part: its record, and the label index (int32, -1: left out) and weight (float64) of each of its rows.
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
    """Stage that reads parts and projects the selected rows.

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
        """Take rows of ``PROJECTED``; yield one batch of ``LABELLED`` per part with selected rows."""
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
    """Yield one shard for the stage per part.

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
            "uri": holding.record.part,
            "record": holding.record.to_json(),
            "labels": own.tobytes(),
            "weights": counts.tobytes(),
        }
        yield pa.Table.from_pylist([row], schema=PROJECTED)
