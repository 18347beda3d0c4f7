"""Photos and results in a bucket: a real S3 server, real requests; the same results as in a folder, and errors that help."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from faults import checks
from faults import photos as copies
from faults.proxy import KINDS, FaultyProxy
from faults.s3_server import S3Server, free_port

from fruits.errors import StoreError
from fruits.photos.reading.reading import read_photos
from fruits.recogniser import bundle as bundles
from fruits.storage.objects import Objects, opened
from fruits.storage.objects import store as buckets
from fruits.storage.outputs.runs import find
from fruits.training import pipeline

CHOICES = ("--workers", 2)  # those of the finished run


def store(address: str, environment: dict[str, str]) -> Any:
    name, _, prefix = address.removeprefix("s3://").partition("/")
    return copies.bucket(name, environment, prefix or None)


def run(fruits: Callable[..., Any], photos: object, out: object) -> dict[str, Any]:
    """A process of its own: workers keep the variables with which the first of them was started."""
    small = ("--workers", 1, "--components", 8, "--backbone", "fruits-small")
    done = fruits("run", photos, "--to", out, *small, "--json")
    assert done.code == 0, done.stderr
    record: dict[str, Any] = done.json()
    return record


@pytest.fixture(scope="module")
def run_in_bucket(finished_run: Any, s3: S3Server, fruits: Callable[..., Any]) -> Iterator[tuple[str, str, Any]]:
    """Photos in a bucket, results in a bucket, and how the run ended; tests only read them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        root = s3.make_bucket("run-in-bucket")
        copies.upload(finished_run.photos, store(f"{root}/the photos", s3.environment()))
        done = fruits("run", f"{root}/the photos", "--to", f"{root}/results", *CHOICES, "--json")
        assert done.code == 0, done.stderr
        yield f"{root}/the photos", f"{root}/results", done.json()


@pytest.fixture
def in_bucket(run_in_bucket: Any, s3_environment: dict[str, str]) -> str:
    """The photos of the finished run, in a bucket."""
    return str(run_in_bucket[0])


# --- The same as in a folder ------------------------------------------------------------------------------------------


def test_run_from_bucket_to_bucket_is_the_local_run_to_the_last_bit(
    run_in_bucket: Any, finished_run: Any, s3_environment: dict[str, str], tmp_path: Path
) -> None:
    expected = checks.read(finished_run.out, checks.Verdict())
    assert expected is not None
    copied = copies.download(store(run_in_bucket[1], s3_environment), tmp_path / "copy")
    verdict = checks.check(copied, expected)
    assert verdict.good, verdict.notes
    assert run_in_bucket[2]["metrics"] == finished_run.record["metrics"]


def test_uris_of_a_bucket_name_every_photo_in_full(run_in_bucket: Any, s3_environment: dict[str, str]) -> None:
    photos, out, _ = run_in_bucket
    with find(out).objects().open("features.parquet") as file:
        uris = pq.read_table(file, columns=["uri"], pre_buffer=False)["uri"].to_pylist()
    assert uris == sorted(uris)
    assert all(uri.startswith(f"{photos}/T") and uri.endswith("_100.jpg") for uri in uris)


def test_second_run_in_a_bucket_computes_nothing(
    run_in_bucket: Any, s3_environment: dict[str, str], fruits: Callable[..., Any]
) -> None:
    photos, out, first = run_in_bucket
    again = fruits("run", photos, "--to", out, *CHOICES, "--json")
    assert again.code == 0, again.stderr
    assert (again.json()["computed"], again.json()["up_to_date"]) == (0, True)
    assert again.json()["metrics"] == first["metrics"]


def test_run_killed_in_a_bucket_goes_on(
    finished_run: Any, in_bucket: str, bucket: str, s3_environment: dict[str, str], fruits: Callable[..., Any],
    commands: Any, tmp_path: Path,
) -> None:  # fmt: skip
    out = f"{bucket}/results"
    command = ("run", in_bucket, "--to", out, *CHOICES)
    objects = Objects(out)
    with Path(os.devnull).open("wb") as nowhere:
        for files in (0, 1, 3):
            process = commands.start(*command, stdout=nowhere.fileno(), stderr=nowhere.fileno())
            while (
                process.poll() is None
                and len([one for one in objects.list("embeddings") if one.key.endswith(".parquet")]) < files
            ):
                time.sleep(0.05)  # each listing is work for the server, too
            process.kill()
            process.wait()
    done = fruits(*command, "--json")
    assert done.code == 0, done.stderr
    expected = checks.read(finished_run.out, checks.Verdict())
    assert expected is not None
    verdict = checks.check(copies.download(store(out, s3_environment), tmp_path / "copy"), expected)
    assert verdict.good, verdict.notes


def test_photo_added_to_the_bucket_costs_only_itself(
    bucket: str, s3_environment: dict[str, str], own_photos: Path, fruits: Callable[..., Any]
) -> None:
    to = store(f"{bucket}/photos", s3_environment)
    copies.upload(own_photos, to)
    first = run(fruits, f"{bucket}/photos", f"{bucket}/out")
    some = sorted(own_photos.glob("Training/*/*.jpg"))
    to.put(f"Training/{some[0].parent.name}/added.jpg", some[0].read_bytes())
    to.put(some[1].relative_to(own_photos).as_posix(), some[2].read_bytes())  # another photo of the same name
    second = run(fruits, f"{bucket}/photos", f"{bucket}/out")
    assert (second["photos"], second["computed"], second["ok"]) == (first["photos"] + 1, 2, first["ok"] + 1)


def test_apply_in_buckets_answers_as_in_folders(
    run_in_bucket: Any, finished_run: Any, bucket: str, s3_environment: dict[str, str], fruits: Callable[..., Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    photos, out, _ = run_in_bucket
    done = fruits("apply", out, f"{photos}/Test", "--to", f"{bucket}/answers", *CHOICES, "--json")
    assert done.code == 0, done.stderr
    assert done.json()["predictions"] == f"{bucket}/answers/predictions.parquet"
    pipeline.apply(str(finished_run.out), [str(finished_run.photos / "Test")], str(tmp_path / "local"), workers=1)
    copied = copies.download(store(f"{bucket}/answers", s3_environment), tmp_path / "copy")
    there, here = (
        {checks.name_of(row.pop("uri")): row for row in pq.read_table(folder / "predictions.parquet").to_pylist()}
        for folder in (copied, tmp_path / "local")
    )
    assert there == here
    again = fruits("apply", out, f"{photos}/Test", "--to", f"{bucket}/answers", *CHOICES, "--json")
    assert (again.json()["computed"], again.json()["reused"]) == (0, len(here))


def test_predict_with_the_bundle_in_a_bucket(
    run_in_bucket: Any, finished_run: Any, s3_environment: dict[str, str], fruits: Callable[..., Any]
) -> None:
    photo = min(finished_run.photos.glob("Test/*/*.jpg"))
    there, here = (fruits("predict", out, photo, "--json") for out in (run_in_bucket[1], finished_run.out))
    assert there.code == here.code == 0, there.stderr
    assert there.json() == here.json()


def test_predict_a_photo_in_a_bucket(
    run_in_bucket: Any, finished_run: Any, s3_environment: dict[str, str], fruits: Callable[..., Any]
) -> None:
    photo = min(finished_run.photos.glob("Test/*/*.jpg"))
    uri = f"{run_in_bucket[0]}/{photo.relative_to(finished_run.photos)}"
    rows = [
        fruits("predict", *out, given, "--json").json()["photos"][0]
        for out in ((), (finished_run.out,))
        for given in (uri, photo)
    ]
    assert [row.pop("uri") for row in rows] == [uri, str(photo)] * 2
    assert rows[0]["status"] == "ok", "alone, it is not taken for results"
    assert rows[0] == rows[1]
    assert rows[2] == rows[3]


def test_bundle_loads_from_a_bucket(run_in_bucket: Any, finished_run: Any, s3_environment: dict[str, str]) -> None:
    assert bundles.load(run_in_bucket[1]).labels == bundles.load(finished_run.out).labels


def test_local_photos_with_results_in_a_bucket_and_the_other_way_round(
    own_photos: Path, bucket: str, s3_environment: dict[str, str], fruits: Callable[..., Any], tmp_path: Path
) -> None:
    copies.upload(own_photos, store(f"{bucket}/photos", s3_environment))
    here = run(fruits, f"{bucket}/photos", tmp_path / "out")
    there = run(fruits, own_photos, f"{bucket}/out")
    assert here["metrics"] == there["metrics"]
    expected = checks.read(tmp_path / "out", checks.Verdict())
    assert expected is not None
    copied = copies.download(store(f"{bucket}/out", s3_environment), tmp_path / "copy")
    verdict = checks.check(copied, expected)
    assert verdict.good, verdict.notes


# --- Errors that say what to do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, ("denied", "credentials")),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, ("denied", "credentials")),
        ({"AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "eu-west-3"}, ("region", "us-east-1")),
    ],
    ids=["wrong secret", "unknown key", "wrong region"],
)
@pytest.mark.parametrize("which", ["photos", "results"])
def test_refusals_of_the_store_are_explained(
    own_photos: Path, bucket: str, fruits: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    variables: dict[str, str], says: tuple[str, ...], which: str,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    places = (f"{bucket}/photos", tmp_path / "out") if which == "photos" else (own_photos, f"{bucket}/out")
    assert_explained(fruits("run", places[0], "--to", places[1], "--components", 8), bucket, *says)


@pytest.mark.parametrize("which", ["photos", "results"])
def test_missing_bucket_is_named(
    own_photos: Path, s3_environment: dict[str, str], fruits: Callable[..., Any], tmp_path: Path, which: str
) -> None:
    places = ("s3://nowhere/photos", tmp_path / "out") if which == "photos" else (own_photos, "s3://nowhere/out")
    done = fruits("run", places[0], "--to", places[1], "--components", 8)
    assert_explained(done, "no bucket 'nowhere'")


def test_empty_prefix_is_said(bucket: str, fruits: Callable[..., Any], tmp_path: Path) -> None:
    assert_explained(fruits("run", f"{bucket}/photos", "--to", tmp_path / "out"), f"{bucket}/photos")


@pytest.mark.parametrize("which", ["photos", "results"])
def test_endpoint_where_nothing_answers_is_said_before_the_work(
    own_photos: Path,
    bucket: str,
    fruits: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    places = (f"{bucket}/photos", tmp_path / "out") if which == "photos" else (own_photos, f"{bucket}/out")
    done = fruits("run", places[0], "--to", places[1], "--components", 8)
    assert_explained(done, "cannot reach", "AWS_ENDPOINT_URL")


def test_each_command_begins_by_reaching_its_bucket(
    own_photos: Path, finished_run: Any, bucket: str, fruits: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    photo = next(own_photos.rglob("*.jpg"))
    for command in (
        ("pack", own_photos, "--to", f"{bucket}/pack"),
        ("apply", finished_run.out, photo, "--to", f"{bucket}/answers"),
        ("predict", f"{bucket}/out", photo),
    ):
        assert_explained(fruits(*command), "cannot reach")


def test_store_that_goes_away_is_waited_for_within_bounds(
    bucket: str, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (s3_environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}).items():
        monkeypatch.setenv(name, value)
    pauses: list[float] = []
    here, real = threading.current_thread(), time.sleep
    # Other threads of the tests sleep for reasons of their own.
    monkeypatch.setattr(time, "sleep", lambda s: pauses.append(s) if threading.current_thread() is here else real(s))
    monkeypatch.setitem(buckets._RETRIES, "max_retries", 0)
    with pytest.raises(StoreError, match=r"cannot read .*AWS_ENDPOINT_URL"):
        Objects(f"{bucket}/out").read("run.json")
    assert 5 < len(pauses) < 20
    assert max(pauses) <= 5 < sum(pauses)


def test_no_credentials_are_said(
    own_photos: Path, bucket: str, fruits: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    done = fruits("run", own_photos, "--to", f"{bucket}/out", "--components", 8)
    assert_explained(done, "AWS_ACCESS_KEY_ID")


def assert_explained(done: Any, *says: str) -> None:
    """Exit 1, one message, what to do, no secret and no traceback."""
    assert done.code == 1, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("fruits: "), done.stderr
    assert all(text in message for text in says), message
    assert "Traceback" not in done.stderr
    assert "not-a-secret" not in done.stderr
    assert "Debug source" not in done.stderr


# --- Faults on the way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stalled"])
def test_objects_are_right_in_spite_of(kind: str, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the worst weather passes unnoticed: what was put is there, once, and whose it is is known."""
    with FaultyProxy(s3.port, kind, rate=0.12, seed=2, slow_s=0.2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        objects = Objects(f"{bucket}/some")
        for number in range(20):
            data = f"{kind} {number} ".encode() * 2000
            assert objects.put_if_absent(f"{number:02d}", data), f"told that {number} is another writer's"
            assert not objects.put_if_absent(f"{number:02d}", b"another's")
            assert objects.read(f"{number:02d}") == data
        assert [one.key for one in objects.list()] == [f"{number:02d}" for number in range(20)]
        assert proxy.done[kind] > 1


@pytest.mark.parametrize("kind", ["cut-answer", "cut-chunked-answer"])
def test_no_photo_fails_because_one_answer_of_three_breaks_off(
    kind: str, s3: S3Server, in_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [f"{in_bucket}/{one.key}" for one in Objects(in_bucket).list()][::4]
    opened.cache_clear()  # it has the connections of another endpoint
    with FaultyProxy(s3.port, kind, rate=0.35, seed=4) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        contents = list(read_photos(listed))
        assert [error for _, error in contents if error] == []
        assert len({data for data, _ in contents}) > 1
        assert proxy.done[kind] > len(contents) / 5
    opened.cache_clear()


def test_store_that_never_answers_is_given_up(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_STORE_TIMEOUT_S", "0.2")
    with FaultyProxy(s3.port, "stalled", rate=0.2, seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        objects = Objects(f"{bucket}/some")
        for number in range(10):
            assert objects.put_if_absent(str(number), b"data")
            assert objects.read(str(number)) == b"data"
        assert proxy.done["stalled"] > 1


def test_server_that_is_killed_and_comes_back_has_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    with S3Server(tmp_path / "server") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        objects = Objects(server.make_bucket("lasting"))
        objects.write("here", b"to stay")
        server.restart()  # after SIGKILL
        assert objects.read("here") == b"to stay"
        assert not objects.put_if_absent("here", b"again")


# --- Breadth: another implementation of S3 ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """moto's S3: not atomic and not checking signatures, but it lists in pages and knows what AWS answers."""
    pytest.importorskip("moto", reason="no moto; run: pip install -e '.[dev]'")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        assert server.poll() is None, "moto did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def moto_bucket(moto: str, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    request = urllib.request.Request(f"{moto}/breadth", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        return "s3://breadth"


def test_objects_on_moto(moto_bucket: str) -> None:
    objects = Objects(f"{moto_bucket}/many")
    with objects.writer("large") as stream:  # a multipart upload
        for _ in range(3):
            stream.write(b"0123456789abcdef" * (6 << 16))
    assert objects.size("large") == 3 * 16 * (6 << 16)
    assert objects.read_range("large", 14, 4) == b"ef01"
    assert objects.put_if_absent("one", b"1")
    assert not objects.put_if_absent("one", b"2")
    objects.delete("one")
    objects.delete("one")
    assert objects.read_if_present("one") is None
    with pytest.raises(StoreError, match="no bucket 'nowhere'"):
        Objects("s3://nowhere/at all").read("it")


def test_large_stream_is_sent_in_fewer_parts_than_a_store_takes(
    moto_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_PART_BYTES", 5 << 20)  # the smallest that S3 takes
    monkeypatch.setattr(buckets, "_MOST_PARTS", 3)
    objects, size, parts = Objects(moto_bucket), 24 << 20, []
    for expected in (0, size):
        with objects.writer("large", expected) as stream:
            for _ in range(24):
                stream.write(bytes(1 << 20))
        assert objects.size("large") == size
        tag = store(moto_bucket, dict(os.environ)).head("large")["e_tag"]
        parts.append(int(tag.strip('"').partition("-")[2]))
    assert parts == [5, 3]


def test_listing_goes_over_many_pages(moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(f"{moto_bucket}/pages")
    names = [f"{number:05d}" for number in range(1050)]
    to = copies.bucket("breadth", dict(os.environ), "pages")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: to.put(name, b""), names))
    assert sorted(one.key for one in objects.list()) == names
    # And what breaks off is asked again, without giving anything twice; here from the start, as order is not promised.
    with FaultyProxy(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]), "cut-answer", rate=0.3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for _ in range(50):
            assert [one.key for one in Objects(objects.root).list()] == names
            if proxy.done["cut-answer"] > 1:
                break
        assert proxy.done["cut-answer"] > 1


def test_run_on_moto(moto_bucket: str, own_photos: Path, tmp_path: Path, fruits: Callable[..., Any]) -> None:
    copies.upload(own_photos, copies.bucket("breadth", dict(os.environ), "photos"))
    there = run(fruits, f"{moto_bucket}/photos", f"{moto_bucket}/out")
    here = run(fruits, own_photos, tmp_path / "out")
    assert there["metrics"] == here["metrics"]
