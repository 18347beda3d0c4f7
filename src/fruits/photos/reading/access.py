"""Which paths may be read for a set of sources: those inside the sources, and those allowed explicitly.

A link in a folder of photos, or a row of a manifest, may come from an untrusted party and point to files that only the operator
may read.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fruits.errors import ConfigError, option
from fruits.storage.objects import is_remote

_MANIFESTS: Final = (".csv", ".parquet")
_PATTERN: Final = re.compile(r"[*?\[]|\{\d+\.\.\d+\}")


@dataclass(frozen=True, slots=True)
class Access:
    """Places that may be read, and whether links may lead out of them.

    Picklable, because workers check again: the target of a link is checked when it is listed and when it is opened.

    Attributes
    ----------
    places : tuple of str
        Folders and prefixes end with a slash, single files do not. A local path is there as given and with its links resolved.
    follow_links : bool
        Whether a link may lead out of the places.
    """

    places: tuple[str, ...] = ()
    follow_links: bool = False

    @classmethod
    def to(cls, sources: Sequence[str], allowed: Sequence[str] = (), *, follow_links: bool = False) -> Access:
        """Allow reading from sources and from additional places.

        Parameters
        ----------
        sources : sequence of str
            Folders, packs, manifests and photos. A manifest allows its folder.
        allowed : sequence of str
            Additional folders, files and prefixes of buckets.
        follow_links : bool
            Whether links may lead out of the places.

        Raises
        ------
        ConfigError
            If an allowed place does not exist: it would have no effect.
        """
        places: list[str] = []
        for source in sources:
            if is_pattern(source):
                source = source.rpartition("/")[0] or "."  # noqa: PLW2901
            if not is_remote(source):
                path = os.path.abspath(source)  # noqa: PTH100 - as given: its links are not resolved
                places += [_place(path), _place(os.path.realpath(path))]
            elif source.lower().endswith(_MANIFESTS):
                places.append(_prefix(source.rpartition("/")[0]))
            else:
                places.append(_prefix(source))
        for place in allowed:
            if is_remote(place):
                places.append(_prefix(place))
                continue
            if not place or not os.path.exists(place):  # noqa: PTH110
                raise ConfigError(
                    f"{option('allow_source', place)} does not exist; expected a folder, a file or s3://bucket/prefix"
                )
            path = os.path.abspath(place)  # noqa: PTH100
            slash = "/" if Path(path).is_dir() else ""
            places += [f"{name}{slash}".replace("//", "/") for name in (path, os.path.realpath(path))]
        return cls(tuple(dict.fromkeys(places)), follow_links)

    def has(self, name: str) -> bool:
        """Return whether a path or uri, taken literally, lies in one of the places."""
        folder = name if name.endswith("/") else f"{name}/"  # a folder contains itself
        return any(folder.startswith(place) if place.endswith("/") else name == place for place in self.places)

    def reaches(self, path: str) -> bool:
        """Return whether a path on disk may be read: its real path lies in a place, or links may lead anywhere.

        Pass a folder with a trailing slash. The answer then also holds for the files in it that are no links.
        """
        real = os.path.realpath(path)
        return self.has(f"{real}/" if path.endswith("/") else real) or (self.follow_links and self.has(path))

    def allows_opened(self, real: str) -> bool:
        """Return whether an opened file may be read, given its real path (links resolved)."""
        return self.follow_links or self.has(real)


def is_pattern(source: str) -> bool:
    """Return whether the last part of a source is a pattern of names, such as ``train-{000..146}.tar``, and no name."""
    folder, _, name = source.rpartition("/")
    return bool(_PATTERN.search(name)) and (is_remote(folder) or not os.path.lexists(source))


def _place(path: str) -> str:
    if not os.path.isdir(path):  # noqa: PTH112 - a name that is too long is no folder, where pathlib raises
        if not path.lower().endswith(_MANIFESTS):
            return path
        path = posixpath.dirname(path)
    return f"{path}/".replace("//", "/")


def _prefix(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{posixpath.normpath(rest)}/"


#: Allows no target of a link on disk.
NO_LINKS: Final = Access()
