#!/usr/bin/env python3
"""Kills ranks of small runs at random moments of every stage, and compares what the resumed runs end with to runs that nobody disturbed.

``scripts/kill_drill.py --kills 200``. A run is killed in each of its first five epochs, every time in another stage, and taken up again,
until it is done. After each kill the others must have ended, within 15 s and not with success, the last words must name the rank that is dead, and
whatever stands in metrics and checkpoints must equal that of the undisturbed run, bit for bit; at the end, all of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench_common import header, median, say, starting

STAGES = ("plan", "train", "refresh", "evaluate", "checkpoint")
EPOCHS = len(STAGES) + 1
JOB = {
    "training.epochs": EPOCHS, "training.global_batch": 60, "selection.confidence": 0.3, "selection.fraction_epochs": [0],
    "model.options": {"width": 4, "norm": "batch"}, "record.keep": EPOCHS, "record.ledger": False,
}  # fmt: skip
MOST_S = 15.0


@dataclass(frozen=True)
class Kill:
    """after_s: seconds from the moment when the victim comes to the stage. told: a file for the moment of its end."""

    victim: int
    epoch: int
    stage: str
    after_s: float
    told: Path

    def words(self) -> list[str]:
        return [str(self.victim), str(self.epoch), self.stage, str(self.after_s), str(self.told)]


@dataclass(frozen=True)
class End:
    """How a start of ranks ended. last_words: what ``kakurenbo launch`` prints last."""

    code: int
    last_words: str
    log: str
    at: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--ranks", default="2,3,4", help="numbers of ranks, in turns")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws, waits, left = random.Random(options.seed), [], options.kills
    sizes = list(map(int, options.ranks.split(",")))
    with tempfile.TemporaryDirectory(prefix="kills_") as folder:
        whole = {n: undisturbed(n, Path(folder) / f"whole_{n}") for n in sizes}
        for chain, n in enumerate(itertools.cycle(sizes)):
            waits += drill(n, Path(folder) / f"run_{chain}", whole[n], min(left, len(STAGES)), draws)
            left = options.kills - len(waits)
            if not left:
                break
    print(f"result:    {len(waits)} kills on {options.ranks} ranks, {len(waits)} times the run went on as if nobody had disturbed it")
    print(header(["torch", "mpi4py"], f"{len(waits)} kills in {chain + 1} runs of {EPOCHS} epochs, seed {options.seed}"))
    print(f"ends:      the other ranks ended {median(waits):.2f} s after the kill (median), {max(waits):.2f} s at most")


def undisturbed(n: int, run: Path) -> dict:
    end = start(n, run)
    assert end.code == 0, end.log
    return found(run)


def drill(n: int, run: Path, whole: dict, n_kills: int, draws: random.Random) -> list[float]:
    """Kill a run n_kills times and let it come to its end; return the seconds after which the others had ended."""
    stages, waits = draws.sample(STAGES, len(STAGES)), []
    for epoch, stage in enumerate(stages[:n_kills]):
        lasts = whole["lines"][epoch]["seconds"][stage]
        kill = Kill(draws.randrange(n), epoch, stage, draws.random() * lasts, run.with_suffix(".told"))
        end = start(n, run, kill)
        where = f"{n} ranks, rank {kill.victim} killed in epoch {epoch}, {kill.after_s * 1000:.0f} ms after {stage} began"
        assert end.code not in (0, 2, 75), f"{where}: code {end.code}\n{end.log}"
        assert f"rank {kill.victim} on {os.uname().nodename}: killed by SIGKILL" in end.last_words, f"{where}: {end.last_words}\n{end.log}"
        waits.append(end.at - float(kill.told.read_text()))
        assert waits[-1] < MOST_S, f"{where}: the others ended after {waits[-1]:.1f} s\n{end.log}"
        compare(found(run), whole, where)
        say(f"{where}; the others ended after {waits[-1]:.2f} s")
    end = start(n, run)
    assert end.code == 0, end.log
    compare(found(run), whole, f"{n} ranks, {stages} killed", complete=True)
    return waits


def start(n: int, run: Path, kill: Kill | None = None) -> End:
    """Train on n ranks, from where the run is, to the end of the run or of the victim."""
    from kakurenbo_hpc.launcher.lastwords import LastWords

    words = ["digits_kakurenbo", "--run-dir", str(run), *(["--resume"] if run.exists() else [])]
    for name, value in JOB.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    line = [*starting(n), sys.executable, __file__, "--as-a-rank", *(kill.words() if kill else ["-1", "0", "plan", "0", "-"]), *words]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | ROOT, timeout=600)
    at, heard = time.monotonic(), LastWords()
    for text in done.stderr.splitlines():
        heard.hear(text)
    return End(done.returncode, heard.again(done.returncode), (done.stdout + done.stderr).decode(errors="replace"), at)
