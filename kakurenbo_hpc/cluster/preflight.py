"""Pre-flight checks: what a login node can check of a submission before it is queued."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..config.job import Job
from ..errors import UserError
from ..training import MODELS, TORCH_OPTIMIZERS
from .doctor.subprocess_json import run_job_probe
from .launchers import open_launcher
from .machine import Machine
from .schedulers import open_scheduler
from .schedulers.commands import NoAnswer
from .schedulers.scheduler import Queue
from .script import Script, python_of
from .walltime import format_clock

_LIMIT_S = 300


def check_submission(script: Script, job: Job, environment: Mapping[str, str]) -> None:
    """Check what ``doctor`` checks of modules, names and the batch system, before a script is submitted.

    A batch system that does not answer is left to the submit command.

    Raises:
        UserError: the job would not be accepted, would wait for ever, or would fail after the queue.
    """
    open_launcher(script.machine.starter).check_nodes(script.machine, script.nodes)
    check_modules(script.machine)
    check_names(script.machine, job)
    try:
        queue = find_queue(script.machine)
        check_limits(queue, script.n_requested, script.walltime_s)
        open_scheduler(script.machine.scheduler).check_script(script, environment)
    except NoAnswer:
        return


def find_queue(machine: Machine) -> Queue:
    """Return the queue that jobs on a machine go to."""
    scheduler = open_scheduler(machine.scheduler)
    return scheduler.find_queue(scheduler.queue_name(machine))


def check_limits(queue: Queue, n_nodes: int, walltime_s: int) -> None:
    """Raise UserError if a queue would keep a job for ever: too long, or too large."""
    if queue.limit_s is not None and walltime_s > queue.limit_s:
        raise UserError(
            f"the walltime is {format_clock(walltime_s)}, but queue {queue.name} ends jobs after "
            f"{format_clock(queue.limit_s)}; give less, runs are requeued"
        )
    if queue.max_nodes is not None and n_nodes > queue.max_nodes:
        raise UserError(
            f"--nodes is {n_nodes}, but queue {queue.name} takes at most {queue.max_nodes}; ask for "
            "fewer, or set queue in the machine file to another"
        )


def check_modules(machine: Machine) -> str | None:
    """Return a sentence on the machine's modules, None without any.

    Raises:
        UserError: a login shell cannot load them.
    """
    if not machine.modules:
        return None
    words = shlex.join(["module", "load", *machine.modules])
    try:
        done = subprocess.run(
            ["bash", "-l", "-c", words],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{words}: does not end; ask the site") from None
    said = " ".join(done.stderr.split())
    # Environment Modules before version 4 print an error and succeed.
    if done.returncode or re.search(r"\bERROR\b|Unable to locate|command not found", said):
        raise UserError(
            f"{words}: fails in a login shell ({said[:200] or f'exit code {done.returncode}'}); correct "
            "modules in the machine file (module avail lists them)"
        )
    return f"{', '.join(machine.modules)} can be loaded"


def check_names(machine: Machine, job: Job) -> None:
    """Check that model and optimizer exist, in a process of the machine's Python; neither is built.

    Raises:
        UserError: one does not; with the nearest names.
    """
    if job.model.name in MODELS.own and job.training.optimizer in TORCH_OPTIMIZERS:
        return
    python = python_of(machine)
    if not Path(python).exists():  # on the nodes' own disks
        return
    run_job_probe(python, "names", job, machine.environment, _LIMIT_S)
