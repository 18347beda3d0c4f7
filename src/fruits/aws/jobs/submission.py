"""Preparation of a job on the cluster: its resources, files, Spark settings, and the call that starts it."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from fruits import extensions
from fruits.aws import upload
from fruits.aws.calls import Aws, Call
from fruits.aws.installation import stacks
from fruits.aws.jobs.job import Job, JobFile
from fruits.aws.jobs.package import Package
from fruits.aws.pricing.cost import MAX_CORES, MAX_MEMORY_GB, Shape
from fruits.config import RunConfig
from fruits.errors import ConfigError
from fruits.storage.objects.buckets import CREDENTIALS_VARIABLE
from fruits.storage.sanitising import json_text

#: Name of the job record beside the results.
JOB: Final = "job.json"
#: Prefix that 'fruits aws export' writes to, in the bucket of photos.
REVIEWED: Final = "reviewed"
#: One day, many times the duration of a run on ten million photos. EMR's default is 12 hours.
_TIMEOUT_MINUTES: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Installation:
    """The resources of an installation that runs use, from the outputs of its stacks.

    Attributes
    ----------
    name, region : str
    photos, results, logs : str
        Names of buckets.
    role : str
        ARN of the role of runs.
    application, cluster : str
        Ids; one of them is empty.
    log_group : str
    max_cores, max_memory_gb : int
        Limits of all serverless workers together.
    architecture : str
        Architecture of serverless workers.
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
    def of(cls, aws: Aws, name: str) -> Installation:
        """Read the outputs of the stacks; raise :class:`AwsAbsentError` if one does not exist."""
        told = stacks.outputs(aws, name, ("storage", "roles", "batch"))
        return cls._from(name, aws.region, told)

    @classmethod
    def unknown(cls, name: str, region: str, compute: str) -> Installation:
        """Return an installation with placeholders for names that only AWS knows, for a dry run."""
        keys = ("PhotosBucket", "ResultsBucket", "LogsBucket", "BatchRoleArn", "LogGroup")
        told = {key: f"<{key}>" for key in keys}
        told["ClusterId" if compute == "ec2" else "ApplicationId"] = (
            "<ClusterId>" if compute == "ec2" else "<ApplicationId>"
        )
        return cls._from(name, region, told)

    @classmethod
    def _from(cls, name: str, region: str, told: Mapping[str, str]) -> Installation:
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
    """Everything needed to start a job; nothing has been sent yet.

    Attributes
    ----------
    installation : Installation
    job : Job
        Its photos and OUT are in the installation's buckets.
    package : Package
    shape : Shape
    own : tuple of (Path, str)
        Local files to be sent with it, and their keys.
    """

    installation: Installation
    job: Job
    package: Package
    shape: Shape
    own: tuple[tuple[Path, str], ...] = ()

    @property
    def prefix(self) -> str:
        """Return the key prefix of packages."""
        return f"packages/{self.package.versions['fruits']}"

    @property
    def files(self) -> list[tuple[Any, str]]:
        """Return each file to send and its key: local files, archives, and last the entry script."""
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
        """Return the key prefix of ``job.json`` in the bucket of results."""
        return key_of(self.installation, self.job.folder)

    def conf(self) -> dict[str, str]:
        """Return the settings of Spark."""
        shape, package = self.shape, self.package
        root = f"s3://{self.installation.results}/{self.prefix}"
        archives = [f"{root}/{package.program.path.name}#program"]
        if package.environment is not None:
            archives.insert(0, f"{root}/{package.environment.path.name}#environment")
        variables = {
            "PYSPARK_PYTHON": f"./{'program' if package.environment is None else 'environment'}/bin/python",
            CREDENTIALS_VARIABLE: "boto3",
            "AWS_REGION": self.installation.region,
        }
        # Java gets half of an executor's memory, a third on EC2, and 4 GB of the driver's; the rest is for Python, which Spark
        # counts as overhead.
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
        entry = f"s3://{self.installation.results}/{self.files[-1][1]}"
        settings = [part for key, value in self.conf().items() for part in ("--conf", f"{key}={value}")]
        if self.installation.compute == "ec2":
            # By this tag cancel() finds the application in YARN, which continues without the step that submitted it.
            settings += ["--conf", f"spark.yarn.tags={yarn_tag(token)}"]
            arguments = ["spark-submit", "--deploy-mode", "cluster", *settings, entry, choices]
            step = {
                "Name": name,
                "ActionOnFailure": "CONTINUE",
                "HadoopJarStep": {"Jar": "command-runner.jar", "Args": arguments},
            }
            parameters: dict[str, Any] = {"JobFlowId": self.installation.cluster, "Steps": [step]}
            return Call("emr", "add_job_flow_steps", parameters, "start the run: from here on it costs money")
        parameters = {
            "applicationId": self.installation.application,
            "clientToken": token,
            "executionRoleArn": self.installation.role,
            "name": name,
            "jobDriver": {
                "sparkSubmit": {
                    "entryPoint": entry,
                    "entryPointArguments": [choices],
                    "sparkSubmitParameters": shlex.join(settings),
                }
            },
            "executionTimeoutMinutes": _TIMEOUT_MINUTES,
            "tags": {"fruits": self.installation.name},
        }
        return Call("emr-serverless", "start_job_run", parameters, "start the run: from here on it costs money")

    def planned(self) -> list[Call]:
        """Return every call that starting takes if nothing exists yet; following makes further calls until the end."""
        calls = [
            Call(
                "cloudformation",
                "describe_stacks",
                {"StackName": f"{self.installation.name}-{which}"},
                "what is deployed?",
            )
            for which in ("storage", "roles", "batch")
        ]
        where = {"Bucket": self.installation.results, "Key": f"{self.out_key}/{JOB}"}
        why = "is there a run on this OUT already? Asked before the package is made, and after"
        calls.append(Call("s3", "get_object", where, why, 2))
        for path, key in self.files:
            calls += upload.calls_for(path, self.installation.results, key)
        calls.append(self.start("<token>"))
        calls.append(
            Call("s3", "put_object", {**where, "Body": "<the job's id>"}, "so that any terminal can follow it")
        )
        return calls


def cluster_config(installation: Installation, config: RunConfig) -> RunConfig:
    """Return the options of a run adapted to the cluster, after checking its photos and OUT.

    Raises
    ------
    ConfigError
        If a run may not read the photos or may not write to OUT.
    """
    check_sources(installation, config.sources)
    check_results(installation, "--to", config.out)
    for kind, name in (("head", config.head), *(("backbone", one) for one in config.backbone.split("+"))):
        if (found := extensions.find(kind, name)) is not None and not found.own:
            raise ConfigError(
                f"{kind} '{name}' is of the package {found.package}, which the cluster does not have; expected one of fruits"
            )
    return replace(config, engine="spark", master=None, spark_conf=(), workers=1)


def check_sources(installation: Installation, sources: Iterable[str]) -> None:
    """Raise :class:`ConfigError` unless a job may read all photos."""
    for source in sources:
        reviewed = source.rstrip("/") == f"s3://{installation.photos}/{REVIEWED}"
        if not source.startswith(f"s3://{installation.photos}/packs/") and not reviewed:
            raise ConfigError(
                f"photos '{source}': a run may read s3://{installation.photos}/packs/... and what 'fruits aws export' wrote "
                f"(s3://{installation.photos}/{REVIEWED}) only; bring them there with 'fruits aws upload'"
            )


def check_results(installation: Installation, option: str, out: str) -> None:
    """Raise :class:`ConfigError` unless a location may hold the results of a run."""
    if not out.startswith(f"s3://{installation.results}/runs/") or out.rstrip("/").endswith("/runs"):
        raise ConfigError(f"{option} '{out}': a run may write s3://{installation.results}/runs/<name> only")


def collect_files(
    installation: Installation, config: RunConfig
) -> tuple[RunConfig, tuple[JobFile, ...], tuple[tuple[Path, str], ...]]:
    """Return the options of a run with local files replaced by their names, these files, and where each is sent.

    A network is opened first, so that an error in it or in its card is reported before anything is sent.

    Raises
    ------
    ConfigError
        If a file does not exist.
    BackboneError
        If the network cannot be used.
    """
    from fruits.embedding.backbone import backbone_names, find_backbone  # noqa: PLC0415 - takes a second

    files: list[tuple[str, Path]] = []
    if config.backbone.lower().endswith(".onnx") or "/" in config.backbone:
        network = _whole(Path(config.backbone))
        files += [("backbone", network), ("backbone", network.with_suffix(".json"))]
        if listed := _listed_photos(config.backbone):
            files.append(("backbone", listed))
        config = replace(config, backbone=network.name)
    else:
        for name in config.backbone.split("+"):
            if name not in backbone_names():
                find_backbone(name)  # raises: a wrong name is reported before a cluster starts
    if config.taxonomy not in (None, "none"):
        if not Path(config.taxonomy or "").is_file():
            raise ConfigError(f"--taxonomy '{config.taxonomy}': there is no such file; expected a CSV file, or none")
        files.append(("taxonomy", Path(config.taxonomy or "")))
        config = replace(config, taxonomy=Path(config.taxonomy or "").name)
    carried, sent = [], []
    for role, path in files:
        if not path.is_file():
            continue  # optional: the card or the list of photos may be absent
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        carried.append(JobFile(role, path.name, digest, f"s3://{installation.results}/packages/files/{digest}"))
        sent.append((path, f"packages/files/{digest}/{path.name}"))
    return config, tuple(carried), tuple(sent)


def _whole(path: Path) -> Path:
    """Return a network as one file with its card beside it: itself, or a copy that includes its external data."""
    from fruits.embedding.backbone import find_backbone  # noqa: PLC0415 - only for a network of one's own

    found = find_backbone(str(path))
    if found.network == path.read_bytes():
        return path
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruits/networks" / found.card.sha256[:16]
    )
    cache.mkdir(parents=True, exist_ok=True)
    (cache / path.name).write_bytes(found.network)
    # The card may contain the name of the original file.
    card = {key: value for key, value in asdict(found.card).items() if value not in ("", {}, ())}
    (cache / path.with_suffix(".json").name).write_text(json_text(card))
    return cache / path.name


def _listed_photos(backbone: str) -> Path | None:
    """Return the list of a network's training photos, if its card names one beside it."""
    from fruits.embedding.backbone import find_backbone  # noqa: PLC0415

    named = find_backbone(backbone).card.training_photos
    path = Path(backbone).with_name(Path(named).name) if named else None
    return path if path is not None and path.is_file() else None


def yarn_tag(token: str) -> str:
    """Return the tag of a job's application in YARN, which stores tags in lower case."""
    return f"fruits-{hashlib.sha256(token.encode()).hexdigest()[:24]}"


def key_of(installation: Installation, out: str) -> str:
    """Return the key of an OUT within the bucket of results."""
    return out.removeprefix(f"s3://{installation.results}/").rstrip("/")
