"""One network that learns: a step on a batch, a look without learning, an average of BatchNorm statistics."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..config.job import Model, Training
from ..core.batch import Batch, MicroBatch
from ..core.rng import key, one
from ..core.torchvision_compat import transforms
from ..distributed.gradient_sync import GradientSync
from ..distributed.world import World
from ..errors import JobError, TrainingError
from ..rundir.timers import PartTimer
from .batch_stats import BatchStats, batch_stats
from .criterion import build_criterion, by_sample, weighted_sum
from .gradient_norm import LastInput
from .model import build_model
from .optimizer import Schedule, build_optimizer

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Model, optimizer, schedule and loss scaler of one rank; parameters are the same on all ranks at every step.

    Raises JobError, before anything is trained, for what the job asks of timm or torchvision in vain.
    """

    def __init__(
        self,
        training: Training,
        model: Model,
        world: World,
        n_classes: int,
        shape: Sequence[int],
        seed: int,
        extra: Sequence[str],
        target_shape: Sequence[int] = (),
    ):
        self._training, self._world, self._seed, self._extra = training, world, seed, tuple(extra)
        self.model = build_model(model, n_classes, shape, seed, target_shape, world.device)
        if training.sync_batchnorm and world.device.type == "cpu":
            raise JobError(
                "training.sync_batchnorm is true, but these ranks have no GPU, where alone it works; set it to false"
            )
        self.optimizer = build_optimizer(training, self.model, training.peak_lr(world.size))
        # Statistics of BatchNorm are the model's own: the average follows its weights alone.
        self._averaged = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(training.ema))
            if training.ema
            else None
        )
        self._schedule = Schedule(training, self.optimizer)
        self.lr = self._schedule.set(0.0)
        self.criterion = build_criterion(training, n_classes, world.device, target_shape)
        self._mix = _mixing(training, n_classes, target_shape)
        self._last_input = _last_input(self.model, target_shape) if "grad_norm" in self._extra else None
        self.n_classes = n_classes
        self.has_masks = bool(target_shape)
        self.parts = PartTimer(world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=training.precision == "fp16")
        self._epoch, self.n_skipped, self._skipped_in_a_row = -1, 0, 0

    def join(self, gradients: GradientSync, shape: Sequence[int], batch: int = 2) -> None:
        """Begin to average gradients with the other ranks; call before any state is restored.

        shape: of one input. batch: how many inputs a rank trains on at once; no more are in memory here.
        """
        self._gradients = gradients
        self._parallel = gradients.wrap(self.model, self.optimizer, self._training.sync_batchnorm)
        example = torch.zeros(max(1, min(2, batch)), *shape, device=self._world.device)
        gradients.settle(self._parallel, lambda: self._logits(self._parallel, example))

    def begin_epoch(
        self, number: int, lr_scale: float, start: float | None = None, span: float = 1.0
    ) -> None:
        """Prepare for the steps of epoch ``number`` at lr_scale times the schedule's rate.

        start, span: where on the schedule the epoch begins and how much of it it covers, in epochs; its own if not given.
        """
        self.n_skipped *= number == self._epoch  # unless it is taken up in its middle
        self._epoch, self._lr_scale = number, lr_scale
        self._start, self._span = float(number if start is None else start), float(span)
        self.model.train()

    def step(self, batch: Batch) -> BatchStats:
        """Learn from one local batch; the optimizer steps when the batch ends its step.

        The gradient is the mean of weight x loss over the entries that count in the global batch, whatever ranks and
        accumulated batches it is spread over. A sample whose loss is not finite adds nothing; a step whose gradient is not
        is skipped, and counted in ``n_skipped`` of this epoch. Raises TrainingError, on all ranks alike, after too many of these.
        """
        micro_batch = batch.micro_batch
        if micro_batch.begins:
            self._set_off(micro_batch)
        with contextlib.nullcontext() if micro_batch.ends else self._gradients.hold(self._parallel):
            with self.parts("training_forward"):
                logits, losses = self._forward(self._parallel, batch)
            weight = micro_batch.weight * np.float32(micro_batch.counts)
            with self.parts("backward"):
                # What is averaged is divided by the number of ranks; the mean is over the global batch.
                self.scaler.scale(
                    weighted_sum(losses, weight) * (self._world.size / micro_batch.n_global)
                ).backward()
        if micro_batch.ends:
            self._update()
        return self._seen(batch, logits, losses)

    def step_kept(
        self, kept: Sequence[tuple[torch.Tensor, np.ndarray]], micro_batch: MicroBatch, batch: Batch | None
    ) -> BatchStats | None:
        """Learn from losses whose graphs are kept, (k,) each with (k,) weights, and from one more batch if there is one.

        turn: of the whole step. The gradients are averaged after the backward pass: not every way of averaging knows of
        forward passes outside its own module.
        """
        self._set_off(micro_batch)
        seen, terms = None, [weighted_sum(losses, weight) for losses, weight in kept]
        if batch is not None:
            with self.parts("training_forward"):
                logits, losses = self._forward(self.model, batch)
            terms.append(
                weighted_sum(losses, batch.micro_batch.weight * np.float32(batch.micro_batch.counts))
            )
            seen = self._seen(batch, logits, losses)
        with self.parts("backward"):
            self.scaler.scale(sum(terms) * (self._world.size / micro_batch.n_global)).backward()
            self._gradients.average(self.model)
        self._update()
        return seen

    def forward_only(
        self, batch: Batch, mode: str = "eval", precision: str = "same", keep_graph: bool = False
    ) -> tuple[BatchStats, torch.Tensor]:
        """Pass a batch forward without learning, on the model that is not wrapped: ranks need not look together.

        Returns what is seen, and the (k,) losses, with their graph where it is to be kept.
        """
        self.model.train(mode == "train")
        if mode == "train" and batch.micro_batch.begins:
            self._seed_dropout("look", batch.micro_batch.step)
        with torch.set_grad_enabled(keep_graph), self.parts("selection_forward"):
            logits, losses = self._forward(self.model, batch, None if precision == "same" else precision)
        return self._seen(batch, logits, losses), losses

    def evaluate(self, batches: Iterable[Batch]) -> list[BatchStats]:
        """Look at every batch of a validation set; losses are plain cross entropy, whatever the training criterion is.

        Of masks, columns also hold intersection and union, (k, C).
        """
        network = (self.model if self._averaged is None else self._average()).eval()
        seen = []
        with torch.no_grad():
            for batch in batches:
                logits, _ = self._forward(network, batch)
                losses = by_sample(F.cross_entropy(logits.float(), batch.target, reduction="none"))
                seen.append(
                    batch_stats(batch.micro_batch, logits, batch.target, losses, ("intersection", "union"))
                )
        return seen

    def average_statistics(self) -> None:
        """Make BatchNorm's running statistics the mean over ranks; one allreduce."""
        statistics = [b for b in self.model.buffers() if b.is_floating_point()]
        if self._world.size == 1 or not statistics:
            return
        flat = torch.cat([b.flatten().double() for b in statistics]).cpu().numpy()
        mean = torch.from_numpy(self._world.comm.sum(flat) / self._world.size)
        for buffer, part in zip(statistics, mean.split([b.numel() for b in statistics]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "lr": self.lr,
            "epoch": self._epoch,
            "skipped": (self.n_skipped, self._skipped_in_a_row),
            **({} if self._averaged is None else {"ema": self._averaged.state_dict()}),
        }

    def rehearsed_state(self) -> dict:
        """Return a state with all that it holds after the first step, when the optimizer has its own: a model on the host took one."""
        model = copy.deepcopy(self.model).cpu()
        optimizer = build_optimizer(self._training, model, self.lr)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        return {**self.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.lr, self._epoch = state["lr"], state["epoch"]
        self.n_skipped, self._skipped_in_a_row = state["skipped"]
        if self._averaged is not None and "ema" in state:
            self._averaged.load_state_dict(state["ema"])

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return the model's buffers of floating point, BatchNorm's statistics: in the middle of an epoch, this rank's own."""
        return {name: buffer for name, buffer in self.model.named_buffers() if buffer.is_floating_point()}

    def load_buffers(self, buffers: Mapping[str, torch.Tensor]) -> None:
        for name, buffer in self.buffers().items():
            buffer.copy_(buffers[name])

    def _seen(self, batch: Batch, logits: torch.Tensor, losses: torch.Tensor) -> BatchStats:
        return batch_stats(
            batch.micro_batch,
            logits,
            batch.target,
            losses,
            self._extra,
            self._last_input,
            self._training.correct_iou,
        )

    def _set_off(self, micro_batch: MicroBatch) -> None:
        self.model.train()
        self.lr = self._schedule.set(self._start + self._span * micro_batch.progress, self._lr_scale)
        self._seed_dropout("train", micro_batch.step)

    def _update(self) -> None:
        with self.parts("backward"):
            self._gradients.finish()
        self.scaler.unscale_(self.optimizer)
        if self._is_finite():
            self.scaler.step(self.optimizer)
            self._skipped_in_a_row = 0
        else:
            self._skip()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)

    def _average(self) -> nn.Module:
        """Return the average of the weights, with the model's buffers as they are now."""
        for name, buffer in self._averaged.module.named_buffers():
            buffer.copy_(self.model.get_buffer(name))
        return self._averaged.module

    def _is_finite(self) -> bool:
        """Return whether the gradient is finite, the same on all ranks. Waits for the device: what it spoils cannot be taken back."""
        largest = torch._foreach_norm(
            [p.grad for p in self.model.parameters() if p.grad is not None], math.inf
        )
        return bool(torch.isfinite(torch.stack(largest)).all())

    def _skip(self) -> None:
        self.n_skipped += 1
        if self.scaler.get_scale() < 1 or not self.scaler.is_enabled():
            self._skipped_in_a_row += 1
        if self._skipped_in_a_row == self._training.skipped_steps:
            raise TrainingError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row, the last of them in epoch {self._epoch + 1}; "
                "checkpoints, if there are any, are from before: lower training.lr, or choose another precision"
            )

    def _forward(
        self, network: nn.Module, batch: Batch, precision: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and the (k,) float32 losses of the training criterion; NaN where the input is not finite.

        Such an input goes through the network as zeros: as it is, it would turn every weight's gradient into NaN.
        """
        broken = ~torch.isfinite(batch.input).flatten(1).all(dim=1)
        input, target = (
            torch.where(broken.view(-1, *[1] * (batch.input.dim() - 1)), 0, batch.input),
            batch.target,
        )
        if self._mix and network.training:
            input, target = self._mix(input, target)
        logits = self._logits(network, input, precision)
        return logits, self.criterion(logits, target).masked_fill(broken, torch.nan)

    def _logits(self, network: nn.Module, input: torch.Tensor, precision: str | None = None) -> torch.Tensor:
        precision = precision or self._training.precision
        with torch.autocast(
            self._world.device.type, dtype=_PRECISIONS.get(precision), enabled=precision != "fp32"
        ):
            return network(input)

    def _seed_dropout(self, purpose: str, step: int) -> None:
        torch.manual_seed(
            one(
                key(self._seed, f"{purpose} dropout", self._epoch), step * self._world.size + self._world.rank
            )
        )


def _last_input(model: nn.Module, target_shape: Sequence[int]) -> LastInput:
    if target_shape:
        raise JobError(
            "selection asks for grad_norm, which is known for class labels, but the data has masks; choose another score"
        )
    return LastInput(model)


def _mixing(training: Training, n_classes: int, target_shape: Sequence[int]) -> nn.Module | None:
    """Return torchvision's MixUp or CutMix, which turns (k,) targets into soft ones; its draws follow the step's seed."""
    if not (training.mixup or training.cutmix):
        return None
    if target_shape:
        raise JobError(
            "training.mixup and training.cutmix are for class labels, but the data has masks; set both to 0"
        )
    mix = transforms().CutMix if training.cutmix else transforms().MixUp
    return mix(alpha=training.mixup or training.cutmix, num_classes=n_classes)
