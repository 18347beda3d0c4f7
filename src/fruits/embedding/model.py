"""The prepared network as a file for workers, for results on disk or in a bucket.

On disk it is the file itself. From a bucket, each machine fetches it once, into a cache by hash, atomically. Independent of the
content of the file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fruits.errors import StoreError, option
from fruits.storage.objects import opened, uri_of


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Location and hash of a prepared network.

    Attributes
    ----------
    root, key : str
        Root and key for :class:`fruits.storage.objects.Objects`.
    sha256 : str
        Hash of its bytes.
    """

    root: str
    key: str
    sha256: str

    def fetch(self) -> Path:
        """Return the path of the file on this machine.

        Raises
        ------
        StoreError
            If it is missing, or its hash differs.
        """
        objects = opened(self.root)
        if local := objects.local_path(self.key):
            if not local.is_file():
                raise StoreError(
                    f"'{local}' is not on this machine; workers on other machines do not see a folder of yours: "
                    f"use s3://bucket/prefix, or a folder that all of them share, for {option('to')}"
                )
            return local
        for folder in _caches():
            copy = folder / f"{self.sha256}.onnx"
            with suppress(OSError):
                if hashlib.sha256(copy.read_bytes()).hexdigest() == self.sha256:
                    return copy
        data = objects.read(self.key)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise StoreError(
                f"'{uri_of(self.root, self.key)}' is not the network that was put there; run again: it is made anew"
            )
        return _kept(data, f"{self.sha256}.onnx")


def _kept(data: bytes, name: str) -> Path:
    """Write a file into the first cache that is writable; safe with concurrent processes."""
    for folder in _caches():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(data)
            return Path(file.name).rename(folder / name)
        except OSError:
            continue
    raise StoreError(
        f"no room for a network of {len(data):,} bytes in {' or '.join(map(str, _caches()))}; "
        "free some, or set XDG_CACHE_HOME to a folder that can be written"
    )


def _caches() -> list[Path]:
    """Return the cache folders: the user's cache, then a temporary one, because on some clusters the first is not writable."""
    home = os.environ.get("XDG_CACHE_HOME")
    cache = Path(home) if home else Path.home() / ".cache"
    return [cache / "fruits", Path(tempfile.gettempdir()) / f"fruits-{os.getuid()}"]
