"""The Delta table: what counts, who may commit what, what other readers see, and that damage is noticed."""

from __future__ import annotations

import multiprocessing as mp
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.table import TableAlterer
from stored import catalogue, files, flip, folder, held, log, planned, rows_of, run, shards, uri, values, write_all

from fruits.errors import StoreError
from fruits.storage.embeddings import table as tables
from fruits.storage.embeddings.inventory import take
from fruits.storage.embeddings.table import DamagedError, EmbeddingTable
from fruits.storage.objects import Objects


@pytest.fixture
def stored(tmp_path: Path) -> EmbeddingTable:
    return EmbeddingTable(str(tmp_path / "results"), "embeddings/abc")


def test_table_has_the_protocol_that_every_reader_knows(stored: EmbeddingTable) -> None:
    run(stored, catalogue(10))
    protocol = DeltaTable(stored.uri).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features
    assert not protocol.writer_features


def test_other_readers_see_each_photo_once(stored: EmbeddingTable) -> None:
    run(stored, catalogue(100), {uri(3): ("rejected", "damaged: cut")})
    opened = DeltaTable(stored.uri)
    by_pyarrow = pq.ParquetDataset([str(folder(stored) / name) for name in take(stored, catalogue(100)).snapshot.files])
    for table in (opened.to_pyarrow_table(), by_pyarrow.read()):
        rows = {row["uri"]: row for row in table.to_pylist()}
        assert len(rows) == table.num_rows == 100
        assert rows[uri(7)]["embedding"] == [7.0] * 4
        assert rows[uri(3)]["status"] == "rejected"
        assert rows[uri(3)]["embedding"] is None


def test_polars_reads_the_table(stored: EmbeddingTable) -> None:
    polars = pytest.importorskip("polars")
    run(stored, catalogue(100))
    table = polars.read_delta(stored.uri).sort("uri")
    assert table["uri"].to_list() == catalogue(100)["uri"].to_pylist()
    assert table["embedding"].to_list()[7] == [7.0] * 4


def test_log_names_no_photo(stored: EmbeddingTable) -> None:
    run(stored, catalogue(10))
    assert all(b"/photos/" not in path.read_bytes() for path in log(stored))


def test_file_counts_once_it_is_committed(stored: EmbeddingTable) -> None:
    _, work = planned(stored, catalogue(100))
    written = write_all(stored, work)
    assert len(take(stored, catalogue(100)).absent) == 100
    assert stored.commit(written, epoch=0)
    assert held(take(stored, catalogue(100))) == list(range(100))


def test_commit_that_is_repeated_changes_nothing(stored: EmbeddingTable) -> None:
    _, work = planned(stored, catalogue(100))
    written = write_all(stored, work)
    assert stored.commit(written, epoch=0)
    version = stored.snapshot().version
    assert stored.commit(written, epoch=0)
    assert stored.snapshot().version == version
    assert DeltaTable(stored.uri).to_pyarrow_table().num_rows == 100


def test_same_rows_written_twice_are_one_file(stored: EmbeddingTable) -> None:
    _, work = planned(stored, catalogue(10))
    (one,), (other,) = write_all(stored, work), write_all(stored, work)
    assert one.name == other.name
    assert len(files(stored)) == 1


def _commit_some(root: str, start: int) -> None:
    stored = EmbeddingTable(root, "embeddings/abc")
    for at in range(start, start + 50, 10):
        photos = catalogue(10, start=at)
        _, work = planned(stored, photos)
        assert stored.commit(write_all(stored, work), epoch=0)


def test_processes_that_commit_at_once_lose_and_double_nothing(stored: EmbeddingTable) -> None:
    processes = [
        mp.get_context("spawn").Process(target=_commit_some, args=(stored.root, start)) for start in (0, 50, 100, 0)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    inventory = take(stored, catalogue(150))
    assert held(inventory) == list(range(150))
    assert sorted(DeltaTable(stored.uri).to_pyarrow_table()["uri"].to_pylist()) == catalogue(150)["uri"].to_pylist()


def test_commit_from_before_a_vacuum_is_refused(stored: EmbeddingTable) -> None:
    run(stored, catalogue(10))
    inventory, work = planned(stored, catalogue(20))
    written = write_all(stored, work, inventory.snapshot.epoch)
    assert stored.next_epoch() == 1
    assert not stored.commit(written, epoch=inventory.snapshot.epoch)
    assert take(stored, catalogue(20)).absent.tolist() == list(range(10, 20))


def test_commit_at_the_moment_of_a_vacuum_is_refused(stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch) -> None:
    run(stored, catalogue(10))
    inventory, work = planned(stored, catalogue(20))
    written = write_all(stored, work, inventory.snapshot.epoch)
    transact = stored._transact

    def late(*args: object) -> None:
        monkeypatch.undo()
        EmbeddingTable(stored.root, stored.prefix).next_epoch()
        transact(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stored, "_transact", late)
    assert not stored.commit(written, epoch=inventory.snapshot.epoch)
    assert take(stored, catalogue(20)).absent.tolist() == list(range(10, 20))


def test_file_that_another_process_removed_is_not_replaced(stored: EmbeddingTable) -> None:
    run(stored, catalogue(10))
    (file,) = stored.snapshot().files.values()
    other = stored.write(file.shard, rows_of(catalogue(5), {}), 0)
    assert stored.commit([other], [file], epoch=0)
    late = stored.write(file.shard, rows_of(catalogue(7), {}), 0)
    assert not stored.commit([late], [file], epoch=0)
    assert held(take(stored, catalogue(10))) == list(range(5))


def test_table_travels_to_workers(stored: EmbeddingTable) -> None:
    inventory = run(stored, catalogue(10))
    there = pickle.loads(pickle.dumps(stored))
    assert there.read(inventory.file_rows[0].file).num_rows == 10


def test_log_is_checkpointed_after_some_commits(stored: EmbeddingTable) -> None:
    for start in range(0, 230, 10):
        _, work = planned(stored, catalogue(10, start=start))
        assert stored.commit(write_all(stored, work), epoch=0)
    assert list((folder(stored) / "_delta_log").glob("*.checkpoint.parquet"))
    assert held(take(stored, catalogue(230))) == list(range(230))


# --- Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_file_is_refused_by_name(stored: EmbeddingTable, damage: str) -> None:
    (entry,) = run(stored, catalogue(10)).file_rows
    (path,) = files(stored)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(DamagedError, match=rf"{path.name}.*run again with repair=True"):
        stored.read(entry.file)


def test_every_changed_byte_of_a_file_is_noticed(stored: EmbeddingTable) -> None:
    (entry,) = run(stored, catalogue(5)).file_rows
    (path,) = files(stored)
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(DamagedError):
            stored.read(entry.file)


def test_damaged_page_of_keys_is_noticed_without_reading_the_embeddings(stored: EmbeddingTable) -> None:
    run(stored, catalogue(2000))
    path = files(stored)[0]
    chunk = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=path.name):
        take(stored, catalogue(2000))


@pytest.mark.parametrize("change", ["cut", "rubbish", "empty"])
def test_damaged_log_is_refused_by_name(stored: EmbeddingTable, change: str) -> None:
    run(stored, catalogue(10))
    path = log(stored)[-1]
    path.write_bytes({"cut": path.read_bytes()[:-30], "rubbish": b"\xff{", "empty": b"[1]"}[change])
    with pytest.raises(DamagedError, match=r"_delta_log.*run again with repair=True"):
        take(stored, catalogue(10))


def test_changed_byte_of_the_log_is_noticed_or_makes_no_difference(stored: EmbeddingTable) -> None:
    expected = values(stored, run(stored, catalogue(6), {uri(2): ("rejected", "damaged: half")}))
    for path in log(stored):
        data = path.read_bytes()
        for at in range(0, len(data), 5):
            path.write_bytes(data[:at] + bytes([data[at] ^ 3]) + data[at + 1 :])
            try:
                inventory = take(stored, catalogue(6))
                found = values(stored, inventory)
            except DamagedError:
                continue
            assert len(inventory.absent) == 6 or found == expected  # a file that is not named is computed again
        path.write_bytes(data)
    assert values(stored, take(stored, catalogue(6))) == expected


def test_file_that_another_tool_added_is_refused_by_name(stored: EmbeddingTable) -> None:
    run(stored, catalogue(5))
    rows = rows_of(catalogue(5, start=5), {})
    from deltalake import write_deltalake

    write_deltalake(
        stored.uri, rows.set_column(9, "embedding", rows["embedding"].cast(pa.list_(pa.float32()))), mode="append"
    )
    with pytest.raises(DamagedError, match=r"names 'part-.*repair=True"):
        take(stored, catalogue(10))


def test_store_that_cannot_be_reached_is_not_taken_for_damage(
    stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stored, catalogue(10))

    def unreachable(self: Objects, key: str) -> bytes:
        raise StoreError(f"cannot read '{key}': the network is down")

    monkeypatch.setattr(Objects, "open", unreachable)
    with pytest.raises(StoreError, match="network is down") as caught:
        take(stored, catalogue(10))
    assert not isinstance(caught.value, DamagedError)


def test_shards_are_named_by_their_place(stored: EmbeddingTable) -> None:
    _, work = planned(stored, catalogue(200))
    assert [name[9:] for name in shards(work)] == ["000000-0000", "000000-0064", "000000-0128", "000000-0192"]


def test_flipped_byte_is_found_whatever_it_is(stored: EmbeddingTable) -> None:
    (entry,) = run(stored, catalogue(10)).file_rows
    for at in (0.0, 0.3, 0.7, 0.999):
        flip(files(stored)[0], at)
        with pytest.raises(DamagedError):
            stored.read(entry.file)
        flip(files(stored)[0], at)
    assert stored.read(entry.file).num_rows == 10


@pytest.mark.parametrize("remote", [True, False])
def test_answer_of_a_bucket_that_breaks_off_is_asked_for_again(
    stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    def breaks_off_once(kind: type, name: str) -> None:
        done, asked = getattr(kind, name), iter([True])

        def call(*given: object, **named: object) -> object:
            if next(asked, False):
                raise DeltaError("Kernel error: Generic S3 error: error decoding response body")
            return done(*given, **named)

        monkeypatch.setattr(kind, name, call)

    monkeypatch.setattr(tables, "is_remote", lambda _: remote)
    for kind, name, call in (
        (DeltaTable, "create", stored.create),
        (TableAlterer, "set_table_properties", stored.next_epoch),
    ):
        breaks_off_once(kind, name)
        if not remote:  # on a disk, an error stays one
            with pytest.raises(StoreError):
                call()
        assert call() == (None if name == "create" else 1)
    assert stored.snapshot().epoch == 1
