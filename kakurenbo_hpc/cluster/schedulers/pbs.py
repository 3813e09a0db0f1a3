"""PBS Pro and OpenPBS: qsub, qstat, qdel, pbsnodes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError
from .commands import NoAnswer, Refusal, check_query, clock_seconds, last_job_id, run_checked, run_command
from .scheduler import JobState, Options, Queue, Scheduler, Status

if TYPE_CHECKING:
    from ..machine import Machine
    from ..script import Script

Attributes = dict[str, str]

_QUEUED, _ENDED = "QHWTM", "FCX"  # with any other letter a job holds its nodes
_CANCELLED = 256 + 15  # the exit status that PBS makes of the TERM that qdel sends
# Source: JOB_EXEC_* of OpenPBS's job.h.
_KILLED = {
    **{"-24": "it used more CPUs than it had asked for", "-25": "it used more CPUs than it had asked for"},
    **{"-26": "its virtual memory was over the limit", "-27": "its memory was over the limit"},
    **{"-28": "its CPU time was over the limit", "-29": "its walltime was over"},
}
_SERVER = ("PBS_DEFAULT", "PBS_CONF_FILE")
_OF_A_JOB = "JOBID|JOBNAME|JOBDIR|JOBCOOKIE|QUEUE|ACCOUNT|ENVIRONMENT|NODEFILE|NODENUM|TASKNUM|MOMPORT|TMPDIR"
_SIZES = {unit: 1024**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb", "pb"))}
_PLACED = ("mpiprocs", "ompthreads")  # of a chunk, but not of a node


class Pbs(Scheduler):
    """PBS Pro and OpenPBS. No early signal: the ranks get a deadline. A requeue is a new job."""

    title = "PBS"
    machine_keys = frozenset({"chunk"})
    variables = f"PBS_(({_OF_A_JOB})|(O|ARRAY)_.*|DPREFIX)|REQUEUES|{'|'.join(_SERVER)}"
    job_variable = "PBS_JOBID"
    node_variable = "PBS_NODEFILE"
    array_variable = "PBS_ARRAY_INDEX"

    def passes(self, variable: str, machine: Machine | None) -> bool:
        """Whether it names the server."""
        return variable in _SERVER

    def queue_name(self, machine: Machine) -> str | None:
        """Return the queue of the machine file, or of its extra."""
        named = [re.match(r"-q *(\S+)", line) for line in machine.extra]
        return machine.queue or next((match[1] for match in named if match), None)

    def script_values(self, machine: Machine, n_nodes: int) -> dict[str, str]:
        """Return ``select``, as many chunks as nodes, each of them a whole node; and ``umask``.

        The submitting shell's umask: by itself PBS makes all files of a run private.
        """
        chunk = _chunk(machine)
        os.umask(umask := os.umask(0))
        return {"select": ":".join([str(n_nodes), *chunk]), "umask": f"{umask:04o}"}

    def check_script(self, script: Script, environment: Mapping[str, str]) -> None:
        """Check that nodes with the resources of its chunks exist, as many as it asks for."""
        try:
            hosts = self._hosts()
        except NoAnswer:
            return
        wanted = {
            name: amount
            for name, _, text in (part.partition("=") for part in _chunk(script.machine))
            if name not in _PLACED and (amount := _amount(text)) is not None
        }
        for name, amount in wanted.items():
            most = max((host.get(name, -1) for host in hosts), default=-1)
            if most < 0:
                raise UserError(
                    f"a chunk asks for {name}, which no node of PBS has (pbsnodes -a lists their resources); "
                    "correct it in the machine file"
                )
            if most < amount:
                raise UserError(
                    f"a chunk asks for {name}={_as_asked(script.machine, name)}, more than any node of PBS "
                    "has (pbsnodes -a lists their resources); correct it in the machine file"
                )
        n_fit = sum(all(host.get(name, 0) >= amount for name, amount in wanted.items()) for host in hosts)
        if n_fit < script.n_requested:
            raise UserError(f"--nodes is {script.n_requested}, but PBS has {n_fit} such nodes; ask for fewer")

    def options(self, options: Options) -> list[str]:
        """Return lines of mail and of a reservation, which is a queue in PBS."""
        if options.qos:
            raise UserError("--qos is Slurm's; PBS has queues: name one with --queue")
        lines = [f"-q {options.reservation}"] if options.reservation else []
        return lines + ([f"-M {options.mail}", "-m ae"] if options.mail else [])

    def array_options(self, n_tasks: int, limit: int | None) -> list[str]:
        """Return ``-J 0-19%4``."""
        return ["-J", f"0-{n_tasks - 1}" + (f"%{limit}" if limit else "")]

    def task_id(self, array_id: str, index: int) -> str:
        """Return ``12[3].server`` of ``12[].server``."""
        return array_id.replace("[]", f"[{index}]")

    def after(self, job_ids: Sequence[str], when_done: bool) -> str:
        """Return the dependency on jobs in whatever way they end.

        A job that is requeued has ended, with 75, and a new one goes on: the script looks for it, and at how
        the run has ended.
        """
        arrays = [re.sub(r"\[\d+\]", "[]", job_id) for job_id in job_ids]  # nothing can depend on a task
        return super().after([*dict.fromkeys(arrays)], when_done=False)

    def submit_command(self, dependency: str | None) -> list[str]:
        """Return the qsub line."""
        if dependency and "singleton" in dependency:
            raise UserError("--dependency singleton is Slurm's; on PBS name the run before with --after RUN")
        return ["qsub", *(["-W", f"depend={dependency}"] if dependency else []), "script.sh"]

    def submit(
        self,
        folder: Path,
        dependency: str | None,
        environment: Mapping[str, str] | None = None,
        array: Sequence[str] = (),
    ) -> str:
        """Submit the script in a folder and return the job id.

        PBS accepts a job whose dependency names a job that it does not know, and deletes it at once.
        """
        job_id = super().submit(folder, dependency, environment, array)
        if dependency and self.job_state(job_id) is None:
            raise Refusal(
                f"PBS accepted job {job_id} and deleted it at once: {dependency} names a job that it does "
                "not know (any more); correct --dependency, or leave it out"
            )
        return job_id

    def parse_job_id(self, output: str) -> str:
        """Return ``12.server`` or, of an array, ``12[].server``."""
        return last_job_id(output, r"(\d+(?:\[\])?\.\S+)")

    def cancel_command(self, job_id: str) -> list[str]:
        """Return the qdel line."""
        return ["qdel", job_id]

    def job_state(self, job_id: str) -> JobState | None:
        """Return what ``job_states`` finds."""
        return self.job_states([job_id]).get(job_id)

    def job_states(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """Return what qstat says.

        Asked for the history of jobs, a server that keeps none prints a remark and succeeds, and one that
        does fails for a job that it has forgotten. In both cases the job may still be there.
        """
        states: dict[str, JobState] = {}
        for history in (["-x"], []):
            others = [job_id for job_id in job_ids if job_id not in states]
            if not others:
                return states
            done = self._ask("qstat", *history, "-f", *others)
            found = {job_id: _state(facts) for job_id, facts in _parse_jobs(done.stdout).items()}
            states |= {job_id: state for job_id, state in found.items() if state is not None}
        n_unknown = len(re.findall("Unknown Job Id|has finished", done.stderr))
        if len(found) + n_unknown < len(others):
            check_query(done)
            raise NoAnswer(f"qstat -f {others[0]} prints no job_state; try again later")
        return states

    def last_words(self, folder: Path, job_id: str) -> str:
        """Return PBS's own lines in the spooled output of a job: the script's goes to the log."""
        number = job_id.partition(".")[0]
        paths = sorted(path for kind in "oe" for path in folder.glob(f"*.{kind}{number}"))
        lines = [line for path in paths for line in path.read_text(errors="replace").splitlines()]
        return " ".join(line.strip() for line in lines if line.startswith("=>> PBS:"))

    def find_queue(self, name: str | None) -> Queue:
        """Return a queue as ``qstat -Q`` describes it; one that routes has the limits of where it leads."""
        server = _parse_attributes(run_checked(["qstat", "-B", "-f"], environment=self.environment()))
        name = name or server.get("default_queue")
        if name is None:
            raise UserError("PBS has no default queue; set queue in the machine file (qstat -Q lists them)")
        queue = self._follow(name, ())
        limits = (queue.limit_s, queue.max_nodes)
        return Queue(name, *map(_least, zip(limits, _limits(server), strict=True)))

    def _follow(self, name: str, before: tuple[str, ...]) -> Queue:
        attributes = _parse_attributes(
            run_checked(["qstat", "-Q", "-f", name], environment=self.environment())
        )
        if (attributes.get("enabled"), attributes.get("started")) != ("True", "True"):
            raise UserError(
                f"queue {name} is closed or stopped; wait, or set queue in the machine file to another "
                "(qstat -Q lists them)"
            )
        if attributes.get("queue_type", "Execution")[0] != "R":
            return Queue(name, *_limits(attributes))
        routes, problem = [], UserError(f"queue {name} routes to no other; set queue in the machine file")
        for target in re.findall(r"[^,\s]+", attributes.get("route_destinations", "")):
            if target in (name, *before):
                continue
            try:
                routes.append(self._follow(target, (name, *before)))
            except UserError as found:
                problem = UserError(f"queue {name} routes to {target}: {found}")
        if not routes:
            raise problem
        most = (
            _greatest([route.limit_s for route in routes]),
            _greatest([route.max_nodes for route in routes]),
        )
        return Queue(name, *map(_least, zip(most, _limits(attributes), strict=True)))

    def _hosts(self) -> list[dict[str, int]]:
        """Return the amounts of each host's resources; of a host in several vnodes, their sums."""
        done = self._ask("pbsnodes", "-a")
        check_query(done)
        hosts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for stanza in re.split(r"\n(?=\S)", done.stdout):
            resources = {
                name.removeprefix("resources_available."): text
                for name, text in _parse_attributes(stanza).items()
                if name.startswith("resources_available.")
            }
            for name, text in resources.items():
                if (amount := _amount(text)) is not None:
                    hosts[resources.get("host", stanza.split()[0])][name] += amount
        if not hosts:
            raise NoAnswer("pbsnodes -a lists no nodes")
        return list(hosts.values())

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run_command([*command], environment=self.environment())


def _chunk(machine: Machine) -> list[str]:
    n_ranks = machine.ranks_per_node
    parts = [f"ncpus={machine.cores_per_node or n_ranks}", f"mpiprocs={n_ranks}"]
    parts += [f"ompthreads={machine.cores_per_rank or 1}"]
    parts += [f"mem={machine.memory_gib}gb"] if machine.memory_gib else []
    return [*parts, *machine.chunk]


def _as_asked(machine: Machine, name: str) -> str:
    return next(text for part, _, text in (part.partition("=") for part in _chunk(machine)) if part == name)


def _amount(text: str) -> int | None:
    """Return the number of ``4`` or the bytes of ``16gb``; None of any other text."""
    match = re.fullmatch(r"(\d+)([kmgtp]?b)?", text.strip().lower())
    return int(match[1]) * _SIZES[match[2] or "b"] if match else None


def _limits(attributes: Attributes) -> tuple[int | None, int | None]:
    nodes = attributes.get("resources_max.nodect", "")
    return clock_seconds(attributes.get("resources_max.walltime", "")), (
        int(nodes) if nodes.isdecimal() else None
    )


def _least(limits: tuple[int | None, ...]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _greatest(limits: list[int | None]) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None


def _state(attributes: Attributes) -> JobState | None:
    """Return the state of a job; None of a task that has ended in a way that PBS does not tell."""
    letter, exit_status = attributes["job_state"], attributes.get("Exit_status")
    if letter == "X" and exit_status is None:
        return None
    details, reasons = [letter, *_describe_exit(exit_status)], _reasons(attributes)
    if letter in _QUEUED:
        details += reasons
    detail = " ".join([*details, attributes.get("resources_used.walltime", "")]).strip()
    if letter in _ENDED and "dependency" in attributes.get("comment", ""):
        return JobState("failed", f"{detail}: {attributes['comment']}")
    if letter in _ENDED:
        return JobState(_final_status(exit_status), detail)
    if letter in _QUEUED:
        return JobState("queued", detail, "; ".join(reasons), _clock(attributes.get("estimated.start_time")))
    return JobState("running", detail)


def _clock(text: str | None) -> str:
    """Return ``2026-11-28T08:01:36`` of ``Sat Nov 28 08:01:36 2026``; empty of any other text."""
    with contextlib.suppress(ValueError):
        return datetime.strptime(text or "", "%a %b %d %H:%M:%S %Y").isoformat()
    return ""


def _describe_exit(exit_status: str | None) -> list[str]:
    if exit_status is None:
        return []
    said = f"exit status {exit_status}"
    number = int(exit_status) if exit_status.isdecimal() else 0
    names = [known.name for known in signal.Signals if known == number - 256]
    if exit_status in _KILLED:
        said += f" (killed: {_KILLED[exit_status]})"
    elif exit_status.startswith("-"):
        said += " (PBS could not run it)"
    elif names:
        said += f" (killed by {names[0]})"
    return [said]


def _reasons(attributes: Attributes) -> list[str]:
    """Return why a job waits."""
    holds = attributes.get("Hold_Types", "n")
    reasons = [f"Hold_Types = {holds}"] if holds != "n" else []
    return reasons + ([attributes["comment"]] if "comment" in attributes else [])


def _final_status(exit_status: str | None) -> Status:
    """Return how a job has ended; one that was cancelled before it began has no exit status."""
    if exit_status is None or exit_status == str(_CANCELLED):
        return "cancelled"
    return "done" if exit_status == "0" else "failed"


def _parse_jobs(output: str) -> dict[str, Attributes]:
    """Return the attributes of each job that ``qstat -f`` lists, by its id."""
    sections = re.split(r"^Job Id: *(\S+)", output, flags=re.MULTILINE)[1:]
    jobs = {
        job_id: _parse_attributes(text) for job_id, text in zip(sections[::2], sections[1::2], strict=True)
    }
    return {job_id: attributes for job_id, attributes in jobs.items() if "job_state" in attributes}


def _parse_attributes(output: str) -> Attributes:
    """Return the attributes that ``qstat -f`` lists. It folds long ones: a tab begins the next line."""
    unfolded = output.replace("\n\t", "")
    return dict(re.findall(r"^ +([\w.]+) = (.*)$", unfolded, re.MULTILINE))
