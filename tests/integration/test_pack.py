"""A run on a pack is a run on the folder it was packed from; the two commands say what they did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fruits.config import RunConfig
from fruits.photos.reading.packing import pack
from fruits.training import pipeline


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    """Embedding rows by path within the photos, without what names the place."""
    found = {}
    for part in sorted(out.glob("embeddings/*/*.parquet")):
        for row in pq.read_table(part).to_pylist():
            uri, _ = row.pop("uri"), row.pop("version")
            found["/".join(uri.rpartition("#")[2].split("/")[-3:])] = row
    return found


def table_of(out: Path, name: str) -> pa.Table:
    table = pq.read_table(out / f"{name}.parquet")
    return table.drop_columns([column for column in ("uri", "version", "source") if column in table.column_names])


def test_run_on_a_pack_gives_the_results_of_a_run_on_its_folder(own_photos: Path, tmp_path: Path) -> None:
    pack([str(own_photos)], str(tmp_path / "pack"), target_bytes=100_000)
    sources = {"folder": str(own_photos), "packed": str(tmp_path / "pack")}
    records = {
        name: pipeline.run(
            RunConfig(sources=(source,), out=str(tmp_path / name), backbone="fruits-small", components=20)
        )
        for name, source in sources.items()
    }
    assert rows_of(tmp_path / "packed") == rows_of(tmp_path / "folder")
    for name in ("catalogue", "features"):
        packed, folder = table_of(tmp_path / "packed", name), table_of(tmp_path / "folder", name)
        assert packed.to_pylist() == folder.to_pylist()
    for name in ("photos", "ok", "splits", "metrics", "components"):
        assert records["packed"][name] == records["folder"][name]


def test_photos_packed_anew_are_not_computed_again(own_photos: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "pack", tmp_path / "out"
    config = RunConfig(sources=(str(root),), out=str(out), workers=1, components=20, backbone="fruits-small")
    pack([str(own_photos)], str(root))
    assert pipeline.run(config)["computed"] > 0
    pack([str(own_photos)], str(root), target_bytes=50_000)
    assert pipeline.run(config)["up_to_date"]


def test_apply_takes_a_pack(finished_run: Any, own_photos: Path, tmp_path: Path) -> None:
    pack([str(own_photos)], str(tmp_path / "pack"), labelled=False)
    found = {}
    for name, source in {"folder": own_photos, "packed": tmp_path / "pack"}.items():
        pipeline.apply(str(finished_run.out), [str(source)], str(tmp_path / name), workers=1)
        found[name] = table_of(tmp_path / name, "predictions")
    assert found["packed"].to_pylist() == found["folder"].to_pylist()


def test_pack_and_unpack_say_what_they_did(fruits: Callable[..., Any], own_photos: Path, tmp_path: Path) -> None:
    done = fruits("pack", own_photos, "--to", tmp_path / "pack", "--json")
    assert done.code == 0, done.stderr
    photos = len(list(own_photos.rglob("*.jpg")))
    assert done.json()["photos"] == photos
    assert f"pack: {photos} photos in" in done.stderr
    back = fruits("unpack", tmp_path / "pack", "--to", tmp_path / "out")
    assert back.code == 0, back.stderr
    assert back.stdout.startswith(f"wrote {photos} of {photos} photos in")
    assert {path.relative_to(tmp_path / "out"): path.read_bytes() for path in (tmp_path / "out").rglob("*.jpg")} == {
        path.relative_to(own_photos): path.read_bytes() for path in own_photos.rglob("*.jpg")
    }


def test_photo_that_cannot_be_read_is_named_and_makes_exit_1(
    fruits: Callable[..., Any], own_photos: Path, tmp_path: Path
) -> None:
    [first, *_] = sorted(own_photos.rglob("*.jpg"))
    (tmp_path / "list.csv").write_text(f"uri,label\n{first},a\ngone.jpg,b\n")
    done = fruits("pack", tmp_path / "list.csv", "--to", tmp_path / "pack", "--json")
    assert done.code == 1
    assert (done.json()["photos"], done.json()["unreadable"]) == (1, 1)
    assert "gone.jpg" in done.stderr
    assert "not in the pack: 1" in done.stderr


def test_misuse_is_told_from_failure(fruits: Callable[..., Any], own_photos: Path, tmp_path: Path) -> None:
    assert fruits("pack", own_photos, "--to", "").code == 2
    assert fruits("unpack", own_photos, "--to", tmp_path / "out").code == 1
    assert fruits("unpack", own_photos, "--to", "s3://bucket/there").code == 2
