"""One rank's model and its training: steps, forward-only passes, evaluation, the state to save."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..config.job import Model
from ..config.training_options import Training
from ..core.batch import Batch, MicroBatch
from ..core.rng import key, one
from ..distributed.gradient_sync import GradientSync
from ..distributed.world import World
from ..errors import JobError
from ..rundir.timers import PartTimer
from .auxiliary import WithAuxiliary, all_logits
from .batch_stats import BatchStats, batch_stats
from .criterion import build_criterion, mean_over_valid, weighted_sum
from .finite_steps import FiniteSteps
from .gradient_norm import LastInput
from .mixing import build_mix
from .model import build_model
from .norms import average_statistics, float_buffers
from .optimizer import build_optimizer, load_optimizer_state
from .schedule import Schedule
from .segmentation import at_size, is_class
from .weight_average import WeightAverage

TEST_COLUMNS = {"probability": np.float32, "label": np.int64}  # of each validation sample, beside the rest
_N_FIRST = 4  # parameters of a network's first layers
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Model, optimizer, schedule and loss scaler of one rank.

    Parameters are the same on all ranks at every step. A run calls ``join`` once, then ``load_state_dict`` if
    it resumes. In each epoch it calls ``begin_epoch``, then ``step`` with every batch, ``finish_steps`` and
    ``average_statistics`` once, and ``evaluate``.

    Attributes:
        n_steps: optimizer steps since ``begin_epoch``; of an epoch that was resumed inside, since then.
    """

    def __init__(
        self,
        training: Training,
        model: Model,
        world: World,
        n_classes: int,
        shape: Sequence[int],
        seed: int,
        extra: Iterable[str],
        target_shape: Sequence[int] = (),
    ):
        """Build model, optimizer and criterion.

        Args:
            training: with warm-up and milestones in epochs.
            model: the network's name and options.
            world: this rank's place and device.
            n_classes: classes of the targets.
            shape: of one input, channels first.
            seed: the run's.
            extra: columns that forward passes note besides loss, correctness and confidence.
            target_shape: (H, W) of masks; () of class labels.

        Raises:
            JobError: the model, the optimizer or the criterion cannot be built as the job says.
        """
        self._training, self._world, self._seed, self._extra = training, world, seed, tuple(extra)
        self.model = build_model(model, n_classes, shape, seed, target_shape, world.device)
        if training.sync_batchnorm and world.device.type == "cpu":
            raise JobError(
                "training.sync_batchnorm is true, but it needs GPUs, and these ranks have none; set it to "
                "false"
            )
        if training.channels_last:
            nn.utils.convert_conv2d_weight_memory_format(self.model, torch.channels_last)
        self.optimizer = build_optimizer(training, self.model, training.peak_lr(world.size))
        self._averaged = (
            WeightAverage(self.model, training, training.batch(world.size)) if training.ema else None
        )
        self._schedule = Schedule(training, self.optimizer)
        self.lr = self._schedule.set(0.0)
        self.criterion = build_criterion(training, n_classes, world.device, target_shape)
        self._mix = build_mix(training, n_classes, target_shape)
        self._last_input = (
            _observe_last_input(self.model, target_shape) if "grad_norm" in self._extra else None
        )
        self.n_classes = n_classes
        self.has_masks = bool(target_shape)
        self.parts = PartTimer(world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=training.precision == "fp16")
        self._steps = FiniteSteps(self.optimizer, self.scaler, training.skipped_steps, world.device)
        self._epoch, self.n_steps = -1, 0

    def join(self, gradients: GradientSync, shape: Sequence[int], batch: int = 2) -> None:
        """Begin to average gradients with the other ranks. Collective; call it before any state is loaded.

        Args:
            gradients: averages them.
            shape: of one input.
            batch: inputs that a rank trains on at once; no more are in memory here.
        """
        self._gradients = gradients
        if self._training.compile:
            self.model.compile()
        self._parallel = gradients.wrap(self.model, self.optimizer, self._training.sync_batchnorm)
        if self._world.size > 1:
            # Their gradients are the last that a backward pass computes: what it takes from then on is the
            # exchange that it does not hide.
            for p in islice((p for p in self.model.parameters() if p.requires_grad), _N_FIRST):
                p.register_post_accumulate_grad_hook(lambda _: self.parts.mark())
        example = torch.zeros(max(1, min(2, batch)), *shape, device=self._world.device)
        gradients.stabilize_buckets(self._parallel, lambda: all_logits(self._output(self._parallel, example)))

    def begin_epoch(
        self, number: int, lr_scale: float, start: float | None = None, span: float = 1.0
    ) -> None:
        """Prepare for the steps of an epoch.

        Args:
            number: of the epoch, from 0.
            lr_scale: factor on the schedule's learning rate.
            start: where on the schedule the epoch begins, in epochs; ``number`` if not given.
            span: how much of the schedule it covers, in epochs.
        """
        self._steps.begin_epoch(number)
        self._epoch, self._lr_scale, self.n_steps = number, lr_scale, 0
        self._start, self._span = float(number if start is None else start), float(span)
        self.model.train()

    def step(self, batch: Batch) -> BatchStats:
        """Train on one local batch; the optimizer steps when the batch is the last of its step.

        The gradient is the mean of weight x loss over the entries that count in the global batch, whatever
        ranks and accumulated batches it is spread over. A sample whose loss is not finite adds nothing. A
        step whose gradient is not finite is skipped, and counted in ``n_skipped`` of this epoch. On a GPU
        nothing here waits for the device, if the optimizer is fused.

        Raises:
            TrainingError: on all ranks alike, after too many skipped steps in a row.
        """
        micro_batch = batch.micro_batch
        if micro_batch.begins:
            self._begin_step(micro_batch)
        with contextlib.nullcontext() if micro_batch.ends else self._gradients.hold(self._parallel):
            with self.parts("training_forward"):
                logits, losses, trained = self._forward(self._parallel, batch)
            with self.parts("backward"):
                self._backward(_counted_sum(micro_batch, trained), micro_batch)
        if micro_batch.ends:
            self.parts.since_mark("gradient_exchange")
            self._end_step(micro_batch.step)
        return self._stats(batch, logits, losses)

    def finish_steps(self) -> None:
        """Wait until the steps of the epoch are done and counted.

        Raises:
            TrainingError: on all ranks alike, after too many skipped steps in a row.
        """
        self._steps.finish()

    @property
    def n_skipped(self) -> int:
        """Steps of this epoch that were skipped. Waits for the device."""
        return self._steps.state()[0]

    @property
    def waits_in_steps(self) -> bool:
        """Whether every step waits for a GPU, to learn whether its gradient is finite."""
        return self._world.device.type == "cuda" and self._steps.waits

    def step_kept(
        self, kept: Sequence[tuple[torch.Tensor, np.ndarray]], micro_batch: MicroBatch, batch: Batch | None
    ) -> BatchStats | None:
        """Train on losses of earlier forward passes, whose graphs were kept, and perhaps on one more batch.

        Gradients are averaged after the backward pass, since not every backend tracks forward passes outside
        its wrapper.

        Args:
            kept: losses (k,) and weights (k,) of each pass.
            micro_batch: the whole step.
            batch: what is still to be passed forward.

        Returns:
            The statistics of ``batch``.
        """
        self._begin_step(micro_batch)
        stats, sums = None, [weighted_sum(losses, weight) for losses, weight in kept]
        if batch is not None:
            with self.parts("training_forward"):
                logits, losses, trained = self._forward(self.model, batch)
            sums.append(_counted_sum(batch.micro_batch, trained))
            stats = self._stats(batch, logits, losses)
        with self.parts("backward"):
            self._backward(reduce(torch.add, sums), micro_batch)
            with self.parts("gradient_exchange"):
                self._gradients.average(self.model)
        self._end_step(micro_batch.step)
        return stats

    def forward_only(
        self, batch: Batch, mode: str = "eval", precision: str = "same", keep_graph: bool = False
    ) -> tuple[BatchStats, torch.Tensor]:
        """Pass a batch forward on the model that is not wrapped: not collective.

        Args:
            batch: what to pass forward.
            mode: ``eval`` or ``train``, of the model.
            precision: of the pass; ``same`` as in training.
            keep_graph: keep the losses' graph for ``step_kept``.

        Returns:
            The statistics, and the losses (k,) to train on.
        """
        self.model.train(mode == "train")
        if mode == "train" and batch.micro_batch.begins:
            self._seed_dropout("look dropout", batch.micro_batch.step)
        with torch.set_grad_enabled(keep_graph):
            precision_here = None if precision == "same" else precision
            logits, losses, trained = self._forward(self.model, batch, precision_here)
        return self._stats(batch, logits, losses), trained

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (k, C) and losses (k,) in eval mode and float32, without gradient; not collective."""
        self.model.eval()
        with torch.no_grad():
            logits, losses, *_ = self._forward(self.model, batch, "fp32")
        return logits, losses

    def evaluate(self, batches: Iterable[Batch]) -> list[BatchStats]:
        """Return the statistics of validation batches.

        Losses are plain cross entropy, whatever the training criterion is. Columns also hold
        ``TEST_COLUMNS``; of masks, intersection and union, (k, C) each.
        """
        network = self._evaluated_model().eval()
        stats = []
        with torch.no_grad():
            for batch in batches:
                logits, *_ = self._forward(network, batch)
                losses = F.cross_entropy(logits.float(), batch.target, reduction="none")
                losses = mean_over_valid(losses, is_class(batch.target, self.n_classes))
                extra = (*TEST_COLUMNS, "intersection", "union")
                stats.append(batch_stats(batch.micro_batch, logits, batch.target, losses, extra))
        return stats

    def average_statistics(self) -> None:
        """Make BatchNorm's running statistics the mean over ranks. Collective."""
        average_statistics(self.model, self._world.comm)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes, the same on all ranks."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "lr": self.lr,
            "epoch": self._epoch,
            "skipped": self._steps.state(),
            **({} if self._averaged is None else {"ema": self._averaged.state_dict()}),
        }

    def example_state(self) -> dict[str, Any]:
        """Return a state of the size that it has after the first step, when the optimizer has buffers.

        A copy of the model on the host takes a step of zero gradients.
        """
        model = copy.deepcopy(self.model).cpu()
        optimizer = build_optimizer(self._training, model, self.lr)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        return {**self.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.lr, self._epoch = state["lr"], state["epoch"]
        self._steps.load_state(state["skipped"], self._epoch)
        if self._averaged is not None and "ema" in state:
            self._averaged.load_state_dict(state["ema"])

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return BatchNorm's running statistics, which ranks share only between epochs."""
        return float_buffers(self.model)

    def load_buffers(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``buffers`` returned."""
        for name, buffer in self.buffers().items():
            buffer.copy_(buffers[name])

    def _begin_step(self, micro_batch: MicroBatch) -> None:
        self.model.train()
        self.lr = self._schedule.set(self._start + self._span * micro_batch.progress, self._lr_scale)
        self._seed_dropout("train dropout", micro_batch.step)

    def _backward(self, loss_sum: torch.Tensor, micro_batch: MicroBatch) -> None:
        # Gradients are averaged over ranks; the mean is to be over the entries of the global batch.
        self.scaler.scale(loss_sum * (self._world.size / micro_batch.n_global)).backward()

    def _end_step(self, step: int) -> None:
        with self.parts("backward"), self.parts("gradient_exchange"):
            self._gradients.finish()
        self._steps.step(self.model, self._training.clip_norm)
        self.n_steps += 1
        if self._averaged is not None:
            self._averaged.update(self.model, self._epoch, step)

    def _evaluated_model(self) -> nn.Module:
        """Return the model, or the average of its weights."""
        return self.model if self._averaged is None else self._averaged.network(self.model)

    def _forward(
        self, network: nn.Module, batch: Batch, precision: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits, the float32 losses (k,) of the training criterion, and those to train on.

        The latter count an auxiliary head; the former, which are the ledger's, never do. A loss is NaN where
        the input is not finite. Such an input passes through the network as zeros, since it would turn every
        weight's gradient into NaN.
        """
        broken = ~torch.isfinite(batch.input).flatten(1).all(dim=1)
        per_sample = broken.view(-1, *[1] * (batch.input.dim() - 1))
        inputs, targets = batch.input.masked_fill(per_sample, 0), batch.target
        if self._mix and network.training:
            inputs, targets = self._mix(inputs, targets)
        output = self._output(network, inputs, precision)
        logits = output.logits if isinstance(output, WithAuxiliary) else output
        if self.has_masks:
            logits = at_size(logits, targets)
        losses = self.criterion(logits, targets).masked_fill(broken, torch.nan)
        if not isinstance(output, WithAuxiliary):
            return logits, losses, losses
        return logits, losses, losses + output.weight * self.criterion(output.auxiliary, targets)

    def _output(
        self, network: nn.Module, inputs: torch.Tensor, precision: str | None = None
    ) -> torch.Tensor | WithAuxiliary:
        precision = precision or self._training.precision
        if self._training.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self._world.device.type, dtype=_PRECISIONS.get(precision), enabled=precision != "fp32"
        ):
            return network(inputs)

    def _stats(self, batch: Batch, logits: torch.Tensor, losses: torch.Tensor) -> BatchStats:
        return batch_stats(
            batch.micro_batch,
            logits,
            batch.target,
            losses,
            self._extra,
            self._last_input,
            self._training.correct_iou,
        )

    def _seed_dropout(self, purpose: str, step: int) -> None:
        stream = key(self._seed, purpose, self._epoch)
        torch.manual_seed(one(stream, step * self._world.size + self._world.rank))


def _counted_sum(micro_batch: MicroBatch, losses: torch.Tensor) -> torch.Tensor:
    """Return the sum of weight x loss; 0 for a filler."""
    return weighted_sum(losses, micro_batch.weight * np.float32(micro_batch.counts))


def _observe_last_input(model: nn.Module, target_shape: Sequence[int]) -> LastInput:
    if target_shape:
        raise JobError(
            "selection asks for grad_norm, which is known for class labels, but the data has masks; choose "
            "another score"
        )
    return LastInput(model)
