"""PBS Pro and OpenPBS: their commands, and what they say."""

from __future__ import annotations

import re

from ...errors import UserError
from .scheduler import Queue, Scheduler, State, answered, ask, job_id_in, say

_QUEUED, _ENDED = "QHWTM", "FCX"  # with any other letter a job holds its nodes
_CANCELLED = 256 + 15  # what PBS makes of the TERM that qdel sends


class Pbs(Scheduler):
    name = "pbs"

    def submit_words(self, dependency):
        return ["qsub", *(["-W", f"depend={dependency}"] if dependency else []), "script.sh"]

    def job_id(self, said):
        return job_id_in(said, r"(\d+(?:\[\])?\.\S+)")

    def cancel_words(self, job_id):
        return ["qdel", job_id]

    def state(self, job_id):
        asked = ask(["qstat", "-x", "-f", job_id])
        if asked.returncode:  # a site may keep no history of jobs
            asked = ask(["qstat", "-f", job_id])
        if re.search("Unknown Job Id|has finished", asked.stderr):
            return None
        answered(asked)
        facts = _facts(asked.stdout)
        letter, status = facts.get("job_state", "?"), facts.get("Exit_status")
        detail = " ".join(
            [letter, *([f"exit status {status}"] if status else []), facts.get("resources_used.walltime", "")]
        ).strip()
        if letter in _ENDED:
            return State(
                {"0": "done", str(_CANCELLED): "cancelled", None: "cancelled"}.get(status, "failed"), detail
            )
        return State("queued" if letter in _QUEUED else "running", detail)

    def queue(self, name):
        name = name or _facts(say(["qstat", "-B", "-f"])).get("default_queue")
        if name is None:
            raise UserError("PBS has no default queue; set queue in the machine file (qstat -Q lists them)")
        facts = _facts(say(["qstat", "-Q", "-f", name]))
        if (facts.get("enabled"), facts.get("started")) != ("True", "True"):
            raise UserError(
                f"queue {name} is closed or stopped; wait, or set queue in the machine file to another (qstat -Q lists them)"
            )
        limit = facts.get("resources_max.walltime")
        return Queue(
            name,
            sum(int(part) * 60**i for i, part in enumerate(reversed(limit.split(":")))) if limit else None,
        )


def _facts(said: str) -> dict[str, str]:
    """Return the attributes that qstat -f lists."""
    return dict(re.findall(r"^\s+([\w.]+) = (.*)$", said, re.MULTILINE))
