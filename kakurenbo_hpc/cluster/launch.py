"""Start of the ranks of a job, here or on the nodes of a batch job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.job import Job
from ..errors import DONE, UserError
from ..rundir.attempt import Attempt
from ..rundir.console import print_line
from ..rundir.job_diff import check_run
from .allocation import Allocation
from .launch_checks import check_cores, check_gpus, check_job_fits, check_samples, job_fits
from .launchers import launcher_line
from .launchers.launcher import CommandLine, Layout
from .machine import Machine, find_machine, read_machine
from .restarts import run_attempts
from .run_ranks import run
from .stage_environment import pack_environment, staged_command


def launch(
    job: Job,
    job_file: Path,
    run_dir: Path,
    *,
    machine: str = "local",
    ranks: int | None = None,
    nodes: int | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    allow_changes: bool = False,
    oversubscribe: bool = False,
    restarts: int = 0,
    dry_run: bool = False,
) -> int:
    """Print the command line that trains a job on ranks and, unless dry_run, run it.

    Args:
        job: as ``job_file`` and ``overrides`` say.
        job_file: what the ranks read.
        run_dir: run directory.
        machine: a machine file, or the name of one that comes with the package.
        ranks: on this machine; or, inside a batch job, on all its nodes together. None: as many as fit.
        nodes: of the batch job; None: this machine.
        overrides: ``section.key=value``.
        resume: go on with the run of that directory.
        allow_changes: even if its job was another one.
        oversubscribe: even with more than eight ranks a core.
        restarts: how often the ranks are started again after a crash, without a finished epoch between.
        dry_run: print only, and ask for no GPUs.

    Returns:
        The exit code of ``kakurenbo launch``.

    Raises:
        UserError: the machine cannot start these ranks, or the job not train on them.
    """
    facts = read_machine(machine)
    usual = choose_layout(facts, ranks, nodes)
    check_job_fits(job, facts, usual.n_ranks)
    check_cores(usual, oversubscribe)

    def start(attempt: Attempt, layout: Layout, resume: bool) -> CommandLine:
        parts = job.training.accumulate_on(layout.n_ranks, usual.n_ranks)
        fewer = [f"training.accumulate={parts}"] * (layout.n_ranks < usual.n_ranks)
        command = train_command(job_file, run_dir, [*overrides, *fewer], resume, allow_changes)
        if facts.scratch:
            command += ["--scratch", facts.scratch]
        environment = facts.environment | attempt.environment
        program = staged_command(facts, bound_command(facts, find_machine(machine), command))
        return launcher_line(facts.model_copy(update={"environment": environment}), layout, program)

    line = start(Attempt(run_dir), usual, resume)
    if not dry_run:
        check_gpus(facts, usual)
        check_samples(job, facts, usual.n_ranks)
        facts = pack_environment(facts)
        line = start(Attempt(run_dir), usual, resume)
        if restarts or facts.spares:
            check_run(run_dir, job, resume, allow_changes)
            allocation = Allocation.of_this_job(facts, run_dir)

            def choose(nth: int) -> tuple[Allocation, Layout]:
                allocation.check(find_machine(machine))
                return allocation, allocation.choose(usual, nth, lambda n_ranks: job_fits(job, n_ranks))

            return run_attempts(start, choose, run_dir, restarts, resume)
    print_line(str(line))
    return DONE if dry_run else run(line, run_dir / "stop")


def choose_layout(machine: Machine, n_ranks: int | None, n_nodes: int | None) -> Layout:
    """Return ranks and nodes; without a number of ranks, as many as the nodes take.

    Raises:
        UserError: the nodes do not take so many, or not equally many each.
    """
    n_ranks = n_ranks or (machine.ranks_per_node or 1) * (n_nodes or 1)
    if n_ranks % (n_nodes or 1):
        raise UserError(
            f"--ranks is {n_ranks}, not divisible by {n_nodes} nodes; start as many ranks on each node"
        )
    layout = Layout(n_ranks, n_nodes)
    if machine.ranks_per_node is not None and layout.n_per_node > machine.ranks_per_node:
        raise UserError(
            f"--ranks is {n_ranks}, but {machine.name} takes at most {machine.ranks_per_node} on a node "
            f"(ranks_per_node in its machine file); start at most {machine.ranks_per_node * (n_nodes or 1)}"
        )
    return layout


def train_command(
    job: Path, run_dir: Path, overrides: Sequence[str], resume: bool, allow_changes: bool = False
) -> list[str]:
    """Return the command of each rank: ``kakurenbo train``, with this Python."""
    command = [sys.executable, "-m", "kakurenbo_hpc.cli", "train", str(job), "--run-dir", str(run_dir)]
    for override in overrides:
        command += ["--set", override]
    return command + ["--resume"] * resume + ["--allow-changes"] * allow_changes


def bound_command(machine: Machine, machine_file: Path, command: list[str]) -> list[str]:
    """Return the command of each rank behind ``bind_rank``, if the machine has GPUs."""
    if not machine.gpus_per_node:
        return command
    return [sys.executable, "-m", "kakurenbo_hpc.cluster.bind_rank", str(machine_file), *command]
