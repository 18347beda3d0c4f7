"""What is left of a photo that a visitor let us keep: its pixels, nothing of the file; and after its deletion, nothing."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from sqlalchemy import select

from fruits.photos.catalogue.consent import ConsentMark, consent_of, unmark
from fruits.service.submissions.database import Database
from fruits.service.submissions.tables import SubmissionRow

PLANTED = b"planted-by-the-test"


def exif() -> bytes:
    """Where and when and by whom a photo was taken, as a phone writes it."""
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0131] = (
        "planted-by-the-test-maker",
        "planted-by-the-test-model",
        "planted-by-the-test",
    )
    tags[0x0132] = "2019:03:04 05:06:07"
    gps = tags.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (48.0, 51.0, 29.6), "E", (2.0, 17.0, 40.25)
    gps[27] = b"planted-by-the-test-gps"
    tags.get_ifd(0x8769)[0x9286] = b"ASCII\x00\x00\x00planted-by-the-test-comment"
    return tags.tobytes()


def planted(photo: bytes, kind: str) -> bytes:
    """The same pixels in a file with something planted wherever the format has room."""
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    out = io.BytesIO()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>planted-by-the-test-xmp</x:xmpmeta>"
    profile = b"planted-by-the-test-profile".ljust(200, b" ")
    if kind == "jpeg":
        image.save(out, "JPEG", quality=95, exif=exif(), icc_profile=profile, comment=PLANTED, xmp=xmp)
        data = out.getvalue()
        segment = b"planted-by-the-test-app13"
        return data[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[2:] + PLANTED * 50
    if kind == "png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "planted-by-the-test-text")
        text.add_text("Author", "planted-by-the-test-compressed", zip=True)
        image.save(out, "PNG", pnginfo=text, exif=exif())
        data = out.getvalue()
        body = b"prVt" + PLANTED
        chunk = struct.pack(">I", len(PLANTED)) + body + struct.pack(">I", zlib.crc32(body))
        return data[:33] + chunk + data[33:] + PLANTED * 50
    image.save(out, "WEBP", lossless=True, exif=exif(), xmp=xmp, icc_profile=profile)
    return out.getvalue()


def segments(jpeg: bytes) -> set[int]:
    """The markers of a JPEG's segments up to its pixels."""
    found, at = set(), 2
    while jpeg[at + 1] != 0xDA:
        found.add(jpeg[at + 1])
        at += 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
    return found


class Kept:
    """A service that keeps photos, and all that it wrote anywhere."""

    def __init__(self, service: Any, folder: Path, postgres: Any) -> None:
        self.service, self._folder, self._postgres = service, folder, postgres

    def everything(self, *, with_journals: bool) -> dict[str, bytes]:
        """Return every file that the service and its database wrote, by name; names are searched as well."""
        roots = [self._folder]
        if self._postgres is not None:
            tables = {f"table {name}": data for name, data in self._postgres.table_files().items()}
            roots += [self._postgres.data] if with_journals else []
        else:
            tables = {}
        files = (path for root in roots for path in root.rglob("*") if path.is_file())
        return tables | {str(path): path.name.encode() + b"\n" + path.read_bytes() for path in files}

    def where(self, needle: bytes, *, with_journals: bool = True) -> list[str]:
        """Return the files that hold some bytes."""
        return [name for name, data in self.everything(with_journals=with_journals).items() if needle in data]


@pytest.fixture
def kept(
    serve: Callable[..., Any], database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Kept]:
    """A service on SQLite or PostgreSQL; the url comes by the environment, as a password should."""
    postgres = None if database_url.startswith("sqlite") else request.getfixturevalue("postgres")
    return Kept(serve("--rate", 0, FRUITS_DATABASE=database_url), tmp_path, postgres)


def test_with_consent_the_pixels_are_kept_and_nothing_of_the_file_and_without_nothing(
    kept: Kept, a_photo: bytes
) -> None:
    client = kept.service.client
    for kind in ("jpeg", "png", "webp"):
        upload = planted(a_photo, kind)
        assert PLANTED in upload
        files = {"photo": ("planted-by-the-test-name.jpg", upload, "image/planted-by-the-test")}
        answer = client.post(
            "/v1/recognise", files=files, data={"keep": "true"}, headers={"User-Agent": "planted-by-the-test"}
        )
        assert answer.status_code == 200, answer.text
        (one,) = answer.json()["photos"]
        assert one["kept"] is True, one
        found = [name for name in kept.everything(with_journals=False) if name.endswith(f"{one['id']}.jpg")]
        assert len(found) == 1
        assert consent_of(Path(found[0]).read_bytes()) == ConsentMark(one["id"], may_show=False)
        stored = unmark(Path(found[0]).read_bytes())
        image = Image.open(io.BytesIO(stored))
        assert image.format == "JPEG"
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression"}
        assert segments(stored) <= {0xE0, 0xDB, 0xC0, 0xC2, 0xC4, 0xDD}, "no segment that could hold anything else"
        assert stored.endswith(b"\xff\xd9")
        pixels = np.asarray(image.convert("RGB"), np.int16)
        given = np.asarray(Image.open(io.BytesIO(upload)).convert("RGB"), np.int16)
        assert pixels.shape == given.shape
        assert np.abs(pixels - given).mean() < 3, "it is the photo"
    assert kept.where(PLANTED) == []
    assert kept.where(b"2019:03:04") == []
    for rational in ((148, 5), (161, 4)):  # 29.6 and 40.25 seconds of arc, as they stand in the tags
        needle = struct.pack(">II", *rational)
        assert needle in planted(a_photo, "jpeg")
        assert [name for name in kept.where(needle, with_journals=False) if not name.startswith("table ")] == []
    (one,) = kept.service.recognise(planted(a_photo, "jpeg")).json()["photos"]
    assert one["kept"] is False
    assert kept.where(PLANTED) == []
    assert len([name for name in kept.everything(with_journals=False) if name.endswith(".jpg")]) == 3
    assert kept.where(one["id"].encode(), with_journals=False), "the answer is kept, for the visitor's word on it"
    assert kept.service.log("bug") == []


def test_after_its_deletion_nothing_of_a_submission_is_left(
    kept: Kept, a_photo: bytes, photos: Path, database_url: str
) -> None:
    service = kept.service
    other = max(photos.glob("Training/*/*.jpg")).read_bytes()
    (stays,) = service.recognise(other, keep="true").json()["photos"]
    (goes,) = service.recognise(a_photo, keep="true").json()["photos"]
    word = {"id": goes["id"], "secret": goes["secret"], "right": False}
    answer = service.client.post("/v1/feedback", json=word | {"label": "planted-label", "note": "planted-note"})
    assert answer.status_code == 204, answer.text
    stored = next(Path(name) for name in kept.everything(with_journals=False) if name.endswith(f"{goes['id']}.jpg"))
    database = Database.open(database_url)
    with database.reading() as connection:
        features = connection.execute(select(SubmissionRow.features).where(SubmissionRow.id == goes["id"])).scalar_one()
    database.close()
    needles = (b"planted-label", b"planted-note", goes["id"].encode(), stored.read_bytes()[-200:-136], features)
    for needle in needles:
        assert kept.where(needle, with_journals=False), "before, it is there to be found"
    assert goes["secret"].encode() not in b"".join(kept.everything(with_journals=True).values())

    gone = service.client.delete(f"/v1/submissions/{goes['id']}", headers={"X-Fruits-Secret": goes["secret"]})
    assert gone.status_code == 204
    for needle in needles:
        assert kept.where(needle, with_journals=False) == [], needle
    assert kept.where(stays["id"].encode(), with_journals=False), "the other one is untouched"
    again = service.client.delete(f"/v1/submissions/{goes['id']}", headers={"X-Fruits-Secret": goes["secret"]})
    assert again.status_code == 404
    assert "planted" not in service.log_text()
