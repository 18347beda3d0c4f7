"""What can be said of the images without an engine that builds them: the locks, the steps, the health check."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scan.cloudformation import variants
from scan.rules import templates

from fruits.aws.installation.stacks import parse

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = {
    "requirements.lock": [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"]],
    "emr.lock": [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["aws"]],  # credentials come by boto3
    "build.lock": ["hatchling>=1.24"],
}
PIN = re.compile(r"^([a-z0-9._-]+)==([^\s;]+)( ;.*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def _steps(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DOCKER / name).read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_nothing_but_versions_with_their_hashes(lock: str) -> None:
    text = (DOCKER / lock).read_text(encoding="utf-8")
    assert PIN.sub("", text).strip() == ""
    assert not re.search(r"https?://|--index|--find", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_what_the_project_asks_for(lock: str) -> None:
    pinned = {
        canonicalize_name(name): version
        for name, version, *_ in PIN.findall((DOCKER / lock).read_text(encoding="utf-8"))
    }
    for line in LOCKS[lock]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line


@pytest.mark.parametrize("name", ["Dockerfile.service", "Dockerfile.emr"])
def test_an_image_takes_nothing_that_is_not_locked(name: str) -> None:
    steps = _steps(name)
    installs = [word for kind, rest in steps if kind == "RUN" for word in rest.split("&&") if "pip install" in word]
    assert len(installs) >= 3
    for install in installs:
        assert ("--require-hashes" in install and "--only-binary :all:" in install) or "--no-index" in install
    assert not any(kind == "ADD" or "curl" in rest or "wget" in rest for kind, rest in steps)
    bases = [rest.split()[0] for kind, rest in steps if kind == "FROM"]
    assert len(bases) >= 2  # what builds does not ship
    assert all(re.search(r":[^/]+$", base) for base in bases)
    assert "pip uninstall --yes pip" in str(steps)


@pytest.mark.parametrize("name", ["Dockerfile.service", "Dockerfile.emr"])
def test_what_is_copied_is_there_and_not_ignored(name: str) -> None:
    ignored = (DOCKER / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert "**" in ignored
    for kind, rest in _steps(name):
        words = shlex.split(rest)
        if kind == "COPY" and not words[0].startswith("--from"):
            for source in words[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source.startswith(prefix) or Path(source).match(prefix) for prefix in kept), source


def test_the_service_runs_as_nobody_and_writes_to_one_place() -> None:
    steps = _steps("Dockerfile.service")
    last = steps[max(at for at, (kind, _) in enumerate(steps) if kind == "FROM") :]
    said = {kind: rest for kind, rest in last if kind not in {"RUN", "COPY"}}
    tasks = next(variants(parse(templates()["service.yaml"]))).of("AWS::ECS::TaskDefinition")
    containers = {one["Name"]: one for task in tasks for one in task.properties["ContainerDefinitions"]}
    container = containers["service"]
    assert said["USER"] == container["User"] == "10001:10001"
    assert said["VOLUME"] == '["/scratch"]'
    assert container["MountPoints"][0]["ContainerPath"] == "/scratch"
    assert container["ReadonlyRootFilesystem"] is True
    for variable in ("HOME=/scratch", "TMPDIR=/scratch", "XDG_CACHE_HOME=/scratch/cache", "PYTHONDONTWRITEBYTECODE=1"):
        assert variable in said["ENV"]
    assert said["ENTRYPOINT"] == '["fruits"]'
    assert said["EXPOSE"] == str(container["PortMappings"][0]["ContainerPort"])
    # One check in both places.
    assert shlex.split(said["HEALTHCHECK"].replace("[", "").replace("]", "").replace(",", " "))[-1] == container[
        "HealthCheck"
    ]["Command"][-1].replace(",", " ")


def test_the_workers_image_is_of_the_release_that_the_stack_takes() -> None:
    bases = {rest.split()[0] for kind, rest in _steps("Dockerfile.emr") if kind == "FROM"}
    release = parse(templates()["batch.yaml"])["Parameters"]["ReleaseLabel"]["Default"]
    assert {base.rpartition("/")[2].partition(":")[0] for base in bases} == {release}
    assert _steps("Dockerfile.emr")[-1] == ("USER", "hadoop:hadoop")


class _Health(BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_tells_life_from_death(status: int, code: int) -> None:
    (check,) = [rest for kind, rest in _steps("Dockerfile.service") if kind == "HEALTHCHECK"]
    program = re.search(r'"-c", "(.*)"\]', check)[1]  # type: ignore[index]
    server = HTTPServer(("127.0.0.1", 0), type("Health", (_Health,), {"status": status}))
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    try:
        program = program.replace(":8080/", f":{server.server_port}/").replace("timeout=3", "timeout=30")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    finally:
        thread.join(60)
        server.server_close()
    assert done.returncode == code
    assert _Health.asked[-1] == "/healthz"


def test_service_starts_in_an_empty_folder_that_it_cannot_write_to() -> None:
    steps = _steps("Dockerfile.service")
    assert ("RUN", "install -d -m 0555 /empty") in steps
    assert [rest for kind, rest in steps if kind == "WORKDIR"][-1] == "/empty"
    assert steps.index(("WORKDIR", "/empty")) < steps.index(("USER", "10001:10001"))
