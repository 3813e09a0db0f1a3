"""Slurm: sbatch, squeue, sacct, sinfo, scancel."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError, nearest
from .commands import check_query, clock_seconds, last_job_id, run_checked, run_command
from .scheduler import ENDED, JobState, Options, Queue, Scheduler, Status

if TYPE_CHECKING:
    from ..machine import Machine
    from ..script import Script

# In any other state a job holds its nodes.
_QUEUED = ["PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"]
_QUEUED += ["CONFIGURING", "POWER_UP_NODE"]
_FAILED = ["FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE"]
_FAILED += ["LAUNCH_FAILED", "RECONFIG_FAIL"]
_STATUS: dict[str, Status] = {
    **dict.fromkeys(_QUEUED, "queued"),
    **dict.fromkeys(["COMPLETED"], "done"),
    **dict.fromkeys(["CANCELLED", "REVOKED"], "cancelled"),
    **dict.fromkeys(_FAILED, "failed"),
}


# Who and where the server is: these pass.
_SERVER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "SBATCH_CLUSTERS")
# What sites tell users to export passes where neither a key of the machine file nor a line of extra says it:
# sbatch would follow the variable, not the script.
_DEFAULTS = {
    "SBATCH_ACCOUNT": ("account", "--account|-A"),
    "SBATCH_PARTITION": ("queue", "--partition|-p"),
    "SBATCH_QOS": (None, "--qos|-q"),
    "SBATCH_RESERVATION": (None, "--reservation"),
    "SBATCH_CONSTRAINT": (None, "--constraint|-C"),
    "SBATCH_WCKEY": (None, "--wckey"),
}


class Slurm(Scheduler):
    """Slurm. Sends an early signal of its own, and puts a job into the queue again under its old id."""

    title = "Slurm"
    early_signal_s = 60  # sbatch --signal: the resolution of Slurm's event handling
    variables = "(SLURM|SLURMD|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SINFO|SCANCEL)_.*"
    job_variable = "SLURM_JOB_ID"
    node_variable = "SLURMD_NODENAME"
    array_variable = "SLURM_ARRAY_TASK_ID"

    def passes(self, variable: str, machine: Machine | None) -> bool:
        """Whether it names the server, or says what neither the machine file nor the script does."""
        if variable in _SERVER or machine is None or variable not in _DEFAULTS:
            return variable in _SERVER
        key, option = _DEFAULTS[variable]
        return not (key and getattr(machine, key)) and _option(machine, option) is None

    def job_hosts(self, environ: Mapping[str, str]) -> list[str]:
        """Return the nodes of the job, by ``scontrol show hostnames``."""
        nodes = environ.get("SLURM_JOB_NODELIST", "")
        return run_command(["scontrol", "show", "hostnames", nodes]).stdout.split() if nodes else []

    def on_host(self, host: str, program: list[str]) -> list[str]:
        """Return the line of a step beside all others."""
        step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", f"--nodelist={host}"]
        return [*step, "--cpu-bind=none", "--mpi=none", *program]

    def queue_name(self, machine: Machine) -> str | None:
        """Return the partition of the machine file, of its extra, or of SBATCH_PARTITION."""
        return machine.queue or _option(machine, "--partition|-p") or os.environ.get("SBATCH_PARTITION")

    def check_script(self, script: Script, environment: Mapping[str, str]) -> None:
        """Have sbatch test the script: account, nodes, memory, GPUs and partition."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "script.sh")
            path.write_text(script.text(), encoding="utf-8")
            run_checked(["sbatch", "--test-only", str(path)], Path(folder), environment)

    def options(self, options: Options) -> list[str]:
        """Return lines of quality of service, reservation and mail."""
        lines = [f"--qos={options.qos}"] if options.qos else []
        lines += [f"--reservation={options.reservation}"] if options.reservation else []
        return lines + ([f"--mail-user={options.mail}", "--mail-type=END,FAIL"] if options.mail else [])

    def array_options(self, n_tasks: int, limit: int | None) -> list[str]:
        """Return ``--array=0-19%4``."""
        return [f"--array=0-{n_tasks - 1}" + (f"%{limit}" if limit else "")]

    def task_id(self, array_id: str, index: int) -> str:
        """Return ``12_3``."""
        return f"{array_id}_{index}"

    def after(self, job_ids: Sequence[str], when_done: bool) -> str:
        """Return the dependency; of several tasks of an array, on all of it."""
        if len(job_ids) > 1:
            job_ids = [*dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids)]
        return super().after(job_ids, when_done)

    def submit_command(self, dependency: str | None) -> list[str]:
        """Return the sbatch line."""
        # A job whose dependency can never be met would wait for ever.
        after = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
        return ["sbatch", "--parsable", *after, "script.sh"]

    def parse_job_id(self, output: str) -> str:
        """Return the number; in a federation sbatch adds ``;CLUSTER``."""
        return last_job_id(output, r"(\d+)(?:;\S+)?")

    def cancel_command(self, job_id: str) -> list[str]:
        """Return the scancel line."""
        return ["scancel", job_id]

    def job_state(self, job_id: str) -> JobState | None:
        """Return what ``job_states`` finds."""
        return self.job_states([job_id]).get(job_id)

    def job_states(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """Return what squeue says of jobs that wait or run, with the reason; of those that have ended, sacct.

        A site may have no accounting, or lag behind with it; squeue forgets a job minutes after its end.
        """
        jobs = f"--jobs={','.join(job_ids)}"
        live = self._ask("squeue", jobs, "--array", "--states=all", "--noheader", "--format=%T|%r|%M|%S|%i")
        known = _fields(live.stdout)
        states = {job_id: _live_state(known[job_id]) for job_id in job_ids if job_id in known}
        others = [job_id for job_id in job_ids if job_id not in states or states[job_id].status in ENDED]
        if not others:
            return states
        columns = "--format=State,ExitCode,Elapsed,Reason,JobID"
        jobs = f"--jobs={','.join(others)}"
        past = _fields(self._ask("sacct", jobs, "-X", "--noheader", "--parsable2", columns).stdout)
        for job_id in others:
            if job_id in past and (_has_ended(past[job_id]) or job_id not in known):
                state, exit_code, elapsed, reason = past[job_id]
                reason = known[job_id][1] if job_id in known else reason
                states[job_id] = _job_state(state, reason, exit_code, elapsed)
        if len(states) < len(job_ids) and "Invalid job id" not in live.stderr:
            check_query(live)
        return states

    def find_queue(self, name: str | None) -> Queue:
        """Return a partition; the default one has a star in sinfo. Of several, ``a,b``, the widest limits."""
        done = self._ask("sinfo", "--all", "--noheader", "--format=%P|%a|%l|%s")
        check_query(done)
        rows = [[*row, ""] for line in done.stdout.splitlines() if len(row := line.split("|")) > 2]
        partitions = {partition.rstrip("*"): facts for partition, *facts in rows}
        defaults = [partition.rstrip("*") for partition, *_ in rows if partition.endswith("*")]
        name = name or next(iter(defaults), None)
        if name is None:
            known = nearest("", partitions)
            raise UserError(f"Slurm has no default partition; set queue in the machine file, {known}")
        limits_s, sizes = [], []
        for one in name.split(","):
            if one not in partitions:
                raise UserError(
                    f"queue is {one}, but Slurm has no such partition; {nearest(one, partitions)}"
                )
            state, limit, size = partitions[one][:3]
            if state != "up":
                raise UserError(
                    f"partition {one} is {state}; wait, or set queue in the machine file to another"
                )
            limits_s.append(clock_seconds(limit))
            sizes.append(_most_nodes(size))
        return Queue(name, _most(limits_s), _most(sizes))

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run_command([*command], environment=self.environment())


def _fields(output: str) -> dict[str, list[str]]:
    """Return four fields by job id, which is the fifth, of the lines that begin with a state.

    Sites let their commands print more than they are asked for.
    """
    rows = [line.strip().split("|") for line in output.splitlines()]
    return {row[4]: row[:4] for row in rows if len(row) == 5 and re.match("[A-Z][A-Z_]+", row[0])}


def _live_state(fields: list[str]) -> JobState:
    """Return the state of the fields of squeue."""
    state, reason, elapsed, start = fields
    if _status(state) != "queued":
        return _job_state(state, reason, elapsed)
    begins = start if start[:1].isdigit() else ""
    found = _job_state(state, reason, elapsed, f"begins {begins}" if begins else "")
    return found._replace(reason="" if reason == "None" else reason, begins=begins)


def _has_ended(fields: list[str]) -> bool:
    return _status(fields[0]) in ENDED


def _job_state(state: str, reason: str, *details: str) -> JobState:
    said = [state, *(detail for detail in (reason, *details) if detail not in ("", "None", "N/A"))]
    # Slurm cancels a job whose dependency can never be met; nobody else did.
    status = "failed" if reason == "DependencyNeverSatisfied" and state != "PENDING" else _status(state)
    return JobState(status, " ".join(said))


def _status(state: str) -> Status:
    return _STATUS.get(state.split()[0].rstrip("+"), "running")  # "CANCELLED by 1000"


def _most(limits: list[int | None]) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None


def _most_nodes(size: str) -> int | None:
    """Return the greater number of ``1-4`` or ``4``; None of ``1-infinite``."""
    most = size.rpartition("-")[2]
    return int(most) if most.isdecimal() else None


def _option(machine: Machine, names: str) -> str | None:
    """Return the value of an option that extra gives, by its names, ``--account|-A``."""
    values = [re.match(rf"(?:{names})(?:[ =]+)?(\S*)", line) for line in machine.extra]
    return next((match[1] for match in values if match), None)
