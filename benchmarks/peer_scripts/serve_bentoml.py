"""BentoML: a service with a worker per core, one photo at a time."""

import os
import sys
from pathlib import Path

os.environ["BENTOML_DO_NOT_TRACK"] = "True"
if __name__ == "__main__":  # begins it as its documentation does: bentoml serve MODULE:SERVICE
    command = [sys.executable, "-m", "bentoml", "serve", "serve_bentoml:Recognise", "--port", sys.argv[2]]
    os.environ["PEER_SPEC"] = sys.argv[1]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--working-dir", str(Path(__file__).parent)])

import bentoml
import served
from PIL.Image import Image


@bentoml.service(workers=served.SPEC["cores"])
class Recognise:
    def __init__(self):
        self.network = served.session()

    @bentoml.api
    def recognise(self, photo: Image) -> dict:
        return served.answer(served.probabilities(self.network, served.fitted(photo)[None])[0])
