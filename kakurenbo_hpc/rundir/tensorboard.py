"""TensorBoard's event files in ``tensorboard/``, written by rank 0."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import JobError

_SCALARS = (
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_iou",
    "hidden_fraction",
    "max_fraction",
    "lr",
    "lr_scale",
    "n_forward",
    "n_backward",
)


def check_tensorboard() -> None:
    """Raise JobError unless TensorBoard is installed."""
    if find_spec("tensorboard") is None:
        raise JobError(
            "record.tensorboard is true, but tensorboard is not installed; "
            "pip install 'kakurenbo_hpc[tensorboard]', or set it to false"
        )


class TensorBoard:
    """Event files of a run; what was written of epochs that are run again is marked as void."""

    def __init__(self, run: Path, epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=epoch)

    def add(self, line: Mapping[str, Any]) -> None:
        """Write an epoch's metrics: scalars, seconds by stage, and the histogram of losses."""
        epoch = line["epoch"]
        scalars = {name: line[name] for name in _SCALARS if line.get(name) is not None}
        scalars |= {f"seconds/{stage}": seconds for stage, seconds in line["seconds"].items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        histogram = line["loss_histogram"]
        counts, edges = np.array(histogram["counts"]), np.array(histogram["edges"])
        if counts.sum():
            middle = (edges[1:] + edges[:-1]) / 2
            self._writer.add_histogram_raw(
                "loss",
                min=float(edges[0]),
                max=float(edges[-1]),
                num=int(counts.sum()),
                sum=float(counts @ middle),
                sum_squares=float(counts @ middle**2),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=epoch,
            )
        self._writer.flush()

    def add_images(self, tag: str, images: np.ndarray, epoch: int) -> None:
        """Write thumbnails, (k, H, W, 3) uint8."""
        self._writer.add_images(tag, images, epoch, dataformats="NHWC")
        self._writer.flush()
