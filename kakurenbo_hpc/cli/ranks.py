"""Commands that run on all ranks: how they begin, and how one that fails ends the others."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import FAILED, USER_ERROR, SampleError, TrainingError, UserError
from ..rundir.console import print_error
from .arguments import read_job
from .output import print_problem

if TYPE_CHECKING:
    from ..config.job import Job
    from ..distributed.comm import Comm


def read_job_together(comm: Comm, path: str, overrides: list[str] | None) -> Job:
    """Return the job on every rank; rank 0 alone reads the file. Each rank imports what the job names."""
    from ..config.job import check_job
    from ..data import DATASETS
    from ..selection import METHODS

    values = comm.on_rank_zero(lambda: read_job(path, overrides).as_dict())
    return comm.run_or_raise_together(lambda: check_job(values, path, DATASETS, METHODS))


def run_on_ranks(work: Callable[[Comm], int]) -> int:
    """Run work on all ranks and return the exit code; a failure of one rank ends all."""
    from ..distributed.world import open_comm, wait_for_abort

    comm = open_comm()
    try:
        code = work(comm)
        comm.close()
        return code
    except BaseException as problem:
        if isinstance(problem, UserError) and problem.on_all_ranks:
            if comm.rank == 0:
                print_problem(problem)
            comm.barrier()
            return FAILED if isinstance(problem, TrainingError) else USER_ERROR
        wait_for_abort(problem)
        _print_failure(problem, comm.rank, comm.size)
        comm.abort(USER_ERROR if isinstance(problem, SampleError) else FAILED)


def _print_failure(problem: BaseException, rank: int, size: int) -> None:
    """Print what ended this rank; the line that names the rank comes last."""
    if not isinstance(problem, SystemExit | KeyboardInterrupt | UserError):
        print_error("".join(traceback.format_exception(problem)).rstrip())
    reason = " ".join(str(problem).split()) or "no reason given"
    node = os.uname().nodename
    print_error(f"kakurenbo: rank {rank} of {size} on {node}: {type(problem).__name__}: {reason}")
