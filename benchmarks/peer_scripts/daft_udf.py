"""Daft: ``download``, ``decode_image`` and ``resize`` of its own, and a class as UDF that opens the network once per worker."""

import daft
import numpy as np
from daft import DataType, col
from given import given, started, tell

job = given()
D = int(job.session()(job.batch([job.pixels(job.photos[0])])).shape[1])


@daft.cls(max_concurrency=job.cores)
class Embed:
    def __init__(self):
        self.network = job.session()

    @daft.method.batch(return_dtype=DataType.embedding(DataType.float32(), D), batch_size=32)
    def __call__(self, images):
        return list(self.network(job.batch([np.asarray(image) for image in images.to_pylist()])))


since = started()
table = daft.from_pydict({"path": job.photos, "row": list(range(len(job.photos)))})
image = col("path").download().decode_image(mode="RGB").resize(job.size, job.size)
table = table.with_column("embedding", Embed()(image)).select("row", "embedding").sort("row").to_arrow()
column = table["embedding"].combine_chunks()
job.save(getattr(column, "storage", column).flatten().to_numpy().reshape(-1, D))
tell(since, ["daft", "onnxruntime"])
