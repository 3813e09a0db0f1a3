"""Rank correlation of predicted losses, and of last ones, with those of a fresh forward pass, by their age.

    python scripts/bench_predicted_loss.py digits_everything --set training.epochs=12

Trains everything, with a forward pass over all samples before every epoch. A prediction of age a for an epoch
is made from the losses of the four training passes that end a epochs before it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bench_common import header, spread
from scipy.stats import spearmanr

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.methods.everything import Everything
from kakurenbo_hpc.selection.predicted_loss import WINDOW, predict_losses

AGES = (1, 3, 5)
fresh: list[np.ndarray] = []  # by epoch: losses of the pass before it
trained: list[np.ndarray] = []  # by epoch: losses of its training pass


class Watched(Everything):
    """Everything, with a forward pass before each epoch, whose losses are kept here."""

    def needs_scoring_pass(self, epoch: Epoch) -> bool:
        """Before every epoch."""
        return True

    def update(self, epoch: Epoch, ledger: Ledger, after: str) -> Mapping[str, np.ndarray]:
        """Keep the losses."""
        (fresh if after == "scoring" else trained).append(ledger.loss.copy())
        return {}


def correlations(age: int) -> tuple[list[float], list[float]]:
    """Return Spearman's correlation with the fresh losses, of predicted and of last ones, by epoch."""
    predicted, last = [], []
    for epoch in range(WINDOW - 1 + max(AGES), len(fresh)):
        known = range(epoch - age - WINDOW + 1, epoch - age + 1)
        losses = np.stack([trained[e] for e in known], axis=1)
        guess = predict_losses(losses, np.tile(np.array(known, np.int32), (len(losses), 1)), epoch)
        predicted.append(float(spearmanr(guess, fresh[epoch]).statistic))
        last.append(float(spearmanr(trained[epoch - age], fresh[epoch]).statistic))
    return predicted, last


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", help="a job file, or the name of a job that comes with the package")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args(words)
    job = read_job(find_job(given.job), given.set, DATASETS, METHODS)
    least = WINDOW + max(AGES)
    if job.training.epochs is None or job.training.epochs < least:
        parser.error(f"the job has {job.training.epochs} epochs; write --set training.epochs={least} or more")
    job = job.model_copy(update={"selection": Watched(method="everything")})
    with tempfile.TemporaryDirectory() as folder:
        run(job, Path(folder) / "run", SerialComm())
    print("result:    Spearman's correlation with a fresh pass, median and quartiles over epochs")
    print(header(("numpy", "torch"), f"{len(fresh) - least + 1} epochs of {given.job}, one run"))
    print("\nage in epochs   predicted               last loss")
    for age in AGES:
        predicted, last = correlations(age)
        print(f"{age:>13}   {spread(predicted):<22}  {spread(last)}")


if __name__ == "__main__":
    main()
