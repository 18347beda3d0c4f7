"""Engines, heads and backbones by name: those of fruits, and those that other packages add by entry points.

An installed package adds one by an entry point in the group ``fruits.engines``, ``fruits.heads`` or ``fruits.backbones``;
CONTRIBUTING.md shows each. Its code is imported only when it is chosen by name. Knows nothing of what the parts do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fruits.errors import ConfigError, ExtensionError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: What fruits itself registers in pyproject.toml. Found without reading the metadata of every installed package, and also where
#: fruits runs from a source tree that nothing installed.
OWN: Final[dict[str, dict[str, str]]] = {
    "engine": {
        "local": "fruits.engines.local:LocalEngine",
        "spark": "fruits.engines.spark.engine:SparkEngine",
    },
    "head": {
        "logistic": "fruits.learning.heads.logistic:LogisticHead",
        "knn": "fruits.learning.heads.knn:KnnHead",
        "kernel": "fruits.learning.heads.kernel:KernelHead",
    },
    "backbone": {
        "fruits-photo": "fruits.embedding.backbones:FRUITS_PHOTO",
        "fruits-small": "fruits.embedding.backbones:FRUITS_SMALL",
    },
}
_GROUPS: Final = {"engine": "fruits.engines", "head": "fruits.heads", "backbone": "fruits.backbones"}
_MORE: Final = "install a package that adds one (entry point '{group}')"


@dataclass(frozen=True, slots=True)
class Extension:
    """Something that can be chosen by name.

    Attributes
    ----------
    kind : {"engine", "head", "backbone"}
    name : str
    package : str
        The distribution that brings it, and its version; ``fruits`` for our own.
    entry_point : EntryPoint
    """

    kind: str
    name: str
    package: str
    entry_point: EntryPoint

    @property
    def own(self) -> bool:
        """Whether it is a part of fruits."""
        return self.package == "fruits"

    def load(self) -> Any:
        """Import it and return what its entry point names.

        Raises
        ------
        ExtensionError
            If the package of somebody else cannot be imported, or lacks what its entry point names.
        """
        if self.own:
            return self.entry_point.load()
        try:
            return self.entry_point.load()
        except Exception as exc:  # whatever the module of a stranger raises on import
            self.fail("cannot be loaded", exc)

    def fail(self, what: str, exc: Exception | None = None) -> NoReturn:
        """Raise :class:`ExtensionError` that says in one sentence which package is to blame."""
        why = f" ({type(exc).__name__}: {_line(exc)})" if exc is not None else ""
        raise ExtensionError(
            f"{self.kind} '{self.name}' of the package {self.package} {what}{why}; repair or uninstall that package, or choose "
            f"another {self.kind}"
        ) from exc


def find(kind: str, name: str) -> Extension | None:
    """Return the engine, head or backbone of a name; None if there is none. A name of fruits is always fruits' own.

    Raises
    ------
    ExtensionError
        If two packages bring one of that name.
    """
    if (target := OWN[kind].get(name)) is not None:
        return _own(kind, name, target)
    found = {one.package: one for one in _of_others(kind) if one.name == name}
    if len(found) > 1:
        raise ExtensionError(
            f"the packages {' and '.join(sorted(found))} both bring the {kind} '{name}'; uninstall one of them"
        )
    return next(iter(found.values()), None)


def get(kind: str, name: str) -> Extension:
    """Return the engine or head of a name.

    Raises
    ------
    ConfigError
        If there is none: the message lists those that are installed and says how to get more.
    ExtensionError
        If two packages bring one of that name.
    """
    found = find(kind, name)
    if found is None:
        raise ConfigError(f"no {kind} '{str(name)[:200]}'; expected {alternatives(names(kind))}, or {more(kind)}")
    return found


def names(kind: str) -> list[str]:
    """Return every name of a kind: those of fruits, then those of other packages in order."""
    return [*OWN[kind], *sorted({one.name for one in _of_others(kind)} - OWN[kind].keys())]


def others(kind: str) -> list[Extension]:
    """Return what other packages bring, by name; where two bring the same name, either."""
    found = {one.name: one for one in _of_others(kind) if one.name not in OWN[kind]}
    return [found[name] for name in sorted(found)]


def more(kind: str) -> str:
    """Return how to get more of a kind, for a message."""
    return _MORE.format(group=_GROUPS[kind])


def alternatives(words: Iterable[str]) -> str:
    """Return words as a message lists them: ``a, b or c``."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _own(kind: str, name: str, target: str) -> Extension:
    from importlib.metadata import EntryPoint  # noqa: PLC0415 - keeps 'fruits --help' quick

    return Extension(kind, name, "fruits", EntryPoint(name, target, _GROUPS[kind]))


def _of_others(kind: str) -> list[Extension]:
    from importlib.metadata import entry_points  # noqa: PLC0415

    found = []
    for point in entry_points(group=_GROUPS[kind]):
        about = point.dist
        if about is not None and about.name == "fruits":
            continue
        found.append(Extension(kind, point.name, f"{about.name} {about.version}" if about else "?", point))
    return found


def _line(exc: Exception) -> str:
    """Return the first line of what an exception says, short enough for a sentence."""
    return (str(exc).strip().splitlines() or [""])[0][:200]
