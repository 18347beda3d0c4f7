"""PyTorch's DataLoader with a worker per core decodes; ONNX Runtime embeds in the main process."""

import numpy as np
from given import given, started, tell
from torch.utils.data import DataLoader, Dataset

job = given()


class Photos(Dataset):
    def __len__(self):
        return len(job.photos)

    def __getitem__(self, row):
        return job.pixels(job.photos[row])


if __name__ == "__main__":
    since = started()
    network = job.session(threads=job.cores)
    loader = DataLoader(Photos(), batch_size=32, num_workers=job.cores, collate_fn=job.batch)
    job.save(np.concatenate([network(batch) for batch in loader]))
    tell(since, ["torch", "onnxruntime", "pillow"])
