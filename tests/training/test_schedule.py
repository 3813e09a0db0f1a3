"""The learning rate as a function of how far the run is."""

import random

import pytest
import torch
from torch import nn

from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.torchvision_compat import timm
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.training.optimizer import build_optimizer
from kakurenbo_hpc.training.schedule import Schedule


def schedule(n=1000, **options):
    training = Training(**{"epochs": 10, "global_batch": 100, "lr": 0.1, **options}).in_epochs(n, 100)
    return Schedule(training, build_optimizer(training, nn.Linear(2, 2), training.lr))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "cycle", [{}, {"pct_start": 0.4, "div_factor": 10.0, "final_div_factor": 50.0, "base_momentum": 0.8}]
)
def test_onecycle_is_torchs(cycle, optimizer):
    n = 10_000
    training = Training(
        epochs=10,
        global_batch=2,
        lr=1.0,
        optimizer=optimizer,
        schedule="onecycle",
        onecycle={"cycle_momentum": True, **cycle},
    )
    ours, model = build_optimizer(training, nn.Linear(2, 2), 1.0), nn.Linear(2, 2)
    schedule, optimizer = Schedule(training, ours), build_optimizer(training, model, 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=n, **cycle)
    for step in range(n):
        if step % 100 == 0 or step == n - 1:
            schedule.set(10 * step / (n - 1))
            for name in ("lr", "momentum", "betas"):
                expected = optimizer.param_groups[0].get(name)
                assert ours.param_groups[0].get(name) == (
                    expected if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-7)
                )
        optimizer.step()
        if step < n - 1:
            theirs.step()


def test_onecycle_scales_the_rate_after_its_rise():
    rates = schedule(schedule="onecycle")
    assert rates.set(0, scale=2.0) == pytest.approx(0.1 / 25)
    assert rates.set(3, scale=2.0) == pytest.approx(0.2)
    assert rates.set(10) == pytest.approx(0.1 / 25 / 1e4)


def test_momentum_is_not_cycled_where_there_is_none():
    with pytest.raises(JobError, match="cycle_momentum is true, but optimizer adagrad has no momentum"):
        schedule(schedule="onecycle", onecycle={"cycle_momentum": True}, optimizer="adagrad")


def test_a_cosine_by_epoch_is_that_of_torch():
    rates = schedule(schedule="cosine", schedule_by="epoch", warmup_epochs=2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    assert rates.set(1.5) == pytest.approx(0.075), "warm-up is by step"
    for epoch in range(10):
        if epoch >= 2:
            assert [rates.set(epoch), rates.set(epoch + 0.99)] == [
                pytest.approx(optimizer.param_groups[0]["lr"])
            ] * 2
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("milestones", [{"milestones": [4.5, 8.0]}, {"milestone_steps": [45, 80]}])
def test_the_rate_falls_at_its_milestones(milestones):
    rates = schedule(schedule="multistep", **milestones)
    told = [rates.set(done) for done in (0, 4.49, 4.5, 7.99, 8.0, 9.9)]
    assert told == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_steps_are_counted_in_epochs_that_hide_nothing():
    """A run of 30 % fewer steps an epoch falls at the same progress, so after fewer steps of its own."""
    rates = schedule(
        n=950, schedule="multistep", warmup_steps=5, milestone_steps=[30]
    )  # 9.5 batches are 10 steps
    assert rates.set(0.25) == pytest.approx(0.05)
    for steps in (10, 7):
        falls = next(step for step in range(100) if rates.set((step + 0.5) / steps) < 0.05 and step > steps)
        assert falls == 3 * steps


def test_a_warm_up_longer_than_the_run_is_told():
    with pytest.raises(
        JobError, match="warmup_steps is 100, but must be less than the run's 100 steps, 10 epochs of 10"
    ):
        schedule(warmup_steps=100)


SCHEDULES = [
    {"schedule": "constant"},
    {"schedule": "constant", "warmup_epochs": 3},
    {"schedule": "cosine"},
    {"schedule": "cosine", "warmup_epochs": 2.7, "min_lr": 1e-3},
    {"schedule": "cosine", "warmup_epochs": 1, "lr": 0.3, "epochs": 7},
    {"schedule": "step", "decay_epochs": 2.4, "decay_rate": 0.3, "warmup_epochs": 3},
    {"schedule": "multistep", "milestones": [3, 4.5, 8.0], "decay_rate": 0.2, "warmup_epochs": 0.5},
    {"schedule": "poly", "decay_rate": 0.9, "min_lr": 1e-5, "warmup_epochs": 1},
    {"schedule": "tanh"},
    {"schedule": "tanh", "warmup_epochs": 2, "min_lr": 1e-4},
]


@pytest.mark.parametrize("options", SCHEDULES, ids=str)
def test_rates_are_those_of_timm_to_the_bit(options):
    training = Training(**{"epochs": 10, "global_batch": 100, "lr": 0.1, **options})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=training.lr)
    constant = training.schedule == "constant"
    theirs, _ = timm().scheduler.create_scheduler_v2(
        optimizer,
        sched="step" if constant else training.schedule,
        num_epochs=training.epochs,
        warmup_epochs=training.warmup_epochs,
        warmup_lr=0.0,
        min_lr=training.min_lr,
        decay_epochs=training.decay_epochs or training.epochs,
        # timm's falls come an epoch before its milestones.
        decay_milestones=[milestone + 1 for milestone in training.milestones],
        decay_rate=1.0 if constant else training.decay_rate,
    )
    ours = Schedule(training, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=training.lr))
    rng = random.Random(1)
    steps = [(step + 0.5) / 17 for step in range(17 * training.epochs)]
    for progress in [*range(training.epochs + 1), *steps, *(rng.uniform(0, 10) for _ in range(3000))]:
        theirs.step(progress)
        assert ours.set(progress) == optimizer.param_groups[0]["lr"], progress


def test_iterations_are_rounded_up_to_epochs_which_the_schedule_spans():
    """mmsegmentation's 160,000 steps of 16 images on ADE20K's 20,210: 1,264 steps an epoch."""
    recipe = {"global_batch": 16, "lr": 0.01, "schedule": "poly", "decay_rate": 0.9, "min_lr": 1e-4}
    training = Training(iterations=160_000, milestone_steps=[2528], **recipe).in_epochs(20_210, 16)
    assert (training.epochs, training.iterations, training.milestones) == (127, 0, [2.0])
    rates = Schedule(training, build_optimizer(training, nn.Linear(2, 2), training.lr))
    for step in (0, 40_000, 127 * 1264 - 1):
        theirs = (0.01 - 1e-4) * (1 - step / (127 * 1264)) ** 0.9 + 1e-4
        assert rates.set(step / 1264) == pytest.approx(theirs)
    with pytest.raises(JobError, match="warmup_epochs is 127, but must be less than the run's 160528 steps"):
        Training(iterations=160_000, warmup_epochs=127, **recipe).in_epochs(20_210, 16)
    with pytest.raises(JobError, match="training.iterations is 160000, but here a run's epochs are changed"):
        Training(iterations=160_000, **recipe).of_epochs(3)
