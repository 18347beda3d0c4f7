"""Which columns of a Parquet file hold photos, their names and their labels.

The layout is that of Hugging Face's ``datasets``: ``image: struct<bytes, path>``, and ``label`` as text or as numbers whose names
are in the schema's metadata ``huggingface``. Packs are written so. Files with ``bytes`` and ``path`` as columns of their own, as
in packs of format 1, are understood too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from fruits.config import is_utf8
from fruits.errors import CatalogueError
from fruits.storage.sanitising import json_text

_IMAGES: Final = ("image", "img", "photo", "picture", "jpg", "jpeg", "png", "webp", "bytes")
_PATHS: Final = ("path", "file_name", "filename", "file")
_LABELS: Final = ("label", "labels", "class", "class_name", "category")


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a file of photos; leaves of a struct are named ``image.bytes``.

    Attributes
    ----------
    contents : str
        The bytes of each photo.
    path : str or None
    label : str or None
    classes : tuple of str
        Name of each number in ``label``; empty if the column holds text.
    labels : tuple of str
        Columns that might be the label, if none of them is for certain.
    """

    contents: str
    path: str | None
    label: str | None
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, schema: pa.Schema) -> Columns | None:
        """Find the columns; None if the file holds no photos.

        Raises
        ------
        CatalogueError
            If two columns have the same name, so that it is not known which is meant, or a label's name is not UTF-8.
        """
        count = Counter(schema.names)
        if twice := [name for name in (*_IMAGES, *_PATHS, *_LABELS, "split") if count[name] > 1]:
            raise CatalogueError(f"{count[twice[0]]} columns are called '{twice[0]}'; expected one: rename the others")
        schema = pa.schema([field for field in schema if count[field.name] == 1], schema.metadata)
        features = _features(schema)
        declared = [name for name in schema.names if _kind(features.get(name)) == "Image"]
        structs = [field.name for field in schema if pa.types.is_struct(field.type)]
        known = [name for name in _IMAGES if name in schema.names]
        for name in (*declared, *(name for name in known if name in structs), *structs, *known):
            if (found := _contents(schema, name)) is not None:
                label, classes, labels = _label(schema, features)
                if not all(map(is_utf8, classes)):
                    raise CatalogueError("a label's name is not UTF-8; expected text: write the labels again")
                return cls(*found, label, classes, labels)
        return None

    def label_of(self, labels: pa.Array) -> pa.DictionaryArray:
        """Return labels as a dictionary array of text; a number without a name is null, or its digits if there are no names."""
        if pa.types.is_integer(labels.type) and self.classes:
            numbers = [row if row is not None and 0 <= row < len(self.classes) else None for row in labels.to_pylist()]
            return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(self.classes, pa.string()))
        return labels if pa.types.is_dictionary(labels.type) else labels.cast(pa.string()).dictionary_encode()


def leaf(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column, or a leaf of a struct: null where the struct is."""
    if name in batch.schema.names:
        return batch.column(name)
    whole, _, part = name.rpartition(".")
    column = batch.column(whole)
    return column.flatten()[[field.name for field in column.type].index(part)]


def metadata(schema: pa.Schema, classes: list[str] | None) -> dict[str, str]:
    """Return the schema metadata by which ``datasets`` knows the features of a file with a column ``image``."""
    features: dict[str, Any] = {}
    for field in schema:
        if field.name == "image":
            features[field.name] = {"_type": "Image"}
        elif field.name == "label" and classes is not None:
            features[field.name] = {"names": classes, "_type": "ClassLabel"}
        else:
            features[field.name] = {"dtype": str(field.type), "_type": "Value"}
    return {"huggingface": json_text({"info": {"features": features}})}


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        if isinstance(found, dict):
            return found
    return {}


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _contents(schema: pa.Schema, name: str) -> tuple[str, str | None] | None:
    """Return the columns of the bytes and of the path of a photo, if a column holds photos."""
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        if "." in name or "bytes" not in fields or not _is_binary(fields["bytes"]):
            return None
        return f"{name}.bytes", f"{name}.path" if "path" in fields and _is_text(fields["path"]) else None
    if not _is_binary(kind):
        return None
    paths = (path for path in _PATHS if path in schema.names and _is_text(schema.field(path).type))
    return name, next(paths, None)


def _label(schema: pa.Schema, features: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    classes = {}
    for name in schema.names:
        names = features[name].get("names") if _kind(features.get(name)) == "ClassLabel" else None
        if isinstance(names, list) and pa.types.is_integer(schema.field(name).type):
            classes[name] = tuple(map(str, names))
    known = [name for name in _LABELS if name in schema.names and _is_label(schema.field(name).type)]
    best = next((name for name in known if name in classes), None) or next(iter(known), None)
    if best is None and len(classes) == 1:
        (best,) = classes
    return best, classes.get(best or "", ()), () if best else tuple(classes)


def _is_binary(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_label(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(_plain(kind)))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
