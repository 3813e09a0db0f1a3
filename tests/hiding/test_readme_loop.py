"""The README's training loop, run as it is there (alone, under torchrun, under mpirun) and without Hiding."""

import json
from pathlib import Path

import pytest
from support.start_ranks import start

PROGRAM = Path(__file__).parent / "programs" / "own_loop.py"


def outcome(folder, side, starter="alone", n=1):
    ended = start(n, PROGRAM, side, folder / "metrics.json", starter=starter)
    assert ended.returncode == 0, ended.stderr
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("starter", "n"),
    [
        pytest.param("alone", 1, marks=pytest.mark.unit),
        ("torchrun", 2),
        pytest.param("mpirun", 2, marks=pytest.mark.nightly),
    ],
)
def test_the_readmes_loop_trains_and_hides(starter, n, tmp_path):
    there = outcome(tmp_path, "changed", starter, n)
    hidden = [line["n_hidden"] for line in there["epochs"]]
    assert hidden[0] == 0 and max(hidden) == 431, "30 percent of 1437"
    assert there["accuracy"] > 0.95
    assert there["rate"] == pytest.approx(0.1 * 0.9**12), "the schedule is left alone"


@pytest.mark.unit
@pytest.mark.nightly
def test_the_plain_loop_is_as_good(tmp_path):
    assert outcome(tmp_path, "plain")["accuracy"] > 0.95


def test_torchrun_ranks_that_have_not_met_are_told(tmp_path):
    (tmp_path / "alone.py").write_text(
        "from kakurenbo_hpc import Hiding\nHiding('random', 10, epochs=1, batch_size=1)\n"
    )
    ended = start(2, tmp_path / "alone.py", starter="torchrun")
    assert ended.returncode and "call torch.distributed.init_process_group first" in ended.stderr
