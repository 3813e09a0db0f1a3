"""The two commands of the README: quick to run again, from anywhere, and clear about what is missing."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support.environments import BIN, environment_like_this, in_environment

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SHELL = [
    SCRIPTS / "quickstart",
    SCRIPTS / "test",
    SCRIPTS / "setup.sh",
    SCRIPTS / "install_horovod.sh",
    SCRIPTS.parent / ".ci" / "run",
]


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    if shutil.which("shellcheck") is None:
        assert not os.environ.get("CI"), "CI installs shellcheck"
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-x", script], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_set_up_is_quick_the_second_time_and_works_from_anywhere(tmp_path):
    link = tmp_path / "a link"
    link.symlink_to(SCRIPTS / "test")
    begun = time.monotonic()
    done = subprocess.run([link, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "pytest" in done.stdout, done.stderr
    assert "install" not in done.stdout
    assert time.monotonic() - begun < 10


def test_a_python_that_is_too_old_is_named_with_what_to_do(tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPTS / "setup.sh", checkout / "scripts")
    for name in ("python3", "python3.10", "python3.11", "python3.12", "python3.13"):
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.2 && exit 0\nexit 1\n')
        fake.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON")}
    env["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source '{checkout}/scripts/setup.sh'"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(
        "kakurenbo: Python 3.10 to 3.13 is needed, found Python 3.8.2"
    )
    assert not (checkout / ".venv").exists()


def test_an_environment_that_horovod_cannot_be_built_for_is_told_in_one_line(tmp_path):
    empty = environment_like_this(tmp_path / "empty", sees_this=False)
    done = subprocess.run(
        [SCRIPTS / "install_horovod.sh"], env=in_environment(empty), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "install_horovod: torch cannot be imported here (ModuleNotFoundError: No module named 'torch'); "
        "activate the environment that trains\n"
    )


def test_a_tool_that_building_horovod_lacks_is_told_in_one_line(tmp_path):
    for name in ("bash", "dirname", "mktemp", "readlink", "rm", "tail"):
        (tmp_path / name).symlink_to(shutil.which(name))
    env = os.environ | {"PATH": f"{BIN}:{tmp_path}"}
    done = subprocess.run([SCRIPTS / "install_horovod.sh"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "install_horovod: no cmake on the PATH; install it, or load its module\n",
    )
