"""Copies of the checkout, and virtual environments that see what is installed here: made in a second, without
a download.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent  # where mpirun is, if a wheel brought it


def copy_of_checkout(folder: Path) -> Path:
    """Return a copy of what a package is made of; built here, a wheel would also carry what an older build
    left behind.
    """
    folder.mkdir(parents=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, folder)
    for name in ("kakurenbo_hpc", "jobs", "launch", "scripts", "tests"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def environment_like_this(folder: Path, sees_this: bool = True) -> Path:
    """Return a new virtual environment, empty or (sees_this) with all that is installed in the one of these
    tests.
    """
    venv.create(folder, symlinks=True)
    if sees_this:
        [packages] = folder.glob("lib/python*/site-packages")
        (packages / "outer.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def in_environment(folder: Path, **changed: str) -> dict[str, str]:
    """Return the environment variables of a shell in which this one was activated, and nothing else was."""
    plain = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONPATH", "PYTHON", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")
    }
    return plain | {"VIRTUAL_ENV": str(folder), "PATH": f"{folder}/bin:{BIN}:/usr/bin:/bin"} | changed


def pip(folder: Path, *words: object) -> None:
    command = [folder / "bin" / "python", "-m", "pip", "--quiet", *map(str, words)]
    done = subprocess.run(command, env=in_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def environment_without(folder: Path, *names: str) -> Path:
    """Return a new virtual environment with all that is installed here but what begins with one of these
    names.
    """
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if not found.name.startswith(names):
            (packages / found.name).symlink_to(found)
    return folder


def mpich_or_skip(folder: Path) -> Path:
    """Return a new virtual environment in which MPICH's wheel stands before all that is installed here, this
    checkout among it; skips offline, never in CI.

    Each MPI's wheel brings an mpirun: never two in one environment.
    """
    environment_like_this(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "checkout.pth").write_text(str(CHECKOUT))
    try:
        pip(folder, "install", "mpich<6")
    except AssertionError:
        if os.environ.get("CI"):
            raise
        pytest.skip("MPICH's wheel cannot be installed here")
    return folder
