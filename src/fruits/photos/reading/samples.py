"""Samples of a catalogue's photos: typical size, share on white backgrounds, and thumbnails."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from queue import SimpleQueue
from typing import Final

import numpy as np

from fruits.errors import ImageDecodeError
from fruits.monitoring.cores import usable_cores
from fruits.photos.catalogue.builder import stable_hash
from fruits.photos.catalogue.consent import consent_of, mark
from fruits.photos.decoding.decoder import Decoder, own_decoder
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.reading.access import NO_LINKS, Access
from fruits.photos.reading.reading import THREADS, read_head, read_photo, read_photos
from fruits.storage.objects import is_remote
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.storage.tables.spool import Spool

_SIZES_READ: Final = 50
#: Enough for the header of nearly every photo. If a header is larger, such as one with a preview, the whole file is read.
_HEAD_BYTES: Final = 64 << 10
#: Detection of white backgrounds: photos sampled, size they are scaled to, width of the margin in pixels, least value that is
#: white, and share of the margin that must be white.
_BACKDROPS: Final = 48
_SMALL: Final = Preprocessing(64, "squash")
_MARGIN: Final = 4
_WHITE: Final = 225
_MOSTLY: Final = 0.7
_THUMBNAIL_SIDE: Final = 128
#: Thumbnails per decoder: starting a decoder takes as long as a hundred thumbnails of small photos, or a few of large ones.
_PHOTOS_PER_DECODER: Final = 200
#: Further decoders are started if the first is not done after this many seconds.
_ALONE_S: Final = 1.0


def typical_side(listed: CatalogueRows, access: Access = NO_LINKS) -> int | None:
    """Return the median short side, in pixels, of the source with the largest photos; None if none can be read.

    Reads the headers of a few photos per source, chosen by hash, so that the result does not depend on their order.
    """
    medians = []
    source = listed.coded["source"].codes
    for code in np.unique(source):
        rows = np.flatnonzero(source == code)
        step = max(1, len(rows) // (20 * _SIZES_READ))
        chosen = sorted(listed.uris(rows[::step]), key=_place)[:_SIZES_READ]
        sides = [min(size) for size in _sizes(chosen, access) if size]
        if sides:
            medians.append(int(np.median(sides)))
    return max(medians, default=None)


def thumbnail(uri: str, access: Access = NO_LINKS) -> bytes | None:
    """Return a small JPEG of a photo; None if it cannot be decoded, or its contributor did not consent to showing it."""
    try:
        data = read_photo(uri, access)
        consent = consent_of(data)
        return (
            None if consent is not None and not consent.may_show else own_decoder().to_thumbnail(data, _THUMBNAIL_SIDE)
        )
    except (OSError, ImageDecodeError):
        return None


def gallery_thumbnails(
    uris: Sequence[str], side: int, quality: int, access: Access = NO_LINKS
) -> Iterator[bytes | None]:
    """Yield a small JPEG for each photo; photos in buckets are read ahead, with one decoder per core.

    Yields None for a photo that cannot be decoded, or whose contributor did not consent to showing it. If the contributor did,
    the thumbnail carries the mark of the submission too, so that a service can check whether it was withdrawn.
    """
    workers = max(1, min(usable_cores(), len(uris) // _PHOTOS_PER_DECODER))
    started = time.monotonic()
    with ExitStack() as opened:
        free: SimpleQueue[Decoder] = SimpleQueue()
        free.put(own_decoder())
        others = [opened.enter_context(Decoder()) for _ in range(workers - 1)]  # each starts with its first photo

        def small(data: bytes | None) -> bytes | None:
            consent = None if data is None else consent_of(data)
            if data is None or (consent is not None and not consent.may_show):
                return None
            decoder = free.get()
            try:
                made = decoder.to_thumbnail(data, side, quality)
                return made if consent is None else mark(made, consent)
            except ImageDecodeError:
                return None
            finally:
                free.put(decoder)

        pool = opened.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="thumbnail"))
        coming: deque[Future[bytes | None]] = deque()
        for data, _ in read_photos(uris, access):
            coming.append(pool.submit(small, data))
            if others and time.monotonic() - started > _ALONE_S:
                free.put(others.pop())
            if len(coming) > 2 * workers:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def thumbnails(uris: Iterable[str], count: int, access: Access = NO_LINKS) -> list[bytes]:
    """Return small JPEGs of the first ``count`` photos that can be decoded."""
    return list(_shown(uris, count, access).values())


def _shown(uris: Iterable[str], count: int, access: Access) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for uri in uris:
        if len(found) == count:
            break
        if picture := thumbnail(uri, access):
            found[uri] = picture
    return found


def _explained(uri: str, label: str, explained: Callable[[bytes, str], bytes | None], access: Access) -> bytes | None:
    try:
        return explained(read_photo(uri, access), label)
    except (OSError, ImageDecodeError):
        return None


def example_photos(
    listed: CatalogueRows,
    wrong: Mapping[tuple[str, str], Sequence[str]],
    access: Access = NO_LINKS,
    *,
    explained: Callable[[bytes, str], bytes | None] | None = None,
    pairs: int = 12,
    labels: int = 200,
) -> dict[str, list[bytes]]:
    """Return thumbnails for a report.

    Parameters
    ----------
    listed : CatalogueRows
        The catalogue.
    wrong : mapping
        Uris of misclassified photos by (label, predicted), the most frequent pair first.
    access : Access
        Where links among the photos may lead.
    explained : callable, optional
        Returns a picture of what made a photo look like a label; None if that is not known.
    pairs, labels : int
        Number of pairs, and of labels, that get thumbnails.

    Returns
    -------
    dict
        Label to training photos of it; ``label NUL predicted`` to photos of the label that were predicted as the other;
        ``label NUL predicted NUL map`` to the pictures of ``explained`` of the same photos.
    """
    worst = list(wrong)[:pairs]
    several = {label for pair in worst for label in pair}
    names, training = listed.coded["label"], listed.coded["split"].having("train")
    found: dict[str, list[bytes]] = {}
    for code, name in enumerate(names.names):
        if name not in several and len(found) >= labels:
            continue
        rows = np.flatnonzero((names.codes == code) & training)
        count = 3 if name in several else 1
        # Spread over the label's photos: the first few are often frames of one sequence.
        spread = rows[np.linspace(0, len(rows) - 1, min(len(rows), 2 * count)).astype(int)] if len(rows) else rows
        chosen = [*spread[::2], *spread[1::2]]
        if photos := thumbnails(listed.uris(np.array(chosen, np.int64)), count, access):
            found[name] = photos
    for label, predicted in worst:
        key = f"{label}\0{predicted}"
        shown = _shown(wrong[label, predicted], 3, access)
        found[key] = list(shown.values())
        if explained and (pictures := [_explained(uri, predicted, explained, access) for uri in shown]):
            found[f"{key}\0map"] = [picture for picture in pictures if picture]
    return found


def _place(uri: str) -> int:
    """Return a hash of folder and name only, so that the choice does not depend on where the photos are stored."""
    return stable_hash("/".join(uri.split("/")[-2:]))


def _sizes(uris: Sequence[str], access: Access) -> list[tuple[int, int] | None]:
    if any(map(is_remote, uris)):
        with ThreadPoolExecutor(THREADS, thread_name_prefix="size") as pool:
            heads = list(pool.map(_head, uris, repeat(access)))
    else:
        heads = [_head(uri, access) for uri in uris]
    sizes: list[tuple[int, int] | None] = []
    for uri, head, size in zip(uris, heads, own_decoder().read_sizes(heads), strict=True):
        if not isinstance(size, ImageDecodeError):
            sizes.append(size)
        elif len(head) == _HEAD_BYTES and is_remote(uri):
            sizes.append(_size_of_all(uri))
        else:
            sizes.append(None)
    return sizes


def _head(uri: str, access: Access) -> bytes:
    """Return the first bytes of a photo, none if it cannot be read."""
    try:
        return read_head(uri, _HEAD_BYTES, access)
    except OSError:
        return b""


def _size_of_all(uri: str) -> tuple[int, int] | None:
    try:
        (size,) = own_decoder().read_sizes([read_photo(uri)])
    except OSError:
        return None
    return None if isinstance(size, ImageDecodeError) else size


def white_backdrops(texts: Spool, access: Access = NO_LINKS) -> tuple[int, int]:
    """Check the margins of a sample of photos; return how many were checked, and how many have a white background.

    The sample is spread evenly over the catalogue, of which ``texts`` has the uris. Photos that cannot be decoded are skipped.
    """
    step = max(1, texts.num_rows // _BACKDROPS)
    looked = white = 0
    for uri in texts.take(np.arange(0, texts.num_rows, step)[:_BACKDROPS], ["uri"])["uri"].to_pylist():
        try:
            pixels = own_decoder().to_network_input(read_photo(uri, access), _SMALL).pixels
        except (OSError, ImageDecodeError):
            continue
        margin = np.ones(pixels.shape[:2], bool)
        margin[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = False
        looked += 1
        white += bool((pixels[margin].min(axis=1) >= _WHITE).mean() >= _MOSTLY)
    return looked, white
