"""Laws of batch systems: what their scripts do, seen by running them in a folder with stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..cluster.machine import Machine
from ..cluster.schedulers.scheduler import Scheduler
from ..cluster.script import Script
from .law import require

_HOSTILE = 'it\'s "a" $(touch stolen) `touch stolen`; touch stolen\ntouch stolen'
_TOOLS = "bash cat cp cut date dirname env grep hostname ln ls mkdir mv rm sed sleep sort touch tr wc"
_WALLTIME_S, _GRACE_S = 7200, 137
_REQUEUE, _LIMIT_S = 75, 60

_PROGRAM = """#!/bin/bash
printf '%s\\0' "$PWD" "$NOTE" "$KAKURENBO_DEADLINE" "$@" > {seen}
exit {code}
"""
# Commands of the batch system are not there: bash hands them to this function instead.
_LOGGED = """command_not_found_handle() {{ printf '%s\\n' "$*" >> {log}; echo 1.stand-in; }}
"""


class _Outcome(NamedTuple):
    """What a script did.

    Attributes:
        code: exit code of the script.
        error: its stderr.
        seen: working folder, NOTE, deadline and words that its program saw.
        commands: what it called of the batch system, a line each.
        started: Unix time, in seconds.
    """

    code: int
    error: str
    seen: list[str]
    commands: str
    started: float


def check_scheduler(
    scheduler: type[Scheduler], *, environ: Mapping[str, str] | None = None, **machine: Any
) -> None:
    """Check that a batch system's script keeps the laws that ours keep.

    Args:
        scheduler: the class; it must be importable as ``module:Class``.
        environ: what the batch system sets in the environment of a job, such as its job id.
        machine: keys of a machine file that this scheduler needs.

    Raises:
        LawBroken: a law does not hold.
        JobError: the machine keys are wrong.
    """
    name = f"{scheduler.__module__}:{scheduler.__qualname__}"

    def script(run: Path, **more: Any) -> Script:
        values = {"starter": "mpirun", "ranks_per_node": 2, "grace_s": _GRACE_S, **machine, **more}
        here = Machine(name="own", scheduler=name, **values)
        return Script(_HOSTILE, 1, _WALLTIME_S, here, run, run, str(run.parent / "python"))

    jobs = dict(environ or {})
    _check_names(script, jobs)
    _check_early_signal(script, scheduler, jobs)
    _check_requeue(script, jobs)
    _check_job_ids(scheduler())


def _check_names(script: Any, environ: Mapping[str, str]) -> None:
    law = "no name, path or value runs as a command"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / _HOSTILE.replace("/", "_")
        text = script(run, environment={"NOTE": _HOSTILE}).text()
        parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        require(not parsed.stderr, law, f"bash cannot read the script: {parsed.stderr.strip()}")
        outcome = _run(text, run, 0, environ)
        require(
            not list(Path(folder).rglob("stolen")),
            law,
            "a command in the run's path ran; quote it: {{ run | quoted }}",
        )
        require(outcome.code == 0, law, f"the script ended with {outcome.code}: {outcome.error[-300:]}")
        require(
            outcome.seen[:2] == [str(run), _HOSTILE],
            law,
            f"the program saw {outcome.seen[:2]}; it starts in here, with environment",
        )
        header = [line for line in text.splitlines() if line.startswith("#") and "stolen" in line]
        require(
            not [line for line in header if " " in line.split("it", 1)[-1]], law, f"the header holds {header}"
        )


def _check_early_signal(script: Any, scheduler: type[Scheduler], environ: Mapping[str, str]) -> None:
    law = "the run is told to leave grace_s before its walltime ends"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        text = script(run).text()
        outcome = _run(text, run, 0, environ)
        deadline = outcome.seen[2]
        if deadline:
            early = outcome.started + _WALLTIME_S - float(deadline) - _GRACE_S
            require(
                -5 <= early <= 5 + scheduler.early_signal_s,
                law,
                f"KAKURENBO_DEADLINE is {early:.0f} s too early",
            )
        else:
            header = "".join(line for line in text.splitlines() if line.startswith("#"))
            seen = f"no KAKURENBO_DEADLINE is set, and no header line names the {_GRACE_S} s of grace_s"
            require(str(_GRACE_S) in header, law, seen)


def _check_requeue(script: Any, environ: Mapping[str, str]) -> None:
    law = f"a run that leaves with {_REQUEUE} is queued again, max_requeues times, unless it was stopped"
    cases = ((_REQUEUE, 3, False, True), (_REQUEUE, 0, False, False), (_REQUEUE, 3, True, False))
    for code, most, stopped, again in (*cases, (0, 3, False, False), (1, 3, False, False)):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            (run / "batch").mkdir(parents=True)
            if stopped:
                (run / "batch" / "stopped").touch()
            outcome = _run(script(run, max_requeues=most).text(), run, code, environ)
            told = f"exit code {code}, max_requeues {most}, stopped {stopped}: it called {outcome.commands!r}"
            require(bool(outcome.commands) == again, law, told)
            require(
                outcome.code == code,
                "the script ends with the ranks' exit code",
                f"{outcome.code} instead of {code}",
            )
            left = run / "batch" / "exit_code"
            written = left.read_text() if left.exists() else None
            require(
                written == f"{code}\n", "batch/exit_code holds the ranks' exit code", f"it holds {written!r}"
            )


def _check_job_ids(scheduler: Scheduler) -> None:
    law = "the commands of a batch system are lists of words"
    for words in (
        scheduler.submit_command(None),
        scheduler.submit_command("afterok:1"),
        scheduler.cancel_command("1"),
    ):
        require(words and all(isinstance(word, str) for word in words), law, f"{words!r}")


def _run(text: str, run: Path, code: int, environ: Mapping[str, str]) -> _Outcome:
    """Run a script where no command of a batch system is there; the ranks' program ends with this code."""
    folder = run.parent
    (run / "batch").mkdir(parents=True, exist_ok=True)
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name in _TOOLS.split():
        found = shutil.which(name)
        if found and not (tools / name).exists():
            (tools / name).symlink_to(found)
    seen, log, logged = folder / "seen", folder / "log", folder / "logged.sh"
    program = folder / "python"
    program.write_text(_PROGRAM.format(seen=seen, code=code))
    program.chmod(0o755)
    logged.write_text(_LOGGED.format(log=log))
    started = time.time()
    done = subprocess.run(
        [os.path.realpath(shutil.which("bash") or "bash"), "-c", text],
        cwd=folder,
        env={"PATH": str(tools), "HOME": str(folder), "BASH_ENV": str(logged), **environ},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_LIMIT_S,
    )
    words = seen.read_text().split("\0") if seen.exists() else ["", "", ""]
    return _Outcome(done.returncode, done.stderr, words, log.read_text() if log.exists() else "", started)
