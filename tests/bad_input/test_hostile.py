"""Values that mean harm run nothing, and lead nothing out of its folder."""

import json
import shutil
import subprocess
import sys

import pytest
from support.bad_input_cases import GOOD, JOB, SUBMISSION, listing
from support.start_ranks import environment

from kakurenbo_hpc.errors import RunDirectoryError
from kakurenbo_hpc.rundir.path_checks import check_place

NASTY = """a $(touch ran) `touch ran`; touch ran & 'b" * \\ é"""  # any shell would make something of it


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with somebody's work in it, named as checkpoints are."""
    folder = tmp_path / "elsewhere"
    for name in ("epoch_0000", "epoch_0001", "epoch_0002"):
        (folder / name).mkdir(parents=True)
        (folder / name / "thesis.txt").write_text("seven years")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints",
        "ledger",
        "batch",
        "batch/log.txt",
        "job.yaml",
        "metrics.jsonl",
        "stop",
        "checkpoints/.epoch_0000.part",
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        ["train", GOOD],
        ["train", GOOD, "--resume"],
        ["submit", GOOD, "--machine", "slurm.yaml", "--walltime", "2h"],
    ],
    ids=["train", "resume", "submit"],
)
def test_a_link_out_of_a_run_directory_is_refused_and_not_followed(name, words, tmp_path, elsewhere, refuses):
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere / "epoch_0000" / "thesis.txt" if link.suffix or name == "stop" else elsewhere)
    before = listing(tmp_path)
    assert f"run/{name}: a link to {elsewhere}" in refuses(*words, "--run-dir", tmp_path / "run")
    assert listing(tmp_path) == before, "created or changed"


def test_a_link_that_stays_inside_is_fine_and_so_is_a_run_directory_that_is_one(tmp_path):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "run").symlink_to("large_disk")
    (tmp_path / "run" / "newest").symlink_to("metrics.jsonl")
    check_place(tmp_path / "run")
    (tmp_path / "run" / "other").symlink_to("../large_disk_2")
    with pytest.raises(RunDirectoryError, match="other: a link to"):
        check_place(tmp_path / "run")


def test_a_name_that_is_a_command_is_a_name(tmp_path):
    """A job, its file and its run directory so called: started, followed, nothing run."""

    def said(*words):
        command = [sys.executable, "-m", "kakurenbo_hpc.cli", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment(),
                              capture_output=True, text=True, timeout=180)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = JOB.splitlines()
    lines[next(i for i, line in enumerate(lines) if line.startswith("name:"))] = f"name: {json.dumps(NASTY)}"
    (tmp_path / f"{NASTY}.yaml").write_text("\n".join(lines))
    said(
        "launch",
        f"{NASTY}.yaml",
        "--ranks",
        1,
        "--set",
        "training.epochs=1",
        "--set",
        "training.warmup_epochs=0",
    )
    run = tmp_path / "runs" / NASTY
    assert (run / "metrics.jsonl").read_text().count("\n") == 1
    (run / "batch").mkdir()
    (run / "batch" / "submission.json").write_text(json.dumps({**SUBMISSION, "name": NASTY}))
    (run / "batch" / "log.txt").write_text("all is well")
    assert said("status", "--all").count("touch ran") == 3 and said("logs", f"runs/{NASTY}") == "all is well"
    said("cancel", f"runs/{NASTY}")
    shutil.rmtree(tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == [f"{NASTY}.yaml"], "something was run"
