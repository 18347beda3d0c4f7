"""axe-core on every page, in every language, in light and dark: nothing that keeps anybody out.

Each page is seen in each language, each scheme and each width, not in every combination of these: what axe-core finds is of one
of them. ``python -m tests.browser.states`` goes through all combinations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.browser.states import AXE, STATES, Shop, violations

pytestmark = pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: install it with 'make web' (needs npm)")


@pytest.mark.parametrize(("locale", "scheme"), [("en", "dark"), ("fr", "light"), ("es", "dark")])
def test_axe_finds_nothing(
    visit: Callable[..., Any],
    recogniser: Any,
    service: Any,
    make_jpeg: Callable[..., bytes],
    locale: str,
    scheme: str,
) -> None:
    found: dict[str, list[str]] = {}
    visitor = visit(locale=locale, color_scheme=scheme, reduced_motion="reduce")
    page = visitor.open()
    page.locator("#remember").check()
    visitor.choices()
    found["empty"] = violations(page)
    strange = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": make_jpeg()}
    broken = {"name": "b.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}
    visitor.pick(*recogniser.some("Apfelino Red 1"), *recogniser.some("Moon Pear 1"), strange, broken)
    visitor.answers(4)
    page.locator("[aria-expanded]").first.click()
    page.get_by_role("combobox").press("ArrowDown")
    page.locator(".map-toggle").first.click()
    page.wait_for_selector("#history li >> nth=2")
    found["answers"] = violations(page)
    visitor.shot(f"axe-answers-{locale}-{scheme}", full_page=True)

    visitor.open("/known")
    page.wait_for_selector("#kinds li")
    found["known"] = violations(page)

    (kept,) = service.recognise(*recogniser.some("Moon Pear 1"), keep=True)
    wrong = {"id": kept["id"], "secret": kept["secret"], "right": False, "label": "Apfelino Red 1", "note": "a note"}
    httpx.post(f"{service.url}/v1/feedback", json=wrong).raise_for_status()
    visitor.open(f"/delete#{kept['id']}.{kept['secret']}")
    found["delete"] = violations(page)
    visitor.open("/owner")
    found["sign in"] = violations(page)
    page.locator("#token").fill(service.owner)
    page.keyboard.press("Enter")
    page.wait_for_selector(".chart svg rect")
    page.wait_for_selector("#wrong img")
    page.locator(".chart summary").first.click()
    found["owner"] = violations(page)
    visitor.open("/owner/review")
    page.wait_for_selector("#desk:not([hidden])")
    page.wait_for_selector("#photo img")
    page.keyboard.press("x")
    found["review"] = violations(page)
    visitor.shot(f"axe-review-{locale}-{scheme}", full_page=True)
    assert {name: some for name, some in found.items() if some} == {}


@pytest.mark.parametrize(("locale", "scheme", "width"), [("es", "light", 1280), ("fr", "dark", 390)])
def test_axe_finds_nothing_in_any_state(
    visit: Callable[..., Any], service: Any, locale: str, scheme: str, width: int
) -> None:
    found: dict[str, list[str]] = {}
    for state in ("choices", "sure", "probable", "unsure", "unknown", "map", "enlarged", "offline"):
        visitor = visit(locale=locale, color_scheme=scheme, width=width, reduced_motion="reduce")
        visitor.expected.append("net::ERR_FAILED")  # a request that is cut for the state "offline"
        STATES[state](Shop(visitor.page, service.url, service.owner))
        found[state] = violations(visitor.page)
        if (wide := visitor.page.evaluate("document.documentElement.scrollWidth")) > width:
            found[state].append(f"{wide} pixels wide")
        visitor.page.close()
    assert {name: some for name, some in found.items() if some} == {}


def _tabbed(page: Any, most: int) -> list[str]:
    """Press Tab until the focus leaves the page; return what it was on, as a screen reader names it."""
    named = """() => {
        const one = document.activeElement;
        if (!one || one === document.body) return null;
        const label = one.labels?.[0]?.querySelector("b") ?? one.labels?.[0];
        return (one.getAttribute("aria-label") ?? label?.textContent ?? one.textContent).trim().replace(/\\s+/g, " ");
    }"""
    found: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        name = page.evaluate(named)
        if name is None:
            break
        found.append(name)
    return found


def test_tab_goes_through_the_page_in_the_order_that_it_is_read(visit: Callable[..., Any], service: Any) -> None:
    visitor = visit()
    shop = Shop(visitor.page, service.url, service.owner)
    shop.open()
    page = visitor.page
    pages_own = ["Remember them on this device", "What I know: every kind, with its names"]
    start = ["To the answers", "EN, English", "ES, Español", "FR, Français", "Choose photos"]
    live = ["Live camera"] if page.locator("#live").is_visible() else []
    samples = [f"Try sample picture {number}" for number in range(1, 7)]
    way = "Sent to be named, not kept. Change"
    assert _tabbed(page, 30) == [*start, *live, way, *samples, *pages_own]
    page.close()

    visitor = visit()
    shop = Shop(visitor.page, service.url, service.owner)
    shop.answer("unsure")
    page = visitor.page
    page.keyboard.press("Control+Home")
    page.evaluate("document.activeElement?.blur()")
    found = _tabbed(page, 40)
    card = found[found.index(way) + 1 : found.index(samples[0])]
    assert card[0] == "What I looked at", "beside the photo"
    guesses = page.locator(".guess bdi").all_inner_texts()
    assert [name.split(" ")[0] for name in card[1:4]] == [name.split(" ")[0] for name in guesses]
    assert card[4] == "Something else"
    assert card[5:7] == ["Look for several kinds", "Ask about a part"]
    assert all(name.startswith("Enlarge: ") for name in card[7:-2])
    assert card[-2:] == ["Delete", "Share as a picture"]


def test_answer_is_read_in_the_order_photo_name_question_more(visit: Callable[..., Any], service: Any) -> None:
    visitor = visit()
    shop = Shop(visitor.page, service.url, service.owner)
    shop.answer("kind", probability=0.93)
    read = visitor.page.locator(".card").aria_snapshot()
    name = visitor.page.locator(".card h2").inner_text()
    parts = ['img "Your photo 1"', 'button "What I looked at"', f'heading "{name}" [level=2]', 'group "Is that right?"']
    parts += ['button "Yes"', 'heading "Most likely" [level=3]', 'heading "Similar photos" [level=3]']
    places = [read.find(part) for part in parts]
    assert -1 not in places, read
    assert places == sorted(places), read
