"""LitServe: batches of up to 8 that wait for 5 ms, a worker per core."""

import sys

import litserve as ls
import numpy as np
import served
from fastapi import UploadFile


class Recognise(ls.LitAPI):
    def setup(self, device):  # noqa: ARG002
        self.network = served.session()

    def decode_request(self, request: UploadFile):
        return served.decoded(request.file.read())

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, pixels):
        return served.probabilities(self.network, pixels)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return served.answer(output)


if __name__ == "__main__":
    api = Recognise(max_batch_size=8, batch_timeout=0.005, api_path="/predict")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=served.SPEC["cores"])
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
