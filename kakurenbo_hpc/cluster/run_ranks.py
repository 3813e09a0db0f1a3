"""Launcher process: runs it, forwards signals to it, and maps its exit status to our exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..errors import DONE, FAILED, REQUEUE, TERMINATED, USER_ERROR
from ..rundir.console import print_error, resume_advice
from .failure_report import FailureReport
from .launchers.launcher import CommandLine

_LOOK_S = 5.0  # between two looks for lost ranks
_LEAVE_S = 15.0  # for a launcher that has been told to end


@dataclass(frozen=True)
class RanksEnd:
    """How the ranks that a launcher started have ended.

    Attributes:
        code: our exit code.
        line: what is printed last; empty where nothing is to be said.
        is_crash: whether another start may go better: neither done, nor asked to leave, nor the user's error.
    """

    code: int
    line: str = ""
    is_crash: bool = False


@dataclass
class Forwarding:
    """Signals that ask us to end, forwarded to the launcher that runs. received: all of them."""

    received: list[int] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _interrupt_signal: int = signal.SIGINT

    def attach(self, process: subprocess.Popen[bytes], interrupt_signal: int) -> None:
        """Forward to this process from now on, and what came before it started; it gets this one for INT."""
        self._process, self._interrupt_signal = process, interrupt_signal
        if self.received:
            self._send(self.received[-1])

    def forward(self, number: int, frame: object) -> None:
        """Handle a signal."""
        self.received.append(number)
        self._send(number)

    def _send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(self._interrupt_signal if number == signal.SIGINT else number)


def run(line: CommandLine, stop: Path) -> int:
    """Run a launcher to its end and return our exit code; codes that are not ours become 1.

    Its stderr passes through line by line; why it failed is printed once more, last. Signals that ask us to
    end are forwarded to the launcher; if it then ends with neither 0 nor 75, the code is 143. USR1 and USR2
    ask the ranks to write a checkpoint and leave, through the file ``stop`` of their run directory.

    Args:
        line: the launcher's command line.
        stop: path of that file.
    """
    with forward_signals(stop) as forwarding:
        end = run_once(line, forwarding)
    if end.line:
        print_error(end.line)
    return end.code


def run_once(
    line: CommandLine, forwarding: Forwarding, find_lost: Callable[[], str] | None = None
) -> RanksEnd:
    """Run a launcher to its end.

    Args:
        line: the launcher's command line.
        forwarding: of the signals that come meanwhile.
        find_lost: called every few seconds; names ranks that are lost, which ends the launcher.
    """
    report = FailureReport()
    # In a process group of its own: Ctrl-C in a terminal would otherwise reach it twice, which Open MPI
    # takes for a kill. Not in a session of its own: PBS would not find it there when the job has to end.
    process = subprocess.Popen(
        line.words,
        env=os.environ | line.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=os.setpgrp,
    )
    forwarding.attach(process, line.interrupt_signal)
    reader = threading.Thread(target=_pass_through, args=(process.stderr, report), daemon=True)
    reader.start()
    lost = _wait(process, find_lost)
    # A process that a rank left behind may keep the pipe open for ever.
    reader.join(timeout=5)
    if lost and not forwarding.received:
        return RanksEnd(FAILED, f"kakurenbo: {lost}", is_crash=True)
    return _describe_end(process.returncode, forwarding.received, report)


def _wait(process: subprocess.Popen[bytes], find_lost: Callable[[], str] | None) -> str:
    """Wait for a launcher, and end it if ranks are lost; return which."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S if find_lost else None)
            return ""
        if find_lost and (lost := find_lost()):
            process.terminate()
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return lost


def _describe_end(code: int, received: list[int], report: FailureReport) -> RanksEnd:
    code = report.code_of_ranks(code)
    if code in (DONE, REQUEUE):
        return RanksEnd(code)
    if received:
        name = signal.Signals(received[0]).name
        advice = f"{resume_advice()} from the newest checkpoint"
        return RanksEnd(
            TERMINATED, f"kakurenbo: ended by {name}, the launcher with exit code {code}; {advice}"
        )
    if code == TERMINATED and not report.blames_a_rank:
        return RanksEnd(code)
    line = report.last_line(code)
    if code == USER_ERROR:
        return RanksEnd(code, line)
    return RanksEnd(FAILED, line, is_crash=not report.is_final)


@contextlib.contextmanager
def forward_signals(stop: Path) -> Iterator[Forwarding]:
    """Forward the signals that ask us to end.

    A signal that is ignored here (nohup) stays ignored. USR1 and USR2 create the file ``stop`` instead:
    torchrun, Hydra, and ranks that have only just begun would die of them.

    Args:
        stop: path of that file.
    """
    forwarding = Forwarding()

    def create_stop(number: int, frame: object) -> None:
        try:
            stop.parent.mkdir(parents=True, exist_ok=True)
            stop.touch()
        except OSError as problem:
            print_error(
                f"kakurenbo: {stop}: cannot be written ({problem.strerror}), so the ranks do not stop"
            )

    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), forwarding.forward)
    handlers |= dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), create_stop)
    ignored = {number for number in handlers if signal.getsignal(number) == signal.SIG_IGN}
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if number not in ignored
    }
    try:
        yield forwarding
    finally:
        for number, old_handler in before.items():
            signal.signal(number, old_handler)


def _pass_through(stream: IO[bytes], report: FailureReport) -> None:
    for line in stream:
        report.add(line)
        # The reader of our stderr may be gone; the ranks must not block on a full pipe.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
