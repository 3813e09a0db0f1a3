"""Binding of ranks to GPUs, cores and threads, with the variables that each launcher sets."""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml
from support.start_ranks import environment

from kakurenbo_hpc.cluster.bind_rank import Binding, choose_binding
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.errors import WorldError

NUMA = {0: {0, 1, 2, 3, 4}, 1: {5, 6, 7, 8, 9}}
SHOW = "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), dict(os.environ)]))"
STARTERS = {
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    "MVAPICH": {
        "MV2_COMM_WORLD_RANK": "1",
        "MV2_COMM_WORLD_SIZE": "8",
        "MV2_COMM_WORLD_LOCAL_RANK": "1",
        "PMI_RANK": "1",
        "PMI_SIZE": "8",
    },
    "MPICH": {"PMI_RANK": "1", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1"},
    "PALS": {"PALS_RANKID": "1", "PALS_NRANKS": "8", "PALS_LOCAL_RANKID": "1"},
    "srun": {
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_PROCID": "1",
        "SLURM_SRUN_COMM_HOST": "n1",
        "SLURM_STEP_ID": "0",
        "SLURM_LOCALID": "1",
    },
    "torchrun": {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
}
# Hydra under srun says nothing of local ranks, but Slurm does.
STARTERS["MPICH by srun"] = STARTERS["srun"] | {"PMI_RANK": "1", "PMI_SIZE": "8"}


def machine(**facts) -> Machine:
    return Machine(**{"name": "own", "starter": "mpirun", "ranks_per_node": 4, "gpus_per_node": 4, **facts})


def bound(machine: Machine, local: int, allowed: Collection[int] = range(10), **environ: str) -> Binding:
    return choose_binding(machine, local, environ, set(allowed), NUMA.__getitem__)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, ["0", "1", "2", "3"]),
        ("0,1,2,3", ["0", "1", "2", "3"]),
        ("4,5,6,7", ["4", "5", "6", "7"]),
        ("GPU-a,GPU-b,GPU-c,GPU-d", None),
    ],
)
def test_each_rank_of_a_node_has_a_gpu_of_its_own(visible, gpus):
    """Those that the batch system lets it see, whatever their names."""
    environ = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    assert [bound(machine(), local, **environ).gpu for local in range(4)] == (gpus or visible.split(","))


def test_a_gpu_that_the_batch_system_gave_to_this_rank_alone_stays():
    assert [bound(machine(), local, CUDA_VISIBLE_DEVICES="2").gpu for local in range(4)] == [None] * 4


def test_too_few_gpus_are_one_line():
    with pytest.raises(
        WorldError, match="^local rank 2 finds CUDA_VISIBLE_DEVICES=0,1; ask for 4 GPUs on each node$"
    ):
        bound(machine(), 2, CUDA_VISIBLE_DEVICES="0,1")


def test_ranks_share_the_cores_beside_their_gpus():
    cores = [bound(machine(gpu_numa=[0, 0, 1, 1]), local).threads for local in range(4)]
    assert cores[0] | cores[1] == NUMA[0] and cores[2] | cores[3] == NUMA[1]
    assert not cores[0] & cores[1] and not cores[2] & cores[3]
    assert sorted(map(len, cores)) == [2, 2, 3, 3]


def test_cores_are_those_beside_the_gpus_that_are_visible():
    numa = machine(gpu_numa=[0, 0, 1, 1], ranks_per_node=2)
    cores = [bound(numa, local, CUDA_VISIBLE_DEVICES="2,3").threads for local in range(2)]
    assert cores[0] | cores[1] == NUMA[1] and not cores[0] & cores[1]
    assert (
        bound(numa, 1, CUDA_VISIBLE_DEVICES="0").threads <= NUMA[0]
    )  # its own, which is number 0 to each rank
    assert bound(numa, 1, CUDA_VISIBLE_DEVICES="GPU-a,GPU-b").threads <= NUMA[0]


def test_a_rank_keeps_to_cores_that_the_batch_system_allows():
    numa = machine(gpu_numa=[0, 0, 1, 1])
    assert [bound(numa, local, allowed={0, 1, 5}).threads for local in range(2)] == [{0}, {1}]
    assert bound(numa, 2, allowed={0, 1}).threads is None  # none beside its GPU: those that there are


def test_a_machine_that_names_no_numa_nodes_leaves_cores_as_they_are():
    assert bound(machine(), 1) == Binding("1", None)
    assert bound(machine(gpus_per_node=0), 1) == Binding(None, None)


@pytest.mark.parametrize("starter", STARTERS)
def test_a_rank_finds_its_place_from_what_its_starter_says(starter, tmp_path):
    """The wrapper becomes a program that sees one GPU, its cores, and no UCX, NCCL or Open MPI settings."""
    path = write(tmp_path, gpu_numa=[0, 0, 0, 0])
    done = wrapped(path, STARTERS[starter])
    said, seen = done.stdout.splitlines()
    cores, environ = json.loads(seen)
    assert said.startswith(f"{os.uname().nodename}, local rank 1: CUDA_VISIBLE_DEVICES=1")
    assert environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert set(cores) <= os.sched_getaffinity(0)
    if f"cores {cores[0]}" in said:  # a node of one core has none for local rank 1 alone
        assert len(cores) < len(os.sched_getaffinity(0)) or len(cores) == 1
        assert f"OMP_NUM_THREADS={environ['OMP_NUM_THREADS']}" in said and int(
            environ["OMP_NUM_THREADS"]
        ) <= len(cores)
    before = environment() | STARTERS[starter]
    changed = {name for name in environ if environ[name] != before.get(name)}
    assert changed <= {
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "KAKURENBO_NEEDS_GPU",
        "LC_CTYPE",
        "_",
        "SHLVL",
    }


def test_without_numa_nodes_cores_and_threads_are_the_starters(tmp_path):
    done = wrapped(write(tmp_path), STARTERS["Open MPI"])
    said, seen = done.stdout.splitlines()
    assert said == f"{os.uname().nodename}, local rank 1: CUDA_VISIBLE_DEVICES=1"
    assert set(json.loads(seen)[0]) == os.sched_getaffinity(0)


def test_the_ranks_of_other_nodes_say_nothing(tmp_path):
    done = wrapped(write(tmp_path), STARTERS["Open MPI"] | {"OMPI_COMM_WORLD_RANK": "5"})
    [seen] = done.stdout.splitlines()
    assert json.loads(seen)[1]["CUDA_VISIBLE_DEVICES"] == "1"


def test_threads_that_the_machine_file_sets_stay(tmp_path):
    path = write(tmp_path, gpu_numa=[0, 0, 0, 0], environment={"OMP_NUM_THREADS": "3"})
    done = wrapped(path, STARTERS["Open MPI"] | {"OMP_NUM_THREADS": "3"})
    assert json.loads(done.stdout.splitlines()[-1])[1]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("facts", "starter", "message"),
    [
        (
            {},
            {},
            "the launcher does not say which rank of its node this is; start with mpirun, mpiexec, srun or "
            "torchrun",
        ),
        (
            {},
            STARTERS["srun"] | {"CUDA_VISIBLE_DEVICES": ""},
            "local rank 1 finds CUDA_VISIBLE_DEVICES=; ask for 4 GPUs on each node",
        ),
        (
            {"gpu_numa": [77] * 4},
            STARTERS["srun"],
            "has no NUMA node 77; correct gpu_numa in the machine file",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_code_2(facts, starter, message, tmp_path):
    done = wrapped(write(tmp_path, **facts), starter)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("kakurenbo: ") and message in done.stderr


def write(folder: Path, **facts) -> Path:
    path = folder / "machine.yaml"
    path.write_text(
        yaml.safe_dump({"name": "own", "starter": "mpirun", "ranks_per_node": 4, "gpus_per_node": 4, **facts})
    )
    return path


def wrapped(path: Path, starter: dict[str, str]) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "kakurenbo_hpc.cluster.bind_rank", str(path), sys.executable, "-c", SHOW]
    return subprocess.run(words, env=environment() | starter, capture_output=True, text=True, timeout=60)
