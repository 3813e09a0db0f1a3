"""Runs go through PBS: its commands are programs of ours on files, the scripts and ranks are real."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from support.batch_runs import ended, log, metrics, paused, state, until
from support.pbs_site import pbs_site
from support.start_ranks import environment

import kakurenbo_hpc
from kakurenbo_hpc import cli
from kakurenbo_hpc.cluster.doctor import run as doctor
from kakurenbo_hpc.cluster.doctor.checks import CHECKS

SHORT = ["--set", "training.epochs=2"]
CHECKOUT = str(Path(kakurenbo_hpc.__file__).parents[1])


@pytest.fixture
def pbs(tmp_path):
    """A PBS that keeps the history of jobs."""
    with pbs_site(tmp_path / "pbs", environment(), history=True) as pbs:
        yield pbs


@pytest.fixture
def site(pbs):
    """The environment of a login node. What PBS's jobs find on their PATH is in there as well."""
    return environment() | pbs.environment


@pytest.fixture
def machine(tmp_path):
    def write(**facts) -> Path:
        path = tmp_path / "my machine.yaml"
        here = {"name": "here", "scheduler": "pbs", "starter": "mpirun", "ranks_per_node": 2}
        facts["environment"] = {"PYTHONPATH": CHECKOUT} | facts.get("environment", {})
        path.write_text(yaml.safe_dump(here | facts))
        return path

    return write


@pytest.fixture
def call(site, tmp_path):
    def call(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "kakurenbo_hpc.cli", *map(str, words)]
        return subprocess.run(command, env=site, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return call


@pytest.fixture
def kakurenbo(call):
    def well(*words: object) -> str:
        done = call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return well


def jobs(run: Path) -> list[str]:
    return (run / "batch" / "jobs.txt").read_text().split()


def test_a_run_goes_to_its_end_whatever_its_name(kakurenbo, machine, tmp_path):
    run, name = tmp_path / "a run", "-a b's $(touch stolen)" + "x" * 70
    words = ["--walltime", "10m", "--run-dir", run, "--name", name, *SHORT]
    said = kakurenbo("submit", "digits_kakurenbo", "--machine", machine(chunk=["gpus_here=1"]), *words)
    assert said.splitlines() == [
        f"job 1.here: {name} on here, 1 x 2 ranks, 00:10:00",
        f"log: {run}/batch/log.txt",
        f"follow: kakurenbo logs --follow '{run}'",
    ]
    heard = kakurenbo("logs", "--follow", run)
    assert heard == log(run) and "--hostfile" in heard and "2 ranks on cpu" in heard, heard
    assert state(kakurenbo, run) == "done"
    assert (len(metrics(run)), jobs(run)) == (2, ["1.here"])
    assert not list(tmp_path.rglob("stolen"))


def test_a_cancelled_run_stays_cancelled(kakurenbo, machine, tmp_path):
    run = tmp_path / "run"
    words = ["--walltime", "10m", "--run-dir", run, "--set", "training.epochs=2000"]
    kakurenbo("submit", "digits_kakurenbo", "--machine", machine(), *words)
    until(lambda: metrics(run), lambda: log(run))
    assert state(kakurenbo, run) == "running"
    with paused(run) as held:  # on all of them TERM is lost, KILL is not
        assert {"launch", "train"} <= {word for process in held for word in process.cmdline()}
        kakurenbo("cancel", run)
        assert ended(kakurenbo, run) == "cancelled"
        until(lambda: not any(alive(process) for process in held), lambda: f"some of {held} go on")
    assert jobs(run) == ["1.here"]


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.nightly
def test_a_run_that_its_walltime_interrupts_is_requeued_and_ends_as_if_nothing_had_been(
    kakurenbo, machine, tmp_path
):
    run, alone = tmp_path / "run", tmp_path / "uninterrupted"
    kakurenbo(
        "submit",
        "digits_kakurenbo",
        "--machine",
        machine(grace_s=1799),
        "--walltime",
        "30m",
        "--run-dir",
        run,
    )
    # PBS has a copy of the script, which gives the run one second. The job after it has time enough.
    script = run / "batch" / "script.sh"
    script.write_text(script.read_text().replace("+ 1))", "+ 1500))"))
    until(lambda: len(jobs(run)) > 1, lambda: log(run))
    assert ended(kakurenbo, run) == "done", log(run)
    assert "the allotted time is over" in log(run) and log(run).count("resuming after") == 1
    assert jobs(run) == ["1.here", "2.here"]
    kakurenbo("launch", "digits_kakurenbo", "--ranks", 2, "--run-dir", alone)
    assert metrics(run) == metrics(alone)


def test_a_run_is_told_to_leave_by_its_control_file_and_requeued(kakurenbo, machine, tmp_path):
    run = tmp_path / "run"
    # On the fastest machine it is still under way a second later: rank 0 looks at the file no more often.
    words = ["--walltime", "30m", "--run-dir", run, "--set", "training.epochs=40"]
    kakurenbo("submit", "digits_kakurenbo", "--machine", machine(), *words)
    until(lambda: len(metrics(run)) >= 2, lambda: log(run))
    assert "goes back into the queue" in kakurenbo("stop", run, "--requeue")
    until(lambda: len(jobs(run)) > 1, lambda: log(run))
    assert ended(kakurenbo, run) == "done", log(run)
    assert (len(metrics(run)), log(run).count("resuming after"), (run / "stop").exists()) == (40, 1, False)


def test_the_mpiexec_that_doctor_names_starts_the_ranks_of_every_job(
    mpich, pbs, kakurenbo, machine, tmp_path, monkeypatch, capsys
):
    """MPICH from a wheel, where another mpiexec comes first on the PATH, on the login node and in jobs."""
    program = pbs.folder / "bin" / "mpiexec"
    program.write_text("#!/bin/sh\necho This is the mpiexec of PBS. >&2\nexit 1\n")
    program.chmod(0o755)
    run, here = tmp_path / "run", machine(starter="mpiexec", python=str(mpich))
    monkeypatch.setenv("PATH", pbs.path)
    monkeypatch.setattr(doctor, "CHECKS", [(name, check) for name, check in CHECKS if name == "mpi"])
    assert doctor.doctor(str(here), None, None, None, None) == 0
    named = capsys.readouterr().out.split()[-1]
    assert named == f"{mpich}/bin/mpiexec"
    words = ["--walltime", "30m", "--run-dir", run, "--set", "training.epochs=2000", "--force"]
    kakurenbo("submit", "digits_kakurenbo", "--machine", here, *words)
    until(lambda: metrics(run), lambda: log(run))
    kakurenbo("stop", run, "--requeue")
    until(lambda: len(jobs(run)) == 2, lambda: log(run))
    n_before = len(metrics(run))
    until(lambda: len(metrics(run)) > n_before, lambda: log(run))
    assert log(run).count(f" {named} -n 2 ") == 2 and log(run).count("resuming after") == 1


def test_a_run_that_outstays_its_walltime_is_killed_and_not_requeued(kakurenbo, machine, tmp_path):
    run = tmp_path / "run"
    words = ["--walltime", "00:00:05", "--run-dir", run, "--set", "training.epochs=2000"]
    here = machine(
        grace_s=1, environment={"KAKURENBO_DEADLINE": "99999999999"}
    )  # it does not know that it has to leave
    kakurenbo("submit", "digits_kakurenbo", "--machine", here, *words)
    assert ended(kakurenbo, run) == "failed"
    assert "exit status -29" in kakurenbo("status", run)
    [spooled] = (run / "batch").glob("*.o1")
    assert "=>> PBS: job killed: walltime" in spooled.read_text()
    assert "; =>> PBS: job killed: walltime" in kakurenbo("status", run)
    assert jobs(run) == ["1.here"]


def test_requeuing_has_an_end(kakurenbo, machine, tmp_path):
    run = tmp_path / "run"
    here = machine(grace_s=1799, max_requeues=1)  # a second, in which nothing has even begun
    kakurenbo("submit", "digits_kakurenbo", "--machine", here, "--walltime", "30m", "--run-dir", run)
    until(lambda: len(jobs(run)) == 2, lambda: log(run))
    assert ended(kakurenbo, run) == "failed", log(run)
    assert jobs(run) == ["1.here", "2.here"]
    assert "exit status 75" in kakurenbo("status", run)


@pytest.fixture
def quick(pbs, tmp_path, monkeypatch, capfd):
    """The command line in this process, on a PBS without history, and where the program of its jobs goes."""
    pbs.set(history=False)
    for name, value in pbs.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["kakurenbo", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capfd.readouterr().out

    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    facts = {"name": "here", "scheduler": "pbs", "starter": "mpirun", "ranks_per_node": 2, "max_requeues": 1}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(facts | {"python": str(tmp_path / "env")}))
    return call, python


def test_tasks_of_an_array_are_requeued_and_what_comes_after_a_run_waits_for_its_true_end(quick, tmp_path):
    call, python = quick
    python.write_text(
        '#!/bin/sh\nrun=${4%/batch/job.yaml}\necho "$run" >> began\n'
        '[ -e "$run/once" ] || { touch "$run/once"; sleep 1; exit 75; }\n'
    )
    python.chmod(0o755)
    submit = ["submit", "digits_kakurenbo", "--machine", "m.yaml", "--walltime", "1h", "--force"]
    code, out = call(*submit, "--array-of-seeds", "1,2%1", "--run-dir", "sweep")
    assert (code, out.splitlines()[0].partition(":")[0]) == (0, "jobs 1[0].here to 1[1].here")
    assert call(*submit, "--run-dir", "next", "--after", "sweep/seed_1")[0] == 0
    runs = [tmp_path / name for name in ("sweep/seed_1", "sweep/seed_2", "next")]

    def states() -> list[str]:
        return [run["state"] for run in json.loads(call("status", ".", "--json")[1])]

    until(lambda: states() == ["done"] * 3, lambda: log(runs[2]))
    began = [Path(line) for line in (tmp_path / "began").read_text().split()]
    assert [began.count(run) for run in runs] == [2, 2, 2]
    assert began.index(runs[2]) > max(i for i, run in enumerate(began) if run == runs[0])
    assert [len(jobs(run)) for run in runs[:2]] == [2, 2] and jobs(runs[1])[0] == "1[1].here"
    assert (
        "attempt 2 of 2" in log(runs[0])
        and json.loads(call("status", "next", "--json")[1])[0]["n_requeues"] == 1
    )


def test_a_pbs_without_history_hides_no_end_of_a_run(quick, tmp_path):
    """Runs whose Python ends at once; all commands know how, and it can be submitted again and cancelled."""
    call, python = quick
    words = ["submit", "digits_kakurenbo", "--machine", "m.yaml", "--walltime", "1h", "--run-dir", "run"]
    for code, word, marks in (
        (0, "done", ["attempt 1 of 2, on ", "exit code 0"]),
        (3, "failed", ["attempt 1 of 2, on ", "exit code 3"]),
        (
            75,
            "failed",
            ["attempt 1 of 2, on ", "requeued", "attempt 2 of 2, on ", "gave up after 1 requeues"],
        ),
    ):
        python.write_text(f"#!/bin/sh\nexit {code}\n")
        python.chmod(0o755)
        (tmp_path / "run" / "batch" / "log.txt").unlink(missing_ok=True)
        assert call(*words, "--resume")[0] == 0
        if code == 75:
            until(lambda: "gave up" in log(tmp_path / "run"), lambda: log(tmp_path / "run"))
        said = call("logs", "run", "--follow")[1]
        assert [
            line.partition(": ")[2][: len(mark)] for line, mark in zip(said.splitlines(), marks, strict=True)
        ] == marks
        assert f" {word} " in call("status", "run")[1] and f"exit code {code}" in call("status", "run")[1]
    assert "has ended already (failed: exit code 75)" in call("cancel", "run")[1]
    python.write_text("#!/bin/sh\nsleep 60\n")
    assert call(*words, "--resume")[0] == 0
    until(lambda: " running " in call("status", "run")[1], lambda: log(tmp_path / "run"))
    assert "is cancelled" in call("cancel", "run")[1]
    until(lambda: " cancelled " in call("status", "run")[1], lambda: call("status", "run")[1])


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"chunk": ["ngpus=4"]}, "kakurenbo: qsub refuses: qsub: Unknown resource: ngpus; "),
        ({"queue": "gpu"}, "kakurenbo: qsub refuses: qsub: Unknown queue; "),
        ({"extra": ["-x y"]}, "kakurenbo: qsub refuses: it does not know an option (of extra in the machine"),
    ],
)
def test_what_pbs_refuses_is_one_line(facts, said, call, machine, tmp_path):
    done = call(
        "submit",
        "digits_kakurenbo",
        "--machine",
        machine(**facts),
        "--walltime",
        "10m",
        "--run-dir",
        tmp_path / "run",
        "--force",
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(said)


def test_the_commands_behave_as_pbs_was_seen_to(site, tmp_path):
    """What is relied on above, of the programs that stand in for PBS."""

    def say(*words: str) -> tuple[int, str]:
        done = subprocess.run(words, env=site, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, (done.stdout + done.stderr).strip()

    script = tmp_path / "script.sh"
    script.write_text(
        "#!/bin/bash\n#PBS -N sees\n#PBS -l select=2:ncpus=2:mpiprocs=2\n#PBS -j oe\n"
        "sort $PBS_NODEFILE | uniq -c | wc -l; pwd; echo $PBS_O_WORKDIR $MINE ${HOME_OF_MINE-none}\nexit "
        "75\n#PBS -q nowhere\n"
    )
    assert say("qsub", "-v", "MINE=1", "script.sh") == (0, "1.here")
    assert say("qsub", "-W", "depend=afterany:1.here", "script.sh") == (0, "2.here")
    until(lambda: "job_state = F" in say("qstat", "-x", "-f", "2.here")[1], lambda: "never ended")
    assert "Exit_status = 75" in say("qstat", "-x", "-f", "1.here")[1]
    assert say("qstat", "-f", "1.here")[0] == 35
    assert (tmp_path / "sees.o1").read_text().split("\n")[:3] == ["2", str(tmp_path), f"{tmp_path} 1 none"]
    for words, reason in [
        (["-N", "a b"], "usage: qsub"),
        (["-N", "a/b"], "usage: qsub"),
        (["-N", "x" * 300], "Job name is too long"),
        (["-l", "walltime=2h"], "Illegal attribute or resource value Resource_List.walltime"),
        (["-l", "select=1:ngpus=4"], "Unknown resource: ngpus"),
    ]:
        code, said = say("qsub", *words, "script.sh")
        assert code and reason in said
