"""A service's database and what rests on it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.storage.disk.private import make_private_folder
from fruits.storage.objects import Objects


@pytest.fixture(autouse=True)
def split(monkeypatch: pytest.MonkeyPatch) -> str:
    """The split of every reviewed photo, so that tests of other things do not depend on random ids."""
    monkeypatch.setattr("fruits.service.submissions.repository.split_of", lambda _: "train")
    return "train"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite after all migrations, for copies: they take longer than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "service.db"
    Database.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def database(database_url: str, migrated: Path) -> Iterator[Database]:
    """An empty database, up to date."""
    if database_url.startswith("sqlite:///"):
        file = Path(database_url.removeprefix("sqlite:///"))
        make_private_folder(file.parent)
        shutil.copy(migrated, file)
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Where photos are kept."""
    return tmp_path / "kept"


@pytest.fixture
def submissions(database: Database, photo_folder: Path) -> Submissions:
    """Submissions that are kept for 30 days."""
    return Submissions(database, Objects(str(photo_folder)), keep_days=30)


@pytest.fixture
def new() -> Callable[..., NewSubmission]:
    """An answer to keep; with a photo if one is given."""

    def make(photo: bytes | None = None, **changes: Any) -> NewSubmission:
        values: dict[str, Any] = {
            "outcome": "kind", "kind": "apple", "variety": None, "label": "Apple Red 1", "probability": 0.75,
            "ood_score": 1.5, "language": "fr", "model": "0123456789abcdef", "photo": photo,
            "features": None if photo is None else np.arange(8, dtype=np.float32),
        }  # fmt: skip
        return NewSubmission(**(values | changes))

    return make
