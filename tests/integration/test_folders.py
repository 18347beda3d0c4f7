"""Folders that hold somebody else's files are left alone by every command; those that older versions made go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.storage.objects import Objects
from fruits.storage.outputs.marker import NAME, kind_of

THEIRS = {"report.html": b"<p>A report of another program</p>", "run.json": b'{"run": 7}'}


@pytest.fixture
def service_data(tmp_path: Path) -> Path:
    """A service's data with one reviewed photo."""
    data = tmp_path / "service data"
    database = Database.open(f"sqlite:///{data}/service.db")
    submissions = Submissions(database, Objects(str(data / "photos")), keep_days=30)
    answer = NewSubmission("kind", "apple", None, "Apple", 0.9, 1.0, "en", "model", photo=b"\xff\xd8\xff\xe0 photo")
    submissions.review(submissions.add(answer).id, "confirmed", reviewer="me")
    database.close()
    return data


@pytest.mark.parametrize("command", ["run", "apply", "audit", "pack", "export"])
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_somebody_elses_files_are_never_replaced(
    command: str, where: str, finished_run: Any, service_data: Path, fruits: Callable[..., Any], tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    out = tmp_path / "theirs" if where == "disk" else f"{request.getfixturevalue('bucket')}/theirs"
    objects = Objects(str(out))
    for key, data in THEIRS.items():
        objects.write(key, data)
    photos = finished_run.photos
    arguments = {
        "run": ("run", photos),
        "apply": ("apply", finished_run.out, photos),
        "audit": ("audit", photos),
        "pack": ("pack", photos),
        "export": ("submissions", "export", "--data", service_data),
    }[command]
    done = fruits(*arguments, "--to", out)
    assert done.code == 1
    assert "expected a new or an empty folder" in done.stderr
    assert {found.key: objects.read(found.key) for found in objects.list()} == THEIRS


def test_results_of_an_older_version_go_on_and_are_marked(
    finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    assert kind_of(Objects(str(out))) == "results"
    (out / NAME).unlink()
    done = fruits("run", finished_run.photos, "--to", out, "--json")
    assert done.code == 0, done.stderr
    assert done.json()["up_to_date"]
    assert (out / NAME).is_file()
    (out / NAME).unlink()
    assert fruits("evaluate", out, "--protocol", "official").code == 0
    assert (out / NAME).is_file()


def test_a_killed_first_run_of_an_older_version_goes_on(
    finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    shutil.copytree(finished_run.out / "embeddings", out / "embeddings")
    done = fruits("run", finished_run.photos, "--to", out, "--json")
    assert done.code == 0, done.stderr
    assert done.json()["computed"] == 0


def test_an_export_is_no_place_for_results_nor_results_for_an_export(
    finished_run: Any, service_data: Path, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    given, out = tmp_path / "given", finished_run.copy_to(tmp_path)
    assert fruits("submissions", "export", "--data", service_data, "--to", given).code == 0
    done = fruits("run", finished_run.photos, "--to", given)
    assert done.code == 1
    assert "exported photos" in done.stderr
    done = fruits("submissions", "export", "--data", service_data, "--to", out)
    assert done.code == 1
    assert not list(out.glob("Apple/*"))


def test_demo_leaves_a_taxonomy_of_somebody_else(fruits: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "taxonomy.csv").write_text("mine")
    done = fruits("demo", "--to", tmp_path, "--photos", 100)
    assert done.code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taxonomy.csv"]
    assert (tmp_path / "taxonomy.csv").read_text() == "mine"


def test_a_bundle_names_no_place_of_the_machine_it_was_made_on(
    own_photos: Path, fruits: Callable[..., Any], tmp_path: Path, save_network: Callable[..., Path], networks: Any
) -> None:
    (tmp_path / "names.csv").write_text("label,kind,variety,en,fr\n")
    network = save_network(networks[0]("NHWC", "uint8"))
    done = fruits(
        "run", own_photos, "--to", tmp_path / "out", "--components", 4, "--backbone", network,
        "--taxonomy", tmp_path / "names.csv",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    for path in (tmp_path / "out" / "bundle").iterdir():
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data, path.name
        assert b"own photos" not in data, path.name
    config = json.loads((tmp_path / "out" / "bundle" / "manifest.json").read_bytes())["about"]["config"]
    assert (config["backbone"], config["taxonomy"]) == ("tiny.onnx", "names.csv")
