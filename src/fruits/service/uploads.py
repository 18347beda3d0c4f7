"""Body or multipart to photos, bounded in bytes, parts, fields and seconds.

What a client calls its files is not looked at. Bytes are counted as they come; whatever is over a limit ends the reading at
once. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from fruits.service.problems import Problem
from fruits.service.settings import ServiceConfig

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: What a photo sent as the body itself may be called; its bytes decide.
PHOTO_TYPES: Final = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
_MAX_FIELD_BYTES: Final = 1000
_MAX_PART_HEAD_BYTES: Final = 4096
_MAX_BOUNDARY: Final = 200


class GoneError(Exception):
    """The client is gone: nobody is left to answer."""


class Budget:
    """Bytes of uploads that all requests together may hold.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, count: int) -> None:
        """Take some, or raise ``busy``."""
        if self.taken + count > self.most:
            raise Problem("busy")
        self.taken += count


class Upload:
    """What a request brought.

    Attributes
    ----------
    photos : list of bytes
    fields : dict
        Small fields of a multipart body by name; the first one counts.
    bytes_in : int
    count : int
        How many photos there were.
    """

    def __init__(self, budget: Budget) -> None:
        self.photos: list[bytes] = []
        self.fields: dict[str, str] = {}
        self.bytes_in = self.count = 0
        self._budget = budget

    def take(self, count: int) -> None:
        """Count bytes that came in."""
        self._budget.take(count)
        self.bytes_in += count

    def close(self) -> None:
        """Let others have the room."""
        self._budget.taken -= self.bytes_in


async def read_body(receive: Receive, headers: dict[bytes, bytes], most: int, seconds: float) -> bytes:
    """Return a request's body.

    Raises
    ------
    Problem
        ``too_large`` or ``slow``.
    GoneError
    """
    chunks: list[bytes] = []
    await _stream(receive, headers, chunks.append, most, seconds)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_upload(upload: Upload, receive: Receive, headers: dict[bytes, bytes], config: ServiceConfig) -> None:
    """Read the photos of a request: its body, or the parts named ``photo`` of a multipart body.

    Raises
    ------
    Problem
        If something is over a limit or not what was expected.
    GoneError
    """
    kind, options = parse_options_header(headers.get(b"content-type", b"application/octet-stream"))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= _MAX_BOUNDARY:
            raise Problem(
                "bad_request", ("multipart/form-data without a boundary", "multipart/form-data sans « boundary »")
            )
        parts = _Parts(boundary, config, upload)

        def take(piece: bytes) -> None:
            upload.take(len(piece))
            parts.feed(piece)

        await _stream(receive, headers, take, config.max_bytes, config.send_s)
        parts.finish()
        if not upload.photos:
            raise Problem("bad_request", ("no field named photo", "aucun champ nommé photo"), status=422)
    else:
        if kind.decode("latin-1") not in PHOTO_TYPES:
            raise Problem("not_an_image", ("the Content-Type says so", "d'après le Content-Type"))
        chunks: list[bytes] = []

        def keep(piece: bytes) -> None:
            upload.take(len(piece))
            chunks.append(piece)

        await _stream(receive, headers, keep, config.max_bytes, config.send_s)
        upload.photos.append(chunks[0] if len(chunks) == 1 else b"".join(chunks))
    upload.count = len(upload.photos)


async def _stream(
    receive: Receive, headers: dict[bytes, bytes], take: Callable[[bytes], Any], most: int, seconds: float
) -> None:
    """Hand over the body piece by piece."""
    announced = headers.get(b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > most:
        raise Problem("too_large")
    count = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                if piece := message.get("body", b""):
                    count += len(piece)
                    if count > most:
                        raise Problem("too_large")
                    take(piece)
                if not message.get("more_body", False):
                    return
    except TimeoutError as exc:
        raise Problem("slow") from exc


class _Parts:
    """A multipart body as it comes in."""

    def __init__(self, boundary: bytes, config: ServiceConfig, upload: Upload) -> None:
        self._config, self._upload = config, upload
        self._name: bytes | None = None
        self._is_file = False
        self._data = bytearray()
        self._head_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._parts, self._ended = 0, False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_part_data": self._take,
                    "on_part_end": self._end_part,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_end": self._end,
                },
            )
        except MultipartParseError as exc:
            raise Problem("bad_request", ("the boundary cannot be used", "« boundary » inutilisable")) from exc

    def feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except MultipartParseError as exc:
            raise Problem("bad_request", ("the multipart body is damaged", "corps multipart endommagé")) from exc

    def finish(self) -> None:
        if not self._ended:
            raise Problem("bad_request", ("the multipart body is cut short", "corps multipart incomplet"))

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._config.max_photos + self._config.max_fields:
            raise Problem("too_many_parts")
        self._data = bytearray()
        self._disposition, self._head_bytes, self._name, self._is_file = b"", 0, None, False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._value += data[start:end]

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MAX_PART_HEAD_BYTES:
            raise Problem("too_large")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name")
        self._is_file = self._name == b"photo"
        if self._name is None:
            raise Problem("bad_request", ("a part of the body has no name", "une partie du corps n'a pas de nom"))
        photos, fields = len(self._upload.photos), len(self._upload.fields)
        if (self._is_file and photos >= self._config.max_photos) or (
            not self._is_file and fields >= self._config.max_fields
        ):
            raise Problem("too_many_parts")

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        if not self._is_file and len(self._data) > _MAX_FIELD_BYTES:
            raise Problem("too_large")

    def _end_part(self) -> None:
        if self._is_file:
            self._upload.photos.append(bytes(self._data))
        elif self._name is not None:
            name = self._name.decode("utf-8", "replace")[:100]
            self._upload.fields.setdefault(name, self._data.decode("utf-8", "replace"))
        self._data = bytearray()

    def _end(self) -> None:
        self._ended = True
