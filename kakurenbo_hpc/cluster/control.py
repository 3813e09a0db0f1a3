"""End of submitted runs: cancel, stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import DONE, FAILED, UserError
from ..rundir.atomic_io import write_whole
from ..rundir.console import print_error
from ..rundir.watchdog.heartbeat import seconds_since_beat
from .schedulers.scheduler import ENDED
from .submission import ALIVE_S, BatchFolder, find_submissions


def cancel(folder: Path) -> int:
    """Cancel the newest job of a run, or of all runs below a folder.

    Returns:
        1 if the batch system did not cancel one of several, whose problem is printed; else 0.

    Raises:
        UserError: it did not cancel the only one.
    """
    return _each(find_submissions(folder), _cancel)


def stop(folder: Path, requeue: bool) -> int:
    """Have the ranks of a run, or of all runs below a folder, write a checkpoint and leave.

    Args:
        folder: of a run, submitted or started with ``kakurenbo launch``, or of runs.
        requeue: whether runs go back into the queue.

    Returns:
        1 if one of several could not be asked, whose problem is printed; else 0.

    Raises:
        UserError: nothing runs there, or the only one could not be asked.
    """
    beat_s = seconds_since_beat(folder)
    if not (folder / "batch").exists() and beat_s is not None and beat_s < ALIVE_S:
        write_whole(folder / "stop", "kakurenbo stop\n")
        print(f"{folder}: writes a checkpoint and leaves; kakurenbo launch --resume goes on")
        return DONE
    return _each(find_submissions(folder), lambda batch: _stop(batch, requeue))


def _each(batches: list[BatchFolder], end: Callable[[BatchFolder], str]) -> int:
    code = DONE
    for batch in batches:
        try:
            print(end(batch), flush=True)
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


def _stop(batch: BatchFolder, requeue: bool) -> str:
    state = batch.state
    if state.status in ENDED:
        return f"{batch.run}: has ended already ({state.status}: {state.detail})"
    if state.status == "queued" and requeue:
        return f"{batch.run}: job {batch.job_ids[-1]} waits in the queue; there is nothing to stop"
    if state.status == "queued":
        return f"{batch.run}: job {batch.cancel()} had not begun, and is cancelled"
    afterwards = "goes back into the queue" if requeue else "kakurenbo submit --resume goes on"
    return f"{batch.run}: job {batch.stop(requeue)} writes a checkpoint and leaves; {afterwards}"
