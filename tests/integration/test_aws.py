"""The whole path on AWS, from an empty account and back to one, with the real boto3 against moto's server over HTTP.

What moto does not have, ``aws_stand_in.py`` adds; the job itself is run by a real Spark from the uploaded package alone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from tests.aws_account import ACCOUNT, REGION

from fruits.aws import calls, upload
from fruits.aws.installation import deploy, stacks
from fruits.aws.jobs import cluster, package
from fruits.aws.jobs.job import run_job
from fruits.aws.jobs.submission import Installation, Submission, cluster_config
from fruits.aws.pricing import cost, prices
from fruits.config import RunConfig
from fruits.storage.objects import Objects, opened
from fruits.storage.outputs.runs import find

sys.path.insert(0, str(Path(__file__).parent))
if TYPE_CHECKING:
    from aws_stand_in import Aws, Watch

#: Moto says what of the templates it leaves out: BucketPolicy, MetricFilter, Budgets and a few more.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS::")

ROLES = ("uploader", "owner", "batch", "service")
REPOSITORY = Path(__file__).parents[2]
WORKERS = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/fruits/workers@sha256:{'0' * 64}"
FOREIGN = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
           "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")  # fmt: skip


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    """No connection of ours, nor of any child, leaves the machine; looked at while all tests of this file run."""
    from aws_stand_in import Watch  # moto, which takes seconds: only where these tests run

    with Watch() as watching:
        yield watching


@pytest.fixture(scope="module")
def account(watch: Watch) -> Iterator[Aws]:
    """An account with nothing in it but what this file makes."""
    from aws_stand_in import Aws

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    aws = Aws()
    aws.reset()
    aws.make_administrator()
    yield aws
    aws.stop()


@pytest.fixture
def here(account: Aws, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Points everything in this process and its children at the account, as the role that is named."""

    def become(role: str | None = None) -> None:
        for name in FOREIGN:
            monkeypatch.delenv(name, raising=False)
        credentials = account.assume(role) if role else None
        for name, value in account.environment(credentials).items():
            monkeypatch.setenv(name, value)
        opened.cache_clear()

    become()
    return become


@pytest.fixture(scope="module")
def installation(account: Aws) -> stacks.Stack:
    """Everything deployed, by someone who may."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in account.environment().items():
            patch.setenv(name, value)
        parameters = {"budget": {"Email": "owner@example.org"}, "batch": {"Image": WORKERS}}
        made = deploy.deploy(calls.Aws(), "fruits", stacks.USUAL, parameters, poll_s=0.01)
    account.mend_policies()
    for role in ROLES:
        account.assume(f"fruits-{role}")
    assert [stack.name for stack in made] == ["fruits-storage", "fruits-roles", "fruits-batch", "fruits-budget"]
    return made[0]


@pytest.fixture(scope="module")
def built(watch: Watch) -> package.Package:
    """The package of this fruits; wheels come from the index, or from pip's cache: the one thing that may leave the machine."""
    assert watch.foreign == set()
    try:
        return package.build()
    except package.PackageError as exc:
        if "cannot be fetched" in str(exc):
            pytest.skip(f"no package can be made: {exc}")
        raise
    finally:
        watch.foreign.clear()


def installed() -> Installation:
    return Installation.of(calls.Aws(), "fruits")


# --- The whole path ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_whole_path_from_upload_to_results(
    account: Aws, installation: Any, here: Any, built: Any, fruits: Any, photos: Path, finished_run: Any, tmp_path: Path,
    watch: Watch,
) -> None:  # fmt: skip
    """Each command in the role it is meant for; the job's own words run by a real Spark, from the uploaded package alone."""
    from aws_stand_in import Emr

    with account.enforcing():
        here("fruits-uploader")
        sent = fruits("aws", "upload", photos, "--to", "orchard", "--json")
        assert sent.code == 0, sent.stderr
        assert sent.json()["photos"] == 320

        here("fruits-owner")
        spark = tmp_path / "emr"
        with Emr(
            account, spark, "fruits-batch", "/fruits/fruits/batch", installed().logs, built.environment.path
        ) as emr:
            # Longer than other commands may take: packages are unpacked, two Javas and two Pythons start.
            command = [
                sys.executable,
                "-W",
                "error",
                "-m",
                "fruits",
                "aws",
                "run",
                "orchard",
                "--to",
                "first",
                "--json",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, encoding="utf-8")
        [log] = spark.glob("*/stdout")
        assert done.returncode == 0, f"{done.stderr}\n{log.read_text()[-4000:]}"

        told = json.loads(done.stdout)
        assert told["state"] == "SUCCESS"
        assert told["billed_usd"] > 0
        for word in ("RUNNING", "embeddings", "320 of 320 photos", "USD per million", "SUCCESS"):
            assert word in done.stderr
        again = fruits("aws", "run", "orchard", "--to", "first", "--cancel", "--json")
        assert again.json() == {"job": told["job"], "cancelled": False}

    # The job ran in a clean environment: its Python saw no folder of this repository or its virtual environment.
    [command] = emr.commands
    assert command[0].endswith("spark-submit")
    [paths] = spark.glob("*/seen.json")
    searched, of_fruits, of_numpy = json.loads(paths.read_text())
    assert of_fruits.startswith(str(spark))
    assert of_numpy.startswith(str(spark))
    assert [path for path in searched if path.startswith(str(REPOSITORY))] == []

    results = tmp_path / "first"
    _download(account, installed().results, "runs/first", results)
    results = Path(find(str(results)).folder)
    record = json.loads((results / "run.json").read_text())
    assert (record["ok"], record["engine"]) == (320, "spark")
    assert record["metrics"]["accuracy"] == finished_run.record["metrics"]["accuracy"]
    assert record["explained_variance_ratio"] == finished_run.record["explained_variance_ratio"]
    assert record["timeline"]["core_hour_usd"] > 0
    [executor] = [one for one in record["timeline"]["executors"] if one["cores"]]
    assert executor["tasks_done"] > 0
    ours = pq.read_table(finished_run.out / "features.parquet")["features"].to_pylist()
    assert sorted(pq.read_table(results / "features.parquet")["features"].to_pylist()) == sorted(ours)
    assert watch.seen > 100, "the watch saw connections"
    assert watch.foreign == set(), "and none that left the machine"


# --- Deploying and deleting -------------------------------------------------------------------------------------------


def test_deploying_twice_changes_nothing_and_status_says_what_is_there(installation: Any, here: Any) -> None:
    aws = calls.Aws()
    before = stacks.find(aws, "fruits", "batch")
    deploy.deploy(aws, "fruits", ["roles", "batch", "budget"], {}, poll_s=0.01)
    assert stacks.find(aws, "fruits", "batch").outputs == before.outputs
    told = deploy.status(aws, "fruits")
    assert {which: bool(found) for which, found in told["stacks"].items()} == {
        "storage": True, "roles": True, "batch": True, "service": False, "budget": True,
    }  # fmt: skip
    assert told["application"]["id"] == before.outputs["ApplicationId"]


def test_a_dry_run_of_deploying_names_the_calls_that_are_then_made(account: Aws, here: Any) -> None:
    made: list[str] = []
    planned = deploy.planned("second", ["storage", "roles"], {}, REGION)
    deploy.deploy(calls.Aws(watch=lambda call: made.append(call.name)), "second", ["storage", "roles"], {}, poll_s=0.01)
    assert [call.name for call in planned] == [
        name for name in made if "describe" not in name and name != "sts.get_caller_identity"
    ]
    done = deploy.delete(calls.Aws(), "second", stacks.ORDER, poll_s=0.01)
    assert done["deleted"] == ["second-roles", "second-storage"]
    assert done["absent"] == ["second-budget", "second-service", "second-batch"]
    assert done["kept"]["PhotosBucket"].startswith("second-photos-")


def test_a_cluster_is_closed_to_the_world_before_it_is_made(account: Aws, here: Any) -> None:
    parameters = {"batch": {"Compute": "ec2"}}
    names = [call.name for call in deploy.planned("third", ["batch"], parameters, REGION)]
    assert names.index("emr.put_block_public_access_configuration") < names.index("cloudformation.create_stack")
    calls.Aws().make(deploy._BLOCK_PUBLIC_ACCESS)
    kept = account.client("emr").get_block_public_access_configuration()["BlockPublicAccessConfiguration"]
    assert kept["BlockPublicSecurityGroupRules"] is True
    assert not kept.get("PermittedPublicSecurityGroupRuleRanges")


def test_what_runs_on_a_cluster_is_named_and_what_stands_is_priced_as_it_was_deployed(
    account: Aws, here: Any, fruits: Any
) -> None:
    from moto.emr.models import emr_backends

    aws, first = calls.Aws(), {"batch": {"Compute": "ec2", "CoreNodes": "2"}, "storage": {"Suffix": "-5"}}
    chosen = ["storage", "roles", "batch"]
    deploy.deploy(aws, "fifth", chosen, first, poll_s=0.01)
    told = stacks.outputs(aws, "fifth", ["batch"])
    # Moto's EMR looks for the region in the name of the host, which the loopback does not have, and then takes another.
    there = emr_backends[ACCOUNT]
    there["us-east-1"].clusters[told["ClusterId"]] = there[REGION].clusters[told["ClusterId"]]
    step = {"Name": "fruits runs/a", "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["true"]}}
    [job] = aws.call("emr", "add_job_flow_steps", JobFlowId=told["ClusterId"], Steps=[step])["StepIds"]
    assert [(one["id"], one["name"]) for one in deploy.status(aws, "fifth")["jobs"]] == [(job, "fruits runs/a")]
    assert "1 jobs under way" in fruits("aws", "status", "--name", "fifth").stdout
    # A second deployment says nothing of the cluster; it keeps it, and so does the price.
    again = deploy.deploy(aws, "fifth", ["batch"], {}, poll_s=0.01)
    assert (again[0].parameters["Compute"], again[0].parameters["CoreNodes"]) == ("ec2", "2")
    assert "3 m5.xlarge, 0.79 an hour" in fruits("aws", "cost", "--name", "fifth").stdout
    deploy.delete(aws, "fifth", chosen, poll_s=0.01)


def test_deleting_ends_jobs_and_the_application_before_the_stack(account: Aws, here: Any) -> None:
    from moto.emrserverless import models

    aws = calls.Aws()
    deploy.deploy(aws, "fourth", ["storage", "roles", "batch"], {}, poll_s=0.01)
    told = stacks.outputs(aws, "fourth", ["roles", "batch"])
    job = aws.call(
        "emr-serverless",
        "start_job_run",
        applicationId=told["ApplicationId"],
        executionRoleArn=told["BatchRoleArn"],
        clientToken="x",
    )["jobRunId"]
    models.emrserverless_backends[ACCOUNT][REGION].job_runs[told["ApplicationId"]][0].state = "RUNNING"
    done = deploy.delete(aws, "fourth", ["batch", "roles"], poll_s=0.01)
    assert done["cancelled"] == [job]
    assert stacks.find(aws, "fourth", "batch") is None


# --- Uploading --------------------------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of three parts, the last one short."""
    path = tmp_path / "big.bin"
    path.write_bytes(bytes(range(256)) * (upload.PART_BYTES // 256) * 2 + b"the end")
    return path


def test_an_upload_that_broke_off_goes_on_with_the_parts_that_are_missing(
    installation: Any, here: Any, big: Path, account: Aws
) -> None:
    bucket, key = installed().photos, "packs/broken/big.bin"

    def break_off(call: calls.Call) -> None:
        if call.operation == "upload_part" and call.parameters["PartNumber"] == 2:
            raise ConnectionError("the line is cut")

    with pytest.raises(ConnectionError):
        upload.send(calls.Aws(watch=break_off), big, bucket, key)
    sent = upload.send(calls.Aws(), big, bucket, key)
    assert sent.parts_kept >= 1
    assert sent.sent_bytes < big.stat().st_size
    assert account.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == big.read_bytes()
    assert "Uploads" not in account.client("s3").list_multipart_uploads(Bucket=bucket)
    assert upload.send(calls.Aws(), big, bucket, key).sent_bytes == 0, "what is there is not sent again"
    big.write_bytes(big.read_bytes()[:-1] + b"!")
    assert upload.send(calls.Aws(), big, bucket, key).sent_bytes == big.stat().st_size, "another file is"


def test_calls_of_an_upload_are_those_that_were_planned(
    installation: Any, here: Any, big: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.bin"
    small.write_bytes(b"little")
    for path in (big, small):
        made: list[str] = []
        planned = [
            call.name
            for call in upload.calls_for(path, installed().photos, f"packs/p/{path.name}")
            for _ in range(call.times)
        ]
        upload.send(
            calls.Aws(watch=lambda call, made=made: made.append(call.name)),
            path,
            installed().photos,
            f"packs/p/{path.name}",
        )
        assert sorted(made) == sorted(planned)


def test_photos_are_packed_once_and_the_pack_is_gone_from_here_when_it_is_there(
    installation: Any, here: Any, own_photos: Path, tmp_path: Path
) -> None:
    waiting = tmp_path / "waiting"

    def break_off(call: calls.Call) -> None:
        if call.operation == "put_object":
            raise ConnectionError("the line is cut")

    bucket, name = installed().photos, "packs/own"
    with pytest.raises(ConnectionError):
        upload.upload_photos(calls.Aws(watch=break_off), [str(own_photos)], bucket, name, folder=waiting)
    [pack] = waiting.iterdir()
    files = {path.name for path in pack.rglob("*.parquet")}
    done = upload.upload_photos(calls.Aws(), [str(own_photos)], bucket, name, folder=waiting)
    assert list(waiting.iterdir()) == []
    sent = {found.key.rpartition("/")[2] for found in Objects(f"s3://{bucket}/{name}").list("data")}
    assert sent == files, "not packed again"
    assert done["photos"] == len(list(own_photos.rglob("*.jpg")))


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def submission(installation: Any, here: Any, tmp_path: Path) -> Submission:
    """A run whose package is two small files, as one with an image of the workers is."""
    program = tmp_path / "fruits-0.1.0-1.tar.gz"
    program.write_bytes(program.name.encode())
    entry = tmp_path / "entry.py"  # of its own, so that no other test has brought it to the bucket before
    entry.write_text(f"{Path(package.__file__).with_name('entry.py').read_text()}# {tmp_path.name}\n")
    made = package.Package(None, package.Archive(program, "0" * 64), entry, {"fruits": "0.1.0"})
    there = installed()
    out = f"s3://{there.results}/runs/{tmp_path.name}"
    config = cluster_config(there, RunConfig(sources=(f"s3://{there.photos}/packs/x",), out=out))
    return Submission(there, run_job(config), made, cost.shape_for(320))


def test_a_dry_run_names_every_call_that_starting_makes(submission: Submission) -> None:
    made: list[str] = []
    aws = calls.Aws(watch=lambda call: made.append(call.name))
    Installation.of(aws, "fruits")
    assert cluster.running_job(aws, submission.installation, submission.job) is None
    cluster.submit(aws, submission)
    planned = [call.name for call in submission.planned() for _ in range(call.times)]
    assert made == planned
    assert json.dumps([call.as_dict() for call in submission.planned()])


def test_the_same_run_from_another_terminal_follows_the_job_and_starts_none(submission: Submission) -> None:
    from moto.emrserverless import models

    started = cluster.submit(calls.Aws(), submission)
    jobs = models.emrserverless_backends[ACCOUNT][REGION].job_runs[submission.installation.application]
    [job] = [job for job in jobs if job.id == started["job"]]
    job.state = "RUNNING"
    before = len(jobs)
    assert cluster.submit(calls.Aws(), submission)["job"] == started["job"]
    choices = {**submission.job.choices, "core_hour_usd": 9.0, "repair": True}
    again = dataclasses.replace(submission.job, choices=choices)
    assert cluster.running_job(calls.Aws(), submission.installation, again)["job"] == started["job"], (
        "neither decides what comes out"
    )
    assert len(jobs) == before
    other = dataclasses.replace(
        submission, job=dataclasses.replace(submission.job, choices={**submission.job.choices, "seed": 5})
    )
    with pytest.raises(calls.AwsError, match="other choices is under way"):
        cluster.submit(calls.Aws(), other)

    states = []
    for event in cluster.follow(calls.Aws(), submission.installation, started, poll_s=0.01):
        states.append(event["state"])
        job.state = "SUCCESS"
    assert states == ["RUNNING", "SUCCESS"]
    assert cluster.submit(calls.Aws(), submission)["job"] != started["job"], "after its end, a new one"
    assert cluster.last_log_lines(calls.Aws(), submission.installation, started) == [], "no logs, no words"


def test_following_from_another_machine_takes_no_package(
    submission: Submission, fruits: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from moto.emrserverless import models

    started = cluster.submit(calls.Aws(), submission)
    models.emrserverless_backends[ACCOUNT][REGION].job_runs[submission.installation.application][-1].state = "RUNNING"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-machine"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    done = fruits("aws", "run", "x", "--to", tmp_path.name, "--no-follow", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["job"] == started["job"]
    assert not (tmp_path / "another-machine").exists()


def test_settings_of_a_run_fit_the_cluster_and_bring_the_package(submission: Submission) -> None:
    conf = submission.conf()
    assert conf["spark.archives"].endswith("/fruits-0.1.0-1.tar.gz#program")
    assert conf["spark.emr-serverless.driverEnv.PYSPARK_PYTHON"] == "./program/bin/python"
    assert conf["spark.emr-serverless.driver.disk"] == "20G"
    sizes = [int(conf[f"spark.executor.{name}"].removesuffix("g")) for name in ("memory", "memoryOverhead")]
    assert sum(sizes) == submission.shape.memory_gb
    call = submission.start("token").parameters
    assert call["jobDriver"]["sparkSubmit"]["entryPoint"].startswith(
        f"s3://{submission.installation.results}/packages/0.1.0/entry-"
    )
    assert call["executionRoleArn"] == submission.installation.role
    environment = package.Archive(submission.package.program.path.with_name("environment-1.tar.gz"), "0" * 64)
    on_ec2 = Submission(
        Installation.unknown("fruits", REGION, "ec2"),
        submission.job,
        dataclasses.replace(submission.package, environment=environment),
        cost.shape_for(320, compute="ec2"),
    )
    assert on_ec2.conf()["spark.archives"].count("#") == 2
    step = on_ec2.start("token").parameters["Steps"][0]["HadoopJarStep"]
    assert step["Args"][:3] == ["spark-submit", "--deploy-mode", "cluster"]
    assert any(argument.startswith("spark.yarn.appMasterEnv.PYSPARK_PYTHON=") for argument in step["Args"])


@pytest.mark.parametrize(
    ("photos", "out", "words"),
    [
        ("s3://elsewhere/packs/x", "s3://R/runs/a", "may read s3://P/packs"),
        ("s3://P/submissions/x", "s3://R/runs/a", "may read s3://P/packs"),
        ("photos", "s3://R/runs/a", "may read s3://P/packs"),
        ("s3://P/packs/x", "s3://R/runs", "may write s3://R/runs/<name>"),
        ("s3://P/packs/x", "s3://R/packages/a", "may write s3://R/runs/<name>"),
        ("s3://P/packs/x", "results", "may write s3://R/runs/<name>"),
    ],
)
def test_what_a_run_may_not_read_or_write_is_said_before_it_starts(photos: str, out: str, words: str) -> None:
    there = Installation("n", REGION, "P", "R", "L", "role", "app", "", "group")
    with pytest.raises(Exception, match=words):
        cluster_config(there, RunConfig(sources=(photos,), out=out))


def test_dry_run_and_cost_say_their_numbers_and_call_nothing(account: Aws, here: Any, built: Any, fruits: Any) -> None:
    """Even the address of the server is one where nobody listens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        for photos in (90_380, 10_000_000):
            dry = fruits("aws", "run", "x", "--to", "y", "--photos", photos, "--dry-run")
            assert dry.code == 0, dry.stderr
            assert "emr-serverless.start_job_run" in dry.stdout
            assert "nothing was called and nothing spent" in dry.stdout
            told = fruits("aws", "cost", "--photos", photos)
            assert told.code == 0, told.stderr
            assert f"a run of {photos:,} photos" in told.stdout
            total = next(line for line in told.stdout.splitlines() if "total, USD" in line)
            assert total in dry.stdout
        deploying = fruits("aws", "deploy", "--dry-run", "--json")
        assert [call["call"] for call in deploying.json()["calls"]].count("cloudformation.create_stack") == 4


def test_what_buckets_hold_is_priced_by_class_and_old_versions_are_counted(
    installation: Any, here: Any, account: Aws
) -> None:
    s3, table = account.client("s3"), prices.load()
    bucket = installed().logs
    s3.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )  # moto's CloudFormation does not
    s3.put_object(Bucket=bucket, Key="emr/a", Body=b"x" * 1000)
    s3.put_object(Bucket=bucket, Key="emr/a", Body=b"y" * 3000)
    s3.put_object(Bucket=bucket, Key="emr/cold", Body=b"z" * 5000, StorageClass="GLACIER_IR")
    found = cost.storage_now(calls.Aws(), {"logs": bucket}, table)
    sizes = {line.what: line.usd for line in found.lines}
    assert sizes["logs, GLACIER_IR"] == pytest.approx(5000 / 1e9 * table["s3_archive_gb_month"])
    assert sizes["logs, STANDARD, old versions"] == pytest.approx(1000 / 1e9 * table["s3_standard_gb_month"])


# --- Who may do what --------------------------------------------------------------------------------------------------

_START = {
    "applicationId": "APPLICATION",
    "executionRoleArn": f"arn:aws:iam::{ACCOUNT}:role/fruits-batch",
    "clientToken": "x",
}
_OPEN = {"GroupId": "sg-1", "IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}
#: For each role, calls near those that it makes: another bucket, another key, one right more. Ten each, all denied.
NEIGHBOURS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "uploader": [
        ("s3", "delete_object", {"Bucket": "PHOTOS", "Key": "packs/x"}),
        ("s3", "put_object", {"Bucket": "PHOTOS", "Key": "submissions/x", "Body": b""}),
        ("s3", "put_object", {"Bucket": "PHOTOS", "Key": "x", "Body": b""}),
        ("s3", "put_object", {"Bucket": "RESULTS", "Key": "packs/x", "Body": b""}),
        ("s3", "get_object", {"Bucket": "PHOTOS", "Key": "submissions/x"}),
        ("s3", "get_object", {"Bucket": "RESULTS", "Key": "runs/x"}),
        ("s3", "list_objects_v2", {"Bucket": "RESULTS"}),
        ("s3", "put_bucket_policy", {"Bucket": "PHOTOS", "Policy": "{}"}),
        ("cloudformation", "describe_stacks", {"StackName": "fruits-storage"}),
        ("emr-serverless", "list_applications", {}),
    ],
    "owner": [
        ("s3", "put_object", {"Bucket": "RESULTS", "Key": "runs/x/bundle/manifest.json", "Body": b""}),
        ("s3", "put_object", {"Bucket": "LOGS", "Key": "emr/x", "Body": b""}),
        ("s3", "delete_object", {"Bucket": "RESULTS", "Key": "runs/x/run.json"}),
        ("s3", "get_object", {"Bucket": "PHOTOS", "Key": "submissions/x"}),
        ("s3", "delete_bucket", {"Bucket": "RESULTS"}),
        ("cloudformation", "delete_stack", {"StackName": "fruits-batch"}),
        ("cloudformation", "describe_stacks", {"StackName": "other-batch"}),
        ("emr-serverless", "delete_application", {"applicationId": "APPLICATION"}),
        ("emr-serverless", "get_application", {"applicationId": "00another00one00"}),
        ("iam", "create_user", {"UserName": "x"}),
    ],
    "batch": [
        ("s3", "put_object", {"Bucket": "PHOTOS", "Key": "packs/x", "Body": b""}),
        ("s3", "put_object", {"Bucket": "RESULTS", "Key": "packages/x", "Body": b""}),
        ("s3", "put_object", {"Bucket": "RESULTS", "Key": "x", "Body": b""}),
        ("s3", "delete_object", {"Bucket": "PHOTOS", "Key": "packs/x"}),
        ("s3", "get_object", {"Bucket": "PHOTOS", "Key": "submissions/x"}),
        ("s3", "create_bucket", {"Bucket": "mine", "CreateBucketConfiguration": {"LocationConstraint": REGION}}),
        ("emr-serverless", "start_job_run", _START),
        ("logs", "delete_log_group", {"logGroupName": "/fruits/fruits/batch"}),
        ("ec2", "authorize_security_group_ingress", _OPEN),
        ("iam", "list_roles", {}),
    ],
    "service": [
        ("s3", "put_object", {"Bucket": "RESULTS", "Key": "runs/x", "Body": b""}),
        ("s3", "delete_object", {"Bucket": "RESULTS", "Key": "runs/x"}),
        ("s3", "get_object", {"Bucket": "RESULTS", "Key": "packages/x"}),
        ("s3", "get_object", {"Bucket": "PHOTOS", "Key": "packs/x"}),
        ("s3", "put_object", {"Bucket": "PHOTOS", "Key": "packs/x", "Body": b""}),
        ("s3", "get_object", {"Bucket": "LOGS", "Key": "emr/x"}),
        ("s3", "list_objects_v2", {"Bucket": "LOGS"}),
        ("emr-serverless", "get_application", {"applicationId": "APPLICATION"}),
        ("cloudformation", "describe_stacks", {"StackName": "fruits-service"}),
        ("iam", "list_roles", {}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_neighbouring_calls_are_denied(role: str, installation: Any, here: Any, account: Aws) -> None:
    here()
    there = installed()
    names = {"PHOTOS": there.photos, "RESULTS": there.results, "LOGS": there.logs, "APPLICATION": there.application}
    assert len(NEIGHBOURS[role]) == 10
    with account.enforcing():
        here(f"fruits-{role}")
        for service, operation, given in NEIGHBOURS[role]:
            parameters = {
                key: names.get(value, value) if isinstance(value, str) else value for key, value in given.items()
            }
            with pytest.raises(calls.AwsError, match="denied") as refused:
                calls.Aws().call(service, operation, **parameters)
            assert "the caller needs" in str(refused.value), (service, operation)


def test_calls_of_each_role_pass_where_others_do_not(
    submission: Submission, here: Any, account: Aws, big: Path
) -> None:
    """Our own calls as they are made by the code; what a run itself does under its role is in the whole path."""
    there = submission.installation
    with account.enforcing():
        here("fruits-owner")
        aws = calls.Aws()
        started = cluster.submit(aws, submission)
        assert cluster.state(aws, started)["state"] == "SUCCESS"
        assert [event for event in cluster.follow(aws, there, started, poll_s=0.01) if "state" in event]
        assert cluster.last_log_lines(aws, there, started) == []
        cluster.cancel(aws, started)
        deploy.status(aws, "fruits")
        assert cost.storage_now(aws, {"photos": there.photos, "results": there.results}, prices.load()).usd >= 0
        here("fruits-uploader")
        upload.send(calls.Aws(), big, there.photos, "packs/roles/big.bin")
        here("fruits-service")
        submissions = Objects(f"s3://{there.photos}/submissions")
        submissions.write("one.jpg", b"photo")
        assert submissions.read("one.jpg") == b"photo"
        submissions.delete("one.jpg")
        assert Objects(f"s3://{there.results}/runs").read_if_present("nothing") is None


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_errors_say_what_to_do(
    installation: Any, here: Any, account: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(
        calls.AwsAbsentError, match="there is no bucket 'no-such-bucket-at-all'; make it with 'fruits aws deploy'"
    ):
        calls.Aws().call("s3", "list_objects_v2", Bucket="no-such-bucket-at-all")
    with pytest.raises(calls.AwsAbsentError, match=r"there is no stack nobody-storage in eu-west-1"):
        stacks.outputs(calls.Aws(), "nobody", ["storage"])
    with pytest.raises(calls.AwsAbsentError, match="not there"):
        calls.Aws().call("s3", "get_object", Bucket=installed().photos, Key="packs/nothing")
    with account.enforcing():
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
        with pytest.raises(calls.AwsError, match="credentials are not accepted"):
            calls.Aws().call("s3", "list_buckets")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(calls.AwsError, match="no credentials found; sign in"):
        calls.Aws().call("s3", "list_buckets")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(calls.AwsError, match="correct AWS_PROFILE"):
        calls.Aws().call("s3", "list_buckets")
    (tmp_path / "config").write_text("[profile owner]\nrole_arn = arn:aws:iam::123456789012:role/fruits-owner\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "owner")
    with pytest.raises(calls.AwsError, match="missing: source_profile or credential_source; add that to the profile"):
        calls.Aws().call("s3", "list_buckets")


def test_the_region_of_the_profile_is_known_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*FOREIGN, "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[default]\nregion = eu-west-3\n[profile b]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert calls.Aws().region == "eu-west-3"
    assert calls.Aws("eu-north-1").region == "eu-north-1"
    monkeypatch.setenv("AWS_PROFILE", "b")
    assert calls.Aws().region == "eu-central-1"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert calls.Aws().region == calls.DEFAULT_REGION, "the first call says that there is no such profile"


@pytest.mark.parametrize("arguments", [
    ("deploy", "--name", "Not Good"), ("deploy", "--set", "nowhere.Key=1"), ("delete",), ("upload", "x", "--to", "../up"),
    ("cost", "--photos", "5", "--compute", "abacus"),
    ("run", "x", "--to", "y", "--cancel", "--dry-run"), ("deploy", "--stack", "castle"),
    ("run", "x", "--to", "y", "--dry-run", "--architecture", "abacus"),
    ("deploy", "--set", "storage.Castle=1"), ("deploy", "--set", "storage.Name=x"), ("deploy", "--set", "batch.Compute=abacus"),
    ("deploy", "--set", "batch.CoreNodes=0"), ("deploy", "--set", "budget.Email=nobody"),
])  # fmt: skip
def test_misuse_is_refused_before_anything_is_called(
    arguments: tuple[str, ...], account: Aws, here: Any, fruits: Any
) -> None:
    done = fruits("aws", *arguments)
    assert done.code == 2, done.stderr
    assert "expected" in done.stderr or "add --yes" in done.stderr


@pytest.mark.parametrize(("arguments", "words"), [
    (("--set", "service.Image=x"), "stack service is not among storage, roles, batch, budget; add --service"),
    (("--service", "--set", "budget.Email=me@x.org"),
     "needs to be told Image, CertificateArn, DomainName, Out; add --set service.Image=..."),
    ((), "needs to be told Email; add --set budget.Email=..."),
])  # fmt: skip
def test_what_only_a_person_knows_is_asked_for_before_a_stack_is_made(
    arguments: tuple[str, ...], words: str, account: Aws, here: Any, fruits: Any
) -> None:
    done = fruits("aws", "deploy", "--name", "asked-first", *arguments)
    assert done.code == 2, done.stderr
    assert words in done.stderr
    assert not any(deploy.status(calls.Aws(), "asked-first")["stacks"].values())
    dry = fruits("aws", "deploy", "--name", "asked-first", "--dry-run")
    assert "<give it: --set budget.Email=...>" in dry.stdout


def test_importing_the_command_line_imports_no_boto3() -> None:
    modules = "fruits.cli.main, fruits.aws.jobs.cluster, fruits.aws.installation.deploy"
    code = f"import sys, {modules}; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def _download(account: Aws, bucket: str, prefix: str, folder: Path) -> None:
    client = account.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", ()):
            path = folder / found["Key"].removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, found["Key"], str(path))
