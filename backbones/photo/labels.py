"""Wrong labels among the web photos, found as ``fruits audit`` does, on embeddings of a made network.

Photos that show something else than their label says teach the network that: ``wrong_labels.txt`` lists the clearest ones by uri,
and training leaves them out. People's own photos and those of the two published sets are not checked.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from data import WRONG_LABELS, Photo
from recogniser import Embedded

from fruits.learning.label_errors import find_label_errors
from fruits.learning.moments import Moments
from fruits.learning.pca import PCA

COMPONENTS = 256
#: A listed photo's own label has at most this probability, and the suggested one at least that.
MOST_GIVEN, LEAST_SUGGESTED = 0.05, 0.6
#: Kinds that are told apart by name more than by look: such a suggestion is no proof.
SIMILAR_KINDS = (
    {"orange", "mandarin", "kumquat", "tangelo"},
    {"grapefruit", "pomelo", "orange", "sweetie"},
    {"lemon", "lime"},
    {"peach", "nectarine", "apricot", "plum"},
    {"passion-fruit", "granadilla"},
    {"blueberry", "huckleberry", "blackcurrant"},
    {"blackberry", "mulberry", "raspberry"},
    {"cherry", "cranberry", "redcurrant"},
    {"lychee", "longan", "rambutan"},
    {"pepper", "chilli-pepper"},
    {"cucumber", "courgette"},
    {"melon", "watermelon", "pumpkin"},
    {"cabbage", "lettuce", "cauliflower", "broccoli"},
    {"apple", "pear"},
)


def find(seen: Embedded) -> list[tuple[Photo, str]]:
    """Return web photos with what they show instead, the clearest first."""
    at = np.flatnonzero([photo.source.split("-")[0] in ("own", "web", "orchard") for photo in seen.photos])
    photos = [seen.photos[i] for i in at]
    kinds = sorted({photo.kind for photo in photos})
    labels = np.array([kinds.index(photo.kind) for photo in photos])
    pca = PCA.from_moments(Moments.from_rows(seen.vectors[at]))
    features = pca.transform(seen.vectors[at], COMPONENTS)
    _, same = np.unique(seen.vectors[at], axis=0, return_inverse=True)  # copies confirm each other's label
    errors = find_label_errors(features, labels, same.ravel())
    found = []
    for row, suggested, given, likely in zip(
        errors.rows, errors.suggested, errors.given_probability, errors.suggested_probability, strict=True
    ):
        photo, other = photos[row], kinds[suggested]
        are_similar = any({photo.kind, other} <= group for group in SIMILAR_KINDS)
        if photo.source.startswith("web-") and given <= MOST_GIVEN and likely >= LEAST_SUGGESTED and not are_similar:
            found.append((photo, other))
    return found


def write(found: list[tuple[Photo, str]]) -> None:
    """Write the list, and print how many photos of each source are on it."""
    lines = sorted(f"{photo.uri} {other}" for photo, other in found)
    head = (
        "# Web photos that show something else than their label says, as found by 'backbones/photo labels': uri in the\n"
        "# manifest, and what they seem to show. Training leaves them out.\n"
    )
    WRONG_LABELS.write_text(head + "".join(f"{line}\n" for line in lines), "utf-8")
    counts = Counter(photo.source for photo, _ in found)
    print(f"{len(found)} photos:", ", ".join(f"{source} {n}" for source, n in sorted(counts.items())))
