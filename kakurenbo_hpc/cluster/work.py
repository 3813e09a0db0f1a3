"""Work on ranks that is no run: scores and comparisons, started here or submitted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config.job import Job
from ..errors import DONE, UserError
from ..rundir.console import print_line
from .batch_job import BatchJob
from .launch import bound_command, choose_layout, run
from .launch_checks import check_cores, check_gpus, check_job_fits, check_node, check_samples
from .launchers import launcher_line
from .machine import find_machine, read_machine
from .request import Request
from .stage_environment import pack_environment, staged_command
from .submit import base_script, make_run, ranks_on, submit_jobs


@dataclass(frozen=True)
class Start:
    """How ranks start here, as the options of ``kakurenbo launch`` say."""

    machine: str = "local"
    ranks: int | None = None
    nodes: int | None = None
    oversubscribe: bool = False
    dry_run: bool = False


def launch_work(words: Sequence[str], jobs: Sequence[Job], folder: Path, start: Start) -> int:
    """Start ranks of a command other than ``train``, and return their exit code.

    Args:
        words: of the command, ``score el2n job.yaml --out scores.h5``.
        jobs: that it trains.
        folder: where a file ``stop`` would be written.
        start: how ranks start.

    Raises:
        UserError: the machine cannot start these ranks, or a job not train on them.
    """
    machine = read_machine(start.machine)
    layout = choose_layout(machine, start.ranks, start.nodes)
    for job in jobs:
        check_job_fits(job, machine, layout.n_ranks)
    check_cores(layout, start.oversubscribe)
    command = [sys.executable, "-m", "kakurenbo_hpc.cli", *words]
    command = bound_command(machine, find_machine(start.machine), command)
    if not start.dry_run:
        check_gpus(machine, layout)
        check_samples(jobs[0], machine, layout.n_ranks)
        machine = pack_environment(machine)
    line = launcher_line(machine, layout, staged_command(machine, command))
    print_line(str(line))
    return DONE if start.dry_run else run(line, folder / "stop")


def launch_score(method: str, job: Job, job_file: Path, options: Sequence[str], start: Start) -> int:
    """Start ranks that score a job's samples. options: of ``kakurenbo score``."""
    words = ["score", method, str(job_file), *options]
    return launch_work(words, [_shared(job)], Path.cwd(), start)


def submit_score(method: str, job: Job, options: Sequence[str], request: Request, dry_run: bool) -> int:
    """Submit a job that scores samples. It is not interrupted and resumed: it needs the whole walltime.

    Args:
        method: of scoring.
        job: whose samples are scored.
        options: of ``kakurenbo score``.
        request: what ``kakurenbo submit score`` was called with.
        dry_run: print the script only.

    Raises:
        UserError: it cannot run, or the batch system refuses it.
    """
    machine, n_nodes = request.read_machine(), only_size(request)
    check_node(machine)
    check_job_fits(_shared(job), machine, ranks_on(n_nodes, machine))
    name = request.name or f"{job.name}_{method}"
    folder = (request.run_dir or Path("runs") / name).absolute()
    script = base_script(
        name, folder, n_nodes, request, machine, work=("score", method), options=tuple(options)
    )
    one = make_run(job, folder, script, request, is_run=False)
    return submit_jobs([BatchJob(script, (one,))], request, machine, dry_run)


def only_size(request: Request) -> int:
    """Return the number of nodes. Raises UserError if there are several."""
    if len(request.nodes) > 1:
        given = ",".join(map(str, request.nodes))
        raise UserError(f"--nodes is {shlex.quote(given)}, but this is no sweep; give one number")
    return request.nodes[0]


def _shared(job: Job) -> Job:
    """Return the job with its data read from the shared file system, as scoring does."""
    return job.model_copy(update={"data": job.data.model_copy(update={"placement": "shared"})})
