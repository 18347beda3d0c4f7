"""Photos that visitors gave, through the loop: withdrawn ones are hidden at once and gone with the next run."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from PIL import Image

from fruits.photos.catalogue.consent import consent_of
from fruits.photos.decoding.images import to_thumbnail
from fruits.photos.generated import generator
from fruits.recogniser import bundle as bundles
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions
from fruits.storage.objects import Objects

LABEL = "Newcomer"
#: Of two photos only, both of which are withdrawn.
VANISHING = "Quillfruit"


@dataclass
class Loop:
    """A service's data, an export and the results of a run on it, and the visitors' photos."""

    data: Path
    exported: Path
    out: Path
    shown: dict[str, Receipt]
    silent: dict[str, Receipt]
    vanishing: dict[str, Receipt]
    photos: dict[str, bytes]
    export_and_run: Callable[[], Any]

    def pictures(self) -> set[str]:
        """The ids of visitors' photos that the report shows."""
        report = (self.out / "report.html").read_text("utf-8")
        return {
            name for name, photo in self.photos.items() if base64.b64encode(to_thumbnail(photo, 128)).decode() in report
        }

    def rows(self, table: str) -> set[str]:
        """The ids of visitors' photos in a table."""
        return {Path(uri).stem for uri in pq.read_table(self.out / table, columns=["uri"])["uri"].to_pylist()} & set(
            self.photos
        )


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, finished_run: Any, fruits: Callable[..., Any]) -> Loop:
    """Thirty photos of a new fruit, submitted and reviewed; half of their visitors agreed that others see them."""
    folder = tmp_path_factory.mktemp("withdrawn")
    generator.write_photos(folder / "orchard", photos=9 * 34, varieties=9, workers=1)
    known = {path.name for path in (finished_run.photos / "Training").iterdir()}
    name = min({path.name for path in (folder / "orchard" / "Training").iterdir()} - known)
    photos = []
    for path in sorted(folder.glob(f"orchard/T*/{name}/*.jpg"))[:30]:
        out = io.BytesIO()
        Image.open(path).convert("RGB").save(out, "JPEG", quality=88)
        photos.append(out.getvalue())
    data, exported, results = folder / "data", folder / "exported", finished_run.copy_to(folder)
    submissions = Submissions(
        Database.open(f"sqlite:///{data}/service.db"), Objects(str(data / "photos")), keep_days=30
    )
    receipts = submissions.add_many(
        [
            NewSubmission(
                "kind", "apple", None, "Apfelino Red 1", 0.9, 1.0, "en", "model", photo=photo, may_show=number % 2 == 0
            )
            for number, photo in enumerate(photos)
        ]
    )
    vanishing = {receipt.id: receipt for receipt in (receipts[27], receipts[29])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fruits.service.submissions.repository.split_of", lambda _: "train")  # none is held out here
        for receipt in receipts:
            label = VANISHING if receipt.id in vanishing else LABEL
            submissions.review(receipt.id, "corrected", label, reviewer="me")

    def export_and_run() -> Any:
        for command in (
            ("submissions", "export", "--to", exported, "--data", data, "--json"),
            ("run", finished_run.photos, exported, "--to", results, "--workers", 1, "--components", 16, "--json"),
        ):
            done = fruits(*command)
            assert done.code == 0, done.stderr
        return done.json()

    export_and_run()
    by_name = [{receipt.id: receipt for receipt in receipts[start::2]} for start in (0, 1)]
    given = {receipt.id: photo for receipt, photo in zip(receipts, photos, strict=True)}
    return Loop(data, exported, results, *by_name, vanishing, given, export_and_run)


@pytest.fixture(scope="module")
def withdrawn() -> set[str]:
    """Filled by the test that withdraws."""
    return set()


def test_a_withdrawn_photo_is_hidden_at_once_and_gone_with_the_next_run(
    loop: Loop, serve: Callable[..., Any], withdrawn: set[str]
) -> None:
    bundle = bundles.load(loop.out)
    number_of = {name: number for number, name in bundle.gallery.submission_ids.items()}
    assert number_of
    assert set(number_of) <= set(loop.shown), "who did not agree is in no gallery"
    own = [number for number, label in enumerate(bundle.gallery.labels) if bundle.labels[label] == LABEL]
    assert {bundle.gallery.submission_ids.get(number) for number in own} == set(number_of)
    assert loop.pictures() <= set(loop.shown), "nor in the report"
    assert loop.rows("catalogue.parquet") == set(loop.photos), "but all are learnt from"

    service = serve("--rate", 0, "--data", loop.data, out=loop.out)
    model = service.client.get("/v1/model").json()
    address = f"/v1/gallery/{model['identity']}"
    withdrawn.update(list(number_of)[:2])
    for name, number in number_of.items():
        answer = service.client.get(f"{address}/{number}.jpg")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert consent_of(answer.content) is None
        assert name.encode() not in answer.content, "nobody is told whose it is"
    features = service.client.get(f"{address}/features.bin").content
    count = len(bundle.gallery)
    labels = np.frombuffer(features[: 4 * count], "<i4")
    assert set(np.flatnonzero(labels < 0)) == set(number_of.values()), (
        "browsers store this, so it holds no visitor's photo"
    )
    assert not np.frombuffer(features[4 * count :], "<f4").reshape(count, -1)[labels < 0].any()

    def similar() -> set[str]:
        found: set[str] = set()
        for photo in list(loop.photos.values())[:8]:
            (one,) = service.recognise(photo).json()["photos"]
            found |= {each["thumbnail"] for each in one["similar"]}
        return found

    addresses = {f"{address}/{number_of[name]}.jpg" for name in withdrawn}
    service.wait_until(lambda: bool(addresses & similar()))
    for name in withdrawn:
        secret = {"X-Fruits-Secret": loop.shown[name].secret}
        assert service.client.get(f"/v1/submissions/{name}", headers=secret).json()["may_show"] is True
        assert service.client.delete(f"/v1/submissions/{name}", headers=secret).status_code == 204
        assert service.client.get(f"{address}/{number_of[name]}.jpg").status_code == 404
        assert service.client.get(f"/v1/submissions/{name}", headers=secret).status_code == 404
    assert not addresses & similar()
    for name, receipt in loop.vanishing.items():
        secret = {"X-Fruits-Secret": receipt.secret}
        assert service.client.delete(f"/v1/submissions/{name}", headers=secret).status_code == 204

    record = loop.export_and_run()
    assert record["computed"] == 0
    for table in ("catalogue.parquet", "features.parquet"):
        assert loop.rows(table) == set(loop.photos) - withdrawn - loop.vanishing.keys()
    assert not withdrawn & set(bundles.load(loop.out).gallery.submission_ids.values())
    assert not withdrawn & loop.pictures()
    record_text = (loop.out / "run.json").read_text("utf-8") + (loop.out / "report.html").read_text("utf-8")
    assert not [name for name in withdrawn if name in record_text]
    assert not [path for path in loop.exported.rglob("*") if path.stem in withdrawn | loop.vanishing.keys()]


def traces(out: Path, *, planted: dict[str, list[bytes]]) -> list[str]:
    """Say which file below a folder holds which planted bytes: as they are, or in a column of a Parquet table."""
    found = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += b"\0".join(_bytes_of(column) for column in pq.read_table(path).columns)
        found += [f"{name}: {what}" for what, each in planted.items() if any(one in data for one in each)]
    return found


def _bytes_of(column: pa.ChunkedArray) -> bytes:
    array = column.combine_chunks()
    while isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        array = array.flatten()
    if pa.types.is_floating(array.type):
        return bytes(array.to_numpy(zero_copy_only=False).tobytes())
    return "\0".join(map(str, array.to_pylist())).encode()


def planted(loop: Loop, withdrawn: set[str], before: Path) -> dict[str, list[bytes]]:
    """The bytes of withdrawn photos, from the results of the run that learnt from them."""
    table = pq.read_table(before / "features.parquet", columns=["uri", "features"])
    features = dict(
        zip([Path(uri).stem for uri in table["uri"].to_pylist()], table["features"].to_pylist(), strict=True)
    )
    stored = {}
    for part in (loop.out / "embeddings").rglob("*.parquet"):
        if "embedding" in pq.read_schema(part).names:
            rows = pq.read_table(part, columns=["uri", "embedding", "sha256"]).to_pylist()
            stored |= {Path(row["uri"]).stem: row for row in rows}
    bundle = bundles.load(before)
    number_of = {name: number for number, name in bundle.gallery.submission_ids.items()}
    gone = [*withdrawn, *loop.vanishing]
    return {
        "uri": [name.encode() for name in gone],
        "label": [VANISHING.encode()],
        "sha256": [stored[name]["sha256"].encode() for name in gone],
        "embedding": [np.array(stored[name]["embedding"], np.float32).tobytes() for name in gone],
        "features": [np.array(features[name][:8], np.float32).tobytes() for name in gone],
        "thumbnail": [  # their ends: how a JPEG begins, all have in common
            *(bytes(bundle.gallery.thumbnail(number_of[name]))[-200:] for name in withdrawn),
            *(base64.b64encode(to_thumbnail(loop.photos[name], 128))[-200:] for name in withdrawn),
        ],
    }


def test_nothing_of_a_withdrawn_photo_is_in_any_byte_once_old_runs_and_files_are_removed(
    loop: Loop, withdrawn: set[str], fruits: Callable[..., Any]
) -> None:
    assert withdrawn, "a test before this one withdraws"
    (before,) = (
        place
        for place in (loop.out / "runs").iterdir()
        if withdrawn & {Path(uri).stem for uri in pq.read_table(place / "features.parquet")["uri"].to_pylist()}
    )
    (log,) = (loop.out / "embeddings").rglob("_delta_log")
    in_table = DeltaTable(log.parent).to_pyarrow_table(columns=["uri"])["uri"].to_pylist()
    assert not {Path(uri).stem for uri in in_table} & withdrawn, "the table has forgotten them with the run"
    bytes_of = planted(loop, withdrawn, before)
    assert {line.rpartition(": ")[2] for line in traces(loop.out, planted=bytes_of)} == set(bytes_of)
    for command in (("runs", loop.out, "--prune"), ("vacuum", loop.out)):
        done = fruits(*command, "--json")
        assert done.code == 0, done.stderr
    assert done.json()["files"] > 0
    assert not before.exists()
    assert traces(loop.out, planted=bytes_of) == []
