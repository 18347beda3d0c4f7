"""Body or multipart to photos, bounded in bytes, parts, fields and seconds.

What a client calls its files is not looked at. Bytes are counted as they come; whatever is over a limit ends the reading at
once. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
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


class Disconnected(Exception):
    """The client is gone: nobody is left to answer."""


@dataclass(slots=True)
class Upload:
    """What a request brought.

    Attributes
    ----------
    photos : list of bytes
    fields : dict
        Small fields of a multipart body by name; the first one counts.
    bytes_in : int
    """

    photos: list[bytes] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    bytes_in: int = 0


async def read_body(receive: Receive, headers: dict[bytes, bytes], config: ServiceConfig, most: int = 0) -> bytes:
    """Return a request's body.

    Raises
    ------
    Problem
        ``too_large``, ``slow`` or ``bad_request``.
    Disconnected
    """
    chunks: list[bytes] = []
    await _stream(receive, headers, config, chunks.append, most or config.max_bytes)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_upload(receive: Receive, headers: dict[bytes, bytes], config: ServiceConfig) -> Upload:
    """Return the photos of a request: its body, or the parts named ``photo`` of a multipart body.

    Raises
    ------
    Problem
        If something is over a limit or not what was expected.
    Disconnected
    """
    given = headers.get(b"content-type", b"application/octet-stream")
    kind, options = parse_options_header(given)
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= _MAX_BOUNDARY:
            raise Problem("bad_request", "multipart/form-data without a boundary")
        parts = _Parts(boundary, config)
        bytes_in = await _stream(receive, headers, config, parts.feed, config.max_bytes)
        upload = parts.finish()
        upload.bytes_in = bytes_in
        if not upload.photos:
            raise Problem("bad_request", "no field named photo", status=422)
        return upload
    if kind.decode("latin-1") not in PHOTO_TYPES:
        raise Problem("not_an_image")
    body = await read_body(receive, headers, config)
    return Upload([body], {}, len(body))


async def _stream(
    receive: Receive, headers: dict[bytes, bytes], config: ServiceConfig, take: Callable[[bytes], Any], most: int
) -> int:
    """Hand over the body piece by piece; return how many bytes it had."""
    announced = headers.get(b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > most:
        raise Problem("too_large")
    count = 0
    try:
        async with asyncio.timeout(config.send_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                if piece := message.get("body", b""):
                    count += len(piece)
                    if count > most:
                        raise Problem("too_large")
                    take(piece)
                if not message.get("more_body", False):
                    return count
    except TimeoutError as exc:
        raise Problem("slow") from exc


class _Parts:
    """A multipart body as it comes in."""

    def __init__(self, boundary: bytes, config: ServiceConfig) -> None:
        self._config = config
        self._upload = Upload()
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
            raise Problem("bad_request", "the multipart boundary cannot be used") from exc

    def feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except MultipartParseError as exc:
            raise Problem("bad_request", "the multipart body is damaged") from exc

    def finish(self) -> Upload:
        if not self._ended:
            raise Problem("bad_request", "the multipart body is cut short")
        return self._upload

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
            raise Problem("bad_request", "a part of the multipart body has no name")
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
