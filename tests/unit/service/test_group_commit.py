"""Answers written down together: what a store that hangs or fails does to others, and what is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from fruits.errors import StoreError
from fruits.service.http.delivery import Undelivered
from fruits.service.submissions.database import Database
from fruits.service.submissions.group_commit import GroupCommit
from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions
from fruits.storage.objects import Objects

New = Callable[..., NewSubmission]


class SlowStore(Objects):
    """A store that takes photos only when it is told to."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.goes_on = threading.Event()

    def write(self, key: str, data: bytes) -> None:
        """Write an object, at last."""
        assert self.goes_on.wait(30)
        super().write(key, data)


def written_down(database: Database) -> bool:
    with database.reading() as connection:
        return bool(connection.execute(text("select count(*) from submissions")).scalar())


@pytest.fixture
def store(photo_folder: Path) -> SlowStore:
    return SlowStore(str(photo_folder))


@pytest.fixture
def group_commit(database: Database, store: SlowStore) -> Iterator[GroupCommit]:
    made = GroupCommit(Submissions(database, store, keep_days=30))
    yield made
    made.close()


def test_a_store_that_hangs_holds_up_only_photos(group_commit: GroupCommit, store: SlowStore, new: New) -> None:
    async def ask() -> None:
        kept = group_commit.add([new(b"photo")])
        (plain,) = await asyncio.wait_for(group_commit.add([new()]), 30)
        assert not kept.done()
        store.goes_on.set()
        (receipt,) = await asyncio.wait_for(kept, 30)
        assert receipt.id != plain.id

    asyncio.run(ask())


def test_what_was_not_written_is_not_counted(
    group_commit: GroupCommit, store: SlowStore, new: New, photo_folder: Path
) -> None:
    counted: list[str] = []
    store.goes_on.set()

    async def ask() -> None:
        await group_commit.add([new()], lambda: counted.append("plain"))
        photo_folder.rmdir()
        photo_folder.write_text("no folder")
        with pytest.raises(StoreError):
            await group_commit.add([new(b"photo")], lambda: counted.append("photo"))

    asyncio.run(ask())
    group_commit.close()
    assert counted == ["plain"]


@pytest.mark.parametrize("photo", [None, b"photo"])
def test_a_bug_in_counting_is_told_to_the_log_and_not_to_who_asked(
    database: Database, store: SlowStore, new: New, photo: bytes | None
) -> None:
    submissions, bugs, counted = Submissions(database, store, keep_days=30), list[Exception](), list[int]()
    group_commit = GroupCommit(submissions, bugs.append)
    store.goes_on.set()

    async def ask() -> list[Receipt]:
        bad, *good = (
            group_commit.add([new(photo)], count)
            for count in (lambda: 1 / 0, lambda: counted.append(1), lambda: counted.append(2))
        )
        return [receipt for some in await asyncio.wait_for(asyncio.gather(bad, *good), 30) for receipt in some]

    told = asyncio.run(ask())
    group_commit.close()
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]
    assert sorted(counted) == [1, 2]
    assert [submissions.get(receipt.id).has_photo for receipt in told] == [photo is not None] * 3


def test_a_connection_that_breaks_off_after_the_commit_fails_nobody(
    database: Database, group_commit: GroupCommit, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Database.writing

    @contextmanager
    def committed_and_then_cut(self: Database) -> Iterator[Connection]:
        with writing(self) as connection:
            yield connection
        raise StoreError("the connection broke off")

    async def ask(count: int) -> list[Receipt]:
        some = await asyncio.wait_for(asyncio.gather(*(group_commit.add([new()]) for _ in range(count))), 30)
        return [receipt for one in some for receipt in one]

    with monkeypatch.context() as patch:
        patch.setattr(Database, "writing", committed_and_then_cut)
        told = asyncio.run(ask(20))
    assert len({receipt.id for receipt in told}) == 20

    @contextmanager
    def cut(self: Database) -> Iterator[Connection]:
        with writing(self) as connection:
            yield connection
            raise StoreError("the connection broke off")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "writing", cut)
        with pytest.raises(StoreError, match="broke off"):
            asyncio.run(ask(3))
    with database.reading() as connection:
        there = set(connection.execute(text("select id from submissions")).scalars())
    assert there == {receipt.id for receipt in told}, "who was told that it failed has no row"


def test_a_photo_that_is_being_kept_when_its_request_is_ended_is_forgotten(
    database: Database, store: SlowStore, new: New, photo_folder: Path
) -> None:
    submissions = Submissions(database, store, keep_days=30)
    group_commit, undelivered = GroupCommit(submissions), Undelivered(submissions)

    async def ask() -> None:
        kept = group_commit.add([new(b"photo")])
        asking = asyncio.ensure_future(undelivered.written(kept))
        await asyncio.sleep(0)
        while not written_down(database):  # its row is there, its photo waits
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        store.goes_on.set()
        await undelivered.finish()

    asyncio.run(ask())
    group_commit.close()
    assert submissions.counts()["all"] == 0
    assert list(photo_folder.iterdir()) == []


def test_requests_of_one_turn_share_a_commit_and_wait_for_no_others(
    database: Database, group_commit: GroupCommit, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, commits = Database.writing, list[int]()

    @contextmanager
    def counted(self: Database) -> Iterator[Connection]:
        with writing(self) as connection:
            yield connection
        commits.append(1)

    monkeypatch.setattr(Database, "writing", counted)

    async def ask(count: int) -> int:
        before = len(commits)
        await asyncio.wait_for(asyncio.gather(*(group_commit.add([new()]) for _ in range(count))), 30)
        return len(commits) - before

    assert [asyncio.run(ask(count)) for count in (1, 20, 100)] == [1, 1, 1]


def test_what_was_given_in_the_last_turn_is_committed_once(database: Database, store: SlowStore, new: New) -> None:
    group_commit = GroupCommit(Submissions(database, store, keep_days=30))

    async def ask() -> list[Receipt]:
        asked = [group_commit.add([new()]) for _ in range(3)]
        group_commit.close()  # before the turn is over
        return [receipt for one in await asyncio.wait_for(asyncio.gather(*asked), 30) for receipt in one]

    told = asyncio.run(ask())
    with database.reading() as connection:
        there = list(connection.execute(text("select id from submissions")).scalars())
    assert sorted(there) == sorted(receipt.id for receipt in told)
