"""Photos that no row names: set aside for a week, and only by the database whose photos they are. On a disk and in a bucket."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete, text

from fruits.errors import StoreError
from fruits.service.submissions import erasure
from fruits.service.submissions.database import Database
from fruits.service.submissions.photo_store import PhotoStore, SweepRefusedError
from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions
from fruits.service.submissions.tables import SubmissionRow
from fruits.storage.objects import Objects

New = Callable[..., NewSubmission]
PHOTO = b"a photo"  # a JPEG would get the visitor's consent in it
NOBODYS = "o" * 22


@pytest.fixture
def store(request: pytest.FixtureRequest, database_url: str, photo_folder: Path) -> Objects:
    """Where photos are kept: on a disk beside SQLite, in a bucket beside PostgreSQL, as services have it."""
    on_disk = database_url.startswith("sqlite")
    return Objects(str(photo_folder) if on_disk else f"{request.getfixturevalue('prefix')}/kept")


@pytest.fixture
def submissions(database: Database, store: Objects) -> Submissions:
    """Submissions that are kept for 30 days."""
    return Submissions(database, store, keep_days=30)


@pytest.fixture
def kept(submissions: Submissions, new: New) -> list[Receipt]:
    """40 submissions with a photo, in a store that knows whose they are."""
    receipts = submissions.add_many([new(PHOTO) for _ in range(40)])
    submissions.purge()
    return receipts


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Database]:
    """Another database."""
    database = Database.open(f"sqlite:///{tmp_path}/another/service.db")
    yield database
    database.close()


def photos(store: Objects) -> set[str]:
    """The ids of the photos that are not in quarantine."""
    return {name.removesuffix(".jpg") for name in store.names() if name.endswith(".jpg")}


def aside(store: Objects) -> set[str]:
    return {found.key.rpartition("/")[2].removesuffix(".jpg") for found in store.list(".quarantine")}


def ids(receipts: list[Receipt]) -> set[str]:
    return {receipt.id for receipt in receipts}


def lose(database: Database, receipts: list[Receipt]) -> list[dict[str, object]]:
    """Take rows away, as a database of an older backup would lack them; return them."""
    with database.writing() as connection:
        table = SubmissionRow.__table__
        rows = connection.execute(table.select().where(SubmissionRow.id.in_(ids(receipts)))).mappings().all()
        connection.execute(delete(SubmissionRow).where(SubmissionRow.id.in_(ids(receipts))))
    return [dict(row) for row in rows]


def give_back(database: Database, rows: list[dict[str, object]]) -> None:
    with database.writing() as connection:
        connection.execute(SubmissionRow.__table__.insert(), rows)  # type: ignore[attr-defined]


def a_week_passes(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    if store.is_local:
        for path in Path(store.root, ".quarantine").iterdir():
            then = path.stat().st_mtime - erasure.QUARANTINE_S - 1
            os.utime(path, (then, then))
    else:
        monkeypatch.setattr(erasure, "QUARANTINE_S", -3600)


def test_a_photo_that_no_row_names_is_set_aside_and_deleted_after_a_week(
    submissions: Submissions, store: Objects, kept: list[Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(f"{NOBODYS}.jpg", b"nobody's")
    store.write("holiday.jpg", b"of another program")
    submissions.purge()
    assert photos(store) == ids(kept) | {"holiday"}
    assert aside(store) == {NOBODYS}
    assert submissions.quarantined() == 1
    submissions.purge()
    assert aside(store) == {NOBODYS}, "it is still there"
    a_week_passes(store, monkeypatch)
    submissions.purge()
    assert aside(store) == set()
    assert photos(store) == ids(kept) | {"holiday"}


def test_a_new_database_takes_nothing_from_an_old_store(
    kept: list[Receipt], store: Objects, another: Database, new: New
) -> None:
    newcomer = Submissions(another, store, keep_days=30)
    with pytest.raises(SweepRefusedError, match=r"another database.*--adopt"):
        newcomer.purge()
    # Nor when photos of its own are many more.
    own = newcomer.add_many([new(PHOTO) for _ in range(1000)] if store.is_local else [new(PHOTO)])
    with pytest.raises(SweepRefusedError, match="another database"):
        newcomer.purge()
    assert photos(store) == ids(kept) | ids(own)
    assert aside(store) == set()


def test_a_store_of_an_older_version_is_safe_from_a_new_database_too(
    submissions: Submissions, store: Objects, another: Database, new: New
) -> None:
    receipts = submissions.add_many([new(PHOTO) for _ in range(3)])  # nothing says yet whose they are
    newcomer = Submissions(another, store, keep_days=30)
    with pytest.raises(SweepRefusedError, match="names none"):
        newcomer.purge()
    newcomer.add(new())  # without a photo
    with pytest.raises(SweepRefusedError, match="names none"):
        newcomer.purge()
    own = newcomer.add(new(PHOTO))
    with pytest.raises(SweepRefusedError, match="does not name 3"):
        newcomer.purge()
    assert photos(store) == {*ids(receipts), own.id}


def test_rows_that_are_gone_do_not_take_their_photos_with_them(
    submissions: Submissions, database: Database, store: Objects, kept: list[Receipt]
) -> None:
    lose(database, kept[:3])  # 7.5 %
    with pytest.raises(SweepRefusedError, match=r"are 40, and the database does not name 3 of them.*--adopt"):
        submissions.purge()
    lose(database, kept)
    with pytest.raises(SweepRefusedError, match="names none"):
        submissions.purge()
    assert photos(store) == ids(kept)


def test_what_has_had_its_time_goes_though_a_sweep_is_refused(
    submissions: Submissions, database: Database, store: Objects, kept: list[Receipt]
) -> None:
    lose(database, kept[:20])
    with database.writing() as connection:
        connection.execute(text("update submissions set created_s = 1 where id = :id"), {"id": kept[-1].id})
    with pytest.raises(SweepRefusedError):
        submissions.purge()
    assert photos(store) == ids(kept[:-1])


def test_adopting_sets_aside_and_what_belongs_to_rows_that_come_back_comes_back(
    submissions: Submissions, database: Database, store: Objects, kept: list[Receipt], another: Database, new: New
) -> None:
    newcomer = Submissions(another, store, keep_days=30)
    own = newcomer.add(new(PHOTO))
    newcomer.purge(adopt=True)
    assert photos(store) == {own.id}
    assert aside(store) == ids(kept)
    newcomer.purge()  # it is this one's store from now on
    assert submissions.photo(kept[0].id) == PHOTO, "shown, where its database is asked"
    with pytest.raises(SweepRefusedError, match="another database"):
        submissions.purge()
    submissions.purge(adopt=True)
    assert photos(store) == ids(kept)
    assert aside(store) == {own.id}


def test_an_owner_deletes_a_photo_in_quarantine_at_once(
    submissions: Submissions, database: Database, store: Objects, kept: list[Receipt]
) -> None:
    rows = lose(database, kept[:2])
    submissions.purge()
    assert aside(store) == ids(kept[:2])
    give_back(database, rows)
    submissions.delete(kept[0].id, kept[0].secret)
    assert aside(store) == {kept[1].id}
    assert photos(store) == ids(kept[2:])
    submissions.purge()
    assert photos(store) == ids(kept[1:])


def test_a_photo_whose_owner_deletes_it_while_it_is_put_back_is_gone(
    submissions: Submissions, database: Database, store: Objects, kept: list[Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = lose(database, kept[:1])
    submissions.purge()
    give_back(database, rows)
    restore = PhotoStore.restore

    def late(self: PhotoStore, name: str) -> None:
        data = self.read(name)
        submissions.delete(kept[0].id, kept[0].secret)
        assert data is not None
        self.write(name, data)  # a copy within a bucket that was under way
        restore(self, name)

    monkeypatch.setattr(PhotoStore, "restore", late)
    submissions.purge()
    assert photos(store) == ids(kept[1:])
    assert aside(store) == set()


def test_a_photo_that_is_just_being_kept_is_never_set_aside(
    submissions: Submissions, store: Objects, kept: list[Receipt], new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Objects.write

    def sweep_then_write(self: Objects, key: str, data: bytes) -> None:
        write(self, key, data)
        if key.endswith(".jpg"):
            submissions.purge()  # its row does not yet say that it is kept

    monkeypatch.setattr(Objects, "write", sweep_then_write)
    receipt = submissions.add(new(PHOTO))
    assert photos(store) == {*ids(kept), receipt.id}
    assert aside(store) == set()


def test_of_services_that_begin_on_one_store_at_once_one_has_it(store: Objects, tmp_path: Path, new: New) -> None:
    databases = [Database.open(f"sqlite:///{tmp_path}/{number}/service.db") for number in range(4)]
    services = [Submissions(database, store, keep_days=30) for database in databases for _ in range(2)]
    services[0].add(new(PHOTO))
    start = threading.Barrier(len(services))

    def begin(service: Submissions) -> str:
        start.wait()
        try:
            service.purge()
        except SweepRefusedError:
            return "refused"
        return "begun"

    with ThreadPoolExecutor(len(services)) as pool:
        done = list(pool.map(begin, services))
    assert done == ["begun"] * 2 + ["refused"] * 6
    assert len(photos(store)) == 1
    for database in databases:
        database.close()


def test_a_store_whose_word_cannot_be_read_is_left_alone(
    submissions: Submissions, store: Objects, kept: list[Receipt]
) -> None:
    store.write(".fruits-identity", b"{")
    store.write(f"{NOBODYS}.jpg", b"nobody's")
    with pytest.raises(SweepRefusedError):
        submissions.purge()
    submissions.purge(adopt=True)
    assert photos(store) == ids(kept)


def test_what_killed_writes_left_is_set_aside_and_deleted_with_the_rest(
    database: Database, photo_folder: Path, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    submissions = Submissions(database, Objects(str(photo_folder)), keep_days=30)
    kept = submissions.add_many([new(PHOTO) for _ in range(40)])
    for name in (f"{NOBODYS}.jpg#3", f"{NOBODYS}.png", f"{NOBODYS}x.jpg"):
        (photo_folder / name).write_bytes(b"x")
    submissions.purge()
    left = {path.name for path in photo_folder.iterdir() if not path.name.startswith(".")}
    assert left == {*(f"{receipt.id}.jpg" for receipt in kept), f"{NOBODYS}.png", f"{NOBODYS}x.jpg"}
    assert [path.name for path in (photo_folder / ".quarantine").iterdir()] == [f"{NOBODYS}.jpg#3"]
    a_week_passes(Objects(str(photo_folder)), monkeypatch)
    submissions.purge()
    assert list((photo_folder / ".quarantine").iterdir()) == []


def test_a_store_that_fails_on_the_way_loses_nothing(
    submissions: Submissions, store: Objects, kept: list[Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(f"{NOBODYS}.jpg", b"nobody's")

    def fail(*_: object) -> None:
        raise StoreError("the bucket is away")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "move", fail)
        with pytest.raises(StoreError, match="away"):
            submissions.purge()
    assert photos(store) == {*ids(kept), NOBODYS}
    submissions.purge()
    assert aside(store) == {NOBODYS}


def test_photos_are_for_this_user_alone(database: Database, tmp_path: Path, new: New) -> None:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o755)
    (folder / "older.jpg").touch()
    submissions = Submissions(database, Objects(str(folder)), keep_days=30)
    receipt, lost = submissions.add_many([new(PHOTO), new(PHOTO)])
    lose(database, [lost])
    submissions.purge(adopt=True)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / f"{receipt.id}.jpg").stat().st_mode & 0o777 == 0o600
    assert (folder / ".quarantine").stat().st_mode & 0o777 == 0o700
    assert (folder / ".quarantine" / f"{lost.id}.jpg").stat().st_mode & 0o777 == 0o600
    assert time.time() - (folder / ".quarantine" / f"{lost.id}.jpg").stat().st_mtime < 3600
