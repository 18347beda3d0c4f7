"""compose.yaml, the Caddyfile, the systemd unit, the workflows and the release notes, checked without their engines."""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.main import get_command

from fruits.cli.main import app

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
UNIT = (ROOT / "docker" / "fruits.service").read_text("utf-8")
CADDYFILE = (ROOT / "docker" / "Caddyfile").read_text("utf-8")
EXAMPLE = dict(
    re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "docker" / "compose.env.example").read_text("utf-8"), re.MULTILINE)
)
FILLED = {
    "FRUITS_HOST": "fruits.example.org",
    "POSTGRES_PASSWORD": secrets.token_hex(24),
    "FRUITS_LOGIN_PASSWORD": secrets.token_hex(24),
}
#: What libpq, and so psycopg, reads of itself.
LIBPQ = {"PGPASSWORD"}
#: Keys of a service that the Compose specification knows and that are used here: a misspelt one would be ignored or refused.
KEYS = {
    "build", "cap_add", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "networks", "ports",
    "read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "volumes",
}  # fmt: skip
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:[-?+])([^}]*))?\}")


def filled_in(value: Any, variables: dict[str, str]) -> Any:
    """Return a part of compose.yaml with its variables as Compose fills them in."""
    if isinstance(value, dict):
        return {key: filled_in(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [filled_in(one, variables) for one in value]
    return VARIABLE.sub(lambda found: _filled(found, variables), value) if isinstance(value, str) else value


def _filled(found: re.Match[str], variables: dict[str, str]) -> str:
    name, operator, rest = found.groups()
    said = variables.get(name, "")
    if operator == ":?" and not said:
        raise KeyError(name)
    return {":-": said or rest, ":+": rest if said else ""}.get(operator, said)


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the options of a fruits command, as the command line itself reads them."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return dict(command.make_context("fruits", words).params)


def of_command(words: list[str]) -> Any:
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.y*ml"), *(ROOT / ".github").rglob("*.y*ml")],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_yaml_is_read(path: Path) -> None:
    if path.name != "mkdocs.yml":  # its theme's tags are MkDocs' own; test_site.py builds with it
        assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


def test_compose_uses_what_it_declares() -> None:
    for name, service in SERVICES.items():
        assert set(service) <= KEYS, name
        assert "image" in service
        for network in service["networks"]:
            assert network in COMPOSE["networks"], name
        for volume in filled_in(service.get("volumes", []), FILLED):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        for other, condition in service.get("depends_on", {}).items():
            assert other in SERVICES
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}"
            else:
                assert condition["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] == "no"
        if "build" in service:
            assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        else:
            assert re.search(r":\d+\.\d+", service["image"]), f"{name}: expected an image of a named version"
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["caddy"]
    assert all(COMPOSE["networks"][network].get("internal") for network in SERVICES["database"]["networks"])


def test_compose_holds_no_secret_and_names_every_variable_in_its_example() -> None:
    used = {found[1] for found in VARIABLE.finditer(json.dumps(SERVICES))}
    assert used == set(EXAMPLE)
    assert not any(EXAMPLE.values())
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert VARIABLE.fullmatch(value), name
            assert not urlsplit(value).password
    with pytest.raises(KeyError):
        filled_in(SERVICES, {})
    filled_in(SERVICES, FILLED)
    assert "/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", ["fruits", "login"])
@pytest.mark.parametrize("results", ["", "./results"])
def test_compose_gives_fruits_options_and_variables_that_it_knows(name: str, results: str) -> None:
    service = filled_in(SERVICES[name], FILLED | {"FRUITS_RESULTS": results, "FRUITS_OPERATOR": "A museum"})
    command = of_command(service["command"])
    known = {param.envvar for param in command.params if param.envvar} | LIBPQ
    if name == "login":
        known.add("FRUITS_LOGIN_PASSWORD")
        assert "FRUITS_LOGIN_PASSWORD" in command.help
    assert set(service["environment"]) <= known
    said = parsed(service["command"])
    if name == "fruits":
        assert said["out"] == ("/results" if results else "")
        assert said["operator"] == "A museum"
        assert said["allow_host"] == [FILLED["FRUITS_HOST"]]
        assert said["trusted_proxy"] == [COMPOSE["networks"]["front"]["ipam"]["config"][0]["subnet"]]
        assert set(SERVICES["caddy"]["networks"]) & set(SERVICES["fruits"]["networks"]) == {"front"}


def test_one_port_for_image_service_proxy_and_health() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile.service").read_text("utf-8")
    service = filled_in(SERVICES["fruits"], FILLED)
    port = parsed(service["command"])["port"]
    assert re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE) == [str(port)]
    assert re.findall(r"127\.0\.0\.1:(\d+)/healthz", dockerfile) == [str(port)]
    assert re.findall(r"127\.0\.0\.1:(\d+)/readyz", str(service["healthcheck"])) == [str(port)]
    assert SERVICES["caddy"]["environment"]["FRUITS_UPSTREAM"] == f"fruits:{port}"
    assert f"{{$FRUITS_UPSTREAM:fruits:{port}}}" in CADDYFILE
    assert f"FRUITS_UPSTREAM=127.0.0.1:{port}" in CADDYFILE
    assert parsed(_unit_command())["port"] == port
    assert parsed(["serve"])["port"] == port, "the same as on a desk"
    template = (ROOT / "src/fruits/aws/templates/service.yaml").read_text("utf-8")
    assert set(re.findall(r"(?:Port: |--port=|127\.0\.0\.1:)([0-9]{4})\b", template)) - {"5432"} == {str(port)}


def test_the_proxy_gives_up_idle_connections_before_the_service_does() -> None:
    seconds = re.search(r"keepalive (\d+)s", CADDYFILE)
    assert seconds is not None
    assert int(seconds[1]) < parsed(["serve"])["keep_alive"]


def test_the_unit_starts_a_command_that_exists() -> None:
    said = parsed(_unit_command())
    assert said["trusted_proxy"] == ["127.0.0.1/32"]
    assert Path(said["data"]) == Path("/var/lib") / _of_unit("StateDirectory")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "fruits.service"
    unit.write_text(UNIT.replace("/opt/fruits/bin/fruits", "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "fruits.service" in line] == []


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not here")
def test_caddy_reads_the_caddyfile() -> None:
    done = subprocess.run(
        ["caddy", "validate", "--adapter", "caddyfile", "--config", ROOT / "docker" / "Caddyfile"],
        env={**os.environ, "FRUITS_HOST": "localhost"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_compose_starts_serves_from_its_database(postgres: Any, tmp_path: Path) -> None:
    """Commands and variables of compose.yaml without containers, on a PostgreSQL of this machine: only addresses differ."""
    here = urlsplit(postgres.empty_database())
    assert here.password
    variables = FILLED | {"POSTGRES_PASSWORD": here.password}

    def command(name: str, user: str = "") -> tuple[list[str], dict[str, str]]:
        service = filled_in(SERVICES[name], variables)
        there = urlsplit(service["environment"]["FRUITS_DATABASE"])
        address = f"postgresql://{user or there.username}@{here.hostname}:{here.port}{here.path}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FRUITS_", "PG"))}
        environment = {**kept, **service["environment"], "FRUITS_DATABASE": address}
        return [sys.executable, "-m", "fruits", *service["command"]], environment

    try:
        words, environment = command("login", here.username or "")
        subprocess.run(words, env=environment, check=True, capture_output=True)
        words, environment = command("fruits")
        for there, place in (("0.0.0.0", "127.0.0.1"), ("8080", "0"), ("/scratch/service", str(tmp_path / "data"))):
            words = [word.replace(f"={there}", f"={place}") for word in words]
        process = subprocess.Popen([*words, "--json", "--workers=1"], env=environment, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            there, _, _ = select.select([process.stdout], [], [], 120)
            address = json.loads(process.stdout.readline() if there else b"null")["address"]
            until = time.monotonic() + 60
            while _status(f"{address}/readyz", FILLED["FRUITS_HOST"]) != 200:
                assert time.monotonic() < until, "the service does not become ready"
                time.sleep(0.1)
            assert _status(f"{address}/v1/labels", FILLED["FRUITS_HOST"]) == 200
            assert _status(f"{address}/v1/labels", "elsewhere.example") == 400
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        owners = postgres.execute(
            "select distinct tableowner from pg_tables where schemaname = 'public'", here.path[1:]
        )
        assert [tuple(row) for row in owners] == [("fruits_service",)]
    finally:
        postgres.execute(f"drop database if exists {here.path[1:]} with (force)")
        for (role,) in postgres.execute("select rolname from pg_roles where rolname ~ '^fruits_service'"):
            postgres.execute(f"drop role if exists {role}")


def _status(url: str, host: str) -> int:
    request = urllib.request.Request(url, headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


def test_workflows_run_targets_and_files_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    runs = list(_runs())
    assert {"check", "test", "wheel"} <= {word for run in runs for word in run.split()}
    for run in runs:
        for target in re.findall(r"\bmake ([a-z-]+)", run):
            assert target in targets
        for script in re.findall(r"python (\S+\.py)", run):
            assert (ROOT / script).is_file()


def test_ci_runs_the_oldest_and_the_newest_python_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [one.rsplit(" ", 1)[1] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == [named[0], named[-1]]


def _runs() -> Iterator[str]:
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text("utf-8"))["jobs"].values():
            yield from (step["run"] for step in job["steps"] if "run" in step)


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """Return a tree of version 0.2.0 with the script of the release notes."""
    (tmp_path / ".github").mkdir()
    shutil.copy(ROOT / ".github" / "release_notes.py", tmp_path / ".github")
    (tmp_path / "src" / "fruits").mkdir(parents=True)
    (tmp_path / "src/fruits/__init__.py").write_text('"""A package."""\n\n__version__ = "0.2.0"\n', encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "fruits"\nversion = "0.2.0"\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n- Later.\n\n"
        "## 0.2.0 (2026-12-01)\n\n- A thing.\n\n### Inside\n\n- More.\n\n## 0.1.0\n\n- Old.\n",
        encoding="utf-8",
    )
    return tmp_path


def _notes(tree: Path, version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, tree / ".github" / "release_notes.py", version], capture_output=True, text=True, check=False
    )


def test_release_notes_are_the_section_of_the_version(tagged: Path) -> None:
    done = _notes(tagged, "0.2.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "- A thing.\n\n### Inside\n\n- More.\n"


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("CHANGELOG.md", "## 0.2.0", "## 0.2.1", "no heading '## 0.2.0'"),
        ("CHANGELOG.md", "- A thing.\n\n### Inside\n\n- More.\n", "", "says nothing"),
        ("pyproject.toml", "0.2.0", "0.1.0", "pyproject.toml says version 0.1.0, expected 0.2.0"),
        ("src/fruits/__init__.py", "0.2.0", "0.1.0", "__init__.py says version 0.1.0, expected 0.2.0"),
    ],
)
def test_release_notes_refuse_a_tree_that_is_not_ready(
    tagged: Path, file: str, before: str, after: str, message: str
) -> None:
    (tagged / file).write_text((tagged / file).read_text("utf-8").replace(before, after), encoding="utf-8")
    done = _notes(tagged, "0.2.0")
    assert done.returncode == 1
    assert message in done.stderr


def _unit_command() -> list[str]:
    return _of_unit("ExecStart").replace("${FRUITS_HOST}", FILLED["FRUITS_HOST"]).split()[1:]


def _of_unit(key: str) -> str:
    found = re.search(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    assert found is not None
    return found[1]
