"""The public API, name by name: what changes here changes for programs of others, and CHANGELOG.md says so."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import fruits
from fruits.assessment.results import AuditOptions
from fruits.config import RunConfig
from fruits.training import pipeline
from fruits.training.options import ApplyOptions, RunOptions

FUNCTIONS = {
    "run": "(photos: 'StrPath | Iterable[StrPath]', *, to: 'StrPath', progress: 'Progress | bool | None' = None, "
    "**options: 'Unpack[RunOptions]') -> 'Run'",
    "apply": "(recogniser: 'StrPath | Run | None', photos: 'StrPath | Iterable[StrPath]', *, to: 'StrPath', "
    "progress: 'Progress | bool | None' = None, **options: 'Unpack[ApplyOptions]') -> 'Predictions'",
    "evaluate": "(run: 'StrPath | Run', protocols: 'str | Sequence[str]' = (), *, "
    "progress: 'Progress | bool | None' = None) -> 'Evaluation'",
    "audit": "(photos: 'StrPath | Sequence[StrPath]', *, to: 'StrPath', progress: 'Progress | bool | None' = None, "
    "**options: 'Unpack[AuditOptions]') -> 'Audit'",
    "load": "(path: 'str | os.PathLike[str] | None' = None) -> 'Recogniser'",
    "open_run": "(path: 'StrPath') -> 'Run'",
}
RESULTS = {
    "Answer": ["advice", "as_row", "error", "features", "kind", "kinds", "labels", "name", "ood_score", "outcome",
               "probabilities", "probability", "status", "variety", "without"],
    "Audit": ["counts", "failed", "findings", "flagged", "labels", "ok", "out", "page", "photos", "rejected", "seconds",
              "to_pandas"],
    "Evaluation": ["available", "backbone", "components", "folder", "head", "identity", "near_duplicate_chance",
                   "near_duplicate_distance", "not_applicable", "out", "photos", "protocols", "report", "seconds",
                   "seen_share", "size", "sources", "table", "to_pandas"],
    "Explanation": ["answer", "picture", "pixels", "places"],
    "FindingCount": ["across_labels", "across_splits", "groups", "photos", "sort"],
    "Metrics": ["accuracy", "by_label", "expected_calibration_error", "f1", "hamming_loss", "high", "log_loss", "low",
                "to_arrow", "to_pandas", "too_few_to_say", "top3_accuracy", "weighted_precision", "weighted_recall"],
    "Name": ["about", "as_dict", "called", "en", "in_every_language", "lines", "names", "over", "parse"],
    "Predictions": ["computed", "device", "failed", "ok", "outcomes", "path", "photos", "regions", "rejected", "reused",
                    "seconds", "table", "to_pandas"],
    "Protocol": ["accuracy", "folds", "grouped_by", "groups", "high", "kind_accuracy", "kind_high", "kind_low",
                 "kind_top3_accuracy", "kind_top3_high", "kind_top3_low", "leakage", "left_out", "low", "photos", "protocol",
                 "seen", "sources", "too_few_to_say"],
    "Run": ["backbone", "catalogue", "components", "computed", "embedding_size", "evaluated_photos", "evaluated_split",
            "explained_variance", "failed", "features", "folder", "identity", "labels", "leakage", "metrics", "ok", "out",
            "photos", "predictions", "recogniser", "rejected", "report", "reused", "seconds", "up_to_date", "warnings"],
    "Region": ["answer", "box"],
    "SourceScore": ["kind_accuracy", "kind_high", "kind_low", "kind_top3_accuracy", "kind_top3_high", "kind_top3_low",
                    "left_out", "photos", "seen", "source", "too_few_to_say"],
}  # fmt: skip
RECOGNISER = {
    "backbone": None,
    "components": None,
    "embed": "(self, photos: 'PhotoLike | Iterable[PhotoLike]') -> 'NDArray[np.float32]'",
    "embedding_size": None,
    "explain": "(self, photo: 'PhotoLike') -> 'Explanation'",
    "features": "(self, photos: 'PhotoLike | Iterable[PhotoLike]') -> 'NDArray[np.float32]'",
    "identity": None,
    "input_size": None,
    "kinds": None,
    "labels": None,
    "predict": "(self, photos: 'PhotoLike | Iterable[PhotoLike]') -> 'Answer | list[Answer]'",
    "predict_part": "(self, photo: 'PhotoLike', box: 'Sequence[float]') -> 'Answer'",
    "regions": "(self, photo: 'PhotoLike') -> 'list[Region]'",
}
ESTIMATORS = {
    "FruitsClassifier": "(*, components: 'int | None' = None, variance: 'float' = 0.99, head: 'str' = 'logistic', "
    "setting: 'float | None' = None) -> 'None'",
    "FruitsEmbedder": "(backbone: 'str' = 'fruits-photo', *, size: 'int | None' = None, resize_mode: 'Fit | None' = None, "
    "device: 'str' = 'cpu', on_error: \"Literal['raise', 'nan']\" = 'raise') -> 'None'",
}
SECTIONS = ("Parameters\n", "Attributes\n", "Returns\n")


def public(kind: type) -> list[str]:
    return sorted(name for name in dir(kind) if not name.startswith("_"))


def test_all_lists_the_public_surface() -> None:
    errors = {"FruitsError", "ImageDecodeError"}
    assert sorted(fruits.__all__) == sorted({*FUNCTIONS, *RESULTS, *errors, "PhotoLike", "Recogniser"})
    assert set(fruits.__all__) <= set(dir(fruits))
    assert all(getattr(fruits, name) is not None for name in fruits.__all__)
    assert sorted(importlib.import_module("fruits.sklearn").__all__) == sorted(ESTIMATORS)
    with pytest.raises(AttributeError, match="no attribute 'banana'"):
        fruits.banana  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_these_signatures(name: str) -> None:
    assert str(inspect.signature(getattr(fruits, name))) == FUNCTIONS[name]


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_frozen_dataclasses_with_these_members(name: str) -> None:
    kind = getattr(fruits, name)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert public(kind) == RESULTS[name]


def test_recogniser_and_estimators_have_these_members() -> None:
    assert public(fruits.Recogniser) == sorted(RECOGNISER)
    for name, signature in RECOGNISER.items():
        if signature is not None:
            assert str(inspect.signature(getattr(fruits.Recogniser, name))) == signature
    estimators = importlib.import_module("fruits.sklearn")
    for name, signature in ESTIMATORS.items():
        assert str(inspect.signature(getattr(estimators, name))) == signature


def test_options_are_the_fields_of_the_run_config() -> None:
    """One config object; its fields are typed again for type checkers alone, and agree."""
    hints = typing.get_type_hints(RunConfig)
    given = {name: hints[name] for name in hints.keys() - {"sources", "out"}}
    told = {name: _as_field(hint) for name, hint in typing.get_type_hints(RunOptions).items()}
    assert told == given
    for options in (ApplyOptions, AuditOptions):
        for name, hint in typing.get_type_hints(options).items():
            assert _as_field(hint) == (bool if name == "regions" else hints[name]), name
    taken = inspect.signature(pipeline.apply).parameters
    keywords = {name for name, one in taken.items() if one.kind is one.KEYWORD_ONLY} - {"progress"}
    assert set(typing.get_type_hints(ApplyOptions)) == keywords


def _as_field(hint: object) -> object:
    """A config is frozen: where a program may give any sequence, it keeps a tuple."""
    return tuple[str, ...] if typing.get_origin(hint) is not None and "Sequence" in str(hint) else hint


@pytest.mark.parametrize("name", sorted({*fruits.__all__} - {"PhotoLike"}))
def test_every_public_thing_is_documented(name: str) -> None:
    found = getattr(fruits, name)
    assert inspect.getdoc(found)
    if name in FUNCTIONS:
        documented(found)
    if inspect.isclass(found) and not issubclass(found, Exception):
        for member in public(found):
            if inspect.isfunction(thing := inspect.getattr_static(found, member)):
                documented(thing)


def documented(function: typing.Any) -> None:
    """Raise unless the docstring names every parameter and says what is raised, where something is taken."""
    text = inspect.getdoc(function) or ""
    assert text, function
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "other")]
    if names:
        assert "Parameters\n----------" in text, function
        assert "Raises\n------" in text, function
    for name in names:
        assert name in text, (function, name)


def test_type_checkers_see_what_programs_get() -> None:
    """Names under TYPE_CHECKING and names that are loaded when used are the same, from the same modules."""
    tree = ast.parse(Path(fruits.__file__).read_text("utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == fruits._MODULES


def test_import_is_light() -> None:
    program = (
        "import sys, fruits\n"
        "print(*sorted({'numpy', 'pyarrow', 'PIL', 'onnxruntime', 'sklearn', 'rich', 'typer'} & set(sys.modules)))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('fruits')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "fruits fruits.errors"]


@pytest.mark.slow
def test_the_recogniser_leaves_training_out() -> None:
    program = (
        "import sys, fruits\nfruits.load()\n"
        "print(*sorted({'fruits.training.pipeline', 'sklearn', 'scipy', 'onnx', 'rich', 'pyspark'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
