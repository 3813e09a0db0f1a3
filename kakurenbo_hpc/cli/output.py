"""Standard output and standard error of commands."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import typer

from ..errors import FAILED, UserError
from ..rundir.console import print_error


@contextlib.contextmanager
def output_is_all() -> Iterator[None]:
    """Exit with code 1 where a command that only prints cannot write to standard output."""
    try:
        yield
        sys.stdout.flush()
    except OSError as problem:
        if problem.filename is not None:
            raise
        abandon(sys.stdout, problem)
        raise typer.Exit(FAILED) from None


def abandon(stream: TextIO, problem: OSError) -> None:
    """Say that a stream is broken, and lead it to nowhere, so that Python does not fail on it at its exit."""
    print_problem(UserError(f"{stream.name}: not all of it could be written ({problem.strerror})"))
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_problem(problem: UserError) -> None:
    """Print an error as the last line of a command."""
    print_error(f"kakurenbo: {problem}")
