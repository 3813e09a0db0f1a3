"""User errors, exit codes, and the wording of names and values in messages."""

import difflib
from collections.abc import Iterable

DONE, FAILED, USER_ERROR, REQUEUE, TERMINATED = 0, 1, 2, 75, 143


class UserError(Exception):
    """The user's input is wrong: one line (where, what was found, what to do), exit code 2, no traceback.

    Attributes:
        on_all_ranks: all ranks raise it, so that they can exit together; otherwise only this rank failed.
    """

    on_all_ranks = False

    def __init__(self, message: str = "") -> None:
        super().__init__(
            "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        )


class JobError(UserError):
    """A job file or a ``--set`` is invalid."""


class WorldError(UserError):
    """The launcher, MPI and GPUs do not fit the ranks."""


class RunDirectoryError(UserError):
    """The run directory cannot be used for this run."""


class DataError(UserError):
    """A data set is missing or invalid."""


class SampleError(DataError):
    """A sample is invalid, found by the rank that reads it. Exit code 2, though only one rank raises it."""


class TrainingError(UserError):
    """Training cannot continue, for example with a loss that is not finite. Exit code 1."""


class LoopError(UserError):
    """A user's training loop broke a requirement of hiding."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a clause for an error message: the nearest known names, or all of them when none is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    listed = ", ".join(names[:12])
    return f"known: {listed}" + (", ..." if len(names) > 12 else "")


def shown(value: object) -> str:
    """Return the repr of a value, shortened for an error message."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
