"""A recogniser with difficult names, the real service on it, and Chromium on the service's pages."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.commands import Command, Commands
from tests.once import once_for_all_workers

from fruits.config import RunConfig
from fruits.photos.generated import generator
from fruits.training import pipeline

#: A label, so the name of a folder, that would do something if it were taken for HTML.
HOSTILE_LABEL = "<img src=x onerror=document.title='owned'>"
#: Its names: a script, and marks that turn around what stands beside them.
HOSTILE_EN = "<script>document.title='owned'</script> \u202eelppa\u202c & co"
HOSTILE_FR = "<b>pomme</b> \u2067\"'>&amp;"
LINE_EN = "Picked in early autumn; it keeps all winter. <i>Really.</i>"
LINE_FR = "Cueillie au début de l'automne, elle se garde tout l'hiver. <i>Vraiment.</i>"
_COLUMNS = ("label", "kind", "variety", "en", "fr", "line_en", "line_fr")
_NAMES = (
    ("", "apfelino", "", "Apfelino", "Apfeline", LINE_EN, LINE_FR),
    ("Apfelino Red 1", "apfelino", "red", "Red Apfelino", "Apfeline rouge", "", ""),
    ("Apfelino Red 2", "apfelino", "red", "", "", "", ""),
    ("Moon Pear 1", "moon-pear", "", "Moon pear", "Poire de lune", "", ""),
    ("Moon Pear 2", "moon-pear", "", "", "", "", ""),
    ("Melonette Striped", "melonette", "striped", "Striped melonette", "Melonette rayée", "", ""),
    (HOSTILE_LABEL, "hostile", "", HOSTILE_EN, HOSTILE_FR, "", ""),
)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    # Modules of WebAssembly live for one visit: to compile them thoroughly costs more than it gains.
    "--js-flags=--liftoff-only",
)


@dataclass(frozen=True)
class Recogniser:
    """Photos by label, and the results of a run on them."""

    photos: Path
    out: Path

    def some(self, label: str, count: int = 1, split: str = "Test") -> list[Path]:
        """Return photos of a label, always the same."""
        return sorted((self.photos / split / label).iterdir())[:count]


@pytest.fixture(scope="session")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """A run on 420 generated photos whose labels and names are hostile, accented or shared."""

    def run(root: Path) -> None:
        photos = root / "photos"
        generator.write_photos(photos, photos=420, varieties=14, workers=2)
        for split in ("Training", "Test"):
            (photos / split / "Tuskana Yellow").rename(photos / split / HOSTILE_LABEL)
        with (root / "taxonomy.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *_NAMES])
        config = RunConfig(
            sources=(str(photos),), out=str(root / "out"), taxonomy=str(root / "taxonomy.csv"), workers=2, gallery=100
        )
        pipeline.run(config)

    root = once_for_all_workers(tmp_path_factory, "browser", run)
    return Recogniser(root / "photos", root / "out")


@dataclass
class Service:
    """A running ``fruits serve``."""

    commands: Commands
    url: str
    out: Path
    data: Path
    _owner: list[str] = field(default_factory=list)

    @property
    def owner(self) -> str:
        """Token of an owner, made by the command line as an owner would."""
        if not self._owner:
            words = ("tokens", "add", "keeper", self.out, "--role", "owner", "--data", self.data, "--json")
            code, printed, errors = self.commands.run(*words, timeout_s=60)
            assert code == 0, errors
            self._owner.append(json.loads(printed)["token"])
        return self._owner[0]

    def ask_owner(self, path: str) -> Any:
        """Return what the owner's API says."""
        answer = httpx.get(f"{self.url}/v1/owner/{path}", headers={"Authorization": f"Bearer {self.owner}"})
        return answer.raise_for_status().json()

    def recognise(self, *photos: Path | bytes, keep: bool = False) -> list[dict[str, Any]]:
        """Return the API's answers."""
        contents = [photo if isinstance(photo, bytes) else photo.read_bytes() for photo in photos]
        files = [("photo", (f"{n}.jpg", content, "image/jpeg")) for n, content in enumerate(contents)]
        answer = httpx.post(
            f"{self.url}/v1/recognise", files=files, data={"keep": str(keep).lower(), "lang": "en"}, timeout=30
        )
        found: list[dict[str, Any]] = answer.raise_for_status().json()["photos"]
        return found


@pytest.fixture(scope="session")
def serve(
    recogniser: Recogniser, commands: Commands, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """Start services of one's own, with options of one's own."""
    with ExitStack() as started:

        def start(*options: str, out: Path = recogniser.out) -> Service:
            data = tmp_path_factory.mktemp("service")
            reader, writer = os.pipe()
            said = started.enter_context(os.fdopen(reader, encoding="utf-8"))
            with (data / "log").open("w") as log:
                words = ("serve", out, "--port", 0, "--drain", 0, "--processes", 1, "--data", data, *options)
                process = commands.start(*words, stdout=writer, stderr=log.fileno())
            os.close(writer)
            started.callback(_end, process)
            address = re.search(r"http://[0-9.]+:\d+", said.readline())
            assert address, (data / "log").read_text()
            for _ in range(600):  # it listens before it is warm, and refuses photos until then
                with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{address[0]}/readyz"):
                    break
                time.sleep(0.1)
            return Service(commands, address[0], out, data)

        yield start


def _end(process: Command | subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def service(serve: Callable[..., Service]) -> Service:
    """The service that tests share; without a limit on requests, as all of them come from one address."""
    return serve("--rate", "0", "--token-rate", "0")


class Wire:
    """Between a browser and the service: passes everything on, and remembers every byte that the browser sent."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._lock = threading.Lock()
        self.sent = bytearray()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._to)
            self._open += [near, far]
            threading.Thread(target=self._pass_on, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, remember: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if remember:
                    with self._lock:
                        self.sent += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in self._open:
            one.close()

    def request(self, path: str) -> tuple[bytes, dict[str, bytes]]:
        """Return the body of the only POST to a path, and its fields."""
        (start,) = [found.start() for found in re.finditer(f"POST {path} HTTP/1.1\r\n".encode(), self.sent)]
        head, _, rest = bytes(self.sent[start:]).partition(b"\r\n\r\n")
        headers = message_from_bytes(head.partition(b"\r\n")[2])
        body = rest[: int(headers["content-length"])]
        parts: Any = message_from_bytes(
            f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body
        ).get_payload()
        return body, {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts
        }


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    """A wire to the service that is listened to."""
    wire = Wire(service.url)
    yield wire
    wire.close()


class Browsers:
    """Chromium without further flags, which stays for all tests, and the last one that a test wanted with some."""

    def __init__(self) -> None:
        self._playwright: Any = None
        self._running: dict[tuple[str, ...], Any] = {}

    def get(self, flags: tuple[str, ...]) -> Any:
        """Return a running browser with these flags."""
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if path is None:
            pytest.skip("no browser: these tests drive the pages in one; install chromium (apt-get install chromium)")
        sync_api = pytest.importorskip(
            "playwright.sync_api", reason="no playwright: pip install -e '.[dev]' to test the pages in a browser"
        )
        if self._playwright is None:
            self._playwright = sync_api.sync_playwright().start()
        if flags not in self._running or not self._running[flags].is_connected():
            for other in [one for one in self._running if one]:
                self._running.pop(other).close()
            self._running[flags] = self._playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        return self._running[flags]

    def close(self) -> None:
        """End all of them."""
        for browser in self._running.values():
            browser.close()
        self._running.clear()
        if self._playwright is not None:
            self._playwright.stop()
            self._playwright = None


_BROWSERS = Browsers()


# Not at the end of the session: while it runs, Playwright holds an event loop that other tests' asyncio would stumble over.
@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Close the browsers after the last test of this folder."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        _BROWSERS.close()


@pytest.fixture
def flags() -> tuple[str, ...]:
    """What Chromium is started with, besides what all tests need."""
    return ()


@pytest.fixture
def browser(flags: tuple[str, ...]) -> Any:
    """Chromium."""
    return _BROWSERS.get(flags)


@dataclass
class Visit:
    """A page in a browser of its own, with everything that it complained about."""

    page: Any
    context: Any
    url: str
    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Any:
        """Go to a page of the service."""
        self.page.goto(self.url + path)
        self.page.wait_for_function("() => !document.documentElement.classList.contains('unsaid')")
        return self.page

    def choices(self) -> None:
        """Show what a visitor can choose: kept or not, shown or not, on this device only."""
        if not self.page.locator("#consent").evaluate("(one) => one.open"):
            self.page.locator("#consent summary").click()

    def pick(self, *photos: Path | dict[str, Any]) -> None:
        """Choose photos with the file picker."""
        files = [
            {"name": one.name, "mimeType": "image/jpeg", "buffer": one.read_bytes()} if isinstance(one, Path) else one
            for one in photos
        ]
        self.page.set_input_files("#files", files)

    def answers(self, count: int) -> Any:
        """Wait until so many cards have their answer, or their problem; return the cards, newest first."""
        self.page.wait_for_function(
            "n => document.querySelectorAll('.card').length === n && !document.querySelector('.card[aria-busy]')",
            arg=count,
        )
        return self.page.locator(".card")

    def shot(self, name: str, **options: Any) -> None:
        """Leave a picture for people to look at, where FRUITS_SCREENSHOTS says."""
        if folder := os.environ.get("FRUITS_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", **options)


@pytest.fixture
def visit(browser: Any, service: Service) -> Iterator[Callable[..., Visit]]:
    """Open pages as visitors: ``visit(locale="fr-FR", width=320)``; afterwards nothing may have gone wrong unseen.

    That is: no error in any script, nothing refused by the page's own policy, no request to anywhere else.
    """
    visits: list[Visit] = []

    def begin(*, width: int = 1024, height: int = 800, to: Service | Wire | None = None, **options: Any) -> Visit:
        options = {"locale": "en-GB", "service_workers": "block", **options}
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(60_000)
        made = Visit(context.new_page(), context, (to or service).url)
        visits.append(made)
        note = made.complaints.append
        made.page.on("pageerror", lambda error: note(f"script: {error}"))
        made.page.on("console", lambda said: said.type == "error" and note(f"console: {said.text}"))
        made.page.on("request", lambda asked: _is_foreign(asked.url, made.url) and note(f"elsewhere: {asked.url}"))
        return made

    yield begin
    for made in visits:
        made.context.close()
    unexpected = [one for made in visits for one in made.complaints if not any(known in one for known in made.expected)]
    assert not unexpected


def _is_foreign(address: str, own: str) -> bool:
    return not address.startswith((f"{own}/", "blob:", "data:"))


def jpeg(width: int = 300, height: int = 200, *, seed: int = 0, **options: Any) -> bytes:
    """Return a photo of coloured patches: nothing that is known."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92, **options)
    return out.getvalue()


@pytest.fixture
def make_jpeg() -> Callable[..., bytes]:
    """The function above, for tests that cannot import this file by name."""
    return jpeg


@pytest.fixture(scope="session")
def hostile() -> dict[str, str]:
    """What would do harm if it were taken for HTML."""
    return {"label": HOSTILE_LABEL, "en": HOSTILE_EN, "fr": HOSTILE_FR, "line_en": LINE_EN, "line_fr": LINE_FR}
