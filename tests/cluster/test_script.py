"""Batch scripts: compared with golden files, and run by bash with hostile values.

After a wanted change: GOLDEN=write pytest tests/cluster/test_script.py, and read the diff.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.batch_runs import until

from kakurenbo_hpc.cluster.machine import Machine, read_machine
from kakurenbo_hpc.cluster.script import Script, plain_name
from kakurenbo_hpc.cluster.walltime import format_clock, parse_walltime
from kakurenbo_hpc.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden"
HOSTILE = 'it\'s "a" $(touch stolen) `touch stolen`; touch stolen\ntouch stolen'


def script(
    machine: Machine,
    run: str = "/home/me/runs/digits_kakurenbo",
    name: str = "digits_kakurenbo",
    nodes: int = 2,
) -> Script:
    return Script(name, nodes, 7200, machine, Path(run), Path("/home/me"), "/home/me/venv/bin/python")


def own(system: str, **facts) -> Machine:
    return Machine(name="own", scheduler=system, **{"starter": "mpirun", "ranks_per_node": 2, **facts})


FULL = {
    "account": "project-7",
    "queue": "gpu",
    "environment": {"UCX_TLS": "rc,sm", "NOTE": "it's $(date)"},
    "max_requeues": 0,
}
SCRIPTS = {
    "slurm_v100.sh": lambda: script(read_machine("slurm_v100")),
    "pbs_v100.sh": lambda: script(read_machine("pbs_v100")),
    "slurm_small.sh": lambda: script(own("slurm"), nodes=1),
    "slurm_spares.sh": lambda: replace(script(own("slurm", spares=1), nodes=1), restarts=2),
    "flux_small.sh": lambda: script(own("flux"), nodes=1),
    "pbs_small.sh": lambda: script(own("pbs"), nodes=1),
    "slurm_hostile.sh": lambda: script(own("slurm", **FULL), run=f"/tmp/{HOSTILE}", name=HOSTILE),
    "flux_hostile.sh": lambda: script(own("flux", **FULL), run=f"/tmp/{HOSTILE}", name=HOSTILE),
    "pbs_hostile.sh": lambda: script(own("pbs", **FULL), run=f"/tmp/{HOSTILE}", name=HOSTILE),
}


@pytest.fixture(autouse=True)
def umask():
    """PBS's script holds the submitting shell's."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_the_golden_one(name):
    text = SCRIPTS[name]().text()
    if os.environ.get("GOLDEN") == "write":
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()
    assert text.count("\n") <= 55


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_right_for_bash_and_shellcheck(name):
    path = GOLDEN / name
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
    if shutil.which("shellcheck") is None and not os.environ.get("CI"):
        pytest.skip("no shellcheck here")
    # In a hostile name, $(...) that does not expand and literal quotes are wanted.
    wanted = ["--exclude=SC2016,SC2089,SC2090"] if "hostile" in name else []
    checked = subprocess.run(["shellcheck", *wanted, path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_nothing_in_a_name_or_path_runs(system, tmp_path):
    """Bash runs the script of a hostile name, path, variable and program; the program sees them unchanged."""
    run = tmp_path / HOSTILE.replace("/", "_")
    (run / "batch").mkdir(parents=True)
    python = tmp_path / f"py {HOSTILE}"
    python.write_text('#!/bin/bash\nprintf "%s\\0" "$PWD" "$NOTE" "$@" > "$SEEN"\n')
    python.chmod(0o755)
    machine = own(system, environment={"NOTE": HOSTILE, "SEEN": str(tmp_path / "seen")})
    text = Script(HOSTILE, 1, 7200, machine, run, run, str(python)).text()
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    here, note, *words = (tmp_path / "seen").read_text().split("\0")[:-1]
    assert (here, note) == (str(run), HOSTILE)
    assert words[2:] == [
        *("launch", f"{run}/batch/job.yaml", "--machine", f"{run}/batch/machine.yaml"),
        *("--nodes", "1", "--run-dir", str(run), "--resume"),
    ]
    assert not list(tmp_path.rglob("stolen"))
    assert (run / "batch" / "exit_code").read_text() == "0\n"


@pytest.mark.parametrize("cancelled", [False, True], ids=["left early", "cancelled"])
@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_a_run_that_leaves_with_75_is_requeued_unless_it_was_cancelled(system, cancelled, tmp_path):
    """A run leaves with 75 on any TERM; Open MPI's mpirun kills it before it can, others do not."""
    run, commands = tmp_path / "run", tmp_path / "bin"
    (run / "batch").mkdir(parents=True)
    commands.mkdir()
    left = "trap 'sleep 0.5; exit 75' TERM; touch \"$HERE/begun\"\n"
    left += 'while [ -n "$WAITS" ]; do sleep 0.05; done; exit 75'
    # Some sites' qsub prints more than the job id.
    says = 'echo "$@" >> "$HERE/told"; printf "%s\\n" "12.5 node hours are left" 13.here "Thank you."'
    for name, text in [("python", left), ("scontrol", 'echo "$@" >> "$HERE/told"'), ("qsub", says)]:
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    given = {"PATH": f"{commands}:{os.environ['PATH']}", "HERE": str(tmp_path), "WAITS": "yes" * cancelled}
    given |= {"SLURM_JOB_ID": "12", "PBS_JOBID": "12.here"}
    text = Script("digits", 1, 7200, own(system), run, tmp_path, str(commands / "python")).text()
    shell = subprocess.Popen(["bash", "-c", text], env=os.environ | given, start_new_session=True)
    if cancelled:
        until((tmp_path / "begun").exists, lambda: "never begun")
        os.killpg(shell.pid, signal.SIGTERM)  # to all that the job has started, as both systems do
    code = shell.wait(timeout=60)
    assert (code, (run / "batch" / "exit_code").read_text()) == (75, "75\n")
    requeued = {"slurm": "requeue 12\n", "pbs": "-v REQUEUES=1 -W depend=afterany:12.here script.sh\n"}[
        system
    ]
    told = tmp_path / "told"
    assert (told.read_text() if told.exists() else "") == ("" if cancelled else requeued)
    if system == "pbs" and not cancelled:
        assert (run / "batch" / "jobs.txt").read_text() == "13.here\n"


@pytest.mark.parametrize(("before", "all_of_them"), [("n9", "n9,n1,n3"), ("", "n1,n3"), ("(null)", "n1,n3")])
def test_a_job_that_waits_again_asks_for_other_nodes_than_those_left_out(before, all_of_them, tmp_path):
    run, commands = tmp_path / "run", tmp_path / "bin"
    (run / "batch").mkdir(parents=True)
    (run / "batch" / "lost_nodes").write_text("of the attempt before\n")
    commands.mkdir()
    leaves = f"cd {run}/batch && ! [ -e lost_nodes ] && echo n1,n3 > lost_nodes; exit 75"
    told = 'echo "$@" >> "$HERE/told"; [ "$1" != requeue ] || kill 0'  # Slurm ends all that a job has started
    for name, text in [("python", leaves), ("scontrol", told), ("squeue", f'echo "{before}"')]:
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    given = {"PATH": f"{commands}:{os.environ['PATH']}", "HERE": str(tmp_path), "SLURM_JOB_ID": "12"}
    text = Script("digits", 1, 7200, own("slurm", spares=1), run, tmp_path, str(commands / "python")).text()
    subprocess.run(["bash", "-c", text], env=os.environ | given, start_new_session=True, timeout=60)
    assert (tmp_path / "told").read_text() == f"requeue 12\nupdate JobId=12 ExcNodeList={all_of_them}\n"


@pytest.mark.parametrize(
    ("code", "before", "qsub", "last"),
    [
        (0, 0, "echo 13.here", "exit code 0"),
        (1, 0, "echo 13.here", "exit code 1"),
        (75, 1, "echo 13.here", "requeued"),
        (
            75,
            2,
            "echo 13.here",
            "gave up after 2 requeues (max_requeues); go on with kakurenbo submit --resume",
        ),
        (75, 0, "exit 1", "go on with kakurenbo submit --resume"),
    ],
)
@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_the_log_of_each_job_begins_with_its_attempt_and_ends_with_what_became_of_it(
    system, code, before, qsub, last, tmp_path
):
    run, commands = tmp_path / "run", tmp_path / "bin"
    (run / "batch").mkdir(parents=True)
    commands.mkdir()
    for name, text in [
        ("python", f'echo "attempt $KAKURENBO_ATTEMPT"; exit {code}'),
        ("scontrol", qsub),
        ("qsub", qsub),
    ]:
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    (tmp_path / "nodes").write_text("n1\nn1\nn2\n")
    given = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]"}
    given |= {"PBS_JOBID": "12.here", "PBS_NODEFILE": str(tmp_path / "nodes")}
    given |= {"SLURM_RESTART_COUNT": str(before), "REQUEUES": str(before)}
    machine = own(system, max_requeues=2)
    text = Script("digits", 2, 7200, machine, run, tmp_path, str(commands / "python")).text()
    done = subprocess.run(["bash", "-c", text], env=os.environ | given, capture_output=True, text=True)
    log = run / "batch" / "log.txt"
    lines = (done.stdout + (log.read_text() if log.exists() else "")).splitlines()
    nodes = {"slurm": "n[1-2]", "pbs": "n1 n2"}[system]
    begins, ends = lines[0], [line for line in lines if line.startswith("== ")][-1]
    assert begins.startswith("== job 12") and f": attempt {before + 1} of 3, on {nodes}" in begins
    assert lines[1] == f"attempt {before + 1}/3" and ends.endswith(f"{last}")
    assert (done.returncode, (run / "batch" / "exit_code").read_text()) == (code, f"{code}\n")


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_a_script_that_cannot_even_begin_says_so_and_leaves_an_exit_code(system, tmp_path):
    run = tmp_path / "run"
    (run / "batch").mkdir(parents=True)
    machine = own(system, modules=["cuda"])
    text = "module() { return 1; }\n" + Script("a", 1, 7200, machine, run, tmp_path, "python").text()
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
    log = run / "batch" / "log.txt"
    assert "failed: no such modules" in done.stdout + (log.read_text() if log.exists() else "")
    assert (done.returncode, (run / "batch" / "exit_code").read_text()) == (1, "1\n")


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta", None])
def test_a_job_finds_the_programs_of_its_environment_first(mark, tmp_path):
    """PBS has an mpiexec of its own; the one of an environment is beside its Python."""
    bin_ = tmp_path / "venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "python").write_text('#!/bin/bash\necho "$PATH" > "$SEEN"\n')
    (bin_ / "python").chmod(0o755)
    if mark:
        (tmp_path / "venv" / mark).touch()
    (tmp_path / "batch").mkdir()
    machine = own("slurm", environment={"SEEN": str(tmp_path / "seen")})
    text = Script("digits", 1, 7200, machine, tmp_path, tmp_path, str(bin_ / "python")).text()
    assert subprocess.run(["bash", "-c", text], capture_output=True).returncode == 0
    path = os.environ["PATH"]
    assert (tmp_path / "seen").read_text() == (f"{bin_}:{path}\n" if mark else f"{path}\n")


def test_files_of_a_pbs_job_are_as_private_as_those_of_the_shell_that_submits(tmp_path):
    (tmp_path / "batch").mkdir()
    os.umask(0o027)
    text = Script("digits", 1, 7200, own("pbs"), tmp_path, tmp_path, "/bin/true").text()
    subprocess.run(["bash", "-c", f"umask 077\n{text}"], check=True)
    assert [oct((tmp_path / "batch" / name).stat().st_mode)[-3:] for name in ("log.txt", "exit_code")] == [
        "640"
    ] * 2


@pytest.mark.parametrize(("system", "name"), [("slurm", "USR1"), ("slurm", "TERM"), ("pbs", "TERM")])
def test_a_signal_to_the_shell_as_the_ranks_leave_costs_no_code(system, name, tmp_path):
    """Bash's wait alone loses one code in four of these."""
    run, python = tmp_path / "run", tmp_path / "python"
    (run / "batch").mkdir(parents=True)
    python.write_text(f'#!/bin/bash\nread -rt 0.02 <> <(:)\nkill -{name} "$BATCH_SHELL"\nexit 7\n')
    python.chmod(0o755)
    text = (
        "export BATCH_SHELL=$$\n" + Script("digits", 1, 7200, own(system), run, tmp_path, str(python)).text()
    )
    for _ in range(30):
        assert subprocess.run(["bash", "-c", text], timeout=60).returncode == 7
        assert (run / "batch" / "exit_code").read_text() == "7\n"


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_a_signal_whose_trap_says_nothing_does_not_end_the_waiting(system, tmp_path):
    """Of two signals at once bash runs one trap, and waits for neither."""
    run, python = tmp_path / "run", tmp_path / "python"
    (run / "batch").mkdir(parents=True)
    python.write_text(
        '#!/bin/bash\nread -rt 0.3 <> <(:)\nkill -HUP "$BATCH_SHELL"\nread -rt 0.3 <> <(:)\nexit 7\n'
    )
    python.chmod(0o755)
    text = (
        "export BATCH_SHELL=$$\ntrap : HUP\n"
        + Script("digits", 1, 7200, own(system), run, tmp_path, str(python)).text()
    )
    assert subprocess.run(["bash", "-c", text], timeout=60).returncode == 7


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_the_code_is_that_of_this_job_even_where_its_ranks_could_write_none(system, tmp_path):
    """The process that would write it is killed; one of the job before is there."""
    run, python = tmp_path / "run", tmp_path / "python"
    (run / "batch").mkdir(parents=True)
    (run / "batch" / "exit_code").write_text("75\n")
    python.write_text("#!/bin/bash\nkill -KILL $PPID\n")
    python.chmod(0o755)
    text = Script("digits", 1, 7200, own(system), run, tmp_path, str(python)).text()
    assert subprocess.run(["bash", "-c", text], stderr=subprocess.DEVNULL, timeout=60).returncode == 137
    assert (run / "batch" / "exit_code").read_text() == "137\n"


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_no_header_line_comes_from_a_name(system):
    headers = [
        line
        for line in script(own(system), name="x\n#SBATCH --uid=0\n#PBS -P root").text().splitlines()
        if line.startswith("#")
    ]
    assert not [line for line in headers if "uid" in line and "job-name" not in line and "-N" not in line]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("digits", "digits"),
        ("a b/c", "a_b_c"),
        ("-rf", "k-rf"),
        ("x" * 300, "x" * 100),
        ("3d", "3d"),
        ("ä", "k_"),
        ("é.v1", "k_.v1"),
    ],
)
def test_the_batch_system_gets_a_name_that_it_takes(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("text", "s"),
    [
        ("90m", 5400),
        ("2h", 7200),
        ("1d", 86400),
        ("00:01:00", 60),
        ("48:00:00", 172800),
        ("2-03:00:01", 183601),
    ],
)
def test_a_walltime_is_read(text, s):
    assert parse_walltime(text) == s


def test_a_walltime_is_written_as_both_systems_read_it():
    assert [format_clock(s) for s in (60, 3599, 360000)] == ["00:01:00", "00:59:59", "100:00:00"]


@pytest.mark.parametrize(
    "text",
    ["", "2", "90", "1:30", "2 h", "00:61:00", "0h", "00:00:00", "-1h", "2h30", "1e3h", "2h\n", "$(x)"],
)
def test_what_is_no_walltime_is_refused(text):
    with pytest.raises(UserError, match="^--walltime .*; write 2h, 90m, 1d, or HH:MM:SS$"):
        parse_walltime(text)
