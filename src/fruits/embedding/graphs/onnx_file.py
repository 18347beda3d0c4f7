"""External data of ONNX files: detecting it, refusing it, and including it from files beside the network.

ONNX tensors may store their values in other files, named by the network, and so may cached compilations (``EPContext``). ONNX
Runtime opens any file that a network names, so an untrusted network must name none. This module parses protobuf's wire format
itself: neither ``onnx`` (half a second of imports) nor ONNX Runtime reads a network before it is checked. Independent of what
networks compute.

References
----------
onnx.proto (fields by number), and protobuf's "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from fruits.errors import BackboneError, command, option
from fruits.storage.disk.local import RefusedFileError, opened_regular, plain_parts, read_exactly, read_plain
from fruits.storage.sanitising import printable

#: Largest file of protobuf, and so of ONNX.
MAX_BYTES: Final = (1 << 31) - 1
#: Most nested messages, as in protobuf itself.
_DEEPEST: Final = 100

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5

#: Message type to its fields that contain tensors or nodes, with the types of the fields. A test compares it with onnx.proto.
TREE: Final[dict[str, dict[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}  # fmt: skip
_OP_TYPE = 4
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
#: ``TensorProto.DataType`` to bits per element; strings cannot be external data.
_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16, 17: 8, 18: 8,
    19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2, 27: 6, 28: 6,
}  # fmt: skip


class NotOnnxError(ValueError):
    """The bytes are no valid ONNX file; the message gives the reason."""


class Outside(NamedTuple):
    """External data of a tensor.

    Attributes
    ----------
    tensor : str
        Name of the tensor.
    location : str
        Name of the file, as in the network.
    offset : int
    length : int or None
        In bytes; None: to the end of the file.
    expected : int
        Bytes needed by the tensor's shape and type.
    """

    tensor: str
    location: str
    offset: int
    length: int | None
    expected: int


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    value: int
    end: int


def refuse_outside(data: bytes, name: str) -> None:
    """Refuse a network with external data.

    Raises
    ------
    BackboneError
        If it is no ONNX file, or names another file anywhere: in a weight, an attribute, a subgraph or a function.
    """
    found: list[str] = []
    _walked(data, name, lambda message: found.append(_location(message)))
    if found:
        raise BackboneError(
            f"'{name}' keeps weights in other files ('{printable(found[0][:100])}'), which is refused here; save it as one file, "
            f"or give {command('run')} the ONNX file itself with {option('backbone')}: it takes the file beside it in"
        )


def named_files(data: bytes, name: str) -> list[str]:
    """Return the relative names of the files with a network's external data, each once.

    Raises
    ------
    BackboneError
        If it is no ONNX file, or a name leads out of its folder.
    """
    found: list[str] = []
    _walked(data, name, lambda message: found.append(_location(message)))
    for location in found:
        try:
            plain_parts(location)
        except RefusedFileError as exc:
            raise BackboneError(_not_beside(Path(name), location, exc)) from exc
    return list(dict.fromkeys(found))


def whole_file(path: Path) -> tuple[bytes, bytes]:
    """Return the bytes of an ONNX file unchanged, and with its external data included.

    Only regular files in the same folder or below it are read, never through a link or ``..``; at most 2 GB in total.

    Raises
    ------
    OSError
        If the file itself cannot be read.
    BackboneError
        If it is no ONNX file, or a file that it names is missing or refused.
    """
    data = read_plain(path, MAX_BYTES, follow=True)
    with ExitStack() as stack:
        opened: dict[str, tuple[int, int]] = {}

        def located(message: memoryview) -> tuple[int, int, int]:
            """Return file descriptor, offset and length of the external data of a tensor."""
            outside = _outside(message)
            try:
                if outside.location not in opened:
                    parts = plain_parts(outside.location)
                    opened[outside.location] = stack.enter_context(opened_regular(path.parent, parts))
                descriptor, size = opened[outside.location]
                return descriptor, outside.offset, _length(outside, size)
            except OSError as exc:
                raise BackboneError(_not_beside(path, outside.location, exc)) from exc

        # Check the total size before reading: a small file may name the same gigabyte many times.
        lengths: list[int] = []
        _walked(data, path.name, lambda message: lengths.append(located(message)[2]))
        if len(data) + sum(lengths) > MAX_BYTES:
            raise BackboneError(
                f"'{path.name}' and what it keeps in other files are {len(data) + sum(lengths):,} bytes; expected at most "
                f"{MAX_BYTES:,}: take a smaller network"
            )
        return data, _walked(data, path.name, lambda message: _taken_in(message, *located(message)))


def _length(outside: Outside, size: int) -> int:
    """Return the length of a tensor's external data in a file of ``size`` bytes; raise unless it fits file and tensor."""
    length = size - outside.offset if outside.length is None else outside.length
    shown = printable(outside.tensor[:100])
    if not 0 <= outside.offset <= outside.offset + length <= size:
        raise RefusedFileError(
            f"'{shown}' is to lie at bytes {outside.offset:,} to {outside.offset + length:,} of {size:,}"
        )
    if length != outside.expected:
        raise RefusedFileError(f"'{shown}' has {length:,} bytes there; expected {outside.expected:,}")
    return length


def _taken_in(tensor: memoryview, descriptor: int, offset: int, length: int) -> bytes:
    """Return a tensor with its external data included."""
    kept = [
        tensor[field.start : field.end]
        for field in _fields(tensor)
        if field.number not in (_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION)
    ]
    return b"".join(kept) + _chunk(_RAW_DATA, read_exactly(descriptor, offset, length))


def _not_beside(path: Path, location: str, exc: OSError) -> str:
    shown = printable(location[:200])
    if isinstance(exc, FileNotFoundError):
        return (
            f"'{path.name}' keeps weights in '{shown}', which is not beside it; fetch that file, too, or save the network as "
            "one file"
        )
    return (
        f"'{path.name}' keeps weights in '{shown}', which is not read ({exc.strerror}); expected a whole, regular file in the "
        "folder of the network: put it there, or save the network as one file"
    )


def _walked(data: bytes, name: str, found: Callable[[memoryview], Any]) -> bytes:
    """Call ``found`` with every tensor that has external data; return the file with the tensors replaced by its results."""
    if data[4:8] == b"ORTM":
        raise BackboneError(f"'{name}' is in ONNX Runtime's own format; expected ONNX: convert it from its source")
    try:
        changed = _changed(memoryview(data), "ModelProto", found, 0)
    except NotOnnxError as exc:
        raise BackboneError(f"'{name}' is not a whole ONNX file ({exc}); fetch it again") from exc
    return data if changed is None else changed


def _changed(message: memoryview, kind: str, found: Callable[[memoryview], Any], depth: int) -> bytes | None:
    """Return a message with its tensors of external data replaced; None if it has none."""
    if depth > _DEEPEST:
        raise NotOnnxError(f"more than {_DEEPEST} messages within each other")
    below = TREE[kind]
    if kind == "TensorProto":
        return found(message) if _lies_outside(message) else None
    pieces: list[bytes | memoryview] = []
    copied = 0
    for field in _fields(message):
        if kind == "NodeProto" and field.number == _OP_TYPE and bytes(message[field.value : field.end]) == b"EPContext":
            raise NotOnnxError(
                "it holds a compiled network, EPContext, that lies in other files or was made for one machine"
            )
        if field.wire != _BYTES or field.number not in below:
            continue
        new = _changed(message[field.value : field.end], below[field.number], found, depth + 1)
        if new is not None:
            pieces += [message[copied : field.start], _chunk(field.number, new)]
            copied = field.end
    return b"".join([*pieces, message[copied:]]) if copied else None


def _lies_outside(tensor: memoryview) -> bool:
    """Return whether a tensor declares external data in either of two fields. For protobuf, the last value counts; here, any."""
    for field in _fields(tensor):
        if field.number == _EXTERNAL_DATA:
            return True
        if field.number == _DATA_LOCATION and field.wire == _VARINT and _varint(tensor, field.value)[0] != 0:
            return True
    return False


def _location(tensor: memoryview) -> str:
    return str(_entries(tensor).get("location", ""))


def _entries(tensor: memoryview) -> dict[str, str]:
    entries: dict[str, str] = {}
    for field in _fields(tensor):
        if field.number == _EXTERNAL_DATA and field.wire == _BYTES:
            entry = tensor[field.value : field.end]
            told = {one.number: entry[one.value : one.end] for one in _fields(entry) if one.wire == _BYTES}
            key, value = (bytes(told.get(number, b"")).decode("utf-8", "replace") for number in (1, 2))
            entries[key] = value
    return entries


def _outside(tensor: memoryview) -> Outside:
    """Parse the location of a tensor's external data, and compute its expected size in bytes."""
    entries = _entries(tensor)
    dims: list[int] = []
    data_type, name = 0, ""
    for field in _fields(tensor):
        if field.number == _DIMS and field.wire == _VARINT:
            dims.append(_varint(tensor, field.value)[0])
        elif field.number == _DIMS and field.wire == _BYTES:
            at = field.value
            while at < field.end:
                dim, at = _varint(tensor, at)
                dims.append(dim)
        elif field.number == _DATA_TYPE and field.wire == _VARINT:
            data_type = _varint(tensor, field.value)[0]
        elif field.number == _NAME and field.wire == _BYTES:
            name = bytes(tensor[field.value : field.end]).decode("utf-8", "replace")
    count = 1
    for dim in dims:
        if dim > MAX_BYTES:
            raise NotOnnxError(f"a tensor of shape {dims[:8]}")
        count *= dim
    if data_type not in _BITS:
        raise NotOnnxError(f"a tensor of type {data_type} with values in another file")
    expected = (count * _BITS[data_type] + 7) // 8
    offset, length = (_number(entries.get(key), key) for key in ("offset", "length"))
    return Outside(name, entries.get("location", ""), offset or 0, length, expected)


def _number(text: str | None, key: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise NotOnnxError(f"{key} '{printable(text[:40])}' of values in another file")
    return int(text)


def _fields(message: memoryview) -> Iterator[_Field]:
    """Yield the fields of a message.

    Raises
    ------
    NotOnnxError
        If it is truncated, or contains something that ONNX never uses.
    """
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _varint(message, at, 5)
        number, wire = tag >> 3, tag & 7
        if not number or tag >> 32:
            raise NotOnnxError("not protobuf")
        value = at
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire == _BYTES:
            length, value = _varint(message, at)
            at = value + length
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise NotOnnxError("not protobuf as ONNX has it")
        if at > end:
            raise NotOnnxError("cut short")
        yield _Field(number, wire, start, value, at)


def _varint(message: memoryview, at: int, longest: int = 10) -> tuple[int, int]:
    """Parse a varint; return its value, and the position after it."""
    value = shift = 0
    for place in range(at, min(at + longest, len(message))):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise NotOnnxError("cut short" if at + longest > len(message) else "not protobuf")


def _chunk(number: int, value: bytes) -> bytes:
    """Encode a field of bytes."""
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
