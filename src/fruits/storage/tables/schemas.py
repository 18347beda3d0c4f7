"""Arrow schemas of all tables that are stored or exchanged between processes.

A change of meaning raises ``VERSION``: embeddings of another version are computed again, bundles of another version are refused.
To change a schema: raise the number, document the change below, and add a test that old results are refused or read.

1: first version.
2: embeddings have brightness and sharpness; predictions have a kind, a variety and an outcome.
3: plans have a checksum of their content.
4: the checksum covers every byte of the plan, and shard names are unique per plan.
5: embeddings are a Delta table, without labels and splits, which the catalogue has.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from fruits.messages import LANGUAGES

VERSION: Final = 5

_LABEL = pa.dictionary(pa.int32(), pa.string())
_SPLIT = pa.dictionary(pa.int8(), pa.string())

#: One row per photo. ``source``: as given on the command line. ``group``: shared by photos that may show the same object from
#: nearly the same view; negative if given by a manifest, else a guess from file names. ``manifest_source``: the column ``source``
#: of a manifest, null without one; catalogues of older runs lack it. Texts that differ from photo to photo have 64-bit offsets:
#: those of all photos pass 2 GiB near 23 million photos. Catalogues of older runs have 32-bit offsets.
CATALOGUE: Final = pa.schema(
    [
        pa.field("uri", pa.large_string(), nullable=False),
        pa.field("label", _LABEL),
        pa.field("split", _SPLIT),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("version", pa.large_string(), nullable=False),
        pa.field("source", _LABEL, nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("manifest_source", _LABEL),
    ]
)

#: Input of a worker: the photos of one shard.
WORK: Final = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
    ]
)

#: Result of a worker for a shard: the file that it wrote, counts, and seconds by kind of work (summed over threads).
RECEIPT: Final = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ms", pa.int64(), nullable=False),
        pa.field("ok", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
        pa.field("failed", pa.int64(), nullable=False),
        pa.field("seconds_read", pa.float64(), nullable=False),
        pa.field("seconds_decode", pa.float64(), nullable=False),
        pa.field("seconds_infer", pa.float64(), nullable=False),
        pa.field("seconds_write", pa.float64(), nullable=False),
    ]
)


#: Findings of an audit: a row per photo and sort of finding; columns that do not apply are null.
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
    """Return the schema of the embeddings table, for embeddings of ``embedding_size`` numbers."""
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
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
    """Return the schema of the features table: embeddings projected to ``components`` numbers."""
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
    """Return the schema of predictions; all but the first three columns are null if the status is not ``ok``.

    ``outcome``: variety, kind, probable, unsure or unknown. ``kind``, ``variety`` and the names, one
    for each language of the messages, are null if the answer names none.
    ``probability``: that of the named kind or variety, else of the best kind. Lists hold the three best, best first.
    """
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("outcome", pa.string()),
            pa.field("kind", pa.string()),
            pa.field("variety", pa.string()),
            *(pa.field(f"name_{language}", pa.string()) for language in LANGUAGES),
            pa.field("probability", pa.float32()),
            pa.field("kinds", pa.list_(pa.string())),
            pa.field("kind_probabilities", pa.list_(pa.float32())),
            pa.field("labels", pa.list_(pa.string())),
            pa.field("probabilities", pa.list_(pa.float32())),
            pa.field("ood_score", pa.float32()),
            pa.field("advice", pa.list_(pa.string())),
            pa.field("features", pa.list_(pa.float32(), components)),
        ]
    )


#: What a region has of its answer, named as in the predictions.
OF_REGION: Final = (
    "outcome", "kind", "variety", *(f"name_{language}" for language in LANGUAGES), "probability", "kinds",
    "kind_probabilities", "ood_score", "advice",
)  # fmt: skip
#: One row per photo that has an embedding: its regions, those with a name first; null with the reason in ``error`` if the photo
#: could not be read any more. ``left`` to ``bottom``: fractions of the upright photo.
REGIONS: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field(
            "regions",
            pa.list_(
                pa.struct(
                    [
                        *(pa.field(side, pa.float64(), nullable=False) for side in ("left", "top", "right", "bottom")),
                        *(field for field in predictions(1) if field.name in OF_REGION),
                    ]
                )
            ),
        ),
    ]
)
