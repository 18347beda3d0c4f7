"""The test set of visitors' photos, what bundles answer to it, and manifests; on SQLite and on PostgreSQL."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from fruits.errors import StoreError
from fruits.photos.catalogue.consent import ConsentMark, consent_of
from fruits.photos.catalogue.manifests.manifest import read_manifest
from fruits.recogniser.answers import Answer
from fruits.recogniser.taxonomy import Name
from fruits.service.resources import Resources
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions
from fruits.service.submissions.reviewed.evaluations import Evaluation, Evaluations
from fruits.service.submissions.reviewed.export import export
from fruits.service.submissions.reviewed.manifest import command_of, manifest_of
from fruits.service.submissions.reviewed.test_set import ONE_IN, split_of

New = Callable[..., NewSubmission]
JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda as good as pixels \xff\xd9"
OLD, OPEN = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> str:
    """Splits as they are."""
    monkeypatch.setattr("fruits.service.submissions.repository.split_of", split_of)
    return "by id"


@pytest.fixture
def evaluations(database: Database) -> Evaluations:
    return Evaluations(database)


def answer(label: str = "Pear", kind: str = "pear", outcome: Any = "kind", probability: float = 0.75) -> Answer:
    name = Name({"en": kind})
    return Answer(
        outcome, name, probability, kind, "", ((kind, name, probability),), (label,), (probability,), 1.5, (),
        np.arange(8, dtype=np.float32),
    )  # fmt: skip


def kept(submissions: Submissions, new: New, count: int, **changes: Any) -> list[Receipt]:
    return submissions.add_many([new(JPEG, **changes) for _ in range(count)])


def reviewed(submissions: Submissions, new: New, count: int, label: str = "Pear") -> dict[str, list[Receipt]]:
    """Review photos until there are so many of each split; return the receipts by split."""
    found: dict[str, list[Receipt]] = {"train": [], "test": []}
    while min(map(len, found.values())) < count:
        for receipt in kept(submissions, new, 5):
            submissions.review(receipt.id, "corrected", label, reviewer="me")
            found[split_of(receipt.id)].append(receipt)
    return found


def test_one_reviewed_photo_in_five_is_a_test_photo_by_its_id_alone() -> None:
    splits = [split_of(f"{number:022}") for number in range(20_000)]
    # In every process and release: a photo that changed sides would be both trained on and tested.
    assert [number for number, split in enumerate(splits[:45]) if split == "test"] == [3, 15, 40]
    assert abs(Counter(splits)["test"] / len(splits) - 1 / ONE_IN) < 0.015


def test_test_photos_are_in_no_export_and_in_no_manifest_for_training(
    submissions: Submissions, new: New, tmp_path: Path
) -> None:
    found = reviewed(submissions, new, 2)
    done = export(submissions, str(tmp_path / "to"))
    assert done.photos == len(found["train"])
    exported = {path.stem for path in (tmp_path / "to").rglob("*.jpg")}
    assert exported == {receipt.id for receipt in found["train"]}
    for split in ("train", "test"):
        rows = manifest_of(submissions, split).rows  # type: ignore[arg-type]
        assert {Path(uri).stem for uri, _ in rows} == {receipt.id for receipt in found[split]}


def test_a_later_decision_never_moves_a_photo_between_training_and_test(submissions: Submissions, new: New) -> None:
    found = reviewed(submissions, new, 1)
    for split, receipts in found.items():
        for decision in ("refused", "confirmed", "corrected"):
            label = "Quince" if decision == "corrected" else None
            assert submissions.review(receipts[0].id, decision, label, reviewer="me").split == split  # type: ignore[arg-type]


def test_a_manifest_is_read_as_photos_and_its_photos_carry_the_consent(
    submissions: Submissions, new: New, photo_folder: Path, tmp_path: Path
) -> None:
    found = reviewed(submissions, new, 1, '日本の柿 <b>, "ripe"')
    for split, kind in itertools.product(("train", "test"), ("csv", "parquet")):
        manifest = manifest_of(submissions, split)  # type: ignore[arg-type]
        path = tmp_path / manifest.file_name(kind)  # type: ignore[arg-type]
        path.write_bytes(manifest.encode(kind))  # type: ignore[arg-type]
        rows = list(read_manifest(str(path), labelled=True))
        assert {row.uri for row in rows} == {str(photo_folder / f"{one.id}.jpg") for one in found[split]}
        assert {row.label for row in rows} == {'日本の柿 <b>, "ripe"'}
        assert {row.split for row in rows} == ({"test"} if split == "test" else {None})
        for row in rows:
            assert consent_of(Path(row.uri).read_bytes()) == ConsentMark(Path(row.uri).stem, may_show=False)


def test_an_empty_manifest_has_columns_and_a_label_like_a_formula_is_none_in_a_spreadsheet(
    submissions: Submissions, new: New
) -> None:
    assert manifest_of(submissions, "train").encode("csv") == b"uri,label\n"
    assert pq.read_table(io.BytesIO(manifest_of(submissions, "test").encode("parquet"))).column_names == [
        "uri", "label", "split",
    ]  # fmt: skip
    reviewed(submissions, new, 1, "=cmd|' /C calc'!A0")
    manifest = manifest_of(submissions, "train")
    assert b",'=cmd" in manifest.encode("csv")
    assert set(pq.read_table(io.BytesIO(manifest.encode("parquet")))["label"].to_pylist()) == {"=cmd|' /C calc'!A0"}


def test_the_command_of_the_next_run_repeats_the_last_one_with_its_options() -> None:
    assert command_of(None, manifest="reviewed.csv", photo_root="/d/photos") == (
        "fruits run PHOTOS reviewed.csv --to OUT --allow-source /d/photos"
    )
    config = {
        "sources": ["my photos", "reviewed.csv"], "out": "s3://b/out", "backbone": "net.onnx", "size": 64, "workers": 7,
        "min_precision": 0.95, "only": ["Apple *", "Pear"], "variance": None, "follow_links": True, "allow_source": ["/e"],
    }  # fmt: skip
    assert command_of({"config": config}, manifest="reviewed.csv", photo_root="/d/photos") == (
        "fruits run 'my photos' reviewed.csv --to s3://b/out --backbone net.onnx --only 'Apple *' --only Pear "
        "--min-precision 0.95 --follow-links --allow-source /e --allow-source /d/photos"
    )
    assert "--min-precision" not in command_of({"config": config}, leave=("min_precision",))


def test_every_bundle_is_asked_once_about_test_photos_and_unknown_ones(
    submissions: Submissions, evaluations: Evaluations, new: New
) -> None:
    found = reviewed(submissions, new, 2)
    unknown = kept(submissions, new, 3, outcome="unknown", model=OLD)
    plain = kept(submissions, new, 1)
    submissions.add(new(outcome="unknown"))  # without consent there is nothing to ask about
    expected = {one.id for one in found["test"]}
    assert set(evaluations.pending(OLD, 100)) == expected, "what it said of the unknown ones is known"
    expected |= {one.id for one in unknown}
    assert set(evaluations.pending(OPEN, 100)) == expected
    assert len(evaluations.pending(OPEN, 2)) == 2
    evaluations.add([Evaluation(name, OPEN, answer()) for name in sorted(expected)[1:]])
    assert evaluations.pending(OPEN, 100) == sorted(expected)[:1]
    evaluations.add([Evaluation(sorted(expected)[0], OPEN, None)])
    assert evaluations.pending(OPEN, 100) == [], "not even one that cannot be read is asked about again"
    assert plain[0].id not in expected


def test_scores_follow_the_owners_labels_and_lose_deleted_photos(
    submissions: Submissions, evaluations: Evaluations, database: Database, new: New
) -> None:
    test = reviewed(submissions, new, 4)["test"]
    for model, label in ((OLD, "Apple"), (OPEN, "Pear")):
        evaluations.add([Evaluation(one.id, model, answer(label)) for one in test])
    assert evaluations.test_photos() == len(test)
    assert Counter((one.model, one.label, one.truth) for one in evaluations.scored()) == {
        (OLD, "Apple", "Pear"): len(test),
        (OPEN, "Pear", "Pear"): len(test),
    }
    submissions.review(test[0].id, "corrected", "Quince", reviewer="me")
    assert Counter(one.truth for one in evaluations.scored())["Quince"] == 2
    submissions.review(test[1].id, "refused", reviewer="me")
    submissions.delete(test[2].id, test[2].secret)
    assert evaluations.test_photos() == len(test) - 2
    assert len(evaluations.scored()) == 2 * (len(test) - 2)
    assert evaluations.of(test[2].id) == []
    with database.reading() as connection:
        left = connection.execute(text("select distinct submission_id from evaluations")).scalars().all()
    assert set(left) == {one.id for one in test} - {test[2].id}
    submissions.purge(datetime.now(UTC) + timedelta(days=31))
    assert evaluations.scored() == []
    with database.reading() as connection:
        assert connection.execute(text("select count(*) from evaluations")).scalar() == 0


def test_answers_to_photos_that_are_gone_are_not_stored(
    submissions: Submissions, evaluations: Evaluations, new: New
) -> None:
    gone, there = kept(submissions, new, 2)
    submissions.delete(gone.id, gone.secret)
    evaluations.add([Evaluation(one.id, OPEN, answer()) for one in (gone, there)])
    evaluations.add([Evaluation(there.id, OPEN, answer("Apple", "apple"))])  # again: the last answer counts
    assert evaluations.of(gone.id) == []
    (one,) = evaluations.of(there.id)
    assert one == {
        "model": OPEN, "outcome": "kind", "kind": "apple", "label": "Apple", "probability": 0.75, "ood_score": 1.5,
    }  # fmt: skip


def test_photos_that_cannot_be_had_hold_up_no_others(
    submissions: Submissions, evaluations: Evaluations, database: Database, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, refused, there = kept(submissions, new, 3, outcome="unknown", model=OLD)
    submissions._photos.delete(lost.id)
    photo = submissions.photo

    def read(name: str) -> bytes:
        if name == refused.id:
            raise StoreError("no right to read it")
        return photo(name)

    monkeypatch.setattr(submissions, "photo", read)
    recogniser = SimpleNamespace(waiting=0, answer=lambda _: (OPEN, answer()))
    service: Any = SimpleNamespace(
        ready=True, stopping=False, identity=lambda: OPEN, evaluations=evaluations, submissions=submissions,
        recogniser=recogniser, _database=database,
    )  # fmt: skip
    with pytest.raises(StoreError):
        Resources.evaluate(service)
    assert evaluations.pending(OPEN, 100) == [refused.id]
    assert evaluations.of(there.id)[0]["label"] == "Pear"


def test_an_older_version_beside_leaves_no_answers_and_moves_no_photo_into_the_test_set(
    submissions: Submissions, evaluations: Evaluations, database: Database, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, there, seen = kept(submissions, new, 3)
    evaluations.add([Evaluation(one.id, OPEN, answer(outcome="unknown")) for one in (gone, there)])
    with database.writing() as connection:  # as version 0004 does it: it knows neither evaluations nor splits
        connection.execute(text("delete from submissions where id = :id"), {"id": gone.id})
        reviewing = "update submissions set decision = 'confirmed', reviewed_label = 'Pear' where id = :id"
        connection.execute(text(reviewing), {"id": seen.id})
    submissions._photos.delete(gone.id)
    submissions.purge()
    assert evaluations.of(gone.id) == []
    assert len(evaluations.of(there.id)) == 1
    monkeypatch.setattr("fruits.service.submissions.repository.split_of", lambda _: "test")
    assert submissions.review(seen.id, "corrected", "Quince", reviewer="me").split == "train"
    assert submissions.review(there.id, "confirmed", reviewer="me").split == "test"


def test_what_the_open_bundle_knows_by_now_leaves_the_unknown_ones(
    submissions: Submissions, evaluations: Evaluations, new: New
) -> None:
    again, learnt, own, refused = (
        kept(submissions, new, 1, outcome="unknown", model=model)[0] for model in (OLD, OLD, OPEN, OPEN)
    )
    submissions.review(refused.id, "refused", reviewer="me")
    submissions.feedback(own.id, own.secret, False, "Quince")
    evaluations.add(
        [Evaluation(again.id, OPEN, answer(outcome="unknown")), Evaluation(learnt.id, OPEN, answer("Pear"))]
    )
    found = {one.id: one for one in evaluations.unknown(OPEN)}
    assert set(found) == {again.id, own.id}
    assert found[again.id].features.tolist() == list(range(8))
    assert found[own.id].said_label == "Quince"
    assert evaluations.drop_older(OPEN) == 0
    assert evaluations.drop_older("another") == 2
    assert [one.id for one in evaluations.unknown(OPEN)] == [own.id]


def test_names_in_feedback_count_only_for_stored_photos(
    submissions: Submissions, evaluations: Evaluations, new: New
) -> None:
    for photo, right, label in (
        (JPEG, False, "Quince"),
        (JPEG, False, "Quince"),
        (None, False, "Medlar"),
        (JPEG, True, "Fig"),
    ):
        receipt = submissions.add(new(photo))
        submissions.feedback(receipt.id, receipt.secret, right, label)
    assert evaluations.feedback_labels() == [("Quince", 2)]


def test_precision_is_measured_on_photos_that_the_bundle_was_not_trained_on(
    submissions: Submissions, evaluations: Evaluations, new: New
) -> None:
    # Answered by an earlier bundle, then perhaps trained on.
    before = reviewed(submissions, new, 2)
    evaluations.add([Evaluation(one.id, OPEN, answer(probability=0.5)) for one in before["test"]])
    (own,) = kept(submissions, new, 1, model=OPEN, probability=0.25)
    submissions.review(own.id, "confirmed", reviewer="me")
    found = evaluations.reviewed(OPEN)
    assert Counter(one.probability for one in found) == {0.5: len(before["test"]), 0.25: 1}
    assert {one.truth for one in found} == {"Pear", "Apple Red 1"}
