"""What ``kakurenbo doctor`` asks processes of their own, since the answer may be a crash: facts, as one line of JSON.

``python -m kakurenbo_hpc.cluster.doctor.probes WHAT [WORD]``; ``world`` runs on ranks, as train does.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from ...errors import FAILED, UserError

SMALL, LARGE = 2048, 2**24  # numbers: a round of a plan, in int64; gradients of 64 MiB, in float32


def python(_: str) -> dict[str, Any]:
    """Return the versions of Python and of this package."""
    from ... import __version__

    return {"python": ".".join(map(str, sys.version_info[:3])), "kakurenbo": __version__}


def torch(_: str) -> dict[str, Any]:
    """Return what torch is built for, and which GPUs it sees. built_for: as sm_70 or compute_90."""
    import torch

    # torch.cuda.get_arch_list() is empty on a login node, which has no GPU.
    flags = torch._C._cuda_getArchFlags() if torch.version.cuda else None
    facts = {
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
    seen = range(torch.cuda.device_count())
    facts["gpus"] = [[torch.cuda.get_device_name(i), *torch.cuda.get_device_capability(i)] for i in seen]
    return facts


def mpi(_: str) -> dict[str, Any]:
    """Return which MPI mpi4py loads. It is not started: some login nodes forbid that."""
    MPI = _mpi4py()
    version = MPI.Get_library_version().replace("\0", "").strip()
    return {"version": " ".join(version.splitlines()[0].partition(",")[0].split()), "libraries": _libraries()}


def horovod(_: str) -> dict[str, Any]:
    """Return Horovod's version and the MPI that it is built against; version None where it is not installed."""
    if importlib.util.find_spec("horovod") is None:
        return {"version": None}
    import horovod.torch as hvd

    return {
        "version": importlib.metadata.version("horovod"),
        "mpi": hvd.mpi_built(),
        "libraries": _libraries(),
    }


def together(_: str) -> dict[str, Any]:
    """Return the MPI libraries of a process that loads all that may bring one."""
    _mpi4py()
    import h5py  # noqa: F401
    import torch  # noqa: F401

    if importlib.util.find_spec("horovod"):
        import horovod.torch  # noqa: F401
    return {"libraries": _libraries()}


def world(scratch: str) -> dict[str, Any]:
    """Return what each rank is, and how fast all add up: latency_s of a plan's allreduce, bytes_per_s of one of gradients.

    scratch: a folder of each node, in which variables may stand; empty for none.
    """
    import numpy as np
    import torch

    from ...distributed.world import open_comm, settle

    comm = open_comm()
    here = settle(comm)
    mine = {"rank": here.rank, "node": here.node, "device": here.device.type, "gpu": _gpu(here.device)}
    mine |= {
        "cpus": sorted(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "scratch": _scratch(scratch),
    }
    facts = {"ranks": comm.gather(mine), "latency_s": None, "bytes_per_s": None}
    if comm.size > 1:
        counts = np.full(SMALL, comm.rank, np.int64)
        facts["latency_s"] = _median_s(lambda: comm.sum(counts), 50, comm.barrier)
        facts["bytes_per_s"] = LARGE * 4 / _gradients_s(here)
    comm.close()
    return facts if here.rank == 0 else {}


def data(job: str) -> dict[str, Any]:
    """Return how many samples there are, after the first, the middle and the last one were read. job: a file, resolved."""
    import numpy as np
    import torch  # noqa: F401, else the first sample would take the seconds of its import

    from ...config.job import read_job
    from ...data import DATASETS, open_data
    from ...data.dataset import ReadRequest
    from ...distributed.comm import SerialComm
    from ...selection import METHODS

    asked = read_job(job, [], DATASETS, METHODS)
    found = open_data(asked.data, asked.seed, SerialComm())
    began = time.perf_counter()
    for part in (found.train, found.validation):
        ids = np.unique([0, len(part) // 2, len(part) - 1])
        part.__getitems__(ReadRequest(ids, np.zeros(len(ids), np.int32), 0, augment=False))
    seconds = time.perf_counter() - began
    return {
        "train": len(found.train),
        "validation": len(found.validation),
        "seconds": seconds,
        "files": found.train.files() is not None,
    }


def _gradients_s(here: Any) -> float:
    """Return the seconds of averaging LARGE numbers as gradients travel: by NCCL between GPUs, else by Gloo."""
    import torch

    from ...config.job import WorldOptions
    from ...distributed.gradient_sync import open_gradient_sync

    model = torch.nn.ParameterList([torch.zeros(LARGE, device=here.device)])
    gradients = open_gradient_sync(WorldOptions(), 1, here)
    gradients.wrap(model, torch.optim.SGD(model.parameters(), lr=0.0))

    def average() -> None:
        gradients.average(model)
        float(model[0].grad[0])  # a GPU works on behind our back

    seconds = _median_s(average, 5, here.comm.barrier)
    gradients.close()
    return seconds


def _median_s(work: Callable[[], Any], n: int, barrier: Callable[[], None]) -> float:
    """Return the median of n times, after two that are not counted."""
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
    """Return a name of this rank's GPU that no other GPU of its node has."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def _scratch(scratch: str) -> dict[str, Any] | None:
    """Return the folder and the bytes that are free there, or why nothing can be written there."""
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


def main(what: str, word: str = "") -> None:
    """Print the answer. What the user can correct is an answer too, under the name ``problem``; and ends the other ranks."""
    try:
        facts = {f.__name__: f for f in (python, torch, mpi, horovod, together, world, data)}[what](word)
    except UserError as problem:
        print(json.dumps({"problem": str(problem)}), flush=True)
        os._exit(FAILED)
    if facts:
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
