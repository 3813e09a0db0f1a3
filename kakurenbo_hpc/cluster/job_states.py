"""States of many runs: one question to each batch system, whatever their number."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DONE, FAILED, UserError
from ..rundir.console import print_line
from .schedulers import open_scheduler
from .schedulers.commands import NoAnswer
from .schedulers.scheduler import ENDED, JobState
from .submission import BatchFolder

Found = JobState | UserError
"""A state, or why it cannot be found out."""


def find_states(batches: Sequence[BatchFolder]) -> dict[Path, Found]:
    """Return the state of each run by its directory.

    A batch system is asked once, for the jobs that were not seen to have ended.
    """
    found: dict[Path, Found] = {}
    asked: dict[str, list[BatchFolder]] = defaultdict(list)
    for batch in batches:
        try:
            system, state = batch.read().system, batch.known_end()
        except UserError as problem:
            found[batch.run] = problem
            continue
        if state is None:
            asked[system].append(batch)
        else:
            found[batch.run] = state
    for system, those in asked.items():
        found |= _ask(system, those)
    return found


def _ask(system: str, batches: Sequence[BatchFolder]) -> Mapping[Path, Found]:
    newest = {batch.run: batch.job_ids[-1] for batch in batches}
    try:
        states = open_scheduler(system).job_states([*newest.values()])
    except NoAnswer as problem:
        return dict.fromkeys(newest, problem)
    return {batch.run: batch.judge(states.get(newest[batch.run])) for batch in batches}


def wait_for_end(batches: Sequence[BatchFolder], pause_s: float = 10) -> int:
    """Wait until all runs have ended, requeues included, and print how.

    Returns:
        0 if all are done, else the exit code of the first that is not, or 1 where it left none.
    """
    waiting, code = list(batches), DONE
    while waiting:
        states = find_states(waiting)
        for batch in list(waiting):
            state = states[batch.run]
            if isinstance(state, JobState) and state.status in ENDED:
                waiting.remove(batch)
                print_line(f"{batch.run}: {state.status} ({state.detail})")
                if state.status != "done":
                    code = code or batch.exit_code or FAILED
        if waiting:
            time.sleep(pause_s)
    return code
