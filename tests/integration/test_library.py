"""``import fruits``: photos of any sort in, answers out, the same as the command line's and the service's."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageCms

import fruits as api
from fruits.photos.decoding import decoder
from fruits.recogniser import bundle as bundles
from fruits.recogniser import shipped
from fruits.recogniser.bundle import PROBABILITY_TOLERANCE

Fruits = Callable[..., Any]


@pytest.fixture(scope="module")
def recogniser() -> api.Recogniser:
    return api.load()


@pytest.fixture(scope="module")
def some(photos: Path) -> list[Path]:
    """A few photos, of which 40 make more than one batch."""
    return sorted(photos.glob("Test/*/*.jpg"))[:40]


def same(found: list[api.Answer], expected: list[api.Answer]) -> bool:
    """Whether answers are the same up to sums in another order: a batch is one product of matrices."""
    texts = [
        [(one.status, one.error, one.outcome, one.kind, one.kinds[0][0], one.labels[0]) for one in answers]
        for answers in (found, expected)
    ]
    numbers = [[one.probability for one in answers] for answers in (found, expected)]
    return texts[0] == texts[1] and np.allclose(*numbers, atol=PROBABILITY_TOLERANCE)


def png(image: Image.Image, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


# --- Predict ------------------------------------------------------------------------------------------------------------


def test_one_photo_has_one_answer_however_it_is_given(recogniser: api.Recogniser, some: list[Path]) -> None:
    photo, data = some[0], some[0].read_bytes()
    expected = recogniser.predict(photo)
    assert isinstance(expected, api.Answer)
    assert expected.status == "ok"
    with Image.open(photo) as lazy:
        for given in (str(photo), data, bytearray(data), memoryview(data), lazy, Image.open(BytesIO(data))):
            assert recogniser.predict(given) == expected
    pixels = np.asarray(Image.open(photo))
    in_memory = recogniser.predict(pixels)
    assert recogniser.predict(Image.fromarray(pixels)) == in_memory == recogniser.predict(png(Image.fromarray(pixels)))
    assert in_memory.kinds[0][0] == expected.kinds[0][0]
    assert in_memory.probability == pytest.approx(expected.probability, abs=0.02), "JPEG is decoded at another scale"


def test_several_photos_have_a_list_in_their_order(recogniser: api.Recogniser, some: list[Path]) -> None:
    alone = [recogniser.predict(photo) for photo in some]
    assert same(recogniser.predict(some), alone)
    mixed: list[Any] = [photo if row % 2 else photo.read_bytes() for row, photo in enumerate(some)]
    assert same(recogniser.predict(mixed), alone)
    assert same(recogniser.predict(path for path in some), alone)
    assert same(recogniser.predict(np.array([str(path) for path in some])), alone)
    assert same(recogniser.predict(pa.table({"uri": list(map(str, some))})["uri"]), alone)
    assert recogniser.predict([]) == []
    assert recogniser.predict([some[0]]) == alone[:1]


def test_array_of_four_axes_is_several_photos(recogniser: api.Recogniser, some: list[Path]) -> None:
    pixels = np.stack([np.asarray(Image.open(path)) for path in some[:3]])
    assert same(recogniser.predict(pixels), [recogniser.predict(photo) for photo in pixels])
    assert recogniser.embed(pixels).shape == (3, recogniser.embedding_size)


def test_answers_are_those_of_the_bundle_and_of_the_command_line(
    recogniser: api.Recogniser, some: list[Path], fruits: Fruits
) -> None:
    answers = recogniser.predict(some[:3])
    assert answers == bundles.load(shipped.path()).recognise([path.read_bytes() for path in some[:3]])
    rows = fruits("predict", *some[:3], "--json").json()["photos"]
    assert [row["probability"] for row in rows] == pytest.approx([one.probability for one in answers])
    assert [row["outcome"] for row in rows] == [one.outcome for one in answers]


def test_one_bad_photo_of_several_is_an_answer_that_says_why(
    recogniser: api.Recogniser, some: list[Path], tmp_path: Path
) -> None:
    damaged = some[0].read_bytes()[:300]
    given = [some[0], damaged, tmp_path / "gone.jpg", b"", np.zeros((8, 8, 3)), b"%PDF-1.7", tmp_path, "a\0b", some[1]]
    answers = recogniser.predict(given)
    assert [one.status for one in answers] == [
        "ok", "rejected", "failed", "rejected", "rejected", "rejected", "failed", "failed", "ok",
    ]  # fmt: skip
    assert same([answers[0], answers[-1]], [recogniser.predict(some[0]), recogniser.predict(some[1])])
    bad = answers[1:-1]
    assert [str(one.error).partition(":")[0] for one in bad] == [
        "damaged", "unreadable", "empty", "not an image", "unsupported format", "unreadable", "unreadable",
    ]  # fmt: skip
    for one in bad:
        assert (one.outcome, one.name, one.probability, one.kinds, one.labels) == (None, None, 0.0, (), ())
        assert str(one) == f"{one.status}: {one.error}"
    embeddings = recogniser.embed(given)
    assert np.isnan(embeddings).all(axis=1).tolist() == [one.status != "ok" for one in answers]
    assert np.isnan(recogniser.features(given)).any(axis=1).tolist() == [one.status != "ok" for one in answers]


@pytest.mark.parametrize("call", ["predict", "embed", "features", "explain"])
def test_a_single_bad_photo_is_an_error(recogniser: api.Recogniser, tmp_path: Path, call: str) -> None:
    ask = getattr(recogniser, call)
    with pytest.raises(api.ImageDecodeError, match="expected JPEG") as caught:
        ask(b"no photo at all")
    assert caught.value.code == "not an image"
    with pytest.raises(api.FruitsError, match=r"gone.jpg' cannot be read: No such file") as missing:
        ask(tmp_path / "gone.jpg")
    assert isinstance(missing.value, OSError)
    with pytest.raises(api.ImageDecodeError, match="uint8 from 0 to 255"):
        ask(np.zeros((8, 8, 3)))
    with pytest.raises(api.FruitsError, match="int given as a photo; expected a path"):
        ask(7)


def test_what_cannot_be_a_photo_is_a_mistake_of_the_program(recogniser: api.Recogniser, some: list[Path]) -> None:
    for wrong in ([some[0], None], [[some[0]]], np.zeros((3, 2), object)):
        with pytest.raises(TypeError, match="expected") as caught:
            recogniser.predict(wrong)  # type: ignore[call-overload]
        assert isinstance(caught.value, api.FruitsError)


def test_files_and_bytes_are_decoded_by_the_sandbox_alone(
    recogniser: api.Recogniser, some: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded in this process")

    data = some[0].read_bytes()
    lazily = Image.open(BytesIO(data))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    begun: list[int] = []
    begin = decoder.Decoder.begin
    monkeypatch.setattr(
        decoder.Decoder, "begin", lambda self, files, how: begun.append(len(files)) or begin(self, files, how)
    )
    recogniser.predict([some[0], data, lazily])
    recogniser.embed(data)
    recogniser.explain(str(some[0]))
    assert begun == [3, 1, 1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF"])
def test_image_that_is_not_loaded_is_decoded_by_the_sandbox_or_refused(
    recogniser: api.Recogniser, some: list[Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    with Image.open(some[0]) as photo:
        buffer = BytesIO()
        photo.convert("RGB").save(buffer, kind)
    lazily = Image.open(BytesIO(buffer.getvalue()))

    def never(*_: object) -> None:
        raise AssertionError("decoded in this process")

    monkeypatch.setattr(type(lazily), "load", never)
    (answer,) = recogniser.predict([lazily])
    (from_file,) = recogniser.predict([buffer.getvalue()])
    assert (answer.status, answer.kind) == (from_file.status, from_file.kind)
    if kind in ("JPEG", "PNG", "WEBP"):
        assert answer.status == "ok"


def test_frame_of_an_animation_that_is_not_loaded_is_refused(recogniser: api.Recogniser) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    lazily = Image.open(BytesIO(buffer.getvalue()))
    lazily.seek(1)
    lazily._im = None  # as a plugin leaves it that decodes on demand
    with pytest.raises(api.ImageDecodeError, match="frame 1"):
        recogniser.predict(lazily)


def test_open_files_and_mappings_are_refused_as_what_they_are(recogniser: api.Recogniser, some: list[Path]) -> None:
    with some[0].open("rb") as file, pytest.raises(TypeError, match="BufferedReader given as a photo"):
        recogniser.predict(file)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="dict given as a photo"):
        recogniser.predict({"a": 1})  # type: ignore[call-overload]


def test_answers_are_readable() -> None:
    name = api.Name({"en": "Banana", "fr": "Banane"})
    none = np.empty(0, np.float32)
    kinds = (("banana", name, 0.41), ("kiwi", api.Name({"en": "Kiwi"}), 0.3))
    for outcome, called, said in (
        ("kind", name, "banana (97 %)"),
        ("variety", api.Name({"en": "Braeburn apple"}), "braeburn apple (97 %)"),
        ("probable", name, "probably banana (97 %)"),
        ("unsure", None, "not sure: banana (41 %), kiwi (30 %)"),
        ("unknown", None, "none of the things I know (nearest: banana)"),
    ):
        answer = api.Answer(outcome, called, 0.971, "", "", kinds, (), (), 0.0, (), none)  # type: ignore[arg-type]
        assert str(answer) == said
    assert (name.en, name["fr"], name["es"]) == ("Banana", "Banane", "Banana")
    assert str(api.Answer("kind", name, 0.9996, "", "", kinds, (), (), 0.0, (), none)) == "banana (> 99 %)"


# --- Pixels in memory ---------------------------------------------------------------------------------------------------


def in_every_mode() -> list[tuple[str, Image.Image, dict[str, Any]]]:
    """Return images in memory with what a PNG of them takes to say the same."""
    rng = np.random.default_rng(1)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).resize((300, 200))
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).resize(rgb.size))
    turned = rgb.copy()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    clear = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    clear.info["transparency"] = 3
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    profiled = rgb.copy()
    profiled.info["icc_profile"] = swapped_profile()
    return [
        ("RGB", rgb, {}),
        ("L", rgb.convert("L"), {}),
        ("1", rgb.convert("1"), {}),
        ("P", rgb.convert("P"), {}),
        ("RGBA", alpha, {}),
        ("LA", alpha.convert("LA"), {}),
        ("P with a transparent colour", clear, {}),
        ("16 bits of grey", deep, {}),
        ("orientation", turned, {"exif": turned.info["exif"]}),
        ("colour profile", profiled, {}),
        ("one pixel", rgb.resize((1, 1)), {}),
        ("larger than the network's input", rgb.resize((1200, 700)), {}),
    ]


def swapped_profile() -> bytes:
    """Return the profile of sRGB with the tags of red and blue exchanged; applying it exchanges the colours."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.find(b"rXYZ"), profile.find(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize(("what", "image", "options"), in_every_mode(), ids=lambda value: str(value)[:30])
def test_image_in_memory_says_what_a_png_of_it_says(
    recogniser: api.Recogniser, what: str, image: Image.Image, options: dict[str, Any]
) -> None:
    before = image.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        answer = recogniser.predict(image)
        assert answer == recogniser.predict(png(image, **options)), what
        assert np.array_equal(recogniser.embed(image), recogniser.embed(png(image, **options)))
    assert image.tobytes() == before, "the image is the caller's"


def test_profile_and_orientation_of_an_image_change_what_is_seen(recogniser: api.Recogniser) -> None:
    seen = {what: recogniser.explain(image).pixels for what, image, _ in in_every_mode()}
    assert not np.array_equal(seen["RGB"], seen["colour profile"])
    assert not np.array_equal(seen["RGB"], seen["orientation"])


def test_arrays_are_grey_rgb_or_rgb_with_alpha(recogniser: api.Recogniser) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (50, 70, 4), np.uint8)
    for given, mode in ((pixels, "RGBA"), (pixels[..., :3], "RGB"), (pixels[..., 0], "L"), (pixels[..., :1], "L")):
        image = Image.fromarray(np.ascontiguousarray(given.squeeze()), mode=None)
        assert image.mode == mode
        assert recogniser.predict(given) == recogniser.predict(png(image))
    assert recogniser.predict(pixels[::-1, ::-1, :3]).status == "ok", "of any strides"
    assert recogniser.predict(np.broadcast_to(pixels[:1, :1, :3], (9, 9, 3))).status == "ok"


def test_real_photos_say_the_same_from_disk_and_from_memory(recogniser: api.Recogniser, shared: Path) -> None:
    """Of photos of people, shops and the web; none is so large that its file is decoded at a reduced scale."""
    found = sorted((shared / "real-photos").rglob("*.jpg"))
    if not found:
        pytest.skip("no real-photos in the folder of shared photos")
    paths = found[:: max(1, len(found) // 40)]
    images = []
    for path in paths:
        with Image.open(path) as image:
            image.load()
            images.append(image)
    small = [row for row, image in enumerate(images) if max(image.size) < 2 * recogniser.input_size]
    from_disk, from_memory = recogniser.predict(paths), recogniser.predict(images)
    assert all(one.status == "ok" for one in from_disk)
    assert same([from_memory[row] for row in small], [from_disk[row] for row in small])
    named = [one for one in from_disk if one.outcome in ("variety", "kind")]
    assert len(named) > len(paths) / 4, "real fruit is often named"


# --- Embeddings, explanations -------------------------------------------------------------------------------------------


def test_embeddings_and_features_have_a_row_per_photo(recogniser: api.Recogniser, some: list[Path]) -> None:
    embeddings, features = recogniser.embed(some), recogniser.features(some)
    assert embeddings.shape == (len(some), recogniser.embedding_size)
    assert features.shape == (len(some), recogniser.components)
    assert embeddings.dtype == features.dtype == np.float32
    assert np.array_equal(embeddings[:1], recogniser.embed(some[0]))
    answers = recogniser.predict(some)
    assert np.allclose(features, np.stack([answer.features for answer in answers]), atol=1e-3)
    assert recogniser.embed([]).shape == (0, recogniser.embedding_size)


def test_explanation_is_an_answer_and_a_picture(recogniser: api.Recogniser, some: list[Path]) -> None:
    explained = recogniser.explain(some[0])
    assert isinstance(explained, api.Explanation)
    assert explained.answer == recogniser.predict(some[0])
    assert explained.pixels.shape == (recogniser.input_size, recogniser.input_size, 3)
    assert explained.picture().size >= (448, 448)
    assert explained._repr_png_().startswith(b"\x89PNG"), "what a notebook shows"


def test_recogniser_of_a_run_says_what_it_is(finished_run: Any) -> None:
    recogniser = api.load(finished_run.out)
    assert recogniser.labels == tuple(bundles.load(finished_run.out).labels)
    assert recogniser.components == finished_run.record["components"]
    assert str(recogniser.components) in repr(recogniser)
    with pytest.raises(api.FruitsError, match="bundle"):
        api.load(finished_run.out.parent)


def test_the_readme_line_prints_an_answer(some: list[Path]) -> None:
    program = f"import fruits; print(fruits.load().predict({str(some[0])!r}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "object at" not in done.stdout
