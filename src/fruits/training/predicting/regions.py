"""The regions of ``fruits apply --regions``: a pass of the engine over the photos themselves, as stored embeddings do not tell.

One row per photo in ``regions.parquet``. Rows of the same photo, by uri and version, and the same recogniser are used again. Rows
of other photos leave it with the next call, also with one that asks for no regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from fruits.embedding.backbone import Embedder
from fruits.embedding.session import first_line
from fruits.engines import Engine
from fruits.errors import ImageDecodeError, StoreError, option
from fruits.photos.decoding.decoder import own_decoder
from fruits.photos.reading.access import Access
from fruits.photos.reading.reading import read_photos
from fruits.recogniser import bundle as bundles
from fruits.recogniser.bundle import Bundle
from fruits.recogniser.regions import find_regions, picture_of
from fruits.storage.embeddings.inventory import Inventory, find
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.objects import AbsentError, Objects, uri_of
from fruits.storage.tables import schemas
from fruits.storage.tables.parquet import table_writer
from fruits.storage.tables.spool import Spool
from fruits.training.fitting.training_set import in_chunks, read_rows

KEY: Final = "regions.parquet"
#: Photos of a shard: ten seconds of work.
_PER_SHARD: Final = 64
#: Rows of a row group.
_PER_GROUP: Final = 4096
_IDENTITY: Final = b"fruits.recogniser"


def write_regions(
    engine: Engine,
    objects: Objects,
    stored: EmbeddingTable,
    inventory: Inventory,
    bundle: Bundle,
    access: Access,
    progress: Callable[[int], None],
) -> int:
    """Write ``regions.parquet``, whole or not at all, and return the number of regions with a name.

    Parameters
    ----------
    engine : Engine
    objects : Objects
        Where results are written.
    stored : EmbeddingTable
    inventory : Inventory
        Of the photos; those without an embedding have no row.
    bundle : Bundle
        With a linear head and a network that gives a feature map.
    access : Access
        Where links among the photos may lead.
    progress : callable
        Called with numbers of photos.
    """
    identity = {_IDENTITY: bundle.identity.encode()}
    known = _known(objects, bundle.identity)
    order = list(_photos(stored, inventory))
    missing = [photo for photo in order if photo not in known]
    progress(len(order) - len(missing))
    stage = RegionStage(bundle.root, access)
    for batch in engine.map_batches(_shards(missing), stage, schemas.REGIONS):
        for row in batch.to_pylist():
            known[row["uri"], row["version"]] = row
        progress(batch.num_rows)
    schema = schemas.REGIONS.with_metadata(identity)
    rows = [known[photo] for photo in order]
    with table_writer(objects, KEY, schema) as writer:
        for start in range(0, len(rows), _PER_GROUP):
            writer.write_table(pa.Table.from_pylist(rows[start : start + _PER_GROUP], schema=schema))
    return sum(one["name_en"] is not None for row in rows for one in row["regions"] or ())


def delete_regions(objects: Objects, photos: Spool) -> None:
    """Remove the rows of photos that are not listed any more, in any version, from ``regions.parquet``, if there is one.

    Parameters
    ----------
    objects : Objects
        Where results are written.
    photos : Spool
        Columns ``uri`` and ``version``, with the range of uris.
    """
    try:
        with objects.open(KEY) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            keys = parquet.read(["uri", "version"], use_threads=False)
            stays = find(photos, keys) >= 0
            if stays.all():
                return
            at = 0
            with table_writer(objects, KEY, parquet.schema_arrow) as writer:
                for number in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(number, use_threads=False)
                    writer.write_table(rows.filter(pa.array(stays[at : at + rows.num_rows])))
                    at += rows.num_rows
    except AbsentError:
        return
    except StoreError:
        raise
    except (OSError, pa.ArrowException, KeyError) as exc:
        raise StoreError(
            f"'{uri_of(objects.root, KEY)}' is damaged ({first_line(exc)}), so that rows of photos that left cannot be removed; "
            f"delete it, or run again with {option('regions', True)}: it is written again"
        ) from exc


@dataclass(frozen=True, slots=True)
class RegionStage:
    """Stage that reads photos and finds their regions.

    Parameters
    ----------
    bundle : str
        Where the bundle is, on a disk that every worker sees or in a bucket.
    access : Access
    """

    bundle: str
    access: Access

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take rows of ``uri`` and ``version``; yield rows of ``REGIONS``."""
        bundle, embedder = _opened(self.bundle)
        for batch in batches:
            photos = batch.to_pylist()
            contents = read_photos((photo["uri"] for photo in photos), self.access)
            rows = [
                {**photo, **_of(bundle, embedder, data, error)}
                for photo, (data, error) in zip(photos, contents, strict=True)
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=schemas.REGIONS)


def _of(bundle: Bundle, embedder: Embedder, data: bytes | None, error: str) -> dict[str, Any]:
    if data is None:
        return {"error": error, "regions": None}
    try:
        picture, size = picture_of(own_decoder(), data, bundle.preprocessing)
    except ImageDecodeError as exc:
        return {"error": f"{exc.code}: {exc}", "regions": None}
    found = []
    for region in find_regions(bundle, embedder, picture, size):
        row = region.answer.as_row()
        found.append({**region.box._asdict(), **{name: row.get(name) for name in schemas.OF_REGION}})
    return {"error": None, "regions": found}


@lru_cache(maxsize=1)
def _opened(root: str) -> tuple[Bundle, Embedder]:
    """Open the recogniser once per worker process."""
    bundle = bundles.load(root)
    return bundle, bundle.embedder


def _known(objects: Objects, identity: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rows that are there already, by photo, if they are of this recogniser; failed ones are tried again."""
    try:
        with objects.open(KEY) as file:
            table = pq.read_table(file, use_threads=False)
    except AbsentError:
        return {}
    except StoreError:  # a bucket that cannot be reached: the rows may well be there
        raise
    except (OSError, pa.ArrowException):  # damaged: every photo is looked at again
        return {}
    if (table.schema.metadata or {}).get(_IDENTITY) != identity.encode():
        return {}
    return {(row["uri"], row["version"]): row for row in table.to_pylist() if row["regions"] is not None}


def _photos(stored: EmbeddingTable, inventory: Inventory) -> Iterator[tuple[str, str]]:
    """Yield uri and version of every photo that has an embedding, in the catalogue's order."""
    for group in in_chunks(inventory):
        for row in read_rows(stored, group, ["uri", "version", "status"])[0].to_pylist():
            if row["status"] == "ok":
                yield row["uri"], row["version"]


def _shards(photos: list[tuple[str, str]]) -> Iterable[pa.Table]:
    for start in range(0, len(photos), _PER_SHARD):
        uris, versions = zip(*photos[start : start + _PER_SHARD], strict=True)
        yield pa.table({"uri": pa.array(uris, pa.string()), "version": pa.array(versions, pa.string())})
