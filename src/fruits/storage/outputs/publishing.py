"""Publishing runs: a folder per run, claimed by its writer, complete with its record, current by the pointer; and their removal.

Each step leaves the old run current or the new one, never a mixture. A folder without a record whose writer is gone is a
leftover, which the next run removes. On disk the fixed names of before are links to the current run; in a bucket only the report
has one, as a copy. Both are put after the pointer.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fruits.errors import StoreError
from fruits.storage.disk.locks import FolderLock, lock_folder, locked
from fruits.storage.disk.processes import has_ended, this_process
from fruits.storage.objects import Objects, uri_of
from fruits.storage.outputs.runs import BUNDLE, POINTER, RECORD, REPORT, RUNS, Pointer, is_name, key_of, stored_pointer
from fruits.storage.sanitising import json_text

#: Who writes a run, until it is published.
_WRITER: Final = "unpublished.json"
#: On disk, the link to the current run, through which the other links lead.
_CURRENT: Final = "current"
#: Names that lie in OUT, as they did before there were runs; on disk, links.
_VIEWS: Final = (BUNDLE, RECORD, REPORT, "features.parquet", "catalogue.parquet", "evaluation.json")
#: What else older versions, or copies of links, leave in OUT.
_OLD: Final = ("lease",)
#: A writer on another machine that has written nothing for so long is taken for dead.
_PATIENCE_S: Final = 24 * 3600.0
#: A folder on disk is claimed within this time after it was created.
_CLAIM_S: Final = 60.0
#: Hidden names in ``runs``: folders that are being removed, and links that are being put.
_GONE: Final = ".removed-"
_TRIES: Final = 10


class Attempt:
    """A run that is being written.

    Attributes
    ----------
    name : str
    objects : Objects
        Its folder.
    """

    def __init__(self, out: Objects, name: str, lock: FolderLock | None) -> None:
        self._out, self.name, self._lock = out, name, lock
        self._complete = False
        self.objects = Objects(uri_of(out.root, key_of(name)))

    def publish(self, since: str, before: bytes | None) -> bool:
        """Make this run the current one, once its record is there; see :func:`point`."""
        self._complete = True
        done = point(self._out, self.name, since, before)
        self.objects.delete(_WRITER)
        return done

    def keep(self) -> bool:
        """Count as finished, once its record is there, without becoming the current run; return False."""
        self._complete = True
        self.objects.delete(_WRITER)
        return False

    def discard(self) -> None:
        """Remove what was written, unless it was published."""
        self.release()
        if not self._complete:
            _remove(self._out, self.name)

    def release(self) -> None:
        """Give up the lock of the folder."""
        if self._lock is not None:
            self._lock.release()


@contextmanager
def begin(out: Objects, identity: str) -> Iterator[Attempt]:
    """Claim a folder for a run; it is removed again if the block ends with an error.

    Parameters
    ----------
    out : Objects
    identity : str
        Hash of everything that determines what is fitted. The folder is called like it; if there is one that another run writes,
        or whose files are damaged, a number is added.

    Raises
    ------
    StoreError
        If the output cannot be read or written.
    """
    attempt = _claim(out, identity)
    try:
        yield attempt
    except BaseException:
        with suppress(StoreError):  # the first error says more; the next run removes the leftover
            attempt.discard()
        raise
    finally:
        attempt.release()


def _claim(out: Objects, identity: str) -> Attempt:
    taken = clear(out)
    number = 1
    while True:
        name = identity if number == 1 else f"{identity}-{number}"
        number += 1
        if name in taken or not out.put_if_absent(f"{key_of(name)}/{_WRITER}", json_text(this_process()).encode()):
            continue
        folder = out.local_path(key_of(name))
        lock = lock_folder(folder, wait=True) if folder else None
        if folder and (lock is None or not lock.is_at(folder)):
            continue  # taken for a leftover in the instant before it was locked
        if out.stat(f"{key_of(name)}/{RECORD}") is None:
            return Attempt(out, name, lock)
        out.delete(f"{key_of(name)}/{_WRITER}")  # another run has finished it in the meantime


def point(out: Objects, name: str, since: str, before: bytes | None) -> bool:
    """Make a finished run the current one, unless another one that began later has become it in the meantime.

    Parameters
    ----------
    out : Objects
    name : str
    since : str
        When the work that ends with this call began, as ISO 8601 in UTC.
    before : bytes, optional
        The pointer at that time, from :func:`fruits.storage.outputs.runs.stored_pointer`.

    Returns
    -------
    bool
        Whether the run is current now.
    """
    while True:
        new = Pointer.to(name, since)
        if out.swap(POINTER, before, new.data):
            return True
        before = stored_pointer(out.root)
        with suppress(ValueError, RecursionError):
            if before is not None and Pointer.parse(before).since > since:
                return False


def current(out: Objects) -> str | None:
    """Return the name of the current run; None if there is none, or the pointer is damaged."""
    data = stored_pointer(out.root)
    with suppress(ValueError, RecursionError):
        return Pointer.parse(data).run if data is not None else None
    return None


# --- What is there --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Folder:
    """What lies in a folder of a run: when its record was written, whether its writer is named, and the newest time of all."""

    record_s: float | None = None
    has_writer: bool = False
    newest_s: float = 0.0

    def note(self, name: str, modified_s: float) -> None:
        self.newest_s = max(self.newest_s, modified_s)
        if name == RECORD:
            self.record_s = modified_s
        self.has_writer |= name == _WRITER


def _folders(out: Objects) -> dict[str, _Folder]:
    """Return the folders of runs by name; in a bucket with one listing."""
    found: dict[str, _Folder] = {}
    if not out.is_local:
        for one in out.list(RUNS):
            name, _, rest = one.key.removeprefix(f"{RUNS}/").partition("/")
            if is_name(name):
                found.setdefault(name, _Folder()).note(rest, one.modified_s)
        return found
    for name in filter(is_name, _names_on_disk(out)):
        folder = found[name] = _Folder()
        for key in (RECORD, _WRITER):
            with suppress(OSError):
                folder.note(key, Path(out.root, RUNS, name, key).stat().st_mtime)
    return found


def _names_on_disk(out: Objects) -> list[str]:
    with suppress(OSError):
        return os.listdir(Path(out.root, RUNS))  # noqa: PTH208 - names only
    return []


def finished(out: Objects, *, of: str | None = None) -> list[str]:
    """Return the names of the finished runs, of one identity or of all, the newest last."""
    found = [
        (folder.record_s, name)
        for name, folder in _folders(out).items()
        if folder.record_s is not None and of in (None, name.partition("-")[0])
    ]
    return [name for _, name in sorted(found)]


def clear(out: Objects) -> set[str]:
    """Remove what killed runs left: folders without a record whose writer is gone; return the names of all folders found.

    In a bucket, keys of a leftover may still be deleted by another run that found it, too: its name is not to be used again.
    """
    if out.is_local:
        for name in _names_on_disk(out):
            if name.startswith(_GONE):
                _delete_tree(Path(out.root, RUNS, name))
    found, now = _folders(out), current(out)
    taken = set(found)
    for name, folder in found.items():
        if folder.record_s is not None and not folder.has_writer:
            continue
        with _alone(out, name, folder) as is_left:
            if not is_left:
                continue
            if folder.record_s is not None:  # killed between the pointer and the end
                out.delete(f"{key_of(name)}/{_WRITER}")
            elif name != now:  # a current run whose record was deleted by hand is still served
                _remove(out, name)
                if out.is_local:
                    taken.discard(name)
    return taken


@contextmanager
def _alone(out: Objects, name: str, folder: _Folder) -> Iterator[bool]:
    """Yield whether nobody writes a run any more; on disk nobody can begin to in the meantime."""
    writer = out.read_if_present(f"{key_of(name)}/{_WRITER}") if folder.has_writer else None
    path = out.local_path(key_of(name))
    with locked(path) as lock:
        if writer is not None and has_ended(writer):
            yield True  # a process that it forked may still have the lock
        elif path is None:
            yield time.time() - folder.newest_s > _PATIENCE_S
        else:
            yield lock is not None and (writer is not None or not _is_new(path))


def _is_new(path: Path) -> bool:
    """Return whether a folder without a writer is about to be claimed: it holds nothing yet, and was just created."""
    with suppress(OSError):
        names = os.listdir(path)  # noqa: PTH208 - names only
        return all(name.startswith(_WRITER) for name in names) and time.time() - path.stat().st_mtime < _CLAIM_S
    return True


# --- Removing -------------------------------------------------------------------------------------------------------------


def remove(out: Objects, name: str) -> bool:
    """Remove a finished run; return False, and leave it, if it is the current one or known to be in use.

    Known is, on disk, which processes of this machine have it open; anywhere, that its writer has not published it yet.

    Raises
    ------
    StoreError
        If something cannot be removed.
    """
    folder = out.local_path(key_of(name))
    with locked(folder) as lock:
        if folder and lock is None:
            return not folder.is_dir()
        # In this order: a run that is published now was current before.
        if out.stat(f"{key_of(name)}/{_WRITER}") is not None or current(out) == name:
            return False
        _remove(out, name)
    return True


@dataclass(frozen=True, slots=True)
class Pruned:
    """What :func:`prune` did, or would do.

    Attributes
    ----------
    removed : list of str
        Names of the runs that are gone.
    in_use : list of str
        Names of those that stay because a process uses them.
    """

    removed: list[str]
    in_use: list[str]


def prune(out: Objects, *, keep: int = 0, dry_run: bool = False) -> Pruned:
    """Remove old runs, and what killed ones left.

    Parameters
    ----------
    out : Objects
    keep : int
        How many of the newest runs stay beside the current one.
    dry_run : bool
        Whether to remove nothing.

    Raises
    ------
    StoreError
        If no run is current, so that none is known to be old, or something cannot be removed.
    """
    now = current(out)
    others = [name for name in finished(out) if name != now]
    if now is None or now not in _folders(out):
        if others:
            raise StoreError(f"no run is current in '{out.root}'; name one first: --use {others[-1][:12]}")
        return Pruned([], [])
    old = others[: max(0, len(others) - keep)]
    if dry_run:
        return Pruned(old, [])
    clear(out)
    removed = [name for name in old if remove(out, name)]
    return Pruned(removed, [name for name in old if name not in removed])


def _remove(out: Objects, name: str) -> None:
    """Remove the folder of a run: on disk in one step, in a bucket beginning with its record and ending with its writer."""
    key = key_of(name)
    if folder := out.local_path(key):
        renamed = folder.with_name(f"{_GONE}{secrets.token_hex(8)}")
        try:
            folder.rename(renamed)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StoreError(f"cannot remove '{folder}': {exc.strerror}; check permissions, then run again") from exc
        _delete_tree(renamed)
        return
    over = json_text({**this_process(), "over": True}).encode()
    out.write(f"{key}/{_WRITER}", over)
    out.delete(f"{key}/{RECORD}")
    for found in list(out.list(key)):
        if found.key != f"{key}/{_WRITER}":
            out.delete(found.key)
    out.delete(f"{key}/{_WRITER}")


def _delete_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


# --- Names in OUT ---------------------------------------------------------------------------------------------------------


def tidy(out: Objects, note: Callable[[str], None] = lambda _: None) -> None:
    """Make what lies beside the pointer follow it, and remove files of the layout of before.

    On disk ``current`` becomes a link to the current run, and the fixed names of before links into it. In a bucket
    ``report.html`` becomes a copy of the current one. Called after the pointer was put; what a killed process left undone, the
    next call does.

    Parameters
    ----------
    out : Objects
    note : callable
        Told in one sentence if results of the layout of before were replaced.
    """
    before: bytes | None = None
    while (data := stored_pointer(out.root)) is not None and data != before:
        before = data  # another run may become current meanwhile: look again
        name = Pointer.parse(data).run
        replaced = _link(out, name) if out.is_local else _copy(out, name)
        if replaced:
            note(
                f"'{out.root}' had the layout of an older version: results are now in {RUNS}/, and the old files "
                f"({', '.join(replaced)}) were removed"
            )


def _link(out: Objects, name: str) -> list[str]:
    """Put the links on disk; return the names of real files and folders that were replaced."""
    root, replaced = Path(out.root), []
    folder = root / key_of(name)
    wanted = {_CURRENT: key_of(name)}
    wanted |= {view: f"{_CURRENT}/{view}" for view in _VIEWS if (folder / view).exists()}
    for view in (_CURRENT, *_VIEWS, *_OLD):
        path = root / view
        is_link = path.is_symlink()
        if is_link and view in wanted and os.readlink(path) == wanted[view]:  # noqa: PTH115 - the text of the link
            continue
        if not is_link and path.exists():
            if view not in (REPORT, _CURRENT, *_OLD):
                replaced.append(view)
            _remove_at_once(out, path)
        elif is_link and view not in wanted:
            path.unlink(missing_ok=True)
        if view in wanted and not _put_link(out, path, wanted[view]) and view == REPORT:
            out.write(REPORT, (folder / REPORT).read_bytes())
    return replaced


def _remove_at_once(out: Objects, path: Path) -> None:
    """Remove a file or folder, out of sight in one step."""
    renamed = Path(out.root, RUNS, f"{_GONE}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(renamed)
    _delete_tree(renamed)


def _put_link(out: Objects, path: Path, to: str) -> bool:
    """Put a link in the place of another one, atomically; return False where there are no links."""
    for _ in range(_TRIES):
        new = Path(out.root, RUNS, f"{_GONE}{secrets.token_hex(8)}")
        try:
            new.symlink_to(to)
            new.replace(path)
        except FileNotFoundError:  # cleared by another run in between
            continue
        except OSError:
            with suppress(OSError):
                new.unlink()
            return False
        return True
    return False


def _copy(out: Objects, name: str) -> list[str]:
    """Copy the report in a bucket; return the names of what was removed."""
    names = out.names()
    there, copied = out.stat(f"{key_of(name)}/{REPORT}"), out.stat(REPORT) if REPORT in names else None
    if there is not None and (
        copied is None or (copied.size_bytes, copied.version) != (there.size_bytes, there.version)
    ):
        out.write(REPORT, out.read(f"{key_of(name)}/{REPORT}"))
    replaced: list[str] = [view for view in (_CURRENT, *_VIEWS) if view in names and view != REPORT]
    for view in (*replaced, *(old for old in _OLD if old in names)):
        out.delete(view)
        for found in list(out.list(view)):
            out.delete(found.key)
    return replaced
