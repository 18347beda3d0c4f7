"""Bodies that are not what they should be: types, pieces, lengths, forms, floods of fields, JSON. Each with what may answer it.

Knows what HTTP asks of a server and what the API promises, and nothing of how either is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from faults.attacked import Case
from faults.hostile_heads import REFUSED, get, post

#: In the path or the body of a request that must never be understood as one.
SMUGGLED = b"GET /v1/labels?smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
_TYPES_OK = (
    "image/jpeg", "image/png", "image/webp", "application/octet-stream", "IMAGE/JPEG", "image/jpeg; q=1", "image/jpeg\t",
    "image/jpeg; boundary=x", "image/jpeg;" * 1000, "image/jpeg;charset=x",
)  # fmt: skip
_TYPES = (
    "text/plain", "text/html", "application/json", "application/xml", "image/svg+xml", "image/gif", "image/*", "*/*",
    "image/heic",
    "image/jpeg, image/png", "image/jpeg text/html", "image", "/", ";", "application/x-www-form-urlencoded",
    "multipart/form-data", "multipart/mixed; boundary=x", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"\"",
    "multipart/form-data; boundary=" + "x" * 5000, "multipart/form-data; boundary=\"a b\"", "application/octet-stream\x01",
    "message/http", "application/x-python-pickle", "application/zip", "a" * 8000, "é/ü", "\"image/jpeg\"",
    "multipart/form-data; boundary*=utf-8''%00", "multipart/form-data; boundary=\xff\xfe",
)  # fmt: skip


def part(name: str, data: bytes, *more: str, file: str | None = None) -> bytes:
    """Return one part of a form whose boundary is ``fruits``."""
    said = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file is not None else "")
    return "\r\n".join(["--fruits", said, *more, "", ""]).encode("utf-8", "surrogateescape") + data + b"\r\n"


def form(*parts: bytes, end: bytes = b"--fruits--\r\n") -> bytes:
    """Return a request with such parts."""
    return post(b"".join(parts) + end, kind="multipart/form-data; boundary=fruits")


def types(photo: bytes) -> Iterator[Case]:
    """Yield a good photo under right, wrong and impossible types."""
    for kind in _TYPES_OK:
        yield Case(f"type {kind}", [post(photo, kind=kind)], (200, 415))
    for kind in _TYPES:
        # The content decides; only a form's boundary may be one that cannot be used.
        yield Case(f"type {kind[:60]}", [post(photo, kind=kind)], (200, 400))
    yield Case("no type", [post(photo, kind=None)], (200, 415))
    yield Case("two types", [post(photo, "Content-Type: text/html")], (200, 400, 415))
    for encoding in ("gzip", "deflate", "br", "gzip, gzip", "identity", "nonsense"):
        yield Case(f"encoding {encoding}", [post(photo, f"Content-Encoding: {encoding}")], (200, 415))


def chunked(photo: bytes, large: int) -> Iterator[Case]:
    """Yield bodies in pieces: tiny, endless, wrongly measured, never ended."""
    start = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in photo)
    yield Case("photo in pieces of one byte", [start + tiny + b"0\r\n\r\n"], (200,))
    yield Case("photo in one piece", [start + b"%x\r\n" % len(photo) + photo + b"\r\n0\r\n\r\n"], (200,))
    padded = photo + bytes(large - len(photo))
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in padded)
    yield Case(f"{large:,} bytes in pieces of one byte", [start + pieces + b"0\r\n\r\n"], (200, 413, 422))
    million = b"f4240\r\n" + bytes(1_000_000) + b"\r\n"
    yield Case("30 MB without a length", [start, *[million] * 30, b"0\r\n\r\n"], (413,))
    yield Case("5 MB in one extension", [start + b"1;" + b"x" * 5_000_000 + b"\r\n"], REFUSED, silence=True)
    yield Case("1,000 extensions", [start + b"1;a=b\r\nx\r\n" * 1000 + b"0\r\n\r\n"], REFUSED)
    yield Case("10,000 trailers", [start + b"0\r\n" + b"X-Trailer: x\r\n" * 10_000 + b"\r\n"], REFUSED, silence=True)
    yield Case(
        "trailer that would be a header",
        [start + b"1\r\nx\r\n0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n"],
        REFUSED,
    )
    for size in (
        b"-1",
        b"0x5",
        b"+5",
        b"5 5",
        b"g",
        b"ffffffffffffffff",
        b"fffffffffffffffff",
        b"",
        b" 5",
        b"5\t",
        b"\x00",
        b"1e3",
    ):
        body = start + size + b"\r\nhello\r\n0\r\n\r\n"
        yield Case(f"piece of {size!r}", [body], REFUSED, silence=True, ending="half")
    for name, ending in (("LF alone", b"\n"), ("CR alone", b"\r"), ("nothing", b"")):
        body = start + b"5\r\nhello" + ending + b"0\r\n\r\n"
        yield Case(f"piece ended by {name}", [body], REFUSED, silence=True, ending="half")
    for name, body in (
        ("nothing", b""),
        ("half a size", b"1"),
        ("half a piece", b"5\r\nhe"),
        ("no last piece", b"5\r\nhello\r\n"),
    ):
        yield Case(f"ends after {name}", [start + body], REFUSED, silence=True, ending="half")
    for kind in (
        "Chunked",
        "chunked, chunked",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "xchunked",
        "chunked\x0b",
        "\tchunked",
        "",
    ):
        body = start.replace(b": chunked", b": " + kind.encode()) + b"5\r\nhello\r\n0\r\n\r\n"
        yield Case(f"transfer encoding {kind!r}", [body], (*REFUSED, 501), silence=True, ending="half")


def lengths(photo: bytes) -> Iterator[Case]:
    """Yield bodies whose length is said wrongly, twice, or beside another way to say it."""
    start = "POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"

    def request(*said: str, body: bytes = photo) -> bytes:
        return (start + "".join(f"{line}\r\n" for line in said) + "\r\n").encode("latin-1") + body

    n = len(photo)
    for missing in (1, 2, n // 2, n - 1):
        name = f"{missing:,} bytes fewer than announced"
        yield Case(name, [request(f"Content-Length: {n + missing}")], REFUSED, silence=True, ending="half")
    yield Case(
        "announces 9 MB, sends nothing",
        [request("Content-Length: 9000000", body=b"")],
        REFUSED,
        silence=True,
        ending="half",
    )
    yield Case("announces 11 MB", [request("Content-Length: 11000000", body=b"")], (413,))
    yield Case("announces 10^18", [request(f"Content-Length: {10**18}", body=b"")], (400, 413))
    yield Case("announces 10^30", [request(f"Content-Length: {10**30}", body=b"")], (400, 413))
    # What is more than announced is the next request, and no good one.
    for more in (b"x", b"\0" * 100, photo):
        name = f"{len(more):,} bytes more than announced"
        yield Case(
            name,
            [request(f"Content-Length: {n}", body=photo + more)],
            (200, 400),
            answers=2,
            silence=True,
            ending="half",
        )
    for said in ("-1", "+5", "0x10", "5, 5", "5,6", "5 5", "", " ", "five", "1e3", "5.0", "\x0b5", "5;", "٥"):
        line = f"Content-Length: {said}".encode()
        body = start.encode() + line + b"\r\n\r\nhello"
        yield Case(f"length {said!r}", [body], REFUSED, silence=True, ending="half")
    for name, said in {
        "two lengths, the same": ("Content-Length: 5", "Content-Length: 5"),
        "two lengths": ("Content-Length: 5", "Content-Length: 6"),
        "length and pieces": (f"Content-Length: {len(SMUGGLED)}", "Transfer-Encoding: chunked"),
        "pieces and length": ("Transfer-Encoding: chunked", f"Content-Length: {len(SMUGGLED) + 5}"),
        "length 0 and pieces": ("Content-Length: 0", "Transfer-Encoding: chunked"),
        "pieces, spelled wrongly, and length": ("Transfer-Encoding: xchunked", "Content-Length: 4"),
        "pieces with a space before the colon, and length": ("Transfer-Encoding : chunked", "Content-Length: 4"),
        "pieces behind a fold, and length": ("X: y\r\n Transfer-Encoding: chunked", "Content-Length: 4"),
        "pieces behind a bare LF, and length": ("X: y\nTransfer-Encoding: chunked", "Content-Length: 4"),
    }.items():
        body = b"0\r\n\r\n" + SMUGGLED
        yield Case(name, [request(*said, body=body)], (*REFUSED, 501), silence=True, ending="half")
    yield Case("no length at all", [request(body=b"")], (411, 415, 422, 400))
    yield Case("body with GET", [get("/v1/labels", "Content-Length: 5") + b"hello"], (200, 400))
    yield Case("30 MB with DELETE", [get("/v1/submissions/x", "Content-Length: 30000000", method="DELETE"),
        *[bytes(1 << 20)] * 28],
               REFUSED, silence=True)  # fmt: skip


def forms(photo: bytes) -> Iterator[Case]:
    """Yield forms whose names, numbers and ends are not as they should be."""
    for name in (
        "../../../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/passwd", "C:\\x.jpg", "a/../../b.jpg", "....//....//x",
        "%2e%2e%2fx",
        "photo.jpg\0.php", "\0", "", ".", "..", "~", "-rf", "con", "a" * 3000, "é.jpg", "\u202egpj.exe", "=cmd|'/c calc'!A1",
        "<script>alert(1)</script>", "'; DROP TABLE submissions; --", "$(reboot)", "`id`", "|ls", "\r\nX: y", "\ud800", "{{7*7}}",
        "%s%s%n", "\x1b[2J", "file:///etc/passwd", "http://127.0.0.1/",
    ):  # fmt: skip
        safe = name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
        yield Case(f"file called {name[:40]!r}", [form(part("photo", photo, file=safe))], (200, 400, 413, 422))
    one = part("photo", photo, file="a.jpg")
    yield Case("8 photos", [form(*[one] * 8)], (200,))
    yield Case("9 photos", [form(*[one] * 9)], (413,))
    yield Case("2,000 photos", [form(*[one] * 2000)], (413,))
    yield Case("5,000 fields", [form(*(part(f"f{number}", b"x") for number in range(5000)), one)], (413,))
    yield Case("100,000 empty parts", [form(*[b"--fruits\r\n\r\n\r\n"] * 100_000)], (400, 413, 422))
    yield Case("the same field 5,000 times", [form(*[part("keep", b"true")] * 5000, one)], (413,))
    yield Case("a field of 1 MB", [form(part("lang", b"x" * 1_000_000), one)], (413,))
    yield Case("a field's name of 1 MB", [form(part("x" * 1_000_000, b"x"), one)], (400, 413))
    yield Case("a part's head of 3 MB", [form(part("photo", photo, "X-More: " + "x" * 3_000_000))], (400, 413))
    yield Case("a part with 10,000 headers", [form(part("photo", photo, *["X: y"] * 10_000))], (400, 413))
    yield Case("3 MB before the first part", [form(b"x" * 3_000_000 + b"\r\n", one)], (200, 400, 413, 422))
    yield Case("3 MB after the last part", [form(one, end=b"--fruits--\r\n" + b"x" * 3_000_000)], (200, 400, 413, 422))
    yield Case("no last boundary", [form(one, end=b"")], (400,))
    yield Case("another boundary", [form(one.replace(b"--fruits", b"--other"))], (400, 422))
    yield Case("no part", [form()], (400, 422))
    yield Case("no body", [form(end=b"")], (400, 422))
    yield Case("nothing but dashes", [form(b"-" * 1_000_000)], (400, 413, 422))
    yield Case("3 MB of almost boundaries", [form(b"\r\n--fruit" * 350_000, one)], (200, 400, 413, 422))
    yield Case("photo as a field", [form(part("photo", photo))], (200,))
    yield Case("empty photo", [form(part("photo", b"", file="a.jpg"))], (422,))
    yield Case("empty photo beside a good one", [form(part("photo", b""), one)], (200,))
    yield Case("photo[]", [form(part("photo[]", photo, file="a.jpg"))], (400, 413, 422))
    yield Case("no name", [form(b"--fruits\r\nContent-Disposition: form-data\r\n\r\nx\r\n")], (400, 422))
    yield Case("no disposition", [form(b"--fruits\r\nContent-Type: image/jpeg\r\n\r\nx\r\n")], (400, 422))
    yield Case(
        "two dispositions",
        [form(part("photo", photo, 'Content-Disposition: form-data; name="keep"'))],
        (200, 400, 413, 422),
    )
    yield Case(
        "form in a form",
        [form(part("photo", form(one), "Content-Type: multipart/form-data; boundary=fruits"))],
        (200, 400, 415, 422),
    )
    yield Case(
        "base64 announced", [form(part("photo", photo, "Content-Transfer-Encoding: base64"))], (200, 400, 415, 422)
    )
    for value in (
        b"maybe",
        b"TRUE",
        b"1",
        b"",
        b"\xff\xfe",
        b"true\0",
        b"on",
        "\ud800".encode("utf-8", "surrogatepass"),
    ):
        yield Case(f"keep {value!r}", [form(part("keep", value), one)], (200, 422))
        yield Case(f"lang {value!r}", [form(part("lang", value), one)], (200, 422))
    for target in (
        "?keep=maybe",
        "?lang=" + "x" * 2000,
        "?keep=true&keep=false",
        "?lang[]=fr",
        "?" + "&" * 5000,
        "?keep=%ff%00",
        "?;;;",
    ):
        yield Case(f"query {target[:40]}", [post(photo, target="/v1/recognise" + target)], (200, 422))


def floods() -> Iterator[Case]:
    """Yield far too many small things: fields in a body, in an address, in a cookie."""
    many = b"&".join(b"f%d=x" % number for number in range(300_000))
    form_type = "application/x-www-form-urlencoded"
    for target in ("/v1/recognise", "/v1/feedback"):
        yield Case(f"3 MB of fields to {target}", [post(many, target=target, kind=form_type)], (400, 413, 415, 422))
        yield Case(
            f"3 MB of one name to {target}",
            [post(b"a" * 3_000_000, target=target, kind=form_type)],
            (400, 413, 415, 422),
        )
        yield Case(
            f"3 MB of & to {target}", [post(b"&" * 3_000_000, target=target, kind=form_type)], (400, 413, 415, 422)
        )
        yield Case(
            f"3 MB of %25 to {target}", [post(b"%25" * 1_000_000, target=target, kind=form_type)], (400, 413, 415, 422)
        )
    yield Case("30 MB of fields", [post(many * 9, target="/v1/feedback", kind=form_type)], (413,), silence=True)
    yield Case("address with 7,000 fields", [get("/v1/labels?" + "a=b&" * 7000)], (200, 400, 414, 431))
    yield Case("address of 1 MB", [get("/v1/labels?" + "a" * 1_000_000)], (400, 414, 431), silence=True)
    yield Case("path of 20 kB", [get("/" + "a" * 20_000)], (404,))
    yield Case("path of 10,000 steps", [get("/a" * 10_000)], (404,))
    yield Case("20 kB of cookies", [get("/v1/labels", "Cookie: " + "a=b; " * 4000)], (200, 400, 431))


def feedback(receipt: tuple[str, str]) -> Iterator[Case]:
    """Yield JSON that is too deep, too long, no JSON, or not what was asked for; with a receipt that is good."""
    name, secret = receipt
    right = {"id": name, "secret": secret, "right": False}

    def case(called: str, body: bytes, *allowed: int, kind: str | None = "application/json") -> Case:
        return Case(called, [post(body, target="/v1/feedback", kind=kind)], allowed or (400, 404, 413, 415, 422))

    def said(**values: object) -> bytes:
        return json.dumps(right | values, ensure_ascii=False).encode("utf-8", "surrogatepass")

    for depth in (100, 1000, 100_000, 1_000_000):
        yield case(f"{depth:,} brackets", b"[" * depth)
        yield case(f"{depth:,} brackets, closed", b"[" * depth + b"]" * depth)
        yield case(f"{depth:,} objects", b'{"a":' * depth)
    head = said()[:-1]
    for value in (
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"1" * 5000,
        b"1" * 100_000,
        b"0.1e-400",
        b"-0",
        b"01",
        b"0x1",
        b"1_000",
        b"1.",
    ):
        yield case(f"right is {value[:20]!r}", head + b', "right": ' + value + b"}")
        yield case(f"note is {value[:20]!r}", head + b', "note": ' + value + b"}", 204, 400, 413, 422)
    for key in ("id", "secret", "right", "label", "note"):
        twice = head + f', "{key}": "x", "{key}": "y"'.encode() + b"}"
        yield case(f"{key} twice", twice, 204, 400, 404, 422)
        for value in (None, True, 0, 1.5, "", "x", "x" * 600, [], {}, [[]], {"a": "b"}, ["x"] * 1000):
            yield case(f"{key} is {str(value)[:20]}", said(**{key: value}), 204, 400, 404, 422)
    for text in (
        "\ud800", "\udfff\ud800", "\0", "\x01\x02", "\u202e\u2066", "\ufeff", "\uffff", "\U0010ffff", "é" * 500,
        "\U0001f34e" * 100, "a\u0301" * 250,
        "\u200b" * 400, "<script>alert(1)</script>", "=HYPERLINK(1)", "'; DROP TABLE submissions; --", "\r\n\r\nX: y",
        "${jndi:x}", "{{7*7}}", "\x1b[31m", "%00",
        "\u0d4d\u200d" * 100, "ﷺ" * 100, "\u0344" * 500,
    ):  # fmt: skip
        for key in ("label", "note"):
            yield case(f"{key} {text[:10]!r}", said(**{key: text}), 204, 400, 422)
            escaped = json.dumps(right | {key: text}).encode()
            yield case(f"{key} {text[:10]!r}, escaped", escaped, 204, 400, 422)
    good = said(note="fine")
    for encoding in ("utf-16", "utf-32", "utf-8-sig", "utf-16-le"):
        yield case(f"in {encoding}", good.decode().encode(encoding), 204, 400, 415, 422)
    for called, body in {
        "nothing": b"", "null": b"null", "number": b"1", "text": b'"x"', "list": b"[]", "object": b"{}",
        "space": b" " * 1_000_000, "cut": good[:-5], "twice": good * 2,
        "bad utf-8": head + b', "note": "\xff\xfe"}', "overlong": head + b', "note": "\xc0\x80"}',
        "lone escape": head + b', "note": "\\ud800"}',
        "bad escape": head + b', "note": "\\x41"}', "comment": head + b"} // x", "single quotes": b"{'id': 'x'}",
        "control": head + b', "note": "\n"}',
        "a name of 1 MB": head + b', "' + b"x" * 1_000_000 + b'": 1}',
        "100,000 names": head + b"".join(b', "k%d": 1' % n for n in range(100_000)) + b"}",
        "a note of 3 MB": head + b', "note": "' + b"x" * 3_000_000 + b'"}',
        "11 MB": head + b', "note": "' + b"x" * 11_000_000 + b'"}',
        "__proto__": head + b', "__proto__": {}}', "pickle": b"\x80\x04cos\nsystem\n.",
        "1 MB of backslashes": head + b', "note": "' + b"\\\\" * 500_000 + b'"}',
    }.items():  # fmt: skip
        yield case(called, body)
    for kind in (
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-7",
        "application/json;" * 100,
        None,
        "",
    ):
        yield case(f"as {str(kind)[:40]}", good, 204, 400, 415, 422, kind=kind)
    yield Case("30 MB of JSON in pieces", [
        b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[b"f4240\r\n" + b" " * 1_000_000 + b"\r\n"] * 30, b"0\r\n\r\n"], (413,), silence=True)  # fmt: skip
    for identifier in ("x", "A" * 22, "A" * 21, "..", "%2e%2e", "A" * 5000, "%00" * 22, "'" * 22):
        for given in ("x", "x" * 101, "", "\xff" * 10, secret):
            raw = get(f"/v1/submissions/{identifier}", f"X-Fruits-Secret: {given}", method="DELETE")
            yield Case(f"delete {identifier[:20]}", [raw], (400, 404, 422))
