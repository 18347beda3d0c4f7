"""The Arrow schema of every table that crosses a boundary.

A change of meaning raises ``VERSION``: embeddings of another version are computed again, bundles of another are refused.
To change a schema: raise the number, say why below, and add a test that old results are refused or read.

1: first version.
2: embeddings have brightness and sharpness; answers have a kind, a variety and how sure they are.
3: plans carry a checksum of what they say.
4: that checksum is of every byte of the plan, and shards have names of their plan alone.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

VERSION: Final = 4

#: Largest float distance that "the same embedding" allows between engines; the same machine gives the same bits.
EMBEDDING_TOLERANCE: Final = 1e-5

_LABEL = pa.dictionary(pa.int32(), pa.string())
_SPLIT = pa.dictionary(pa.int8(), pa.string())

#: One row per photo that was found. ``source``: what was given on the command line. ``group``: photos that may show the same
#: thing from nearly the same view share one; negative where a manifest says so, else a guess from names. ``manifest_source``:
#: what a manifest's column ``source`` says, null where none does; catalogues of older runs lack it.
CATALOGUE: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", _LABEL),
        pa.field("split", _SPLIT),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("source", _LABEL, nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("manifest_source", _LABEL),
    ]
)

#: What a worker is told: the photos of one shard.
WORK: Final = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("version", pa.string(), nullable=False),
    ]
)

#: What a worker answers for a committed shard: what it holds and where the seconds went (summed over threads).
RECEIPT: Final = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("ok", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
        pa.field("failed", pa.int64(), nullable=False),
        pa.field("seconds_read", pa.float64(), nullable=False),
        pa.field("seconds_decode", pa.float64(), nullable=False),
        pa.field("seconds_infer", pa.float64(), nullable=False),
        pa.field("seconds_write", pa.float64(), nullable=False),
    ]
)


#: What an audit found: a row per photo and sort of finding; what does not apply is null.
FINDINGS: Final = pa.schema(
    [
        pa.field("sort", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("group", pa.int64()),
        pa.field("distance", pa.float64()),
        pa.field("other_uri", pa.string()),
        pa.field("other_label", pa.string()),
        pa.field("other_split", pa.string()),
        pa.field("across_splits", pa.bool_()),
        pa.field("across_labels", pa.bool_()),
        pa.field("suggested", pa.string()),
        pa.field("given_probability", pa.float64()),
        pa.field("suggested_probability", pa.float64()),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("message", pa.string()),
    ]
)


def embeddings(embedding_size: int) -> pa.Schema:
    """Return the schema of embedding rows of ``embedding_size`` numbers."""
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("split", pa.string()),
            pa.field("version", pa.string(), nullable=False),
            pa.field("sha256", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("brightness", pa.float32()),
            pa.field("sharpness", pa.float32()),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("embedding", pa.list_(pa.float32(), embedding_size)),
        ]
    )


def features(components: int) -> pa.Schema:
    """Return the schema of feature rows: embeddings projected to ``components`` numbers."""
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("split", pa.string()),
            pa.field("source", pa.string()),
            pa.field("features", pa.list_(pa.float32(), components), nullable=False),
        ]
    )


def predictions(components: int) -> pa.Schema:
    """Return the schema of answers; all but the first three columns are null where the photo was not ok.

    ``outcome``: variety, kind, probable, unsure or unknown; ``kind``, ``variety`` and names only where something is named;
    ``probability`` of what is named, else of the best kind. Lists hold the three best, best first.
    """
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("outcome", pa.string()),
            pa.field("kind", pa.string()),
            pa.field("variety", pa.string()),
            pa.field("name_en", pa.string()),
            pa.field("name_fr", pa.string()),
            pa.field("probability", pa.float32()),
            pa.field("kinds", pa.list_(pa.string())),
            pa.field("kind_probabilities", pa.list_(pa.float32())),
            pa.field("labels", pa.list_(pa.string())),
            pa.field("probabilities", pa.list_(pa.float32())),
            pa.field("strangeness", pa.float32()),
            pa.field("advice", pa.list_(pa.string())),
            pa.field("features", pa.list_(pa.float32(), components)),
        ]
    )
