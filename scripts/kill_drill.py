"""Kills of ranks at random moments of every stage, many of them, and whether the runs that go on are those
that nobody disturbed.

    python scripts/kill_drill.py                 200 kills on 2, 3 and 4 ranks in turn; about 25 minutes on
                                                 two cores
    python scripts/kill_drill.py --kills 20      fewer
    python scripts/kill_drill.py --launch torchrun --kills 25    by kakurenbo launch --restarts, which starts
                                                 the ranks again

The drill itself is that of the tests, tests/support/kills.py, which says what must hold; it starts its own
ranks.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench_common import header, median, say

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.kills import (  # noqa: E402
    EPOCHS,
    KILLED_EPOCHS,
    STAGES,
    killed_and_restarted,
    killed_and_resumed,
    undisturbed,
)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--ranks", default="2,3,4", help="numbers of ranks, in turn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--launch", choices=["mpirun", "torchrun"], help="start the ranks again by it")
    given = parser.parse_args(words)
    sizes, draws, kills, n_runs = [int(n) for n in given.ranks.split(",")], random.Random(given.seed), [], 0
    most = len(KILLED_EPOCHS if given.launch else STAGES)
    with tempfile.TemporaryDirectory() as folder:
        whole = {n: undisturbed(n, Path(folder) / f"whole_{n}", given.launch or "mpirun") for n in sizes}
        for n in itertools.cycle(sizes):
            n_kills, run = min(given.kills - len(kills), most), Path(folder) / f"run_{n_runs}"
            if not n_kills:
                break
            if given.launch:
                some = killed_and_restarted(given.launch, n, run, whole[n], n_kills, draws)
            else:
                some = killed_and_resumed(n, run, whole[n], n_kills, draws)
            kills, n_runs = kills + some, n_runs + 1
            say("\n".join(map(str, some)))
    waits, context = [kill.ended_s for kill in kills], Counter(kill.stage for kill in kills)
    print(
        f"result:    {len(kills)} kills, after each of which the run was, bit for bit, the one that nobody "
        "disturbed"
    )
    print(
        header(
            ("torch", "mpi4py"), f"{n_runs} runs of {EPOCHS} epochs on {given.ranks} ranks, seed {given.seed}"
        )
    )
    print(f"stages:    {', '.join(f'{stage} {context[stage]}' for stage in STAGES)}")
    what = "the next attempt trained" if given.launch else "the other ranks ended"
    print(f"ends:      {what} {median(waits):.2f} s after a kill (median), {max(waits):.2f} s at most")


if __name__ == "__main__":
    main(sys.argv[1:])
