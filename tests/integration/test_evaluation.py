"""How good is it really: the protocols on a finished run, what they leave behind, and what voids them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fruits.assessment import dataset, evaluation
from fruits.assessment.evaluation import PROTOCOLS, evaluate
from fruits.assessment.printed import as_text
from fruits.assessment.results import evaluation_of
from fruits.config import RunConfig
from fruits.errors import ConfigError, StoreError
from fruits.learning.folds import Fold
from fruits.photos.generated import generator
from fruits.storage.tables import spool
from fruits.training import pipeline

OF_KINDS = ("kind_accuracy", "kind_low", "kind_high", "kind_top3_accuracy", "kind_top3_low", "kind_top3_high")
SCORES = ("accuracy", "low", "high", *OF_KINDS)
KEYS = {
    *("protocol", "seen", "photos", "left_out", "too_few_to_say", "folds", "groups", "grouped_by", "leakage"),
    *("calibration_error", *SCORES),
}
#: Shown by the report only where there is an evaluation.
TABLE = '<table class="protocols">'

Fruits = Callable[..., Any]


def run(out: Path, *sources: Path, **choices: Any) -> dict[str, Any]:
    config = {"workers": 1, "components": 4, "backbone": "fruits-small", **choices}
    return pipeline.run(RunConfig(sources=tuple(map(str, sources)), out=str(out), **config))


def by_name(evaluated: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["protocol"]: row for row in evaluated["protocols"]}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Results on 12 films of 32 frames, with their record and evaluation; tests only read them, or copy them first."""
    root = tmp_path_factory.mktemp("filmed")
    generator.write_photos(root / "photos", photos=384, varieties=4, workers=1)
    (root / "meaning.csv").write_text(
        "label,kind,variety\nApfelino Red 1,round,apfelino\nSunglobe Orange,round,sunglobe\nMoon Pear 1,pear,moon\n"
    )
    # Few components, so that mistakes are made: of accuracies of 1 little can be told.
    record = run(root / "out", root / "photos", components=1, taxonomy=str(root / "meaning.csv"))
    return root / "out", record, evaluate(str(root / "out"))


def test_pictures_of_photos_that_links_led_to_stay_in_the_report(own_photos: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    for folder in own_photos.glob("T*/*"):
        (linked / folder.parent.name).mkdir(parents=True, exist_ok=True)
        (linked / folder.relative_to(own_photos)).mkdir()
        for photo in folder.iterdir():
            (linked / photo.relative_to(own_photos)).symlink_to(photo)
    run(tmp_path / "out", linked, follow_links=True)
    before = (tmp_path / "out/report.html").read_text("utf-8").count("data:image/jpeg")
    evaluate(str(tmp_path / "out"), ["official"])
    assert (tmp_path / "out/report.html").read_text("utf-8").count("data:image/jpeg") == before > 0


# --- Sources ------------------------------------------------------------------------------------------------------------


def test_sources_of_a_manifest_are_left_out_one_at_a_time(own_photos: Path, tmp_path: Path, fruits: Fruits) -> None:
    lines = ["uri,label,split,source"]
    for number, path in enumerate(sorted(own_photos.glob("Training/*/*.jpg"))):
        source = ("ann", "bob", "eve")[number % 3]
        if path.parent.name != "Moon Pear 1" or source == "ann":  # a label of one source alone
            lines.append(f"{path.relative_to(own_photos)},{path.parent.name},train,{source}")
    (own_photos / "list.csv").write_text("\n".join(lines), "utf-8")
    record = run(tmp_path / "out", own_photos / "list.csv")
    assert record["balanced"] is True, "several sources count the same"
    evaluated = evaluate(str(tmp_path / "out"), ["source"])
    (row,) = evaluated["protocols"]
    assert (row["protocol"], row["folds"], row["accuracy"]) == ("source", 3, None)
    assert [source["source"] for source in row["sources"]] == ["ann", "bob", "eve"]
    ann = row["sources"][0]
    assert ann["left_out"] == sum("Moon Pear 1" in line for line in lines) > 0, "nobody else has photos of that kind"
    for source in row["sources"]:
        assert 0 <= source["kind_low"] <= source["kind_accuracy"] <= source["kind_high"] <= 1
        assert source["kind_accuracy"] <= source["kind_top3_accuracy"]
        assert 0 <= source["kind_top3_low"] <= source["kind_top3_accuracy"] <= source["kind_top3_high"] <= 1
    weighted = sum(source["photos"] * source["kind_accuracy"] for source in row["sources"]) / row["photos"]
    assert row["kind_accuracy"] == pytest.approx(weighted)
    told = fruits("evaluate", tmp_path / "out", "--protocol", "source")
    assert told.code == 0, told.stderr
    assert all(name in told.stdout for name in ("ann", "bob", "eve", "kind among three"))


def of_three_sources(
    photos: Path, out: Path, save_network: Callable[..., Path], networks: Any, seen: tuple[str, ...] | None
) -> dict[str, list[Path]]:
    """Run on photos of ann, bob and eve with a network that was trained on those of some; return the photos of each."""
    own: dict[str, list[Path]] = {"ann": [], "bob": [], "eve": []}
    for number, path in enumerate(sorted(photos.glob("Training/*/*.jpg"))):
        own[("ann", "bob", "eve")[number % 3]].append(path)
    lines = [
        f"{path.relative_to(photos)},{path.parent.name},train,{name}" for name, paths in own.items() for path in paths
    ]
    (photos / "list.csv").write_text("\n".join(["uri,label,split,source", *lines]), "utf-8")
    card = {} if seen is None else {"training_photos": "tiny.seen", "training_data": "photos of some"}
    network = save_network(networks[0]("NHWC", "uint8"), **card)
    if seen is not None:
        digests = [hashlib.sha256(path.read_bytes()).digest()[:8] for name in seen for path in own[name]]
        network.with_suffix(".seen").write_bytes(b"".join(sorted(digests)))
    run(out, photos / "list.csv", backbone=str(network), components=3)
    return own


def test_a_source_that_the_network_has_seen_trains_and_gets_no_score(
    own_photos: Path, tmp_path: Path, save_network: Callable[..., Path], networks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    own = of_three_sources(own_photos, out, save_network, networks, ("bob",))
    fitted: list[tuple[set[str], set[str]]] = []
    score_fold = evaluation.score_fold

    def noted(fold: Fold, photos: dataset.Dataset, *given: Any, **choices: Any) -> evaluation.FoldScores:
        sides = [
            {photos.source_names[number] for number in photos.named_source[rows]} for rows in (fold.train, fold.test)
        ]
        fitted.append((sides[0], sides[1]))
        return score_fold(fold, photos, *given, **choices)

    monkeypatch.setattr(evaluation, "score_fold", noted)
    evaluated = evaluate(str(out), ["source"])
    assert fitted == [({"bob", "eve"}, {"ann"}), ({"ann", "bob"}, {"eve"})]
    assert evaluated["seen"]["share"] == pytest.approx(1 / 3, abs=0.01), (
        "far more than a protocol as a whole may have seen"
    )
    (row,) = evaluated["protocols"]
    assert set(row) == {*KEYS, "sources"}
    assert (row["seen"], row["folds"]) == (False, 2)
    ann, bob, eve = row["sources"]
    assert [source["seen"] for source in row["sources"]] == [False, True, False]
    assert [bob[name] for name in OF_KINDS] == [None] * len(OF_KINDS)
    assert (bob["photos"], bob["left_out"]) == (len(own["bob"]), 0)
    for scored in (ann, eve, row):
        for prefix in ("kind_", "kind_top3_"):
            low, share, high = (scored[f"{prefix}{name}"] for name in ("low", "accuracy", "high"))
            assert 0 <= low <= share <= high <= 1
            assert low < high
    assert (ann["photos"], eve["photos"]) == (len(own["ann"]), len(own["eve"]))
    assert (row["photos"], row["left_out"]) == (len(own["ann"]) + len(own["eve"]), 0), "the total is of those not seen"
    for name in ("kind_accuracy", "kind_top3_accuracy"):
        assert row[name] == pytest.approx((ann["photos"] * ann[name] + eve["photos"] * eve[name]) / row["photos"])

    found = evaluation_of(evaluated)
    assert [source.seen for source in found.protocols[0].sources] == [False, True, False]
    text = as_text([found])
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "seen" in lines["bob"]
    assert "%" not in lines["bob"]
    three = f"{ann['kind_top3_accuracy']:.1%} ({ann['kind_top3_low']:.1%} to {ann['kind_top3_high']:.1%})"
    assert three in lines["ann"]
    assert "source: tiny was trained on photos of 1 of 3 sources (seen); the scores of the protocol are of" in text
    assert "no score would mean anything" not in text
    report = (out / "report.html").read_text("utf-8")
    assert report.count('<table class="by-source">') == 1
    assert "The network was trained on photos of 1 of the 3 sources: that one has no score" in report


def test_sources_are_seen_as_a_whole_only_if_each_of_them_is(
    own_photos: Path, tmp_path: Path, save_network: Callable[..., Path], networks: Any
) -> None:
    own = of_three_sources(own_photos, tmp_path / "out", save_network, networks, ("ann", "bob", "eve"))
    evaluated = evaluate(str(tmp_path / "out"), ["source"])
    (row,) = evaluated["protocols"]
    assert (row["seen"], row["photos"], row["folds"]) == (True, sum(map(len, own.values())), 3)
    assert [source["seen"] for source in row["sources"]] == [True] * 3
    assert [row[name] for name in SCORES] == [None] * len(SCORES)
    assert 0 <= row["leakage"] <= 1
    text = as_text([evaluation_of(evaluated)])
    assert "no score would mean anything; run with another network" in text
    assert "bob" not in text
    assert '<table class="by-source">' not in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_sources_are_scored_where_a_card_lists_no_training_photos(
    own_photos: Path, tmp_path: Path, save_network: Callable[..., Path], networks: Any
) -> None:
    own = of_three_sources(own_photos, tmp_path / "out", save_network, networks, None)
    evaluated = evaluate(str(tmp_path / "out"), ["source"])
    (row,) = evaluated["protocols"]
    assert (row["seen"], row["photos"], row["folds"]) == (False, sum(map(len, own.values())), 3)
    assert [source["seen"] for source in row["sources"]] == [False] * 3
    # Evaluations that an earlier version wrote lack what was added since.
    for scored in (row, *row["sources"]):
        del scored["kind_top3_low"], scored["kind_top3_high"]
    for source in row["sources"]:
        del source["seen"]
    older = evaluation_of(evaluated)
    assert [source.seen for source in older.protocols[0].sources] == [False] * 3
    assert older.protocols[0].kind_top3_low is None
    text = as_text([older])
    assert f"{row['kind_accuracy']:.1%} ({row['kind_low']:.1%} to {row['kind_high']:.1%})  " in text
    assert f"{row['kind_top3_accuracy']:.1%}  " in text


# --- What is measured ---------------------------------------------------------------------------------------------------


def test_official_protocol_measures_what_the_run_measured(filmed: Any) -> None:
    _, record, evaluated = filmed
    official = by_name(evaluated)["official"]
    assert official["photos"] == record["evaluated"]["photos"] == 96
    assert 0.5 < record["metrics"]["accuracy"] < 1
    # The same head up to float64 sums in another order: no photo of these changes sides.
    assert official["accuracy"] == pytest.approx(record["metrics"]["accuracy"], abs=1e-6)
    assert official["calibration_error"] == pytest.approx(
        record["metrics"]["expectedCalibrationError"], abs=2.5 / 96
    ), "a probability that differs in its last digits may move a photo into the next bin"
    # Kinds are summed before calibration here and after it there, which may decide one or two photos.
    assert official["kind_accuracy"] == pytest.approx(record["kind_metrics"]["accuracy"], abs=2.5 / 96)


def test_every_protocol_is_measured_or_said_not_to_apply(filmed: Any) -> None:
    _, _, evaluated = filmed
    measured, not_applicable = by_name(evaluated), {row["protocol"] for row in evaluated["not_applicable"]}
    assert sorted([*measured, *not_applicable]) == sorted(PROTOCOLS)
    assert not_applicable == {"groups", "source"}
    assert all(row["reason"] for row in evaluated["not_applicable"])
    for row in measured.values():
        assert set(row) == KEYS
        assert 0 <= row["leakage"] <= 1
        assert row["seen"] is False
        assert 1 <= row["groups"] <= row["photos"]
        for prefix in ("", "kind_"):
            score = [row[f"{prefix}{name}"] for name in ("low", "accuracy", "high")]
            if row["protocol"] == "variety" and not prefix:
                assert score == [None] * 3  # a variety that was held out cannot be named
            else:
                assert 0 <= score[0] <= score[1] <= score[2] <= 1
        assert row["kind_accuracy"] >= (row["accuracy"] or 0) - 0.05


def test_films_are_held_out_by_axis_and_by_arc_and_every_frame_is_asked(filmed: Any) -> None:
    measured = by_name(filmed[2])
    for name, folds in (("axis", 3), ("arc", 4)):
        assert (measured[name]["folds"], measured[name]["photos"], measured[name]["left_out"]) == (folds, 384, 0)
        assert (measured[name]["grouped_by"], measured[name]["groups"]) == ("sequence", 12)


def test_varieties_are_held_out_of_the_kind_that_has_two(filmed: Any) -> None:
    variety = by_name(filmed[2])["variety"]
    assert (variety["photos"], variety["folds"], variety["groups"], variety["grouped_by"]) == (192, 2, 2, "variety")


def test_neighbouring_frames_on_both_sides_are_found(filmed: Any) -> None:
    _, _, evaluated = filmed
    duplicates, measured = evaluated["near_duplicates"], by_name(evaluated)
    assert 0 < duplicates["threshold"] == min(duplicates["copies"], duplicates["other_labels"]) < 1
    assert duplicates["chance"] <= 0.05 + 1 / 288
    assert measured["official"]["leakage"] > 0.9  # Training and Test are frames of the same turns
    assert measured["official"]["leakage"] > measured["arc"]["leakage"] > measured["variety"]["leakage"]


def test_numbers_of_frames_also_say_what_is_held_out_while_choosing(filmed: Any) -> None:
    head = filmed[1]["head"]
    # Of each label about a fifth of 33 spans of 30 frames.
    assert (head["validation_groups_by"], head["validation_groups"]) == ("names", 4 * 7)


def test_what_was_evaluated_is_said(filmed: Any) -> None:
    out, record, evaluated = filmed
    assert (evaluated["identity"], evaluated["components"]) == (record["identity"], 1)
    assert evaluated["sources"] == [str(out.parent / "photos")]
    assert evaluated["photos"] == record["ok"] == 384
    assert evaluated["seen"]["checked"]
    assert evaluated["seen"]["photos"] == 0  # generated fruit, which no network was made from


# --- What is left behind ------------------------------------------------------------------------------------------------


def test_evaluation_is_kept_and_shown_in_the_report(filmed: Any) -> None:
    out, _, evaluated = filmed
    assert json.loads((out / "evaluation.json").read_text("utf-8")) == evaluated
    assert TABLE in (out / "report.html").read_text("utf-8")


def test_evaluation_outlives_a_run_that_changes_nothing_and_no_other(filmed: Any, tmp_path: Path) -> None:
    out = Path(shutil.copytree(filmed[0], tmp_path / "out"))
    photos, meaning = filmed[0].parent / "photos", str(filmed[0].parent / "meaning.csv")
    again = run(out, photos, components=1, taxonomy=meaning)
    assert again["up_to_date"]
    assert (out / "evaluation.json").is_file()
    assert TABLE in (out / "report.html").read_text("utf-8")
    # Another meaning of labels is another recogniser, at no cost of embeddings.
    changed = run(out, photos, components=1, taxonomy="none")
    assert (changed["up_to_date"], changed["computed"], changed["kinds"]) == (False, 0, 4)
    assert not (out / "evaluation.json").exists()
    assert TABLE not in (out / "report.html").read_text("utf-8")
    evaluated = evaluate(str(out), ["variety", "official"])
    assert evaluated["not_applicable"] == [
        {"protocol": "variety", "reason": "no kind has two varieties", "found": "kinds: 4, varieties: 4"}
    ]
    # The rest is the same as before: nothing of it is left to chance.
    assert evaluated["near_duplicates"] == filmed[2]["near_duplicates"]
    for name in ("accuracy", "low", "high", "leakage"):
        assert by_name(evaluated)["official"][name] == by_name(filmed[2])["official"][name]
    assert TABLE in (out / "report.html").read_text("utf-8")


def test_protocols_can_be_asked_for_by_name(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    evaluated = evaluate(str(out), ["groups", "axis"])
    assert [row["protocol"] for row in evaluated["protocols"]] == ["groups"]
    assert [row["protocol"] for row in evaluated["not_applicable"]] == ["axis"]
    groups = by_name(evaluated)["groups"]
    assert groups["leakage"] == 0  # that is what they are made for
    assert groups["photos"] + groups["left_out"] == 320
    assert groups["grouped_by"] == "near-duplicates"
    # The recogniser is what it was: its manifest holds the checksums of all its files.
    manifest = (out / "bundle" / "manifest.json").read_bytes()
    assert manifest == (finished_run.out / "bundle" / "manifest.json").read_bytes()


def test_of_too_many_photos_whole_groups_are_left_out(
    finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MAX_PHOTOS", 200)
    out = finished_run.copy_to(tmp_path)
    evaluated = evaluate(str(out), ["official"])
    assert 180 < evaluated["photos"] <= 200  # groups of a few frames each
    assert evaluated["available"] == finished_run.record["ok"]
    sample = f"{evaluated['photos']} of {evaluated['available']} photos, a sample of whole groups,"
    assert sample in as_text([evaluation_of(evaluated)])
    assert (
        f"A sample: {evaluated['photos']} of the {evaluated['available']} photos" in (out / "report.html").read_text()
    )


def test_table_for_a_terminal_has_a_line_for_every_protocol_and_every_reason(filmed: Any) -> None:
    text = as_text([evaluation_of(filmed[2]), evaluation_of(filmed[2])])
    for name in ("official", "axis", "arc", "variety"):
        assert len([line for line in text.splitlines() if line.startswith(f"{name}  ")]) == 2
    official = by_name(filmed[2])["official"]
    assert f"{official['accuracy']:.1%} ({official['low']:.1%} to {official['high']:.1%})" in text
    photos = filmed[2]["photos"]
    assert (
        f"groups: not possible, because frames of image sequences are held out by axis and arc (found: {photos} such"
        in text
    )
    assert "source: not possible, because no manifest names two sources (found: 0 named sources)" in text
    assert text.count("details and confusions: ") == 1  # what to do about both is said once
    assert "{" not in text


# --- What voids or bends it -----------------------------------------------------------------------------------------------


def test_only_photos_that_the_network_was_not_made_from_count(
    photos: Path, tmp_path: Path, save_network: Callable[..., Path], networks: Any
) -> None:
    network = save_network(networks[0]("NHWC", "uint8"), training_photos="tiny.seen", training_data="these photos")
    digests = [hashlib.sha256(path.read_bytes()).digest()[:8] for path in photos.glob("Training/*/*.jpg")]
    network.with_suffix(".seen").write_bytes(b"".join(sorted(digests)))
    run(tmp_path / "out", photos, backbone=str(network), components=3)
    evaluated = evaluate(str(tmp_path / "out"))
    assert evaluated["seen"] == {"checked": True, "photos": 240, "share": 0.75, "of": "these photos"}
    measured = by_name(evaluated)
    assert set(measured) == {"official", "groups"}
    assert measured["official"]["seen"] is False
    assert measured["official"]["accuracy"] > 0.3  # of 8 labels, from mean colours alone
    assert measured["groups"]["seen"] is True
    assert [measured["groups"][name] for name in SCORES] == [None] * len(SCORES)
    assert 0 <= measured["groups"]["leakage"] <= 1  # asks no head
    text = as_text([evaluation_of(evaluated)])
    assert "seen" in text
    assert "no score by groups would mean anything; run with another network" in text, "official has a score"
    assert TABLE in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_groups_of_a_manifest_stay_together(own_photos: Path, tmp_path: Path) -> None:
    paths = sorted(own_photos.glob("T*/*/*.jpg"))
    whole = ("Moon Pear 1", "Starrib Yellow")

    def group(path: Path) -> str:
        # Of two labels all photos are one group, of the others those of one film.
        label = path.parent.name
        return label if label in whole else f"{label} {path.name.rpartition('_100')[0].rpartition('_')[0]}"

    lines = [f"{path},{path.parent.name},{group(path)}" for path in paths]
    (tmp_path / "list.csv").write_text("\n".join(["uri,label,group", *lines]), "utf-8")
    record = run(tmp_path / "out", tmp_path / "list.csv")
    assert record["group_origin"] == "manifest"
    evaluated = evaluate(str(tmp_path / "out"), ["groups"])
    (groups,) = evaluated["protocols"]
    # A label that is held out whole is never learnt when it is asked for.
    left_out = sum(path.parent.name in whole for path in paths)
    assert (groups["left_out"], groups["photos"]) == (left_out, len(paths) - left_out)
    assert (groups["grouped_by"], groups["groups"]) == ("manifest", 6)
    # A group is on one side when the manifest leaves the split to the hash, too.
    catalogue = pq.read_table(tmp_path / "out" / "catalogue.parquet", columns=["group", "split"])
    sides = {(row["group"], row["split"]) for row in catalogue.to_pylist()}
    assert len(sides) == len({group for group, _ in sides}) == 8


def test_folds_with_a_single_label_to_learn_are_left_out(own_photos: Path, tmp_path: Path) -> None:
    (tmp_path / "meaning.csv").write_text("label,kind,variety\nMoon Pear 1,fruit,a\nStarrib Yellow,fruit,b\n")
    only = ("Moon Pear 1", "Starrib Yellow")
    run(tmp_path / "out", own_photos, only=only, taxonomy=str(tmp_path / "meaning.csv"))
    evaluated = evaluate(str(tmp_path / "out"), ["variety"])
    assert evaluated["protocols"] == []
    assert evaluated["not_applicable"] == [
        {"protocol": "variety", "reason": "no test photo has a label or kind learnt from the others", "found": ""}
    ]


def test_a_file_that_stands_on_both_sides_leaks_whatever_the_threshold(own_photos: Path, tmp_path: Path) -> None:
    """Copies under two labels drive the threshold to nothing; the copies in the test are found all the same."""
    training, test = sorted(own_photos.glob("Training/*")), sorted(own_photos.glob("Test/*"))
    for folder in test:
        shutil.rmtree(folder)
        shutil.copytree(own_photos / "Training" / folder.name, folder)
    for photo in sorted(training[0].iterdir())[:30]:
        shutil.copy(photo, training[1] / f"also {photo.name}")
    run(tmp_path / "out", own_photos)
    (official,) = evaluate(str(tmp_path / "out"), ["official"])["protocols"]
    assert official["leakage"] == 1.0


def test_a_protocol_measured_later_joins_the_earlier_ones(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    evaluate(str(out), ["groups"])
    now = evaluate(str(out), ["official", "official"])
    assert [row["protocol"] for row in now["protocols"]] == ["official"]
    kept = json.loads((out / "evaluation.json").read_text())
    assert [row["protocol"] for row in kept["protocols"]] == ["official", "groups"]


def test_gate_does_not_pass_when_nothing_was_measured(finished_run: Any, tmp_path: Path, fruits: Any) -> None:
    done = fruits("evaluate", finished_run.copy_to(tmp_path), "--protocol", "arc", "--fail-on-leak", "0.05")
    assert done.code == 1
    assert "nothing could be measured" in done.stderr


def test_long_numbers_in_names_are_names(own_photos: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(own_photos.glob("Training/*/*.jpg"))):
        path.rename(path.with_name(f"{10**25 + number}_n.jpg"))
    run(tmp_path / "out", own_photos)
    assert evaluate(str(tmp_path / "out"), ["official"])["protocols"][0]["photos"] > 0


def test_damaged_catalogue_is_put_right_by_another_run(own_photos: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", own_photos)
    (tmp_path / "out" / "catalogue.parquet").write_bytes(b"junk")
    with pytest.raises(StoreError, match=r"run fruits.run\(\) again"):
        evaluate(str(tmp_path / "out"), ["official"])
    assert not run(tmp_path / "out", own_photos)["up_to_date"]
    assert evaluate(str(tmp_path / "out"), ["official"])["protocols"]


def test_copies_of_photos_on_both_sides_are_all_found(own_photos: Path, tmp_path: Path) -> None:
    for path in own_photos.glob("Test/*/*.jpg"):
        path.unlink()
    for path in own_photos.glob("Training/*/*.jpg"):
        shutil.copy(path, own_photos / "Test" / path.parent.name / path.name)
    run(tmp_path / "out", own_photos)
    (official,) = evaluate(str(tmp_path / "out"), ["official"])["protocols"]
    assert official["leakage"] == 1.0
    assert official["accuracy"] > 0.95  # it has seen them all


# --- Refused --------------------------------------------------------------------------------------------------------------


def test_unknown_protocol_is_refused_with_the_known_ones(finished_run: Any) -> None:
    with pytest.raises(
        ConfigError, match="protocols='luck': expected one of official, source, axis, arc, variety, groups"
    ):
        evaluate(str(finished_run.out), ["luck"])
    assert not (finished_run.out / "evaluation.json").exists()


@pytest.mark.parametrize("lost", ["run.json", "catalogue.parquet"])
def test_results_that_are_not_whole_are_refused(finished_run: Any, tmp_path: Path, lost: str) -> None:
    out = finished_run.copy_to(tmp_path)
    (out / lost).resolve().unlink()
    with pytest.raises(StoreError, match=r"no finished run in .*fruits.run"):
        evaluate(str(out))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}"])
def test_damaged_record_is_refused(finished_run: Any, tmp_path: Path, data: bytes) -> None:
    out = finished_run.copy_to(tmp_path)
    (out / "run.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"run fruits.run\(\) again"):
        evaluate(str(out))


def test_full_temporary_folder_is_not_taken_for_a_damaged_record(
    finished_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", full)
    with pytest.raises(StoreError, match=r"^rows cannot be kept in the temporary folder .* TMPDIR"):
        dataset.open_run(str(finished_run.out))


def test_record_and_bundle_of_different_runs_are_refused(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    record = json.loads((out / "run.json").read_text("utf-8"))
    (out / "run.json").write_text(json.dumps({**record, "identity": "another"}))
    with pytest.raises(StoreError, match="of different runs"):
        evaluate(str(out))


def test_photos_that_are_gone_since_are_asked_for(own_photos: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", own_photos)
    shutil.rmtree(own_photos / "Training")
    with pytest.raises(StoreError, match="photos can still be read; expected them where they were"):
        evaluate(str(tmp_path / "out"))
