"""What the command says: where it is done, and where the user's input is wrong."""

import sys

import pytest

from kakurenbo_hpc import cli


def told(words, monkeypatch, capsys):
    """Run ``kakurenbo WORDS`` to its good end; return what it printed."""
    assert _left(words, monkeypatch) == 0
    return capsys.readouterr().out


def refused(words, monkeypatch, capsys):
    """Run ``kakurenbo WORDS``, which must end with exit code 2; return the one line that it says."""
    assert _left(words, monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kakurenbo: ")
    return line


def _left(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kakurenbo", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code
