from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text, update

from fruits.errors import ConfigError, NotFoundError, StoreError
from fruits.service.submissions import erasure
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions
from fruits.service.submissions.tables import SubmissionRow
from fruits.storage.objects import Objects

New = Callable[..., NewSubmission]
PHOTO = b"as good as a photo"  # a JPEG would get the visitor's consent in it


def rows(database: Database) -> list[Any]:
    with database.reading() as connection:
        return list(connection.execute(select(SubmissionRow.__table__)).all())


def age(database: Database, name: str, **ago: float) -> None:
    """Make a submission older."""
    with database.writing() as connection:
        earlier = SubmissionRow.created_s - int(timedelta(**ago).total_seconds())
        connection.execute(update(SubmissionRow).where(SubmissionRow.id == name).values(created_s=earlier))


def set_state(database: Database, name: str, state: str) -> None:
    with database.writing() as connection:
        connection.execute(update(SubmissionRow).where(SubmissionRow.id == name).values(state=state))


def test_without_consent_a_receipt_and_the_day_are_stored_and_nothing_of_the_answer(
    submissions: Submissions, database: Database, photo_folder: Path, new: New
) -> None:
    receipt = submissions.add(new(outcome="variety", variety="apple/braeburn", may_show=True))
    (row,) = rows(database)
    stored = {name: value for name, value in row._mapping.items() if value is not None}
    assert stored.keys() == {"id", "secret_sha256", "state", "created_s", "has_photo"}
    assert (row.id, row.state, row.has_photo) == (receipt.id, "kept", False)
    assert row.created_s % 86_400 == 0, "the day, not the second"
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromtimestamp(row.created_s, UTC) < timedelta(days=1, minutes=5)
    assert list(photo_folder.iterdir()) == []
    with pytest.raises(NotFoundError):
        submissions.photo(receipt.id)
    submissions.feedback(receipt.id, receipt.secret, False, "pear")
    (row,) = rows(database)
    assert (row.was_right, row.said_label) == (False, "pear")
    assert row.feedback_s % 86_400 == 0


def test_receipts_go_the_next_day_after_the_hours_for_feedback(
    submissions: Submissions, database: Database, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_RECEIPTS_AT_ONCE", 3)
    receipts = submissions.add_many([new() for _ in range(7)])
    kept = submissions.add(new(PHOTO))
    (day,) = {row.created_s for row in rows(database) if not row.has_photo}
    tomorrow = datetime.fromtimestamp(day, UTC) + timedelta(days=1)
    assert submissions.purge(tomorrow + timedelta(hours=5, minutes=59)) == 0
    submissions.feedback(receipts[0].id, receipts[0].secret, True)
    assert submissions.purge(tomorrow + timedelta(hours=6)) == 7
    assert [row.id for row in rows(database)] == [kept.id]
    with pytest.raises(NotFoundError):
        submissions.feedback(receipts[0].id, receipts[0].secret, True)


def test_what_is_stored_is_told_to_whom_it_belongs(submissions: Submissions, new: New) -> None:
    receipt = submissions.add(new(PHOTO, may_show=True))
    found = submissions.of(receipt.id, receipt.secret)
    assert (found.id, found.label, found.has_photo, found.may_show) == (receipt.id, "Apple Red 1", True, True)
    for name, secret in ((receipt.id, "guess"), ("A" * 22, receipt.secret)):
        with pytest.raises(NotFoundError):
            submissions.of(name, secret)


def test_only_agreed_and_living_photos_may_be_shown(
    submissions: Submissions, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fruits.service.submissions.repository._NAMES_AT_ONCE", 2)
    agreed, deleted, silent = submissions.add_many([new(PHOTO, may_show=True), new(PHOTO, may_show=True), new(PHOTO)])
    submissions.delete(deleted.id, deleted.secret)
    assert submissions.shown([agreed.id, deleted.id, silent.id, "n" * 22, "../x"]) == {agreed.id}


def test_what_reached_nobody_is_forgotten(
    submissions: Submissions, database: Database, photo_folder: Path, new: New
) -> None:
    lost, stays = submissions.add_many([new(PHOTO), new(PHOTO)])
    submissions.retract([lost])
    assert [row.id for row in rows(database)] == [stays.id]
    assert [path.name for path in photo_folder.iterdir()] == [f"{stays.id}.jpg"]


def test_with_consent_photo_and_features_are_kept_to_the_bit(
    submissions: Submissions, database: Database, photo_folder: Path, new: New
) -> None:
    receipt = submissions.add(new(PHOTO, ood_score=float("inf"), features=np.array([1.5, -2.25, 1e-30], np.float32)))
    assert submissions.photo(receipt.id) == PHOTO
    found = submissions.get(receipt.id)
    assert (found.outcome, found.kind, found.variety, found.label) == ("kind", "apple", None, "Apple Red 1")
    assert (found.probability, found.ood_score, found.language) == (0.75, None, "fr")
    assert not found.may_show, "another consent, which is never assumed"
    assert abs(found.created - datetime.now(UTC)) < timedelta(minutes=5)
    (row,) = rows(database)
    assert np.frombuffer(row.features, "<f4").tolist() == np.array([1.5, -2.25, 1e-30], np.float32).tolist()
    assert [path.name for path in photo_folder.iterdir()] == [f"{receipt.id}.jpg"]
    assert photo_folder.stat().st_mode & 0o777 == 0o700


def test_receipts_are_random_and_the_secret_is_not_stored(
    submissions: Submissions, database: Database, new: New
) -> None:
    receipts = submissions.add_many([new() for _ in range(50)])
    assert len({receipt.id for receipt in receipts}) == len({receipt.secret for receipt in receipts}) == 50
    assert all(erasure.ID.fullmatch(receipt.id) and len(receipt.secret) >= 32 for receipt in receipts)
    stored = repr(rows(database))
    assert not any(receipt.secret in stored for receipt in receipts)


def test_several_are_kept_in_order_or_not_at_all(
    submissions: Submissions, database: Database, photo_folder: Path, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = submissions.add_many([new(PHOTO, label="a"), new(PHOTO, label="b"), new(PHOTO, label="c")])
    assert [submissions.get(receipt.id).label for receipt in receipts] == ["a", "b", "c"]

    def refuse(*_: object) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(Objects, "write", refuse)
    with pytest.raises(StoreError, match="no space"):
        submissions.add_many([new(), new(PHOTO, label="e")])
    assert sorted(row.label for row in rows(database)) == ["a", "b", "c"]
    assert len(list(photo_folder.iterdir())) == 3
    assert submissions.add_many([]) == []


def test_the_last_word_of_the_visitor_counts(submissions: Submissions, new: New) -> None:
    receipt = submissions.add(new())
    assert submissions.get(receipt.id).right is None
    submissions.feedback(receipt.id, receipt.secret, False, "pear", "it is green")
    found = submissions.get(receipt.id)
    assert (found.right, found.said_label, found.note) == (False, "pear", "it is green")
    assert [one.id for one in submissions.page("wrong").submissions] == [receipt.id]
    submissions.feedback(receipt.id, receipt.secret, True)
    found = submissions.get(receipt.id)
    assert (found.right, found.said_label, found.note) == (True, None, None)
    assert submissions.page("wrong").submissions == ()


def test_words_of_strangers_are_kept_harmless(submissions: Submissions, new: New) -> None:
    receipt = submissions.add(new(PHOTO, label="=cmd\u202e\x1b[31m", language="en\x00" + "x" * 100))
    submissions.feedback(
        receipt.id, receipt.secret, False, "\u202egpj\x00.exe\ud800 ", "a\r\nb\x07\t<b>c</b>" + "x" * 2000
    )
    found = submissions.get(receipt.id)
    assert found.label == "=cmd[31m"
    assert found.said_label == "gpj.exe"
    assert found.note is not None
    assert found.note.startswith("a\nb <b>c</b>xxx")
    assert len(found.note) == 500
    assert len(found.language or "") <= 8


WRONG: list[Callable[[Receipt], tuple[str, str]]] = [
    lambda receipt: (receipt.id, "guess"),
    lambda receipt: (receipt.id, ""),
    lambda receipt: (receipt.id, "\ud800"),
    lambda receipt: ("A" * 22, receipt.secret),
    lambda receipt: ("../../etc/passwd", receipt.secret),
    lambda receipt: (receipt.id + "\n", receipt.secret),
    lambda _: ("", ""),
    lambda receipt: ("é" * 22, receipt.secret),
    lambda receipt: ("\x00", receipt.secret),
]


def test_unknown_and_not_yours_are_answered_alike(submissions: Submissions, new: New) -> None:
    receipt = submissions.add(new(PHOTO))
    for claim in WRONG:
        for action in (submissions.delete, lambda name, secret: submissions.feedback(name, secret, True)):
            with pytest.raises(NotFoundError) as refused:
                action(*claim(receipt))
            assert str(refused.value) == str(erasure.not_found())
    assert submissions.photo(receipt.id) == PHOTO
    assert submissions.get(receipt.id).right is None


def test_deleted_means_gone(submissions: Submissions, database: Database, photo_folder: Path, new: New) -> None:
    stays, goes = submissions.add_many([new(PHOTO), new(PHOTO)])
    submissions.feedback(goes.id, goes.secret, False, "pear", "a note")
    submissions.delete(goes.id, goes.secret)
    assert [row.id for row in rows(database)] == [stays.id]
    assert [path.name for path in photo_folder.iterdir()] == [f"{stays.id}.jpg"]
    for again in (lambda: submissions.delete(goes.id, goes.secret), lambda: submissions.remove(goes.id)):
        with pytest.raises(NotFoundError):
            again()
    submissions.remove(stays.id)
    assert rows(database) == []
    assert list(photo_folder.iterdir()) == []


@pytest.mark.parametrize("by", ["visitor", "owner"])
def test_what_is_deleted_is_told_so_when_the_files_cannot_be_cleaned_at_once(
    submissions: Submissions, database: Database, new: New, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    receipt = submissions.add(new(PHOTO))

    def refuse(*_: object, **__: object) -> bool:
        raise StoreError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "scrub", refuse)
        if by == "visitor":
            submissions.delete(receipt.id, receipt.secret)
        else:
            submissions.remove(receipt.id)
    assert rows(database) == []
    assert database.is_scrub_pending(), "somebody has to do it"
    assert erasure.Erasure(database, submissions._photos).scrub()


def test_a_deletion_that_the_store_refuses_holds_nothing_and_is_finished_later(
    submissions: Submissions, database: Database, photo_folder: Path, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt, other = submissions.add_many([new(PHOTO), new(PHOTO)])
    submissions.feedback(receipt.id, receipt.secret, False, "pear", "a note")

    def refuse(*_: object) -> None:
        raise StoreError("the bucket is away")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "delete", refuse)
        with pytest.raises(StoreError, match="away"):
            submissions.delete(receipt.id, receipt.secret)
    (tombstone,) = (row for row in rows(database) if row.id == receipt.id)
    held = {name for name, value in tombstone._mapping.items() if value is not None}
    assert held == {"id", "secret_sha256", "state", "created_s", "has_photo"}
    with pytest.raises(NotFoundError):
        submissions.get(receipt.id)
    with pytest.raises(NotFoundError):
        submissions.photo(receipt.id)
    assert [one.id for one in submissions.page("kept").submissions] == [other.id]
    assert submissions.counts()["all"] == 1
    submissions.delete(receipt.id, receipt.secret)  # the visitor tries again
    assert [row.id for row in rows(database)] == [other.id]
    assert [path.name for path in photo_folder.iterdir()] == [f"{other.id}.jpg"]


def test_what_a_killed_process_left_is_finished(
    submissions: Submissions, database: Database, photo_folder: Path, new: New
) -> None:
    tombstone, abandoned, abandoned_without, young, kept = submissions.add_many([new(PHOTO) for _ in range(5)])
    set_state(database, tombstone.id, "deleting")
    for receipt in (abandoned, abandoned_without):
        set_state(database, receipt.id, "writing")
        age(database, receipt.id, minutes=11)
    (photo_folder / f"{abandoned_without.id}.jpg").rename(photo_folder / f"{abandoned_without.id}.jpg#1")
    set_state(database, young.id, "writing")  # another process may be at it right now
    assert submissions.recover() == 3
    assert {row.id for row in rows(database)} == {young.id, kept.id}
    assert {path.name for path in photo_folder.iterdir()} == {f"{young.id}.jpg", f"{kept.id}.jpg"}
    assert submissions.recover() == 0


def test_a_writer_slower_than_recovery_leaves_nothing(
    submissions: Submissions, database: Database, photo_folder: Path, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Objects.write

    def slowly(self: Objects, key: str, data: bytes) -> None:
        age(database, key[:22], minutes=11)
        assert submissions.recover() == 1
        write(self, key, data)

    monkeypatch.setattr(Objects, "write", slowly)
    with pytest.raises(StoreError, match="too long"):
        submissions.add(new(PHOTO))
    assert rows(database) == []
    submissions.purge()
    assert list(photo_folder.iterdir()) == []


def test_retention_deletes_what_has_had_its_time(
    submissions: Submissions, database: Database, photo_folder: Path, new: New
) -> None:
    old, reviewed, young = submissions.add_many([new(PHOTO), new(PHOTO), new(PHOTO)])
    submissions.review(reviewed.id, "confirmed", reviewer="me")
    age(database, old.id, days=30, seconds=5)
    age(database, reviewed.id, days=31)
    age(database, young.id, days=29, hours=23)
    assert submissions.purge() == 2
    assert [row.id for row in rows(database)] == [young.id]
    assert [path.name for path in photo_folder.glob("[!.]*")] == [f"{young.id}.jpg"]
    assert submissions.purge(datetime.now(UTC) + timedelta(days=1)) == 1


def test_retention_of_many_goes_through_all(
    submissions: Submissions, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_AT_ONCE", 7)
    submissions.add_many([new() for _ in range(40)] + [new(PHOTO) for _ in range(10)])
    assert submissions.purge(datetime.now(UTC) + timedelta(days=31)) == 50
    assert submissions.counts()["all"] == 0


def test_pages_give_everything_once_newest_first(submissions: Submissions, database: Database, new: New) -> None:
    receipts = submissions.add_many([new(PHOTO) for _ in range(23)])
    submissions.add(new())  # without a photo: not among those
    for number, receipt in enumerate(receipts):
        age(database, receipt.id, seconds=number // 5)  # several of the same second
    seen, cursor, pages = [], None, 0
    while True:
        page = submissions.page("kept", cursor, 5)
        seen += page.submissions
        pages += 1
        if (cursor := page.cursor) is None:
            break
    assert pages == 5
    assert len(seen) == len({one.id for one in seen}) == 23
    assert [one.created for one in seen] == sorted((one.created for one in seen), reverse=True)


def test_a_page_of_what_came_before_is_not_moved_by_what_comes_after(submissions: Submissions, new: New) -> None:
    submissions.add_many([new(PHOTO) for _ in range(4)])
    first = submissions.page("kept", None, 2)
    for one in first.submissions:
        submissions.remove(one.id)
    second = submissions.page("kept", first.cursor, 2)
    assert len(second.submissions) == 2
    assert not {one.id for one in first.submissions} & {one.id for one in second.submissions}


def test_a_cursor_that_no_page_gave_is_refused(submissions: Submissions) -> None:
    for cursor in ("", "1", "x.y", "1.short", "1." + "a" * 22 + "'", "９." + "a" * 22, "1e9." + "a" * 22):
        with pytest.raises(ConfigError, match="cursor"):
            submissions.page("kept", cursor)


def test_filters_and_counts_agree(submissions: Submissions, new: New) -> None:
    pending, confirmed, refused, wrong, plain = submissions.add_many([*(new(PHOTO) for _ in range(4)), new()])
    submissions.review(confirmed.id, "confirmed", reviewer="me")
    submissions.review(refused.id, "refused", reviewer="me")
    submissions.feedback(wrong.id, wrong.secret, False, "pear")
    submissions.feedback(plain.id, plain.secret, True)
    expected = {
        "pending": {pending.id, wrong.id},
        "wrong": {wrong.id},
        "reviewed": {confirmed.id, refused.id},
        "kept": {pending.id, wrong.id, confirmed.id, refused.id},
    }
    for which, ids in expected.items():
        assert {one.id for one in submissions.page(which).submissions} == ids  # type: ignore[arg-type]
    assert submissions.counts() == {"all": 5, **{which: len(ids) for which, ids in expected.items()}}
    with pytest.raises(ConfigError, match="expected pending"):
        submissions.page("everything")  # type: ignore[arg-type]


def test_reviews_confirm_correct_or_refuse_and_the_last_counts(submissions: Submissions, new: New) -> None:
    receipt = submissions.add(new(PHOTO))
    assert submissions.review(receipt.id, "confirmed", reviewer="Ada").reviewed_label == "Apple Red 1"
    corrected = submissions.review(receipt.id, "corrected", " Pear\u202e\n ", reviewer="Bob\x00")
    assert (corrected.decision, corrected.reviewed_label, corrected.reviewer) == ("corrected", "Pear", "Bob")
    assert [one.id for one in submissions.for_training()] == [receipt.id]
    assert submissions.review(receipt.id, "refused", "Pear", reviewer="Bob").reviewed_label is None
    assert list(submissions.for_training()) == []


def test_reviews_that_make_no_sense_are_refused(submissions: Submissions, new: New) -> None:
    receipt, nameless = submissions.add_many([new(PHOTO), new(PHOTO, label=None)])
    for decision, label in (("corrected", None), ("corrected", " \u200e\n"), ("nonsense", "x")):
        with pytest.raises(ConfigError):
            submissions.review(receipt.id, decision, label, reviewer="me")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        submissions.review(nameless.id, "confirmed", reviewer="me")
    assert submissions.counts()["reviewed"] == 0


def test_the_owner_is_told_of_names_that_are_none(submissions: Submissions) -> None:
    for name in ("n" * 22, "", "\x00", "a" * 21 + "\x00", "\ud800" * 22, "../../../etc/passwd", "x" * 10_000):
        for action in (submissions.get, submissions.photo, submissions.remove):
            with pytest.raises(NotFoundError):
                action(name)
        with pytest.raises(NotFoundError):
            submissions.review(name, "refused", reviewer="me")


def test_what_may_be_learnt_goes_through_all_pages(submissions: Submissions, new: New) -> None:
    receipts = submissions.add_many([new(PHOTO) for _ in range(205)])
    for receipt in receipts:
        submissions.review(receipt.id, "confirmed", reviewer="me")
    submissions.review(
        submissions.add(new()).id, "corrected", "Pear", reviewer="me"
    )  # without a photo nothing is to be learnt
    assert {one.id for one in submissions.for_training()} == {receipt.id for receipt in receipts}


def test_threads_add_review_and_delete_at_once(submissions: Submissions, photo_folder: Path, new: New) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        start.wait()
        kept = []
        for turn in range(8):
            receipt = submissions.add(new(PHOTO if turn % 2 else None))
            submissions.feedback(receipt.id, receipt.secret, turn % 3 == 0, "pear")
            if turn % 4 == number % 4:
                submissions.delete(receipt.id, receipt.secret)
            else:
                kept.append(receipt.id)
        return kept

    with ThreadPoolExecutor(8) as pool:
        kept = {name for names in pool.map(work, range(8)) for name in names}
    assert len(kept) == submissions.counts()["all"] == 48
    assert {path.name[:22] for path in photo_folder.iterdir()} == {
        one.id for one in submissions.page("kept", limit=200).submissions
    }


WORKER = """
import sys
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.storage.objects import Objects
submissions = Submissions(Database.open(sys.argv[1]), Objects(sys.argv[2]), keep_days=30)
for turn in range(12):
    receipt = submissions.add(NewSubmission("kind", "apple", None, "A", 0.5, 0.5, "en", "m", photo=[None, b"photo"][turn % 2]))
    submissions.feedback(receipt.id, receipt.secret, False, "pear")
    if turn % 3 == 0:
        submissions.delete(receipt.id, receipt.secret)
    submissions.recover()
"""


@pytest.mark.slow
def test_processes_work_on_one_database_at_once(
    submissions: Submissions, database_url: str, photo_folder: Path, new: New
) -> None:
    command = [sys.executable, "-W", "error", "-c", WORKER, database_url, str(photo_folder)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    while any(process.poll() is None for process in started):
        receipt = submissions.add(new(PHOTO))
        submissions.delete(receipt.id, receipt.secret)
        assert submissions.counts()["all"] <= 36
    for process in started:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert submissions.counts() == {"all": 24, "kept": 12, "pending": 12, "wrong": 24, "reviewed": 0}
    assert len(list(photo_folder.iterdir())) == 12


def test_keep_days_must_be_possible(database: Database, photo_folder: Path) -> None:
    with pytest.raises(ConfigError, match="keep_days"):
        Submissions(database, Objects(str(photo_folder)), keep_days=0)


def test_deletion_cleans_the_files_at_once_on_sqlite_and_soon_on_postgresql(
    submissions: Submissions, database: Database, new: New
) -> None:
    def waiting() -> bool:
        with database.reading() as connection:
            return connection.execute(text("select count(*) from chores where name = 'scrub'")).scalar() == 1

    first, second = submissions.add_many([new(PHOTO), new(PHOTO)])
    submissions.delete(first.id, first.secret)
    assert not waiting()
    submissions.delete(second.id, second.secret)
    assert waiting() is not database.is_sqlite  # PostgreSQL's table is rewritten once a minute at most
    submissions.purge(thorough=True)
    assert not waiting()
