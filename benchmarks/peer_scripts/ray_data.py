"""Ray Data: ``map_batches`` with a class that opens the network once per actor; one actor per core."""

import numpy as np
import ray
from given import given, started, tell

job = given()


class Embed:
    def __init__(self):
        self.network = job.session()

    def __call__(self, batch):
        pixels = [job.pixels(path) for path in batch["path"]]
        return {"row": batch["row"], "embedding": self.network(job.batch(pixels))}


since = started()
ray.init(num_cpus=job.cores, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
photos = ray.data.from_items([{"path": path, "row": row} for row, path in enumerate(job.photos)])
# One core each for the actors would leave none for reading the list.
found = photos.map_batches(Embed, batch_size=32, num_cpus=0.9, compute=ray.data.ActorPoolStrategy(size=job.cores))
rows = found.to_pandas()
embeddings = np.stack(rows["embedding"].to_numpy())
job.save(embeddings[np.argsort(rows["row"].to_numpy())])
tell(since, ["ray", "onnxruntime", "pillow"])
