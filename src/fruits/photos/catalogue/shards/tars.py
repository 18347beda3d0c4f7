"""Listing the photos in tar archives as webdataset writes them: members ``key.jpg`` and ``key.cls`` follow one another.

The label is what ``key.cls``, ``key.txt`` or the field ``label`` of ``key.json`` say: text, or the number of a line in a file of
classes beside the archive. Without these it is the folder of the photo within the archive.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, Any, Final, NamedTuple

from fruits.config import is_utf8
from fruits.errors import StoreError
from fruits.photos.catalogue.builder import CatalogueBuilder
from fruits.photos.catalogue.files.folders import Labels, has_photo_suffix, neighbours
from fruits.photos.catalogue.names import is_system_folder, label_of, split_of
from fruits.photos.reading.access import Access
from fruits.photos.reading.containers import TAR, contained_uri
from fruits.photos.reading.tars import DamagedTarError, members, opened_tar, tar_uri
from fruits.storage.disk.local import read_regular
from fruits.storage.objects import is_remote, opened, split_uri

#: Members that say the label of their sample, the first one that does counts.
_SAYING: Final = ("cls", "label", "txt", "json")
_MAX_SAYING: Final = 1 << 20
#: Longest label; a longer text is a caption.
_MAX_LABEL: Final = 255
#: Longest name of a photo in bytes, as of a path on a disk: an archive's headers may hold far longer ones.
_MAX_NAME: Final = 4096
#: Files beside an archive, or in its folder, that name the classes, one a line or as a list in JSON.
_CLASSES: Final = ("classes.txt", "classnames.txt", "labels.txt", "classes.json")
_MAX_CLASSES: Final = 16 << 20
#: Archives listed at the same time in a bucket, where each header may be a request.
_AT_ONCE: Final = 16
#: As in webdataset: the key ends at the first dot of the file's name.
_NAME: Final = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)


class _Photo(NamedTuple):
    uri: str
    name: str
    size: int
    label: str | None
    key: str


@dataclass(slots=True)
class _Listed:
    """What an archive holds: its photos, and what else to say of it."""

    photos: list[_Photo] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    damage: str = ""


def add_tars(builder: CatalogueBuilder, tars: dict[str, tuple[str, str | None]], root: str, access: Access) -> None:
    """Add the photos of tar archives.

    Parameters
    ----------
    builder : CatalogueBuilder
    tars : dict of str to (str, str or None)
        Path or uri of each archive to its version and its split, in order.
    root : str
        Folder that the archives lie in.
    access : Access
        Where links among archives on a disk may lead.
    """
    builder.lies_below(contained_uri(TAR, f"{root.rstrip('/')}/", "").removesuffix("#"))
    folders = {shard: split_uri(shard)[0] for shard in tars}
    classes = {folder: _classes(folder, access) for folder in dict.fromkeys(folders.values())}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="tar") as pool:
        run: Callable[..., Iterator[_Listed]] = pool.map if any(map(is_remote, tars)) else map
        listed = run(lambda shard: _list(shard, access, classes[folders[shard]]), tars)
        for (shard, (version, split)), found in zip(tars.items(), listed, strict=True):
            _add(builder, shard, version, split, found)


def _add(builder: CatalogueBuilder, shard: str, version: str, split: str | None, found: _Listed) -> None:
    name = shard.rpartition("/")[2]
    for reason, member in found.skipped:
        builder.skip(reason, f"{name}: {member}")
    if found.damage:
        builder.skip("damaged archive", f"{name}: {found.damage}")
        builder.warnings.append(f"'{name}' is {found.damage}; its complete photos are used")
    labels = Labels(builder, split)
    places: dict[tuple[str, ...], list[_Photo]] = {}
    for photo in found.photos:
        parts = tuple(photo.name.split("/")[:-1])
        if photo.label is not None or not builder.labelled:
            places.setdefault((name, *parts, photo.label or ""), []).append(photo)
        elif (by_folder := labels.of(parts)) is not None:
            # As of the same folder on a disk: the same place, and below the same key.
            places.setdefault(parts, []).append(photo._replace(label=by_folder[0], key=photo.name))
        else:
            builder.skip("no label", f"{name}: {photo.name}")
    for place, photos in places.items():
        groups = neighbours(builder, place, [photo.name.rpartition("/")[2] for photo in photos])
        for photo, group in zip(photos, groups, strict=True):
            label, key = (photo.label, photo.key) if builder.labelled else (None, photo.name)
            folders = reversed(photo.name.split("/")[:-1])
            part = next((said for folder in folders if (said := split_of(folder))), split) if builder.labelled else None
            builder.add(photo.uri, key, photo.size, version, label=label, split=part, group=group)


def _list(shard: str, access: Access, classes: list[str]) -> _Listed:
    """List an archive; what cannot be read of it is told and does not stop the others."""
    found = _Listed()
    try:
        with opened_tar(shard, access) as file:
            for _, sample in groupby(_named(file, found), key=lambda one: one[0]):
                _add_sample(found, shard, file, [(member, name, kind) for _, member, name, kind in sample], classes)
    except StoreError as exc:
        if is_remote(shard):  # a bucket that refuses, not a file
            raise
        found.damage = f"unreadable ({exc})"
    except OSError as exc:
        found.damage = f"unreadable ({exc.strerror or exc})"
    return found


def _named(file: IO[bytes], found: _Listed) -> Iterator[tuple[str, tarfile.TarInfo, str, str]]:
    """Yield key, header, name and kind of each member that is a file of a sample."""
    for member in _complete(file, found):
        name = re.sub(r"^(\./)+", "", member.name)
        parts = name.split("/")
        match = _NAME.fullmatch(name)
        reason = None
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            reason = "not a file"
        elif not is_utf8(name) or "\0" in name:
            reason = "name is not UTF-8"
        elif len(name.encode()) > _MAX_NAME:
            reason = "name is too long"
        elif not {"", ".", ".."}.isdisjoint(parts):
            reason = "path that leads out of its archive"
        elif any(part.startswith(".") for part in parts):
            reason = "hidden"
        elif any(map(is_system_folder, parts[:-1])):
            reason = "system folder"
        elif match is None or not (has_photo_suffix(name) or _kind(match[2]) in _SAYING):
            reason = "not an image"
        if reason is not None or match is None:
            shown = name[:_MAX_LABEL].encode("utf-8", "replace").decode()
            found.skipped.append((reason or "not an image", shown))
            continue
        yield match[1], member, name, _kind(match[2])


def _kind(suffixes: str) -> str:
    return suffixes.rpartition(".")[2].lower()


def _complete(file: IO[bytes], found: _Listed) -> Iterator[tarfile.TarInfo]:
    try:
        yield from members(file)
    except DamagedTarError as exc:
        found.damage = str(exc)


def _add_sample(
    found: _Listed, shard: str, file: IO[bytes], sample: list[tuple[tarfile.TarInfo, str, str]], classes: list[str]
) -> None:
    photos = [(member, name) for member, name, _ in sample if has_photo_suffix(name)]
    said = {kind: member for member, _, kind in sample if kind in _SAYING and member.size <= _MAX_SAYING}
    label = None
    for kind in _SAYING if photos else ():
        if kind in said and label is None:
            file.seek(said[kind].offset_data)
            label = _label(kind, file.read(said[kind].size), classes)
    found.photos += [
        _Photo(tar_uri(shard, member, name), name, member.size, label, f"{label}/{name}") for member, name in photos
    ]


def _label(kind: str, data: bytes, classes: list[str]) -> str | None:
    """Return the label that a member says; None if it says none."""
    said: Any = None
    with suppress(ValueError, RecursionError):
        text = data.decode().strip()
        said = text
        if kind == "json":
            about = json.loads(text)
            said = about.get("label") if isinstance(about, dict) else None
    if isinstance(said, int) and not isinstance(said, bool):
        said = str(said)
    if not isinstance(said, str) or len(said) > _MAX_LABEL:
        return None
    if kind != "txt" and said.isascii() and said.isdigit() and int(said) < len(classes):
        said = classes[int(said)]
    return label_of(said) if is_utf8(said) and len(said) <= _MAX_LABEL else None


def _classes(folder: str, access: Access) -> list[str]:
    """Return the names of classes, by number, of the archives in a folder; none if no file says them."""
    for name in _CLASSES:
        with suppress(OSError, ValueError, RecursionError):
            if is_remote(folder):
                data = opened(folder).read(name, limit=_MAX_CLASSES)
            else:
                data = read_regular(os.path.join(folder, name), _MAX_CLASSES, access.allows_opened)  # noqa: PTH118
            text = data.decode("utf-8-sig")
            names: Iterable[Any] = json.loads(text) if name.endswith(".json") else text.splitlines()
            found = [str(one).strip() for one in names]
            if isinstance(names, list):
                return found
    return []
