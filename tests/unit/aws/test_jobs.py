"""What the cluster is given, and that what is ended has ended: files by hash, commands, YARN. Calls are recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import fruits
from fruits import extensions
from fruits.aws.calls import AwsError, Call
from fruits.aws.jobs import cluster, job
from fruits.aws.jobs.job import Job, JobFile, run_job
from fruits.aws.jobs.package import Archive, Package
from fruits.aws.jobs.submission import Installation, Submission, check_sources, cluster_config, collect_files, yarn_tag
from fruits.aws.pricing import cost
from fruits.config import RunConfig
from fruits.embedding.backbone import find_backbone
from fruits.errors import BackboneError, ConfigError

BACKBONES = Path(fruits.__file__).with_name("embedding") / "backbones"


def installation(bucket: str = "P", results: str = "R") -> Installation:
    return Installation("n", "eu-west-1", bucket, results, "L", "role", "app", "", "group")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network of one's own with its card: the embedded one under another name."""
    shutil.copy(BACKBONES / "fruits-small.onnx", tmp_path / "mine.onnx")
    card = json.loads((BACKBONES / "fruits-small.json").read_text()) | {"name": "mine", "training_photos": ""}
    (tmp_path / "mine.json").write_text(json.dumps(card))
    return tmp_path / "mine.onnx"


def test_a_network_its_card_and_a_taxonomy_travel_under_their_hashes(network: Path, tmp_path: Path) -> None:
    taxonomy = tmp_path / "names.csv"
    taxonomy.write_text("label,kind\nA,apple\n")
    config = RunConfig(sources=("s3://P/packs/x",), out="s3://R/runs/a", backbone=str(network), taxonomy=str(taxonomy))
    plain, carried, sent = collect_files(installation(), config)
    assert (plain.backbone, plain.taxonomy) == ("mine.onnx", "names.csv"), "no folder of this machine goes anywhere"
    assert [(one.role, one.name) for one in carried] == [
        ("backbone", "mine.onnx"), ("backbone", "mine.json"), ("taxonomy", "names.csv"),
    ]  # fmt: skip
    for one, (path, key) in zip(carried, sent, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == one.sha256
        assert key == f"packages/files/{one.sha256}/{one.name}"
        assert one.uri == f"s3://R/packages/files/{one.sha256}"
    assert str(tmp_path) not in run_job(plain, carried).as_json()


def test_a_network_that_keeps_its_numbers_in_another_file_travels_as_one(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "split"
    folder.mkdir()
    model = onnx.load(network)
    onnx.save(model, folder / "mine.onnx", save_as_external_data=True, location="mine.data", size_threshold=0)
    given = hashlib.sha256((folder / "mine.onnx").read_bytes()).hexdigest()
    card = json.loads(network.with_suffix(".json").read_text()) | {"sha256": given}
    (folder / "mine.json").write_text(json.dumps(card))
    config = RunConfig(sources=("s3://P/packs/x",), out="s3://R/runs/a", backbone=str(folder / "mine.onnx"))
    plain, carried, sent = collect_files(installation(), config)
    assert plain.backbone == "mine.onnx"
    assert [one.name for one in carried] == ["mine.onnx", "mine.json"]
    whole = sent[0][0]
    assert whole.stat().st_size > (folder / "mine.onnx").stat().st_size
    assert find_backbone(str(whole)).card.sha256 == carried[0].sha256, "its card speaks of what travels"


def test_what_travelled_arrives_beside_each_other_and_is_what_was_sent(network: Path, tmp_path: Path) -> None:
    config = RunConfig(sources=("s3://P/packs/x",), out="s3://R/runs/a", backbone=str(network))
    _, carried, sent = collect_files(installation(), config)
    bucket = tmp_path / "bucket"
    here = []
    for one, (path, key) in zip(carried, sent, strict=True):
        (bucket / key).parent.mkdir(parents=True)
        shutil.copy(path, bucket / key)
        here.append(dataclasses.replace(one, uri=str((bucket / key).parent)))
    paths = job.fetch(tuple(here), tmp_path / "cluster")
    arrived = Path(paths["backbone"])
    assert arrived.read_bytes() == network.read_bytes()
    assert arrived.with_suffix(".json").is_file(), "its card is where find_backbone looks"
    (bucket / sent[0][1]).write_bytes(b"another network")
    with pytest.raises(ConfigError, match="is not the file that was sent"):
        job.fetch(tuple(here), tmp_path / "again")


@pytest.mark.slow
def test_a_run_with_ones_own_network_gives_what_it_gives_here(
    network: Path, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster's side of it, with the local engine: the network is found where it was brought to."""
    folder = tmp_path / "files"
    folder.mkdir()
    carried = []
    for path in (network, network.with_suffix(".json")):
        shutil.copy(path, folder)
        carried.append(JobFile("backbone", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), str(folder)))
    config = RunConfig(sources=(str(photos),), out=str(tmp_path / "out"), backbone="mine.onnx", sample=20, gallery=0)
    told = job.perform(
        run_job(config, tuple(carried)), job.Lines(lambda: 1, write=lambda _: None), tmp_path / "cluster"
    )
    assert told["ok"] == told["photos"] > 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["backbone"]["name"] == "mine"
    applied = Job("apply", str(tmp_path / "answers"), {"bundle": str(tmp_path / "out"), "sources": [str(photos)]})
    monkeypatch.setattr("fruits.training.pipeline.get_engine", _local(monkeypatch))
    told = job.perform(applied, job.Lines(lambda: 1, write=lambda _: None), tmp_path)
    assert told["ok"] == told["photos"] == 320
    assert (tmp_path / "answers/predictions.parquet").is_file()
    evaluated = Job("evaluate", str(tmp_path / "out"), {"protocols": ["official"]})
    told = job.perform(evaluated, job.Lines(lambda: 1, write=lambda _: None), tmp_path)
    assert told["protocols"] == ["official"]
    assert (tmp_path / "out/evaluation.json").is_file()


def _local(monkeypatch: pytest.MonkeyPatch) -> Any:
    from fruits.training import pipeline

    real = pipeline.get_engine
    return lambda _, workers, **__: real("local", workers)


@pytest.mark.parametrize(("changes", "error", "words"), [
    ({"backbone": "/nowhere/mine.onnx"}, BackboneError, "cannot be read"),
    ({"taxonomy": "/nowhere/names.csv"}, ConfigError, "there is no such file"),
])  # fmt: skip
def test_a_file_that_is_not_there_is_said_before_anything_is_sent(changes: Any, error: Any, words: str) -> None:
    config = RunConfig(sources=("s3://P/packs/x",), out="s3://R/runs/a", **changes)
    with pytest.raises(error, match=words):
        collect_files(installation(), config)


def test_names_of_the_package_travel_as_names() -> None:
    config = RunConfig(sources=("s3://P/packs/x",), out="s3://R/runs/a", taxonomy="none")
    assert collect_files(installation(), config) == (config, (), ())


@pytest.mark.parametrize("told", [
    Job("run", "s3://R/runs/a", {"sources": ["a"], "out": "b"}, (JobFile("backbone", "a.onnx", "0" * 64, "s3://R/x"),)),
    Job("apply", "s3://R/runs/b", {"bundle": "s3://R/runs/a", "sources": ["s3://P/packs/x"], "repair": True}),
    Job("evaluate", "s3://R/runs/a", {"protocols": ["groups"]}),
])  # fmt: skip
def test_a_job_arrives_as_it_was_made(told: Job) -> None:
    assert Job.parse(told.as_json()) == told
    assert told.folder.startswith(told.out)
    assert (told.folder == told.out) == (told.command != "evaluate"), "an evaluation keeps its job elsewhere"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"command": "delete", "out": "a", "choices": {}, "carried": []}', '{"command": "run"}']
)
def test_what_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a job of 'fruits aws'"):
        Job.parse(text)


def test_reviewed_photos_may_be_read_and_nothing_else_beside_packs() -> None:
    check_sources(installation(), ["s3://P/packs/x", "s3://P/reviewed", "s3://P/reviewed/"])
    for source in ("s3://P/reviewed/Apple", "s3://P/submissions", "s3://P/reviewed-not"):
        with pytest.raises(ConfigError, match="may read s3://P/packs"):
            check_sources(installation(), [source])


def test_a_head_of_another_package_is_refused_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("forest", "forest:Head", "fruits.heads")
    found = extensions.Extension("head", "forest", "forest-head 1.0", point)
    find = extensions.find
    monkeypatch.setattr(extensions, "find", lambda kind, name: found if name == "forest" else find(kind, name))
    config = RunConfig(sources=("s3://P/packs/x",), out="s3://R/runs/x", head="forest")
    with pytest.raises(ConfigError, match=r"of the package forest-head 1\.0, which the cluster does not have"):
        cluster_config(installation(), config)


def test_without_an_image_no_serverless_run_is_started() -> None:
    there = dataclasses.replace(installation(), has_image=False)
    archive = Archive(Path(__file__), "0" * 64)
    submission = Submission(
        there, Job("run", "s3://R/runs/a"), Package(None, archive, Path(__file__), {"fruits": "1"}), cost.shape_for(10)
    )
    aws = Recorded()
    with pytest.raises(ConfigError, match=r"no image to run, which brings Python 3\.11; build docker/Dockerfile\.emr"):
        cluster.submit(aws, submission)
    assert [call.name for call in aws.made] == ["s3.get_object"], "nothing was sent"


# --- Ending -------------------------------------------------------------------------------------------------------------


class Recorded:
    """An AWS whose steps and runs pass through the states that it is given."""

    def __init__(self, **states: list[str]) -> None:
        self.made: list[Call] = []
        self._states = states

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        return self.make(Call(service, operation, parameters))

    def make(self, call: Call) -> Any:
        from fruits.aws.calls import AwsAbsentError

        self.made.append(call)
        if call.operation == "get_object":
            raise AwsAbsentError("not there")
        if call.operation == "add_job_flow_steps":
            return {"StepIds": ["s-kill"]}
        if call.operation == "describe_step":
            return {"Step": {"Status": {"State": self._next(call.parameters["StepId"])}}}
        if call.operation == "get_job_run":
            return {"jobRun": {"state": self._next("run")}}
        return {}

    def _next(self, name: str) -> str:
        states = self._states[name.replace("-", "_")]
        return states.pop(0) if len(states) > 1 else states[0]


STARTED = {"compute": "ec2", "application": "j-1", "job": "s-1", "tag": yarn_tag("token")}


def test_ending_a_step_ends_its_application_in_yarn_and_waits_for_both() -> None:
    aws = Recorded(s_1=["RUNNING", "CANCELLED"], s_kill=["PENDING", "RUNNING", "COMPLETED"])
    cluster.cancel(aws, STARTED, poll_s=0.001)
    names = [call.name for call in aws.made]
    assert names[:2] == ["emr.cancel_steps", "emr.add_job_flow_steps"]
    assert names.count("emr.describe_step") == 6
    [step] = aws.made[1].parameters["Steps"]
    program, option, script = step["HadoopJarStep"]["Args"]
    assert (program, option) == ("bash", "-c")
    assert f"-appTags {STARTED['tag']} " in script


def test_the_tag_that_is_looked_for_is_the_one_that_was_given() -> None:
    there = dataclasses.replace(installation(), application="", cluster="j-1")
    package = Package(
        Archive(Path("e.tar.gz"), "0" * 64), Archive(Path("p.tar.gz"), "0" * 64), Path(__file__), {"fruits": "1"}
    )
    shape = cost.shape_for(10, compute="ec2")
    arguments = Submission(there, Job("run", "s3://R/runs/a"), package, shape).start("token").parameters["Steps"][0]
    assert f"spark.yarn.tags={STARTED['tag']}" in arguments["HadoopJarStep"]["Args"]
    assert STARTED["tag"] == STARTED["tag"].lower(), "YARN keeps tags in small letters"


@pytest.mark.parametrize(("listed", "killed"), [
    ("Total number of applications:2\n Application-Id\tName\napplication_17_0001\tfruits\tx\napplication_17_0002\tfruits\tx\n",
     ["application_17_0001", "application_17_0002"]),
    ("Total number of applications:0\n Application-Id\tName\n", []),
])  # fmt: skip
def test_the_script_ends_what_yarn_lists_and_is_content_with_nothing(
    tmp_path: Path, listed: str, killed: list[str]
) -> None:
    """With a yarn that tells as Hadoop's does and notes what it is asked to end."""
    yarn = tmp_path / "yarn"
    (tmp_path / "listed").write_text(listed)
    yarn.write_text(
        f'#!/bin/sh\nif [ "$2" = -list ]; then cat {tmp_path}/listed; else echo "$3" >> {tmp_path}/killed; fi\n'
    )
    yarn.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", cluster._KILL.format("fruits-1")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    noted = tmp_path / "killed"
    assert (noted.read_text().split() if noted.exists() else []) == killed


def test_a_run_that_is_ended_has_ended() -> None:
    aws = Recorded(run=["RUNNING", "CANCELLING", "CANCELLED"])
    cluster.cancel(aws, {"compute": "serverless", "application": "a", "job": "r"}, poll_s=0.001)
    assert [call.name for call in aws.made] == ["emr-serverless.cancel_job_run", *["emr-serverless.get_job_run"] * 3]


def test_what_does_not_end_is_an_error() -> None:
    with pytest.raises(AwsError, match="is RUNNING ten minutes after it was to end"):
        cluster.cancel(
            Recorded(run=["RUNNING"]),
            {"compute": "serverless", "application": "a", "job": "r"},
            poll_s=0.01,
            patience_s=0.05,
        )
    aws = Recorded(s_1=["CANCELLED"], s_kill=["FAILED"])
    with pytest.raises(AwsError, match="terminate-clusters --cluster-ids j-1"):
        cluster.cancel(aws, STARTED, poll_s=0.001)
