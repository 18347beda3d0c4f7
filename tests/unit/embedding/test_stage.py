"""Record batches in, record batches out: the same numbers however they are cut, and a row for every photo."""

from __future__ import annotations

import hashlib
import runpy
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fruits.embedding import stage as module
from fruits.embedding.backbone import BATCH_SIZE, Embedder, computation_id, find_backbone
from fruits.embedding.model import ModelFile
from fruits.embedding.stage import EmbedStage, embed_rows
from fruits.errors import EngineError
from fruits.photos.decoding.decoder import Decoder, Limits, own_decoder
from fruits.photos.decoding.images import to_network_input
from fruits.photos.decoding.quality import measure
from fruits.photos.reading import reading
from fruits.storage.embeddings.table import EmbeddingTable, File
from fruits.storage.tables.schemas import RECEIPT, WORK, embeddings

FOUND = find_backbone("fruits-small")
PREPROCESSING = FOUND.card.preprocessing(None, None)
D = FOUND.card.embedding_size
FAULTY = Path(__file__).parents[2] / "faulty_decoder"


@pytest.fixture(scope="module")
def model() -> bytes:
    return FOUND.prepared(PREPROCESSING)


@pytest.fixture(scope="module")
def embedder(model: bytes) -> Embedder:
    return Embedder(model)


def rows_of(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [{"uri": str(path), "version": "1"} for path in paths]


def embedded(rows: list[dict[str, Any]], embedder: Embedder) -> pa.Table:
    batches = list(embed_rows(rows, embedder, PREPROCESSING, D))
    assert all(batch.num_rows <= BATCH_SIZE for batch in batches)
    return pa.Table.from_batches(batches, embeddings(D))


def vectors(table: pa.Table) -> np.ndarray:
    return np.array(table["embedding"].to_pylist(), np.float32)


@pytest.fixture(scope="module")
def some(photos: Path) -> list[dict[str, Any]]:
    """Rows of 70 photos: two full batches and a bit."""
    return rows_of(sorted(photos.glob("Training/*/*.jpg"))[::3][:70])


def test_embeddings_do_not_depend_on_batches_to_the_last_bit(some: list[dict[str, Any]], embedder: Embedder) -> None:
    whole = embedded(some, embedder)
    for size in (1, 7, 32, 33):
        pieces = [embedded(some[start : start + size], embedder) for start in range(0, len(some), size)]
        assert pa.concat_tables(pieces).equals(whole), f"differs when {size} photos come at a time"


def test_embeddings_do_not_depend_on_the_size_of_the_files(
    some: list[dict[str, Any]], embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embedded(some, embedder)
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 5000)
    assert embedded(some, embedder).equals(whole)


def test_embedding_is_that_of_the_photo_alone(some: list[dict[str, Any]], embedder: Embedder) -> None:
    table = embedded(some[:5], embedder)
    for row in table.to_pylist():
        data = Path(row["uri"]).read_bytes()
        photo = to_network_input(data, PREPROCESSING)
        assert (np.float32(row["embedding"]) == embedder.embed(photo.pixels[None])[0]).all()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["width"], row["height"]) == (100, 100)
        assert (row["brightness"], row["sharpness"]) == tuple(float(value[0]) for value in measure(photo.pixels[None]))
        assert (row["status"], row["error"]) == ("ok", None)


def test_bad_photos_are_rows_that_say_why_and_harm_no_other(
    some: list[dict[str, Any]], embedder: Embedder, tmp_path: Path
) -> None:
    files = {
        "text.jpg": b"not a photo",
        "empty.png": b"",
        "half.jpg": Path(some[0]["uri"]).read_bytes()[:1500],
        "picture.gif": b"GIF89a" + bytes(20),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    bad = rows_of([*(tmp_path / name for name in files), tmp_path / "gone.jpg", tmp_path / "folder.jpg"])
    mixed = [row for pair in zip(some, bad, strict=False) for row in pair] + some[len(bad) :]
    table = embedded(mixed, embedder)
    assert table["uri"].to_pylist() == [row["uri"] for row in mixed]
    told = {Path(row["uri"]).name: row for row in table.to_pylist() if row["status"] != "ok"}
    assert {name: (row["status"], row["error"].partition(":")[0]) for name, row in told.items()} == {
        "text.jpg": ("rejected", "not an image"),
        "empty.png": ("rejected", "empty"),
        "half.jpg": ("rejected", "damaged"),
        "picture.gif": ("rejected", "unsupported format"),
        "gone.jpg": ("failed", "not found"),
        "folder.jpg": ("failed", "unreadable"),
    }
    for row in told.values():
        assert row["embedding"] is row["brightness"] is row["sharpness"] is None
        assert (row["sha256"] is None) == (row["status"] == "failed")
    good = table.filter(pa.array([status == "ok" for status in table["status"].to_pylist()]))
    assert vectors(good).tolist() == vectors(embedded(some, embedder)).tolist()


def test_batch_of_nothing_but_bad_photos_is_fine(embedder: Embedder, tmp_path: Path) -> None:
    table = embedded(rows_of(tmp_path / f"{number}.jpg" for number in range(3)), embedder)
    assert table["status"].to_pylist() == ["failed"] * 3
    assert table["embedding"].null_count == 3


def test_unreadable_photo_has_failed_and_may_work_next_time(embedder: Embedder, tmp_path: Path) -> None:
    """A link to itself, because a file without permissions is still read by root."""
    (tmp_path / "1.jpg").symlink_to(tmp_path / "1.jpg")
    table = embedded(rows_of([tmp_path / "1.jpg"]), embedder)
    assert table["status"].to_pylist() == ["failed"]
    assert table["error"].to_pylist()[0].startswith("unreadable: ")


def test_no_rows_give_no_batches(embedder: Embedder) -> None:
    assert embedded([], embedder).num_rows == 0


def test_photo_without_a_finite_embedding_is_rejected(some: list[dict[str, Any]]) -> None:
    class Broken:
        def embed(self, pixels: np.ndarray) -> np.ndarray:
            values = np.ones((len(pixels), D), np.float32)
            values[1, 3] = np.nan
            return values

    table = embedded(some[:3], Broken())
    assert table["status"].to_pylist() == ["ok", "rejected", "ok"]
    assert table["error"].to_pylist()[1].startswith("no embedding: ")
    assert table["embedding"].to_pylist()[1] is None


@pytest.mark.slow
def test_photo_that_kills_its_decoder_is_a_row_that_says_so_and_harms_no_other(
    some: list[dict[str, Any]], embedder: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = runpy.run_path(str(FAULTY / "marked.py"))
    rows = list(some)
    codes = {}
    for place, fault in ((0, "crash"), (10, "bomb"), (11, "loop"), (40, "crash"), (len(some), "killed")):
        path = tmp_path / f"{place}.jpg"
        path.write_bytes(made["marked"](Path(some[0]["uri"]).read_bytes(), fault))
        rows.insert(place, *rows_of([path]))
        codes[str(path)] = made["CODES"][fault]
    monkeypatch.setenv("PYTHONPATH", str(FAULTY))
    with Decoder(Limits(cpu_s=2.0, memory_mib=512)) as decoder:  # filling 512 MiB takes 0.5 s on some machines
        table = pa.Table.from_batches(embed_rows(rows, embedder, PREPROCESSING, D, decoder=decoder))
    bad = {row["uri"]: row for row in table.to_pylist() if row["status"] != "ok"}
    assert {uri: row["error"].partition(":")[0] for uri, row in bad.items()} == codes
    assert {row["status"] for row in bad.values()} == {"rejected"}
    assert all(row["sha256"] and row["embedding"] is None for row in bad.values())
    good = table.filter(pa.array([status == "ok" for status in table["status"].to_pylist()]))
    assert good.combine_chunks().equals(embedded(some, embedder).combine_chunks())


def test_process_that_cannot_decode_at_all_fails_the_run_not_the_photos(
    some: list[dict[str, Any]], embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Decoder() as decoder, pytest.raises(EngineError, match="cannot start"):
        list(embed_rows(some, embedder, PREPROCESSING, D, decoder=decoder))


def test_decoder_is_opened_once_per_process(some: list[dict[str, Any]], embedder: Embedder) -> None:
    embedded(some[:3], embedder)
    decoder = own_decoder()
    assert decoder._child is not None
    process = decoder._child.process.pid
    embedded(some[:3], embedder)
    assert decoder._child.process.pid == process


def test_photos_that_wait_are_bounded_in_bytes(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, n = 1000, 40
    for number in range(n):
        (tmp_path / f"{number:02d}.jpg").write_bytes(bytes(size))
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 3 * size)
    read: list[str] = []
    real = reading.read_regular
    monkeypatch.setattr(reading, "read_regular", lambda uri, *rest: read.append(uri) or real(uri, *rest))
    given = 0
    for batch in embed_rows(rows_of(sorted(tmp_path.iterdir())), embedder, PREPROCESSING, D):
        given += batch.num_rows
        assert batch.num_rows == min(3, n - given + batch.num_rows)
        # What is read but not given yet: at most the batch that is decoded and the one that is read.
        assert len(read) - given <= 6
    assert given == n


def test_photo_larger_than_the_bound_is_a_batch_of_its_own(
    embedder: Embedder, some: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 1)
    sizes = [batch.num_rows for batch in embed_rows(some[:4], embedder, PREPROCESSING, D)]
    assert sizes == [1, 1, 1, 1]


# --- The stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(some: list[dict[str, Any]]) -> pa.Table:
    """Two shards, the first of 40 photos."""
    return pa.Table.from_pylist(
        [{"shard": f"0a1b2c3d-000000-{number // 40 * 64:04d}", **row} for number, row in enumerate(some)], schema=WORK
    )


def stage_for(tmp_path: Path, model: bytes) -> tuple[EmbedStage, EmbeddingTable]:
    prefix = f"embeddings/{computation_id(FOUND.card, PREPROCESSING)}"
    path = tmp_path / "backbone.onnx"
    path.write_bytes(model)
    file = ModelFile(str(tmp_path), path.name, hashlib.sha256(model).hexdigest())
    stored = EmbeddingTable(str(tmp_path), prefix)
    return EmbedStage(file, PREPROCESSING, D, stored), stored


@pytest.mark.parametrize("rows_per_batch", [1, 17, 1000])
def test_stage_writes_every_shard_whole_whatever_the_batches_it_comes_in(
    tmp_path: Path, model: bytes, work: pa.Table, embedder: Embedder, rows_per_batch: int, some: list[dict[str, Any]]
) -> None:
    stage, stored = stage_for(tmp_path, model)
    receipts = pa.Table.from_batches(stage(iter(work.to_batches(rows_per_batch))), RECEIPT).to_pylist()
    written = [File(one["file"], one["size_bytes"], one["ok"], one["modified_ms"]) for one in receipts]
    assert [(file.shard[-4:], file.rows) for file in written] == [("0000", 40), ("0064", 30)]
    assert all(receipt[f"seconds_{name}"] >= 0 for receipt in receipts for name in ("read", "decode", "infer", "write"))
    tables = [stored.read(file) for file in written]
    assert pa.concat_tables(tables).equals(embedded(some, embedder))


def test_receipt_counts_what_was_rejected_and_what_failed(
    tmp_path: Path, model: bytes, some: list[dict[str, Any]]
) -> None:
    (tmp_path / "text.jpg").write_bytes(b"text")
    rows = [*some[:3], *rows_of([tmp_path / "text.jpg", tmp_path / "gone.jpg", tmp_path / "gone too.jpg"])]
    work = pa.Table.from_pylist([{"shard": "0a1b2c3d-000000-0000", **row} for row in rows], schema=WORK)
    stage, _ = stage_for(tmp_path, model)
    (receipt,) = pa.Table.from_batches(stage(iter(work.to_batches())), RECEIPT).to_pylist()
    assert (receipt["ok"], receipt["rejected"], receipt["failed"]) == (3, 1, 2)


def test_stage_survives_pickling(tmp_path: Path, model: bytes, work: pa.Table) -> None:
    import pickle

    stage, _ = stage_for(tmp_path, model)
    receipts: Callable[..., Any] = pickle.loads(pickle.dumps(stage))
    assert sum(batch.num_rows for batch in receipts(iter(work.to_batches()))) == 2


def test_shard_that_another_run_has_written_is_not_computed_again(tmp_path: Path, model: bytes, work: pa.Table) -> None:
    stage, stored = stage_for(tmp_path, model)
    first = list(stage(iter(work.to_batches())))
    again = list(stage(iter(work.to_batches())))
    assert [batch["file"].to_pylist() for batch in again] == [batch["file"].to_pylist() for batch in first]
    assert [batch["ok"].to_pylist() for batch in again] == [batch["ok"].to_pylist() for batch in first]
    assert [batch["seconds_infer"][0].as_py() for batch in again] == [0.0, 0.0]
    fewer = list(stage(iter(work.slice(1).to_batches())))
    assert [batch["ok"][0].as_py() for batch in fewer] == [39, 30], "other photos are computed"
    assert fewer[0]["seconds_infer"][0].as_py() > 0
    path = tmp_path / stored.prefix / first[1]["file"][0].as_py()
    path.write_bytes(b"half")
    assert [batch["seconds_infer"][0].as_py() > 0 for batch in stage(iter(work.slice(40).to_batches()))] == [True]


def test_shard_in_which_a_photo_failed_is_tried_again(tmp_path: Path, model: bytes, some: list[dict[str, Any]]) -> None:
    rows = [*some[:2], *rows_of([tmp_path / "late.jpg"])]
    work = pa.Table.from_pylist([{"shard": "0a1b2c3d-000000-0000", **row} for row in rows], schema=WORK)
    stage, _ = stage_for(tmp_path, model)
    (receipt,) = pa.Table.from_batches(stage(iter(work.to_batches())), RECEIPT).to_pylist()
    assert (receipt["ok"], receipt["failed"]) == (2, 1)
    shutil.copy(some[0]["uri"], tmp_path / "late.jpg")
    (receipt,) = pa.Table.from_batches(stage(iter(work.to_batches())), RECEIPT).to_pylist()
    assert (receipt["ok"], receipt["failed"]) == (3, 0)
