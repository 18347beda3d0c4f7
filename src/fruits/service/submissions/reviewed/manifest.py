"""A manifest of reviewed photos, which ``fruits run`` takes as PHOTOS: where each photo is stored, and its label.

Nothing is copied: a photo that is deleted is gone for the next run, too. Only photos that carry the consent in themselves are
named, so that a run shows none that may not be shown; those of older versions are for ``export.py``. Test photos are in a
manifest of their own, never in that for training.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fruits.config import RunConfig
from fruits.photos.catalogue.names import label_of
from fruits.service.submissions.photo_store import photo_key
from fruits.service.submissions.repository import Submissions
from fruits.service.submissions.reviewed.test_set import Split
from fruits.storage.objects import uri_of
from fruits.storage.sanitising import csv_cell

Format = Literal["csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("csv", "parquet")
#: File name of a manifest by split.
NAMES: Final[Mapping[Split, str]] = {"train": "reviewed", "test": "visitors-test"}
#: Options of a run that the next one need not repeat: what it is given anyway, and what is said of the machine.
_NOT_REPEATED: Final = (
    "sources",
    "out",
    "size",
    "resize_mode",
    "workers",
    "balance",
    "core_hour_usd",
    "master",
    "allow_source",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Rows of a manifest.

    Attributes
    ----------
    split : {"train", "test"}
    rows : tuple of (str, str)
        Uri and label, by uri.
    left_out : int
        Reviewed photos of an older version, which do not carry the consent.
    """

    split: Split
    rows: tuple[tuple[str, str], ...]
    left_out: int

    @property
    def labels(self) -> dict[str, int]:
        """The number of photos per label."""
        return dict(sorted(Counter(label for _, label in self.rows).items()))

    def file_name(self, kind: Format) -> str:
        """Return the name under which a manifest is downloaded."""
        return f"{NAMES[self.split]}.{kind}"

    def encode(self, kind: Format) -> bytes:
        """Return the manifest as CSV (UTF-8, with a header line) or Parquet.

        Test photos have the split ``test``. Photos to train on have none: a run divides them like the others. In a CSV file, a
        label that a spreadsheet would take for a formula is written as elsewhere, with an apostrophe; Parquet has it as it is.
        """
        names = ["uri", "label"] + (["split"] if self.split == "test" else [])
        rows = [(*row, "test") if self.split == "test" else row for row in self.rows]
        if kind == "csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([[csv_cell(value) for value in row] for row in rows])
            return text.getvalue().encode()
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        table = pa.table([pa.array(column, pa.string()) for column in columns], names=names)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()


def manifest_of(submissions: Submissions, split: Split) -> Manifest:
    """Return the manifest of the reviewed photos of a split."""
    rows, left_out = [], 0
    for one in submissions.labelled():
        if (one.split or "train") != split or not label_of(one.reviewed_label or ""):
            continue
        if one.marked:
            rows.append((uri_of(submissions.photo_root, photo_key(one.id)), str(one.reviewed_label)))
        else:
            left_out += 1
    return Manifest(split, tuple(sorted(rows)), left_out)


def command_of(
    record: Mapping[str, Any] | None, *, manifest: str = "", photo_root: str = "", leave: Sequence[str] = ()
) -> str:
    """Return the command of the next run: that of the last one, with its options, and the manifest as another source.

    Parameters
    ----------
    record : mapping, optional
        Record of the last run; without it, ``PHOTOS`` and ``OUT`` stand for what only the owner knows.
    manifest : str
        File name of the manifest; empty for a run on the same photos.
    photo_root : str
        Where the photos of the manifest are stored.
    leave : sequence of str
        Options of the last run that are not repeated.
    """
    config = (record or {}).get("config") or {}
    sources = [one for one in config.get("sources") or ["PHOTOS"] if one != manifest]
    words = ["fruits", "run", *sources, *([manifest] if manifest else []), "--to", config.get("out") or "OUT"]
    for field in fields(RunConfig):
        value = config.get(field.name, field.default)
        if field.name in (*_NOT_REPEATED, *leave) or value in (field.default, None, []):
            continue
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        for one in values:
            words += [f"--{field.name.replace('_', '-')}", *([] if one is True else [_written(one)])]
    places = [*(config.get("allow_source") or []), *([photo_root] if manifest else [])]
    for place in dict.fromkeys(places):
        words += ["--allow-source", place]
    return " ".join(word if word in ("PHOTOS", "OUT") else shlex.quote(str(word)) for word in words)


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
