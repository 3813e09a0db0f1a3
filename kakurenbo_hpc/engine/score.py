"""Scoring runs: train briefly, judge every sample, write a score file."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from ..config.job import Job
from ..core.ledger import Ledger
from ..core.plan import Epoch
from ..distributed.comm import Comm
from ..distributed.gradient_sync import open_gradient_sync
from ..distributed.world import World
from ..rundir.path_checks import check_file
from ..rundir.timers import StageTimer
from ..selection.method import init_ledger
from ..selection.score_file import ScoreInfo, write_scores
from ..selection.subsets.recipe import Recipe
from ..selection.subsets.scoring import FromOutputs, FromTraining, Scores, ScoringMethod
from ..selection.subsets.vectors import FromVectors
from ..training.outputs import OutputReader
from .context import Context
from .epoch import run_epoch
from .scoring_pass import pass_blocks, send_home
from .set_up import begin_with_weights, set_up
from .vector_pass import VectorPass


@dataclass
class Cost:
    """Samples passed so far, over all ranks."""

    n_forward: int = 0
    n_backward: int = 0

    def add(self, n_forward: int, n_backward: int = 0) -> None:
        """Count passes."""
        self.n_forward += n_forward
        self.n_backward += n_backward


def score(recipe: Recipe, job: Job, path: Path, comm: Comm) -> ScoreInfo:
    """Score every training sample of the job's data and write the score file.

    Args:
        recipe: the scoring method, epochs and repeats.
        job: gives data, model and training; its selection is not used.
        path: the score file.
        comm: all ranks.

    Returns:
        What the file says of how the scores came about and what they cost.

    Raises:
        UserError: on all ranks alike.
    """
    comm.on_rank_zero(lambda: check_file(path, "--out"))
    begin, world, cost = time.perf_counter(), World.detect(comm), Cost()
    # The job's first epochs, as in the papers; the schedule of a longer scoring run is as long as that run.
    training = job.training
    if recipe.epochs > training.epochs:
        training = training.of_epochs(recipe.epochs)
    data_options = job.data.model_copy(update={"placement": "shared"})  # a few passes do not pay for staging
    found: list[Scores] = []
    for repeat in range(recipe.repeats):
        seeded = job.model_copy(
            update={"seed": job.seed + repeat, "data": data_options, "training": training}
        )
        context = set_up(seeded, world, recipe.method)
        scores, label = _run_once(recipe, seeded, context, cost)
        found.append(scores)
    last = found[-1]
    mean = replace(last, score=np.asarray(sum(one.score for one in found)) / len(found))
    info = ScoreInfo(
        method=recipe.method.method,
        how=_describe(recipe, job),
        data=job.data.name,
        fingerprint=context.data.fingerprint,
        n=context.homes.n,
        seconds=comm.broadcast(time.perf_counter() - begin),
        n_forward=cost.n_forward,
        n_backward=cost.n_backward,
        places=recipe.method.places,
        fraction=-1.0 if recipe.method.nests else getattr(recipe.method, "fraction", -1.0),
        weighted=recipe.method.weighted,
        n_filled=-1 if last.filled is None else context.everyone.count(last.filled)[0],
    )
    write_scores(path, info, mean.score, comm, label, mean.place, mean.weight)
    return info


def _describe(recipe: Recipe, job: Job) -> str:
    """Return one line that says it exactly enough to repeat it."""
    options = recipe.method.model_dump(mode="json", exclude={"method"})
    said = [f"{name} {value}" for name, value in options.items() if value is not None]
    return ", ".join([f"{job.name}, seed {job.seed}, {recipe.epochs} epochs, {recipe.repeats} times", *said])


def _run_once(recipe: Recipe, job: Job, context: Context, cost: Cost) -> tuple[Scores, np.ndarray | None]:
    """Train and score with one seed; return the scores and labels of this rank's rows."""
    method, world, data = cast(ScoringMethod, context.method), context.world, context.data
    gradients = open_gradient_sync(job.world, job.training.accumulate, world)
    begin_with_weights(job, context)
    context.learner.join(gradients, data.shape)
    try:
        vector_pass = VectorPass(method, context) if isinstance(method, FromVectors) else None
        ledger = init_ledger(method, context.homes, world.comm, data.fingerprint)
        best: tuple[float, tuple[Scores, np.ndarray]] | None = None
        for number in range(recipe.epochs):
            epoch = Epoch(number, recipe.epochs, job.seed)
            result = run_epoch(epoch, ledger, {}, context, StageTimer(world.device))
            ledger = result.ledger
            cost.add(result.metrics["n_forward"], result.metrics["n_backward"])
            if isinstance(method, FromOutputs) and method.lowest_epoch:
                one = score_by_outputs(method, epoch, context, cost)
                mean = context.everyone.mean(one[0].score.astype(np.float32)).value
                if best is None or mean < best[0]:
                    best = mean, one
        final = Epoch(recipe.epochs, recipe.epochs + 1, job.seed)
        if best is not None:
            return best[1]
        if vector_pass is not None:
            cost.add(vector_pass.n_passes)
            return vector_pass.choose(job.seed)
        if isinstance(method, FromOutputs):
            return score_by_outputs(method, final, context, cost)
        return _score_by_training(cast(FromTraining, method), final, ledger, context)
    finally:
        gradients.close()


def _score_by_training(
    method: FromTraining, epoch: Epoch, ledger: Ledger, context: Context
) -> tuple[Scores, np.ndarray | None]:
    return method.of_training(epoch, ledger, context.everyone), ledger.extra.get("label")


def score_by_outputs(
    method: FromOutputs, epoch: Epoch, context: Context, cost: Cost
) -> tuple[Scores, np.ndarray]:
    """Pass all samples forward in blocks of ids, and judge each by its outputs."""
    comm, homes = context.world.comm, context.homes
    reader = comm.run_or_raise_together(
        lambda: OutputReader(context.learner, method.outputs, context.data.shape, context.world.device)
    )
    ids = [np.arange(at, min(at + method.block, homes.n)) for at in range(0, homes.n, method.block)]
    blocks = [block[method.is_scored(epoch, block)] for block in ids]
    n_passed = sum(map(len, blocks))
    cost.add(n_passed, n_passed * method.backward)
    columns: dict[str, list] = {"id": [np.zeros(0, np.int64)], "label": [], "score": []}
    for block, label, outputs in pass_blocks([block for block in blocks if len(block)], reader, context):
        columns["id"].append(block)
        columns["label"].append(label.astype(np.int32))
        columns["score"].append(np.asarray(method.of_outputs(outputs, label), np.float64))
    columns["label"].append(np.zeros(0, np.int32))
    columns["score"].append(np.zeros(0))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    rows = send_home(whole.pop("id"), whole, homes, comm)
    start, stop = homes.rows(comm.rank)
    scores, label = np.full(stop - start, np.nan), np.full(stop - start, -1, np.int32)
    scores[rows["id"] - start], label[rows["id"] - start] = rows["score"], rows["label"]
    known = context.data.train.labels()  # of samples that are not scored, too
    if known is not None:
        label[:] = known[start:stop]
    return Scores(scores), label
