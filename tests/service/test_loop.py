"""The loop closed: what visitors submitted is reviewed, exported, learnt; and recognised in batch from where it is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fruits.photos.generated import generator
from fruits.recogniser import bundle as bundles
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions
from fruits.service.submissions.reviewed.test_set import split_of
from fruits.storage.objects import Objects

LABEL = "Newcomer <b>1/2</b>"  # hostile, too: it becomes a folder, a label, a row of a report
FOLDER = "Newcomer ~3Cb~3E1~2F2~3C~2Fb~3E"


@dataclass
class Submitted:
    """What visitors submitted to a service, and its command line; ``learnt`` without the photos of the test set."""

    data: Path
    submissions: Submissions
    learnt: list[Receipt]
    refused: Receipt
    pending: Receipt
    unseen: list[bytes]


@pytest.fixture(scope="module")
def submitted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """Photos of a fruit that the recogniser has never seen: most corrected by the owner, one refused, one not looked at."""
    folder = tmp_path_factory.mktemp("loop")
    generator.write_photos(folder / "orchard", photos=9 * 40, varieties=9, workers=1)
    known = {path.name for path in (photos / "Training").iterdir()}
    (name,) = {path.name for path in (folder / "orchard" / "Training").iterdir()} - known
    unseen = [path.read_bytes() for path in sorted(folder.glob(f"orchard/T*/{name}/*.jpg"))]
    data = folder / "data"
    submissions = Submissions(
        Database.open(f"sqlite:///{data}/service.db"), Objects(str(data / "photos")), keep_days=30
    )
    new = [
        NewSubmission("kind", "apple", None, "Apfelino Red 1", 0.9, 1.0, "en", "model", photo=photo)
        for photo in unseen[:32]
    ]
    refused, pending, *corrected = submissions.add_many(new)
    submissions.review(refused.id, "refused", reviewer="me")
    for receipt in corrected:
        submissions.review(receipt.id, "corrected", LABEL, reviewer="me")
    learnt = [receipt for receipt in corrected if split_of(receipt.id) == "train"]
    return Submitted(data, submissions, learnt, refused, pending, unseen[32:])


def test_the_next_run_learns_what_was_reviewed_and_forgets_what_was_deleted(
    submitted: Submitted, finished_run: Any, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    exported, out = tmp_path / "exported", finished_run.copy_to(tmp_path)

    def export_and_run() -> dict[str, Any]:
        done = fruits("submissions", "export", "--to", exported, "--data", submitted.data, "--json")
        assert done.code == 0, done.stderr
        assert done.json()["folders"] == {LABEL: FOLDER}
        done = fruits("run", finished_run.photos, exported, "--to", out, "--workers", 1, "--components", 16, "--json")
        assert done.code == 0, done.stderr
        record: dict[str, Any] = done.json()
        return record

    before = finished_run.record
    record = export_and_run()
    assert record["photos"] == before["photos"] + len(submitted.learnt)
    assert record["labels"] == before["labels"] + 1
    assert record["rejected"] == record["failed"] == 0
    listed = pq.read_table(out / "catalogue.parquet", columns=["uri", "label"]).to_pylist()
    ours = {Path(row["uri"]).stem: row["label"] for row in listed if str(exported) in row["uri"]}
    assert ours == {receipt.id: FOLDER for receipt in submitted.learnt}, "refused, pending and test photos never come"
    said = [answer.labels[0] for answer in bundles.load(out).recognise(submitted.unseen)]
    assert said.count(FOLDER) > 0.8 * len(said), "photos of the same fruit that nobody submitted are recognised"
    assert LABEL not in (out / "report.html").read_text("utf-8")

    for receipt in submitted.learnt[:10]:
        submitted.submissions.delete(receipt.id, receipt.secret)
    record = export_and_run()
    assert record["photos"] == before["photos"] + len(submitted.learnt) - 10
    assert record["computed"] == 0
    listed = pq.read_table(out / "catalogue.parquet", columns=["uri"]).to_pylist()
    assert not {receipt.id for receipt in submitted.learnt[:10]} & {Path(row["uri"]).stem for row in listed}


@pytest.mark.parametrize("engine", ["local", pytest.param("spark", marks=pytest.mark.spark)])
def test_kept_photos_are_recognised_in_batch(
    submitted: Submitted, finished_run: Any, fruits: Callable[..., Any], tmp_path: Path, engine: str
) -> None:
    if engine == "spark":
        pytest.importorskip("pyspark", reason="no pyspark: pip install -e '.[spark]' to test Spark")
        if shutil.which("java") is None:
            pytest.skip("no Java on PATH: install Java 17 or newer to test Spark")
    options = ("--engine", "spark", "--master", "local[2]") if engine == "spark" else ("--workers", 1)
    done = fruits(
        "apply", finished_run.out, submitted.data / "photos", "--to", tmp_path / "answers", *options, "--json"
    )
    assert done.code == 0, done.stderr
    rows = pq.read_table(done.json()["predictions"]).to_pylist()
    kept = submitted.submissions.page("kept", limit=200).submissions
    assert {Path(row["uri"]).stem for row in rows} == {one.id for one in kept}
    assert {row["status"] for row in rows} == {"ok"}


def test_the_command_line_lists_and_purges(submitted: Submitted, fruits: Callable[..., Any], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(submitted.data, tmp_path / "data"))
    listed = fruits("submissions", "list", "--data", copied, "--state", "reviewed", "--limit", 5, "--json").json()
    assert len(listed["submissions"]) == 5
    counts = listed["counts"]
    assert counts["kept"] == counts["pending"] + counts["reviewed"] == len(list((copied / "photos").iterdir()))
    text = fruits("submissions", "list", "--data", copied)
    assert f"corrected {LABEL}" in text.stdout
    assert "refused" in text.stdout
    (copied / "photos" / ("o" * 22 + ".jpg")).write_bytes(b"nobody's")
    assert fruits("submissions", "purge", "--data", copied, "--keep-days", 1, "--json").json() == {
        "deleted": 0,
        "finished": 0,
    }
    assert not (copied / "photos" / ("o" * 22 + ".jpg")).exists()
    nowhere = tmp_path / "nowhere"
    for options in (("--data", nowhere), ("--database", f"sqlite:///{nowhere}/service.db", "--photos", nowhere)):
        done = fruits("submissions", "export", "--to", tmp_path / "x", *options)
        assert done.code == 2
        assert "no service has kept anything" in done.stderr
        assert not nowhere.exists()
    assert "which service?" in fruits("submissions", "list", "--photos", nowhere).stderr


def test_processes_share_one_database(
    submitted: Submitted, fruits: Callable[..., Any], serve: Callable[..., Any], a_photo: bytes
) -> None:
    running = serve("--rate", 0, "--keep-days", 30)
    token = fruits("tokens", "add", "owner", "--role", "owner", "--data", running.data).stdout.strip()
    headers = {"Authorization": f"Bearer {token}"}
    for _ in range(3):
        assert running.recognise(a_photo, keep="true").status_code == 200
    sent = 3
    listed = running.client.get("/v1/owner/submissions", headers=headers).json()["submissions"]
    while not (to_train_on := [one for one in listed if split_of(one["id"]) == "train"]):
        assert running.recognise(a_photo, keep="true").status_code == 200
        sent += 1
        listed = running.client.get("/v1/owner/submissions", headers=headers).json()["submissions"]
    one = to_train_on[0]
    shown = running.client.get(f"/v1/owner/submissions/{one['id']}/photo", headers=headers)
    assert shown.headers["content-type"] == "image/jpeg"
    decided = running.client.post(
        f"/v1/owner/submissions/{one['id']}/review", headers=headers, json={"decision": "confirmed"}
    )
    assert decided.json()["reviewer"] == "owner"
    exported = fruits("submissions", "export", "--to", running.data / "export", "--data", running.data, "--json").json()
    assert (exported["photos"], exported["labels"]) == (1, {one["label"]: 1})
    found = running.client.get("/v1/owner/summary", headers=headers).json()
    assert (found["total"]["photos"], found["submissions"]["reviewed"]) == (sent, 1)
    assert fruits("tokens", "revoke", "owner", "--data", running.data).code == 0
    running.wait_until(lambda: running.client.get("/v1/owner/summary", headers=headers).status_code == 401, 30)
