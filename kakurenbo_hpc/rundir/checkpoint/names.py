"""Names of checkpoints and their order. Without torch: the launcher reads them.

``epoch_NNNN`` is written at the end of an epoch, ``epoch_NNNN_inside_SSSSS`` after SSSSS steps of all its
passes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Position(NamedTuple):
    """Progress of a run at a checkpoint, ordered. n_epochs: finished; steps: of the next one."""

    n_epochs: int
    steps: int


def position(checkpoint: Path) -> Position | None:
    """Return what a checkpoint's name says; None for what is no checkpoint."""
    match = re.fullmatch(r"epoch_(\d+)(?:_inside_?(\d*))?", checkpoint.name)  # format 1 gave no steps
    if match is None:
        return None
    return (
        Position(int(match[1]), int(match[2] or 0))
        if match[2] is not None
        else Position(int(match[1]) + 1, 0)
    )


def is_inside(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written inside an epoch."""
    return "_inside" in checkpoint.name


def list_checkpoints(folder: Path) -> list[Path]:
    """List all checkpoints, newest first."""
    positions = {path: at for path in folder.glob("epoch_*") if (at := position(path))}
    return sorted(positions, key=lambda path: (positions[path], is_inside(path)), reverse=True)
