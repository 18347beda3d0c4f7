"""Bad input of every sort: each gets its error in the one shape, nothing crashes, and the next good photo is right."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from fruits.service.http import errors as http_errors

PATH = "/v1/recognise"
Receive = Callable[[socket.socket], bytes]
OCTETS = {"Content-Type": "application/octet-stream"}


def png(width: int, height: int, *more: bytes, data: bytes = b"") -> bytes:
    """A PNG that announces a size; grey, one bit."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *((one[:4], one[4:]) for one in more), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def bomb(width: int, height: int) -> bytes:
    """A PNG of very many white pixels in a few kilobytes."""
    row = b"\x00" + b"\xff" * ((width + 7) // 8)
    pack = zlib.compressobj(9)
    return png(width, height, data=b"".join(pack.compress(row) for _ in range(height)) + pack.flush())


def animation(frames: int, format_: str) -> bytes:
    """A small picture that moves."""
    pictures = [Image.fromarray(np.full((16, 16, 3), 5 * n % 256, np.uint8)) for n in range(frames)]
    out = BytesIO()
    pictures[0].save(out, format_, save_all=True, append_images=pictures[1:], duration=20)
    return out.getvalue()


def made(format_: str, size: tuple[int, int] = (120, 90), mode: str = "RGB") -> bytes:
    """A picture of some format and mode."""
    out = BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, format_)
    return out.getvalue()


def bad_photos(photo: bytes) -> Iterator[tuple[str, bytes, set[str]]]:
    """Yield names, bytes, and the codes that they may get."""
    yield "nothing", b"", {"empty"}
    yield "text", b"hello, I am a fruit", {"not_an_image"}
    yield "zeros", bytes(4000), {"not_an_image"}
    yield "html", b"<html><img src=http://127.0.0.1:1/></html>", {"not_an_image", "unsupported_format"}
    yield "a url", b"http://127.0.0.1:1/photo.jpg", {"not_an_image"}
    yield (
        "svg",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        {"not_an_image", "unsupported_format"},
    )
    yield "json", b'{"photo": "x"}', {"not_an_image"}
    yield "zip", b"PK\x03\x04" + bytes(60), {"not_an_image", "unsupported_format"}
    yield "elf", b"\x7fELF" + bytes(60), {"not_an_image", "unsupported_format"}
    yield "half a magic", b"\xff\xd8", {"not_an_image"}
    for format_ in ("GIF", "BMP", "TIFF", "ICO"):
        yield format_, made(format_, (32, 32)), {"unsupported_format"}
    yield "heic", b"\x00\x00\x00\x18ftypheic" + bytes(100), {"unsupported_format", "damaged"}  # read with fruits[heic]
    yield "avif", b"\x00\x00\x00\x18ftypavif" + bytes(100), {"unsupported_format"}
    yield "pdf", b"%PDF-1.7\n" + bytes(100), {"unsupported_format"}
    yield "jpeg xl", b"\xff\x0a" + bytes(100), {"unsupported_format"}
    for name, whole in (("jpeg", photo), ("png", made("PNG")), ("webp", made("WEBP"))):
        for share in (0.02, 0.1, 0.3, 0.6, 0.9):
            cut = whole[: max(13, int(share * len(whole)))]
            yield f"{name} cut at {share:.0%}", cut, {"damaged", "too_large", "timeout"}
        head = whole[:12]
        yield f"{name} head and noise", head + random.Random(name).randbytes(3000), {"damaged", "too_large"}
        yield f"{name} head only", head, {"damaged"}
    yield "png that announces 16384 x 16384", png(16384, 16384, data=zlib.compress(bytes(100))), {"too_large"}
    yield "bomb of 8192 x 8192 pixels", bomb(8192, 8192), {"too_large"}
    yield "png of no width", png(0, 10), {"damaged"}
    yield "png of 2 ** 31 pixels a side", png(2**31 - 1, 2**31 - 1), {"too_large", "damaged"}
    yield "apng that announces 50,000 frames", png(8, 8, b"acTL" + struct.pack(">II", 50_000, 0)), {"too_large"}
    yield "webp of 200 frames", animation(200, "WEBP"), {"too_large"}
    huge_jpeg = bytearray(photo)
    at = next(place for place in range(2, len(photo)) if photo[place : place + 2] in (b"\xff\xc0", b"\xff\xc2"))
    huge_jpeg[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    yield "jpeg that announces 65500 x 65500", bytes(huge_jpeg), {"too_large"}
    yield "png chunk longer than the file", png(8, 8)[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(20), {"damaged"}
    yield "webp whose chunk never ends", b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 40, {"damaged", "too_large"}
    yield "jpeg of 5,000 empty segments", b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5000, {"damaged"}
    yield "jpeg of fill bytes", b"\xff\xd8" + b"\xff" * 50_000, {"damaged"}


def good_photos(photo: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield odd photos that are photos all the same."""
    yield "1 x 3000 pixels", made("PNG", (1, 3000))
    yield "one pixel", made("PNG", (1, 1))
    yield "grey", made("JPEG", mode="L")
    yield "cmyk", made("JPEG", mode="CMYK")
    yield "palette", made("PNG", mode="P")
    yield "transparent", made("WEBP", mode="RGBA")
    yield "16 bits", made("PNG", mode="I;16")
    yield "moving webp", animation(5, "WEBP")
    yield "moving png", animation(5, "PNG")
    yield "jpeg and html", photo + b"<script>alert(1)</script>"
    yield "jpeg and zip", photo + b"PK\x03\x04" + bytes(200)
    yield "jpeg, twice", photo + photo


def check_error(answer: httpx.Response, codes: set[str]) -> None:
    """An error is one of those, in the one shape, with its status, and says nothing of our insides."""
    body = answer.json()
    error = body["error"]
    assert error["code"] in codes, body
    assert answer.status_code in (http_errors.KINDS[error["code"]].status, 422, 431)
    assert set(error) == {"code", "message", "request_id"}
    for word in ("Traceback", "PIL", "Pillow", "/work", "site-packages", ".py", "onnx", "numpy"):
        assert word not in str(error["message"])


def test_bad_photos(service: Any, a_photo: bytes) -> None:
    right = service.recognise(a_photo).json()["photos"][0]["labels"]
    for name, data, codes in bad_photos(a_photo):
        answer = service.recognise(data)
        assert answer.status_code != 200, name
        check_error(answer, codes)
        form = service.client.post(PATH, files={"photo": (name, data)})
        check_error(form, codes)
    assert service.recognise(a_photo).json()["photos"][0]["labels"] == right


def test_odd_photos_are_photos(service: Any, a_photo: bytes) -> None:
    for name, data in good_photos(a_photo):
        assert service.recognise(data).status_code == 200, name


def test_flipped_bits_give_an_answer_or_an_error(service: Any, a_photo: bytes) -> None:
    chance = random.Random(0)
    for whole in (a_photo, made("PNG"), made("WEBP")):
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 20)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            answer = service.recognise(bytes(data))
            if answer.status_code != 200:
                check_error(answer, {"damaged", "not_an_image", "unsupported_format", "too_large", "timeout"})


def part(name: str, data: bytes, more: str = "") -> bytes:
    """A part of a form."""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"


def bad_requests(photo: bytes) -> Iterator[tuple[str, dict[str, Any], set[str]]]:
    """Yield names, what is sent, and the codes that it may get."""
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    good, end = part("photo", photo), b"--b--\r\n"

    def post(body: Any, headers: dict[str, str], **more: Any) -> dict[str, Any]:
        return {"method": "POST", "url": PATH, "content": body, "headers": headers, **more}

    yield "11 MB", post(bytes(11_000_000), OCTETS), {"too_large"}
    yield "11 MB in pieces without a length", post((bytes(100_000) for _ in range(110)), OCTETS), {"too_large"}
    yield "11 MB in a form", post(part("photo", bytes(11_000_000)) + end, form), {"too_large"}
    yield "nine photos", post(good * 9 + end, form), {"too_many_parts"}
    yield "9 other fields", post(good + b"".join(part(f"f{n}", b"x") for n in range(9)) + end, form), {"too_many_parts"}
    yield "50,000 parts", post(part("photo", b"") * 50_000 + end, form), {"too_many_parts"}
    yield "a field of 10 kB", post(good + part("keep", bytes(10_000)) + end, form), {"too_large"}
    yield (
        "a part's head of 10 kB",
        post(part("photo", photo, "; x=" + "y" * 10_000) + end, form),
        {"too_large", "bad_request"},
    )
    yield (
        "50 headers of a part",
        post(b"--b\r\n" + b"X-A: b\r\n" * 50 + good[5:] + end, form),
        {"too_large", "bad_request"},
    )
    yield "no end", post(good, form), {"bad_request"}
    yield "no boundary, and no end", post(good, {"Content-Type": "multipart/form-data"}), {"bad_request"}
    yield (
        "another boundary, and no end",
        post(good, {"Content-Type": "multipart/form-data; boundary=c"}),
        {"bad_request"},
    )
    yield (
        "a boundary of 5 kB",
        post(good, {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}),
        {"bad_request"},
    )
    yield "an odd boundary", post(good, {"Content-Type": 'multipart/form-data; boundary="\\"'}), {"bad_request"}
    yield "no photo in it", post(part("fruit", b"x") + end, form), {"bad_request"}
    yield "an empty form", post(end, form), {"bad_request"}
    yield "an empty body as form", post(b"", form), {"bad_request"}
    yield (
        "a part without a name",
        post(b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + end, form),
        {"bad_request"},
    )
    yield "a part without a head", post(b"--b\r\n\r\nx\r\n" + end, form), {"bad_request"}
    yield "a photo with no bytes", post(part("photo", b"") + end, form), {"empty"}
    yield "keep=perhaps", post(photo, OCTETS, params={"keep": "perhaps"}), {"bad_request"}
    yield "explain=perhaps", post(photo, OCTETS, params={"explain": "perhaps"}), {"bad_request"}
    yield "keep twice", post(photo, OCTETS, params=[("keep", "x"), ("keep", "true")]), {"bad_request"}
    yield "lang=de", post(photo, OCTETS, params={"lang": "de"}), {"bad_request"}
    yield "lang in the form", post(good + part("lang", b"\xff\x00") + end, form), {"bad_request"}
    for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded", "image/gif", "image/heic",
                 "multipart/mixed; boundary=b", "x", "/", ";;;", "image/jpeg/x", "é"):  # fmt: skip
        yield (
            f"text as {kind}",
            post(b"no photo, whatever it is called", {"Content-Type": kind.encode()}),
            {"not_an_image", "bad_request"},
        )  # type: ignore[dict-item]
    yield (
        "urlencoded flood",
        post(b"&".join(b"a%d=b" % n for n in range(50_000)), {"Content-Type": "application/x-www-form-urlencoded"}),
        {"not_an_image"},
    )
    for method in ("GET", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "OPTIONS"):
        yield f"{method}", {"method": method, "url": PATH}, {"method_not_allowed"}
    for path in ("/v1", "/v1/recognise/", "/v1/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../app.py",
                 "/static/%2e%2e/%2e%2e/settings.py", "/static//etc/passwd", "/static/..%5c..%5capp.py", "/.git/config",
                 "/v1/gallery/../../x/0.jpg", "/v1/model/..%2f..%2fmanifest.json/recognizer.onnx",
                 "/%00", "/%ff%fe", "/" + "a" * 4000, "/redoc"):  # fmt: skip
        yield f"path {path[:40]}", {"method": "GET", "url": path}, {"not_found", "bad_request"}
    yield (
        "gallery of letters",
        {"method": "GET", "url": "/v1/gallery/0123456789abcdef/x.jpg"},
        {"bad_request", "not_found"},
    )
    yield (
        "gallery below zero",
        {"method": "GET", "url": "/v1/gallery/0123456789abcdef/-1.jpg"},
        {"bad_request", "not_found"},
    )
    yield "gallery of 10 ** 30", {"method": "GET", "url": f"/v1/gallery/0123456789abcdef/{10**30}.jpg"}, {"bad_request"}


def bad_feedback() -> Iterator[tuple[str, Any]]:
    """Yield names and bodies that are no feedback."""
    good = {"id": "A" * 22, "secret": "s" * 32, "right": True}
    yield "nothing", b""
    yield "no json", b"{"
    yield "a list", b"[]"
    yield "null", b"null"
    yield "a number", b"1e999"
    yield "10,000 brackets", b"[" * 10_000
    yield "no utf-8", b'{"id": "\xff"}'
    yield "too long", b'{"note": "' + b"x" * 100_000 + b'"}'
    for change in ({"id": "x"}, {"id": "A" * 23}, {"id": 5}, {"id": None}, {"id": "A" * 21 + "\n"}, {"id": "é" * 22},
                   {"secret": ""}, {"secret": "s" * 101}, {"secret": []}, {"right": "yes"}, {"right": 1},
                   {"right": None}, {"label": "x" * 101}, {"label": 7}, {"note": "x" * 501}, {"note": {}},
                   {"note": "\ud800"}, {"label": "\udfff"}, {"more": 1}, {"__proto__": {}}):  # fmt: skip
        yield f"{change}"[:60], json.dumps(good | change).encode()
    for missing in good:
        yield (
            f"without {missing}",
            json.dumps({name: value for name, value in good.items() if name != missing}).encode(),
        )


def test_bad_requests(service: Any, a_photo: bytes) -> None:
    for name, given, codes in bad_requests(a_photo):
        method, url = given.pop("method"), given.pop("url")
        answer = service.client.request(method, url, **given)
        assert 400 <= answer.status_code < 500, (name, answer.status_code)
        assert answer.json()["error"]["code"] in codes, (name, answer.text)
        check_error(answer, codes)
        if answer.status_code == 405:
            assert answer.headers["allow"]
    assert service.recognise(a_photo).status_code == 200


def test_bad_feedback(service: Any) -> None:
    headers = {"Content-Type": "application/json"}
    for name, body in bad_feedback():
        answer = service.client.post("/v1/feedback", content=body, headers=headers)
        assert answer.status_code in (400, 413, 422), (name, answer.text)
        check_error(answer, {"bad_request", "too_large"})
    assert service.client.post("/v1/feedback", content=b"x", headers={"Content-Type": "text/xml"}).status_code == 422
    for secret in (b"", b"\xff" * 20, b"x" * 101):
        answer = service.client.delete("/v1/submissions/" + "A" * 22, headers={"X-Fruits-Secret": secret})
        check_error(answer, {"bad_request", "not_found"})


def raw_requests(photo: bytes) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Yield names, bytes on the wire, and the statuses that they may get; none: the connection is just closed."""
    post = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    get = b"GET /v1/labels HTTP/1.1\r\nHost: localhost\r\n"
    close = b"Connection: close\r\n\r\n"
    yield "no http", b"hello\r\n\r\n", (400,)
    yield "tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), (400,)
    yield "http 2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)
    yield "http 0.9", b"GET /\r\n\r\n", (400,)
    yield "http 1.0", b"GET /v1/labels HTTP/1.0\r\nHost: localhost\r\n\r\n", (200,)
    yield "http 3.7", b"GET / HTTP/3.7\r\nHost: localhost\r\n\r\n", (400,)
    yield "no host", b"GET /v1/labels HTTP/1.1\r\n" + close, (400,)
    yield "two hosts", get + b"Host: evil.test\r\n" + close, (200, 400)
    yield "another's address", b"GET http://evil.test/v1/labels HTTP/1.1\r\nHost: evil.test\r\n" + close, (400,)
    yield "two slashes", b"GET //evil.test/ HTTP/1.1\r\nHost: localhost\r\n" + close, (200, 400, 404)
    yield "connect", b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", (400, 405)
    yield "options *", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n" + close, (400, 404, 405)
    yield "unknown method", b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)
    yield "a letter beyond ascii", b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n" + close, (400, 404)
    yield "a space in the path", b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)
    yield "a null in a header", get + b"X: a\x00b\r\n\r\n", (400,)
    yield "a header without colon", get + b"nonsense\r\n\r\n", (400,)
    yield "a header that goes on", get + b"X: a\r\n b\r\n" + close, (200, 400)
    yield "a header without name", get + b": x\r\n\r\n", (400,)
    yield "101 headers", get + b"".join(b"X-%d: y\r\n" % n for n in range(101)) + b"\r\n", (400, 431)
    yield "40 kB of headers", get + b"X: " + b"y" * 40_000 + b"\r\n\r\n", (400, 431)
    yield "a path of 40 kB", b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, 431)
    yield "40 kB without end", b"GET /" + b"a" * 40_000, (400, 431)
    yield "a length below zero", post + b"Content-Length: -1\r\n\r\n", (400,)
    yield "a length of letters", post + b"Content-Length: abc\r\n\r\n", (400,)
    yield "a length of 10 ** 30", post + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n", (400, 413)
    yield "a length of 100 MB", post + b"Content-Length: 100000000\r\n\r\n", (413,)
    yield "two lengths", post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", (400,)
    yield "length and chunks", post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400, 422)
    yield "chunks of letters", post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", (400,)
    yield "a chunk of 2 ** 64", post + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", (400,)
    yield "gzip, chunked", post + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, 422)
    yield "an unknown coding", post + b"Transfer-Encoding: rot13\r\n\r\n", (400,)
    yield "no length at all", post + close, (422,)
    yield "an expectation", post + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n", (413,)
    yield (
        "a websocket",
        get + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        (200, 400, 404),
    )
    one_byte_each = b"".join(b"1\r\n%c\r\n" % byte for byte in photo) + b"0\r\n\r\n"
    yield "a photo in chunks of one byte", post + b"Transfer-Encoding: chunked\r\n" + close + one_byte_each, (200,)
    yield "chunks with trailers", post + b"Transfer-Encoding: chunked\r\n" + close + b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (
        len(photo), photo), (200,)  # fmt: skip


def one_answer(connection: socket.socket) -> bytes:
    """Receive one answer, as long as it says that it is."""
    received = b""
    while piece := connection.recv(1 << 16):
        received += piece
        head, separator, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if separator and (length is None or len(body) >= int(length[1])):
            break
    return received


def test_raw_requests(service: Any, a_photo: bytes) -> None:
    for name, data, statuses in raw_requests(a_photo):
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(data)
            answer = one_answer(connection)
        status = int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None
        assert status in statuses, (name, answer[:300])
        if status != 200:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"nosniff" in head, name
            assert set(json.loads(body)["error"]) == {"code", "message", "request_id"}, name
    assert service.recognise(a_photo).status_code == 200


def test_three_megabytes_in_chunks_of_one_byte(service: Any, a_photo: bytes) -> None:
    # Bytes after a JPEG's end are no part of it.
    photo = a_photo + bytes(3_000_000 - len(a_photo))
    head = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nConnection: close\r\n"
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in photo) + b"0\r\n\r\n"
    answer = service.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + body, 120)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_many_requests_in_one_piece_are_answered_in_order(service: Any) -> None:
    one = b"GET /v1/%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /v1/labels HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = service.raw(b"".join(one % n for n in range(200)) + last)
    assert answer.count(b"HTTP/1.1 404 ") == 200
    assert answer.count(b"HTTP/1.1 200 ") == 1


def test_nonsense_behind_a_photo_does_not_cost_its_answer(service: Any, a_photo: bytes) -> None:
    head = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    photo = head + b"Content-Length: %d\r\n\r\n" % len(a_photo) + a_photo
    for nonsense in (b"\x00\x01nonsense\r\n\r\n", head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"):
        for photos in (1, 3):
            answer = service.raw(photo * photos + nonsense)
            assert answer.count(b"HTTP/1.1 200 ") == photos
            assert answer.count(b'"secret"') == photos
    # What is broken itself is told so.
    assert service.raw(head + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n").startswith(b"HTTP/1.1 400 ")


def test_slow_senders_are_told_and_hung_up_on(serve: Callable[..., Any], a_photo: bytes, receive: Receive) -> None:
    service = serve("--send-timeout", 1, "--rate", 0)
    head = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"
    form = head.replace(b"image/jpeg", b"multipart/form-data; boundary=b")
    feedback = head.replace(b"recognise", b"feedback").replace(b"image/jpeg", b"application/json")
    for name, data in (("head", head[:40]), ("body", head + a_photo[:10]), ("form", form), ("json", feedback)):
        answer = service.raw(data)
        assert answer.startswith(b"HTTP/1.1 408 "), name
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "slow"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        began = time.monotonic()
        try:  # one byte now and then does not help
            for byte in head + bytes(200):
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
                assert time.monotonic() - began < 20
        except OSError:
            pass
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        assert receive(connection).startswith(b"HTTP/1.1 408 ")  # who says nothing at all
    assert service.recognise(a_photo).status_code == 200


def test_a_refused_body_that_goes_on_is_cut_off(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--max-bytes", 100_000, "--send-timeout", 5, "--rate", 0)
    head = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head % 2_000_000)
        connection.sendall(bytes(2_000_000))  # little enough to be read to its end: the connection can go on
        answer = b""
        while not answer.endswith(b"}}"):  # its head may come before its body
            answer += connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 413 ")
        connection.sendall(head % len(a_photo) + a_photo)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head % 10**12)
        piece, sent = bytes(1 << 20), 0
        with suppress(OSError):  # broken pipe or reset
            while sent < 100 << 20:
                sent += connection.send(piece)
    assert sent < 50 << 20
    assert service.recognise(a_photo).status_code == 200
