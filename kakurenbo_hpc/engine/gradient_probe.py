"""Gradient probe: how well gradients of parts of the data agree with that of all, at a run's checkpoint.

Source: Jiang et al. 2019, figure 5 (high-loss and random shares); Qin et al. 2024, figure 1 (of a plan).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config.job import Job
from ..core.batch import Batch
from ..core.plan import Epoch
from ..core.rng import key, uniform
from ..data.loader import Loader, plain_micro_batches
from ..distributed.comm import Comm
from ..distributed.world import World
from ..errors import RunDirectoryError
from ..rundir.atomic_io import write_whole
from ..rundir.checkpoint.manifest import load_facts
from ..rundir.checkpoint.retention import newest_valid
from ..selection.method import Method
from .context import Context
from .resume import init_state, restore
from .set_up import set_up

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


def probe_gradients(job: Job[Method], run: Path, n: int, comm: Comm) -> dict[str, Any]:
    """Compare gradients of n random samples' parts with the gradient of all n; write ``gradients.json``.

    Parts: the highest losses and random ones, by share; and what the method would train next, plain and with
    its weights. Without augmentation, in evaluation mode. Collective; one gradient a part is summed.

    Args:
        job: of the run.
        run: its directory.
        n: samples; all if there are fewer.
        comm: all ranks.

    Returns:
        What the file holds.

    Raises:
        RunDirectoryError: there is no checkpoint; on all ranks alike.
    """
    checkpoint = comm.on_rank_zero(lambda: newest_valid(run / "checkpoints"))
    if checkpoint is None:
        missing = RunDirectoryError(f"{run}: no checkpoint to take the network from; let the run write one")
        missing.on_all_ranks = True
        raise missing
    facts = comm.on_rank_zero(lambda: load_facts(checkpoint))
    data = job.data.model_copy(update={"placement": "shared"})
    context = set_up(job.model_copy(update={"data": data}), World.detect(comm), job.selection, directory=run)
    state = restore(checkpoint, facts, init_state(context), job, context)
    epoch = Epoch(state.epoch, max(job.training.epochs, state.epoch + 1), job.seed)
    plan = job.selection.plan(epoch, state.ledger, context.everyone)

    drawn = uniform(key(job.seed, "gradient probe"), state.ledger.id) < n / context.homes.n
    rows = np.flatnonzero(drawn)
    loss = _losses(rows + state.ledger.start, context)
    kept = plan.train[rows].astype(np.float64)
    weight = 1.0 if plan.weight is None else plan.weight[rows].astype(np.float64)
    parts = {("plan", 0.0): kept, ("weighted", 0.0): kept * weight, ("all", 1.0): np.ones(len(rows))}
    ids = rows + state.ledger.start
    for kind, order in (
        ("high_loss", context.everyone.percentile(np.nan_to_num(-loss), ids)),
        ("random", context.everyone.percentile(uniform(key(job.seed, "probe"), ids).astype(np.float32), ids)),
    ):
        parts |= {(kind, share): (order <= share).astype(np.float64) for share in SHARES}
    gradients = {part: _gradient(ids, factor, context) for part, factor in parts.items()}

    full = gradients["all", 1.0]
    found: dict[str, Any] = {"epoch": facts["epoch"], "n": int(comm.sum(np.array([len(rows)]))[0])}
    found["shares"] = list(SHARES)
    for kind in ("high_loss", "random"):
        of_kind = [gradients[kind, share] for share in SHARES]
        found[kind] = {
            "cosine": [_cosine(g, full) for g in of_kind],
            "signs": [float(np.mean(np.sign(g) == np.sign(full))) for g in of_kind],
        }
    found["plan"] = {
        "cosine": _cosine(gradients["plan", 0.0], full),
        "weighted_cosine": _cosine(gradients["weighted", 0.0], full),
    }
    comm.on_rank_zero(lambda: write_whole(run / "gradients.json", json.dumps(found, indent=1) + "\n"))
    return found


def _batches(ids: np.ndarray, context: Context) -> Iterator[Batch]:
    size = max(1, context.global_batch // context.world.size)
    source = Loader(context.data.train, 0, context.world.device)
    plain = plain_micro_batches(0, len(ids), size)
    return source([replace(each, id=ids[each.id]) for each in plain], epoch=0, augment=False)


def _losses(ids: np.ndarray, context: Context) -> np.ndarray:
    """Return the losses of these samples, (k,) float32."""
    parts = [context.learner.forward_only(batch)[1].float().cpu().numpy() for batch in _batches(ids, context)]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _gradient(ids: np.ndarray, factor: np.ndarray, context: Context) -> np.ndarray:
    """Return the gradient of the sum of factor x loss over the samples of all ranks, flat, float64."""
    learner, chosen = context.learner, np.flatnonzero(factor)
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    first = 0
    for batch in _batches(ids[chosen], context):
        _, losses = learner.forward_only(batch, keep_graph=True)
        part = torch.from_numpy(factor[chosen][first : first + len(losses)]).to(losses)
        gradients = torch.autograd.grad((part * losses).nansum(), parameters, allow_unused=True)
        for mine, gradient in zip(total, gradients, strict=True):
            mine += 0 if gradient is None else gradient
        first += len(losses)
    return context.world.comm.sum(torch.cat([t.flatten() for t in total]).double().cpu().numpy())


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))
