"""Synthetic climate: sixteen smooth fields with cyclones and filaments in them, and their mask.

A sample is a pure function of (seed, split, number). Rows go from south to north, columns around the globe;
all sizes are in units of the height H, so that small samples look like large ones. Class 0
is background, 1 are tropical cyclones, 2 filaments of moist air (atmospheric rivers).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...core.rng import key, one

CYCLONES, FILAMENTS = 0.00046, 0.01327  # fractions of all pixels, as in the public data set
HARD = 0.15  # fraction of samples in which cyclones and filaments are faint
MISLABELLED = 0.03  # fraction of training samples with a wrong mask

_RADIUS = 0.025, 0.05  # of a cyclone: where its wind is strongest, and its mask ends
_LENGTH, _WIDTH = (0.35, 0.7), (0.03, 0.05)  # of a filament


class Channel(NamedTuple):
    """A field.

    Attributes:
        name: in the public data set.
        kind: what drives it.
        pole: its mean at the poles.
        tropics: its mean at the equator.
        spread: standard deviation of its weather.
        cyclone: what the centre of a cyclone adds; to a wind, along the direction in which it blows there.
        filament: what the centre of a filament adds.
    """

    name: str
    kind: str
    pole: float
    tropics: float
    spread: float
    cyclone: float
    filament: float


CHANNELS = (
    Channel("TMQ", "moist", 5, 40, 4, 22, 30),
    Channel("U850", "east", 5, -5, 4, 25, 20),
    Channel("V850", "north", 0, 0, 4, 25, 20),
    Channel("UBOT", "east", 3, -4, 3, 20, 12),
    Channel("VBOT", "north", 0, 0, 3, 20, 12),
    Channel("QREFHT", "moist", 0.002, 0.017, 0.0015, 0.004, 0.004),
    Channel("PS", "mass", 96000, 99500, 1500, -4500, -300),
    Channel("PSL", "mass", 101300, 101100, 400, -4500, -300),
    Channel("T200", "warm", 212, 220, 1.5, 8, 1),
    Channel("T500", "warm", 240, 266, 2, 10, 3),
    Channel("PRECT", "moist", 1e-8, 4e-8, 3e-8, 5e-7, 2.5e-7),
    Channel("TS", "warm", 250, 301, 4, -1, 2),
    Channel("TREFHT", "warm", 249, 299, 4, -1, 2),
    Channel("Z1000", "mass", 100, 90, 30, -380, -25),
    Channel("Z200", "mass", 10900, 12400, 90, 150, 30),
    Channel("ZBOT", "warm", 57, 65, 1, 1, 0.5),
)

_KINDS = ("moist", "east", "north", "mass", "warm")


class Sample(NamedTuple):
    """A sample.

    Attributes:
        fields: (H, W, 16) float32, in the order of CHANNELS.
        mask: (H, W) uint8.
        hard: whether its cyclones and filaments are faint.
        mislabelled: whether its mask is wrong.
    """

    fields: np.ndarray
    mask: np.ndarray
    hard: bool
    mislabelled: bool


class _Feature(NamedTuple):
    """A cyclone or a filament.

    Attributes:
        inside: (H, W) bool, its mask.
        shape: (H, W) float32, 1 at its centre.
        east: (H, W) float32, its wind to the east, at most 1.
        north: (H, W) float32, its wind to the north.
    """

    inside: np.ndarray
    shape: np.ndarray
    east: np.ndarray
    north: np.ndarray


def draw(seed: int, split: str, number: int, height: int, width: int) -> Sample:
    """Return a sample of the split ``train`` or ``validation``; masks of validation are never wrong."""
    rng = np.random.default_rng(one(key(seed, f"deepcam, {split}"), number))
    hard, wrong = rng.random() < HARD, rng.random() < MISLABELLED and split == "train"
    fields = _background(rng, height, width)
    mask = np.zeros((height, width), np.uint8)
    # Filaments first: cyclones lie over them.
    for class_, (of, share, mean_area) in {
        2: (_filament, FILAMENTS, _MEAN_FILAMENT),
        1: (_cyclone, CYCLONES, _MEAN_CYCLONE),
    }.items():
        for _ in range(int(share * width / height / mean_area + rng.random())):
            feature = of(rng, height, width)
            _add(feature, fields, class_, rng.uniform(0.15, 0.35) if hard else rng.uniform(0.7, 1.3))
            mask[feature.inside] = class_
    if wrong:
        mask = _corrupt_mask(rng, mask)
    np.maximum(fields, 0, out=fields, where=_MOIST)
    return Sample(fields, mask, bool(hard), bool(wrong))


_MEAN_CYCLONE = np.pi * np.mean(np.linspace(*_RADIUS, 1001) ** 2)  # area, in units of H x H
_MEAN_FILAMENT = np.mean(_LENGTH) * np.mean(_WIDTH)
_MOIST = np.array([channel.kind == "moist" for channel in CHANNELS])  # water cannot be negative


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return fields without cyclones and filaments; those of one kind share most of their weather."""
    amplitude = _amplitude(height, width)
    common = {kind: _smooth(rng, amplitude, width) for kind in _KINDS}
    tropics = np.cos(_latitude(height))[:, None] ** 2
    fields = np.empty((height, width, len(CHANNELS)), np.float32)
    for c, channel in enumerate(CHANNELS):
        weather = 0.8 * common[channel.kind] + 0.6 * _smooth(rng, amplitude, width)
        fields[..., c] = channel.pole + (channel.tropics - channel.pole) * tropics + channel.spread * weather
    return fields


def _amplitude(height: int, width: int) -> np.ndarray:
    """Return the amplitude of each frequency in a smooth field, (H, W / 2 + 1) float32.

    Flat up to a few waves over the height, then falling with their square: weather of all sizes.
    """
    down, across = np.fft.fftfreq(height) * height, np.fft.rfftfreq(width) * height
    amplitude = 1 / (9 + down[:, None] ** 2 + across**2)
    amplitude[0, 0] = 0
    return amplitude.astype(np.float32)


def _smooth(rng: np.random.Generator, amplitude: np.ndarray, width: int) -> np.ndarray:
    """Return a random field of mean 0 and standard deviation 1, (H, W) float32."""
    waves = rng.standard_normal((*amplitude.shape, 2), np.float32).view(np.complex64)[..., 0]
    field = np.fft.irfft2(waves * amplitude, s=(len(amplitude), width)).astype(np.float32)
    return field / field.std()


def _cyclone(rng: np.random.Generator, height: int, width: int) -> _Feature:
    """Return a cyclone: a round vortex, anticlockwise in the north and clockwise in the south."""
    radius, hemisphere = rng.uniform(*_RADIUS), rng.choice([-1, 1])
    across, down = _distances(rng, hemisphere * np.deg2rad(rng.uniform(8, 30)), height, width)
    squared = (across**2 + down**2) / np.float32(radius**2)
    shape = np.exp(-0.5 * squared)
    vortex = shape * np.float32(hemisphere * np.exp(0.5) / radius)
    return _Feature(squared < 1, shape, -down * vortex, across * vortex)


def _filament(rng: np.random.Generator, height: int, width: int) -> _Feature:
    """Return a filament: a long, bent band from the tropics to the pole and the east, with wind along it."""
    length, thickness, hemisphere = rng.uniform(*_LENGTH), rng.uniform(*_WIDTH), rng.choice([-1, 1])
    across, down = _distances(rng, hemisphere * np.deg2rad(rng.uniform(28, 50)), height, width)
    angle, bend = hemisphere * np.deg2rad(rng.uniform(10, 35)), rng.uniform(-0.5, 0.5)
    east, north = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along = across * east + down * north
    off = np.abs(down * east - across * north - np.float32(bend / length) * along**2) / np.float32(
        thickness / 2
    )
    beyond = np.abs(along) / np.float32(length / 2)
    shape = np.exp(-0.5 * off**2) / (1 + np.exp(np.clip(20 * (beyond - 1), -30, 30)))
    return _Feature((off < 1) & (beyond < 1), shape, shape * east, shape * north)


def _distances(
    rng: np.random.Generator, latitude: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of pixels from a random point at this latitude, (1, W) east and (H, 1) north."""
    row, column = (latitude / np.pi + 0.5) * height, rng.uniform(0, width)
    across = (np.arange(width) + 0.5 - column + width / 2) % width - width / 2
    down = np.arange(height) + 0.5 - row
    return (across[None] / height).astype(np.float32), (down[:, None] / height).astype(np.float32)


def _add(feature: _Feature, fields: np.ndarray, class_: int, strength: float) -> None:
    """Add a feature to all fields."""
    for c, channel in enumerate(CHANNELS):
        peak = channel.cyclone if class_ == 1 else channel.filament
        pattern = {"east": feature.east, "north": feature.north}.get(channel.kind, feature.shape)
        fields[..., c] += np.float32(strength * peak) * pattern


def _corrupt_mask(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Return a wrong mask: shifted, or with filaments missed and cyclones taken for filaments."""
    if rng.random() < 0.5:
        return np.roll(mask, int(rng.uniform(0.3, 0.7) * mask.shape[1]), axis=1)
    return np.array([0, 2, 0], np.uint8)[mask]


def _latitude(height: int) -> np.ndarray:
    return ((np.arange(height) + 0.5) / height - 0.5) * np.pi
