"""Recognition in the browser itself: the same pixels, the same answers, and nothing leaves the device."""

from __future__ import annotations

import base64
import io
import itertools
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import profiles

from fruits.photos.decoding.images import Preprocessing, to_network_input
from fruits.photos.decoding.quality import Limits
from fruits.recogniser import shipped
from fruits.recogniser.answers import Certainty, answers, decide
from fruits.recogniser.taxonomy import Taxonomy
from fruits.service.pages import routes as pages

#: What docs/page.md promises. What is left between browser and server is float32 sums in another order: see what is written.
TOLERANCE = 1e-3
KERNELS: tuple[Any, ...] = ("bilinear", "bicubic", "lanczos")
FITS: tuple[Any, ...] = ("pad", "crop", "squash")

pytestmark = pytest.mark.skipif(
    not pages.has_device_mode(), reason="no runtime of the on-device mode: build it with 'make web' (needs npm)"
)


def _encoded(files: list[bytes]) -> list[str]:
    return [base64.b64encode(file).decode() for file in files]


@pytest.fixture(scope="module")
def real_photos() -> list[bytes]:
    """Photos of phones and studios where they are at hand."""
    shared = Path(__file__).parents[3] / "shared"
    found = [path for name in ("grocery-store", "fruits-360") for path in _spread(shared / name, 8)]
    return [path.read_bytes() for path in found]


def _spread(folder: Path, count: int) -> list[Path]:
    every = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    return every[:: max(1, len(every) // count)][:count]


def _text(square: str) -> str:
    """Return JavaScript that turns bytes into text."""
    return f'btoa(Array.from({square}, (value) => String.fromCharCode(value)).join(""))'


def test_photos_are_scaled_as_on_the_server_bit_for_bit(visit: Callable[..., Any], real_photos: list[bytes]) -> None:
    """Every kernel and fit, sizes that are decoded at full and at reduced scale, from pixels that both agree on."""
    chance = random.Random(7)
    noise = np.random.default_rng(7)
    cases = []
    for number, (kernel, fit, size) in enumerate(itertools.product(KERNELS, FITS, (96, 100, 224))):
        picture = _picture(real_photos, number, chance.randint(3, 700), chance.randint(3, 900), noise)
        cases.append((picture, Preprocessing(size, fit, kernel)))
    page = visit().open()
    given = [
        ((picture.width, picture.height, base64.b64encode(picture.tobytes()).decode()), asdict(how))
        for picture, how in cases
    ]
    made = page.evaluate(
        f"""async (cases) => {{
          const {{ intoSquare }} = await import("/static/js/device/pixels.js");
          const {{ columns_first }} = (await (await fetch("/static/page.json")).json()).device;
          return cases.map(([[width, height, text], how]) => {{
            const rgb = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            return {_text("intoSquare({ width, height, rgb }, how, columns_first)")};
          }});
        }}""",
        given,
    )
    for (picture, how), pixels in zip(cases, made, strict=True):
        out = io.BytesIO()
        picture.save(out, "PNG", compress_level=1)
        square = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(how.size, how.size, 3)
        np.testing.assert_array_equal(square, to_network_input(out.getvalue(), how).pixels, err_msg=str(how))


def test_photos_are_decoded_as_on_the_server_within_a_level(
    visit: Callable[..., Any], real_photos: list[bytes]
) -> None:
    """All samplings of colour, grey, restarts, also where the server decodes at a reduced scale and the browser does not."""
    chance = random.Random(7)
    noise = np.random.default_rng(7)
    cases = []
    for number in range(15):
        side = chance.randint(100, 900)
        picture = _picture(real_photos, number, side, side + chance.randint(0, 100), noise)
        if number % 9 == 8:
            picture = picture.convert("L")
        options: dict[str, Any] = {"quality": chance.randint(60, 95)}
        if picture.mode == "RGB":
            options["subsampling"] = number % 3
        if number % 5 == 4:
            options["restart_marker_blocks"] = 4
        out = io.BytesIO()
        picture.save(out, "JPEG", **options)
        cases.append((out.getvalue(), Preprocessing((96, 224)[number % 2], "crop", "bicubic")))
    made = (
        visit()
        .open()
        .evaluate(
            f"""async (cases) => {{
          const {{ pixels }} = await import("/static/js/device/photo.js");
          const {{ intoSquare, reduced }} = await import("/static/js/device/pixels.js");
          const {{ columns_first }} = (await (await fetch("/static/page.json")).json()).device;
          const made = [];
          for (const [file, how] of cases) {{
            const photo = await pixels(new Blob([Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0))]));
            made.push([photo.width, photo.height, {_text("intoSquare(reduced(photo, how), how, columns_first)")}]);
          }}
          return made;
        }}""",
            [(base64.b64encode(file).decode(), asdict(how)) for file, how in cases],
        )
    )
    differences = []
    for (file, how), (width, height, pixels) in zip(cases, made, strict=True):
        expected = to_network_input(file, how)
        assert (width, height) == (expected.width, expected.height)
        square = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(how.size, how.size, 3).astype(int)
        differences.append(np.abs(square - expected.pixels).mean())
    assert max(differences) < 1


def _picture(photos: list[bytes], number: int, width: int, height: int, noise: np.random.Generator) -> Image.Image:
    """Return a real photo where there are some, else noise, at a size."""
    if photos:
        with Image.open(io.BytesIO(photos[number % len(photos)])) as photo:
            return photo.convert("RGB").resize((width, height))
    rough = Image.fromarray(noise.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8))
    return rough.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("space", profiles.SPACES)
def test_page_sees_the_colours_that_the_server_sees(visit: Callable[..., Any], space: str) -> None:
    """A photo in another space, as it was chosen: the page's JPEG of it, and the server's decoding of the file."""
    levels = np.random.default_rng(3).integers(40, 220, (8, 8, 3), dtype=np.uint8)
    pixels = levels.repeat(16, axis=0).repeat(16, axis=1)
    out = io.BytesIO()
    Image.fromarray(profiles.converted(pixels, space)).save(out, "PNG", icc_profile=profiles.named(space))
    made = (
        visit()
        .open()
        .evaluate(
            """async (file) => {
          const { pixels, shrink } = await import("/static/js/device/photo.js");
          const { blob } = await shrink(new Blob([Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0))]));
          const { rgb } = await pixels(blob);
          let text = "";
          for (const value of rgb) text += String.fromCharCode(value);
          return btoa(text);
        }""",
            base64.b64encode(out.getvalue()).decode(),
        )
    )
    page = np.frombuffer(base64.b64decode(made), np.uint8).reshape(128, 128, 3).astype(int)
    server = to_network_input(out.getvalue(), Preprocessing(128)).pixels
    # The middles of the blocks: at their edges, the page's JPEG keeps half of the colours' detail.
    middles = np.s_[4::16, 4::16]
    assert np.abs(page[middles] - server[middles]).mean() < 3
    assert np.abs(server[middles].astype(int) - pixels[middles]).mean() < 1


def _answers_here_and_there(page: Any, files: list[bytes]) -> Any:
    """Return the answers of the device and of the server to each file."""
    return page.evaluate(
        """async (files) => {
          const { shrink } = await import("/static/js/device/photo.js");
          const { recognise } = await import("/static/js/api.js");
          const { Device } = await import("/static/js/device/device.js");
          const device = new Device();
          await device.available();
          await device.open(() => {});
          const pairs = [];
          for (const file of files) {
            const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
            const { blob } = await shrink(new Blob([bytes]));
            const { photos } = await recognise([blob], { keep: false, language: "en" });
            pairs.push([await device.recognise(blob), photos[0]]);
          }
          device.close();
          return pairs;
        }""",
        _encoded(files),
    )


def test_answers_are_those_of_the_server(
    visit: Callable[..., Any],
    recogniser: Any,
    real_photos: list[bytes],
    make_jpeg: Callable[..., bytes],
    hostile: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = sorted(path.name for path in (recogniser.photos / "Test").iterdir())
    made_up = [path.read_bytes() for label in labels for path in recogniser.some(label)]
    odd = [make_jpeg(seed=1), make_jpeg(40, 30, seed=2), make_jpeg(1500, 90, seed=3)]
    dark = io.BytesIO()
    with Image.open(io.BytesIO(made_up[0])) as photo:
        photo.point(lambda value: value // 8).save(dark, "JPEG", quality=95)
    files = [*made_up, *odd, dark.getvalue(), *real_photos]
    pairs = _answers_here_and_there(visit().open(), files)
    assert len(pairs) == len(files)
    largest = 0.0
    outcomes = []
    for here, there in pairs:
        for plain in ("outcome", "kind", "variety", "name", "line"):
            assert here[plain] == there[plain], plain
        assert [one["code"] for one in here["advice"]] == [one["code"] for one in there["advice"]]
        for rows, name in (("kinds", "kind"), ("labels", "label")):
            assert [one[name] for one in here[rows]] == [one[name] for one in there[rows]]
            assert [(one["en"], one["fr"]) for one in here[rows]] == [(one["en"], one["fr"]) for one in there[rows]]
            largest = max(
                largest,
                *(
                    abs(one["probability"] - other["probability"])
                    for one, other in zip(here[rows], there[rows], strict=True)
                ),
            )
        largest = max(largest, abs(here["probability"] - there["probability"]))
        assert here["ood_score"] == pytest.approx(there["ood_score"], abs=TOLERANCE, rel=TOLERANCE)
        assert [one["label"] for one in here["similar"]] == [one["label"] for one in there["similar"]]
        assert [one["thumbnail"] for one in here["similar"]] == [one["thumbnail"] for one in there["similar"]]
        outcomes.append(here["outcome"])
    with capsys.disabled():
        sys.stdout.write(
            f"\nbrowser against server, {len(pairs)} photos: probabilities differ by {largest:.2g} at most\n"
        )
    assert largest <= TOLERANCE
    assert {"variety", "kind"} <= set(outcomes)
    assert {"unsure", "unknown"} & set(outcomes)


def test_recogniser_of_the_package_answers_on_the_device_as_on_the_server(
    visit: Callable[..., Any], serve: Callable[..., Any], recogniser: Any, real_photos: list[bytes]
) -> None:
    labels = sorted(path.name for path in (recogniser.photos / "Test").iterdir())[:4]
    files = [*(path.read_bytes() for label in labels for path in recogniser.some(label)), *real_photos]
    service = serve("--rate", "0", "--token-rate", "0", out=Path(shipped.path()))
    for here, there in _answers_here_and_there(visit(to=service).open(), files):
        assert [here[plain] for plain in ("outcome", "kind", "name")] == [
            there[plain] for plain in ("outcome", "kind", "name")
        ]
        assert [one["kind"] for one in here["kinds"]] == [one["kind"] for one in there["kinds"]]
        assert here["probability"] == pytest.approx(there["probability"], abs=TOLERANCE)
        assert here["ood_score"] == pytest.approx(there["ood_score"], abs=TOLERANCE, rel=TOLERANCE)


def test_decisions_are_those_of_the_server_whatever_the_numbers(visit: Callable[..., Any]) -> None:
    taxonomy = Taxonomy.of(["Apple Golden 1", "Apple Golden 2", "Apple Red 1", "Lemon", "Lemon Meyer", "Moon Pear"])
    limits = Limits(dark=0.25, blurred=0.3, small=50)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(6, 0.2), 400).astype(np.float32)
    ood_score = rng.normal(0, 1, 400).astype(np.float32)
    some = [Certainty(0.7, 0.8, 0.5, 1.5, limits), Certainty(1.1, 1.1, 1 / 3, float("inf"), limits)]
    some.append(Certainty(0.7, 0.8, 0.8, 1.5, limits))
    older = {name: value for name, value in some[2].as_dict().items() if name != "probable"}
    page = visit().open()
    for certainty, told in [(one, one.as_dict()) for one in some] + [(some[2], older)]:
        here = page.evaluate(
            """async ([model, probabilities, ood_score]) => {
              const { decide } = await import("/static/js/device/decide.js");
              return probabilities.map((row, n) => {
                const measured = { ood_score: ood_score[n], brightness: 0.1, sharpness: 1 };
                const numbers = { probabilities: Float32Array.from(row), ...measured };
                const { outcome, kind, variety, name, probability, advice } = decide(numbers, model, 100);
                return [outcome, kind, variety, name?.en ?? null, Math.fround(probability), advice.map((one) => one.code)];
              });
            }""",
            [{"taxonomy": taxonomy.as_dict(), "certainty": told}, probabilities.tolist(), ood_score.tolist()],
        )
        decisions = decide(probabilities, ood_score, taxonomy, certainty)
        advice = [limits.advice(0.1, 1, 100)] * 400
        there = [
            [
                one.outcome,
                one.kind or None,
                one.variety or None,
                one.name.en if one.name else None,
                pytest.approx(one.probability, abs=1e-6),  # float32 sums in another order
                list(one.advice),
            ]
            for one in answers(decisions, ood_score, np.zeros((400, 1), np.float32), taxonomy, advice)
        ]
        assert here == there
        assert ("probable" in {one[0] for one in here}) == (certainty.probable < certainty.kind)


def test_on_this_device_nothing_is_sent_and_it_works_without_a_connection(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit(service_workers="allow")
    visitor.expected += ["ERR_INTERNET_DISCONNECTED", "ERR_FAILED"]
    page = visitor.open()
    visitor.choices()
    page.get_by_label("Keep my photo").check()
    choice = page.get_by_role("switch", name="On this device only")
    assert not choice.is_checked()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(visitor.url)))
    choice.check()
    page.wait_for_selector("text=Ready: your photos stay on this device.")
    assert page.get_by_label("Keep my photo").is_disabled(), "what is not sent cannot be kept"
    assert not page.get_by_label("Keep my photo").is_checked()
    asked.clear()
    visitor.pick(*recogniser.some("Melonette Striped"))
    card = visitor.answers(1).first
    assert card.locator("h2").inner_text() == "Striped melonette"
    assert "your photo was not sent" in card.inner_text()
    assert card.get_by_role("group").count() == 0, "nothing is asked that would have to be sent"
    page.wait_for_timeout(200)
    assert all(path.startswith(("blob:", "/v1/gallery/")) for path in asked), (
        "thumbnails are the only thing that is asked for"
    )
    visitor.shot("on-device", full_page=True)

    visitor.context.set_offline(True)
    page.reload()
    page.wait_for_selector("text=Ready: your photos stay on this device.")
    page.wait_for_selector("text=photos are recognised on this device")
    visitor.pick(*recogniser.some("Melonette Striped"), *recogniser.some("Moon Pear 1"))
    cards = visitor.answers(2)
    assert [cards.nth(place).locator("h2").inner_text() for place in range(2)] == ["Striped melonette", "Moon pear"]
    visitor.shot("on-device-offline", full_page=True)
    visitor.context.set_offline(False)
    visitor.choices()
    page.get_by_role("switch").uncheck()
    visitor.pick(*recogniser.some("Apfelino Red 1"))
    assert visitor.answers(3).first.get_by_role("button", name="Yes").count() == 1, "back at the service"


def test_where_the_runtime_was_not_built_only_that_choice_is_missing(
    visit: Callable[..., Any], recogniser: Any
) -> None:
    visitor = visit()
    visitor.page.route("**/static/page.json", lambda route: route.fulfill(json={"device": None}))
    visitor.open()
    visitor.pick(*recogniser.some("Moon Pear 1"))
    visitor.answers(1)
    visitor.choices()
    assert visitor.page.get_by_role("switch").count() == 0


def test_model_that_is_not_the_announced_one_is_not_run(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open()
    page.route("**/recognizer.onnx", lambda route: route.fulfill(body=b"something else"))
    visitor.choices()
    page.get_by_role("switch").check()
    page.wait_for_selector("text=That did not work on this device")
    assert page.get_by_role("switch").is_checked(), "the visitor's choice stands until the visitor changes it"
