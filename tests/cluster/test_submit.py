"""kakurenbo submit: jobs for a stand-in of sbatch, or one line that says what is wrong."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from support.runs import train_here
from support.start_ranks import environment

from kakurenbo_hpc import cli
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.cluster.schedulers.pbs import Pbs
from kakurenbo_hpc.cluster.script import Script
from kakurenbo_hpc.cluster.sweep import launch_sweep
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DONE, UserError
from kakurenbo_hpc.selection import METHODS

GOOD = ["digits_kakurenbo", "--machine", "machine.yaml", "--walltime", "1h"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The command line, in a folder of its own, and an sbatch that logs its arguments."""
    (tmp_path / "bin").mkdir()
    program(tmp_path, "sbatch", 'echo "$PWD" "$@" >> "$HERE/told"\nwc -l < "$HERE/told"')
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    monkeypatch.chdir(tmp_path)
    machine = {"name": "here", "scheduler": "slurm", "starter": "mpirun", "ranks_per_node": 2}
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump(machine))

    def call(*words: object, verb: str = "submit") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kakurenbo", verb, *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (left.value.code, *capsys.readouterr())

    return call


def job(run) -> dict:
    return yaml.safe_load((run / "batch" / "job.yaml").read_text())


def told(folder) -> list[str]:
    return (folder / "told").read_text().splitlines()


def test_strong_scaling_keeps_the_global_batch(call, tmp_path):
    code, out, _ = call(*GOOD, "--nodes", "1,2,3", "--scaling", "strong", "--run-dir", "sweep")
    assert (code, out.count("follow: ")) == (0, 3)
    for nodes in (1, 2, 3):
        run = tmp_path / "sweep" / f"nodes_000{nodes}"
        training = job(run)["training"]
        assert (training["global_batch"], training["batch_per_rank"]) == (60, None)
        assert f"#SBATCH --nodes={nodes}\n" in (run / "batch" / "script.sh").read_text()
        about = json.loads((run / "batch" / "submission.json").read_text())
        assert (about["nodes"], about["ranks"], about["scaling"]) == (nodes, 2 * nodes, "strong")


def test_weak_scaling_keeps_the_batch_of_a_rank(call, tmp_path):
    assert (
        call(
            *GOOD,
            "--nodes",
            "2,4",
            "--scaling",
            "weak",
            "--run-dir",
            "sweep",
            "--set",
            "training.accumulate=3",
        )[0]
        == 0
    )
    for nodes in (2, 4):
        training = job(tmp_path / "sweep" / f"nodes_000{nodes}")["training"]
        assert (training["global_batch"], training["batch_per_rank"]) == (None, 60 // (4 * 3))


def test_an_array_of_seeds_is_one_array_with_a_run_for_each(call, tmp_path):
    code, out, _ = call(*GOOD, "--array-of-seeds", "3,5-6%2", "--name", "mine")
    folder = tmp_path / "runs" / "mine"
    said = "jobs 1_0 to 1_2: mine on here, each 1 x 2 ranks, 01:00:00, 2 at a time"
    assert (code, out) == (0, f"{said}\nstatus: kakurenbo status {folder}\n")
    assert told(tmp_path) == [f"{folder}/batch --parsable --array=0-2%2 script.sh"]
    for task, seed in enumerate((3, 5, 6)):
        run = folder / f"seed_{seed}"
        assert job(run)["seed"] == seed
        about = json.loads((run / "batch" / "submission.json").read_text())
        assert (about["seed"], about["name"], about["epochs"]) == (seed, f"mine_seed_{seed}", 12)
        assert (run / "batch" / "jobs.txt").read_text() == f"1_{task}\n"
    script = (folder / "batch" / "script.sh").read_text()
    assert "#SBATCH --job-name=mine\n" in script
    assert "".join(f"    {folder}/seed_{seed}\n" for seed in (3, 5, 6)) in script


def test_options_of_the_command_line_stand_for_those_of_the_machine_file(call, tmp_path):
    machine = {"name": "here", "scheduler": "slurm", "starter": "mpirun", "ranks_per_node": 2}
    machine |= {"queue": "old", "extra": ["--qos=old", "--exclusive"]}
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump(machine))
    words = ["--queue", "fast", "--account", "a1", "--qos", "high", "--reservation", "r"]
    code, out, _ = call(*GOOD, *words, "--mail", "me@site.org", "--dependency", "singleton", "--dry-run")
    lines = [line.removeprefix("#SBATCH ") for line in out.splitlines() if line.startswith("#SBATCH ")]
    own = ["--exclusive", "--qos=high", "--reservation=r", "--mail-user=me@site.org", "--mail-type=END,FAIL"]
    assert code == 0 and {"--account=a1", "--partition=fast"} <= {*lines} and lines[-5:] == own
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump({**machine, "scheduler": "pbs", "extra": []}))
    words = ["--queue", "fast", "--reservation", "R12", "--mail", "me@site.org", "--dry-run"]
    assert "#PBS -q R12\n#PBS -M me@site.org\n#PBS -m ae\n" in call(*GOOD, *words)[1]
    for words, said in (
        (["--qos", "high"], "--qos is Slurm's; PBS has queues: name one with --queue"),
        (["--dependency", "singleton"], "--dependency singleton is Slurm's; on PBS name the run before with"),
    ):
        code, _, err = call(*GOOD, *words, "--dry-run")
        assert code == 2 and said in err


def test_sizes_and_seeds_together_are_all_of_them(call, tmp_path):
    call(*GOOD, "--nodes", "1,2", "--scaling", "strong", "--array-of-seeds", "1,2", "--run-dir", "sweep")
    runs = sorted(
        path.parents[1].relative_to(tmp_path / "sweep")
        for path in (tmp_path / "sweep").rglob("batch/jobs.txt")
    )
    assert [str(run) for run in runs] == [
        f"nodes_000{nodes}/seed_{seed}" for nodes in (1, 2) for seed in (1, 2)
    ]
    assert [line.split()[2] for line in told(tmp_path)] == ["--array=0-1"] * 2


def test_a_sweep_that_is_refused_half_way_says_what_was_submitted(call, tmp_path):
    """The first refusal of all is told as that of a single job."""
    refuses = 'echo "$PWD" >> "$HERE/told"\n[ "$(wc -l < "$HERE/told")" -{} 3 ] || '
    refuses += "{{ echo QOSMaxSubmit >&2; exit 1; }}; echo 12"
    program(tmp_path, "sbatch", refuses.format("lt"))
    sizes = ["--nodes", "1,2,3,5", "--scaling", "strong"]
    code, out, err = call(*GOOD, *sizes, "--run-dir", "a sweep")
    assert (code, out.count("follow: "), len(told(tmp_path))) == (2, 2, 3)
    reason = "sbatch refuses: QOSMaxSubmit; correct the machine file or the command"
    those = f"2 of 4 runs were submitted before; kakurenbo status '{tmp_path}/a sweep' lists them"
    assert err == f"kakurenbo: {tmp_path}/a sweep/nodes_0003: {reason}; {those}\n"
    (tmp_path / "told").unlink()
    program(tmp_path, "sbatch", refuses.format("gt"))
    assert call(*GOOD, "--array-of-seeds", "1,2", "--run-dir", "other") == (2, "", f"kakurenbo: {reason}\n")
    assert not (tmp_path / "other" / "seed_1").exists()


@pytest.mark.parametrize(("scaling", "batches"), [("strong", [60, 60, 60]), ("weak", [20, 40, 60])])
def test_launch_takes_the_sweep_that_submit_has(scaling, batches, call, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    started = []

    def start(job, job_file, run_dir, n_ranks, overrides):
        assert read_job(job_file, overrides, DATASETS, METHODS).training == job.training
        started.append((run_dir.name, job.training.batch(n_ranks)))
        return 0 if n_ranks < 3 else 1

    def read(overrides):
        batch = [] if scaling == "strong" else ["training.global_batch=20"]
        return read_job(find_job("digits_kakurenbo"), batch + overrides, DATASETS, METHODS)

    here = Machine(name="here", starter="mpirun")
    assert launch_sweep(read, here, tmp_path / "sweep", [1, 2, 3, 4], scaling, start, False) == 1
    assert started == [(f"ranks_000{n}", batch) for n, batch in zip((1, 2, 3), batches, strict=True)]
    code, out, _ = call("digits_kakurenbo", "--ranks", "1,2", "--scaling", "weak", "--dry-run", verb="launch")
    assert (code, out.count("runs/digits_kakurenbo/ranks_000")) == (0, 2)
    growth = "weak scaling, 1, 2 ranks: global batch 60, 120; learning rate 0.05, 0.05 ("
    assert growth + "training.lr_scaling is none)" in out.splitlines()
    assert int(os.environ["OMP_NUM_THREADS"]) == max(
        1, len(os.sched_getaffinity(0)) // 4
    )  # as at the largest


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ("slurm", "sbatch --parsable --dependency=afterok:12 --kill-on-invalid-dep=yes script.sh"),
        ("pbs", "qsub -W depend=afterok:12 script.sh"),
    ],
)
def test_a_dependency_reaches_the_batch_system_in_its_own_words(scheduler, words, call, tmp_path):
    machine = {"name": "here", "scheduler": scheduler, "starter": "mpirun", "ranks_per_node": 2}
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump(machine))
    code, _, err = call(*GOOD, "--dependency", "afterok:12", "--run-dir", "run", "--dry-run")
    assert code == 0
    assert err == f"would run: cd {tmp_path}/run/batch && {words}\nnothing was submitted\n"
    if scheduler == "slurm":
        assert call(*GOOD, "--dependency", "afterok:12", "--run-dir", "run")[0] == 0
        assert told(tmp_path) == [
            f"{tmp_path}/run/batch --parsable --dependency=afterok:12 --kill-on-invalid-dep=yes script.sh"
        ]


def test_a_dry_run_leaves_nothing_and_its_script_is_the_one_that_is_submitted(call, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, script, _ = call(*GOOD, "--dry-run")
    assert (code, sorted(tmp_path.rglob("*"))) == (0, before)
    call(*GOOD)
    assert (tmp_path / "runs" / "digits_kakurenbo" / "batch" / "script.sh").read_text() == script


WRONG = {
    "no machine": (["digits_kakurenbo", "--walltime", "1h"], "Missing option '--machine'"),
    "no walltime": (GOOD[:3], "Missing option '--walltime'"),
    "no job": (GOOD[1:], "Missing argument 'JOB'"),
    "an unknown job": (["digits_kakurembo", *GOOD[1:]], "did you mean digits_kakurenbo"),
    "an unknown machine": (
        [GOOD[0], "--machine", "slurm_v10", "--walltime", "1h"],
        "did you mean slurm_v100",
    ),
    "a machine without a queue": (
        [GOOD[0], "--machine", "local", "--walltime", "1h"],
        "local has no batch system; start here with",
    ),
    "a machine file that is wrong": (
        [GOOD[0], "--machine", "bad.yaml", "--walltime", "1h"],
        "bad.yaml: starter is missing; add it",
    ),
    "a walltime without a unit": (
        [*GOOD[:4], "90"],
        "--walltime 90: not a time; write 2h, 90m, 1d, or HH:MM:SS",
    ),
    "a walltime within the grace": (
        [*GOOD[:4], "4m"],
        "before its end (grace_s of here), by Slurm up to 60 s earlier; give more",
    ),
    "a python that is not there": (
        [GOOD[0], "--machine", "no_python.yaml", *GOOD[3:]],
        "which contains no bin/python; correct it in the",
    ),
    "a path that is not UTF-8": (
        [*GOOD, "--run-dir", "a\udcff"],
        "a\\udcff: not UTF-8, and a batch script is; rename it, or give another",
    ),
    "no nodes": (
        [*GOOD, "--nodes", "0"],
        "--nodes is '0', but must be different whole numbers from 1 on; for example 1,2,4",
    ),
    "nodes that are no numbers": ([*GOOD, "--nodes", "two"], "--nodes is 'two', but must be"),
    "sizes with a gap": ([*GOOD, "--nodes", "1,,2", "--scaling", "weak"], "--nodes is '1,,2', but must be"),
    "a size twice": (
        [*GOOD, "--nodes", "2,2", "--scaling", "weak"],
        "--nodes is '2,2', but must be different",
    ),
    "sizes without scaling": (
        [*GOOD, "--nodes", "1,2"],
        "--nodes gives several sizes; say with --scaling strong or weak",
    ),
    "strong scaling of a rate that grows with the ranks": (
        [*GOOD, "--nodes", "1,2", "--scaling", "strong", "--set", "training.lr_scaling=ranks"],
        "which raises the learning rate with the number of ranks",
    ),
    "an unknown scaling": (
        [*GOOD, "--nodes", "1,2", "--scaling", "stong"],
        "--scaling is stong, but must be strong",
    ),
    "seeds that are no numbers": (
        [*GOOD, "--array-of-seeds", "3-1"],
        "--array-of-seeds is '3-1', but must be different whole numbers",
    ),
    "seeds twice": (
        [*GOOD, "--array-of-seeds", "1-3,2"],
        "--array-of-seeds is '1-3,2', but must be different",
    ),
    "a limit that is none": (
        [*GOOD, "--array-of-seeds", "1-3%0"],
        "--array-of-seeds is '1-3%0', but after % comes how many run at a time; 1-20%4",
    ),
    "a queue of two words": ([*GOOD, "--queue", "a b"], "--queue is 'a b', but must be one word"),
    "a run before that is none": (
        [*GOOD, "--after", "nothing"],
        "nothing: nothing was submitted for a run there; name the run directory",
    ),
    "a name with a slash": (
        [*GOOD, "--name", "a/b"],
        "--name is 'a/b', which is not usable as a folder name",
    ),
    "a name of dots": ([*GOOD, "--name", ".."], "--name is '..', which is not usable as a folder name"),
    "a dependency with more in it": (
        [*GOOD, "--dependency", "afterok:1; id"],
        "--dependency is 'afterok:1; id', but must be one word",
    ),
    "a batch of fewer samples than ranks": (
        [*GOOD, "--nodes", "31"],
        "training.global_batch is 60, too small for 62 ranks x 1",
    ),
    "a sweep with more ranks than samples of a batch": (
        [*GOOD, "--nodes", "1,31", "--scaling", "strong"],
        "too small for 62 ranks x 1",
    ),
    "local data without scratch": (
        [*GOOD, "--set", "data.placement=local"],
        "data.placement is local, but here has no scratch folder",
    ),
    "more ranks than samples": (
        [*GOOD, "--nodes", "1000", "--set", "training.global_batch=2000"],
        "digits has 1437 samples for 2000 ranks; use at most one rank a sample",
    ),
    "more ranks than the cores of a node bear": (
        [GOOD[0], "--machine", "crowded.yaml", *GOOD[3:], "--set", "training.global_batch=60"],
        "here: ranks_per_node is 20, but cores_per_node is 2; start at most 8 ranks a core",
    ),
    "a key of the job misspelt": ([*GOOD, "--set", "training.epoch=5"], "did you mean epochs?"),
    "a run directory that is a file": (
        [*GOOD, "--run-dir", "machine.yaml"],
        "machine.yaml: a file is there, not a folder; give another --run-dir",
    ),
    "no such option": ([*GOOD, "--node", "2"], "No such option: --node"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_line_is_one_line_and_nothing_is_submitted(case, call, tmp_path):
    words, message = WRONG[case]
    (tmp_path / "bad.yaml").write_text("name: x\n")
    (tmp_path / "no_python.yaml").write_text(
        (tmp_path / "machine.yaml").read_text() + f"python: {tmp_path}/none\n"
    )
    crowded = {"name": "here", "scheduler": "slurm", "starter": "mpirun", "ranks_per_node": 20}
    (tmp_path / "crowded.yaml").write_text(yaml.safe_dump({**crowded, "cores_per_node": 2}))
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("kakurenbo: ") and message in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status"], "status: name a run directory, or say --all for all below runs/; one of them"),
        (
            ["status", "run", "--all"],
            "status: name a run directory, or say --all for all below runs/; one of them",
        ),
        (
            ["status", "--all"],
            "runs: nothing was submitted for a run there; name the run directory that submit printed",
        ),
        (
            ["status", "none"],
            "none: nothing was submitted for a run there; name the run directory that submit printed",
        ),
        (
            ["cancel", "none"],
            "none: nothing was submitted for a run there; name the run directory that submit printed",
        ),
        (
            ["logs", "none"],
            "none: nothing was submitted for a run there; name the run directory that submit printed",
        ),
        (["logs", "none", "--folow"], "No such option: --folow"),
        (["logs", "torn"], "torn/batch/submission.json: not what submit wrote; see that no job of the run"),
        (
            ["logs", "quiet"],
            "quiet/batch/log.txt: not written yet, the job is failed (was never accepted); wait for it with "
            "--follow",
        ),
        (["machines", "all"], "extra argument"),
        (["launch", "digits_kakurenbo", "--ranks", "0"], "--ranks is '0', but must be different whole"),
        (["launch", "digits_kakurenbo", "--ranks", "1,2"], "--ranks gives several sizes; say with --scaling"),
        (["launch", "digits_kakurenbo", "--scaling", "weak"], "--scaling is of a sweep; give its sizes with"),
        (["logs"], "logs: name a run directory, or a job with --job ID"),
        (["logs", "quiet", "--job", "9"], "quiet: no run there had job 9; kakurenbo status --all lists"),
        (["stop", "none"], "none: nothing was submitted for a run there; name the run directory"),
        (
            ["launch", "digits_kakurenbo", "--ranks", "3", "--nodes", "2"],
            "--ranks is 3, not divisible by 2 nodes; start as many",
        ),
    ],
)
def test_whoever_asks_after_a_run_in_wrong_words_gets_one_line(words, message, call, tmp_path):
    for run, text in (
        ("torn", "{"),
        ("quiet", json.dumps(dict(system="slurm", name="a", machine="b", nodes=1, ranks=1, walltime_s=60))),
    ):
        (tmp_path / run / "batch").mkdir(parents=True)
        (tmp_path / run / "batch" / "submission.json").write_text(text)
    code, out, err = call(*words[1:], verb=words[0])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("kakurenbo: ") and message in err


def test_a_run_that_is_there_is_not_submitted_over(call, tmp_path):
    assert call(*GOOD, "--run-dir", "first")[0] == 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "job.yaml").write_text(yaml.safe_dump(job(tmp_path / "first")))
    longer = ["--resume", "--set", "training.epochs=20"]
    another = "holds the run of another job (training.epochs was 12, is 20); "
    another += "give another --run-dir, or take the changes with"
    for words, message in [
        ([], "a run is there; add --resume, or give another --run-dir"),
        (longer, another),
    ]:
        code, _, err = call(*GOOD, "--run-dir", "run", *words)
        assert code == 2 and err.startswith(f"kakurenbo: {tmp_path}/run: {message}")
    assert not (tmp_path / "run" / "batch").exists()
    shutil.copytree(tmp_path / "run", tmp_path / "changed")
    assert call(*GOOD, "--run-dir", "run", "--resume")[0] == 0
    assert call(*GOOD, "--run-dir", "changed", *longer, "--allow-changes")[0] == 0
    assert job(tmp_path / "changed")["training"]["epochs"] == 20
    assert [
        "--allow-changes" in (tmp_path / run / "batch" / "script.sh").read_text()
        for run in ("run", "changed")
    ] == [False, True]


def test_a_run_that_is_in_the_queue_is_not_submitted_again(call, tmp_path):
    (tmp_path / "bin" / "sacct").symlink_to("/bin/false")
    assert call(*GOOD, "--run-dir", "run")[0] == 0
    for said, message in [
        (
            "echo 'RUNNING|None|1:00|N/A|1'",
            f"{tmp_path}/run: job 1 is running; wait, or end it with kakurenbo cancel",
        ),
        (
            "echo 'slurm_load_jobs: timed out' >&2; exit 1",
            "squeue gives no answer: slurm_load_jobs: timed out; try again later",
        ),
    ]:
        program(tmp_path, "squeue", said)
        code, _, err = call(*GOOD, "--run-dir", "run")
        assert (code, err) == (2, f"kakurenbo: {message}\n")
    assert len(told(tmp_path)) == 1
    program(tmp_path, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert call(*GOOD, "--run-dir", "run")[0] == 0


@pytest.mark.parametrize(
    ("said", "job_id"),
    [
        ("Welcome! 3 news\n12", "12"),
        ("12;cluster\nBye", "12"),
        ("Welcome!", None),
    ],
)
def test_a_job_id_is_found_in_what_a_site_adds_to_it(said, job_id, call, tmp_path):
    program(tmp_path, "sbatch", f"printf '{said}\\n'")
    code, out, err = call(*GOOD, "--run-dir", "run")
    if job_id:
        assert (code, (tmp_path / "run" / "batch" / "jobs.txt").read_text()) == (0, "12\n")
    else:
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(
            "kakurenbo: no job id in the output of the submit command: 'Welcome!'; look into the queue"
        )


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("echo 'qstat: Unknown Job Id 1.here' >&2; exit 153", None),
        ("echo '1.here Job has finished, use -x or -H' >&2; exit 35", None),
        ("printf 'Job Id: 1.here\\n    job_state = S\\n'", ("running", "S")),
        ("printf 'Job Id: 1.here\\n    job_state = H\\n'", ("queued", "H")),
    ],
)
def test_pbs_knows_a_job_or_has_forgotten_it(said, state, call, tmp_path):
    program(tmp_path, "qstat", said)
    assert (found := Pbs().job_state("1.here")) is state or found[:2] == state


def test_a_pbs_that_cannot_answer_has_not_forgotten(call, tmp_path):
    program(tmp_path, "qstat", "echo 'Connection refused' >&2; exit 111")
    with pytest.raises(UserError, match="^qstat gives no answer: Connection refused; try again later$"):
        Pbs().job_state("1.here")


def program(folder, name: str, text: str) -> None:
    (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / "bin" / name).chmod(0o755)


def test_a_finished_run_that_is_requeued_ends_at_once(tmp_path):
    """Both batch systems' scripts run for real, and train nothing."""
    run = tmp_path / "a run"
    short = ["training.epochs=1", "training.warmup_epochs=0"]
    assert train_here("digits_everything", short, run, SerialComm()) == DONE
    left = (run / "metrics.jsonl").read_text()
    (run / "batch").mkdir()
    shutil.copy(run / "job.yaml", run / "batch" / "job.yaml")
    for system in ("slurm", "pbs"):
        machine = Machine(name="here", scheduler=system, starter="mpirun", ranks_per_node=1)
        (run / "batch" / "machine.yaml").write_text(yaml.safe_dump(machine.model_dump(mode="json")))
        script = Script("digits", 1, 3600, machine, run, tmp_path, sys.executable).text()
        done = subprocess.run(
            ["bash", "-c", script], env=environment(), capture_output=True, text=True, timeout=120
        )
        log = run / "batch" / "log.txt"  # where PBS's script writes
        said = done.stdout + done.stderr + (log.read_text() if log.exists() else "")
        assert done.returncode == 0, said
        assert f"{run}: all 1 epochs are done" in said
        assert (run / "batch" / "exit_code").read_text() == "0\n"
    assert (run / "metrics.jsonl").read_text() == left
