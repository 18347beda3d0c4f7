"""A plain loop around ONNX Runtime, which uses all cores for one batch of 32 at a time."""

import numpy as np
from given import batches, given, started, tell

job = given()
since = started()
network = job.session(threads=job.cores)
rows = [network(job.batch([job.pixels(path) for path in some])) for some in batches(job.photos)]
job.save(np.concatenate(rows))
tell(since, ["onnxruntime", "pillow", "numpy"])
