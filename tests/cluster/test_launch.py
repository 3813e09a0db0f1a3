"""Ranks are really started: the exit code is theirs, and the line that says why is the last one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from support.start_ranks import environment

from kakurenbo_hpc.cluster.allocation import Allocation
from kakurenbo_hpc.cluster.failure_report import FailureReport
from kakurenbo_hpc.cluster.launch import launch, run, train_command
from kakurenbo_hpc.cluster.launch_checks import check_gpus
from kakurenbo_hpc.cluster.launchers import launcher_line
from kakurenbo_hpc.cluster.launchers.launcher import CommandLine, Layout
from kakurenbo_hpc.cluster.launchers.srun import INTERRUPT_SIGNAL, STEP_FLAGS
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.config.job import Job, read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.world import _REPORT_S
from kakurenbo_hpc.errors import DONE, FAILED, REQUEUE, TERMINATED, USER_ERROR, UserError, WorldError
from kakurenbo_hpc.rundir.attempt import Attempt
from kakurenbo_hpc.selection import METHODS

ENDS = Path(__file__).parent / "programs" / "ends.py"

OPEN_MPI_5_KILLED = """--------------------------------------------------------------------------
prterun noticed that process rank 1 with PID 29347 on node vm exited on
signal 9 (Killed).
--------------------------------------------------------------------------
"""
OPEN_MPI_4_KILLED = """--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
--------------------------------------------------------------------------
mpirun noticed that process rank 14 with PID 0 on node n7.site exited on signal 11 (Segmentation fault).
--------------------------------------------------------------------------
"""
OPEN_MPI_4_LEFT = """mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[5840,1],1]
  Exit code:    7
"""
SRUN_KILLED = "srun: error: n1: task 1: Killed\nsrun: Terminating StepId=12.0\n"
SRUN_NODE_LOST = "srun: error: Node failure on n2\nsrun: error: n1: task 0: Killed\nsrun: Force Terminated\n"
SRUN_LEFT = (
    "srun: error: n7: task 14: Exited with exit code 7\n"
    "slurmstepd: error: *** STEP 12.0 ON n1 CANCELLED ***\n"
)
TORCHRUN = """Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_11:40:39
  host      : n7.site
  rank      : 14 (local_rank: 2)
  exitcode  : {} (pid: 31895)
  error_file: <N/A>
"""
SRUN_ONE_LATE = (
    "srun: error: n1: task 0: Exited with exit code {}\nsrun: First task exited 10s ago\n"
    "srun: error: n1: tasks 1-3: Killed\n"
)
AGENTS = (
    "srun: error: n0: task 0: Exited with exit code 1\nsrun: error: n1: task 1: Exited with exit code 1\n"
)
FLOOD = "".join(f"srun: error: n{i}: tasks {4 * i}-{4 * i + 3}: Killed\n" for i in range(30))
LOST = (
    "kakurenbo: rank {0} of 2 on n{0}: RuntimeError: [../gloo/transport/tcp/pair.cc:544] "
    "Connection reset by peer\n"
)
SRUN_NOT_STARTED = "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.\n"
SRUN_NOT_STARTED += "srun: error: task 0 launch failed: Unspecified error\n"
OPEN_MPI_5_LEFT = "   Process name: [prterun-vm-29349@1,1]\n   Exit code:    7\n"


@pytest.fixture(autouse=True)
def a_plain_shell(monkeypatch):
    """Nothing of an outer starter, and no leave for root but the launcher's own."""
    for name in os.environ.keys() - environment().keys() | {
        "OMPI_ALLOW_RUN_AS_ROOT",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
    }:
        monkeypatch.delenv(name, raising=False)


def digits(*overrides: str) -> Job:
    return read_job(find_job("digits_everything"), overrides, DATASETS, METHODS)


def ranks_that_end(
    *words: object, starter: str = "mpirun", environment: Mapping[str, str] = MappingProxyType({})
) -> CommandLine:
    here = Machine(name="here", starter=starter, environment=dict(environment))
    return launcher_line(here, Layout(2), [sys.executable, str(ENDS), *map(str, words)])


@pytest.mark.parametrize(("starter", "code"), [("mpirun", DONE), ("mpirun", REQUEUE), ("torchrun", DONE)])
def test_a_run_that_ends_well_passes_its_code_on(starter, code, tmp_path, capfd):
    assert run(ranks_that_end(code, starter=starter), tmp_path / "stop") == code
    assert "kakurenbo: " not in capfd.readouterr().err


@pytest.mark.parametrize(("starter", "number"), [("mpirun", signal.SIGUSR2), ("torchrun", signal.SIGUSR1)])
def test_a_signal_that_asks_for_a_checkpoint_becomes_the_stop_file(starter, number, tmp_path, capfd):
    """No starter passes both on unharmed. torchrun ends with 1 where its ranks leave with 75."""
    with when_both_run(tmp_path, number):
        assert (
            run(ranks_that_end("wait for the file", tmp_path, starter=starter), tmp_path / "stop") == REQUEUE
        )
    assert "kakurenbo: " not in capfd.readouterr().err


def test_a_stop_file_that_cannot_be_written_is_told(tmp_path, capfd):
    (tmp_path / "file").touch()
    speaker = "import os, signal, time; os.kill(os.getppid(), signal.SIGUSR1); time.sleep(0.5)"
    assert run(CommandLine([sys.executable, "-c", speaker]), tmp_path / "file" / "stop") == DONE
    assert (
        last(capfd)
        == f"kakurenbo: {tmp_path}/file/stop: cannot be written (File exists), so the ranks do not stop"
    )


@pytest.mark.parametrize("starter", ["mpirun", "torchrun"])
def test_the_users_mistake_is_the_last_line(starter, tmp_path, capfd):
    assert run(ranks_that_end(2, starter=starter), tmp_path / "stop") == USER_ERROR
    assert last(capfd) == "kakurenbo: jobs/x.yaml: epochs is 0, but must be at least 1"


@pytest.mark.parametrize(
    ("starter", "harm", "said"),
    [
        ("mpirun", "raise", "kakurenbo: rank 1 of 2 on here: OSError: the disk is on fire"),
        ("mpirun", "killed", "kakurenbo: rank 1 on "),
        ("mpirun", "silent", "kakurenbo: rank 1: left with exit code 7"),
        ("torchrun", "killed", "kakurenbo: rank 1 on "),
    ],
)
def test_a_rank_that_fails_is_named_in_the_last_line(starter, harm, said, tmp_path, capfd):
    assert run(ranks_that_end(harm, starter=starter), tmp_path / "stop") == FAILED
    line = last(capfd)
    hydra = "kakurenbo: the launcher ended with exit code"  # which names no rank on its stderr
    assert line.startswith(said) or (harm != "raise" and line.startswith(hydra))
    assert "SIGKILL" in line or harm != "killed" or line.startswith(hydra)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_ends_all_ranks(number, tmp_path, capfd):
    before = signal.getsignal(number)
    with when_both_run(tmp_path, number) as sent:
        assert run(ranks_that_end("wait", tmp_path), tmp_path / "stop") == TERMINATED
    assert time.monotonic() - sent[0] < 25
    assert last(capfd).startswith(f"kakurenbo: ended by {number.name}, the launcher with exit code ")
    assert signal.getsignal(number) is before


def test_srun_gets_term_where_others_get_int(tmp_path, monkeypatch, capfd):
    """One INT alone does not end it."""
    (tmp_path / "srun").write_text(
        f"#!{sys.executable}\n"
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "print(signal.sigwait({signal.SIGINT, signal.SIGTERM}).name, flush=True)\n"
        "os._exit(1)\n"
    )
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}", prepend=":")
    assert run(CommandLine(["srun"], interrupt_signal=INTERRUPT_SIGNAL), tmp_path / "stop") == TERMINATED
    out, err = capfd.readouterr()
    assert (out, err.startswith("kakurenbo: ended by SIGINT, the launcher with exit code 1")) == (
        "SIGTERM\n",
        True,
    )


def test_a_starter_is_in_the_session_of_here_where_pbs_finds_it_and_out_of_reach_of_a_terminals_keys(capfd):
    assert (
        run(
            CommandLine(
                [sys.executable, "-c", "import os; print(os.getsid(0), os.getpgid(0) == os.getpid())"]
            ),
            Path("stop"),
        )
        == DONE
    )
    assert capfd.readouterr().out == f"{os.getsid(0)} True\n"


def test_a_signal_that_is_ignored_here_stays_ignored(capfd):
    hangup = "import os, signal, time; time.sleep(0.3); os.kill(os.getppid(), signal.SIGHUP); time.sleep(0.2)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(CommandLine([sys.executable, "-c", hangup]), Path("stop")) == DONE
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("heard", "code", "said"),
    [
        ("", TERMINATED, ""),
        (
            "kakurenbo: rank 1 of 2 on a: E: x\nsrun: error: n1: task 0: Terminated\n",
            FAILED,
            "kakurenbo: rank 1 of 2 on a: E: x",
        ),
        (SRUN_KILLED, FAILED, "kakurenbo: rank 1 on n1: killed; often the system was out of memory"),
        (SRUN_NODE_LOST.splitlines(keepends=True)[0], FAILED, "kakurenbo: node n2 was lost"),
    ],
)
def test_a_starter_that_was_terminated_over_a_rank_that_failed_has_failed(heard, code, said, tmp_path, capfd):
    ends = f"import sys; sys.stderr.write({heard!r}); sys.exit({TERMINATED})"
    assert run(CommandLine([sys.executable, "-c", ends]), tmp_path / "stop") == code
    told = capfd.readouterr().err.splitlines()
    assert told[-1].startswith(said) if said else not told


def test_the_ranks_stderr_passes_through_at_once(tmp_path, capfd):
    """The program waits until its first line has arrived; broken UTF-8 and an unfinished line pass too."""
    ear = tmp_path / "heard"
    (tmp_path / "speak.py").write_text(
        "import pathlib, sys, time\n"
        "w = sys.stderr.buffer; w.write(b'first\\n'); w.flush()\n"
        f"while not pathlib.Path({str(ear)!r}).exists(): time.sleep(0.02)\n"
        "w.write(b'\\xff last')\n"
    )

    def listen():
        heard, give_up = "", time.monotonic() + 20
        while "first\n" not in heard and time.monotonic() < give_up:
            heard += capfd.readouterr().err
            time.sleep(0.02)
        ear.write_text(heard)

    listener = threading.Thread(target=listen)
    listener.start()
    assert run(CommandLine([sys.executable, str(tmp_path / "speak.py")]), tmp_path / "stop") == DONE
    listener.join()
    assert ear.read_text() == "first\n"
    assert capfd.readouterr().err.endswith(" last")


def test_words_and_environment_reach_the_ranks_unharmed(tmp_path):
    hostile = ["a b", "it's", '"', "$(touch stolen)", "; touch stolen", "*", "\\", "ä"]
    line = ranks_that_end("words", tmp_path, *hostile, environment={"OF_THE_MACHINE": "$(touch stolen) ' \""})
    assert run(line, tmp_path / "stop") == DONE
    for rank in "01":
        assert (tmp_path / rank).read_text().split("\0") == [*hostile, "$(touch stolen) ' \""]


def test_what_the_ranks_run_is_the_job_as_it_was_given():
    words = train_command(
        Path("my job.yaml"), Path("runs/a b"), ["training.epochs=5", "name=$(x)"], resume=True
    )
    assert words[1:] == [
        *("-m", "kakurenbo_hpc.cli", "train", "my job.yaml", "--run-dir", "runs/a b"),
        *("--set", "training.epochs=5", "--set", "name=$(x)", "--resume"),
    ]
    assert train_command(Path("j"), Path("r"), [], resume=False)[-1] == "r"
    assert train_command(Path("j"), Path("r"), [], resume=True, allow_changes=True)[-2:] == [
        "--resume",
        "--allow-changes",
    ]


def test_more_ranks_than_the_machine_takes_is_the_users_mistake(tmp_path):
    machine = tmp_path / "four.yaml"
    machine.write_text("name: four\nstarter: mpirun\nranks_per_node: 4\n")
    with pytest.raises(UserError, match="^--ranks is 5, but four takes at most 4 on a node"):
        launch(digits(), Path("job.yaml"), tmp_path, machine=str(machine), ranks=5, dry_run=True)


def test_a_dry_run_prints_the_line_and_starts_nothing(tmp_path, capfd):
    assert launch(digits(), Path("none.yaml"), tmp_path / "run", ranks=2, dry_run=True) == DONE
    out, err = capfd.readouterr()
    assert f" -m kakurenbo_hpc.cli train none.yaml --run-dir {tmp_path}/run\n" in out
    assert (out.count("\n"), err) == (1, "")
    assert ("OMPI_ALLOW_RUN_AS_ROOT=1" in out) == (os.geteuid() == 0 and "--bind-to" in out)
    assert not list(tmp_path.iterdir())


TOO_MUCH = {
    "more ranks than samples of a batch": ({"ranks": 61}, [], "too small for 61 ranks"),
    "thousands of ranks": (
        {"ranks": 100_000},
        ["training.global_batch=null", "training.batch_per_rank=1"],
        "cores may be used here; start at most 8 ranks a core",
    ),
    "more ranks than samples": (
        {"ranks": 2000, "oversubscribe": True},
        ["training.global_batch=null", "training.batch_per_rank=1"],
        "digits has 1437 samples for 2000 ranks; use at most one rank a sample",
    ),
    "no scratch": ({"ranks": 2}, ["data.placement=local"], "local has no scratch folder"),
    "GPUs that are not there": (
        {"ranks": 2, "machine": "gpus.yaml"},
        [],
        "gpus_per_node is 2, but 0 GPUs are visible here to 2 ranks (CUDA_VISIBLE_DEVICES=-1)",
    ),
    "GPUs that a node of the job does not have": (
        {"nodes": 2, "machine": "job.yaml"},
        [],
        "gpus_per_node is 2, but 0 GPUs are visible here to 2 ranks (CUDA_VISIBLE_DEVICES=-1)",
    ),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_must_fail_is_refused_before_a_process_starts(case, tmp_path, monkeypatch, capfd):
    how, overrides, said = TOO_MUCH[case]
    monkeypatch.chdir(tmp_path)
    gpus = "name: gpus\nstarter: mpirun\ngpus_per_node: 2\n"
    Path("gpus.yaml").write_text(gpus)
    Path("job.yaml").write_text(gpus + "scheduler: pbs\nranks_per_node: 2\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("PBS_NODEFILE", "nodes")
    started = []
    monkeypatch.setattr("kakurenbo_hpc.cluster.launch.run", lambda *line: started.append(line))
    with pytest.raises(UserError) as refusal:
        launch(digits(*overrides), find_job("digits_everything"), tmp_path / "run", **how)
    assert said in str(refusal.value)
    assert not started and not capfd.readouterr().out and not (tmp_path / "run").exists()


def test_on_fewer_nodes_the_same_batch_is_trained_in_more_parts(tmp_path, monkeypatch):
    machine, lines = tmp_path / "two.yaml", []
    machine.write_text("name: two\nstarter: srun\nscheduler: slurm\nranks_per_node: 2\n")
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def attempts(start, choose, run, most, resume):
        for nth, layout in enumerate([Layout(4, 2), Layout(2, 1, ("b",), 2), Layout(4, 2, ("b", "c"), 3)]):
            lines.append(str(start(Attempt(run, f"{nth}-x"), layout, nth > 0)))
        return DONE

    monkeypatch.setattr("kakurenbo_hpc.cluster.launch.run_attempts", attempts)
    monkeypatch.setattr("kakurenbo_hpc.cluster.launch.check_gpus", lambda *facts: None)
    monkeypatch.setattr(Allocation, "of_this_job", lambda *facts: Allocation())
    job = ["training.epochs=2", "training.global_batch=50"]
    how = {"machine": str(machine), "nodes": 2, "restarts": 1, "overrides": job}
    assert launch(digits(*job), find_job("digits_everything"), tmp_path / "run", **how) == DONE
    assert ["accumulate" in line for line in lines] == [False, True, False]
    assert " --set training.global_batch=50 --set training.accumulate=2 --resume" in lines[1]


def test_a_dry_run_asks_for_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    machine = tmp_path / "gpus.yaml"
    machine.write_text("name: gpus\nstarter: mpirun\ngpus_per_node: 2\n")
    job_file = find_job("digits_everything")
    assert launch(digits(), job_file, tmp_path, machine=str(machine), ranks=2, dry_run=True) == DONE


def test_on_a_login_node_inside_an_allocation_no_gpus_are_asked_for(monkeypatch):
    """salloc's shell may stay there; the ranks' nodes are others."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    machine = Machine(name="gpus", scheduler="slurm", starter="srun", ranks_per_node=2, gpus_per_node=2)
    check_gpus(machine, Layout(4, 2))
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    with pytest.raises(WorldError, match="0 GPUs are visible here to 2 ranks"):
        check_gpus(machine, Layout(4, 2))


@pytest.mark.ranks
def test_the_digits_train_on_two_ranks(tmp_path):
    one_epoch = ["--set", "training.epochs=1", "--set", "training.warmup_epochs=0"]
    words = ["digits_everything", "--ranks", "2", *one_epoch, "--run-dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "kakurenbo_hpc.cli", "launch", *words]
    planned = subprocess.run(
        [*command, "--dry-run"], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert done.returncode == DONE, done.stderr
    assert done.stdout.startswith(planned.stdout)
    [epoch] = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert epoch["epoch"] == 0 and epoch["n_backward"] > 0


@pytest.mark.parametrize(
    ("heard", "code", "said"),
    [
        (
            OPEN_MPI_5_KILLED,
            137,
            "kakurenbo: rank 1 on vm: killed by SIGKILL; often the system was out of memory",
        ),
        (OPEN_MPI_4_KILLED, 139, "kakurenbo: rank 14 on n7.site: killed by SIGSEGV"),
        (OPEN_MPI_4_LEFT, 7, "kakurenbo: rank 1: left with exit code 7 and without a message of ours"),
        (OPEN_MPI_5_LEFT, 7, "kakurenbo: rank 1: left with exit code 7 and without a message of ours"),
        (SRUN_NODE_LOST, 137, "kakurenbo: node n2 was lost"),
        (LOST.format(0) + SRUN_NODE_LOST, 137, "kakurenbo: node n2 was lost"),
        (SRUN_KILLED, 137, "kakurenbo: rank 1 on n1: killed; often the system was out of memory"),
        (LOST.format(1) + SRUN_KILLED, 137, "kakurenbo: rank 1 of 2 on n1: RuntimeError: [../gloo/"),
        (SRUN_LEFT, 7, "kakurenbo: rank 14 on n7: left with exit code 7 and without a message of ours"),
        (SRUN_KILLED + FLOOD, 137, "kakurenbo: rank 1 on n1: killed"),
        (
            SRUN_LEFT + FLOOD,
            137,
            "kakurenbo: rank 14 on n7: left with exit code 7 and without a message of ours",
        ),
        (OPEN_MPI_5_KILLED + FLOOD, 137, "kakurenbo: rank 1 on vm: killed by SIGKILL"),
        (OPEN_MPI_5_LEFT + FLOOD, 7, "kakurenbo: rank 1: left with exit code 7"),
        (
            SRUN_KILLED.replace("task 1", "tasks 4-7"),
            137,
            "kakurenbo: ranks 4-7 on n1: killed; often the system was out of memory",
        ),
        (
            SRUN_LEFT.replace("task 14", "tasks 4,6"),
            7,
            "kakurenbo: ranks 4,6 on n7: left with exit code 7 and without a message of ours",
        ),
        (
            TORCHRUN.format(-9),
            1,
            "kakurenbo: rank 14 on n7.site: killed by SIGKILL; often the system was out of memory",
        ),
        (
            TORCHRUN.format(7),
            1,
            "kakurenbo: rank 14 on n7.site: left with exit code 7 and without a message of ours",
        ),
        (SRUN_NOT_STARTED, 1, "kakurenbo: rank 0: srun could not start it (Unspecified error); see above"),
        ("", 9, "kakurenbo: the launcher ended with exit code 9, and no rank said why"),
        (
            "kakurenbo: rank 1 of 2 on a: E: x\nkakurenbo: a remark\n" + OPEN_MPI_5_LEFT,
            1,
            "kakurenbo: rank 1 of 2 on a: E: x",
        ),
        (
            "kakurenbo: rank 1 of 2 on a: E: x\nkakurenbo: rank 0 of 2 on a: F: y\n",
            1,
            "kakurenbo: rank 0 of 2 on a: F: y",
        ),
        ("kakurenbo: job.yaml: wrong\n" + OPEN_MPI_5_LEFT, 2, "kakurenbo: job.yaml: wrong"),
        ("kakurenbo: job.yaml: wrong\n" + OPEN_MPI_5_LEFT, 7, "kakurenbo: job.yaml: wrong"),
        ("kakurenbo: job.yaml: wrong\n" + SRUN_LEFT, 7, "kakurenbo: job.yaml: wrong"),
        ("kakurenbo: job.yaml: wrong\n" + TORCHRUN.format(7), 1, "kakurenbo: job.yaml: wrong"),
        ("kakurenbo: job.yaml: wrong\n", 9, "kakurenbo: job.yaml: wrong"),
        ("kakurenbo: a remark\n" + SRUN_KILLED, 137, "kakurenbo: rank 1 on n1: killed"),
        ("kakurenbo: rank 1 of 2 on n1: E: x\n" + LOST.format(0), 1, "kakurenbo: rank 1 of 2 on n1: E: x"),
        (
            TORCHRUN.format(-9) + LOST.format(0) + AGENTS,
            1,
            "kakurenbo: rank 14 on n7.site: killed by SIGKILL",
        ),
        (
            LOST.format(0) + TORCHRUN.format(-9) + AGENTS,
            1,
            "kakurenbo: rank 14 on n7.site: killed by SIGKILL",
        ),
        (
            LOST.format(0) + TORCHRUN.replace("14", "0").format(1) + TORCHRUN.format(-9),
            1,
            "kakurenbo: rank 14 on n7.site: killed",
        ),
        (LOST.format(14) + TORCHRUN.format(1) + AGENTS, 1, LOST.format(14).rstrip()),
        (LOST.format(1), 1, LOST.format(1).rstrip()),
    ],
)
def test_the_last_words_are_found_among_the_starters_banners(heard, code, said):
    words = FailureReport()
    for line in heard.encode().splitlines(keepends=True):
        words.add(line)
    assert words.last_line(code).startswith(said)


@pytest.mark.parametrize(
    ("heard", "code", "of_ranks"),
    [
        (TORCHRUN.format(75) + TORCHRUN.format(-15), 1, 75),
        (TORCHRUN.format(-15) + TORCHRUN.format(2), 1, 2),
        (TORCHRUN.format(75) + TORCHRUN.format(1), 1, 1),
        (TORCHRUN.format(-9), 1, 1),
        ("", 75, 75),
        (SRUN_NOT_STARTED, 0, 1),
        (SRUN_ONE_LATE.format(2), 137, 2),
        (SRUN_ONE_LATE.format(75), 137, 75),
        (SRUN_ONE_LATE.format(1), 137, 137),
        (SRUN_ONE_LATE.replace("task 0", "tasks 4,6-7").format(75), 137, 75),
        (SRUN_KILLED + "srun: error: n1: task 0: Exited with exit code 75\n", 137, 137),
        (TORCHRUN.format(75) + AGENTS, 1, 75),
        ("a rank said: exitcode  : 75\n", 0, 0),
    ],
)
def test_the_ranks_code_is_found_where_the_starter_hides_it(heard, code, of_ranks):
    words = FailureReport()
    for line in heard.encode().splitlines(keepends=True):
        words.add(line)
    assert words.code_of_ranks(code) == of_ranks


def test_srun_outlives_every_last_word():
    waits = next(int(flag.removeprefix("--wait=")) for flag in STEP_FLAGS if flag.startswith("--wait="))
    assert 2 * _REPORT_S <= waits


@contextlib.contextmanager
def when_both_run(folder: Path, number: int) -> Iterator[list[float]]:
    """Send ourselves a signal once two ranks have left their files in the folder; yields the moment of it."""
    sent: list[float] = []

    def send():
        while not {"0", "1"} <= {path.name for path in folder.iterdir()}:
            time.sleep(0.05)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    yield sent
    sender.join()


def last(capfd) -> str:
    return capfd.readouterr().err.splitlines()[-1]
