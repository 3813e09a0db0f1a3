"""`Hiding`: sample selection for a training loop of one's own."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence, Sized
from typing import Any
from weakref import WeakSet

import numpy as np
import torch

from ..core.ledger import Homes
from ..distributed.comm import Comm
from ..errors import DataError, LoopError
from ..selection.global_stats import GlobalStats
from ..selection.method import Method
from ..training.batch_stats import BatchStats
from ..training.criterion import weighted_sum
from .arguments import add_arguments, read_arguments
from .find_comm import find_comm
from .loaders import BatchesWithIds, check_loader, rebuild_loader
from .outputs import ForwardPass, OutputReader
from .passes import Passes
from .samplers import BatchSampler, Pass, Sampler
from .scaled_lr import find_hooked, scale_steps
from .state import epoch_state, load_epoch_state, pass_state, resume_pass
from .usage_checks import (
    check_division,
    check_given,
    check_ids,
    check_losses,
    check_sizes,
    n_samples,
    resolve_method,
)


class Hiding:
    """Chooses, each epoch and over all ranks together, what a training loop trains on.

    Every rank makes one with the same arguments and goes through the same epochs. An epoch has up to three
    passes over one loader: ``whole`` before the plan for methods that need it, ``visible`` to train,
    ``hidden`` to refresh the samples that were not trained. Where the loop is somebody else's,
    ``begin_whole``, ``begin_visible`` and ``begin_hidden`` begin the same passes; the loader reads the pass
    that was begun last.

    Args:
        method: name of a method, or a method; one that chooses batch by batch needs ``choose`` in the loop.
        data: the training set, or its length; ids are 0 to n - 1, as in a map-style data set.
        epochs: of the whole training.
        batch_size: samples of one rank's largest batch.
        accumulate: batches of a rank per optimizer step.
        loop_divides: whether the loop, or the framework that runs it, divides the loss of each batch by
            ``accumulate``; otherwise ``observe`` does.
        warmup_epochs: of the loop's learning-rate schedule; the rate is scaled after them.
        seed: of order and draws.
        fingerprint: of the data set, for methods that read score files.
        comm: all ranks; by default those of torch.distributed if it is initialised, else the launcher's.
        **options: of the method, if it is given by its name: ``max_fraction=0.3``.

    Attributes:
        method: the method with its options.
        n: samples of the data set.
        epochs: of the whole training.
        n_ranks: number of ranks.
        accumulate: batches of a rank per optimizer step.
        loop_divides: whether the loop divides the loss by ``accumulate``.
        metrics: of the current epoch, by the names of ``metrics.jsonl``.
        batch_sampler: for ``DataLoader(batch_sampler=...)``.
        sampler: for loaders that make batches of ``batch_size`` themselves.

    Raises:
        UserError: on all ranks alike.
    """

    def __init__(
        self,
        method: str | Method,
        data: Sized | int,
        *,
        epochs: int,
        batch_size: int,
        accumulate: int = 1,
        loop_divides: bool = False,
        warmup_epochs: float = 0,
        seed: int = 0,
        fingerprint: str = "",
        comm: Comm | None = None,
        **options: Any,
    ):
        self._comm = comm or find_comm()
        everyone = GlobalStats(self._comm)
        sizes = {"epochs": epochs, "batch_size": batch_size, "accumulate": accumulate}
        self._comm.run_or_raise_together(lambda: check_sizes(warmup_epochs, **sizes))
        n = self._comm.run_or_raise_together(lambda: n_samples(data))
        everyone.agree(n, "the number of samples")
        self.method = self._comm.run_or_raise_together(lambda: resolve_method(method, options, epochs))
        everyone.agree(
            (self.method.model_dump(), epochs, batch_size, accumulate, loop_divides, seed),
            "the options of hiding",
        )
        if n < self._comm.size:
            raise DataError(
                f"hiding: data has {n} samples for {self._comm.size} ranks; use at most one rank a sample"
            )
        self.n, self.epochs = n, int(epochs)
        self.n_ranks = self._comm.size
        self.accumulate, self.loop_divides = int(accumulate), loop_divides
        self._warmup, self._seed, self._progress = warmup_epochs, seed, 0.0
        self._global_batch = int(batch_size * self._comm.size * accumulate)
        self._knows_divider, self._scaled = accumulate == 1, WeakSet[torch.optim.Optimizer]()
        self._homes = Homes(n, self._comm.size)
        self._passes = Passes(
            self.method,
            self._homes,
            self._comm,
            self.epochs,
            self._global_batch,
            accumulate,
            seed,
            fingerprint,
        )
        self._outputs = OutputReader(self.method.forward_columns)
        self.metrics: dict[str, Any] = {}
        self.batch_sampler = BatchSampler(lambda: self._passes.readable)
        self.sampler = Sampler(lambda: self._passes.readable, batch_size)

    def whole(self, epoch: int, loader: Iterable) -> BatchesWithIds:
        """Begin an epoch; return (ids, batch) over all samples, or nothing if the method needs no such pass.

        For a loop without gradient, in eval mode.
        """
        self.check_loader(loader)
        begun = self._passes.is_begun("whole", epoch) or self.begin_whole(epoch)
        return BatchesWithIds(self._passes, loader, begun)

    def visible(self, epoch: int, loader: Iterable) -> BatchesWithIds:
        """Plan the epoch and return (ids, batch) over the samples it trains; ids are (k,) int64.

        The pass begins with this call, unless ``begin_visible`` began it; its length is that of this epoch.
        """
        self.check_loader(loader)
        if not self._passes.is_begun("visible", epoch):
            self.begin_visible(epoch)
        return BatchesWithIds(self._passes, loader)

    def hidden(self, loader: Iterable) -> BatchesWithIds:
        """Return (ids, batch) over the samples to refresh after training, if there are any.

        For a loop without gradient, in ``refresh_mode``.
        """
        self.check_loader(loader)
        return BatchesWithIds(self._passes, loader, self._passes.is_begun("hidden") or self.begin_hidden())

    def check_loader(self, loader: Iterable) -> None:
        """Check that a loader reads by ``batch_sampler`` or ``sampler``; ``visible`` does so by itself.

        Raises:
            LoopError: it does not, so that losses would go to other samples.
        """
        check_loader(loader, self.batch_sampler, self.sampler, self.n)

    def rebuild_loader(self, loader: Any) -> Any:
        """Return a loader like this one that reads by ``batch_sampler``.

        For what takes no sampler, as timm's ``create_loader``. Data set, collate function, loader processes
        and timm's prefetcher stay.
        """
        return rebuild_loader(loader, self.batch_sampler)

    def begin_whole(self, epoch: int) -> bool:
        """Begin an epoch, and a pass over all samples if the method needs one; return whether it does."""
        begun = self._passes.begin_whole(epoch)
        self._progress = 0.0
        return begun

    def begin_visible(self, epoch: int) -> None:
        """Plan the epoch and begin its training pass."""
        self.metrics = self._passes.begin_visible(epoch)
        self._progress = 0.0

    def begin_hidden(self) -> bool:
        """End the training pass and begin the refresh pass, if there is one; return whether there is."""
        return self._passes.begin_hidden()

    @property
    def refresh_mode(self) -> str:
        """Mode of the network in the refresh pass: "eval" or "train"."""
        if self._passes.plan is None:
            raise LoopError(
                "hiding: refresh_mode is known once the epoch is planned; begin it with hiding.visible"
            )
        return self._passes.plan.refresh_mode

    def stop_early(self) -> None:
        """End the current pass, if there is one, here; samples not observed keep their last statistics."""
        if self._passes.current is not None:
            self._passes.current.stop_early()

    @property
    def epoch(self) -> int | None:
        """The epoch that has begun and is not done; None between two epochs."""
        return None if self._passes.epoch is None else self._passes.epoch.number

    @property
    def next_epoch(self) -> int:
        """The epoch after the last one that is done, where a loop continues after ``load_state_dict``."""
        return self._passes.last_epoch + 1

    @property
    def progress(self) -> float:
        """Share of the whole training that is done, for schedules stepped by updates; in [0, 1].

        Each epoch counts the same, by the share of its own updates, however many it has.
        """
        return self._passes.progress

    @property
    def ids(self) -> np.ndarray:
        """(k,) int64, the samples of the next batch to be observed."""
        return self._passes.next_batch().ids

    def observe(
        self,
        ids: np.ndarray | torch.Tensor,
        losses: torch.Tensor,
        logits: Any = None,
        target: torch.Tensor | None = None,
        *,
        correct: torch.Tensor | np.ndarray | Sequence | None = None,
        confidence: torch.Tensor | np.ndarray | Sequence | None = None,
        ignore_index: int | None = None,
    ) -> torch.Tensor:
        """Record the forward pass of the next batch; return the loss to call ``backward`` on.

        Does not synchronise with the device, but for soft targets in the first batch of a pass.

        Args:
            ids: (k,) as ``visible`` yields them, or as the data set does.
            losses: (k,), or (k, ...) of pixels or tokens, which are averaged over each sample's targets that
                are not ignored (over all of them where correct and confidence are given); of the training
                criterion, without weights.
            logits: (k, C), or (k, C, ...) of masks and sequences; also (k, T, C), one logit (k, 1), or the
                output of a network of Hugging Face or torchvision.
            target: classes (k,), or (k, ...) of masks and sequences; integers that are no class, such as 255
                and -100, are ignored. Or soft targets of the shape of the logits: smoothed or distilled, not
                mixed (mixup, cutmix), not of several labels. Of one logit, 0 to 1.
            correct: (k,) bool, for any other task, and for what a loop judges in its own way.
            confidence: (k,), 0 to 1, likewise. With both, logits and target are needed only by methods that
                compute more of them (spv, EL2N).
            ignore_index: a class that is ignored as well.

        Returns:
            This rank's share of the mean of weight x loss over the global batch. Summed over accumulated
            batches (divided by their number with ``loop_divides``) and averaged over ranks, as
            DistributedDataParallel does, the shares are that mean.

        Raises:
            LoopError: these are not the samples of the next batch, there is not one loss for each, or logits
                and target are not understood.
        """
        current, choosing = self._passes.next_observed(), self._passes.choosing
        given = ForwardPass(losses, logits, target, correct, confidence, ignore_index)
        stats, losses = self._read(ids, given, current)
        if choosing is not None:
            choosing.observed(stats)
        micro_batch = stats.micro_batch
        self._progress = micro_batch.progress
        weight = micro_batch.weight * np.float32(micro_batch.counts)
        share = (self.accumulate if self.loop_divides else 1) * self._comm.size / micro_batch.n_global
        loss = weighted_sum(losses, weight) * share
        if loss.requires_grad and not self._knows_divider:
            loss.register_hook(self._find_divider)
        return loss

    @property
    def selects(self) -> bool:
        """Whether ``choose`` needs losses of the next candidates, from a forward pass without gradient."""
        choosing = self._passes.choosing
        return choosing is not None and choosing.selects

    def choose(
        self,
        ids: np.ndarray | torch.Tensor,
        losses: torch.Tensor | None = None,
        logits: Any = None,
        target: torch.Tensor | None = None,
        *,
        batch: Any = None,
        correct: torch.Tensor | np.ndarray | Sequence | None = None,
        confidence: torch.Tensor | np.ndarray | Sequence | None = None,
        ignore_index: int | None = None,
    ) -> list[tuple[np.ndarray, Any]]:
        """Queue what the method chooses of the candidates; return the full batches that are due. Collective.

        For methods that choose batch by batch: called between a forward pass of the candidates without
        gradient and the forward passes of what it returns, each of which goes to ``observe``. All ranks get
        equally many batches; the last candidates of an epoch empty the queues. In epochs that the plan
        decides alone, it returns the batch as it is.

        Args:
            ids: (k,) of the candidates, as ``visible`` yields them.
            losses: (k,) and logits, target, correct, confidence, ignore_index as for ``observe``; None where
                ``selects`` is False.
            logits: see losses.
            target: see losses.
            batch: what the loader read; by default what ``visible`` yielded last.
            correct: see losses.
            confidence: see losses.
            ignore_index: see losses.

        Returns:
            (ids, batch) each: the chosen rows of the loader's batches, whose tuples have become lists.

        Raises:
            LoopError: these are not the samples of the next batch, or batches are left to be observed.
        """
        current, choosing = self._passes.next_batch(), self._passes.choosing
        batch = self._passes.latest_batch if batch is None else batch
        if choosing is None:
            return [(current.ids, batch)]
        if choosing.trained.n_observed < len(choosing.trained):
            raise LoopError(
                f"hiding: choose was called for {current}, but batches that it returned before were not "
                "observed; call observe for each of them"
            )
        if losses is None:
            if choosing.selects:
                raise LoopError(
                    f"hiding: choose got no losses for {current}, by which {self.method.method} chooses; "
                    "pass the batch forward, without gradient, where hiding.selects is True"
                )
            check_ids(ids, current, self.n)
            check_given(current)
            unknown = torch.full((len(current.micro_batch.id),), torch.nan)
            stats = BatchStats(current.micro_batch, {"loss": unknown})
            current.n_observed += 1
        else:
            given = ForwardPass(losses.detach(), logits, target, correct, confidence, ignore_index)
            stats, _ = self._read(ids, given, current)
        return choosing.choose(stats, batch)

    def _read(
        self, ids: np.ndarray | torch.Tensor, given: ForwardPass, current: Pass
    ) -> tuple[BatchStats, torch.Tensor]:
        """Record a forward pass of the next batch of a pass; return its statistics and each loss."""
        check_ids(ids, current, self.n)
        check_given(current)
        check_losses(given.losses, current)
        losses, columns = self._outputs.read(given, current)
        stats = BatchStats(current.micro_batch, columns)
        current.stats_buffer.add(stats)
        current.n_observed += 1
        return stats, losses

    def _find_divider(self, gradient: torch.Tensor) -> None:
        self._knows_divider = True
        check_division(float(gradient), self.accumulate, self.loop_divides)

    @property
    def lr_scale(self) -> float:
        """Factor of the loop's learning rate at this moment; 1 during warm-up."""
        epoch, plan = self._passes.epoch, self._passes.plan
        if epoch is None or plan is None or epoch.number + self._progress < self._warmup:
            return 1.0
        return plan.lr_scale

    def scale_lr(self, optimizer: torch.optim.Optimizer) -> None:
        """Multiply the learning rate by ``lr_scale`` in every step of this optimizer from now on.

        The rate is changed during the step only, by the optimizer's own hooks, so that schedules are not
        disturbed. A second call for the same optimizer changes nothing.
        """
        hooked = find_hooked(optimizer)
        if hooked not in self._scaled:
            self._scaled.add(hooked)
            scale_steps(hooked, lambda: self.lr_scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two epochs: tensors and plain values, the same on every rank. Collective.

        Called after the epoch's last pass. Needs O(n) memory. Any number of ranks can load it.

        Raises:
            LoopError: the epoch is not done.
        """
        self._passes.end_epoch()
        return epoch_state(self._passes, self.method, self._seed, self._comm)

    def mid_epoch_state_dict(self) -> dict[str, Any]:
        """Return the state inside an epoch as well, for a loop that resumes at its next batch. Collective.

        After ``load_state_dict`` the training pass has begun, and the loader reads the batches that are left.
        """
        current = self._passes.current
        if self._passes.choosing is not None:
            raise LoopError(
                f"hiding: {self.method.method} chooses batch by batch, and its queue cannot be saved; save "
                "between two epochs"
            )
        if current is None or (current.name == "hidden" and current.n_observed == len(current)):
            return self.state_dict()
        state = epoch_state(self._passes, self.method, self._seed, self._comm)
        return state | {"pass": pass_state(current, self._global_batch, self._comm)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the epoch that the state was taken after.

        Raises:
            LoopError: the state is of another method, seed or data set, or of a pass that cannot be resumed.
        """
        load_epoch_state(state, self._passes, self.method, self._homes, self._seed, self._comm)
        if "pass" in state:
            self.metrics = resume_pass(self._passes, state["pass"], self._global_batch, self._comm)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add --hide METHOD, and --hide-OPTION for each option of the methods, to a script's command line."""
        add_arguments(parser)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, data: Sized | int, **others: Any) -> Hiding:
        """Return the Hiding that the command line asks for; the other arguments are those of Hiding."""
        method, options = read_arguments(arguments)
        return cls(method, data, **others, **options)
