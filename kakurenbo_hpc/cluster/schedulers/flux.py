"""Flux: flux batch, flux jobs, flux cancel, flux queue.

Source: the manual pages flux-batch(1), flux-jobs(1), flux-queue(1) and flux-environment(7) of flux-core, of
2026-08-18; not tried on a Flux.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import UserError, nearest
from .commands import check_query, last_job_id, run_command
from .scheduler import JobState, Queue, Scheduler, Status

if TYPE_CHECKING:
    from ..machine import Machine

_STATUS: dict[str, Status] = {
    **dict.fromkeys(("DEPEND", "PRIORITY", "SCHED"), "queued"),
    **dict.fromkeys(("RUN", "CLEANUP"), "running"),
    **{"COMPLETED": "done", "FAILED": "failed", "TIMEOUT": "failed", "CANCELED": "cancelled"},
}
_JOB = "{id.f58}|{status}|{returncode}|{runtime!F}|{exception.type} {exception.note}|{dependencies}"
_QUEUE = "{queuem}|{submission}|{scheduling}|{limits.timelimit!F}|{limits.max.nnodes}"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Flux(Scheduler):
    """Flux. Its early signal goes to the ranks as well. A requeue is a new job, after the old one."""

    title = "Flux"
    variables = "FLUX_.*|REQUEUES"
    job_variable = "FLUX_ENCLOSING_ID"
    node_variable = "FLUX_ENCLOSING_ID"

    def passes(self, variable: str, machine: Machine | None) -> bool:
        """Whether it names the instance that jobs go to."""
        return variable == "FLUX_URI"

    def after(self, job_ids: Sequence[str], when_done: bool) -> str:
        """Return ``afterany:f12,afterany:f13``; the script looks at the rest: a requeued run has a new id."""
        return ",".join(f"afterany:{job_id}" for job_id in job_ids)

    def submit_command(self, dependency: str | None) -> list[str]:
        """Return the flux line."""
        after = [f"--dependency={one}" for one in dependency.split(",")] if dependency else []
        return ["flux", "batch", *after, "script.sh"]

    def parse_job_id(self, output: str) -> str:
        """Return ``f2Xy4``: the first letter is an ƒ where the locale has one."""
        return _plain(last_job_id(output, r"([ƒf][1-9A-HJ-NP-Za-km-z]+)"))

    def cancel_command(self, job_id: str) -> list[str]:
        """Return the flux line."""
        return ["flux", "cancel", job_id]

    def job_state(self, job_id: str) -> JobState | None:
        """Return what ``job_states`` finds."""
        return self.job_states([job_id]).get(job_id)

    def job_states(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """Return what flux jobs says; of a job that is unknown it prints a line on stderr, and fails."""
        done = self._ask("flux", "jobs", "--no-header", f"--format={_JOB}", *job_ids)
        states = {}
        for line in done.stdout.splitlines():
            job_id, status, code, runtime, exception, after = [*line.split("|"), *[""] * 5][:6]
            if status in _STATUS:
                said = [status, f"exit code {code}" if code else "", exception.strip(), runtime]
                reason = f"waits for {after}" if after and _STATUS[status] == "queued" else ""
                detail = " ".join(word for word in (*said, reason) if word)
                states[_plain(job_id.strip())] = JobState(_STATUS[status], detail, reason)
        n_unknown = len(re.findall("unknown|not found", done.stderr))
        if len(states) + n_unknown < len(job_ids):
            check_query(done)
        return states

    def find_queue(self, name: str | None) -> Queue:
        """Return a queue; an instance without named ones has a single one without a name."""
        done = self._ask("flux", "queue", "list", "--no-header", f"--format={_QUEUE}")
        check_query(done)
        rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 4]
        queues = {row[0].rstrip("*").strip(): row[1:] for row in rows}
        defaults = [row[0].rstrip("*").strip() for row in rows if row[0].strip().endswith("*")]
        name = name or next(iter(defaults), "")
        if not name and queues and "" not in queues:
            raise UserError(
                f"Flux has no default queue; set queue in the machine file, {nearest('', queues)}"
            )
        if name not in queues:
            raise UserError(f"queue is {name}, but Flux has no such queue; {nearest(name, queues)}")
        submission, scheduling, limit, nodes = (word.strip() for word in queues[name])
        if (submission, scheduling) != ("enabled", "started"):
            raise UserError(
                f"queue {name} is {submission} and {scheduling}; wait, or set queue in the machine file to "
                "another"
            )
        return Queue(name, _seconds(limit), int(nodes) if nodes.isdecimal() else None)

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run_command([*command], environment=self.environment() | {"FLUX_F58_FORCE_ASCII": "1"})


def _plain(job_id: str) -> str:
    return job_id.replace("ƒ", "f")


def _seconds(duration: str) -> int | None:
    """Return the seconds of Flux's standard duration, ``8h``; None of ``inf``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", duration)
    return round(float(match[1]) * _UNITS_S[match[2] or "s"]) if match else None
