"""What the site needs beyond Markdown: pages of the repository's root, and the API reference of ``fruits.__all__``.

Called by MkDocs (mkdocs.yml). A warning here fails the build, which is strict.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_LOG = logging.getLogger("mkdocs.hooks.fruits")
_ROOT = Path(__file__).parents[1]
#: Pages that GitHub expects at the root; on the site they stand beside the others.
_ROOT_PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
_API_PAGE = "api.md"
#: Modules of the public API beside ``fruits`` itself; those that do not exist yet are left out.
_MODULES = ("fruits", "fruits.sklearn")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's root."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - only inside MkDocs

    for name in _ROOT_PAGES:
        text = (_ROOT / name).read_text("utf-8")
        moved = re.sub(r"\]\(docs/", "](", text).replace("](README.md)", "](index.md)")
        files.append(File.generated(config, name, content=moved))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs' names
    """Append the public API to its page and warn of every missing docstring; on other pages follow the root pages."""
    if page.file.src_uri != _API_PAGE:
        return re.sub(rf"\]\(\.\./({'|'.join(map(re.escape, _ROOT_PAGES))})", r"](\1", markdown)
    public = list(public_objects(_ROOT / "src"))
    for path, found in public:
        for missing in without_docstring(path, found):
            _LOG.warning("%s has no docstring; expected one, as it is public", missing)
    return markdown + "".join(f"\n\n::: {path}\n" for path, _ in public)


def public_objects(sources: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the definition of everything in ``__all__`` of the public modules, read without importing."""
    for name in _MODULES:
        file = sources.joinpath(*name.split("."))
        if not (file.with_suffix(".py").exists() or (file / "__init__.py").exists()):
            continue
        module = griffe.load(name, search_paths=[str(sources)], docstring_parser="numpy", resolve_aliases=True)
        for exported in module.exports or []:
            if not str(exported).startswith("_"):
                member = module[str(exported)]
                yield f"{name}.{exported}", member.final_target if member.is_alias else member


def without_docstring(path: str, found: Any) -> Iterator[str]:
    """Yield the name of an object, and of each public method of a class, that has no docstring."""
    if not found.has_docstring and not found.is_attribute:
        yield path
    if found.is_class:
        for name, member in found.members.items():
            is_callable = member.is_function or (member.is_attribute and "property" in member.labels)
            if is_callable and not name.startswith("_") and not member.has_docstring:
                yield f"{path}.{name}"
