"""What starters leave in the environment, as they do on real machines, and which rank that makes of a
process.
"""

import pytest

from kakurenbo_hpc.distributed.launch_env import LaunchEnv, read_launch_env

JOB = {
    "SLURM_JOB_ID": "42",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "node[1-2]",
}  # in every process of a job
BATCH_SHELL = JOB | {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_TASK_PID": "777"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_SRUN_COMM_HOST": "10.0.0.1", "SLURM_SRUN_COMM_PORT": "33809"}
SRUN = STEP | {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
INTERACTIVE_STEP = STEP | {
    "SLURM_STEP_ID": "4294967290",
    "SLURM_PROCID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PTY_PORT": "3",
}
PTY = STEP | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "34811"}  # srun --pty bash
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_RANK": "3",
}
MVAPICH = {"MV2_COMM_WORLD_RANK": "3", "MV2_COMM_WORLD_SIZE": "4", "PMI_RANK": "3", "PMI_SIZE": "4"}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "PMI_FD": "9"}  # MPICH's and Intel's mpiexec
PALS = {"PALS_RANKID": "3", "PALS_NRANKS": "4", "PALS_LOCAL_RANKID": "1"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (OPEN_MPI, LaunchEnv("Open MPI's mpirun", 3, 4)),
        (MVAPICH, LaunchEnv("MVAPICH's mpiexec", 3, 4)),
        (HYDRA, LaunchEnv("a starter that speaks PMI (mpiexec of MPICH or Intel, srun --mpi=pmi2)", 3, 4)),
        (PALS, LaunchEnv("PALS mpiexec", 3, 4)),
        (SRUN, LaunchEnv("srun", 5, 8)),
        (TORCHRUN, LaunchEnv("torchrun", 3, 4)),
    ],
    ids=lambda value: value.starter if isinstance(value, LaunchEnv) else "",
)
def test_each_starter_is_known_by_what_it_leaves(environ, expected):
    assert read_launch_env(environ) == expected
    assert read_launch_env(environ | {"PATH": "/bin", "HOME": "/root", "OMP_NUM_THREADS": "1"}) == expected


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="nothing at all"),
        pytest.param({"PATH": "/bin"}, id="a shell"),
        pytest.param(JOB, id="salloc without a step"),
        pytest.param(BATCH_SHELL, id="a batch shell"),
        pytest.param(
            BATCH_SHELL | {"SLURM_STEP_NUM_TASKS": "1"}, id="a batch shell that counts itself as a step"
        ),
        pytest.param(INTERACTIVE_STEP, id="salloc's interactive step"),
        pytest.param({"RANK": "0", "WORLD_SIZE": "2"}, id="names that anybody may have set"),
        pytest.param({"OMPI_COMM_WORLD_RANK": "0"}, id="a rank of nobody knows how many"),
        pytest.param(
            {"PBS_JOBID": "42", "PBS_NODEFILE": "/var/spool/nodes", "PBS_ENVIRONMENT": "PBS_BATCH"},
            id="a PBS script",
        ),
    ],
)
def test_a_plain_python_is_no_rank(environ):
    assert read_launch_env(environ) is None


@pytest.mark.parametrize(
    "around", [BATCH_SHELL, INTERACTIVE_STEP, PTY], ids=["sbatch", "salloc", "srun --pty bash"]
)
@pytest.mark.parametrize(
    "starter", [OPEN_MPI, MVAPICH, HYDRA, TORCHRUN], ids=["Open MPI", "MVAPICH", "MPICH", "torchrun"]
)
def test_who_starts_ranks_inside_a_slurm_job_knows_better_than_slurm(starter, around):
    assert read_launch_env(around | starter) == read_launch_env(starter)


def test_srun_that_speaks_pmi_says_the_same_twice():
    twice = read_launch_env(SRUN | {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_FD": "3"})
    assert (twice.rank, twice.size) == (5, 8)


@pytest.mark.parametrize("around", [SRUN, OPEN_MPI, HYDRA], ids=["srun", "Open MPI", "MPICH"])
def test_torchrun_started_by_a_starter_is_torchrun(around):
    assert read_launch_env(around | TORCHRUN).starter == "torchrun"
