"""Vectors as files: number formats, codecs and rows per file, with the bytes and the time that they take.

Knows nothing of photos. int8 has one scale per component, the largest magnitude divided by 127.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FORMATS: Final = ("float32", "float16", "int8")
#: Codec of Parquet, and whether the bytes of a number are stored apart (BYTE_STREAM_SPLIT, for floats of 32 bits).
CODECS: Final = {"none": ("none", False), "lz4": ("lz4", False), "zstd": ("zstd", False), "zstd split": ("zstd", True)}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors in a number format.

    Attributes
    ----------
    values : array, shape (n, k)
        Of dtype float32, float16 or int8.
    scale : float32 array, shape (k,)
        Factor of each component; 1 but for int8.
    """

    values: NDArray[Any]
    scale: NDArray[np.float32]

    @property
    def decoded(self) -> NDArray[np.float32]:
        """The vectors as float32, as a reader gets them."""
        return self.values.astype(np.float32) * self.scale


def encoded(vectors: NDArray[np.float32], number_format: str) -> Encoded:
    """Return vectors in one of :data:`FORMATS`."""
    scale = np.ones(vectors.shape[1], np.float32)
    if number_format != "int8":
        return Encoded(vectors.astype(number_format), scale)
    largest = np.abs(vectors).max(axis=0, initial=0.0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return Encoded(np.clip(np.rint(vectors / scale), -127, 127).astype(np.int8), scale)


def measured_files(values: NDArray[Any], codec: str, rows_per_file: int, repeats: int) -> dict[str, Any]:
    """Write vectors as Parquet files and read them again; return ``files``, ``bytes``, ``write_s`` and ``read_s``.

    Parameters
    ----------
    values : array, shape (n, k)
    codec : str
        One of :data:`CODECS`.
    rows_per_file, repeats : int
        Times are the median of so many repeats.
    """
    compression, split = CODECS[codec]
    n, k = values.shape
    if values.dtype == np.int8:  # as bytes: Parquet has no integers of fewer than 32 bits
        column = pa.Array.from_buffers(pa.binary(k), n, [None, pa.py_buffer(np.ascontiguousarray(values))])
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), k)
    table = pa.table({"vector": column})
    starts = range(0, n, rows_per_file)
    writes, reads = [], []
    with TemporaryDirectory(prefix="fruits-study-") as folder:
        paths = [Path(folder) / f"{start}.parquet" for start in starts]
        for _ in range(repeats):
            started = time.perf_counter()
            for start, path in zip(starts, paths, strict=True):
                pq.write_table(
                    table.slice(start, rows_per_file),
                    path,
                    compression=compression,
                    use_dictionary=False,
                    use_byte_stream_split=split,
                )
            written = time.perf_counter()
            for path in paths:
                pq.read_table(path, use_threads=False)
            reads.append(time.perf_counter() - written)
            writes.append(written - started)
        size = sum(path.stat().st_size for path in paths)
    return {"files": len(paths), "bytes": size, "write_s": median(writes), "read_s": median(reads)}


def codecs_for(number_format: str) -> list[str]:
    """Return the codecs that a number format can have."""
    return [name for name, (_, split) in CODECS.items() if not split or number_format == "float32"]
