"""What a job on the cluster is made of: its place, the files it takes along, the settings of Spark, the call that starts it."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from fruits.aws import stacks, upload
from fruits.aws.calls import Aws, Call
from fruits.aws.cost import MAX_CORES, MAX_MEMORY_GB, Shape
from fruits.aws.job import Carried, Job
from fruits.aws.package import Package
from fruits.config import RunConfig
from fruits.errors import ConfigError
from fruits.storage.buckets import CREDENTIALS_VARIABLE
from fruits.storage.sanitising import json_text

#: Name of the file beside a job's results that says which job it is.
JOB: Final = "job.json"
#: Where 'fruits aws export' writes, in the bucket of photos.
REVIEWED: Final = "reviewed"
#: A day: what a run of ten million photos takes many times over. EMR's own limit is 12 hours.
_TIMEOUT_MINUTES: Final = 24 * 60


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
