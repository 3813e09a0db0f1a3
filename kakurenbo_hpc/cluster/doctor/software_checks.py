"""Checks of the installed software: Python, torch and its CUDA build, MPI, Horovod."""

from __future__ import annotations

from ... import __version__
from ...errors import UserError
from ..launchers import open_launcher
from ..script import python_of
from .check_warning import CheckWarning
from .compute_capability import compute_capability, recommend_build, runs_on
from .findings import Findings
from .subprocess_json import Facts


def check_python(findings: Findings) -> str:
    """Whether the machine's Python has this version of the package."""
    facts, path = findings.python, python_of(findings.machine)
    if facts["kakurenbo"] != __version__:
        raise CheckWarning(
            f"{path} has kakurenbo_hpc {facts['kakurenbo']}, this is {__version__}; install the same"
        )
    return f"{facts['python']}, {path}"


def check_torch(findings: Findings) -> str:
    """Whether torch can be imported."""
    facts = findings.torch
    return f"{facts['version']}, for " + (f"CUDA {facts['cuda']}" if facts["cuda"] else "CPUs")


def check_cuda(findings: Findings) -> str:
    """Whether torch is built for the machine's GPUs."""
    facts, machine = _torch(findings), findings.machine
    if not machine.gpus_per_node and not facts["gpus"]:
        return "no GPUs here, none in the machine file"
    if facts["cuda"] is None:
        raise UserError(
            f"{machine.name} has {machine.gpus_per_node} GPUs on a node, but torch {facts['version']} is "
            f"built for CPUs; install {recommend_build(compute_capability(machine.gpu_type))}"
        )
    if facts["no_gpu"]:
        raise UserError(f"torch cannot use the GPUs here: {facts['no_gpu']}")
    gpus = {name: major * 10 + minor for name, major, minor in facts["gpus"]}
    if not gpus:
        capability = compute_capability(machine.gpu_type)
        if machine.gpu_type is None or capability is None:
            problem = (
                f"gpu_type is {machine.gpu_type}, which is not a type known to doctor"
                if machine.gpu_type
                else "the machine file has no gpu_type"
            )
            raise CheckWarning(f"{problem}; run kakurenbo doctor where the GPUs are")
        gpus = {machine.gpu_type: capability}
    for name, capability in gpus.items():
        if not runs_on(capability, facts["built_for"]):
            raise UserError(
                f"{name} is sm_{capability}, but torch {facts['version']} is built for "
                f"{' '.join(facts['built_for'])}; install {recommend_build(capability)}"
            )
    names = ", ".join(f"{name}, sm_{capability}" for name, capability in gpus.items())
    return f"{names}, which torch is built for"


def check_nccl(findings: Findings) -> str:
    """Whether torch has NCCL where there are GPUs."""
    facts = _torch(findings)
    if not findings.machine.gpus_per_node and not facts["gpus"]:
        return "not needed without GPUs"
    if facts["nccl"] is None:
        raise UserError(
            "this torch has no NCCL, by which gradients travel between GPUs; install a CUDA build for Linux"
        )
    return str(facts["nccl"])


def check_mpi(findings: Findings) -> str:
    """Whether the launcher and mpi4py's MPI library fit."""
    launcher = open_launcher(findings.machine.starter)
    if not launcher.uses_mpi:
        return _not_needed(findings)
    return launcher.check_mpi(findings.machine, findings.mpi["version"])


def check_one_mpi(findings: Findings) -> str:
    """Whether one process loads one MPI library only."""
    if not open_launcher(findings.machine.starter).uses_mpi:
        return _not_needed(findings)
    libraries = findings.together["libraries"]
    if len(libraries) > 1:
        raise UserError(
            f"torch, mpi4py, h5py and Horovod load {len(libraries)} MPI libraries into one process: "
            f"{', '.join(libraries)}; build all of them against the same"
        )
    if not libraries:
        return "of an unknown name, in a process that loads torch, mpi4py and h5py"
    return str(libraries[0])


def check_horovod(findings: Findings) -> str:
    """Whether Horovod, where the job wants it, is built against mpi4py's MPI library."""
    facts = findings.horovod
    is_wanted = findings.job is not None and findings.job.world.gradients == "horovod"
    if facts["version"] is None:
        if is_wanted:
            raise UserError(
                "world.gradients is horovod, which is not installed; build it with "
                "scripts/install_horovod.sh, or set ddp"
            )
        return "not installed, not needed: world.gradients is ddp"
    built = f"built against {shorten(facts['libraries'])}" if facts["mpi"] else "built without MPI"
    if not facts["mpi"] or facts["libraries"] != findings.mpi["libraries"]:
        problem = (
            f"Horovod {facts['version']} is {built}, mpi4py against {shorten(findings.mpi['libraries'])}; "
            "build it anew with scripts/install_horovod.sh"
        )
        raise UserError(problem) if is_wanted else CheckWarning(problem)
    return f"{facts['version']}, {built}"


def shorten(items: list[str]) -> str:
    """Return the first of several items as text."""
    text = ", ".join(items[:4]) or "none"
    return text + (f" and {len(items) - 4} more" if len(items) > 4 else "")


def _torch(findings: Findings) -> Facts:
    try:
        return findings.torch
    except UserError:
        raise CheckWarning("not known as long as torch does not load") from None


def _not_needed(findings: Findings) -> str:
    return f"not needed: {findings.machine.starter} starts the ranks"
