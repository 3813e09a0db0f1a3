"""Images by formula: closed contours, sums of sinusoids around several orbits; each class is one set of waves.

The idea is that of VisualAtom (Takashima et al. 2023, "Visual Atoms: Pre-training Vision Transformers with Sinusoidal
Waves"). Nothing is kept: an image is drawn from (seed, id) whenever it is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ...config.job import DataOptions
from ...config.options import Count, Probability
from ...core.rng import bits, key
from ..dataset import Dataset, DatasetSplits, ReadRequest

ORBITS, WAVES = 3, 2  # contours of an image; sinusoids that each of them adds to its circle
TURN = 4096  # angles are whole numbers, 4096 to a turn: sines are looked up, and images are alike to the bit on every machine
AT_ONCE = 16  # images drawn together: what is worked on then fits in a core's cache

_SINE = np.sin(np.arange(TURN) * (2 * np.pi / TURN)).astype(np.float32)


class VisualAtoms(DataOptions):
    """classes x instances to train on, classes x validation others to validate; images of pixels x pixels in [0, 1].

    difficulty: how far instances stray from their class. Each has a jitter of its own, of heavy tail: most are easy, some hopeless.
    """

    name: Literal["visual_atoms"]
    classes: Annotated[int, Field(ge=2, le=100_000)] = 20
    instances: Count = 500
    validation: Count = 100
    pixels: Annotated[int, Field(ge=8, le=512)] = 32
    channels: Literal[1, 3] = 1
    difficulty: Probability = 0.5

    def open(self, directory: Path | None = None) -> DatasetSplits:
        return DatasetSplits(
            train=Atoms(self, "train", self.instances),
            validation=Atoms(self, "validation", self.validation),
            n_classes=self.classes,
            shape=(self.channels, self.pixels, self.pixels),
            fingerprint=f"visual_atoms-{self.classes}x{self.instances}+{self.validation}-{self.channels}x{self.pixels}px"
            f"-difficulty-{self.difficulty:g}-seed-{self.seed}",
        )


class Atoms(Dataset):
    """One part of the data set. Sample id belongs to class id mod classes."""

    def __init__(self, options: VisualAtoms, part: str, instances: int):
        self._options, self._n = options, options.classes * instances
        self._stream = key(options.seed, f"visual atoms, instances, {part}")
        self._of_class = _shapes(options)

    def __len__(self) -> int:
        return self._n

    def labels(self) -> np.ndarray:
        return np.arange(self._n) % self._options.classes

    def __getitems__(self, request: ReadRequest):
        import torch

        parts = [self._draw(request.id[i : i + AT_ONCE]) for i in range(0, len(request.id), AT_ONCE)]
        return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(request.id % self._options.classes)

    def _draw(self, id: np.ndarray) -> np.ndarray:
        """Return the images, (k, C, H, W) float32."""
        shape = _strayed(
            self._of_class.rows(id % self._options.classes), id, self._stream, self._options.difficulty
        )
        across, down = _contours(shape, 1 << (8 * self._options.pixels - 1).bit_length())
        return _splat(across, down, shape.brightness, self._options.pixels)


@dataclass(frozen=True)
class Shapes:
    """k images before they are drawn: O contours around one centre, each a circle and W sinusoids.

    frequency: (k, O, W) int32, waves a turn. phase: (k, O, W) float32, in turns. amplitude: (k, O, W), radius: (k, O) float32, in half
    the image's side. brightness: (k, O, C) float32. pose: (k, 5) float32: rotation in turns, stretch and shift across and down.
    """

    frequency: np.ndarray
    phase: np.ndarray
    amplitude: np.ndarray
    radius: np.ndarray
    brightness: np.ndarray
    pose: np.ndarray

    def rows(self, which: np.ndarray) -> Shapes:
        return Shapes(*(getattr(self, field.name)[which] for field in fields(self)))


def _shapes(options: VisualAtoms) -> Shapes:
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
        pose=np.tile(np.float32([0, 1, 1, 0, 0]), (options.classes, 1)),
    )


def _strayed(shape: Shapes, id: np.ndarray, stream: int, difficulty: float) -> Shapes:
    """Return instances of these shapes: every number moved at random, as far as the instance's own jitter lets it.

    The jitter is difficulty x a Pareto variable of shape 2, at most 4: from 1, half of all below 1.41, one in 16 at 4.
    """
    parts = [getattr(shape, name) for name in ("phase", "amplitude", "radius", "brightness", "pose")]
    fate, *moves = _draws(stream, id, [(), *(part.shape[1:] for part in parts)])
    jitter = np.float32(difficulty) * np.minimum(1 / np.sqrt(1 - fate), np.float32(4))
    phase, amplitude, radius, brightness, pose = (
        part + step * jitter.reshape(-1, *[1] * (part.ndim - 1)) * (2 * move - 1)
        for part, move, step in zip(parts, moves, STEPS, strict=True)
    )
    return Shapes(shape.frequency, phase, amplitude, radius, np.maximum(brightness, 0), pose)


# What a jitter of 1 moves at most: phase, amplitude, radius, brightness, pose.
STEPS = (
    np.float32(0.1),
    np.float32(0.05),
    np.float32(0.1),
    np.float32(0.4),
    np.float32([0.06, 0.2, 0.2, 0.2, 0.2]),
)


def _contours(shape: Shapes, n_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each contour's points lie, across and down: two of (k, O, n_points) float32, in half the image's side."""
    point = np.arange(n_points, dtype=np.int32) * (TURN // n_points)
    angle = shape.frequency[..., None] * point + _whole(shape.phase)[..., None]
    waves = _SINE[angle & (TURN - 1)] * shape.amplitude[..., None]
    distance = shape.radius[..., None] + waves[:, :, 0] + waves[:, :, 1]
    turned = point + _whole(shape.pose[:, 0])[:, None]
    _, stretch_across, stretch_down, right, down = shape.pose.T[:, :, None, None]
    return (
        distance * _SINE[turned + TURN // 4 & (TURN - 1)][:, None] * stretch_across + right,
        distance * _SINE[turned & (TURN - 1)][:, None] * stretch_down + down,
    )


def _splat(across: np.ndarray, down: np.ndarray, brightness: np.ndarray, pixels: int) -> np.ndarray:
    """Return images (k, C, H, W) float32 in [0, 1] of points (k, O, P), each shared out among the four pixels around it."""
    k, side = len(across), pixels + 3  # a margin takes what lies outside
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
    """Return the pixel before each position, counted from the margin, and how far past it the position lies."""
    place = np.clip((position + 1) * np.float32(pixels / 2) + np.float32(0.5), 0, pixels + 1)
    before = place.astype(np.int32)
    return before, place - before


def _whole(turns: np.ndarray) -> np.ndarray:
    return np.floor(turns * np.float32(TURN)).astype(np.int32)


def _draws(stream: int, id: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Return for each id the draws of these shapes, (k, ...) float32 in [0, 1)."""
    sizes = [math.prod(shape) for shape in shapes]
    n = sum(sizes)
    drawn = bits(stream, np.repeat(id, n), np.tile(np.arange(n), len(id))).reshape(-1, n)
    drawn = (drawn >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    parts = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
