"""What a client says a body is counts for nothing: the content decides; and each limit has a sentence of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

AVIF = b"\0\0\0\x20ftypavif\0\0\0\0mif1avif" + bytes(64)
BOUNDARY = "nothing-like-a-photo"


def form(*parts: tuple[str, bytes]) -> bytes:
    lines = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n'
        % (BOUNDARY.encode(), name.encode(), data)
        for name, data in parts
    )
    return lines + b"--%s--\r\n" % BOUNDARY.encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.mark.parametrize(
    "kind",
    [
        "image/jpeg", "image/jpg", "image/pjpeg", "image/heic", "image/svg+xml", "binary/octet-stream", "text/html",
        "application/json", "application/x-www-form-urlencoded", "multipart/form-data", FORM, "nonsense", "", None,
    ],
)  # fmt: skip
def test_a_photo_is_a_photo_under_any_type(kind: str | None, service: Any, a_photo: bytes) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = service.client.post("/v1/recognise", content=a_photo, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "multipart/form-data", FORM, None])
def test_a_form_is_a_form_under_any_type(kind: str | None, service: Any, a_photo: bytes) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    sent = form(("keep", b"false"), ("photo", a_photo), ("photo", a_photo))
    whole = service.client.post("/v1/recognise", content=sent, headers=headers)
    # In pieces so small that none shows what it is.
    drops = service.client.post(
        "/v1/recognise", content=(sent[at : at + 7] for at in range(0, len(sent), 7)), headers=headers
    )
    for answer in (whole, drops):
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["photos"]) == 2


def test_a_format_that_is_not_read_is_named_whatever_it_is_called(service: Any) -> None:
    for kind in ("image/heic", "image/jpeg", "application/octet-stream"):
        answer = service.client.post("/v1/recognise", content=AVIF, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_format")


@pytest.mark.parametrize("size", [0, 10, 5_000, 1_000_000, 9_900_000, 12_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_field_of_another_name_is_named_at_any_size(size: int, chunked: bool, service: Any) -> None:
    sent = form(("file", b"\xff\xd8\xff" + bytes(size)))
    pieces: Any = (sent[at : at + 50_000] for at in range(0, len(sent), 50_000)) if chunked else sent
    answer = service.client.post("/v1/recognise", content=pieces, headers={"Content-Type": FORM})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "bad_request")
    assert "no field named photo; found: file" in error["message"]["en"]
    assert "aucun champ nommé photo\N{NARROW NO-BREAK SPACE}; reçu\N{NO-BREAK SPACE}: file" in error["message"]["fr"]


def test_names_of_fields_are_told_only_if_they_are_plain(service: Any) -> None:
    sent = form(("image", b"x"), ("<script>", b"x"), ("keep", b"true"))
    answer = service.client.post("/v1/recognise", content=sent, headers={"Content-Type": FORM})
    assert "found: image, …, keep" in answer.json()["error"]["message"]["en"]


def _over(photo: bytes) -> Iterator[tuple[str, bytes, str]]:
    yield FORM, form(("photo", photo), ("keep", b"x" * 1001)), "The field keep is longer than 1,000 bytes"
    yield FORM, form(*[("photo", photo)] * 9), "More than 8 photos at once"
    yield FORM, form(*[(f"f{n}", b"x") for n in range(9)]), "More than 8 fields besides the photos"
    long = form(("photo", photo)).replace(
        b"\r\n\r\n", b"\r\nX-One: %s\r\nX-Two: %s\r\n\r\n" % (b"x" * 2500, b"y" * 2500), 1
    )
    yield FORM, long, "The head of a part of the form is longer than 4,096 bytes"
    yield FORM, form(("photo", bytes(11_000_000))), "The request is larger than the 10,000,000 bytes"
    yield "image/jpeg", bytes(11_000_000), "The request is larger than the 10,000,000 bytes"


@pytest.mark.parametrize("number", range(6))
def test_each_limit_has_a_sentence_of_its_own(number: int, service: Any, a_photo: bytes) -> None:
    kind, sent, sentence = list(_over(a_photo))[number]
    answer = service.client.post("/v1/recognise", content=sent, headers={"Content-Type": kind})
    assert answer.status_code == 413
    message = answer.json()["error"]["message"]
    assert message["en"].startswith(sentence)
    assert message["fr"] != message["en"]


def test_pixels_frames_and_small_bodies_have_theirs(serve: Any, a_photo: bytes, service: Any) -> None:
    small = serve("--rate", 0, "--max-pixels", 10_000)
    assert small.recognise(a_photo).status_code == 200
    wide, film = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (101, 100)).save(wide, "PNG")
    frames = [Image.new("RGB", (8, 8), (n, n, n)) for n in range(120)]
    frames[0].save(film, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    told = small.recognise(wide.getvalue()).json()["error"]["message"]["en"]
    assert told == "The photo has more than 10,000 pixels: send a smaller one."
    told = small.recognise(film.getvalue()).json()["error"]["message"]["en"]
    assert told == "The animation has more than 100 frames: send a still picture."
    answer = service.client.post("/v1/feedback", content=json.dumps({"note": "x" * 70_000}))
    assert answer.json()["error"]["message"]["en"] == (
        "The request is larger than the 65,536 bytes that are accepted at this address."
    )
