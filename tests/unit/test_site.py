"""The documentation site: it builds strictly, loads nothing from other hosts, and lists the public API."""

from __future__ import annotations

import html.parser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow  # each builds the site

ROOT = Path(__file__).parents[2]
#: Attributes by which a page loads something; a link that a reader follows (a, form) loads nothing.
LOADING = {
    "audio": ["src"], "embed": ["src"], "iframe": ["src", "srcdoc"], "image": ["href", "xlink:href"], "img": ["src", "srcset"],
    "input": ["src"], "link": ["href"], "object": ["data"], "script": ["src"], "source": ["src", "srcset"], "track": ["src"],
    "use": ["href", "xlink:href"], "video": ["src", "poster"],
}  # fmt: skip
OUTSIDE = re.compile(r"(?:^|[\s,(\"'])(?:[a-z]+:)?//[^\s/]", re.IGNORECASE)


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a tree strictly."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small tree that is built with the settings and hooks of the real one, to damage it."""
    root = tmp_path / "tree"
    package = root / "src" / "fruits"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A package."""\n\n__all__: list[str] = []\n', encoding="utf-8")
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "site_hooks.py", root / "docs")
    pages = ("index.md", "tutorial.md", "api.md")
    for page in (*(f"docs/{name}" for name in pages), *(path.name for path in ROOT.glob("*.md"))):
        (root / page).write_text("# A page\n", encoding="utf-8")
    settings, nav, _ = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")
    assert nav
    names = [*pages, *(path.name for path in ROOT.glob("*.md") if path.name != "README.md")]
    (root / "mkdocs.yml").write_text(settings + nav + "".join(f"  - {name}\n" for name in names), encoding="utf-8")
    return root


class Loads(html.parser.HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes.update((values.get("class") or "").split())
        names = LOADING.get(tag, [])
        if tag == "link" and values.get("rel") in {"canonical", "next", "prev"}:
            names = []
        self.found += [values[name] or "" for name in names if name in values]
        self.found += re.findall(r"url\([^)]*\)", values.get("style") or "")


def test_pages_and_styles_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        assert loads.found  # the parser sees what there is
        assert [target for target in loads.found if OUTSIDE.search(target)] == [], page.name
        assert "mermaid" not in loads.classes, f"{page.name}: the theme fetches mermaid from a CDN"
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        wanted = re.findall(r"url\((?!['\"]?data:)[^)]*\)|@import[^;]*", style.read_text("utf-8"))
        assert [target for target in wanted if OUTSIDE.search(target)] == [], style.name


@pytest.mark.parametrize(
    "target",
    ["https://cdn.example/a.js", "//cdn.example/a.js", "a.png 1x, https://b.example/b.png 2x", "url(//a.example/f)"],
)
def test_another_host_is_recognised(target: str) -> None:
    assert OUTSIDE.search(target)


def test_every_page_of_the_docs_is_on_the_site(site: Path) -> None:
    built = {page.relative_to(site).as_posix() for page in site.rglob("*.html")}
    expected = {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    assert expected | {"ARCHITECTURE.html", "CONTRIBUTING.html", "CHANGELOG.html"} <= built


def test_a_broken_link_fails_the_build(tree: Path, tmp_path: Path) -> None:
    with (tree / "docs" / "tutorial.md").open("a", encoding="utf-8") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    done = build(tree, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout + done.stderr


def test_a_public_name_without_docstring_fails_the_build(tree: Path, tmp_path: Path) -> None:
    (tree / "src" / "fruits" / "__init__.py").write_text(
        '"""A package."""\n\n__all__ = ["Answer", "load"]\n\n\ndef load() -> None:\n    pass\n\n\n'
        'class Answer:\n    """An answer."""\n\n    def named(self) -> str:\n        return ""\n',
        encoding="utf-8",
    )
    done = build(tree, tmp_path / "site")
    assert done.returncode != 0
    assert "fruits.load has no docstring" in done.stdout + done.stderr
    assert "fruits.Answer.named has no docstring" in done.stdout + done.stderr


def test_the_reference_lists_what_the_package_exports(site: Path) -> None:
    hooks = _hooks()
    page = (site / "api.html").read_text("utf-8")
    for name, _ in hooks.public_objects(ROOT / "src"):
        assert f'id="{name}"' in page, name


def test_the_reference_follows_names_imported_from_elsewhere(tree: Path, tmp_path: Path) -> None:
    package = tree / "src" / "fruits"
    (package / "inner.py").write_text(
        '"""Inside."""\n\n\ndef load(path: str) -> str:\n    """Return what lies at a path."""\n    return path\n',
        encoding="utf-8",
    )
    (package / "__init__.py").write_text(
        '"""A package."""\n\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from fruits.inner import load\n\n'
        '__all__ = ["load"]\n',
        encoding="utf-8",
    )
    done = build(tree, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api.html").read_text("utf-8")
    assert 'id="fruits.load"' in page
    assert "Return what lies at a path." in page


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
