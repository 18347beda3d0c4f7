"""The test set of visitors' photos: which reviewed photos belong to it.

One reviewed photo in five, by a hash of its random id. It is settled at the first review and never changes: a photo of the test
set is in no export and in no manifest for training, and one that may have been trained on never gets into the test set.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

#: Of so many reviewed photos, one is a test photo.
ONE_IN: Final = 5
Split = Literal["train", "test"]


def split_of(submission_id: str) -> Split:
    """Return the split of a photo by its id."""
    digest = hashlib.sha256(b"fruits test set " + submission_id.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % ONE_IN == 0 else "train"
