"""The visitor's page, driven as visitors do: by mouse, by keyboard, by what they drop and paste, with and without a network."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image


def _named(card: Any) -> str:
    return str(card.locator("h2").inner_text())


def test_photo_is_previewed_at_once_and_then_named(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    held: list[Any] = []
    page.route("**/v1/recognise", lambda route: held.append(route))  # noqa: PLW0108 - Playwright inspects it
    visitor.pick(*recogniser.some("Melonette Striped"))
    page.wait_for_selector(".card[aria-busy] .looking")
    page.wait_for_function("() => document.querySelector('.card img')?.naturalWidth > 0")
    visitor.shot("looking")
    page.wait_for_timeout(100)
    held[0].continue_()
    card = visitor.answers(1).first
    assert _named(card) == "Striped melonette"
    assert "sure of the variety" in card.locator(".sure").inner_text()
    assert card.locator(".bars li").count() == 3
    assert card.locator(".bars .share").first.inner_text().endswith("%")
    assert card.locator(".similar li").count() == 6
    assert card.get_by_role("button", name="What I looked at").count() == 1, "the service sends the map with the answer"
    page.wait_for_function("() => [...document.querySelectorAll('.similar img')].every((one) => one.naturalWidth > 0)")
    assert page.locator("#status").inner_text().startswith("Striped melonette: ")
    visitor.shot("answer", full_page=True)


def test_kind_is_named_with_its_line_in_both_languages(
    visit: Callable[..., Any], recogniser: Any, hostile: dict[str, str]
) -> None:
    visitor = visit(locale="fr-FR")
    page = visitor.open()
    assert page.locator("h1").inner_text() == "Quel est ce fruit\u202f?"
    visitor.pick(*recogniser.some("Apfelino Red 1"))
    card = visitor.answers(1).first
    assert _named(card) == "Apfeline rouge"
    assert card.locator(".line").inner_text() == hostile["line_fr"]
    visitor.shot("french", full_page=True)
    card.get_by_role("button", name="Non").click()
    page.get_by_role("combobox").fill("poire à moitié")
    page.get_by_role("button", name="English").click()
    page.wait_for_selector("html[lang=en]")  # its messages are fetched first
    assert _named(card) == "Red Apfelino"
    assert card.locator(".line").inner_text() == hostile["line_en"]
    assert page.get_by_role("combobox").input_value() == "poire à moitié", "a switch of language loses nothing"
    assert page.title() == "Which fruit is this?"
    page.reload()
    page.wait_for_selector("text=Which fruit is this?")
    assert page.evaluate("document.documentElement.lang") == "en", "the choice is remembered"
    assert visitor.context.cookies() == []


def test_spanish_visitors_read_spanish(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit(locale="es-419")
    page = visitor.open()
    assert page.locator("html").get_attribute("lang") == "es"
    assert (page.title(), page.locator("h1").inner_text()) == ("¿Qué fruta es?", "¿Qué fruta es?")
    assert page.get_by_role("button", name="Español").get_attribute("aria-pressed") == "true"
    visitor.pick(*recogniser.some("Apfelino Red 1"), {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no photo"})
    answered = page.locator(".card:has(.bars)")
    answered.wait_for()
    assert _named(answered) == "Red Apfelino", "a name that nobody has translated is said in English"
    assert "de seguridad en la variedad" in answered.locator(".sure").inner_text()
    assert answered.locator(".bars .share").first.inner_text().endswith("\u00a0%")
    page.wait_for_selector("text=Esto no se puede abrir como foto.")
    visitor.shot("spanish", full_page=True)


def test_what_is_sent_is_small_upright_and_without_anything_of_the_file(wire: Any, visit: Callable[..., Any]) -> None:
    picture = Image.new("RGB", (3000, 1500), "white")
    picture.paste((200, 30, 30), (0, 0, 1500, 1500))  # red on the left; the tag below says: turn it to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Planted Camera"
    exif.get_ifd(0x8825)[1] = "N"
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95, exif=exif, comment=b"planted comment")
    file = out.getvalue() + b"planted at the end"
    visitor = visit(to=wire)
    visitor.open()
    visitor.pick({"name": "planted-name.jpg", "mimeType": "image/jpeg", "buffer": file})
    visitor.answers(1)
    body, fields = wire.request("/v1/recognise")
    assert (fields["keep"], fields["lang"]) == (b"false", b"en")
    assert b"planted" not in wire.sent.lower()
    assert b"Exif" not in body
    with Image.open(io.BytesIO(fields["photo"])) as small:
        assert small.format == "JPEG"
        assert small.size == (512, 1024), "turned, and 1024 pixels on its longest side"
        top, bottom = small.getpixel((256, 100)), small.getpixel((256, 900))
        assert top[0] - top[2] > 100, "red is on top now"
        assert min(bottom) > 240


def test_transparent_parts_become_white(wire: Any, visit: Callable[..., Any]) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(out, "PNG")
    visitor = visit(to=wire)
    visitor.open()
    visitor.pick({"name": "a.png", "mimeType": "image/png", "buffer": out.getvalue()})
    visitor.answers(1)
    with Image.open(io.BytesIO(wire.request("/v1/recognise")[1]["photo"])) as small:
        assert small.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photos_are_dropped_and_pasted(visit: Callable[..., Any], recogniser: Any, way: str) -> None:
    visitor = visit()
    page = visitor.open()
    photo = base64.b64encode(recogniser.some("Moon Pear 1")[0].read_bytes()).decode()
    page.evaluate(
        """async ([way, photo]) => {
          const bytes = Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "a.jpg", { type: "image/jpeg" }));
          const about = { bubbles: true, cancelable: true };
          const fire = (name, more) => {
            const Kind = way === "drop" ? DragEvent : ClipboardEvent;
            return document.querySelector("h1").dispatchEvent(new Kind(name, { ...about, ...more }));
          };
          if (way === "paste") return fire("paste", { clipboardData: data });
          fire("dragenter", { dataTransfer: data });
          window.wasDropping = document.querySelector("#picker").classList.contains("dropping");
          fire("dragover", { dataTransfer: data });
          return fire("drop", { dataTransfer: data });
        }""",
        [way, photo],
    )
    assert _named(visitor.answers(1).first) == "Moon pear"
    if way == "drop":
        assert page.evaluate("window.wasDropping")
        assert page.locator(".dropping").count() == 0


def test_nine_photos_go_in_two_requests_and_each_gets_its_own_answer(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit()
    page = visitor.open()
    sent: list[Any] = []
    page.on("request", lambda asked: asked.url.endswith("/v1/recognise") and sent.append(asked))
    labels = ["Melonette Striped", "Moon Pear 1", "Apfelino Red 1"] * 3
    visitor.pick(*(recogniser.some(label, 3)[place // 3] for place, label in enumerate(labels)))
    cards = visitor.answers(9)
    kinds = {"Melonette Striped": "melonette", "Moon Pear 1": "moon pear", "Apfelino Red 1": "apfelino"}
    for place, label in enumerate(labels):  # a variety or its kind, as sure as the recogniser is
        assert kinds[label] in _named(cards.nth(place)).lower()
    assert len(sent) == 2


def test_what_is_no_photo_never_leaves_and_does_not_hold_up_the_others(
    wire: Any, visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit(to=wire)
    visitor.open()
    text = {"name": "letter.jpg", "mimeType": "image/jpeg", "buffer": b"Dear all, this is a letter."}
    visitor.pick(text, *recogniser.some("Moon Pear 1"))
    cards = visitor.answers(2)
    assert "cannot be opened as a photo" in cards.first.inner_text()
    assert "letter.jpg" in cards.first.inner_text(), "which of them"
    assert cards.first.locator(".picture").is_hidden(), "an empty frame shows nothing"
    assert _named(cards.nth(1)) == "Moon pear"
    assert b"Dear all" not in wire.sent


def test_strange_photo_is_said_to_be_unknown_with_what_to_do(
    visit: Callable[..., Any], make_jpeg: Callable[..., bytes]
) -> None:
    visitor = visit()
    visitor.open()
    visitor.pick({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": make_jpeg()})
    card = visitor.answers(1).first
    assert _named(card) in ("None of the things I know", "Not sure")
    assert card.locator(".advice li").count() >= 1
    assert card.locator(".line").count() == 0, "nothing is said of what is not named"
    visitor.shot("unknown", full_page=True)


def _say_probably(visitor: Any, **changes: Any) -> None:
    """Let the page get the service's answers as probable ones, of 69 %."""

    def probable(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for photo in body["photos"]:
            best = photo["kinds"][0]
            best["probability"] = photo["probability"] = 0.69
            photo |= {"outcome": "probable", "kind": best["kind"], "variety": None}
            photo |= {"name": {"en": best["en"], "fr": best["fr"]}, "line": None, **changes}
        route.fulfill(response=answer, json=body)

    visitor.page.route("**/v1/recognise*", probable)


def test_probable_kind_is_said_so_in_both_languages_with_the_guesses_as_buttons(
    visit: Callable[..., Any], recogniser: Any, service: Any
) -> None:
    visitor = visit()
    page = visitor.open()
    _say_probably(visitor, name={"en": "Kiwi", "fr": "Kiwi"})
    visitor.choices()
    page.get_by_label("Keep my photo to improve this").check()
    visitor.pick(*recogniser.some("Moon Pear 2"))
    card = visitor.answers(1).first
    assert _named(card) == "Probably kiwi (69%)"
    assert page.locator("#status").text_content() == "Probably kiwi (69%)"
    assert card.locator(".advice").count() == 0, "the photo is not to blame"
    guesses = card.locator("button.guess")
    assert guesses.count() == 3
    assert card.get_by_role("button", name="Something else").count() == 1
    assert card.get_by_role("group", name="Is it one of these?").count() == 1
    visitor.shot("probable", full_page=True)
    page.get_by_role("button", name="Français").click()
    page.wait_for_selector("html[lang=fr]")  # its messages are fetched first
    assert re.sub(r"\s", " ", _named(card)) == "Probablement : kiwi (69 %)"
    visitor.shot("probable-fr", full_page=True)
    page.get_by_role("button", name="English").click()
    page.wait_for_selector("html[lang=en]")  # its messages are fetched first
    # Another guess than the one that was named is its correction.
    other = guesses.nth(1).locator("bdi").inner_text()
    guesses.nth(1).click()
    page.wait_for_selector(f"text=“{other}” is noted")
    newest = service.ask_owner("submissions?state=wrong&limit=1")["submissions"][0]
    assert newest["right"] is False
    assert newest["said_label"] in {
        kind["kind"] for kind in service.recognise(*recogniser.some("Moon Pear 2"))[0]["kinds"]
    }


def test_probably_is_not_broken_within_the_word_on_a_phone(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit(width=320, height=700, locale="fr")
    visitor.open()
    _say_probably(visitor, name={"en": "Kiwi", "fr": "Kiwi"})
    visitor.pick(*recogniser.some("Moon Pear 2"))
    named = visitor.answers(1).first.locator(".verdict h2")
    for width in (320, 368, 390, 420):
        visitor.page.set_viewport_size({"width": width, "height": 700})
        lines = named.evaluate(
            """(heading) => {
              const text = document.createTreeWalker(heading, NodeFilter.SHOW_TEXT).nextNode();
              const word = document.createRange();
              word.setStart(text, 0);
              word.setEnd(text, "Probablement".length);
              return [word.toString(), word.getClientRects().length];
            }"""
        )
        assert lines == ["Probablement", 1], width


def test_click_on_the_probable_kind_says_that_it_is_right(
    visit: Callable[..., Any], recogniser: Any, service: Any
) -> None:
    visitor = visit()
    page = visitor.open()
    _say_probably(visitor, advice=[{"code": "dark", "en": "The photo is dark.", "fr": "La photo est sombre."}])
    before = service.ask_owner("summary")["total"]["right"]
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    assert "The photo is dark." in card.locator(".advice").inner_text()
    card.locator("button.guess").first.click()
    page.wait_for_selector(".said:focus")
    assert service.ask_owner("summary")["total"]["right"] == before + 1


def test_something_else_than_the_guesses_can_be_named(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    _say_probably(visitor)
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    card.get_by_role("button", name="Something else").click()
    page.wait_for_function("() => document.activeElement.getAttribute('role') === 'combobox'")
    page.keyboard.type("Durian")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=“Durian” is noted")


def test_wrong_answer_is_corrected_by_keyboard_and_reaches_the_owner(
    visit: Callable[..., Any], recogniser: Any, service: Any
) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.choices()
    keep = page.get_by_label("Keep my photo to improve this")
    assert not keep.is_checked(), "consent is never assumed"
    keep.check()
    visitor.pick(*recogniser.some("Moon Pear 2"))
    card = visitor.answers(1).first
    assert "Your photo is kept." in card.inner_text()
    card.get_by_role("button", name="No").click()
    page.wait_for_function("() => document.activeElement.getAttribute('role') === 'combobox'")
    page.keyboard.type("strip")
    field = page.get_by_role("combobox")
    option = page.get_by_role("option")
    assert option.all_inner_texts() == ["Striped melonette"]
    visitor.shot("wrong", full_page=True)
    page.keyboard.press("ArrowDown")
    assert option.first.get_attribute("aria-selected") == "true"
    assert field.get_attribute("aria-activedescendant") == option.first.get_attribute("id")
    page.keyboard.press("Enter")
    assert field.input_value() == "Striped melonette"
    page.keyboard.press("Enter")
    page.wait_for_selector("text=“Striped melonette” is noted")
    newest = service.ask_owner("submissions?state=wrong&limit=1")["submissions"][0]
    assert (newest["said_label"], newest["right"], newest["has_photo"]) == ("Melonette Striped", False, True)


def test_free_text_of_a_visitor_is_sent_as_written(visit: Callable[..., Any], recogniser: Any, service: Any) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    card.get_by_role("button", name="No").click()
    page.wait_for_function(
        "() => document.activeElement.getAttribute('role') === 'combobox'"
    )  # keys before would be lost
    page.keyboard.type("<b>Quince</b>")
    assert "sent as you wrote it" in card.inner_text()
    card.get_by_role("button", name="Send").click()
    page.wait_for_selector("text=“<b>Quince</b>” is noted")
    # Without consent a row knows its day and no second, so of a day there is no latest.
    said = [row["said_label"] for row in service.ask_owner("submissions?state=wrong")["submissions"]]
    assert "<b>Quince</b>" in said


def test_right_answer_is_thanked_for_and_then_deleted(visit: Callable[..., Any], recogniser: Any, service: Any) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.choices()
    page.get_by_label("Keep my photo").check()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    link = card.get_by_role("link", name="Link to delete it later").get_attribute("href")
    card.get_by_role("button", name="Yes").click()
    page.wait_for_selector("text=Thank you")
    before = service.ask_owner("summary")["submissions"]["kept"]
    card.get_by_role("button", name="Delete").click()
    page.wait_for_selector("text=nobody is shown them")
    assert card.locator("img").count() == 0
    assert service.ask_owner("summary")["submissions"]["kept"] == before - 1
    assert link is not None
    page.goto(visitor.url + link)
    visitor.expected.append("404")
    page.wait_for_selector("text=There is nothing here under this link")
    assert page.get_by_role("button", name="Delete it").is_hidden()


def test_delete_link_deletes_from_another_device_and_is_never_in_an_address_sent(
    visit: Callable[..., Any], recogniser: Any, service: Any
) -> None:
    (answer,) = service.recognise(*recogniser.some("Moon Pear 1"), keep=True)
    visitor = visit(locale="fr")
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    page = visitor.open(f"/delete#{answer['id']}.{answer['secret']}")
    page.wait_for_function("() => document.querySelector('img.kept')?.naturalWidth > 0")
    assert "Effacée automatiquement" in page.locator("#stored").inner_text(), (
        "what is stored is shown before it is deleted"
    )
    told = page.locator("#stored").inner_text()
    assert "anglais" in told, "the reader's words, not those of the database"
    assert "Moon Pear 1" not in told
    assert not re.search(r"\d\.\d", told)
    visitor.shot("delete")
    page.get_by_role("button", name="L’effacer").click()
    page.wait_for_selector("text=personne ne les voit plus")
    page.wait_for_url(f"{visitor.url}/delete")
    assert not any(answer["secret"] in address for address in asked)
    again = httpx.delete(f"{visitor.url}/v1/submissions/{answer['id']}", headers={"X-Fruits-Secret": answer["secret"]})
    assert again.status_code == 404


def test_delete_link_is_copied_and_opens_beside_the_answers(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visitor.open()
    visitor.choices()
    page.get_by_label("Keep my photo").check()
    visitor.pick(*recogniser.some("Moon Pear 1"), *recogniser.some("Melonette Striped"))
    card = visitor.answers(2).first
    names = visitor.answers(2).locator("h2").all_inner_texts()
    link = card.get_by_role("link", name="Link to delete it later")
    card.get_by_role("button", name="Copy the link").click()
    page.wait_for_selector("text=Copied")
    address = page.evaluate("navigator.clipboard.readText()")
    assert address == visitor.url + str(link.get_attribute("href"))
    with visitor.context.expect_page() as opened:
        link.click()
    opened.value.get_by_role("button", name="Delete it").click()
    opened.value.wait_for_selector("text=nobody is shown them")
    assert visitor.answers(2).locator("h2").all_inner_texts() == names, "nothing is lost"
    assert not opened.value.evaluate("!!window.opener")
    # Where a page may not write to the clipboard, the link is there to be copied by hand.
    page.evaluate("() => void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    visitor.answers(2).nth(1).get_by_role("button", name="Copy the link").click()
    field = page.get_by_role("textbox", name="Link to delete it later")
    assert field.input_value().startswith(f"{visitor.url}/delete#")
    assert field.evaluate("(one) => one.selectionEnd - one.selectionStart === one.value.length")


def test_consent_to_show_is_another_one_and_off(
    visit: Callable[..., Any], wire: Any, recogniser: Any, service: Any
) -> None:
    visitor = visit(to=wire)
    page = visitor.open()
    visitor.choices()
    show = page.get_by_label("Show it to others, too")
    assert show.is_disabled()
    page.get_by_label("Keep my photo").check()
    assert not show.is_checked()
    show.check()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.answers(1)
    _, fields = wire.request("/v1/recognise")
    assert (fields["keep"], fields["show"]) == (b"true", b"true")
    assert service.ask_owner("submissions?state=kept&limit=1")["submissions"][0]["may_show"] is True
    page.get_by_label("Keep my photo").uncheck()
    assert show.is_disabled()
    assert not show.is_checked()


def test_page_says_who_stores_what_and_how_long(visit: Callable[..., Any], serve: Callable[..., Any]) -> None:
    options = {"operator": "Orchard Ltd", "contact": "mail@example.org", "keep-days": "45", "feedback-hours": "3"}
    service = serve(*(word for name, value in options.items() for word in (f"--{name}", value)))
    for locale, expected in (
        ("en", ("45 days", "03:00 UTC", "400 days")),
        ("fr", ("45 jours", "03\u202fh UTC", "400 jours")),
    ):
        page = visit(to=service, locale=locale).open()
        page.wait_for_selector("text=Orchard Ltd, mail@example.org")
        said = page.locator(".about").inner_text()
        assert all(words in said for words in expected), said
        assert "undefined" not in said


def test_broken_delete_link_says_so(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open("/delete#abc.def")
    page.wait_for_selector("text=This link is incomplete")
    assert page.get_by_role("button", name="Delete it").is_hidden()


@pytest.mark.parametrize("locale", ["en", "fr"])
def test_page_fits_a_phone_of_320_pixels(
    visit: Callable[..., Any], recogniser: Any, make_jpeg: Callable[..., bytes], hostile: dict[str, str], locale: str
) -> None:
    visitor = visit(width=320, height=640, locale=locale, has_touch=True, is_mobile=True)
    page = visitor.open()
    page.wait_for_selector("#camera")
    assert page.locator(".camera").is_visible(), "on a phone there is a button for the camera"
    assert page.locator("#camera").get_attribute("capture") == "environment"
    visitor.shot(f"phone-{locale}", full_page=True)
    strange = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": make_jpeg()}
    visitor.pick(*recogniser.some("Melonette Striped"), *recogniser.some(hostile["label"]), strange)
    visitor.answers(3)
    page.locator(".question .button").nth(1).click()
    page.get_by_role("combobox").wait_for()
    visitor.shot(f"phone-answers-{locale}", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, .button, .choice, input[role=combobox]")]
          .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 36).map((one) => one.outerHTML)"""
    )
    assert small == [], "everything to press is large enough for a thumb"


def test_everything_can_be_done_by_keyboard(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    page.on("filechooser", lambda _: None)  # early, so that Chromium asks us and opens no window of its own

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == wanted:
                return
        pytest.fail(f"the keyboard does not reach {wanted}")

    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "To the answers"
    assert page.locator(".skip").evaluate("(one) => one.getBoundingClientRect().top >= 0"), "what has the focus is seen"
    tab_to("files")
    assert page.locator("label:has(#files)").evaluate("(one) => getComputedStyle(one).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    tab_to("Yes")
    page.keyboard.press("Shift+Tab")
    tab_to("No")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.getAttribute('role') === 'combobox'")
    page.keyboard.press("Escape")  # the list
    page.keyboard.press("Escape")  # the form
    assert page.evaluate(focused) == "No", "the focus comes back to where it was"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Thank you, good to know.")
    tab_to("Delete")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=this service stores nothing of your photo")
    assert card.locator(".said").evaluate("(one) => one === document.activeElement")


def test_hostile_names_are_shown_as_they_are_written(
    visit: Callable[..., Any], recogniser: Any, hostile: dict[str, str]
) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.pick(*recogniser.some(hostile["label"]))
    card = visitor.answers(1).first
    assert _named(card) == hostile["en"]
    assert card.locator("script, i, b, h2 img").count() == 0
    assert page.title() == "Which fruit is this?"
    # Marks of direction act inside their own name only.
    assert card.locator("h2 bdi").count() == 1
    card.get_by_role("button", name="No").click()
    page.get_by_role("combobox").fill("onerror")
    assert page.get_by_role("option").all_inner_texts() == [hostile["en"]]
    visitor.shot("hostile", full_page=True)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=is noted")
    assert hostile["en"] in card.inner_text()
    page.get_by_role("button", name="Français").click()
    page.wait_for_selector("html[lang=fr]")  # its messages are fetched first
    assert _named(card) == hostile["fr"]


def test_busy_service_is_asked_again_after_the_time_it_names(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.expected.append("503")
    said = {"code": "busy", "message": {"en": "The service is busy.", "fr": "Occupé."}, "request_id": "x"}
    refusals = [503]

    def answer(route: Any) -> None:
        if refusals:
            route.fulfill(status=refusals.pop(), headers={"Retry-After": "1"}, json={"error": said})
        else:
            route.continue_()

    page.route("**/v1/recognise", answer)
    visitor.pick(*recogniser.some("Moon Pear 1"))
    page.wait_for_selector("text=Trying again in 1 s")
    assert "The service is busy." in page.locator(".card").inner_text()
    visitor.shot("busy")
    assert _named(visitor.answers(1).first) == "Moon pear"


def test_limit_of_the_service_is_told_in_its_own_words(
    visit: Callable[..., Any], serve: Callable[..., Any], recogniser: Any
) -> None:
    narrow = serve("--rate", "1")
    visitor = visit(to=narrow, locale="fr")
    visitor.expected.append("429")
    page = visitor.open()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.pick(*recogniser.some("Moon Pear 1", 2)[1:])
    page.wait_for_selector("text=Trop de requêtes")
    page.wait_for_selector("text=Nouvel essai dans")


def test_without_a_connection_the_page_opens_and_the_photo_waits_for_one(
    visit: Callable[..., Any], recogniser: Any, tmp_path: Path
) -> None:
    visitor = visit(service_workers="allow")
    visitor.expected += ["ERR_INTERNET_DISCONNECTED", "ERR_FAILED"]
    page = visitor.open()
    page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    page.wait_for_function("() => navigator.serviceWorker.controller !== null")
    visitor.context.set_offline(True)
    page.reload()
    page.wait_for_selector("text=You are offline.")
    for language, said in (("Español", "No tienes conexión."), ("English", "You are offline.")):
        page.get_by_role("button", name=language).click()  # every language is in the shell
        page.wait_for_selector(f"text={said}")
    visitor.pick(*recogniser.some("Moon Pear 1"))
    page.wait_for_selector("text=The photo waits here")
    assert page.locator(".card img").evaluate("(one) => one.naturalWidth") > 0
    visitor.shot("offline", full_page=True)
    visitor.context.set_offline(False)
    page.wait_for_selector(".card h2")
    assert _named(visitor.answers(1).first) == "Moon pear"
    assert page.locator("#notice").is_hidden()
    # Nothing of a visitor is in what the worker keeps.
    kept = page.evaluate(
        """async () => {
          const names = await caches.keys();
          const stores = await Promise.all(names.map(async (name) => (await caches.open(name)).keys()));
          return stores.flat().map((request) => new URL(request.url).pathname);
        }"""
    )
    assert "/" in kept
    assert not any(path.startswith("/v1/") or "owner" in path for path in kept)
