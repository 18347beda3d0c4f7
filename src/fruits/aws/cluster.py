"""A job on the cluster: what is submitted, how it is followed, how to come back to it, and how it is ended.

It is written down beside its results, in ``OUT/job.json``. So the terminal that started it is not needed: the same command, from
any machine, goes on following. Submitting twice starts one job, because AWS is given the same token twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fruits.aws import stacks, upload
from fruits.aws.calls import Aws, AwsAbsentError, AwsError, Call
from fruits.aws.cost import MAX_CORES, MAX_MEMORY_GB, Shape
from fruits.aws.job import Carried, Job
from fruits.aws.package import Package
from fruits.config import RunConfig
from fruits.errors import ConfigError
from fruits.storage.buckets import CREDENTIALS_VARIABLE
from fruits.storage.sanitising import json_text

JOB: Final = "job.json"
#: Where 'fruits aws export' writes, in the bucket of photos.
REVIEWED: Final = "reviewed"
#: A day: what a run of ten million photos takes many times over. EMR's own limit is 12 hours.
_TIMEOUT_MINUTES: Final = 24 * 60
#: States of EMR Serverless and of a step of EMR on EC2.
GOOD: Final = ("SUCCESS", "COMPLETED")
BAD: Final = ("FAILED", "CANCELLED", "INTERRUPTED")


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs happen: what the stacks of an installation say.

    Attributes
    ----------
    name, region : str
    photos, results, logs : str
        Buckets.
    role : str
        That a run has.
    application, cluster : str
        One of them is empty.
    log_group : str
    max_cores, max_memory_gb : int
        Of all serverless workers together.
    architecture : str
        Of serverless workers.
    has_image : bool
        Whether the serverless application has an image to run.
    """

    name: str
    region: str
    photos: str
    results: str
    logs: str
    role: str
    application: str
    cluster: str
    log_group: str
    max_cores: int = MAX_CORES
    max_memory_gb: int = MAX_MEMORY_GB
    architecture: str = "X86_64"
    has_image: bool = True

    @classmethod
    def of(cls, aws: Aws, name: str) -> Place:
        """Ask the stacks; raise :class:`AwsAbsentError` if one is not there."""
        told = stacks.outputs(aws, name, ("storage", "roles", "batch"))
        return cls._from(name, aws.region, told)

    @classmethod
    def unknown(cls, name: str, region: str, compute: str) -> Place:
        """Return a place whose names only AWS knows, as a dry run shows it."""
        keys = ("PhotosBucket", "ResultsBucket", "LogsBucket", "BatchRoleArn", "LogGroup")
        told = {key: f"<{key}>" for key in keys}
        told["ClusterId" if compute == "ec2" else "ApplicationId"] = (
            "<ClusterId>" if compute == "ec2" else "<ApplicationId>"
        )
        return cls._from(name, region, told)

    @classmethod
    def _from(cls, name: str, region: str, told: Mapping[str, str]) -> Place:
        return cls(
            name, region, told["PhotosBucket"], told["ResultsBucket"], told["LogsBucket"], told["BatchRoleArn"],
            told.get("ApplicationId", ""), told.get("ClusterId", ""), told.get("LogGroup", f"/fruits/{name}/batch"),
            int(told.get("MaxCpu", str(MAX_CORES)).split()[0]), int(told.get("MaxMemory", str(MAX_MEMORY_GB)).split()[0]),
            told.get("Architecture", "X86_64"), told.get("HasImage", "yes") == "yes",
        )  # fmt: skip

    @property
    def compute(self) -> str:
        """Return ``serverless`` or ``ec2``."""
        return "ec2" if self.cluster else "serverless"


@dataclass(frozen=True, slots=True)
class Submission:
    """Everything that starting a job takes, before anything is done.

    Attributes
    ----------
    place : Place
    job : Job
        Its photos and OUT are in the place's buckets.
    package : Package
    shape : Shape
    own : tuple of (Path, str)
        Files of this machine that travel with it, and their keys.
    """

    place: Place
    job: Job
    package: Package
    shape: Shape
    own: tuple[tuple[Path, str], ...] = ()

    @property
    def prefix(self) -> str:
        """Return the key under which packages are."""
        return f"packages/{self.package.versions['fruits']}"

    @property
    def files(self) -> list[tuple[Any, str]]:
        """Return each file that is sent and its key: files of one's own, archives, and last the script that begins."""
        package = self.package
        entry = f"entry-{hashlib.sha256(package.entry.read_bytes()).hexdigest()[:16]}.py"
        archives = [archive for archive in (package.environment, package.program) if archive is not None]
        return [
            *self.own,
            *((archive.path, f"{self.prefix}/{archive.path.name}") for archive in archives),
            (package.entry, f"{self.prefix}/{entry}"),
        ]

    @property
    def out_key(self) -> str:
        """Return the key within the bucket of results below which its ``job.json`` lies."""
        return key_of(self.place, self.job.home)

    def conf(self) -> dict[str, str]:
        """Return the settings of Spark."""
        shape, package = self.shape, self.package
        root = f"s3://{self.place.results}/{self.prefix}"
        archives = [f"{root}/{package.program.path.name}#program"]
        if package.environment is not None:
            archives.insert(0, f"{root}/{package.environment.path.name}#environment")
        variables = {
            "PYSPARK_PYTHON": f"./{'program' if package.environment is None else 'environment'}/bin/python",
            CREDENTIALS_VARIABLE: "boto3",
            "AWS_REGION": self.place.region,
        }
        # Java gets half of an executor, a third on a node of EC2, and 4 GB of a driver; the rest is Python's, which Spark
        # calls overhead.
        heap, driver_heap = shape.memory_gb // (3 if shape.compute == "ec2" else 2), 4
        conf = {
            "spark.archives": ",".join(archives),
            "spark.executor.cores": str(shape.cores),
            "spark.executor.memory": f"{heap}g",
            "spark.executor.memoryOverhead": f"{shape.memory_gb - heap}g",
            "spark.driver.cores": str(shape.driver_cores),
            "spark.driver.memory": f"{driver_heap}g",
            "spark.driver.memoryOverhead": f"{shape.driver_memory_gb - driver_heap}g",
            "spark.driver.maxResultSize": "2g",
            "spark.rpc.message.maxSize": "512",
            "spark.dynamicAllocation.initialExecutors": str(shape.executors),
            "spark.dynamicAllocation.maxExecutors": str(shape.executors),
            "spark.executor.processTreeMetrics.enabled": "true",
            "spark.python.worker.reuse": "true",
        }
        if shape.compute == "serverless":
            conf["spark.emr-serverless.driver.disk"] = f"{shape.driver_disk_gb}G"
        driver = "spark.yarn.appMasterEnv" if shape.compute == "ec2" else "spark.emr-serverless.driverEnv"
        for name, value in variables.items():
            conf |= {f"{driver}.{name}": value, f"spark.executorEnv.{name}": value}
        conf[f"{driver}.PYSPARK_DRIVER_PYTHON"] = variables["PYSPARK_PYTHON"]
        return conf

    def start(self, token: str) -> Call:
        """Return the call that starts the job."""
        name, choices = f"fruits {self.out_key}"[:64], self.job.as_json()
        entry = f"s3://{self.place.results}/{self.files[-1][1]}"
        settings = [part for key, value in self.conf().items() for part in ("--conf", f"{key}={value}")]
        if self.place.compute == "ec2":
            # By this tag YARN finds the application again, which goes on without the step that sent it.
            settings += ["--conf", f"spark.yarn.tags={yarn_tag(token)}"]
            arguments = ["spark-submit", "--deploy-mode", "cluster", *settings, entry, choices]
            step = {
                "Name": name,
                "ActionOnFailure": "CONTINUE",
                "HadoopJarStep": {"Jar": "command-runner.jar", "Args": arguments},
            }
            parameters: dict[str, Any] = {"JobFlowId": self.place.cluster, "Steps": [step]}
            return Call("emr", "add_job_flow_steps", parameters, "start the run: from here on it costs money")
        parameters = {
            "applicationId": self.place.application,
            "clientToken": token,
            "executionRoleArn": self.place.role,
            "name": name,
            "jobDriver": {
                "sparkSubmit": {
                    "entryPoint": entry,
                    "entryPointArguments": [choices],
                    "sparkSubmitParameters": shlex.join(settings),
                }
            },
            "executionTimeoutMinutes": _TIMEOUT_MINUTES,
            "tags": {"fruits": self.place.name},
        }
        return Call("emr-serverless", "start_job_run", parameters, "start the run: from here on it costs money")

    def planned(self) -> list[Call]:
        """Return every call that starting takes if nothing is there; following it asks on until it ends."""
        calls = [
            Call("cloudformation", "describe_stacks", {"StackName": f"{self.place.name}-{which}"}, "what is deployed?")
            for which in ("storage", "roles", "batch")
        ]
        where = {"Bucket": self.place.results, "Key": f"{self.out_key}/{JOB}"}
        why = "is there a run on this OUT already? Asked before the package is made, and after"
        calls.append(Call("s3", "get_object", where, why, 2))
        for path, key in self.files:
            calls += upload.calls_for(path, self.place.results, key)
        calls.append(self.start("<token>"))
        calls.append(
            Call("s3", "put_object", {**where, "Body": "<the job's id>"}, "so that any terminal can follow it")
        )
        return calls


def check_places(place: Place, config: RunConfig) -> RunConfig:
    """Return the choices of a run with what the cluster needs, once all of it can work there.

    Raises
    ------
    ConfigError
        If photos or OUT are where a run may not read or write.
    """
    check_sources(place, config.sources)
    check_results(place, "--to", config.out)
    return replace(config, engine="spark", master=None, spark_conf=(), workers=1)


def check_sources(place: Place, sources: Iterable[str]) -> None:
    """Raise :class:`ConfigError` unless a job may read all photos."""
    for source in sources:
        reviewed = source.rstrip("/") == f"s3://{place.photos}/{REVIEWED}"
        if not source.startswith(f"s3://{place.photos}/packs/") and not reviewed:
            raise ConfigError(
                f"photos '{source}': a run may read s3://{place.photos}/packs/... and what 'fruits aws export' wrote "
                f"(s3://{place.photos}/{REVIEWED}) only; bring them there with 'fruits aws upload'"
            )


def check_results(place: Place, option: str, out: str) -> None:
    """Raise :class:`ConfigError` unless something are results of a run, or may become some."""
    if not out.startswith(f"s3://{place.results}/runs/") or out.rstrip("/").endswith("/runs"):
        raise ConfigError(f"{option} '{out}': a run may write s3://{place.results}/runs/<name> only")


def carry(place: Place, config: RunConfig) -> tuple[RunConfig, tuple[Carried, ...], tuple[tuple[Path, str], ...]]:
    """Return the choices of a run with files of this machine by name, what of them travels, and what is sent where.

    A network is opened here first: what is wrong with it, or its card, is said before anything is sent.

    Raises
    ------
    ConfigError
        If there is no such file.
    BackboneError
        If the network cannot be used.
    """
    files: list[tuple[str, Path]] = []
    if config.backbone.lower().endswith(".onnx") or "/" in config.backbone:
        network = _whole(Path(config.backbone))
        files += [("backbone", network), ("backbone", network.with_suffix(".json"))]
        if listed := _listed_photos(config.backbone):
            files.append(("backbone", listed))
        config = replace(config, backbone=network.name)
    if config.taxonomy not in (None, "none"):
        if not Path(config.taxonomy or "").is_file():
            raise ConfigError(f"--taxonomy '{config.taxonomy}': there is no such file; expected a CSV file, or none")
        files.append(("taxonomy", Path(config.taxonomy or "")))
        config = replace(config, taxonomy=Path(config.taxonomy or "").name)
    carried, sent = [], []
    for role, path in files:
        if not path.is_file():
            continue  # a card in the package, or a list of photos that is there
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        carried.append(Carried(role, path.name, digest, f"s3://{place.results}/packages/files/{digest}"))
        sent.append((path, f"packages/files/{digest}/{path.name}"))
    return config, tuple(carried), tuple(sent)


def _whole(path: Path) -> Path:
    """Return a network as one file with its card beside it: itself, or a copy that took in what it keeps in other files."""
    from fruits.embedding.backbone import find_backbone  # noqa: PLC0415 - only for a network of one's own

    found = find_backbone(str(path))
    if found.network == path.read_bytes():
        return path
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruits/networks" / found.card.sha256[:16]
    )
    cache.mkdir(parents=True, exist_ok=True)
    (cache / path.name).write_bytes(found.network)
    # The card may name the file as it was.
    card = {key: value for key, value in asdict(found.card).items() if value not in ("", {}, ())}
    (cache / path.with_suffix(".json").name).write_text(json_text(card))
    return cache / path.name


def _listed_photos(backbone: str) -> Path | None:
    """Return the list of photos that a network was made from, where its card names one beside it."""
    from fruits.embedding.backbone import find_backbone  # noqa: PLC0415

    named = find_backbone(backbone).card.training_photos
    path = Path(backbone).with_name(Path(named).name) if named else None
    return path if path is not None and path.is_file() else None


def yarn_tag(token: str) -> str:
    """Return the tag of a job's application in YARN, which keeps them in small letters."""
    return f"fruits-{hashlib.sha256(token.encode()).hexdigest()[:24]}"


def key_of(place: Place, out: str) -> str:
    """Return the key of an OUT within the bucket of results."""
    return out.removeprefix(f"s3://{place.results}/").rstrip("/")


def under_way(aws: Aws, place: Place, job: Job) -> dict[str, Any] | None:
    """Return the ``job.json`` of the same job if it is under way, or None: following it takes no package.

    Raises
    ------
    AwsError
        If OUT has an unfinished job of other choices, or AWS refuses.
    """
    before = read_job(aws, place, key_of(place, job.home))
    return before if before is not None and _goes_on(aws, before, job) else None


def submit(aws: Aws, submission: Submission, *, estimate_usd: float | None = None) -> dict[str, Any]:
    """Start a run, or find the one that is under way; return its ``job.json``.

    Raises
    ------
    AwsError
        If OUT has an unfinished job of other choices, or AWS refuses.
    """
    place, choices = submission.place, submission.job.as_json()
    before = read_job(aws, place, submission.out_key)
    if before is not None and _goes_on(aws, before, submission.job):
        return before
    if place.compute == "serverless" and not place.has_image:
        raise ConfigError(
            "the serverless application has no image to run, which brings Python 3.11; build docker/Dockerfile.emr, push it to "
            "WorkersRepositoryUri (fruits aws status --json), then 'fruits aws deploy --set batch.Image=...@sha256:...'; "
            "docs/aws.md shows it whole. Or deploy with --set batch.Compute=ec2, which needs none"
        )
    for path, key in submission.files:
        upload.send(aws, path, place.results, key)
    told = json_text([choices, submission.conf(), before["job"] if before else None], sort_keys=True)
    token = hashlib.sha256(told.encode()).hexdigest()[:64]
    answer = aws.make(submission.start(token))
    started = {
        "job": answer["StepIds"][0] if place.compute == "ec2" else answer["jobRunId"],
        "compute": place.compute,
        "application": place.application or place.cluster,
        "region": place.region,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "choices": choices,
        "tag": yarn_tag(token),
        "package": dict(submission.package.versions),
        "program": submission.package.program.sha256,
        "environment": submission.package.environment.sha256 if submission.package.environment else None,
        "estimate_usd": estimate_usd,
    }
    aws.call(
        "s3",
        "put_object",
        Bucket=place.results,
        Key=f"{submission.out_key}/{JOB}",
        Body=json_text(started, indent=1).encode(),
    )
    return started


def _goes_on(aws: Aws, before: Mapping[str, Any], job: Job) -> bool:
    """Whether a job is not at its end; raise :class:`AwsError` if it is of other choices then."""
    now = state(aws, before)["state"]
    if now in (*GOOD, *BAD):
        return False
    if _deciding(before["choices"]) != _deciding(job.as_json()):
        raise AwsError(
            f"on {job.out} a job with other choices is under way ({before['job']}, {now}); wait for it, end it with --cancel, "
            "or choose another --to"
        )
    return True


def _deciding(choices: str) -> dict[str, Any]:
    """Return the choices that decide what comes out."""
    said: dict[str, Any] = json.loads(choices)
    chosen = {name: value for name, value in said.get("choices", {}).items() if name not in ("core_hour_usd", "repair")}
    return {**said, "choices": chosen}


def read_job(aws: Aws, place: Place, out_key: str) -> dict[str, Any] | None:
    """Return the ``job.json`` of an OUT, or None."""
    try:
        body = aws.call("s3", "get_object", Bucket=place.results, Key=f"{out_key}/{JOB}")["Body"].read()
        found = json.loads(body)
        if not isinstance(found, dict) or not {"job", "choices", "compute", "application"} <= found.keys():
            raise ValueError("not a job")
    except AwsAbsentError:
        return None
    except ValueError as exc:
        raise AwsError(f"s3://{place.results}/{out_key}/{JOB} is damaged ({exc}); delete it, then run again") from exc
    return found


def state(aws: Aws, started: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a job is: ``state``, ``details`` and, at its end, ``billed`` (hours of vCPU and of GB)."""
    if started["compute"] == "ec2":
        step = aws.call("emr", "describe_step", ClusterId=started["application"], StepId=started["job"])["Step"]
        status = step["Status"]
        failure = status.get("FailureDetails", {})
        return {
            "state": status["State"],
            "details": failure.get("Message") or failure.get("Reason") or "",
            "billed": None,
        }
    try:
        run = aws.call("emr-serverless", "get_job_run", applicationId=started["application"], jobRunId=started["job"])[
            "jobRun"
        ]
    except AwsAbsentError:
        return {"state": "FAILED", "details": "AWS knows this job no more", "billed": None}
    return {
        "state": run["state"],
        "details": run.get("stateDetails") or "",
        "billed": run.get("billedResourceUtilization") or None,
    }


def follow(aws: Aws, place: Place, started: Mapping[str, Any], *, poll_s: float = 10.0) -> Iterator[dict[str, Any]]:
    """Yield what happens to a job until it ends: ``{"state": ...}`` when that changes, and its lines of progress.

    Whoever stops listening stops nothing.
    """
    last = ""
    lines = _Lines(place, started)
    while True:
        now = state(aws, started)
        yield from lines.new(aws)
        if now["state"] != last:
            last = now["state"]
            yield now
        if last in GOOD or last in BAD:
            yield from lines.new(aws)
            return
        time.sleep(poll_s)


def cancel(aws: Aws, started: Mapping[str, Any], *, poll_s: float = 5.0, patience_s: float = 600.0) -> None:
    """End a job, and return once it has ended. What it computed is kept.

    On a cluster of EC2 a step only sends an application to YARN and waits: ended alone, it would leave the application at work.
    So another step ends all that carries the job's tag.

    Raises
    ------
    AwsError
        If it has not ended after ten minutes.
    """
    if started["compute"] == "ec2":
        cluster = started["application"]
        aws.call(
            "emr", "cancel_steps", ClusterId=cluster, StepIds=[started["job"]], StepCancellationOption="SEND_INTERRUPT"
        )
        kill = {
            "Name": f"end {started['job']}",
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {
                "Jar": "command-runner.jar",
                "Args": ["bash", "-c", _KILL.format(started.get("tag", ""))],
            },
        }
        [step] = aws.call("emr", "add_job_flow_steps", JobFlowId=cluster, Steps=[kill])["StepIds"]
        waits = [started, {**started, "job": step}]
    else:
        aws.call("emr-serverless", "cancel_job_run", applicationId=started["application"], jobRunId=started["job"])
        waits = [started]
    for _ in range(max(1, int(patience_s / max(poll_s, 0.01)))):
        states = [state(aws, one)["state"] for one in waits]
        if all(one in GOOD or one in BAD for one in states):
            if len(states) > 1 and states[1] not in GOOD:
                raise AwsError(
                    f"the step that ends {started['job']} in YARN is {states[1]}; end the cluster if it still works: "
                    f"aws emr terminate-clusters --cluster-ids {started['application']}"
                )
            return
        time.sleep(poll_s)
    raise AwsError(f"{started['job']} is {states[0]} ten minutes after it was to end; look at 'fruits aws status'")


#: Ends every application with a tag that has not ended. YARN says nothing where there is none, and that is well, too.
_KILL: Final = (
    "set -o pipefail; yarn application -list -appStates NEW,NEW_SAVING,SUBMITTED,ACCEPTED,RUNNING -appTags {} "
    "| {{ grep -oE '^application_[0-9]+_[0-9]+' || true; }} | xargs -r -n 1 yarn application -kill"
)


def last_words(aws: Aws, place: Place, started: Mapping[str, Any], lines: int = 12) -> list[str]:
    """Return what a driver that failed said, from the logs that EMR keeps in the bucket; empty if there are none yet.

    Our own message if there is one, else the last lines. Spark writes what Python says as an error to either log.
    """
    import gzip  # noqa: PLC0415 - only after a failure

    said: list[str] = []
    with suppress(AwsError, OSError):
        pages = aws.pages("s3", "list_objects_v2", Bucket=place.logs, Prefix=_log_prefix(started))
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        for key in sorted(keys):  # stderr before stdout
            if key.rpartition("/")[2].partition(".")[0] in ("stderr", "stdout"):
                body = aws.call("s3", "get_object", Bucket=place.logs, Key=key)["Body"].read()
                text = (gzip.decompress(body) if key.endswith(".gz") else body).decode("utf-8", "replace")
                said += [line for line in text.splitlines() if line.strip() and " INFO " not in line]
    return [line for line in said if line.startswith("fruits: ")] or said[-lines:]


def logs_at(place: Place, started: Mapping[str, Any]) -> str:
    """Return where the logs of a job are."""
    return f"s3://{place.logs}/{_log_prefix(started)}"


def _log_prefix(started: Mapping[str, Any]) -> str:
    if started["compute"] == "ec2":
        return f"emr/{started['application']}/steps/{started['job']}/"
    return f"emr/applications/{started['application']}/jobs/{started['job']}/SPARK_DRIVER/"


class _Lines:
    """The driver's lines of progress, each once, from the log group."""

    def __init__(self, place: Place, started: Mapping[str, Any]) -> None:
        self._group, self._serverless = place.log_group, started["compute"] != "ec2"
        self._stream = f"run/applications/{started['application']}/jobs/{started['job']}/"
        self._since = 0
        self._seen: set[str] = set()

    def new(self, aws: Aws) -> Iterator[dict[str, Any]]:
        if not self._serverless:
            return  # a cluster on EC2 keeps its logs in the bucket, once the step has ended
        found: list[dict[str, Any]] = []
        with suppress(AwsError):  # live logs can be switched off
            for page in aws.pages(
                "logs",
                "filter_log_events",
                logGroupName=self._group,
                logStreamNamePrefix=self._stream,
                startTime=self._since,
            ):
                found += [
                    event
                    for event in page["events"]
                    # Not every server that speaks this protocol holds to the prefix.
                    if event["eventId"] not in self._seen and event["logStreamName"].startswith(self._stream)
                ]
        for event in found:
            self._seen.add(event["eventId"])
            self._since = max(self._since, event["timestamp"])
            with suppress(ValueError):
                line = json.loads(event["message"])
                if isinstance(line, dict) and "fruits" in line:
                    yield line
