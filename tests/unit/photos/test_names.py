"""What names of folders mean, on a disk and in manifests: splits in four languages, systems' own folders, labels nobody sees."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.errors import CatalogueError
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.catalogue.manifests import manifest as manifests
from fruits.photos.catalogue.names import SYSTEM_FOLDERS, label_of, repeated_levels, split_of

JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG_HEAD)
    return root


def splits(found: Catalogue) -> dict[str, str]:
    return {row["uri"].split("/")[-3]: row["split"] for row in found.table.to_pylist()}


def labels(found: Catalogue) -> set[str]:
    return set(found.table["label"].to_pylist())


# --- Splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "dev", "eval"),
        ("Training", "valid", "Evaluation"),
        ("Entrainement", "Validation", "Essai"),
        ("Entraînement", "validation", "Évaluation"),
        (unicodedata.normalize("NFD", "Entraînement"), "VALIDATION", unicodedata.normalize("NFD", "évaluation")),
        ("entrenamiento", "validación", "prueba"),
        ("Trainingsdaten", "Validierung", "Prüfung"),
        ("train_set", "val-set", "Test Set"),
        ("trainset", "validation split", "TESTING"),
    ],
)
def test_splits_are_known_in_four_languages(tmp_path: Path, train: str, val: str, test: str) -> None:
    make(tmp_path, *(f"{folder}/{label}/1.jpg" for folder in (train, val, test) for label in ("Apple", "Pear")))
    found = list_photos([str(tmp_path)])
    assert splits(found) == {train: "train", val: "val", test: "test"}
    assert found.split_origin == "folders"
    assert found.warnings == []
    assert found.split_folders == {train: "train", val: "val", test: "test"}
    assert any(f"{val}/ is val" in remark for remark in found.remarks())


@pytest.mark.parametrize("name", ["Apple", "Trainer", "Pretest", "Set", "devil", "1", "train 2", "", "Testarossa"])
def test_other_names_are_no_splits(name: str) -> None:
    assert split_of(name) is None


def test_labels_repeated_under_unknown_names_are_a_warning_that_names_the_folders(tmp_path: Path) -> None:
    make(tmp_path, *(f"{folder}/{label}/1.jpg" for folder in ("lot A", "lot B") for label in ("Apple", "Pear")))
    [warning] = list_photos([str(tmp_path)]).warnings
    assert "'lot A', 'lot B'" in warning


def test_unknown_folder_beside_a_split_is_named_and_the_split_is_not(tmp_path: Path) -> None:
    make(
        tmp_path, *(f"{folder}/{label}/1.jpg" for folder in ("Train", "Holdout", "Test") for label in ("Apple", "Pear"))
    )
    [warning] = list_photos([str(tmp_path)]).warnings
    assert "'Holdout'" in warning
    assert "'Train'" not in warning


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        ([("x", "Fruit", "Apple"), ("x", "Fruit", "Pear"), ("x", "Nuts", "Almond")], []),
        ([("Apple",), ("Pear",)], []),
        ([("d", "1", "Apple"), ("d", "2", "Apple")], [("d", ["1", "2"])]),
        ([("a", "Apple"), ("b", "Apple"), ("b", "Pear"), ("b", "Plum"), ("b", "Fig")], [("", ["a"])]),
        ([("train", "one", "Apple"), ("train", "two", "Pear"), ("test", "one", "Apple")], []),
    ],
)
def test_any_level_that_repeats_labels_is_found(
    folders: list[tuple[str, ...]], named: list[tuple[str, list[str]]]
) -> None:
    assert repeated_levels(folders) == named


@pytest.mark.parametrize("name", ["dev", "eval", "essai"])
def test_source_called_as_a_common_word_is_a_split_only_beside_another(tmp_path: Path, name: str) -> None:
    make(tmp_path / name, *(f"{label}/{number}.jpg" for label in "ab" for number in range(20)))
    make(tmp_path / "train", "a/1.jpg", "b/2.jpg")
    assert list_photos([str(tmp_path / name)]).split_origin == "hash"
    both = list_photos([str(tmp_path / "train"), str(tmp_path / name)])
    assert splits(both) == {"train": "train", name: "val" if name == "dev" else "test"}


# --- Folders of systems -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SYSTEM_FOLDERS, "@eaDir", "$RECYCLE.BIN", "FOUND.000", "System Volume Information"])
def test_folders_of_systems_are_skipped_wherever_they_are(tmp_path: Path, name: str) -> None:
    make(tmp_path, "Apple/1.jpg", "Pear/2.jpg", f"{name}/Plum/3.jpg", f"Apple/{name}/4.jpg/thumb.jpg", f"{name}/5.jpg")
    found = list_photos([str(tmp_path)])
    assert labels(found) == {"Apple", "Pear"}
    assert found.skipped == {"system folder": 2}
    assert sorted(found.examples["system folder"]) == sorted([name, f"Apple/{name}"])
    assert len(list_photos([str(tmp_path)], labelled=False).table) == 2


@pytest.mark.parametrize("name", ["#1 apple", "@home", "$5 bill", "Recycle", "found.jpg", "lost and found", "snapshot"])
def test_folders_of_people_are_labels(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"{name}/1.jpg", "Pear/2.jpg")
    assert labels(list_photos([str(tmp_path)])) == {name, "Pear"}


def test_folder_of_a_system_that_is_named_as_the_source_is_listed(tmp_path: Path) -> None:
    make(tmp_path / "#recycle", "Apple/1.jpg", "Pear/2.jpg")
    assert labels(list_photos([str(tmp_path / "#recycle")])) == {"Apple", "Pear"}


# --- Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [" ", "  ", "\u3000", "\u200b", "\u2800", "\u3164", "\t", "\u00ad \ufeff", "\u0301"])
def test_label_that_shows_nothing_is_none(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"{name}/1.jpg", "Apple/1.jpg", "Training/Apple/2.jpg", f"Training/{name}/3.jpg")
    found = list_photos([str(tmp_path)])
    assert labels(found) == {"Apple"}
    assert found.skipped == {"no label": 2}


@given(st.text(st.characters(codec="utf-8")))
def test_label_is_in_one_spelling_and_not_blank(name: str) -> None:
    if (label := label_of(name)) is not None:
        assert label == unicodedata.normalize("NFC", label).strip() != ""


# --- Choosing labels --------------------------------------------------------------------------------------------------


def chosen(root: Path, *only: str) -> set[str]:
    return labels(list_photos([str(root)], only=only))


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    names = ("Apple [red]", "Apple d", "Pêche", "Poire *", "Poire 2", "What?")
    return make(tmp_path, *(f"{name}/{number}.jpg" for name in names for number in range(2)))


def test_exact_name_always_matches(shelf: Path) -> None:
    assert chosen(shelf, "Apple [red]") == {"Apple [red]", "Apple d"}  # as a pattern, [red] is one of three letters
    assert chosen(shelf, "What?") == {"What?"}
    assert chosen(shelf, "Poire *") == {"Poire *", "Poire 2"}
    assert chosen(shelf, "Apple d") == {"Apple d"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_patterns_match_in_any_unicode_form(shelf: Path, form: str) -> None:
    assert chosen(shelf, unicodedata.normalize(form, "Pêche")) == {"Pêche"}
    assert chosen(shelf, unicodedata.normalize(form, "Pê*")) == {"Pêche"}


def test_each_pattern_without_a_match_is_an_error_that_names_it(shelf: Path) -> None:
    with pytest.raises(CatalogueError, match=r"matches 'Plum', 'Fig \*'; labels there: Apple \[red\]"):
        chosen(shelf, "Plum", "Apple*", "Fig *")


# --- Manifests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["file://", "file:", "FILE://", "file://localhost"])
def test_file_uris_are_read(tmp_path: Path, prefix: str) -> None:
    make(tmp_path, "a b/é#1.jpg", "100%25.jpg", "c.jpg", "d?.jpg")
    quoted = "a%20b/%C3%A9%231.jpg"
    uris = [quoted, "100%25.jpg", "c.jpg", "d?.jpg"]
    (tmp_path / "m.csv").write_text(
        "uri,label\n" + "".join(f"{prefix}{str(tmp_path).replace(' ', '%20')}/{uri},x\n" for uri in uris)
    )
    found = list_photos([str(tmp_path / "m.csv")])
    files = {Path(uri).relative_to(tmp_path.resolve()).as_posix() for uri in found.table["uri"].to_pylist()}
    assert files == {"a b/é#1.jpg", "100%25.jpg", "c.jpg", "d?.jpg"}  # there is no 100%.jpg, so the name is itself
    assert "missing" not in found.table["version"].to_pylist()


def test_file_uri_of_another_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,label\nfile://nas/photos/1.jpg,a\n")
    with pytest.raises(CatalogueError, match=r"row 1.*another machine; expected file:///path"):
        list_photos([str(tmp_path / "m.csv")])


def test_file_uri_whose_name_is_not_utf8_is_skipped(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg")
    (tmp_path / "m.csv").write_text(f"uri,label\nfile://{tmp_path}/%E9.jpg,a\n1.jpg,a\n")
    assert list_photos([str(tmp_path / "m.csv")]).skipped == {"name is not UTF-8": 1}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_source_of_a_manifest_is_a_column_of_the_catalogue(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, "1.jpg", "2.jpg", "3.jpg", "folders/a/4.jpg", "folders/b/5.jpg")
    table = {"uri": ["1.jpg", "2.jpg", "3.jpg"], "label": ["a", "a", "b"], "source": ["market, Lyon", "", "phone"]}
    path = tmp_path / f"m.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(table), path)
    else:
        path.write_text('uri,label,source\n1.jpg,a,"market, Lyon"\n2.jpg,a,\n3.jpg,b,phone\n')
    found = list_photos([str(path), str(tmp_path / "folders")]).table
    said = {Path(row["uri"]).name: row["manifest_source"] for row in found.to_pylist()}
    assert said == {"1.jpg": "market, Lyon", "2.jpg": None, "3.jpg": "phone", "4.jpg": None, "5.jpg": None}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_manifest_that_is_too_large_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    with (tmp_path / f"m.{suffix}").open("wb") as file:
        file.write(b"uri,label\n")
        file.truncate(40 << 30)
    with pytest.raises(CatalogueError, match="42,949,672,960 bytes; expected at most"):
        list_photos([str(tmp_path / f"m.{suffix}")])


def test_manifest_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["x" * (1 << 20)])  # 5 GB if unpacked
    pq.write_table(pa.table({"uri": long, "label": ["a"] * 5000}), tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").stat().st_size < 1 << 20
    with pytest.raises(CatalogueError, match="a value of 1,048,576 bytes in column uri"):
        list_photos([str(tmp_path / "m.parquet")])
    make(tmp_path, "1.jpg")
    monkeypatch.setattr(manifests, "_MAX_GROUP", 10)
    pq.write_table(pa.table({"uri": ["1.jpg"] * 5000, "label": ["a"] * 5000}), tmp_path / "m.parquet")
    with pytest.raises(CatalogueError, match=r"row group 0 takes .* fewer rows per group"):
        list_photos([str(tmp_path / "m.parquet")])


def test_line_without_an_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"uri,label\n" + bytes(8 << 20))
    with pytest.raises(CatalogueError, match=r"m\.csv"):
        list_photos([str(tmp_path / "m.csv")])
