"""Environment of a submission: without what an outer job, a launcher or the user's defaults set.

A batch system hands the submitting shell's variables on to the job, and takes some for options that override
the lines of the script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from .launchers import LAUNCHERS
from .machine import Machine
from .schedulers import SCHEDULERS, open_scheduler

_OURS = "KAKURENBO_(DEADLINE|ATTEMPT)"
# Set inside a job, for its own nodes; outside a job they are the user's.
_OF_A_JOB = "CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|TMPDIR"
_SECRETS = re.compile("JWT|TOKEN|PASS|KEY|SECRET")


class JobEnvironment(NamedTuple):
    """The environment of a submission.

    Attributes:
        variables: all of it.
        passed: the batch system's own that pass, as ``NAME=value``.
        withheld_defaults: names of the user's defaults for the batch system that do not.
    """

    variables: dict[str, str]
    passed: list[str]
    withheld_defaults: list[str]


def choose_environment(machine: Machine, environ: Mapping[str, str]) -> JobEnvironment:
    """Return the environment in which a job for a machine is submitted.

    Args:
        machine: what its file says is not overridden by a variable.
        environ: of the submitting shell.
    """
    scheduler = open_scheduler(machine.scheduler)
    systems = {SCHEDULERS[name] for name in SCHEDULERS.own} | {type(scheduler)}
    launchers = {LAUNCHERS[name] for name in (*LAUNCHERS.own, machine.starter)}
    patterns = [_OURS, *(system.variables for system in systems)]
    patterns += [launcher.variables for launcher in launchers]
    patterns += [_OF_A_JOB] if any(system.job_variable in environ for system in systems) else []
    checked = re.compile("|".join(f"(?:{pattern})" for pattern in patterns if pattern))
    own = {name for name in environ if re.fullmatch(scheduler.variables, name)}
    passed = sorted(name for name in own if scheduler.passes(name, machine))
    withheld = {name for name in environ if checked.fullmatch(name)} - {*passed}
    is_in_job = scheduler.job_variable in environ  # which sets them by the dozen
    return JobEnvironment(
        {name: value for name, value in environ.items() if name not in withheld},
        [f"{name}={'...' if _SECRETS.search(name) else environ[name]}" for name in passed],
        [] if is_in_job else sorted(own & withheld),
    )
