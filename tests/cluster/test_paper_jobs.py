"""Batch scripts of every job of the papers, on both machines that come with the package: what of a script is
the job's own, compared with a golden file.

After a wanted change: GOLDEN=write pytest tests/cluster/test_paper_jobs.py, and read the diff.
"""

import difflib
import os
import sys
from pathlib import Path

import pytest
from support.paper_jobs import JOBS, nodes_of

from kakurenbo_hpc.cluster.submit import Request, submit
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.selection import METHODS

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """The lines that a dry run prints; nothing in them is of this machine."""
    monkeypatch.chdir(tmp_path)

    def script(job: str, machine: str, nodes: int) -> list[str]:
        request = Request(machine=machine, nodes=(nodes,), walltime="1d")

        def read(overrides):
            return read_job(find_job(job), overrides, DATASETS, METHODS)

        assert submit(read, request, dry_run=True) == 0
        printed = capsys.readouterr().out
        for here, name in ((str(tmp_path), "HERE"), (str(Path(sys.executable).parent), "PYTHON")):
            printed = printed.replace(here, name)
        return printed.splitlines()

    return script


@pytest.mark.parametrize("machine", ["slurm_v100", "pbs_v100"])
def test_what_a_job_s_script_has_of_its_own_is_golden(machine, script):
    plain = script("digits_everything", machine, 1)
    found = "".join(
        f"{job}\n{''.join(own_lines(plain, script(job, machine, nodes_of(job))))}\n" for job in JOBS
    )
    golden = GOLDEN / f"paper_jobs_{machine}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(found)
    assert found == golden.read_text()


def own_lines(plain: list[str], script: list[str]) -> list[str]:
    """Return the lines of a script that a plain one has not."""
    return [f"    {line[2:].strip()}\n" for line in difflib.ndiff(plain, script) if line.startswith("+ ")]
