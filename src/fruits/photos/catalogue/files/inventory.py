"""S3 Inventory: the list of a bucket's objects that S3 writes once a day or week, read instead of listing the bucket.

``manifest.json`` names the data files, in Parquet, ORC or CSV. They say key, size and etag of each object, so no object is
asked for. Labels, splits and groups follow from the keys' folders, as in a listing of the bucket.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from fruits.errors import CatalogueError, StoreError, option
from fruits.photos.catalogue.builder import CatalogueBuilder
from fruits.photos.catalogue.files.keys import LISTED, add_keys, sorted_by_key
from fruits.photos.catalogue.manifests.manifest import as_texts, check_row_groups, version_at
from fruits.photos.reading.access import Access
from fruits.storage.disk.local import RefusedError, read_regular
from fruits.storage.objects import AbsentError, is_remote, opened, split_uri
from fruits.storage.tables.spool import SortedRuns

NAME: Final = "manifest.json"
_MAX_MANIFEST: Final = 64 << 20
#: S3's keys have at most 1,024 bytes; each takes three more characters per byte in CSV.
_MAX_TEXT: Final = 4096
_ROWS_AT_ONCE: Final = 8192
_FORMS: Final = ("CSV", "Parquet", "ORC")
#: Rows of a file in ORC, whose stripes say their size only once they are read; S3 writes several files of a few million each.
_MOST_ROWS: Final = 1 << 25
#: Fields as CSV's schema spells them, to the names of columns in Parquet.
_FIELDS: Final = {
    "Key": "key", "Size": "size", "ETag": "e_tag", "LastModifiedDate": "last_modified_date", "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
}  # fmt: skip
#: Keys with an empty, ``.`` or ``..`` segment, as in :func:`fruits.storage.objects.raw_keys.has_bad_segment`.
_BAD: Final = r"(^|/)\.{0,2}/|(^|/)\.{1,2}$|^$"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What ``manifest.json`` says.

    Attributes
    ----------
    place : str
        Path or uri of the manifest, for messages.
    bucket : str
        Bucket whose objects are listed.
    form : str
        ``CSV``, ``Parquet`` or ``ORC``.
    fields : tuple of str
        Columns of the CSV files; empty for the others.
    files : tuple of str
        Keys of the data files in the bucket that the inventory was written to.
    """

    place: str
    bucket: str
    form: str
    fields: tuple[str, ...]
    files: tuple[str, ...]

    @classmethod
    def read(cls, place: str) -> Inventory:
        """Read the manifest of an inventory.

        Raises
        ------
        CatalogueError
            If it is no manifest of an inventory.
        """
        expected = f"expected the {NAME} that S3 writes beside an inventory in CSV, Parquet or ORC"
        folder, name = split_uri(place)
        try:
            limit = _MAX_MANIFEST
            data = (
                opened(folder).read(name, limit=limit)
                if is_remote(place)
                else read_regular(place, limit, lambda _: True)
            )
            about = json.loads(data)
            form = about["fileFormat"]
            if form not in _FORMS:
                raise CatalogueError(
                    f"inventory '{place}' is in {str(form)[:20]}; expected CSV, Parquet or ORC: choose one of them in the "
                    "inventory's configuration"
                )
            fields = tuple(field.strip() for field in about["fileSchema"].split(",")) if form == "CSV" else ()
            found = cls(
                place, str(about["sourceBucket"]), form, fields, tuple(str(file["key"]) for file in about["files"])
            )
            "".join((found.bucket, *found.fields, *found.files)).encode()  # JSON may hold what is no UTF-8
        except (AbsentError, FileNotFoundError) as exc:
            raise CatalogueError(f"'{place}' does not exist; {expected}") from exc
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RefusedError) as exc:
            raise CatalogueError(f"'{place}' cannot be used ({type(exc).__name__}: {exc}); {expected}") from exc
        return found

    def open(self, key: str) -> Any:
        """Open a data file: in the manifest's bucket, or, of a copied inventory, in ``data/`` beside the manifest's folder."""
        folder, _ = split_uri(self.place)
        name = key.rpartition("/")[2]
        beside = f"{posixpath.dirname(folder)}/data"
        if is_remote(self.place):
            scheme, _, rest = self.place.partition("://")
            for root, at in ((f"{scheme}://{rest.partition('/')[0]}", key), (beside, name), (folder, name)):
                if opened(root).stat(at) is not None:
                    return opened(root).open(at)
        else:
            for path in (Path(beside, name), Path(folder, name)):
                if path.is_file():
                    return pa.OSFile(str(path))
        raise CatalogueError(
            f"inventory '{self.place}': its file '{key}' is not there; expected it beside the manifest"
        )


def add_inventory(builder: CatalogueBuilder, place: str, access: Access, others: Iterable[str]) -> None:
    """Add the photos that an inventory lists and that may be read.

    Parameters
    ----------
    builder : CatalogueBuilder
    place : str
        Path or uri of ``manifest.json``.
    access : Access
        Its prefixes of the inventory's bucket are listed, as if each were a source.
    others : iterable of str
        Names of the other sources.

    Raises
    ------
    CatalogueError
        If the inventory cannot be used, or none of its bucket may be read.
    """
    inventory = Inventory.read(place)
    bucket = f"s3://{inventory.bucket}/"
    allowed = sorted({place.replace("s3a://", "s3://") for place in access.places})
    prefixes = [prefix.removeprefix(bucket) for prefix in allowed if prefix.startswith(bucket)]
    prefixes = [one for one in prefixes if not any(one != other and one.startswith(other) for other in prefixes)]
    if not prefixes:
        raise CatalogueError(
            f"inventory '{place}' lists {bucket}, which is outside of its source; expected "
            f"{option('allow_source', bucket)} or a prefix of it"
        )
    found = {prefix: SortedRuns("key") for prefix in prefixes}
    for batch in _rows(inventory):
        rest = batch
        for prefix, runs in found.items():
            mine = pc.starts_with(rest["key"], prefix)
            runs.add(_below(builder, rest.filter(mine), prefix))
            rest = rest.filter(pc.invert(mine))
        for key in rest["key"].to_pylist():
            builder.skip("outside of its source", key)
    for prefix, runs in found.items():
        listed = sorted_by_key(runs)
        if listed.num_rows:
            add_keys(builder, opened(f"{bucket}{prefix}".rstrip("/")), listed, others)


def _below(builder: CatalogueBuilder, batch: pa.RecordBatch, prefix: str) -> pa.RecordBatch:
    """Return the objects below a prefix, with keys relative to it."""
    keys = pc.utf8_slice_codeunits(batch["key"], len(prefix))
    bad = pc.match_substring_regex(keys, _BAD)
    for key in keys.filter(bad).to_pylist():
        if key:  # else the marker of the prefix itself
            builder.skip("key that is no path", key)
    good = pc.invert(bad)
    keys = pc.replace_substring_regex(keys.filter(good), "/$", "")
    return pa.RecordBatch.from_arrays([keys, *batch.filter(good).columns[1:]], schema=LISTED)


def _rows(inventory: Inventory) -> Iterator[pa.RecordBatch]:
    """Yield the present objects, schema ``LISTED``: neither older versions nor marks of deletion."""
    for key in inventory.files:
        place = f"inventory '{inventory.place}', file '{key}'"
        try:
            with inventory.open(key) as file:
                if inventory.form == "CSV":
                    batches = _of_csv(file, inventory.fields)
                else:
                    batches = _of_parquet(file, place) if inventory.form == "Parquet" else _of_orc(file, place)
                for batch in batches:
                    yield _as_listed(batch, place, encoded=inventory.form == "CSV")
        except StoreError:
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
            first = (str(exc).splitlines() or [type(exc).__name__])[0]
            raise CatalogueError(f"{place} cannot be read ({first}); expected what S3 wrote") from exc


def _of_csv(file: Any, fields: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    read = pyarrow.csv.ReadOptions(use_threads=False, column_names=list(fields))
    kept = [field for field in _FIELDS if field in fields]
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(fields, pa.string()), include_columns=kept, strings_can_be_null=False
    )
    with (
        pa.CompressedInputStream(file, "gzip") as text,
        closing(pyarrow.csv.open_csv(text, read, convert_options=convert)) as reader,
    ):
        for batch in reader:
            yield batch.rename_columns([_FIELDS[field] for field in kept])


def _of_parquet(file: Any, place: str) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(file, pre_buffer=False)
    columns = [name for name in _FIELDS.values() if name in parquet.schema_arrow.names]
    check_row_groups(parquet.metadata, columns, place)
    yield from parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns, use_threads=False)


def _of_orc(file: Any, place: str) -> Iterator[pa.RecordBatch]:
    from pyarrow import orc  # noqa: PLC0415 - not in every build of Arrow

    table = orc.ORCFile(file)
    if table.nrows > _MOST_ROWS:
        raise CatalogueError(f"{place} has {table.nrows:,} rows; expected at most {_MOST_ROWS:,}, in several files")
    columns = [name for name in _FIELDS.values() if name in table.schema.names]
    for stripe in range(table.nstripes):
        found = table.read_stripe(stripe, columns)
        for start in range(0, found.num_rows, _ROWS_AT_ONCE):
            yield found.slice(start, _ROWS_AT_ONCE)


def _as_listed(batch: pa.RecordBatch, place: str, *, encoded: bool) -> pa.RecordBatch:
    there = set(batch.schema.names)
    if not {"key", "size"} <= there or not {"e_tag", "last_modified_date"} & there:
        raise CatalogueError(
            f"{place} has the fields {', '.join(sorted(there))}; expected key, size, and e_tag or last_modified_date: add them "
            "in the inventory's configuration"
        )
    for name, unwanted in (("is_latest", "false"), ("is_delete_marker", "true")):
        if name in there:
            said = pc.utf8_lower(batch[name].cast(pa.string()))
            batch = batch.filter(pc.fill_null(pc.not_equal(said, unwanted), True))
    keys = batch["key"].cast(pa.large_string())
    if (longest := pc.max(pc.binary_length(keys)).as_py() or 0) > _MAX_TEXT:
        raise CatalogueError(f"{place} has a key of {longest:,} bytes; expected at most {_MAX_TEXT:,}")
    if encoded:
        keys = pa.array([unquote_plus(key) for key in keys.to_pylist()], pa.large_string())
    sizes = pc.if_else(pc.equal(batch["size"].cast(pa.string()), ""), "0", batch["size"].cast(pa.string()))
    sizes = pc.fill_null(sizes.cast(pa.int64()), 0)
    rows = batch.num_rows
    etags = batch["e_tag"].cast(pa.string()).to_pylist() if "e_tag" in there else [None] * rows
    times = as_texts(batch["last_modified_date"]).to_pylist() if "last_modified_date" in there else [""] * rows
    versions = [
        (etag or "").strip('"') or version_at(time or "", size)
        for etag, time, size in zip(etags, times, sizes.to_pylist(), strict=True)
    ]
    return pa.RecordBatch.from_arrays([keys, sizes, pa.array(versions, pa.large_string())], schema=LISTED)
