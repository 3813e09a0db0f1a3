"""Look for what is wrong before the queue does: one line for each check, with what to do."""

from __future__ import annotations

from ...config.job import Job
from ...errors import DONE, FAILED, UserError
from ..machine import find_machine, read_machine
from .checks import CHECKS
from .findings import CheckWarning, Findings


def doctor(machine: str, job: Job | None, nodes: int | None, ranks: int | None, walltime: str | None) -> int:
    """Print OK, WARN or FAIL and a reason for each check, as soon as it is known.

    ranks: to start here, inside a batch job; otherwise two, where the machine lets them start. nodes, walltime: of the job.
    Returns 1 if a check failed, else 0. Raises UserError if there is no such machine.
    """
    case = Findings(read_machine(machine), find_machine(machine), job, nodes, ranks, walltime)
    failed = False
    for name, check in CHECKS:
        try:
            word, said = "OK", check(case)
        except CheckWarning as doubt:
            word, said = "WARN", str(doubt)
        except UserError as problem:
            word, said, failed = "FAIL", str(problem), True
        if said is not None:
            print(f"{word:4}  {name:9}  {said}", flush=True)
    return FAILED if failed else DONE
