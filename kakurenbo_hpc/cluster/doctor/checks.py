"""What can be wrong with a machine before a job goes into its queue: a check is a function, and their table is the last thing here.

A check returns what is right, or None where nothing is to be checked; it raises Doubt, or UserError, with what to do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

from ... import __version__
from ...errors import UserError
from ..launchers.launcher import find_mpirun, version_text
from ..schedulers.scheduler import ask
from ..script import python_of
from ..submit import check_fits
from ..walltime import clock, fitting_walltime
from .findings import CheckWarning, Findings
from .gpus import BF16_FROM, build_for, capability, runs_on


def python(case: Findings) -> str:
    facts = case.python
    if facts["kakurenbo"] != __version__:
        raise CheckWarning(
            f"{python_of(case.machine)} has kakurenbo_hpc {facts['kakurenbo']}, this is {__version__}; install the same"
        )
    return f"{facts['python']}, {python_of(case.machine)}"


def torch(case: Findings) -> str:
    return f"{case.torch['version']}, for " + (f"CUDA {case.torch['cuda']}" if case.torch["cuda"] else "CPUs")


def cuda(case: Findings) -> str:
    facts, machine = _torch(case), case.machine
    if not machine.gpus_per_node and not facts["gpus"]:
        return "no GPUs here, none in the machine file"
    if facts["cuda"] is None:
        raise UserError(
            f"{machine.name} has {machine.gpus_per_node} GPUs on a node, but torch {facts['version']} is built for CPUs; "
            f"install {build_for(capability(machine.gpu_type))}"
        )
    if facts["no_gpu"]:
        raise UserError(f"torch cannot use the GPUs here: {facts['no_gpu']}")
    gpus = {name: major * 10 + minor for name, major, minor in facts["gpus"]} or {
        machine.gpu_type: capability(machine.gpu_type)
    }
    if None in gpus.values():
        found = (
            f"gpu_type is {machine.gpu_type}, which is not known here"
            if machine.gpu_type
            else "the machine file has no gpu_type"
        )
        raise CheckWarning(f"{found}; run kakurenbo doctor where the GPUs are")
    for name, number in gpus.items():
        if not runs_on(number, facts["built_for"]):
            raise UserError(
                f"{name} is sm_{number}, but torch {facts['version']} is built for {' '.join(facts['built_for'])}; "
                f"install {build_for(number)}"
            )
    return ", ".join(f"{name}, sm_{number}" for name, number in gpus.items()) + ", which torch is built for"


def nccl(case: Findings) -> str:
    if not case.machine.gpus_per_node and not _torch(case)["gpus"]:
        return "not needed without GPUs"
    if _torch(case)["nccl"] is None:
        raise UserError(
            "this torch has no NCCL, by which gradients travel between GPUs; install a CUDA build for Linux"
        )
    return _torch(case)["nccl"]


def mpi(case: Findings) -> str:
    if case.machine.starter == "torchrun":
        return "not needed: torchrun starts the ranks"
    loaded, make = case.mpi["version"], _make(case.mpi["version"])
    if case.machine.starter == "srun":
        return f"{loaded}, {_served_by_srun(case.machine.mpi, make)}"
    mpirun = find_mpirun(case.machine.starter)
    version = version_text(mpirun)
    if make != _make(version):
        raise UserError(
            f"mpi4py loads {loaded}, but {mpirun} is of {_make(version)}; load the module of the MPI that mpi4py was built with, or "
            "build it anew with the module loaded: pip install --force-reinstall --no-binary mpi4py mpi4py"
        )
    numbers = [re.search(r"\d+\.\d+", text) for text in (loaded, version)]
    if make == "Open MPI" and all(numbers) and numbers[0][0] != numbers[1][0]:
        raise CheckWarning(
            f"mpi4py loads {loaded}, but {mpirun} is of Open MPI {numbers[1][0]}; use one installation of both"
        )
    return f"{loaded}, {mpirun}"


def one_mpi(case: Findings) -> str:
    if case.machine.starter == "torchrun":
        return "not needed: torchrun starts the ranks"
    libraries = case.together["libraries"]
    if len(libraries) > 1:
        raise UserError(
            f"torch, mpi4py, h5py and Horovod load {len(libraries)} MPI libraries into one process: {', '.join(libraries)}; "
            "build all of them against the same"
        )
    return (
        libraries[0]
        if libraries
        else "of a name that is not known here, in a process that loads torch, mpi4py and h5py"
    )


def horovod(case: Findings) -> str:
    facts, wanted = case.horovod, case.job is not None and case.job.world.gradients == "horovod"
    if facts["version"] is None:
        if wanted:
            raise UserError(
                "world.gradients is horovod, which is not installed; build it with scripts/install_horovod.sh, or set ddp"
            )
        return "not installed, not needed: world.gradients is ddp"
    built = f"built against {_several(facts['libraries'])}" if facts["mpi"] else "built without MPI"
    if not facts["mpi"] or facts["libraries"] != case.mpi["libraries"]:
        problem = f"Horovod {facts['version']} is {built}, mpi4py against {_several(case.mpi['libraries'])}"
        raise (UserError if wanted else CheckWarning)(
            f"{problem}; build it anew with scripts/install_horovod.sh"
        )
    return f"{facts['version']}, {built}"


def ranks(case: Findings) -> str:
    nodes = {rank["node"] for rank in case.world["ranks"]}
    return f"{len(case.world['ranks'])} talk to each other, on {_several(sorted(nodes))}"


def binding(case: Findings) -> str:
    nodes = defaultdict(list)
    for rank in _world(case)["ranks"]:
        nodes[rank["node"]].append(rank)
    for node, here in nodes.items():
        _check_gpus(case, node, here)
        _check_cores(case, node, here)
    first = case.world["ranks"][0]
    gpu = "a GPU of its own" if first["gpu"] else "no GPU"
    return (
        f"a rank may use {len(first['cpus'])} hardware threads, computes with {first['threads']}, has {gpu}"
    )


def _check_gpus(case: Findings, node: str, here: list[dict]) -> None:
    gpus, wanted = [rank["gpu"] for rank in here], case.machine.gpus_per_node
    if case.ranks and wanted and None in gpus:
        raise UserError(
            f"rank {here[gpus.index(None)]['rank']} on {node} finds no GPU; ask for {wanted} GPUs on each node"
        )
    if None not in gpus and len(set(gpus)) < len(gpus):
        raise UserError(
            f"{len(gpus)} ranks on {node} share {len(set(gpus))} GPUs; start at most one rank per GPU"
        )


def _check_cores(case: Findings, node: str, here: list[dict]) -> None:
    together, machine = set().union(*(rank["cpus"] for rank in here)), case.machine
    if len(together) < len(here):
        raise CheckWarning(
            f"{len(here)} ranks on {node} share {len(together)} of its hardware threads; ask for more, or start fewer ranks"
        )
    poorest = min(here, key=lambda rank: len(rank["cpus"]))
    if case.ranks and len(poorest["cpus"]) < (machine.cores_per_rank or 1):
        raise CheckWarning(
            f"rank {poorest['rank']} on {node} may use {len(poorest['cpus'])} hardware threads, but {machine.name} has "
            f"{machine.cores_per_rank} cores for each; correct cores_per_node, or what the starter binds ranks to"
        )


def scratch(case: Findings) -> str:
    if case.machine.scratch is None:
        return "no folder in the machine file"
    for rank in _world(case)["ranks"]:
        if problem := rank["scratch"].get("problem"):
            there = f"scratch {rank['scratch']['folder']} on {rank['node']}: {problem}"
            if case.machine.scheduler != "none" and case.ranks is None:
                raise CheckWarning(f"{there}; where the nodes have it, that is right: see there with --ranks")
            raise UserError(f"{there}; correct scratch in the machine file")
    first = case.world["ranks"][0]["scratch"]
    return f"{first['folder']} can be written to, {first['free']} are free"


def allreduce(case: Findings) -> str | None:
    if case.ranks is None:
        return None
    latency, speed = _world(case)["latency_s"], case.world["bytes_per_s"]
    if latency is None:
        return "nothing to measure on one rank"
    return f"16 KiB of a plan in {latency * 1e6:.0f} us, 64 MiB of gradients at {speed / 1e9:.2f} GB/s"


def data(case: Findings) -> str | None:
    if case.job is None:
        return None
    facts, name, n = case.data, case.job.data.name, case.all_ranks
    if facts["train"] < n:
        raise UserError(f"{name} has {facts['train']} samples for {n} ranks; use at most one rank a sample")
    if case.job.data.placement == "local" and not facts["files"]:
        raise UserError(
            f"data.placement is local, but samples of {name} are not files of their own; set it to shared"
        )
    return f"{name}: {facts['train']} samples, {facts['validation']} for validation; some were read in {facts['seconds']:.2f} s"


def fits(case: Findings) -> str | None:
    """Whether the job can run on the ranks of the machine."""
    if case.job is None:
        return None
    job, machine, n = case.job, case.machine, case.all_ranks
    batch = check_fits(job, machine, n)
    if job.training.precision == "bf16" and (capability(machine.gpu_type) or BF16_FROM) < BF16_FROM:
        raise CheckWarning(
            f"training.precision is bf16, which a {machine.gpu_type} computes slowly if at all; set it to fp16"
        )
    return f"{n} ranks, global batch {batch}"


def walltime(case: Findings) -> str | None:
    if case.walltime is None:
        return None
    machine, walltime_s, limit_s = case.machine, fitting_walltime(case.walltime, case.machine), _limit_s(case)
    if limit_s is not None and walltime_s > limit_s:
        raise UserError(
            f"--walltime {case.walltime}: the queue ends jobs after {clock(limit_s)}; give less, runs are requeued"
        )
    if walltime_s < 2 * machine.grace_s:
        grace = f"{machine.grace_s} s before its end, more than half of it"
        raise CheckWarning(f"--walltime {case.walltime}: a run is told to leave {grace}; give more")
    return f"{clock(walltime_s)}, at most {machine.max_requeues + 1} times"


def scheduler(case: Findings) -> str:
    if case.machine.scheduler == "none":
        return "none: ranks start here, at once"
    limit = f", jobs of at most {clock(case.queue.limit_s)}" if case.queue.limit_s else ""
    return f"{case.machine.scheduler} answers, queue {case.queue.name}{limit}"


def _torch(case: Findings) -> dict:
    try:
        return case.torch
    except UserError:
        raise CheckWarning("not known as long as torch does not load") from None


def _world(case: Findings) -> dict:
    try:
        return case.world
    except (UserError, CheckWarning):
        raise CheckWarning("not known as long as ranks do not talk") from None


def _limit_s(case: Findings) -> int | None:
    try:
        return case.queue.limit_s if case.machine.scheduler != "none" else None
    except UserError:
        return None  # another check says so


def _make(version: str) -> str:
    """Return whose MPI says so; MPICH's kin start each other's ranks."""
    kin = re.search("MPICH|HYDRA|Intel|MVAPICH|CRAY", version, re.IGNORECASE)
    return (
        "Open MPI"
        if "Open MPI" in version
        else "MPICH or its kin"
        if kin
        else "an MPI that is not known here"
    )


def _served_by_srun(plugin: str | None, make: str) -> str:
    """Return what srun says of the way that ranks of this make meet. Raises UserError if it cannot be."""
    known = ask(["srun", "--mpi=list"])
    if known.returncode:
        raise CheckWarning(
            f"mpi4py loads {make}; whether srun serves it is not known, as it gives no answer to srun --mpi=list"
        )
    plugins = sorted(set(re.findall(r"\b(pmix\w*|pmi2|cray_shasta|none)\b", known.stdout + known.stderr)))
    if plugin and plugin not in plugins:
        raise UserError(
            f"mpi is {plugin}, which this srun does not know; set it in the machine file to one of {', '.join(plugins)}"
        )
    if (
        plugin
        and plugin.startswith("pmix")
        and make.startswith("MPICH")
        or plugin == "pmi2"
        and make == "Open MPI"
    ):
        right = "pmi2" if make.startswith("MPICH") else "pmix"
        raise CheckWarning(
            f"mpi is {plugin}, but ranks of {make} mostly meet by {right}; set mpi in the machine file, or see with --ranks"
        )
    return f"srun --mpi={plugin}" if plugin else "srun, as the site has set it up"


def _several(items: list[str]) -> str:
    shown = ", ".join(items[:4]) or "none"
    return shown + (f" and {len(items) - 4} more" if len(items) > 4 else "")


CHECKS: tuple[tuple[str, Callable[[Findings], str | None]], ...] = (
    ("python", python),
    ("torch", torch),
    ("cuda", cuda),
    ("nccl", nccl),
    ("mpi", mpi),
    ("one mpi", one_mpi),
    ("horovod", horovod),
    ("ranks", ranks),
    ("binding", binding),
    ("scratch", scratch),
    ("allreduce", allreduce),
    ("data", data),
    ("job", fits),
    ("walltime", walltime),
    ("scheduler", scheduler),
)
