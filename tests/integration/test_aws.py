"""The whole path on AWS, from an empty account and back to one, with the real boto3 against moto's server over HTTP.

What moto does not have, ``aws_stand_in.py`` adds; the job itself is run by a real Spark from the uploaded package alone.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from aws_stand_in import ACCOUNT, REGION, Aws, Emr, Watch

from fruits.aws import calls, cluster, cost, deploy, package, prices, upload
from fruits.config import RunConfig
from fruits.storage.objects import Objects, opened

#: Moto says what of the templates it leaves out: BucketPolicy, MetricFilter, Budgets and a few more.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS::")

ROLES = ("uploader", "owner", "batch", "service")
FOREIGN = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
           "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")  # fmt: skip


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    """No connection of ours, nor of any child, leaves the machine; looked at while all tests of this file run."""
    with Watch() as watching:
        yield watching


@pytest.fixture(scope="module")
def account(watch: Watch) -> Iterator[Aws]:
    """An account with nothing in it but what this file makes."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    aws = Aws()
    aws.reset()
    aws.make_administrator()
    yield aws
    aws.stop()


@pytest.fixture
def here(account: Aws, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Points everything in this process and its children at the account, as whoever is named."""

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
def installation(account: Aws) -> deploy.Stack:
    """Everything deployed, by someone who may."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in account.environment().items():
            patch.setenv(name, value)
        parameters = {"budget": {"Email": "owner@example.org"}}
        stacks = deploy.deploy(calls.Aws(), "fruits", deploy.USUAL, parameters, poll_s=0.01)
    account.mend_policies()
    for role in ROLES:
        account.assume(f"fruits-{role}")
    assert [stack.name for stack in stacks] == ["fruits-storage", "fruits-roles", "fruits-batch", "fruits-budget"]
    return stacks[0]


@pytest.fixture(scope="module")
def built() -> package.Package:
    """The package of this fruits; wheels come from the index, or from pip's cache."""
    try:
        return package.build()
    except package.PackageError as exc:
        if "cannot be fetched" in str(exc):
            pytest.skip(f"no package can be made: {exc}")
        raise


def place() -> cluster.Place:
    return cluster.Place.of(calls.Aws(), "fruits")


# --- The whole path ---------------------------------------------------------------------------------------------------


def test_whole_path_from_upload_to_results(
    account: Aws, installation: Any, here: Any, built: Any, fruits: Any, photos: Path, finished_run: Any, tmp_path: Path,
    watch: Watch,
) -> None:  # fmt: skip
    """Each command as whoever it is meant for; the job's own words run by a real Spark, from the uploaded package alone."""
    with account.enforcing():
        here("fruits-uploader")
        sent = fruits("aws", "upload", photos, "--to", "orchard", "--json")
        assert sent.code == 0, sent.stderr
        assert sent.json()["photos"] == 320

        here("fruits-owner")
        dry = fruits("aws", "run", "orchard", "--to", "first", "--photos", "320", "--dry-run", "--json")
        assert dry.code == 0, dry.stderr
        spark = tmp_path / "emr"
        with Emr(account, spark, "fruits-batch", "/fruits/fruits/batch", place().logs) as emr:
            done = fruits("aws", "run", "orchard", "--to", "first", "--json")
            print(done.stderr)
        [log] = spark.glob("*/stderr")
        assert done.code == 0, f"{done.stderr}\n{log.read_text()[-4000:]}"

        told = done.json()
        assert told["state"] == "SUCCESS"
        assert told["billed_usd"] > 0
        for word in ("RUNNING", "embeddings", "320 of 320 photos", "USD per million", "SUCCESS"):
            assert word in done.stderr
        again = fruits("aws", "run", "orchard", "--to", "first", "--cancel", "--json")
        assert again.json() == {"job": told["job"], "cancelled": False}

    # The job ran in a clean environment: no folder of this repository, and not this virtual environment.
    [command] = emr.commands
    assert command[0].endswith("spark-submit")
    [origin] = [
        line
        for line in log.read_text().splitlines()
        if "import 'fruits.pipeline'" in line or "fruits/pipeline.py" in line
    ][:1]
    assert str(spark) in origin

    results = tmp_path / "first"
    _download(account, place().results, "runs/first", results)
    record = json.loads((results / "run.json").read_text())
    assert (record["ok"], record["engine"]) == (320, "spark")
    assert record["metrics"]["accuracy"] == finished_run.record["metrics"]["accuracy"]
    assert record["explained_variance_ratio"] == finished_run.record["explained_variance_ratio"]
    assert record["timeline"]["core_hour_usd"] > 0
    [executor] = [one for one in record["timeline"]["executors"] if one["cores"]]
    assert executor["tasks_done"] > 0
    ours = pq.read_table(finished_run.out / "features.parquet")["features"].to_pylist()
    assert pq.read_table(results / "features.parquet")["features"].to_pylist() == ours
    assert watch.seen > 100, "the watch saw connections"
    assert watch.foreign == set(), "and none that left the machine"

    # What was planned beforehand is what was called.
    planned = [call["call"] for call in dry.json()["calls"]]
    assert planned.count("emr-serverless.start_job_run") == 1


def _download(account: Aws, bucket: str, prefix: str, folder: Path) -> None:
    client = account.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", ()):
            path = folder / found["Key"].removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, found["Key"], str(path))
