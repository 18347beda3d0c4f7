from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fruits.errors import ConfigError, NotFoundError
from fruits.learning.drift import Drift
from fruits.service.http.routes.owner_api import owner_router
from fruits.service.statistics import Statistics
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.service.submissions.tokens import TokenInfo

pytestmark = pytest.mark.anyio
New = Callable[..., NewSubmission]
OWNER = TokenInfo("0a1b2c3d", "Ada", "owner", None, "2026-11-25", None, None, False)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class UnauthorisedError(Exception):
    pass


@dataclass
class OwnerResources:
    submissions: Submissions
    statistics: Statistics
    known: Drift

    def drift(self) -> Drift:
        return self.known

    def identity(self) -> str:
        return "0123456789abcdef"


@pytest.fixture
def resources(database: Database, submissions: Submissions) -> OwnerResources:
    rng = np.random.default_rng(0)
    known = Drift.of(rng.normal(size=(2000, 16)).astype(np.float32), rng.normal(size=2000).astype(np.float32))
    return OwnerResources(submissions, Statistics(database), known)


@pytest.fixture
def ask(resources: OwnerResources) -> Callable[..., Any]:
    """The routes, as the service has them; ``ask("GET", "/summary")``."""

    async def signed_in(request: Request) -> TokenInfo:
        if request.headers.get("authorization") != "Bearer right":
            raise UnauthorisedError
        return OWNER

    app = FastAPI()
    app.include_router(owner_router(lambda: resources, signed_in))
    for error, status in ((UnauthorisedError, 401), (NotFoundError, 404), (ConfigError, 400)):
        app.exception_handler(error)(lambda _, __, status=status: JSONResponse({}, status))

    async def call(method: str, path: str, *, token: str = "right", **values: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.request(
                method, f"/v1/owner{path}", headers={"Authorization": f"Bearer {token}"}, **values
            )

    return call


async def test_without_the_owners_token_nothing_is_looked_at(
    ask: Callable[..., Any], submissions: Submissions, new: New
) -> None:
    name = submissions.add(new(b"photo")).id
    for method, path, values in (
        ("GET", "/summary", {}),
        ("GET", "/summary?days=nonsense", {}),
        ("GET", "/submissions", {}),
        ("GET", f"/submissions/{name}/photo", {}),
        ("POST", f"/submissions/{name}/review", {"json": {"decision": "refused"}}),
        ("POST", f"/submissions/{name}/review", {"content": b"{"}),
        ("DELETE", f"/submissions/{name}", {}),
    ):
        answer = await ask(method, path, token="wrong", **values)
        assert answer.status_code == 401, (method, path)
    assert submissions.photo(name) == b"photo"
    assert submissions.get(name).decision is None


async def test_the_summary_says_how_the_service_does(
    ask: Callable[..., Any], resources: OwnerResources, new: New
) -> None:
    rng = np.random.default_rng(0)
    features, ood_score = rng.normal(size=(2000, 16)).astype(np.float32), rng.normal(size=2000).astype(np.float32)
    for turn, bins in enumerate(resources.known.bins(features[:400] + 2, ood_score[:400])):
        resources.statistics.answered(
            "unsure" if turn % 4 == 0 else "kind", 0.1, kept=turn % 2 == 0, model=resources.identity(), bins=bins
        )
    resources.statistics.answered("kind", 0.1, kept=False, model="another", bins=np.zeros(17, np.int64))
    resources.statistics.refused("damaged")
    wrong = resources.submissions.add(new(b"photo"))
    resources.submissions.feedback(wrong.id, wrong.secret, False, "pear")
    answer = await ask("GET", "/summary?days=7")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert found["submissions"] == {"all": 1, "kept": 1, "pending": 1, "wrong": 1, "reviewed": 0}
    assert len(found["days"]) == 7
    today = found["days"][-1]
    assert (today["photos"], today["kept"], today["refused"]) == (401, 200, {"damaged": 1})
    assert list(found["reasons"]) == ["damaged"]
    assert all(found["reasons"]["damaged"].values())
    assert today["unsure_share"] == pytest.approx(100 / 401)
    assert today["latency"]["p99"] == pytest.approx(0.1, rel=0.1)
    drift = today["drift"]
    assert drift["photos"] == 400, "photos that another bundle answered say nothing of this one"
    assert drift["index"] > 0.5, "features moved by two standard deviations"
    assert drift["ood_score"] < 0.25, "the out-of-distribution score did not move"
    assert drift["worst"] >= drift["index"]
    assert drift["chance"] == pytest.approx(9 / 400)
    assert found["days"][0]["drift"] == {"photos": 0, "index": None, "chance": None, "worst": None, "ood_score": None}
    assert (found["identity"], found["keep_days"]) == (resources.identity(), 30)


async def test_a_summary_works_for_new_services(ask: Callable[..., Any]) -> None:
    found = (await ask("GET", "/summary")).json()
    assert len(found["days"]) == 30
    assert found["total"]["photos"] == 0
    assert found["total"]["latency"] == {"p50": None, "p95": None, "p99": None}
    for days in ("0", "401", "x"):
        assert (await ask("GET", f"/summary?days={days}")).status_code == 422


async def test_the_owner_looks_decides_and_deletes(ask: Callable[..., Any], submissions: Submissions, new: New) -> None:
    first, second, third = submissions.add_many([new(b"one"), new(b"two"), new(b"three")])
    listed = (await ask("GET", "/submissions?limit=2")).json()
    rest = (await ask("GET", "/submissions", params={"cursor": listed["cursor"]})).json()
    assert {one["id"] for one in listed["submissions"] + rest["submissions"]} == {first.id, second.id, third.id}
    assert rest["cursor"] is None

    shown = await ask("GET", f"/submissions/{first.id}/photo")
    assert (shown.content, shown.headers["content-type"], shown.headers["cache-control"]) == (
        b"one",
        "image/jpeg",
        "no-store",
    )

    decided = await ask("POST", f"/submissions/{first.id}/review", json={"decision": "corrected", "label": "Pear"})
    assert decided.status_code == 200
    assert (decided.json()["reviewed_label"], decided.json()["reviewer"]) == ("Pear", "Ada")
    assert (await ask("POST", f"/submissions/{second.id}/review", json={"decision": "confirmed"})).status_code == 200

    assert (await ask("DELETE", f"/submissions/{third.id}")).status_code == 204
    assert (await ask("DELETE", f"/submissions/{third.id}")).status_code == 404
    assert (await ask("GET", f"/submissions/{third.id}/photo")).status_code == 404
    reviewed = (await ask("GET", "/submissions?state=reviewed")).json()["submissions"]
    assert {one["id"] for one in reviewed} == {first.id, second.id}
    assert (await ask("GET", "/submissions")).json()["submissions"] == []


async def test_reviews_of_another_shape_are_refused(
    ask: Callable[..., Any], submissions: Submissions, new: New
) -> None:
    name = submissions.add(new(b"photo")).id
    more, long = {"decision": "refused", "more": 1}, {"decision": "corrected", "label": "x" * 201}
    for body in ({}, {"decision": "maybe"}, more, long, [], "x"):
        assert (await ask("POST", f"/submissions/{name}/review", json=body)).status_code == 422
        assert submissions.get(name).decision is None


async def test_a_correction_without_label_and_odd_cursors_are_refused(
    ask: Callable[..., Any], submissions: Submissions, new: New
) -> None:
    name = submissions.add(new(b"photo")).id
    assert (await ask("POST", f"/submissions/{name}/review", json={"decision": "corrected"})).status_code == 400
    assert (await ask("GET", "/submissions?cursor=1.nonsense")).status_code == 400
    assert (await ask("GET", "/submissions?state=everything")).status_code == 422
    for odd in ("..%2F..%2Fetc%2Fpasswd", "%00" * 22, "a" * 22):
        assert (await ask("GET", f"/submissions/{odd}/photo")).status_code == 404


async def test_what_visitors_write_comes_out_as_plain_text(
    ask: Callable[..., Any], submissions: Submissions, new: New
) -> None:
    hostile = "<script>alert(1)</script>\u202e=cmd\x00\x1b[31m"
    receipt = submissions.add(new(b"photo"))
    submissions.feedback(receipt.id, receipt.secret, False, hostile, hostile)
    answer = await ask("GET", "/submissions?state=wrong")
    assert answer.headers["content-type"] == "application/json"
    (one,) = answer.json()["submissions"]
    assert one["note"] == one["said_label"] == "<script>alert(1)</script>=cmd[31m"
