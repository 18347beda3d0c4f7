"""A pool of threads around one ONNX Runtime session: each reads, decodes and embeds batches of 32."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from given import batches, given, started, tell

job = given()
since = started()
network = job.session()
with ThreadPoolExecutor(job.cores) as pool:
    rows = list(pool.map(lambda some: network(job.batch([job.pixels(path) for path in some])), batches(job.photos)))
job.save(np.concatenate(rows))
tell(since, ["onnxruntime", "pillow", "numpy"])
