"""Something to try and to learn: sample pictures, what is known, answers remembered on the device, a picture to share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fruits.photos.made_up import samples
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
    page.get_by_role("button", name="Try made-up picture 1").click()
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
    page.get_by_role("button", name="Try made-up picture 2").click()
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
