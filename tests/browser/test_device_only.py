"""With "On this device only" switched on no photo is sent: not while the model loads, not if it cannot, not after a reload."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from fruits.service.pages import routes as pages

pytestmark = pytest.mark.skipif(
    not pages.has_device_mode(), reason="no runtime of the on-device mode: build it with 'make web' (needs npm)"
)

#: Notes every text that the page ever shows, also for a moment.
_WATCH = """() => {
  window.shown = [];
  const note = () => document.body && window.shown.push(document.body.textContent);
  new MutationObserver(note).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


class Watched:
    """A visit whose every request is noted, and whose model loads when the test says so."""

    def __init__(self, visitor: Any) -> None:
        self.visitor, self.page = visitor, visitor.page
        self.posts: list[str] = []
        self.held: list[Any] = []
        self.holding: str | None = None
        visitor.context.on(
            "request", lambda asked: self.posts.append(asked.url) if asked.method not in ("GET", "HEAD") else None
        )
        self.page.add_init_script(f"({_WATCH})()")

    def hold(self, pattern: str) -> None:
        """Keep requests waiting from now on."""
        self.holding = pattern
        self.page.route(pattern, lambda route: self.held.append(route))  # noqa: PLW0108 - Playwright inspects it

    def let_go(self) -> None:
        """Let through what waits, and all that comes."""
        held, self.held = self.held, []
        self.page.unroute(self.holding)
        for route in held:
            with suppress(Exception):  # the page gave it up meanwhile
                route.continue_()

    def is_waiting(self) -> None:
        """Wait until something is held."""
        for _ in range(600):
            if self.held:
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"nothing asked for {self.holding}")


@pytest.fixture
def watched(visit: Callable[..., Any]) -> Iterator[Watched]:
    """A visitor with every request watched; whatever happens, the page never says 'undefined'."""
    made = Watched(visit())
    yield made
    assert not [text for text in made.page.evaluate("window.shown") if "undefined" in text or "NaN" in text]


def _answered_here(watched: Watched, count: int = 1) -> None:
    cards = watched.visitor.answers(count)
    for place in range(count):
        assert "your photo was not sent" in cards.nth(place).inner_text()
    assert watched.posts == []


@pytest.mark.parametrize("asset", ["**/v1/model", "**/features.bin", "**/recognizer.onnx", "**/*.wasm"])
def test_photo_waits_for_the_model_after_switching_on(watched: Watched, recogniser: Any, asset: str) -> None:
    page = watched.visitor.open()
    watched.visitor.choices()
    page.get_by_role("switch").wait_for()
    watched.hold(asset)
    page.get_by_role("switch").check()
    watched.visitor.pick(*recogniser.some("Melonette Striped"))
    page.wait_for_selector("text=Waiting for the model to load")
    watched.is_waiting()
    page.wait_for_timeout(300)
    assert watched.posts == []
    watched.let_go()
    _answered_here(watched)


@pytest.mark.parametrize("asset", ["**/static/page.json", "**/recognizer.onnx"])
def test_earlier_choice_holds_after_a_reload_before_any_photo(watched: Watched, recogniser: Any, asset: str) -> None:
    page = watched.visitor.open()
    watched.visitor.choices()
    page.get_by_role("switch").check()
    page.wait_for_selector("text=Ready: your photos stay on this device.")
    watched.hold(asset)
    page.reload(wait_until="commit")
    page.wait_for_selector("#files", state="attached")
    page.wait_for_function("() => !document.documentElement.classList.contains('unsaid')")
    watched.visitor.choices()
    assert page.get_by_role("switch").is_checked()
    assert page.get_by_label("Keep my photo").is_disabled()
    watched.visitor.pick(*recogniser.some("Melonette Striped"), *recogniser.some("Moon Pear 1"))
    page.wait_for_selector("text=Waiting for the model to load")
    watched.is_waiting()
    page.wait_for_timeout(300)
    watched.let_go()
    _answered_here(watched, 2)


def test_model_that_cannot_be_loaded_sends_nothing_and_asks(watched: Watched, recogniser: Any) -> None:
    watched.visitor.expected.append("500")
    page = watched.visitor.open()
    page.route("**/recognizer.onnx", lambda route: route.fulfill(status=500, body="no"))
    watched.visitor.choices()
    page.get_by_role("switch").check()
    watched.visitor.pick(*recogniser.some("Moon Pear 1", 2))
    cards = watched.visitor.answers(2)
    assert "neither recognised nor sent" in cards.first.inner_text()
    assert page.get_by_role("switch").is_checked()
    page.reload()
    page.wait_for_selector("text=That did not work on this device")
    watched.visitor.pick(*recogniser.some("Moon Pear 1", 2))
    cards = watched.visitor.answers(2)
    assert watched.posts == []
    watched.visitor.shot("device-asks", full_page=True)
    cards.first.get_by_role("button", name="Switch off, and send this photo").click()
    page.wait_for_function("() => document.querySelector('.card h2')")
    watched.visitor.choices()
    assert not page.get_by_role("switch").is_checked()
    assert len(watched.posts) == 1
    assert "This photo was not sent" in watched.visitor.answers(2).nth(1).inner_text(), "only that one was agreed to"
    page.unroute("**/recognizer.onnx")
    page.get_by_role("switch").check()
    watched.visitor.answers(2)
    page.wait_for_function("() => document.querySelectorAll('.card h2').length === 2")
    assert len(watched.posts) == 1, "switched on again, the other one is looked at here"


def test_photo_chosen_for_this_device_is_not_sent_when_the_switch_goes_off(watched: Watched, recogniser: Any) -> None:
    page = watched.visitor.open()
    watched.visitor.choices()
    page.get_by_role("switch").wait_for()
    watched.hold("**/recognizer.onnx")
    for _ in range(3):
        page.get_by_role("switch").check()
        page.get_by_role("switch").uncheck()
    page.get_by_role("switch").check()
    watched.visitor.pick(*recogniser.some("Moon Pear 1"))
    page.wait_for_selector("text=Waiting for the model to load")
    page.get_by_role("switch").uncheck()
    page.wait_for_selector("text=This photo was not sent")
    watched.let_go()
    page.wait_for_timeout(300)
    assert watched.posts == []
    page.get_by_role("button", name="Send it to the service").click()
    page.wait_for_selector(".card h2")
    assert len(watched.posts) == 1


def test_switching_on_stops_what_is_on_its_way_and_what_waits_to_be_sent_again(
    watched: Watched, recogniser: Any
) -> None:
    watched.visitor.expected += ["503", "ERR_ABORTED"]
    page = watched.visitor.open()
    watched.visitor.choices()
    page.get_by_role("switch").wait_for()
    said = {"code": "busy", "message": {"en": "Busy.", "fr": "Occupé."}, "request_id": "x"}
    busy: dict[str, Any] = {"status": 503, "headers": {"Retry-After": "2"}, "json": {"error": said}}
    page.route("**/v1/recognise", lambda route: route.fulfill(**busy))
    watched.visitor.pick(*recogniser.some("Moon Pear 1"))
    page.wait_for_selector("text=Trying again in")
    page.unroute("**/v1/recognise")
    watched.hold("**/v1/recognise")
    watched.visitor.pick(*recogniser.some("Melonette Striped"))
    watched.is_waiting()
    failed: list[str] = []
    page.on("requestfailed", lambda asked: failed.append(asked.url))
    before = len(watched.posts)
    page.get_by_role("switch").check()
    cards = watched.visitor.answers(2)
    assert all("your photo was not sent" in cards.nth(place).inner_text() for place in range(2))
    assert [address.rpartition("/")[2] for address in failed] == ["recognise"]
    assert len(watched.posts) == before == 2


def test_choice_of_a_service_that_no_longer_has_the_runtime_still_stands(watched: Watched, recogniser: Any) -> None:
    page = watched.visitor.open()
    page.evaluate("localStorage.setItem('fruits.device', 'yes')")
    page.route("**/static/page.json", lambda route: route.fulfill(json={"device": None}))
    page.reload()
    page.wait_for_selector("text=That did not work on this device")
    watched.visitor.pick(*recogniser.some("Moon Pear 1"))
    assert "neither recognised nor sent" in watched.visitor.answers(1).first.inner_text()
    assert watched.posts == []
    page.get_by_role("button", name="Use the service instead").click()
    page.reload()
    page.wait_for_timeout(300)
    watched.visitor.choices()
    assert page.get_by_role("switch").count() == 0


def test_worker_that_stops_is_told_and_its_photo_waits(watched: Watched, recogniser: Any) -> None:
    page = watched.visitor.open()
    page.add_init_script(
        "const Real = Worker; window.Worker = class extends Real { constructor(...all) { super(...all); window.last = this; } };"
    )
    page.reload()
    watched.visitor.choices()
    page.get_by_role("switch").check()
    page.wait_for_selector("text=Ready: your photos stay on this device.")
    page.evaluate("window.last.dispatchEvent(new Event('error'))")
    page.wait_for_selector("text=That did not work on this device")
    watched.visitor.pick(*recogniser.some("Moon Pear 1"))
    assert "neither recognised nor sent" in watched.visitor.answers(1).first.inner_text()
    page.locator(".card").get_by_role("button", name="Try again").click()
    _answered_here(watched)


def test_consent_given_after_a_photo_was_chosen_is_not_for_that_photo(
    visit: Callable[..., Any], wire: Any, recogniser: Any
) -> None:
    visitor = visit(to=wire)
    visitor.expected.append("503")
    page = visitor.open()
    said = {"code": "busy", "message": {"en": "Busy.", "fr": "Occupé."}, "request_id": "x"}
    busy: dict[str, Any] = {"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": said}}
    page.route("**/v1/recognise", lambda route: route.fulfill(**busy))
    visitor.pick(*recogniser.some("Moon Pear 1"))
    page.wait_for_selector("text=Trying again in")
    visitor.choices()
    page.get_by_label("Keep my photo").check()
    page.unroute("**/v1/recognise")
    assert "was not kept" in visitor.answers(1).first.inner_text()
    assert wire.request("/v1/recognise")[1]["keep"] == b"false"
    page.close()  # before the way to the service is
