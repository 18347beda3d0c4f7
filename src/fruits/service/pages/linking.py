"""Joins the modules of a page into few files when the service starts: fewer requests, and no comments on the wire.

A page's script and all it imports become one file. A module that is imported when it is needed (``import("./camera.js")``)
becomes another, which takes what the page has already from the page's file, so that each module exists once. Its name ends with a
hash of the whole page: a page that was opened before an update of the service never gets a part of another version. So does that
of a worker, which is a file of its own with all it imports. There is no build step and no bundler: modules keep to the few forms
of import and export that :func:`link` knows. They lie in folders, and are called by their names alone where they are joined.
``js/`` is served as it is, too.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping
from typing import Final

from fruits.errors import FruitsError

#: Where joined files are served.
LINKED: Final = "static/linked/"
_IMPORT: Final = re.compile(r'^import \{ ([\w$, ]+) \} from "(\.{1,2}/[\w/-]+\.js)";$', re.MULTILINE)
_LATER: Final = re.compile(r'\bimport\("(\.{1,2}/[\w/-]+\.js)"\)')
#: The address of a module as it is served, which a worker starts with.
_WORKER: Final = re.compile(r'"/static/js/([\w/-]+\.js)"')
_EXPORT: Final = re.compile(r"^export (?=(?:(?:async )?function|class|const) ([\w$]+))", re.MULTILINE)
_OTHER: Final = re.compile(r"^(?:import|export) .*", re.MULTILINE)
_WAITS: Final = re.compile(r"^(?:(?:const|let) [^=\n]+= )?await ", re.MULTILINE)
_COMMENTS: Final = re.compile(r"^[ \t]*(?:/\*\*.*?\*/|//[^\n]*)[ \t]*$\n?", re.MULTILINE | re.DOTALL)
#: A comment behind a statement; it stays where quotes or slashes before it could make it part of a text.
_BEHIND: Final = re.compile(r"""^([^"'`/\n]+?)[ \t]+// [^\n]*$""", re.MULTILINE)
_INDENTATION: Final = re.compile(r"^[ \t]+", re.MULTILINE)


class LinkError(FruitsError, ValueError):
    """A module of the pages cannot be joined with others."""


def link(modules: Mapping[str, str], page: str) -> dict[str, str]:
    """Return the files of a page by name: that of its script, those that it asks for later, those of its workers.

    Parameters
    ----------
    modules : mapping of str to str
        Every module's text by its path, such as ``visitor/camera.js``; no two may have the same name.
    page : str
        The module that the page starts with.

    Raises
    ------
    LinkError
        If a module is missing or has the name of another, imports itself by way of others, or has an import or export of another
        form.
    """
    named: dict[str, str] = {}
    for path in modules:
        if (other := named.setdefault(_stem(path), path)) != path:
            raise LinkError(f"{path} has the name of {other}; expected names that tell modules apart")
    place = dict.fromkeys(_in_order(modules, page), page)
    reached: dict[str, list[str]] = {}
    waiting = _later(modules, place)
    while waiting:
        root = waiting.pop()
        if root in reached or place.get(root) == page:
            continue
        reached[root] = [name for name in _in_order(modules, root) if place.get(name) != page]
        waiting += _later(modules, reached[root])
    for root, names in reached.items():
        for name in names:
            shared = sum(name in others for others in reached.values()) > 1
            place[name] = name if shared or name in reached else root
    workers = {worker: _in_order(modules, worker) for worker in sorted(_workers(modules, place))}
    stem = _stem(page)
    every = sorted({*place, *(name for names in workers.values() for name in names)})
    version = hashlib.sha256("".join(name + modules[name] for name in every).encode()).hexdigest()[:8]
    files = {
        file: f"{stem}.js" if file == page else f"{stem}.{_stem(file)}.{version}.js"
        for file in (*place.values(), *workers)
    }
    return {files[file]: _file(modules, file, place, files) for file in dict.fromkeys(place.values())} | {
        files[worker]: _file(modules, worker, dict.fromkeys(names, worker), files) for worker, names in workers.items()
    }


def _file(modules: Mapping[str, str], file: str, place: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Return a file: what it takes from others, its modules in the order of their imports, what it gives."""
    own = [name for name in _in_order(modules, file) if place[name] == file]
    taken = sorted(
        {used for name in own for used in _imports(modules, name) if place[used] != file}, key=posixpath.basename
    )
    return "".join([
        *(f'import {{ {_space(name)} }} from "./{files[place[name]]}";\n' for name in taken),
        *(_module(name, modules[name], place, files) for name in own),
        f"export {{ {', '.join(map(_space, own))} }};\n",
    ])  # fmt: skip


def _module(name: str, text: str, place: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Return a module as an object of what it exports, made by a function that keeps the rest to itself."""
    given = _EXPORT.findall(text)
    text = _IMPORT.sub(
        lambda found: f"const {{ {found[1].replace(' as ', ': ')} }} = {_space(found[2])};", _EXPORT.sub("", text)
    )
    if other := _OTHER.search(text):
        raise LinkError(
            f"{name}: found '{other[0]}'; expected imports by name from one file on one line, and exported functions, "
            "classes and constants"
        )
    text = _LATER.sub(lambda found: _asked_for(_resolved(name, found[1]), place, files), text)
    text = _WORKER.sub(lambda found: f'"/{LINKED}{files[found[1]]}"', text)
    text = _INDENTATION.sub("", _BEHIND.sub(r"\1", _COMMENTS.sub("", text))).strip()
    before, after = ("await (async () => {", "})()") if _WAITS.search(text) else ("(() => {", "})()")
    return f"const {_space(name)} = {before}\n{text}\nreturn {{ {', '.join(given)} }};\n{after};\n"


def _asked_for(name: str, place: Mapping[str, str], files: Mapping[str, str]) -> str:
    return f'import("./{files[place[name]]}").then((file) => file.{_space(name)})'


def _in_order(modules: Mapping[str, str], root: str) -> list[str]:
    """Return a module and all it imports, directly or not, each after what it imports."""
    found: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise LinkError(f"{' imports '.join((*path, name))}; expected no circle")
        if name not in modules:
            raise LinkError(f"{path[-1] if path else 'a page'} imports {name}, which is not there")
        if name not in found:
            for used in _imports(modules, name):
                visit(used, (*path, name))
            found[name] = None

    visit(root, ())
    return list(found)


def _imports(modules: Mapping[str, str], name: str) -> list[str]:
    return [_resolved(name, path) for _, path in _IMPORT.findall(modules[name])]


def _later(modules: Mapping[str, str], names: Mapping[str, object] | list[str]) -> list[str]:
    found = {_resolved(name, path) for name in names for path in _LATER.findall(modules[name])}
    return sorted(found, key=posixpath.basename)


def _workers(modules: Mapping[str, str], names: Mapping[str, object]) -> set[str]:
    """Return the modules that workers of these start with; they load nothing later, as their file could not be shared."""
    found = {worker for name in names for worker in _WORKER.findall(modules[name])}
    for worker in found:
        for name in _in_order(modules, worker):
            if later := _later(modules, [name]):
                raise LinkError(f"{name} imports {later[0]} later; expected a worker that has all it needs")
    return found


def _resolved(name: str, path: str) -> str:
    """Return the module that another one means by a relative path."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _stem(path: str) -> str:
    return posixpath.basename(path).removesuffix(".js")


def _space(path: str) -> str:
    """Return the name of a module's object: no module has a name of its own that begins so."""
    return f"${re.sub(r'[^a-z0-9]', '_', _stem(path))}"
