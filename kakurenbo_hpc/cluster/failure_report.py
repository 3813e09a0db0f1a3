"""Failure report: the message of the rank that failed first, repeated after the launcher's banners."""

from __future__ import annotations

import re
import signal
from collections import deque

from ..errors import DONE, FAILED, REQUEUE, USER_ERROR
from .launchers.mpirun import RANK_KILLED, RANK_LEFT
from .launchers.srun import NODE_LOST, NOT_STARTED, TASK_ENDED
from .launchers.torchrun import EXIT_CODE, ROOT_CAUSE

# What srun prints beside Open MPI or torchrun is about their daemons, not about ranks.
_BANNERS = (RANK_KILLED, RANK_LEFT, ROOT_CAUSE, TASK_ENDED, NODE_LOST)
_RANK = re.compile(r"kakurenbo: rank (\d+) ")
# A rank that prints this failed because another one did: see wait_for_abort.
_LOST_PEER = re.compile("[Gg]loo|NCCL")
# What another start would end with as well: the user's errors, and memory that does not suffice.
_FINAL = re.compile(
    r"kakurenbo: rank \d+ of \d+ on \S+: (?:(?:User|Job|World|RunDirectory|Data|Sample|Training|Loop)Error"
    r"|MemoryError|OutOfMemoryError):"
)
_OUT_OF_MEMORY = re.compile(r"kakurenbo: .*out of memory|\boom[-_ ]?kill|: Out Of Memory$", re.IGNORECASE)
_MEMORY = "; often the system was out of memory (dmesg says so), or the batch system ended it"


class FailureReport:
    """Reader of the ranks' and the launcher's stderr that composes our last line."""

    def __init__(self) -> None:
        self._failure = ""  # the last message of a rank that failed
        self._lost_peer: dict[str, str] = {}  # by rank, the message of one that lost its peer
        self._last_message = ""  # the last message of ours, of whatever kind
        self._tail: deque[str] = deque(maxlen=20)
        # The first match of each kind: what ended the job comes before what ended the other ranks.
        self._banners: dict[re.Pattern[str], re.Match[str]] = {}
        self._rank_codes: set[int] = set()  # where the launcher's own code is another one
        self._task_codes: set[int] = set()  # of srun's tasks
        self._is_final = False

    def add(self, line: bytes) -> None:
        """Read one line of stderr."""
        text = line.decode(errors="replace").rstrip()
        self._tail.append(text)
        self._is_final |= bool(_FINAL.match(text) or _OUT_OF_MEMORY.search(text))
        from_rank = _RANK.match(text)
        if from_rank and _LOST_PEER.search(text):
            self._lost_peer[from_rank[1]] = text
        elif text.startswith("kakurenbo: "):
            self._last_message = text
            self._failure = text if from_rank else self._failure
        if failed := NOT_STARTED.match(text):
            reason = f"srun could not start it ({failed[2]}); see above, or ask the site"
            self._failure = f"kakurenbo: rank {failed[1]}: {reason}"
            self._rank_codes.add(FAILED)
        if code := EXIT_CODE.match(text):
            self._rank_codes.add(int(code[1]))
        if (step := TASK_ENDED.match(text)) and step[5]:
            self._task_codes.add(int(step[5]))
        self._find_banners()

    def _find_banners(self) -> None:
        text = " ".join(" ".join(self._tail).split())
        for kind in _BANNERS:
            first = self._banners.get(kind)
            # An agent of torchrun whose rank lost its peer may print before that of the peer.
            if first is None or kind is ROOT_CAUSE and first[2] in self._lost_peer:
                if match := kind.search(text):
                    self._banners[kind] = match

    def code_of_ranks(self, code: int) -> int:
        """Return the exit code of the ranks.

        Args:
            code: that of their launcher.
        """
        codes = {code for code in self._rank_codes if code > 0}  # below 0: torchrun itself ended the others
        if code == DONE and codes:
            return FAILED
        # srun ends with the greatest code, so with that of a slow rank that it killed after the others left.
        if not codes and (first := self._banners.get(TASK_ENDED)) and first[5]:
            codes = self._task_codes
        return codes.pop() if codes in ({USER_ERROR}, {REQUEUE}) else code

    @property
    def blames_a_rank(self) -> bool:
        """Whether a rank reported that it failed, or srun reported it of one, or of a node."""
        return bool(self._failure or self._lost_peer or {TASK_ENDED, NODE_LOST} & self._banners.keys())

    @property
    def is_final(self) -> bool:
        """Whether another start would end alike: all ranks agreed on an error, or memory does not suffice."""
        line = self.last_line(FAILED)
        return self._is_final or (line == self._last_message and not _RANK.match(line))

    def last_line(self, code: int) -> str:
        """Return the line to print last.

        Args:
            code: the exit code of the ranks.
        """
        if code == USER_ERROR and self._last_message:
            return self._last_message
        return self._failure or self._describe_failure(code)

    def _describe_failure(self, code: int) -> str:
        """Describe by the launcher's banners what no rank could report itself: it was killed."""
        if lost := self._banners.get(NODE_LOST):
            return f"kakurenbo: node {lost[1]} was lost"
        if killed := self._banners.get(RANK_KILLED):
            rank, node, number = killed.groups()
            return f"kakurenbo: rank {rank} on {node}: {_killed_by(int(number))}"
        if left := self._banners.get(RANK_LEFT):
            return self._message_of(left[1], f"rank {left[1]}", left[2])
        if cause := self._banners.get(ROOT_CAUSE):
            node, rank, exit_code = cause[1], cause[2], int(cause[3])
            where = f"rank {rank} on {node}"
            if exit_code < 0:
                return f"kakurenbo: {where}: {_killed_by(-exit_code)}"
            return self._message_of(rank, where, exit_code)
        if step := self._banners.get(TASK_ENDED):
            node, plural, ranks, fate, task_code = step.groups()
            where = f"rank{plural} {ranks} on {node}"
            if task_code:
                return self._message_of(ranks, where, task_code)
            if ranks in self._lost_peer:  # its own abort made srun kill it
                return self._lost_peer[ranks]
            return f"kakurenbo: {where}: {fate.lower()}{_MEMORY * (fate == 'Killed')}"
        message = self._last_message or next(iter(self._lost_peer.values()), "")
        return message or (
            f"kakurenbo: the launcher ended with exit code {code}, and no rank said why; see above"
        )

    def _message_of(self, rank: str, where: str, code: int | str) -> str:
        """Return the message of a rank that left by itself, or any of ours, or that there is none."""
        message = self._lost_peer.get(rank) or self._last_message
        return (
            message
            or f"kakurenbo: {where}: left with exit code {code} and without a message of ours; see above"
        )


def _killed_by(number: int) -> str:
    by = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    return f"killed by {by}" + (_MEMORY if by == "SIGKILL" else "")
