"""Routes of the web pages and their static files.

All files are in the folder ``pages``, and there is no build step: when the service starts, pages are rendered into their layout,
the modules of a page are joined (:mod:`fruits.service.pages.linking`), sample pictures are drawn side by side for their buttons,
and messages are written into one file per language; other files are served as they are. Files are small and kept in memory, plain
and compressed, with an ETag. The runtime of the on-device mode (``pages/vendor``, built by ``web/build.mjs``, see ``make web``)
is large, stays on disk and is immutable under its name. The middleware sets the security headers. Independent of photos, answers
and the API.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from fruits.messages import LANGUAGES, catalogue, translations
from fruits.service.pages.linking import LINKED, link
from fruits.service.settings import ServiceConfig
from fruits.service.statistics import KEEP_DAYS
from fruits.storage.objects import is_remote
from fruits.storage.sanitising import json_text

FOLDER: Final = Path(__file__).parent
#: Path of a page -> its file. The service worker must be at the root, otherwise its scope would be ``/static/``.
PAGES: Final = {
    "/": "index.html",
    "/delete": "delete.html",
    "/known": "known.html",
    "/owner": "owner.html",
    "/owner/review": "review.html",
    "/owner/improve": "owner-improve.html",
    "/docs": "docs.html",
    "/manifest.webmanifest": "manifest.webmanifest",
    "/sw.js": "sw.js",
}
#: The page with the live camera; the middleware forbids cameras to all others.
_WITH_CAMERA: Final = "/"
#: Files that the visitor's page needs offline; the owner's pages need the server anyway.
_SHELL: Final = (".css", ".js", ".svg", ".png", ".jpg", ".webp")
_NOT_IN_SHELL: Final = ("owner", "review", "docs")
#: The scripts that pages start with.
_SCRIPTS: Final = (
    "visitor/visitor.js", "visitor/known.js", "visitor/delete.js", "owner/owner.js", "owner/review.js", "owner/owner-improve.js",
)  # fmt: skip
#: Served from ``js/`` to pages; the other modules there are for tests and for reading.
_ALONE: Final = ("js/early.js", "js/docs.js")
#: Sample pictures side by side, for the buttons that show them.
_SAMPLES: Final = "samples/all.webp"
_SAMPLE_SIDE: Final = 160
_SAMPLE_MARGIN: Final = 8
_SAMPLE_QUALITY: Final = 60
#: Of messages: those of the visitor's pages and those of the owner's.
_SUBJECTS: Final = ("page", "owner")
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".wasm": "application/wasm",
}
_COMPRESSED: Final = (".html", ".css", ".js", ".mjs", ".json", ".webmanifest", ".svg")
#: Browsers revalidate every time and get 304: no outdated pages after an update.
_ASK_AGAIN: Final = "no-cache"
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_STATIC: Final = "static/"
_VENDOR: Final = "vendor"
_CHUNK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class _Asset:
    """A file in memory."""

    content: bytes
    compressed: bytes | None
    etag: str
    media_type: str


def content_security_policy(*, on_device: bool) -> str:
    """Return the content security policy of every response: nothing from other sites, nothing inline.

    Parameters
    ----------
    on_device : bool
        Whether the page may compile WebAssembly, which the on-device mode needs.
    """
    scripts = "'self' 'wasm-unsafe-eval'" if on_device else "'self'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "worker-src 'self'; manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )


def has_device_mode(folder: Path = FOLDER) -> bool:
    """Return whether the runtime of the on-device mode was built."""
    return _runtime(folder) is not None


def routes(folder: Path = FOLDER, *, privacy: Mapping[str, Any] | None = None) -> list[BaseRoute]:
    """Return the routes of all pages and static files; files are read once, by this call.

    Parameters
    ----------
    folder : Path
        Folder with the files of ``pages``.
    privacy : mapping, optional
        Privacy information for the visitor's page: see :func:`privacy_of`.
    """
    assets = _assets(folder, privacy)
    large = {name for built in (_runtime(folder), _built(folder, "docs.json")) if built for name in built["files"]}

    async def page(request: Request) -> Response:
        answer = _answer(request, assets[PAGES[request.url.path]])
        if request.url.path == _WITH_CAMERA:
            answer.headers["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=()"
        return answer

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name in large:
            return _large(request, folder / name)
        asset = assets.get(name)
        if asset is None or name in PAGES.values():
            raise HTTPException(404)
        return _answer(request, asset)

    found: list[BaseRoute] = [Route(address, page, methods=["GET"], include_in_schema=False) for address in PAGES]
    return [*found, Route("/static/{name:path}", static, methods=["GET"], include_in_schema=False)]


def privacy_of(config: ServiceConfig) -> dict[str, Any]:
    """Return the privacy information of a service: its operator, what is stored where and for how long."""
    return {
        "operator": config.operator,
        "contact": config.contact,
        "keep_days": config.keep_days,
        "feedback_hours": config.feedback_hours,
        "count_days": KEEP_DAYS,
        "database": "file" if config.database.startswith("sqlite") else "server",
        "photos": "bucket" if is_remote(config.photos) else "folder",
    }


def _assets(folder: Path, privacy: Mapping[str, Any] | None) -> Mapping[str, _Asset]:
    """Read every file except the runtime's; add the settings of this installation for the page."""
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _TYPES and path.relative_to(folder).parts[0] != _VENDOR
    }
    runtime = _runtime(folder)
    device = None if runtime is None else {**runtime, "columns_first": _columns_first()}
    layouts = [name for name in contents if name.endswith(".html") and name not in PAGES.values()]
    contents |= {name: _page(folder, name) for name in PAGES.values() if name.endswith(".html") and name in contents}
    for name in layouts:
        del contents[name]
    modules = {name.removeprefix("js/"): data.decode() for name, data in contents.items() if name.startswith("js/")}
    contents |= {
        f"{LINKED.removeprefix(_STATIC)}{name}": text.encode()
        for script in _SCRIPTS
        for name, text in link(modules, script).items()
    }
    contents[_SAMPLES] = _side_by_side([data for name, data in contents.items() if name.startswith("samples/")])
    contents["page.json"] = json_text({"device": device} | ({"privacy": dict(privacy)} if privacy else {})).encode()
    contents |= {
        f"messages/{subject}.{language}.json": _messages(subject, language)
        for subject in _SUBJECTS
        for language in LANGUAGES
    }
    shell = [
        f"static/{name}"
        for name in contents
        if name == "page.json"
        or name.startswith(f"messages/{_SUBJECTS[0]}.")
        or (
            name.endswith(_SHELL)
            and name != "sw.js"
            and (not name.startswith("js/") or name in _ALONE)
            and not any(word in name for word in _NOT_IN_SHELL)
        )
    ]
    version = hashlib.sha256(b"".join(name.encode() + data for name, data in contents.items())).hexdigest()[:16]
    # A change of any file changes the service worker, and a browser that sees a new worker fetches all files again.
    known = {"version": version, "shell": ["", "delete", "known", "manifest.webmanifest", *shell]}
    if "sw.js" in contents:
        contents["sw.js"] = f"const KNOWN = {json_text(known)};\n".encode() + contents["sw.js"]
    return {name: _asset(name, data) for name, data in contents.items()}


def _page(folder: Path, name: str) -> bytes:
    """Render a page into its layout. Pages contain no external values: scripts insert those, as text."""
    layouts = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Links are relative, so that the pages work under any path of a proxy.
    depth = next(address for address, file in PAGES.items() if file == name).count("/") - 1
    template = layouts.get_template(name)
    return template.render(
        root="../" * depth or "./",
        docs=_built(folder, "docs.json"),
        languages={language: catalogue(language).name for language in LANGUAGES},
        needs_script=translations("shared.needs_script"),
    ).encode()


def _side_by_side(pictures: list[bytes]) -> bytes:
    """Return square pictures in one row, as one small file instead of one each."""
    inner = _SAMPLE_SIDE - 2 * _SAMPLE_MARGIN
    row = Image.new("RGB", (_SAMPLE_SIDE * len(pictures), _SAMPLE_SIDE), "white")
    for place, data in enumerate(pictures):
        with Image.open(BytesIO(data)) as picture:
            small = picture.convert("RGB").resize((inner, inner), Image.Resampling.LANCZOS)
        row.paste(small, (_SAMPLE_SIDE * place + _SAMPLE_MARGIN, _SAMPLE_MARGIN))
    out = BytesIO()
    row.save(out, "WEBP", quality=_SAMPLE_QUALITY, method=6)
    return out.getvalue()


def _messages(subject: str, language: str) -> bytes:
    """Return what the pages of a subject say in a language, and which plural form goes with which number."""
    messages = catalogue(language)
    content = {"plural": messages.table(), "messages": messages.of("shared", subject)}
    return json_text(content, ensure_ascii=False).encode()


def _columns_first() -> bool:
    """Return whether Pillow resamples a tall photo along its columns first, as version 13 does: the page must do the same."""
    tall = Image.frombytes("L", (8, 64), bytes(37 * place * place % 251 for place in range(8 * 64)))
    kernel = Image.Resampling.BICUBIC
    return tall.resize((4, 4), kernel).tobytes() == tall.resize((8, 4), kernel).resize((4, 4), kernel).tobytes()


def _asset(name: str, content: bytes) -> _Asset:
    suffix = Path(name).suffix
    small = gzip.compress(content, 9, mtime=0) if suffix in _COMPRESSED else None
    if small is not None and len(small) >= len(content):
        small = None
    return _Asset(content, small, f'"{hashlib.sha256(content).hexdigest()[:32]}"', _TYPES[suffix])


@lru_cache(maxsize=4)
def _runtime(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of the runtime written by ``web/build.mjs``, if it and all its files exist."""
    return _built(folder, "runtime.json")


def _built(folder: Path, written: str) -> dict[str, Any] | None:
    try:
        built: dict[str, Any] = json.loads((folder / _VENDOR / written).read_text("utf-8"))
        whole = all(_stored(folder / name)[0].stat().st_size > 0 for name in built["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return built if whole else None


def _stored(path: Path) -> tuple[Path, bool]:
    """Return the path of a runtime file, and whether it is compressed: its 14 MB are stored in one form only."""
    packed = path.with_name(f"{path.name}.gz")
    return (packed, True) if packed.is_file() else (path, False)


def _answer(request: Request, asset: _Asset) -> Response:
    headers = {
        "ETag": asset.etag,
        "Cache-Control": _ASK_AGAIN,
    }
    if asset.compressed is not None:
        headers["Vary"] = "Accept-Encoding"
    if _knows(request, asset.etag):
        return Response(status_code=304, headers=headers)
    content = asset.content
    if asset.compressed is not None and takes_gzip(request):
        headers["Content-Encoding"], content = "gzip", asset.compressed
    return Response(content, media_type=asset.media_type, headers=headers)


def _large(request: Request, path: Path) -> Response:
    stored, packed = _stored(path)
    headers = {
        "Cache-Control": _FOR_EVER,
        "Vary": "Accept-Encoding",
    }
    as_it_is = packed and takes_gzip(request)
    if as_it_is:
        headers["Content-Encoding"] = "gzip"
    if as_it_is or not packed:
        headers["Content-Length"] = str(stored.stat().st_size)
    pieces = _pieces(stored, unpack=packed and not as_it_is)
    return StreamingResponse(pieces, media_type=_TYPES[path.suffix], headers=headers)


def _pieces(path: Path, *, unpack: bool) -> Iterator[bytes]:
    with gzip.open(path) if unpack else path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _knows(request: Request, etag: str) -> bool:
    given = request.headers.get("if-none-match", "")
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in given.split(","))


def takes_gzip(request: Request) -> bool:
    """Return whether gzip is accepted, by name or by ``*``, with a weight other than 0."""
    for offered in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = offered.replace(" ", "").partition(";q=")
        if name in ("gzip", "*") and weight not in ("0", "0.0", "0.00", "0.000"):
            return True
    return False
