"""Ranks that are killed, whenever and wherever: the others end soon and name them, and the run goes on bit
for bit.
"""

import random

import pytest
from support.kills import STAGES, killed_and_resumed, undisturbed


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_run_that_is_killed_in_every_stage_goes_on_bit_for_bit(n, tmp_path):
    whole = undisturbed(n, tmp_path / "whole")
    seed = random.randrange(1000)
    print(f"seed {seed}")
    print(*killed_and_resumed(n, tmp_path / "run", whole, len(STAGES), random.Random(seed)), sep="\n")
