"""The owner's loop by way of the API: review, the next run's manifest, the run, and the score on visitors' photos over time."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fruits.photos.generated import generator
from fruits.recogniser import bundle as bundles
from fruits.service.submissions.reviewed.test_set import split_of

LABEL = "Newcomer"


@pytest.fixture(scope="module")
def newcomer(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Photos of a fruit that the recogniser has never seen."""
    folder = tmp_path_factory.mktemp("newcomer")
    generator.write_photos(folder, photos=9 * 30, varieties=9, workers=1)
    known = {path.name for path in (photos / "Training").iterdir()}
    (name,) = {path.name for path in (folder / "Training").iterdir()} - known
    return [path.read_bytes() for path in sorted(folder.glob(f"T*/{name}/*.jpg"))]


@pytest.mark.slow
def test_reviewed_photos_become_a_manifest_a_run_a_label_and_a_score_that_rises(
    newcomer: list[bytes], finished_run: Any, fruits: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    running = serve("--rate", 0, "--token-rate", 0, "--watch", 1, out=out)
    token = fruits("tokens", "add", "owner", "--role", "owner", "--data", running.data).stdout.strip()
    owner = {"Authorization": f"Bearer {token}"}

    def ask(path: str) -> Any:
        return running.client.get(f"/v1/owner/{path}", headers=owner).raise_for_status().json()

    assert ask("test-set")["bundles"] == []
    assert ask("next-run")["photos"] == 0
    splits: dict[str, list[str]] = {"train": [], "test": []}
    while len(splits["test"]) < 30:
        files = [("photo", (f"{place}.jpg", photo, "image/jpeg")) for place, photo in enumerate(newcomer[:8])]
        newcomer = newcomer[8:] + newcomer[:8]
        sent = running.client.post("/v1/recognise", files=files, data={"keep": "true", "show": "true"})
        for one in sent.raise_for_status().json()["photos"]:
            decided = {"decision": "corrected", "label": LABEL}
            said = running.client.post(f"/v1/owner/submissions/{one['id']}/review", headers=owner, json=decided)
            splits[split_of(one["id"])].append(one["id"])
            assert said.json()["split"] == split_of(one["id"])

    # The open bundle is asked about every test photo; it has never heard of the label.
    running.wait_until(lambda: [one["photos"] for one in ask("test-set")["bundles"]] == [len(splits["test"])], 120)
    found = ask("test-set")
    (before,) = found["bundles"]
    assert (found["photos"], before["identity"], before["label"]["share"]) == (len(splits["test"]), found["open"], 0)

    told = ask("next-run")
    assert (told["photos"], told["new_labels"], told["left_out"]) == (len(splits["train"]), [LABEL], 0)
    assert told["test_photos"] == len(splits["test"])
    got = running.client.get("/v1/owner/manifest", headers=owner)
    assert got.headers["content-disposition"] == 'attachment; filename="reviewed.parquet"'
    manifest = tmp_path / "reviewed.parquet"
    manifest.write_bytes(got.content)
    assert {Path(uri).stem for uri in pq.read_table(manifest)["uri"].to_pylist()} == set(splits["train"])

    # The command as it is shown, in the folder of the file; the copied results stand in for the run's own.
    program, *words = shlex.split(told["commands"]["parquet"])
    assert program == "fruits"
    words[words.index("--to") + 1] = str(out)
    words[words.index("reviewed.parquet")] = str(manifest)
    done = fruits(*words, "--workers", 1, "--json")
    assert done.code == 0, done.stderr
    assert done.json()["rejected"] == done.json()["failed"] == 0
    learnt = bundles.load(out)
    assert LABEL in learnt.labels
    submission_ids = set(learnt.gallery.submission_ids.values())
    assert submission_ids
    assert submission_ids <= set(splits["train"]), (
        "who gave a photo is in the photo; none of the test set is in the bundle"
    )
    listed = [Path(uri).stem for uri in pq.read_table(out / "catalogue.parquet")["uri"].to_pylist()]
    assert not set(splits["test"]) & set(listed)

    # The service loads it, asks it about the same photos, and says how both did.
    running.wait_until(lambda: ask("test-set")["open"] == learnt.identity, 120)
    running.wait_until(lambda: len(ask("test-set")["bundles"]) == 2, 120)
    running.wait_until(lambda: ask("test-set")["bundles"][-1]["photos"] == len(splits["test"]), 120)
    first, second = ask("test-set")["bundles"]
    assert (first["identity"], second["identity"]) == (before["identity"], learnt.identity)
    assert second["label"]["low"] > first["label"]["high"]

    # A photo that its visitor deletes leaves the test set and every score.
    gone = splits["test"].pop()
    assert running.client.delete(f"/v1/owner/submissions/{gone}", headers=owner).status_code == 204
    found = ask("test-set")
    assert found["photos"] == len(splits["test"])
    assert Counter(one["photos"] for one in found["bundles"]) == {len(splits["test"]): 2}

    curve = ask("precision")
    assert curve["validation"]["photos"] > 0
    assert curve["reviewed"]["photos"] == len(splits["test"]), "those that may have been trained on do not count"
    assert curve["command"].startswith("fruits run ")
    assert running.log("bug") == []
