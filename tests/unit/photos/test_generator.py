"""What the generated fruit promises: same arguments, same photos; laid out as Fruits-360; labels worth learning."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fruits.errors import ConfigError
from fruits.photos.generated import generator
from fruits.photos.generated.rendering import Variety

FILE_NAME = re.compile(r"(r\d*_)?\d+_100\.jpg")


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def small(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((12, 12), Image.Resampling.BOX), np.float64).ravel()


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    assert generator.write_photos(root, photos=97, varieties=8, seed=5, workers=1) == 97
    return root


def test_there_are_enough_varieties_of_enough_kinds() -> None:
    assert len(generator.VARIETIES) >= 24
    assert len({v.kind for v in generator.VARIETIES}) >= 8
    assert len({v.name for v in generator.VARIETIES}) == len(generator.VARIETIES)
    assert all(v.name.startswith(v.kind + " ") for v in generator.VARIETIES)


@pytest.mark.parametrize("variety", generator.VARIETIES, ids=lambda v: v.name)
def test_every_variety_is_a_textured_fruit_on_white_that_fills_the_frame(variety: Variety) -> None:
    pixels = generator.photo(variety, "r", 40)
    assert pixels.shape == (100, 100, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    fruit = (pixels < 250).any(axis=2)
    assert 0.2 < fruit.mean() < 0.9
    height, width = (np.ptp(np.flatnonzero(fruit.any(axis=axis))) + 1 for axis in (1, 0))
    assert max(height, width) >= 94
    assert pixels[fruit].std(axis=0).max() > 15  # light and texture, not a flat blob


def test_same_arguments_give_the_same_pixels_even_when_the_fruit_is_grown_again() -> None:
    first = generator.photo(generator.VARIETIES[3], "r2", 17, seed=9)
    generator._fruit.cache_clear()
    assert (generator.photo(generator.VARIETIES[3], "r2", 17, seed=9) == first).all()


def test_another_seed_photographs_another_fruit() -> None:
    photos = [generator.photo(generator.VARIETIES[0], "", 0, seed=seed) for seed in (0, 1)]
    assert difference(*photos) > 2


@pytest.mark.parametrize("axis", ["", "r", "r2"])
def test_neighbouring_frames_are_nearly_alike_and_distant_ones_are_not(axis: str) -> None:
    here, next_to_it, far = (generator.photo(generator.VARIETIES[0], axis, frame) for frame in (50, 51, 160))
    assert 0 < difference(here, next_to_it) < 0.4 * difference(here, far)


def test_a_turn_ends_where_it_began() -> None:
    start, last, half = (generator.photo(generator.VARIETIES[1], "r", frame) for frame in (0, 327, 164))
    assert difference(start, last) < 0.4 * difference(start, half)


def test_sequences_and_second_fruits_differ() -> None:
    sequences = [generator.photo(generator.VARIETIES[0], axis, 0) for axis in ("", "r", "r2", "r3")]
    assert min(difference(a, b) for i, a in enumerate(sequences) for b in sequences[:i]) > 2


@pytest.mark.parametrize("size", [48, 61, 160])
def test_any_size(size: int) -> None:
    pixels = generator.photo(generator.VARIETIES[2], "", 0, size=size)
    assert pixels.shape == (size, size, 3)
    at_100 = generator.photo(generator.VARIETIES[2], "", 0)
    # The same picture, up to what the smaller of the two cannot hold.
    assert np.abs(small(pixels) - small(at_100)).mean() < 12


@pytest.mark.parametrize(("axis", "frame", "size"), [("x", 0, 100), ("r1", 0, 100), ("", -1, 100), ("", 0, 15)])
def test_impossible_photos_are_refused(axis: str, frame: int, size: int) -> None:
    with pytest.raises(ConfigError, match="expected"):
        generator.photo(generator.VARIETIES[0], axis, frame, size=size)


def test_layout_and_names_are_those_of_fruits_360(planted: Path) -> None:
    names = [v.name for v in generator.VARIETIES[:8]]
    for path in contents(planted):
        split, label, name = path.split("/")
        assert split in ("Training", "Test")
        assert label in names
        assert FILE_NAME.fullmatch(name)
    sequences = {re.sub(r"_?\d+_100.jpg", "", p.name) for p in planted.glob(f"*/{names[0]}/*")}
    assert sequences == {"", "r", "r2"}


def test_files_are_plain_jpegs_of_100_pixels(planted: Path) -> None:
    data = next(iter(contents(planted).values()))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (100, 100), "RGB")
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert np.asarray(image)[[0, 0, -1, -1], [0, -1, 0, -1]].min() >= 253


def test_photos_are_spread_evenly_and_both_splits_hold_every_label(planted: Path) -> None:
    files = [path.split("/") for path in contents(planted)]
    per_label = {label: sum(f[1] == label for f in files) for _, label, _ in files}
    assert sorted(per_label.values()) == [12] * 7 + [13]
    assert {f[1] for f in files if f[0] == "Test"} == {f[1] for f in files if f[0] == "Training"} == set(per_label)
    assert sum(f[0] == "Test" for f in files) == 24


@given(n=st.integers(1, 20_000), test_share=st.floats(0, 1))
def test_any_number_of_photos_is_planned_exactly_once_each(n: int, test_share: float) -> None:
    shots = [shot for shoot in generator._shoots(n, test_share) for shot in shoot]
    assert len({(axis, frame) for axis, frame, _ in shots}) == len(shots) == n
    assert max(frame for _, frame, _ in shots) < generator.FRAMES_PER_TURN
    assert abs(sum(split == "Test" for *_, split in shots) - n * test_share) <= 0.51  # rounding, no more


@given(sequence=st.integers(0, 10_000))
def test_every_sequence_has_a_name_of_its_own(sequence: int) -> None:
    assert generator._sequence_of(generator._axis_of(sequence)) == sequence


def test_killed_planting_is_completed_to_the_same_bytes(planted: Path, tmp_path: Path) -> None:
    assert generator.write_photos(tmp_path, photos=97, varieties=8, seed=5, workers=1) == 97
    whole = contents(tmp_path)
    assert whole == contents(planted)
    lost = sorted(whole)[::5]
    for path in lost:
        (tmp_path / path).unlink()
    # What a kill in the middle of a write leaves behind.
    (tmp_path / lost[0]).with_suffix(".part").write_bytes(b"half a pho")
    done: list[int] = []
    assert generator.write_photos(tmp_path, photos=97, varieties=8, seed=5, workers=1, progress=done.append) == len(
        lost
    )
    assert sum(done) == 97
    assert contents(tmp_path) == whole


def test_two_workers_write_the_bytes_of_one(planted: Path, tmp_path: Path) -> None:
    done: list[int] = []
    assert generator.write_photos(tmp_path, photos=97, varieties=8, seed=5, workers=2, progress=done.append) == 97
    assert sum(done) == 97
    assert contents(tmp_path) == contents(planted)


def test_further_varieties_are_made_up_with_names_of_their_own(tmp_path: Path) -> None:
    many = generator.generate_varieties(300, seed=3)
    assert many[: len(generator.VARIETIES)] == generator.VARIETIES
    assert len({v.name for v in many}) == 300
    assert generator.generate_varieties(40, seed=3) == many[:40]
    assert generator.generate_varieties(40, seed=4) != many[:40]
    n = len(generator.VARIETIES) + 3
    assert generator.write_photos(tmp_path, photos=n, varieties=n, workers=1, test_share=0.0) == n
    assert len(list(tmp_path.glob("Training/*"))) == n


@pytest.mark.parametrize(
    "numbers",
    [
        {"photos": 5, "varieties": 6},
        {"photos": 5, "varieties": 0},
        {"photos": 30, "varieties": 3, "test_share": 1.5},
        {"photos": 30, "varieties": 3, "workers": 0},
    ],
)
def test_numbers_that_contradict_each_other_are_refused_before_anything_is_written(
    tmp_path: Path, numbers: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match="expected"):
        generator.write_photos(tmp_path, **numbers)
    assert not list(tmp_path.iterdir())


def test_labels_carry_signal_for_the_simplest_classifier() -> None:
    varieties = generator.VARIETIES[:12]  # one of each kind
    means = np.stack(
        [np.mean([small(generator.photo(v, "r", f)) for f in range(0, 328, 41)], axis=0) for v in varieties]
    )
    seen = np.stack([small(generator.photo(v, "r", f)) for v in varieties for f in (20, 110, 300)])
    guessed = np.argmin(((seen[:, None] - means[None]) ** 2).sum(axis=2), axis=1)
    assert np.mean(guessed == np.repeat(np.arange(12), 3)) > 0.8


def test_near_twins_are_closer_to_each_other_than_to_other_kinds() -> None:
    def colour(name: str) -> np.ndarray:
        variety = next(v for v in generator.VARIETIES if v.name == name)
        return np.mean([generator.photo(variety, "r", f).mean(axis=(0, 1)) for f in range(0, 328, 82)], axis=0)

    for one, other in (("Apfelino Red 1", "Apfelino Red 2"), ("Duskplum Blue 1", "Duskplum Blue 2")):
        twin = np.abs(colour(one) - colour(other)).sum()
        assert twin < 0.5 * np.abs(colour(one) - colour("Sunglobe Orange")).sum()


def test_drupelets_are_round_and_many() -> None:
    def roughness(name: str) -> float:
        variety = next(v for v in generator.VARIETIES if v.name == name)
        middle = generator.photo(variety, "", 0)[30:70, 30:70].astype(int).sum(axis=2)
        return float(np.mean(np.abs(np.diff(middle, axis=1)) > 24))

    # Edges all over a berry, and none on a smooth skin.
    assert roughness("Glimmer Berry Amber") > 0.4
    assert roughness("Cherrine Dark") < 0.25
