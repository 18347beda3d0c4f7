"""How pages and static files are served: types, caching, compression, policy, and what there is without the runtime."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette

from fruits.messages import LANGUAGES, SOURCE, catalogue
from fruits.service.pages import routes as pages

_WASM = b"\0asm" + bytes(range(256)) * 4096


def _copy(to: Path) -> Path:
    return Path(shutil.copytree(pages.FOLDER, to / "pages", ignore=shutil.ignore_patterns("vendor")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pages, without a runtime."""
    return _copy(tmp_path)


def _give_runtime(folder: Path) -> None:
    vendor = folder / "vendor"
    vendor.mkdir()
    for name, content in (("ort-1.mjs", b"export {};\n"), ("ort-1.wasm", _WASM)):
        (vendor / f"{name}.gz").write_bytes(gzip.compress(content))
    about = {"files": ["vendor/ort-1.mjs", "vendor/ort-1.wasm"], "module": "/static/vendor/ort-1.mjs"}
    (vendor / "runtime.json").write_text(json.dumps(about))


class Client:
    """Asks the routes without a server in between."""

    def __init__(self, folder: Path) -> None:
        self._transport = httpx.ASGITransport(Starlette(routes=pages.routes(folder)))

    def get(self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://localhost") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Asks for the pages with a runtime; the routes are made once, as a service makes them."""
    folder = _copy(tmp_path_factory.mktemp("with runtime"))
    _give_runtime(folder)
    return Client(folder)


@pytest.fixture(scope="module")
def shipped() -> Client:
    """Asks for the pages as they are in the package."""
    return Client(pages.FOLDER)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/delete", "text/html; charset=utf-8"),
        ("/owner", "text/html; charset=utf-8"),
        ("/owner/review", "text/html; charset=utf-8"),
        ("/owner/improve", "text/html; charset=utf-8"),
        ("/manifest.webmanifest", "application/manifest+json; charset=utf-8"),
        ("/sw.js", "text/javascript; charset=utf-8"),
        ("/static/style.css", "text/css; charset=utf-8"),
        ("/static/js/visitor/visitor.js", "text/javascript; charset=utf-8"),
        ("/static/icons/icon.svg", "image/svg+xml"),
        ("/static/icons/icon-192.png", "image/png"),
        ("/static/page.json", "application/json"),
        ("/static/vendor/ort-1.mjs", "text/javascript; charset=utf-8"),
        ("/static/vendor/ort-1.wasm", "application/wasm"),
    ],
)
def test_each_file_has_its_type(client: Client, path: str, media_type: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert client.get(path, method="HEAD").status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/js/visitor/visitor.js", "/static/icons/icon-192.png"])
def test_unchanged_file_is_not_sent_again(client: Client, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_text_is_compressed_for_those_who_take_it(client: Client) -> None:
    plain = client.get("/static/style.css", headers={"Accept-Encoding": "identity"})
    small = client.get("/static/style.css", headers={"Accept-Encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < len(plain.content) / 2
    assert small.content == plain.content
    refused = client.get("/static/style.css", headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_runtime_is_stored_once_and_kept_for_ever(client: Client, encoding: str) -> None:
    answer = client.get("/static/vendor/ort-1.wasm", headers={"Accept-Encoding": encoding})
    assert answer.content == _WASM
    assert answer.headers.get("content-encoding", "identity") == encoding
    assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/nothing.js",
        "/static/index.html",
        "/static/layout.html",
        "/static/sw.js",
        "/static/.gitignore",
        "/static/vendor/runtime.json",
        "/static/vendor/ort-1.wasm.gz",
        "/static/../pages.py",
        "/static/%2e%2e/pages.py",
        "/static/js/../../pages.py",
        "/static/js//visitor/visitor.js",
        "/static//etc/passwd",
    ],
)
def test_nothing_else_is_served(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_without_the_runtime_the_mode_is_missing_and_nothing_else(folder: Path) -> None:
    assert not pages.has_device_mode(folder)
    client = Client(folder)
    assert client.get("/static/page.json").json() == {"device": None}
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("harm", ["file missing", "no runtime.json", "not JSON"])
def test_half_a_runtime_counts_as_none(folder: Path, harm: str) -> None:
    _give_runtime(folder)
    if harm == "file missing":
        (folder / "vendor" / "ort-1.wasm.gz").unlink()
    elif harm == "no runtime.json":
        (folder / "vendor" / "runtime.json").unlink()
    else:
        (folder / "vendor" / "runtime.json").write_text("{")
    assert not pages.has_device_mode(folder)


def test_worker_changes_with_every_file_and_knows_the_whole_shell(folder: Path) -> None:
    client = Client(folder)
    before = client.get("/sw.js").text
    known = json.loads(re.match(r"const KNOWN = (.*);\n", before)[1])  # type: ignore[index]
    for address in known["shell"]:
        assert client.get(f"/{address}").status_code == 200, address
    assert {"", "static/style.css", "static/linked/visitor.js", "static/page.json"} <= set(known["shell"])
    assert not any("owner" in address or "review" in address for address in known["shell"])
    with (folder / "style.css").open("a") as file:
        file.write("/* changed */\n")
    assert Client(folder).get("/sw.js").text != before


@pytest.mark.parametrize("on_device", [True, False])
def test_policy_allows_nothing_inline_and_webassembly_only_for_the_mode(on_device: bool) -> None:
    policy = pages.content_security_policy(on_device=on_device)
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe-inline" not in policy
    assert ("'wasm-unsafe-eval'" in policy) == on_device


class _Markup(HTMLParser):
    """Collects what the policy would refuse, what is loaded, and the words that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.loaded: list[str] = []
        self.words: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.refused += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.refused.append(tag)
        self.loaded += [given[name] or "" for name in ("src", "href") if name in given]
        self.words |= {value or "" for name, value in attrs if name.startswith("data-t") and name != "data-t-label"}
        self.words |= {value or "" for name, value in attrs if name == "data-t-label"}


@pytest.mark.parametrize("name", ["index", "delete", "owner", "review", "owner-improve"])
def test_pages_need_nothing_inline_nothing_from_elsewhere_and_no_unknown_word(shipped: Client, name: str) -> None:
    markup = _Markup()
    address = {file: address for address, file in pages.PAGES.items()}[f"{name}.html"]
    markup.feed(shipped.get(address).text)
    assert markup.refused == []
    assert markup.loaded
    for loaded in markup.loaded:  # relative, so that it leads to the same under any path of a proxy
        assert loaded.startswith(("./", "../", "#")), loaded
        path = urljoin(f"/under/this{address}", loaded.partition("#")[0])
        assert path.startswith("/under/this/"), loaded
        assert shipped.get(path.removeprefix("/under/this")).status_code == 200, loaded
    subject = "owner" if name in ("owner", "review", "owner-improve") else "page"
    for language in LANGUAGES:
        told = shipped.get(f"/static/messages/{subject}.{language}.json").json()
        assert markup.words <= told["messages"].keys(), "each is said in every language"


@pytest.mark.parametrize("path", sorted(pages.FOLDER.glob("*.html")), ids=lambda path: path.name)
def test_pages_say_in_english_what_the_catalogue_says(path: Path) -> None:
    """What is seen until the script runs is not replaced by other words."""
    text = path.read_text("utf-8")
    subjects = ("shared", "owner" if "owner-layout.html" in (path.name, *text.split('"')) else "page")
    english = catalogue(SOURCE).of(*subjects)
    for key, said in re.findall(r'data-t="(\w+)"[^>]*>([^<]*)<', text):
        assert said == english[key], key


def test_scripts_never_put_text_into_the_page_as_html() -> None:
    dangerous = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|createContextualFragment"
    )
    for script in pages.FOLDER.rglob("*.js"):
        assert not dangerous.search(script.read_text("utf-8")), script.name


def test_scripts_say_only_what_the_catalogue_has() -> None:
    say = re.compile(r"(?:\b(?:say\((?:[^()]|\([^()]*\))*?,|text\(|notice\(|announce\()\s*)\"(\w+)\"")
    for path in (pages.FOLDER / "js").rglob("*.js"):
        subjects = ("shared", "owner") if path.parent.name == "owner" else ("shared", "page")
        attributes = {"label", "alt", "placeholder"}
        said = set(say.findall(path.read_text("utf-8"))) - attributes
        assert said <= catalogue(SOURCE).of(*subjects).keys(), path.name


def test_page_offers_every_language_and_the_shell_holds_its_messages(shipped: Client) -> None:
    shell = json.loads(re.match(r"const KNOWN = (.*);\n", shipped.get("/sw.js").text)[1])["shell"]  # type: ignore[index]
    for language in LANGUAGES:
        for address in ("/", "/delete", "/owner", "/owner/review", "/owner/improve"):
            assert f'data-language="{language}"' in shipped.get(address).text
        assert f"static/messages/page.{language}.json" in shell
        assert f"static/messages/owner.{language}.json" not in shell
    assert set(LANGUAGES) >= {"en", "es", "fr"}


def test_lock_holds_no_address_of_a_registry() -> None:
    web = pages.FOLDER.parent / "web"
    lock: Any = json.loads((web / "package-lock.json").read_text("utf-8"))
    assert "://" not in json.dumps(lock)
    assert all("integrity" in package for place, package in lock["packages"].items() if place)


def test_scripts_ask_for_nothing_but_by_way_of_where_the_service_is() -> None:
    # A path of a proxy may stand before every address: "/v1/..." on its own would lead past it.
    bare = re.compile(r"(?:fetch|import|register|new Worker|new Request)\(\s*[\"'`]/|(?:href|src): *[\"'`]/")
    for path in (pages.FOLDER / "js").rglob("*.js"):
        assert not bare.search(path.read_text("utf-8")), path.name
    assert not re.search(r"[\"'`]/(?!\*)", (pages.FOLDER / "sw.js").read_text("utf-8"))


@pytest.mark.parametrize("page", ["/", "/known", "/delete", "/owner", "/owner/review"])
def test_script_of_a_page_is_one_file_with_all_it_imports(client: Client, page: str) -> None:
    text = client.get(page).text
    (address,) = re.findall(r'<script type="module" src="([^"]+)"', text)
    script = client.get(urljoin(page, address))
    assert script.status_code == 200
    assert not re.search(r'^import .* from "', script.text, re.MULTILINE), "nothing else is fetched before it runs"
    assert not re.search(r"^\s*(?://|/\*\*)", script.text, re.MULTILINE), "comments are for those who read the source"


def test_parts_of_a_page_that_are_asked_for_later_are_served_and_kept_offline(client: Client) -> None:
    script = client.get("/static/linked/visitor.js").text
    later = set(re.findall(r'import\("\./([\w.-]+)"\)', script))
    assert {"visitor.history", "visitor.share"} <= {re.sub(r"\.[0-9a-f]{8}\.js$", "", name) for name in later}
    shell = client.get("/sw.js").text
    (camera,) = (name for name in later if name.startswith("visitor.camera."))
    (worker,) = re.findall(r'"/static/linked/([\w.-]+)"', client.get(f"/static/linked/{camera}").text + script)
    assert re.fullmatch(r"visitor\.device-worker\.[0-9a-f]{8}\.js", worker), "of this version of the page only"
    for name in (*later, worker):
        part = client.get(f"/static/linked/{name}")
        assert part.status_code == 200
        assert set(re.findall(r'from "\./([\w.-]+)"', part.text)) <= {"visitor.js", *later}
        assert f"static/linked/{name}" in shell


def test_sample_pictures_come_in_one_small_file(client: Client) -> None:
    answer = client.get("/static/samples/all.webp")
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as row:
        assert row.size == (6 * row.height, row.height)
    assert len(answer.content) < sum(len(client.get(f"/static/samples/{n}.jpg").content) for n in range(1, 7)) / 2


def test_page_is_light(client: Client) -> None:
    """What a first visit loads: issue 19 began with 32 requests and 213 kB."""
    page = client.get("/")
    needed = {urljoin("/", address) for address in re.findall(r'(?:src|href)="(\./static/[^"#]+)', page.text)}
    needed -= {"/static/icons/icon-180.png"}  # of phones that put the page on their first screen
    needed |= {"/static/page.json", "/static/messages/page.en.json", "/static/samples/all.webp"}
    sizes = [int(client.get(one).headers["content-length"]) for one in ("/", *needed)]
    assert len(sizes) <= 12
    assert sum(sizes) < 60_000
