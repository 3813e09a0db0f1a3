"""scripts/setup.sh asks pip for what its caller wants, once; a stand-in for pip notes what it is told."""

import json
import subprocess
import sys

import pytest
from support.environments import CHECKOUT, environment_like_this, in_environment

PIP = """
import json, sys
from pathlib import Path
if "--version" not in sys.argv:
    with open(Path(__file__).with_suffix(".log"), "a") as log:
        print(json.dumps(sys.argv[1:]), file=log)
sys.exit(REFUSES in sys.argv)
"""


def packages_of(folder):
    [packages] = folder.glob("lib/python*/site-packages")
    return packages


def with_pip(folder, refuses=None):
    """Put the stand-in for pip into an environment."""
    (packages_of(folder) / "pip.py").write_text(PIP.replace("REFUSES", repr(refuses)))
    return folder


def set_up(folder, extras="", **variables):
    """Run the set-up; return what it said, and what pip was asked for in that time."""
    log = packages_of(folder) / "pip.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; extras={extras!r} source '{CHECKOUT}/scripts/setup.sh'"],
        env=in_environment(folder, PYTHONPATH=str(CHECKOUT), **variables),
        capture_output=True,
        text=True,
    )
    asked = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert all(words[:2] == ["install", "--quiet"] for words in asked)
    return done, [words[2:] for words in asked]


@pytest.mark.ranks
def test_what_a_caller_wants_is_installed_once_and_stays(tmp_path):
    import torch

    folder = with_pip(environment_like_this(tmp_path / "environment"))
    beside = f"torch=={torch.__version__}"

    def asked(extras):
        done, words = set_up(folder, extras)
        assert done.returncode == 0, done.stderr
        return words

    assert asked("") == [[beside, "-e", f"{CHECKOUT}"]]
    assert asked("") == []
    assert asked("test") == [[beside, "-e", f"{CHECKOUT}[test]"]]
    assert asked("test") == asked("") == []
    assert asked("dev,test") == [[beside, "-e", f"{CHECKOUT}[dev,test]"]]
    assert asked("dev") == asked("test") == asked("") == []


@pytest.mark.unit
@pytest.mark.parametrize("index", ["", "https://example.org/whl/cpu"])
def test_torch_and_torchvision_come_from_one_index_and_the_rest_from_the_default(index, tmp_path):
    folder = with_pip(environment_like_this(tmp_path / "environment", sees_this=False), refuses="-e")
    done, asked = set_up(folder, "test", KAKURENBO_TORCH_INDEX=index)
    pins = ["-c", f"{CHECKOUT}/launch/constraints/cpu.txt"]
    from_index = [[*pins, "--index-url", index, "torch", "torchvision"]] if index else []
    assert asked == [*from_index, [*pins, "-e", f"{CHECKOUT}[test]"]]
    assert f"installing torch from {index or 'the default package index'}" in done.stdout
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("kakurenbo: pip could not install ")


@pytest.mark.unit
def test_which_torch_is_installed_and_how_large_is_one_line():
    done = subprocess.run(
        [sys.executable, CHECKOUT / "scripts" / "torch_size.py"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("torch ") and done.stdout.count("\n") == 1
    assert " GB with what it depends on" in done.stdout
