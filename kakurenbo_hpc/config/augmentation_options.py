"""Augmentations of training images and views for evaluation: a name, or a name with its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, Field

from ..errors import JobError, nearest, shown
from .options import Count, Options, Positive, Probability, checked, option

# Means and standard deviations of the colours, by data set.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
Numbers = Annotated[list[float], Field(min_length=1)]
T = TypeVar("T")
Pair = Annotated[list[T], Field(min_length=2, max_length=2)]
Interpolation = Literal["bilinear", "bicubic"]


class Flip(Options):
    """Mirror left to right, every second image on average."""


class Crop(Options):
    """Pad with zeros and cut the size out again (He et al. 2016: 4 of 32 pixels)."""

    padding: Count | None = option(None, "Zeros on each side; an eighth of the width if not given.", "pixels")


class Shift(Options):
    """Crop with one pixel."""


class Cutout(Options):
    """Set a square to zero, centred anywhere (DeVries and Taylor 2017)."""

    length: Count | None = option(None, "Side of the square; half the image's if not given.", "pixels")


class RandomResizedCrop(Options):
    """Cut out a box of random area and shape, and scale it to a square (Szegedy et al. 2015)."""

    size: Count = option(..., "Side of the result.", "pixels")
    scale: Pair[Probability] = option([0.08, 1.0], "Smallest and largest area.", "fraction")
    ratio: Pair[Positive] = option([3 / 4, 4 / 3], "Smallest and largest width by height.")
    interpolation: Interpolation = option("bilinear", "How pixels are scaled.")


class RandomScale(Options):
    """Scale an image and its mask by a random factor."""

    scale: Pair[Positive] = option([0.5, 2.0], "Smallest and largest factor.")
    shorter: Count | None = option(
        None, "The shorter side that factor 1 stands for; the image's own if not given.", "pixels"
    )


class RandomCrop(Options):
    """Cut a square out of an image and its mask; what is missing is black, and ignored in the mask."""

    size: Count = option(..., "Side of the square.", "pixels")
    max_share: Annotated[float, Field(gt=0, le=1)] = option(
        1.0,
        "Largest share of one class in the mask, the best of ten squares if none keeps to it "
        "(mmsegmentation's cat_max_ratio).",
        "fraction",
    )


class PhotometricDistortion(Options):
    """Change brightness, contrast, saturation and hue at random, as far as mmsegmentation does."""


class ColorJitter(Options):
    """Change brightness, contrast, saturation and hue at random, as torchvision does."""

    brightness: Annotated[float, Field(ge=0)] = option(0.0, "Largest relative change.")
    contrast: Annotated[float, Field(ge=0)] = option(0.0, "Largest relative change.")
    saturation: Annotated[float, Field(ge=0)] = option(0.0, "Largest relative change.")
    hue: Annotated[float, Field(ge=0, le=0.5)] = option(0.0, "Largest change, in turns.")


class AutoAugment(Options):
    """AutoAugment (Cubuk et al. 2019), torchvision's."""

    policy: Literal["imagenet", "cifar10", "svhn"] = option("imagenet", "Data set that it was found on.")


class RandAugment(Options):
    """RandAugment (Cubuk et al. 2020), torchvision's, or timm's if described by its string."""

    config: str | None = option(None, "timm's description, such as rand-m9-mstd0.5-inc1.")


class TrivialAugmentWide(Options):
    """TrivialAugment (Mueller and Hutter 2021), torchvision's."""


class RandomErasing(Options):
    """Erase a box of random area and shape (Zhong et al. 2020), torchvision's or timm's."""

    probability: Probability = option(0.5, "Probability that an image loses a box.")
    mode: Literal["zero", "random", "pixel"] = option(
        "zero", "What stands there then: zeros (torchvision), or one or many random colours (timm)."
    )


class Downscale(Options):
    """Scale height and width down, in training alone: a network of any input size costs less then."""

    side: Annotated[float, Field(gt=0, le=1)] = option(
        ..., "Height and width of the result, of those of the image.", "fraction"
    )


class Normalize(Options):
    """Subtract a mean and divide by a standard deviation, by colour."""

    mean: Numbers | str = option(..., "Means, one per channel; or imagenet, cifar10 or cifar100 for both.")
    std: Numbers | None = option(None, "Standard deviations, one per channel.")


class Resize(Options):
    """Scale the shorter side."""

    size: Count = option(..., "The shorter side afterwards.", "pixels")
    interpolation: Interpolation = option("bilinear", "How pixels are scaled.")


class CenterCrop(Options):
    """Cut a square out of the centre."""

    size: Count = option(..., "Side of the square.", "pixels")


AUGMENTATIONS: dict[str, type[Options]] = {
    "flip": Flip,
    "crop": Crop,
    "shift": Shift,
    "cutout": Cutout,
    "random_resized_crop": RandomResizedCrop,
    "random_scale": RandomScale,
    "random_crop": RandomCrop,
    "color_jitter": ColorJitter,
    "photometric_distortion": PhotometricDistortion,
    "auto_augment": AutoAugment,
    "rand_augment": RandAugment,
    "trivial_augment_wide": TrivialAugmentWide,
    "random_erasing": RandomErasing,
    "downscale": Downscale,
    "normalize": Normalize,
}
VIEWS: dict[str, type[Options]] = {"resize": Resize, "center_crop": CenterCrop, "normalize": Normalize}


class Step(NamedTuple):
    """One step that images go through: its name and its options."""

    name: str
    options: Any  # of the model that the name stands for


def parse_step(entry: str | Mapping[str, Any], table: Mapping[str, type[Options]] = AUGMENTATIONS) -> Step:
    """Return the step of an entry: ``flip``, ``{crop: {padding: 4}}``, or ``{crop: 4}`` for the first option.

    Raises:
        ValueError: there is no such step, or it has other options.
    """
    if isinstance(entry, str):
        entry = {entry: {}}
    if len(entry) != 1:
        raise ValueError(
            f"{shown(dict(entry))} must be one name with its options, such as crop: {{padding: 4}}"
        )
    [(name, options)] = entry.items()
    if name not in table:
        raise ValueError(f"there is no step {shown(name)}; {nearest(str(name), table)}")
    model = table[name]
    if not isinstance(options, Mapping):
        if not model.model_fields:
            raise ValueError(f"{name} has no options; write {name} alone")
        options = {next(iter(model.model_fields)): options}
    try:
        step = Step(name, checked(model, dict(options), name))
    except JobError as problem:
        raise ValueError(str(problem)) from None
    if isinstance(step.options, Normalize):
        statistics(step.options)
    return step


def statistics(normalize: Normalize) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the means and standard deviations, one per channel.

    Raises:
        ValueError: they are unknown, of different number, or not positive.
    """
    if isinstance(normalize.mean, str):
        if normalize.mean not in STATISTICS or normalize.std is not None:
            raise ValueError(
                f"normalize: mean is {normalize.mean}, but must be one of {', '.join(STATISTICS)}, "
                "without std, or a list of numbers"
            )
        return STATISTICS[normalize.mean]
    mean, std = tuple(normalize.mean), tuple(normalize.std or ())
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(
            f"normalize: mean is {list(mean)} and std {list(std)}, but both need a number per "
            "channel, std above 0"
        )
    return mean, std


def _check_augmentation(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    parse_step(entry, AUGMENTATIONS)
    return entry


def _check_view(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    parse_step(entry, VIEWS)
    return entry


Augmentation = Annotated[str | dict[str, Any], AfterValidator(_check_augmentation)]
View = Annotated[str | dict[str, Any], AfterValidator(_check_view)]
