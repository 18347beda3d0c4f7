"""The package for the cluster: this exact version of fruits and, for EMR on EC2, its dependencies, as archives for Spark.

On EMR Serverless, interpreter and dependencies are in the image of the workers (docker/Dockerfile.emr), since no release there is
known to have Python 3.11. On EC2 the nodes have Python, and the dependencies are sent: wheels for the cluster's Python and glibc
are downloaded and unpacked here; nothing is compiled or executed. Archives are reproducible (same versions, same bytes), so a
package is built and uploaded once. Makes no calls to AWS.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fruits
from fruits.aws.calls import AwsError
from fruits.errors import ConfigError
from fruits.monitoring.clock import Progress, Silent
from fruits.storage.sanitising import json_text

#: Python and glibc of EMR 7 nodes (7.1 or newer, Amazon Linux 2023). The image has the same Python.
PYTHON: Final = "3.11"
GLIBC: Final = (2, 34)
#: Part of a package's name; increase it when the same wheels produce a different archive.
_FORMAT: Final = 1
_PROGRAMS_KEPT: Final = 4
_PLATFORMS: Final = {"X86_64": "x86_64", "ARM64": "aarch64"}
#: Extras of fruits that the cluster needs. The cluster brings Spark itself.
_EXTRAS: Final = ("aws",)
_WHEEL_TAG: Final = re.compile(r"manylinux_(\d+)_(\d+)_")
#: Starts the cluster's Python with our packages before its own. A script, not a link, since the location of that Python varies.
#: Paths are not resolved, since Spark may place ``environment`` and ``program`` as links to other directories.
_PYTHON_SCRIPT: Final = f"""\
#!/bin/sh
# Python {PYTHON} of this machine with the packages beside this file, and fruits in the folder 'program' beside that.
here="${{0%/bin/python}}"
case "$here" in /*) ;; *) here="$PWD/$here" ;; esac
PYTHONPATH="${{here%/*}}/program:$here/site-packages${{PYTHONPATH:+:$PYTHONPATH}}"
PYTHONNOUSERSITE=1
export PYTHONPATH PYTHONNOUSERSITE
for python in python{PYTHON} /usr/bin/python{PYTHON} /usr/local/bin/python{PYTHON}; do
  command -v "$python" >/dev/null 2>&1 && exec "$python" "$@"
done
echo "fruits: no python{PYTHON} on this machine; expected a release of EMR that has it (emr-7.1.0 or newer)" >&2
exit 127
"""


#: The image's Python with the program's folder before its own packages.
IMAGE_PYTHON: Final = "/opt/fruits/bin/python"
_IMAGE_SCRIPT: Final = f"""\
#!/bin/sh
# Python of the workers' image with fruits as it is beside this file.
here="${{0%/bin/python}}"
case "$here" in /*) ;; *) here="$PWD/$here" ;; esac
PYTHONPATH="$here${{PYTHONPATH:+:$PYTHONPATH}}"
PYTHONNOUSERSITE=1
export PYTHONPATH PYTHONNOUSERSITE
python="${{FRUITS_PYTHON:-{IMAGE_PYTHON}}}"
[ -x "$python" ] && exec "$python" "$@"
echo "fruits: no $python on this worker; expected the image of docker/Dockerfile.emr (--set batch.Image=...)" >&2
exit 127
"""


class PackageError(AwsError):
    """The package cannot be built."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A ``.tar.gz`` named by its content: the same name means the same bytes."""

    path: Path
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Return its size."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class Package:
    """The files that a job runs.

    Attributes
    ----------
    environment : Archive, optional
        ``bin/python``, ``site-packages`` and ``environment.json``; changes with the versions of dependencies. None if an image
        has them.
    program : Archive
        fruits itself and ``bin/python`` for the image, a few megabytes; changes with every change of its source.
    entry : Path
        The entry script for Spark.
    versions : dict
        Name of each distribution to its version.
    """

    environment: Archive | None
    program: Archive
    entry: Path
    versions: dict[str, str]


def build(
    folder: Path | None = None, *, architecture: str = "X86_64", image: bool = False, progress: Progress | None = None
) -> Package:
    """Return the package of this version of fruits; build it unless it is cached.

    Dependencies have the versions installed here, so that the cluster computes with the versions tested here.

    Parameters
    ----------
    folder : Path, optional
        Cache of packages; by default ``~/.cache/fruits/packages``.
    architecture : {"X86_64", "ARM64"}
        Architecture of the cluster.
    image : bool
        Whether an image provides interpreter and dependencies; then nothing is downloaded.
    progress : Progress, optional

    Raises
    ------
    ConfigError
        If the architecture is unknown.
    PackageError
        If wheels cannot be downloaded, or one does not run on the cluster.
    """
    if architecture not in _PLATFORMS:
        raise ConfigError(f"architecture '{architecture}': expected {' or '.join(_PLATFORMS)}")
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruits/packages"
    folder.mkdir(parents=True, exist_ok=True)
    environment, versions = (None, {}) if image else _environment(folder, architecture, progress or Silent())
    ours = {"bin/python": _IMAGE_SCRIPT.encode(), **_own_files()}
    program = folder / f"fruits-{fruits.__version__}-{_digest_of(ours)[:16]}.tar.gz"
    if not program.is_file():
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
            made = Path(scratch) / program.name
            _write(made, ours.items())
            made.replace(program)
        # Every change of the source makes another archive: keep only the newest few.
        older = sorted(folder.glob("fruits-*.tar.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in older[_PROGRAMS_KEPT:]:
            path.unlink(missing_ok=True)
    entry = Path(__file__).with_name("entry.py")
    return Package(environment, Archive(program, _sha256(program)), entry, {**versions, "fruits": fruits.__version__})


def _environment(folder: Path, architecture: str, progress: Progress) -> tuple[Archive, dict[str, str]]:
    """Return the archive of dependencies and their versions."""
    needed, installed = requirements(), _installed()
    wanted = {
        "format": _FORMAT,
        "architecture": architecture,
        "python": PYTHON,
        "requirements": needed,
        "here": installed,
    }
    key = hashlib.sha256(json_text(wanted, sort_keys=True).encode()).hexdigest()[:16]
    archive, about = folder / f"environment-{key}.tar.gz", folder / f"environment-{key}.json"
    if archive.is_file() and about.is_file():
        known = json.loads(about.read_text("utf-8"))
        return Archive(archive, known["sha256"]), known["versions"]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
        progress.start("package", None)
        wheels = fetch_wheels(needed, Path(scratch) / "wheels", architecture)
        versions = dict(sorted(_named(wheel) for wheel in wheels))
        manifest = {
            "architecture": architecture, "python": PYTHON, "versions": versions,
            "wheels": {wheel.name: _sha256(wheel) for wheel in wheels},
        }  # fmt: skip
        made = Path(scratch) / archive.name
        _write(made, _files_of(wheels, manifest))
        digest = _sha256(made)
        made.replace(archive)
        about.write_text(json_text({"sha256": digest, "versions": versions}), "utf-8")
    return Archive(archive, digest), versions


def requirements() -> list[str]:
    """Return the requirements of fruits on a cluster, from its metadata."""
    needed = []
    for line in importlib.metadata.requires("fruits") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if extra is None or extra[1] in _EXTRAS:
            needed.append(requirement.strip())
    return sorted(needed)


def fetch_wheels(needed: Sequence[str], folder: Path, architecture: str = "X86_64") -> list[Path]:
    """Download wheels for the cluster, with their dependencies, by pip; nothing is built.

    Raises
    ------
    PackageError
        If pip fails; includes its last error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    constraints = folder.parent / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in _installed().items()), "utf-8")
    machine = _PLATFORMS[architecture]
    major, newest = GLIBC
    platforms = [f"manylinux_{major}_{minor}_{machine}" for minor in range(newest, 4, -1)]
    platforms += [f"manylinux2014_{machine}", *([f"manylinux2010_{machine}"] if machine == "x86_64" else [])]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]
    command += [part for abi in ("cp311", "abi3", "none") for part in ("--abi", abi)]
    command += [part for platform in platforms for part in ("--platform", platform)]
    command += ["--constraint", str(constraints), "--dest", str(folder), *needed]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)  # noqa: S603 - our own words
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named pip" in line]
        raise PackageError(
            f"wheels for Python {PYTHON} on Amazon Linux 2023 ({machine}) cannot be fetched: "
            f"{(said or done.stderr.splitlines() or ['pip said nothing'])[-1].removeprefix('ERROR: ')}; is the package index "
            "reachable, and does this Python have pip? A version that has no such wheel can be exchanged here first"
        )
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        refuse_foreign(wheel.name, machine)
    return wheels


def refuse_foreign(wheel: str, machine: str) -> None:
    """Raise :class:`PackageError` unless a wheel, by its name, runs on the cluster."""
    tags = wheel.removesuffix(".whl").split("-")[-1]
    if tags == "any":
        return
    versions = [(int(major), int(minor)) for major, minor in _WHEEL_TAG.findall(tags)]
    # Several tags are alternatives: the oldest one is the requirement.
    oldest = min(versions, default=(2, 17) if "manylinux2014" in tags else (2, 12) if "manylinux2010" in tags else None)
    if oldest is None or oldest > GLIBC or not tags.endswith(machine):
        raise PackageError(
            f"'{wheel}' is not for the cluster: expected glibc {GLIBC[0]}.{GLIBC[1]} or older on {machine}; "
            "exchange its version here, then run again"
        )


def _installed() -> dict[str, str]:
    """Return the distributions of this environment and their versions, without fruits itself."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name not in ("fruits", "pip", "setuptools", "wheel"):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def _own_files() -> dict[str, bytes]:
    """Return the files of this installation of fruits and its metadata, by path."""
    root = Path(fruits.__file__).parent
    files = {
        f"fruits/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {"__pycache__", "node_modules"} & set(path.parts)
    }
    metadata = importlib.metadata.distribution("fruits").read_text("METADATA")
    if metadata is None:
        raise PackageError("fruits has no metadata here; install it (pip install -e .), then run again")
    files[f"fruits-{fruits.__version__}.dist-info/METADATA"] = metadata.encode()
    return files


def _digest_of(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _named(wheel: Path) -> tuple[str, str]:
    name, version = wheel.name.split("-")[:2]
    return re.sub(r"[-_.]+", "-", name).lower(), version


def _files_of(wheels: Sequence[Path], manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "bin/python", _PYTHON_SCRIPT.encode()
    yield "environment.json", json_text(manifest, indent=1, sort_keys=True).encode()
    for wheel in wheels:
        for name, data in _unpacked(wheel):
            yield f"site-packages/{name}", data


def _write(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write an archive in the given order, without times and owners, so that its bytes are reproducible."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755 if name.startswith("bin/") else 0o644
            tar.addfile(entry, io.BytesIO(data))


def _unpacked(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files that pip would install into ``site-packages``; scripts and headers are left out."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            path = PurePosixPath(entry.filename)
            if entry.is_dir():
                continue
            if path.is_absolute() or ".." in path.parts:
                raise PackageError(
                    f"'{wheel.name}' holds '{entry.filename}', which leads out of it; do not use this wheel"
                )
            if path.parts[0].endswith(".data"):
                if len(path.parts) < 3 or path.parts[1] not in ("purelib", "platlib"):
                    continue
                path = PurePosixPath(*path.parts[2:])
            yield path.as_posix(), archive.read(entry)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
