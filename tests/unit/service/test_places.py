"""Where a service keeps its data: beside the results, which people copy, not among them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fruits.service.settings import ServiceConfig, StorageLocations
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.storage.objects import Objects


def data_of(out: object) -> str:
    return StorageLocations.of(str(out)).data


@pytest.mark.parametrize(
    ("out", "data"),
    [
        ("results", "results-service"),
        ("results/", "results-service"),
        ("a/../results", "results-service"),
        ("results/bundle", "results-service"),
        ("some bundle", "some bundle-service"),
    ],
)
def test_data_lies_beside_the_results(out: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_of(out) == data_of(tmp_path / out) == str(tmp_path / data)
    places = StorageLocations.of(out)
    assert (places.database, places.photos) == (f"sqlite:///{tmp_path / data}/service.db", f"{tmp_path / data}/photos")


def test_results_that_are_here_have_their_data_beside_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path / "results")
    assert data_of(".") == str(tmp_path / "results-service")
    assert data_of("/") == "/fruits-service"
    assert data_of("s3://bucket/results") == "fruits-service"


def test_what_is_said_counts(tmp_path: Path) -> None:
    config = ServiceConfig(out=str(tmp_path / "results"), data=str(tmp_path / "elsewhere"))
    assert (config.data, config.photos) == (str(tmp_path / "elsewhere"), str(tmp_path / "elsewhere" / "photos"))


@pytest.mark.slow
def test_a_token_is_made_and_listed_in_the_data_beside_the_results(tmp_path: Path, fruits: Callable[..., Any]) -> None:
    out = tmp_path / "my results"
    added = fruits("tokens", "add", "app", out)
    assert added.code == 0, added.stderr
    assert Path(f"{out}-service", "service.db").is_file()
    listed = fruits("tokens", "list", out)
    assert listed.stderr == ""
    assert "app: made" in listed.stdout
    assert "0 days old, never used, usual rate, expires 20" in listed.stdout
    assert fruits("tokens", "list", out, "--json").json()["tokens"][0]["age_days"] == 0


@pytest.mark.slow
def test_a_purge_leaves_receipts_for_as_long_as_the_service_promised(
    tmp_path: Path, fruits: Callable[..., Any]
) -> None:
    places = StorageLocations.of("", data=str(tmp_path))
    answer = NewSubmission("kind", "apple", None, "Apple", 0.9, 0.1, "en", "0" * 16, None, None)
    with closing(Database.open(places.database)) as database:
        submissions = Submissions(database, Objects(places.photos), keep_days=90)
        submissions.add(answer)
        with database.writing() as connection:
            connection.execute(text("update submissions set created_s = created_s - 86400"))
        for hours, left in ((48, 1), (0, 0)):
            done = fruits("submissions", "purge", "--data", tmp_path, "--keep-days", 90, "--feedback-hours", hours)
            assert done.code == 0, done.stderr
            assert submissions.counts()["all"] == left
