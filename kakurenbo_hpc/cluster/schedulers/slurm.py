"""Slurm: its commands, and what they say."""

from __future__ import annotations

from ...errors import UserError, nearest
from .scheduler import Queue, Scheduler, State, answered, ask, job_id_in, say

# In any other state a job holds its nodes.
_WORDS = {
    "queued": (
        "PENDING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
        "CONFIGURING",
        "POWER_UP_NODE",
    ),
    "done": ("COMPLETED",),
    "cancelled": ("CANCELLED", "REVOKED"),
    "failed": (
        *(
            "FAILED",
            "TIMEOUT",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
            "PREEMPTED",
            "BOOT_FAIL",
            "DEADLINE",
            "LAUNCH_FAILED",
            "RECONFIG_FAIL",
        ),
    ),
}


class Slurm(Scheduler):
    name = "slurm"

    def submit_words(self, dependency):
        # A job whose dependency can never be met would wait for ever.
        after = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
        return ["sbatch", "--parsable", *after, "script.sh"]

    def job_id(self, said):
        return job_id_in(said, r"(\d+)(?:;\S+)?")  # a federation adds ;CLUSTER

    def cancel_words(self, job_id):
        return ["scancel", job_id]

    def state(self, job_id):
        asked = ask(
            ["sacct", "-j", job_id, "-X", "--noheader", "--parsable2", "--format=State,ExitCode,Elapsed"]
        )
        if asked.returncode or not asked.stdout.strip():  # no accounting here, or not there yet
            asked = ask(["squeue", "-j", job_id, "--states=all", "--noheader", "--format=%T|%r|%M"])
        if "Invalid job id" in asked.stderr or not (asked.returncode or asked.stdout.strip()):
            return None
        answered(asked)
        state, *details = asked.stdout.splitlines()[-1].split("|")
        state = state.split()[0]  # "CANCELLED by 1000"
        word = next((word for word, states in _WORDS.items() if state in states), "running")
        return State(word, " ".join([state, *(detail for detail in details if detail != "None")]))

    def queue(self, name):
        rows = [
            line.split("|")
            for line in say(["sinfo", "--all", "--noheader", "--format=%P|%a|%l"]).splitlines()
        ]
        partitions = {partition.rstrip("*"): (up, limit) for partition, up, limit in rows}
        name = name or next(
            (partition.rstrip("*") for partition, _, _ in rows if partition.endswith("*")), None
        )
        if name is None:
            raise UserError(
                f"Slurm has no default partition; set queue in the machine file, {nearest('', partitions)}"
            )
        if name not in partitions:
            raise UserError(f"queue is {name}, but Slurm has no such partition; {nearest(name, partitions)}")
        up, limit = partitions[name]
        if up != "up":
            raise UserError(f"partition {name} is {up}; wait, or set queue in the machine file to another")
        return Queue(name, _seconds(limit))


def _seconds(limit: str) -> int | None:
    """Return the seconds of MM:SS, HH:MM:SS or D-HH:MM:SS; None of ``infinite``."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts):
        return None
    return sum(int(part) * 60**i for i, part in enumerate(reversed(parts))) + 86400 * int(days or 0)
