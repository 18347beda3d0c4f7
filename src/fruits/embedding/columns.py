"""The columns of embedding rows while they are being filled, photo by photo, and as a record batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.errors import ImageDecodeError
from fruits.photos.decoding.decoder import Size
from fruits.storage.tables.schemas import embeddings


@dataclass(slots=True)
class Columns:
    """The columns of some embedding rows while they are being filled."""

    uri: list[str]
    version: list[str]
    sha256: list[str | None]
    width: list[int | None]
    height: list[int | None]
    brightness: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    status: list[str]
    error: list[str | None]

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> Columns:
        """Return columns in which no photo has been looked at."""
        n = len(rows)
        return cls(
            uri=[row["uri"] for row in rows],
            version=[row["version"] for row in rows],
            sha256=[None] * n,
            width=[None] * n,
            height=[None] * n,
            brightness=np.full(n, np.nan, np.float32),
            sharpness=np.full(n, np.nan, np.float32),
            status=["ok"] * n,
            error=[None] * n,
        )

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Return the columns of several batches, one after the other; the first takes up the others."""
        whole = parts[0]
        for part in parts[1:]:
            for name in ("uri", "version", "sha256", "width", "height", "status", "error"):
                getattr(whole, name).extend(getattr(part, name))
        whole.brightness = np.concatenate([part.brightness for part in parts])
        whole.sharpness = np.concatenate([part.sharpness for part in parts])
        return whole

    def set_error(self, row: int, status: str, error: str) -> None:
        """Enter why a row has no embedding."""
        self.status[row], self.error[row] = status, error

    def set_outcomes(self, rows: list[int], outcomes: list[Size | ImageDecodeError]) -> list[int]:
        """Enter what the decoder found for some rows; return those that have pixels."""
        ok = []
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, ImageDecodeError):
                self.set_error(row, "rejected", f"{outcome.code}: {outcome}")
            else:
                self.width[row], self.height[row] = outcome
                ok.append(row)
        return ok

    def to_batch(self, vectors: NDArray[np.float32]) -> pa.RecordBatch:
        """Return the rows with their embeddings, shape (n, d); rows that are not ok have none."""
        d = vectors.shape[1]
        bad = pa.array([status != "ok" for status in self.status])
        arrays = [
            pa.array(self.uri, pa.string()),
            pa.array(self.version, pa.string()),
            pa.array(self.sha256, pa.string()),
            pa.array(self.width, pa.int32()),
            pa.array(self.height, pa.int32()),
            pa.array(self.brightness, from_pandas=True),  # NaN becomes null
            pa.array(self.sharpness, from_pandas=True),
            pa.array(self.status, pa.string()),
            pa.array(self.error, pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), d, mask=bad),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=embeddings(d))
