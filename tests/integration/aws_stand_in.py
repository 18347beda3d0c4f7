"""AWS on the loopback: moto's server, and EMR Serverless played by a real Spark on this machine.

Moto answers boto3 over HTTP. What its CloudFormation lacks, ``tests/moto_models.py`` adds; here, a
job that was started is really run, by ``spark-submit`` in a folder that holds nothing but what the job's own archives hold.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
import py4j
import pyspark
from moto.emrserverless import models as serverless
from moto.emrserverless.models import emrserverless_backends
from moto.iam import access_control
from moto.iam.models import iam_backends
from moto.server import ThreadedMotoServer
from py4j.version import __version__ as py4j_version
from tests import (
    java,
    moto_models,  # noqa: F401 - teaches moto the resources of the templates
)
from tests.aws_account import ACCOUNT, REGION

#: What of a job's settings is about the size of the cluster: this machine is smaller.
_SIZES = ("spark.executor.cores", "spark.executor.memory", "spark.executor.memoryOverhead", "spark.driver.cores",
          "spark.driver.memory", "spark.driver.memoryOverhead", "spark.emr-serverless.driver.disk",
          "spark.dynamicAllocation.initialExecutors", "spark.dynamicAllocation.maxExecutors")  # fmt: skip


def _resource_of(request: Any) -> str:
    """Return what a request is about, as policies name it."""
    about = f"arn:aws:{request._service}:{REGION}:{ACCOUNT}"
    if request._service == "cloudformation":
        named = request._data.get("StackName", "*")
        return f"{about}:stack/{named[0] if isinstance(named, list) else named}/0"
    if request._service == "emr-serverless":
        path = request._path.partition("?")[0]
        # To start or list jobs is asked of the application.
        return f"{about}:{path.removesuffix('/jobruns').removesuffix('/start').removesuffix('/stop')}"
    if request._service == "logs":
        return f"{about}:log-group:{json.loads(request._body).get('logGroupName', '*')}:*"
    return "*"


class _Request(access_control.IAMRequest):
    """Moto asks its policies about ``*`` wherever it is not S3: then no policy that names what it allows would allow it."""

    def check_signature(self) -> None:
        if (
            self._service != "emr-serverless"
        ):  # moto adds the path's names to what was signed, and then finds it is not that
            super().check_signature()

    def check_action_permitted(self, resource: str) -> None:
        super().check_action_permitted(_resource_of(self) if resource == "*" else resource)


class _S3Request(access_control.S3IAMRequest):
    """To delete several objects in one request is asked of the bucket by moto, and of each object by AWS."""

    def check_action_permitted(self, resource: str) -> None:
        if self._action != "s3:DeleteObject" or "/" in resource:
            super().check_action_permitted(resource)
            return
        body = self._body if isinstance(self._body, str) else bytes(self._body).decode()
        for key in re.findall(r"<Key>(.*?)</Key>", body) or [""]:
            super().check_action_permitted(f"{resource}/{key}")


access_control.IAMRequest = _Request  # type: ignore[misc]
access_control.S3IAMRequest = _S3Request  # type: ignore[misc]


class Aws:
    """Moto's server and what tests need to know of it."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self._administrator = {"AccessKeyId": "testing", "SecretAccessKey": "testing"}
        self._roles: dict[str, dict[str, str]] = {}

    def make_administrator(self) -> None:
        """Make a user who may do everything: moto knows no other, once it asks who may do what."""
        iam = self.client("iam")
        iam.create_user(UserName="administrator")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="administrator", PolicyName="all", PolicyDocument=json.dumps(everything))
        key = iam.create_access_key(UserName="administrator")["AccessKey"]
        self._administrator = {name: key[name] for name in ("AccessKeyId", "SecretAccessKey")}

    def environment(self, credentials: dict[str, str] | None = None) -> dict[str, str]:
        """Return the variables that lead every client here and nowhere else."""
        given = credentials or self._administrator
        told = {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_ALLOW_HTTP": "true", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        if "SessionToken" in given:
            told["AWS_SESSION_TOKEN"] = given["SessionToken"]
        return told

    def client(self, service: str) -> Any:
        """Return a client that may do everything."""
        return boto3.client(
            service, region_name=REGION, endpoint_url=self.endpoint,
            aws_access_key_id=self._administrator["AccessKeyId"],
            aws_secret_access_key=self._administrator["SecretAccessKey"],
        )  # fmt: skip

    def assume(self, role: str) -> dict[str, str]:
        """Return credentials of a role; taken the first time, before moto asks who may become what."""
        if role not in self._roles:
            arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
            found = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="tests")["Credentials"]
            self._roles[role] = {key: found[key] for key in ("AccessKeyId", "SecretAccessKey", "SessionToken")}
        return self._roles[role]

    @staticmethod
    def mend_policies() -> None:
        """Turn the policies that CloudFormation gave to roles into text, word for word: moto cannot read them otherwise."""
        for role in iam_backends[ACCOUNT]["aws"].roles.values():
            for name, policy in role.policies.items():
                role.policies[name] = policy if isinstance(policy, str) else json.dumps(policy)

    def reset(self) -> None:
        """Forget everything."""
        self._post("reset")

    @contextmanager
    def enforcing(self) -> Iterator[None]:
        """Let nobody do what no policy allows, while the block lasts."""
        self._post("reset-auth", "0")
        try:
            yield
        finally:
            self._post("reset-auth", "inf")

    def stop(self) -> None:
        """End the server."""
        self._server.stop()

    def _post(self, what: str, data: str = "") -> None:
        from urllib.request import Request, urlopen

        plain = {"Content-Type": "text/plain"}
        with urlopen(Request(f"{self.endpoint}/moto-api/{what}", data=data.encode(), headers=plain), timeout=60):
            pass


class Emr:
    """Runs the jobs that are started at moto's EMR Serverless, one after the other, as the batch role.

    Parameters
    ----------
    aws : Aws
    folder : Path
        A folder per job: what its archives hold, its logs.
    role : str
        Name of the role that jobs have.
    image : Path
        The archive of dependencies with the script of their Python: unpacked, it stands for the workers' image.
    """

    def __init__(self, aws: Aws, folder: Path, role: str, log_group: str, logs: str, image: Path) -> None:
        self.commands: list[list[str]] = []
        self._image = image
        self._aws, self._folder, self._role, self._group, self._logs = aws, folder, role, log_group, logs
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="emr")

    def __enter__(self) -> Emr:
        serverless.JOB_STATUS = "SUBMITTED"  # moto's jobs are done before they are started
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        serverless.JOB_STATUS = "SUCCESS"

    def _work(self) -> None:
        while not self._over.wait(0.1):
            jobs = emrserverless_backends[ACCOUNT][REGION].job_runs
            for job in [job for of_one in list(jobs.values()) for job in list(of_one)]:
                if job.state == "SUBMITTED":
                    try:
                        self._run(job)
                    except Exception as exc:  # told as EMR tells it; the test shows it
                        job.state, job.state_details = "FAILED", f"{type(exc).__name__}: {exc}"

    def _run(self, job: Any) -> None:
        job.state = "RUNNING"
        submit = job.job_driver["sparkSubmit"]
        settings = dict(one.split("=", 1) for one in shlex.split(submit["sparkSubmitParameters"]) if one != "--conf")
        home = self._folder / job.id
        home.mkdir(parents=True)
        archives = []
        for one in settings.pop("spark.archives").split(","):
            uri, _, name = one.partition("#")
            path = self._fetch(uri, home)
            (home / name).mkdir()
            subprocess.run(["tar", "-xzf", path, "-C", home / name], check=True)
            archives.append(f"{path}#{name}")
        entry = self._fetch(submit["entryPoint"], home)
        (home / "image").mkdir()
        subprocess.run(["tar", "-xzf", self._image, "-C", home / "image"], check=True)
        python = str(home / "image/bin/python")
        prefix = "spark.emr-serverless.driverEnv."
        of_driver = {key.removeprefix(prefix): settings.pop(key) for key in list(settings) if key.startswith(prefix)}
        for key in _SIZES:
            settings.pop(key, None)
        settings |= {"spark.archives": ",".join(archives), "spark.executor.memory": "1g", "spark.driver.memory": "1g",
                     "spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1",
                     "spark.driver.bindAddress": "127.0.0.1", "spark.executorEnv.FRUITS_PYTHON": python,
                     "spark.executor.defaultJavaOptions": java.options()}  # fmt: skip
        spark = home / "spark"
        _install_spark(spark)
        command = [f"{spark}/bin/spark-submit", "--master", "local-cluster[1,2,1024]"]
        command += [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
        command += [str(entry), *submit["entryPointArguments"]]
        self.commands.append(command)
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME", "LANG") if name in os.environ},
            # Which kernels a machine makes OpenBLAS take changes last digits: the same here as in the run to compare with.
            **{name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")},
            **self._aws.environment(self._aws.assume(self._role)),
            **of_driver,
            "FRUITS_PYTHON": python,
            "SPARK_HOME": str(spark), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "127.0.0.1",
            "SPARK_SUBMIT_OPTS": java.options(), "SPARK_LAUNCHER_OPTS": java.BRIEF,
        }  # fmt: skip
        asked = "import json, sys, fruits, numpy as np; print(json.dumps([sys.path, fruits.__file__, np.__file__]))"
        seen = subprocess.run(
            [of_driver["PYSPARK_DRIVER_PYTHON"], "-c", asked],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        (home / "seen.json").write_text(seen.stdout)
        started = time.time()
        with (home / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            assert process.stdout is not None
            with (home / "stdout").open("w") as copy:
                self._tell(job, process.stdout, copy)
            code = process.wait(1200)
        for name in ("stdout", "stderr"):
            key = f"emr/applications/{job.application_id}/jobs/{job.id}/SPARK_DRIVER/{name}.gz"
            body = gzip.compress((home / name).read_bytes())
            self._aws.client("s3").put_object(Bucket=self._logs, Key=key, Body=body)
        shutil.rmtree(home / "image")
        job.total_execution_duration_seconds = int(time.time() - started)
        hours = (time.time() - started) / 3600
        job.billed_resource_utilization = {"vCPUHour": 4 * hours, "memoryGBHour": 16 * hours, "storageGBHour": 0.0}
        job.state_details = "" if code == 0 else f"Job failed, exit code {code}"
        job.state = "SUCCESS" if code == 0 else "FAILED"

    def _tell(self, job: Any, lines: Any, copy: Any) -> None:
        """Write the driver's lines to its log stream as they come."""
        logs = self._aws.client("logs")
        stream = f"run/applications/{job.application_id}/jobs/{job.id}/SPARK_DRIVER/stdout"
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=self._group)
        logs.create_log_stream(logGroupName=self._group, logStreamName=stream)
        for line in lines:
            copy.write(line)
            event = {"timestamp": int(time.time() * 1000), "message": line.rstrip("\n")}
            logs.put_log_events(logGroupName=self._group, logStreamName=stream, logEvents=[event])

    def _fetch(self, uri: str, folder: Path) -> Path:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        path = folder / key.rpartition("/")[2]
        self._aws.client("s3").download_file(bucket, key, str(path))
        return path


def _install_spark(folder: Path) -> None:
    """Make a Spark as clusters have it, with PySpark in archives: that of pip would bring along all that is installed here."""
    folder.mkdir()
    package = Path(pyspark.__file__).parent
    for name in ("bin", "jars"):
        (folder / name).symlink_to(package / name)
    lib = folder / "python/lib"
    lib.mkdir(parents=True)
    for name, source, left_out in (
        ("pyspark.zip", package, ("jars", "bin", "data", "examples", "licenses", "tests", "sbin", "pandas/tests")),
        (f"py4j-{py4j_version}-src.zip", Path(py4j.__file__).parent, ("tests",)),
    ):
        with zipfile.ZipFile(lib / name, "w") as archive:
            for path in sorted(source.rglob("*")):
                within = path.relative_to(source)
                if path.suffix in (".py", ".json") and within.parts[0] not in left_out:
                    archive.write(path, f"{source.name}/{within}")


class Watch:
    """Sees to it that nothing leaves the machine: refuses Python's connections, and looks at those of all children."""

    def __init__(self) -> None:
        self.foreign: set[str] = set()
        self.seen = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._connect = socket.socket.connect

    def __enter__(self) -> Watch:
        connect, foreign = self._connect, self.foreign

        def guarded(own: socket.socket, address: Any) -> Any:
            if own.family in (socket.AF_INET, socket.AF_INET6) and not _here(str(address[0])):
                foreign.add(str(address))
                raise OSError(f"tests may reach the loopback only, not {address}")
            return connect(own, address)

        socket.socket.connect = guarded  # type: ignore[method-assign,assignment]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        socket.socket.connect = self._connect  # type: ignore[method-assign]
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.5):
            connections = _connections()
            self.seen += len(connections)
            if all(connections):
                continue
            # One leads away: whose is it? To ask every process takes the processor time of a run.
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.Error):
                    for connection in process.net_connections("inet"):
                        if connection.raddr and not _here(connection.raddr.ip):
                            self.foreign.add(f"{process.name()}: {connection.raddr}")


def _connections() -> list[bool]:
    """Whether each open connection of all processes stays on this machine; all are looked at where Linux does not list them."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            return [False]
        for line in lines:
            address, _, port = line.split()[2].partition(":")
            if port != "0000":
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
                found.append(_here(socket.inet_ntop(family, b"".join(words))))
    return found


def _here(address: str) -> bool:
    return address in ("localhost", "::1", "::ffff:127.0.0.1") or address.startswith(("127.", "::ffff:127."))
