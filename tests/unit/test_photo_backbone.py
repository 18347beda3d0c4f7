"""How the recogniser that ships is made: what decides between kinds, limits across sources, photos with wrong labels."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.moments import Moments
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.pca import PCA
from fruits.recogniser import bundle as bundles
from fruits.recogniser import shipped
from fruits.recogniser.taxonomy import Taxonomy

FOLDER = Path(__file__).parents[2] / "backbones" / "photo"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Modules of the folder that makes the network, those that need no torch."""
    names = ("data", "kinds", "calibrate", "judge")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield SimpleNamespace(**{name: import_module(name) for name in names})
    for name in names:
        sys.modules.pop(name, None)


def test_axes_keep_all_that_tells_kinds_apart(made: Any) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(500, 30)) * np.linspace(5, 0.1, 30)).astype(np.float32)
    pca = PCA.from_moments(Moments.from_rows(rows))
    directions = rng.normal(size=(6, 30)) * np.linspace(0.1, 5, 30)  # along what varies least
    axes = made.kinds.axes_with(pca, directions, 12)
    assert axes.shape == (12, 30)
    np.testing.assert_allclose(axes @ axes.T, np.eye(12), atol=1e-9)
    centred = directions - directions.mean(axis=0)
    np.testing.assert_allclose(centred @ axes.T @ axes, centred, atol=1e-9)
    covariance = np.cov((rows - pca.mean) @ axes.T, rowvar=False)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3 * covariance.max())
    assert (np.diff(np.diag(covariance)) <= 1e-6).all(), "by falling variance"


def test_discriminant_tells_kinds_apart_and_counts_sources_the_same(made: Any) -> None:
    rng = np.random.default_rng(1)
    photos, rows = [], []
    for kind, middle in (("apple", 0.0), ("pear", 4.0)):
        for source, count in (("web-a", 300), ("own-b", 5)):
            for number in range(count):
                photos.append(made.data.Photo(Path(f"{kind}{source}{number}"), kind, source, "MIT"))
                rows.append(rng.normal((middle + (2.0 if source == "own-b" else 0.0), 0.0), 0.5))
    photos += [made.data.Photo(Path("q"), "quince", made.data.TURNTABLE, "MIT")] * 4
    rows += [[0.0, 9.0]] * 4
    found = made.kinds.discriminant(np.array(rows, np.float32), photos, ["apple", "pear", "quince"])
    assert found.logits(np.array([[2.0, 0.0], [4.5, 0.0], [1.0, 9.0]])).argmax(axis=1).tolist() == [0, 1, 2]
    # The border lies in the middle of the sources' means, not of the photos' means, which are at 0 and 4.
    apple, pear, _ = found.logits(np.array([[3.0, 0.0]]))[0]
    assert abs(apple - pear) < 0.2 * abs(np.subtract(*found.logits(np.array([[1.0, 0.0]]))[0][:2]))
    both = made.kinds.averaged(found, made.kinds.Linear(5 * found.slopes, 5 * found.intercepts), np.array(rows))
    np.testing.assert_allclose(both.slopes, found.centred().slopes, rtol=1e-6, err_msg="brought to one scale")


def test_no_kind_is_decided_along_what_backgrounds_differ_in(made: Any) -> None:
    rng = np.random.default_rng(2)
    centre = rng.normal(size=20)
    wall, table = np.linalg.qr(rng.normal(size=(20, 2)))[0].T
    backgrounds = centre + rng.normal(3.0, 1.0, (60, 1)) * wall + rng.normal(0.0, 2.0, (60, 1)) * table
    directions = made.kinds.background_directions(backgrounds, centre, 2)
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-9)
    head = made.kinds.Linear(rng.normal(size=(5, 20)), rng.normal(size=5))
    blind = made.kinds.blind_to(head, directions, centre)
    np.testing.assert_allclose(blind.logits(backgrounds), np.tile(head.logits(centre[None]), (60, 1)), atol=1e-8)
    away = rng.normal(size=20)
    away -= directions.T @ (directions @ away)
    np.testing.assert_allclose(blind.logits(centre[None] + away), head.logits(centre[None] + away), atol=1e-8)


def test_it_is_known_how_common_every_kind_is(made: Any) -> None:
    kinds = bundles.load(shipped.path()).taxonomy.kind_ids
    expected = made.kinds.prior([], kinds)
    assert expected[kinds.index("tomato")] > expected[kinds.index("plum")] > expected[kinds.index("persimmon")]
    with (FOLDER / "commonness.csv").open(encoding="utf-8", newline="") as lines:
        assert {row["common"] for row in csv.DictReader(lines)} == {"staple", "usual", "rare"}
    with pytest.raises(SystemExit, match="does not say how common moonfruit are; add a line"):
        made.kinds.prior([], ["apple", "moonfruit"])


def test_limits_of_a_source_come_from_the_others(made: Any) -> None:
    """A source where the recogniser is always wrong must not raise its own thresholds."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 200)
    features = rng.normal(size=(400, 2)).astype(np.float32)
    features[:, 0] += np.where(labels == 0, -3, 3)
    head = LogisticHead(np.array([[-2, 0], [2, 0]], np.float32), np.zeros(2, np.float32))
    fitted = SimpleNamespace(
        head=head,
        taxonomy=Taxonomy.of(["apple", "pear"]),
        ood_detector=OodDetector.of(features, labels),
        features=lambda rows: rows,
    )
    told = np.where(np.arange(400) % 4 == 0, 1 - labels, labels)  # a quarter of the photos, the source "own-wrong"
    sources = np.where(np.arange(400) % 4 == 0, "own-wrong", np.where(np.arange(400) % 2 == 0, "web-a", "web-b"))

    class Photos(SimpleNamespace):
        def where(self, wanted: np.ndarray) -> Photos:
            at = np.flatnonzero(wanted)
            return Photos(photos=[self.photos[i] for i in at], vectors=self.vectors[at])

    photos = [
        made.data.Photo(Path(str(i)), ("apple", "pear")[kind], str(source), "MIT")
        for i, (kind, source) in enumerate(zip(told, sources, strict=True))
    ]
    found = made.calibrate.across_sources(
        fitted, Photos(photos=photos, vectors=features), np.full((5, 2), 40, np.float32)
    )
    assert set(found) == {"own-wrong", "web-a", "web-b", "all"}
    assert found["own-wrong"]["named"] > 0.8, "the others, nearly all right, allow it"
    assert found["own-wrong"]["named_right"] < 0.1
    assert found["all"]["photos"] == 400
    assert found["web-a"]["named"] < found["own-wrong"]["named"]


def test_training_leaves_out_photos_with_a_wrong_label(made: Any, tmp_path: Path) -> None:
    uris = sorted(made.data.wrong_labels())
    assert all(uri.startswith("web-") for uri in uris)
    (tmp_path / "real-photos").mkdir()
    (tmp_path / "real-photos" / "manifest.csv").write_text(
        "uri,label,source,licence,background\n"
        f"{uris[0]},apricot,web-aigle,MIT,\nweb-aigle/apricot/good.jpg,apricot,web-aigle,MIT,\n"
    )
    (tmp_path / "grocery-store").mkdir()
    (tmp_path / "grocery-store" / "classes.csv").write_text("Class Name (str),Class ID (int)\n")
    (tmp_path / "grocery-store" / "train.txt").write_text("")
    assert [photo.uri for photo in made.data.collect(tmp_path)] == ["web-aigle/apricot/good.jpg"]
    assert len(made.data.collect(tmp_path, every_label=True)) == 2


def test_new_sources_are_scored_without_those_of_which_other_photos_were_learnt(made: Any) -> None:
    kinds = ["apple", "pear", "plum", "quince"]
    given = [("own-a", "apple"), ("own-a", "pear"), ("web-b", "pear"), ("shop/val", "plum"), ("web-b", "date")]
    photos = [made.data.Photo(Path(kind), kind, source, "MIT") for source, kind in given]
    logits = np.array([[3, 2, 1, 0], [3, 0, 2, 1], [0, 3, 2, 1], [0, 1, 3, 2], [3, 2, 1, 0]], float)
    found = made.judge.score(logits, photos, kinds, ["shop/val"])
    told = {name: (row["n"], row["first"], row["three"]) for name, row in found.items()}
    assert told == {
        "own-a": (2, 0.5, 0.5), "own": (2, 0.5, 0.5), "web-b": (1, 1.0, 1.0), "web": (1, 1.0, 1.0), "shop/val": (1, 1.0, 1.0),
        "new": (3, pytest.approx(2 / 3), pytest.approx(2 / 3)), "all": (4, 0.75, 0.75),
    }, "dates were not learnt"  # fmt: skip


def test_which_photos_were_learnt_does_not_depend_on_where_they_lie_or_on_their_order(made: Any) -> None:
    def photos(root: str, kind: str = "apple") -> list[Any]:
        names = (("web-a", "1.jpg", kind), ("web-b", "2.jpg", "pear"))
        return [made.data.Photo(Path(root) / source / what / name, what, source, "MIT") for source, name, what in names]

    here = made.data.identity(photos("/here"))
    assert made.data.identity(reversed(photos("/there/else"))) == here
    assert made.data.identity(photos("/here", kind="quince")) != here
    assert made.data.identity(photos("/here")[:1]) != here
