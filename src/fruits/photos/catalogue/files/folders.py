"""Listing photos in folders on disk, and the meaning of their names, which :mod:`fruits.photos.catalogue.files.keys` shares.

Label, split and group follow from names. Everything that is no photo is skipped, counted and named: hidden files, system
folders, files written by fruits, links that lead out of the source. Only names, sizes and times are read, and the first bytes of
files without a known suffix.
"""

from __future__ import annotations

import os
import stat as stats
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from fruits.config import is_utf8
from fruits.errors import CatalogueError
from fruits.photos.catalogue.builder import CatalogueBuilder, stable_hash
from fruits.photos.catalogue.files.own_folders import OwnFolders
from fruits.photos.catalogue.files.sequences import number_frames
from fruits.photos.catalogue.names import is_system_folder, label_of, repeated_levels, split_of, split_of_source
from fruits.photos.decoding.formats import HEAD_BYTES, is_photo
from fruits.photos.reading.access import Access
from fruits.photos.reading.tables import is_damaged_table
from fruits.storage.disk.local import read_head_of

#: Photos whose frame numbers fall into the same span of this length form a group. In Fruits-360, where a full turn of a fruit has
#: 328 frames, 30 frames are 33 degrees.
FRAMES_PER_GROUP: Final = 30

#: Suffixes of photos. Formats of the second line are listed although they are rejected (HEIC: without its extra), so that the
#: user learns why.
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}) | frozenset(
    {".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx"}
)


def has_photo_suffix(name: str) -> bool:
    """Return whether a file name has the suffix of a photo."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - 5 times faster than a Path per file


def add_folder(builder: CatalogueBuilder, root: Path, access: Access, others: Iterable[str]) -> None:
    """Add every photo below a folder on disk. Links to folders are followed where access allows; loops are detected.

    Parameters
    ----------
    builder : CatalogueBuilder
    root : Path
        Folder, with links resolved.
    access : Access
        Where links may lead.
    others : iterable of str
        Names of the other sources: beside a folder ``train``, a folder ``dev`` is a split.

    Raises
    ------
    CatalogueError
        If the folder cannot be read, or was written by fruits.
    """
    builder.lies_below(f"{root}/".replace("//", "/"))
    written = OwnFolders.on_disk(root)
    labels = Labels(builder, split_of_source(root.name, others))
    stack: list[tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]] = [(str(root), (), frozenset())]
    while stack:
        folder, parts, above = stack.pop()
        try:
            stat = os.stat(folder)  # noqa: PTH116 - a Path per folder would reject names that are not UTF-8
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as exc:
            if not parts:
                raise CatalogueError(f"'{root}' cannot be read ({exc.strerror}); check its permissions") from exc
            builder.skip("unreadable", "/".join(parts))
            continue
        me = (stat.st_dev, stat.st_ino)
        if me in above:
            builder.skip("symlink loop", "/".join(parts))
            continue
        if parts and written.is_folder(folder, (entry.name for entry in found)):
            builder.skip(written.REASON, "/".join(parts))
            continue
        folders, files = [], []
        for entry in found:
            name = "/".join((*parts, entry.name))
            if not is_utf8(entry.name):
                builder.skip("name is not UTF-8", name)
            elif entry.name.startswith("."):
                builder.skip("hidden", name)
            elif entry.is_symlink() and not access.reaches(entry.path):
                builder.skip("link out of its source", name)
            elif _is_folder(entry):
                reason = "system folder" if is_system_folder(entry.name) else None
                if not parts and written.has_at_root(entry.name):
                    reason = written.REASON
                if reason:
                    builder.skip(reason, name)
                else:
                    folders.append(entry)
            else:
                files.append(entry)
        stack.extend((entry.path, (*parts, entry.name), above | {me}) for entry in reversed(folders))
        photos = [entry for entry in files if _looks_like_photo(builder, entry, parts, access)]
        labels.count_empty(parts, has_folders=bool(folders), has_photos=bool(photos))
        _add_files(builder, labels, photos, parts)
    labels.close()


def add_file(
    builder: CatalogueBuilder, uri: str, key: str, stat: os.stat_result, *, label: str | None, split: str | None,
    group: int | None, manifest_source: str | None = None,
) -> None:  # fmt: skip
    """Add a file on disk; skip it if it is no regular file: opening a named pipe would block forever."""
    if not stats.S_ISREG(stat.st_mode):
        builder.skip("not a file", key)
        return
    version = f"{stat.st_mtime_ns}-{stat.st_size}"
    builder.add(
        uri, key, stat.st_size, version, label=label, split=split, group=group, manifest_source=manifest_source
    )  # fmt: skip


class Labels:
    """Labels and splits by the folder names of a source, and warnings about its layout."""

    def __init__(self, builder: CatalogueBuilder, split: str | None) -> None:
        self._builder, self._split = builder, split  # as in `fruits run data/Training data/Test`
        self._folders: set[tuple[str, ...]] = set()

    def of(self, parts: tuple[str, ...]) -> tuple[str | None, str | None] | None:
        """Return label and split of the photos in a folder; None if they need a label and have none."""
        if not self._builder.labelled:
            return None, None
        if not parts or split_of(parts[-1]) or (label := label_of(parts[-1])) is None:
            return None
        self._folders.add((*parts[:-1], label))
        for part in reversed(parts[:-1]):
            if split := split_of(part):
                self._builder.split_folders[part] = split
                return label, split
        return label, self._split

    def count_empty(self, parts: tuple[str, ...], *, has_folders: bool, has_photos: bool) -> None:
        """Count a folder with neither folders nor photos in it, unless its name is a split."""
        if parts and not has_folders and not has_photos and split_of(parts[-1]) is None:
            self._builder.skip("empty label", "/".join(parts))

    def close(self) -> None:
        """Warn about folders that look like splits with unknown names: all of their photos would be trained on."""
        for above, names in repeated_levels(self._folders)[:3]:
            place = f"in '{above}'" if above else f"in {self._builder.source!r}"
            self._builder.warnings.append(
                f"the folders {', '.join(map(repr, names))} {place} repeat the labels of folders beside them, and their names "
                "say no split, so their photos are mixed: if they are splits, call them train, val or test"
            )


def _add_files(
    builder: CatalogueBuilder, labels: Labels, photos: list[os.DirEntry[str]], parts: tuple[str, ...]
) -> None:
    if not photos:
        return
    if (meaning := labels.of(parts)) is None:
        for entry in photos:
            builder.skip("no label", "/".join((*parts, entry.name)))
        return
    label, split = meaning
    groups = neighbours(builder, parts, [entry.name for entry in photos])
    for entry, group in zip(photos, groups, strict=True):
        key = "/".join((*parts, entry.name))
        try:
            stat = entry.stat()
        except OSError:
            builder.skip("unreadable", key)
        else:
            add_file(builder, entry.path, key, stat, label=label, split=split, group=group)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself; stat will fail and report it
        return False


def neighbours(builder: CatalogueBuilder, parts: tuple[str, ...], names: list[str]) -> Iterator[int | None]:
    """Yield a group per file name: a hash of its numbered series and of the span of frames that its number falls into.

    A name without digits is a group of its own. Without labels, every photo is one.
    """
    if not builder.labelled:
        yield from (None for _ in names)
        return
    for name, numbered in zip(names, number_frames(names), strict=True):
        if numbered is None:
            yield stable_hash("/".join((*parts, name)))
        else:
            series, frame = numbered
            yield stable_hash("/".join((*parts, series, str(frame // FRAMES_PER_GROUP))))


def _looks_like_photo(
    builder: CatalogueBuilder, entry: os.DirEntry[str], parts: tuple[str, ...], access: Access
) -> bool:
    if has_photo_suffix(entry.name):
        return True
    try:
        # Only a regular file may be opened: reading a pipe would block forever.
        if entry.is_file() and is_photo(read_head_of(entry.path, HEAD_BYTES, access.allows_opened)):
            return True
    except OSError:
        builder.skip("unreadable", "/".join((*parts, entry.name)))
        return False
    reason = "damaged table" if is_damaged_table(entry.path, access) else "not an image"
    builder.skip(reason, "/".join((*parts, entry.name)))
    return False
