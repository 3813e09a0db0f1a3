"""Image folders such as ImageNet's: train/CLASS/* and val/CLASS/*, read as they are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.augmentation_options import VIEWS, Augmentation, View, parse_step
from ...config.data_options import DataOptions
from ...config.options import Count, ExpandedPath, option
from ...errors import DataError, SampleError
from ..augmentation import draws, n_done_while_reading
from ..dataset import Dataset, DatasetSplits, ReadRequest, SampleFiles
from ..images.listing import Listing, files_of, find_images, validation_folder
from ..images.packed import find_packed, is_packed
from ..images.reading import Reading, read_for_evaluation, read_for_training
from ..read_at import OpenFiles
from ..retry import retry

if TYPE_CHECKING:
    import torch


class ImageFolder(DataOptions):
    """Images of any size, which random_resized_crop, resize and center_crop bring to one size."""

    name: Literal["image_folder"] = option(..., "Images in train/CLASS/ and val/CLASS/, read as they are.")
    path: ExpandedPath = option(
        ...,
        "The folder that holds train/CLASS/ and val/CLASS/ (or validation/), or Tiny-ImageNet's val/; or "
        "what kakurenbo data pack --encoded made of it.",
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
        if is_packed(root):
            train, validation = (find_packed(root, split, directory) for split in ("train", "validation"))
        else:
            train = find_images(root, "train", None, directory)
            validation = find_images(root, validation_folder(root), train.classes, directory)
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
        training = [parse_step(entry) for entry in self.augmentation]
        for name, entries in [
            ("augmentation", self.augmentation),
            *((f"repeats[{i}]", entries) for i, entries in enumerate(self.augmentations_of_repeats())),
        ]:
            if any(parse_step(entry).name == "random_resized_crop" for entry in entries[1:]):
                raise DataError(
                    f"data.{name}: random_resized_crop must come first, since images are read by it"
                )
        done = [step.name for step in training[: n_done_while_reading(self)]]
        view = {step.name: step.options for step in (parse_step(entry, VIEWS) for entry in self.evaluation)}
        if done and "center_crop" not in view:
            raise DataError(
                "data.evaluation: center_crop is missing, but images of any size must come to one; add "
                "resize and center_crop"
            )
        return Reading(
            random_crop=training[0].options if done else None,
            flip="flip" in done,
            resize=view.get("resize"),
            center_crop=view.get("center_crop"),
            scaled=self.decode == "scaled",
        )


class Images(Dataset):
    """Images of a listing."""

    def __init__(self, listing: Listing, reading: Reading, threads: int):
        self._listing, self._reading, self._threads = listing, reading, threads
        self._files = OpenFiles()

    def __len__(self) -> int:
        return len(self._listing.rows())

    def labels(self) -> np.ndarray:
        """Return the class of every image."""
        return self._listing.rows()["label"].astype(np.int64)

    def files(self) -> SampleFiles:
        """Return the file of every image."""
        return files_of(self._listing)

    def relocate(self, root: Path) -> Images:
        """Return the same images, read from files of their own below another folder."""
        return Images(replace(self._listing, root=root, parts=()), self._reading, self._threads)

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the first image as it is read for training."""
        height, width, channels = self._read(self._listing.rows()[0], np.uint64(0), np.uint64(0), True).shape
        return channels, height, width

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Read images, in [0, 1], and their classes."""
        import torch
        from torch.utils.data import get_worker_info

        rows = self._listing.rows()[request.id]
        crop, flip = (draws(request.seed, name, request) for name in ("random_resized_crop", "flip"))
        work = [(*drawn, request.augment) for drawn in zip(rows, crop, flip, strict=True)]
        if self._threads > 1 and len(work) > 1 and get_worker_info() is None:
            with ThreadPoolExecutor(self._threads) as pool:
                images = list(pool.map(lambda given: self._read(*given), work))
        else:
            images = [self._read(*given) for given in work]
        height, width, channels = images[0].shape
        # Of NumPy, which takes large pages for it: thousands of small new ones cost as much as decoding.
        pixels = np.empty((len(images), channels, height, width), np.float32)
        for row, image, into in zip(rows, images, pixels, strict=True):
            if image.shape != images[0].shape:
                raise SampleError(
                    f"{self._name(row)}: is of {image.shape[0]} x {image.shape[1]} pixels, but another image "
                    f"of {height} x {width}; add random_resized_crop to data.augmentation, and resize and "
                    "center_crop to data.evaluation"
                )
            into[...] = image.transpose(2, 0, 1)
        return torch.from_numpy(pixels).div_(255), torch.from_numpy(rows["label"].astype(np.int64))

    def _read(self, row: np.void, crop: np.uint64, flip: np.uint64, augment: bool) -> np.ndarray:
        content, name = self._content(row), self._name(row)
        if not augment:
            return read_for_evaluation(content, name, self._reading)
        return read_for_training(content, name, self._reading, crop, self._reading.flip and bool(flip % 2))

    def _content(self, row: np.void) -> bytes | bytearray:
        listing = self._listing
        path = listing.root / (listing.parts[row["part"]] if listing.parts else _text(row["name"]))
        try:
            if listing.parts:
                return retry(lambda: self._files.read(path, int(row["size"]), int(row["offset"])))
            return retry(path.read_bytes)
        except OSError as problem:
            raise SampleError(
                f"{self._name(row)}: cannot be read ({problem.strerror or problem}); remove it, or put it "
                "right"
            ) from None

    def _name(self, row: np.void) -> str:
        listing, name = self._listing, _text(row["name"])
        return (
            f"{listing.root / listing.parts[row['part']]}, {name}"
            if listing.parts
            else f"{listing.root / name}"
        )


def _text(name: bytes) -> str:
    return os.fsdecode(bytes(name))
