"""Scoring runs for static pruning: train briefly, score every sample, write a score file.

- el2n: mean over several initialisations of ||p - onehot(y)||_2 after some epochs (Paul et al. 2021).
- grand: likewise, norm of the loss gradient in all parameters, or in the last layer's (Paul et al. 2021).
- forgetting: how often a sample went from correct to wrong during training; samples that were never learned
  count as most forgotten (Toneva et al. 2019).
- random: a uniform draw.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ..config.job import Job
from ..core.batch import Batch
from ..core.ledger import Ledger
from ..core.plan import Epoch
from ..core.rng import Stream
from ..distributed.comm import Comm
from ..distributed.gradient_sync import open_gradient_sync
from ..distributed.world import World
from ..errors import JobError, nearest
from ..rundir.path_checks import check_file
from ..rundir.timers import StageTimer
from ..selection.method import FORWARD_COLUMNS, init_ledger
from ..selection.methods.everything import Everything
from ..selection.score_file import ScoreInfo, write_scores
from ..training.batch_stats import BatchStats
from ..training.gradient_norm import gradient_norms
from ..training.learner import Learner
from .context import Context
from .epoch import run_epoch
from .loops import forward_pass
from .set_up import begin_with_weights, set_up


@dataclass(frozen=True)
class Recipe:
    """Epochs of training before scoring, and repeats with other seeds, as in the method's paper."""

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
    """Score every training sample of the job's data and write the score file.

    Args:
        name: the scoring method.
        job: gives data, model and training; its selection is not used.
        path: the score file.
        comm: all ranks.
        epochs: of the recipe if not given.
        repeats: of the recipe if not given.
        last_layer: for grand, take the last layer's gradient, which is cheaper for large networks.

    Returns:
        What the file says of how the scores came about and what they cost.

    Raises:
        UserError: on all ranks alike.
    """
    n_epochs, n_repeats = comm.on_rank_zero(lambda: _check_arguments(name, path, epochs, repeats))
    begin, world = time.perf_counter(), World.detect(comm)
    # The job's first epochs, as in the papers; the schedule of a longer scoring run is as long as that run.
    training = job.training if n_epochs <= job.training.epochs else job.training.of_epochs(n_epochs)
    data_options = job.data.model_copy(update={"placement": "shared"})  # a few passes do not pay for staging
    label, n_forward, n_backward = None, 0, 0
    scores: list[np.ndarray] = []
    for repeat in range(n_repeats):
        repeat_job = job.model_copy(
            update={"seed": job.seed + repeat, "data": data_options, "training": training}
        )
        method = _METHODS[name](method=name)
        context = set_up(repeat_job, world, method)
        gradients = open_gradient_sync(repeat_job.world, repeat_job.training.accumulate, world)
        begin_with_weights(repeat_job, context)
        data = context.data
        context.learner.join(gradients, data.shape)
        ledger = init_ledger(method, context.homes, comm, data.fingerprint)
        for number in range(n_epochs):
            result = run_epoch(
                Epoch(number, n_epochs, repeat_job.seed), ledger, {}, context, StageTimer(world.device)
            )
            ledger = result.ledger
            n_forward += result.metrics["n_forward"]
            n_backward += result.metrics["n_backward"]
        final = Epoch(n_epochs, n_epochs + 1, repeat_job.seed)
        ledger, n_scored = _final_pass(name, final, ledger, context, last_layer)
        n_forward += n_scored
        n_backward += n_scored if name == "grand" and not last_layer else 0
        scores.append(_scores_in(name, ledger, final.rng.of_run()))
        label = ledger.extra.get("label")
        gradients.close()
    how = f"{job.name}, seed {job.seed}, {n_epochs} epochs, {n_repeats} times" + (
        ", last layer" if last_layer else ""
    )
    seconds = comm.broadcast(time.perf_counter() - begin)
    info = ScoreInfo(
        name, how, job.data.name, data.fingerprint, context.homes.n, seconds, n_forward, n_backward
    )
    write_scores(path, info, np.asarray(sum(scores)) / n_repeats, comm, label)
    return info


def _check_arguments(name: str, path: Path, epochs: int | None, repeats: int | None) -> tuple[int, int]:
    """Return epochs and repeats.

    Raises:
        UserError: there is no such method, it needs more epochs, or the file cannot be at this path.
    """
    if name not in RECIPES:
        raise JobError(f"score {name}: no such scoring method; {nearest(name, RECIPES)}")
    epochs = RECIPES[name].epochs if epochs is None else epochs
    if name == "forgetting" and epochs < 2:
        raise JobError(
            f"score forgetting: epochs is {epochs}, but forgetting takes at least 2; give --epochs 20"
        )
    check_file(path, "--out")
    return epochs, RECIPES[name].repeats if repeats is None else repeats


class NormScore(Everything):
    """Trains everything; el2n and grand are scored by a forward pass at the end."""

    method: Literal["el2n", "grand"]

    @property
    def columns(self) -> dict[str, tuple]:
        """Labels, and the norm that is the score."""
        names = ("label", "el2n" if self.method == "el2n" else "grad_norm")
        return {name: FORWARD_COLUMNS[name] for name in names}


class Forgetting(Everything):
    """Trains everything and counts how often a sample goes from correct to wrong between epochs."""

    method: Literal["forgetting"]

    @property
    def columns(self) -> dict[str, tuple]:
        """Labels, and the counts."""
        return {
            "label": FORWARD_COLUMNS["label"],
            "was_correct": (bool, False),
            "learned": (bool, False),
            "forgotten": (np.int32, 0),
        }

    def update(
        self, epoch: Epoch, ledger: Ledger, after: Literal["scoring", "epoch"]
    ) -> Mapping[str, np.ndarray]:
        """Count what this epoch forgot."""
        return {
            "forgotten": ledger.extra["forgotten"] + (ledger.extra["was_correct"] & ~ledger.correct),
            "learned": ledger.extra["learned"] | ledger.correct,
            "was_correct": ledger.correct,
        }


class RandomScore(Everything):
    """Trains everything; scores are draws."""

    method: Literal["random"]


_METHODS: dict[str, type[Everything]] = {
    "el2n": NormScore,
    "grand": NormScore,
    "forgetting": Forgetting,
    "random": RandomScore,
}


def _final_pass(
    name: str, epoch: Epoch, ledger: Ledger, context: Context, last_layer: bool
) -> tuple[Ledger, int]:
    """Pass every sample forward without augmentation, where the score is a norm at the end of training.

    Returns:
        The ledger with that norm, and the number of samples passed.
    """
    if name not in ("el2n", "grand"):
        return ledger, 0
    exact = name == "grand" and not last_layer
    forward = partial(_forward_with_gradient_norms, context.learner) if exact else None
    rows = np.ones(len(ledger), bool)
    return forward_pass(rows, "eval", False, epoch, ledger, context, forward), ledger.n_total


def _forward_with_gradient_norms(learner: Learner, batch: Batch, mode: str) -> BatchStats:
    """Pass a batch forward; grad_norm is that of the gradient in all parameters, not in the last layer."""
    batch_stats, _ = learner.forward_only(batch, mode)
    norms = gradient_norms(learner.model, learner.criterion, batch.input, batch.target)
    return replace(batch_stats, columns={**batch_stats.columns, "grad_norm": norms})


def _scores_in(name: str, ledger: Ledger, rng: Stream) -> np.ndarray:
    """Return this rank's scores, (S,) float64."""
    if name == "el2n":
        return ledger.extra["el2n"].astype(np.float64)
    if name == "grand":
        return ledger.extra["grad_norm"].astype(np.float64)
    if name == "forgetting":
        never = ledger.seen_epoch.max(initial=0) + 2.0  # more often than a learned sample can be forgotten
        return np.where(ledger.extra["learned"], ledger.extra["forgotten"], never)
    return rng.uniform(ledger.id, "random score")
