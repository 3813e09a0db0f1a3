"""Schedulers and launchers are found by name, imported when they are named, and can come from anywhere."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kakurenbo_hpc.cluster import launchers, schedulers
from kakurenbo_hpc.cluster.launchers import LAUNCHERS, Layout, launcher_line
from kakurenbo_hpc.cluster.launchers.launcher import Launcher
from kakurenbo_hpc.cluster.machine import Machine, read_machine
from kakurenbo_hpc.cluster.schedulers import SCHEDULERS, open_scheduler
from kakurenbo_hpc.cluster.schedulers.scheduler import Scheduler
from kakurenbo_hpc.cluster.script import Script
from kakurenbo_hpc.cluster.walltime import check_walltime
from kakurenbo_hpc.errors import JobError, UserError

README = Path(schedulers.__file__).with_name("README.md")


def test_the_files_of_the_folders_are_the_tables():
    assert set(SCHEDULERS) == {"flux", "pbs", "slurm"}
    assert set(LAUNCHERS) == {"flux", "mpiexec", "mpirun", "pals", "srun", "torchrun"}
    for name in SCHEDULERS:
        assert issubclass(SCHEDULERS[name], Scheduler)
        assert Path(schedulers.__file__).with_name(f"{name}.sh.j2").read_text() == SCHEDULERS[name]().template
    for name in LAUNCHERS:
        assert issubclass(LAUNCHERS[name], Launcher)
    assert "scheduler" not in SCHEDULERS and "launcher" not in LAUNCHERS


def test_none_is_imported_before_it_is_named():
    code = (
        "import sys; from kakurenbo_hpc.cluster.machine import read_machine; read_machine('pbs_v100'); "
        "print(*sorted(name.split('.')[-1] for name in sys.modules "
        "if name.startswith(('kakurenbo_hpc.cluster.launchers.', 'kakurenbo_hpc.cluster.schedulers.'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["commands", "launcher", "mpirun", "pbs", "scheduler"]


@pytest.mark.parametrize("word", [*SCHEDULERS, *LAUNCHERS])
def test_no_other_file_asks_which_scheduler_it_is(word):
    """Outside its own file, and launchers that belong to Slurm, no comparison names one."""
    cluster = Path(schedulers.__file__).parents[1]
    for path in cluster.rglob("*.py"):
        if path.parent.name not in ("schedulers", "launchers"):
            assert not re.search(rf'[!=]= *"{word}"|in \("{word}"', path.read_text()), path


@pytest.fixture
def grid_engine(tmp_path, monkeypatch):
    """The example of the README as a module of somebody else's, with a template beside it."""
    [example] = re.findall(r" *```python\n( *\"\"\"Grid Engine.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "grid_engine.py").write_text(textwrap.dedent(example))
    template = "#!/bin/bash\n#$ -N {{ name }}\n#$ -l h_rt={{ walltime }}\ncd -- {{ here | quoted }}\n"
    (tmp_path / "grid_engine.sh.j2").write_text(template)
    monkeypatch.syspath_prepend(tmp_path)
    yield "grid_engine:GridEngine"
    sys.modules.pop("grid_engine", None)


def test_the_example_of_the_readme_is_a_scheduler(grid_engine, monkeypatch, tmp_path):
    scheduler = open_scheduler(grid_engine)
    assert scheduler.parse_job_id("Welcome!\n12\n") == "12"
    assert scheduler.submit_command("11") == ["qsub", "-terse", "-hold_jid", "11", "script.sh"]
    qstat = "job-ID prior name user state\n-----\n 12 0.5 digits me qw now\n 13 0.5 digits me r now"
    (tmp_path / "qstat").write_text(f"#!/bin/sh\necho '{qstat}'\n")
    (tmp_path / "qstat").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert {job_id: state[:2] for job_id, state in scheduler.job_states(["12", "13", "14"]).items()} == {
        "12": ("queued", "qw"),
        "13": ("running", "r"),
    }


def test_a_machine_file_names_a_scheduler_of_another_package(grid_engine, tmp_path):
    machine = Machine(name="own", scheduler=grid_engine, starter="mpirun", ranks_per_node=4)
    script = Script("digits", 1, 7200, machine, tmp_path, Path("/home/my self"), "python").text()
    assert script == "#!/bin/bash\n#$ -N digits\n#$ -l h_rt=02:00:00\ncd -- '/home/my self'\n"
    assert check_walltime("181m", machine) == 181 * 60


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none_such:Lsf", "scheduler none_such:Lsf: no module none_such on the Python path"),
        ("grid_engine:Other", "has no Other"),
        ("pathlib:Path", "must be a class derived from"),
        ("slurmm", "there is no such scheduler; did you mean slurm?"),
    ],
)
def test_what_is_no_scheduler_is_one_line_that_names_the_file(name, message, grid_engine, tmp_path):
    path = tmp_path / "machine.yaml"
    path.write_text(f"name: own\nscheduler: {name}\nstarter: mpirun\nranks_per_node: 4\n")
    with pytest.raises(JobError) as raised:
        read_machine(str(path))
    line = str(raised.value)
    assert line.startswith(f"{path}: scheduler is '{name}', but ") and message in line and "\n" not in line


def test_every_member_that_a_scheduler_may_answer_is_in_the_readme():
    members = {name for name in vars(Scheduler) if not name.startswith("_")} - {
        "submit",
        "cancel",
        "template",
        "environment",
    }
    names = re.findall(r"^\| (`.*?) \|", README.read_text(), re.MULTILINE)
    table = {name for cell in names for name in re.findall(r"`(\w+)", cell)}
    assert members | {"title"} <= table


@pytest.mark.parametrize("starter", ["srun", "torchrun"])
def test_an_interrupt_ends_srun_instead_of_asking_it(starter):
    machine = Machine(name="own", scheduler="slurm", starter=starter, ranks_per_node=4)
    job = {"SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"}
    line = launcher_line(machine, Layout(8, 2), ["train"], job)
    assert (line.words[0], line.interrupt_signal.name) == ("srun", "SIGTERM")


def test_mpiexec_is_mpirun_by_its_other_name(monkeypatch, tmp_path):
    program = tmp_path / "mpiexec"
    program.write_text("#!/bin/sh\necho HYDRA build details:\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine = Machine(name="own", starter="mpiexec")
    assert launcher_line(machine, Layout(8, 2), ["train"], {}).words == [
        *(str(program), "-n", "8", "-ppn", "4", "train")
    ]
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="^no mpiexec on the PATH nor beside"):
        launcher_line(machine, Layout(8, 2), ["train"], {})
    assert launchers.open_launcher("mpiexec").uses_mpi


FLUX_JOBS = """\
ƒ2Xy4|SCHED||0s| |[after-finish=ƒ2Xy3]
f3Ab|FAILED|75|8h| |
f3Ac|TIMEOUT|142|8h|timeout resource allocation expired|
f3Ad|COMPLETED|0|1.5h| |
"""
FLUX_QUEUES = "batch*|enabled|started|8h|16\npdebug|enabled|stopped|inf|inf\n"


@pytest.fixture
def flux(tmp_path, monkeypatch):
    """A stand-in that answers as the manual pages of flux-jobs and flux-queue say."""
    (tmp_path / "flux").write_text(
        f"#!/bin/sh\ncase $1 in\njobs) echo '{FLUX_JOBS}'\n"
        "echo 'flux-jobs: ERROR: JobID f9 unknown' >&2; exit 1;;\n"
        f"queue) echo '{FLUX_QUEUES}';; esac\n"
    )
    (tmp_path / "flux").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return open_scheduler("flux")


def test_flux_tells_how_jobs_are(flux):
    states = flux.job_states(["f2Xy4", "f3Ab", "f3Ac", "f3Ad", "f9"])
    assert {job_id: state.status for job_id, state in states.items()} == {
        **{"f2Xy4": "queued", "f3Ab": "failed", "f3Ac": "failed", "f3Ad": "done"}
    }
    assert states["f2Xy4"].reason == "waits for [after-finish=ƒ2Xy3]"
    assert "timeout resource allocation expired" in states["f3Ac"].detail
    assert flux.parse_job_id("Welcome!\nƒM7Zq9AKHno\n") == "fM7Zq9AKHno"
    assert flux.submit_command(flux.after(["f1", "f2"], when_done=True)) == [
        *("flux", "batch", "--dependency=afterany:f1", "--dependency=afterany:f2", "script.sh")
    ]


def test_flux_tells_its_queues(flux):
    assert flux.find_queue(None) == ("batch", 8 * 3600, 16)
    with pytest.raises(UserError, match="queue pdebug is enabled and stopped; wait"):
        flux.find_queue("pdebug")
    with pytest.raises(UserError, match="queue is bath, but Flux has no such queue; did you mean batch"):
        flux.find_queue("bath")


def test_flux_run_takes_whole_nodes():
    machine = Machine(name="own", scheduler="flux", starter="flux", ranks_per_node=4, mpi="pmix")
    line = launcher_line(machine, Layout(8, 2, ("a", "b")), ["train"], {})
    assert str(line) == (
        "flux run --nodes=2 --tasks-per-node=4 --exclusive --requires=host:a,b --setopt=exit-timeout=10s "
        "--setopt=cpu-affinity=off --setopt=gpu-affinity=off --setopt=pmi=pmix train"
    )
    with pytest.raises(ValueError, match="starter is flux, but scheduler is none"):
        Machine(name="own", starter="flux")
