"""The script that one writes instead: a pool of threads, Pillow, ONNX Runtime, one array at the end.

Runs on its own: ``python usual_script.py MODEL SIZE THREADS LIST``, where LIST names a photo per line; prints the seconds
from the first photo to the saved array. Without resume, without a word about which photo is in which row or failed.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
from PIL import Image

model, size, threads, listing = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def embed(paths):
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path in paths])
    return session.run(None, {"pixels": pixels})[0]


with open(listing, encoding="utf-8") as file:  # noqa: PTH123
    photos = file.read().splitlines()
started = time.perf_counter()
with ThreadPoolExecutor(threads) as pool:
    rows = list(pool.map(embed, [photos[start : start + 32] for start in range(0, len(photos), 32)]))
np.save(listing + ".npy", np.concatenate(rows))
print(time.perf_counter() - started)
