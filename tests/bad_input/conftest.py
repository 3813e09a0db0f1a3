"""The desk, and one who reads it to the command line and checks how it answers."""

import os
import signal
import sys
from pathlib import Path

import pytest
from support.bad_input_cases import lay, listing

from kakurenbo_hpc import cli
from kakurenbo_hpc.core.signals import SIGNALS
from kakurenbo_hpc.distributed.comm import SerialComm


@pytest.fixture(scope="session")
def desk(tmp_path_factory) -> Path:
    """The folder where everything is wrong. Nobody changes anything there, so that all share it."""
    folder = tmp_path_factory.mktemp("desk")
    lay(folder)
    return folder


@pytest.fixture
def refuses(desk, monkeypatch, capsys):
    """Return a function that runs the command line on the desk and returns the line that it answers with.

    It asserts what holds for every answer to bad input: exit code 2, one line, nothing created or changed.
    """
    monkeypatch.chdir(desk)
    monkeypatch.setenv("PATH", str(desk / "empty"))  # no batch system is here, or would be given jobs
    # What ends a process ends one rank here.
    monkeypatch.setattr(SerialComm, "abort", lambda self, code=1: sys.exit(f"abort({code})"))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def refuse(*words: object) -> str:
        before = listing(desk)
        monkeypatch.setattr(sys, "argv", ["kakurenbo", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capsys.readouterr()
        assert left.value.code == 2, told.err
        (line,) = told.err.splitlines()
        assert line.startswith("kakurenbo: ") and len(line) < 1000 + max(
            len(str(word)) for word in ("", *words)
        )
        assert listing(desk) == before, "created or changed"
        assert not os.path.exists(desk / "ran"), "something was run"
        return line

    yield refuse
    for number, handler in handlers.items():
        signal.signal(number, handler)
