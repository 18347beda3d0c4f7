"""From a folder of labelled photos to a recognition service.

Everything here is loaded when it is first used: ``import fruits`` is quick, and needs no more than what is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from fruits.errors import FruitsError, ImageDecodeError

if TYPE_CHECKING:
    from fruits.assessment.results import Audit, Evaluation, FindingCount, Protocol, SourceScore, audit, evaluate
    from fruits.photos.reading.inputs import PhotoLike
    from fruits.recogniser.answers import Answer
    from fruits.recogniser.explain import Explanation
    from fruits.recogniser.recogniser import Recogniser, load
    from fruits.recogniser.regions import Region
    from fruits.recogniser.taxonomy import Name
    from fruits.training.predicting.predictions import Predictions
    from fruits.training.results import Metrics, Run, apply, open_run, run

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Audit",
    "Evaluation",
    "Explanation",
    "FindingCount",
    "FruitsError",
    "ImageDecodeError",
    "Metrics",
    "Name",
    "PhotoLike",
    "Predictions",
    "Protocol",
    "Recogniser",
    "Region",
    "Run",
    "SourceScore",
    "apply",
    "audit",
    "evaluate",
    "load",
    "open_run",
    "run",
]

#: Where each name is defined that is loaded when it is used.
_MODULES: Final = {
    "Answer": "fruits.recogniser.answers",
    "Audit": "fruits.assessment.results",
    "Evaluation": "fruits.assessment.results",
    "Explanation": "fruits.recogniser.explain",
    "FindingCount": "fruits.assessment.results",
    "Metrics": "fruits.training.results",
    "Name": "fruits.recogniser.taxonomy",
    "PhotoLike": "fruits.photos.reading.inputs",
    "Predictions": "fruits.training.predicting.predictions",
    "Protocol": "fruits.assessment.results",
    "Recogniser": "fruits.recogniser.recogniser",
    "Region": "fruits.recogniser.regions",
    "Run": "fruits.training.results",
    "SourceScore": "fruits.assessment.results",
    "apply": "fruits.training.results",
    "audit": "fruits.assessment.results",
    "evaluate": "fruits.assessment.results",
    "load": "fruits.recogniser.recogniser",
    "open_run": "fruits.training.results",
    "run": "fruits.training.results",
}


def __getattr__(name: str) -> Any:
    """Load a name of the public API (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fruits' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
