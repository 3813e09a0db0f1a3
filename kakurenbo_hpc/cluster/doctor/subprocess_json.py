"""Probes in processes of their own, which may crash or hang: run one and read its result, a line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ...config.job import Job
from ...config.yaml import dump_yaml
from ...errors import UserError

Facts = dict[str, Any]


def run_job_probe(python: str, name: str, job: Job, environment: dict[str, str], limit_s: float) -> Facts:
    """Run a probe of ``probes.py`` that reads a job, which is handed over as a file, and return its result.

    Raises:
        UserError: as ``run_probe``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.yaml")
        path.write_text(dump_yaml(job.as_dict()), encoding="utf-8")
        command = [*probe_command(python, name), str(path)]
        return run_probe(command, environment, f"probe of {name}", limit_s)


def probe_command(python: str, name: str) -> list[str]:
    """Return the command of a probe of ``probes.py``."""
    return [python, "-m", "kakurenbo_hpc.cluster.doctor.probes", name]


def run_probe(command: list[str], environment: dict[str, str], name: str, limit_s: float) -> Facts:
    """Run a command and return its result.

    Args:
        command: prints the result as its last line that is a JSON object.
        environment: variables set for it, beside those of this process.
        name: of the probe, for messages.
        limit_s: seconds after which it is ended, with all that it started.

    Raises:
        UserError: it gives no result, or reports a problem.
    """
    try:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as problem:
        raise UserError(
            f"{command[0]}: cannot be run ({problem.strerror}); correct python in the machine file"
        ) from None
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{name}: no result in {limit_s:g} s; to see where it hangs, run {shlex.join(command)}"
        ) from None
    finally:
        if process.poll() is None:  # it hangs, or the user pressed Ctrl-C, which does not reach it
            _end(process)
    facts = _last_object(stdout)
    if facts is None:
        ending = _describe_ending(process.returncode)
        raise UserError(
            f"{name}: no result, but {ending} ({_main_line(stderr)}); for all of it, run "
            f"{shlex.join(command)}"
        )
    if "problem" in facts:
        raise UserError(facts["problem"])
    return facts


def _end(process: subprocess.Popen[str]) -> None:
    """End a launcher and its ranks; TERM first, on which it cleans up after itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.communicate(timeout=5)
            return


def _last_object(stdout: str) -> Facts | None:
    for line in reversed(stdout.splitlines()):
        with contextlib.suppress(ValueError):
            if isinstance(facts := json.loads(line), dict):
                return facts
    return None


def _describe_ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _main_line(stderr: str) -> str:
    """Return the line of stderr that says most: ours, an exception's, an error's, else the first of all."""
    lines = [line.strip() for line in stderr.splitlines() if re.search("[A-Za-z]{3}", line)]
    for pattern in (r"kakurenbo: ", r"[\w.]+(Error|Exception|Interrupt)\b", r"(\w+: )?(error|fatal): "):
        if matches := [line for line in lines if re.match(pattern, line, re.IGNORECASE)]:
            return matches[-1].removeprefix("kakurenbo: ")[:300]
    # What srun remarks on every start is no reason.
    said = [line for line in lines if "lacks support for cpu binding" not in line]
    return said[0][:300] if said else "no message"
