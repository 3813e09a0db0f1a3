"""What several tests of the launcher start from."""

import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from support.batch_runs import command_line_in
from support.slurm_cluster import slurm_or_skip

from kakurenbo_hpc import cli


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A real Slurm of two nodes."""
    with slurm_or_skip(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture
def slurm_machine(tmp_path):
    """Write a machine file of that Slurm."""
    here = {"name": "here", "scheduler": "slurm", "starter": "mpirun", "ranks_per_node": 1}

    def write(**facts) -> Path:
        path = tmp_path / "my machine.yaml"
        path.write_text(yaml.safe_dump(here | facts))
        return path

    return write


@pytest.fixture
def quick_machine(slurm_machine, tmp_path):
    """Write one whose Python ends at once, with a code: the batch system alone is looked at."""

    def write(code: int, **facts) -> Path:
        python = tmp_path / f"ends_{code}" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f"#!/bin/sh\nexit {code}\n")
        python.chmod(0o755)
        return slurm_machine(python=str(python.parents[1]), **facts)

    return write


@pytest.fixture
def command_line(monkeypatch, capsys):
    """The command line, in this process; it fails with what it printed on stderr."""

    def call(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["kakurenbo", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert left.value.code == 0, err
        return out

    return call


@pytest.fixture
def kakurenbo(slurm, tmp_path):
    """The command line, where this Slurm is the batch system."""
    return partial(command_line_in, slurm, tmp_path)
