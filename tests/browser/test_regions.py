"""Several kinds in one photo, on the page: boxes with answers of their own, a box that the visitor draws; on the device too."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fruits.service
from fruits.recogniser.recogniser import load
from fruits.service.pages import routes as pages

_AXE = Path(fruits.service.__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"
PHONE: dict[str, Any] = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True}


def _together(*photos: Path, kind: str = "JPEG", side: int = 240) -> bytes:
    picture = Image.new("RGB", (side * len(photos), side), "white")
    for at, file in enumerate(photos):
        with Image.open(file) as one:
            picture.paste(one.convert("RGB").resize((side, side)), (at * side, 0))
    out = io.BytesIO()
    picture.save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


def _pick(visitor: Any, recogniser: Any) -> Any:
    photo = _together(*recogniser.some("Moon Pear 1"), *recogniser.some("Melonette Striped"))
    visitor.pick({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photo})
    return visitor.answers(1).first


def _region(name: str, box: list[float], outcome: str = "kind") -> dict[str, Any]:
    names = {"en": name, "fr": f"{name} (fr)", "es": f"{name} (es)"}
    share = {"kind": name.lower(), **names, "probability": 0.7}
    return {
        "box": box, "outcome": outcome, "kind": name.lower(), "variety": None, "name": None if outcome == "unsure" else names,
        "line": None, "probability": 0.7, "kinds": [share], "labels": [{"label": name, **names, "probability": 0.7}],
        "ood_score": 0.1, "advice": [],
    }  # fmt: skip


THREE = [
    _region("Banana", [0, 0, 0.3, 1]),
    _region("Kiwi", [0.3, 0, 0.6, 1], "probable"),
    _region("Lime", [0.6, 0, 1, 1]),
]


def _with_regions(visitor: Any, regions: Any) -> list[dict[str, str]]:
    """Let the page get these regions; return the fields of each request that asks for parts."""
    asked: list[dict[str, str]] = []

    def other(route: Any) -> None:
        head = f"Content-Type: {route.request.headers['content-type']}\r\n\r\n".encode()
        parts: Any = message_from_bytes(head + route.request.post_data_buffer).get_payload()
        fields = {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True) for part in parts
        }
        if {"regions", "box"} & fields.keys():
            asked.append({name: value.decode() for name, value in fields.items() if name != "photo"})
        answer = route.fetch()
        body = answer.json()
        if "regions" in fields:
            body["photos"][0]["regions"] = regions
        route.fulfill(response=answer, json=body)

    visitor.page.route("**/v1/recognise*", other)
    return asked


def test_each_kind_has_a_box_and_an_answer_of_its_own(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit(**PHONE, reduced_motion="reduce")
    page = visitor.open()
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    asked = _with_regions(visitor, [*THREE, _region("Fig", [0.1, 0.1, 0.2, 0.2], "unsure")])
    card = _pick(visitor, recogniser)
    assert not any("regions.js" in url for url in loaded), "loaded when asked for, not before"
    assert asked == []
    card.get_by_role("button", name="Look for several kinds").tap()
    said = card.locator(".parts-said")
    page.wait_for_selector(".part >> nth=3")
    sentence = "I see three: banana, probably kiwi (70%) and lime. There is one part that I am not sure of."
    assert said.inner_text() == sentence
    assert page.locator("#status").text_content() == said.inner_text()
    sent = {"keep": "false", "show": "false", "explain": "true", "regions": "true", "again": "true", "lang": "en"}
    assert asked == [sent]
    photo, over = card.locator(".picture img").bounding_box(), card.locator(".parts-over > div").bounding_box()
    assert over["width"] == pytest.approx(min(photo["width"], 2 * photo["height"]), abs=1)
    assert over["width"] == pytest.approx(2 * over["height"], abs=1)
    parts = card.get_by_role("button", name=re.compile(r"^Part \d"))
    assert parts.count() == 4
    lime = parts.nth(2).bounding_box()
    assert lime["x"] == pytest.approx(over["x"] + 0.6 * over["width"], abs=1)
    assert lime["width"] == pytest.approx(0.4 * over["width"], abs=1)
    parts.nth(2).tap()
    assert parts.nth(2).get_attribute("aria-pressed") == "true"
    assert card.locator(".part-answer h2").inner_text() == "Lime"
    assert card.locator(".said-of-it > p").first.inner_text() == "The photo as a whole:", (
        "what stands below is not of the lime"
    )
    assert 0 <= parts.nth(2).bounding_box()["y"] < 844
    visitor.shot("regions-390")
    parts.nth(0).focus()
    page.keyboard.press("Enter")
    assert card.locator(".part-answer h2").inner_text() == "Banana"
    assert [part.get_attribute("aria-pressed") for part in parts.all()] == ["true", "false", "false", "false"]
    page.locator("[data-language=fr]").tap()
    page.wait_for_selector(".parts-said:has-text('J’en vois trois')")
    assert "banana (fr), probablement kiwi (fr) (70" in said.inner_text()


def test_what_is_seen_where_nothing_is_known_or_told_is_said(visit: Callable[..., Any], recogniser: Any) -> None:
    for regions, expected in (([], "I see no part that I know"), (None, "does not tell where in a photo")):
        visitor = visit()
        page = visitor.open()
        _with_regions(visitor, regions)
        card = _pick(visitor, recogniser)
        card.get_by_role("button", name="Look for several kinds").click()
        page.wait_for_selector(f".parts-said:has-text('{expected}')")
        assert card.locator(".part").count() == 0


def test_marking_a_part_can_be_left_and_what_was_said_before_stands_again(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit(reduced_motion="reduce")
    page = visitor.open()
    _with_regions(visitor, THREE)
    card = _pick(visitor, recogniser)
    several, part = card.locator(".closer button").all()
    several.click()
    said = card.locator(".parts-said")
    page.wait_for_selector(".part >> nth=2")
    found = said.inner_text()
    for leave in ("Escape", "Cancel"):
        part.click()
        assert said.inner_text() == "Draw a box on the photo."
        assert card.locator(".part").first.is_hidden(), "one box at a time"
        mark = card.get_by_role("application")
        how = page.locator(f"#{mark.get_attribute('aria-describedby')}")
        assert how.is_visible()
        assert "Enter asks" in how.inner_text()
        if leave == "Escape":
            page.keyboard.press("Escape")
        else:
            card.get_by_role("button", name="Cancel").click()
        assert said.inner_text() == found
        assert how.is_hidden()
        assert mark.count() == 0
        assert part.evaluate("(one) => document.activeElement === one"), "the focus is where it was"


def test_part_is_marked_with_the_mouse_and_asked_about(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit(reduced_motion="reduce")
    page = visitor.open()
    asked = _with_regions(visitor, THREE)
    card = _pick(visitor, recogniser)
    card.get_by_role("button", name="Ask about a part").click()
    over = card.locator(".parts-over > div").bounding_box()
    at = [(over["x"] + x * over["width"], over["y"] + y * over["height"]) for x, y in ((0.55, 0.1), (0.95, 0.9))]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=3)
    page.mouse.up()
    label = card.get_by_role("application").get_attribute("aria-label")
    assert label == "Part to ask about: from 55% to 95% across, from 10% to 90% down"
    visitor.shot("regions-mark")
    card.get_by_role("button", name="Ask about this part").click()
    page.wait_for_selector(".part-answer h2")
    (fields,) = asked
    assert [float(side) for side in fields["box"].split(",")] == pytest.approx([0.55, 0.1, 0.95, 0.9], abs=0.01)
    assert fields["keep"] == "false"
    assert card.get_by_role("application").count() == 0
    assert card.locator(".part").count() == 1
    wanted = load(recogniser.out).predict_part(_together(*recogniser.some("Melonette Striped")), (0, 0, 1, 1))
    assert wanted.kinds[0][1].en in card.locator(".part-answer").inner_text()


def test_part_is_marked_with_a_finger_and_the_page_stays_where_it_is(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit(**PHONE, reduced_motion="reduce")
    page = visitor.open()
    asked = _with_regions(visitor, THREE)
    card = _pick(visitor, recogniser)
    card.get_by_role("button", name="Ask about a part").tap()
    over = card.locator(".parts-over > div").bounding_box()
    before = page.evaluate("scrollY")
    finger = visitor.context.new_cdp_session(page)

    def touch(sort: str, *at: float) -> None:
        points = [{"x": over["x"] + at[0] * over["width"], "y": over["y"] + at[1] * over["height"]}] if at else []
        finger.send("Input.dispatchTouchEvent", {"type": sort, "touchPoints": points})

    touch("touchStart", 0.05, 0.1)
    for share in (0.2, 0.35, 0.45):
        touch("touchMove", share, 2 * share)
    touch("touchEnd")
    label = str(card.get_by_role("application").get_attribute("aria-label"))
    assert label == "Part to ask about: from 5% to 45% across, from 10% to 90% down"
    assert page.evaluate("scrollY") == before, "a finger on the photo draws, and does not scroll"
    card.get_by_role("button", name="Ask about this part").tap()
    page.wait_for_selector(".part-answer h2")
    assert [float(side) for side in asked[0]["box"].split(",")] == pytest.approx([0.05, 0.1, 0.45, 0.9], abs=0.02)


def test_part_is_marked_with_the_keyboard_alone(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit(reduced_motion="reduce")
    page = visitor.open()
    asked = _with_regions(visitor, THREE)
    card = _pick(visitor, recogniser)
    card.get_by_role("button", name="Ask about a part").focus()
    page.keyboard.press("Enter")
    mark = card.get_by_role("application")
    assert mark.evaluate("(one) => document.activeElement === one")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    said = "Part to ask about: from 34% to 76% across, from 32% to 70% down"
    assert mark.get_attribute("aria-label") == said
    assert page.locator("#status").text_content() == said, "where it is is read out"
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    assert "to >99% across" in str(mark.get_attribute("aria-label")), "it stays on the photo"
    page.keyboard.press("Escape")
    assert mark.count() == 0
    page.keyboard.press("Tab")
    card.get_by_role("button", name="Ask about a part").click()
    page.keyboard.press("Enter")
    page.wait_for_selector(".part-answer h2")
    assert [fields["box"] for fields in asked] == ["0.3000,0.3000,0.7000,0.7000"]


def test_photo_stays_here_while_the_switch_is_on_whatever_is_asked(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    asked = _with_regions(visitor, THREE)
    card = _pick(visitor, recogniser)
    page.route("**/recognizer.onnx", lambda _: None)  # it never comes
    visitor.choices()
    page.locator("#device").check()
    card.get_by_role("button", name="Look for several kinds").click()
    page.wait_for_timeout(500)
    assert asked == []


def test_switching_on_stops_a_request_about_parts_and_the_device_answers(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit()
    visitor.expected += ["ERR_ABORTED"]
    page = visitor.open()
    card = _pick(visitor, recogniser)
    held: list[Any] = []
    page.route("**/v1/recognise*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright inspects it
    failed: list[str] = []
    page.on("requestfailed", lambda asked: failed.append(asked.url.rpartition("/")[2]))
    card.get_by_role("button", name="Look for several kinds").click()
    page.wait_for_timeout(300)
    assert len(held) == 1
    visitor.choices()
    page.locator("#device").check()
    page.wait_for_function("() => document.querySelector('.parts-said')?.textContent.startsWith('I see')")
    assert failed == ["recognise"]
    assert len(held) == 1


@pytest.mark.skipif(not _AXE.is_file(), reason="no axe-core: install it with 'make web' (needs npm)")
@pytest.mark.parametrize(("scheme", "locale"), [("light", "en"), ("dark", "fr"), ("dark", "es")])
def test_axe_finds_nothing_in_parts(visit: Callable[..., Any], recogniser: Any, scheme: str, locale: str) -> None:
    visitor = visit(color_scheme=scheme, locale=locale, reduced_motion="reduce")
    page = visitor.open()
    _with_regions(visitor, THREE)
    card = _pick(visitor, recogniser)
    several, part = card.locator(".closer button").all()
    several.click()
    page.wait_for_selector(".part >> nth=2")
    card.locator(".part").nth(1).click()
    part.click()
    page.evaluate(_AXE.read_text("utf-8") + "; null")
    violations = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(one["id"], [node["html"][:100] for node in one["nodes"]]) for one in violations] == []
    visitor.shot(f"regions-{scheme}-{locale}", full_page=True)


@pytest.mark.skipif(not pages.has_device_mode(), reason="no runtime of the on-device mode: build it with 'make web'")
def test_regions_of_the_device_are_those_of_the_recogniser(visit: Callable[..., Any], recogniser: Any) -> None:
    found = load(recogniser.out)
    labels = ("Moon Pear 1", "Melonette Striped", "Apfelino Red 1")
    pictures = [
        _together(*(recogniser.some(label)[0] for label in some), kind="PNG", side=side)
        for some, side in ((labels[:1], 240), (labels[:2], 300), (labels, 224), (labels, 500))
    ]
    box = [0.1, 0, 0.6, 0.9]
    made = (
        visit()
        .open()
        .evaluate(
            """async ([pictures, box]) => {
          const { Device } = await import("/static/js/device/device.js");
          const device = new Device();
          await device.open(() => {});
          const found = [];
          for (const text of pictures) {
            const blob = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
            found.push({ regions: await device.regions(blob), part: await device.part(blob, box) });
          }
          device.close();
          return JSON.stringify(found);
        }""",
            [[base64.b64encode(picture).decode() for picture in pictures], box],
        )
    )
    for picture, here in zip(pictures, json.loads(made), strict=True):
        expected = found.regions(picture)
        assert expected
        assert [one["outcome"] for one in here["regions"]] == [region.answer.outcome for region in expected]
        for one, region in zip(here["regions"], expected, strict=True):
            assert one["box"] == pytest.approx(list(region.box), abs=1e-9)
            assert [kind["kind"] for kind in one["kinds"][:1]] == [region.answer.kinds[0][0]]
            # The browser's runtime adds in another order.
            assert one["probability"] == pytest.approx(region.answer.probability, abs=2e-3)
        part = found.predict_part(picture, box)
        assert here["part"]["outcome"] == part.outcome
        assert here["part"]["probability"] == pytest.approx(part.probability, abs=2e-3)
