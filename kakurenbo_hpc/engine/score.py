"""Scores for static pruning: train a little, ask every sample how hard it is, and write the answers to one file.

el2n: the mean over several initialisations of ||p - onehot(y)||_2 after some epochs (Paul et al. 2021).
grand: likewise, the norm of the loss gradient in all parameters, or in the last layer's (Paul et al. 2021).
forgetting: how often a sample went from correct to wrong during training; never learned counts as most (Toneva et al. 2019).
random: a draw.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..config.job import Job
from ..core.batch import Batch
from ..core.ledger import Ledger
from ..core.plan import Epoch
from ..distributed.comm import Comm
from ..distributed.gradient_sync import open_gradient_sync
from ..distributed.world import settle
from ..errors import JobError, nearest
from ..rundir.path_checks import check_file
from ..rundir.timers import StageTimer
from ..selection.method import FORWARD_COLUMNS, init_ledger
from ..selection.methods.everything import Everything
from ..selection.score_file import ScoreInfo, write_scores
from ..training.batch_stats import BatchStats
from ..training.gradient_norm import gradient_norms
from .context import Context
from .epoch import run_epoch
from .loops import forward_only
from .run import set_up


@dataclass(frozen=True)
class Recipe:
    """How long and how often a scoring method trains before it asks, as its paper does."""

    epochs: int
    repeats: int


RECIPES = {
    "el2n": Recipe(epochs=20, repeats=10),
    "grand": Recipe(epochs=0, repeats=10),
    "forgetting": Recipe(epochs=20, repeats=1),
    "random": Recipe(epochs=0, repeats=1),
}


def score(
    name: str,
    job: Job,
    path: Path,
    comm: Comm,
    epochs: int | None = None,
    repeats: int | None = None,
    last_layer: bool = False,
) -> ScoreInfo:
    """Score every training sample of the job's data by this method, write the file, and return what it cost.

    epochs, repeats: of the recipe if not given. last_layer: grand by the last layer's gradient, for large networks.
    Raises UserError on all ranks alike.
    """
    epochs, repeats = comm.on_rank_zero(lambda: _fitting(name, path, epochs, repeats))
    begun, world = time.perf_counter(), settle(comm)
    everywhere = job.data.model_copy(update={"placement": "shared"})  # a few passes do not pay for staging
    total, label, n_forward, n_backward = 0.0, None, 0, 0
    for repeat in range(repeats):
        one = job.model_copy(update={"seed": job.seed + repeat, "data": everywhere})
        method = _METHODS[name](method=name)
        context, data = set_up(one, world, method)
        gradients = open_gradient_sync(one.world, one.training.accumulate, world)
        context.learner.join(gradients, data.shape)
        ledger = init_ledger(method, context.homes, comm, data.fingerprint)
        for number in range(epochs):
            outcome = run_epoch(
                Epoch(number, epochs, one.seed), ledger, {}, context, StageTimer(world.device)
            )
            ledger = outcome.ledger
            n_forward += outcome.line["n_forward"]
            n_backward += outcome.line["n_backward"]
        ledger, n_looked = _ask(name, Epoch(epochs, epochs + 1, one.seed), ledger, context, last_layer)
        n_forward += n_looked
        n_backward += n_looked if name == "grand" and not last_layer else 0
        total = total + _answer(name, ledger, one.seed)
        label = ledger.extra.get("label")
        gradients.close()
    how = f"{job.name}, seed {job.seed}, {epochs} epochs, {repeats} times" + (
        ", last layer" if last_layer else ""
    )
    seconds = comm.broadcast(time.perf_counter() - begun)
    about = ScoreInfo(
        name, how, job.data.name, data.fingerprint, context.homes.n, seconds, n_forward, n_backward
    )
    write_scores(path, about, total / repeats, comm, label)
    return about


def _fitting(name: str, path: Path, epochs: int | None, repeats: int | None) -> tuple[int, int]:
    """Return epochs and repeats. Raises UserError if there is no such method, or it cannot be asked so, or the file cannot be there."""
    if name not in RECIPES:
        raise JobError(f"score {name}: no such scoring method; {nearest(name, RECIPES)}")
    epochs = RECIPES[name].epochs if epochs is None else epochs
    if name == "forgetting" and epochs < 2:
        raise JobError(
            f"score forgetting: epochs is {epochs}, but forgetting takes at least 2; give --epochs 20"
        )
    check_file(path, "--out")
    return epochs, RECIPES[name].repeats if repeats is None else repeats


class Asking(Everything):
    """Trains everything, and has forward passes tell what is scored by."""

    method: Literal["el2n", "grand"]

    @property
    def columns(self) -> dict[str, tuple]:
        return {
            name: FORWARD_COLUMNS[name]
            for name in ("label", "el2n" if self.method == "el2n" else "grad_norm")
        }


class Forgetting(Everything):
    """Trains everything and counts, from one epoch to the next, how often a sample goes from correct to wrong."""

    method: Literal["forgetting"]

    @property
    def columns(self) -> dict[str, tuple]:
        return {
            "label": FORWARD_COLUMNS["label"],
            "was_correct": (bool, False),
            "learned": (bool, False),
            "forgotten": (np.int32, 0),
        }

    def on_epoch_end(self, epoch: Epoch, ledger: Ledger) -> Mapping[str, np.ndarray]:
        return {
            "forgotten": ledger.extra["forgotten"] + (ledger.extra["was_correct"] & ~ledger.correct),
            "learned": ledger.extra["learned"] | ledger.correct,
            "was_correct": ledger.correct,
        }


class Drawing(Everything):
    """Asks nobody."""

    method: Literal["random"]


_METHODS = {"el2n": Asking, "grand": Asking, "forgetting": Forgetting, "random": Drawing}


def _ask(name: str, epoch: Epoch, ledger: Ledger, s: Context, last_layer: bool) -> tuple[Ledger, int]:
    """Pass every sample forward, without augmentation, where the method scores by what it is like at the end."""
    if name not in ("el2n", "grand"):
        return ledger, 0
    if name == "grand" and not last_layer:
        s.learner.forward_only = _exactly(s.learner)
    everyone = np.ones(len(ledger), bool)
    return forward_only(everyone, "eval", False, epoch, ledger, s), ledger.n_total


def _exactly(learner):
    """Return a look that notes the norm of each sample's gradient in all parameters instead of the last layer's."""
    plain = learner.forward_only

    def look_exactly(batch: Batch, mode: str) -> tuple[BatchStats, torch.Tensor]:
        seen, losses = plain(batch, mode)
        seen.columns["grad_norm"] = gradient_norms(
            learner.model, learner.criterion, batch.input, batch.target
        )
        return seen, losses

    return look_exactly


def _answer(name: str, ledger: Ledger, seed: int) -> np.ndarray:
    """Return this rank's scores, (S,) float64."""
    if name == "el2n":
        return ledger.extra["el2n"].astype(np.float64)
    if name == "grand":
        return ledger.extra["grad_norm"].astype(np.float64)
    if name == "forgetting":
        never = ledger.seen_epoch.max(initial=0) + 2.0  # more than anything that was learned can be forgotten
        return np.where(ledger.extra["learned"], ledger.extra["forgotten"], never)
    return Epoch(0, 1, seed).uniform(ledger.id, "random score")
