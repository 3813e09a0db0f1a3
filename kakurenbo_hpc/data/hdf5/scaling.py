"""Scaling of stored fields by channel, their layout and dtype, in one pass over memory.

A block of the file is read into a core's cache, scaled there, and written once, to where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]
_STORED = {"fp32": np.float32, "bf16": np.int16, "fp16": np.int16}  # numpy has no bfloat16: its bits
_SERIAL = 32_767  # numbers: torch shares larger copies out to threads of its own, which would be too many
_PIXELS = 256  # at most, by which constants are repeated: numpy is slow on rows of a few channels


class ChannelScaling:
    """scale * (x - shift) by channel in float32, then rounded once to the precision.

    Source: ``CamDataset.__getitem__`` of the MLPerf HPC reference (github.com/mlcommons/hpc,
    deepcam/src/deepCam/data/cam_hdf5_dataset.py), to the bit: it multiplies by the reciprocal of
    maxval - minval, which differs from a division in the last bit of a fifth of the numbers.
    """

    def __init__(
        self,
        shift: np.ndarray,
        scale: np.ndarray,
        n_pixels: int,
        precision: Precision = "fp32",
        channels_first: bool = False,
    ):
        """Prepare the constants.

        Args:
            shift: (C,) float32.
            scale: (C,) float32.
            n_pixels: of one sample.
            precision: of the result.
            channels_first: (C, H, W) in memory; else (H, W, C), as stored.
        """
        self._n_channels, self._precision, self._first = len(shift), precision, channels_first
        repeats = max(n for n in range(1, _PIXELS + 1) if n_pixels % n == 0)
        self._shift, self._scale = np.tile(shift, repeats), np.tile(scale, repeats)

    @property
    def unit(self) -> int:
        """Return how many numbers a block must hold a multiple of."""
        return len(self._shift)

    def result_format(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and dtype in memory of a sample stored as (H, W, C)."""
        height, width, channels = shape
        dtype = np.dtype(_STORED[self._precision])
        return ((channels, height, width) if self._first else shape), dtype

    def fill(self, result: np.ndarray, blocks: Iterable[np.ndarray]) -> None:
        """Fill one sample, of ``result_format``, from its blocks of (k,) numbers, which are overwritten."""
        done, flat = 0, result.reshape(self._n_channels, -1) if self._first else result.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):  # samples that are not finite are counted later
            for block in blocks:
                numbers = block.astype(np.float32, copy=False).reshape(-1, self.unit)
                np.subtract(numbers, self._shift, out=numbers)
                if self._first:
                    np.multiply(numbers, self._scale, out=numbers)
                    pixels = self._rounded(numbers.reshape(-1)).reshape(-1, self._n_channels)
                    flat[:, done : done + len(pixels)] = pixels.T
                    done += len(pixels)
                    continue
                place = flat[done : done + numbers.size]
                if self._precision == "fp32":
                    np.multiply(numbers, self._scale, out=place.reshape(numbers.shape))
                else:
                    np.multiply(numbers, self._scale, out=numbers)
                    self._rounded(numbers.reshape(-1), place)
                done += numbers.size

    def as_channels_first(self, stored: torch.Tensor) -> torch.Tensor:
        """Return (n, C, H, W) of samples of ``result_format``: a view."""
        typed = stored if self._precision == "fp32" else stored.view(self._dtype())
        # Channels that stay next to each other in memory are the layout that is fast for convolutions.
        return typed if self._first else typed.permute(0, 3, 1, 2)

    def _rounded(self, numbers: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
        """Return (k,) float32 in the precision, perhaps in given memory."""
        if self._precision == "fp32":
            return numbers
        import torch

        result, dtype = np.empty(len(numbers), np.int16) if into is None else into, self._dtype()
        for at in range(0, len(numbers), _SERIAL):
            part = slice(at, at + _SERIAL)
            torch.from_numpy(result[part]).view(dtype).copy_(torch.from_numpy(numbers[part]))
        return result

    def _dtype(self) -> torch.dtype:
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16}[self._precision]
