"""Lightning's Trainer with the callback: plans, hides, refreshes, resumes from its own checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from support.own_loops import POINTS, Loop, hiding
from torch.utils.data import DataLoader

from kakurenbo_hpc import Hiding
from kakurenbo_hpc.core.torchvision_compat import transforms
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import UserError

transforms()  # lightning imports torchvision, which does not load beside a torch without CUDA unless told so
lightning = pytest.importorskip("lightning.pytorch")

from lightning.fabric.plugins.environments.lightning import (  # noqa: E402
    LightningEnvironment,
    find_free_network_port,
)
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from torchmetrics.classification import MulticlassAccuracy  # noqa: E402

from kakurenbo_hpc.hiding.lightning import HidingCallback  # noqa: E402


class Module(lightning.LightningModule):
    """A linear model whose loader comes from elsewhere."""

    def __init__(self, method="kakurenbo", batch_size=10, **options):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.method = torch.nn.Linear(5, 3), method
        self.options = {"batch_size": batch_size, **options}
        self.lines, self.gradients = [], []

    def setup(self, stage):
        self.hiding = Hiding(self.method, POINTS, epochs=6, **self.options)

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        logits = self.model(inputs)
        return self.hiding.observe(
            self.hiding.ids, F.cross_entropy(logits, target, reduction="none"), logits, target
        )

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(self.model.weight.grad.norm().item())

    def on_train_epoch_end(self):
        self.lines.append(self.hiding.metrics)

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.3)


def loader_of(hiding, **changed):
    return DataLoader(POINTS, batch_sampler=hiding.batch_sampler, **changed)


class Own(Module):
    """With a loader of its own."""

    def train_dataloader(self):
        return loader_of(self.hiding)


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        return loader_of(self.trainer.lightning_module.hiding)


def trainer_of(folder, epochs=3, callbacks=(), **changed):
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[HidingCallback(), *callbacks],
        **defaults | changed,
    )


def fit(module, folder, epochs=3, checkpoint=None, **changed):
    trainer_of(folder, epochs, **changed).fit(module, ckpt_path=checkpoint)
    return module.lines


def test_two_epochs_hide_and_train(tmp_path):
    first, second = fit(Own(confidence=0.4), tmp_path, 2)
    assert first["n_hidden"] == 0 and first["n_backward"] == 90
    assert second["n_hidden"] > 0 and second["n_backward"] == 90 - second["n_hidden"]


# However the Trainer gets its loader and whatever the step does besides, the same is learned


class Estimating(Own):
    """Makes its schedule as long as the Trainer says, which sets up the loader before any hook."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 27
        return super().configure_optimizers()


class EstimatingByProcesses(Estimating):
    def train_dataloader(self):
        return loader_of(self.hiding, num_workers=1, persistent_workers=True)


class Logging(Own):
    """Logs what it can: by step and by epoch, a metric, straight to the logger."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.accuracy = MulticlassAccuracy(3, average="micro")
        self.trained = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        logits = self.model(batch[0])
        self.accuracy(logits, batch[1])
        self.log_dict(
            {"accuracy": self.accuracy, "one": float(loss.requires_grad)}, on_step=False, on_epoch=True
        )
        self.logger.log_metrics({"straight": 1 - float(loss.requires_grad)}, step=self.global_step)
        if loss.requires_grad:
            self.trained += [(loss.item(), right) for right in (logits.argmax(1) == batch[1]).tolist()]
        return loss


class Converting(Own):
    """Reads its batches in another form, by the hooks of a transfer, and takes no batch index."""

    def train_dataloader(self):
        return loader_of(self.hiding, collate_fn=lambda batch: batch)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return torch.utils.data.default_collate(batch)

    def training_step(self, batch):
        return super().training_step(batch, None)


class Validating(Own):
    """Validates within an epoch."""

    def val_dataloader(self):
        return DataLoader(POINTS, batch_size=45)

    def validation_step(self, batch, batch_idx):
        self.log("seen", float(len(batch[0])), reduce_fx="sum")


class Named(Own):
    """Reads a collection of loaders."""

    def train_dataloader(self):
        return {"points": loader_of(self.hiding)}

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["points"], batch_idx)


def fit_with_data_module(method, folder):
    trainer_of(folder).fit(module := Module(method), datamodule=Data())
    return module


def fit_with_loader(method, folder):
    module = Module(method)
    module.setup("fit")
    module.setup = lambda stage: None
    trainer_of(folder).fit(module, loader_of(module.hiding))
    return module


def fitted(module_class, **changed):
    def fit_module(method, folder):
        module = module_class(method)
        trainer_of(folder, **changed).fit(module)
        return module

    return fit_module


WAYS = {
    "a data module": fit_with_data_module,
    "a loader": fit_with_loader,
    "a loader made anew": fitted(Own, reload_dataloaders_every_n_epochs=1),
    "an estimated number of steps": fitted(Estimating),
    "an estimated number, loader processes": fitted(EstimatingByProcesses),
    "transfer hooks": fitted(Converting),
    "several loaders": fitted(Named),
    "validation": fitted(Validating, val_check_interval=0.5),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a module learns whose loader is its own."""
    return {
        method: fitted(Own)(method, tmp_path_factory.mktemp("expected")) for method in ("kakurenbo", "iswr")
    }


@pytest.mark.parametrize("method", ["kakurenbo", "iswr"])
@pytest.mark.parametrize("way", WAYS)
def test_wherever_the_loader_comes_from_the_same_is_learned(way, method, expected, tmp_path):
    module = WAYS[way](method, tmp_path)
    assert module.lines == expected[method].lines
    assert torch.equal(module.model.weight, expected[method].model.weight)


@pytest.mark.parametrize("method", ["kakurenbo", "iswr"])
def test_what_is_logged_is_of_training_alone(method, expected, tmp_path):
    module, logger = Logging(method), CSVLogger(tmp_path)
    trainer = trainer_of(tmp_path, logger=logger, log_every_n_steps=1)
    trainer.fit(module)
    assert module.lines == expected[method].lines
    loss, accuracy = torch.tensor(module.trained[-module.lines[-1]["n_backward"] :]).mean(0)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged == pytest.approx(
        logged | {"loss_epoch": loss.item(), "accuracy": accuracy.item(), "one": 1}
    )
    assert all(float(row.get("straight") or 0) == 0 for row in logger.experiment.metrics)
    assert trainer.loggers == [logger] and "log" not in vars(module)


# Resuming


@pytest.mark.parametrize("max_steps", [-1, 100])
@pytest.mark.parametrize("method", ["kakurenbo", "iswr"])
def test_a_run_goes_on_from_lightnings_checkpoint(method, max_steps, tmp_path):
    whole, first, second = Own(method), Own(method), Own(method)
    lines = fit(whole, tmp_path / "whole", 6)
    assert fit(first, tmp_path, 3, enable_checkpointing=True, max_steps=max_steps) == lines[:3]
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    assert fit(second, tmp_path, 6, checkpoint, max_steps=max_steps) == lines[3:]
    assert torch.equal(second.model.weight, whole.model.weight)


def saving(every):
    return ModelCheckpoint(save_top_k=-1, every_n_train_steps=every, filename="{step}")


class SavingAtValidation(Validating):
    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            self.trainer.save_checkpoint(
                f"{self.trainer.default_root_dir}/checkpoints/step={self.global_step}.ckpt"
            )


@pytest.mark.parametrize("method", ["kakurenbo", "iswr", "infobatch"])
def test_a_run_goes_on_inside_an_epoch(method, tmp_path):
    whole = Own(method)
    lines = fit(whole, tmp_path, 3, callbacks=[saving(1)], enable_checkpointing=True)
    n_steps = sum(line["steps"] for line in lines)
    for step in (4, 9, 13, 9 + lines[1]["steps"], n_steps - 1, n_steps):
        resumed = Own(method)
        rest = fit(resumed, tmp_path / "resumed", 3, tmp_path / f"checkpoints/step={step}.ckpt")
        assert rest == lines[len(lines) - len(rest) :], step
        assert torch.equal(resumed.model.weight, whole.model.weight), step


def test_a_run_goes_on_from_a_validation_inside_an_epoch(tmp_path):
    whole = SavingAtValidation()
    lines = fit(whole, tmp_path, 3, val_check_interval=0.5)
    checkpoints = sorted((tmp_path / "checkpoints").glob("*.ckpt"))
    assert len(checkpoints) == 6
    for checkpoint in checkpoints:
        resumed = Validating()
        rest = fit(resumed, tmp_path / "resumed", 3, checkpoint, val_check_interval=0.5)
        assert rest == lines[len(lines) - len(rest) :], checkpoint
        assert torch.equal(resumed.model.weight, whole.model.weight), checkpoint


# Epochs that end early


class Stopping(Own):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.trainer.should_stop = self.global_step == 13


class Skipping(Own):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


EARLY = {
    "max_steps": (Own, {"max_steps": 13}, [9, 4]),
    "fast_dev_run": (Own, {"fast_dev_run": 2}, [2]),
    "a number of batches": (Own, {"limit_train_batches": 3}, [3, 3, 3]),
    "a share of the batches": (Own, {"limit_train_batches": 0.4}, [3, 3, 3]),
    "should_stop": (Stopping, {}, [9, 4]),
    "the rest of an epoch skipped": (Skipping, {}, [3, 3, 3]),
}


@pytest.mark.parametrize("method", ["kakurenbo", "iswr", "infobatch"])
@pytest.mark.parametrize("what", EARLY)
def test_an_epoch_that_ends_early_counts_as_done(what, method, tmp_path):
    module_class, changed, steps = EARLY[what]
    module = module_class(method)
    trainer = trainer_of(tmp_path, **changed)
    trainer.fit(module)
    assert len(module.gradients) == sum(steps)
    state = module.hiding.state_dict()
    assert state["epoch"] == len(steps) - 1
    assert 10 * steps[0] - 5 < state["ledger"]["loss"].isfinite().sum()


# The Trainer's options and Hiding's are compared


class ByHand(Own):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Without(Module):
    def setup(self, stage):
        pass

    def train_dataloader(self):
        return DataLoader(POINTS, batch_size=10)


class Shuffling(Own):
    def train_dataloader(self):
        return DataLoader(POINTS, batch_size=10, shuffle=True)


REFUSED = {
    "optimization by hand": (ByHand, {}, "ByHand optimizes by hand.*automatic_optimization at True"),
    "no hiding": (Without, {}, "Without has no Hiding as its attribute hiding; make one in its setup"),
    "more epochs": (Own, {"epochs": 7}, "max_epochs=7, but Hiding has epochs=6; give both the same"),
    "a loader that shuffles": (Shuffling, {}, "reads by RandomSampler .*batch_sampler=hiding.batch_sampler"),
    "overfit_batches": (Own, {"overfit_batches": 2}, "overfit_batches, but hiding deals.*leave it out"),
    "accumulation": (
        Own,
        {"accumulate_grad_batches": 2},
        "accumulate_grad_batches=2, but Hiding has accumulate=1; give both the same",
    ),
    "accumulation from epoch 1 on": (
        Own,
        {"callbacks": [GradientAccumulationScheduler({1: 2})]},
        "accumulate_grad_batches=2, but Hiding has accumulate=1",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_trainer_that_does_not_fit_is_refused(what, tmp_path):
    module_class, changed, message = REFUSED[what]
    with pytest.raises(UserError, match=message) as problem:
        fit(module_class(), tmp_path, **changed)
    assert "\n" not in str(problem.value)


def test_an_accumulated_step_is_that_of_one_large_batch(tmp_path):
    whole, parts = Own(batch_size=30), Own(accumulate=3)
    assert fit(parts, tmp_path, accumulate_grad_batches=3) == fit(whole, tmp_path)
    assert parts.gradients == pytest.approx(whole.gradients, rel=1e-5)
    torch.testing.assert_close(parts.model.weight, whole.model.weight)


class Interrupted(Own):
    """Saves a checkpoint while hiding looks at all samples."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if not loss.requires_grad:
            self.trainer.save_checkpoint(f"{self.trainer.default_root_dir}/checkpoints/step=0.ckpt")
        return loss


@pytest.mark.parametrize(
    ("saved", "step", "resumed", "message"),
    [
        (Own(), 4, Own(batch_size=15), "inside epoch 0 with global batches of 10, but this run has 15"),
        (Own(), 4, Own(seed=1), "the state has seed 0, but this run has 1"),
        (Interrupted("iswr"), 0, Own("iswr"), "saved in the whole pass of epoch 0, which cannot be resumed"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(saved, step, resumed, message, tmp_path):
    fit(saved, tmp_path, 1, callbacks=[saving(4)], enable_checkpointing=True)
    with pytest.raises(UserError, match=message):
        fit(resumed, tmp_path / "resumed", 3, tmp_path / f"checkpoints/step={step}.ckpt")


@pytest.mark.parametrize("made", ["in setup", "before"])
def test_a_trainer_fits_on(made, tmp_path):
    whole, parts = Own(), Own()
    if made == "before":
        parts.setup("fit")
        parts.setup = lambda stage: None
    trainer = trainer_of(tmp_path, 2)
    trainer.fit(parts)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(parts)
    assert parts.lines == fit(whole, tmp_path, 4)
    assert torch.equal(parts.model.weight, whole.model.weight)


@pytest.mark.parametrize(("precision", "refresh_mode"), [("bf16-true", "eval"), ("bf16-mixed", "train")])
def test_a_look_computes_as_a_step_does_and_wakes_no_frozen_part(precision, refresh_mode, tmp_path):
    module, passes = Own(confidence=0.4, refresh_mode=refresh_mode), set()
    frozen = torch.nn.BatchNorm1d(5).eval()
    module.model = torch.nn.Sequential(frozen, module.model)
    module.on_before_optimizer_step = lambda optimizer: None
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


# Several ranks


class Alike(Own):
    """Begins with the weights of the loop that it is compared with."""

    def __init__(self, method="kakurenbo", **options):
        super().__init__(method, **options)
        self.model = Loop(hiding()).model


class BySampler(Alike):
    def train_dataloader(self):
        return DataLoader(POINTS, batch_size=5, sampler=self.hiding.sampler)


class Early(Alike):
    """Makes its Hiding before the Trainer connects the ranks."""

    def __init__(self, **options):
        super().__init__(comm=SerialComm(), **options)


@pytest.fixture
def environment(comm):
    """Lightning's view of ranks that were started by somebody else."""

    class Ranks(LightningEnvironment):
        creates_processes_externally = True

        def world_size(self):
            return comm.size

        def global_rank(self):
            return comm.rank

        def local_rank(self):
            return comm.rank

        def set_world_size(self, size):
            pass

        def set_global_rank(self, rank):
            pass

    environment = Ranks()
    (environment._main_port, *_) = comm.gather(find_free_network_port())
    yield environment
    torch.distributed.destroy_process_group()


@pytest.mark.ranks(2)
def test_two_ranks_of_the_trainer_train_as_one(comm, environment, tmp_path):
    def ranks(**changed):
        return {"strategy": "ddp", "devices": 2, "plugins": [environment]} | changed

    alone = Loop(hiding(seed=0, comm=SerialComm()))
    lines = alone.run(range(3))
    module = Alike(batch_size=5)
    by_hiding = ranks(use_distributed_sampler=False, callbacks=[saving(13)], enable_checkpointing=True)
    assert fit(module, tmp_path, **by_hiding) == lines
    torch.testing.assert_close(module.model.weight, alone.model.weight)

    resumed = Alike(batch_size=5)
    assert fit(resumed, tmp_path, 3, tmp_path / "checkpoints/step=13.ckpt", **by_hiding) == lines[1:]
    assert torch.equal(resumed.model.weight, module.model.weight)

    with pytest.raises(UserError, match="Lightning deals the samples to ranks a second time"):
        fit(BySampler(batch_size=5), tmp_path, **ranks())
    with pytest.raises(TypeError, match=r"Trainer\(use_distributed_sampler=False\)"):
        fit(Alike(batch_size=5), tmp_path, **ranks())
    with pytest.raises(UserError, match="the Trainer runs 2 ranks, but Hiding was made on 1; make it in"):
        fit(Early(batch_size=5), tmp_path, **by_hiding)
