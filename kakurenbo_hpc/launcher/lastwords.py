"""What the ranks said before they ended, told again after the starter's own banners."""

from __future__ import annotations

import re
import signal
from collections import deque

from ..errors import DONE, FAILED, REQUEUE, USER_ERROR

# Open MPI 4 and 5 break these sentences over two lines. Hydra's banner goes to stdout and names no rank.
_KILLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+)")
_LEFT = re.compile(r"Process name: \[\S+,(\d+)\] Exit code: (\d+)")
_SRUN = re.compile(r"srun: error: (\S+): task (\d+): (\w+)(?: with exit code (\d+))?")
# srun itself ends with 0 then.
_NOT_STARTED = re.compile(r"srun: error: task (\d+) launch failed: (.*)")
# torchrun's own code is 1, whatever that of its ranks; each of its agents tells that in a table, the cause last.
_TORCHRUN = re.compile(r"Root Cause .* host : (\S+) rank : (\d+) \(local_rank: \d+\) exitcode : (-?\d+)")
_TORCHRUN_CODE = re.compile(r"\s*exitcode\s+: (-?\d+)")
_MEMORY = "; often the system was out of memory (dmesg says so), or the batch system ended it"


class LastWords:
    """Hears the ranks' stderr, and knows the line that has to be the last one."""

    def __init__(self):
        self._failure = ""  # the last line of a rank that failed
        self._ours = ""  # the last line of ours, whatever it says
        self._tail = deque(maxlen=20)
        self._codes: set[int] = set()  # of ranks, where the starter's is another

    def hear(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self._tail.append(text)
        if text.startswith("kakurenbo: "):
            self._ours = text
        if text.startswith("kakurenbo: rank "):
            self._failure = text
        if failed := _NOT_STARTED.match(text):
            self._failure = f"kakurenbo: rank {failed[1]}: srun could not start it ({failed[2]}); see above, or ask the site"
            self._codes.add(FAILED)
        if code := _TORCHRUN_CODE.match(text):
            self._codes.add(int(code[1]))

    def code_of_ranks(self, code: int) -> int:
        """Return the code that the ranks left with; code: that of their starter."""
        left = {code for code in self._codes if code > 0}  # below 0: torchrun itself ended the others
        if code == DONE and left:
            return FAILED
        return left.pop() if left in ({USER_ERROR}, {REQUEUE}) else code

    @property
    def blame_a_rank(self) -> bool:
        """Whether a rank said that it failed, or srun says so of one."""
        return bool(self._failure or _SRUN.search(self._banner))

    def again(self, code: int) -> str:
        """Return the line to print last when the starter ended with this code; empty if there is nothing to say."""
        if code == USER_ERROR:
            return self._ours or self._guess(code)
        return self._failure or self._guess(code)

    def _guess(self, code: int) -> str:
        """Compose what no rank could say any more: one that was killed has no last words."""
        banner = self._banner
        if killed := _KILLED.search(banner):
            rank, node, number = killed.groups()
            return f"kakurenbo: rank {rank} on {node}: {_killed_by(int(number))}"
        if left := _LEFT.search(banner):
            return f"kakurenbo: rank {left[1]}: left with exit code {left[2]} and without a word of ours; see above"
        if step := _SRUN.search(banner):
            node, number, fate, left = step.groups()
            how = f"left with exit code {left} and without a word of ours; see above" if left else fate.lower()
            return f"kakurenbo: rank {number} on {node}: {how}" + (_MEMORY if fate == "Killed" else "")
        if caused := _TORCHRUN.search(banner):
            node, rank, left = caused[1], caused[2], int(caused[3])
            how = _killed_by(-left) if left < 0 else f"left with exit code {left} and without a word of ours; see above"
            return f"kakurenbo: rank {rank} on {node}: {how}"
        return f"kakurenbo: the starter ended with exit code {code}, and no rank said why; see above"

    @property
    def _banner(self) -> str:
        return " ".join(" ".join(self._tail).split())


def _killed_by(number: int) -> str:
    by = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    return f"killed by {by}" + (_MEMORY if by == "SIGKILL" else "")
