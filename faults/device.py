"""Scenario: photos on a page whose switch "On this device only" is on, at any moment; no photo may reach the service.

Chromium drives the real page of the real service. Between them is a proxy that notes every request with its body, and that holds
up, fails or damages the model where a trial wants that. A try counts as right if no request carried a photo and the visitor sees
an end: an answer made on the device, or the question what to do. Knows nothing of how the page does that.
"""

from __future__ import annotations

import base64
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from faults.hostile import attacked
from faults.photos import some
from faults.trials import Figure, SkippedError, Trials
from fruits.service.pages import routes as pages

_PATIENCE_MS: Final = 60_000
_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
)
#: Bytes that begin a JPEG, PNG or WebP, wherever they stand in a body.
_PHOTO: Final = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP", re.DOTALL)
#: What the model is made of.
_MODEL: Final = re.compile(
    r"^/(v1/model|v1/gallery/.+\.bin|static/vendor/.+|static/page\.json|static/linked/(?!visitor\.js).+)"
)
_NOT_PASSED: Final = ("connection", "transfer-encoding", "keep-alive", "content-length")

#: When photos come in, and what becomes of the model meanwhile.
MOMENTS: Final = ("just switched on", "just reloaded", "slow model", "failing model", "toggled", "ready")
WAYS: Final = ("picker", "several", "camera", "drop", "paste")

#: Gives the page photos without the browser's own windows, as a drop or a paste.
_GIVE: Final = """([way, photos]) => {
  const data = new DataTransfer();
  photos.forEach((photo, place) => {
    const bytes = Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0));
    data.items.add(new File([bytes], `${place}.jpg`, { type: "image/jpeg" }));
  });
  const about = { bubbles: true, cancelable: true };
  const drop = () => new DragEvent("drop", { ...about, dataTransfer: data });
  const paste = () => new ClipboardEvent("paste", { ...about, clipboardData: data });
  document.body.dispatchEvent(way === "drop" ? drop() : paste());
}"""


@dataclass
class Recorder:
    """A proxy to the service that notes what is asked, and spoils the model on request.

    Attributes
    ----------
    bodies : list of (str, bytes)
        Every request that had a body: its first line and the body.
    requests : int
        All of them.
    model_s : float
        Seconds that each part of the model is held up.
    failing : str
        How parts of the model fail: ``status``, ``cut``, ``damaged``; empty: not at all.
    """

    to: tuple[str, int]
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    requests: int = 0
    model_s: float = 0.0
    failing: str = ""
    url: str = ""

    @contextmanager
    def running(self) -> Iterator[Recorder]:
        """Listen until the block ends."""
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                with suppress(OSError):  # the browser is gone
                    recorder._pass_on(self)

            do_POST = do_DELETE = do_PUT = do_HEAD = do_GET  # noqa: N815 - the names that the server calls

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def photos(self) -> list[str]:
        """Return the first lines of requests that carried a photo."""
        return [
            line for line, body in list(self.bodies) if _PHOTO.search(body) or line.startswith("POST /v1/recognise")
        ]

    def _pass_on(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers.get("Content-Length") or 0))
        self.requests += 1
        if body or asked.command not in ("GET", "HEAD"):
            self.bodies.append((asked.requestline, body))
        is_model = _MODEL.match(asked.path) is not None
        if is_model and self.model_s:
            time.sleep(self.model_s)
        far = HTTPConnection(*self.to, timeout=60)
        try:
            headers = {name: value for name, value in asked.headers.items() if name.lower() not in _NOT_PASSED}
            far.request(asked.command, asked.path, body or None, headers | {"Host": "localhost"})
            answer = far.getresponse()
            data = answer.read()
        finally:
            far.close()
        status = answer.status
        spoilt = is_model and not asked.path.endswith(("page.json", ".js"))
        if spoilt and self.failing == "status":
            status, data = 500, b"no"
        elif spoilt and self.failing == "damaged":
            data = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        asked.send_response_only(status)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_PASSED:
                asked.send_header(name, value)
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        if asked.command != "HEAD":
            asked.wfile.write(data[: len(data) // 2] if spoilt and self.failing == "cut" else data)
        if spoilt and self.failing == "cut":
            asked.close_connection = True
            asked.connection.close()


@dataclass
class Try:
    """One visit with photos while the switch is on.

    Attributes
    ----------
    moment, way : str
    photos : list of Path
    after_ms : int
        How long after the moment began the photos come in.
    """

    moment: str
    way: str
    photos: list[Path]
    after_ms: int

    def make(self, page: Any, wire: Recorder, draw: random.Random) -> str:
        """Visit; return what the visitor sees in the end."""
        wire.model_s, wire.failing = 0.0, ""
        page.goto(wire.url)
        switch = page.get_by_role("switch")
        page.locator("#consent summary").click()
        switch.wait_for()
        if self.moment in ("slow model", "toggled"):
            wire.model_s = draw.uniform(0.2, 1.0)
        if self.moment == "failing model":
            wire.failing = draw.choice(("status", "cut", "damaged"))
        if self.moment == "just reloaded":
            switch.check()
            wire.model_s = draw.choice((0.0, 0.3))
            page.wait_for_timeout(draw.randrange(400))
            page.reload(wait_until="commit")
            page.wait_for_selector("#files", state="attached")
            # As early as the page listens at all: what comes before that reaches nobody.
            page.wait_for_function("() => !document.documentElement.classList.contains('unsaid')")
            page.locator("#consent summary").click()
        else:
            switch.check()
        if self.moment == "toggled":
            for _ in range(draw.randrange(1, 4)):
                switch.click()
                switch.click()
        if self.moment == "ready":
            page.wait_for_selector("text=/Ready: your photos stay/", timeout=_PATIENCE_MS)
        page.wait_for_timeout(self.after_ms)
        if not switch.is_checked():
            raise RuntimeError("the switch is off; expected it to stay as the visitor left it")
        self._give(page)
        if self.moment == "toggled":
            page.wait_for_timeout(draw.randrange(300))
            for _ in range(draw.randrange(4)):
                switch.click()
        page.wait_for_function(
            "n => document.querySelectorAll('.card').length === n && !document.querySelector('.card[aria-busy]')",
            arg=len(self.photos), timeout=_PATIENCE_MS,
        )  # fmt: skip
        page.wait_for_timeout(150)  # what is on its way comes
        return self._seen(page)

    def _give(self, page: Any) -> None:
        if self.way in ("drop", "paste"):
            page.evaluate(_GIVE, [self.way, [base64.b64encode(one.read_bytes()).decode() for one in self.photos]])
        else:
            page.set_input_files("#camera" if self.way == "camera" else "#files", [str(one) for one in self.photos])

    def _seen(self, page: Any) -> str:
        text = page.locator("body").inner_text()
        if "undefined" in text or "NaN" in text:
            raise RuntimeError("the page says 'undefined'")
        ends = {
            "answered on the device": "your photo was not sent",
            "asked what to do": "neither looked at nor sent",
            "left alone, switched off": "This photo was not sent",
        }
        cards = [page.locator(".card").nth(place).inner_text() for place in range(len(self.photos))]
        found = {end for card in cards for end, words in ends.items() if words in card}
        if len(found) != 1:
            raise RuntimeError(f"the cards say {cards}")
        (end,) = found
        return end


def device_only(trials: Trials) -> Figure:
    """Photos at random moments while "On this device only" is on, with a slow, failing or switched model."""
    figure = Figure(
        "device-only", "page: photos at random moments while “On this device only” is on; all requests are read"
    )
    number = trials.number(50, len(MOMENTS))
    photos = some(trials.photos, 4)
    with _browser() as browser, attacked(trials) as service, Recorder(service.address).running() as wire:
        for place in range(number):
            draw = trials.chance("device-only", place)
            moment, way = MOMENTS[place % len(MOMENTS)], WAYS[place // len(MOMENTS) % len(WAYS)]
            chosen = photos[: draw.randrange(2, 5) if way == "several" else 1]
            one = Try(moment, way, chosen, draw.choice((0, draw.randrange(50), draw.randrange(1000))))
            _try(figure, one, browser, wire, draw)
            trials.say(f"device-only: {figure.trials} of {number} tries, {len(figure.failed)} not right")
        if not wire.requests:
            raise RuntimeError("the proxy saw no request")
    return figure


def _try(figure: Figure, one: Try, browser: Any, wire: Recorder, draw: random.Random) -> None:
    before = len(wire.photos())
    context = browser.new_context(service_workers="block", locale="en-GB")
    try:
        seen = one.make(context.new_page(), wire, draw)
    except Exception as exc:
        figure.fail(f"{one.moment}, {one.way}: {str(exc).splitlines()[0]}")
        return
    finally:
        context.close()
    sent = wire.photos()[before:]
    if sent:
        figure.verdict.lost += len(sent)
        figure.fail(f"{one.moment}, {one.way}, after {one.after_ms} ms: {len(sent)} requests with a photo: {sent[0]}")
    else:
        figure.count(f"not sent, {seen}")


@contextmanager
def _browser() -> Iterator[Any]:
    if not pages.has_device_mode():
        raise SkippedError("no runtime of the on-device mode: make web")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not everybody has it
    except ImportError as exc:
        raise SkippedError("no playwright: pip install -e '.[dev]'") from exc
    if path is None:
        raise SkippedError("no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
