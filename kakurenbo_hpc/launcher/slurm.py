"""Slurm: its commands, and what they say."""

from __future__ import annotations

from .system import BatchSystem, State, ask

_WORDS = {"running": ("RUNNING", "COMPLETING"), "done": ("COMPLETED",), "cancelled": ("CANCELLED",)}
_FAILED = ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE")


class Slurm(BatchSystem):
    name = "slurm"

    def submit_words(self, dependency):
        # A job whose dependency can never be met would wait for ever.
        after = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
        return ["sbatch", "--parsable", *after, "script.sh"]

    def job_id(self, said):
        return said.strip().partition(";")[0]  # a federation adds ;CLUSTER

    def cancel_words(self, job_id):
        return ["scancel", job_id]

    def state(self, job_id):
        asked = ask(["sacct", "-j", job_id, "-X", "--noheader", "--parsable2", "--format=State,ExitCode,Elapsed"])
        if asked.returncode or not asked.stdout.strip():  # no accounting here, or not there yet
            asked = ask(["squeue", "-j", job_id, "--states=all", "--noheader", "--format=%T|%r|%M"])
        if asked.returncode or not asked.stdout.strip():
            return None
        state, *details = asked.stdout.splitlines()[-1].split("|")
        state = state.split()[0]  # "CANCELLED by 1000"
        word = next((word for word, states in _WORDS.items() if state in states), "failed" if state in _FAILED else "queued")
        return State(word, " ".join([state, *(detail for detail in details if detail != "None")]))
