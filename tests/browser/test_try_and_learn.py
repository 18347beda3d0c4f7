"""Something to try and to learn: sample pictures, what is known, answers remembered on the device, a picture to share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fruits.photos.generated import samples
from fruits.recogniser import bundle as bundles
from fruits.service.pages import routes as pages

_STORED = """async () => {
  if (!(await indexedDB.databases()).some((one) => one.name === "fruits")) return null;
  const database = await new Promise((done) => (indexedDB.open("fruits").onsuccess = (event) => done(event.target.result)));
  const asked = database.transaction("answers").objectStore("answers").getAll();
  const rows = await new Promise((done) => (asked.onsuccess = () => done(asked.result)));
  database.close();
  return rows.map((row) => row.outcome);
}"""


@pytest.mark.parametrize("name", list(samples.SAMPLES))
def test_sample_pictures_are_what_the_generator_makes(name: str) -> None:
    made = samples.sample(name)
    shipped = (pages.FOLDER / "samples" / f"{name}.jpg").read_bytes()
    pixels = [np.asarray(Image.open(io.BytesIO(one)), np.int16) for one in (made, shipped)]
    # Versions of the JPEG library may round otherwise.
    assert np.abs(pixels[0] - pixels[1]).mean() < 1


def test_sample_is_answered_and_never_kept_nor_asked_about(wire: Any, visit: Callable[..., Any]) -> None:
    visitor = visit(to=wire)
    page = visitor.open()
    visitor.choices()
    page.get_by_label("Keep my photo").check()
    assert page.locator(".sample").count() == 6
    page.get_by_role("button", name="Try sample picture 1").click()
    card = visitor.answers(1).first
    assert "One of our own pictures" in card.inner_text()
    assert card.get_by_role("group").count() == 0
    assert wire.request("/v1/recognise")[1]["keep"] == b"false"
    page.close()


@pytest.mark.skipif(not pages.has_device_mode(), reason="no runtime of the on-device mode: build it with 'make web'")
def test_on_the_device_samples_sharing_and_history_send_nothing(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open()
    posts: list[str] = []
    visitor.context.on("request", lambda asked: asked.method not in ("GET", "HEAD") and posts.append(asked.url))
    visitor.choices()
    page.get_by_role("switch").check()
    page.get_by_label("Remember them on this device").check()
    page.wait_for_function("() => document.querySelector('#way').textContent.startsWith('Ready: your photos stay')")
    page.get_by_role("button", name="Try sample picture 2").click()
    card = visitor.answers(1).first
    assert "your photo was not sent" in card.inner_text()
    with page.expect_download():
        card.get_by_role("button", name="Share as a picture").click()
    assert posts == []


def test_shared_picture_is_made_on_the_device(visit: Callable[..., Any], recogniser: Any, tmp_path: Path) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    asked: list[str] = []
    page.on("request", lambda request: request.method != "GET" and asked.append(request.url))
    with page.expect_download() as download:
        card.get_by_role("button", name="Share as a picture").click()
    download.value.save_as(tmp_path / "shared.jpg")
    with Image.open(tmp_path / "shared.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (1080, 1380))
        foot = np.asarray(picture.crop((0, 1080, 1080, 1380)).convert("L"))
        assert foot.max() - foot.min() > 100, "something is written below the photo"
    assert asked == [], "nothing is uploaded"


def test_answers_are_remembered_only_if_wanted_and_deleted_ones_are_gone(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.answers(1)
    assert page.evaluate(_STORED) is None, "without a choice nothing is made on the device"
    page.get_by_label("Remember them on this device").check()
    page.wait_for_selector("#history li >> nth=0")
    visitor.pick(*recogniser.some("Melonette Striped"))
    visitor.answers(2)
    page.wait_for_selector("#history li >> nth=1")
    page.reload()
    page.wait_for_selector("#history li >> nth=1")
    names = page.locator("#history bdi").all_inner_texts()
    assert names == ["Striped melonette", "Moon pear"], "the newest first"
    assert len(page.evaluate(_STORED)) == 2
    page.get_by_role("button", name="Delete Striped melonette").click()
    page.wait_for_function("() => document.querySelectorAll('#history li').length === 1")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Delete Moon pear"
    assert len(page.evaluate(_STORED)) == 1
    page.get_by_role("button", name="Delete all of them").click()
    page.wait_for_function("() => !document.querySelector('#history li')")
    assert page.evaluate(_STORED) == []
    page.reload()
    page.wait_for_selector("text=None yet.")
    assert page.locator("#history li").count() == 0
    page.get_by_label("Remember them on this device").uncheck()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.answers(1)
    page.wait_for_timeout(200)
    assert page.evaluate(_STORED) == []


def test_deleting_at_the_service_forgets_the_answer_here_too(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    page.get_by_label("Remember them on this device").check()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    page.wait_for_selector("#history li")
    card.get_by_role("button", name="Delete").click()
    page.wait_for_function("() => !document.querySelector('#history li')")
    assert page.evaluate(_STORED) == []


def test_answer_deleted_while_it_is_being_remembered_is_forgotten(visit: Callable[..., Any], recogniser: Any) -> None:
    visitor = visit()
    page = visitor.open()
    page.get_by_label("Remember them on this device").check()
    page.evaluate("""() => {
        const plain = window.createImageBitmap;
        const until = new Promise((go) => { window.go = go; });
        window.createImageBitmap = async (...what) => {
            if (new Error().stack.includes("history.js")) await until;
            return plain(...what);
        };
    }""")
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    card.get_by_role("button", name="Delete").click()
    page.wait_for_selector(".card.gone")
    page.evaluate("window.go()")
    page.wait_for_timeout(500)
    assert page.evaluate(_STORED) == []


def test_every_kind_is_listed_with_its_names_and_found_without_accents(
    visit: Callable[..., Any], recogniser: Any, hostile: dict[str, str]
) -> None:
    visitor = visit(locale="fr")
    page = visitor.open()
    page.get_by_role("link", name="Ce que je connais").click()
    page.wait_for_selector("#kinds li")
    taxonomy = bundles.load(recogniser.out).taxonomy
    listed = page.locator("#kinds h2").all_inner_texts()
    assert sorted(listed) == sorted(name.names()["fr"] for name in taxonomy.kinds)
    assert hostile["fr"] in listed, "as it is written"
    assert page.locator("#kinds script, #kinds b").count() == 0
    page.get_by_label("Chercher un nom").fill("rayee")  # of a variety, without its accent
    assert page.locator("#kinds li:visible").count() == 1
    assert page.locator("#kinds li:visible").inner_text().endswith("Melonette rayée")
    page.get_by_role("button", name="English").click()
    page.wait_for_selector("html[lang=en]")
    assert page.locator("#kinds h2").all_inner_texts() != listed


def _with_knowledge(page: Any, month: int) -> None:
    """Let the service know what two kinds are taken for and when they are in season, and let it be a month."""

    def other(route: Any) -> None:
        answer = route.fetch()
        model = answer.json()
        apart = {"en": "A moon pear is pale.", "fr": "La poire de lune est pâle.", "es": "La pera lunar es pálida."}
        model["seasons"] = {"moon-pear": [11, 12, 1], "melonette": [6, 7]}
        model["look_alikes"] = {
            "moon-pear": [
                {"kind": "melonette", "share": 0.04, "apart": apart},
                {"kind": "gone", "share": 1, "apart": None},
            ],
            "melonette": [{"kind": "moon-pear", "share": None, "apart": None}],
        }
        route.fulfill(response=answer, json=model)

    page.route("**/v1/model", other)
    page.clock.set_fixed_time(f"2026-{month:02}-15T12:00:00Z")


@pytest.mark.parametrize(
    ("locale", "season", "now"),
    [
        ("en", "In season in Western Europe: November to January", "In season now, in December"),
        ("fr", "De saison en Europe de l’Ouest : novembre à janvier", "De saison en ce moment : décembre"),
        ("es", "De temporada en Europa occidental: de noviembre a enero", "De temporada ahora, en diciembre"),
    ],
)
def test_known_page_tells_seasons_look_alikes_and_what_tells_them_apart(
    visit: Callable[..., Any], locale: str, season: str, now: str
) -> None:
    visitor = visit(locale=locale, timezone_id="UTC")
    page = visitor.page
    _with_knowledge(page, 12)
    visitor.open("/known")
    page.wait_for_selector("#kinds li")
    pear = page.locator(
        "#kinds > li", has=page.locator("h2", has_text={"fr": "Poire de lune"}.get(locale, "Moon pear"))
    )
    assert season in pear.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    alikes = pear.locator(".alikes li")
    assert alikes.count() == 1, "of kinds that this recogniser does not know nothing is said"
    assert "4" in alikes.inner_text()
    assert {"en": "A moon pear is pale.", "fr": "est pâle", "es": "es pálida"}[locale] in alikes.inner_text()
    assert page.locator("#now-title").inner_text().replace("\N{NO-BREAK SPACE}", " ") == now
    assert page.locator("#now-list li").count() == 1
    page.locator("#now-list a").click()
    assert pear.evaluate("(one) => one.matches(':target')")


def test_bundle_of_a_run_holds_what_its_validation_photos_were_taken_for(recogniser: Any) -> None:
    bundle = bundles.load(recogniser.out)
    counted = bundle.manifest["about"]["look_alikes"]
    assert set(counted) <= set(bundle.taxonomy.kind_ids)
    shown = bundle.look_alikes
    assert {kind: [one["kind"] for one in others] for kind, others in counted.items()} == {
        kind: [one["kind"] for one in shown[kind]] for kind in counted
    }
    assert all(len(others) <= 3 for others in counted.values())


def test_nothing_in_season_shows_no_list(visit: Callable[..., Any]) -> None:
    visitor = visit(timezone_id="UTC")
    _with_knowledge(visitor.page, 3)
    page = visitor.open("/known")
    page.wait_for_selector("#kinds li")
    assert page.locator("#now").is_hidden()


def test_photos_alike_are_enlarged_by_keyboard_and_the_focus_comes_back(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit()
    page = visitor.open()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    card = visitor.answers(1).first
    buttons = card.locator(".similar button")
    assert buttons.count() == 6
    sources = buttons.locator("img").evaluate_all("(all) => all.map((one) => one.getAttribute('src'))")
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    picture = dialog.locator("img")
    assert picture.get_attribute("src") == sources[1]
    assert "2 of 6" in dialog.inner_text()
    page.keyboard.press("ArrowRight")
    assert picture.get_attribute("src") == sources[2]
    assert "3 of 6" in dialog.get_by_role("status").text_content()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert picture.get_attribute("src") == sources[5], "before the first comes the last"
    for _ in range(8):
        page.keyboard.press("Tab")
        inside = page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
        assert inside, "the focus stays in the dialog"
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    # The browser gives the focus back to what opened the dialog; what closing it sets off comes a moment later.
    page.wait_for_function("[...document.querySelectorAll('.similar button')].indexOf(document.activeElement) === 5")
