"""axe-core on every page, in every language, in light and dark: nothing that keeps anybody out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import fruits.service

_AXE = Path(fruits.service.__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = pytest.mark.skipif(not _AXE.is_file(), reason="no axe-core: install it with 'make web' (needs npm)")
_RULES = {"resultTypes": ["violations"]}


def _violations(page: Any) -> list[str]:
    # By the developer tools, as the page's policy lets no script in that is not its own.
    page.evaluate(_AXE.read_text("utf-8") + "; null")
    found = page.evaluate("(rules) => axe.run(document, rules)", _RULES)["violations"]
    return [
        f"{one['impact']} {one['id']}: {one['help']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for one in found
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en", "es", "fr"])
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
    found["empty"] = _violations(page)
    strange = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": make_jpeg()}
    broken = {"name": "b.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}
    visitor.pick(*recogniser.some("Apfelino Red 1"), *recogniser.some("Moon Pear 1"), strange, broken)
    visitor.answers(4)
    page.locator("[aria-expanded]").first.click()
    page.get_by_role("combobox").press("ArrowDown")
    page.locator(".map-toggle").first.click()
    page.wait_for_selector("#history li >> nth=2")
    found["answers"] = _violations(page)
    visitor.shot(f"axe-answers-{locale}-{scheme}", full_page=True)

    visitor.open("/known")
    page.wait_for_selector("#kinds li")
    found["known"] = _violations(page)

    (kept,) = service.recognise(*recogniser.some("Moon Pear 1"), keep=True)
    wrong = {"id": kept["id"], "secret": kept["secret"], "right": False, "label": "Apfelino Red 1", "note": "a note"}
    httpx.post(f"{service.url}/v1/feedback", json=wrong).raise_for_status()
    visitor.open(f"/delete#{kept['id']}.{kept['secret']}")
    found["delete"] = _violations(page)
    visitor.open("/owner")
    found["sign in"] = _violations(page)
    page.locator("#token").fill(service.owner)
    page.keyboard.press("Enter")
    page.wait_for_selector(".chart svg rect")
    page.wait_for_selector("#wrong img")
    page.locator(".chart summary").first.click()
    found["owner"] = _violations(page)
    visitor.open("/owner/review")
    page.wait_for_selector("#desk:not([hidden])")
    page.wait_for_selector("#photo img")
    page.keyboard.press("x")
    found["review"] = _violations(page)
    visitor.shot(f"axe-review-{locale}-{scheme}", full_page=True)
    assert {name: some for name, some in found.items() if some} == {}
