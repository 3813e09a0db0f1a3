"""Real processes answer as the command line does inside a test; of several ranks, one."""

import shlex
import subprocess
import sys

import pytest
from support.bad_input_cases import GOOD, listing
from support.runs import train_here
from support.start_ranks import environment, start

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.set_up import global_batch_of
from kakurenbo_hpc.errors import DONE, REQUEUE, DataError, UserError
from kakurenbo_hpc.selection import METHODS

CLI = ["-m", "kakurenbo_hpc.cli"]

ALONE = {
    "no job file": (["train", "nope.yaml"], "nope.yaml: no such job file"),
    "a bomb": (["train", "merges.yaml"], "its aliases are"),
    "an unknown key": (["train", GOOD, "--set", "training.epoch=5"], "did you mean epochs?"),
    "a batch of fewer samples than parts": (
        ["train", GOOD, "--set", "training.accumulate=70"],
        "too small for 1 ranks x 70",
    ),
    "a run directory that is a file": (
        ["train", GOOD, "--run-dir", "file"],
        "file: a file is there, not a folder",
    ),
    "no such option": (["train", GOOD, "--fast"], "No such option: --fast"),
    "no ranks": (["launch", GOOD, "--ranks", "0"], "--ranks is '0', but must be different whole numbers"),
    "a machine misspelt": (["launch", GOOD, "--machine", "locl"], "locl: no such machine file"),
    "no walltime": (["submit", GOOD, "--machine", "slurm.yaml"], "Missing option '--walltime'"),
    "no run": (["status", "nope"], "nope: nothing was submitted"),
    "an option for a job": (["cancel", "option"], "which is not a job id"),
    "no log": (["logs", "empty"], "empty: nothing was submitted"),
    "a score file below a file": (
        ["score", "random", GOOD, "--out", "file/x.h5"],
        "file: a file is there, not a folder",
    ),
    "a comparison that leads elsewhere": (["compare", "up.yaml"], "must be usable as a folder name"),
    "no data": (["data", "stats", "nope"], "nope/train: found no .h5 files there"),
}


BY_DEFAULT = ("an unknown key", "a machine misspelt", "no walltime", "a score file below a file")


# The others' lines are read inside a test: test_bad_jobs, test_bad_commands.
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.nightly] * (case not in BY_DEFAULT)) for case in ALONE]
)
def test_a_process_says_one_line_and_ends_with_2(case, desk):
    words, said = ALONE[case]
    before = listing(desk)
    done = subprocess.run(
        [sys.executable, *CLI, *words],
        cwd=desk,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert listing(desk) == before, "created or changed"


TOGETHER = {
    "a batch of fewer samples than ranks": (
        3,
        ["train", GOOD, "--set", "training.global_batch=2"],
        "too small for 3 ranks",
    ),
    "a model misspelt": (2, ["train", GOOD, "--set", "model.name=resnet81"], "did you mean resnet18"),
    "scores by a method nobody knows": (
        2,
        ["score", "el3n", GOOD],
        "no such scoring method; did you mean el2n?",
    ),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.nightly] * (case != "a model misspelt")) for case in TOGETHER],
)
def test_several_ranks_say_it_once_and_leave_together(case, desk, monkeypatch):
    n, words, said = TOGETHER[case]
    monkeypatch.chdir(desk)
    before = listing(desk)
    done = start(n, *CLI, *words)
    ours = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert done.returncode == 2 and len(ours) == 1 and said in ours[0] and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert listing(desk) == before, "created or changed"


def put_modules(folder):
    """Write files that stand for Python's own where the current folder is first on its path."""
    for name in ("random", "queue", "copy", "yaml", "h5py", "signal", "token"):
        (folder / f"{name}.py").write_text("raise SystemExit('not the module that was meant')")


def test_what_ranks_refuse_is_the_last_line_of_launch_in_a_folder_of_other_modules(desk):
    put_modules(desk)
    words = ["launch", GOOD, "--ranks", "2", "--run-dir", "file"]
    before = listing(desk)
    done = subprocess.run(
        [sys.executable, *CLI, *words],
        cwd=desk,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        done.stderr.splitlines()[-1]
        == "kakurenbo: file: a file is there, not a folder; give another --run-dir"
    )
    assert listing(desk) == before, "created or changed"


@pytest.mark.ranks(3)
def test_ranks_refuse_a_batch_of_fewer_samples_together(comm, tmp_path):
    with pytest.raises(UserError, match="too small for 3 ranks") as refused:
        train_here(GOOD, ["training.global_batch=2"], tmp_path / "run", comm)
    assert refused.value.on_all_ranks and not (tmp_path / "run").exists()


@pytest.mark.unit
def test_a_run_directory_of_another_job_is_refused(tmp_path):
    run, short = tmp_path / "run", ["training.epochs=2"]
    assert train_here(GOOD, short, run, SerialComm()) == DONE
    before = listing(tmp_path)
    other = r"holds the run of another job \(name was 'digits_kakurenbo', is 'digits_everything'"
    with pytest.raises(UserError, match=other):
        train_here("digits_everything", short, run, SerialComm(), resume=True)
    with pytest.raises(UserError, match="a run is there, checkpointed in epoch_0001; add --resume"):
        train_here(GOOD, short, run, SerialComm())
    assert listing(tmp_path) == before, "created or changed"


@pytest.mark.unit
def test_more_ranks_than_samples_is_refused():
    job = read_job(find_job(GOOD), [], DATASETS, METHODS)
    with pytest.raises(DataError, match="digits has 1437 samples for 2000 ranks"):
        global_batch_of(job, 1437, 2000)


@pytest.mark.nightly
def test_under_torchrun_modules_of_the_current_folder_do_not_stand_for_pythons_own(tmp_path):
    put_modules(tmp_path)
    (tmp_path / "machine.yml").write_text("name: here\nstarter: torchrun\n")
    short = ["--set", "training.epochs=1", "--set", "training.warmup_epochs=0", "--set", "data.workers=1"]
    words = ["launch", "digits_everything", "--ranks", "2", "--machine", "machine.yml", *short]
    done = subprocess.run(
        [sys.executable, *CLI, *words], cwd=tmp_path, env=environment(), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_keeps_the_code(closed, tmp_path):
    for words, code in (("explain training.lr", 0), ("train nope", 2)):
        command = f"{shlex.quote(sys.executable)} {' '.join(CLI)} {words} {closed}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), timeout=120)
        assert done.returncode == code


def test_a_closed_stdout_keeps_the_code_of_a_run_that_was_asked_to_stop(tmp_path):
    (tmp_path / "stop").touch()
    command = f"{shlex.quote(sys.executable)} {' '.join(CLI)} train digits_everything --run-dir . >&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), timeout=120)
    assert done.returncode == REQUEUE


def test_an_ascii_stream_takes_any_name(tmp_path):
    words = ["launch", "digits_everything", "--dry-run", "--run-dir", "naïve"]
    ascii_only = environment() | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, *CLI, *words], cwd=tmp_path, env=ascii_only, capture_output=True, timeout=120
    )
    assert done.returncode == 0 and b"na\\xefve" in done.stdout, done.stderr
