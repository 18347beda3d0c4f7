"""Where the answer stands: on a phone it is seen without scrolling, with the photo, its activation map and the guesses."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fruits.recogniser import bundle as bundles
from fruits.service.pages import routes as pages

PHONE: dict[str, Any] = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True}
MAP = {"rows": 2, "columns": 2, "values": [1.0, 0.5, 0.0, 0.0], "fit": "squash"}


def _edges(page: Any, selector: str) -> tuple[float, float]:
    """Return top and bottom of an element on the screen."""
    box = page.locator(selector).first.bounding_box()
    return box["y"], box["y"] + box["height"]


def _answer_as(visitor: Any, outcome: str, **changes: Any) -> None:
    """Let the page get the service's answers with another outcome and an activation map."""

    def other(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for photo in body["photos"]:
            photo |= {"outcome": outcome, "map": MAP, **changes}
        route.fulfill(response=answer, json=body)

    visitor.page.route("**/v1/recognise*", other)


# All outcomes in French, which has the longest words.
@pytest.mark.parametrize(
    ("outcome", "locale"),
    [("kind", "fr"), ("probable", "fr"), ("unsure", "fr"), ("unsure", "en"), ("probable", "es")],
)
def test_answer_is_seen_on_a_phone_without_scrolling(
    visit: Callable[..., Any], recogniser: Any, outcome: str, locale: str
) -> None:
    visitor = visit(**PHONE, locale=locale)
    page = visitor.open()
    _answer_as(visitor, outcome, **({"name": None} if outcome == "unsure" else {}))
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.answers(1)
    assert page.evaluate("scrollY") == 0
    seen = [".card .picture img", ".card .map-toggle", ".card h2"]
    seen += [".card .sure"] if outcome == "kind" else [f".card .guess >> nth={place}" for place in range(3)]
    for selector in seen:
        top, bottom = _edges(page, selector)
        assert 0 <= top < bottom <= 844, selector
    assert _edges(page, ".card")[0] < 250, "the picker is a bar"
    top, bottom = _edges(page, ".picker .camera")
    assert bottom - top < 50, "its button is one line"
    visitor.shot(f"first-{outcome}-{locale}")


def test_second_photo_is_seen_first_wherever_the_visitor_was(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit(**PHONE, reduced_motion="reduce")
    page = visitor.open()
    visitor.pick(*recogniser.some("Moon Pear 1"), *recogniser.some("Apfelino Red 1"))
    visitor.answers(2)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    visitor.pick(*recogniser.some("Melonette Striped"))
    visitor.answers(3)
    top, _ = _edges(page, ".card h2")
    assert 0 <= top < 844


def test_guesses_are_buttons_as_wide_as_the_card_with_their_shares(
    visit: Callable[..., Any], recogniser: Any, service: Any
) -> None:
    visitor = visit(**PHONE)
    page = visitor.open()
    _answer_as(visitor, "unsure", name=None)
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    guesses = card.locator("button.guess")
    assert guesses.count() == 3
    for place in range(3):
        box = guesses.nth(place).bounding_box()
        assert box["height"] >= 44
        assert box["width"] > 300
        assert "%" in guesses.nth(place).locator(".share").inner_text()
    assert card.locator(".bars").count() == 0, "no list repeats them"
    names = guesses.locator("bdi").all_inner_texts()
    assert page.locator("#status").text_content().endswith(", ".join(names)), "they are read out with the answer"
    before = service.ask_owner("summary")["total"]["wrong"]
    guesses.nth(1).click()
    page.wait_for_selector(f"text=“{names[1]}” is noted")
    assert service.ask_owner("summary")["total"]["wrong"] == before + 1


def test_activation_map_is_laid_over_the_photo_and_taken_away_by_keyboard(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit()
    page = visitor.open()
    _answer_as(visitor, "kind")
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    toggle = card.get_by_role("button", name="What I looked at")
    assert toggle.get_attribute("aria-pressed") == "false"
    assert card.locator("canvas").is_hidden()
    toggle.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".map-said:has-text('The brighter a spot')")
    assert toggle.get_attribute("aria-pressed") == "true"
    opacities = card.locator("canvas").evaluate(
        """(one) => {
          const at = (x, y) => one.getContext("2d").getImageData(x * (one.width - 1), y * (one.height - 1), 1, 1).data[3];
          return [at(0, 0), at(1, 0), at(0, 1), at(1, 1)];
        }"""
    )
    assert opacities[0] > opacities[1] > opacities[2] == opacities[3], "as bright as the values of the map"
    over, under = (card.locator(one).bounding_box() for one in ("canvas", ".picture img"))
    assert over == under
    page.keyboard.press("Enter")
    page.wait_for_selector("canvas", state="hidden")
    assert toggle.get_attribute("aria-pressed") == "false"


@pytest.mark.skipif(not pages.has_device_mode(), reason="no runtime of the on-device mode: build it with 'make web'")
def test_map_of_the_device_is_that_of_the_recogniser(visit: Callable[..., Any], recogniser: Any) -> None:
    bundle = bundles.load(recogniser.out)
    photo = recogniser.some("Melonette Striped")[0].read_bytes()
    with Image.open(io.BytesIO(photo)) as picture:
        png = io.BytesIO()
        picture.save(png, "PNG")
    made = (
        visit()
        .open()
        .evaluate(
            """async (bytes) => {
          const { Device } = await import("/static/js/device/device.js");
          const device = new Device();
          await device.open(() => {});
          const { map } = await device.recognise(new Blob([new Uint8Array(bytes)]));
          device.close();
          return map;
        }""",
            list(png.getvalue()),
        )
    )
    expected = np.maximum(bundle.explain(png.getvalue()).places, 0)
    found = np.reshape(made["values"], (made["rows"], made["columns"]))
    assert made["fit"] == bundle.preprocessing.fit
    # The browser's runtime adds in another order.
    np.testing.assert_allclose(found, expected / expected.max(), atol=1e-3)


def test_line_under_the_picker_says_what_happens_with_the_next_photo(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open()
    line = page.locator("#way")
    assert line.inner_text() == "Sent to be named, not kept."
    assert page.get_by_label("Keep my photo").is_hidden(), "details are behind the line"
    visitor.choices()
    page.get_by_label("Keep my photo").check()
    assert line.inner_text() == "Sent to be named, and kept."
    page.get_by_label("Show it to others").check()
    assert line.inner_text() == "Sent, kept, and shown to others."
    if pages.has_device_mode():
        page.get_by_role("switch").check()
        page.wait_for_function("() => document.querySelector('#way').textContent.startsWith('Ready: your photos stay')")
        page.get_by_role("switch").uncheck()
    else:
        page.get_by_label("Keep my photo").uncheck()
    assert line.inner_text() == "Sent to be named, not kept.", "no consent comes back by itself"
