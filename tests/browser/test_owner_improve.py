"""The owner's page of what to do better: score on visitors' photos, what is not known, the limit of answers, the next run."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sqlalchemy import update

import fruits.service
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import Answer
from fruits.recogniser.taxonomy import Name
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.service.submissions.reviewed.evaluations import Evaluation, Evaluations
from fruits.service.submissions.reviewed.test_set import split_of
from fruits.service.submissions.tables import EvaluationRow
from fruits.storage.objects import Objects

_AXE = Path(fruits.service.__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"
EARLIER = ("0123456789abcdef", "123456789abcdef0")
#: Bottom of a section, of the lowest thing in it, and top of the section.
_BOXES = """(all) => all.map((one) => {
  const seen = [...one.querySelectorAll(":scope > .improve-part > *")].map((part) => part.getBoundingClientRect());
  const own = one.getBoundingClientRect();
  return [own.bottom, Math.max(...seen.map((part) => part.bottom)), own.top];
})"""
HOSTILE = "<img src=x onerror=document.title='owned'> =1+1"


def _patches(seed: int) -> bytes:
    """Return a photo of coloured patches: nothing that is known."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(patches).resize((300, 200), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return out.getvalue()


@pytest.fixture(scope="module")
def improving(serve: Callable[..., Any], recogniser: Any) -> Any:
    """A service with reviewed photos, photos that it does not know, and the answers of two earlier bundles."""
    service = serve("--rate", "0", "--token-rate", "0")
    bundle = bundles.load(recogniser.out)
    database = Database.open(f"sqlite:///{service.data}/service.db")
    submissions = Submissions(database, Objects(str(service.data / "photos")), keep_days=90)
    photos = [path.read_bytes() for path in recogniser.some("Moon Pear 1", 8)]
    known = NewSubmission("kind", "moon-pear", None, "Moon Pear 1", 0.8, 0.1, "en", bundle.identity)

    def new(photo: bytes, features: Any = None, **changes: Any) -> NewSubmission:
        values = {name: getattr(known, name) for name in NewSubmission.__slots__}
        return NewSubmission(**(values | changes | {"photo": photo, "features": features}))

    rng = np.random.default_rng(0)
    centres = 5 * np.eye(2, bundle.components)
    for kind, count in enumerate((9, 4)):
        rows = (centres[kind] + 0.2 * rng.normal(size=(count, bundle.components))).astype(np.float32)
        looks = [_patches(100 * kind + place % 2) for place in range(count)]
        unknown = [new(look, row, outcome="unknown", kind=None) for look, row in zip(looks, rows, strict=True)]
        for place, receipt in enumerate(submissions.add_many(unknown)):
            said = {0: "Quince", 1: "quince", 2: HOSTILE}.get(place)
            if said:
                submissions.feedback(receipt.id, receipt.secret, False, said)
    test: list[str] = []
    for turn in range(400):
        if len(test) == 40:
            break
        (receipt,) = submissions.add_many([new(photos[turn % 8], probability=0.4 + 0.55 * rng.random())])
        label = "Quince" if turn % 5 == 0 else "Moon Pear 1"
        submissions.review(receipt.id, "corrected", label, reviewer="keeper")
        test += [receipt.id] if split_of(receipt.id) == "test" else []
    evaluations = Evaluations(database)
    for number, model in enumerate(EARLIER):
        rows = []
        for place, name in enumerate(test):
            label, kind = ("Moon Pear 1", "moon-pear") if place % (4 + 3 * number) else ("Quince", "quince")
            named = Name({"en": kind})
            told = Answer(
                "kind", named, 0.9, kind, "", ((kind, named, 0.9),), (label,), (0.9,), 0.1, (),
                np.zeros(bundle.components, np.float32),
            )  # fmt: skip
            rows.append(Evaluation(name, model, told))
        evaluations.add(rows)
        earlier = update(EvaluationRow).where(EvaluationRow.model == model)
        with database.writing() as connection:  # served a month and a week ago
            connection.execute(earlier.values(evaluated_s=int(time.time()) - (30, 7)[number] * 86_400))
    for _ in range(600):
        if not evaluations.pending(bundle.identity, 1):
            break
        time.sleep(0.1)
    database.close()
    return service


def _open(visitor: Any, service: Any) -> Any:
    page = visitor.open("/owner/improve")
    page.locator("#token").fill(service.owner)
    page.keyboard.press("Enter")
    page.wait_for_selector("#signed-in:not([hidden])")
    page.wait_for_selector("#test-set svg circle")
    page.wait_for_selector("#unknown img >> nth=5")
    return page


def test_the_page_says_what_the_service_counted(visit: Callable[..., Any], improving: Any, tmp_path: Path) -> None:
    visitor = visit(width=1280, to=improving, accept_downloads=True)
    page = _open(visitor, improving)
    told = {path: improving.ask_owner(path) for path in ("test-set", "unknown", "precision", "next-run")}

    rows = page.locator("#test-set tbody tr")
    assert rows.count() == page.locator("#test-set svg circle").count() == len(told["test-set"]["bundles"]) == 3
    for place, one in enumerate(told["test-set"]["bundles"]):
        text = rows.nth(place).inner_text()
        assert one["identity"] in text
        assert str(one["photos"]) in text
        assert _percent(one["kind"]["share"]) in text
    assert "in use" in rows.nth(2).inner_text()
    assert "One reviewed photo in 5" in page.locator("#test-set").inner_text()

    groups = page.locator("#unknown .groups > li")
    assert [groups.nth(place).locator("h3").inner_text() for place in range(2)] == ["9 photos", "4 photos"]
    names = page.locator("#names li").all_inner_texts()
    assert names[0].casefold() == "quince 4 times"
    assert any(HOSTILE in name for name in names), "as text"
    assert page.title() == "What to do better"

    with page.expect_download() as downloading:
        page.locator("#download-parquet").click()
    saved = tmp_path / downloading.value.suggested_filename
    downloading.value.save_as(saved)
    assert saved.name == "reviewed.parquet"
    assert pq.read_table(saved).num_rows == told["next-run"]["photos"]
    command = page.locator("#next-run code").inner_text()
    assert command == told["next-run"]["commands"]["parquet"]
    with page.expect_download() as downloading:
        page.locator("#download-csv").click()
    assert downloading.value.suggested_filename == "reviewed.csv"
    page.wait_for_function("() => document.querySelector('#next-run code')?.textContent.includes('reviewed.csv')")


def test_the_limit_is_moved_by_keyboard_and_says_what_it_means(visit: Callable[..., Any], improving: Any) -> None:
    page = _open(visit(width=1280, to=improving), improving)
    told = improving.ask_owner("precision")
    slider = page.locator("#limit")
    slider.focus()
    page.keyboard.press("Home")
    first = told["reviewed"]["points"][0]
    assert page.locator("output").inner_text() == f"{round(100 * first['limit'])}%"
    page.keyboard.press("ArrowRight")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    point = {name: told[name]["points"][21] for name in ("validation", "reviewed")}
    shown = page.locator("#precision tbody").first.inner_text()
    assert _percent(point["reviewed"]["precision"]["share"]) in shown
    assert _percent(point["validation"]["coverage"]["share"]) in shown
    assert slider.get_attribute("aria-valuetext").startswith(f"{round(100 * point['reviewed']['limit'])}%: ")
    wanted = point["validation"]["min_precision"]
    if wanted is not None:
        assert page.locator("#precision code").inner_text() == f"{told['command']} --min-precision {wanted:g}"
    # The choice stays when the language changes.
    page.get_by_role("button", name="Français").click()
    page.wait_for_selector("html[lang=fr]")
    assert page.locator("output").inner_text().startswith(f"{round(100 * point['reviewed']['limit'])}")
    assert "Limite de probabilité" in page.locator("#precision").inner_text()


def _percent(share: float) -> str:
    """A share as a browser writes it: half of a digit goes up, where Python takes the even one."""
    return f"{(100 * Decimal(str(share))).quantize(Decimal('0.1'), ROUND_HALF_UP).normalize():f}%"


@pytest.mark.parametrize(
    ("locale", "scheme", "width"),
    [("en", "light", 390), ("es", "dark", 390), ("fr", "light", 1280), ("fr", "dark", 390)],
)
def test_axe_finds_nothing_and_nothing_is_cut(
    visit: Callable[..., Any], improving: Any, locale: str, scheme: str, width: int
) -> None:
    visitor = visit(locale=locale, color_scheme=scheme, width=width, height=844, to=improving, reduced_motion="reduce")
    page = _open(visitor, improving)
    page.locator("#precision summary").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out of the page"
    boxes = page.locator("section.listed").evaluate_all(_BOXES)
    assert all(part <= section + 1 for section, part, _ in boxes), "every part lies within its section"
    assert all(one[0] <= other[2] for one, other in pairwise(boxes)), "none lies over another"
    visitor.shot(f"improve-{locale}-{scheme}-{width}", full_page=True)
    if not _AXE.is_file():
        pytest.skip("no axe-core: install it with 'make web' (needs npm)")
    page.evaluate(_AXE.read_text("utf-8") + "; null")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []


def test_a_new_service_says_that_there_is_nothing_yet(visit: Callable[..., Any], serve: Callable[..., Any]) -> None:
    service = serve("--rate", "0")
    visitor = visit(width=390, height=844, to=service)
    page = visitor.open("/owner/improve")
    page.locator("#token").fill(service.owner)
    page.keyboard.press("Enter")
    page.wait_for_selector("#signed-in:not([hidden])")
    assert "There are 0 test photos so far. Below 30" in page.locator("#test-set").inner_text()
    assert page.locator("#download-parquet").count() == 0
    visitor.shot("improve-new-390", full_page=True)
