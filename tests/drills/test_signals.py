"""Signals in every stage, twice in a row: ranks leave together, and the run goes on bit for bit."""

from pathlib import Path

from support.kills import left
from support.start_ranks import start

ASKED = Path(__file__).parent / "programs" / "asked_in_every_stage.py"


def test_every_signal_in_every_stage_only_interrupts_a_run(tmp_path):
    done = start(2, ASKED, tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("leaving ") == 4 * 5
    whole = left(tmp_path / "whole")
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
        asked = left(tmp_path / name)
        assert asked["lines"] == whole["lines"]
        assert of_last_epoch(asked) == of_last_epoch(whole)


def of_last_epoch(run):
    return {path: held for path, held in run["files"].items() if path.startswith("checkpoints/epoch_0005/")}
