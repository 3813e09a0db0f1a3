"""What the ranks said before they ended, told again after the starter's own banners."""

from __future__ import annotations

import re
import signal
from collections import deque

from ..errors import USER_ERROR

# Open MPI 4 and 5 break these sentences over two lines. Hydra's banner goes to stdout and names no rank.
_KILLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+)")
_LEFT = re.compile(r"Process name: \[\S+,(\d+)\] Exit code: (\d+)")
_SRUN = re.compile(r"srun: error: (\S+): task (\d+): (\w+)(?: with exit code (\d+))?")
_MEMORY = "; often the system was out of memory (dmesg says so), or the batch system ended it"


class LastWords:
    """Hears the ranks' stderr, and knows the line that has to be the last one."""

    def __init__(self):
        self._failure = ""  # the last line of a rank that failed
        self._ours = ""  # the last line of ours, whatever it says
        self._tail = deque(maxlen=20)

    def hear(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self._tail.append(text)
        if text.startswith("kakurenbo: "):
            self._ours = text
        if text.startswith("kakurenbo: rank "):
            self._failure = text

    def again(self, code: int) -> str:
        """Return the line to print last when the starter ended with this code; empty if there is nothing to say."""
        if code == USER_ERROR:
            return self._ours or self._guess(code)
        return self._failure or self._guess(code)

    def _guess(self, code: int) -> str:
        """Compose what no rank could say any more: one that was killed has no last words."""
        banner = " ".join(" ".join(self._tail).split())
        if killed := _KILLED.search(banner):
            rank, node, number = killed.groups()
            by = next((known.name for known in signal.Signals if known == int(number)), f"signal {number}")
            return f"kakurenbo: rank {rank} on {node}: killed by {by}" + (_MEMORY if by == "SIGKILL" else "")
        if left := _LEFT.search(banner):
            return f"kakurenbo: rank {left[1]}: left with exit code {left[2]} and without a word of ours; see above"
        if step := _SRUN.search(banner):
            node, number, fate, left = step.groups()
            how = f"left with exit code {left} and without a word of ours; see above" if left else fate.lower()
            return f"kakurenbo: rank {number} on {node}: {how}" + (_MEMORY if fate == "Killed" else "")
        return f"kakurenbo: the starter ended with exit code {code}, and no rank said why; see above"
