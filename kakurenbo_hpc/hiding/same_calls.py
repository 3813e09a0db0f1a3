"""Check that all ranks make the same call of `Hiding`: a collective call on one rank alone would hang."""

from __future__ import annotations

import sys
import threading

from ..distributed.comm import Comm
from ..errors import USER_ERROR, LoopError

SHORTEST_WAIT_S = 60.0


def check_same_call(comm: Comm, call: str, skew_s: float | None = None) -> None:
    """Check that all ranks make the same call. Collective.

    Args:
        comm: all ranks.
        call: name of the call.
        skew_s: seconds that ranks may come apart; rank 0 waits no longer, but a minute at least, and ends all
            ranks with one line. None for no limit. Other ranks wait, since rank 0 may evaluate for all.

    Raises:
        LoopError: the calls differ; on all ranks alike.
    """
    if comm.size == 1:
        return
    if skew_s is None or comm.rank:
        calls = comm.gather(call)
    else:
        timer = threading.Timer(max(SHORTEST_WAIT_S, skew_s), _abort, [comm, call])
        timer.daemon = True
        timer.start()
        try:
            calls = comm.gather(call)
        finally:
            timer.cancel()
    other = next((rank for rank, of_rank in enumerate(calls) if of_rank != calls[0]), None)
    if other is not None:
        problem = LoopError(
            f"hiding: rank 0 calls {calls[0]}, but rank {other} calls {calls[other]}; let all ranks make the "
            "same calls, none under `if rank == 0`"
        )
        problem.on_all_ranks = True
        raise problem


def _abort(comm: Comm, call: str) -> None:
    print(
        f"hiding: rank 0 calls {call}, but not all other ranks do; call it on all ranks, not under "
        "`if rank == 0`",
        file=sys.stderr,
        flush=True,
    )
    comm.abort(USER_ERROR)
