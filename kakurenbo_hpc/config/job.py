"""The typed form of a job file: one experiment, checked whole before any rank starts.

The option models of data sets and methods are not known here: their tables are handed to ``read_job``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ..errors import JobError
from .options import (
    Count,
    FileName,
    Fraction,
    Options,
    Plain,
    Positive,
    Probability,
    Seed,
    Table,
    checked,
    pick,
)
from .yaml import read_yaml, set_value

Augmentation = Literal[
    "flip",
    "crop",
    "shift",
    "cutout",
    "auto_augment",
    "rand_augment",
    "trivial_augment_wide",
    "random_erasing",
]


class DataOptions(Options):
    """What every data set takes. workers: loader processes per rank; 0 reads in the rank's own process.

    seed: of the data set itself, whatever the seed of the run: what is rendered, and which samples the variations below strike.
    label_noise: share of the training labels that are another class's. imbalance: training samples of the last class for each
    of the first, fewer from class to class. repeats: how often each training sample is there, every time as an id of its own;
    repeats_classes: only those of the last classes, this share of all. drop_classes: classes that are left out everywhere.
    augmentation: what training images go through, in this order.
    placement: every rank reads all samples from a file system that they share, or its own part from its node's disk (local).
    exchange: local: the share of its samples that each rank swaps with random others after each plan; 0 to 1.
    """

    name: str
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    seed: Seed = 0
    label_noise: Probability = 0.0
    imbalance: Annotated[float, Field(gt=0, le=1)] = 1.0
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    repeats_classes: Annotated[float, Field(gt=0, le=1)] = 1.0
    drop_classes: list[Annotated[int, Field(ge=0)]] = []
    augmentation: list[Augmentation] = []
    placement: Literal["shared", "local"] = "shared"
    exchange: Probability = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> DataOptions:
        for name in ("drop_classes", "augmentation"):
            values = getattr(self, name)
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{name} holds {twice[0]} twice; keep one")
        if self.repeats_classes < 1 and self.repeats == 1:
            raise ValueError(
                f"repeats_classes is {self.repeats_classes:g}, but repeats is 1; say how often with repeats"
            )
        return self


class Model(Options):
    """name: a small network of ours, or any of timm's or torchvision's. options: passed on to its constructor."""

    name: str
    options: Plain = {}


class Training(Options):
    """How the network is trained; the papers' words, epochs as the unit of time, learning rate before any scaling.

    warmup_steps, milestone_steps: in steps of an epoch that hides nothing, instead of warmup_epochs and milestones.
    mixup, cutmix: the parameter alpha of their Beta distribution; 0 for none.
    correct_iou: the mean IoU from which a sample of a segmentation counts as correct.
    skipped_steps: so many steps in a row whose gradient is not finite, and which are therefore skipped, end the run; with
    precision fp16 they count once the loss scale is below 1, where overflow no longer explains them.
    ema: the share that an average of the weights keeps of itself at each step, 0.999 for example, which is then what is evaluated.
    """

    epochs: Count
    global_batch: Count | None = None
    batch_per_rank: Count | None = None
    accumulate: Count = 1
    optimizer: str = "sgd"
    lr: Positive
    lr_scaling: Literal["none", "ranks"] = "none"
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "step", "multistep", "poly", "tanh", "onecycle"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    decay_epochs: Positive | None = None
    milestones: list[Positive] = []
    milestone_steps: list[Count] = []
    decay_rate: Positive = 0.1
    criterion: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    class_weights: list[Annotated[float, Field(ge=0)]] | None = None
    label_smoothing: Fraction = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    sync_batchnorm: bool = False
    correct_iou: Probability = 0.7
    skipped_steps: Count = 10
    ema: Fraction = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> Training:
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
                "schedule is onecycle, which has a rise and a lowest rate of its own; remove warm-up and min_lr"
            )
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
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}, but must be less than epochs, {self.epochs}"
            )
        return self

    def batch(self, n_ranks: int) -> int:
        """Return the global batch on n_ranks ranks, accumulation included. Raises ValueError if it does not divide."""
        if self.batch_per_rank is not None:
            return self.batch_per_rank * n_ranks * self.accumulate
        if self.global_batch % (n_ranks * self.accumulate):
            raise ValueError(
                f"training.global_batch is {self.global_batch}, not divisible by {n_ranks} ranks x {self.accumulate} "
                f"accumulated batches; use a multiple of {n_ranks * self.accumulate}, or training.batch_per_rank"
            )
        return self.global_batch

    def in_epochs(self, n: int, global_batch: int) -> Training:
        """Return the same with warm-up and milestones in epochs of n samples, all of them trained.

        Raises JobError if warm-up is as long as the run.
        """
        steps = -(-n // global_batch)
        values = self.model_dump() | {"warmup_steps": 0, "milestone_steps": []}
        if self.warmup_steps:
            if self.warmup_steps >= self.epochs * steps:
                raise JobError(
                    f"training.warmup_steps is {self.warmup_steps}, but must be less than the run's {self.epochs * steps} steps, "
                    f"{self.epochs} epochs of {steps}"
                )
            values["warmup_epochs"] = self.warmup_steps / steps
        if self.milestone_steps:
            values["milestones"] = [step / steps for step in self.milestone_steps]
        return Training(**values)

    def peak_lr(self, n_ranks: int) -> float:
        """Return the learning rate after warm-up: ``lr``, times the ranks if the job says so (Goyal et al. 2017)."""
        return self.lr * (n_ranks if self.lr_scaling == "ranks" else 1)


class WorldOptions(Options):
    """How ranks work together. gradients: what averages them, PyTorch's DistributedDataParallel or Horovod.

    compression, gradient_predivide_factor: Horovod's: gradients travel as float16; they are divided by this before they are
    added up, and only by the rest of the number of ranks after, so that sums stay small.
    """

    gradients: Literal["ddp", "horovod"] = "ddp"
    compression: Literal["none", "fp16"] = "none"
    gradient_predivide_factor: Positive = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> WorldOptions:
        for name in ("compression", "gradient_predivide_factor"):
            if self.gradients != "horovod" and getattr(self, name) != WorldOptions.model_fields[name].default:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which Horovod alone knows, but gradients is {self.gradients}; remove it"
                )
        return self


class Record(Options):
    """What is kept on disk. checkpoint_every: epochs between checkpoints; the last epoch always has one.

    weights_at: epochs after which a weights file is written, by methods that draw by weights.
    hang_timeout: seconds after which ranks of which none has come further say where they are, and leave; 0 for never.
    """

    ledger: bool = False
    weights_at: list[Annotated[int, Field(ge=0)]] = []
    checkpoint_every: Count = 1
    keep: Count = 2
    hang_timeout: Annotated[float, Field(ge=0)] = (
        500.0  # NCCL gives up after 600 s, and does not say where the ranks were
    )


class Job(Options):
    """One experiment."""

    name: FileName
    seed: Seed = 0
    data: SerializeAsAny[DataOptions]
    model: Model
    training: Training
    selection: SerializeAsAny[Options]
    world: WorldOptions = WorldOptions()
    record: Record = Record()

    @model_validator(mode="after")
    def _one_loss_a_sample(self) -> Job:
        for name in ("mixup", "cutmix"):
            if getattr(self.training, name) and self.selection.method != "everything":
                raise ValueError(
                    f"training.{name} is {getattr(self.training, name):g} with selection.method {self.selection.method}, but its loss "
                    "belongs to two samples and cannot choose between them; set it to 0, or select everything"
                )
        return self

    @model_validator(mode="after")
    def _one_batchnorm(self) -> Job:
        if self.training.sync_batchnorm and self.world.gradients == "horovod":
            raise ValueError(
                "training.sync_batchnorm is true, but world.gradients is horovod; set it to false, or gradients to ddp"
            )
        return self

    def as_dict(self) -> dict:
        """Return plain values, every default written out: what ``job.yaml`` holds."""
        return self.model_dump(mode="json")


def read_job(path: str | Path, overrides: Iterable[str], data: Table, methods: Table) -> Job:
    """Read a job file, apply ``a.b=value`` overrides, and check every key.

    data, methods: name -> option model, for ``data.name`` and ``selection.method``.
    Raises JobError, one line, for the first thing that is wrong.
    """
    values = read_yaml(path)
    for override in overrides:
        set_value(values, override)
    return check_job(values, str(path), data, methods)


def check_job(values: dict, where: str, data: Table, methods: Table) -> Job:
    """Return the typed job of plain values; ``where`` begins the message of a JobError."""
    values = dict(values)
    values["data"] = pick(values, where, "data", "name", data)
    values["selection"] = pick(values, where, "selection", "method", methods)
    return checked(Job, values, where)
