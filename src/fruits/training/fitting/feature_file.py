"""``features.parquet``: the features of all photos as a file, and passes over it, block by block.

A block is a row group. The driver and the workers of an engine take the same rows at a time, on one thread, so what they compute
has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruits.errors import StoreError
from fruits.learning.neighbours import FeatureRows
from fruits.storage.objects import Objects, uri_of
from fruits.storage.sanitising import json_text
from fruits.storage.tables import schemas
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.training.fitting.features import blocks
from fruits.training.fitting.training_set import TrainingSet

KEY: Final = "features.parquet"
#: Photos of a block. Another number may change last digits.
ROWS_PER_BLOCK: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """The features of a run, read by workers.

    Parameters
    ----------
    objects : Objects
        The folder of the run.
    rows_per_block : int
    """

    objects: Objects
    rows_per_block: int

    @classmethod
    def write(
        cls,
        objects: Objects,
        listed: CatalogueRows,
        training_set: TrainingSet,
        features: FeatureRows,
        metadata: dict[str, Any],
    ) -> FeatureFile:
        """Write the rows that are ok, in the catalogue's order, with a description in the schema's metadata."""
        schema = schemas.features(features.shape[1]).with_metadata({"fruits": json_text(metadata)})
        start = 0
        with (
            objects.writer(KEY, 4 * features.shape[0] * features.shape[1]) as stream,
            pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for kept in blocks(np.flatnonzero(training_set.ok), ROWS_PER_BLOCK):
                given = listed.take(kept, ["uri", "label", "split", "source"]).combine_chunks()
                values = pa.array(features[np.arange(start, start + len(kept))].reshape(-1))
                columns = [column.chunk(0).cast(pa.string()) for column in given.columns]
                columns.append(pa.FixedSizeListArray.from_arrays(values, features.shape[1]))
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
                start += len(kept)
        return cls(objects, ROWS_PER_BLOCK)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows of one block, given by their numbers in the file, shape (m, k).

        Raises
        ------
        StoreError
            If the file is gone or damaged.
        """
        block, first = divmod(int(rows[0]), self.rows_per_block)
        try:
            with (
                self.objects.open(KEY) as source,
                pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False) as parquet,
            ):
                column = parquet.read_row_group(block, ["features"], use_threads=False)["features"].combine_chunks()
        except (pa.ArrowException, OSError) as exc:
            if isinstance(exc, StoreError):
                raise
            raise StoreError(
                f"'{uri_of(self.objects.root, KEY)}' is damaged ({exc}); expected what this run has just written: run again"
            ) from exc
        values: NDArray[np.float32] = column.values.to_numpy().reshape(-1, column.type.list_size)
        return np.asarray(values[rows - (rows[0] - first)])


def in_blocks(rows: NDArray[np.int64], place: NDArray[Any]) -> Iterator[slice]:
    """Yield the photos of one block after the other, as slices of ``rows``.

    Parameters
    ----------
    rows : int64 array, shape (m,)
        Catalogue rows that are ok, ascending.
    place : integer array, shape (n,)
        Of :func:`fruits.training.fitting.features.positions`: number of each catalogue row in the features.
    """
    start = 0
    while start < len(rows):
        end = (int(place[rows[start]]) // ROWS_PER_BLOCK + 1) * ROWS_PER_BLOCK
        # Of its own type, or the search would copy all places.
        after = np.searchsorted(place, place.dtype.type(end)) if end <= place[-1] else len(place)
        stop = int(np.searchsorted(rows, rows.dtype.type(after)))
        yield slice(start, stop)
        start = stop
