"""Start the ranks of a job, here or on the nodes of a batch job, and end as they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import DONE, FAILED, REQUEUE, TERMINATED, USER_ERROR, UserError
from ..rundir.console import print_error, print_line
from .failure_report import FailureReport
from .launchers.launcher import CommandLine, Layout, starter_line
from .machine import Machine, find_machine, read_machine


def launch(
    job: Path,
    run_dir: Path,
    *,
    machine: str = "local",
    ranks: int | None = None,
    nodes: int | None = None,
    overrides: list[str] = [],
    resume: bool = False,
    allow_changes: bool = False,
    dry_run: bool = False,
) -> int:
    """Print the command line that trains a job on ranks and, unless dry_run, run it.

    ranks: of this machine; or, inside a batch job, of all its nodes together. Not given: as many as the nodes take.
    machine: a machine file, or the name of one that comes with the package.
    Returns the exit code of DESIGN.md. Raises UserError if the machine cannot start these ranks.
    """
    here = read_machine(machine)
    layout = fitting_layout(here, ranks, nodes)
    words = train_words(job, run_dir, overrides, resume, allow_changes)
    if here.scratch:
        words += ["--scratch", here.scratch]
    line = starter_line(here, layout, bound_words(here, find_machine(machine), words))
    print_line(str(line))
    return DONE if dry_run else run(line, run_dir / "stop")


def fitting_layout(machine: Machine, ranks: int | None, nodes: int | None) -> Layout:
    """Return how many ranks start on how many nodes. Raises UserError if the nodes do not take so many."""
    ranks = ranks or (machine.ranks_per_node or 1) * (nodes or 1)
    if ranks % (nodes or 1):
        raise UserError(
            f"--ranks is {ranks}, not divisible by {nodes} nodes; start as many ranks on each node"
        )
    layout = Layout(ranks, nodes)
    if machine.ranks_per_node is not None and layout.per_node > machine.ranks_per_node:
        raise UserError(
            f"--ranks is {ranks}, but {machine.name} takes at most {machine.ranks_per_node} on a node (ranks_per_node in its machine "
            f"file); start at most {machine.ranks_per_node * (nodes or 1)}"
        )
    return layout


def train_words(
    job: Path, run_dir: Path, overrides: list[str], resume: bool, allow_changes: bool = False
) -> list[str]:
    """Return what each rank runs: ``kakurenbo train``, with the Python of here."""
    words = [sys.executable, "-m", "kakurenbo_hpc.cli", "train", str(job), "--run-dir", str(run_dir)]
    for override in overrides:
        words += ["--set", override]
    return words + ["--resume"] * resume + ["--allow-changes"] * allow_changes


def bound_words(machine: Machine, file: Path, words: list[str]) -> list[str]:
    """Return what each rank runs where it first keeps to a GPU of its own, if the machine has some. file: the machine's."""
    return (
        [sys.executable, "-m", "kakurenbo_hpc.cluster.bind_rank", str(file), *words]
        if machine.gpus_per_node
        else words
    )


def run(line: CommandLine, stop: Path) -> int:
    """Run a starter to its end and return its exit code; one that DESIGN.md does not promise becomes 1.

    Its stderr passes through line by line; why it failed is printed once more, last. Signals that ask us to end are passed on
    to the starter; where it then ends with neither 0 nor 75, the code is 143. USR1 and USR2 ask the ranks to write a checkpoint
    and leave, through the file ``stop`` of their run directory.
    """
    words = FailureReport()
    with _signals_passed_on(stop) as (received, targets):
        # In a process group of its own: Ctrl-C in a terminal would otherwise reach it twice, which Open MPI takes for a kill. Not
        # in a session of its own: PBS would not find it there when the job has to end.
        starter = subprocess.Popen(
            line.words,
            env=os.environ | line.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=os.setpgrp,
        )
        targets.append(starter)
        if received:
            _send(starter, received[-1])
        reader = threading.Thread(target=_pass_through, args=(starter.stderr, words), daemon=True)
        reader.start()
        code = starter.wait()
        # A process that a rank left behind may keep the pipe open for ever.
        reader.join(timeout=5)
    return _ended(code, received, words)


def _ended(code: int, received: list[int], words: FailureReport) -> int:
    """Print the last line where one is due; return our exit code."""
    code = words.code_of_ranks(code)
    if code in (DONE, REQUEUE):
        return code
    if received:
        name = signal.Signals(received[0]).name
        print_error(
            f"kakurenbo: ended by {name}, the starter with exit code {code}; add --resume to go on from the newest checkpoint"
        )
        return TERMINATED
    if code == TERMINATED and not words.blame_a_rank:
        return code
    print_error(words.again(code))
    return USER_ERROR if code == USER_ERROR else FAILED


@contextlib.contextmanager
def _signals_passed_on(stop: Path) -> Iterator[tuple[list[int], list[subprocess.Popen]]]:
    """Collect the signals that ask us to end, and send them to the targets; one that is ignored here (nohup) stays ignored.

    USR1 and USR2 leave the file ``stop`` instead: torchrun, Hydra, and ranks that have only just begun would die of them.
    """
    received: list[int] = []
    targets: list[subprocess.Popen] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        for target in targets:
            _send(target, number)

    def leave_stop(number: int, frame: object) -> None:
        try:
            stop.parent.mkdir(parents=True, exist_ok=True)
            stop.touch()
        except OSError as problem:
            print_error(f"kakurenbo: {stop}: cannot be written ({problem.strerror}), so that the ranks go on")

    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), pass_on)
    handlers |= dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), leave_stop)
    heeded = {
        number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN
    }
    before = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    try:
        yield received, targets
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(starter: subprocess.Popen, number: int) -> None:
    # srun takes one INT for a question after its tasks, answers it and goes on.
    starter.send_signal(signal.SIGTERM if number == signal.SIGINT and starter.args[0] == "srun" else number)


def _pass_through(stream: IO[bytes], words: FailureReport) -> None:
    for line in stream:
        words.hear(line)
        # Whoever reads our stderr may be gone; the ranks must not wait for him in a full pipe.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
