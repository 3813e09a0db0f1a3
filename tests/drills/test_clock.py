"""A clock that jumps: no run ends by it, none waits for it, and no seconds are wrong."""

import json
from pathlib import Path

from support.start_ranks import start

JUMPING_CLOCK = Path(__file__).parent / "programs" / "jumping_clock.py"


def test_a_clock_that_jumps_by_days_neither_ends_a_run_nor_lengthens_its_seconds(tmp_path):
    run = tmp_path / "run"
    words = [
        "digits_everything",
        "--run-dir",
        run,
        "--set",
        "training.epochs=6",
        "--set",
        "record.hang_timeout=60",
    ]
    done = start(2, JUMPING_CLOCK, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and all(
        0 <= seconds < 300 for line in lines for seconds in line["seconds"].values()
    )
