"""Hiding inside Lightning's Trainer: a callback."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import LoopError


class HidingCallback(Callback):
    """Plans each epoch, looks at the hidden after it, scales the learning rate, goes into Lightning's checkpoints.

    The module makes ``self.hiding`` in its ``setup``; the loader of its ``train_dataloader`` reads by
    ``hiding.batch_sampler``; its ``training_step`` returns ``self.hiding.observe(self.hiding.ids, losses, logits, target)``.
    That step is also what looks at the hidden, without gradient, and in eval mode unless the method's refresh_mode is train. The
    Trainer needs ``reload_dataloaders_every_n_epochs=1``, since epochs differ in length, and on several ranks
    ``use_distributed_sampler=False``.
    """

    _state: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.reload_dataloaders_every_n_epochs != 1:
            raise LoopError(
                "hiding: epochs differ in length; give the Trainer reload_dataloaders_every_n_epochs=1"
            )
        if self._state is not None:
            module.hiding.load_state_dict(self._state)
        for optimizer in trainer.optimizers:
            module.hiding.scale_lr(optimizer)
        self._begin(module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if module.hiding.begin_hidden():
            self._look(module, module.hiding.refresh_mode)
        self._state = (
            module.hiding.state_dict()
        )  # a checkpoint in the middle of an epoch has that of the one before
        if module.hiding.next_epoch < module.hiding.epochs:
            self._begin(module)

    def _begin(self, module: LightningModule) -> None:
        """Begin the next epoch: Lightning makes its loader before any hook of that epoch."""
        epoch = module.hiding.next_epoch
        if module.hiding.begin_whole(epoch):
            self._look(module)
        module.hiding.begin_visible(epoch)

    @torch.no_grad()
    def _look(self, module: LightningModule, mode: str = "eval") -> None:
        strategy, precision = module.trainer.strategy, module.trainer.precision_plugin
        before = {part: part.training for part in module.modules()}  # frozen parts stay in eval mode
        if mode == "eval":
            module.eval()
        for i, batch in enumerate(module.train_dataloader()):
            batch = strategy.batch_to_device(precision.convert_input(batch))
            with precision.forward_context():
                module.training_step(batch, i)
        for part, training in before.items():
            part.training = training

    def state_dict(self) -> dict[str, Any]:
        return self._state or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None
