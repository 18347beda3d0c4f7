"""Answers written down together: what a store that hangs or fails does to others, and what is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fruits.errors import StoreError
from fruits.service.database import Database
from fruits.service.receipts import Receipts
from fruits.service.submissions import NewSubmission, Submissions
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


@pytest.fixture
def store(photo_folder: Path) -> SlowStore:
    return SlowStore(str(photo_folder))


@pytest.fixture
def receipts(database: Database, store: SlowStore) -> Iterator[Receipts]:
    made = Receipts(Submissions(database, store, keep_days=30), busy=lambda: False)
    yield made
    made.close()


def test_a_store_that_hangs_holds_up_only_photos(receipts: Receipts, store: SlowStore, new: New) -> None:
    async def ask() -> None:
        kept = receipts.add([new(b"photo")])
        (plain,) = await asyncio.wait_for(receipts.add([new()]), 30)
        assert not kept.done()
        store.goes_on.set()
        (receipt,) = await asyncio.wait_for(kept, 30)
        assert receipt.id != plain.id

    asyncio.run(ask())


def test_what_was_not_written_is_not_counted(
    receipts: Receipts, store: SlowStore, new: New, photo_folder: Path
) -> None:
    counted: list[str] = []
    store.goes_on.set()

    async def ask() -> None:
        await receipts.add([new()], lambda: counted.append("plain"))
        photo_folder.rmdir()
        photo_folder.write_text("no folder")
        with pytest.raises(StoreError):
            await receipts.add([new(b"photo")], lambda: counted.append("photo"))

    asyncio.run(ask())
    receipts.close()
    assert counted == ["plain"]


def test_a_bug_in_counting_ends_no_writer(receipts: Receipts, new: New) -> None:
    async def ask() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(receipts.add([new()], lambda: 1 / 0), 30)
        assert len(await asyncio.wait_for(receipts.add([new(), new()]), 30)) == 2

    asyncio.run(ask())
