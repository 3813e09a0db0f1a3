"""Plans, passes and notes of a training loop that somebody else wrote."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..config.options import pick
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch, Plan
from ..distributed.comm import Comm, SerialComm
from ..distributed.launch_env import read_launch_env
from ..distributed.world import open_comm
from ..errors import DataError, JobError, LoopError
from ..order.deal import EpochSchedule, deal
from ..order.home import bring_home
from ..selection import METHODS
from ..selection.global_stats import GlobalStats
from ..selection.method import FORWARD_COLUMNS, Method, init_ledger
from ..training.batch_stats import SampleStatsBuffer, batch_stats
from ..training.criterion import weighted_sum
from . import arguments as words
from .samplers import BatchSampler, Pass, Sampler
from .usage_checks import by_sample, check_ids, check_sizes, n_samples


class Hiding:
    """Chooses, each epoch and over all ranks together, what a training loop trains on.

    Every rank makes one, alike, and goes through the same epochs. An epoch is up to three passes over one loader:
    ``whole`` before methods that ask for it, ``visible`` to train, ``hidden`` to look again at what was not trained.

    method: an epoch-level method's name, with its options as keywords (``max_fraction=0.3``), or a method.
    data: the training set, or its length; ids are 0 to n - 1, as a map-style data set counts.
    batch_size: samples of one rank's largest batch. accumulate: batches of a rank that make one optimizer step.
    warmup_epochs: of the loop's schedule; the learning rate is scaled after them.
    fingerprint: of the data set, for methods that read score files.
    comm: the ranks; if not given, those of torch.distributed where that is initialised, else the starter's.
    Raises UserError, on all ranks alike.
    """

    def __init__(
        self,
        method: str | Method,
        data: Sized | int,
        *,
        epochs: int,
        batch_size: int,
        accumulate: int = 1,
        warmup_epochs: float = 0,
        seed: int = 0,
        fingerprint: str = "",
        comm: Comm | None = None,
        **options: Any,
    ):
        self._comm = comm or _comm_of_this_process()
        self._everyone = GlobalStats(self._comm)
        n = self._comm.run_or_raise_together(lambda: n_samples(data))
        self._everyone.agree(n, "the number of samples")
        self.method = self._comm.run_or_raise_together(lambda: _own_loop_method(method, options, epochs))
        self._everyone.agree(
            (self.method.model_dump(), epochs, batch_size, accumulate, seed), "the options of hiding"
        )
        check_sizes(epochs=epochs, batch_size=batch_size, accumulate=accumulate)
        if n < self._comm.size:
            raise DataError(
                f"hiding: the data set has {n} samples for {self._comm.size} ranks; use at most one rank a sample"
            )
        self.n, self.epochs = n, int(epochs)
        self._global_batch = int(batch_size * self._comm.size * accumulate)
        self._accumulate, self._warmup, self._seed = accumulate, warmup_epochs, seed
        self._homes = Homes(n, self._comm.size)
        self._observed = [name for name in self.method.columns if name in FORWARD_COLUMNS]
        self._ledger = init_ledger(self.method, self._homes, self._comm, fingerprint)
        self._epoch: Epoch | None = None  # the one that goes on
        self._plan: Plan | None = None
        self._pass: Pass | None = None
        self._done = -1
        self.metrics: dict[str, Any] = {}
        n_most = -(-n // self._global_batch) * accumulate
        self.batch_sampler = BatchSampler(lambda: self._pass, n_most)
        self.sampler = Sampler(lambda: self._pass, n_most, batch_size)

    # Passes

    def whole(self, epoch: int, loader: Iterable) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield (ids, batch) over all samples, before an epoch's plan; nothing where the method does not ask for it.

        For a loop without gradient, in eval mode, as ``hidden`` is.
        """
        if self.begin_whole(epoch):
            yield from self._paired(loader)

    def visible(self, epoch: int, loader: Iterable) -> Iterator[tuple[np.ndarray, Any]]:
        """Plan the epoch and yield (ids, batch) over what it trains; ids: (k,) int64."""
        self.begin_visible(epoch)
        yield from self._paired(loader)

    def hidden(self, loader: Iterable) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield (ids, batch) over what the plan wants to be looked at again, after training; perhaps nothing.

        For a loop without gradient, in ``refresh_mode``.
        """
        if self.begin_hidden():
            yield from self._paired(loader)

    # The same, for loops that somebody else runs: the loader reads what was begun last

    def begin_whole(self, epoch: int) -> bool:
        """Begin an epoch with a pass over all samples, if the method wants to look before it plans."""
        self._begin_epoch(epoch)
        if not self.method.needs_scoring_pass(self._epoch):
            return False
        self._begin_pass("whole", np.ones(len(self._ledger), bool))
        return True

    def begin_visible(self, epoch: int) -> None:
        """Plan the epoch; the loader reads what it trains."""
        looked = self._pass is not None and self._pass.name == "whole" and self._epoch.number == epoch
        if looked:
            self._end_pass()
            self._ledger = self._ledger.with_columns(self.method.update(self._epoch, self._ledger, "scoring"))
        elif self._epoch is None or self._plan is not None or self._epoch.number != epoch:
            self._begin_epoch(epoch)
        if self.method.needs_scoring_pass(self._epoch) and not looked:
            raise LoopError(
                f"hiding: {self.method.method} plans epoch {epoch} by a forward pass over all samples, but there was none; "
                "go through hiding.whole(epoch, loader) first"
            )
        self._plan = plan = self.method.plan(self._epoch, self._ledger, self._everyone)
        micro_batches = self._begin_pass("visible", plan.train, plan.weight)
        n_hidden, self._n_refresh = self._everyone.count(
            plan.train == 0, plan.refresh if plan.refresh is not None else plan.train < 0
        )
        self.metrics = {
            "epoch": epoch,
            "n_samples": self.n,
            "n_candidates": plan.n_candidates,
            "n_moved_back": plan.n_moved_back,
            "n_hidden": n_hidden,
            "hidden_fraction": n_hidden / self.n,
            "max_fraction": plan.max_fraction,
            "n_forward": looked * self.n + micro_batches.n + self._n_refresh,
            "n_backward": micro_batches.n,
            "lr_scale": plan.lr_scale,
            "steps": micro_batches.steps,
            "order_hash": f"{micro_batches.order_hash:016x}",
        }

    def begin_hidden(self) -> bool:
        """End the training pass; return whether there is something to look at again, which the loader reads then."""
        if self._pass is None or self._pass.name != "visible":
            raise LoopError(
                "hiding: the hidden are looked at after training; go through hiding.visible(epoch, loader) first"
            )
        self._end_pass()
        if not self._n_refresh:
            return False
        self._begin_pass("hidden", self._plan.refresh)
        return True

    @property
    def refresh_mode(self) -> str:
        """What the network is in while it looks at the hidden: "eval" or "train"."""
        return self._plan.refresh_mode

    @property
    def next_epoch(self) -> int:
        """The epoch after the last that is done: where a loop goes on after ``load_state_dict``."""
        return self._done + 1

    # What the loop tells

    @property
    def ids(self) -> np.ndarray:
        """(k,) int64, the samples of the next batch to be observed."""
        return self._unfinished().ids

    def observe(
        self, ids: np.ndarray | torch.Tensor, losses: torch.Tensor, logits: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Note what the forward pass of the next batch says of each sample; return the loss to go back through.

        ids: (k,) as ``visible`` yields them, or as the data set does. losses: (k,), or (k, ...) of pixels, of which each
        sample's mean counts; of the training criterion, without weights. logits: (k, C, ...); target: (k, ...) int64.
        The returned mean of weight x loss is this rank's share of the mean over the global batch, accumulated batches
        included: averaged over ranks, as DistributedDataParallel does, and added up, it is that mean.
        Nothing is waited for on the device. Raises LoopError.
        """
        here = self._unfinished()
        check_ids(ids, here, self.n)
        losses, micro_batch = by_sample(losses, here), here.micro_batch
        k = len(micro_batch.id)  # what fills the batch up comes after them
        here.stats_buffer.add(batch_stats(micro_batch, logits[:k], target[:k], losses[:k], self._observed))
        here.n_observed += 1
        self._progress = micro_batch.progress
        return weighted_sum(losses[:k], micro_batch.weight * np.float32(micro_batch.counts)) * (
            self._comm.size / micro_batch.n_global
        )

    @property
    def lr_scale(self) -> float:
        """What multiplies the loop's learning rate now; 1 during warm-up."""
        if self._plan is None or self._epoch.number + self._progress < self._warmup:
            return 1.0
        return self._plan.lr_scale

    def scale_lr(self, optimizer: torch.optim.Optimizer) -> None:
        """Multiply the learning rate by ``lr_scale`` in every step of this optimizer from now on.

        Around the step only, by hooks of the optimizer's own: schedules go on with the rates that they know.
        """
        rates = []  # before the step; and before the step inside it, where a subclass calls its parent's

        def scale(optimizer, args, kwargs):
            rates.append([group["lr"] for group in optimizer.param_groups])
            for group in optimizer.param_groups if len(rates) == 1 else ():
                group["lr"] = group["lr"] * self.lr_scale

        def restore(optimizer, args, kwargs):
            for group, rate in zip(optimizer.param_groups, rates.pop(), strict=True):
                group["lr"] = rate

        optimizer.register_step_pre_hook(scale)
        optimizer.register_step_post_hook(restore)

    # What is kept

    def state_dict(self) -> dict[str, Any]:
        """Return everything that hiding is between two epochs, tensors and plain values, alike on every rank.

        All ranks call it together, after the epoch's last pass. O(n) memory. Any number of ranks can load it.
        """
        self._end_epoch()
        parts = self._comm.gather(self._ledger.columns())
        ledger = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        return {
            "format": 1,
            "epoch": self._done,
            "method": self.method.model_dump(),
            "seed": self._seed,
            "ledger": ledger,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch that the state was taken after. Raises LoopError if it is another method's or data set's."""
        ours = {"format": 1, "method": self.method.model_dump(), "seed": self._seed, "samples": self.n}
        theirs = {
            **{name: state.get(name) for name in ours},
            "samples": len(state.get("ledger", {}).get("loss", ())),
        }
        for name, value in ours.items():
            if theirs[name] != value:
                raise LoopError(
                    f"hiding: the state has {name} {theirs[name]}, but here it is {value}; load the state of the same run"
                )
        rows = slice(*self._homes.rows(self._comm.rank))
        self._ledger = Ledger.of(
            self.n,
            rows.start,
            {name: column[rows].numpy().copy() for name, column in state["ledger"].items()},
        )
        self._done, self._epoch, self._plan, self._pass = state["epoch"], None, None, None

    # Launch parameters

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Let a script take its method from the command line: --hide METHOD, and --hide-OPTION for each of its options."""
        words.add_arguments(parser)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, data: Sized | int, **rest: Any) -> Hiding:
        """Return the hiding that the command line asks for; ``rest`` as for Hiding itself."""
        method, options = words.chosen(arguments)
        return cls(method, data, **rest, **options)

    # Inside

    def _begin_epoch(self, number: int) -> None:
        if self._epoch is not None and self._epoch.number == number:
            raise LoopError(f"hiding: epoch {number} was begun twice; go through its passes once")
        self._end_epoch()
        if not self._done < number < self.epochs:
            last = f"epoch {self._done} is done" if self._done >= 0 else "none is done"
            raise LoopError(
                f"hiding: epoch {number} was begun, but {last} and there are {self.epochs}; count them from 0, each once"
            )
        self._epoch, self._plan, self._progress = Epoch(number, self.epochs, self._seed), None, 0.0

    def _end_epoch(self) -> None:
        if self._epoch is None:
            return
        if self._pass is not None and self._pass.name == "visible" and self._n_refresh:
            raise LoopError(
                f"hiding: epoch {self._epoch.number} hid samples, but nobody looked at them again; go through "
                "hiding.hidden(loader) after training, or they stay hidden for good"
            )
        self._end_pass()
        self._ledger = self._ledger.with_columns(self.method.update(self._epoch, self._ledger, "epoch"))
        self._done, self._epoch, self._plan = self._epoch.number, None, None

    def _begin_pass(self, name: str, times: np.ndarray, weight: np.ndarray | None = None) -> EpochSchedule:
        micro_batches = deal(
            self._ledger.rows, times, self._epoch, self._comm, self._global_batch, self._accumulate, weight
        )
        self._pass = Pass(name, self._epoch.number, micro_batches, SampleStatsBuffer(self._observed))
        return micro_batches

    def _unfinished(self) -> Pass:
        if self._pass is None or self._pass.n_observed == len(self._pass):
            raise LoopError(
                "hiding: no batch is left in this pass; begin an epoch with hiding.visible or begin_visible"
            )
        return self._pass

    def _end_pass(self) -> None:
        """Bring home what the pass has noted."""
        if self._pass is None:
            return
        n, n_observed = len(self._pass), self._pass.n_observed
        if n_observed < n:
            raise LoopError(
                f"hiding: observe was called for {n_observed} of the {n} batches of epoch {self._epoch.number}; call it for every "
                "batch, and let the loader drop none"
            )
        self._ledger = bring_home(
            self._pass.stats_buffer.stats(), self._ledger, self._homes, self._comm, self._epoch
        )
        self._pass = None

    def _paired(self, loader: Iterable) -> Iterator[tuple[np.ndarray, Any]]:
        for i, batch in enumerate(loader):
            yield self.ids, batch
            if self._pass.n_observed != i + 1:
                raise LoopError(
                    f"hiding: observe was not called for batch {i} of epoch {self._epoch.number}; call it for every batch"
                )


def _own_loop_method(method: str | Method, options: dict, epochs: int) -> Method:
    """Return the method, checked to be one that decides epoch by epoch. Raises JobError."""
    if isinstance(method, str):
        method = pick({"hide": {"method": method, **options}}, "hiding", "hide", "method", METHODS)
    elif options:
        raise JobError(
            f"hiding: {', '.join(options)} given beside a method that has its options already; set them there"
        )
    if any(method.selection_level(Epoch(number, epochs, 0)) != "epoch" for number in range(epochs)):
        raise JobError(
            f"hiding: {method.method} chooses batch by batch, which a loop of one's own cannot; use kakurenbo train"
        )
    if "grad_norm" in method.columns:
        raise JobError(
            f"hiding: {method.method} asks for the last layer's gradient norm, which only kakurenbo train sees; use el2n"
        )
    return method


def _comm_of_this_process() -> Comm:
    """Return the ranks of the loop's own process group, else MPI's, else this process alone. Raises LoopError."""
    if dist.is_available() and dist.is_initialized():
        from ..distributed.comm_torch import GroupComm

        return GroupComm(dist.new_group(backend="gloo"))
    started = read_launch_env(os.environ)
    if started is not None and started.starter == "torchrun":
        if started.size > 1:
            raise LoopError(
                "hiding: torchrun started several ranks that have not met; call torch.distributed.init_process_group first"
            )
        return SerialComm()
    return open_comm()
