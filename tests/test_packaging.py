"""What is installed is whole: every package listed, jobs and machine files found, the command quick to answer."""

import configparser
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, CHECKOUT]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    for folder, prefix in [("kakurenbo_hpc", ""), ("jobs", "kakurenbo_hpc."), ("launch", "kakurenbo_hpc.")]:
        for path in (CHECKOUT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".yaml", ".j2", ".txt", ".sh"):
                assert prefix + ".".join(path.parent.relative_to(CHECKOUT).parts) in listed, path


def test_a_wheel_carries_jobs_and_machine_files(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for path in [*(CHECKOUT / "jobs").rglob("*.*"), *(CHECKOUT / "launch").rglob("*.*")]:
        assert f"kakurenbo_hpc/{path.relative_to(CHECKOUT)}" in inside


def test_an_installed_package_finds_its_jobs(wheel, tmp_path):
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel]
    subprocess.run(command, check=True, capture_output=True)
    told = _python("from kakurenbo_hpc import places; print(places.find_job('digits_kakurenbo'), places.launch_dir())", tmp_path, target)
    assert told.split() == [str(target / "kakurenbo_hpc/jobs/digits_kakurenbo.yaml"), str(target / "kakurenbo_hpc/launch")]


def test_a_checkout_finds_its_jobs_from_anywhere(tmp_path):
    told = _python("from kakurenbo_hpc import places; print(places.find_job('jobs/digits_kakurenbo.yaml'))", tmp_path, CHECKOUT)
    assert told.strip() == str(CHECKOUT / "jobs/digits_kakurenbo.yaml")


def test_help_answers_at_once_and_imports_neither_torch_nor_mpi(tmp_path):
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        told = subprocess.run([sys.executable, "-X", "importtime", "-m", "kakurenbo_hpc.cli", "--help"], capture_output=True, text=True)
        times.append(time.perf_counter() - begun)
    assert told.returncode == 0 and "train" in told.stdout
    assert not {"torch", "mpi4py", "numpy"} & {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert min(times) < 0.5


def _python(code: str, folder: Path, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
