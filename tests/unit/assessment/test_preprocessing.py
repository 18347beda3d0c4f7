"""Treatments of photos against pixels worked out by hand, and how treatments are compared and combined."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fruits.assessment.study.preprocessing.study import (
    Scored,
    StudyOptions,
    combined,
    keep_in_card,
    paired_gain,
    random_half,
)
from fruits.assessment.study.preprocessing.treated import Variant, unpadded
from fruits.assessment.study.preprocessing.treatments import (
    NAMED,
    TREATMENTS,
    activity_of,
    closer_look,
    coloured,
    equalised,
    sharpened,
    squares,
    white_balanced,
    without_background,
)
from fruits.embedding.backbone import find_backbone, training_photos
from fruits.errors import ConfigError
from fruits.photos.decoding.images import Preprocessing, from_image, to_network_input

WIDE = np.zeros((40, 80, 3), np.uint8)
WIDE[:, :20], WIDE[:, 20:60], WIDE[:, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
NOISE = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)


@pytest.mark.parametrize("geometry", ["pad", "crop", "squash"])
def test_geometry_is_that_of_the_decoder(geometry: str) -> None:
    (own,) = squares(NOISE, 32, geometry)
    decoder = from_image(Image.fromarray(NOISE), Preprocessing(32, geometry)).pixels  # type: ignore[arg-type]
    assert np.array_equal(own, decoder)
    assert NAMED[geometry].exact
    assert [one.name for one in TREATMENTS if one.exact] == ["pad", "crop", "squash"], "the decoder does nothing else"


def test_a_padded_photo_loses_its_padding_and_nothing_else() -> None:
    for shape in ((60, 90), (90, 60), (64, 64), (200, 31)):
        photo = np.random.default_rng(1).integers(0, 200, (*shape, 3)).astype(np.uint8)
        out = BytesIO()
        Image.fromarray(photo).save(out, "PNG")
        whole = unpadded(to_network_input(out.getvalue(), Preprocessing(max(shape), "pad")))
        assert np.array_equal(whole, photo)


def test_five_crops_are_the_middle_and_the_corners() -> None:
    crops = squares(WIDE, 16, "pad", "crops")
    assert len(crops) == NAMED["crops"].views == 5
    centre, *corners = (crop.reshape(-1, 3).mean(axis=0).argmax() for crop in crops)
    assert centre == 1
    assert corners == [0, 2, 0, 2]


def test_augmented_views_are_the_photo_its_mirror_and_two_more() -> None:
    whole, mirrored, closer, turned = squares(NOISE, 32, "squash", "augment")
    assert np.array_equal(whole, squares(NOISE, 32, "squash")[0])
    assert np.array_equal(mirrored, whole[:, ::-1])
    assert closer.shape == turned.shape == whole.shape
    assert len({view.tobytes() for view in (whole, mirrored, closer, turned)}) == NAMED["augment"].views


@pytest.mark.parametrize("geometry", ["pad", "crop", "squash"])
def test_the_closer_look_goes_where_the_network_is_active(geometry: str) -> None:
    activity = np.zeros((8, 8), np.float32)
    assert closer_look(WIDE, 16, geometry, activity).reshape(-1, 3).mean(axis=0).argmax() == 1, "nowhere: the middle"
    activity[3:5, 0] = 1  # the left edge of what the network sees
    expected = 1 if geometry == "crop" else 0  # cropped, it sees the middle alone
    assert closer_look(WIDE, 16, geometry, activity).reshape(-1, 3).mean(axis=0).argmax() == expected
    activity[:] = 0
    activity[3:5, 7] = 1
    expected = 1 if geometry == "crop" else 2
    assert closer_look(WIDE, 16, geometry, activity).reshape(-1, 3).mean(axis=0).argmax() == expected


def test_activity_is_the_root_mean_square_over_features() -> None:
    maps = np.zeros((1, 2, 1, 2), np.float32)
    maps[0, :, 0, 0], maps[0, :, 0, 1] = (3, 4), (-6, 8)
    assert activity_of(maps) == pytest.approx(np.array([[[12.5**0.5, 50**0.5]]]))


def test_white_balance_takes_a_cast_away_within_limits() -> None:
    grey = np.random.default_rng(2).integers(60, 140, (30, 30, 1)).repeat(3, axis=2).astype(np.uint8)
    assert np.array_equal(white_balanced(grey), grey)
    warm = np.clip(grey * np.array([1.2, 1.0, 0.8]), 0, 255).astype(np.uint8)
    means = white_balanced(warm).reshape(-1, 3).mean(axis=0)
    assert means == pytest.approx(means.mean(), rel=0.01)
    red = np.full((8, 8, 3), (250, 10, 10), np.uint8)
    assert white_balanced(red)[0, 0].tolist() == [156, 16, 16], "a red photo stays red: factors end at 1.6"


def test_sharpening_raises_the_step_of_an_edge() -> None:
    edge = np.full((20, 20, 3), 100, np.uint8)
    edge[:, 10:] = 150
    sharp = sharpened(edge)
    assert sharp[10, 9].max() < 100
    assert sharp[10, 10].min() > 150
    assert sharp[10, 0].tolist() == [100, 100, 100], "flat parts stay"


def test_local_contrast_is_raised_and_limited_and_colours_stay() -> None:
    dull = np.random.default_rng(4).integers(100, 131, (64, 64, 1)).repeat(3, axis=2).astype(np.uint8)
    raised = equalised(dull)
    assert raised.std() > 1.5 * dull.std()
    assert np.ptp(raised.astype(int)) < 255, "the contrast is limited"
    flat = np.full((64, 64, 3), (200, 50, 50), np.uint8)
    assert equalised(flat).shape == flat.shape
    hue = equalised(NOISE).reshape(-1, 3).mean(axis=0) - NOISE.reshape(-1, 3).mean(axis=0)
    assert np.ptp(hue) < 6
    for shape in ((1, 1, 3), (3, 200, 3), (9, 7, 3)):  # fewer pixels than tiles
        assert equalised(np.full(shape, 9, np.uint8)).shape == shape


def test_a_background_like_the_border_becomes_white_and_the_fruit_stays() -> None:
    rng = np.random.default_rng(3)
    photo = (rng.normal(90, 6, (80, 80, 1)) + np.array([0, 10, 30])).clip(0, 255).astype(np.uint8)
    photo[25:55, 30:60] = (220, 40, 30)
    photo[38:42, 43:47] = (90, 100, 120)  # a spot of the background's colour, within the fruit
    bare = without_background(photo)
    assert (bare[:15] == 255).all()
    assert np.array_equal(bare[28:52, 33:57], photo[28:52, 33:57]), "holes are filled"
    # Nothing stands out, or everything does: left as it is.
    assert np.array_equal(without_background(photo[:20, :20]), photo[:20, :20])
    busy = NOISE.copy()
    assert np.array_equal(without_background(busy), busy)


def test_treatments_of_colour_follow_each_other() -> None:
    assert np.array_equal(coloured(NOISE, ("sharpen", "clahe")), equalised(sharpened(NOISE)))
    assert coloured(NOISE, ()) is NOISE


def test_a_way_has_one_geometry_one_kind_of_views_and_any_colour() -> None:
    variant = (
        Variant("pad").with_treatment("crop").with_treatment("clahe").with_treatment("crops").with_treatment("augment")
    )
    assert (variant.geometry, variant.views, variant.colour) == ("crop", "augment", ("clahe",))
    assert variant.parts == ["crop", "clahe", "augment"]
    assert (variant.passes, Variant("pad").passes) == (4, 1)


def test_a_gain_is_paired_and_its_interval_is_over_groups() -> None:
    base = np.array([True, False] * 50)
    better = base.copy()
    better[1:21:2] = True  # ten more are right
    gain, error, low, high = paired_gain(better, base, np.arange(100))
    assert gain == pytest.approx(0.1)
    assert error == pytest.approx((0.1 * 0.9 / 100) ** 0.5, rel=0.1)
    assert low < 0.1 < high
    # The same ten in one group of 20: much less is known.
    few = np.repeat(np.arange(5), 20)
    assert paired_gain(better, base, few)[1] > 2 * error
    assert paired_gain(base, base, few) == (0.0, 0.0, 0.0, 0.0)


def variants_and_scores(**gains: int) -> tuple[dict[str, Variant], dict[str, Scored]]:
    """Treatments that are right on so many more (or fewer) of 200 photos than the base, which is right on 100."""
    base = np.arange(200) % 2 == 0
    variants, scored = {"": Variant("pad")}, {"": Scored(np.arange(200), base, None)}
    for name, gain in gains.items():
        right = base.copy()
        right[np.flatnonzero(base != (gain > 0))[: abs(gain)]] = gain > 0
        variants[name], scored[name] = Variant("pad").with_treatment(name), replace(scored[""], right=right)
    return variants, scored


def test_what_helps_is_combined_and_what_does_not_is_left_out() -> None:
    variants, scored = variants_and_scores(crop=20, squash=10, crops=5, augment=30, clahe=12, sharpen=-20, background=0)
    every, groups = np.ones(200, bool), np.arange(200)
    assert combined(Variant("pad"), variants, scored, groups, every) == Variant("crop", "augment", ("clahe",))
    nothing, unchanged = variants_and_scores(sharpen=-20, closer=0)
    assert combined(Variant("pad"), nothing, unchanged, groups, every) == Variant("pad")
    # On the rows of a half in which a treatment changes nothing, it is not chosen.
    last = np.arange(200) >= 150
    assert combined(Variant("pad"), variants, scored, groups, last) == Variant("pad")


def test_halves_divide_groups_and_no_group_is_in_both() -> None:
    groups = np.repeat(np.arange(21), 3)
    half = random_half(groups)
    assert {len(set(half[groups == group].tolist())) for group in range(21)} == {1}
    assert half.sum() in (30, 33)
    assert np.array_equal(half, random_half(groups))


def test_the_best_geometry_is_kept_in_a_card_that_a_run_reads(tmp_path: Path) -> None:
    kept = keep_in_card("fruits-small", "crop", tmp_path / "mine.onnx")
    found, first = find_backbone(kept), find_backbone("fruits-small")
    assert (found.card.name, found.card.fit, first.card.fit) == ("mine", "crop", "pad")
    assert found.network == first.network
    assert found.card.preprocessing(None, None).fit == "crop"
    seen = training_photos(found.card, kept)
    assert seen is not None
    assert np.array_equal(seen, training_photos(first.card, "fruits-small"))
    with pytest.raises(ConfigError, match="not there yet"):
        StudyOptions(keep=kept)


def test_unknown_treatments_and_protocols_are_named() -> None:
    with pytest.raises(ConfigError, match="treatments='rotate': expected some of pad, crop"):
        StudyOptions(treatments=("rotate",))
    with pytest.raises(ConfigError, match="expected one of official"):
        StudyOptions(protocol="offical")
