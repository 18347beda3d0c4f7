"""Requests that schemathesis makes of the service's own OpenAPI: as they should be, and as they should not.

Without a token, with a program's and with the owner's, in turn. Beside what schemathesis checks (statuses, types and bodies are
those that are documented; what is wrong is refused), every answer must have our shape. One check is left out: that what the
schema allows is taken, because no schema can say which bytes are a photo or which receipts were given.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import Phase, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from faults.attacked import BrokenAnswerError, Reply, judge

#: Requests to one address before the next one has its turn, at most.
_AT_A_TIME = 100
#: Failures of one address and kind that are told in full.
_TOLD = 3


@dataclass
class Found:
    """How requests ended, what was not right, and the receipts that came back."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    receipts: list[tuple[str, str, bool]] = field(default_factory=list)


def explore(url: str, tokens: Sequence[str | None], wanted: int, seed: int) -> Found:
    """Send so many requests, or a few more."""
    load_all_checks()
    excluded = CHECKS.get_by_names(["positive_data_acceptance"])
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    # What is wrong because it is too much is refused as such.
    refusing = schema.config.checks.negative_data_rejection
    refusing.expected_statuses = [*refusing.expected_statuses, "408", "413"]
    operations = [found.ok() for found in schema.get_all_operations()]
    found = Found()
    turns = list(itertools.product(operations, GenerationMode))
    at_a_time = max(1, min(_AT_A_TIME, wanted // len(turns)))
    outcomes, failed = found.outcomes, Counter[str]()
    barren: set[tuple[str, Any]] = set()
    with requests.Session() as session:
        for turn in itertools.count():
            before = outcomes.total()
            for place, (operation, mode) in enumerate(turns):
                if outcomes.total() + failed.total() >= wanted:
                    return found
                if (operation.label, mode) in barren:
                    continue
                token = tokens[(turn + place) % len(tokens)]
                headers = {"Authorization": f"Bearer {token}"} if token else {}

                def one(case: Any, label: str = operation.label, headers: dict[str, str] = headers) -> None:
                    try:
                        outcomes[_send(url, session, case, headers, excluded, found)] += 1
                    except (BrokenAnswerError, requests.RequestException) as exc:
                        failed[label] += 1
                        if failed[label] <= _TOLD:
                            found.failures.append(f"{label}: {exc}")

                try:
                    _examples(operation.as_strategy(generation_mode=mode), one, seed + turn, at_a_time)
                except Unsatisfiable:  # nothing about this address can be wrong
                    barren.add((operation.label, mode))
            if outcomes.total() == before:
                raise RuntimeError(f"no more requests can be made of the OpenAPI than {before}")
    return found


def _examples(strategy: Any, one: Callable[[Any], None], seed: int, most: int) -> None:
    @hypothesis.seed(seed)
    @settings(
        max_examples=most, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def run(case: Any) -> None:
        one(case)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()


def _send(
    url: str, session: requests.Session, case: Any, headers: dict[str, str], excluded: list[Any], found: Found
) -> str:
    answer = case.call(base_url=url, session=session, headers=headers, timeout=60, allow_redirects=False)
    said = {name.lower(): values[0] for name, values in answer.headers.items()}
    reply = Reply(answer.status_code, said, answer.content)
    found.receipts += reply.receipts
    judge(reply, head=case.method == "HEAD")
    try:
        case.validate_response(answer, excluded_checks=excluded)
    except (Exception, BaseExceptionGroup) as exc:  # schemathesis groups its failures in exceptions of its own
        several = exc.exceptions if isinstance(exc, BaseExceptionGroup) else [exc]
        told = "; ".join(" ".join(str(one).split())[:600] for one in several)
        raise BrokenAnswerError(f"{answer.status_code} to {case.as_curl_command()[:600]}: {told}") from exc
    return str(answer.status_code)
