"""Every state of the pages as pictures, and what axe-core says of each: ``python -m tests.browser.states FOLDER``.

A phone (390 pixels) and a desk (1280), light and dark, every language; sheets put the pictures of one state side by side. The
service is real and on the recogniser of the package; answers of every sort come from sample pictures, and what a visitor seldom
sees (busy, denied) is put between page and service. Ends with 1 if axe-core finds anything.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from benchmarks.page import chromium, fake_camera, made_video, served
from PIL import Image, ImageDraw

import fruits.service
from fruits.messages import LANGUAGES, translations
from fruits.photos.generated import samples

AXE: Final = Path(fruits.service.__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS: Final = {"phone": (390, 844), "desk": (1280, 800)}
SCHEMES: Final = ("light", "dark")
MAP: Final = {"rows": 2, "columns": 2, "values": [1.0, 0.5, 0.2, 0.0]}
#: What the sample pictures show, by their number: the photos that look alike.
SIMILAR: Final = (
    ("Apple", "Manzana", "Pomme"),
    ("Cherry", "Cereza", "Cerise"),
    ("Tomato", "Tomate", "Tomate"),
    ("Orange", "Naranja", "Orange"),
    ("Strawberry", "Fresa", "Fraise"),
    ("Watermelon", "Sandía", "Pastèque"),
)
#: How probable the best kind is, where the answer is no certain one.
SHARES: Final = {"probable": 0.69, "unsure": 0.41, "unknown": 0.32}
#: How probable the others are, for one of it.
OTHERS: Final = (1, 0.4, 0.04)
_PATIENCE_MS: Final = 90_000


@dataclass
class Shop:
    """A page of a service, ready to be brought into a state."""

    page: Any
    url: str
    owner: str

    def open(self, path: str = "/") -> None:
        """Open a page and wait until it speaks."""
        self.page.goto(self.url + path)
        self.page.wait_for_function("() => !document.documentElement.classList.contains('unsaid')")

    def answer(self, outcome: str, **changes: Any) -> None:
        """Ask about a picture; the answer gets another outcome, look-alikes and a map."""

        def other(route: Any) -> None:
            answer = route.fetch()
            body = answer.json()
            similar = [
                {**dict(zip(LANGUAGES, names, strict=True)), "label": names[0], "kind": names[0].lower(),
                 "thumbnail": f"/static/samples/{number}.jpg", "similarity": 0.9}
                for number, names in enumerate(SIMILAR, 1)
            ]  # fmt: skip
            for photo in body["photos"]:
                photo |= {"outcome": outcome, "map": MAP, "similar": similar, **changes}
                if outcome in SHARES:
                    photo["probability"] = SHARES[outcome]
                    for kind, share in zip(photo["kinds"], OTHERS, strict=False):
                        kind["probability"] = SHARES[outcome] * share
                if outcome in ("unsure", "unknown"):
                    photo["name"] = photo["line"] = None
                elif not photo["name"]:
                    first = {key: value for key, value in photo["kinds"][0].items() if key in LANGUAGES}
                    photo |= {"name": first, "kind": photo["kinds"][0]["kind"]}
            route.fulfill(response=answer, json=body)

        self.page.route("**/v1/recognise*", other)
        self.open()
        self.pick("1")

    def without(self, part: str) -> None:
        """Let a part of the page that is loaded later not be had, as without a connection."""
        for pattern in (f"**/*.{part}.*.js", "**/healthz"):
            self.page.route(pattern, lambda route: route.abort())

    def pick(self, name: str) -> None:
        """Choose a sample picture like a photo, and wait for its answer."""
        photo = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": samples.sample(name)}
        self.page.set_input_files("#files", [photo])
        self.page.wait_for_selector(".card:not([aria-busy])")

    def sign_in(self, path: str) -> None:
        """Open a page of the owner's."""
        self.open(path)
        self.page.locator("#token").fill(self.owner)
        self.page.keyboard.press("Enter")


def _choices(shop: Shop) -> None:
    shop.open()
    shop.page.locator("#consent summary").click()
    shop.page.locator("#keep").check()
    shop.page.locator("#device-choice").wait_for()


def _map(shop: Shop) -> None:
    shop.answer("kind")
    shop.page.locator(".map-toggle").click()
    shop.page.wait_for_selector(".map[data-drawn]")


def _enlarged(shop: Shop) -> None:
    shop.answer("kind")
    shop.page.locator(".enlarge").nth(1).click()
    shop.page.wait_for_selector("dialog img")


def _missing(shop: Shop) -> None:
    shop.without("enlarge")
    shop.answer("kind")
    shop.page.locator(".enlarge").first.click()
    shop.page.wait_for_selector(".missing")


def _kept_photo(shop: Shop) -> None:
    _choices(shop)
    shop.pick("3")


def _thanked(shop: Shop) -> None:
    shop.answer("unsure")
    shop.page.locator(".guess").nth(1).click()
    shop.page.wait_for_selector(".said:not(:empty)")


def _gone(shop: Shop) -> None:
    _kept_photo(shop)
    shop.page.locator(".fate button").first.click()
    shop.page.wait_for_selector(".gone")


def _waiting(shop: Shop) -> None:
    """The service is busy, and the page tries again by itself."""
    body = {"error": {"code": "busy", "message": translations("http.busy")}}
    busy = {"status": 503, "headers": {"Retry-After": "30"}, "json": body}
    shop.page.route("**/v1/recognise*", lambda route: route.fulfill(**busy))
    shop.open()
    shop.page.set_input_files("#files", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": samples.sample("1")}])
    shop.page.wait_for_selector(".card .problem")


def _device(shop: Shop) -> None:
    shop.open()
    shop.page.locator("#consent summary").click()
    shop.page.locator("#device").check()
    shop.pick("4")


def _device_updated(shop: Shop) -> None:
    """The page was opened before the service was updated: what it wants to load is not there any more."""
    shop.page.route("**/*.decide.*.js", lambda route: route.fulfill(status=404))
    shop.open()
    shop.page.locator("#consent summary").click()
    shop.page.locator("#device").check()
    shop.page.wait_for_selector("#device-ask:not([hidden])")


def _correcting(shop: Shop) -> None:
    shop.answer("kind")
    shop.page.locator(".question [aria-expanded]").click()
    shop.page.get_by_role("combobox").press("ArrowDown")


def _unreadable(shop: Shop) -> None:
    shop.open()
    shop.page.set_input_files("#files", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}])
    shop.page.wait_for_selector(".card .problem")


def _offline(shop: Shop) -> None:
    shop.page.route("**/v1/recognise*", lambda route: route.abort())
    shop.open()
    shop.page.set_input_files("#files", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": samples.sample("1")}])
    shop.page.wait_for_selector(".card .problem")


def _camera(shop: Shop) -> None:
    shop.open()
    shop.page.locator("#live").click()
    shop.page.wait_for_function("() => Number(document.querySelector('.viewfinder')?.dataset.answers) > 3")


def _denied(shop: Shop) -> None:
    refuse = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
    shop.page.add_init_script(refuse)
    shop.open()
    shop.page.locator("#live").click()
    shop.page.wait_for_selector(".live-problem:not([hidden])")


def _history(shop: Shop) -> None:
    shop.open()
    shop.page.locator("#remember").check()
    for count, name in enumerate(("1", "3"), 1):
        shop.pick(name)
        shop.page.wait_for_selector(f"#history li >> nth={count - 1}")


def _known(shop: Shop) -> None:
    shop.open("/known")
    shop.page.wait_for_selector("#kinds li")


def _found(shop: Shop) -> None:
    _known(shop)
    shop.page.locator("#search").fill("ki")


def _delete(shop: Shop) -> None:
    kept = _kept(shop.url)
    shop.open(f"/delete#{kept['id']}.{kept['secret']}")
    shop.page.wait_for_selector("img.kept")


def _kept(url: str) -> dict[str, Any]:
    files = [("photo", ("a.jpg", samples.sample("3"), "image/jpeg"))]
    answer = httpx.post(f"{url}/v1/recognise", files=files, data={"keep": "true", "lang": "en"}, timeout=60)
    kept: dict[str, Any] = answer.raise_for_status().json()["photos"][0]
    wrong = {"id": kept["id"], "secret": kept["secret"], "right": False, "label": None, "note": "a note"}
    httpx.post(f"{url}/v1/feedback", json=wrong, timeout=60).raise_for_status()
    return kept


def _overview(shop: Shop) -> None:
    shop.sign_in("/owner")
    shop.page.wait_for_selector(".chart svg rect")


def _improve(shop: Shop) -> None:
    shop.sign_in("/owner/improve")
    shop.page.wait_for_selector("#next-run .improve-part > *")


def _signing_in(shop: Shop) -> None:
    shop.open("/owner")
    shop.page.locator("#token").fill("no-token-of-this-service")
    shop.page.keyboard.press("Enter")
    shop.page.wait_for_selector("#sign-in-problem:not([hidden])")


def _review(shop: Shop) -> None:
    shop.sign_in("/owner/review")
    shop.page.wait_for_selector("#photo img")


def _several(shop: Shop) -> None:
    """Three fruits side by side, as the page really finds them; one is chosen."""
    shop.open()
    row = Image.new("RGB", (900, 300), "white")
    for at, name in enumerate(("1", "4", "3")):
        with Image.open(io.BytesIO(samples.sample(name))) as one:
            row.paste(one.convert("RGB").resize((300, 300)), (300 * at, 0))
    photo = io.BytesIO()
    row.save(photo, "JPEG", quality=92)
    shop.page.set_input_files("#files", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photo.getvalue()}])
    shop.page.locator(".closer button").first.click()
    shop.page.locator(".part").nth(1).click()


def _part(shop: Shop) -> None:
    _several(shop)
    shop.page.locator(".closer button").last.click()
    shop.page.wait_for_selector(".mark")


STATES: Final[dict[str, Callable[[Shop], None]]] = {
    "empty": lambda shop: shop.open(),
    "choices": _choices,
    "sure": lambda shop: shop.answer("kind", probability=0.93),
    "probable": lambda shop: shop.answer("probable"),
    "unsure": lambda shop: shop.answer("unsure"),
    "unknown": lambda shop: shop.answer("unknown"),
    "map": _map,
    "several": _several,
    "part": _part,
    "enlarged": _enlarged,
    "missing": _missing,
    "kept": _kept_photo,
    "thanked": _thanked,
    "gone": _gone,
    "correcting": _correcting,
    "unreadable": _unreadable,
    "offline": _offline,
    "waiting": _waiting,
    "device": _device,
    "device-updated": _device_updated,
    "camera": _camera,
    "camera-denied": _denied,
    "history": _history,
    "known": _known,
    "found": _found,
    "delete": _delete,
    "sign-in": _signing_in,
    "owner": _overview,
    "improve": _improve,
    "review": _review,
}
#: Of these, what lies outside the window belongs to the state, too.
_WHOLE: Final = tuple(set(STATES) - {"enlarged", "camera", "camera-denied", "known"})


def violations(page: Any) -> list[str]:
    """Return what axe-core finds on a page; run by the developer tools, as the page's policy lets in no script of others."""
    page.evaluate(AXE.read_text("utf-8") + "; null")
    found = page.evaluate("(rules) => axe.run(document, rules)", {"resultTypes": ["violations"]})["violations"]
    return [
        f"{one['impact']} {one['id']}: {one['help']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for one in found
        for node in one["nodes"]
    ]


@contextmanager
def shop(browser: Any, url: str, owner: str, *, language: str, scheme: str, size: tuple[int, int]) -> Iterator[Shop]:
    """Yield a page of a visitor with a language, a colour scheme and a screen."""
    phone = size[0] < 600
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, locale=language, color_scheme=scheme, reduced_motion="reduce",
        service_workers="block", permissions=["camera"], has_touch=phone, is_mobile=phone,
    )  # fmt: skip
    context.set_default_timeout(_PATIENCE_MS)
    yield Shop(context.new_page(), url, owner)
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.states", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=tuple(STATES), default=tuple(STATES))
    parser.add_argument("--languages", nargs="+", choices=tuple(LANGUAGES), default=tuple(LANGUAGES))
    choices = parser.parse_args()
    choices.folder.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fruits-states-") as scratch:
        video = Path(scratch) / "video.mjpeg"
        video.write_bytes(made_video(moving=False))
        with served(Path(scratch) / "data") as url, chromium(*fake_camera(video)) as browser:
            _kept(url)
            owner = _owner(Path(scratch) / "data")
            for state in choices.only:
                for device, size in WIDTHS.items():
                    taken = []
                    for language in choices.languages:
                        for scheme in SCHEMES:
                            name = f"{state}-{device}-{language}-{scheme}"
                            found += _shot(browser, url, owner, state, language, scheme, size, choices.folder, name)
                            taken.append(choices.folder / f"{name}.png")
                    sheet(taken, choices.folder / f"sheet-{state}-{device}.png", 3 if device == "desk" else len(taken))
                sys.stderr.write(f"{state}: done\n")
    told = "\n".join(found) or "axe-core finds nothing"
    sys.stdout.write(f"{told}\npictures and sheets: {choices.folder}\n")
    sys.exit(1 if found else 0)


def _shot(
    browser: Any,
    url: str,
    owner: str,
    state: str,
    language: str,
    scheme: str,
    size: tuple[int, int],
    to: Path,
    name: str,
) -> list[str]:
    with shop(browser, url, owner, language=language, scheme=scheme, size=size) as one:
        try:
            STATES[state](one)
        except Exception as exc:  # told, and the next picture is taken
            return [f"{name}: not reached: {str(exc).splitlines()[0]}"]
        one.page.wait_for_timeout(300)
        one.page.screenshot(path=to / f"{name}.png", full_page=state in _WHOLE)
        told = violations(one.page) if AXE.is_file() else []
        wide = one.page.evaluate("document.documentElement.scrollWidth")
        if wide > size[0]:
            told.append(f"{wide} pixels wide on a screen of {size[0]}")
        return [f"{name}: {text}" for text in told]


def sheet(pictures: list[Path], to: Path, columns: int, side: int = 560) -> None:
    """Put pictures side by side, each with its name."""
    images = []
    for path in pictures:
        if path.is_file():
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            image.thumbnail((side, 3 * side))
            images.append((path.stem, image))
    if not images:
        return
    width = max(image.width for _, image in images) + 8
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(image.height for _, image in row) + 24 for row in rows]
    whole = Image.new("RGB", (width * min(columns, len(images)), sum(heights)), "#888")
    draw, top = ImageDraw.Draw(whole), 0
    for row, height in zip(rows, heights, strict=True):
        for place, (name, image) in enumerate(row):
            draw.text((place * width + 4, top + 4), name, fill="white")
            whole.paste(image, (place * width + 4, top + 20))
        top += height
    whole.save(to)


def _owner(data: Path) -> str:
    command = ["tokens", "add", "keeper", "--role", "owner", "--data", str(data), "--json"]
    made = subprocess.run([sys.executable, "-m", "fruits", *command], capture_output=True, text=True, check=True)
    token: str = json.loads(made.stdout)["token"]
    return token


if __name__ == "__main__":
    main()
