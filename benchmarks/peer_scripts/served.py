"""What a serving peer answers with: ``python PEER.py SPEC PORT``; SPEC names ``recognizer.onnx``, the labels and the cores."""

import json
import os
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

SPEC = json.loads(Path(os.environ.get("PEER_SPEC") or sys.argv[1]).read_text(encoding="utf-8"))


def session():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(SPEC["model"], options, providers=["CPUExecutionProvider"])


def fitted(image):
    return np.asarray(image.convert("RGB").resize((SPEC["size"], SPEC["size"]), Image.Resampling.BICUBIC))


def decoded(data):
    with Image.open(BytesIO(data)) as image:
        return fitted(image)


def probabilities(network, pixels):
    return network.run(["probabilities"], {"pixels": pixels})[0]


def answer(row):
    best = np.argsort(row)[::-1][:3]
    probabilities = [float(row[one]) for one in best]
    return {"label": SPEC["labels"][best[0]], "probabilities": probabilities, "numbers": best.tolist()}
