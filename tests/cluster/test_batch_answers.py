"""What batch systems answer, word for word, and what is made of it: states, queues, refusals, variables."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from support.pbs_site import pbs_site

from kakurenbo_hpc.cluster.job_environment import choose_environment
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.cluster.schedulers.commands import NoAnswer, clock_seconds, failure_reason
from kakurenbo_hpc.cluster.schedulers.pbs import Pbs
from kakurenbo_hpc.cluster.schedulers.slurm import Slurm
from kakurenbo_hpc.cluster.script import Script
from kakurenbo_hpc.cluster.submission import BatchFolder, Submission
from kakurenbo_hpc.errors import UserError


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A PBS as it is installed: without history of jobs."""
    with pbs_site(tmp_path / "pbs", dict(os.environ)) as site:
        for name, value in site.environment.items():
            monkeypatch.setenv(name, value)
        yield site


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write a command of a batch system."""
    commands = tmp_path / "commands"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands), prepend=":")

    def write(name: str, text: str) -> None:
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)

    return write


def own(system: str, **facts) -> Machine:
    return Machine(name="own", scheduler=system, **{"starter": "mpirun", "ranks_per_node": 2, **facts})


def script(machine: Machine, nodes: int = 1) -> Script:
    return Script("digits", nodes, 3600, machine, Path("/run"), Path("/here"), "python")


# State of the job in PBS, what PBS says of it with the history of jobs, and without.
PBS_STATES = {
    "running": (("R", {}), ("running", "R"), ("running", "R")),
    "waits": (
        ("Q", {"comment": "Not Running: Insufficient amount of resource: ncpus (R: 4 A: 0 T: 4), and so on"}),
        ("queued", "Q Not Running: Insufficient amount of resource: ncpus (R: 4 A: 0 T: 4), and so on"),
        ("queued", "Q Not Running: Insufficient amount of resource: ncpus (R: 4 A: 0 T: 4), and so on"),
    ),
    "held": (("H", {"holds": "u"}), ("queued", "H Hold_Types = u"), ("queued", "H Hold_Types = u")),
    "done": (("F", {"status": 0}), ("done", "F exit status 0"), None),
    "failed": (("F", {"status": 3}), ("failed", "F exit status 3"), None),
    "cancelled": (("F", {"status": 271}), ("cancelled", "F exit status 271 (killed by SIGTERM)"), None),
    "deleted": (("F", {}), ("cancelled", "F"), None),
    "over its walltime": (
        ("F", {"status": -29}),
        ("failed", "F exit status -29 (killed: its walltime was over)"),
        None,
    ),
    "without the job before it": (
        ("F", {"comment": "Job deleted as result of dependency on job 8.here"}),
        ("failed", "F: Job deleted as result of dependency on job 8.here"),
        None,
    ),
}


@pytest.mark.parametrize("case", PBS_STATES)
def test_the_state_of_a_job_is_known_from_a_pbs_with_and_without_history(case, site):
    (state, facts), with_history, without = PBS_STATES[case]
    job_id = site.add_job(12, state, **facts)
    assert (found := Pbs().job_state(job_id)) is without or found[:2] == without
    site.set(history=True)
    assert Pbs().job_state(job_id)[:2] == with_history


def test_one_question_is_put_for_many_jobs_and_tells_when_they_may_start(site):
    waits = {
        "comment": "Not Running: Server resource limits",
        "estimated.start_time": "Sat Nov 28 09:05:00 2026",
    }
    known = [site.add_job(12, "R"), site.add_job(13, "Q", **waits), site.add_job(14, "F", status=0)]
    for history, ended in ((True, True), (False, False)):
        site.set(history=history)
        states = Pbs().job_states([*known, "99.here"])
        assert [job_id in states for job_id in (*known, "99.here")] == [True, True, ended, False]
        assert states["13.here"].reason == "Not Running: Server resource limits"
        assert states["13.here"].begins == "2026-11-28T09:05:00"


def test_the_stand_in_answers_word_for_word_as_pbs_did(site, tmp_path):
    site.add_job(50, "F", status=0)
    (tmp_path / "script.sh").write_text("#!/bin/bash\n")

    def say(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    no_history = "qstat: PBS is not configured to maintain job history\n"
    assert say("qstat", "-x", "-f", "50.here") == (0, "", no_history)
    assert say("qstat", "-f", "50.here") == (153, "", "qstat: Unknown Job Id 50.here\n")
    site.set(queues={"workq": {}, "closed": {"enabled": "False"}, "theirs": {"acl_user_enable": "True"}})
    for words, reason in [
        (["-l", "select=1:ngpus=1"], "Unknown resource: ngpus"),
        (["-q", "closed"], "Queue is not enabled"),
        (["-q", "theirs"], "Unauthorized Request "),
    ]:
        code, out, err = say("qsub", *words, "script.sh")
        assert code and (out, err) == ("", f"qsub: {reason}\n")
    assert say("qsub", "-W", "depend=afterok:9999", "script.sh") == (0, "2.here\n", "")
    assert say("qstat", "-f", "2.here") == (153, "", "qstat: Unknown Job Id 2.here\n")
    assert say("qsub", "-l", "select=1:ncpus=1:mem=500gb", "script.sh")[:2] == (0, "3.here\n")
    comment = "comment = Can Never Run: Insufficient amount of resource: mem (R: 500gb "
    assert comment in say("qstat", "-f", "3.here")[1].replace("\n\t", "")


def test_a_dependency_on_a_job_that_pbs_does_not_know_is_refused(site, tmp_path):
    (tmp_path / "script.sh").write_text("#!/bin/bash\n")
    deleted = (
        "^PBS accepted job 1.here and deleted it at once: afterok:9999 names a job that it does not know"
    )
    with pytest.raises(UserError, match=deleted):
        Pbs().submit(tmp_path, "afterok:9999")


def left_by(run: Path, files: dict[str, str], beat_s: float | None = None) -> BatchFolder:
    """Return the batch folder of a run of job 7.here, and of 8.here after it, with what they left."""
    batch = BatchFolder(run)
    batch.folder.mkdir(parents=True)
    submission = Submission("pbs", "digits", "here", 1, 2, 3600)
    (batch.folder / "submission.json").write_text(
        '{"system": "pbs", "name": "digits", "machine": "here", "nodes": 1, "ranks": 2, "walltime_s": 3600}'
    )
    assert batch.read() == submission
    for name, text in {"jobs.txt": "7.here\n8.here\n", **files}.items():
        (batch.folder / name).write_text(text)
    if beat_s is not None:
        (run / "heartbeat").mkdir()
        (run / "heartbeat" / "rank_0000.json").write_text("{}")
        os.utime(run / "heartbeat" / "rank_0000.json", (time.time() - beat_s,) * 2)
    return batch


KILLED = "=>> PBS: job killed: walltime 48 exceeded limit 45"


@pytest.mark.parametrize(
    ("files", "beat_s", "state", "detail"),
    [
        ({"exit_code": "0\n"}, 5, "done", "exit code 0"),
        ({"exit_code": "1\n"}, None, "failed", "exit code 1"),
        (
            {"exit_code": "143\n", "cancelled": "8.here\n"},
            None,
            "cancelled",
            "by kakurenbo cancel; exit code 143",
        ),
        ({"exit_code": "143\n", "cancelled": "7.here\n"}, None, "failed", "exit code 143"),
        ({"exit_code": "0\n", "cancelled": "8.here\n"}, None, "done", "exit code 0"),
        ({}, 5, "running", "PBS does not know the job, but its ranks wrote a heartbeat"),
        ({}, 7200, "failed", "its ranks wrote their last heartbeat 02:00:0"),
        ({}, None, "failed", "PBS does not know the job, and it left no exit code"),
        ({"digits.o8": f"news\n{KILLED}\n"}, None, "failed", KILLED),
        ({"digits.o7": f"{KILLED}\n", "exit_code": "1\n"}, None, "failed", "exit code 1"),
    ],
)
def test_of_a_job_that_pbs_has_forgotten_the_run_itself_tells(files, beat_s, state, detail, site, tmp_path):
    found = left_by(tmp_path / "run", files, beat_s).state
    assert found.status == state and detail in found.detail
    assert (KILLED in found.detail) == (detail == KILLED)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "echo 'Connection refused\nqstat: cannot connect to server pbsd (errno=111)' >&2; exit 255",
            "connect",
        ),
        ("true", "prints no job_state"),
    ],
)
def test_a_pbs_without_an_answer_has_not_forgotten(said, message, program):
    program("qstat", said)
    with pytest.raises(NoAnswer, match=message):
        Pbs().job_state("1.here")


QUEUES = {
    "workq": {},
    "short": {"resources_max.walltime": "01:00:00", "resources_max.nodect": 4},
    "free": {"resources_max.walltime": "UNLIMITED"},
    "closed": {"enabled": "False"},
    "stopped": {"started": "False"},
    "route": {"queue_type": "Route", "route_destinations": "closed,short,longer"},
    "longer": {"resources_max.walltime": "24:00:00", "resources_max.nodect": 2},
    "astray": {"queue_type": "Route", "route_destinations": "closed,astray"},
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, ("workq", None, None)),
        ("short", ("short", 3600, 4)),
        ("free", ("free", None, None)),
        ("route", ("route", 86400, 4)),
        ("closed", "queue closed is closed or stopped"),
        ("stopped", "queue stopped is closed or stopped"),
        ("astray", "queue astray routes to closed: queue closed is closed or stopped"),
        ("none", "Unknown queue none"),
    ],
)
def test_a_queue_of_pbs_is_followed_to_its_limits(name, found, site):
    site.set(queues=QUEUES)
    if isinstance(found, tuple):
        assert Pbs().find_queue(name) == found
        site.set(server={"resources_max.walltime": "00:30:00"})
        assert Pbs().find_queue(name).limit_s == 1800
    else:
        with pytest.raises(UserError, match=found):
            Pbs().find_queue(name)


@pytest.mark.parametrize(
    ("facts", "nodes", "message"),
    [
        ({}, 2, None),
        ({"chunk": ["gpus_here=1", "host=node1", "bigmem=True"]}, 2, None),
        ({"chunk": ["ngpus=1"]}, 1, "a chunk asks for ngpus, which no node of PBS has"),
        ({"chunk": ["gpus_here=2"]}, 1, "a chunk asks for gpus_here=2, more than any node of PBS has"),
        ({"memory_gib": 500}, 1, "a chunk asks for mem=500gb, more than any node of PBS has"),
        ({"cores_per_node": 64}, 1, "a chunk asks for ncpus=64, more than any node of PBS has"),
        ({}, 3, "--nodes is 3, but PBS has 2 such nodes; ask for fewer"),
    ],
)
def test_chunks_that_no_node_of_pbs_can_hold_are_found(facts, nodes, message, site):
    if message is None:
        Pbs().check_script(script(own("pbs", **facts), nodes), {})
    else:
        with pytest.raises(UserError, match=message):
            Pbs().check_script(script(own("pbs", **facts), nodes), {})


def test_a_pbs_whose_nodes_are_not_shown_is_left_to_qsub(site):
    (site.folder / "bin" / "pbsnodes").write_text("#!/bin/sh\necho 'Unauthorized Request' >&2; exit 159\n")
    Pbs().check_script(script(own("pbs", chunk=["ngpus=1"]), 9), {})


# What squeue and sacct said on a Slurm 22.05; squeue forgets a job minutes after its end.
GONE = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
DOWN = "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1"
SLURM_STATES = {
    "partition down": (
        "PENDING|PartitionDown|0:00|N/A",
        "PENDING|0:0|00:00:00|None",
        "queued",
        "PENDING PartitionDown 0:00",
    ),
    "held": ("PENDING|JobHeldUser|0:00|N/A", "", "queued", "PENDING JobHeldUser 0:00"),
    "over the limit": (
        "PENDING|PartitionTimeLimit|0:00|N/A",
        "PENDING|0:0|00:00:00|PartitionConfig",
        "queued",
        "PENDING PartitionTimeLimit 0:00",
    ),
    "waits its turn": (
        "PENDING|Resources|0:00|2026-11-28T08:01:36",
        "PENDING|0:0|00:00:00|None",
        "queued",
        "PENDING Resources 0:00 begins 2026-11-28T08:01:36",
    ),
    "runs": ("RUNNING|None|0:02|2026-11-28T07:59:57", "", "running", "RUNNING 0:02"),
    "runs, more printed": ("Welcome|to|our|site|12\nRUNNING|None|0:02|N/A", "", "running", "RUNNING 0:02"),
    "cancelled": (
        "CANCELLED|None|0:18|N/A",
        "CANCELLED by 1000|0:15|00:00:18|None",
        "cancelled",
        "CANCELLED by 1000 0:15 00:00:18",
    ),
    "without the job before it": (
        "CANCELLED|DependencyNeverSatisfied|0:00|2026-11-28T08:00:15",
        "",
        "failed",
        "CANCELLED DependencyNeverSatisfied 0:00",
    ),
    "failed": (
        "FAILED|NonZeroExitCode|0:00|N/A",
        "FAILED|3:0|00:00:00|None",
        "failed",
        "FAILED NonZeroExitCode 3:0 00:00:00",
    ),
    "ended, accounts lag": ("COMPLETED|None|1:00|N/A", "RUNNING|0:0|00:00:50|None", "done", "COMPLETED 1:00"),
    "long ago": (None, "TIMEOUT|0:0|01:00:02|None", "failed", "TIMEOUT 0:0 01:00:02"),
}


@pytest.mark.parametrize("case", SLURM_STATES)
def test_the_state_of_a_job_of_slurm_says_why_it_waits_and_how_it_ended(case, program):
    squeue, sacct, status, detail = SLURM_STATES[case]
    program("squeue", GONE if squeue is None else f"echo '{squeue}|12\nBye'")
    program("sacct", f"echo '{sacct}|12'")
    found = Slurm().job_state("12")
    assert found[:2] == (status, detail)
    assert found.begins == ("2026-11-28T08:01:36" if case == "waits its turn" else "")
    assert found.reason == (detail.split()[1] if status == "queued" else "")


def test_slurm_is_asked_once_for_many_jobs_and_sacct_for_those_that_have_ended(program):
    program(
        "squeue",
        "echo asked >> $0.asked; printf 'RUNNING|None|0:02|N/A|12\nPENDING|Priority|0:00|N/A|13_4\n'",
    )
    program("sacct", "echo \"$1\" >> $0.asked; echo 'COMPLETED|0:0|00:01:00|None|13_2'")
    states = Slurm().job_states(["12", "13_4", "13_2", "99"])
    assert {job_id: state.status for job_id, state in states.items()} == {
        **{"12": "running", "13_4": "queued", "13_2": "done"}
    }


def test_a_controller_that_is_down_leaves_the_word_to_the_accounts(program):
    program("squeue", DOWN)
    program("sacct", "echo 'RUNNING|0:0|00:01:02|None|12'")
    assert Slurm().job_state("12")[:2] == ("running", "RUNNING 0:0 00:01:02")
    program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    with pytest.raises(NoAnswer, match="^squeue gives no answer: .*timed out"):
        Slurm().job_state("12")
    program("squeue", GONE)
    assert Slurm().job_state("12") is None


SINFO = "all*|up|1:00:00|1-infinite\nlong|up|UNLIMITED|1-infinite\none|up|2-00:00:00|1\noff|inactive|5:00|1\n"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, ("all", 3600, None)),
        ("long", ("long", None, None)),
        ("one", ("one", 172800, 1)),
        ("all,one", ("all,one", 172800, None)),
        ("off", "partition off is inactive"),
        ("al", "Slurm has no such partition; did you mean all?"),
    ],
)
def test_a_partition_is_found_among_whatever_sinfo_prints(name, found, program):
    program("sinfo", f"echo 'Note: maintenance on Monday'; printf '{SINFO}'; echo; echo 'See | our | pages'")
    if isinstance(found, tuple):
        assert Slurm().find_queue(name) == found
    else:
        with pytest.raises(UserError, match=found.replace("?", r"\?")):
            Slurm().find_queue(name)


@pytest.mark.parametrize(
    ("clock", "seconds"),
    [
        ("3600", 3600),
        ("5:00", 300),
        ("01:00:00", 3600),
        ("2-00:00:00", 172800),
        ("UNLIMITED", None),
        ("", None),
    ]
    + [("infinite", None), ("n/a", None), ("1-", None), ("--", None)],
)
def test_a_limit_that_is_no_clock_is_none(clock, seconds):
    assert clock_seconds(clock) == seconds


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("qsub: Unknown resource: ngpus\n", "qsub: Unknown resource: ngpus"),
        (
            "usage: qsub [-a date_time]\n\t[-e path] ...\n",
            "it does not know an option (of extra in the machine",
        ),
        ("qsub: illegal -N value\nusage: qsub [-a\n", "qsub: illegal -N value"),
        (
            "sbatch: news\n" * 40 + "sbatch: error: Batch job submission failed: Invalid account\n",
            "sbatch: error: Batch job submission failed: Invalid account",
        ),
        (
            "srun: cluster configuration lacks support for cpu binding\nsrun: error: Unable to create step\n",
            "srun: error: Unable to create step",
        ),
        ("", "exit code 3"),
    ],
)
def test_the_reason_of_a_refusal_is_found_in_what_a_command_prints(stderr, reason):
    assert failure_reason(subprocess.CompletedProcess(["x"], 3, "", stderr)).startswith(reason)


def test_a_server_that_is_down_is_no_mistake_of_the_user(program, tmp_path):
    program(
        "sbatch", "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    )
    with pytest.raises(NoAnswer, match="sbatch gives no answer: .*; try again later$"):
        Slurm().submit(tmp_path, None)


SESSION = {
    **{"SLURM_JOB_ID": "3", "SLURM_MEM_PER_CPU": "100", "SLURMD_NODENAME": "n1", "SLURM_CONF": "/etc/s.conf"},
    **{"PMI_RANK": "0", "PMIX_NAMESPACE": "x", "OMPI_COMM_WORLD_RANK": "0", "PRTE_MCA_x": "1", "RANK": "0"},
    **{"KAKURENBO_DEADLINE": "1", "CUDA_VISIBLE_DEVICES": "0", "TMPDIR": "/tmp/job3", "HOME": "/me"},
}
DEFAULTS = {
    **{"SBATCH_TIMELIMIT": "60", "SBATCH_JOB_NAME": "x", "SBATCH_EXPORT": "NONE", "SQUEUE_FORMAT": "%i"},
    **{
        "SBATCH_ACCOUNT": "a",
        "SBATCH_PARTITION": "p",
        "SBATCH_QOS": "q",
        "SLURM_JWT": "secret",
        "HOME": "/me",
    },
    **{"CUDA_VISIBLE_DEVICES": "0", "SLURM_CLUSTERS": "c"},
}
JWT = "SLURM_JWT=..."


@pytest.mark.parametrize(
    ("system", "facts", "environ", "kept", "passed"),
    [
        ("slurm", {}, SESSION, "HOME SLURM_CONF", ["SLURM_CONF=/etc/s.conf"]),
        (
            "slurm",
            {},
            DEFAULTS,
            "CUDA_VISIBLE_DEVICES HOME SBATCH_ACCOUNT SBATCH_PARTITION SBATCH_QOS SLURM_CLUSTERS SLURM_JWT",
            ["SBATCH_ACCOUNT=a", "SBATCH_PARTITION=p", "SBATCH_QOS=q", "SLURM_CLUSTERS=c", JWT],
        ),
        (
            "slurm",
            {"account": "b", "queue": "r", "extra": ["--qos=s"]},
            DEFAULTS,
            "CUDA_VISIBLE_DEVICES HOME SLURM_CLUSTERS SLURM_JWT",
            ["SLURM_CLUSTERS=c", JWT],
        ),
        ("slurm", {"extra": ["-A b"]}, {"SBATCH_ACCOUNT": "a"}, "", []),
        (
            "pbs",
            {},
            {
                "PBS_JOBID": "3",
                "PBS_NODEFILE": "/n",
                "PBS_DPREFIX": "#X",
                "REQUEUES": "4",
                "PBS_DEFAULT": "pbsd",
            },
            "PBS_DEFAULT",
            ["PBS_DEFAULT=pbsd"],
        ),
        ("pbs", {}, SESSION, "HOME", []),
    ],
)
def test_a_job_gets_neither_what_an_outer_job_set_nor_defaults_that_contradict_it(
    system, facts, environ, kept, passed
):
    chosen = choose_environment(own(system, **facts), environ)
    assert (" ".join(sorted(chosen.variables)), chosen.passed) == (kept, passed)


def test_what_is_withheld_of_the_users_defaults_is_named():
    withheld = ["SBATCH_EXPORT", "SBATCH_JOB_NAME", "SBATCH_TIMELIMIT", "SQUEUE_FORMAT"]
    assert choose_environment(own("slurm"), DEFAULTS).withheld_defaults == withheld
    assert choose_environment(own("slurm"), SESSION).withheld_defaults == []


def test_no_default_of_the_user_changes_what_is_asked(program, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SLURM_CONF", "/etc/s.conf")
    program("squeue", '[ -z "$SQUEUE_STATES" ] && [ -n "$SLURM_CONF" ] && echo "PENDING|None|0:00|N/A|12"')
    assert Slurm().job_state("12")[:2] == ("queued", "PENDING 0:00")
