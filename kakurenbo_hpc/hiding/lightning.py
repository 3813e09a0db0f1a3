"""Callback that brings `Hiding` into Lightning's Trainer."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import LoopError
from .loop import Hiding


class HidingCallback(Callback):
    """Plans each epoch, runs its passes without gradient, scales the learning rate, and saves its state.

    The module makes ``self.hiding`` in its ``setup``; the loader of its ``train_dataloader`` reads by
    ``hiding.batch_sampler``; its ``training_step`` returns ``self.hiding.observe(self.hiding.ids, losses,
    logits, target)``. The same step runs in the passes without gradient, in eval mode unless the method's
    ``refresh_mode`` is train. The Trainer needs ``reload_dataloaders_every_n_epochs=1``, since epochs differ
    in length, and on several ranks ``use_distributed_sampler=False``.
    """

    _state: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore the state, scale the learning rate, and begin the first epoch."""
        if vars(trainer)["reload_dataloaders_every_n_epochs"] != 1:
            raise LoopError(
                "hiding: epochs differ in length; give the Trainer reload_dataloaders_every_n_epochs=1"
            )
        hiding = _hiding_of(module)
        if self._state is not None:
            hiding.load_state_dict(self._state)
        for optimizer in trainer.optimizers:
            hiding.scale_lr(optimizer)
        self._begin_epoch(module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Refresh the hidden samples, keep the state, and begin the next epoch."""
        hiding = _hiding_of(module)
        if hiding.begin_hidden():
            self._forward_pass(module, hiding.refresh_mode)
        self._state = hiding.state_dict()  # also for a checkpoint in the middle of the next epoch
        if hiding.next_epoch < hiding.epochs:
            self._begin_epoch(module)

    def _begin_epoch(self, module: LightningModule) -> None:
        """Begin the next epoch. Lightning makes the loader of an epoch before any of its hooks."""
        hiding = _hiding_of(module)
        epoch = hiding.next_epoch
        if hiding.begin_whole(epoch):
            self._forward_pass(module)
        hiding.begin_visible(epoch)

    @torch.no_grad()
    def _forward_pass(self, module: LightningModule, mode: str = "eval") -> None:
        strategy, precision = module.trainer.strategy, module.trainer.precision_plugin
        modes = {part: part.training for part in module.modules()}  # frozen parts stay in eval mode
        if mode == "eval":
            module.eval()
        for i, batch in enumerate(module.train_dataloader()):
            batch = strategy.batch_to_device(precision.convert_input(batch))
            with precision.forward_context():
                module.training_step(batch, i)
        for part, training in modes.items():
            part.training = training

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last whole epoch."""
        return self._state or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the fit starts."""
        self._state = state_dict or None


def _hiding_of(module: LightningModule) -> Hiding:
    return cast(Hiding, module.hiding)
