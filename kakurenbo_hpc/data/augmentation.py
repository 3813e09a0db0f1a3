"""Training augmentation and evaluation views of images; draws are keyed by (seed, epoch, id, copy).

Our own steps compute from the key. Those of torchvision and timm run with the generators that they use seeded
by it, one image at a time; the generators are restored afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import augmentation_options as steps
from ..config.augmentation_options import AUGMENTATIONS, VIEWS, Step, parse_step
from ..config.data_options import DataOptions
from ..core.rng import bits, key
from ..errors import DataError
from .crops import random_box, resized
from .dataset import Dataset, DatasetSplits, DatasetView, ReadRequest
from .images.masks import JOINT_STEPS

if TYPE_CHECKING:
    import torch

    Apply = Callable[[torch.Tensor, np.ndarray, Any], torch.Tensor]

_CROPS = ("resize", "center_crop")
_OF_COLOURS = (
    "color_jitter",
    "photometric_distortion",
    "auto_augment",
    "rand_augment",
    "trivial_augment_wide",
)


def augment(data: DatasetSplits, options: DataOptions, seed: int) -> DatasetSplits:
    """Return the data set with ``options.augmentation`` on training images and ``evaluation`` on all others.

    Raises:
        DataError: the samples are not images (C, H, W) with a class each, or of another number of channels.
    """
    training = [parse_step(entry, AUGMENTATIONS) for entry in options.augmentation]
    view = [parse_step(entry, VIEWS) for entry in options.evaluation]
    copies = [[*map(parse_step, entries)] for entries in options.augmentations_of_repeats()]
    if not training and not view and not copies:
        return data
    if len(data.shape) != 3 or (data.train.labels() is None and not data.crops):
        section, entries = (
            ("augmentation", options.augmentation) if training else ("evaluation", options.evaluation)
        )
        raise DataError(
            f"data.{section} is {entries}, but {options.name} does not hold images with a class each; "
            f"set data.{section} to []"
        )
    for step in training + view + sum(copies, []):
        _check_channels(step, data.shape[0], options.name)
        if step.name in ("random_scale", "random_crop") and not data.target_shape:
            raise DataError(
                f"data.augmentation holds {step.name}, which is for images with masks, but {options.name} "
                "has classes; take random_resized_crop or crop"
            )
    shape = data.shape
    for step in training:
        if isinstance(step.options, steps.RandomResizedCrop):
            shape = (shape[0], step.options.size, step.options.size)
    if data.crops and data.target_shape:
        training, view = (
            [step for step in given if step.name not in JOINT_STEPS] for given in (training, view)
        )
    elif data.crops:
        n = n_done_while_reading(options)
        training, copies = training[n:], [given[n:] for given in copies]
        view = [step for step in view if step.name not in _CROPS]
    return replace(
        data,
        train=Augmented(data.train, training, view, seed, copies),
        validation=Augmented(data.validation, None, view, seed),
        held_out=None if data.held_out is None else Augmented(data.held_out, None, view, seed),
        shape=shape,
    )


def _check_channels(step: Step, n_channels: int, name: str) -> None:
    if step.name in _OF_COLOURS and n_channels not in (1, 3):
        raise DataError(
            f"data.augmentation holds {step.name}, which takes images of 1 or 3 channels, but {name} has "
            f"{n_channels}; remove it"
        )
    if isinstance(step.options, steps.Normalize):
        mean, _ = steps.statistics(step.options)
        if len(mean) != n_channels:
            raise DataError(
                f"data.augmentation: normalize has a mean for {len(mean)} channels, but {name} has "
                f"{n_channels}; give one per channel"
            )


class Augmented(DatasetView):
    """Images with values in [0, 1] under training augmentation or, where a request has none, under a view."""

    def __init__(
        self,
        base: Dataset,
        training: Sequence[Step] | None,
        view: Sequence[Step],
        seed: int,
        copies: Sequence[Sequence[Step]] = (),
    ):
        """Take a data set.

        Args:
            base: the images.
            training: steps of the training augmentation; None for images that are never augmented.
            view: steps where images are not augmented.
            seed: the run's.
            copies: steps of each copy of a repeated sample, in place of those of the training augmentation.
        """
        super().__init__(base)
        self._training, self._view, self._seed, self._copies = training, view, seed, copies

    def to_base(self, request: ReadRequest) -> ReadRequest:
        """Return the request with the run's seed, and without augmentation where there is none."""
        return replace(request, seed=self._seed, augment=request.augment and self._training is not None)

    def stream(
        self, requests: Sequence[ReadRequest], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches on the CPU, where images are augmented."""
        import torch

        return super().stream(requests, torch.device("cpu"))

    def convert(
        self, request: ReadRequest, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the steps in their order."""
        images, targets = batch
        if not request.augment or self._training is None:
            return self._apply(self._view, images, request), targets
        if not self._copies:
            return self._apply(self._training, images, request), targets
        import torch

        numbers = self._base.copy_numbers(request.id)  # type: ignore[attr-defined]
        results: dict[int, torch.Tensor] = {}
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            these = replace(request, id=request.id[rows], copy=request.copy[rows])
            steps = self._copies[number] if number >= 0 else self._training
            results.update(zip(rows.tolist(), self._apply(steps, images[rows], these), strict=True))
        return torch.stack([results[row] for row in range(len(images))]), targets

    def _apply(self, steps: Sequence[Step], images: torch.Tensor, request: ReadRequest) -> torch.Tensor:
        for step in steps:
            images = _APPLY.get(step.name, _apply_library)(
                images, draws(self._seed, step.name, request), step
            )
        return images


def n_done_while_reading(options: DataOptions) -> int:
    """Return how many first steps a data set does that crops while it reads: the crop, and then a flip.

    The flip is left out where copies of a sample have augmentations of their own.
    """
    names = [parse_step(entry).name for entry in options.augmentation[:2]]
    if names[:1] != ["random_resized_crop"]:
        return 0
    return 2 if names[1:] == ["flip"] and not options.augmentations_of_repeats() else 1


def draws(seed: int, name: str, request: ReadRequest) -> np.ndarray:
    """Return the draw of each sample of a request for one step, (k,) uint64."""
    # shift was the first augmentation: runs that use it keep their draws.
    purpose = "augment" if name == "shift" else f"augment, {name}"
    return bits(key(seed, purpose, request.epoch), request.id, request.copy)


def _flip(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    import torch

    mirrored = torch.from_numpy(draw % np.uint64(2) == 1)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _crop(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    return _translate(images, draw, step.options.padding or max(images.shape[3] // 8, 1))


def _shift(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    return _translate(images, draw, 1)


def _translate(images: torch.Tensor, draw: np.ndarray, limit: int) -> torch.Tensor:
    """Move each image by -limit to limit pixels down and to the right; zeros come in."""
    import torch

    height, width = images.shape[2:]
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (limit, limit), (limit, limit)))
    down, right = _two_below(draw, 2 * limit + 1, 2 * limit + 1)
    rows = down[:, None, None] + np.arange(height)[:, None]
    columns = right[:, None, None] + np.arange(width)
    # NumPy puts the slice last: (k, H, W, C).
    moved = padded[np.arange(len(draw))[:, None, None], :, rows, columns]
    # Copied: a view of one channel would pass for channels last.
    return torch.from_numpy(moved.transpose(0, 3, 1, 2).copy())


def _cutout(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    import torch

    size = images.shape[2:]
    rows, columns = (
        _near(centre, side, step.options.length or 2 * max(side // 4, 1))
        for centre, side in zip(_two_below(draw, *size), size, strict=True)
    )
    hole = torch.from_numpy(rows[:, :, None] & columns[:, None, :])
    return images.masked_fill(hole[:, None], 0)


def _near(centre: np.ndarray, size: int, length: int) -> np.ndarray:
    """Return (k, size) bool: ``length`` pixels around each centre."""
    first = np.arange(size) - centre[:, None] + length // 2
    return (first >= 0) & (first < length)


def _two_below(draw: np.ndarray, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two int64 numbers of each draw, uniform below ``first`` and ``second``."""
    n, m = np.uint64(first), np.uint64(second)
    return (draw % n).astype(np.int64), (draw // n % m).astype(np.int64)


def _random_resized_crop(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    import torch

    boxes = [random_box(one, images.shape[2], images.shape[3], step.options) for one in draw]
    return torch.stack(
        [
            _scale(image[:, top : top + height, left : left + width], (step.options.size,) * 2, step)
            for image, (top, left, height, width) in zip(images, boxes, strict=True)
        ]
    )


def _resize(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    height, width = images.shape[2:]
    return _scale(images, resized(height, width, step.options.size), step)


def _scale(images: torch.Tensor, size: tuple[int, int], step: Step) -> torch.Tensor:
    """Return images of that size; values that bicubic interpolation leaves outside [0, 1] are cut off."""
    from ..core.torchvision_compat import transforms

    modes = transforms().InterpolationMode
    scaled = transforms().functional.resize(
        images, list(size), modes(step.options.interpolation), antialias=True
    )
    return scaled.clamp_(0, 1)


def _downscale(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    from ..core.torchvision_compat import transforms

    size = [max(1, round(step.options.side * length)) for length in images.shape[2:]]
    return transforms().functional.resize(images, size, antialias=True)


def _center_crop(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    from ..core.torchvision_compat import transforms

    return transforms().functional.center_crop(images, [step.options.size] * 2)


def _normalize(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    import torch

    mean, std = (torch.tensor(values)[:, None, None] for values in steps.statistics(step.options))
    # NumPy takes large pages for the result: thousands of small new ones cost more than the computation.
    result = torch.from_numpy(np.empty(images.shape, np.float32))
    return torch.sub(images, mean, out=result).div_(std)


_APPLY: dict[str, Callable] = {
    "flip": _flip,
    "crop": _crop,
    "shift": _shift,
    "cutout": _cutout,
    "random_resized_crop": _random_resized_crop,
    "resize": _resize,
    "downscale": _downscale,
    "center_crop": _center_crop,
    "normalize": _normalize,
}


def _apply_library(images: torch.Tensor, draw: np.ndarray, step: Step) -> torch.Tensor:
    """Apply a transform of torchvision or timm to each image, with the generators seeded by its draw."""
    import torch

    transform, takes_bytes = _transform(step)
    results = []
    with _restored_generators():
        for image, seed in zip((images * 255).round().byte() if takes_bytes else images, draw, strict=True):
            # torch.manual_seed would reseed the GPUs as well.
            torch.default_generator.manual_seed(int(seed >> np.uint64(1)))
            random.seed(int(seed))
            np.random.seed(int(seed >> np.uint64(32)))
            results.append(transform(image))
    return torch.stack(results).float() / 255 if takes_bytes else torch.stack(results)


@contextmanager
def _restored_generators() -> Iterator[None]:
    """Give torch's, Python's and NumPy's global generators their states back."""
    import torch

    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


@cache
def _transform(step: Step) -> tuple[Callable, bool]:
    """Return the library's transform of one image, and whether it takes bytes."""
    from ..core.torchvision_compat import transforms

    options, library = step.options, transforms()
    match options:
        case steps.AutoAugment():
            return library.AutoAugment(library.AutoAugmentPolicy(options.policy)), True
        case steps.RandAugment(config=None):
            return library.RandAugment(), True
        case steps.RandAugment(config=str(config)):
            return _timm_rand_augment(config), True
        case steps.TrivialAugmentWide():
            return library.TrivialAugmentWide(), True
        case steps.PhotometricDistortion():
            return _photometric_distortion(), False
        case steps.ColorJitter():
            return library.ColorJitter(
                options.brightness, options.contrast, options.saturation, options.hue
            ), False
        case steps.RandomErasing(mode="zero"):
            return library.RandomErasing(options.probability), False
        case steps.RandomErasing():
            return _timm_random_erasing(options), False
    raise AssertionError(step.name)


def _photometric_distortion() -> Callable:
    """Return each change with probability 1/2, contrast before or after saturation and hue.

    Not torchvision's RandomPhotometricDistort, which also permutes the colours.
    """
    from ..core.torchvision_compat import transforms

    library = transforms()
    brightness, contrast, saturation, hue = (
        library.RandomApply([library.ColorJitter(**{name: limit})])
        for name, limit in (("brightness", 1 / 8), ("contrast", 0.5), ("saturation", 0.5), ("hue", 0.1))
    )
    return library.RandomChoice(
        [
            library.Compose([brightness, contrast, saturation, hue]),
            library.Compose([brightness, saturation, hue, contrast]),
        ]
    )


def _timm_rand_augment(config: str) -> Callable:
    from ..core.torchvision_compat import timm, transforms

    functional = transforms().functional
    timm()
    from timm.data.auto_augment import rand_augment_transform

    transform = rand_augment_transform(config, {"translate_const": 100, "img_mean": (124, 116, 104)})
    return lambda image: functional.pil_to_tensor(transform(functional.to_pil_image(image)))


def _timm_random_erasing(options: steps.RandomErasing) -> Callable:
    from ..core.torchvision_compat import timm

    timm()
    from timm.data.random_erasing import RandomErasing

    mode = {"random": "rand", "pixel": "pixel"}[options.mode]
    erase = RandomErasing(options.probability, mode=mode, device="cpu")
    return lambda image: erase(image.clone())
