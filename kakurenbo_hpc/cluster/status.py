"""What became of what was submitted: status, logs, cancel."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ..errors import DONE, UserError
from .submission import ENDED, BatchFolder, submissions
from .text_table import table


def status(folder: Path) -> int:
    """Print how the run in a folder is, or all runs below it."""
    rows = [("run", "job", "state", "epochs", "submitted", "in the words of the batch system")]
    for batch in submissions(folder):
        job_ids = batch.job_ids
        times = f"{len(job_ids)} x" if len(job_ids) > 1 else "once"
        state = batch.state
        rows.append(
            (str(batch.run), job_ids[-1] if job_ids else "-", state.word, _epochs(batch), times, state.detail)
        )
    print(table(rows))
    return DONE


def cancel(folder: Path) -> int:
    """Cancel the newest job of a run, or of all runs below a folder."""
    for batch in submissions(folder):
        state = batch.state
        if state.word in ENDED:
            print(f"{batch.run}: has ended already ({state.word}: {state.detail})")
            continue
        batch.system.cancel(batch.job_ids[-1])
        print(f"{batch.run}: job {batch.job_ids[-1]} is cancelled")
    return DONE


def logs(run: Path, follow: bool, pause_s: float = 2) -> int:
    """Print the log of a run; with follow, until its job has ended. Raises UserError if there is none yet."""
    batch = BatchFolder(run)
    batch.read()  # raises where nothing was submitted
    if not batch.log.is_file() and not follow:
        state = batch.state
        raise UserError(
            f"{batch.log}: not written yet, the job is {state.word} ({state.detail}); wait for it with --follow"
        )
    read, asked = 0, float("-inf")
    while True:
        ended = False
        if follow and time.monotonic() - asked > 5 * pause_s:  # batch systems do not like to be asked often
            asked, ended = time.monotonic(), batch.state.word in ENDED
        if batch.log.is_file():
            with open(batch.log, "rb") as file:
                file.seek(read)
                text = file.read()
            read += len(text)
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
        if ended or not follow:
            return DONE
        time.sleep(pause_s)


def _epochs(batch: BatchFolder) -> str:
    """Return how many epochs are done."""
    try:
        lines = (batch.run / "metrics.jsonl").read_text().splitlines()
        return str(json.loads(lines[-1])["epoch"] + 1)
    except (OSError, ValueError, LookupError, TypeError):
        return "-"
