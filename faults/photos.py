"""Which photos the trials run on: generated fruit, planted once per call of ``python -m faults``."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from obstore.store import S3Store

from fruits.photos.generated import generator

#: So few that a run takes seconds, and enough for several shards and for kills amid them.
PHOTOS, VARIETIES = 1200, 8


def planted(folder: Path, photos: int = PHOTOS, varieties: int = VARIETIES) -> Path:
    """Fill a folder with photos unless it is filled; return it."""
    generator.write_photos(folder, photos=photos, varieties=varieties)
    return folder


def some(folder: Path, count: int) -> list[Path]:
    """Return a few of the photos, always the same, of every label in turn."""
    labels = [sorted(label.glob("*.jpg")) for label in sorted(folder.glob("Training/*"))]
    return list(itertools.chain.from_iterable(zip(*labels, strict=False)))[:count]


def bucket(name: str, environment: dict[str, str], prefix: str | None = None) -> S3Store:
    """Open a bucket of the test server, whatever the variables of this process say."""
    return S3Store(
        name,
        prefix=prefix,
        endpoint=environment["AWS_ENDPOINT_URL"],
        region=environment["AWS_REGION"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )


def upload(folder: Path, to: S3Store) -> int:
    """Copy a folder into a bucket; return how many files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: to.put(path.relative_to(folder).as_posix(), path.read_bytes()), files))
    return len(files)


def download(source: S3Store, folder: Path) -> Path:
    """Copy all of a bucket, or of a prefix, into a folder; return it."""
    keys = [meta["path"] for page in source.list() for meta in page]

    def copy(key: str) -> None:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(source.get(key).bytes()))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, keys))
    return folder
