"""What the ranks said before they ended, told again after the starter's own banners."""

from __future__ import annotations

import re
import signal
from collections import deque

from ..errors import DONE, FAILED, REQUEUE, USER_ERROR

# Open MPI 4 and 5 break these sentences over two lines. Hydra's banner goes to stdout and names no rank.
_KILLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+)")
_LEFT = re.compile(r"Process name: \[\S+,(\d+)\] Exit code: (\d+)")
_SRUN = re.compile(r"srun: error: (\S+): task(s?) ([\d,-]+): (\w+)(?: with exit code (\d+))?")
# srun itself ends with 0 then.
_NOT_STARTED = re.compile(r"srun: error: task (\d+) launch failed: (.*)")
# torchrun's own code is 1, whatever that of its ranks; each of its agents tells that in a table, the cause last.
_TORCHRUN = re.compile(r"Root Cause .* host : (\S+) rank : (\d+) \(local_rank: \d+\) exitcode : (-?\d+)")
_TORCHRUN_CODE = re.compile(r"\s*exitcode\s+: (-?\d+)")
# What srun says beside Open MPI or torchrun is of their daemons, not of ranks.
_BANNERS = (_KILLED, _LEFT, _TORCHRUN, _SRUN)
_RANK = re.compile(r"kakurenbo: rank (\d+) ")
# A rank that says this failed because another one did: see await_the_cause.
_LOST_PEER = re.compile("[Gg]loo|NCCL")
_MEMORY = "; often the system was out of memory (dmesg says so), or the batch system ended it"


class FailureReport:
    """Hears the ranks' stderr, and knows the line that has to be the last one."""

    def __init__(self):
        self._failure = ""  # the last line of a rank that failed
        self._lost: dict[str, str] = {}  # by rank, the line of one that lost its peer
        self._ours = ""  # the last line of ours, whatever else it says
        self._tail = deque(maxlen=20)
        self._banners: dict[
            re.Pattern, re.Match
        ] = {}  # the first of each kind: what ended all comes before what ended the others
        self._codes: set[int] = set()  # of ranks, where the starter's is another
        self._left: set[int] = set()  # what srun's tasks left with

    def hear(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self._tail.append(text)
        said = _RANK.match(text)
        if said and _LOST_PEER.search(text):
            self._lost[said[1]] = text
        elif text.startswith("kakurenbo: "):
            self._ours = text
            self._failure = text if said else self._failure
        if failed := _NOT_STARTED.match(text):
            self._failure = f"kakurenbo: rank {failed[1]}: srun could not start it ({failed[2]}); see above, or ask the site"
            self._codes.add(FAILED)
        if code := _TORCHRUN_CODE.match(text):
            self._codes.add(int(code[1]))
        if (step := _SRUN.match(text)) and step[5]:
            self._left.add(int(step[5]))
        banner = " ".join(" ".join(self._tail).split())
        for kind in _BANNERS:
            held = self._banners.get(kind)
            # An agent of torchrun whose rank lost its peer may speak before that of the peer.
            if (held is None or kind is _TORCHRUN and held[2] in self._lost) and (
                found := kind.search(banner)
            ):
                self._banners[kind] = found

    def code_of_ranks(self, code: int) -> int:
        """Return the code that the ranks left with; code: that of their starter."""
        left = {code for code in self._codes if code > 0}  # below 0: torchrun itself ended the others
        if code == DONE and left:
            return FAILED
        # srun ends with the greatest code, so with that of a slow rank that it killed because the others had left.
        if not left and (first := self._banners.get(_SRUN)) and first[5]:
            left = self._left
        return left.pop() if left in ({USER_ERROR}, {REQUEUE}) else code

    @property
    def blame_a_rank(self) -> bool:
        """Whether a rank said that it failed, or srun says so of one."""
        return bool(self._failure or self._lost or _SRUN in self._banners)

    def again(self, code: int) -> str:
        """Return the line to print last when the starter ended with this code; empty if there is nothing to say."""
        if code == USER_ERROR and self._ours:
            return self._ours
        return self._failure or self._guess(code)

    def _guess(self, code: int) -> str:
        """Compose what no rank could say any more: one that was killed has no last words."""
        if killed := self._banners.get(_KILLED):
            rank, node, number = killed.groups()
            return f"kakurenbo: rank {rank} on {node}: {_killed_by(int(number))}"
        if left := self._banners.get(_LEFT):
            return self._word_of(left[1], f"rank {left[1]}", left[2])
        if caused := self._banners.get(_TORCHRUN):
            node, rank, left = caused[1], caused[2], int(caused[3])
            who = f"rank {rank} on {node}"
            return f"kakurenbo: {who}: {_killed_by(-left)}" if left < 0 else self._word_of(rank, who, left)
        if step := self._banners.get(_SRUN):
            node, many, number, fate, left = step.groups()
            who = f"rank{many} {number} on {node}"
            return (
                self._word_of(number, who, left)
                if left
                else f"kakurenbo: {who}: {fate.lower()}{_MEMORY * (fate == 'Killed')}"
            )
        said = self._ours or next(iter(self._lost.values()), "")
        return said or f"kakurenbo: the starter ended with exit code {code}, and no rank said why; see above"

    def _word_of(self, rank: str, who: str, code: int | str) -> str:
        """Return what a rank that left by itself has said, or any of us, or that nobody did."""
        said = self._lost.get(rank) or self._ours
        return said or f"kakurenbo: {who}: left with exit code {code} and without a word of ours; see above"


def _killed_by(number: int) -> str:
    by = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    return f"killed by {by}" + (_MEMORY if by == "SIGKILL" else "")
