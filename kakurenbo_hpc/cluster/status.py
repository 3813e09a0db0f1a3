"""Commands on submitted runs: status, logs, cancel."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ..errors import DONE, UserError
from .schedulers.scheduler import ENDED
from .submission import BatchFolder, find_submissions
from .text_table import format_table


def status(folder: Path) -> int:
    """Print the state of a run, or of all runs below a folder."""
    rows = [("run", "job", "state", "epochs", "submitted", "in the words of the batch system")]
    for batch in find_submissions(folder):
        job_ids = batch.job_ids
        times = f"{len(job_ids)} x" if len(job_ids) > 1 else "once"
        state = batch.state
        job_id = job_ids[-1] if job_ids else "-"
        rows.append((str(batch.run), job_id, state.status, _count_epochs(batch), times, state.detail))
    print(format_table(rows))
    return DONE


def cancel(folder: Path) -> int:
    """Cancel the newest job of a run, or of all runs below a folder."""
    for batch in find_submissions(folder):
        state = batch.state
        if state.status in ENDED:
            print(f"{batch.run}: has ended already ({state.status}: {state.detail})")
            continue
        batch.scheduler.cancel(batch.job_ids[-1])
        print(f"{batch.run}: job {batch.job_ids[-1]} is cancelled")
    return DONE


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
    n_read, last_query_s = 0, float("-inf")
    while True:
        ended = False
        # Batch systems suffer from frequent queries.
        if follow and time.monotonic() - last_query_s > 5 * pause_s:
            last_query_s, ended = time.monotonic(), batch.state.status in ENDED
        if batch.log.is_file():
            with open(batch.log, "rb") as file:
                file.seek(n_read)
                text = file.read()
            n_read += len(text)
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
        if ended or not follow:
            return DONE
        time.sleep(pause_s)


def _count_epochs(batch: BatchFolder) -> str:
    """Return the number of finished epochs, ``-`` if there is no metrics file."""
    try:
        lines = (batch.run / "metrics.jsonl").read_text().splitlines()
        return str(json.loads(lines[-1])["epoch"] + 1)
    except (OSError, ValueError, LookupError, TypeError):
        return "-"
