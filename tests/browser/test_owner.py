"""The owner's pages: who may see them, what they say, and the review by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest


@pytest.fixture(scope="module")
def visited(service: Any, recogniser: Any, hostile: dict[str, str]) -> list[dict[str, Any]]:
    """Five kept photos with an answer, three of them said to be wrong, and 60 that nobody kept."""
    labels = ["Melonette Striped", "Moon Pear 1", "Apfelino Red 1", "Starrib Yellow", hostile["label"]]
    answers: list[dict[str, Any]] = service.recognise(*(recogniser.some(label)[0] for label in labels), keep=True)
    said = [
        {"right": True, "label": None, "note": None},
        {"right": False, "label": "Apfelino Red 1", "note": "<img src=x onerror=document.title='owned'>"},
        {"right": False, "label": "=cmd|' /C calc'!A0", "note": None},
        {"right": False, "label": hostile["label"], "note": "a\u202eb\u0007c\nsecond line"},
    ]
    for answer, one in zip(answers, said, strict=False):
        who = {"id": answer["id"], "secret": answer["secret"]}
        httpx.post(f"{service.url}/v1/feedback", json={**who, **one}).raise_for_status()
    for _ in range(8):
        service.recognise(*recogniser.some("Moon Pear 1", 8, "Training"))
    httpx.post(f"{service.url}/v1/recognise", content=b"no photo", headers={"Content-Type": "image/jpeg"})
    return answers


def _sign_in(visitor: Any, token: str) -> None:
    visitor.page.locator("#token").fill(token)
    visitor.page.keyboard.press("Enter")


def test_nothing_is_shown_without_the_token_of_an_owner(visit: Callable[..., Any], service: Any) -> None:
    visitor = visit()
    visitor.expected += ["401"]
    page = visitor.open("/owner")
    assert page.locator("#signed-in").is_hidden()
    _sign_in(visitor, "fruits_wrong")
    page.wait_for_selector("text=This token is unknown or revoked.")
    assert page.locator("#signed-in").is_hidden()
    assert page.evaluate("sessionStorage.length") == 0
    _sign_in(visitor, "schlüssel")
    page.wait_for_selector("text=This token is unknown or revoked.")


def test_overview_says_how_the_service_does(
    visit: Callable[..., Any], service: Any, visited: list[dict[str, Any]]
) -> None:
    visitor = visit(width=1280)
    page = visitor.open("/owner")
    _sign_in(visitor, service.owner)
    page.wait_for_selector("#signed-in:not([hidden])")
    summary = service.ask_owner("summary?days=30")
    facts = dict(
        zip(
            page.locator("#facts dt").all_inner_texts(),
            page.locator("#facts dd:nth-of-type(1)").all_inner_texts(),
            strict=True,
        )
    )
    assert facts["Photos"] == f"{summary['total']['photos']:,}"
    assert facts["Said to be wrong"] == str(summary["total"]["wrong"])
    assert facts["To decide"] == str(summary["submissions"]["pending"])
    assert facts["Answered in"].endswith(("ms", "s"))
    page.wait_for_selector(".chart svg rect")
    assert page.locator(".chart").count() == 5
    assert page.locator(".chart svg").first.get_attribute("aria-label").startswith("Photos by day, from ")
    assert "This is not a photo" in page.locator(".chart").last.inner_text()
    # The table has the numbers of the chart, for those who do not see it.
    page.locator(".chart summary").first.click()
    last = page.locator(".chart table").first.locator("tbody tr").last.locator("td").all_inner_texts()
    today = summary["days"][-1]["outcomes"]
    assert [int(cell) for cell in last] == [
        today[outcome] for outcome in ("variety", "kind", "probable", "unsure", "unknown")
    ]
    page.wait_for_function("() => document.querySelectorAll('#wrong img').length >= 3")
    visitor.shot("owner", full_page=True)

    page.get_by_role("button", name="Français").click()
    page.wait_for_selector("html[lang=fr]")  # its messages are fetched first
    assert page.locator("h1").inner_text() == "État du service"
    assert "Photos par jour" in page.locator(".chart h2").first.inner_text()
    assert "Ce n’est pas une photo" in page.locator(".chart").last.inner_text()
    page.locator("#days").select_option("7")
    page.wait_for_function(
        "() => document.querySelectorAll('.chart table')[0].querySelectorAll('tbody tr').length === 7"
    )
    page.get_by_role("button", name="Se déconnecter").click()
    page.wait_for_selector("#sign-in:not([hidden])")
    assert page.evaluate("sessionStorage.length") == 0
    assert service.owner not in page.content()


def test_what_visitors_wrote_is_shown_and_does_nothing(
    visit: Callable[..., Any], service: Any, visited: list[dict[str, Any]], hostile: dict[str, str]
) -> None:
    visitor = visit()
    page = visitor.open("/owner")
    _sign_in(visitor, service.owner)
    page.wait_for_function("() => document.querySelectorAll('#wrong img').length >= 3")
    shown = page.locator("#wrong").inner_text()
    assert "<img src=x onerror=document.title='owned'>" in shown
    assert "=cmd|' /C calc'!A0" in shown
    assert "abc\nsecond line" in shown, "marks that turn text around, and a bell, are gone"
    assert hostile["en"] in shown, "a known label goes by its name"
    assert page.locator("#wrong img").evaluate_all("(all) => all.every((one) => one.src.startsWith('blob:'))")
    assert page.title() == "Service status"


def test_review_is_done_by_keyboard(visit: Callable[..., Any], service: Any, visited: list[dict[str, Any]]) -> None:
    visitor = visit(width=1280)
    page = visitor.open("/owner/review")
    _sign_in(visitor, service.owner)
    page.wait_for_selector("#desk:not([hidden])")
    pending = service.ask_owner("submissions?state=pending&limit=200")["submissions"]
    place = {one["id"]: number for number, one in enumerate(pending)}
    order = sorted(visited, key=lambda answer: place[answer["id"]])
    # Photos of one second come in an order of their own; other tests may have left newer ones.
    for _ in range(place[order[0]["id"]]):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(60)
    page.wait_for_function("() => document.querySelector('#photo img')?.naturalWidth > 0")
    visitor.shot("review", full_page=True)

    def decided(answer: dict[str, Any]) -> tuple[str, str | None]:
        for one in service.ask_owner("submissions?state=reviewed&limit=200")["submissions"]:
            if one["id"] == answer["id"]:
                return one["decision"], one["reviewed_label"]
        return "none", None

    def press_and_wait(*keys: str) -> None:
        before = page.locator("#place").inner_text()
        for key in keys:
            page.keyboard.press(key) if len(key) == 1 or key[0].isupper() else page.keyboard.type(key)
        page.wait_for_function("(text) => document.querySelector('#place').textContent !== text", arg=before)

    press_and_wait("c")
    assert decided(order[0]) == ("confirmed", order[0]["labels"][0]["label"])
    press_and_wait("r")
    assert decided(order[1]) == ("refused", None)
    press_and_wait("x", "striped", "ArrowDown", "Enter", "Enter")
    assert decided(order[2]) == ("corrected", "Melonette Striped")
    press_and_wait("ArrowLeft")
    page.wait_for_selector("text=Corrected to Striped melonette")
    page.keyboard.press("x")
    page.keyboard.type("c r v")
    assert page.locator("#correction [role=combobox]").input_value() == "c r v", "what is written is no command"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    press_and_wait("c")
    assert decided(order[2])[0] == "confirmed", "the last decision counts"


def test_what_the_visitor_says_is_one_key_away_and_a_photo_can_be_deleted(
    visit: Callable[..., Any], service: Any, recogniser: Any
) -> None:
    first, second = service.recognise(*recogniser.some("Moon Pear 1", 2), keep=True)
    said = {"id": first["id"], "secret": first["secret"], "right": False, "label": "Melonette Striped"}
    httpx.post(f"{service.url}/v1/feedback", json=said).raise_for_status()
    visitor = visit(locale="fr-FR")
    page = visitor.open("/owner")
    _sign_in(visitor, service.owner)
    page.get_by_role("link", name="Vérifier").first.click()
    page.wait_for_selector("#as-said:not([hidden])")
    assert "C’est Melonette rayée" in page.locator("#as-said").inner_text()
    page.keyboard.press("v")
    page.wait_for_selector("#notice[hidden]", state="attached")
    for _ in range(50):
        found = [
            one
            for one in service.ask_owner("submissions?state=reviewed&limit=200")["submissions"]
            if one["id"] == first["id"]
        ]
        if found:
            break
        page.wait_for_timeout(100)
    assert (found[0]["decision"], found[0]["reviewed_label"]) == ("corrected", "Melonette Striped")

    page.locator("#state").select_option("pending")
    page.wait_for_function("() => document.querySelector('#place').textContent.startsWith('1 sur')")
    kept = service.ask_owner("summary")["submissions"]["kept"]
    page.get_by_role("button", name="Effacer définitivement").click()
    assert service.ask_owner("summary")["submissions"]["kept"] == kept, "one press is not enough"
    page.get_by_role("button", name="Vraiment").click()
    page.wait_for_selector("text=Effacer définitivement", state="attached")  # hidden, if no photo is left
    assert service.ask_owner("summary")["submissions"]["kept"] == kept - 1
    assert second["id"]
