"""Thumbnails ``images.h5``: the samples of highest and lowest loss, and of highest and lowest weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..core.ledger import Ledger
from ..data.dataset import Dataset, ReadRequest
from ..distributed.comm import Comm
from ..errors import DataError
from ..rundir.atomic_io import Hdf5

_SIDE = 64  # pixels at most
_WEIGHT = "importance"  # the ledger column by which methods draw


def write_images(
    run: Path, n: int, ledger: Ledger, data: Dataset, label: np.ndarray | None, comm: Comm
) -> None:
    """Write n thumbnails by loss, half of them of the hardest, and as many by weight if there is one.

    Datasets: ``image`` (k, H, W, 3) uint8, ``id``, ``loss``, ``label`` (-1 if not known), ``by`` (loss or
    weight) and ``is_highest``. Collective; ranks send n rows each, and rank 0 reads the samples.

    Args:
        run: the run directory.
        n: thumbnails.
        ledger: this rank's rows.
        data: where samples are read, by rank 0.
        label: (S,) classes of this rank's rows, if they are known.
        comm: all ranks.

    Raises:
        OSError, DataError: on rank 0, after all communication.
    """
    keys = {"loss": ledger.loss}
    if _WEIGHT in ledger.extra:
        keys["weight"] = ledger.extra[_WEIGHT]
    chosen = [
        (by, is_highest, row)
        for by, key in keys.items()
        for is_highest in (True, False)
        for row in _extremes(key, is_highest, max(1, n // 2), ledger, label, comm)
    ]
    if comm.rank or not chosen:
        return
    ids = np.array([row[1] for _, _, row in chosen], np.int64)
    inputs, _ = data.__getitems__(ReadRequest(ids, np.zeros(len(ids), np.int32), 0, augment=False))
    output = Hdf5(run / "images.h5")
    output.file["image"] = thumbnails(inputs)
    output.file["id"] = ids
    output.file["loss"] = np.array([row[2] for _, _, row in chosen], np.float32)
    output.file["label"] = np.array([row[3] for _, _, row in chosen], np.int32)
    output.file["by"] = [by.encode() for by, _, _ in chosen]
    output.file["is_highest"] = np.array([is_highest for _, is_highest, _ in chosen])
    output.close()


def thumbnails(inputs: torch.Tensor) -> np.ndarray:
    """Return (k, H, W, 3) uint8 of inputs (k, C, H, W): the first three channels, or one three times."""
    if inputs.dim() != 4:
        raise DataError(f"record.images: inputs are of shape {tuple(inputs.shape[1:])}, not images")
    pictures = torch.nan_to_num(inputs[:, :3].float())
    height, width = pictures.shape[2:]
    if (longer := max(height, width)) > _SIDE:
        size = (max(1, height * _SIDE // longer), max(1, width * _SIDE // longer))
        pictures = F.interpolate(pictures, size, mode="area")
    flat = pictures.flatten(1)
    low, high = flat.min(1)[0][:, None, None, None], flat.max(1)[0][:, None, None, None]
    pictures = 255 * (pictures - low) / (high - low).clamp_min(1e-12)
    pictures = pictures if pictures.shape[1] == 3 else pictures[:, :1].expand(-1, 3, -1, -1)
    return pictures.round().to(torch.uint8).movedim(1, -1).numpy()


def _extremes(
    key: np.ndarray, is_highest: bool, n: int, ledger: Ledger, label: np.ndarray | None, comm: Comm
) -> list[tuple[float, int, float, int]]:
    """Return (key, id, loss, label) of the n highest or lowest finite keys of all ranks, the first first."""
    signed = np.where(np.isfinite(key), -key if is_highest else key, np.inf).astype(np.float64)
    rows = np.argpartition(signed, min(n, len(signed) - 1))[:n] if len(signed) else np.zeros(0, np.int64)
    own = [
        (
            float(signed[r]),
            ledger.start + int(r),
            float(ledger.loss[r]),
            -1 if label is None else int(label[r]),
        )
        for r in rows
        if np.isfinite(signed[r])
    ]
    return sorted(row for part in comm.gather(own) for row in part)[:n]
