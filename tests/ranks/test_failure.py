"""Whatever ends one rank ends all ranks soon, and the last line of ours says which rank and why."""

import time

import pytest
from support.start_ranks import PROGRAMS, start


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("exception", "rank 1 of 2 on"),
        pytest.param("exit", "rank 1 of 2 on", marks=pytest.mark.nightly),
        # A file that vanishes, of a real data set: drills/test_data_file.
        pytest.param("data", "DataError: train/7.h5: vanished; put it back", marks=pytest.mark.nightly),
        ("kill", None),  # nobody can speak any more; mpirun names the rank, and launch says it again
    ],
)
def test_one_ranks_end_ends_all(harm, said, tmp_path):
    begun = time.monotonic()
    done = start(
        2,
        PROGRAMS / "faulty_train.py",
        harm,
        1,
        "digits_everything",
        "--run-dir",
        tmp_path / "run",
        timeout=150,
    )
    assert done.returncode not in (0, 2, 75)
    assert time.monotonic() - begun < 100, "start-up, which is slow on a busy machine, and ten seconds"
    ours = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert ours[-1:] == [] if said is None else said in ours[-1]
    assert "the disk is on fire" in ours[-1] if harm == "exception" else True
