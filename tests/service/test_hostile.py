"""A little of every family of hostile input, against a real service; `python -m faults hostile` sends all of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from faults import hostile, readers
from faults.attacked import Attacked, BrokenAnswerError, Case, Reply, parse
from faults.hostile_bodies import form, part
from faults.hostile_heads import get, post
from faults.trials import Trials

from fruits.recogniser import bundle as bundles

_NOSNIFF = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'"}


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """A few trials of each family."""
    return Trials(tmp_path_factory.mktemp("hostile"), quick=True)


@pytest.fixture(scope="module")
def attacked(finished_run: Any, a_photo: bytes, trials: Trials) -> Iterator[Attacked]:
    """One service for all families: what one leaves behind, the next would meet."""
    label = bundles.load(finished_run.out).recognise([a_photo])[0].labels[0]
    impatient = ("--send-timeout", "4", "--decode-timeout", "0.5", *readers.options(most=65))
    with Attacked(finished_run.out, a_photo, label, trials.scratch, impatient) as service:
        yield service


@pytest.mark.parametrize("family", hostile.FAMILIES)
def test_hostile_input_is_refused_and_leaves_nothing(family: str, attacked: Attacked, trials: Trials) -> None:
    figure = hostile.attack(attacked, family, trials)
    assert figure.failed == []
    assert figure.trials >= 10
    assert "not as it should be" not in figure.outcomes


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (
            500,
            b'{"error": {"code": "internal", "message": {"en": "a", "es": "c", "fr": "b"}, "request_id": "c"}}',
            _NOSNIFF,
        ),
        (404, b'{"detail": "Not Found"}', _NOSNIFF),
        (
            404,
            b'{"error": {"code": "not_found", "message": {"en": "a", "es": "c", "fr": ""}, "request_id": "c"}}',
            _NOSNIFF,
        ),
        (
            422,
            b'{"error": {"code": "x", "message": {"en": "in sqlalchemy", "es": "c", "fr": "b"}, "request_id": "c"}}',
            _NOSNIFF,
        ),
        (200, b"{}", {}),
    ],
    ids=["500", "another shape", "one language", "names a library", "no security headers"],
)
def test_wrong_answers_are_noticed(status: int, body: bytes, headers: dict[str, str], attacked: Attacked) -> None:
    with pytest.raises(BrokenAnswerError):
        attacked.judge(Reply(status, headers, body))


def test_a_status_that_was_not_due_is_noticed(attacked: Attacked) -> None:
    with pytest.raises(BrokenAnswerError, match="expected"):
        attacked.send(Case("a question that is fine", [get()], (400,)))


def test_an_answer_too_many_is_noticed(attacked: Attacked) -> None:
    # It comes at once or a moment later: then it is "an answer to nothing that was asked".
    with pytest.raises(BrokenAnswerError, match=r"answers|an answer to nothing"):
        attacked.send(Case("two questions in the place of one", [get() * 2], (200,)))


def test_a_row_that_nobody_was_promised_is_noticed(attacked: Attacked) -> None:
    attacked.send(Case("a photo", [post(attacked.good)], (200,)))
    name, receipt = attacked.receipts.popitem()
    assert any("rows that nobody was promised" in problem for problem in attacked.problems())
    attacked.receipts[name] = receipt
    attacked.receipts["A" * 22] = ("", False)
    assert any("rows are missing" in problem for problem in attacked.problems())
    del attacked.receipts["A" * 22]
    assert attacked.problems() == []


def test_planted_bytes_are_noticed(attacked: Attacked) -> None:
    assert any("planted bytes" in problem for problem in attacked.problems(b"SQLite format 3"))


def test_answers_are_taken_apart_as_http_says() -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Name: a: b\r\n\r\nhithe rest"
    found = parse(whole)
    assert found == (Reply(200, {"content-length": "2", "x-name": "a: b"}, b"hi"), b"the rest")
    assert all(parse(whole[:length]) is None for length in range(whole.index(b"hi") + 2))
    pieces = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\n you\r\n0\r\n\r\n"
    assert parse(pieces.replace(b"3\r\n you", b"4\r\n you")) == (
        Reply(200, {"transfer-encoding": "chunked"}, b"hi you"),
        b"",
    )
    with pytest.raises(BrokenAnswerError, match="no HTTP"):
        parse(b"<html>\r\n\r\n")


def test_receipts_are_read_from_answers_about_photos_and_not_from_counts_of_them() -> None:
    assert Reply(200, {}, b'{"photos":3,"reviewed":2}').receipts == []
    assert Reply(200, {}, b'{"photos":[{"id":"a","secret":"b","kept":true}]}').receipts == [("a", "b", True)]


def test_a_wish_that_makes_no_sense_is_refused_wherever_it_is_said(attacked: Attacked) -> None:
    for target in ("?keep=maybe", "?lang=de", "?keep=true&keep=maybe"):
        sent = form(part("keep", b"true"), part("lang", b"fr"), part("photo", attacked.good))
        attacked.send(Case(target, [sent.replace(b"/v1/recognise", b"/v1/recognise" + target.encode(), 1)], (422,)))
    attacked.send(Case("the body counts", [form(part("keep", b"false"), part("photo", attacked.good))], (200,)))


def test_every_address_says_what_it_may_answer(attacked: Attacked) -> None:
    with urllib.request.urlopen(f"{attacked.url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    told = {
        (path, method): operation["responses"] for path, each in paths.items() for method, operation in each.items()
    }
    assert len(told) > 12
    assert all({"4XX", "503"} <= responses.keys() for responses in told.values())
    assert list(told["/metrics", "get"]["200"]["content"]) == ["text/plain"]
