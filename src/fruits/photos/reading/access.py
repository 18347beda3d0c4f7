"""What may be read on behalf of whoever named some sources: what lies in them, and what was let in besides.

A link in a folder of photos, or a row of a manifest, may be a stranger's and lead to what only the operator may read.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fruits.errors import ConfigError
from fruits.storage.objects import is_remote

_MANIFESTS: Final = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Access:
    """The places that may be read, and whether links may lead out of them.

    Travels to the workers: what a name leads to is looked at when it is listed, and again when it is opened.

    Attributes
    ----------
    places : tuple of str
        Folders and prefixes with a slash at their end, as they were named and where that leads; single files without.
    follow_links : bool
    """

    places: tuple[str, ...] = ()
    follow_links: bool = False

    @classmethod
    def to(cls, sources: Sequence[str], allowed: Sequence[str] = (), *, follow_links: bool = False) -> Access:
        """Allow what lies in some sources (a manifest is its folder) and in what is allowed besides.

        Raises
        ------
        ConfigError
            If something is allowed that is not there: it would change nothing.
        """
        places: list[str] = []
        for source in sources:
            if not is_remote(source):
                path = os.path.abspath(source)  # noqa: PTH100 - as named: links in it stay
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
                    f"--allow-source '{place}' does not exist; expected a folder, a file or s3://bucket/prefix"
                )
            path = os.path.abspath(place)  # noqa: PTH100
            slash = "/" if Path(path).is_dir() else ""
            places += [f"{name}{slash}".replace("//", "/") for name in (path, os.path.realpath(path))]
        return cls(tuple(dict.fromkeys(places)), follow_links)

    def has(self, name: str) -> bool:
        """Whether a path or uri, taken as it is written, lies in one of the places."""
        folder = name if name.endswith("/") else f"{name}/"  # a folder lies in itself
        return any(folder.startswith(place) if place.endswith("/") else name == place for place in self.places)

    def reaches(self, path: str) -> bool:
        """Whether a path on disk may be read: what its links lead to lies in a place, or links may lead anywhere.

        A folder, and with it what lies there and is no link, is asked for with a slash at its end.
        """
        real = os.path.realpath(path)
        return self.has(f"{real}/" if path.endswith("/") else real) or (self.follow_links and self.has(path))

    def leads(self, real: str) -> bool:
        """Whether what a file turned out to be when it was opened, its path without links, may be read."""
        return self.follow_links or self.has(real)


def _place(path: str) -> str:
    if not os.path.isdir(path):  # noqa: PTH112 - a name that is too long is no folder, where pathlib raises
        if not path.lower().endswith(_MANIFESTS):
            return path
        path = posixpath.dirname(path)
    return f"{path}/".replace("//", "/")


def _prefix(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{posixpath.normpath(rest)}/"


#: Nothing that a link on disk leads to.
NO_LINKS: Final = Access()
