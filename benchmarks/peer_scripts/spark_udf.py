"""Spark: binaryFile and a pandas UDF over iterators that opens the network once per task, to Parquet; session started before."""

import io
import json
import os
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from given import given, started, tell
from PIL import Image
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf
from pyspark.sql.types import ArrayType, BinaryType, FloatType

job = given()
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
PREDICT = json.loads(sys.argv[2]) if len(sys.argv) > 2 else False


def session():
    build = SparkSession.builder.master(f"local[{job.cores}]").config("spark.ui.enabled", "false")
    build = build.config("spark.driver.memory", "4g").config("spark.executorEnv.PYTHONPATH", HERE)
    build = build.config("spark.sql.execution.arrow.maxRecordsPerBatch", "256")
    spark = build.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.range(job.cores).count()
    return spark


def decoded(content):
    with Image.open(io.BytesIO(content)) as image:
        return job.fitted(image)


@pandas_udf(ArrayType(FloatType()))  # a text would need a session here
def embed(parts: Iterator[pd.Series]) -> Iterator[pd.Series]:
    network = job.session()
    for contents in parts:
        found = []
        for start in range(0, len(contents), 32):
            found += list(network(job.batch([decoded(one) for one in contents[start : start + 32]])))
        yield pd.Series(found)


@pandas_udf(BinaryType())
def to_pixels(contents: pd.Series) -> pd.Series:
    return contents.map(lambda one: decoded(one).tobytes())


def predict():
    network = job.session()

    def run(pixels):
        rows = [np.frombuffer(one, np.uint8).reshape(job.size, job.size, 3) for one in pixels]
        return network(job.batch(rows))

    return run


def featurize(spark, to):
    folder = os.path.commonpath(job.photos)
    photos = spark.read.format("binaryFile").option("recursiveFileLookup", "true").option("pathGlobFilter", "*.jpg")
    photos = photos.load(folder).select("path", "content")
    if PREDICT:
        from pyspark.ml.functions import predict_batch_udf  # noqa: PLC0415

        made = predict_batch_udf(predict, return_type=ArrayType(FloatType()), batch_size=32)
        rows = photos.select("path", made(to_pixels("content")).alias("embedding"))
    else:
        rows = photos.select("path", embed("content").alias("embedding"))
    rows.write.mode("overwrite").parquet(to)


def keep(spark, to):
    """Bring the rows into the order of the photos, for comparison; not counted."""
    rows = spark.read.parquet(to).toPandas()
    found = {
        path.removeprefix("file:").replace("///", "/"): row
        for path, row in zip(rows["path"], rows["embedding"], strict=True)
    }
    from urllib.parse import unquote  # noqa: PLC0415

    found = {unquote(path): row for path, row in found.items()}
    job.save(np.stack([np.asarray(found[path], np.float32) for path in job.photos]))


if __name__ == "__main__":
    spark = session()
    since = started()
    featurize(spark, job.to + ".parquet")
    seconds = started() - since
    keep(spark, job.to + ".parquet")
    tell(started() - seconds, ["pyspark", "onnxruntime", "pillow", "pandas"])
    spark.stop()
