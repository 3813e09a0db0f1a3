"""Probes of the doctor: facts as one line of JSON, each from a process of its own, which may crash or hang.

``python -m kakurenbo_hpc.cluster.doctor.probes NAME [WORD]``; ``world`` runs on ranks, as train does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from ...errors import FAILED, UserError

N_COUNTS = 2048  # of one allreduce of a plan, int64
N_GRADIENTS = 2**24  # float32: 64 MiB


def probe_python(_: str) -> dict[str, Any]:
    """Return the versions of Python and of this package."""
    from ... import __version__

    return {"python": ".".join(map(str, sys.version_info[:3])), "kakurenbo": __version__}


def probe_torch(_: str) -> dict[str, Any]:
    """Return what torch is built for (``built_for``: sm_70 or compute_90), and which GPUs it sees."""
    import torch

    # torch.cuda.get_arch_list() is empty on a login node, which has no GPU.
    flags = torch._C._cuda_getArchFlags() if torch.version.cuda else None
    facts: dict[str, Any] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "built_for": (flags or "").split(),
        "nccl": None,
        "no_gpu": None,
    }
    if torch.version.cuda and torch.distributed.is_nccl_available():
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    if torch.version.cuda and os.path.exists("/proc/driver/nvidia/version"):
        try:
            torch.cuda.init()
        except RuntimeError as problem:
            facts["no_gpu"] = " ".join(str(problem).split())
    facts["gpus"] = [
        [torch.cuda.get_device_name(i), *torch.cuda.get_device_capability(i)]
        for i in range(torch.cuda.device_count())
    ]
    return facts


def probe_mpi(_: str) -> dict[str, Any]:
    """Return which MPI mpi4py loads. It is not started: some login nodes forbid that."""
    MPI = _mpi4py()
    version = MPI.Get_library_version().replace("\0", "").strip()
    return {"version": " ".join(version.splitlines()[0].partition(",")[0].split()), "libraries": _libraries()}


def probe_horovod(_: str) -> dict[str, Any]:
    """Return Horovod's version, None where it is not installed, and the MPI that it is built against."""
    if importlib.util.find_spec("horovod") is None:
        return {"version": None}
    import horovod.torch as hvd

    return {
        "version": importlib.metadata.version("horovod"),
        "mpi": hvd.mpi_built(),
        "libraries": _libraries(),
    }


def probe_together(_: str) -> dict[str, Any]:
    """Return the MPI libraries of a process that loads all that may bring one."""
    _mpi4py()
    for name in ("h5py", "torch", *(["horovod.torch"] if importlib.util.find_spec("horovod") else [])):
        importlib.import_module(name)
    return {"libraries": _libraries()}


def probe_world(scratch: str) -> dict[str, Any]:
    """Return facts of each rank, and the speed of allreduce.

    Args:
        scratch: a folder of each node, with variables; empty for none.

    Returns:
        On rank 0 ``ranks``, ``latency_s`` of an allreduce of a plan, ``bytes_per_s`` of one of gradients.
    """
    import numpy as np
    import torch

    from ...distributed.world import World, open_comm
    from ...rundir.energy import Energy

    log = _log_nccl()
    comm = open_comm()
    world = World.detect(comm)
    mine = {"rank": world.rank, "node": world.node, "device": world.device.type, "gpu": _gpu(world.device)}
    mine |= {
        "cpus": sorted(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "scratch": _scratch(scratch),
        "energy": Energy(world.device, world.local_rank == 0).parts,
    }
    comm.barrier()
    mine["clock"] = time.time()
    facts: dict[str, Any] = {"ranks": comm.gather(mine), "latency_s": None, "bytes_per_s": None}
    if comm.size > 1:
        counts = np.full(N_COUNTS, comm.rank, np.int64)
        facts["latency_s"] = _median_s(lambda: comm.sum(counts), 50, comm.barrier)
        facts["bytes_per_s"] = N_GRADIENTS * 4 / _gradients_s(world)
        facts["nccl_log"] = log()
    comm.close()
    return facts if world.rank == 0 else {}


def probe_data(job: str) -> dict[str, Any]:
    """Read the first, the middle and the last sample of each split, and return the number of samples.

    Args:
        job: a resolved job file.
    """
    import numpy as np

    from ...config.job import read_job
    from ...data import DATASETS, open_data
    from ...data.dataset import ReadRequest
    from ...distributed.comm import SerialComm
    from ...selection import METHODS

    checked = read_job(job, [], DATASETS, METHODS)
    splits = open_data(checked.data, checked.seed, SerialComm())
    importlib.import_module("torch")  # else the first sample would take the seconds of its import
    began = time.perf_counter()
    for dataset in (splits.train, splits.validation):
        for one in np.unique([0, len(dataset) // 2, len(dataset) - 1]):  # which may differ in size
            dataset.__getitems__(ReadRequest(np.array([one]), np.zeros(1, np.int32), 0, augment=False))
    seconds = time.perf_counter() - began
    return {
        "train": len(splits.train),
        "validation": len(splits.validation),
        "seconds": seconds,
        "files": splits.train.files() is not None,
    }


def probe_names(job: str) -> dict[str, Any]:
    """Look up the names of model and optimizer of a resolved job file, and build neither."""
    from ...config.job import read_job
    from ...data import DATASETS
    from ...selection import METHODS
    from ...training.model import check_model_name
    from ...training.optimizer import check_optimizer_name

    checked = read_job(job, [], DATASETS, METHODS)
    check_model_name(checked.model.name)
    check_optimizer_name(checked.training.optimizer)
    return {"known": True}


def probe_checkpoint(job: str) -> dict[str, Any]:
    """Return bytes in a checkpoint of a resolved job file: of its learner, and of each sample's row.

    Also the number of samples, on which the epochs depend.
    """
    from ...config.job import read_job
    from ...core.ledger import Ledger
    from ...data import DATASETS, open_data
    from ...distributed.comm import SerialComm
    from ...selection import METHODS
    from ...training.state_size import learner_bytes

    checked = read_job(job, [], DATASETS, METHODS)
    data = open_data(checked.data, checked.seed, SerialComm())
    row = Ledger.unseen(1, 0, 1, checked.selection.of_data(data.n_classes).columns)
    return {
        "learner": learner_bytes(
            checked.training, checked.model, data.n_classes, data.shape, data.target_shape
        ),
        "row": sum(column.nbytes for column in row.columns().values()),
        "samples": len(data.train),
    }


def _gradients_s(world: Any) -> float:
    """Return the seconds of averaging N_GRADIENTS gradients: by NCCL between GPUs, else by Gloo."""
    import torch

    from ...config.job import WorldOptions
    from ...distributed.gradient_sync import open_gradient_sync

    model = torch.nn.ParameterList([torch.zeros(N_GRADIENTS, device=world.device)])
    gradients = open_gradient_sync(WorldOptions(), 1, world)
    gradients.wrap(model, torch.optim.SGD(model.parameters(), lr=0.0))

    def average() -> None:
        gradients.average(model)
        float(model[0].grad[0])  # a GPU computes asynchronously

    seconds = _median_s(average, 5, world.comm.barrier)
    gradients.close()
    return seconds


def _log_nccl() -> Callable[[], str]:
    """Let NCCL write down what it chooses; return how to read it."""
    path = os.path.join(tempfile.gettempdir(), f"kakurenbo_nccl_{os.getpid()}")
    os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": path}

    def read() -> str:
        if not os.path.exists(path):
            return ""
        with open(path, errors="replace") as file:
            text = file.read()
        os.unlink(path)
        return text

    return read


def _median_s(work: Callable[[], Any], n: int, barrier: Callable[[], None]) -> float:
    """Return the median seconds of n calls, after two that are not counted."""
    times = []
    for _ in range(n + 2):
        barrier()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times[2:])


def _mpi4py() -> Any:
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return MPI


def _libraries() -> list[str]:
    from ...distributed.libmpi import loaded_mpi

    return [str(path) for path in loaded_mpi()]


def _gpu(device: Any) -> str | None:
    """Return a name of this rank's GPU that is unique on its node."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def _scratch(scratch: str) -> dict[str, Any] | None:
    """Return the folder and its free space, or why it cannot be written to."""
    from ...rundir.path_checks import in_words

    if not scratch:
        return None
    folder = os.path.expanduser(os.path.expandvars(scratch))
    if "$" in folder:
        return {"folder": scratch, "problem": "this variable is not set"}
    probe = os.path.join(folder, f"kakurenbo_doctor_{os.getpid()}")
    try:
        os.makedirs(probe)
        os.rmdir(probe)
    except OSError as problem:
        return {"folder": folder, "problem": problem.strerror}
    return {"folder": folder, "free": in_words(shutil.disk_usage(folder).free)}


PROBES: dict[str, Callable[[str], dict[str, Any]]] = {
    "python": probe_python,
    "torch": probe_torch,
    "mpi": probe_mpi,
    "horovod": probe_horovod,
    "together": probe_together,
    "world": probe_world,
    "data": probe_data,
    "names": probe_names,
    "checkpoint": probe_checkpoint,
}


def main(name: str, word: str = "") -> None:
    """Print the facts. What the user can correct is a fact too, ``problem``; and it ends the other ranks."""
    try:
        facts = PROBES[name](word)
    except UserError as problem:
        print(json.dumps({"problem": str(problem)}), flush=True)
        os._exit(FAILED)
    if facts:
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
