from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.errors import StoreError
from fruits.photos.catalogue.catalogue import list_photos
from fruits.photos.catalogue.consent import ConsentMark, consent_of, mark
from fruits.photos.catalogue.names import is_system_folder, split_of
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.service.submissions.reviewed.export import export, label_folder
from fruits.storage.objects import Objects
from fruits.storage.sanitising import clean_line

New = Callable[..., NewSubmission]
JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda as good as pixels \xff\xd9"
HOSTILE = [
    "../../etc/passwd", "..", ".", ".hidden", "a/b", "a\\b", "Test", "training", "VAL", "con", "NUL.txt", "x:y", "a" * 400,
    "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "100% apple", "a~2Fb", "~", "-rf", "*?", "é" * 120, "end.", "日本の柿",
]  # fmt: skip


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """An empty folder to export to."""
    folder = tmp_path / "to"
    folder.mkdir()
    return folder


def photo(name: str) -> bytes:
    return b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda" + name.encode()


def files(root: Path) -> dict[str, bytes]:
    """The photos below a folder, as the catalogue sees them: nothing hidden."""
    found = (path for path in root.rglob("*") if path.is_file() and ".fruits-export" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def reviewed(submissions: Submissions, new: New, label: str, *, correct: bool = False) -> str:
    name = submissions.add(new(photo(label), label="what was answered" if correct else label)).id
    submissions.review(name, "corrected" if correct else "confirmed", label if correct else None, reviewer="me")
    return name


def test_only_reviewed_photos_with_consent_are_written(submissions: Submissions, new: New, tmp_path: Path) -> None:
    confirmed = reviewed(submissions, new, "Apple Red 1")
    corrected = reviewed(submissions, new, "Pear", correct=True)
    refused = submissions.add(new(photo("refused")))
    submissions.review(refused.id, "refused", reviewer="me")
    submissions.add(new(photo("pending")))
    submissions.review(submissions.add(new()).id, "corrected", "Pear", reviewer="me")  # never had a photo
    done = export(submissions, str(tmp_path / "to"))
    assert files(tmp_path / "to") == {
        f"Apple Red 1/{confirmed}.jpg": mark(photo("Apple Red 1"), ConsentMark(confirmed, False)),
        f"Pear/{corrected}.jpg": mark(photo("Pear"), ConsentMark(corrected, False)),
    }
    assert (done.photos, done.written, done.removed, done.folders) == (2, 2, 0, {})
    assert done.labels == {"Apple Red 1": 1, "Pear": 1}


def test_exported_photos_say_whether_others_may_see_them_and_older_exports_learn_it(
    submissions: Submissions, new: New, to: Path
) -> None:
    agreed, silent = (submissions.add(new(JPEG, label="Pear", may_show=may_show)).id for may_show in (True, False))
    for name in (agreed, silent):
        submissions.review(name, "confirmed", reviewer="me")
    export(submissions, str(to))
    expected = {f"Pear/{agreed}.jpg": ConsentMark(agreed, True), f"Pear/{silent}.jpg": ConsentMark(silent, False)}
    assert {name: consent_of(data) for name, data in files(to).items()} == expected
    # As an export of before left it: without marks.
    (to / "Pear" / f"{agreed}.jpg").write_bytes(JPEG)
    ledger = to / ".fruits-export" / "ledger.json"
    ledger.write_text(json.dumps({"photos": list(expected)}))
    assert export(submissions, str(to)).written == 2
    assert {name: consent_of(data) for name, data in files(to).items()} == expected


def test_the_same_export_again_writes_nothing(submissions: Submissions, new: New, to: Path) -> None:
    reviewed(submissions, new, "Pear")
    export(submissions, str(to))
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*.jpg")}
    again = export(submissions, str(to))
    assert (again.photos, again.written, again.removed) == (1, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*.jpg")} == before


def test_what_was_deleted_refused_or_relabelled_goes_and_what_is_not_ours_stays(
    submissions: Submissions, new: New, to: Path
) -> None:
    deleted, refused, relabelled, stays = (reviewed(submissions, new, label) for label in ("A", "B", "C", "D"))
    (to / "A").mkdir()
    mine = to / "A" / "IMG_20240101_123456789.jpg"  # as long as our names
    mine.write_bytes(b"mine")
    export(submissions, str(to))
    submissions.remove(deleted)
    submissions.review(refused, "refused", reviewer="me")
    submissions.review(relabelled, "corrected", "D", reviewer="me")
    done = export(submissions, str(to))
    assert set(files(to)) == {"A/IMG_20240101_123456789.jpg", f"D/{relabelled}.jpg", f"D/{stays}.jpg"}
    assert (done.written, done.removed) == (1, 3)
    assert {path.name for path in to.iterdir()} == {"A", "D", ".fruits-export"}, "no empty label is left"
    ledger = (to / ".fruits-export" / "ledger.json").read_text()
    assert deleted not in ledger


def test_a_photo_deleted_during_the_export_is_not_written(
    submissions: Submissions, new: New, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [reviewed(submissions, new, label) for label in ("A", "B")]
    look = Submissions.photo

    def delete_first(self: Submissions, name: str) -> bytes:
        if name == names[0]:
            submissions.remove(name)
        return look(self, name)

    monkeypatch.setattr(Submissions, "photo", delete_first)
    done = export(submissions, str(to))
    assert done.labels == {"B": 1}
    assert set(files(to)) == {f"B/{names[1]}.jpg"}


def test_a_killed_export_is_finished_and_cleaned_up_by_the_next(
    submissions: Submissions, new: New, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [reviewed(submissions, new, label) for label in ("A", "B", "C")]
    look, left = Submissions.photo, iter([True, True, False])

    def die(self: Submissions, name: str) -> bytes:
        if not next(left):
            raise KeyboardInterrupt
        return look(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Submissions, "photo", die)
        with pytest.raises(KeyboardInterrupt):
            export(submissions, str(to))
    assert len(files(to)) == 2
    for name in names[:2]:
        submissions.remove(name)  # while it lies half done
    assert export(submissions, str(to)).removed == 2
    assert set(files(to)) == {f"C/{names[2]}.jpg"}


def test_a_ledger_that_names_other_files_is_refused(submissions: Submissions, new: New, to: Path) -> None:
    reviewed(submissions, new, "A")
    export(submissions, str(to))
    victim = to / "precious.jpg"
    victim.write_bytes(b"x")
    ledger = to / ".fruits-export" / "ledger.json"
    for content in (
        '{"photos": ["../precious.jpg"]}',
        '{"photos": ["precious.jpg"]}',
        "[]",
        "not json",
        '{"photos": 3}',
    ):
        ledger.write_text(content)
        with pytest.raises(StoreError, match="not what an export wrote"):
            export(submissions, str(to))
    assert victim.exists()


def test_hostile_labels_become_folders_that_the_catalogue_lists(
    submissions: Submissions, new: New, tmp_path: Path
) -> None:
    names = {reviewed(submissions, new, label, correct=True): label for label in HOSTILE}
    root = tmp_path / "to"
    done = export(submissions, str(root))
    assert done.photos == len(HOSTILE)
    assert {path.name for path in tmp_path.iterdir()} >= {"to"}
    assert not (tmp_path.parent / "etc").exists()
    catalogue = list_photos([str(root)])
    listed = {Path(row["uri"]).stem: row["label"] for row in catalogue.table.select(["uri", "label"]).to_pylist()}
    assert {name: label_folder(label) for name, label in names.items()} == listed
    assert set(catalogue.skipped) == {"hidden"}, catalogue.examples
    same = {label for label in HOSTILE if label_folder(label) == label}
    assert {"100% apple", "-rf", "日本の柿", "~"} <= same
    for label in HOSTILE:  # gone again, all of them
        submissions.review(next(name for name, of in names.items() if of == label), "refused", reviewer="me")
    assert export(submissions, str(root)).removed == len(HOSTILE)
    assert {path.name for path in root.iterdir()} == {".fruits-export"}


@given(st.text(st.characters(exclude_categories=()), max_size=300), st.text(max_size=8))
def test_any_label_is_a_safe_folder_of_its_own(label: str, other: str) -> None:
    name = label_folder(label)
    assert name
    assert name not in (".", "..")
    assert not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>|\x00\n')
    assert name == name.strip()
    assert not name.endswith(".")
    assert len(name.encode()) <= 180
    assert split_of(name) is None
    assert not is_system_folder(name)
    assert unicodedata.is_normalized("NFC", name)
    if clean_line(label) and clean_line(other) and clean_line(label) != clean_line(other):
        assert name != label_folder(other)


def test_labels_that_look_alike_do_not_share_a_folder() -> None:
    labels = [
        "a/b",
        "a~2Fb",
        "a~7E2Fb",
        "a_b",
        "a\\b",
        "test",
        "~74est",
        "x.",
        "x~2E",
        "a" * 181,
        "a" * 182,
        "é" * 100,
        "é" * 101,
    ]
    assert len({label_folder(label) for label in labels}) == len(labels)


@pytest.mark.slow
def test_a_folder_in_a_bucket_is_the_same(submissions: Submissions, new: New, prefix: str) -> None:
    names = {
        label: reviewed(submissions, new, label, correct=True) for label in ("Pear", "a/b", "100% <b>", "日本の柿")
    }
    done = export(submissions, f"{prefix}/to")
    objects = Objects(f"{prefix}/to")
    expected = {f"{label_folder(label)}/{name}.jpg" for label, name in names.items()}
    assert {found.key for found in objects.list() if found.key.endswith(".jpg")} == expected
    assert done.photos == 4
    submissions.remove(names["a/b"])
    done = export(submissions, f"{prefix}/to")
    assert (done.photos, done.written, done.removed) == (3, 0, 1)
    assert {found.key for found in objects.list() if found.key.endswith(".jpg")} == expected - {
        f"a~2Fb/{names['a/b']}.jpg"
    }


def test_photos_in_a_bucket_are_kept_exported_and_forgotten(
    database_url: str, new: New, prefix: str, tmp_path: Path
) -> None:
    from fruits.service.submissions.database import Database

    database = Database.open(database_url)
    objects = Objects(f"{prefix}/kept")
    submissions = Submissions(database, objects, keep_days=30)
    stays, goes = (reviewed(submissions, new, label) for label in ("A", "B"))
    assert submissions.photo(goes) == mark(photo("B"), ConsentMark(goes, False))
    assert json.dumps(sorted(found.key for found in objects.list())) == json.dumps(
        sorted(f"{n}.jpg" for n in (stays, goes))
    )
    export(submissions, str(tmp_path / "to"))
    submissions.remove(goes)
    submissions.purge()
    assert [found.key for found in objects.list() if found.key.endswith(".jpg")] == [f"{stays}.jpg"]
    export(submissions, str(tmp_path / "to"))
    assert set(files(tmp_path / "to")) == {f"A/{stays}.jpg"}
    database.close()


def test_what_is_exported_is_for_this_user_alone(submissions: Submissions, new: New, tmp_path: Path) -> None:
    reviewed(submissions, new, "A")
    to = tmp_path / "deep" / "to"
    export(submissions, str(to))
    assert {path.stat().st_mode & 0o777 for path in to.rglob("*.jpg")} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (to, to / "A", to / ".fruits-export")} == {0o700}
    for path in to.rglob("*.jpg"):
        path.chmod(0o644)  # as older versions wrote it
    (to / ".fruits-export" / "piece").touch(0o644)
    reviewed(submissions, new, "B")
    assert export(submissions, str(to)).written == 1
    assert {path.stat().st_mode & 0o777 for path in to.rglob("*.jpg")} == {0o600}


def test_a_folder_of_somebody_elses_files_takes_no_export(submissions: Submissions, new: New, to: Path) -> None:
    reviewed(submissions, new, "A")
    (to / "Pear").mkdir()
    (to / "photo.JPG").touch()
    (to / ".hidden").touch()
    export(submissions, str(to))
    other = to.with_name("other")
    other.mkdir()
    (other / "report.html").write_text("theirs")
    with pytest.raises(StoreError, match=r"holds 'report.html'"):
        export(submissions, str(other))
    assert [path.name for path in other.iterdir()] == ["report.html"]
