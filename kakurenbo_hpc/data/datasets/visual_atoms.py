"""Synthetic images of closed contours: circles with sinusoids added, the sinusoids chosen by class.

The idea is that of VisualAtom (Takashima et al. 2023, "Visual Atoms: Pre-training Vision Transformers with
Sinusoidal Waves"). Nothing is stored: an image is computed from (seed, id) whenever it is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.data_options import DataOptions
from ...config.options import Count, Probability, option
from ...core.rng import bits, key
from ..dataset import Dataset, DatasetSplits, ReadRequest

if TYPE_CHECKING:
    import torch

ORBITS, WAVES = 3, 2  # contours of an image; sinusoids that each of them adds to its circle
# Angles are whole numbers, so many to a turn: sines are looked up, and images are the same on every machine.
TURN = 4096
CHUNK = 16  # images computed together, so that intermediate arrays fit in a core's cache

_SINE = np.sin(np.arange(TURN) * (2 * np.pi / TURN)).astype(np.float32)


class VisualAtoms(DataOptions):
    """Synthetic images with a difficulty of their own each."""

    name: Literal["visual_atoms"] = option(
        ..., "Synthetic images of closed contours, computed when they are read."
    )
    classes: Annotated[int, Field(ge=2, le=100_000)] = option(20, "Number of classes.", "classes")
    instances: Count = option(500, "Training samples of each class.", "samples")
    validation: Count = option(100, "Validation samples of each class.", "samples")
    pixels: Annotated[int, Field(ge=8, le=512)] = option(32, "Height and width of the images.", "pixels")
    channels: Literal[1, 3] = option(1, "Channels of the images, grey or coloured.")
    difficulty: Probability = option(
        0.5,
        "How far samples differ from their class. The jitter has a heavy tail: most samples are easy, a few "
        "hopeless.",
        "fraction",
    )

    def open(self, directory: Path | None = None) -> DatasetSplits:
        """Return the samples, of which none is computed yet."""
        return DatasetSplits(
            train=Atoms(self, "train", self.instances),
            validation=Atoms(self, "validation", self.validation),
            n_classes=self.classes,
            shape=(self.channels, self.pixels, self.pixels),
            fingerprint=f"visual_atoms-{self.classes}x{self.instances}+{self.validation}-{self.channels}x{self.pixels}px"
            f"-difficulty-{self.difficulty:g}-seed-{self.seed}",
        )


class Atoms(Dataset):
    """One split. The class of a sample is its id mod the number of classes."""

    def __init__(self, options: VisualAtoms, split: str, instances: int):
        self._options, self._n = options, options.classes * instances
        self._stream = key(options.seed, f"visual atoms, instances, {split}")
        self._shapes = _class_shapes(options)

    def __len__(self) -> int:
        return self._n

    def labels(self) -> np.ndarray:
        """Return the class of every sample."""
        return np.arange(self._n) % self._options.classes

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute images and classes."""
        import torch

        chunks = [self._render(request.id[i : i + CHUNK]) for i in range(0, len(request.id), CHUNK)]
        return torch.from_numpy(np.concatenate(chunks)), torch.from_numpy(request.id % self._options.classes)

    def _render(self, ids: np.ndarray) -> np.ndarray:
        """Return the images, (k, C, H, W) float32."""
        shapes = self._shapes.rows(ids % self._options.classes)
        shape = _jitter(shapes, ids, self._stream, self._options.difficulty)
        across, down = _contours(shape, 1 << (8 * self._options.pixels - 1).bit_length())
        return _rasterize(across, down, shape.brightness, self._options.pixels)


@dataclass(frozen=True)
class Shapes:
    """The shapes in k images: O contours around one centre, each a circle and W sinusoids.

    Lengths are in half the image's side.

    Attributes:
        frequency: (k, O, W) int32, waves per turn.
        phase: (k, O, W) float32, in turns.
        amplitude: (k, O, W) float32.
        radius: (k, O) float32.
        brightness: (k, O, C) float32.
        pose: (k, 5) float32, rotation in turns, then stretch across and down, then shift across and down.
    """

    frequency: np.ndarray
    phase: np.ndarray
    amplitude: np.ndarray
    radius: np.ndarray
    brightness: np.ndarray
    pose: np.ndarray

    def rows(self, which: np.ndarray) -> Shapes:
        """Return the shapes of some of the images."""
        return Shapes(*(getattr(self, field.name)[which] for field in fields(self)))


def _class_shapes(options: VisualAtoms) -> Shapes:
    """Return one shape for each class."""
    k, stream = np.arange(options.classes), key(options.seed, "visual atoms, classes")
    frequency, phase, amplitude, radius, brightness = _draws(
        stream, k, [(ORBITS, WAVES)] * 3 + [(ORBITS,), (ORBITS, options.channels)]
    )
    return Shapes(
        frequency=2 + (7 * frequency).astype(np.int32),
        phase=phase,
        amplitude=0.04 + 0.10 * amplitude,
        radius=0.2 + 0.2 * (np.arange(ORBITS, dtype=np.float32) + radius),
        brightness=0.3 + 0.7 * brightness,
        pose=np.tile(np.array([0, 1, 1, 0, 0], np.float32), (options.classes, 1)),
    )


def _jitter(shape: Shapes, ids: np.ndarray, stream: int, difficulty: float) -> Shapes:
    """Return samples of these shapes: every number changed at random, up to the sample's own jitter.

    The jitter is difficulty x a Pareto variable of shape 2, at most 4: from 1, half of all below 1.41, one in
    16 at 4.
    """
    parts = [getattr(shape, name) for name in ("phase", "amplitude", "radius", "brightness", "pose")]
    quantile, *moves = _draws(stream, ids, [(), *(part.shape[1:] for part in parts)])
    jitter = np.float32(difficulty) * np.minimum(1 / np.sqrt(1 - quantile), np.float32(4))
    phase, amplitude, radius, brightness, pose = (
        part + step * jitter.reshape(-1, *[1] * (part.ndim - 1)) * (2 * move - 1)
        for part, move, step in zip(parts, moves, STEPS, strict=True)
    )
    return Shapes(shape.frequency, phase, amplitude, radius, np.maximum(brightness, 0), pose)


# The largest changes at a jitter of 1: phase, amplitude, radius, brightness, pose.
STEPS = (
    np.float32(0.1),
    np.float32(0.05),
    np.float32(0.1),
    np.float32(0.4),
    np.array([0.06, 0.2, 0.2, 0.2, 0.2], np.float32),
)


def _contours(shape: Shapes, n_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the contours, across and down: two of (k, O, n_points) float32."""
    point = np.arange(n_points, dtype=np.int32) * (TURN // n_points)
    angle = shape.frequency[..., None] * point + _ticks(shape.phase)[..., None]
    waves = _SINE[angle & (TURN - 1)] * shape.amplitude[..., None]
    distance = shape.radius[..., None] + waves[:, :, 0] + waves[:, :, 1]
    direction = point + _ticks(shape.pose[:, 0])[:, None]
    _, stretch_across, stretch_down, right, down = shape.pose.T[:, :, None, None]
    return (
        distance * _SINE[direction + TURN // 4 & (TURN - 1)][:, None] * stretch_across + right,
        distance * _SINE[direction & (TURN - 1)][:, None] * stretch_down + down,
    )


def _rasterize(across: np.ndarray, down: np.ndarray, brightness: np.ndarray, pixels: int) -> np.ndarray:
    """Return images (k, C, H, W) float32 in [0, 1] of points (k, O, P), spread over four pixels each."""
    k, side = len(across), pixels + 3  # with a margin for points outside
    column, left = _cell(across, pixels)
    row, above = _cell(down, pixels)
    corner = (np.arange(k, dtype=np.int32)[:, None, None] * side + row) * side + column
    corners = np.stack([corner, corner + 1, corner + side, corner + side + 1])
    shares = np.stack([(1 - left) * (1 - above), left * (1 - above), (1 - left) * above, left * above])
    channels = [
        np.bincount(corners.ravel(), (shares * brightness[..., c, None]).ravel(), k * side * side).reshape(
            k, side, side
        )
        for c in range(brightness.shape[-1])
    ]
    images = np.stack(channels, axis=1)[:, :, 1 : 1 + pixels, 1 : 1 + pixels].astype(np.float32)
    return np.minimum(images, np.float32(1))


def _cell(position: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel before each position, counted from the margin, and the distance past it."""
    place = np.clip((position + 1) * np.float32(pixels / 2) + np.float32(0.5), 0, pixels + 1)
    before = place.astype(np.int32)
    return before, place - before


def _ticks(turns: np.ndarray) -> np.ndarray:
    """Return angles as whole numbers, TURN to a turn."""
    return np.floor(turns * np.float32(TURN)).astype(np.int32)


def _draws(stream: int, ids: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Return draws of these shapes for each id, (k, ...) float32 in [0, 1)."""
    sizes = [math.prod(shape) for shape in shapes]
    n = sum(sizes)
    draws = bits(stream, np.repeat(ids, n), np.tile(np.arange(n), len(ids))).reshape(-1, n)
    draws = (draws >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    parts = np.split(draws, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
