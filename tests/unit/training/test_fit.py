"""From embeddings to a recogniser: what is held out, what counts how much, and from where on answers are certain."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fruits.config import RunConfig
from fruits.errors import FruitsError
from fruits.learning.calibration import DEFAULT_CERTAIN, DEFAULT_PROBABLE, sure_precision
from fruits.learning.heads import softmax
from fruits.learning.heads.logistic import DEFAULT_REGULARISATION_SEEN, LogisticHead
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.validation import Answers
from fruits.monitoring.clock import Clock
from fruits.photos.decoding.quality import Limits
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import NAMING, OUTCOMES, decide
from fruits.recogniser.taxonomy import Taxonomy
from fruits.storage.tables.catalogue_rows import CodedText
from fruits.training import embed as computation
from fruits.training import pipeline
from fruits.training.fitting import fit as fitting
from fruits.training.fitting.certainty import certainty_by
from fruits.training.fitting.features import Features
from fruits.training.fitting.fit import Choice, HeldOutAnswers, ValidationSplit
from fruits.training.fitting.training_set import TrainingSet


def run(out: Path, *sources: Path, **choices: Any) -> dict[str, Any]:
    config = {"workers": 1, "components": 8, "backbone": "fruits-small", **choices}
    return pipeline.run(RunConfig(sources=tuple(map(str, sources)), out=str(out), **config))


def coded(*values: str) -> CodedText:
    names, codes = np.unique(values, return_inverse=True)
    return CodedText(names.tolist(), codes.astype(np.int8))


def rows_of(label: np.ndarray, group: np.ndarray | None = None, **changes: Any) -> TrainingSet:
    n = len(label)
    values = {
        "label": label,
        "split": coded(*["train"] * n),
        "group": np.arange(n) if group is None else group,
        "ok": np.ones(n, bool),
        "source": np.zeros(n, np.int64),
        "named_source": np.full(n, -1, np.int64),
        "names": [f"label {number}" for number in range(label.max() + 1)],
        **changes,
    }
    return TrainingSet(**values)


# --- What choices are made on -------------------------------------------------------------------------------------------


def test_labels_that_chance_leaves_nothing_to_learn_of_are_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_ROWS_FOR_CHOOSING", 60)
    # Two common labels and forty of five photos each, most of whose photos are not among the 60.
    training_set = rows_of(np.r_[np.repeat([0, 1], 100), np.repeat(np.arange(2, 42), 5)])
    for seed in range(5):
        split = ValidationSplit.of(training_set, seed)
        held, learnt = split.train[split.held_out], split.train[~split.held_out]
        assert len(held) > 0
        assert set(training_set.label[held].tolist()) <= set(training_set.label[learnt].tolist())
        # What is held out of all rows does not depend on which of them are used for the choices.
        assert set(held.tolist()) <= set(split.all_held_out.tolist())
        assert not set(learnt.tolist()) & set(split.all_held_out.tolist())


def test_only_training_photos_that_decode_are_learnt_from() -> None:
    split, ok = coded("train", "test", "train", "val"), np.array([True, True, False, True])
    training_set = rows_of(np.zeros(4, np.int64), split=split, ok=ok)
    assert training_set.train_rows.tolist() == [0]


def test_weights_are_those_of_training_photos_alone() -> None:
    split = coded(*["train"] * 6, *["test"] * 2)
    training_set = rows_of(np.array([0, 0, 0, 1, 2, 2, 1, 0]), split=split, source=np.array([0, 0, 1, 0, 0, 0, 5, 5]))
    weights = training_set.balance([0, 0, 1])  # labels 0 and 1 are of one kind
    # Kind 0 has two sources, of three and of one photo; kind 1 has one.
    assert weights.tolist() == pytest.approx([0.5, 0.5, 1.5, 0.5, 1.5, 1.5, 0, 0])


def test_whole_sources_are_held_out_where_a_manifest_names_them() -> None:
    label, source = np.repeat([0, 1, 2, 3], 50), np.tile(np.repeat(np.arange(5), 10), 4)
    split = ValidationSplit.of(rows_of(label, named_source=source), 0)
    asked, learnt = split.train[split.held_out], split.train[~split.held_out]
    for number in range(4):  # one source of five of each label, whole
        held = np.unique(source[asked][label[asked] == number])
        assert len(held) == 1
        assert held[0] not in source[learnt][label[learnt] == number]


def test_label_of_a_single_source_is_not_asked_where_sources_are_held_out() -> None:
    label = np.repeat([0, 1, 2], 20)
    source = np.r_[np.arange(20) % 2, np.arange(20) % 4, np.full(20, 7)]
    split = ValidationSplit.of(rows_of(label, named_source=source), 0)
    assert set(label[split.train[split.held_out]].tolist()) == {0, 1}


@pytest.mark.parametrize("source", [np.full(80, 3), np.full(80, -1), np.r_[np.arange(20) % 2, np.full(60, 2)]])
def test_where_few_labels_have_several_sources_groups_are_held_out(source: np.ndarray) -> None:
    label, group = np.repeat([0, 1, 2, 3], 20), np.arange(80) // 4
    with_sources = ValidationSplit.of(rows_of(label, group, named_source=source), 0)
    plain = ValidationSplit.of(rows_of(label, group), 0)
    np.testing.assert_array_equal(with_sources.held_out, plain.held_out)


def test_photos_that_the_backbone_was_made_from_do_not_decide_what_is_chosen() -> None:
    label, group = np.repeat([0, 1, 2, 3], 40), np.arange(160) // 4
    training_set = rows_of(label, group)
    seen = np.arange(160) % 40 < 20  # half of the groups of every label
    split = ValidationSplit.of(training_set, 0, seen)
    assert split.trusted
    asked = split.train[split.held_out]
    assert set(label[asked].tolist()) == {0, 1, 2, 3}
    assert not seen[asked].any()


def test_group_of_which_the_backbone_has_seen_one_photo_is_not_held_out() -> None:
    label, group = np.repeat([0, 1], 40), np.arange(80) // 4
    seen = np.arange(80) % 8 == 0  # one photo of every other group
    split = ValidationSplit.of(rows_of(label, group), 0, seen)
    assert split.trusted
    assert not np.isin(group[split.train[split.held_out]], group[seen]).any()


@pytest.mark.parametrize("seen", [np.ones(80, bool), np.arange(80) < 60], ids=["all", "most labels"])
def test_where_the_backbone_has_seen_the_photos_of_most_labels_nothing_held_out_is_trusted(seen: np.ndarray) -> None:
    training_set = rows_of(np.repeat([0, 1, 2, 3], 20), np.arange(80) // 2)
    split = ValidationSplit.of(training_set, 0, seen)
    assert not split.trusted
    assert split.held_out.any(), "temperature and limits still take what there is"


def test_a_single_seen_photo_of_many_changes_nothing() -> None:
    training_set = rows_of(np.repeat([0, 1], 200), np.arange(400) // 4)
    one = np.zeros(400, bool)
    one[7] = True
    with_it, without = ValidationSplit.of(training_set, 0, one), ValidationSplit.of(training_set, 0)
    np.testing.assert_array_equal(with_it.held_out, without.held_out)


@pytest.mark.slow
def test_run_on_photos_of_the_network_keeps_components_for_99_percent_of_the_variance(
    own_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [hashlib.sha256(path.read_bytes()).digest()[:8] for path in own_photos.glob("*/*/*.jpg")]
    listed = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
    monkeypatch.setattr(computation, "training_photos", lambda *_: listed)
    record = run(tmp_path / "out", own_photos, components=None)
    assert record["components_chosen_by"] == "seen"
    assert record["head"]["regularisation"] == DEFAULT_REGULARISATION_SEEN
    kept = np.cumsum(record["explained_variance_ratio"])
    assert kept[record["components"] - 1] >= 0.99 > kept[record["components"] - 2]


@pytest.mark.slow
def test_fewer_components_than_95_percent_of_the_variance_are_never_chosen(own_photos: Path, tmp_path: Path) -> None:
    record = run(tmp_path / "out", own_photos, components=None)
    assert record["components_chosen_by"] == "validation"
    assert record["explained_variance"] >= 0.95
    assert min(trial["components"] for trial in record["component_trials"]) <= record["components"]


def test_what_the_fit_needs_is_loaded_while_workers_compute_and_not_by_an_up_to_date_run(
    own_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, in_time = [], []
    steps: list[str] = []
    computed = threading.Event()
    timed = Clock.step

    @contextmanager
    def step(clock: Clock, name: str) -> Iterator[None]:
        with timed(clock, name):
            yield
        steps.append(name)
        if steps[-1] == "embeddings" and "engine" in steps:
            computed.set()

    def fails() -> None:
        threads.append(threading.current_thread())
        in_time.append(computed.wait(60))
        raise ImportError("what follows says so if it needs it")

    monkeypatch.setattr(Clock, "step", step)
    monkeypatch.setattr(pipeline, "_load_ahead", fails)
    assert not run(tmp_path / "out", own_photos)["up_to_date"], "an error of it is no error of the run"
    assert len(threads) == 1
    assert in_time == [True], "the time of the embeddings does not include a wait for it"
    assert threads[0] is not threading.main_thread()
    assert not threads[0].is_alive()
    assert run(tmp_path / "out", own_photos)["up_to_date"]
    assert len(threads) == 1
    start = "import sys, fruits.training.pipeline; print({'scipy', 'sklearn'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True).stdout == "set()\n"


# --- What belongs together ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_where_names_say_nothing_looks_do(own_photos: Path, tmp_path: Path) -> None:
    for path in own_photos.glob("Training/*/*.jpg"):
        letters = path.stem.translate(str.maketrans("0123456789_", "abcdefghijk"))
        path.rename(path.with_name(f"{letters}.jpg"))
    record = run(tmp_path / "out", own_photos)
    assert record["head"]["validation_groups_by"] == "clusters"
    # A whole look of each of the four labels, of at most four.
    assert record["head"]["validation_groups"] == 4


@pytest.mark.slow
def test_word_of_a_manifest_is_taken(own_photos: Path, tmp_path: Path) -> None:
    lines = [f"{path},{path.parent.name},train,{path.stem[:2]}" for path in own_photos.glob("Training/*/*.jpg")]
    (tmp_path / "list.csv").write_text("\n".join(["uri,label,split,group", *lines]), "utf-8")
    assert run(tmp_path / "out", tmp_path / "list.csv")["head"]["validation_groups_by"] == "manifest"


# --- Certainty ----------------------------------------------------------------------------------------------------------


def test_where_nothing_is_held_out_only_clear_answers_are_certain_and_nothing_is_strange() -> None:
    choice = Choice(8, "components", LogisticHead, 3.0, [], [], 0, None)
    limits = Limits(0.1, 0.2, 50)
    certainty, coverage = certainty_by(choice, rows_of(np.arange(3)), limits, None, 0.92)
    assert (certainty.variety, certainty.kind, certainty.ood_limit) == (DEFAULT_CERTAIN, DEFAULT_CERTAIN, float("inf"))
    assert certainty.probable == DEFAULT_PROBABLE
    assert coverage is None
    assert certainty.limits is limits


def test_bundle_tells_by_the_limits_that_the_record_names(finished_run: Any) -> None:
    certainty, told = bundles.load(finished_run.out).certainty, finished_run.record["answers"]["thresholds"]
    assert (certainty.kind, certainty.variety, certainty.ood_limit) == (told["kind"], told["variety"], told["unknown"])
    assert certainty.probable == told["probable"] <= certainty.kind
    assert certainty.limits == Limits(told["dark"], told["blurred"], told["small"])
    assert 0.5 <= certainty.kind <= 1
    assert certainty.limits.small == bundles.load(finished_run.out).preprocessing.size // 2


def held_out_choice(n: int, seed: int = 0) -> tuple[Choice, Any, np.ndarray]:
    """A choice whose n photos held out are of four labels of two kinds, the more often right the more probable."""
    rng = np.random.default_rng(seed)
    names = ["Apple Golden 1", "Apple Red 1", "Lemon", "Lemon Meyer"]
    truth = rng.integers(0, 4, n)
    logits = rng.normal(0, 1.5, (n, 4)).astype(np.float32)
    logits[np.arange(n), truth] += rng.choice([0.5, 2, 5], n).astype(np.float32)
    features = rng.normal(size=(n, 2)).astype(np.float32)
    ood_detector = OodDetector.of(features, truth)
    answers = Answers(logits, truth, np.arange(4))
    ood_detector = ood_detector.scaled(features, softmax(logits))
    training_set = rows_of(truth, names=names)
    return (
        Choice(2, "components", LogisticHead, 3.0, [], [], 8, HeldOutAnswers(answers, 1.0, ood_detector, features)),
        training_set,
        truth,
    )


@pytest.mark.parametrize("precision", [0.8, 0.85, 0.92])
def test_answers_to_the_photos_held_out_are_right_as_often_as_was_asked(precision: float) -> None:
    choice, rows, truth = held_out_choice(3000)
    certainty, coverage = certainty_by(choice, rows, Limits(0.1, 0.2, 50), None, precision)
    assert choice.held_out
    assert coverage
    taxonomy = Taxonomy.of(rows.names)
    probabilities = choice.held_out.probabilities
    ood_score = choice.held_out.ood_detector.ood_score(choice.held_out.features, probabilities)
    decisions = decide(probabilities, ood_score, taxonomy, certainty)
    outcome = np.array(OUTCOMES)[decisions.outcome]
    right = np.where(
        outcome == "variety",
        decisions.variety == np.array(taxonomy.variety_of)[truth],
        decisions.kinds[:, 0] == np.array(taxonomy.kind_of)[truth],
    )
    sure, named = np.isin(outcome, ["variety", "kind"]), np.isin(outcome, NAMING)
    assert 1 / 3 <= certainty.probable < certainty.kind
    assert named.sum() > sure.sum() > 20
    # Each limit allows for luck, so the share is met and not by much.
    assert precision <= right[named].mean() < precision + 0.03
    assert sure_precision(precision) <= right[sure].mean()
    # What the record says is what people would be told.
    for name, told in (("sure", sure), ("named", named)):
        assert coverage[name] == {
            "coverage": pytest.approx(told.mean()),
            "precision": pytest.approx(right[told].mean()),
        }
    assert (coverage["photos"], coverage["min_precision"]) == (3000, precision)
    assert coverage["curve"][-1]["coverage"] == pytest.approx(0.95, abs=0.001)  # all but the strange ones


def test_more_precision_is_fewer_answers() -> None:
    choice, rows, _ = held_out_choice(3000)
    limits = Limits(0.1, 0.2, 50)
    found = [certainty_by(choice, rows, limits, None, precision) for precision in (0.6, 0.8, 0.9, 0.97)]
    for name in ("probable", "kind", "variety"):
        values = [getattr(certainty, name) for certainty, _ in found]
        assert values == sorted(values)
    covered = [coverage["named"]["coverage"] for _, coverage in found if coverage]
    assert covered == sorted(covered, reverse=True)
    assert covered[0] > covered[-1]


def test_with_few_photos_held_out_the_defaults_hold() -> None:
    choice, rows, _ = held_out_choice(15)
    certainty, coverage = certainty_by(choice, rows, Limits(0.1, 0.2, 50), None, 0.92)
    assert (certainty.variety, certainty.kind, certainty.probable) == (
        DEFAULT_CERTAIN,
        DEFAULT_CERTAIN,
        DEFAULT_PROBABLE,
    )
    assert coverage
    assert coverage["curve"] == []


# --- Counting the same --------------------------------------------------------------------------------------------------


def test_several_sources_are_balanced_unless_told_otherwise() -> None:
    sources = ("studio", "shop")
    assert RunConfig(sources=sources, out="out").with_photo_defaults(0).balance is True
    assert RunConfig(sources=sources, out="out", balance=False).with_photo_defaults(5).balance is False
    assert RunConfig(sources=sources[:1], out="out").with_photo_defaults(1).balance is False
    assert RunConfig(sources=sources[:1] * 2, out="out").with_photo_defaults(0).balance is False
    assert RunConfig(sources=sources[:1], out="out").with_photo_defaults(2).balance is True


@pytest.mark.slow
def test_balance_is_a_choice_that_the_results_depend_on(own_photos: Path, tmp_path: Path) -> None:
    # One label of a tenth of the photos of the others.
    for path in sorted((own_photos / "Training" / "Moon Pear 1").iterdir())[3:]:
        path.unlink()
    plain = run(tmp_path / "out", own_photos)
    weights = np.load(tmp_path / "out" / "bundle" / "weights.npy")
    balanced = run(tmp_path / "out", own_photos, balance=True)
    assert (plain["balanced"], balanced["balanced"], balanced["computed"]) == (False, True, 0)
    assert plain["identity"] != balanced["identity"]
    assert (np.load(tmp_path / "out" / "bundle" / "weights.npy") != weights).any()


# --- Too little ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("kept", [lambda _: False, lambda path: path.parent.name == "Moon Pear 1"], ids=["none", "one"])
def test_training_photos_that_hardly_any_of_decode_are_refused_with_a_reason(
    own_photos: Path, tmp_path: Path, kept: Callable[[Path], bool], balance: bool
) -> None:
    for path in own_photos.glob("Training/*/*.jpg"):
        if not kept(path):
            path.write_bytes(b"text")
    with pytest.raises(FruitsError, match=r"expected at least (2|two)"):
        run(tmp_path / "out", own_photos, max_rejected=1.0, balance=balance)


def test_sample_of_many_photos_has_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "MAX_ROWS", 50)
    label = np.repeat([0, 1, 2, 3], [150, 148, 1, 1])
    values = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32) + label[:, None]
    choice = Choice(3, "components", LogisticHead, 1.0, [], [], 0, None)
    found = fitting.fit_recogniser(Features.of(values), rows_of(label), choice, 0)
    assert found.labels == ["label 0", "label 1", "label 2", "label 3"]
    assert 50 < found.training_photos <= 52, "the sample, and a photo of each label that it misses"
    assert len(fitting.drift(choice, found, Features.of(values), rows_of(label), 0).edges) == 4


def test_final_head_begins_with_the_chosen_one(
    own_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[LogisticHead, LogisticHead]] = []
    fit = LogisticHead.fit

    def noted(features: np.ndarray, labels: np.ndarray, **options: Any) -> LogisticHead:
        found = fit(features, labels, **options)
        begun.extend((found, head) for head in options.get("start", {}).values())
        return found

    monkeypatch.setattr(LogisticHead, "fit", noted)
    run(tmp_path / "out", own_photos)
    found, start = begun[-1]
    assert start.weights.shape == found.weights.shape
    # It knows four fifths of the photos, through another PCA: the same directions, not the same numbers.
    alike = np.sum(start.weights * found.weights) / np.linalg.norm(start.weights) / np.linalg.norm(found.weights)
    assert 0.9 < alike < 0.9999


def test_labels_that_were_left_out_of_validation_are_learnt_all_the_same() -> None:
    label = np.repeat([0, 1, 2], 40)
    values = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32) + 3 * np.eye(3, dtype=np.float32)[label]
    two = LogisticHead.fit(values[label != 1], label[label != 1] // 2, setting=3.0)
    answers = Answers(two.logits(values[label != 1]), label[label != 1] // 2, np.array([0, 2]))
    held_out = HeldOutAnswers(answers, 1.0, OodDetector.of(values, label), values)
    found = fitting.fit_recogniser(
        Features.of(values), rows_of(label), Choice(3, "components", LogisticHead, 3.0, [], [], 8, held_out, two), 0
    )
    anew = LogisticHead.fit(values, label, setting=3.0)
    np.testing.assert_allclose(found.head.predict_proba(values), anew.predict_proba(values), atol=2e-3)
