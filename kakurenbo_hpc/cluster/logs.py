"""Logs of submitted runs: printed, followed, or of one job alone."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from ..errors import DONE, UserError
from ..rundir.console import print_error
from .schedulers.commands import NoAnswer
from .schedulers.scheduler import ENDED
from .submission import BatchFolder, find_submissions


def logs(run: Path, follow: bool, pause_s: float = 2) -> int:
    """Print the log of a run.

    Args:
        run: its run directory.
        follow: print until its job has ended.
        pause_s: seconds between looks at the log.

    Raises:
        UserError: nothing was submitted, or there is no log yet.
    """
    batch = BatchFolder(run)
    batch.read()  # raises where nothing was submitted
    if not batch.log.is_file() and not follow:
        state = batch.state
        raise UserError(
            f"{batch.log}: not written yet, the job is {state.status} ({state.detail}); wait for it with "
            "--follow"
        )
    n_read, last_query_s, ended, said = 0, float("-inf"), False, ""
    while True:
        # Batch systems suffer from frequent queries.
        if follow and time.monotonic() - last_query_s > 5 * pause_s:
            last_query_s = time.monotonic()
            try:
                state, said = batch.state, ""
                ended = state.status in ENDED
            except NoAnswer as problem:  # it comes back; the log goes on meanwhile
                if not said:
                    print_error(f"kakurenbo: {problem}; following the log all the same")
                said = str(problem)
        if batch.log.is_file():
            with open(batch.log, "rb") as file:
                file.seek(n_read)
                text = file.read()
            n_read += len(text)
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
        if ended and state.status != "done":
            print_error(f"kakurenbo: {run}: {state.status} ({state.detail})")
        if ended or not follow:
            return DONE
        time.sleep(pause_s)


def logs_of_job(folder: Path, job_id: str) -> int:
    """Print what one job, of a run or of the runs below a folder, has written to its log.

    Raises:
        UserError: no run there had such a job, or it has written nothing yet.
    """
    batch = next((batch for batch in find_submissions(folder) if job_id in batch.job_ids), None)
    if batch is None:
        raise UserError(f"{folder}: no run there had job {job_id}; kakurenbo status --all lists the newest")
    text = _of_job(batch.log.read_text(errors="replace") if batch.log.is_file() else "", job_id)
    if not text:
        raise UserError(f"{batch.log}: job {job_id} has written nothing yet")
    print(text, end="")
    return DONE


def _of_job(log: str, job_id: str) -> str:
    """Return the parts of a log from each line that a job begins with to that of another."""
    parts = re.split(r"^(?=== job \S+, [^:]+:\d\d:\d\d: attempt )", log, flags=re.MULTILINE)
    return "".join(part for part in parts if part.startswith(f"== job {job_id}, "))
