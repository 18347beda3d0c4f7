"""Photos are read in order, wherever they lie; what cannot be read is a reason."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fruits.errors import StoreError
from fruits.photos.reading import reading
from fruits.photos.reading.reading import read_photo, read_photos
from fruits.storage.disk.local import MAX_PHOTO_BYTES, too_large
from fruits.storage.objects import AbsentError


class Bucket:
    """Stands in for a bucket whose answers differ in speed, size and kindness, which no real one does on demand."""

    def __init__(self) -> None:
        self.now = self.most = self.held = 0
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def read(self, key: str, *, limit: int) -> bytes:
        if "giant" in key and limit < MAX_PHOTO_BYTES:
            raise too_large(limit + 1, limit)
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.asked.append(key)
        time.sleep(0.002 if key.endswith("7") else 0.0005)
        with self.lock:
            self.now -= 1
        if "gone" in key:
            raise AbsentError("it is not there")
        if "denied" in key:
            raise StoreError("cannot read: denied")
        return b"x" * (4 << 20) if "large" in key else key.encode()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()
    monkeypatch.setattr(reading, "place_of", lambda uri: (made, uri.removeprefix("s3://b/")))
    return made


def test_photos_of_a_bucket_come_in_order_and_side_by_side(bucket: Bucket) -> None:
    keys = [f"a/{number}" for number in range(300)]
    assert [data for data, _ in read_photos(f"s3://b/{key}" for key in keys)] == [key.encode() for key in keys]
    assert 4 < bucket.most <= reading.THREADS


def test_reading_runs_ahead_within_bounds(bucket: Bucket) -> None:
    coming = read_photos(f"s3://b/a/{number}" for number in range(1000))
    next(coming)
    time.sleep(0.1)
    assert 32 <= len(bucket.asked) <= 129
    coming.close()  # type: ignore[attr-defined]
    asked = len(bucket.asked)
    time.sleep(0.05)
    assert len(bucket.asked) == asked


def test_large_photos_are_not_piled_up(bucket: Bucket) -> None:
    coming = read_photos(f"s3://b/large/{number}" for number in range(200))
    for taken in range(1, 101):
        next(coming)
        # Before sizes are known, a window of the first guess is on its way; then no more than fits.
        if taken > 70:
            assert len(bucket.asked) - taken <= 5
    coming.close()  # type: ignore[attr-defined]


def test_giants_of_a_bucket_are_fetched_when_they_are_asked_for_and_not_before(bucket: Bucket) -> None:
    coming = read_photos(f"s3://b/giant {number}" for number in range(50))
    assert bucket.asked == []
    for number in range(50):
        assert next(coming) == (f"giant {number}".encode(), "")
        assert bucket.asked == [f"giant {done}" for done in range(number + 1)]


def test_disk_and_bucket_go_together_in_order(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"disk")
    uris = ["s3://b/a", str(tmp_path / "1.jpg"), "s3://b/b", str(tmp_path / "2.jpg"), "s3://b/gone", "s3://b/c"]
    found = list(read_photos(uris))
    assert [data for data, _ in found] == [b"a", b"disk", b"b", None, None, b"c"]
    assert [error for data, error in found if data is None] == [
        "not found: no such file; it was removed after it was listed, or a manifest names it wrongly",
        "not found: no such object; it was removed after it was listed, or a manifest names it wrongly",
    ]


def test_denied_photo_is_a_reason_and_denied_bucket_an_error(bucket: Bucket) -> None:
    some = [f"s3://b/{'denied' if number % 2 else 'fine'}{number}" for number in range(200)]
    found = list(read_photos(some))
    assert sum(data is None for data, _ in found) == 100
    assert found[1][1].startswith("unreadable: the bucket refuses: cannot read: denied")
    with pytest.raises(StoreError, match="32 photos in a row were refused"):
        list(read_photos(f"s3://b/denied{number}" for number in range(200)))


def test_bucket_full_of_missing_photos_is_no_error(bucket: Bucket) -> None:
    assert all(data is None for data, _ in read_photos(f"s3://b/gone{number}" for number in range(200)))


def test_folder_and_missing_file_are_reasons(tmp_path: Path) -> None:
    [(_, folder), (_, gone)] = read_photos([str(tmp_path), str(tmp_path / "gone")])
    assert folder == "unreadable: Is a directory"
    assert gone.startswith("not found")


def test_name_that_no_object_can_have_is_a_reason() -> None:
    with pytest.raises(OSError, match="a//b"):
        read_photo("s3://bucket/a//b.jpg")
