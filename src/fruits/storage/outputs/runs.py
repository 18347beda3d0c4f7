"""Where the results of a run are: each run has a folder of its own, and a pointer names the current one.

``OUT/runs/<identity>/`` holds all that a run leaves: bundle, record, report, features, catalogue. It never changes once its
record is there, which is put last; only an evaluation is added. ``OUT/current.json``, one small object put after it, names the
run that readers use. A reader follows the pointer once, and then uses one run. Before, results had fixed names in ``OUT``; they
are still read. :mod:`fruits.storage.outputs.publishing` writes and removes runs.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fruits.errors import StoreError
from fruits.storage.disk.local import RefusedFileError, read_plain
from fruits.storage.disk.locks import FolderLock, lock_folder
from fruits.storage.objects import Objects, is_remote, opened, uri_of
from fruits.storage.sanitising import json_text, printable

POINTER: Final = "current.json"
RUNS: Final = "runs"
#: The record of a run, put last: a run without it is not finished.
RECORD: Final = "run.json"
BUNDLE: Final = "bundle"
REPORT: Final = "report.html"

_FORMAT: Final = "fruits current run"
#: A hash, and a number if the run was made more than once.
_NAME: Final = re.compile(r"[0-9a-f]{64}(-[0-9]{1,6})?")
_MOST_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class RunLocation:
    """Where the results of one run are.

    Attributes
    ----------
    out : str
        The output of runs, which also holds the embeddings.
    folder : str
        The run's own folder; ``out`` itself if its files have the fixed names of before.
    name : str
        Name of the run in ``out``; empty in the layout of before.
    """

    out: str
    folder: str
    name: str

    def objects(self) -> Objects:
        """Open the run's folder.

        Raises
        ------
        StoreError
            If it is not there.
        """
        if self.name and not is_remote(self.folder) and not Path(self.folder).is_dir():
            raise StoreError(
                f"no finished run in '{printable(self.folder)}'; expected one that 'fruits runs {printable(self.out)}' lists"
            )
        return Objects(self.folder)


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of ``current.json``.

    Attributes
    ----------
    run : str
        Name of the current run.
    since : str
        When the work that put it began, as ISO 8601 in UTC: a run that began earlier does not replace it.
    data : bytes
        The object as it is stored.
    """

    run: str
    since: str
    data: bytes

    @classmethod
    def to(cls, run: str, since: str) -> Pointer:
        """Return a new pointer, whose bytes differ from those of any other."""
        content = {"format": _FORMAT, "version": 1, "run": run, "since": since, "id": secrets.token_hex(8)}
        return cls(run, since, json_text(content, indent=1).encode())

    @classmethod
    def parse(cls, data: bytes) -> Pointer:
        """Return the pointer that is stored as ``data``.

        Raises
        ------
        ValueError
            If it is damaged.
        """
        content = json.loads(data)
        if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != 1:
            raise ValueError("no pointer of this version")
        run, since = content.get("run"), content.get("since")
        if not isinstance(since, str) or not isinstance(run, str) or not is_name(run):
            raise ValueError("it names no run")
        return cls(run, since, data)


def is_name(name: str) -> bool:
    """Return whether a text may be the name of a run."""
    return _NAME.fullmatch(name) is not None


def key_of(name: str) -> str:
    """Return the key of a run's folder in its output."""
    return f"{RUNS}/{name}"


def find(path: str) -> RunLocation:
    """Return the run that a path denotes: the current one of an output, or one given as ``OUT/runs/ID``.

    Parameters
    ----------
    path : str
        An output of runs, or the folder of one run.

    Raises
    ------
    StoreError
        If the pointer cannot be read or is damaged.
    """
    folder = resolved(path.rstrip("/") or path)
    if not is_remote(folder):
        folder = str(Path(folder).absolute())
    above, _, name = folder.rpartition("/")
    if is_name(name) and above.endswith(f"/{RUNS}"):
        return RunLocation(above.removesuffix(f"/{RUNS}"), folder, name)
    current = pointer(path)
    return (
        RunLocation(path, path, "")
        if current is None
        else RunLocation(path, uri_of(path, key_of(current.run)), current.run)
    )


def resolved(path: str) -> str:
    """Return where a link of an output, such as ``OUT/bundle``, leads now, so that it is followed once; else the path."""
    if is_remote(path):
        return path
    real = os.path.realpath(path)
    return real if is_name(_run_of(real).rpartition("/")[2]) else path


def _run_of(folder: str) -> str:
    return folder.rstrip("/").removesuffix(f"/{BUNDLE}")


def pointer(out: str) -> Pointer | None:
    """Return the pointer of an output; None if there is none. Creates nothing.

    Raises
    ------
    StoreError
        If it cannot be read or is damaged.
    """
    data = stored_pointer(out)
    try:
        return None if data is None else Pointer.parse(data)
    except (ValueError, RecursionError) as exc:
        where = printable(uri_of(out, POINTER))
        raise StoreError(
            f"'{where}' is damaged ({exc}); expected the name of a run: 'fruits runs {printable(out)}' lists what there is, with "
            "--use ID one of them is named again"
        ) from exc


def stored_pointer(out: str) -> bytes | None:
    """Return the bytes of an output's pointer, whatever they are; None if there are none."""
    if is_remote(out):
        return opened(out.rstrip("/")).read_if_present(POINTER)
    try:
        return read_plain(Path(out) / POINTER, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RefusedFileError as exc:
        raise StoreError(f"'{printable(uri_of(out, POINTER))}' is refused ({exc.strerror}); copy it again") from exc
    except OSError as exc:
        raise StoreError(
            f"cannot read '{printable(uri_of(out, POINTER))}': {exc.strerror}; check its permissions"
        ) from exc


def lock_run(folder: str) -> FolderLock | None:
    """Keep a run from being removed while it is in use, as long as the returned object lives.

    Other processes of this machine see it. In a bucket nobody is kept from anything.

    Parameters
    ----------
    folder : str
        The run's folder, or the bundle in it; any other folder is left alone.
    """
    run = _run_of(folder)
    if is_remote(run) or not is_name(run.rpartition("/")[2]):
        return None
    return lock_folder(run)
