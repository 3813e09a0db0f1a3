"""What is installed is whole: all packages, jobs and machine files found, the command quick to answer."""

import resource
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.environments import CHECKOUT, copy_of_checkout, environment_like_this, in_environment, pip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(Path(sys.prefix), "wheel", "--no-deps", "--wheel-dir", folder, copy_of_checkout(folder / "checkout"))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """What ``pip install .`` makes: the package lies in the environment, and its checkout is not needed any
    more.
    """
    folder = environment_like_this(tmp_path_factory.mktemp("installed"))
    pip(folder, "install", "--no-deps", "--ignore-installed", wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    return folder, packages / "kakurenbo_hpc"


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
    """What ``pip install -e .`` makes: the package, and what travels with it, stay in the checkout."""
    folder = environment_like_this(tmp_path_factory.mktemp("editable"))
    checkout = copy_of_checkout(tmp_path_factory.mktemp("some where") / "check out")
    pip(folder, "install", "--no-deps", "--ignore-installed", "--editable", checkout)
    return folder, checkout


def test_a_wheel_carries_the_package_its_jobs_and_machine_files_and_nothing_else(wheel):
    places = {"kakurenbo_hpc": "", "jobs": "kakurenbo_hpc/", "launch": "kakurenbo_hpc/"}
    wanted = {
        f"{prefix}{path.relative_to(CHECKOUT)}"
        for folder, prefix in places.items()
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == wanted


@pytest.mark.parametrize("way", ["installed", "editable"])
def test_both_ways_of_installing_find_jobs_and_machines(way, request, tmp_path):
    folder, place = request.getfixturevalue(way)
    show = (
        "from kakurenbo_hpc.config.package_files import find_job, launch_dir; "
        "print(find_job('jobs/digits_kakurenbo.yaml'), launch_dir(), sep='\\n')"
    )
    told = subprocess.run(
        [folder / "bin" / "python", "-c", show],
        cwd=tmp_path,
        env=in_environment(folder),
        capture_output=True,
        text=True,
    )
    assert told.stdout.splitlines() == [str(place / "jobs/digits_kakurenbo.yaml"), str(place / "launch")], (
        told.stderr
    )


@pytest.mark.parametrize("way", ["installed", "editable"])
def test_both_ways_of_installing_bring_the_command(way, request, tmp_path):
    folder, place = request.getfixturevalue(way)

    def kakurenbo(*words):
        return subprocess.run(
            [folder / "bin" / "kakurenbo", *words],
            cwd=tmp_path,
            env=in_environment(folder),
            capture_output=True,
            text=True,
        )

    told = kakurenbo("--help")
    assert (told.returncode, told.stderr) == (0, "") and "launch" in told.stdout
    planned = kakurenbo("launch", "digits_everything", "--ranks", "2", "--dry-run")
    assert (
        planned.returncode == 0 and shlex.quote(str(place / "jobs/digits_everything.yaml")) in planned.stdout
    ), planned.stderr


def cpu_seconds_of_children():
    """Return what ended children have used: unlike the clock, it does not count what runs beside them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_at_once_and_imports_neither_torch_nor_mpi(tmp_path):
    times = []
    for _ in range(5):
        begun = cpu_seconds_of_children()
        told = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "kakurenbo_hpc.cli", "--help"],
            capture_output=True,
            text=True,
        )
        times.append(cpu_seconds_of_children() - begun)
    assert told.returncode == 0 and "train" in told.stdout
    assert not {"torch", "mpi4py", "numpy"} & {
        line.rpartition("|")[2].strip() for line in told.stderr.splitlines()
    }
    assert min(times) < 0.5
