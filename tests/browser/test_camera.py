"""The live camera: it names what it sees on the device, sends nothing, rests when nothing moves, and is released."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.page import fake_camera
from PIL import Image
from tests.browser.states import AXE, violations

from fruits.service.pages import routes as pages

pytestmark = pytest.mark.skipif(
    not pages.has_device_mode(), reason="no runtime of the on-device mode: build it with 'make web' (needs npm)"
)
_SECOND = 30  # frames
_STATE = "() => ({ ...document.querySelector('.viewfinder').dataset })"
_ANSWERED = "n => Number(document.querySelector('.viewfinder')?.dataset.answers) >= n"
_NAMED = "(name) => document.querySelector('.live-name')?.textContent.toLowerCase().includes(name)"


@pytest.fixture(scope="module")
def videos(recogniser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos as motion JPEG: a fruit that stands still; two fruits in turns, each for two seconds."""
    folder = tmp_path_factory.mktemp("videos")
    pear, melon = (_frame(recogniser.some(label)[0]) for label in ("Moon Pear 1", "Melonette Striped"))
    written = {"still": pear * _SECOND, "changing": pear * 2 * _SECOND + melon * 2 * _SECOND}
    for name, content in written.items():
        (folder / f"{name}.mjpeg").write_bytes(content)
    return {name: folder / f"{name}.mjpeg" for name in written}


def _frame(photo: Path) -> bytes:
    with Image.open(photo) as picture:
        frame = Image.new("RGB", (640, 480), "white")
        frame.paste(picture.convert("RGB").resize((420, 420)), (110, 30))
    out = BytesIO()
    frame.save(out, "JPEG", quality=92)
    return out.getvalue()


@pytest.fixture
def flags(videos: dict[str, Path]) -> tuple[str, ...]:
    """What the camera of this test shows."""
    return fake_camera(videos["still"])


def _tracks(page: Any) -> None:
    """Let the page remember the tracks of every camera that it opens."""
    page.add_init_script("""
        window.tracks = [];
        const media = navigator.mediaDevices;
        const plain = media?.getUserMedia.bind(media);
        if (media) media.getUserMedia = async (...wanted) => {
          const stream = await plain(...wanted);
          window.tracks.push(...stream.getTracks());
          return stream;
        };
    """)


def _live(page: Any) -> int:
    return int(page.evaluate("window.tracks.filter((track) => track.readyState === 'live').length"))


def test_camera_names_what_it_sees_and_sends_nothing_and_the_shutter_keeps_it(
    wire: Any, visit: Callable[..., Any]
) -> None:
    visitor = visit(to=wire)
    _tracks(visitor.page)
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    page = visitor.open()
    assert not any("camera" in one or "vendor" in one for one in asked), "the module is loaded when it is asked for"
    page.get_by_label("Remember them on this device").check()
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function(_ANSWERED, arg=1)
    del asked[:]
    sent = len(wire.sent)
    page.wait_for_function(_ANSWERED, arg=3)
    page.wait_for_function(_NAMED, arg="moon pear")
    page.wait_for_timeout(1000)
    assert _live(page) == 1
    visitor.shot("camera-answer")
    if AXE.is_file():
        assert violations(page) == []
    assert asked == []
    assert len(wire.sent) == sent, "not a byte has left"
    page.get_by_role("button", name="Keep this picture and its answer").click()
    card = visitor.answers(1).first
    assert card.locator("h2").inner_text() == "Moon pear"
    assert "your photo was not sent" in card.inner_text()
    assert card.locator(".picture img").evaluate("(one) => one.naturalWidth") == 640
    page.wait_for_selector("#history li")
    assert page.locator("dialog").count() == 0
    assert _live(page) == 0, "the camera is released"
    assert page.evaluate("document.activeElement.id") == "live", "the focus is where it was"
    card.get_by_role("button", name="Look for several kinds").click()
    page.wait_for_function("() => document.querySelector('.parts-said')?.textContent.startsWith('I see')")
    assert not any(method in wire.sent for method in (b"POST ", b"PUT "))


def test_still_picture_is_looked_at_a_few_times_and_then_paused(visit: Callable[..., Any]) -> None:
    visitor = visit()
    _tracks(visitor.page)
    page = visitor.open()
    page.evaluate("""async () => {
        const { Viewfinder } = await import("/static/js/visitor/camera.js");
        new Viewfinder({ lent: null, keep: () => {}, idleMs: 4000 });
    }""")
    page.wait_for_function("() => Number(document.querySelector('.viewfinder')?.dataset.frames) >= 10")
    assert int(page.evaluate(_STATE)["answers"]) <= 6, "the frames show nothing new"
    page.get_by_role("button", name="Go on").wait_for()
    assert _live(page) == 0, "the camera itself is off"
    assert page.locator(".live-name").inner_text() == "Paused, as nothing moves."
    before = page.evaluate(_STATE)
    page.get_by_role("button", name="Go on").click()
    page.wait_for_function(_ANSWERED, arg=int(before["answers"]) + 1)
    assert _live(page) == 1


def test_camera_that_was_refused_is_asked_for_again(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.page
    page.add_init_script("""
        const plain = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        let refused = false;
        navigator.mediaDevices.getUserMedia = async (wish) => {
            if (refused) return plain(wish);
            refused = true;
            throw new DOMException("", "NotAllowedError");
        };
    """)
    visitor.open()
    page.get_by_role("button", name="Live camera").click()
    page.get_by_role("alert").wait_for()
    assert page.locator(".shutter").is_hidden(), "there is nothing to take"
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function(_ANSWERED, arg=1)
    assert page.get_by_role("alert").count() == 0
    assert page.locator(".shutter").is_enabled()


def test_hidden_tab_gives_the_camera_back_and_takes_it_again(visit: Callable[..., Any]) -> None:
    visitor = visit()
    _tracks(visitor.page)
    page = visitor.open()
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function(_ANSWERED, arg=1)
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    assert _live(page) == 0
    page.wait_for_timeout(300)
    before = page.evaluate(_STATE)
    page.wait_for_timeout(1000)
    assert page.evaluate(_STATE) == before, "nothing is looked at"
    page.evaluate(hide, False)
    page.wait_for_function(_ANSWERED, arg=int(before["answers"]) + 1)
    assert _live(page) == 1


_SLOW = """
    const plain = navigator.mediaDevices.getUserMedia;
    navigator.mediaDevices.getUserMedia = async (...wanted) => {
      await new Promise((done) => setTimeout(done, 700)); // as long as a visitor reads the question
      return plain(...wanted);
    };
"""


def test_camera_that_is_asked_for_twice_is_released_twice(visit: Callable[..., Any]) -> None:
    visitor = visit()
    _tracks(visitor.page)
    visitor.page.add_init_script(_SLOW)
    page = visitor.open()
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_selector(".viewfinder")
    page.evaluate("""() => {
        for (const hidden of [true, false]) {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }
    }""")
    page.wait_for_function("() => window.tracks.length === 2")
    page.wait_for_function(_ANSWERED, arg=1)
    assert _live(page) == 1
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)
    assert _live(page) == 0, "no light stays on"


def test_shutter_that_is_pressed_twice_keeps_one_picture(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open()
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function(_ANSWERED, arg=1)
    page.evaluate("for (let press = 0; press < 2; press++) document.querySelector('.shutter').click()")
    visitor.answers(1)
    page.wait_for_timeout(300)
    assert page.locator(".card").count() == 1


class TestChanging:
    """Two fruits in turns."""

    @pytest.fixture
    def flags(self, videos: dict[str, Path]) -> tuple[str, ...]:
        return fake_camera(videos["changing"])

    def test_name_follows_without_flicker_and_is_announced_rarely(self, visit: Callable[..., Any]) -> None:
        page = visit().open()
        page.get_by_role("button", name="Live camera").click()
        page.wait_for_function(_NAMED, arg="moon pear")
        page.evaluate("""() => {
            window.shown = []; window.spoken = [];
            const watch = (one, into) => new MutationObserver(() => into.push([performance.now(), one.textContent]))
                .observe(one, { childList: true, characterData: true, subtree: true });
            watch(document.querySelector(".live-name"), window.shown);
            watch(document.querySelector(".viewfinder [role=status]"), window.spoken);
        }""")
        for name in ("melonette", "moon pear", "melonette"):
            page.wait_for_function(_NAMED, arg=name)
        page.wait_for_timeout(4500)
        shown, spoken = page.evaluate("[window.shown, window.spoken]")
        names = [name for place, (_, name) in enumerate(shown) if not place or shown[place - 1][1] != name]
        seconds = (shown[-1][0] - shown[0][0]) / 1000
        assert len(names) <= 2 + 2 * seconds, f"a scene of two seconds has one name, or one on the way: {names}"
        apart = [later - earlier for (earlier, _), (later, _) in pairwise(spoken)]
        assert spoken
        assert all(one >= 3900 for one in apart), "screen readers are not talked over"


class TestDenied:
    """A visitor who allows no camera."""

    @pytest.fixture
    def flags(self) -> tuple[str, ...]:
        return ("--use-fake-device-for-media-stream", "--deny-permission-prompts")

    def test_denied_camera_is_said_in_a_sentence(self, visit: Callable[..., Any]) -> None:
        page = visit(locale="fr").open()
        page.get_by_role("button", name="Caméra en direct").click()
        page.get_by_role("alert").filter(has_text="n’est pas autorisé").wait_for()
        assert page.get_by_role("button", name="Garder cette image").count() == 0, "there is nothing to keep"
        assert page.get_by_role("button", name="Réessayer").is_visible()
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="detached")  # after the event of its closing


class TestMissing:
    """A machine without a camera."""

    @pytest.fixture
    def flags(self) -> tuple[str, ...]:
        return ("--use-fake-ui-for-media-stream",)

    def test_missing_camera_is_said_in_a_sentence(self, visit: Callable[..., Any]) -> None:
        page = visit(locale="es").open()
        page.get_by_role("button", name="Cámara en directo").click()
        page.get_by_role("alert").filter(has_text="No se ha encontrado ninguna cámara").wait_for()


def test_only_the_page_with_the_camera_may_use_one(service: Any) -> None:
    for path in ("/known", "/owner", "/delete", "/v1/labels", "/docs"):
        assert httpx.get(service.url + path).headers["permissions-policy"].startswith("camera=()"), path
    for headers in ({}, {"If-None-Match": "*"}):
        assert httpx.get(service.url, headers=headers).headers["permissions-policy"].startswith("camera=(self)")
