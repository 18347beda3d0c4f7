"""The network as a file on each machine: fetched once, checked by hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fruits.embedding import model as models
from fruits.embedding.model import ModelFile
from fruits.errors import StoreError
from fruits.storage.objects import Objects

DATA = b"a network" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Bucket(Objects):
    """A folder without paths, as a bucket is."""

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002
        return None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "opened", Bucket)
    return tmp_path / "cache" / "fruits" / f"{DIGEST}.onnx"


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    bucket = Bucket(str(tmp_path / "bucket"))
    bucket.write("net.onnx", DATA)
    return bucket


def test_on_a_disk_it_is_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(DATA)
    assert ModelFile(str(tmp_path), "net.onnx", DIGEST).fetch() == tmp_path / "net.onnx"


def test_folder_that_a_worker_does_not_see_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"not on this machine.*s3://"):
        ModelFile(str(tmp_path), "net.onnx", DIGEST).fetch()


def test_from_a_bucket_it_is_fetched_once(cache: Path, bucket: Bucket) -> None:
    file = ModelFile(bucket.root, "net.onnx", DIGEST)
    assert file.fetch() == cache
    assert cache.read_bytes() == DATA
    bucket.delete("net.onnx")
    assert file.fetch() == cache


def test_damaged_copy_is_fetched_again(cache: Path, bucket: Bucket) -> None:
    file = ModelFile(bucket.root, "net.onnx", DIGEST)
    file.fetch()
    cache.write_bytes(DATA[:-1])
    assert file.fetch().read_bytes() == DATA


def test_another_network_in_its_place_is_refused(cache: Path, bucket: Bucket) -> None:
    bucket.write("net.onnx", DATA[1:])
    with pytest.raises(StoreError, match="not the network that was put there"):
        ModelFile(bucket.root, "net.onnx", DIGEST).fetch()
    assert not cache.exists()


def test_cache_that_cannot_be_written_gives_way_to_a_temporary_one(
    tmp_path: Path, bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr(models.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    found = ModelFile(bucket.root, "net.onnx", DIGEST).fetch()
    assert tmp_path / "tmp" in found.parents
    assert found.read_bytes() == DATA


def test_no_room_anywhere_is_an_error_that_says_so(
    tmp_path: Path, bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(models.tempfile, "gettempdir", lambda: str(tmp_path / "cache"))
    with pytest.raises(StoreError, match=r"no room.*XDG_CACHE_HOME"):
        ModelFile(bucket.root, "net.onnx", DIGEST).fetch()
