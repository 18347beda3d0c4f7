"""Requests as bytes, and heads that are not what they should be: first lines, headers, names of hosts, many at once.

Knows what HTTP asks of a server (RFC 9110, 9112), and nothing of how it is done.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from faults.attacked import Case

REFUSED = (400, 404, 405, 408, 411, 413, 414, 415, 417, 422, 431)
BAD = (400,)


def post(
    body: bytes, *headers: str, target: str = "/v1/recognise", kind: str | None = "image/jpeg", length: bool = True
) -> bytes:
    """Return a whole request."""
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", *headers]
    lines += [f"Content-Type: {kind}"] * (kind is not None) + [f"Content-Length: {len(body)}"] * length
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def get(target: str = "/v1/labels", *headers: str, method: str = "GET") -> bytes:
    """Return a request without a body."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1")


def heads() -> Iterator[Case]:
    """Yield heads that are too long, too many, folded, doubled, or no text."""
    yield Case(
        "endless header", [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", *[b"x" * 65536] * 32], (400, 431), silence=True
    )
    yield Case(
        "endless headers",
        [b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[b"X: y\r\n" * 5000] * 40],
        (400, 431),
        silence=True,
    )
    yield Case(
        "endless name", [b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[b"x" * 65536] * 32], (400, 431), silence=True
    )
    yield Case("90 headers", [get("/v1/labels", *["X: y"] * 90)], (200,))
    yield Case("500 headers", [get("/v1/labels", *["X: y"] * 500)], (400, 431), silence=True)
    yield Case("header of 30 kB", [get("/v1/labels", "X: " + "y" * 30_000)], (200, 400, 431))
    yield Case("header of 40 kB", [get("/v1/labels", "X: " + "y" * 40_000)], (200, 400, 431), silence=True)
    yield Case("folded", [get("/v1/labels", "X: y\r\n z")], (200, 400))
    yield Case("folded with a tab", [get("/v1/labels", "X: y\r\n\tz")], (200, 400))
    yield Case("fold first", [b"GET /v1/labels HTTP/1.1\r\n Host: localhost\r\n\r\n"], BAD, silence=True)
    for byte in (*range(32), 127):
        raw = get("/v1/labels", "X: a~b").replace(b"~", bytes([byte]))
        yield Case(f"byte {byte} in a value", [raw], (200, 400), silence=True, ending="half")
        raw = get("/v1/labels", "X~: ab").replace(b"~", bytes([byte]))
        yield Case(f"byte {byte} in a name", [raw], (200, 400), silence=True, ending="half")
    for byte in (128, 195, 255):
        yield Case(f"byte {byte} in a value", [get("/v1/labels", f"X: {chr(byte)}")], (200, 400))
        yield Case(f"byte {byte} in a name", [get("/v1/labels", f"X{chr(byte)}: a")], BAD)
    for line in (": y", "X", "X y", "X : y", " X: y", "@: y", "(x): y", "X:", "X:y", "X:" + " " * 1000 + "y"):
        yield Case(f"line {line[:20]!r}", [get("/v1/labels", line)], (200, 400), silence=True)
    for name in (
        "Accept-Encoding", "Accept-Language", "If-None-Match", "Range", "Authorization", "X-Forwarded-For", "X-Forwarded-Proto",
        "Forwarded", "Origin", "Referer", "User-Agent", "Via", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "TE",
        "Connection", "Upgrade", "Sec-WebSocket-Key", "Content-Encoding", "Date", "If-Modified-Since", "Cookie", "Host2",
        "Trailer",
    ):  # fmt: skip
        for value in (
            "", " ", ",", ",,,,", ";", ";q=", "*;q=x", '"', '"' * 999, "gzip;q=1e999", "bytes=0-,-1,5-2",
            "bytes=" + "0-1," * 2000,
            "a," * 3000, "Bearer", "Bearer " + "x" * 9000, "Bearer fruits_" + "\xff" * 30, "Basic !!!",
            "close, close, keep-alive", "::1,,1.2.3",
            "\x80\xff", "%00%0d%0aX: y", "<script>", "${jndi:ldap://127.0.0.1/x}", "0" * 500, "-1", "W/" * 500,
        ):  # fmt: skip
            for target in ("/", "/v1/labels"):
                yield Case(
                    f"{name}: {value[:30]}",
                    [get(target, f"{name}: {value}")],
                    (200, 206, 304, 400, 401, 416, 426),
                    silence=True,
                )
    yield Case("Expect and a photo that never comes", [post(b"", "Expect: 100-continue")], (400, 415, 417, 422))
    yield Case("Expect something else", [post(b"x", "Expect: 200-ok")], (400, 415, 417, 422))


def lines() -> Iterator[Case]:
    """Yield first lines that are old, new, odd or no HTTP at all."""
    for first in (
        b"GET /\r\n", b"GET\r\n\r\n", b"\r\n\r\n\r\nGET\r\n\r\n", b"GET /  HTTP/1.1\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / http/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n", b"GET / HTTP/3.7\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n", b"GET / HTTP/11\r\n\r\n",
        b"GET / HTTP/\r\n\r\n", b"GET / FTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", b" GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\rHost: localhost\r\r",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x04\x01\x00\x50\x7f\0\0\1\0",
        b"SSH-2.0-x\r\n", b"EHLO x\r\n", b"*1\r\n$4\r\nINFO\r\n", b"\0" * 1000, b"\xff" * 1000, b"{}\r\n\r\n", b"<xml/>\r\n\r\n",
    ):  # fmt: skip
        yield Case(f"{first[:40]!r}", [first], (*REFUSED, 200, 505), silence=True, ending="half")
    for method in (
        "TRACE", "CONNECT", "PROPFIND", "PATCH", "PUT", "DELETE", "OPTIONS", "MKCOL", "PURGE", "BREW", "X" * 5000, "G\0ET",
        "GET/", "é", "POST", "QUERY",
    ):  # fmt: skip
        for target in ("/", "/v1/labels", "/v1/recognise", "/healthz", "/nowhere", "*", "/v1/owner/summary"):
            raw = get(target, method=method)
            yield Case(f"{method[:20]} {target}", [raw], (200, 204, 401, 501, *REFUSED), silence=True, ending="half")
    for target in ("/", "/v1/labels", "/healthz", "/nowhere", "/v1/recognise", "/static/style.css"):
        yield Case(f"HEAD {target}", [get(target, method="HEAD")], (200, 404, 405), head=True, ending="half")
    for target in (
        "http://localhost/v1/labels", "http://evil.example/v1/labels", "https://localhost:1/", "localhost:80",
        "//evil.example/", "*", "v1/labels",
        "/v1//labels", "/v1/./labels", "/v1/../v1/labels", "/v1/labels/", "/V1/LABELS", "/v1/labels%00", "/%00",
        "/v1%2flabels", "/..%2f..%2fetc/passwd",
        "/static/../../../etc/passwd", "/static/%2e%2e/%2e%2e/pages.py", "/static/..\\..\\pages.py", "/static//etc/passwd",
        "/static/vendor/../index.html",
        "/static/\0", "/static/" + "../" * 500, "/static/.", "/static/", "/static/index.html", "/.git/config",
        "/v1/gallery/0123456789abcdef/0.jpg",
        "/v1/gallery/../../x/0.jpg", "/v1/gallery/0123456789abcdef/-1.jpg",
        "/v1/gallery/0123456789abcdef/99999999999999999999.jpg",
        "/v1/gallery/0123456789abcdef/1e3.jpg", "/v1/model/0123456789abcdef/recognizer.onnx", "/v1/model/%2e%2e/recognizer.onnx",
        "/v1/submissions/" + "A" * 22, "/v1/owner/submissions/..%2f..%2f/photo", "/\xff\xfe", "/%ff%fe", "/?%", "/?%zz",
        "/#x", "/\\", "/;x=y", "/%",
        "/v1/labels?x=" + "%00" * 1000, "/<script>alert(1)</script>", "/v1/labels\x7f", "/é",
    ):  # fmt: skip
        yield Case(f"GET {target[:50]!r}", [get(target)], (200, 304, 401, *REFUSED), silence=True, ending="half")
    upgrade = ("Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    for target in ("/", "/v1/labels", "/v1/recognise"):
        yield Case(
            f"websocket to {target}", [get(target, "Upgrade: websocket", *upgrade)], (200, 426, *REFUSED), silence=True
        )
        h2c = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
        yield Case(f"h2c to {target}", [get(target, *h2c)], (200, 426, *REFUSED), silence=True)


def noise(count: int, draw: random.Random) -> Iterator[Case]:
    """Yield requests with random bytes in them, and random bytes alone."""
    whole = post(
        b"hello", "X-One: two", "Authorization: Bearer fruits_x", target="/v1/feedback", kind="application/json"
    )
    for number in range(count):
        if number % 4 == 3:
            raw = draw.randbytes(draw.randint(1, 2000))
        else:
            changed = bytearray(whole)
            for _ in range(draw.randint(1, 5)):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            raw = bytes(changed)
        # Where a changed line means two requests, there are two answers; never one of another kind.
        yield Case(f"noise {number}", [raw], answers=3, silence=True, ending="half")


def hosts() -> Iterator[Case]:
    """Yield names that the service does not go by, and that must not lead anywhere."""
    for host in (
        "evil.example", "localhost.evil.example", "evil.example:80", "localhost@evil.example", "localhost:80@evil.example",
        "localhost#evil",
        "localhost/evil", "localhost\\evil", "localhost,evil", "localhost evil", "127.1", "2130706433", "0x7f.1", "0.0.0.0",
        "[::]", "[::1", "::1",
        "[::1]x", "localhost:x", "localhost:-1", "", " ", "*", ".", "..", "localhost..", "xn--e1afmkfd", "\xff", "é",
        "a" * 5000, "169.254.169.254",
        "metadata.google.internal", "localhost\0", "localhost%00", "localhost\tx", '"localhost"', "<script>",
    ):  # fmt: skip
        raw = b"GET /v1/labels HTTP/1.1\r\nHost: " + host.encode("latin-1") + b"\r\n\r\n"
        yield Case(f"host {host[:30]!r}", [raw], BAD, ending="half", silence=True)
    for host in ("localhost", "LOCALHOST", "localhost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080"):
        yield Case(f"host {host}", [f"GET /v1/labels HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()], (200,))
    yield Case("no host", [b"GET /v1/labels HTTP/1.1\r\n\r\n"], BAD)
    yield Case("no host, HTTP/1.0", [b"GET /v1/labels HTTP/1.0\r\n\r\n"], BAD)
    yield Case("two hosts", [get("/v1/labels", "Host: evil.example")], (200, 400))
    yield Case(
        "two hosts, the other first",
        [get("/v1/labels", "Host: localhost").replace(b"localhost", b"evil.example", 1)],
        BAD,
    )
    yield Case(
        "forwarded host", [get("/v1/labels", "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example")], (200,)
    )


def pipelines(photo: bytes) -> Iterator[Case]:
    """Yield many requests in one go: each must be answered, in order."""
    for count in (2, 10, 50, 200):
        yield Case(f"{count} questions at once", [get() * count], (200,), answers=count)
    for count in (2, 8, 30):
        yield Case(f"{count} photos at once", [post(photo) * count], (200,), answers=count)
    yield Case(
        "photo, question, nonsense",
        [post(photo) + get() + b"nonsense\r\n\r\n"],
        (200, 400),
        answers=3,
        silence=True,
        ending="half",
    )
    yield Case("refused, then a question", [post(b"x") + get()], (200, 415), answers=2)
    yield Case("too long, then a question", [post(bytes(11_000_000)) + get()], (200, 413), answers=2, silence=True)
    yield Case(
        "a question before goodbye", [get("/v1/labels", "Connection: close") + get()], (200,), answers=1, ending="half"
    )
