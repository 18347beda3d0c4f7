"""Reading of uploads: raw or multipart bodies to photos, with limits on bytes, parts, fields and seconds.

File names and declared types are ignored: the first bytes of a body show whether it is a form. Bytes are counted as they arrive;
exceeding a limit ends the reading at once. Photos are not decoded; only their first bytes are examined.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from fruits.messages import translations
from fruits.service.http.errors import HttpError, over
from fruits.service.settings import ServiceConfig

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: Usual content types of a photo sent as the body; others are accepted, since the bytes decide.
PHOTO_TYPES: Final = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
#: First bytes of image files.
_IMAGE: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*|....ftyp|\0\0\0\x0cj|\xff\x0a", re.DOTALL
)
#: First bytes of a form: a boundary, and the header of the first part.
_FORM: Final = re.compile(rb"--([^\r\n]{1,200})\r\n(?=content-)", re.IGNORECASE)
#: Bytes that suffice to tell a form from a photo.
_ENOUGH: Final = 512
#: Bytes read of a form that is too large, to report an error in its first part.
_PEEKED: Final = 8192
#: Field names that may be repeated in an error message; others may contain anything.
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_.\-\[\]]{1,40}")
_NAMES_TOLD: Final = 5
_MAX_FIELD_BYTES: Final = 1000
_CHOICES: Final = (b"keep", b"show", b"explain", b"regions", b"box", b"again", b"lang")
_MAX_PART_HEAD_BYTES: Final = 4096
_MAX_BOUNDARY: Final = 200


class GoneError(Exception):
    """The client has disconnected."""


class Budget:
    """Memory budget, in bytes, for the uploads of all requests together.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, count: int) -> None:
        """Reserve bytes, or raise ``busy``."""
        if self.taken + count > self.most:
            raise HttpError("busy")
        self.taken += count


class Upload:
    """Content of a request.

    Attributes
    ----------
    photos : list of bytes
    fields : dict
        Small fields of a multipart body by name; of several with one name, the first.
    bytes_in : int
    count : int
        Number of photos received.
    """

    def __init__(self, budget: Budget) -> None:
        self.photos: list[bytes] = []
        self.fields: dict[str, str] = {}
        self.bytes_in = self.count = 0
        self._budget = budget

    def take(self, count: int) -> None:
        """Count received bytes."""
        self._budget.take(count)
        self.bytes_in += count

    def close(self) -> None:
        """Release the reserved bytes."""
        self._budget.taken -= self.bytes_in


async def read_body(receive: Receive, headers: dict[bytes, bytes], most: int, seconds: float) -> bytes:
    """Return a request's body.

    Raises
    ------
    HttpError
        ``too_large`` or ``slow``.
    GoneError
    """
    chunks: list[bytes] = []
    if _announced(headers) > most:
        raise _too_long_a_body(most)
    try:
        await _stream(receive, chunks.append, most, seconds)
    except _TooLongError:
        raise _too_long_a_body(most) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_upload(upload: Upload, receive: Receive, headers: dict[bytes, bytes], config: ServiceConfig) -> None:
    """Read the photos of a request: its body, or the parts named ``photo`` of a multipart body.

    Raises
    ------
    HttpError
        If a limit is exceeded or the body is malformed.
    GoneError
    """
    body = _Body(upload, config, headers.get(b"content-type", b""))
    too_large = _announced(headers) > config.max_bytes
    if too_large and not body.is_declared:
        raise _too_many_bytes(config.max_bytes)
    try:
        await _stream(receive, body.take, _PEEKED if too_large else config.max_bytes, config.send_timeout)
    except _TooLongError:
        # A misnamed field is reported as such rather than as too large: a smaller one would fail, too.
        raise body.missing_photo() or _too_many_bytes(config.max_bytes) from None
    body.finish()
    upload.count = len(upload.photos)


def _too_long_a_body(most: int) -> HttpError:
    return over(most, "body_at_address")


def _announced(headers: dict[bytes, bytes]) -> int:
    given = headers.get(b"content-length", b"")
    return int(given) if given.isdigit() else 0


def _too_many_bytes(most: int) -> HttpError:
    return over(most, "body")


class _Body:
    """Incremental reader of a body: a photo, or a form with photos, told apart by the first bytes."""

    def __init__(self, upload: Upload, config: ServiceConfig, declared: bytes) -> None:
        kind, options = parse_options_header(declared or b"application/octet-stream")
        #: Whether the content type declares a form.
        self.is_declared = kind == b"multipart/form-data"
        self._boundary = options.get(b"boundary", b"") if self.is_declared else b""
        self._upload, self._config = upload, config
        self._chunks: list[bytes] = []
        self._size = 0
        self._parts: _Parts | None = None
        self._known = False

    def take(self, piece: bytes) -> None:
        self._upload.take(len(piece))
        if self._parts is not None:
            self._parts.feed(piece)
            return
        self._chunks.append(piece)
        self._size += len(piece)
        if not self._known and self._size >= _ENOUGH:
            self._look()

    def finish(self) -> None:
        """Process the complete body."""
        if not self._known:
            self._look()
        if self._parts is None:
            self._upload.photos.append(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))
            return
        self._parts.finish()
        if problem := self.missing_photo():
            raise problem

    def missing_photo(self) -> HttpError | None:
        """Return the error of a form without a photo, which lists the received fields; None if it has one."""
        if not self._known:
            self._look()
        return self._parts.missing_photo() if self._parts is not None else None

    def _look(self) -> None:
        self._known = True
        start = b"".join(self._chunks)
        found = _FORM.match(start)
        if _IMAGE.match(start) and not found:
            return
        if not self.is_declared and not found:
            return
        boundary = self._boundary
        if found and not (boundary and start.startswith(b"--" + boundary)):
            boundary = found[1].rstrip(b" \t")
        if not 0 < len(boundary) <= _MAX_BOUNDARY:
            raise HttpError("bad_request", translations("detail.no_boundary"))
        self._parts = _Parts(boundary, self._config, self._upload)
        self._chunks.clear()
        self._parts.feed(start)


class _TooLongError(Exception):
    """The body exceeds its limit."""


async def _stream(receive: Receive, take: Callable[[bytes], Any], most: int, seconds: float) -> None:
    """Pass the body on piece by piece, up to its limit."""
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
                        take(piece[: len(piece) - (count - most)])
                        raise _TooLongError
                    take(piece)
                if not message.get("more_body", False):
                    return
    except TimeoutError as exc:
        raise HttpError("slow") from exc


class _Parts:
    """Incremental reader of a multipart body."""

    def __init__(self, boundary: bytes, config: ServiceConfig, upload: Upload) -> None:
        self._config, self._upload = config, upload
        self._name: bytes | None = None
        self._is_file = False
        self._data = bytearray()
        self._head_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._parts, self._ended = 0, False
        self._others: list[bytes] = []
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
            raise HttpError("bad_request", translations("detail.bad_boundary")) from exc

    def feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except MultipartParseError as exc:
            raise HttpError("bad_request", translations("detail.multipart_damaged")) from exc

    def finish(self) -> None:
        if not self._ended:
            raise HttpError("bad_request", translations("detail.multipart_short"))

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > (most := self._config.max_photos + self._config.max_fields):
            raise over(most, "parts", code="too_many_parts")
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
            raise over(_MAX_PART_HEAD_BYTES, "part_head")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name")
        self._is_file = self._name == b"photo"
        if self._name is None:
            raise HttpError("bad_request", translations("detail.part_without_name"))
        if self._is_file:
            if len(self._upload.photos) >= self._config.max_photos:
                raise over(self._config.max_photos, "photos", code="too_many_parts")
            return
        self._others.append(self._name)
        if len(self._others) > self._config.max_fields:
            raise over(self._config.max_fields, "fields", code="too_many_parts")

    def missing_photo(self) -> HttpError | None:
        """Return the error of a form without a photo; None if it has one."""
        if self._upload.photos or self._is_file:
            return None
        listed = [name.decode() if _PLAIN.fullmatch(name) else "…" for name in dict.fromkeys(self._others)]
        found = ", ".join([*listed[:_NAMES_TOLD], *(["…"] if len(listed) > _NAMES_TOLD else [])])
        detail = translations("detail.no_photo_but", found=found) if found else translations("detail.no_photo")
        return HttpError("bad_request", detail, status=422)

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._data += data[start:end]
        else:  # store at most 1001 bytes of a field: enough to detect that it is too long
            self._data += data[start : min(end, start + _MAX_FIELD_BYTES + 1 - len(self._data))]
            if len(self._data) > _MAX_FIELD_BYTES and self._name in _CHOICES:
                raise over(_MAX_FIELD_BYTES, "field", name=self._name.decode())

    def _end_part(self) -> None:
        if self._is_file:
            self._upload.photos.append(bytes(self._data))
        elif self._name is not None:
            name = self._name.decode("utf-8", "replace")[:100]
            self._upload.fields.setdefault(name, self._data.decode("utf-8", "replace"))
        self._data = bytearray()

    def _end(self) -> None:
        self._ended = True
