"""Start of the ranks of a job, here or on the nodes of a batch job; forwarding of signals and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ..config.job import Job
from ..errors import DONE, FAILED, REQUEUE, TERMINATED, USER_ERROR, UserError
from ..rundir.console import print_error, print_line, resume_advice
from .failure_report import FailureReport
from .launch_checks import check_cores, check_gpus, check_job_fits, check_samples
from .launchers import launcher_line
from .launchers.launcher import CommandLine, Layout
from .machine import Machine, find_machine, read_machine


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
        dry_run: print only, and ask for no GPUs.

    Returns:
        The exit code of ``kakurenbo launch``.

    Raises:
        UserError: the machine cannot start these ranks, or the job not train on them.
    """
    facts = read_machine(machine)
    layout = choose_layout(facts, ranks, nodes)
    check_job_fits(job, facts, layout.n_ranks)
    check_cores(layout, oversubscribe)
    command = train_command(job_file, run_dir, overrides, resume, allow_changes)
    if facts.scratch:
        command += ["--scratch", facts.scratch]
    line = launcher_line(facts, layout, bound_command(facts, find_machine(machine), command))
    if not dry_run:
        check_gpus(facts, layout)
        check_samples(job, facts, layout.n_ranks)
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


def run(line: CommandLine, stop: Path) -> int:
    """Run a launcher to its end and return our exit code; codes that are not ours become 1.

    Its stderr passes through line by line; why it failed is printed once more, last. Signals that ask us to
    end are forwarded to the launcher; if it then ends with neither 0 nor 75, the code is 143. USR1 and USR2
    ask the ranks to write a checkpoint and leave, through the file ``stop`` of their run directory.

    Args:
        line: the launcher's command line.
        stop: path of that file.
    """
    report = FailureReport()
    with _forward_signals(stop, line.interrupt_signal) as (received, processes):
        # In a process group of its own: Ctrl-C in a terminal would otherwise reach it twice, which Open MPI
        # takes for a kill. Not in a session of its own: PBS would not find it there when the job has to end.
        process = subprocess.Popen(
            line.words,
            env=os.environ | line.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=os.setpgrp,
        )
        processes.append(process)
        if received:
            _send(process, received[-1], line.interrupt_signal)
        reader = threading.Thread(target=_pass_through, args=(process.stderr, report), daemon=True)
        reader.start()
        code = process.wait()
        # A process that a rank left behind may keep the pipe open for ever.
        reader.join(timeout=5)
    return _exit_code(code, received, report)


def _exit_code(code: int, received: list[int], report: FailureReport) -> int:
    """Print the last line where one is due, and return our exit code for the launcher's."""
    code = report.code_of_ranks(code)
    if code in (DONE, REQUEUE):
        return code
    if received:
        name = signal.Signals(received[0]).name
        print_error(
            f"kakurenbo: ended by {name}, the launcher with exit code {code}; {resume_advice()} from the "
            "newest checkpoint"
        )
        return TERMINATED
    if code == TERMINATED and not report.blames_a_rank:
        return code
    print_error(report.last_line(code))
    return USER_ERROR if code == USER_ERROR else FAILED


@contextlib.contextmanager
def _forward_signals(
    stop: Path, interrupt_signal: int
) -> Iterator[tuple[list[int], list[subprocess.Popen[bytes]]]]:
    """Forward the signals that ask us to end to processes.

    A signal that is ignored here (nohup) stays ignored. USR1 and USR2 create the file ``stop`` instead:
    torchrun, Hydra, and ranks that have only just begun would die of them.

    Args:
        stop: path of that file.
        interrupt_signal: what stands for INT.

    Yields:
        The signals that have been received, and the processes to forward them to: append yours.
    """
    received: list[int] = []
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for process in processes:
            _send(process, number, interrupt_signal)

    def create_stop(number: int, frame: object) -> None:
        try:
            stop.parent.mkdir(parents=True, exist_ok=True)
            stop.touch()
        except OSError as problem:
            print_error(
                f"kakurenbo: {stop}: cannot be written ({problem.strerror}), so the ranks do not stop"
            )

    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), forward)
    handlers |= dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), create_stop)
    ignored = {number for number in handlers if signal.getsignal(number) == signal.SIG_IGN}
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if number not in ignored
    }
    try:
        yield received, processes
    finally:
        for number, old_handler in before.items():
            signal.signal(number, old_handler)


def _send(process: subprocess.Popen[bytes], number: int, interrupt_signal: int) -> None:
    process.send_signal(interrupt_signal if number == signal.SIGINT else number)


def _pass_through(stream: IO[bytes], report: FailureReport) -> None:
    for line in stream:
        report.add(line)
        # The reader of our stderr may be gone; the ranks must not block on a full pipe.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
