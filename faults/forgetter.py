"""The process that is killed while it forgets: ``python -m faults.forgetter DATABASE PHOTOS ACTION [AT]``.

Actions: ``keep`` keeps two submissions with photos, features and feedback, full of bytes that are searched for afterwards, and
prints their receipts; ``delete`` reads a receipt and deletes that submission; ``add`` keeps one more; ``recover`` does what a
service does at its start. With AT, the process kills itself (SIGKILL) at the AT-th call or return of a Python function of fruits
and SQLAlchemy within the action; without, it prints how many there were.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fruits.service.database import Database
from fruits.service.submissions import NewSubmission, Receipt, Submissions
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
    """Count calls and returns; at the given one, die."""
    count = [0]

    def look(frame: Any, event: str, _: Any) -> None:
        if event in ("call", "return") and any(part in frame.f_code.co_filename for part in ("fruits", "sqlalchemy")):
            count[0] += 1
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(look)
    try:
        yield count
    finally:
        sys.setprofile(None)


def main() -> None:
    """Do it."""
    url, photos, action = sys.argv[1:4]
    at = int(sys.argv[4]) if len(sys.argv) > 4 else None
    database = Database.open(url)
    submissions = Submissions(database, Objects(photos), keep_days=30)
    if action == "keep":
        print(json.dumps({name: [receipt.id, receipt.secret] for name, receipt in keep(submissions).items()}))
        return  # no connection is closed: SQLite's log is left as a service that runs leaves it
    what: dict[str, Callable[[], object]] = {
        "add": lambda: submissions.add(submission("added")),
        "recover": submissions.recover,
    }
    if action == "delete":
        name, secret = json.loads(sys.stdin.readline())
        what["delete"] = lambda: submissions.delete(name, secret)
    if action != "recover":
        # As a service that has run for a while: else most calls would be preparations.
        warm = submissions.add(submission("warm"))
        submissions.delete(warm.id, warm.secret)
        submissions._forgetting._scrubbed = -1e9
    print("begun", flush=True)
    with counted(at) as count:
        what[action]()
    print(count[0], flush=True)
    os._exit(0)  # as a service that goes on: nothing is tidied up at an end


if __name__ == "__main__":
    main()
