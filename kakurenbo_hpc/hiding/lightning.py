"""Callback that brings `Hiding` into Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torchmetrics import Metric, MetricCollection

from ..errors import LoopError
from .loop import Hiding


class HidingCallback(Callback):
    """Plans each epoch, runs its passes without gradient, scales the learning rate, and saves its state.

    The module makes ``self.hiding`` in its ``setup`` or before. The loader, wherever the Trainer gets it
    from, reads by ``hiding.batch_sampler``. ``training_step`` returns ``self.hiding.observe(self.hiding.ids,
    losses, logits, target)``; it also runs in the passes without gradient, where it logs nothing, in eval
    mode unless the method's ``refresh_mode`` is train. On several ranks the Trainer needs
    ``use_distributed_sampler=False``.

    An epoch that the Trainer ends early counts as done; samples that it did not reach keep their last
    statistics. ``limit_train_batches`` limits every pass. A checkpoint inside an epoch is resumed at its next
    batch.
    """

    _hiding: Hiding | None = None
    _loaded: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Check that Trainer and Hiding fit together, and scale the learning rate."""
        hiding = _hiding_of(module)
        _check_trainer(trainer, module, hiding)
        if self._hiding not in (None, hiding) and trainer.current_epoch and self._loaded is None:
            self._loaded = self.state_dict()  # the Trainer fits on, with a Hiding that its setup made anew
        self._hiding = hiding
        hiding.loop_divides = True
        for optimizer in trainer.optimizers:
            hiding.scale_lr(optimizer)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Check the loader, and restore the state, if there is one."""
        hiding = _hiding_of(module)
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        if len(loaders) == 1:  # of several, one reads by hiding
            hiding.check_loader(loaders[0])
        if self._loaded is not None:
            hiding.load_state_dict(self._loaded)
            self._loaded = None
            self._resume(trainer, module, hiding)

    def _resume(self, trainer: Trainer, module: LightningModule, hiding: Hiding) -> None:
        """Let hiding and Lightning's loops continue at the same batch, wherever the state was saved."""
        fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
        if hiding.epoch == trainer.current_epoch:
            _read_anew(trainer)
        elif hiding.epoch is not None:  # saved after its last batch: Lightning begins the next, without hooks
            _end_epoch(trainer, module)
            if not fit_loop.done:
                self.on_train_epoch_start(trainer, module)
                # Or Lightning leaves out as many batches as the last epoch had, if it was the shorter one.
                epoch_loop.batch_progress.current.completed = int(trainer.num_training_batches)
        elif trainer.current_epoch < hiding.next_epoch:  # done; Lightning, counting steps, does not know
            fit_loop.epoch_progress.increment_completed()
            fit_loop.reset_restart_stage()
            epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Plan the epoch."""
        hiding, epoch = _hiding_of(module), trainer.current_epoch
        if hiding.begin_whole(epoch):
            _forward_pass(trainer, module)
        hiding.begin_visible(epoch)
        _read_anew(trainer)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Check the accumulation, which a callback may have changed since the fit started."""
        _check_accumulation(trainer, _hiding_of(module))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Refresh the hidden samples."""
        _end_epoch(trainer, module)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of Hiding, inside an epoch as well. Collective."""
        if self._hiding is None or self._loaded is not None:
            return self._loaded or {}
        return self._hiding.mid_epoch_state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._loaded = state_dict or None


# The passes of an epoch


def _end_epoch(trainer: Trainer, module: LightningModule) -> None:
    hiding = _hiding_of(module)
    hiding.stop_early()
    if hiding.begin_hidden():
        _forward_pass(trainer, module, hiding.refresh_mode)


@torch.no_grad()
def _forward_pass(trainer: Trainer, module: LightningModule, mode: str = "eval") -> None:
    """Run ``training_step`` on the batches of hiding's current pass, as the Trainer runs it."""
    hiding, strategy, precision = _hiding_of(module), trainer.strategy, trainer.precision_plugin
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    with _muted(trainer, module), _in_mode(module, mode):
        batches = CombinedLoader(trainer.train_dataloader, "max_size_cycle")
        for batch, i, _ in islice(batches, _limit(trainer, len(hiding.batch_sampler))):
            batch = module._on_before_batch_transfer(precision.convert_input(batch))
            batch = strategy.batch_to_device(batch)
            strategy.training_step(batch, *[i] * takes_index)
    hiding.stop_early()


def _limit(trainer: Trainer, n_batches: int) -> int:
    """Return how many of these batches ``limit_train_batches`` leaves, as for training."""
    limit = trainer.limit_train_batches
    return limit if isinstance(limit, int) else max(1, int(n_batches * limit))


@contextmanager
def _in_mode(module: LightningModule, mode: str) -> Iterator[None]:
    """Put the module into eval mode, or leave it as it is for "train": frozen parts stay in eval mode."""
    modes = {part: part.training for part in module.modules()}
    if mode == "eval":
        module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _muted(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let the module log nothing, and keep its metrics as they are."""
    loggers, metrics = trainer.loggers, list(_metrics_of(module))
    trainer.loggers = [DummyLogger() for _ in loggers]
    vars(module)["log"] = lambda *args, **kwargs: None  # log_dict calls it, too
    for parent, name, metric in metrics:
        setattr(parent, name, metric.clone())
    try:
        yield
    finally:
        for parent, name, metric in metrics:
            setattr(parent, name, metric)
        del vars(module)["log"]
        trainer.loggers = loggers


def _metrics_of(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, Metric | MetricCollection]]:
    """Yield each metric of torchmetrics with its parent and its name there."""
    for name, child in module.named_children():
        if isinstance(child, Metric | MetricCollection):
            yield module, name, child
        else:
            yield from _metrics_of(child)


def _read_anew(trainer: Trainer) -> None:
    """Let the Trainer set up its loader again, whose length is that of the pass that has begun.

    Source: Lightning's BatchSizeFinder, which does the same after it changed the loader.
    """
    trainer.fit_loop._combined_loader = None
    trainer.fit_loop.setup_data()


# Checks


def _hiding_of(module: LightningModule) -> Hiding:
    hiding = getattr(module, "hiding", None)
    if not isinstance(hiding, Hiding):
        raise LoopError(
            f"hiding: {type(module).__name__} has no Hiding as its attribute hiding; make one in its setup"
        )
    return hiding


def _check_trainer(trainer: Trainer, module: LightningModule, hiding: Hiding) -> None:
    if not module.automatic_optimization:
        raise LoopError(
            f"hiding: {type(module).__name__} optimizes by hand, but its training_step also runs without "
            "gradient, on hidden samples; leave automatic_optimization at True"
        )
    if vars(trainer)["overfit_batches"]:
        raise LoopError(
            "hiding: the Trainer has overfit_batches, but hiding deals other batches in each epoch; leave it "
            "out, and take a smaller data set"
        )
    if trainer.max_epochs is not None and trainer.max_epochs > hiding.epochs and trainer.max_steps == -1:
        raise LoopError(
            f"hiding: the Trainer has max_epochs={trainer.max_epochs}, but Hiding has epochs="
            f"{hiding.epochs}; give both the same"
        )
    if hiding.n_ranks != trainer.world_size:
        raise LoopError(
            f"hiding: the Trainer runs {trainer.world_size} ranks, but Hiding was made on {hiding.n_ranks}; "
            "make it in the module's setup, when the Trainer has started its ranks"
        )
    _check_accumulation(trainer, hiding)


def _check_accumulation(trainer: Trainer, hiding: Hiding) -> None:
    if trainer.accumulate_grad_batches != hiding.accumulate:
        raise LoopError(
            f"hiding: the Trainer has accumulate_grad_batches={trainer.accumulate_grad_batches}, but Hiding "
            f"has accumulate={hiding.accumulate}; give both the same"
        )
