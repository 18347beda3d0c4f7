"""Photos passed to the Python API (paths, bytes, PIL images, arrays; one or many) as pixels for a network.

Bytes and files are decoded in the sandboxed decoder. Images and arrays in memory are fitted here, in the same way. A photo that
cannot be read or decoded gives an error in its place and does not stop the others. Independent of networks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from fruits.errors import ImageDecodeError, PhotoTypeError, StoreError
from fruits.photos.decoding.decoder import Decoding, Size, own_decoder
from fruits.photos.decoding.images import Photo, Preprocessing, from_image
from fruits.photos.reading.containers import is_contained
from fruits.photos.reading.reading import read_photo
from fruits.storage.disk.local import MAX_PHOTO_BYTES, RefusedError, read_named
from fruits.storage.objects import AbsentError, is_remote
from fruits.storage.sanitising import printable

#: One photo: a path or ``s3://bucket/key``, the bytes of a file, a PIL image, or uint8 pixels of shape (height, width) for grey,
#: (height, width, 3) for RGB or (height, width, 4) for RGB with alpha.
PhotoLike: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]

#: Most bytes of files in one batch of decoding; one larger file is a batch of its own.
_MAX_BATCH_BYTES: Final = 32 << 20
_EXPECTED: Final = "a path, the bytes of a file, a PIL image or a uint8 array of shape (height, width[, 3 or 4])"
_CHANNELS: Final = (3, 4)


class UnreadableError(StoreError):
    """A photo given by name cannot be read.

    Parameters
    ----------
    name : str
        Path or uri of the photo.
    reason : str
        Why it cannot be read.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"photo '{printable(name)}' cannot be read: {reason}")
        self.name, self.reason = name, reason


#: Why a photo has no pixels.
Fault: TypeAlias = ImageDecodeError | StoreError


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive photos of the input, decoded.

    Attributes
    ----------
    n : int
        Number of photos.
    ok : list of int, length m
        Positions, from 0, of the photos that have pixels.
    pixels : uint8 array, shape (m, size, size, 3)
    sizes : list of Size, length m
        Original sizes of the upright photos.
    faults : dict of int to error
        Position to error, for the photos without pixels.
    """

    n: int
    ok: list[int]
    pixels: NDArray[np.uint8]
    sizes: list[Size]
    faults: dict[int, Fault]


def is_one(photos: object) -> bool:
    """Return whether this is one photo, rather than several: a list, an array of four axes or of names, a table column.

    Open files and mappings count as one, and are refused as such, rather than read as lines or keys.
    """
    if isinstance(photos, Mapping) or hasattr(photos, "read"):
        return True
    if isinstance(photos, np.ndarray):
        return photos.dtype.kind not in "OUS" and photos.ndim < 4
    return isinstance(photos, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or not hasattr(
        photos, "__iter__"
    )


def each(photos: Any) -> Iterator[PhotoLike]:
    """Yield the photos of a collection, one for which :func:`is_one` is false; of a table of one column, the rows.

    Raises
    ------
    PhotoTypeError
        If the collection is a table of several columns.
    """
    shape = getattr(photos, "shape", None)
    if isinstance(shape, tuple) and len(shape) == 2:  # a table, or an array of names
        if shape[1] != 1:
            raise PhotoTypeError(f"a table of shape {shape}; expected photos: one column of paths, or a list")
        photos = np.asarray(photos, object)[:, 0]
    yield from photos.to_pylist() if hasattr(photos, "to_pylist") else photos


def decoded(photos: Iterable[PhotoLike], preprocessing: Preprocessing, *, batch_size: int) -> Iterator[Batch]:
    """Yield batches of pixels, decoding the next batch while the caller uses the present one.

    Parameters
    ----------
    photos : iterable of photo
        See :data:`PhotoLike`.
    preprocessing : Preprocessing
    batch_size : int
        Photos per batch at most. The results do not depend on it.

    Raises
    ------
    PhotoTypeError
        If an item is of a type that is no photo.
    EngineError
        If the decoder cannot be started.
    """
    own_decoder().start()  # its imports run while the first photos are read
    source = iter(photos)
    begun: _PendingBatch | None = None
    try:
        for first in source:
            following = _PendingBatch(chain([first], source), preprocessing, batch_size)
            if begun is not None:
                done, begun = begun, following
                yield done.finish()
            begun = following
        if begun is not None:
            yield begun.finish()
    finally:
        if begun is not None:
            begun.decoding.release()


def as_status(fault: Fault) -> tuple[Literal["rejected", "failed"], str]:
    """Return the status and reason of a fault for the tables: ``rejected`` (permanent) or ``failed`` (may work next time)."""
    if isinstance(fault, ImageDecodeError | RefusedError):
        return "rejected", f"{fault.code}: {fault}"
    return "failed", f"unreadable: {fault.reason if isinstance(fault, UnreadableError) else fault}"


@dataclass(slots=True)
class _PendingBatch:
    """A batch submitted to the decoder."""

    source: Iterator[PhotoLike]
    preprocessing: Preprocessing
    batch_size: int
    n: int = 0
    faults: dict[int, Fault] = field(default_factory=dict)
    fitted: dict[int, Photo] = field(default_factory=dict)
    given: list[int] = field(default_factory=list)
    decoding: Decoding = field(init=False)

    def __post_init__(self) -> None:
        files: list[bytes] = []
        held = 0
        for photo in self.source:
            row, self.n = self.n, self.n + 1
            try:
                found = _content(photo)
                if isinstance(found, bytes):
                    files.append(found)
                    self.given.append(row)
                    held += len(found)
                else:
                    self.fitted[row] = from_image(found, self.preprocessing)
            except (ImageDecodeError, StoreError) as exc:
                self.faults[row] = exc
            if self.n == self.batch_size or held >= _MAX_BATCH_BYTES:
                break
        self.decoding = own_decoder().begin(files, self.preprocessing)

    def finish(self) -> Batch:
        """Wait for the decoder and assemble the batch."""
        size = self.preprocessing.size
        sizes = {row: Size(photo.width, photo.height) for row, photo in self.fitted.items()}
        with self.decoding as decoding:
            for row, outcome in zip(self.given, decoding.outcomes(), strict=True):
                if isinstance(outcome, ImageDecodeError):
                    self.faults[row] = outcome
                else:
                    sizes[row] = outcome
            ok = sorted(sizes)
            pixels = np.empty((len(ok), size, size, 3), np.uint8)
            from_files = iter(decoding.pixels(size))
            for place, row in enumerate(ok):
                pixels[place] = self.fitted[row].pixels if row in self.fitted else next(from_files)
        return Batch(self.n, ok, pixels, [sizes[row] for row in ok], self.faults)


def _content(photo: PhotoLike) -> bytes | Image.Image:
    """Return the bytes of a photo's file, or the image if it is in memory already.

    Raises
    ------
    ImageDecodeError, StoreError
        If it cannot be read, or is no photo.
    PhotoTypeError
        If it is of a type that is no photo.
    """
    if isinstance(photo, np.ndarray):
        return _from_array(photo)
    if isinstance(photo, Image.Image):
        data = _unread(photo)
        return photo if data is None else data
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    if isinstance(photo, str | os.PathLike):
        return _read(os.fspath(photo))
    raise PhotoTypeError(f"{type(photo).__name__} given as a photo; expected {_EXPECTED}")


def _read(name: str) -> bytes:
    """Read a photo given by the user, following links; on disk, in a pack or in a bucket."""
    if name.lower().startswith(("http://", "https://")):
        raise UnreadableError(name, "a web address; expected a file: download the photo first")
    try:
        if is_remote(name) or is_contained(name):
            return read_photo(name)
        return read_named(name, MAX_PHOTO_BYTES)
    except (RefusedError, AbsentError):
        raise
    except IsADirectoryError as exc:
        raise UnreadableError(name, f"a folder; expected a photo, such as {name}/*.jpg") from exc
    except (OSError, ValueError) as exc:  # ValueError: a null byte
        raise UnreadableError(name, getattr(exc, "strerror", None) or str(exc)) from exc


def _from_array(pixels: NDArray[Any]) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in _CHANNELS)):
        raise ImageDecodeError(
            "not an image",
            f"an array of {pixels.dtype}, shape {pixels.shape}; expected uint8 from 0 to 255, shape (height, width[, 3 or 4])",
        )
    if not pixels.size:
        raise ImageDecodeError("empty", f"an array of shape {pixels.shape}; expected some pixels")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _unread(image: Image.Image) -> bytes | None:
    """Return the file's bytes of an image that Pillow has not decoded yet, so that the sandbox decodes or refuses them.

    Whether an image is decoded shows in ``_im`` alone: plugins such as those of WebP and HEIF have no tiles.

    Raises
    ------
    ImageDecodeError
        If the bytes cannot be had: Pillow would decode the image in this process.
    """
    if not isinstance(image, ImageFile.ImageFile) or getattr(image, "_im", None) is not None:
        return None
    frame = image.tell() if image.fp is not None else 0
    if frame:
        raise ImageDecodeError(
            "unsupported format",
            f"frame {frame} of an animation that is not loaded; call load() first, or give its file",
        )
    try:
        if image.fp is None:
            raise ValueError("its file is closed")
        place = image.fp.tell()
        image.fp.seek(0)
        data: bytes = image.fp.read(MAX_PHOTO_BYTES + 1)
        image.fp.seek(place)
    except (OSError, ValueError) as exc:
        raise ImageDecodeError("unreadable", f"an image that is not loaded, of which {exc}; give its file") from exc
    return data
