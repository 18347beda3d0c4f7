"""The lease to write files with fixed names: one export at a time per folder; the lease of a dead process expires.

Runs need none: each writes a folder of its own (:mod:`fruits.storage.outputs.publishing`). On disk the lease is an ``flock``,
which the operating system releases when the process ends. In a bucket it is the last of a chain of small objects, created by
conditional put; the holder renews it at intervals (heartbeat).
"""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fruits.errors import StoreError
from fruits.storage.disk.processes import has_ended, this_process
from fruits.storage.objects import Objects
from fruits.storage.sanitising import json_text

#: Interval of the heartbeat in a bucket, and time without one after which the holder is considered dead.
_BEAT_S: Final = 5.0
_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.2
_FOLDER: Final = "lease"


class Lease:
    """The right to write.

    Parameters
    ----------
    objects : Objects
        The output.
    key : str
        Key of the holder's object.
    """

    def __init__(self, objects: Objects, key: str) -> None:
        self._objects, self.key = objects, key

    def confirm(self) -> None:
        """Raise :class:`StoreError` if another run took over because this one missed its heartbeats."""
        if not self._objects.is_local and self._objects.read_if_present(_next(self.key)) is not None:
            raise StoreError(
                f"another run took over '{self._objects.root}', since this one gave no sign of life for {_PATIENCE_S:.0f} s; "
                "its results count: run again if yours should"
            )


@contextmanager
def hold_lease(objects: Objects, note: Callable[[str], None] = lambda _: None) -> Iterator[Lease]:
    """Hold the lease of an output; wait while another run holds it.

    Parameters
    ----------
    objects : Objects
        The output.
    note : callable
        Called with messages for the user, such as which run is waited for.

    Raises
    ------
    StoreError
        If the output cannot be read or written.
    """
    with _on_disk(objects, note) if objects.is_local else _in_bucket(objects, note) as lease:
        yield lease


@contextmanager
def _on_disk(objects: Objects, note: Callable[[str], None]) -> Iterator[Lease]:
    key = f"{_FOLDER}/holder.json"
    path = Path(objects.root, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as exc:
        raise StoreError(f"cannot write '{path}': {exc.strerror}; check space and permissions, then run again") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            note(f"waiting for {_named(file.read())} to finish on the same output")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            note("this file system knows no locks: let no other run work on this output at the same time")
        with suppress(OSError):  # a full disk: the holder stays unnamed
            file.truncate(0)
            file.write(json_text(this_process()))
            file.flush()
        yield Lease(objects, key)


@contextmanager
def _in_bucket(objects: Objects, note: Callable[[str], None]) -> Iterator[Lease]:
    me = this_process()
    key = _take(objects, me, note)
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(_BEAT_S):
            count += 1
            with suppress(StoreError):  # the next heartbeat may succeed
                objects.write(key, json_text({**me, "beat": count}).encode())

    pulse = threading.Thread(target=beat, daemon=True, name="lease")
    pulse.start()
    try:
        yield Lease(objects, key)
    finally:
        over.set()
        pulse.join()
        with suppress(StoreError):  # then the next run waits for the timeout
            objects.write(key, json_text({**me, "over": True}).encode())


def _take(objects: Objects, me: dict[str, Any], note: Callable[[str], None]) -> str:
    """Append an object to the chain as soon as the holder of the last one is done, dead or timed out; return its key."""
    key, told = _last(objects), False
    seen, since = b"", time.monotonic()
    while True:
        data = objects.read_if_present(key)
        if data is not None and (following := objects.read_if_present(_next(key))) is not None:
            key, data, seen = _next(key), following, b""
            continue
        if data != seen:
            seen, since = data or b"", time.monotonic()
        if data is None or has_ended(data) or time.monotonic() - since > _PATIENCE_S:
            mine = key if data is None else _next(key)
            if objects.put_if_absent(mine, json_text(me).encode()):
                with suppress(StoreError):
                    objects.write(f"{_FOLDER}/last.json", json_text(mine).encode())
                return mine
            key = mine
            continue
        if not told:
            note(f"waiting for {_named(data.decode(errors='replace'))} to finish on the same output")
            told = True
        time.sleep(_POLL_S)


def _last(objects: Objects) -> str:
    """Return the key from which to search for the last one: a hint that may be old but is always in the chain."""
    first = f"{_FOLDER}/00000001.json"
    with suppress(ValueError):
        hint = json.loads(objects.read_if_present(f"{_FOLDER}/last.json") or b"null")
        if isinstance(hint, str) and hint.startswith(f"{_FOLDER}/") and objects.read_if_present(hint) is not None:
            return hint
    return first


def _next(key: str) -> str:
    number = int(key.removeprefix(f"{_FOLDER}/").removesuffix(".json"))
    return f"{_FOLDER}/{number + 1:08d}.json"


def _named(data: str) -> str:
    try:
        holder = json.loads(data)
        return f"the run of process {holder['pid']} on '{holder['host']}' (since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return "another run"
