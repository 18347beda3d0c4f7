"""Export of reviewed photos as training photos, ``PHOTOS/<label>/<id>.jpg``, in the layout that ``fruits run`` lists.

Photos deleted, refused or relabelled since the last export are removed; files that no export wrote are never touched. A ledger in
a hidden folder lists the exported files. It is written before the photos, so that the next export knows every file of a killed
one. Photos are written atomically and carry in their metadata whether they may be shown to others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fruits.config import is_utf8
from fruits.errors import NotFoundError, StoreError
from fruits.photos.catalogue.consent import ConsentMark, mark
from fruits.photos.catalogue.files.folders import has_photo_suffix
from fruits.photos.catalogue.names import is_system_folder, label_of, split_of
from fruits.service.submissions.repository import Submissions
from fruits.storage.disk.private import make_private_folder, private
from fruits.storage.objects import Objects, is_remote, uri_of
from fruits.storage.outputs.lease import hold_lease
from fruits.storage.outputs.marker import OccupiedError, kind_of
from fruits.storage.sanitising import clean_line, json_text

_HIDDEN: Final = ".fruits-export"
_LEDGER: Final = "ledger.json"
#: Bytes of a folder name: below the usual limit of 255, since some file systems count differently.
_LONGEST: Final = 180
_OURS: Final = re.compile(r"[^/]+/[A-Za-z0-9_-]{22}\.jpg")
#: Characters that some operating system does not allow in a folder name.
_UNSAFE: Final = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|~(?=[0-9A-F]{2})')
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export.

    Attributes
    ----------
    photos : int
        Exported photos now in the folder.
    written, removed : int
        Photos written and removed by this export.
    labels : dict of str to int
        Number of photos per label.
    folders : dict of str to str
        Folder names of those labels that are not valid folder names themselves.
    """

    photos: int
    written: int
    removed: int
    labels: dict[str, int]
    folders: dict[str, str]


def export(submissions: Submissions, to: str, *, note: Callable[[str], None] = lambda _: None) -> Exported:
    """Write the reviewed photos as training photos. Idempotent: a second call writes nothing.

    Parameters
    ----------
    submissions : Submissions
    to : str
        Folder, or ``s3://bucket/prefix``; may contain other photos.
    note : callable
        Called with a message when the export has to wait for another one.

    Raises
    ------
    StoreError
        If photos cannot be read or written, or the folder contains files other than photos.
    """
    place = Objects(to) if is_remote(to) else _private_place(to)
    _refuse_other_things(place)
    if place.is_local:
        make_private_folder(Path(place.root, _HIDDEN))
    with hold_lease(Objects(uri_of(to, _HIDDEN)), note):
        return _export(submissions, place)


def _private_place(to: str) -> Objects:
    with suppress(OSError):  # opening it gives the better message
        make_private_folder(Path(to).absolute())  # the permissions of an existing folder stay
    return Objects(to)


def _refuse_other_things(place: Objects) -> None:
    """Raise OccupiedError unless the place contains only photos."""
    kind = kind_of(place)
    if kind == "export":
        return
    # Folders are labels and may contain other photos. Hidden names are never listed as photos.
    names = sorted(name for name in place.names() if not name.startswith(".") and not has_photo_suffix(name))
    other = next((name for name in names if is_utf8(name) and place.stat(name) is not None), None)
    if kind is not None or other is not None:
        found = f"{other!r}" if kind is None else f"what fruits keeps as {kind}"
        raise OccupiedError(
            f"'{place.root}' holds {found}; expected a new or an empty folder, or one of photos: give another one with --to"
        )


def _export(submissions: Submissions, place: Objects) -> Exported:
    ours, marked = _read_ledger(place)
    usable = {one.id: one for one in submissions.for_training() if one.reviewed_label}
    labels = {name: str(one.reviewed_label) for name, one in usable.items()}
    wanted = {f"{label_folder(label)}/{name}.jpg": name for name, label in labels.items()}
    _write_ledger(place, ours | wanted.keys(), marked=marked)
    removed = sum(_remove(place, key) for key in sorted(ours - wanted.keys()))
    written, gone = 0, set()
    for key, name in sorted(wanted.items()):
        if marked and key in ours and place.stat(key) is not None:
            _close(place, key)
            continue
        try:
            photo = mark(submissions.photo(name), ConsentMark(name, usable[name].may_show))
        except (NotFoundError, ValueError):  # deleted in the meantime, or damaged in the store
            gone.add(key)
            _remove(place, key)
            continue
        _write(place, key, photo)
        written += 1
    there = wanted.keys() - gone
    _write_ledger(place, there)
    shown = [labels[wanted[key]] for key in there]
    return Exported(
        len(there),
        written,
        removed,
        dict(sorted(Counter(shown).items())),
        {label: label_folder(label) for label in sorted(set(shown)) if label_folder(label) != label},
    )


def label_folder(label: str) -> str:
    """Return the folder name of a label: the label itself if it is a valid folder name.

    Invalid characters, a leading dot and a trailing space or dot become ``~`` and two hexadecimal digits, as does the first
    letter of reserved names such as ``test`` or ``CON``. Two labels never share a folder.
    """
    label = clean_line(label) or "~"
    name = _UNSAFE.sub(lambda found: _code(found.group()), label)
    if (
        name.startswith(".")
        or split_of(name)
        or is_system_folder(name)
        or not label_of(name)
        or _DEVICES.fullmatch(name)
    ):
        name = _code(name[0]) + name[1:]
    if name.endswith((".", " ")):
        name = name[:-1] + _code(name[-1])
    if len(name.encode()) > _LONGEST:
        start = name.encode()[: _LONGEST - 18].decode(errors="ignore").rstrip(". ")
        name = f"{start}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"
    return name


def _code(letter: str) -> str:
    return f"~{ord(letter):02X}"


def _read_ledger(place: Objects) -> tuple[set[str], bool]:
    """Return the keys of exported photos, and whether they carry the consent mark; the first versions wrote none."""
    data = place.read_if_present(f"{_HIDDEN}/{_LEDGER}")
    if data is None:
        return set(), True
    try:
        ledger = json.loads(data)
        keys, marked = set(ledger["photos"]), ledger.get("marked") is True
        if not all(_OURS.fullmatch(key) and not key.startswith(".") for key in keys):
            raise ValueError("names that no export gives")
    except (ValueError, KeyError, TypeError) as exc:
        raise StoreError(
            f"'{uri_of(place.root, _HIDDEN)}/{_LEDGER}' is not what an export wrote ({exc}); put it back, or export to another "
            "folder"
        ) from exc
    return keys, marked


def _write_ledger(place: Objects, keys: set[str], *, marked: bool = True) -> None:
    ledger = {"marked": marked, "photos": sorted(keys)}
    _write(place, f"{_HIDDEN}/{_LEDGER}", json_text(ledger, indent=0, ensure_ascii=False).encode())


def _write(place: Objects, key: str, data: bytes) -> None:
    """Write an object atomically; on a disk via the hidden folder, so that a partial file is never listed as a photo."""
    path = place.local_path(key)
    if path is None:
        place.write(key, data)
        return
    # One fixed name: the lease allows one export at a time, and the next one overwrites the rest of a killed one.
    piece = Path(place.root, _HIDDEN, "piece")
    try:
        make_private_folder(path.parent)
        with open(piece, "wb", opener=private) as file:
            os.fchmod(file.fileno(), 0o600)  # may be left by a killed export of an older version
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        piece.replace(path)
    except OSError as exc:
        raise StoreError(
            f"cannot write '{path}': {exc.strerror}; check space and permissions, then export again"
        ) from exc


def _close(place: Objects, key: str) -> None:
    """Restrict the permissions of a photo that an older version wrote world-readable."""
    path = place.local_path(key)
    if path is not None:
        with suppress(OSError):
            path.chmod(0o600)


def _remove(place: Objects, key: str) -> bool:
    """Delete a photo, and on a disk its folder once empty; return whether the photo existed."""
    there = place.stat(key) is not None
    place.delete(key)
    path = place.local_path(key)
    if path is not None:
        with suppress(OSError):
            path.parent.rmdir()
    return there
