"""Image folders such as ImageNet's: train/CLASS/* and val/CLASS/*, read as they are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.augmentations import VIEWS, Augmentation, RandomResizedCrop, View, parse_step
from ...config.job import DataOptions
from ...config.options import Count, ExpandedPath, option
from ...errors import DataError, SampleError
from ..augmentation import draws
from ..dataset import Dataset, DatasetSplits, ReadRequest, SampleFiles
from ..images.listing import Listing, files_of, find_images
from ..images.reading import Reading, read_for_evaluation, read_for_training

if TYPE_CHECKING:
    import torch


class ImageFolder(DataOptions):
    """Images of any size, which random_resized_crop, resize and center_crop bring to one size."""

    name: Literal["image_folder"] = option(..., "Images in train/CLASS/ and val/CLASS/, read as they are.")
    path: ExpandedPath = option(
        ..., "The folder that holds train/CLASS/ and val/CLASS/ (or validation/), or Tiny-ImageNet's val/."
    )
    augmentation: list[Augmentation] = option(
        [{"random_resized_crop": 224}, "flip"],
        "Training augmentations in this order; random_resized_crop, if any, comes first and happens while an "
        "image is read.",
    )
    evaluation: list[View] = option(
        [{"resize": 256}, {"center_crop": 224}], "What images go through where they are not augmented."
    )
    decode: Literal["scaled", "full"] = option(
        "full",
        "full decodes every pixel; scaled decodes JPEGs at the scale that the crop needs, which is faster "
        "and differs a little.",
    )
    threads: Count = option(4, "Images that a rank reads at once, where workers is 0.", "threads")

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """List the images, or take the listing that is kept.

        Raises:
            DataError: folders are missing or empty, or a kept listing does not fit them.
        """
        root = Path(self.path)
        train = find_images(root, "train", None, directory)
        split = "val" if (root / "val").is_dir() and not (root / "validation").is_dir() else "validation"
        validation = find_images(root, split, train.classes, directory)
        reading = self._reading()
        images = Images(train, reading, self.threads)
        return DatasetSplits(
            train=images,
            validation=Images(validation, reading, self.threads),
            n_classes=len(train.classes),
            shape=images.shape(),
            fingerprint=f"images-{train.digest()}-{validation.digest()}",
            crops=True,
            classes=train.classes,
        )

    def _reading(self) -> Reading:
        training = [parse_step(entry).options for entry in self.augmentation]
        if any(isinstance(options, RandomResizedCrop) for options in training[1:]):
            raise DataError(
                "data.augmentation: random_resized_crop must come first, since images are read by it"
            )
        random_crop = training[0] if training and isinstance(training[0], RandomResizedCrop) else None
        view = {step.name: step.options for step in (parse_step(entry, VIEWS) for entry in self.evaluation)}
        if random_crop is not None and "center_crop" not in view:
            raise DataError(
                "data.evaluation: center_crop is missing, but images of any size must come to one; add "
                "resize and center_crop"
            )
        return Reading(
            random_crop=random_crop,
            resize=view.get("resize"),
            center_crop=view.get("center_crop"),
            scaled=self.decode == "scaled",
        )


class Images(Dataset):
    """Images of a listing."""

    def __init__(self, listing: Listing, reading: Reading, threads: int):
        self._listing, self._reading, self._threads = listing, reading, threads

    def __len__(self) -> int:
        return len(self._listing.rows())

    def labels(self) -> np.ndarray:
        """Return the class of every image."""
        return self._listing.rows()["label"].astype(np.int64)

    def files(self) -> SampleFiles:
        """Return the file of every image."""
        return files_of(self._listing)

    def relocate(self, root: Path) -> Images:
        """Return the same images, read below another folder."""
        return Images(replace(self._listing, root=root), self._reading, self._threads)

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the first image as it is read for training."""
        return self._read(0, np.uint64(0), augment=True).shape

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Read images, in [0, 1], and their classes."""
        import torch
        from torch.utils.data import get_worker_info

        rows, draw = self._listing.rows(), draws(request.seed, "random_resized_crop", request)
        work = [(int(one), drawn, request.augment) for one, drawn in zip(request.id, draw, strict=True)]
        if self._threads > 1 and len(work) > 1 and get_worker_info() is None:
            with ThreadPoolExecutor(self._threads) as pool:
                images = list(pool.map(lambda given: self._read(*given), work))
        else:
            images = [self._read(*given) for given in work]
        for (one, *_), image in zip(work, images, strict=True):
            if image.shape != images[0].shape:
                raise SampleError(
                    f"{self._path(one)}: is of {image.shape[1]} x {image.shape[2]} pixels, but another image "
                    f"of {images[0].shape[1]} x {images[0].shape[2]}; add random_resized_crop to "
                    "data.augmentation, and resize and center_crop to data.evaluation"
                )
        pixels = torch.from_numpy(np.stack(images))
        return pixels.float().div_(255), torch.from_numpy(rows["label"][request.id].astype(np.int64))

    def _read(self, row: int, draw: np.uint64, augment: bool) -> np.ndarray:
        path = os.fsencode(self._path(row))
        return (
            read_for_training(path, self._reading, draw)
            if augment
            else read_for_evaluation(path, self._reading)
        )

    def _path(self, row: int) -> str:
        return os.path.join(self._listing.root, os.fsdecode(bytes(self._listing.rows()["name"][row])))
