"""Slurm: sbatch, squeue, sacct, sinfo, scancel."""

from __future__ import annotations

from ...errors import UserError, nearest
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


class Slurm(Scheduler):
    """Slurm. Sends an early signal of its own, and puts a job into the queue again under its old id."""

    title = "Slurm"
    early_signal_s = 60  # sbatch --signal: the resolution of Slurm's event handling

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
        """Return what sacct says, else squeue: a site may have no accounting, or lag behind with it."""
        columns = "--format=State,ExitCode,Elapsed"
        done = run_command(["sacct", "-j", job_id, "-X", "--noheader", "--parsable2", columns])
        if done.returncode or not done.stdout.strip():
            done = run_command(["squeue", "-j", job_id, "--states=all", "--noheader", "--format=%T|%r|%M"])
        if "Invalid job id" in done.stderr or not (done.returncode or done.stdout.strip()):
            return None
        check_query(done)
        state, *details = done.stdout.splitlines()[-1].split("|")
        state = state.split()[0]  # "CANCELLED by 1000"
        detail = " ".join([state, *(detail for detail in details if detail != "None")])
        return JobState(_STATUS.get(state, "running"), detail)

    def find_queue(self, name: str | None) -> Queue:
        """Return a partition; the default one has a star in sinfo."""
        lines = run_checked(["sinfo", "--all", "--noheader", "--format=%P|%a|%l"]).splitlines()
        rows = [line.split("|") for line in lines]
        partitions = {partition.rstrip("*"): (state, limit) for partition, state, limit in rows}
        defaults = [partition.rstrip("*") for partition, _, _ in rows if partition.endswith("*")]
        name = name or next(iter(defaults), None)
        if name is None:
            known = nearest("", partitions)
            raise UserError(f"Slurm has no default partition; set queue in the machine file, {known}")
        if name not in partitions:
            raise UserError(f"queue is {name}, but Slurm has no such partition; {nearest(name, partitions)}")
        state, limit = partitions[name]
        if state != "up":
            raise UserError(f"partition {name} is {state}; wait, or set queue in the machine file to another")
        return Queue(name, _limit_s(limit))


def _limit_s(limit: str) -> int | None:
    """Return the seconds of MM:SS, HH:MM:SS or D-HH:MM:SS; None of ``infinite``."""
    days, _, clock = limit.rpartition("-")
    if not all(part.isdecimal() for part in clock.split(":")):
        return None
    return clock_seconds(clock) + 86400 * int(days or 0)
