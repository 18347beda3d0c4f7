"""A plain FastAPI handler: a file in a form, one photo at a time in the pool of threads, a process of Uvicorn per core."""

import os
import sys
from typing import Annotated

import served
import uvicorn
from fastapi import FastAPI, File

app = FastAPI()
NETWORK = served.session()


@app.post("/")
def recognise(photo: Annotated[bytes, File()]):
    return served.answer(served.probabilities(NETWORK, served.decoded(photo)[None])[0])


if __name__ == "__main__":
    os.environ["PEER_SPEC"] = sys.argv[1]  # for its processes
    uvicorn.run(
        "serve_fastapi:app", port=int(sys.argv[2]), workers=served.SPEC["cores"], log_level="warning", access_log=False
    )
