"""The doctor: checks of a machine and a job before the queue, a line for each, with what to do."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from ...config.job import Job
from ...errors import DONE, FAILED, UserError
from ...rundir.atomic_io import write_whole
from ...rundir.run_dir import writing_to
from ..machine import Machine, find_machine, read_machine
from ..script import environment_bin, python_of
from .check_warning import CheckWarning
from .checks import CHECKS
from .findings import Findings


def doctor(
    machine: str,
    job: Job | None,
    nodes: int | None,
    ranks: int | None,
    walltime: str | None,
    run: Path | None = None,
) -> int:
    """Print OK, WARN or FAIL and a reason for each check, as soon as it is known.

    Args:
        machine: a machine file, or the name of one that comes with the package.
        job: the job that is to run; None checks the machine alone.
        nodes: of the job.
        ranks: to start here, inside a batch job; None starts two, where the machine lets them start.
        walltime: of the job, as it was typed.
        run: directory of the job's run, into which ``preflight.json`` is written for its report.

    Returns:
        1 if a check failed, else 0.

    Raises:
        UserError: there is no such machine, or the run directory cannot be written to.
    """
    facts = read_machine(machine)
    findings = Findings(facts, find_machine(machine), job, nodes, ranks, walltime, run)
    said: list[dict[str, str]] = []
    with _path_of_job(facts):
        for name, check in CHECKS:
            message: str | None
            try:
                word, message = "OK", check(findings)
            except CheckWarning as warning:
                word, message = "WARN", str(warning)
            except UserError as problem:
                word, message = "FAIL", str(problem)
            if message is not None:
                print(f"{word:4}  {name:9}  {message}", flush=True)
                said.append({"result": word, "check": name, "message": message})
    if run is not None:
        _record(run, facts.name, said)
    return FAILED if any(line["result"] == "FAIL" for line in said) else DONE


def _record(run: Path, machine: str, said: list[dict[str, str]]) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with writing_to(run):
        run.mkdir(parents=True, exist_ok=True)
        write_whole(
            run / "preflight.json",
            json.dumps({"time": now, "machine": machine, "checks": said}, indent=1) + "\n",
        )


@contextlib.contextmanager
def _path_of_job(machine: Machine) -> Iterator[None]:
    """Find programs as the batch script does: in the Python environment first."""
    before = os.environ.get("PATH", "")
    folder = environment_bin(machine, python_of(machine)) if machine.scheduler != "none" else None
    os.environ["PATH"] = f"{folder}:{before}" if folder else before
    try:
        yield
    finally:
        os.environ["PATH"] = before
