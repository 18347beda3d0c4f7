"""Who may use which route: every route of the application, with every kind of token, with and without ``--tokens-only``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fruits.service import ServiceConfig, create_app
from fruits.service.http.limits.access import rule_of

#: Method and route; then the statuses for nobody, a wrong token, a program's and the owner's: with --tokens-only, and without.
#: 404 and 422 stand for "let in": what is asked for is not there, or makes no sense.
_PAGE = ((200, 401, 200, 200), (200, 401, 200, 200))
_READ = ((401, 401, 200, 200), (200, 401, 200, 200))
_OWNER = ((401, 401, 403, 200), (401, 401, 403, 200))
_OWNER_404 = ((401, 401, 403, 404), (401, 401, 403, 404))
TABLE: dict[tuple[str, str], tuple[tuple[int, ...], tuple[int, ...]]] = {
    ("POST", "/v1/recognise"): ((401, 401, 200, 200), (200, 401, 200, 200)),
    ("POST", "/v1/feedback"): ((401, 401, 404, 404), (404, 401, 404, 404)),
    # What was given can be taken back by its secret alone.
    ("DELETE", "/v1/submissions/{submission_id}"): ((404, 401, 404, 404), (404, 401, 404, 404)),
    ("GET", "/v1/submissions/{submission_id}"): ((404, 401, 404, 404), (404, 401, 404, 404)),
    ("GET", "/v1/submissions/{submission_id}/photo"): ((404, 401, 404, 404), (404, 401, 404, 404)),
    ("GET", "/v1/labels"): _READ,
    ("GET", "/v1/model"): _READ,
    ("GET", "/v1/model/{identity}/recognizer.onnx"): _READ,
    ("GET", "/v1/gallery/{identity}/{number}.jpg"): _READ,
    ("GET", "/v1/gallery/{identity}/features.bin"): _READ,
    ("GET", "/v1/owner/summary"): _OWNER,
    ("GET", "/v1/owner/submissions"): _OWNER,
    ("GET", "/v1/owner/submissions/{submission_id}/photo"): _OWNER_404,
    ("POST", "/v1/owner/submissions/{submission_id}/review"): _OWNER_404,
    ("DELETE", "/v1/owner/submissions/{submission_id}"): _OWNER_404,
    **{
        ("GET", f"/v1/owner/{path}"): _OWNER
        for path in ("test-set", "unknown", "precision", "next-run", "manifest")
    },
    ("GET", "/metrics"): _OWNER,
    ("GET", "/healthz"): ((200,) * 4, (200,) * 4),
    ("GET", "/readyz"): ((200,) * 4, (200,) * 4),
    **{
        ("GET", path): _PAGE
        for path in ("/", "/delete", "/owner", "/owner/review", "/owner/improve", "/manifest.webmanifest", "/sw.js",
                     "/openapi.json", "/docs", "/known", "/static/{name:path}")
    },
}  # fmt: skip
_BODIES = {
    "/v1/feedback": {"json": {"id": "A" * 22, "secret": "x", "right": True}},
    "/v1/owner/submissions/{submission_id}/review": {"json": {"decision": "refused"}},
}


def _routes(finished_run: Any, tmp_path: Path) -> Iterator[tuple[str, str]]:
    app = create_app(ServiceConfig(out=str(finished_run.out), data=str(tmp_path / "data"), port=0))
    waiting = list(app.router.routes)
    while waiting:
        route: Any = waiting.pop()
        if hasattr(route, "original_router"):  # FastAPI keeps routers that were included as they are
            prefix = getattr(route.include_context, "prefix", "")
            waiting += [_Prefixed(prefix, inner) for inner in route.original_router.routes]
            continue
        for method in route.methods or ():
            if method not in ("HEAD", "OPTIONS"):
                yield method, route.path


class _Prefixed:
    def __init__(self, prefix: str, route: Any) -> None:
        self.methods, self.path = route.methods, prefix + route.path


def test_every_route_is_in_the_table(finished_run: Any, tmp_path: Path) -> None:
    found = set(_routes(finished_run, tmp_path))
    assert ("GET", "/v1/owner/summary") in found
    assert found == set(TABLE), "a route was added or taken away: say here who may use it"


@pytest.fixture(scope="module", params=[0, 1], ids=["tokens only", "open"])
def tried(request: pytest.FixtureRequest, finished_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service, and what the four say who ask."""
    started = request.getfixturevalue("start_service")
    service = started(tmp_path_factory.mktemp("rights"), "--rate", 0, *([] if request.param else ["--tokens-only"]))
    tokens = [None, "fruits_" + "x" * 43, *(service.make_token(role) for role in ("api", "owner"))]
    yield request.param, service, tokens
    service.stop()


@pytest.mark.parametrize(("method", "route"), sorted(TABLE))
def test_routes_and_tokens(method: str, route: str, tried: Any, a_photo: bytes) -> None:
    which, service, tokens = tried
    identity = service.identity(tokens[-1])
    path = route.replace(":path", "").format(submission_id="A" * 22, identity=identity, number=0, name="style.css")
    more: dict[str, Any] = {"content": a_photo} if route == "/v1/recognise" else dict(_BODIES.get(route, {}))
    statuses = []
    for token in tokens:
        headers = {"X-Fruits-Secret": "x", "X-Forwarded-For": "192.0.2.1"}
        headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
        statuses.append(service.client.request(method, path, headers=headers, **more).status_code)
    assert tuple(statuses) == TABLE[method, route][which]


def test_addresses_that_nobody_thought_of_want_a_token() -> None:
    for path in ("/v1", "/v1/", "/v1/new", "/v1/new/thing", "/v1/recognise/", "/v1/recognise2", "/v1/submissions"):
        assert rule_of(path) in ("ask", "own"), path
    assert rule_of("/v1/ownership") == "ask"


def test_what_is_read_is_counted_apart_and_by_its_size(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 3)
    found = service.client.get("/v1/model").json()
    size = len(service.client.get(found["recognizer"]).content)
    statuses: list[int] = []
    while not statuses or (statuses[-1] == 200 and len(statuses) < 200):
        statuses.append(service.client.get(found["recognizer"]).status_code)
    assert statuses[-1] == 429
    assert len(statuses) <= 200 // (size // 65536) + 2, "200 reads a minute at the least, however low the rate"
    # Who has read so much may still ask.
    assert service.recognise(a_photo).status_code == 200
    assert service.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": "fruits.example.org"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-Port": "443"},
        {"Forwarded": "for=192.0.2.1"},
        {"Via": "1.1 proxy"},
        {"X-Real-IP": "192.0.2.1"},
        {"CF-Connecting-IP": "192.0.2.1"},
        {"X-Amzn-Trace-Id": "Root=1"},
        {"Host": "fruits.example.org"},
    ],
    ids=str,
)
def test_metrics_are_not_shown_through_a_proxy_that_says_anything(headers: dict[str, str], named: Any) -> None:
    assert named.client.get("/metrics").status_code == 200
    assert named.client.get("/metrics", headers=headers).status_code == 401


@pytest.fixture(scope="module")
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service that goes by another name, too."""
    service = request.getfixturevalue("start_service")(
        tmp_path_factory.mktemp("named"), "--rate", 0, "--allow-host", "fruits.example.org"
    )
    yield service
    service.stop()


@pytest.mark.parametrize("proxies", ["127.0.0.1/32", "::ffff:127.0.0.1", "::ffff:127.0.0.0/104"])
def test_visitors_behind_a_proxy_over_both_families_are_told_apart(
    proxies: str, serve: Callable[..., Any], a_photo: bytes
) -> None:
    # A socket for both families sees the proxy as ::ffff:127.0.0.1.
    service = serve("--host", "::", "--allow-host", "*", "--trusted-proxy", proxies, "--rate", 1)

    def status(forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return httpx.post(
            f"http://127.0.0.1:{service.port}/v1/recognise", content=a_photo, headers=headers, timeout=60
        ).status_code

    assert [status("192.0.2.1"), status("192.0.2.1"), status("::ffff:192.0.2.1"), status("192.0.2.1:5678")] == [
        200, 429, 429, 429,
    ]  # fmt: skip
    assert [status("192.0.2.2:1234"), status("[2001:db8::1]:443"), status("2001:db8::2")] == [200, 200, 429]
