"""From a folder of labelled photos to a recognition service.

Everything here is loaded when it is first used: ``import fruits`` is quick, and needs no more than what is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from fruits.errors import FruitsError, ImageDecodeError

if TYPE_CHECKING:
    from fruits.photos.reading.given import PhotoLike
    from fruits.recogniser.answers import Answer
    from fruits.recogniser.explain import Explanation
    from fruits.recogniser.recogniser import Recogniser, load
    from fruits.recogniser.taxonomy import Name

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Explanation",
    "FruitsError",
    "ImageDecodeError",
    "Name",
    "PhotoLike",
    "Recogniser",
    "load",
]

#: Where each name is defined.
_MODULES: Final = {
    "Answer": "fruits.recogniser.answers",
    "Explanation": "fruits.recogniser.explain",
    "Name": "fruits.recogniser.taxonomy",
    "PhotoLike": "fruits.photos.reading.given",
    "Recogniser": "fruits.recogniser.recogniser",
    "load": "fruits.recogniser.recogniser",
}


def __getattr__(name: str) -> Any:
    """Load a name of the public API (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fruits' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
