"""The section data of a job: options that all data sets have."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from .augmentation_options import AUGMENTATIONS, VIEWS, Augmentation, View, parse_step
from .options import (
    Fraction,
    Options,
    Probability,
    Seed,
    option,
)

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
            for name in ("random_resized_crop", "downscale", "normalize"):
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
