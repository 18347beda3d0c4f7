"""What the API answers: to photos, to feedback and deletion, to tokens and too many requests, to this machine and to others."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from fruits.messages import LANGUAGES
from fruits.photos.decoding.images import read_size, to_network_input
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import OUTCOMES
from fruits.recogniser.explain import relative
from fruits.recogniser.recogniser import load
from fruits.service.http.routes import schemas
from fruits.service.submissions.database import Database
from fruits.service.submissions.tokens import Tokens

MARK = b"planted-4711"


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error in an answer, whose shape is always the same."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "request_id"}
    assert set(body["error"]["message"]) == set(LANGUAGES)
    assert all(body["error"]["message"].values())
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    found: dict[str, Any] = body["error"]
    return found


def tagged_jpeg(photo: bytes) -> bytes:
    """The same photo with GPS tags, a comment and bytes after its end."""
    exif = Image.Exif()
    exif[0x010E] = MARK.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0)})
    out = BytesIO()
    Image.open(BytesIO(photo)).save(out, "JPEG", quality=95, exif=exif, comment=MARK, icc_profile=MARK * 9)
    return out.getvalue() + MARK


def test_photo_as_body_is_answered_as_by_the_bundle(service: Any, finished_run: Any) -> None:
    recogniser = bundles.load(finished_run.out)
    for path in sorted(finished_run.photos.glob("Test/*/*.jpg"))[::7]:
        expected = recogniser.recognise([path.read_bytes()])[0]
        answer = service.recognise(path.read_bytes())
        assert answer.status_code == 200
        body = answer.json()
        (got,) = body["photos"]
        assert body["model"] == {"identity": recogniser.identity, "labels": len(recogniser.labels)}
        assert got["outcome"] == expected.outcome
        assert (got["kind"] or "", got["variety"] or "") == (expected.kind, expected.variety)
        assert got["probability"] == pytest.approx(expected.probability, abs=1e-4)
        assert [one["label"] for one in got["labels"]] == list(expected.labels)
        assert [one["kind"] for one in got["kinds"]] == [kind for kind, _, _ in expected.kinds]
        assert got["ood_score"] == pytest.approx(expected.ood_score, abs=1e-3)
        assert len(got["id"]) == 22
        assert got["kept"] is False
        assert min(got["milliseconds"].values()) >= 0
        assert (got["name"] is None) == (got["outcome"] in ("unsure", "unknown"))


def test_answers_do_not_depend_on_who_shares_a_batch(service: Any, finished_run: Any) -> None:
    photos = [path.read_bytes() for path in sorted(finished_run.photos.glob("Test/*/*.jpg"))[:8]]
    alone = [service.recognise(photo).json()["photos"][0] for photo in photos]
    files = [("photo", ("x", photo)) for photo in photos]
    together = service.client.post("/v1/recognise", files=files).json()["photos"]
    for one, other in zip(alone, together, strict=True):
        for same in ("outcome", "kind", "variety", "name", "advice", "kept"):
            assert one[same] == other[same]
        # Sums of float32 in another order.
        assert one["ood_score"] == pytest.approx(other["ood_score"], abs=1e-4)
        for shares in ("kinds", "labels"):
            assert [share["probability"] for share in one[shares]] == pytest.approx(
                [share["probability"] for share in other[shares]], abs=1e-4
            )


def test_map_says_where_an_answer_comes_from_to_those_who_ask(service: Any, finished_run: Any, a_photo: bytes) -> None:
    asked = service.recognise(a_photo, explain="true").json()["photos"][0]
    shown = asked["map"]
    assert set(shown) == {"rows", "columns", "values", "fit"}
    places = bundles.load(finished_run.out).explain(a_photo).places
    assert (shown["rows"], shown["columns"]) == places.shape
    assert shown["fit"] == bundles.load(finished_run.out).preprocessing.fit
    np.testing.assert_allclose(np.reshape(shown["values"], places.shape), relative(places), atol=2e-3)
    assert max(shown["values"]) == 1
    assert min(shown["values"]) >= 0
    plain = service.recognise(a_photo).json()["photos"][0]
    assert "map" not in plain
    assert [one["probability"] for one in plain["labels"]] == [one["probability"] for one in asked["labels"]]
    files = [("photo", ("a", a_photo)), ("photo", ("b", b"text"))]
    first, second = service.client.post("/v1/recognise", files=files, data={"explain": "true"}).json()["photos"]
    assert first["map"] == shown
    assert "map" not in second
    schema = service.client.get("/openapi.json").json()
    assert set(schema["components"]["schemas"]["Map"]["properties"]) == set(shown)


def test_regions_and_parts_are_those_of_the_bundle(service: Any, finished_run: Any, a_photo: bytes) -> None:
    recogniser = load(finished_run.out)
    asked = service.recognise(a_photo, regions="true").json()["photos"][0]
    expected = recogniser.regions(a_photo)
    assert expected
    assert [one["kinds"][0]["kind"] for one in asked["regions"]] == [one.answer.kinds[0][0] for one in expected]
    for shown, region in zip(asked["regions"], expected, strict=True):
        np.testing.assert_allclose(shown["box"], region.box, atol=1e-4)
        assert shown["outcome"] == region.answer.outcome
        assert shown["probability"] == pytest.approx(region.answer.probability, abs=1e-4)
    plain = service.recognise(a_photo).json()["photos"][0]
    assert "regions" not in plain
    assert "box" not in plain
    assert [one["probability"] for one in plain["labels"]] == [one["probability"] for one in asked["labels"]]
    part = service.recognise(a_photo, box="0.1,0,0.9,.75").json()["photos"][0]
    answer = recogniser.predict_part(a_photo, (0.1, 0, 0.9, 0.75))
    assert part["box"] == [0.1, 0, 0.9, 0.75]
    assert part["outcome"] == answer.outcome
    assert part["labels"][0]["label"] == answer.labels[0]
    assert part["labels"][0]["probability"] == pytest.approx(answer.probabilities[0], abs=1e-4)


def test_answers_with_regions_are_as_the_api_describes_them(service: Any, a_photo: bytes) -> None:
    for query in ({"regions": "true", "explain": "true"}, {"box": "0,0,1,1"}, {}):
        answer = service.recognise(a_photo, **query)
        described = schemas.Recognition.model_validate_json(answer.content, strict=True)
        assert described.model_dump(mode="json", exclude_unset=True) == answer.json()
        assert answer.json()["photos"][0].keys() <= schemas.Answer.model_fields.keys()
    openapi = service.client.get("/openapi.json").json()
    operation = openapi["paths"]["/v1/recognise"]["post"]
    described_parameters = {one["name"]: one["schema"] for one in operation["parameters"]}
    assert described_parameters["regions"] == {"type": "string", "enum": ["true", "false"]}
    pattern = described_parameters["box"]["pattern"]
    assert all(re.fullmatch(pattern, good) for good in ("0,0,1,1", "0.5,0,1,0.5", ".25,0.1,0.75,1.0"))
    assert not any(re.fullmatch(pattern, bad) for bad in ("", "0,0,1", "0,0,1,2", "-1,0,1,1", "a,b,c,d"))
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert {"regions", "box"} <= form.keys()
    region = openapi["components"]["schemas"]["Region"]["properties"]
    assert {"box", "outcome", "kinds", "probability", "advice"} <= region.keys()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"box": "0,0,1"}, "left, top, right, bottom"),
        ({"box": ""}, "left, top, right, bottom"),
        ({"box": "0.6,0,0.4,1"}, "left before right"),
        ({"box": "0,0,1,1.5"}, "from 0 to 1"),
        ({"box": "nan,0,1,1"}, "from 0 to 1"),
        ({"box": "0,0,0.001,1"}, "at least 0.02 apart"),
        ({"box": "0,0,1,1", "keep": "true"}, "box is not possible with keep=true"),
        ({"box": "0,0,1,1", "regions": "true"}, "box is not possible with regions=true"),
        ({"regions": "yes"}, "regions: expected true or false"),
    ],
)
def test_bad_box_is_refused_in_a_sentence(service: Any, a_photo: bytes, query: dict[str, str], said: str) -> None:
    answer = service.recognise(a_photo, **query)
    assert answer.status_code == 422
    error = error_of(answer)
    assert error["code"] == "bad_request"
    assert said in error["message"]["en"]
    assert len(set(error["message"].values())) == len(LANGUAGES)


def test_box_is_for_one_photo_and_regions_for_each(service: Any, a_photo: bytes) -> None:
    files = [("photo", ("a", a_photo)), ("photo", ("b", b"text")), ("photo", ("c", a_photo))]
    refused = service.client.post("/v1/recognise", files=files, data={"box": "0,0,1,1"})
    assert refused.status_code == 422
    assert "send one" in error_of(refused)["message"]["en"]
    first, bad, third = service.client.post("/v1/recognise", files=files, data={"regions": "true"}).json()["photos"]
    assert first["regions"] == third["regions"]
    assert bad["error"]["code"] == "not_an_image"
    alone = service.client.post("/v1/recognise", files=files[:1], data={"box": "0,0,1,0.5"}).json()["photos"][0]
    assert alone["box"] == [0, 0, 1, 0.5]
    broken = service.recognise(a_photo[: len(a_photo) // 2], regions="true")
    assert error_of(broken)["code"] == "damaged"


def test_similar_photos_have_thumbnails(service: Any, a_photo: bytes) -> None:
    got = service.recognise(a_photo).json()["photos"][0]
    similar = got["similar"]
    assert len(similar) == 6
    assert [one["similarity"] for one in similar] == sorted((one["similarity"] for one in similar), reverse=True)
    for one in similar:
        answer = service.client.get(one["thumbnail"])
        assert answer.headers["content-type"] == "image/jpeg"
        assert "immutable" in answer.headers["cache-control"]
        assert max(Image.open(BytesIO(answer.content)).size) <= 112
    again = service.client.get(similar[0]["thumbnail"], headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    for wrong in ("/v1/gallery/0123456789abcdef/0.jpg", similar[0]["thumbnail"].rpartition("/")[0] + "/99999.jpg"):
        assert error_of(service.client.get(wrong))["code"] == "not_found"


def test_several_photos_in_a_form_one_of_them_bad(service: Any, a_photo: bytes) -> None:
    files = [("photo", ("../../etc/passwd", a_photo)), ("photo", ("b.avif", b"\x00\x00\x00\x18ftypavif" + bytes(50)))]
    answer = service.client.post("/v1/recognise", files=files, data={"lang": "fr", "keep": "false"})
    assert answer.status_code == 200
    good, bad = answer.json()["photos"]
    assert good["outcome"] in OUTCOMES
    assert bad["name"] == "photo 2"
    assert bad["error"]["code"] == "unsupported_format"
    assert set(bad["error"]["message"]) == set(LANGUAGES)


def test_labels_and_model_say_the_same_as_the_bundle(service: Any, finished_run: Any) -> None:
    bundle = bundles.load(finished_run.out)
    labels = service.client.get("/v1/labels").json()
    assert [one["label"] for one in labels["labels"]] == bundle.labels
    assert [one["kind"] for one in labels["kinds"]] == list(bundle.taxonomy.kind_ids)
    model = service.client.get("/v1/model").json()
    network = service.client.get(model["recognizer"])
    assert "immutable" in network.headers["cache-control"]
    assert hashlib.sha256(network.content).hexdigest() == model["sha256"]
    assert len(network.content) == model["bytes"]
    photo = min(finished_run.photos.glob("Test/*/*.jpg")).read_bytes()
    pixels = to_network_input(photo, bundle.preprocessing).pixels[None]
    session = ort.InferenceSession(network.content, providers=["CPUExecutionProvider"])
    probabilities = session.run(["probabilities"], {"pixels": pixels})[0][0]
    best = service.recognise(photo).json()["photos"][0]["labels"][0]
    assert np.isclose(probabilities[bundle.labels.index(best["label"])], best["probability"], atol=1e-3)


def test_feedback_and_deletion_need_the_secret(service: Any, a_photo: bytes) -> None:
    got = service.recognise(a_photo).json()["photos"][0]
    said = {"id": got["id"], "secret": got["secret"], "right": False, "label": "something else", "note": "<b>x</b>"}
    assert service.client.post("/v1/feedback", json=said).status_code == 204
    for wrong in ({"secret": "x" * 32}, {"id": "A" * 22}):
        answer = service.client.post("/v1/feedback", json=said | wrong)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    where = f"/v1/submissions/{got['id']}"
    assert service.client.delete(where, headers={"X-Fruits-Secret": "x" * 32}).status_code == 404
    assert service.client.delete(where).status_code == 422
    assert service.client.delete(where, headers={"X-Fruits-Secret": got["secret"]}).status_code == 204
    assert service.client.delete(where, headers={"X-Fruits-Secret": got["secret"]}).status_code == 404
    assert service.client.post("/v1/feedback", json=said).status_code == 404


def test_a_photo_is_kept_only_with_consent_and_holds_nothing_of_the_upload(
    serve: Callable[..., Any], a_photo: bytes
) -> None:
    service = serve()
    photo = tagged_jpeg(a_photo)
    before = service.recognise(photo).json()["photos"][0]
    assert not list((service.data / "photos").glob("*"))
    kept = service.recognise(photo, keep="true").json()["photos"][0]
    form = service.client.post("/v1/recognise", files={"photo": ("GPS.jpg", photo)}, data={"keep": "true"})
    assert (before["kept"], kept["kept"], form.json()["photos"][0]["kept"]) == (False, True, True)
    stored = sorted((service.data / "photos").rglob("*.jpg"))
    assert len(stored) == 2
    assert read_size(stored[0].read_bytes()) == read_size(a_photo)
    for path in service.data.rglob("*"):
        assert path.is_dir() or MARK not in path.read_bytes()
    assert MARK.decode() not in service.log_text()
    assert "GPS" not in service.log_text()
    secret = {"X-Fruits-Secret": kept["secret"]}
    assert service.client.delete(f"/v1/submissions/{kept['id']}", headers=secret).status_code == 204
    assert len(list((service.data / "photos").rglob("*.jpg"))) == 1


def test_receipts_are_committed_before_they_are_given(service: Any, a_photo: bytes) -> None:
    got = service.recognise(a_photo, lang="fr").json()["photos"][0]
    with sqlite3.connect(f"file:{service.data / 'service.db'}?mode=ro", uri=True) as connection:
        row = connection.execute("select state, outcome, has_photo from submissions where id = ?", [got["id"]])
        assert row.fetchone() == ("kept", None, 0), "a receipt and nothing of the answer"
    connection.close()


def test_every_answer_carries_the_headers_that_protect(service: Any, a_photo: bytes) -> None:
    answers = [
        service.recognise(a_photo),
        *(service.client.get(path) for path in ("/", "/v1/labels", "/healthz", "/nothing", "/openapi.json")),
        service.client.put("/v1/recognise"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe-inline" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "microphone=()" in answer.headers["permissions-policy"]
        assert "set-cookie" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


def test_health_and_metrics(service: Any, a_photo: bytes) -> None:
    service.recognise(a_photo)
    service.recognise(b"no photo")
    assert service.client.get("/healthz").json() == {"alive": True}
    assert service.client.get("/readyz").json() == {"ready": True}
    text = service.client.get("/metrics").text
    for expected in (
        'fruits_requests_total{route="/v1/recognise",status="200"}',
        'fruits_errors_total{code="not_an_image"}',
        'fruits_photos_rejected_total{code="not_an_image"}',
        "fruits_recognise_seconds_bucket",
        "fruits_model_info",
        "process_resident_memory_bytes",
    ):
        assert expected in text
    through_a_proxy = service.client.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"})
    assert (through_a_proxy.status_code, error_of(through_a_proxy)["code"]) == (401, "unauthorised")


def test_head_is_answered_like_get_without_the_body(service: Any) -> None:
    for path, status in (("/healthz", 200), ("/v1/labels", 200), ("/", 200), ("/v1/owner/summary", 401), ("/no", 404)):
        got, asked = service.client.get(path), service.client.head(path)
        assert got.status_code == asked.status_code == status
        assert asked.content == b""
        assert asked.headers["content-length"] == str(len(got.content)) or "content-encoding" in asked.headers
    assert service.client.head("/v1/feedback").status_code == 405
    assert service.raw(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n")


def test_what_was_wrong_with_a_request_is_said_in_every_language(service: Any, a_photo: bytes) -> None:
    for answer, en, fr in (
        (
            service.recognise(a_photo, lang="de"),
            f"(lang: expected {' or '.join(LANGUAGES)}).",
            f"(lang\N{NO-BREAK SPACE}: il faut {' ou '.join(LANGUAGES)}).",
        ),
        (service.client.post("/v1/feedback", json={"id": "no"}), "(see body.id).", "(voir body.id)."),
    ):
        message = error_of(answer)["message"]
        assert message["en"].endswith(en)
        assert message["fr"].endswith(fr)


def test_openapi_describes_what_there_is(service: Any) -> None:
    document = service.client.get("/openapi.json").json()
    assert {"/v1/recognise", "/v1/feedback", "/v1/submissions/{submission_id}", "/v1/labels", "/v1/model"} <= set(
        document["paths"]
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description" if "description" in operation else "summary"]
            assert path.startswith("/v1/owner") or {"4XX", "503"} <= set(operation["responses"])
    (token,) = document["components"]["securitySchemes"]
    assert document["paths"]["/v1/owner/summary"]["get"]["security"] == [{token: []}]
    for path, method in (("/v1/recognise", "post"), ("/v1/feedback", "post"), ("/metrics", "get")):
        assert document["paths"][path][method]["security"] == [{}, {token: []}]
    sent = document["paths"]["/v1/recognise"]["post"]["requestBody"]["content"]
    assert {"image/jpeg", "image/png", "image/webp", "multipart/form-data"} <= set(sent)


def test_log_lines_are_json_and_hold_no_address(service: Any, a_photo: bytes) -> None:
    service.recognise(a_photo)
    service.wait_until(lambda: bool(service.log("request")))
    line = service.log("request")[-1]
    assert {"time", "level", "request_id", "method", "route", "status", "ms", "client"} <= set(line)
    assert "127.0.0.1" not in json.dumps(line)


def test_rate_limit_by_address_and_by_token(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 3, "--token-rate", 5)
    assert [service.recognise(a_photo).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    limited = service.recognise(a_photo)
    assert error_of(limited)["code"] == "rate_limited"
    assert 1 <= int(limited.headers["retry-after"]) <= 60
    assert service.client.get("/healthz").status_code == 200  # never limited
    tokens = Tokens(Database.open(f"sqlite:///{service.data / 'service.db'}"))
    client = service.client
    plain, slow = tokens.add("plain"), tokens.add("slow", rate_per_minute=1)

    def ask(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
        return int(client.post("/v1/recognise", content=a_photo, headers=headers).status_code)

    assert [ask(plain) for _ in range(6)] == [200] * 5 + [429]
    assert [ask(slow) for _ in range(2)] == [200, 429]


def test_tokens(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--tokens-only", "--rate", 0)
    tokens = Tokens(Database.open(f"sqlite:///{service.data / 'service.db'}"))
    program, owner = tokens.add("program"), tokens.add("me", "owner")
    photo = {"content": a_photo, "headers": {"Content-Type": "image/jpeg"}}

    def ask(method: str, path: str, authorization: str, **given: Any) -> httpx.Response:
        headers = given.pop("headers", {}) | ({"Authorization": authorization} if authorization else {})
        found: httpx.Response = service.client.request(method, path, headers=headers, **given)
        return found

    assert ask("POST", "/v1/recognise", "", **photo).status_code == 401
    for wrong in ("Bearer x", f"Basic {program}", f"Bearer {program}x", "Bearer", "Bearer \xff"):
        answer = ask("POST", "/v1/recognise", wrong.encode("latin-1"), **photo)  # type: ignore[arg-type]
        assert (answer.status_code, error_of(answer)["code"]) == (401, "unauthorised")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask("POST", "/v1/recognise", f"Bearer {program}", **photo).status_code == 200
    assert ask("POST", "/v1/recognise", f"bearer {owner}", **photo).status_code == 200
    summary = "/v1/owner/summary"
    assert ask("GET", summary, "").status_code == 401
    assert error_of(ask("GET", summary, f"Bearer {program}"))["code"] == "forbidden"
    told = ask("GET", summary, f"Bearer {owner}").json()
    assert told["total"]["photos"] == 2
    elsewhere = {"headers": {"X-Forwarded-For": "203.0.113.9"}}
    assert ask("GET", "/metrics", f"Bearer {program}", **elsewhere).status_code == 403
    assert ask("GET", "/metrics", f"Bearer {owner}", **elsewhere).status_code == 200
    assert service.client.get("/v1/labels").status_code == 401, "every route is behind the same middleware"
    assert ask("GET", "/v1/labels", f"Bearer {program}").status_code == 200


def test_unknown_hosts_are_refused_and_named_ones_taken(serve: Callable[..., Any]) -> None:
    service = serve("--allow-host", "fruits.example.org", "--allow-host", "*.example.com", "--rate", 0)

    def ask(host: str, path: str = "/v1/labels") -> httpx.Response:
        found: httpx.Response = service.client.get(path, headers={"Host": host})
        return found

    for known in ("localhost", "127.0.0.1:99", "[::1]:80", "FRUITS.example.org", "a.b.example.com:443"):
        assert ask(known).status_code == 200
    for unknown in ("evil.test", "example.com", "xexample.com", "fruits.example.org.evil.test", "localhost@evil.test",
                    "", "a b", "localhost:80:80", "localhost:x", "[::1"):  # fmt: skip
        assert error_of(ask(unknown))["code"] == "unknown_host"
    assert ask("10.0.0.7", "/healthz").status_code == 200  # load balancers ask by address
    assert ask("10.0.0.7", "/readyz").status_code == 200


def test_other_sites_only_if_named(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--allow-origin", "https://shop.example", "--rate", 0)
    options = {"Access-Control-Request-Method": "POST"}
    for origin, allowed in (("https://shop.example", True), ("https://evil.example", False)):
        answer = service.client.options("/v1/recognise", headers=options | {"Origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        sent = service.client.post(
            "/v1/recognise", content=a_photo, headers={"Origin": origin, "Content-Type": "image/jpeg"}
        )
        assert sent.status_code == 200
        assert (sent.headers.get("access-control-allow-origin") == origin) is allowed
        assert "access-control-allow-credentials" not in sent.headers
    for headers in ({}, {"Origin": "https://shop.example"}):  # one address, two answers: no store may mix them up
        for path in ("/v1/labels", "/"):
            assert "Origin" in service.client.get(path, headers=headers).headers["vary"]


def test_address_behind_a_trusted_proxy(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--trusted-proxy", "127.0.0.0/8", "--rate", 1)
    header = "X-Forwarded-For"

    def ask(forwarded: str) -> int:
        answer = service.client.post(
            "/v1/recognise", content=a_photo, headers={header: forwarded, "Content-Type": "image/jpeg"}
        )
        return int(answer.status_code)

    assert [ask("203.0.113.1"), ask("203.0.113.1"), ask("203.0.113.2")] == [200, 429, 200]
    # What a client wrote itself stands further left and counts for nothing.
    assert [ask("198.51.100.1, 203.0.113.1"), ask("198.51.100.1, 203.0.113.3")] == [429, 200]
    # Some proxies add a line of their own after the client's.
    lines = [(header, "198.51.100.2"), (header, "203.0.113.1"), ("Content-Type", "image/jpeg")]
    assert service.client.post("/v1/recognise", content=a_photo, headers=lines).status_code == 429
    # One household has a /64.
    assert [ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8:1::1")] == [200, 429, 200]


def test_forwarded_address_of_an_unknown_proxy_is_not_trusted(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 1)
    headers = {"Content-Type": "image/jpeg"}
    codes = [
        service.client.post("/v1/recognise", content=a_photo, headers=headers | {"X-Forwarded-For": f"203.0.113.{n}"})
        for n in range(2)
    ]
    assert [answer.status_code for answer in codes] == [200, 429]


def test_check_recognises_without_a_server(fruits: Callable[..., Any], finished_run: Any, tmp_path: Path) -> None:
    done = fruits("serve", finished_run.out, "--check", "--json")
    assert done.code == 0
    told = done.json()
    assert told["model"] == bundles.load(finished_run.out).identity
    assert told["outcome"] in OUTCOMES
    assert not (finished_run.out / "service").exists()
    assert "is fine" in fruits("serve", finished_run.out, "--check").stdout
    failed = fruits("serve", tmp_path, "--check")
    assert failed.code == 1
    assert "no bundle" in failed.stderr


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--host", "0.0.0.0"), 2, "--allow-host"),
        (("--port", "70000"), 2, "port"),
        (("--allow-host", "a b"), 2, "host"),
        (("--allow-origin", "shop.example"), 2, "origin"),
        (("--trusted-proxy", "x"), 2, "proxy"),
        (("--data", "s3://bucket/x"), 2, "folder"),
        (("--database", "mysql://x"), 2, "database"),
        (("--host", "203.0.113.77", "--allow-host", "*"), 2, "cannot listen"),
    ],
)
def test_impossible_choices_are_said_in_one_sentence(
    fruits: Callable[..., Any], finished_run: Any, options: tuple[str, ...], code: int, says: str
) -> None:
    done = fruits("serve", finished_run.out, "--port", "0", *options)
    assert done.code == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_nothing_fails_with_a_sentence(fruits: Callable[..., Any], tmp_path: Path) -> None:
    done = fruits("serve", tmp_path / "nothing", "--port", "0")
    assert done.code == 1
    assert "no bundle" in done.stderr
    assert "Traceback" not in done.stderr
