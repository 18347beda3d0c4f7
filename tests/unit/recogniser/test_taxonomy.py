"""What labels mean: the table in the package, a user's own, and what is stored with a recogniser."""

from __future__ import annotations

import csv
import json
import tracemalloc
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.errors import TaxonomyError
from fruits.messages import LANGUAGES
from fruits.recogniser.taxonomy import NONE, Taxonomy, in_a_sentence

# Of the data set's own page, version 2020.05.18.
FRUITS_360 = """
Apple Braeburn, Apple Crimson Snow, Apple Golden 1, Apple Golden 2, Apple Golden 3, Apple Granny Smith, Apple Pink Lady,
Apple Red 1, Apple Red 2, Apple Red 3, Apple Red Delicious, Apple Red Yellow 1, Apple Red Yellow 2, Apricot, Avocado,
Avocado ripe, Banana, Banana Lady Finger, Banana Red, Beetroot, Blueberry, Cactus fruit, Cantaloupe 1, Cantaloupe 2,
Carambula, Cauliflower, Cherry 1, Cherry 2, Cherry Rainier, Cherry Wax Black, Cherry Wax Red, Cherry Wax Yellow, Chestnut,
Clementine, Cocos, Corn, Corn Husk, Cucumber Ripe, Cucumber Ripe 2, Dates, Eggplant, Fig, Ginger Root, Granadilla,
Grape Blue, Grape Pink, Grape White, Grape White 2, Grape White 3, Grape White 4, Grapefruit Pink, Grapefruit White, Guava,
Hazelnut, Huckleberry, Kaki, Kiwi, Kohlrabi, Kumquats, Lemon, Lemon Meyer, Limes, Lychee, Mandarine, Mango, Mango Red,
Mangostan, Maracuja, Melon Piel de Sapo, Mulberry, Nectarine, Nectarine Flat, Nut Forest, Nut Pecan, Onion Red,
Onion Red Peeled, Onion White, Orange, Papaya, Passion Fruit, Peach, Peach 2, Peach Flat, Pear, Pear 2, Pear Abate,
Pear Forelle, Pear Kaiser, Pear Monster, Pear Red, Pear Stone, Pear Williams, Pepino, Pepper Green, Pepper Orange,
Pepper Red, Pepper Yellow, Physalis, Physalis with Husk, Pineapple, Pineapple Mini, Pitahaya Red, Plum, Plum 2, Plum 3,
Pomegranate, Pomelo Sweetie, Potato Red, Potato Red Washed, Potato Sweet, Potato White, Quince, Rambutan, Raspberry,
Redcurrant, Salak, Strawberry, Strawberry Wedge, Tamarillo, Tangelo, Tomato 1, Tomato 2, Tomato 3, Tomato 4,
Tomato Cherry Red, Tomato Heart, Tomato Maroon, Tomato Yellow, Tomato not Ripened, Walnut, Watermelon
"""
# Fruit and vegetables of the data set's classes.csv.
GROCERY_STORE = """
Anjou, Asparagus, Aubergine, Avocado, Banana, Beef-Tomato, Brown-Cap-Mushroom, Cabbage, Cantaloupe, Carrots, Conference,
Cucumber, Floury-Potato, Galia-Melon, Garlic, Ginger, Golden-Delicious, Granny-Smith, Green-Bell-Pepper, Honeydew-Melon,
Kaiser, Kiwi, Leek, Lemon, Lime, Mango, Nectarine, Orange, Orange-Bell-Pepper, Papaya, Passion-Fruit, Peach, Pineapple,
Pink-Lady, Plum, Pomegranate, Red-Beet, Red-Bell-Pepper, Red-Delicious, Red-Grapefruit, Regular-Tomato, Royal-Gala,
Satsumas, Solid-Potato, Sweet-Potato, Vine-Tomato, Watermelon, Yellow-Bell-Pepper, Yellow-Onion, Zucchini
"""
# Of the photos from the web and of people's own: manifest.csv of real-photos.
WEB_PHOTOS = """
apple, apricot, asparagus, aubergine, avocado, banana, bean, beetroot, bitter-gourd, blackberry, blackcurrant, blueberry,
bottle-gourd, broccoli, cabbage, carrot, cauliflower, celery, cherimoya, cherry, chilli-pepper, coconut, courgette,
cranberry, cucumber, currant, date, dragon-fruit, durian, fig, garlic, ginger, gooseberry, granadilla, grape, grapefruit,
guava, huckleberry, jackfruit, kiwano, kiwi, kumquat, leek, lemon, lettuce, lime, longan, loquat, lychee, mandarin, mango,
mangosteen, melon, mulberry, mushroom, nectarine, okra, onion, orange, papaya, passion-fruit, pea, peach, pear, pepper,
persimmon, physalis, pineapple, plum, pomegranate, pomelo, potato, prickly-pear, pumpkin, radish, rambutan, raspberry,
salak, sapodilla, spinach, star-fruit, strawberry, sweet-potato, sweetcorn, tomato, turnip, watermelon
"""
# Produce that a shop in Europe sells, as the classes of other data sets are spelled.
OTHER_DATA_SETS = {
    "Fruits-262": """
    apple, apricot, avocado, banana, bell pepper, bitter gourd, black berry, black cherry, black currant, black mullberry,
    blueberry, bottle gourd, brazil nut, bread fruit, cantaloupe, cape gooseberry, carambola, cashew, cherimoya, cherry, chico,
    clementine, coconut, corn kernel, cranberry, custard apple, damson, date, dragonfruit, durian, eggplant, elderberry,
    feijoa, fig, galia melon, gooseberry, grape, grapefruit, greengage, grenadilla, guanabana, guava, horned melon, jackfruit,
    jalapeno, jujube, kiwi, kumquat, lemon, lime, longan, loquat, lychee, macadamia, mandarine, mango, mangosteen, medlar,
    melon pear, muskmelon, nectarine, olive, orange, papaya, passion fruit, pawpaw, pea, peanut, pear, persimmon, pineapple,
    pomegranate, pomelo, prikly pear, pumpkin, quince, rambutan, raspberry, red mulberry, redcurrant, salak, sapodilla,
    strawberry, sugar apple, tamarillo, tangelo, tomato, watermelon, white currant, white mulberry, yellow plum, zucchini
    """,
    "FIDS30": """
    apples, apricots, avocados, bananas, blackberries, blueberries, cantaloupes, cherries, coconuts, figs, grapefruits,
    grapes, guava, kiwifruit, lemons, limes, mangos, olives, oranges, passionfruit, peaches, pears, pineapples, plums,
    pomegranates, raspberries, strawberries, tomatoes, watermelons
    """,
    "Fruit and Vegetable Image Recognition": """
    apple, banana, beetroot, bell pepper, cabbage, capsicum, carrot, cauliflower, chilli pepper, corn, cucumber, eggplant,
    garlic, ginger, grapes, jalepeno, kiwi, lemon, lettuce, mango, onion, orange, paprika, pear, peas, pineapple,
    pomegranate, potato, raddish, soy beans, spinach, sweetcorn, sweetpotato, tomato, turnip, watermelon
    """,
    "Vegetable Image Dataset": """
    Bean, Bitter_Gourd, Bottle_Gourd, Brinjal, Broccoli, Cabbage, Capsicum, Carrot, Cauliflower, Cucumber, Papaya, Potato,
    Pumpkin, Radish, Tomato
    """,
    "ImageNet": """
    Granny Smith, strawberry, orange, lemon, fig, pineapple, banana, jackfruit, custard apple, pomegranate, head cabbage,
    broccoli, cauliflower, zucchini, spaghetti squash, acorn squash, butternut squash, cucumber, artichoke, bell pepper,
    cardoon, mushroom, corn
    """,
}


def listed(names: str) -> list[str]:
    return [name.strip() for name in names.replace("\n", " ").split(",")]


def shipped() -> list[dict[str, str]]:
    text = resources.files("fruits.recogniser").joinpath("taxonomy.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def kind_and_variety(label: str, own: str | None = None) -> tuple[str, str]:
    taxonomy = Taxonomy.of([label], own)
    return taxonomy.kind_ids[0], taxonomy.variety_ids[0] if taxonomy.variety_of == (0,) else ""


# --- The table in the package -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "count"), [(FRUITS_360, 131), (GROCERY_STORE, 50)], ids=["Fruits-360", "Grocery"])
def test_every_label_of_the_data_sets_is_in_the_table(names: str, count: int) -> None:
    labels = listed(names)
    assert len(set(labels)) == len(labels) == count
    assert set(labels) <= {row["label"] for row in shipped()}


def test_every_label_of_the_web_photos_has_a_kind_with_names_and_lines() -> None:
    labels = listed(WEB_PHOTOS)
    taxonomy = Taxonomy.of(labels)
    for label, kind in zip(labels, taxonomy.kind_of, strict=True):
        assert taxonomy.kind_ids[kind] == {"currant": "redcurrant"}.get(label, label)


def test_the_web_photos_labels_are_those_of_their_manifest(shared: Path) -> None:
    with (shared / "real-photos" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} <= set(listed(WEB_PHOTOS))


def test_names_of_the_table_do_not_contradict_each_other() -> None:
    # Every name in either language, in any order of its words, and every synonym leads to the row that it stands in.
    meant: dict[str, tuple[str, str]] = {}
    for row in shipped():
        for name in filter(None, (row["label"], row["en"], row["fr"], row["kind"] if not row["variety"] else "")):
            for written in (name, " ".join(reversed(name.split())), name.replace(" ", "")):
                place = row["kind"], "/".join((row["kind"], row["variety"])) if row["variety"] else ""
                assert meant.setdefault(written, place) == place, written
    taxonomy = Taxonomy.of(list(meant))
    for (written, place), kind, variety in zip(meant.items(), taxonomy.kind_of, taxonomy.variety_of, strict=True):
        assert (taxonomy.kind_ids[kind], taxonomy.variety_ids[variety] if variety >= 0 else "") == place, written


def test_labels_of_the_table_are_spelled_as_the_folders_are(shared: Path) -> None:
    fruits_360 = {folder.name for folder in (shared / "fruits-360").glob("T*/*")}
    grocery_store = {photo.parent.name for photo in (shared / "grocery-store").rglob("*.jpg")}
    assert fruits_360 <= set(listed(FRUITS_360))
    assert grocery_store == set(listed(GROCERY_STORE))


def test_every_kind_and_variety_has_a_name_of_its_own_and_a_line_in_every_language() -> None:
    taxonomy = Taxonomy.of([row["label"] or row["kind"] for row in shipped()])
    assert taxonomy.groups
    for name in (*taxonomy.kinds, *taxonomy.varieties):
        assert {"en", "es", "fr"} <= set(name.called) == set(name.about), name
        assert all((*name.called.values(), *name.about.values())), name
    for language in taxonomy.kinds[0].called:
        names = [name.called[language] for name in (*taxonomy.kinds, *taxonomy.varieties)]
        assert len(set(names)) == len(names)


def test_a_variety_is_of_one_kind_and_its_identifier_says_so() -> None:
    taxonomy = Taxonomy.of([*listed(FRUITS_360), *listed(GROCERY_STORE)])
    for label, variety in enumerate(taxonomy.variety_of):
        if variety >= 0:
            assert taxonomy.kind_of_variety(variety) == taxonomy.kind_of[label]
            assert taxonomy.variety_ids[variety].startswith(taxonomy.kind_ids[taxonomy.kind_of[label]] + "/")


@pytest.mark.parametrize(
    ("one", "other", "kind", "same_variety"),
    [
        ("Royal-Gala", "Apple Red 1", "apple", False),
        ("Golden-Delicious", "Apple Golden 1", "apple", True),
        ("Kaiser", "Pear Kaiser", "pear", True),
        ("Eggplant", "Aubergine", "aubergine", False),
        ("Red-Bell-Pepper", "Pepper Red", "pepper", True),
        ("Limes", "Lime", "lime", False),
        ("Red-Beet", "Beetroot", "beetroot", False),
    ],
)
def test_labels_of_two_data_sets_meet(one: str, other: str, kind: str, same_variety: bool) -> None:
    (kind_of_one, variety_of_one), (kind_of_other, variety_of_other) = kind_and_variety(one), kind_and_variety(other)
    assert kind_of_one == kind_of_other == kind
    assert (variety_of_one == variety_of_other != "") == same_variety


def test_what_looks_like_another_kind_by_its_name_is_kept_apart() -> None:
    kinds = {
        label: kind_and_variety(label)[0] for label in ("Potato Sweet", "Potato Red", "Lemon", "Lime", "Nut Pecan")
    }
    assert len(set(kinds.values())) == len(kinds)


# --- Folders of users ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["apple", "Apple", "Pomme", "pomme", "APPLE", "apple_Red-1", "  Apple  Red 1 "])
def test_names_of_kinds_and_other_spellings_of_labels_are_understood(label: str) -> None:
    assert kind_and_variety(label)[0] == "apple"


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ("courgette, Courgettes, zucchini, Zucchinis, summer squash", "courgette"),
        ("aubergine, aubergines, Eggplants, egg-plant, Brinjal, Egg Plant", "aubergine"),
        ("bell pepper, Bell_Peppers, capsicum, Capsicums, poivron, Poivrons, paprika, SWEET PEPPER", "pepper"),
        ("beet, beets, beetroot, Beetroots, betterave, Betteraves, betterave rouge", "beetroot"),
        ("currant, Currants, redcurrant, red currant, red-currants, groseille, Groseilles", "redcurrant"),
        ("cherry, cherries, Cerise, cerises, sour cherries", "cherry"),
        ("peach, Peaches, pêche, peches, PÊCHES", "peach"),
        ("potato, potatoes, pomme de terre, Pommes-de-terre, pommes de terre", "potato"),
        ("cauliflower, cauliflowers, chou-fleur, choux-fleurs, choufleur", "cauliflower"),
        ("dragonfruit, dragon fruits, fruits du dragon, pitaya, Pitahaya", "dragon-fruit"),
        ("passionfruit, passion fruits, Fruits de la passion", "passion-fruit"),
        ("corn, maize, sweetcorn, sweet corns, mais, Maïs doux, corn kernel", "sweetcorn"),
        ("chili, chilies, chillies, chilli peppers, hot pepper, piment, Piments", "chilli-pepper"),
        ("cape gooseberry, Cape Gooseberries, golden berry, physalis", "physalis"),
        ("gooseberry, gooseberries, groseilles à maquereau", "gooseberry"),
        ("horned melon, kiwano, melon à cornes", "kiwano"),
        ("custard apple, sugar-apple, pommes cannelles", "custard-apple"),
        ("okra, okras, Ladies Finger, lady's finger, lady’s fingers, gombo", "okra"),
        ("aguacate, Aguacates, palta, Paltas", "avocado"),
        ("melocotón, melocotones, durazno, Duraznos", "peach"),
        ("limones, limón amarillo, Limón", "lemon"),
        ("maíz, choclos, Elotes, mazorca", "sweetcorn"),
        ("judías verdes, Judía, ejotes, chauchas, Vainitas, habichuela", "bean"),
        ("patata, papas, PAPA", "potato"),
        ("boniato, camote, Batatas", "sweet-potato"),
        ("guisantes, arvejas, chícharos", "pea"),
        ("cacahuetes, maní, Cacahuates", "peanut"),
        ("apple 7, Apple_12, pommes 2", "apple"),
    ],
)
def test_what_people_call_a_folder_is_understood(labels: str, kind: str) -> None:
    for label in listed(labels):
        assert kind_and_variety(label) == (kind, ""), label


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        ("Apple Golden 7", ("apple", "apple/golden-delicious")),
        ("Poire Conférence", ("pear", "pear/conference")),
        ("red onions", ("onion", "onion/red")),
        ("butternut squash", ("squash", "squash/butternut")),
        ("potimarrons", ("squash", "squash/red-kuri")),
        ("jalepeno", ("chilli-pepper", "chilli-pepper/jalapeno")),
    ],
)
def test_varieties_are_understood_by_their_names(label: str, meant: tuple[str, str]) -> None:
    assert kind_and_variety(label) == meant


@pytest.mark.parametrize(
    "name",
    ["Fruits-262", "FIDS30", "Fruit and Vegetable Image Recognition", "Vegetable Image Dataset", "ImageNet"],
)
def test_labels_of_other_data_sets_are_understood(name: str) -> None:
    for label in listed(OTHER_DATA_SETS[name]):
        taxonomy = Taxonomy.of([label])
        assert taxonomy.kinds[0].about.get("en", ""), label


def test_a_number_in_a_users_table_says_no_more_than_it_says(tmp_path: Path) -> None:
    path = own(tmp_path, "Class 1,apple,", "Class 2,pear,", "Row,quince,")
    assert [kind_and_variety(label, path)[0] for label in ("Class 1", "Class 2", "Class 3", "Row 3")] == [
        "apple",
        "pear",
        "Class 3",
        "quince",
    ]


def test_a_folder_in_any_language_holds_its_own_kind() -> None:
    # Pepino and pomelo are kinds in English, and other fruit in Spanish: identifiers and English names win.
    taken = {"cucumber", "grapefruit"}
    for row in shipped():
        if not row["label"] and not row["variety"]:
            spanish = () if row["kind"] in taken else (row["es"], row["es"].partition(" (")[0])
            for folder in (row["en"], row["fr"], row["kind"], *spanish):
                assert kind_and_variety(folder) == (row["kind"], ""), folder


def test_accents_may_be_composed_or_not() -> None:
    assert kind_and_variety("Pe\u0302che") == kind_and_variety("P\u00eache") == ("peach", "")


def test_unknown_label_is_its_own_kind_under_its_own_name() -> None:
    taxonomy = Taxonomy.of(["Moon Pear 1", "Moon Pear 2", "Lemon"])
    assert taxonomy.kind_ids == ("Moon Pear 1", "Moon Pear 2", "lemon")
    assert (taxonomy.kinds[0].en, taxonomy.kinds[0]["fr"], taxonomy.kinds[0].about.get("en", "")) == (
        "Moon Pear 1",
        "Moon Pear 1",
        "",
    )
    assert (taxonomy.variety_of, taxonomy.groups) == ((-1, -1, -1), False)


def test_without_a_table_every_label_is_its_own_kind() -> None:
    labels = ["Apple Red 1", "Apple Red 2", "Pomme"]
    taxonomy = Taxonomy.of(labels, NONE)
    assert (sorted(taxonomy.kind_ids), taxonomy.varieties) == (sorted(labels), ())
    assert len(set(taxonomy.kind_of)) == 3


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("Kiwi", "kiwi"),
        ("Sweet pepper", "sweet pepper"),
        ("Noix de coco", "noix de coco"),
        ("Chou de Bruxelles", "chou de Bruxelles"),
        ("Épinard", "épinard"),
        ("Brussels sprout", "Brussels sprout"),
        ("Moon Pear", "Moon Pear"),
        ("Class 3", "Class 3"),
        ("XK", "XK"),
        ("", ""),
    ],
)
def test_name_in_a_sentence_begins_small_unless_it_is_a_title(name: str, within: str) -> None:
    assert in_a_sentence(name) == within


# --- A user's own table -------------------------------------------------------------------------------------------------


def own(folder: Path, *lines: str, header: str = "label,kind,variety,en,fr") -> str:
    path = folder / "own.csv"
    path.write_text("\n".join([header, *lines]), "utf-8")
    return str(path)


def test_users_table_extends_the_one_in_the_package(tmp_path: Path) -> None:
    path = own(
        tmp_path, "Moon Pear 1,pear,moon,Moon pear,Poire de lune", "Boskoop,apple,boskoop,Boskoop,Belle de Boskoop"
    )
    taxonomy = Taxonomy.of(["Boskoop", "Moon Pear 1", "Pear Kaiser"], path)
    assert taxonomy.kind_ids == ("apple", "pear")
    assert [taxonomy.kinds[kind].en for kind in taxonomy.kind_of] == ["Apple", "Pear", "Pear"]
    names = {name.en: name for name in taxonomy.varieties}
    assert names["Moon pear"]["fr"] == "Poire de lune"
    # A line that the user did not write is the one of the kind.
    assert names["Moon pear"].about.get("en", "") == taxonomy.kinds[1].about.get("en", "") != ""
    assert "Kaiser pear" in names


def test_users_table_wins_over_the_one_in_the_package(tmp_path: Path) -> None:
    path = own(tmp_path, "apple-red 1,quince,", ",pear,,Pears,", ",apple,golden-delicious,My Golden,")
    assert kind_and_variety("Apple Red 1", path) == ("quince", "")
    assert kind_and_variety("Apple Red 2", path) == ("apple", "apple/red")
    assert (Taxonomy.of(["Pear"], path).kinds[0].en, Taxonomy.of(["Pear"], path).kinds[0]["fr"]) == (
        "Pears",
        "Poire",
    )
    (golden,) = Taxonomy.of(["Apple Golden 2"], path).varieties
    assert (golden.en, golden["fr"]) == ("My Golden", "Pomme Golden")


def test_two_columns_are_enough_and_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(b"\xef\xbb\xbflabel,kind\r\nMoon Pear 1,pear\r\n\r\n")
    assert kind_and_variety("Moon Pear 1", str(tmp_path / "own.csv")) == ("pear", "")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"label,variety\nA,b\n", "has the columns label, variety; expected label, kind"),
        (b"label;kind\nA;b\n", "has the columns label;kind; expected label, kind"),
        (b"", "has the columns none"),
        (b"label,kind,colour\nA,b,red\n", "unknown are colour"),
        (b"label,kind,kind\nA,b,c\n", "has the columns label, kind, kind"),
        (b"label,kind\nPoire,pear\nA,b\npoire,apple\n", r"line 4: 'poire' is there twice, as apple/ and pear/"),
        (b"label,kind,variety\nA,b,c\nA,b,d\n", "is there twice"),
        (b"label,kind\nA,\n", "line 2: 'A' has no kind; expected one, such as apple"),
        (b"label,kind\n\xc9clair,cake\n", "it is not UTF-8"),
    ],
)
def test_table_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(TaxonomyError, match=complaint) as caught:
        Taxonomy.of(["A"], str(tmp_path / "own.csv"))
    assert "own.csv" in str(caught.value)


@pytest.mark.parametrize("name", ["gone.csv", "."])
def test_table_that_is_not_there_is_refused_with_what_is_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaxonomyError, match=r"cannot be read .*expected a CSV file with the columns label, kind"):
        Taxonomy.of(["A"], str(tmp_path / name))


@given(st.one_of(st.binary(), st.text(alphabet=',"\n\r;abcé0 \0').map(lambda text: f"label,kind,en\n{text}".encode())))
def test_any_file_is_a_table_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        taxonomy = Taxonomy.of(["Apple Red 1", "a"], str(path))
    except TaxonomyError:
        return
    assert Taxonomy.parse(taxonomy.as_dict()) == taxonomy


# --- Sums ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(listed(FRUITS_360)), min_size=1, max_size=30, unique=True), st.integers(0, 999))
def test_probabilities_of_kinds_sum_to_one_and_those_of_varieties_to_no_more(labels: list[str], seed: int) -> None:
    taxonomy = Taxonomy.of(labels)
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(len(labels)), 5).astype(np.float32)
    by_kind, by_variety = taxonomy.by_kind(probabilities), taxonomy.by_variety(probabilities)
    assert (by_kind.shape, by_variety.shape) == ((5, len(taxonomy.kinds)), (5, len(taxonomy.varieties)))
    np.testing.assert_allclose(by_kind.sum(axis=1), 1, atol=1e-6)  # float32 sums of 30 numbers
    for label, (kind, variety) in enumerate(zip(taxonomy.kind_of, taxonomy.variety_of, strict=True)):
        assert (by_kind[:, kind] >= probabilities[:, label] - 1e-6).all()
        if variety >= 0:
            assert (by_variety[:, variety] <= by_kind[:, kind] + 1e-6).all()
    without = [label for label, variety in enumerate(taxonomy.variety_of) if variety < 0]
    np.testing.assert_allclose(by_variety.sum(axis=1), 1 - probabilities[:, without].sum(axis=1), atol=1e-6)


# --- Stored -------------------------------------------------------------------------------------------------------------


def test_what_was_stored_is_read_back() -> None:
    taxonomy = Taxonomy.of(["Apple Red 1", "Royal-Gala", "Lemon", "Moon Pear 1"])
    assert Taxonomy.parse(json.loads(json.dumps(taxonomy.as_dict()))) == taxonomy


STORED = Taxonomy.of(["Apple Red 1", "Lemon"]).as_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"kind_of": [0]},
        {"kind_of": [0, 2]},
        {"kind_of": [0, 0]},
        {"kind_of": None},
        {"variety_of": [0]},
        {"variety_of": [-1, -1]},
        {"variety_of": [0, -2]},
        {"kinds": STORED["kinds"][:1]},
        {"kinds": [{"fr": "Pomme"}, {"fr": "Citron"}]},
        {"kinds": [{"en": "Apple", "no language": ""}, {"en": "Lemon"}]},
        {"kinds": [3, 4]},
        {"kind_ids": ["apple"]},
        {"varieties": []},
        {"variety_ids": []},
        {"labels": ["Apple Red 1"]},
    ],
    ids=str,
)
def test_stored_taxonomy_that_does_not_fit_together_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TaxonomyError, match=r"expected what fruits.run\(\) wrote"):
        Taxonomy.parse({**STORED, **change})


@pytest.mark.parametrize("name", list(STORED))
def test_stored_taxonomy_that_lacks_something_is_refused(name: str) -> None:
    with pytest.raises(TaxonomyError, match=name):
        Taxonomy.parse({key: value for key, value in STORED.items() if key != name})


@pytest.mark.parametrize("values", [[], None, 3, "labels"])
def test_stored_taxonomy_that_is_no_object_is_refused(values: Any) -> None:
    with pytest.raises(TaxonomyError):
        Taxonomy.parse(values)


def test_names_beside_a_label_without_variety_are_the_kinds(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("label,kind,en,fr\nApfelino Gold,apfel,Golden apfel,Apfel doré\n", "utf-8")
    taxonomy = Taxonomy.of(["Apfelino Gold", "Banana"], str(own))
    assert taxonomy.kinds[taxonomy.kind_of[0]].en == "Golden apfel"
    assert taxonomy.kinds[taxonomy.kind_of[0]]["fr"] == "Apfel doré"


def test_a_comma_without_quotes_is_refused_with_its_line(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("label,kind,line_en,line_fr\nPear,pear,Sweet, and juicy,Sucré\n", "utf-8")
    with pytest.raises(TaxonomyError, match="line 2: more fields than columns; quote"):
        Taxonomy.of(["Pear"], str(own))


def test_sums_of_kinds_are_those_of_their_labels_and_need_no_matrix() -> None:
    labels = [f"Thing {number}" for number in range(20_000)]
    taxonomy = Taxonomy.of([*labels, "Apple Red 1", "Apple Golden 1", "Pear"])
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(labels) + 3), 4).astype(np.float32)
    kinds = taxonomy.by_kind(probabilities)
    expected = np.zeros((4, len(taxonomy.kinds)))
    np.add.at(expected, (slice(None), np.array(taxonomy.kind_of)), probabilities.astype(np.float64))
    np.testing.assert_allclose(kinds, expected, rtol=1e-6)
    assert taxonomy.by_variety(probabilities).shape == (4, len(taxonomy.varieties))
    # A dense matrix of zeros and ones would take 1.6 GB here.
    tracemalloc.start()
    again = taxonomy.by_kind(probabilities)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert (again == kinds).all()
    # The same bits, however photos are put together.
    assert (np.vstack([taxonomy.by_kind(one[None]) for one in probabilities]) == kinds).all()


def test_a_stored_taxonomy_learns_the_languages_that_the_table_has_since(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("label,kind,en\n,lemon,Our lemon\n", "utf-8")
    stored = Taxonomy.of(["Apple Red 1", "Lemon"], str(own)).as_dict()
    for part in ("kinds", "varieties"):
        stored[part] = [
            {key: text for key, text in name.items() if key.removeprefix("line_") == "en"} for name in stored[part]
        ]
    read = Taxonomy.parse(stored)
    assert [(name.en, name["es"]) for name in read.kinds] == [("Apple", "Manzana"), ("Our lemon", "Our lemon")]
    assert read.varieties[0]["es"] == "Manzana roja"
    assert (read.kinds[0].lines() or {})["es"].startswith("Guárdala en la nevera")


def test_a_table_may_have_names_in_any_language(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("label,kind,eo,line_eo\nPomo,apple,Pomo,Manĝu ĝin\n", "utf-8")
    apple = Taxonomy.of(["Pomo"], str(own)).kinds[0]
    assert (apple.en, apple["eo"], apple["es"]) == ("Apple", "Pomo", "Manzana")
    assert apple.names().keys() == {*LANGUAGES, "eo"}


def test_folders_named_in_spanish_are_of_their_kind() -> None:
    taxonomy = Taxonomy.of(["Manzanas", "Limón", "melocotones", "Higos chumbos"])
    assert [taxonomy.kind_ids[kind] for kind in taxonomy.kind_of] == ["apple", "lemon", "peach", "prickly-pear"]
