"""Six pictures of generated fruit for the service's page, to try it without a photo: rendered, so nobody's.

``python -m fruits.photos.generated.samples FOLDER`` writes them; the ones that ship lie in ``service/pages/samples``. They are
chosen so that the recogniser of the package gives every sort of answer: a kind for sure, a probable one, several, none.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image

from fruits.photos.generated.generator import VARIETIES, photo

_SIDE: Final = 224
_QUALITY: Final = 75
_SEED: Final = 3
#: Name of the file -> label of the variety, frame on the turntable.
SAMPLES: Final = {
    "1": ("Apfelino Red 1", 10),
    "2": ("Cherrine Dark", 120),
    "3": ("Tomatelle Round", 220),
    "4": ("Sunglobe Orange", 120),
    "5": ("Pitberry Red", 10),
    "6": ("Melonette Striped", 120),
}


def sample(name: str) -> bytes:
    """Return one of the pictures as JPEG.

    Parameters
    ----------
    name : str
        One of ``SAMPLES``.
    """
    label, frame = SAMPLES[name]
    (variety,) = [one for one in VARIETIES if one.name == label]
    out = BytesIO()
    Image.fromarray(photo(variety, "", frame, seed=_SEED, size=_SIDE)).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def write(folder: Path) -> None:
    """Write all of them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SAMPLES:
        (folder / f"{name}.jpg").write_bytes(sample(name))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
