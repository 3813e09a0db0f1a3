"""Checks of a job against its data, the machine, the walltime and the queue."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...errors import UserError
from .. import preflight, walltime
from ..job_environment import choose_environment
from ..launch_checks import check_job_fits
from ..launchers import open_launcher
from ..schedulers import open_scheduler
from ..schedulers.commands import NoAnswer
from ..script import Script, python_of
from .check_warning import CheckWarning
from .compute_capability import BF16_FROM, compute_capability
from .findings import Findings


def check_data(findings: Findings) -> str | None:
    """Whether the job's data can be read, and is enough for its ranks."""
    if findings.job is None:
        return None
    facts, name, n_ranks = findings.data, findings.job.data.name, findings.n_job_ranks
    if facts["train"] < n_ranks:
        raise UserError(
            f"{name} has {facts['train']} samples for {n_ranks} ranks; use at most one rank a sample"
        )
    if findings.job.data.placement == "local" and not facts["files"]:
        raise UserError(
            f"data.placement is local, but samples of {name} are not files of their own; set it to shared"
        )
    return (
        f"{name}: {facts['train']} samples, {facts['validation']} for validation; some were read in "
        f"{facts['seconds']:.2f} s"
    )


def check_job(findings: Findings) -> str | None:
    """Whether the job can run on the ranks of the machine."""
    if findings.job is None:
        return None
    job, machine, n_ranks = findings.job, findings.machine, findings.n_job_ranks
    batch = check_job_fits(job, machine, n_ranks)
    preflight.check_names(machine, job)
    if job.training.precision == "bf16" and (compute_capability(machine.gpu_type) or BF16_FROM) < BF16_FROM:
        raise CheckWarning(
            f"training.precision is bf16, which a {machine.gpu_type} computes slowly if at all; set it to "
            "fp16"
        )
    return f"{n_ranks} ranks, global batch {batch}"


def check_walltime(findings: Findings) -> str | None:
    """Whether the walltime fits the queue and the grace time."""
    if findings.walltime is None:
        return None
    machine = findings.machine
    walltime_s, limit_s = walltime.check_walltime(findings.walltime, machine), _limit_s(findings)
    if limit_s is not None and walltime_s > limit_s:
        raise UserError(
            f"--walltime {findings.walltime}: the queue ends jobs after {walltime.format_clock(limit_s)}; "
            "give less, runs are requeued"
        )
    if walltime_s < 2 * machine.grace_s:
        raise CheckWarning(
            f"--walltime {findings.walltime}: a run is told to leave {machine.grace_s} s before its end, "
            "more than half of it; give more"
        )
    return f"{walltime.format_clock(walltime_s)}, at most {machine.max_requeues + 1} times"


def check_scheduler(findings: Findings) -> str:
    """Whether the batch system answers, and would accept such a job."""
    machine = findings.machine
    open_launcher(machine.starter).check_nodes(machine, findings.n_nodes or 1)
    if machine.scheduler == "none":
        return "none: ranks start here, at once"
    queue, script = findings.queue, _script(findings)
    preflight.check_limits(queue, script.nodes, 0)  # check_walltime says whether it is too long
    environment = choose_environment(machine, os.environ)
    with contextlib.suppress(NoAnswer):  # it has answered just now; then submit finds out
        open_scheduler(machine.scheduler).check_script(script, environment.variables)
    limit = f", jobs of at most {walltime.format_clock(queue.limit_s)}" if queue.limit_s else ""
    return f"{machine.scheduler} answers, queue {queue.name}{limit}"


def check_modules(findings: Findings) -> str | None:
    """Whether the machine's modules can be loaded."""
    return preflight.check_modules(findings.machine)


def _script(findings: Findings) -> Script:
    """Return a script as submit would write it, of the shortest walltime where none is named."""
    machine, folder = findings.machine, Path.cwd()
    asked = findings.walltime
    walltime_s = walltime.parse_walltime(asked) if asked else machine.grace_s + 120
    name = findings.job.name if findings.job else "doctor"
    return Script(name, findings.n_nodes or 1, walltime_s, machine, folder, folder, python_of(machine))


def _limit_s(findings: Findings) -> int | None:
    if findings.machine.scheduler == "none":
        return None
    try:
        limit_s: int | None = findings.queue.limit_s
    except UserError:
        return None  # check_scheduler says so
    return limit_s
