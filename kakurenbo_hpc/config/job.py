"""The typed form of a job file: one experiment, checked whole before any rank starts.

The option models of data sets and methods are not known here: their tables are handed to ``read_job``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, SerializeAsAny, model_validator

from .data_options import DataOptions
from .job_values import read_values
from .options import (
    Count,
    ExpandedPath,
    FileName,
    Options,
    Plain,
    Positive,
    Seed,
    Table,
    checked,
    option,
    pick,
)
from .registry import is_path, search_folder
from .training_options import Training
from .yaml import set_value


class SelectionOptions(Options):
    """Key that every selection method takes."""

    method: str

    def check_run(self, epochs: int, data: DataOptions) -> None:
        """Raise ValueError where a run of so many epochs on this data cannot be."""


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


_HOROVOD_ONLY, _DDP_ONLY = ("gradient_predivide_factor",), ("bucket_mib", "static_graph")


class WorldOptions(Options):
    """How ranks work together."""

    gradients: Literal["ddp", "horovod"] = option(
        "ddp", "What averages gradients over ranks: PyTorch's DistributedDataParallel or Horovod."
    )
    compression: Literal["none", "fp16", "bf16"] = option(
        "none", "Send gradients as float16 or, with DDP on GPUs, as bfloat16; they are rounded on the way."
    )
    bucket_mib: Positive | None = option(
        None,
        "DDP only: gradients that are sent together; PyTorch's 25 if not given. Smaller buckets are sent "
        "earlier in a backward pass, and cost more messages.",
        "MiB",
    )
    static_graph: bool = option(
        False,
        "DDP only: every step uses the same parameters in the same order, which spares the search for those "
        "that were not used.",
    )
    gradient_predivide_factor: Positive = option(
        1.0,
        "Horovod only: divide gradients by this before they are summed, and by the rest of the number of "
        "ranks after, so that sums stay small.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> WorldOptions:
        other, theirs = ("Horovod", _HOROVOD_ONLY) if self.gradients == "ddp" else ("DDP", _DDP_ONLY)
        for name in theirs:
            if getattr(self, name) != WorldOptions.model_fields[name].default:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which {other} alone knows, but gradients is "
                    f"{self.gradients}; remove it"
                )
        if (self.gradients, self.compression) == ("horovod", "bf16"):
            raise ValueError(
                "compression is bf16, which DDP alone knows, but gradients is horovod; set it to fp16"
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
    evaluate_every: Annotated[int, Field(ge=0)] = option(
        0,
        "Optimizer steps of an epoch between evaluations that are written into evaluations.jsonl; 0 for at "
        "the end of epochs alone.",
        "steps",
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
    def _selection_fits(self) -> Job:
        if self.training.epochs:  # iterations are epochs only where the data is known
            self.selection.check_run(self.training.epochs, self.data)
        return self

    @model_validator(mode="after")
    def _one_batchnorm(self) -> Job:
        if self.training.sync_batchnorm and self.world.gradients == "horovod":
            raise ValueError(
                "training.sync_batchnorm is true, but world.gradients is horovod; set it to false, or "
                "gradients to ddp"
            )
        return self

    @model_validator(mode="after")
    def _one_precision(self) -> Job:
        inputs, layers = getattr(self.data, "precision", "fp32"), self.training.precision
        if inputs not in ("fp32", layers):
            raise ValueError(
                f"data.precision is {inputs}, but training.precision is {layers}, whose layers do not take "
                "such inputs; set both to the same"
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
