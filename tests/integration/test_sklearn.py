"""``fruits.sklearn``: estimators that keep scikit-learn's contract and stand in a Pipeline and a GridSearchCV."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

import fruits
from fruits.errors import BackboneError, ConfigError, PhotoTypeError
from fruits.sklearn import FruitsClassifier, FruitsEmbedder

NO_NUMBERS = "transforms matrices of numbers; the embedder takes photos, and refuses them"
#: Of scikit-learn's checks, those that do not apply to the embedder.
NOT_FOR_PHOTOS = dict.fromkeys(
    (
        "check_dict_unchanged", "check_estimators_dtypes", "check_estimators_pickle", "check_f_contiguous_array_estimator",
        "check_fit_idempotent", "check_fit_score_takes_y", "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_pipeline_consistency", "check_transformer_general",
        "check_transformers_unfitted_stateless",
    ),
    NO_NUMBERS,
) | {"check_estimator_sparse_tag": "fit does not look at X: transform refuses sparse matrices"}  # fmt: skip


class Embedder(FruitsEmbedder):  # type: ignore[misc]
    """The embedder as if it took matrices: its own tags say that it does not, and then scikit-learn checks nothing."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


def not_applicable(estimator: Any) -> dict[str, str]:
    return NOT_FOR_PHOTOS if isinstance(estimator, FruitsEmbedder) else {}


@parametrize_with_checks(
    [
        FruitsClassifier(),
        FruitsClassifier(head="knn"),
        Embedder("fruits-small", size=32),
    ],
    expected_failed_checks=not_applicable,
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # what the checks provoke
def test_estimators_keep_the_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_check_estimator_passes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = check_estimator(FruitsClassifier(variance=0.9), on_skip=None)
    assert {row["status"] for row in done} <= {"passed", "skipped"}
    assert len(done) > 40
    with pytest.warns(SkipTestWarning, match="requires input"):
        check_estimator(FruitsEmbedder("fruits-small"), on_skip=None)


# --- Embeddings ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(photos: Path) -> tuple[list[str], list[str]]:
    paths = sorted(photos.glob("Training/*/*.jpg"))[::6]
    return list(map(str, paths)), [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def embedder() -> FruitsEmbedder:
    return FruitsEmbedder("fruits-small", size=100).fit()


def test_embeddings_are_those_of_a_run(embedder: FruitsEmbedder, finished_run: Any) -> None:
    run = fruits.open_run(finished_run.out)
    recogniser = run.recogniser()
    same = FruitsEmbedder(recogniser.backbone, size=recogniser.input_size)
    uris = run.features()["uri"][:40]
    assert np.array_equal(same.transform(uris), recogniser.embed(uris)), "unfitted: nothing is learnt"
    assert embedder.transform(uris).shape == (40, embedder.embedding_size_)


def test_photos_come_in_any_shape_of_table(embedder: FruitsEmbedder, listed: Any) -> None:
    paths = listed[0][:5]
    expected = embedder.transform(paths)
    frame = pd.DataFrame({"photo": paths})
    for given in (np.array(paths), frame["photo"], frame, frame[["photo"]].to_numpy(), map(Path, paths)):
        assert np.array_equal(embedder.transform(given), expected)
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert embedder.transform(pixels).shape == expected.shape
    assert list(embedder.get_feature_names_out()[:2]) == ["embedding0", "embedding1"]
    assert embedder.set_output(transform="pandas").transform(paths).shape == expected.shape
    embedder.set_output(transform="default")


def test_bad_photos_are_named_or_nan(embedder: FruitsEmbedder, listed: Any) -> None:
    given = [listed[0][0], b"nonsense", listed[0][1], "gone.jpg"]
    with pytest.raises(
        fruits.ImageDecodeError, match=r"photo 1 of 4 has no embedding \(not an image: .*; nor have 1 more"
    ):
        embedder.transform(given)
    rows = clone(embedder).set_params(on_error="nan").fit_transform(given)
    assert np.isnan(rows).any(axis=1).tolist() == [False, True, False, True]
    with pytest.raises(PhotoTypeError, match="expected several photos"):
        embedder.transform(listed[0][0])
    with pytest.raises(PhotoTypeError, match="one column"):
        embedder.transform(pd.DataFrame({"a": ["x"], "b": ["y"]}))
    with pytest.raises(ConfigError, match="on_error"):
        FruitsEmbedder(on_error="ignore").fit()  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="no backbone 'nonsense'"):
        FruitsEmbedder("nonsense").fit()


def test_embedder_travels_by_pickle(embedder: FruitsEmbedder, listed: Any) -> None:
    paths = listed[0][:3]
    again = pickle.loads(pickle.dumps(embedder))
    assert np.array_equal(again.transform(paths), embedder.transform(paths))


# --- Pipelines ----------------------------------------------------------------------------------------------------------


def test_pipeline_learns_from_photos(listed: Any) -> None:
    paths, labels = listed
    model = make_pipeline(FruitsEmbedder("fruits-small", size=64), FruitsClassifier())
    assert cross_val_score(model, paths, labels, cv=3).mean() > 0.8
    model.fit(paths, labels)
    assert np.allclose(model.predict_proba(paths[:4]).sum(axis=1), 1, atol=1e-5)
    assert list(model.classes_) == sorted(set(labels))


def test_grid_search_tries_networks_and_components(listed: Any) -> None:
    paths, labels = listed
    steps = [("embed", FruitsEmbedder("fruits-small")), ("head", FruitsClassifier())]
    grid = {"embed__size": [32, 64], "head__components": [2, 16], "head__head": ["logistic", "knn"]}
    search = GridSearchCV(Pipeline(steps), grid, cv=2, n_jobs=1).fit(paths, labels)
    assert search.best_params_["head__components"] == 16
    assert len(search.cv_results_["params"]) == 8
    assert search.score(paths, labels) > 0.9


def test_classifier_is_the_pca_and_the_head_of_a_run() -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(4, 12)) * 3
    y = np.repeat(["a", "b", "c", "d"], 30)
    x = np.repeat(centres, 30, axis=0) + rng.normal(size=(120, 12))
    model = FruitsClassifier(variance=0.9).fit(x, y)
    assert model.n_components_ == len(model.components_) == len(model.explained_variance_ratio_)
    assert model.explained_variance_ratio_.sum() >= 0.9
    assert model.score(x, y) > 0.9
    for wrong, said in (
        ({"components": 0}, "components=0"),
        ({"variance": 2}, "variance=2"),
        ({"setting": 0}, "setting=0"),
        ({"head": "nonsense"}, "nonsense"),
    ):
        with pytest.raises(ConfigError, match=said):
            FruitsClassifier(**wrong).fit(x, y)
    with pytest.raises(ValueError, match="single class"):
        FruitsClassifier().fit(x, np.zeros(120))
