"""Our moments and PCA beside scikit-learn's PCA and Spark ML's, on the same embeddings.

The embeddings are made: 20,000 x 1,280 float32, the size that MobileNetV2 gives, with variances that fall as those of real
ones do. NumPy arrays in memory for fruits and scikit-learn, a cached DataFrame in a warm session for Spark ML. Of the
repetitions, taken in turns, the best of each counts: whatever else the machine does only ever slows.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811

from benchmarks.quiet import wait_for_quiet
from fruits.learning.moments import Moments
from fruits.learning.pca import PCA
from fruits.monitoring.cores import usable_cores

D, K, ROWS_PER_SHARD = 1280, 183, 4096
SPARK_TARGET, TOLERANCE = 20.0, 1e-6
_OURS, _SKLEARN, _SPARK = "fruits", "scikit-learn, float64", "Spark ML"
Fit = Callable[[], tuple[NDArray[Any], bool]]
"""Fits once; returns variances (or shares of variance, if True) of the first axes, largest first."""


def measure(scratch: Path, *, rows: int, repeat: int) -> dict[str, Any]:
    """Fit in turns, ``repeat`` times."""
    x = embeddings(rows)
    fits: dict[str, Fit] = {
        _OURS: lambda: (_fruits(x).variances, False),
        # Of its solvers this is the fastest here; 'auto' picks a full SVD at d = 1,280, and a random one for few axes.
        # Given float32 it computes in float32, so float64 has to be asked for by converting.
        _SKLEARN: lambda: (_sklearn(x.astype(np.float64), "covariance_eigh"), False),
        "scikit-learn, float32": lambda: (_sklearn(x, "covariance_eigh"), False),
        "scikit-learn, PCA()": lambda: (_sklearn(x, "auto"), False),
    }
    spark, why_not = _open_spark()
    if spark is not None:
        fits[_SPARK] = _spark_fit(spark, x, scratch / "embeddings")
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    found = {}
    try:
        for _ in range(repeat):
            for name, fit in fits.items():
                wait_for_quiet()
                started = time.perf_counter()
                found[name] = fit()
                seconds[name].append(time.perf_counter() - started)
    finally:
        if spark is not None:
            spark.stop()
            shutil.rmtree(scratch / "embeddings")
    variances = found[_OURS][0]
    apart = {name: _largest_difference(variances, *answer) for name, answer in found.items() if name != _OURS}
    slower = {name: min(times) / min(seconds[_OURS]) for name, times in seconds.items()}
    return {
        "rows": rows,
        "embedding_size": D,
        "components": K,
        "seconds": seconds,
        "times_ours": slower,
        "largest_relative_difference": apart,
        "spark_absent": why_not,
        "lines": _lines(rows, seconds, slower, apart, why_not),
    }


def embeddings(rows: int, d: int = D, seed: int = 0) -> NDArray[np.float32]:
    """Return generated embeddings, shape (rows, d): variances fall as 1 / i^1.5 to a floor, means are positive."""
    rng = np.random.default_rng(seed)
    deviations = np.sqrt(np.arange(1, d + 1) ** -1.5 + 1e-5).astype(np.float32)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    mean = rng.gamma(2.0, 0.2, d).astype(np.float32)
    return (rng.standard_normal((rows, d), np.float32) * deviations) @ axes + mean


def _fruits(x: NDArray[np.float32]) -> PCA:
    total = Moments.empty(x.shape[1])
    for start in range(0, len(x), ROWS_PER_SHARD):
        total = total.merge(Moments.from_rows(x[start : start + ROWS_PER_SHARD]))
    return PCA.from_moments(total)


def _sklearn(x: NDArray[Any], solver: str) -> NDArray[Any]:
    return np.asarray(SklearnPCA(svd_solver=solver).fit(x).explained_variance_)


def _open_spark() -> tuple[Any, str]:
    """Return a session on this machine's cores, or None and why there is none."""
    try:
        from pyspark.sql import SparkSession  # noqa: PLC0415
    except ImportError:
        return None, "pyspark is absent: pip install -e '.[spark]'"
    if shutil.which("java") is None:
        return None, "Java is absent: Spark needs 17 or newer on the PATH"
    builder = SparkSession.builder.master(f"local[{usable_cores()}]").appName("fruits-bench")
    quiet = {"spark.driver.memory": "4g", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
    for name, value in quiet.items():
        builder = builder.config(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return builder.getOrCreate(), ""


def _spark_fit(spark: Any, x: NDArray[np.float32], folder: Path) -> Fit:
    """Cache the embeddings as vectors, warm the JVM up on some of them, and return the fit."""
    from pyspark.ml.feature import PCA as SparkPCA  # noqa: N811, PLC0415
    from pyspark.ml.functions import array_to_vector  # noqa: PLC0415

    folder.mkdir()
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1]).cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({"embedding": column}), folder / "part.parquet", row_group_size=1000)
    cores = usable_cores()
    frame = spark.read.parquet(str(folder)).repartition(cores)
    frame = frame.select(array_to_vector("embedding").alias("embedding")).cache()
    if frame.count() != len(x):
        raise RuntimeError("Spark holds another number of rows; expected the same embeddings")
    pca = SparkPCA(k=K, inputCol="embedding", outputCol="features")
    pca.fit(frame.limit(500))
    return lambda: (pca.fit(frame).explainedVariance.toArray(), True)


def _largest_difference(ours: NDArray[Any], theirs: NDArray[Any], are_shares: bool) -> dict[int, float]:
    """Return the largest relative difference among the first ``K`` variances, and among all there are."""
    ours = (ours / ours.sum() if are_shares else ours)[: len(theirs)]
    apart = np.abs(theirs - ours) / ours
    return {count: float(apart[:count].max()) for count in sorted({K, len(theirs)})}


def _lines(
    rows: int,
    seconds: dict[str, list[float]],
    slower: dict[str, float],
    apart: dict[str, dict[int, float]],
    why_not: str,
) -> list[str]:
    lines = [f"{'PCA of ' + format(rows, ',') + ' x 1,280':26}{'best s':>9}{'of ours':>9}   each repetition"]
    for name, times in seconds.items():
        each = " ".join(f"{one:7.3f}" for one in times)
        differs = ", ".join(f"{worst:.0e} in {count:,}" for count, worst in apart.get(name, {}).items())
        differs = f"largest difference of variances from ours: {differs}" if differs else ""
        lines.append(f"{name:26}{min(times):9.3f}{slower[name]:9.2f}   {each}   {differs}")
    worst = max(max(apart[name].values()) for name in (_SKLEARN, _SPARK) if name in apart)
    equal = "met" if worst <= TOLERANCE else "NOT met"
    lines.append(f"variances equal to {TOLERANCE:g} relative, where float64 is used: {worst:.0e}, {equal}")
    lines.append(f"not slower than scikit-learn in float64: {'met' if slower[_SKLEARN] >= 1 else 'NOT met'}")
    if why_not:
        lines.append(f"Spark ML was NOT measured: {why_not}")
    else:
        verdict = "met" if slower[_SPARK] >= SPARK_TARGET else "NOT met"
        lines.append(f"at least {SPARK_TARGET:g} times Spark ML: {slower[_SPARK]:.1f}, {verdict}")
    return lines
