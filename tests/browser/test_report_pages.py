"""Report and audit as a reader gets them: short before anything is unfolded, no table wider than a phone, axe-core clean."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fruits.service
from fruits.assessment import audit as audits
from fruits.config import RunConfig

_AXE = Path(fruits.service.__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"
_UNFOLD = "() => document.querySelectorAll('details').forEach((part) => (part.open = true))"
_CUT = """() => [document.documentElement, ...document.querySelectorAll(".scroll")]
  .filter((one) => one.checkVisibility() && one.scrollWidth > one.clientWidth)
  .map((one) => one.getAttribute("aria-labelledby") ?? one.tagName)"""


@pytest.fixture(scope="module")
def documents(recogniser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of the report of a run and of the audit of its photos."""
    out = shutil.copytree(recogniser.out, tmp_path_factory.mktemp("audit") / "out", symlinks=True)  # embedded already
    audits.audit(RunConfig(sources=(str(recogniser.photos),), out=str(out), workers=2))
    return {"report": (recogniser.out / "report.html").as_uri(), "audit": (out / "audit.html").as_uri()}


@pytest.mark.parametrize("name", ["report", "audit"])
def test_page_takes_four_screens_of_a_desk_before_it_is_unfolded(
    visit: Callable[..., Any], documents: dict[str, str], name: str
) -> None:
    visitor = visit(width=1280, height=800)
    visitor.expected.append("elsewhere: file:")
    visitor.page.goto(documents[name])
    assert visitor.page.evaluate("document.documentElement.scrollHeight") < 4 * 800
    visitor.shot(f"{name}-desk", full_page=True)


@pytest.mark.parametrize("locale", ["en", "es", "fr"])
@pytest.mark.parametrize("name", ["report", "audit"])
def test_no_table_is_cut_on_a_phone(
    visit: Callable[..., Any], documents: dict[str, str], name: str, locale: str
) -> None:
    visitor = visit(width=390, height=844, locale=locale)
    visitor.expected.append("elsewhere: file:")
    visitor.page.goto(documents[name])
    visitor.page.evaluate(_UNFOLD)
    assert visitor.page.evaluate(_CUT) == []
    visitor.shot(f"{name}-phone-{locale}", full_page=True)


def test_link_unfolds_the_section_that_it_leads_to(visit: Callable[..., Any], documents: dict[str, str]) -> None:
    visitor = visit()
    visitor.expected.append("elsewhere: file:")
    page = visitor.page
    page.goto(documents["audit"])
    section = page.locator("section.folded").first
    name = section.get_attribute("id")
    assert section.locator("details").first.get_attribute("open") is None
    page.locator(f'a[href="#{name}"]').first.click()
    page.wait_for_selector(f"#{name} > details[open]")
    page.goto(documents["report"] + "#making")
    page.wait_for_selector("#making > details[open]")


@pytest.mark.skipif(not _AXE.is_file(), reason="no axe-core: install it with 'make web' (needs npm)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "audit"])
def test_axe_finds_nothing_in_report_and_audit(
    visit: Callable[..., Any], documents: dict[str, str], name: str, scheme: str
) -> None:
    visitor = visit(width=390, height=844, color_scheme=scheme, reduced_motion="reduce")
    visitor.expected.append("elsewhere: file:")
    visitor.page.goto(documents[name])
    visitor.page.evaluate(_UNFOLD)
    visitor.page.evaluate(_AXE.read_text("utf-8") + "; null")
    found = visitor.page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]] == []
