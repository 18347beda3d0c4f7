"""Messages name an option as the caller wrote it, and say what is wrong with it before any photo is listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fruits
from fruits.config import RunConfig
from fruits.errors import ConfigError, FruitsError, PhotoTypeError, StoreError
from fruits.sklearn import FruitsClassifier, FruitsEmbedder
from fruits.training.options import ApplyOptions, RunOptions

#: For every option that can be wrong by itself: a wrong value.
WRONG: dict[str, Any] = {
    "backbone": "spine", "size": 1, "resize_mode": "stretch", "variance": 2, "components": 0, "workers": -1,
    "max_rejected": 2, "sample": 0, "taxonomy": "nowhere.csv", "min_precision": 0.1, "seed": -1, "gallery": -1,
    "head": "tail", "engine": "abacus", "device": "abacus", "core_hour_usd": -1, "allow_source": "nowhere",
}  # fmt: skip
#: Options of which any value of their type is allowed: here one of another type.
WRONG_TYPE: dict[str, Any] = {
    "only": 3, "balance": "yes", "master": 3, "repair": "yes", "keep_missing": "yes", "follow_links": "yes", "spark_conf": 3
}  # fmt: skip
#: Those of apply() alone.
WRONG_TYPE_OF_APPLY: dict[str, Any] = {"regions": "yes"}


def test_these_are_all_options() -> None:
    assert {*WRONG, *WRONG_TYPE, *WRONG_TYPE_OF_APPLY} == set(RunOptions.__annotations__) | set(
        ApplyOptions.__annotations__
    )


@pytest.mark.parametrize("name", [*WRONG, *WRONG_TYPE])
def test_python_names_keywords_before_photos_are_listed(tmp_path: Path, name: str) -> None:
    value = (WRONG | WRONG_TYPE)[name]
    with pytest.raises(FruitsError) as caught:
        fruits.run(tmp_path / "nothing here", to=tmp_path / "out", **{name: value})
    assert f"{name}={value!r}" in str(caught.value)
    assert "--" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WRONG)
def test_the_command_line_names_its_options(fruits: Callable[..., Any], tmp_path: Path, name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    done = fruits("run", tmp_path / "nothing here", "--to", tmp_path / "out", flag, WRONG[name])
    assert done.code in (1, 2)
    assert f"{name}=" not in done.stderr
    assert "nothing here" not in done.stderr
    said = {"backbone": "no backbone 'spine'", "head": "no head 'tail'", "engine": "no engine 'abacus'"}
    assert said.get(name, "taxonomy 'nowhere.csv'" if name == "taxonomy" else flag) in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted((WRONG | WRONG_TYPE_OF_APPLY).keys() & ApplyOptions.__annotations__.keys()))
def test_apply_names_keywords_before_photos_are_listed(tmp_path: Path, name: str) -> None:
    value = (WRONG | WRONG_TYPE_OF_APPLY)[name]
    with pytest.raises(FruitsError, match=rf"{name}='?{value}"):
        fruits.apply(None, tmp_path / "nothing here", to=tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_the_other_functions_name_their_keywords(tmp_path: Path, finished_run: Any) -> None:
    nothing = tmp_path / "nothing here"
    for call, said in (
        (lambda: fruits.run(nothing, to=""), "to='': expected"),
        (lambda: fruits.run(nothing, to=tmp_path, variance=0.5, components=5), "both variance= and components= given"),
        (lambda: fruits.run(nothing, to=5), "to=5: expected a path"),
        (lambda: fruits.apply(None, nothing, to=""), "to='': expected"),
        (lambda: fruits.audit(nothing, to=tmp_path / "out", backbone="spine"), "backbone='spine': no backbone"),
        (lambda: fruits.evaluate(nothing, "luck"), "protocols='luck': expected one of official"),
        (lambda: fruits.load(5), "path=5: expected the results"),
        (lambda: fruits.load(nothing), rf"results of fruits.run\(PHOTOS, to='{nothing}'\)"),
        (lambda: fruits.open_run(nothing), rf"results of fruits.run\(PHOTOS, to='{nothing}'\)"),
        (lambda: fruits.open_run(finished_run.out).predictions("exam"), "split='exam': expected one of"),
        (lambda: fruits.run(finished_run.photos, to=finished_run.photos), "give another one with to=, or move"),
    ):
        with pytest.raises((ConfigError, FruitsError), match=said) as caught:
            call()
        assert "--" not in str(caught.value)


def test_estimators_name_their_parameters() -> None:
    for wrong in (
        {"backbone": "spine"},
        {"size": 1},
        {"resize_mode": "stretch"},
        {"device": "abacus"},
        {"on_error": 3},
    ):
        [(name, value)] = wrong.items()
        with pytest.raises((ConfigError, FruitsError), match=f"{name}={value!r}"):
            FruitsEmbedder(**wrong).fit()
    x, y = np.random.default_rng(0).normal(size=(20, 6)), np.repeat([0, 1], 10)
    for wrong in ({"components": 0}, {"components": 2.5}, {"variance": 2}, {"setting": 0}, {"head": "tail"}):
        [(name, value)] = wrong.items()
        with pytest.raises(ConfigError, match=f"{name}={value!r}"):
            FruitsClassifier(**wrong).fit(x, y)


def test_more_components_than_the_rows_determine_are_refused() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 6)), np.repeat([0, 1], 10)
    assert FruitsClassifier(components=6).fit(x, y).n_components_ == 6
    with pytest.raises(ConfigError, match="components=999: 20 rows of 6 numbers give 6; ask for at most that"):
        FruitsClassifier(components=999).fit(x, y)


def test_a_pack_is_not_listed_for_a_folder_that_is_taken(tmp_path: Path, finished_run: Any) -> None:
    from fruits.photos.reading.packing import pack

    with pytest.raises(StoreError, match="results of 'fruits run'"):
        pack([str(tmp_path / "nothing here")], str(finished_run.out))


def test_every_default_is_accepted(tmp_path: Path) -> None:
    assert RunConfig(sources=("photos",), out=str(tmp_path)).resize_mode is None
    with pytest.raises(PhotoTypeError):
        FruitsEmbedder("fruits-small").transform("photo.jpg")
