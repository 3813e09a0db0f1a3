"""What can go wrong by the user's hand, the exit codes, and how names that nobody knows and values stand in a message."""

import difflib
from collections.abc import Iterable

DONE, FAILED, USER_ERROR, REQUEUE, TERMINATED = 0, 1, 2, 75, 143


class UserError(Exception):
    """The user's input is wrong. The message is one line: where, what was found, what to do. Exit code 2, no traceback.

    agreed: all ranks raise it alike, so that they can leave together; otherwise it is one rank's own failure.
    """

    on_all_ranks = False

    def __init__(self, message: str = ""):
        super().__init__(
            "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        )


class JobError(UserError):
    """A job file, or a ``--set``, says something that cannot be run."""


class WorldError(UserError):
    """The ranks that the starter promised are not the ranks that are there."""


class RunDirectoryError(UserError):
    """The run directory does not fit what is asked of it."""


class DataError(UserError):
    """The data is not there, or is not what its name says."""


class SampleError(DataError):
    """A sample holds what none may, which the rank that reads it finds. Exit code 2, though ranks have not agreed."""


class TrainingError(UserError):
    """Training went where it cannot go on from. Exit code 1: the input may be right."""


class LoopError(UserError):
    """A training loop of one's own did not do what hiding needs of it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a clause for an error message: the nearest known names, or all of them when none is near."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    shown = ", ".join(known[:12])
    return f"known: {shown}" + (", ..." if len(known) > 12 else "")


def shown(value: object) -> str:
    """Return a value as it stands in an error message."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
