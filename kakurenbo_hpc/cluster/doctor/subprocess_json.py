"""Ask a process of its own, which may crash or hang, and take its answer: one line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
from typing import Any

from ...errors import UserError

Facts = dict[str, Any]


def answer(words: list[str], environment: dict[str, str], who: str, limit_s: float) -> Facts:
    """Run a command and return what it answers, in JSON. who: for messages. Raises UserError if it gives no answer, or a problem."""
    try:
        process = subprocess.Popen(
            words,
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
            f"{words[0]}: cannot be run ({problem.strerror}); correct python in the machine file"
        ) from None
    try:
        said, complaint = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{who}: no answer in {limit_s:g} s; where it hangs, see: {shlex.join(words)}"
        ) from None
    finally:
        if process.poll() is None:  # it hangs, or somebody has pressed Ctrl-C, which does not reach it
            _end(process)
    facts = _last_answer(said)
    if facts is None:
        how = (
            f"killed by {signal.Signals(-process.returncode).name}"
            if process.returncode < 0
            else f"exit code {process.returncode}"
        )
        raise UserError(
            f"{who}: no answer, but {how} ({_reason(complaint)}); for all of it, run {shlex.join(words)}"
        )
    if "problem" in facts:
        raise UserError(facts["problem"])
    return facts


def _end(process: subprocess.Popen) -> None:
    """End a starter and its ranks: asked first, it cleans up after itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.communicate(timeout=5)
            return


def _last_answer(said: str) -> Facts | None:
    for line in reversed(said.splitlines()):
        with contextlib.suppress(ValueError):
            if isinstance(facts := json.loads(line), dict):
                return facts
    return None


def _reason(complaint: str) -> str:
    """Return the line of stderr that says most: ours, an exception's, else the first that is no banner."""
    lines = [line.strip() for line in complaint.splitlines() if re.search("[A-Za-z]{3}", line)]
    for pattern in (r"kakurenbo: ", r"[\w.]+(Error|Exception|Interrupt)\b"):
        if found := [line for line in lines if re.match(pattern, line)]:
            return found[-1].removeprefix("kakurenbo: ")[:300]
    return lines[0][:300] if lines else "without a word"
