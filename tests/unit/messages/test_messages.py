"""A language is one catalogue: what is read of it, and that those that ship say all, with the same values, as text."""

from __future__ import annotations

import json
import os
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from babel.messages.pofile import read_po

import fruits
from fruits import messages
from fruits.errors import MessagesError
from fruits.messages import LANGUAGES, SOURCE, catalogue, translations
from fruits.messages.catalogue import Catalogue, parse

FOLDER = Path(messages.__file__).parent
NARROW, FULL = "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"
TRANSLATED = [language for language in LANGUAGES if language != SOURCE]


def path_of(language: str) -> Path:
    return FOLDER / "fruits.pot" if language == SOURCE else FOLDER / language / "LC_MESSAGES" / "fruits.po"


def babel_of(language: str) -> dict[str, Any]:
    with path_of(language).open("rb") as file:
        return {message.context: message for message in read_po(file) if message.id}


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def strings(message: Any) -> tuple[str, ...]:
    return message.string if isinstance(message.string, tuple | list) else (message.string,)


# What ships


def test_three_languages_ship_and_english_is_first() -> None:
    assert LANGUAGES[0] == "en"
    assert {"es", "fr"} < set(LANGUAGES)


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_catalogue_translates_every_message_as_it_stands_in_english(language: str) -> None:
    english, translated = babel_of(SOURCE), babel_of(language)
    assert translated.keys() == english.keys(), "bring it up to date with 'make messages'"
    for key, message in translated.items():
        assert message.id == english[key].id, (
            f"{key}: the English has changed; 'make messages', then translate it again"
        )
        assert not message.fuzzy, key
        assert all(strings(message)), f"{key} is not translated"


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_puts_in_the_same_values(language: str) -> None:
    english = babel_of(SOURCE)
    for key, message in babel_of(language).items():
        known = set().union(*map(fields, [message.id] if isinstance(message.id, str) else message.id))
        # A comment of the English may offer other values in their place.
        offered = known | fields(" ".join(english[key].auto_comments))
        for form in strings(message):
            assert fields(form) <= offered, key
            if offered == known:
                # A form for one may say so in words.
                assert known - fields(form) <= ({"n"} if len(strings(message)) > 1 else set()), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_message_is_markup(language: str) -> None:
    for key, message in catalogue(language).messages.items():
        for form in message.forms:
            assert not re.search(r"</?[a-z]|&\w+;|javascript:", form, re.IGNORECASE), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_read_is_what_babel_reads(language: str) -> None:
    read = catalogue(language)
    for key, message in babel_of(language).items():
        said = (
            (message.id if isinstance(message.id, tuple) else (message.id,)) if language == SOURCE else strings(message)
        )
        assert read.messages[key].forms == tuple(said), key
    assert read.messages.keys() == babel_of(language).keys()


def test_signs_stay_on_the_line_of_their_word_as_each_language_writes_them() -> None:
    french, spanish = catalogue("fr"), catalogue("es")
    for key in french.messages:
        for n in (1, 2):
            assert not re.search(r" [;:?!%»]|« ", french.pattern(key, n).replace(f"« {FULL}", "")), key
            assert not re.search(r"\d%| %| [;:?!»]|« ", spanish.pattern(key, n)), key
    assert french.text("page.device_ready").startswith(f"Prêt{FULL}: ")
    assert french.text("page.is_right") == f"Est-ce juste{NARROW}?"
    assert spanish.text("page.is_right") == "¿Es correcto?"


def test_spanish_visitors_are_addressed_in_one_way() -> None:
    formal = re.compile(
        r"\b(?:usted|su foto|sus fotos|envíe|elija|pruebe|espere|inténtelo|haga|marque|dibuje|pregunte|puede señalar|digáis)\b",
        re.IGNORECASE,
    )
    for key, message in catalogue("es").messages.items():
        if key.startswith(("page.", "owner.", "http.", "limit.", "detail.")):
            assert not any(map(formal.search, message.forms)), key


def test_a_term_is_translated_in_one_way() -> None:
    others = {
        "es": r"\b(?:embeddings?|clase acertada|reconocedor|herramienta|solicitudes)\b",
        "fr": r"\b(?:embeddings?|calibration|outil)\b",
    }
    for language, pattern in others.items():
        for key, message in catalogue(language).messages.items():
            assert not any(re.search(pattern, form, re.IGNORECASE) for form in message.forms), key


# Numbers and plurals


@pytest.mark.parametrize(
    ("language", "number", "small", "share", "many", "fraction"),
    [
        ("en", "12,345.6", "1,234", "97%", "0 photos", "1.5 photos per"),
        ("fr", f"12{NARROW}345,6", f"1{NARROW}234", f"97{NARROW}%", "0 photo", "1,5 photo par"),
        ("es", f"12{NARROW}345,6", "1234", f"97{NARROW}%", "0 fotos", "1,5 fotos por"),
    ],
)
def test_numbers_shares_and_plurals_are_the_languages(
    language: str, number: str, small: str, share: str, many: str, fraction: str
) -> None:
    said = catalogue(language)
    assert said.number(12345.6, 1) == number
    assert said.number(1234) == small
    assert said.percent(0.97) == share
    assert said.text("report.n_photos", n=0) == many
    assert said.pattern("report.seconds_rate", 1.5).replace("{n}", said.number(1.5, 1)).startswith(fraction)


def test_a_page_is_told_the_formula_as_a_table() -> None:
    formula = "n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2"
    russian = parse(f'msgid ""\nmsgstr "Plural-Forms: nplurals=3; plural=({formula});\\n"\n', language="ru")
    table = russian.table()
    for n in range(10_000):
        assert int(table[n if n < 200 else 100 + n % 100]) == russian.plural_form(n)


def test_what_a_language_lacks_is_said_in_english() -> None:
    some = parse(
        'msgid ""\nmsgstr "Plural-Forms: nplurals=3; plural=(n != 1);\\n"\n\n'
        'msgctxt "report.title"\nmsgid "fruits: run report"\nmsgstr "fruits: raporto"\n',
        language="eo",
    ).over(catalogue(SOURCE))
    assert some.text("report.title") == "fruits: raporto"
    assert some.text("report.tagline") == "run report"
    assert some.text("report.n_photos", n=7) == "7 photos"


def test_a_message_is_told_in_every_language_at_once() -> None:
    assert translations("limit.pixels", limit=50_000_000)["es"] == (
        f"La foto tiene más de 50{NARROW}000{NARROW}000 píxeles: envía una más pequeña."
    )


# Files that are none


GOOD = 'msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=(n != 1);\\n"\n\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no Plural-Forms"),
        ('msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=os.remove(n);\\n"\n', "is no formula"),
        ('msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=1/0;\\n"\n', "is no formula"),
        (GOOD + 'msgid "a"\nmsgstr "b"\n', "has no msgctxt"),
        (GOOD + 'msgctxt "k"\nmsgid a\nmsgstr "b"\n', "line 5: found 'msgid a'"),
        (GOOD + 'msgctxt "k"\nmsgid "a\nmsgstr "b"\n', "line 5"),
        (GOOD + 'msgctxt "k"\nmsgid "a\\x"\nmsgstr "b"\n', "cannot be read"),
        (GOOD + 'msgctxt "k"\nmsgid "a"\nmsgid_plural "as"\nmsgstr[0] "b"\n', "has 1 forms; expected 2"),
        ('"lost"\n', "line 1"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(MessagesError, match=re.escape(message)):
        parse(text, language="xx")


def test_guesses_and_blanks_are_left_out_and_comments_and_long_lines_read() -> None:
    read: Catalogue = parse(
        GOOD + '# a note\n#. of the source\nmsgctxt "a"\nmsgid "x"\nmsgstr ""\n"one "\n"\\"two\\"\\n"\n'
        '#, fuzzy\nmsgctxt "b"\nmsgid "x"\nmsgstr "guess"\n\nmsgctxt "c"\nmsgid "x"\nmsgstr ""\n\n'
        '#~ msgctxt "d"\n#~ msgid "x"\n#~ msgstr "y"\n',
        language="xx",
    )
    assert {key: message.forms for key, message in read.messages.items()} == {"a": ('one "two"\n',)}


# A language that nobody has written


@pytest.mark.slow
def test_a_catalogue_dropped_into_the_package_is_a_language_of_report_errors_and_page(tmp_path: Path) -> None:
    package = tmp_path / "fruits"
    source = Path(fruits.__file__).parent
    shutil.copytree(source, package, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__", "web"))
    made_up = path_of("es").read_text("utf-8").replace('"Language: es\\n"', '"Language: qq\\n"')
    for english, word in (
        ("language.name", "Kwenya"),
        ("report.tagline", "lumelo"),
        ("http.not_found", "Ga go yona"),
        ("page.take", "Tsaya"),
    ):
        made_up = re.sub(rf'(msgctxt "{re.escape(english)}"\nmsgid ".*"\nmsgstr )".*"', rf'\1"{word}"', made_up)
    there = package / "messages" / "qq" / "LC_MESSAGES"
    there.mkdir(parents=True)
    (there / "fruits.po").write_text(made_up, "utf-8")
    program = """
import json, sys
import fruits
from starlette.applications import Starlette
from starlette.testclient import TestClient
from fruits.report import render
from fruits.service.http import errors
from fruits.service.http.routes import schemas
from fruits.service.pages import routes
client = TestClient(Starlette(routes=routes.routes()))
print(json.dumps({
    "where": fruits.__file__,
    "report": render(json.load(sys.stdin), {}),
    "error": errors.code_and_messages(errors.HttpError("not_found")),
    "page": client.get("/").text,
    "messages": client.get("/static/messages/page.qq.json").json(),
    "worker": client.get("/sw.js").text[:5000],
    "schema": schemas.Error.model_json_schema(),
}))
"""
    sys.path.insert(0, str(Path(__file__).parent.parent / "report"))
    try:
        from pages import a_record
    finally:
        sys.path.pop(0)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        input=json.dumps(a_record()), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["where"].startswith(str(tmp_path))
    assert '<span lang="qq">lumelo</span>' in found["report"]
    assert 'data-choose="qq"' in found["report"]
    assert 'title="Kwenya"' in found["report"]
    assert '[data-lang="qq"]' in found["report"]
    assert found["error"]["message"]["qq"] == "Ga go yona."
    assert 'data-language="qq" lang="qq" aria-label="QQ, Kwenya"' in found["page"]
    assert 'data-languages="en es fr qq"' in found["page"]
    assert found["messages"]["messages"]["take"] == "Tsaya"
    assert "static/messages/page.qq.json" in found["worker"]
    assert "qq" in found["schema"]["$defs"]["Text"]["properties"]
