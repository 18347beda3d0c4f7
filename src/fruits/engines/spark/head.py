"""Fitting a head with Spark ML's logistic regression, for features that do not fit on one machine.

The minimum is that of ``fruits.learning.heads.logistic.LogisticHead.fit``: both objectives are convex and equal up to a factor.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from fruits.engines import Stage
from fruits.engines.spark.jobs import attempt
from fruits.engines.spark.session import Spark
from fruits.engines.spark.tasks import pickled_error, shards_of_work, tidy
from fruits.errors import EngineError, counted, option

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ROWS: Final = pa.schema(
    [
        ("label", pa.int32()),
        ("weight", pa.float64()),
        ("features", pa.list_(pa.float32())),
        ("error", pa.binary()),
    ]
)
_COLUMNS: Final = "label int, weight double, features array<float>, error binary"
#: Much tighter than Spark's default 1e-6, which leaves errors of a percent in probabilities.
_TOLERANCE: Final = 1e-10
_MAX_ITERATIONS: Final = 1000
_TASKS_PER_CORE: Final = 2


def fit(
    spark: Spark, shards: Sequence[tuple[int, bytes]], stage: bytes, *, labels: int, regularisation: float, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the head.

    Parameters
    ----------
    spark : Spark
    shards : sequence of (number, bytes)
        Shards as Arrow streams.
    stage : bytes
        Pickled stage that yields batches of ``label`` (int32, 0 to c - 1, each occurs), ``weight`` (float64) and ``features``
        (lists of k float32).
    labels : int
        Number of labels c, 2 or more.
    regularisation : float
        scikit-learn's ``C`` for features times ``scale``: the objective is ``C * sum(weight * loss) + |slopes|^2 / 2``.
    scale : float
        Reciprocal of the root mean square length of the features.

    Returns
    -------
    slopes : float64 array, shape (c, k)
        For unscaled features.
    intercepts : float64 array, shape (c,)

    Raises
    ------
    EngineError
        If workers die repeatedly, or the session is one of Spark Connect.
    FruitsError
        If the stage raises one.
    """
    if spark.remote:
        raise EngineError(
            "so many training photos: their head is fitted by Spark ML, which Spark Connect (sc://) does not offer; expected "
            "another master. Embeddings are kept: run again with a master such as spark://host:7077, or on one machine with "
            f"{option('engine', 'local')}, which computes none of them again"
        )

    def job() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from pyspark import StorageLevel  # noqa: PLC0415

        rows = spark.apply(spark.distribute([[shard] for shard in shards]), _RowsTask(stage, scale), _COLUMNS)
        # Every iteration is a job over all partitions: use a few per core, however many shards there are.
        rows = rows.coalesce(max(1, min(len(shards), _TASKS_PER_CORE * spark.parallelism))).persist(
            StorageLevel.DISK_ONLY
        )
        try:
            return _fit(rows, labels, regularisation)
        finally:
            rows.unpersist()

    slopes, intercepts = attempt(spark, job, f"fit a head on {counted(len(shards), 'shard')}")
    return slopes * scale, intercepts


def _fit(rows: DataFrame, labels: int, regularisation: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from pyspark.ml.classification import LogisticRegression  # noqa: PLC0415
    from pyspark.ml.functions import array_to_vector  # noqa: PLC0415

    [(weight, highest, error)] = rows.selectExpr("sum(weight)", "max(label)", "max(error)").collect()
    if error is not None:
        raise pickle.loads(error)  # noqa: S301 - from a task of this module
    if highest != labels - 1:
        raise EngineError(
            f"the highest label of the rows is {highest}; expected {labels - 1}, for {counted(labels, 'label')}"
        )
    model = LogisticRegression(
        weightCol="weight",
        # As in scikit-learn: with two labels, one row of slopes is penalised.
        family="binomial" if labels == 2 else "multinomial",
        regParam=1 / (regularisation * weight),
        elasticNetParam=0.0,
        standardization=False,
        tol=_TOLERANCE,
        maxIter=_MAX_ITERATIONS,
    ).fit(rows.select("label", "weight", array_to_vector(rows["features"]).alias("features")))
    slopes = np.asarray(model.coefficientMatrix.toArray(), np.float64)
    intercepts = np.asarray(model.interceptVector.toArray(), np.float64)
    if labels == 2:
        return np.vstack([-slopes / 2, slopes / 2]), np.r_[-intercepts / 2, intercepts / 2]
    return slopes, intercepts


@dataclass(frozen=True)
class _RowsTask:
    """Yields the rows of the stage, scaled; an error is a row too."""

    stage: bytes
    scale: float

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _, work in shards_of_work(batches):
            try:
                stage: Stage = pickle.loads(self.stage)  # noqa: S301 - from the driver
                for rows in stage(iter(pa.ipc.open_stream(work))):
                    yield self._scaled(rows)
            except Exception as exc:  # of any type: the driver raises it
                row: dict[str, Any] = {"label": 0, "weight": 0.0, "features": [], "error": pickled_error(exc)}
                yield pa.RecordBatch.from_pylist([row], schema=_ROWS)
        tidy()

    def _scaled(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        features = rows["features"].cast(pa.list_(pa.float32()))
        values = features.flatten().to_numpy() * np.float32(self.scale)
        lengths = np.r_[0, np.cumsum(features.value_lengths().to_numpy())].astype(np.int32)
        arrays = [
            rows["label"].cast(pa.int32()),
            rows["weight"].cast(pa.float64()),
            pa.ListArray.from_arrays(lengths, pa.array(values)),
            pa.nulls(rows.num_rows, pa.binary()),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=_ROWS)
