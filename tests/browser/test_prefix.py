"""The service under a path that a real proxy gives it: pages, service worker, on-device mode, API and its documentation."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

PREFIX = "/sub/fruits-2.0"


class Proxy:
    """Passes on what is asked below a path, with that path or without it; all else is not there, and noted."""

    def __init__(self, to: str, *, strips: bool) -> None:
        host, port = to.removeprefix("http://").split(":")
        self.elsewhere: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                if not self.path.startswith(PREFIX):
                    if self.path != "/favicon.ico":  # browsers ask for it by themselves
                        proxy.elsewhere.append(self.path)
                    self.send_error(404)
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.removeprefix(PREFIX) if strips else self.path
                headers = {n: value for n, value in self.headers.items() if n.lower() not in ("host", "connection")}
                # A browser that leaves a page leaves its questions, too.
                with suppress(OSError), closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
                    connection.request(self.command, path or "/", body, {**headers, "Host": "localhost"})
                    answer = connection.getresponse()
                    data = answer.read()
                    self.send_response_only(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                            self.send_header(name, value)
                    if answer.status not in (204, 304):
                        self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module", params=["taken away", "left"])
def proxied(request: pytest.FixtureRequest, serve: Callable[..., Any]) -> Iterator[tuple[Proxy, Any]]:
    """A proxy that takes its path away, as nginx with a slash at the end does, and one that leaves it.

    What only pages do is tried through the first alone.
    """
    service = serve("--rate", "0", "--root-path", f"{PREFIX}/")
    proxy = Proxy(service.url, strips=request.param == "taken away")
    yield proxy, service
    proxy.close()


def test_visitors_find_everything_below_the_path(
    proxied: tuple[Proxy, Any], visit: Callable[..., Any], recogniser: Any
) -> None:
    proxy, _ = proxied
    there = visit(to=proxy, service_workers="allow")
    page = there.open(f"{PREFIX}/")
    assert page.evaluate("async () => new URL((await navigator.serviceWorker.ready).scope).pathname") == f"{PREFIX}/"
    there.pick(*recogniser.some("Moon Pear 1"))
    there.answers(1)
    pictures = page.evaluate(
        "async () => Promise.all([...document.querySelectorAll('.card img')].map(async one => "
        "[one.src, (one.loading = 'eager', await one.decode(), one.naturalWidth)]))"
    )
    thumbnails = [address for address, width in pictures if "/v1/gallery/" in address and width > 0]
    assert thumbnails
    assert all(address.startswith(f"{proxy.url}{PREFIX}/") for address in thumbnails)
    shell = page.evaluate(
        "async () => (await (await caches.open((await caches.keys()).find(name => name.startsWith('fruits-shell')))).keys())"
        ".map(one => new URL(one.url).pathname)"
    )
    assert len(shell) > 20
    assert all(address.startswith(f"{PREFIX}/") for address in shell)
    manifest = page.evaluate(
        "async () => { const link = document.querySelector('link[rel=manifest]').href;"
        " const said = await (await fetch(link)).json();"
        " return [said.start_url, said.scope, ...said.icons.map(icon => icon.src)].map(one => new URL(one, link).pathname) }"
    )
    assert all(address.startswith(f"{PREFIX}/") for address in manifest)
    assert proxy.elsewhere == []


@pytest.mark.parametrize("proxied", ["taken away"], indirect=True)
def test_on_device_mode_works_below_the_path(
    proxied: tuple[Proxy, Any], visit: Callable[..., Any], recogniser: Any
) -> None:
    proxy, _ = proxied
    there = visit(to=proxy, service_workers="allow")
    page = there.open(f"{PREFIX}/")
    if not page.evaluate(f"async () => (await (await fetch('{PREFIX}/static/page.json')).json()).device"):
        pytest.skip("the runtime of the on-device mode was not built: make web")
    there.choices()
    page.wait_for_selector("#device-choice:not([hidden])")
    page.locator("#device").check(force=True)
    page.wait_for_function("() => localStorage.getItem('fruits.device') === 'yes'")
    there.pick(*recogniser.some("Moon Pear 1"))
    assert "your photo was not sent" in there.answers(1).first.inner_text()
    kept = page.evaluate(
        "async () => (await (await caches.open('fruits-device')).keys()).map(one => new URL(one.url).pathname)"
    )
    assert any(address.endswith("recognizer.onnx") for address in kept)
    assert all(address.startswith(f"{PREFIX}/") for address in kept)
    assert proxy.elsewhere == []


@pytest.mark.parametrize("proxied", ["taken away"], indirect=True)
def test_owner_and_deletion_are_below_the_path(proxied: tuple[Proxy, Any], visit: Callable[..., Any]) -> None:
    proxy, service = proxied
    there = visit(to=proxy)
    page = there.open(f"{PREFIX}/owner")
    page.fill("#token", service.owner)
    page.click("#sign-in button[type=submit]")
    page.wait_for_selector("#facts > *")
    page.click("nav a >> nth=1")
    page.wait_for_url(f"{proxy.url}{PREFIX}/owner/review")
    page.wait_for_selector("#signed-in:not([hidden])")
    page.click("nav a >> nth=0")
    page.wait_for_url(f"{proxy.url}{PREFIX}/owner")
    page.click(".wordmark a")
    page.wait_for_url(f"{proxy.url}{PREFIX}/")
    there.open(f"{PREFIX}/delete")
    page.click("main p a")
    page.wait_for_url(f"{proxy.url}{PREFIX}/")
    assert proxy.elsewhere == []


def test_api_and_its_documentation_are_below_the_path(
    proxied: tuple[Proxy, Any], visit: Callable[..., Any], recogniser: Any
) -> None:
    proxy, _ = proxied
    with urllib.request.urlopen(f"{proxy.url}{PREFIX}/openapi.json") as answer:
        described = json.load(answer)
    assert described["servers"] == [{"url": PREFIX}]
    with urllib.request.urlopen(f"{proxy.url}{PREFIX}/v1/model") as answer:
        about = json.load(answer)
    for address in (about["recognizer"], about["gallery"]["features"]):
        assert address.startswith(f"{PREFIX}/v1/")
        with urllib.request.urlopen(proxy.url + address) as answer:
            assert answer.status == 200
    there = visit(to=proxy)
    there.page.goto(f"{proxy.url}{PREFIX}/docs")
    if "was not built" in there.page.content():
        pytest.skip("Swagger UI was not built: make web")
    _try_labels(there.page)
    assert proxy.elsewhere == []


def test_documentation_is_read_and_tried_without_any_other_host(service: Any, visit: Callable[..., Any]) -> None:
    there = visit()  # notes what the policy refuses, errors of scripts, and requests to anywhere else
    there.page.goto(f"{service.url}/docs")
    if "was not built" in there.page.content():
        pytest.skip("Swagger UI was not built: make web")
    _try_labels(there.page)
    there.shot("docs", full_page=True)
    page = there.page
    page.click("#operations-photos-feedback_v1_feedback_post .opblock-summary-control, "
               "[id*=feedback] .opblock-summary-control")  # fmt: skip
    page.wait_for_selector("text=it was still green")


def _try_labels(page: Any) -> None:
    page.wait_for_selector(".opblock")
    assert page.locator(".opblock").count() > 12
    page.click("[id*=v1_labels] .opblock-summary-control")
    page.click("[id*=v1_labels] .try-out__btn")
    page.click("[id*=v1_labels] .execute")
    page.wait_for_selector("[id*=v1_labels] .live-responses-table .response-col_status:has-text('200')")
