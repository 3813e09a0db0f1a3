"""PBS Pro and OpenPBS: their commands, and what they say."""

from __future__ import annotations

import re

from .system import BatchSystem, State, ask

_RUNNING, _ENDED = "REB", "FCX"
_CANCELLED = 256 + 15  # what PBS makes of the TERM that qdel sends


class Pbs(BatchSystem):
    name = "pbs"

    def submit_words(self, dependency):
        return ["qsub", *(["-W", f"depend={dependency}"] if dependency else []), "script.sh"]

    def job_id(self, said):
        return said.strip()

    def cancel_words(self, job_id):
        return ["qdel", job_id]

    def state(self, job_id):
        asked = ask(["qstat", "-x", "-f", job_id])
        if asked.returncode:  # a site may keep no history of jobs
            asked = ask(["qstat", "-f", job_id])
        if asked.returncode:
            return None
        facts = dict(re.findall(r"^\s+([\w.]+) = (.*)$", asked.stdout, re.MULTILINE))
        letter, status = facts.get("job_state", "?"), facts.get("Exit_status")
        detail = " ".join([letter, *([f"exit status {status}"] if status else []), facts.get("resources_used.walltime", "")]).strip()
        if letter in _ENDED:
            return State({"0": "done", str(_CANCELLED): "cancelled", None: "cancelled"}.get(status, "failed"), detail)
        return State("running" if letter in _RUNNING else "queued", detail)
