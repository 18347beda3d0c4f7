"""The trials of ``python -m faults`` must be able to fail: every check is handed damage and has to complain."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import checks, damage, decoders, kills, stores
from faults.__main__ import SCENARIOS
from faults.page import write
from faults.proxy import FaultyProxy
from faults.running import Ended, Running
from faults.trials import Figure, Trials

from fruits.storage.embeddings.table import EmbeddingTable, File

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def expected(finished_run: Any) -> checks.Results:
    verdict = checks.Verdict()
    results = checks.read(finished_run.out, verdict)
    assert verdict.good, verdict.notes
    assert results is not None
    return results


def test_undamaged_results_are_right(finished_run: Any, expected: checks.Results) -> None:
    assert checks.check(finished_run.out, expected) == checks.Verdict()
    assert len(expected.embeddings) == len(expected.features) == finished_run.record["photos"]


def stored_in(out: Path) -> EmbeddingTable:
    (log,) = out.glob("embeddings/*/_delta_log")
    return EmbeddingTable(str(out), f"embeddings/{log.parent.name}")


def first_file(out: Path) -> File:
    return min(stored_in(out).snapshot().files.values(), key=lambda file: file.name)


def replace_file(out: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a file of the table by another, as a mistake in fruits itself would."""
    stored, file = stored_in(out), first_file(out)
    assert stored.commit([stored.write(file.shard, change(stored.read(file)), 0)], [file], epoch=0)


def remove_file(out: Path) -> None:
    assert stored_in(out).commit([], [first_file(out)], epoch=0)


def add_file(out: Path) -> None:
    stored, file = stored_in(out), first_file(out)
    assert stored.commit([stored.write("00000000-000009-0000", stored.read(file), 0)], epoch=0)


def set_column(name: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        at = table.schema.get_field_index(name)
        return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))

    return change


def one_bit(table: pa.Table) -> pa.Table:
    vector = table["embedding"][3].as_py()
    return set_column("embedding", 3, [vector[0] + 1e-6, *vector[1:]])(table)


def in_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage_it(out: Path) -> None:
        values = json.loads((out / name).read_bytes())
        change(values)
        (out / name).write_text(json.dumps(values))

    return damage_it


def features(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage_it(out: Path) -> None:
        pq.write_table(change(pq.read_table(out / "features.parquet")), out / "features.parquet")

    return damage_it


def renamed(table: pa.Table) -> pa.Table:
    about = json.loads(table.schema.metadata[b"fruits"])
    return table.replace_schema_metadata({b"fruits": json.dumps({**about, "identity": "another"})})


def flip(pattern: str) -> Callable[[Path], None]:
    def damage_it(out: Path) -> None:
        path = min(out.glob(pattern))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return damage_it


@pytest.mark.parametrize(
    ("damage_it", "what"),
    [
        (remove_file, "lost"),
        (lambda out: replace_file(out, lambda table: table.slice(1)), "lost"),
        (lambda out: replace_file(out, lambda table: pa.concat_tables([table, table.slice(0, 1)])), "doubled"),
        (add_file, "doubled"),
        (lambda out: replace_file(out, one_bit), "wrong"),
        (lambda out: replace_file(out, set_column("status", 0, "rejected")), "wrong"),
        (lambda out: replace_file(out, set_column("sha256", 0, "0" * 64)), "wrong"),
        (lambda out: replace_file(out, set_column("uri", 0, "/x/Training/Plum/new.jpg")), "lost"),
        (flip("embeddings/*/*.parquet"), "wrong"),
        (lambda out: (out / stored_in(out).key(first_file(out).name)).unlink(), "lost"),
        (features(lambda table: table.slice(1)), "lost"),
        (features(lambda table: pa.concat_tables([table, table.slice(0, 1)])), "doubled"),
        (features(renamed), "wrong"),
        (in_json("run.json", lambda record: record.update(identity="another")), "wrong"),
        (in_json("run.json", lambda record: record.update(ok=record["ok"] - 1)), "wrong"),
        (in_json("run.json", lambda record: record["metrics"].update(accuracy=0.1)), "wrong"),
        (in_json("bundle/manifest.json", lambda manifest: manifest["about"].update(identity="another")), "wrong"),
        (flip("bundle/weights.npy"), "wrong"),
        (lambda out: (out / "run.json").resolve().unlink(), "wrong"),
        (lambda out: (out / "features.parquet").write_bytes(b"PAR1"), "wrong"),
        (lambda out: shutil.rmtree((out / "bundle").resolve()), "wrong"),
        (lambda out: (out / "current.json").write_bytes(b"{}"), "wrong"),
    ],
)
def test_damage_of_every_sort_is_seen(
    finished_run: Any, expected: checks.Results, tmp_path: Path, damage_it: Callable[[Path], object], what: str
) -> None:
    out = finished_run.copy_to(tmp_path)
    damage_it(out)
    verdict = checks.check(out, expected)
    assert getattr(verdict, what) > 0, verdict
    assert not verdict.good
    assert verdict.notes


def test_results_of_other_choices_are_not_taken_for_right(
    finished_run: Any, expected: checks.Results, tmp_path: Path
) -> None:
    from fruits.config import RunConfig
    from fruits.training import pipeline

    out = finished_run.copy_to(tmp_path)
    pipeline.run(RunConfig(sources=(str(finished_run.photos),), out=str(out), workers=1, components=3))
    assert not checks.check(out, expected).good


# --- The judges of single scenarios -----------------------------------------------------------------------------------


def ended(code: int | None, stderr: str = "", stdout: str = "") -> Ended:
    return Ended(code, 1.0, stdout, stderr)


def test_only_one_message_with_exit_1_is_a_clear_error() -> None:
    assert ended(1, "catalogue: 3 photos\nfruits: no space").is_clear_error
    assert not ended(1, "Traceback (most recent call last):\nfruits: no space").is_clear_error
    assert not ended(1, "ValueError: no").is_clear_error
    assert not ended(-9, "fruits: no space").is_clear_error
    assert not ended(None, "fruits: no space").is_clear_error


def test_damage_must_be_named_with_what_helps() -> None:
    assert damage.names_damage(ended(1, "fruits: file 'embeddings/a/p.parquet' is damaged; --repair"), "x/p.parquet")
    assert not damage.names_damage(ended(1, "fruits: something is damaged; --repair"), "x/p.parquet")
    assert not damage.names_damage(ended(1, "fruits: file 'p.parquet' is damaged"), "x/p.parquet")


def test_flip_changes_one_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    at = damage.flip_a_byte(path, Trials(tmp_path).chance("any"))
    assert [index for index, byte in enumerate(path.read_bytes()) if byte] == [at]


def test_trials_side_by_side_are_all_made_and_the_first_that_breaks_ends_the_rest(tmp_path: Path) -> None:
    trials = Trials(tmp_path, say=lambda _: None, at_once=4)
    figure = Figure("any", "any")
    trials.each(figure, 40, lambda number: figure.count("even") if number % 2 == 0 else figure.fail(str(number)))
    assert (figure.trials, figure.verdict.wrong, len(figure.failed)) == (40, 20, 20)
    assert figure.outcomes == {"even": 20, "not as it should be": 20}
    with pytest.raises(ZeroDivisionError):
        trials.each(figure, 10, lambda number: figure.count(str(1 // number)))


def test_chance_depends_on_seed_scenario_and_trial_alone(tmp_path: Path) -> None:
    draws = [Trials(tmp_path, seed=seed).chance(name, number).random() for seed, name, number in
             ((0, "flips", 1), (0, "flips", 1), (1, "flips", 1), (0, "pairs", 1), (0, "flips", 2))]  # fmt: skip
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4


def test_bad_photos_that_are_not_rejected_are_seen(finished_run: Any, tmp_path: Path) -> None:
    for name in ("alone", "out"):
        shutil.copytree(finished_run.out, tmp_path / name, symlinks=True)
    (tmp_path / "out" / "rejected.csv").write_text("uri,label,status,code,message\n", "utf-8")
    figure = Figure("any", "any")
    assert decoders._judge(tmp_path, {}, figure.outcomes).good
    assert decoders._judge(tmp_path, {"Training/Plum/crash.jpg": "crashed"}, figure.outcomes).lost == 1


def test_whole_session_is_killed_and_what_lives_on_is_seen(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
    for whole in (True, False):
        running = Running([sys.executable, "-c", child + "time.sleep(99)"], tmp_path / "logs")
        while len(running.members()) < 2:
            assert running.process.poll() is None
        running.kill(whole=whole)
        assert bool(running.left_behind(patience_s=0.2)) is not whole
        assert not running.members()


def test_a_race_without_atomic_names_is_noticed(tmp_path: Path, s3: Any) -> None:
    trials = Trials(tmp_path, quick=True, say=lambda _: None)
    control = stores.race_control(trials)
    assert control.good
    assert control.outcomes["names with more than one winner, noticed"] > 0
    assert stores.race(trials).good


def test_commits_at_the_same_moment_all_count_and_a_store_that_loses_some_is_noticed(tmp_path: Path, s3: Any) -> None:
    trials = Trials(tmp_path, quick=True, say=lambda _: None)
    figure = stores.commits(trials)
    assert figure.good, figure.failed
    assert figure.outcomes == {"commits that all count, each once": 20}
    control = stores.commits_control(trials)
    assert control.good
    assert sum(control.outcomes.values()) > 0


# --- The table --------------------------------------------------------------------------------------------------------


def test_rows_are_replaced_and_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- faults: begin -->\n<!-- faults: end -->\nafter\n", "utf-8")
    figure = Figure("flips", "bytes | changed")
    figure.count("repaired")
    write([figure, Figure("pairs", "two runs", skipped="no disk")], list(SCENARIOS), page)
    figure.count("repaired", checks.Verdict(lost=3, notes=["3 lost"]))
    write([figure], list(SCENARIOS), page)
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["pairs", "flips"]
    assert "| 2 | 3 | 0 | 0 | 2 repaired; **not as it should be** |" in rows[1]


def test_page_has_room_for_the_table() -> None:
    text = (REPOSITORY / "docs" / "reliability.md").read_text("utf-8")
    assert text.count("<!-- faults: begin -->") == text.count("<!-- faults: end -->") == 1


# --- The cheapest scenarios, for real ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("kill-local", "flips"), ("s3-lost-answer",)])
def test_trials_run_and_all_is_right(names: tuple[str, ...], s3: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "faults", *names, "--quick", "--scratch", str(tmp_path)]
    environment = {**os.environ, "COLUMNS": "140"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [True, False])
def test_a_run_that_had_ended_before_its_kill_does_not_count_as_killed(tmp_path: Path, killed: bool) -> None:
    seconds = iter([60 if killed else 0, 0])

    def start() -> Running:
        return Running([sys.executable, "-c", f"import time; time.sleep({next(seconds)})"], tmp_path)

    figure = Figure("kill", "")
    how = kills._kill_and_finish(figure, start, 0.5 if killed else 60, whole=True)
    assert how == ("finished by the next run" if killed else "had ended before the kill")
    assert figure.good


def test_proxy_has_the_store_finish_for_a_client_that_has_gone() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as store,
        FaultyProxy(store.getsockname()[1], "performed-twice") as proxy,
    ):
        store.settimeout(10)
        client = socket.create_connection(("127.0.0.1", int(proxy.endpoint.rpartition(":")[2])))
        client.sendall(b"PUT /photo HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        first, _ = store.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with RST, as a client that has lost patience
        for _ in range(10):
            gc.collect()  # what asyncio holds by weak references alone would go
            time.sleep(0.05)
        first.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        second, _ = store.accept()
        second.close()
        first.close()


def test_each_cluster_works_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="no pyspark: pip install -e '.[spark]'")
    homes: list[Path] = []
    monkeypatch.setattr(Trials, "start", lambda *_, environment: homes.append(Path(environment["SPARK_HOME"])))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for _ in range(2):  # the run after it, too
            kills._on_cluster(Trials(tmp_path), tmp_path / name)
    assert len(set(homes)) == 2
    for home in homes:
        assert (home / "jars").is_dir()
        assert not (home / "work").exists(), "Spark works in this folder"
