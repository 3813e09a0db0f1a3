"""Lightning's Trainer with the callback: plans, hides, refreshes, resumes from its own checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from support.own_loops import POINTS
from torch.utils.data import DataLoader

from kakurenbo_hpc import Hiding
from kakurenbo_hpc.core.torchvision_compat import transforms
from kakurenbo_hpc.errors import UserError

transforms()  # lightning imports torchvision, which does not load beside a torch without CUDA unless told so
lightning = pytest.importorskip("lightning.pytorch")

from kakurenbo_hpc.hiding.lightning import HidingCallback  # noqa: E402


class Module(lightning.LightningModule):
    def __init__(self, method="kakurenbo", **options):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.method, self.options = torch.nn.Linear(5, 3), method, options
        self.lines = []

    def setup(self, stage):
        self.hiding = Hiding(self.method, POINTS, epochs=6, batch_size=10, **self.options)

    def train_dataloader(self):
        return DataLoader(POINTS, batch_sampler=self.hiding.batch_sampler)

    def training_step(self, batch, i):
        inputs, target = batch
        logits = self.model(inputs)
        if i == 0 and torch.is_grad_enabled():
            self.lines.append(self.hiding.metrics)
        return self.hiding.observe(
            self.hiding.ids, F.cross_entropy(logits, target, reduction="none"), logits, target
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.3)


def fit(module, folder, epochs, checkpoint=None, **changed):
    trainer = lightning.Trainer(
        **{"reload_dataloaders_every_n_epochs": 1} | changed,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=[HidingCallback()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=checkpoint)
    return module.lines


def test_two_epochs_hide_and_train(tmp_path):
    first, second = fit(Module(confidence=0.4), tmp_path, 2)
    assert first["n_hidden"] == 0 and first["n_backward"] == 90
    assert second["n_hidden"] > 0 and second["n_backward"] == 90 - second["n_hidden"]


@pytest.mark.parametrize("method", ["kakurenbo", "iswr"])
def test_a_run_goes_on_from_lightnings_checkpoint(method, tmp_path):
    whole, first, second = Module(method), Module(method), Module(method)
    lines = fit(whole, tmp_path / "whole", 6)
    assert fit(first, tmp_path, 3) == lines[:3]
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    assert fit(second, tmp_path, 6, checkpoint) == lines[3:]
    assert torch.equal(second.model.weight, whole.model.weight)


@pytest.mark.parametrize(("precision", "refresh_mode"), [("bf16-true", "eval"), ("bf16-mixed", "train")])
def test_a_look_computes_as_a_step_does_and_wakes_no_frozen_part(precision, refresh_mode, tmp_path):
    module, passes = Module(confidence=0.4, refresh_mode=refresh_mode), set()
    frozen = torch.nn.BatchNorm1d(5).eval()
    module.model = torch.nn.Sequential(frozen, module.model)
    module.model.register_forward_hook(
        lambda model, _, logits: passes.add(
            (torch.is_grad_enabled(), model.training, frozen.training, logits.dtype)
        )
    )
    lines = fit(module, tmp_path, 3, precision=precision)
    assert lines[-1]["n_hidden"] > 0
    assert passes == {
        (True, True, False, torch.bfloat16),
        (False, refresh_mode == "train", False, torch.bfloat16),
    }


def test_a_trainer_that_keeps_its_loader_is_refused(tmp_path):
    with pytest.raises(UserError, match="reload_dataloaders_every_n_epochs=1"):
        fit(Module(), tmp_path, 2, reload_dataloaders_every_n_epochs=0)
