"""PBS Pro and OpenPBS: qsub, qstat, qdel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import UserError
from .scheduler import (
    JobState,
    Queue,
    Scheduler,
    Status,
    check_query,
    clock_seconds,
    last_job_id,
    run_checked,
    run_command,
)

if TYPE_CHECKING:
    from ..machine import Machine

_QUEUED, _ENDED = "QHWTM", "FCX"  # with any other letter a job holds its nodes
_CANCELLED = 256 + 15  # the exit status that PBS makes of the TERM that qdel sends


class Pbs(Scheduler):
    """PBS Pro and OpenPBS. No early signal: the ranks get a deadline. A requeue is a new job."""

    title = "PBS"
    machine_keys = frozenset({"chunk"})

    def script_values(self, machine: Machine, n_nodes: int) -> dict[str, str]:
        """Return ``select``: as many chunks as nodes, each of them a whole node."""
        n_ranks = machine.ranks_per_node
        parts = [str(n_nodes), f"ncpus={machine.cores_per_node or n_ranks}", f"mpiprocs={n_ranks}"]
        parts += [f"ompthreads={machine.cores_per_rank or 1}"]
        parts += [f"mem={machine.memory_gib}gb"] if machine.memory_gib else []
        return {"select": ":".join([*parts, *machine.chunk])}

    def submit_command(self, dependency: str | None) -> list[str]:
        """Return the qsub line."""
        return ["qsub", *(["-W", f"depend={dependency}"] if dependency else []), "script.sh"]

    def parse_job_id(self, output: str) -> str:
        """Return ``12.server`` or, of an array, ``12[].server``."""
        return last_job_id(output, r"(\d+(?:\[\])?\.\S+)")

    def cancel_command(self, job_id: str) -> list[str]:
        """Return the qdel line."""
        return ["qdel", job_id]

    def job_state(self, job_id: str) -> JobState | None:
        """Return what qstat says, with the history of jobs where a site keeps it."""
        done = run_command(["qstat", "-x", "-f", job_id])
        if done.returncode:
            done = run_command(["qstat", "-f", job_id])
        if re.search("Unknown Job Id|has finished", done.stderr):
            return None
        check_query(done)
        attributes = _parse_attributes(done.stdout)
        letter, exit_status = attributes.get("job_state", "?"), attributes.get("Exit_status")
        details = [letter, *([f"exit status {exit_status}"] if exit_status else [])]
        detail = " ".join([*details, attributes.get("resources_used.walltime", "")]).strip()
        if letter in _ENDED:
            return JobState(_final_status(exit_status), detail)
        return JobState("queued" if letter in _QUEUED else "running", detail)

    def find_queue(self, name: str | None) -> Queue:
        """Return a queue as ``qstat -Q`` describes it."""
        name = name or _parse_attributes(run_checked(["qstat", "-B", "-f"])).get("default_queue")
        if name is None:
            raise UserError("PBS has no default queue; set queue in the machine file (qstat -Q lists them)")
        attributes = _parse_attributes(run_checked(["qstat", "-Q", "-f", name]))
        if (attributes.get("enabled"), attributes.get("started")) != ("True", "True"):
            raise UserError(
                f"queue {name} is closed or stopped; wait, or set queue in the machine file to another "
                "(qstat -Q lists them)"
            )
        limit = attributes.get("resources_max.walltime")
        return Queue(name, clock_seconds(limit) if limit else None)


def _final_status(exit_status: str | None) -> Status:
    """Return how a job has ended; one that was cancelled before it began has no exit status."""
    if exit_status is None or exit_status == str(_CANCELLED):
        return "cancelled"
    return "done" if exit_status == "0" else "failed"


def _parse_attributes(output: str) -> dict[str, str]:
    """Return the attributes that ``qstat -f`` lists."""
    return dict(re.findall(r"^\s+([\w.]+) = (.*)$", output, re.MULTILINE))
