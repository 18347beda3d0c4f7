"""Parts of the page that are loaded when they are needed, where one cannot be had: no connection, or another version by now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fruits.service.pages import routes as pages

LANGUAGES = ("English", "Español", "Français")
OFFLINE = (
    "There is no connection, and this part of the page was not loaded before.",
    "No hay conexión, y esta parte de la página no se había cargado antes.",
    "Pas de connexion, et cette partie de la page n’a pas encore été chargée.",
)
UPDATED = "The service has a new version. Reload the page to go on."


def _without(visitor: Any, part: str, *, connection: bool) -> None:
    """Let a part not be had: the service has another one by now, or there is no connection."""
    visitor.expected += ["404", "ERR_FAILED"]
    pattern = f"**/visitor.{part}.*.js"
    if connection:
        visitor.page.route(pattern, lambda route: route.fulfill(status=404))
    else:
        for refused in (pattern, "**/healthz"):
            visitor.page.route(refused, lambda route: route.abort())


@pytest.mark.parametrize(
    ("part", "press"),
    [
        ("enlarge", ".similar .enlarge"),
        ("share", ".fate button:last-child"),
        ("regions", ".closer button"),
        ("history", "#remember"),
    ],
)
def test_reason_stands_below_what_was_pressed_in_the_readers_language(
    visit: Callable[..., Any], recogniser: Any, part: str, press: str
) -> None:
    visitor = visit()
    page = visitor.open()
    _without(visitor, part, connection=False)
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.answers(1)
    page.locator(press).first.click()
    said = page.locator(".missing")
    said.wait_for()
    for language, sentence in zip(LANGUAGES, OFFLINE, strict=True):
        page.get_by_role("button", name=language).click()
        page.wait_for_selector(f".missing:has-text('{sentence}')")
    top, pressed = said.bounding_box()["y"], page.locator(press).first.bounding_box()["y"]
    assert 0 < top - pressed < 400, "near, and below"
    assert said.get_attribute("role") == "alert"
    page.locator(press).first.click()
    page.wait_for_timeout(200)
    assert said.count() == 1, "said once"
    if part == "history":
        assert not page.locator(press).is_checked(), "nothing is remembered"


def test_page_of_an_earlier_version_asks_to_be_loaded_again(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    _without(visitor, "enlarge", connection=True)
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.answers(1).first.locator(".enlarge").first.click()
    page.wait_for_selector(f".missing:has-text('{UPDATED}')")


@pytest.mark.skipif(not pages.has_device_mode(), reason="no runtime of the on-device mode: build it with 'make web'")
@pytest.mark.parametrize("part", ["decide", "device-worker"])
@pytest.mark.parametrize("connection", [True, False])
def test_model_that_lacks_a_part_says_why_and_sends_nothing(
    visit: Callable[..., Any], recogniser: Any, part: str, connection: bool
) -> None:
    visitor = visit()
    page = visitor.open()
    _without(visitor, part, connection=connection)
    posts: list[str] = []
    page.on("request", lambda asked: asked.method == "POST" and posts.append(asked.url))
    visitor.choices()
    page.get_by_role("switch").check()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    why = "The service has a new version: reload the page" if connection else "There is no connection to load it."
    page.wait_for_selector(f"#device-state:has-text('{why}')")
    page.wait_for_selector(".card .problem")
    assert posts == []
