"""The commands of batch systems: run, their failures told, their answers parsed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError

_TIMEOUT_S = 120
# What the commands of a batch system print when they cannot reach its server.
_UNREACHABLE = re.compile(
    "timed? ?out|unable to contact|cannot connect|connection refused|communication|no route to host"
    "|configuration source",
    re.IGNORECASE,
)


class NoAnswer(UserError):
    """The batch system does not answer: its server is down or busy, or its commands are not here."""


class Refusal(UserError):
    """The batch system refuses a command; the message has its reason."""


def check_installed(program: str) -> None:
    """Raise NoAnswer if a program of a batch system is not on the PATH."""
    if shutil.which(program) is None:
        raise NoAnswer(
            f"no {program} on the PATH; run this where the batch system is, or choose another --machine"
        )


def run_command(
    command: list[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of a batch system, whatever its exit code.

    Args:
        command: the program and its arguments.
        folder: where it runs; None for this folder.
        environment: all of it; None for that of this process.

    Raises:
        NoAnswer: it is not installed, or does not end.
    """
    check_installed(command[0])
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} gives no answer in two minutes; try again later") from None


def run_checked(
    command: list[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command that has to succeed and return its stdout.

    Raises:
        Refusal: it fails; with its own message.
        NoAnswer: it cannot reach the server.
    """
    done = run_command(command, folder, environment)
    if done.returncode and not _UNREACHABLE.search(done.stdout + done.stderr):
        raise Refusal(
            f"{command[0]} refuses: {failure_reason(done)}; correct the machine file or the command"
        )
    check_query(done)
    return done.stdout


def check_query(done: subprocess.CompletedProcess[str]) -> None:
    """Raise NoAnswer, with the command's own message, if a query failed."""
    if done.returncode:
        raise NoAnswer(f"{done.args[0]} gives no answer: {failure_reason(done)}; try again later")


def last_job_id(output: str, pattern: str) -> str:
    """Return group 1 of the last line that matches as a whole: at some sites the commands print more.

    Raises:
        UserError: no line matches.
    """
    job_ids = [match[1] for line in output.splitlines() if (match := re.fullmatch(pattern, line.strip()))]
    if not job_ids:
        printed = " ".join(output.split())[:300]
        raise UserError(
            f"no job id in the output of the submit command: {printed!r}; look into the queue, and ask the "
            "site"
        )
    return job_ids[-1]


def clock_seconds(clock: str) -> int | None:
    """Return the seconds of ``SS``, ``MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS``; None of ``UNLIMITED``."""
    days, _, time_of_day = clock.strip().rpartition("-")
    parts = [days or "0", *time_of_day.split(":")]
    if not all(part.isdecimal() for part in parts):
        return None
    return 86400 * int(parts[0]) + sum(int(part) * 60**i for i, part in enumerate(reversed(parts[1:])))


def failure_reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a command failed, from what it printed: its errors, else all of it, without usage text."""
    printed = done.stderr if done.stderr.strip() else done.stdout
    said, is_usage, _ = printed.partition("usage:")
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    # Sites let their commands print more: news, and what a filter thinks of the job.
    errors = [
        line for line in lines if re.search(r"error|fail|refus|invalid|unknown|denied|cannot", line, re.I)
    ]
    if is_usage and not lines:
        return "it does not know an option (of extra in the machine file?) or a value, and prints its usage"
    return " ".join(errors or lines)[:300] or f"exit code {done.returncode}"
