"""Attempts of a launch: the numbered starts of a run's ranks, and the fence against ranks of an older one.

The launcher writes the attempt into the file ``attempt`` of the run directory before it starts the ranks, and
into their environment. A rank whose attempt is no longer the one of the file writes nothing and leaves.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import FAILED
from .atomic_io import write_whole
from .console import print_error

VARIABLE = "KAKURENBO_LAUNCH_ATTEMPT"


@dataclass(frozen=True)
class Attempt:
    """One start of a run's ranks.

    Attributes:
        run: the run directory.
        word: number and a random part, ``3-9f2c41d0``; empty for ranks without a launcher that restarts them.
    """

    run: Path
    word: str = ""

    @classmethod
    def of_this_process(cls, run: Path, environ: Mapping[str, str] = os.environ) -> Attempt:
        """Return the attempt that this rank was started in."""
        return cls(run, environ.get(VARIABLE, ""))

    @classmethod
    def begin(cls, run: Path) -> Attempt:
        """Write the next attempt of a run, which fences off those before. By the launcher alone.

        Raises:
            OSError: the run directory cannot be written to.
        """
        attempt = cls(run, f"{cls(run, _read(run)).number + 1}-{uuid.uuid4().hex[:8]}")
        write_whole(run / "attempt", attempt.word + "\n")
        return attempt

    @property
    def number(self) -> int:
        """Number of the attempt over all launches of the run, from 1; 0 without such a launcher."""
        match = re.match(r"\d{1,9}(?=-)", self.word)
        return int(match[0]) if match else 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which the launcher tells the ranks of it."""
        return {VARIABLE: self.word} if self.word else {}

    def is_over(self) -> bool:
        """Return whether a later attempt has begun. A file that cannot be read now is no later attempt."""
        return bool(self.word) and _read(self.run) not in ("", self.word)

    def leave_if_over(self) -> None:
        """End this process, from any thread, if a later attempt has begun."""
        if self.is_over():
            self._leave()

    def _leave(self) -> NoReturn:
        later = Attempt(self.run, _read(self.run)).number
        print_error(
            f"process {os.getpid()} on {socket.gethostname()} is of attempt {self.number}, but attempt "
            f"{later} has begun; it leaves"
        )
        os._exit(FAILED)

    def kill_processes(self) -> int:
        """Kill what this attempt has left on this machine, and return how many processes that were."""
        mark, n_killed = f"{VARIABLE}={self.word}".encode(), 0
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # of another user, or gone
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
                    n_killed += 1
        return n_killed


def _read(run: Path) -> str:
    try:
        return (run / "attempt").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
