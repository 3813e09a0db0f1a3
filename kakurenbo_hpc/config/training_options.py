"""The section training of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..errors import JobError
from .options import (
    Count,
    Fraction,
    Options,
    Plain,
    Positive,
    Probability,
    option,
)


class OneCycle(Options):
    """The schedule onecycle, its keys named as by torch.optim.lr_scheduler.OneCycleLR."""

    pct_start: Annotated[float, Field(gt=0, lt=1)] = option(
        0.3, "Share of the run in which the rate rises.", "fraction"
    )
    div_factor: Positive = option(25.0, "Highest rate by the first.")
    final_div_factor: Positive = option(1e4, "First rate by the last.")
    cycle_momentum: bool = option(
        False, "Lower the momentum, or beta1, while the rate rises, and raise it again."
    )
    base_momentum: Fraction = option(0.85, "Lowest momentum.")
    max_momentum: Fraction = option(0.95, "Highest momentum, at both ends.")


class Training(Options):
    """How the network is trained."""

    epochs: Annotated[int, Field(ge=0, lt=2**31)] = option(
        0, "Epochs of the run; this or iterations.", "epochs"
    )
    iterations: Annotated[int, Field(ge=0, lt=2**31)] = option(
        0,
        "Instead of epochs: in steps of an epoch that hides nothing, rounded up to whole epochs, which the "
        "schedule spans.",
        "steps",
    )
    global_batch: Count | None = option(
        None,
        "Samples of one optimizer step over all ranks and accumulated batches; this or batch_per_rank.",
        "samples",
    )
    batch_per_rank: Count | None = option(
        None, "Samples of one local batch; this or global_batch.", "samples"
    )
    accumulate: Count = option(
        1,
        "Local batches that make one optimizer step; candidates of batch-level methods are passed forward in "
        "as many parts.",
        "batches",
    )
    optimizer: str = option("sgd", "Optimizer: any of timm's names; sgd needs no timm.")
    lr: Positive = option(..., "Learning rate after warm-up, before lr_scaling.")
    lr_scaling: Literal["none", "ranks"] = option(
        "none", "ranks multiplies lr by the number of ranks (Goyal et al. 2017)."
    )
    optimizer_options: Plain = option(
        {}, "Further arguments of the optimizer, passed on as they are: betas, eps, alpha."
    )
    momentum: Fraction = option(0.9, "Momentum of the optimizer.")
    nesterov: bool = option(False, "Nesterov momentum.")
    weight_decay: Annotated[float, Field(ge=0)] = option(0.0, "Weight decay of the optimizer.")
    decay_norms: bool = option(False, "Weight decay acts on biases and norms, too.")
    clip_norm: Positive | None = option(
        None, "Largest norm of the whole gradient; a longer one is scaled down to it."
    )
    schedule: Literal["constant", "cosine", "step", "multistep", "poly", "tanh", "onecycle"] = option(
        "cosine",
        "Learning-rate schedule, a function of the progress through the epochs: hiding samples does not "
        "stretch it.",
    )
    schedule_by: Literal["step", "epoch"] = option(
        "step", "Whether the rate falls at each step or once an epoch; warm-up is by step."
    )
    onecycle: OneCycle = option(OneCycle(), "Parameters of schedule onecycle.")
    warmup_epochs: Annotated[float, Field(ge=0)] = option(0, "Linear warm-up of the learning rate.", "epochs")
    warmup_steps: Annotated[int, Field(ge=0)] = option(
        0, "Instead of warmup_epochs: in steps of an epoch that hides nothing.", "steps"
    )
    min_lr: Annotated[float, Field(ge=0)] = option(0.0, "Lowest learning rate of the schedule.")
    decay_epochs: Positive | None = option(
        None, "With schedule step: epochs between two drops of the rate.", "epochs"
    )
    milestones: list[Positive] = option(
        [], "With schedule multistep: epochs at which the rate drops.", "epochs"
    )
    milestone_steps: list[Count] = option(
        [], "Instead of milestones: in steps of an epoch that hides nothing.", "steps"
    )
    decay_rate: Positive = option(0.1, "Factor of each drop of the rate.")
    criterion: Literal["cross_entropy", "focal"] = option("cross_entropy", "Loss function of training.")
    focal_gamma: Annotated[float, Field(ge=0)] = option(
        2.0, "With criterion focal: exponent of the focal loss."
    )
    class_weights: list[Annotated[float, Field(ge=0)]] | None = option(
        None, "Weight of each class in the loss."
    )
    label_smoothing: Fraction = option(0.0, "Label smoothing of the cross entropy.", "fraction")
    mixup: Annotated[float, Field(ge=0)] = option(
        0.0, "Parameter alpha of MixUp's Beta distribution, 0 for none; only where nothing is selected."
    )
    cutmix: Annotated[float, Field(ge=0)] = option(
        0.0, "Parameter alpha of CutMix's Beta distribution, 0 for none; only where nothing is selected."
    )
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "Arithmetic of the forward pass; fp16 with loss scaling."
    )
    channels_last: bool = option(
        False, "Keep images and convolutions with their channels last, which tensor cores prefer."
    )
    compile: bool = option(False, "Compile the network by torch.compile.")
    sync_batchnorm: bool = option(
        False, "Compute BatchNorm's statistics over the batches of all ranks (GPUs only)."
    )
    correct_iou: Probability = option(
        0.7, "Mean IoU from which a segmentation sample counts as correct.", "fraction"
    )
    skipped_steps: Count = option(
        10,
        "Steps in a row with a gradient that is not finite (each is skipped) that end the run; with fp16 "
        "they count once the loss scale is below 1, where overflow no longer explains them.",
        "steps",
    )
    ema: Fraction = option(
        0.0,
        "Share that an exponential moving average of the weights keeps of itself at each step, for example "
        "0.999; the average is what is evaluated. 0 for none.",
        "fraction",
    )
    ema_every: Count = option(1, "Steps from one update of the average to the next.", "steps")
    ema_style: Literal["plain", "torchvision"] = option(
        "plain",
        "torchvision, as its reference training does it: 1 - ema is multiplied by global batch x ema_every / "
        "epochs, and until warm-up is over the average is the weights of its latest update.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if bool(self.epochs) == bool(self.iterations):
            found = "both are" if self.epochs else "neither is"
            raise ValueError(f"exactly one of epochs and iterations is needed, but {found} given")
        if (self.global_batch is None) == (self.batch_per_rank is None):
            found = "neither is" if self.global_batch is None else "both are"
            raise ValueError(f"exactly one of global_batch and batch_per_rank is needed, but {found} given")
        for epochs, steps in (("warmup_epochs", "warmup_steps"), ("milestones", "milestone_steps")):
            if getattr(self, epochs) and getattr(self, steps):
                raise ValueError(f"{epochs} and {steps} are both given; choose one")
        if self.schedule == "multistep" and not (self.milestones or self.milestone_steps):
            raise ValueError(
                "schedule is multistep, but milestones is empty; list the epochs at which the rate falls"
            )
        if self.schedule == "onecycle" and (self.warmup_epochs or self.warmup_steps or self.min_lr):
            raise ValueError(
                "schedule is onecycle, which has a rise and a lowest rate of its own; remove warm-up and "
                "min_lr"
            )
        if self.schedule != "onecycle" and self.onecycle != OneCycle():
            raise ValueError(
                f"onecycle is given, but schedule is {self.schedule}; set schedule to onecycle, or remove it"
            )
        if self.schedule == "onecycle" and self.schedule_by == "epoch":
            raise ValueError("schedule is onecycle, which moves at each step; remove schedule_by")
        if not self.ema and (self.ema_every > 1 or self.ema_style != "plain"):
            raise ValueError("ema_every or ema_style is given, but ema is 0; give ema, or remove them")
        if self.schedule == "step" and self.decay_epochs is None:
            raise ValueError(
                "schedule is step, but decay_epochs is missing; give the epochs between two falls of the rate"
            )
        if self.criterion == "focal" and (self.label_smoothing or self.mixup or self.cutmix):
            raise ValueError(
                "criterion is focal, which knows no soft targets; remove label_smoothing, mixup and cutmix"
            )
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError(
                f"class_weights is {self.class_weights}, but one of them at least must be above 0"
            )
        if self.mixup and self.cutmix:
            raise ValueError("mixup and cutmix are both given; choose one")
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}, but must be less than epochs, {self.epochs}"
            )
        return self

    def batch(self, n_ranks: int) -> int:
        """Return the global batch on n_ranks ranks, accumulation included; their parts of it differ by one.

        Raises:
            ValueError: it has fewer samples than parts.
        """
        if self.batch_per_rank is not None:
            return self.batch_per_rank * n_ranks * self.accumulate
        assert self.global_batch is not None
        if self.global_batch < n_ranks * self.accumulate:
            raise ValueError(
                f"training.global_batch is {self.global_batch}, too small for {n_ranks} ranks x "
                f"{self.accumulate} accumulated batches; use at least {n_ranks * self.accumulate}, or "
                "training.batch_per_rank"
            )
        return self.global_batch

    def accumulate_on(self, n_ranks: int, n_usual: int) -> int:
        """Return the accumulated batches on n_ranks ranks that are no larger than they are on n_usual."""
        batch = self.batch(n_usual)
        largest = -(-batch // (n_usual * self.accumulate))
        wanted = max(self.accumulate, -(-batch // (n_ranks * largest)))
        return min(wanted, batch // n_ranks)  # a part has at least one sample

    def in_epochs(self, n: int, global_batch: int) -> Training:
        """Return the same with all its lengths in epochs of n samples, all of them trained.

        Raises JobError if warm-up is as long as the run.
        """
        steps = -(-n // global_batch)
        epochs = self.epochs or -(-self.iterations // steps)
        values = self.model_dump() | {
            "epochs": epochs,
            "iterations": 0,
            "warmup_steps": 0,
            "milestone_steps": [],
        }
        for name, n_steps in (
            ("warmup_epochs", self.warmup_epochs * steps),
            ("warmup_steps", self.warmup_steps),
        ):
            if n_steps >= epochs * steps:
                raise JobError(
                    f"training.{name} is {getattr(self, name):g}, but must be less than the run's "
                    f"{epochs * steps} steps, {epochs} epochs of {steps}"
                )
        if self.warmup_steps:
            values["warmup_epochs"] = self.warmup_steps / steps
        if self.milestone_steps:
            values["milestones"] = [step / steps for step in self.milestone_steps]
        return Training(**values)

    def of_epochs(self, epochs: int) -> Training:
        """Return the same for a run of so many epochs, its schedule stretched or shortened with it.

        Raises:
            JobError: the length of the run is given in iterations.
        """
        if self.iterations:
            raise JobError(
                f"training.iterations is {self.iterations}, but here a run's epochs are changed; give "
                "training.epochs"
            )
        values, factor = self.model_dump(), epochs / self.epochs
        for name in ("warmup_epochs", "decay_epochs"):
            values[name] = values[name] and values[name] * factor
        values["warmup_steps"] = round(values["warmup_steps"] * factor)
        values["milestones"] = [epoch * factor for epoch in values["milestones"]]
        values["milestone_steps"] = [max(1, round(step * factor)) for step in values["milestone_steps"]]
        return Training(**values | {"epochs": epochs})

    def peak_lr(self, n_ranks: int) -> float:
        """Return the learning rate after warm-up: ``lr``, or ``lr`` times the ranks (Goyal et al. 2017)."""
        return self.lr * (n_ranks if self.lr_scaling == "ranks" else 1)
