"""The typed form of a job file: one experiment, checked whole before any rank starts.

The option models of data sets and methods are not known here: their tables are handed to ``read_job``.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Discriminator, Field, SerializeAsAny, Tag, model_validator

from ..errors import JobError
from .augmentations import AUGMENTATIONS, VIEWS, Augmentation, View, parse_step
from .job_values import read_values
from .options import (
    Count,
    ExpandedPath,
    FileName,
    Fraction,
    Options,
    Plain,
    Positive,
    Probability,
    Seed,
    Table,
    checked,
    option,
    pick,
)
from .registry import is_path, search_folder
from .yaml import set_value

Repeats = Annotated[
    Annotated[int, Field(ge=1, le=10_000), Tag("int")]
    | Annotated[list[list[Augmentation]], Field(min_length=2), Tag("list")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "int"),
]


class DataOptions(Options):
    """Keys that every data set takes."""

    name: str = option(
        ..., "Data set: one of ours (kakurenbo datasets), an installed package's, or package.module:Class."
    )
    workers: Annotated[int, Field(ge=0, le=256)] = option(
        0, "DataLoader worker processes of each rank; 0 reads in the rank's own process."
    )
    seed: Seed = option(
        0,
        "Seed of the data set itself, whatever the seed of the run: what is rendered, and which samples "
        "the variations below affect.",
    )
    label_noise: Probability = option(
        0.0, "Share of the training labels that are replaced by another class.", "fraction"
    )
    imbalance: Annotated[float, Field(gt=0, le=1)] = option(
        1.0,
        "Training samples of the last class for each one of the first; classes between fall off "
        "geometrically.",
        "fraction",
    )
    repeats: Repeats = option(
        1,
        "How often each training sample is in the data set, every time under an id of its own; or a list of "
        "augmentation lists, one for each time, which stand in place of augmentation.",
    )
    repeats_classes: Annotated[float, Field(gt=0, le=1)] = option(
        1.0, "Share of the classes, drawn by seed, whose samples are repeated.", "fraction"
    )
    drop_classes: list[Annotated[int, Field(ge=0)]] = option(
        [], "Classes that are left out of training and validation."
    )
    holdout: Fraction = option(
        0.0,
        "Share of the training samples that a hash of data.seed and id cuts off: no method trains them, and "
        "those that judge by a validation set of their own (glister) judge by them.",
        "fraction",
    )
    augmentation: list[Augmentation] = option(
        [],
        "Training augmentations in this order: names, or a name with options, such as crop: {padding: 4} or, "
        "for the first option, crop: 4.",
    )
    evaluation: list[View] = option(
        [], "What images go through where they are not augmented: resize, center_crop, normalize."
    )
    placement: Literal["shared", "local"] = option(
        "shared",
        "shared: every rank reads all samples from a shared file system; local: each rank trains from its "
        "shard on its node's own disk.",
    )
    exchange: Probability = option(
        0.0,
        "With placement local: the share of its samples that each rank swaps with random other ranks after "
        "each plan.",
        "fraction",
    )

    def augmentations_of_repeats(self) -> list[list[Augmentation]]:
        """Return the augmentation list of each copy of a repeated sample; none where all have the same."""
        return self.repeats if isinstance(self.repeats, list) else []

    @abstractmethod
    def open(self, directory: Path | None = None) -> Any:
        """Open the data set. Called on rank 0 alone.

        Args:
            directory: the run's, for what is worth keeping beside the data.

        Returns:
            A ``kakurenbo_hpc.data.dataset.DatasetSplits``.

        Raises:
            DataError: the data is not there, or is not what it must be.
        """

    @model_validator(mode="after")
    def _consistent(self) -> DataOptions:
        training, evaluation, *copies = (
            [parse_step(entry, table) for entry in entries]
            for entries, table in (
                (self.augmentation, AUGMENTATIONS),
                (self.evaluation, VIEWS),
                *((entries, AUGMENTATIONS) for entries in self.augmentations_of_repeats()),
            )
        )
        names: dict[str, list] = {
            "drop_classes": self.drop_classes,
            "augmentation": [step.name for step in training],
            "evaluation": [step.name for step in evaluation],
            **{f"repeats[{i}]": [step.name for step in steps] for i, steps in enumerate(copies)},
        }
        for name, values in names.items():
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{name} holds {twice[0]} twice; keep one")
        if [step for step in training if step.name == "normalize"] != [
            step for step in evaluation if step.name == "normalize"
        ]:
            raise ValueError(
                "augmentation and evaluation must normalize alike, or the network is evaluated on other "
                "values than it was trained on; write the same normalize in both"
            )
        for i, steps in enumerate(copies):
            for name in ("random_resized_crop", "normalize"):
                if [step for step in steps if step.name == name] != [
                    step for step in training if step.name == name
                ]:
                    raise ValueError(
                        f"repeats[{i}] has another {name} than augmentation; write the same one in both, or "
                        "in neither"
                    )
        if self.repeats_classes < 1 and self.repeats == 1:
            raise ValueError(
                f"repeats_classes is {self.repeats_classes:g}, but repeats is 1; say how often with repeats"
            )
        return self


class SelectionOptions(Options):
    """Key that every selection method takes."""

    method: str


# Methods are not known here: whoever knows them writes Job[Method].
SelectionT = TypeVar("SelectionT", bound=SelectionOptions)


class Model(Options):
    """The network."""

    name: str = option(
        ...,
        "Network: one of ours, any of timm's or torchvision's (kakurenbo models), an installed package's, "
        "or package.module:function. Where two libraries have one of that name, timm's; torchvision/resnet50 "
        "names torchvision's.",
    )
    options: Plain = option({}, "Arguments of the network's constructor, passed on as they are.")
    batchnorm_momentum: Annotated[float, Field(gt=0, le=1)] | None = option(
        None,
        "Momentum of BatchNorm's running statistics as PyTorch has it, the share of the new batch; the "
        "network's own if not given. TensorFlow's 0.99 is 0.01 here.",
        "fraction",
    )
    weights_from: ExpandedPath | None = option(
        None,
        "Run directory or safetensors file whose weights the network begins with: of a run, those of its "
        "newest checkpoint, averaged if it has ema. Layers whose shape differs are left out, and named.",
    )
    skip: list[str] = option([], "With weights_from: further layers that are left out, such as head.")

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.skip and self.weights_from is None:
            raise ValueError("skip is given, but weights_from is not; give it, or remove skip")
        return self


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
    accumulate: Count = option(1, "Local batches that make one optimizer step.", "batches")
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
        """Return the global batch on n_ranks ranks, accumulation included.

        Raises:
            ValueError: it does not divide.
        """
        if self.batch_per_rank is not None:
            return self.batch_per_rank * n_ranks * self.accumulate
        assert self.global_batch is not None
        if self.global_batch % (n_ranks * self.accumulate):
            raise ValueError(
                f"training.global_batch is {self.global_batch}, not divisible by {n_ranks} ranks x "
                f"{self.accumulate} accumulated batches; use a multiple of {n_ranks * self.accumulate}, or "
                "training.batch_per_rank"
            )
        return self.global_batch

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


class WorldOptions(Options):
    """How ranks work together."""

    gradients: Literal["ddp", "horovod"] = option(
        "ddp", "What averages gradients over ranks: PyTorch's DistributedDataParallel or Horovod."
    )
    compression: Literal["none", "fp16"] = option("none", "Horovod only: send gradients as float16.")
    gradient_predivide_factor: Positive = option(
        1.0,
        "Horovod only: divide gradients by this before they are summed, and by the rest of the number of "
        "ranks after, so that sums stay small.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> WorldOptions:
        for name in ("compression", "gradient_predivide_factor"):
            if self.gradients != "horovod" and getattr(self, name) != WorldOptions.model_fields[name].default:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which Horovod alone knows, but gradients is "
                    f"{self.gradients}; remove it"
                )
        return self


class Record(Options):
    """What is kept on disk."""

    ledger: bool = option(
        False,
        "Write ledger/epoch_NNNN.h5: what each plan was decided on and what it decided, for all samples.",
    )
    weights_at: list[Annotated[int, Field(ge=0)]] = option(
        [],
        "Epochs after which a file is written with the weights that samples would have by that epoch, by "
        "methods that draw samples by weight.",
        "epochs",
    )
    test: bool = option(
        False, "Write test/epoch_NNNN.h5: loss, correctness and confidence of every validation sample."
    )
    images: Annotated[int, Field(ge=0, le=1000)] = option(
        0,
        "Write images.h5 after the last epoch: this many thumbnails of the samples of highest and of lowest "
        "loss, half of each.",
        "images",
    )
    rank_seconds: bool = option(
        False, "Write rank_seconds.h5: seconds of every rank by epoch and stage, waits among them."
    )
    tensorboard: bool = option(
        False, "Write TensorBoard's event files into tensorboard/; needs the extra tensorboard."
    )
    checkpoint_every: Count = option(
        1, "Epochs between checkpoints; the last epoch always has one.", "epochs"
    )
    checkpoint_seconds: Positive | None = option(
        None,
        "Time after the last checkpoint at which another one is written, inside an epoch too: what a crash "
        "loses is bounded by it. Not set: only at the end of epochs.",
        "seconds",
    )
    keep: Count = option(2, "Newest checkpoints that are kept, beside the best.")
    hang_timeout: Annotated[float, Field(ge=0)] = (
        option(  # NCCL gives up after 600 s, and does not report where the ranks were
            500.0,
            "Time without progress on any rank after which all ranks report their position and abort; 0 "
            "for never.",
            "seconds",
        )
    )


class Job(Options, Generic[SelectionT]):
    """One experiment: the typed form of a job file."""

    base: str | None = option(
        None,
        "Job that this one changes: a path beside this file, or a job that comes with the package. Its keys "
        "stand where this file has none; a data.name or a selection.method replaces the whole section.",
    )
    name: FileName = option(..., "Name of the run; its directory is runs/NAME by default.")
    seed: Seed = option(0, "Seed of the run: initial weights, order, draws.")
    data: SerializeAsAny[DataOptions] = option(..., "What is trained on.")
    model: Model = option(..., "The network.")
    training: Training = option(..., "How the network is trained.")
    selection: SerializeAsAny[SelectionT] = option(
        ..., "Which samples are trained: the method and its options."
    )
    world: WorldOptions = option(WorldOptions(), "How ranks work together.")
    record: Record = option(Record(), "What is kept on disk.")
    code: ExpandedPath | None = option(
        None,
        "Folder with the modules of package.module:Class names; the job file's own folder if not given.",
    )

    @model_validator(mode="after")
    def _one_loss_a_sample(self) -> Job:
        for name in ("mixup", "cutmix"):
            if getattr(self.training, name) and self.selection.method != "everything":
                raise ValueError(
                    f"training.{name} is {getattr(self.training, name):g} with selection.method "
                    f"{self.selection.method}, but its loss "
                    "belongs to two samples and cannot choose between them; set it to 0, or select everything"
                )
        return self

    @model_validator(mode="after")
    def _one_batchnorm(self) -> Job:
        if self.training.sync_batchnorm and self.world.gradients == "horovod":
            raise ValueError(
                "training.sync_batchnorm is true, but world.gradients is horovod; set it to false, or "
                "gradients to ddp"
            )
        return self

    def as_dict(self) -> dict:
        """Return plain values, every default written out: what ``job.yaml`` holds."""
        values = self.model_dump(mode="json", exclude={"base"})
        if self.code is None:
            del values["code"]
        return values


def read_job(
    path: str | Path, overrides: Iterable[str], data: Table, methods: Mapping[str, type[SelectionT]]
) -> Job[SelectionT]:
    """Read a job file, apply ``a.b=value`` overrides, and check every key.

    Args:
        path: of the job file.
        overrides: ``section.key=value``, each.
        data: name -> option model, for ``data.name``.
        methods: name -> option model, for ``selection.method``.

    Raises:
        JobError: one line, for the first thing that is wrong.
    """
    values = read_values(path)
    for override in overrides:
        set_value(values, override)
    if "code" not in values and any(map(is_path, _names(values))):
        values["code"] = str(Path(path).absolute().parent)
    return check_job(values, str(path), data, methods)


def check_job(
    values: dict, where: str, data: Table, methods: Mapping[str, type[SelectionT]]
) -> Job[SelectionT]:
    """Return the typed job of plain values.

    Args:
        values: as YAML holds them.
        where: begins the message of a JobError.
        data: as for ``read_job``.
        methods: as for ``read_job``.

    Raises:
        JobError: one line, for the first thing that is wrong.
    """
    values = dict(values)
    if isinstance(values.get("code"), str):
        search_folder(os.path.expanduser(os.path.expandvars(values["code"])))
    values["data"] = pick(values, where, "data", "name", data)
    values["selection"] = pick(values, where, "selection", "method", methods)
    return checked(Job, values, where)


def _names(values: dict) -> list[str]:
    """Return the names of a job's data set, model and method, as far as they are there."""
    keys = (("data", "name"), ("model", "name"), ("selection", "method"))
    sections = [(values.get(section), key) for section, key in keys]
    found = [section.get(key) for section, key in sections if isinstance(section, dict)]
    return [name for name in found if isinstance(name, str)]
