"""A package is what its name says, runs on the cluster's Python, and is made of nothing that is not for it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fruits
from fruits.aws.jobs import package
from fruits.aws.jobs.package import PackageError


@pytest.mark.parametrize(
    "wheel",
    [
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "psutil-7.2.2-cp36-abi3-manylinux2010_x86_64.manylinux_2_12_x86_64.manylinux_2_28_x86_64.whl",
        "protobuf-7.36.2-cp310-abi3-manylinux2014_x86_64.whl",
        "jinja2-3.1.6-py3-none-any.whl",
        "exact-1-cp311-cp311-manylinux_2_34_x86_64.whl",
    ],
)
def test_wheels_for_the_cluster_are_taken(wheel: str) -> None:
    package.refuse_foreign(wheel, "x86_64")


@pytest.mark.parametrize(
    "wheel",
    [
        "newer-1-cp311-cp311-manylinux_2_35_x86_64.whl",
        "mac-1-cp311-cp311-macosx_11_0_arm64.whl",
        "windows-1-cp311-cp311-win_amd64.whl",
        "musl-1-cp311-cp311-musllinux_1_2_x86_64.whl",
        "arm-1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "bare-1-cp311-cp311-linux_x86_64.whl",
    ],
)
def test_wheels_for_other_machines_are_refused(wheel: str) -> None:
    with pytest.raises(PackageError, match="not for the cluster"):
        package.refuse_foreign(wheel, "x86_64")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/__init__.py", "answer = 42\n")
        archive.writestr("thing-1.0.data/purelib/extra.py", "also = True\n")
        archive.writestr("thing-1.0.data/scripts/thing", "#!python\n")
        archive.writestr("thing-1.0.dist-info/METADATA", "Name: thing\nVersion: 1.0\n")
    return path


def test_the_same_wheels_give_the_same_bytes_and_programs_are_left_out(wheel: Path, tmp_path: Path) -> None:
    made = [tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"]
    for path in made:
        package._write(path, package._files_of([wheel], {"python": "3.11"}))
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as tar:
        names = tar.getnames()
        assert {"bin/python", "environment.json", "site-packages/thing/__init__.py", "site-packages/extra.py"} <= set(
            names
        )
        assert not [name for name in names if "scripts" in name]
        assert tar.getmember("bin/python").mode == 0o755


def test_a_wheel_that_leads_out_of_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../etc/evil", "")
    with pytest.raises(PackageError, match="leads out of it"):
        list(package._unpacked(path))


def test_the_script_starts_the_machines_python_with_our_packages_first(wheel: Path, tmp_path: Path) -> None:
    archive = tmp_path / "environment.tar.gz"
    package._write(archive, package._files_of([wheel], {}))
    real = tmp_path / "cache" / "unpacked"
    real.mkdir(parents=True)
    subprocess.run(["tar", "-xzf", archive, "-C", real], check=True)
    work = tmp_path / "work folder"
    (work / "program").mkdir(parents=True)
    (work / "program/ours.py").write_text("name = 'ours'\n")
    (work / "environment").symlink_to(real)  # as YARN lays archives out
    code = "import thing, ours, sys; print(thing.answer, ours.name, sys.flags.no_user_site, sys.version_info[:2])"
    environment = {"PATH": "/usr/bin:/bin:" + str(Path(tmp_path, "bin")), "PYTHONPATH": str(tmp_path / "spark.zip")}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3.11").symlink_to(_python())
    done = subprocess.run(
        ["./environment/bin/python", "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "42 ours 1 (3, 11)", done.stderr
    lost = subprocess.run(
        ["./environment/bin/python", "-c", ""],
        cwd=work,
        env={"PATH": str(_only_coreutils(tmp_path))},
        capture_output=True,
        text=True,
        check=False,
    )
    if not any(Path(folder, "python3.11").exists() for folder in ("/usr/bin", "/usr/local/bin")):
        assert lost.returncode == 127
        assert "expected a release of EMR that has it" in lost.stderr


@pytest.mark.slow
def test_the_programs_script_starts_the_images_python_with_the_program_first(tmp_path: Path) -> None:
    """As a worker has it: the archive unpacked as 'program', the interpreter where the image has it."""
    made = package.build(tmp_path / "cache", image=True)
    assert made.environment is None, "nothing was fetched"
    real = tmp_path / "unpacked"
    real.mkdir()
    subprocess.run(["tar", "-xzf", made.program.path, "-C", real], check=True)
    work = tmp_path / "work folder"
    work.mkdir()
    (work / "program").symlink_to(real)
    code = "import fruits, sys; print(fruits.__file__, sys.flags.no_user_site)"
    python = sys.executable  # has what fruits needs, as the image's has
    image = {"PATH": "/usr/bin:/bin", "FRUITS_PYTHON": python}
    command = ["./program/bin/python", "-c", code]
    done = subprocess.run(command, cwd=work, env=image, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{work}/program/fruits/__init__.py 1", done.stderr
    lost = subprocess.run(
        ["./program/bin/python"], cwd=work, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert lost.returncode == 127
    assert "expected the image of docker/Dockerfile.emr" in lost.stderr
    assert package.IMAGE_PYTHON in (Path(fruits.__file__).parents[2] / "docker/Dockerfile.emr").read_text()


def test_requirements_are_ours_with_those_of_aws_and_without_spark() -> None:
    needed = " ".join(package.requirements())
    assert "onnxruntime" in needed
    assert "boto3" in needed
    assert "pyspark" not in needed
    assert "moto" not in needed


def test_fruits_goes_as_it_is_with_its_metadata() -> None:
    files = package._own_files()
    assert files["fruits/py.typed"] == b""
    assert files["fruits/embedding/backbones/fruits-small.onnx"][:1]
    assert not [name for name in files if "__pycache__" in name]
    assert any(name.endswith(".dist-info/METADATA") for name in files)


def _python() -> str:
    import sys

    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def _only_coreutils(folder: Path) -> Path:
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "env"):
        tools.joinpath(name).symlink_to(Path("/bin", name))
    return tools
