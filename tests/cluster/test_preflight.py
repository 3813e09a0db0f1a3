"""What is checked before a submission, and what status, logs and cancel make of a silent batch system."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from support.batch_runs import until

from kakurenbo_hpc import cli
from kakurenbo_hpc.cluster import preflight
from kakurenbo_hpc.cluster.doctor.run import _path_of_job
from kakurenbo_hpc.cluster.logs import logs
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.cluster.text_table import format_table
from kakurenbo_hpc.errors import UserError

GOOD = ["digits_kakurenbo", "--machine", "machine.yaml", "--walltime", "1h", "--run-dir", "run"]
SINFO = "echo 'all*|up|2:00:00|4'; echo 'down|down|infinite|1-infinite'"
ACCEPTS = 'case "$*" in *--test-only*) exit 0;; *) echo "$@" >> "$HERE/told"; echo 12;; esac'
REFUSES = "echo 'sbatch: error: invalid account' >&2; echo 'allocation failure: Invalid account' >&2; exit 1"


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")

    def write(name: str, text: str) -> None:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    write("sinfo", SINFO)
    write("sbatch", ACCEPTS)
    write("squeue", "for job in 11 12; do echo 'RUNNING|None|0:02|N/A|'$job; done")
    write("sacct", "exit 1")
    return write


@pytest.fixture
def call(program, tmp_path, monkeypatch, capsys):
    """The command line, in a folder of its own with a machine file."""
    monkeypatch.chdir(tmp_path)
    write_machine(tmp_path)

    def call(*words: object, verb: str = "submit") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kakurenbo", verb, *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (left.value.code, *capsys.readouterr())

    return call


def write_machine(folder: Path, **facts) -> None:
    here = {"name": "here", "scheduler": "slurm", "starter": "mpirun", "ranks_per_node": 2}
    (folder / "machine.yaml").write_text(yaml.safe_dump(here | facts))


REFUSED = {
    "a closed partition": ({"queue": "down"}, [], None, "partition down is down; wait, or set queue"),
    "an unknown partition": ({"queue": "al"}, [], None, "Slurm has no such partition; did you mean all?"),
    "a long walltime": (
        {},
        ["--walltime", "3h"],
        None,
        "the walltime is 03:00:00, but queue all ends jobs after 02:00:00; give less, runs are requeued",
    ),
    "many nodes": (
        {},
        ["--nodes", "5", "--set", "training.global_batch=100"],
        None,
        "--nodes is 5, but queue all takes at most 4; ask for fewer",
    ),
    "a wrong account": (
        {"account": "b"},
        [],
        REFUSES,
        "sbatch refuses: sbatch: error: invalid account alloc",
    ),
    "no such module": ({"modules": ["cuda/13"]}, [], None, "module load cuda/13: fails in a login shell ("),
    "torchrun on PBS nodes": (
        {"scheduler": "pbs", "starter": "torchrun"},
        ["--nodes", "2"],
        None,
        "here: torchrun starts on 2 nodes through Slurm only, but scheduler is pbs; set starter to mpirun",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_fail_in_the_queue_is_refused_in_one_line_and_can_be_forced(case, call, program, tmp_path):
    facts, words, sbatch, message = REFUSED[case]
    write_machine(tmp_path, **facts)
    if sbatch:
        program("sbatch", sbatch)
    program("qsub", "echo 12.here")
    code, out, err = call(*GOOD, *words)
    assert (code, out, err.count("\n"), (tmp_path / "run").exists()) == (2, "", 1, False)
    assert message in err and err.endswith("; --force submits all the same\n")
    assert call(*GOOD, *words, "--dry-run")[0] == 0
    program("sbatch", ACCEPTS)
    assert call(*GOOD, *words, "--force")[0] == 0


def test_a_batch_system_that_is_silent_before_a_submission_is_left_to_its_own_command(
    call, program, tmp_path
):
    program("sinfo", "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")
    assert call(*GOOD)[0] == 0
    assert (tmp_path / "told").read_text() == "--parsable script.sh\n"


def test_a_refused_submission_leaves_nothing_behind(call, program, tmp_path):
    program("sbatch", REFUSES)
    (tmp_path / "kept").mkdir()
    for run in ("new/run", "kept"):
        assert call(*GOOD[:-1], run, "--force")[0] == 2
    assert not (tmp_path / "new").exists() and list((tmp_path / "kept").iterdir()) == []
    batch = submitted(tmp_path, "before")
    (batch / "exit_code").write_text("0\n")
    program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert call(*GOOD[:-1], "before", "--force")[0] == 2
    assert " done " in call("before", verb="status")[1]


@pytest.mark.parametrize("sbatch", ["echo Welcome", "echo 'sbatch: error: Socket timed out' >&2; exit 1"])
def test_a_submission_that_may_have_been_accepted_keeps_its_folder(sbatch, call, program, tmp_path):
    program("sbatch", sbatch)
    code, _, err = call(*GOOD, "--force")
    assert (code, err.count("\n")) == (2, 1) and (tmp_path / "run" / "batch" / "script.sh").exists()


def test_what_passes_to_the_batch_system_is_printed_and_what_contradicts_the_script_withheld(
    call, program, tmp_path, monkeypatch
):
    program("sbatch", 'env > "$HERE/seen"; echo 12')
    for name, value in {"SBATCH_TIMELIMIT": "60", "SBATCH_ACCOUNT": "mine", "SLURM_JWT": "secret"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = call(*GOOD)
    assert code == 0 and "secret" not in err
    assert "passed on to the batch system: SBATCH_ACCOUNT=mine, SLURM_JWT=..." in err
    assert "withheld, the script says otherwise: SBATCH_TIMELIMIT" in err
    seen = (tmp_path / "seen").read_text()
    assert "SBATCH_ACCOUNT=mine\n" in seen and "SLURM_JWT=secret\n" in seen and "TIMELIMIT" not in seen


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("echo loaded $2", None),
        ("echo 'The following module(s) are unknown: \"b\"' >&2; return 1", "are unknown"),
        ("echo 'ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile' >&2", "Unable to locate"),
    ],
)
def test_modules_are_loaded_as_the_script_does(module, message, tmp_path, monkeypatch):
    (tmp_path / ".bash_profile").write_text(f"module() {{ {module}; }}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    machine = Machine(name="own", starter="mpirun", modules=["a", "b"])
    if message is None:
        assert preflight.check_modules(machine) == "a, b can be loaded"
    else:
        with pytest.raises(
            UserError, match=rf"^module load a b: fails in a login shell \(.*{message}.*; correct"
        ):
            preflight.check_modules(machine)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model.name=resnet5O", "model.name is 'resnet5O', which is unknown; did you mean resnet50"),
        ("training.optimizer=sdg", "training.optimizer is 'sdg', which is unknown; did you mean "),
    ],
)
def test_names_of_model_and_optimizer_are_known_before_the_queue(words, message, call, tmp_path):
    code, _, err = call(*GOOD, "--set", words)
    assert (code, err.count("\n")) == (2, 1) and message in err


def test_names_that_need_no_library_cost_no_process(call, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "run_job_probe", None)
    assert call(*GOOD)[0] == 0


def submitted(folder: Path, name: str, system: str = "slurm") -> Path:
    batch = folder / name / "batch"
    batch.mkdir(parents=True)
    facts = {"system": system, "name": name, "machine": "here", "nodes": 1, "ranks": 2, "walltime_s": 3600}
    (batch / "submission.json").write_text(json.dumps(facts))
    (batch / "jobs.txt").write_text("12\n")
    (batch.parent / "metrics.jsonl").write_text('{"epoch": 4}\n')
    return batch


def test_status_says_how_far_a_run_has_come_and_remembers_how_it_ended(call, program, tmp_path):
    """As JSON; after the end the batch system is not asked again, and a resubmission is."""
    batch = submitted(tmp_path / "runs", "a")
    about = json.loads((batch / "submission.json").read_text())
    (batch / "submission.json").write_text(json.dumps(about | {"epochs": 10}))
    (batch / "requeues").write_text("2\n")
    line = {"val_accuracy": 0.5, "seconds": {"total": 30.0}}
    lines = [json.dumps({"epoch": epoch, **line}) for epoch in range(4)]
    (batch.parent / "metrics.jsonl").write_text("\n".join([*lines, '{"epoch": 4, "val_a']))  # being written
    (batch.parent / "heartbeat").mkdir()
    (batch.parent / "heartbeat" / "rank_0000.json").write_text("{}")
    [told] = json.loads(call("--all", "--json", verb="status")[1])
    assert told.pop("heartbeat_s") < 60
    assert told == {
        **{"run": "runs/a", "job": "12", "state": "running", "detail": "RUNNING 0:02", "reason": None},
        **{"begins": None, "n_epochs": 4, "epochs": 10, "accuracy": 0.5, "epoch_s": 30.0, "left_s": 180.0},
        "n_requeues": 2,
    }
    assert " 4/10    0.5000    30.0     00:03:00 " in call("runs/a", verb="status")[1]
    program("squeue", "echo 'FAILED|NonZeroExitCode|0:09|N/A|12'")
    assert " failed " in call("--all", verb="status")[1]
    program("squeue", DOWN)
    [told] = json.loads(call("--all", "--json", verb="status")[1])
    assert (told["state"], told["detail"]) == ("failed", "FAILED NonZeroExitCode 0:09")
    assert not (tmp_path / "asked").exists()
    (batch / "jobs.txt").write_text("12\n13\n")
    assert json.loads(call("--all", "--json", verb="status")[1])[0]["state"] == "unknown"


def test_a_run_is_stopped_with_a_checkpoint_and_stays_or_comes_back(call, program, tmp_path):
    batch = submitted(tmp_path / "runs", "a")
    code, out, _ = call("runs/a", "--requeue", verb="stop")
    assert (code, out) == (0, "runs/a: job 12 writes a checkpoint and leaves; goes back into the queue\n")
    assert (batch.parent / "stop").read_text() == "kakurenbo stop\n" and not (batch / "stopped").exists()
    assert "kakurenbo submit --resume goes on" in call("runs/a", verb="stop")[1]
    assert (batch / "stopped").read_text() == "12\n"
    program("squeue", "echo 'FAILED|NonZeroExitCode|0:09|N/A|12'")
    (batch / "exit_code").write_text("75\n")
    assert " cancelled " in (shown := call("runs/a", verb="status")[1]), shown
    assert "by kakurenbo stop, after a checkpoint; FAILED" in shown
    assert "has ended already (cancelled: by kakurenbo stop" in call("runs/a", verb="stop")[1]
    batch = submitted(tmp_path / "runs", "waits")
    program("squeue", "echo 'PENDING|Priority|0:00|N/A|12'")
    program("scancel", "exit 0")
    assert "waits in the queue; there is nothing to stop" in call("runs/waits", "--requeue", verb="stop")[1]
    assert "had not begun, and is cancelled" in call("runs/waits", verb="stop")[1]
    (tmp_path / "here" / "heartbeat").mkdir(parents=True)
    (tmp_path / "here" / "heartbeat" / "rank_0000.json").write_text("{}")
    assert "kakurenbo launch --resume goes on" in call("here", verb="stop")[1]
    assert (tmp_path / "here" / "stop").exists()


def test_the_log_of_one_job_is_found_by_its_id(call, tmp_path):
    batch, night = submitted(tmp_path / "runs", "a"), "2026-11-28 11:00:00"
    (batch / "jobs.txt").write_text("12\n13\n")
    first = f"== job 12, {night}: attempt 1 of 21, on n1\nepoch 1\n== job 12, {night}: requeued\n"
    second = f"== job 13, {night}: attempt 2 of 21, on n2\nepoch 2\n"
    (batch / "log.txt").write_text("by the batch system\n" + first + second)
    assert [call("--job", job_id, verb="logs")[1] for job_id in ("12", "13")] == [first, second]


def test_submit_waits_for_the_end_and_leaves_with_the_code_of_the_run(call, program, tmp_path, monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.cluster.job_states.time.sleep", lambda _: None)
    back = 'if [ "$(wc -l < $HERE/asked)" -gt 3 ]; then echo "{}|None|1:00|N/A|12"; exit; fi; '
    back += 'echo "RUNNING|None|0:02|N/A|12"'
    for ending, code in (("COMPLETED", 0), ("TIMEOUT", 1)):
        program("squeue", f"echo asked >> $HERE/asked; {back.format(ending)}")
        (tmp_path / "asked").unlink(missing_ok=True)
        (left, out, _) = call(*GOOD[:-1], ending, "--wait", "--force")
        assert left == code and f"/{ending}: " in out.splitlines()[-1], out


def test_a_run_begins_after_another_one_is_done(call, program, tmp_path):
    batch = submitted(tmp_path / "runs", "first")
    words = [*GOOD[:-1], "second", "--after", "runs/first", "--force"]
    assert call(*words)[0] == 0
    assert "--dependency=afterok:12 --kill-on-invalid-dep=yes" in (tmp_path / "told").read_text()
    program("squeue", "echo 'FAILED|NonZeroExitCode|0:09|N/A|12'")
    code, _, err = call(*words[:-4], "third", *words[-3:])
    assert code == 2 and "--after runs/first: failed (FAILED NonZeroExitCode 0:09), so nothing begins" in err
    (batch / "ended.json").write_text('{"job": "12", "status": "done", "detail": ""}')
    (tmp_path / "told").unlink()
    assert call(*words[:-4], "third", *words[-3:])[0] == 0
    assert (tmp_path / "told").read_text() == "--parsable script.sh\n"


DOWN = "echo asked >> $HERE/asked; echo 'slurm_load_jobs error: Socket timed out on send' >&2; exit 1"


def test_the_state_of_runs_is_shown_as_far_as_it_is_known(call, program, tmp_path):
    for name in ("a", "b"):
        submitted(tmp_path / "runs", name)
    (submitted(tmp_path / "runs", "torn") / "submission.json").write_text("{")
    program("squeue", DOWN)
    code, out, err = call("--all", verb="status")
    rows = {line.split()[0].rpartition("/")[2]: line.split() for line in out.splitlines()}
    assert code == 0 and err == ""
    for name in ("a", "b"):
        assert rows[name][1:5] == ["12", "unknown", "5", "-"] and "squeue" in rows[name]
    assert rows["torn"][2:4] == ["unknown", "5"]
    assert (tmp_path / "asked").read_text() == "asked\n"  # once: each question waits for the time-out


def test_a_log_is_followed_through_a_time_without_an_answer(program, tmp_path, capfdbinary):
    batch = submitted(tmp_path, "run")
    (batch / "log.txt").write_text("epoch 1\n")
    back = 'if [ "$(wc -l < $HERE/asked)" -gt 3 ]; then echo "COMPLETED|None|1:00|N/A|12"; exit; fi'
    program("squeue", f"echo asked >> $HERE/asked; {back}; {DOWN.partition('; ')[2]}")
    assert logs(tmp_path / "run", follow=True, pause_s=0.05) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"epoch 1\n"
    assert err.count(b"\n") == 1 and b"Socket timed out" in err and b"following the log all the same" in err


def test_one_run_that_cannot_be_cancelled_does_not_keep_the_others(call, program, tmp_path):
    for name in ("a", "b"):
        submitted(tmp_path / "runs", name)
    (tmp_path / "runs" / "a" / "batch" / "jobs.txt").write_text("11\n")
    program("scancel", '[ "$1" = 12 ] || { echo "scancel: error: Access/permission denied" >&2; exit 1; }')
    code, out, err = call("runs", verb="cancel")
    assert (code, out) == (1, "runs/b: job 12 is cancelled\n")
    assert err.startswith("kakurenbo: runs/a: scancel refuses: ") and err.count("\n") == 1
    assert (tmp_path / "runs" / "b" / "batch" / "cancelled").read_text() == "12\n"
    program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    (tmp_path / "runs" / "b" / "batch" / "exit_code").write_text("143\n")
    assert " cancelled " in call("runs/b", verb="status")[1]


def test_columns_stay_aligned_whatever_the_width_of_the_letters():
    table = format_table([("run", "state"), ("学習/一", "done"), ("café", "done"), ("cafe\u0301", "done")])
    assert table.splitlines() == ["run      state", "学習/一  done", "café     done", "cafe\u0301     done"]


def test_doctor_finds_the_launcher_that_the_job_will_run(tmp_path, monkeypatch):
    """The script puts the environment first; so does doctor, and it names the program by its path."""
    (tmp_path / "bin").mkdir()
    before = os.environ["PATH"]
    for scheduler, ranks in (("pbs", 2), ("none", None)):
        machine = Machine(
            name="own", scheduler=scheduler, starter="mpiexec", ranks_per_node=ranks, python=str(tmp_path)
        )
        with _path_of_job(machine):
            assert os.environ["PATH"].startswith(f"{tmp_path}/bin:") == (scheduler == "pbs")
        assert os.environ["PATH"] == before


def test_a_log_with_no_answer_ends_when_the_job_is_known_to_have_ended(program, tmp_path, capfdbinary):
    batch = submitted(tmp_path, "run")
    (batch / "log.txt").write_text("")
    program("squeue", "echo 'TIMEOUT|None|1:00|N/A|12'")
    assert until(lambda: logs(tmp_path / "run", follow=True, pause_s=0.05) == 0, lambda: "never ends")
    assert b"failed (TIMEOUT 1:00)" in capfdbinary.readouterr().err
