"""The process that is killed while it erases, or keeps, a submission.

Actions: ``keep`` keeps two submissions with photos, features and feedback, full of bytes that are searched for afterwards, and
says their receipts; ``delete`` deletes one; ``add`` keeps one more; ``recover`` does what a service does at its start. On request
the process kills itself (SIGKILL) at a certain call or return of a Python function of fruits or SQLAlchemy within the action.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import alembic.command  # noqa: F401 - so that it is there before processes are forked off, see deletions.py
import numpy as np
import psycopg  # noqa: F401

from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions
from fruits.storage.objects import Objects

#: 4 KB, so that a photo takes more than one page of anything that copies it.
SIZE = 4096


def marks(name: str) -> dict[str, bytes]:
    """Return what is planted in a submission called ``stays``, ``goes`` or ``added``: where to the bytes to look for."""
    features = np.frombuffer(f"features-of-{name}-".encode().ljust(32, b"."), "<f4")
    return {
        "photo": f"photo-of-{name}".encode(),
        "note": f"note-of-{name}".encode(),
        "label": f"label-of-{name}".encode(),
        "said": f"said-of-{name}".encode(),
        "features": features.tobytes(),
    }


def submission(name: str) -> NewSubmission:
    """Return a submission with marks wherever there can be one."""
    planted = marks(name)
    return NewSubmission(
        "kind", "apple", None, planted["label"].decode(), 0.9, 1.0, "en", "model",
        photo=planted["photo"].ljust(SIZE, b"\n") + planted["photo"],
        features=np.frombuffer(planted["features"], "<f4"),
    )  # fmt: skip


def keep(submissions: Submissions) -> dict[str, Receipt]:
    """Keep two submissions and what was said of them."""
    receipts = {}
    for name in ("stays", "goes"):
        receipts[name] = submissions.add(submission(name))
        planted = marks(name)
        submissions.feedback(
            receipts[name].id, receipts[name].secret, False, planted["said"].decode(), planted["note"].decode()
        )
    return receipts


@contextmanager
def counted(at: int | None) -> Iterator[list[int]]:
    """Count calls and returns, also up to the first deletion of a photo; at the given one, die."""
    count = [0, 0]

    def look(frame: Any, event: str, _: Any) -> None:
        if event in ("call", "return") and any(part in frame.f_code.co_filename for part in ("fruits", "sqlalchemy")):
            count[0] += 1
            if frame.f_code.co_name == "_delete_photo":
                count[1] = count[1] or count[0]
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(look)
    try:
        yield count
    finally:
        sys.setprofile(None)


def work(
    url: str, photos: str, log: str, action: str, receipt: tuple[str, str], at: int | None, said: Connection
) -> None:
    """Do one action; say ``begun``, then what it gave: the receipts, or how many calls it took, and until the photo went."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    database = Database.open(url)
    submissions = Submissions(database, Objects(photos), keep_days=30)
    if action == "keep":
        said.send({name: (one.id, one.secret) for name, one in keep(submissions).items()})
        os._exit(0)  # as a service that goes on: no connection is closed, SQLite's log stays
    if action != "recover":
        # As a service that has run for a while: else most calls would be preparations.
        warm = submissions.add(submission("warm"))
        submissions.delete(warm.id, warm.secret)
        submissions._erasure._scrubbed = -1e9
    said.send("begun")
    with counted(at) as count:
        if action == "add":
            submissions.add(submission("added"))
        elif action == "delete":
            submissions.delete(*receipt)
        else:
            submissions.recover()
    said.send(count)
    os._exit(0)
