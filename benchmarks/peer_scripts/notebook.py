"""The notebook way, whole: binaryFile, pandas UDF, Parquet, Spark ML's PCA and logistic regression, scored on the test photos."""

import os
from urllib.parse import unquote

import spark_udf
from given import given, started, tell
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import PCA, StringIndexer
from pyspark.ml.functions import array_to_vector
from pyspark.sql.functions import col, udf

job = given()
spark = spark_udf.session()
since = started()
to = job.to + ".parquet"
spark_udf.featurize(spark, to)
featurized = started() - since
parts = udf(lambda path: unquote(path).rsplit("/", 3)[-3:-1], "array<string>")
rows = spark.read.parquet(to).withColumn("parts", parts("path"))
rows = rows.select(
    col("parts")[0].alias("split"), col("parts")[1].alias("label"), array_to_vector("embedding").alias("x")
)
rows = StringIndexer(inputCol="label", outputCol="number").fit(rows).transform(rows).cache()
train, test = rows.filter(col("split") == "Training"), rows.filter(col("split") != "Training")
reduced = PCA(k=job.components, inputCol="x", outputCol="features").fit(train)
pca_done = started() - since
model = LogisticRegression(labelCol="number", maxIter=100).fit(reduced.transform(train))
fitted = started() - since
answers = model.transform(reduced.transform(test))
score = MulticlassClassificationEvaluator(labelCol="number", metricName="accuracy").evaluate(answers)
tell(
    since, ["pyspark", "onnxruntime", "pillow", "pandas"], accuracy=score, featurizing=featurized,
    pca=pca_done - featurized, fit=fitted - pca_done, folder=os.path.basename(to),  # noqa: PTH119
)  # fmt: skip
spark.stop()
