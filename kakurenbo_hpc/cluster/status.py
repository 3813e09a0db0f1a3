"""Commands on submitted runs: status, logs, cancel."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ..errors import DONE, FAILED, UserError
from ..rundir.console import print_error
from .schedulers.scheduler import ENDED, NoAnswer
from .submission import BatchFolder, find_submissions
from .text_table import format_table

Row = tuple[str, str, str, str, str, str]


def status(folder: Path) -> int:
    """Print the state of a run, or of all runs below a folder; ``unknown`` where it cannot be found out.

    Raises:
        UserError: nothing was submitted there, or the only batch folder is damaged.
    """
    batches = find_submissions(folder)
    rows: list[Row] = [("run", "job", "state", "epochs", "submitted", "in the words of the batch system")]
    silent: dict[str, str] = {}
    for batch in batches:
        try:
            rows.append(_describe(batch, silent))
        except UserError as problem:
            if len(batches) == 1:
                raise
            rows.append((str(batch.run), "-", "unknown", _count_epochs(batch), "-", str(problem)))
    print(format_table(rows))
    return DONE


def _describe(batch: BatchFolder, silent: dict[str, str]) -> Row:
    """Return the row of a run.

    Args:
        batch: its batch folder.
        silent: why a batch system gave no answer, by its name. It is not asked again, which takes as long.
    """
    system, job_ids = batch.read().system, batch.job_ids
    state, detail = "unknown", silent.get(system, "")
    if not detail:
        try:
            state, detail = batch.state
        except NoAnswer as problem:
            detail = silent[system] = str(problem)
    times = f"{len(job_ids)} x" if len(job_ids) > 1 else "once"
    return (str(batch.run), job_ids[-1] if job_ids else "-", state, _count_epochs(batch), times, detail)


def cancel(folder: Path) -> int:
    """Cancel the newest job of a run, or of all runs below a folder.

    Returns:
        1 if the batch system did not cancel one of several, whose problem is printed; else 0.

    Raises:
        UserError: it did not cancel the only one.
    """
    batches, code = find_submissions(folder), DONE
    for batch in batches:
        try:
            print(_cancel(batch), flush=True)
        except UserError as problem:
            if len(batches) == 1:
                raise
            print_error(f"kakurenbo: {batch.run}: {problem}")
            code = FAILED
    return code


def _cancel(batch: BatchFolder) -> str:
    state = batch.state
    if state.status in ENDED:
        return f"{batch.run}: has ended already ({state.status}: {state.detail})"
    return f"{batch.run}: job {batch.cancel()} is cancelled"


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


def _count_epochs(batch: BatchFolder) -> str:
    """Return the number of finished epochs, ``-`` if there is no metrics file."""
    try:
        lines = (batch.run / "metrics.jsonl").read_text().splitlines()
        return str(json.loads(lines[-1])["epoch"] + 1)
    except (OSError, ValueError, LookupError, TypeError):
        return "-"
