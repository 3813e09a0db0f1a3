"""Images with masks as a data set: its options, and the samples of its listings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from ...config.augmentation_options import AUGMENTATIONS, VIEWS, Augmentation, Step, View, parse_step
from ...config.data_options import DataOptions
from ...config.options import Count, ExpandedPath, option
from ...errors import DataError, SampleError
from ..augmentation import draws
from ..dataset import Dataset, DatasetSplits, ReadRequest
from .listing import Listing, Names, find_files
from .masks import IGNORED, JOINT_STEPS, class_table, read_pair

if TYPE_CHECKING:
    import torch

    from .masks import Pair

Label = Annotated[int, Field(ge=0, le=255)]
_OF_IMAGES = ("photometric_distortion", "color_jitter", "normalize")  # which leave the mask as it is


class MaskOptions(DataOptions):
    """Keys of data sets of images and masks of any size, in folders of their own."""

    path: ExpandedPath = option(..., "The folder that holds the folders of images and masks.")
    images: str = option("images", "Folder of the images, in which there is one for each split.")
    annotations: str = option("annotations", "Folder of the masks, laid out as that of the images is.")
    training: str = option("training", "The training split, in both folders.")
    validation: str = option("validation", "The validation split, in both folders.")
    image_suffix: str = option(".jpg", "How the images' names end.")
    mask_suffix: str = option(".png", "What their masks' names have instead.")
    classes: Annotated[int, Field(ge=2, le=254)] = option(..., "Number of classes.", "classes")
    first_label: Label = option(0, "Label of class 0 in the masks; the others follow.")
    ignore_label: Label | None = option(255, "Label of pixels that count nowhere.")
    augmentation: list[Augmentation] = option(
        [
            {"random_scale": {"shorter": 512}},
            {"random_crop": {"size": 512, "max_share": 0.75}},
            "flip",
            "photometric_distortion",
            {"normalize": "imagenet"},
        ],
        "Training augmentations in this order; random_scale, random_crop and flip change image and mask "
        "together, and come first.",
    )
    evaluation: list[View] = option(
        [{"normalize": "imagenet"}],
        "What images go through where they are not augmented. Predictions are compared with the masks at the "
        "masks' own sizes.",
    )
    threads: Count = option(4, "Images that a rank reads at once, where workers is 0.", "threads")

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """List images and masks, or take the listings that are kept.

        Raises:
            DataError: files are missing or have no partner, a kept listing does not fit them, or a step is
                not for images with masks.
        """
        training, view = self._joint_steps()
        table = self._table()
        pairs = [self._find_pairs(split, directory) for split in ("train", "validation")]
        train, validation = (MaskedImages(*pair, training, view, table, self.threads) for pair in pairs)
        shape, target_shape = train.shapes()
        digests = "-".join(listing.digest() for pair in pairs for listing in pair)
        return DatasetSplits(
            train=train,
            validation=validation,
            n_classes=self.classes,
            shape=shape,
            fingerprint=f"masks-{digests}-{self.classes}-{self.first_label}-{self.ignore_label}",
            target_shape=target_shape,
            crops=True,
            own_sizes=True,
        )

    def _table(self) -> np.ndarray:
        last = self.first_label + self.classes - 1
        if last > 255:
            raise DataError(
                f"data.classes is {self.classes} and data.first_label {self.first_label}, but labels end at "
                "255; lower one of them"
            )
        return class_table(self.classes, self.first_label, self.ignore_label)

    def _find_pairs(self, name: str, directory: Path | None) -> tuple[Listing, Listing]:
        """Return images and masks of a split, in the same order."""
        root, split = Path(self.path), self.training if name == "train" else self.validation
        kinds = (("images", self.images, self.image_suffix), ("masks", self.annotations, self.mask_suffix))
        images, masks = (
            find_files(root, f"{folder}/{split}", suffix, f"{name}_{kind}", directory)
            for kind, folder, suffix in kinds
        )
        wanted = [self._mask_of(image) for image in Names(images)]
        there = list(Names(masks))
        if wanted != there:
            known, asked = set(there), set(wanted)
            for image, mask in zip(Names(images), wanted, strict=True):
                if mask not in known:
                    raise DataError(f"{root / image}: has no mask; add {root / mask}, or remove the image")
            alone = next(mask for mask in there if mask not in asked)
            raise DataError(f"{root / alone}: has no image; add it, or remove the mask")
        return images, masks

    def _mask_of(self, image: str) -> str:
        return (
            self.annotations
            + image.removeprefix(self.images).removesuffix(self.image_suffix)
            + self.mask_suffix
        )

    def _joint_steps(self) -> tuple[list[Step], list[Step]]:
        """Return the steps of image and mask together: of the training augmentation, and of the view."""
        training = _joint("augmentation", [parse_step(entry, AUGMENTATIONS) for entry in self.augmentation])
        view = _joint("evaluation", [parse_step(entry, VIEWS) for entry in self.evaluation])
        if [step.name for step in training if step.name.startswith("random")][-1:] == ["random_scale"]:
            raise DataError(
                "data.augmentation: random_crop is missing after random_scale, but images of any size must "
                "come to one; add it"
            )
        return training, view


def _joint(key: str, steps: Sequence[Step]) -> list[Step]:
    """Return the steps that change image and mask together, which must come first.

    Raises:
        DataError: they do not, or another step would change the image's geometry alone.
    """
    known = (*JOINT_STEPS, *_OF_IMAGES)
    joint = [step for step in steps if step.name in JOINT_STEPS]
    for place, step in enumerate(steps):
        if step.name not in known:
            raise DataError(
                f"data.{key} holds {step.name}, which is not for images with masks; take of "
                f"{', '.join(known)}"
            )
        if step.name in _OF_IMAGES and place < len(joint):
            raise DataError(
                f"data.{key}: {joint[-1].name} must come before {step.name}, since masks change while they "
                "are read"
            )
    return joint


class MaskedImages(Dataset):
    """Images of a listing and masks of another, in the same order."""

    def __init__(
        self,
        images: Listing,
        masks: Listing,
        training: Sequence[Step],
        view: Sequence[Step],
        table: np.ndarray,
        threads: int,
    ):
        """Prepare to read.

        Args:
            images: the images.
            masks: their masks.
            training: what changes both where images are augmented.
            view: what is done elsewhere.
            table: the class of each label, (256,) uint8.
            threads: pairs that are read at once.
        """
        self._images, self._masks, self._table, self._threads = images, masks, table, threads
        self._training, self._view = training, view

    def __len__(self) -> int:
        return len(self._images.rows())

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the first image and mask as they are read for training."""
        [paths] = self._paths(np.array([0]))
        image, mask = self._read(paths, [(step, np.uint64(0)) for step in self._training])
        return tuple(image.shape), tuple(mask.shape)

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Read images, in [0, 1], and masks of classes, in which -100 is ignored."""
        import torch
        from torch.utils.data import get_worker_info

        steps = self._training if request.augment else self._view
        drawn = [draws(request.seed, step.name, request) for step in steps]
        work = [
            (paths, [(step, draw[place]) for step, draw in zip(steps, drawn, strict=True)])
            for place, paths in enumerate(self._paths(request.id))
        ]
        if self._threads > 1 and len(work) > 1 and get_worker_info() is None:
            with ThreadPoolExecutor(self._threads) as pool:
                pairs = list(pool.map(lambda given: self._read(*given), work))
        else:
            pairs = [self._read(*given) for given in work]
        for ((path, _), _), (image, _) in zip(work, pairs, strict=True):
            if image.shape != pairs[0][0].shape:
                raise SampleError(
                    f"{path}: is of {image.shape[1]} x {image.shape[2]} pixels, but "
                    f"another image of {pairs[0][0].shape[1]} x {pairs[0][0].shape[2]}; only random_crop "
                    "brings images with masks to one size, in passes under data.augmentation"
                )
        images, masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return images.float().div_(255), masks.long().masked_fill_(masks == IGNORED, -100)

    def _paths(self, ids: np.ndarray) -> list[tuple[str, str]]:
        """Return the files of image and mask of each id; the listings are mapped once for all of them."""
        images, masks = Names(self._images), Names(self._masks)
        roots = self._images.root, self._masks.root
        return [
            (os.path.join(roots[0], images[row]), os.path.join(roots[1], masks[row])) for row in ids.tolist()
        ]

    def _read(self, paths: tuple[str, str], steps: Sequence[tuple[Step, np.uint64]]) -> Pair:
        pair = read_pair(*paths, self._table)
        for step, draw in steps:
            pair = JOINT_STEPS[step.name](pair, draw, step.options)
        return pair
