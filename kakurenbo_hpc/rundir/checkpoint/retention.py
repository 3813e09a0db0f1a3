"""Checkpoint folder: names, commit, search for the newest valid one, retention.

The ranks write a checkpoint's files into a partial folder (``shards.py``). Commit adds the manifest and
renames the folder (``names.py``). No name is used twice; checkpoints newer than the one resumed from are
renamed, not removed. The file ``best`` names the checkpoint of the best epoch.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import RunDirectoryError
from ..atomic_io import sync_folder, write_whole
from ..console import print_line
from .manifest import load_facts, validate_checkpoint, write_manifest
from .names import is_inside, list_checkpoints


def partial_folder(folder: Path, name: str, attempt: int = 0) -> Path:
    """Return the folder that holds a checkpoint's files until it is committed: each attempt has its own."""
    return folder / (f".{name}.{attempt}.part" if attempt else f".{name}.part")


def remove_partial(folder: Path) -> None:
    """Remove the partial folders of interrupted runs. On rank 0 only."""
    for partial in folder.glob(".epoch_*"):
        shutil.rmtree(partial, ignore_errors=True)


def set_aside(folder: Path, resumed: Path | None) -> None:
    """Rename the checkpoints newer than the one resumed from: this run needs their names. On rank 0 only."""
    checkpoints = list_checkpoints(folder)
    for checkpoint in checkpoints[: checkpoints.index(resumed)] if resumed else checkpoints:
        names = (f"passed_over_{n}_{checkpoint.name}" for n in itertools.count(1))
        checkpoint.rename(next(aside for name in names if not (aside := folder / name).exists()))


def commit(folder: Path, name: str, files: Mapping[str, str], facts: Mapping[str, Any], keep: int) -> None:
    """Turn the partial folder into a checkpoint and remove old ones. On rank 0 only.

    Args:
        folder: the run's folder ``checkpoints``.
        name: of the checkpoint.
        files: checksums of all ranks' files by name.
        facts: plain values for the manifest.
        keep: how many of the newest checkpoints stay, besides the best.

    Raises:
        OSError: the manifest cannot be written, or the folder cannot be renamed.
    """
    partial, checkpoint = partial_folder(folder, name, facts.get("attempt", 0)), folder / name
    write_manifest(partial, {"files": files, **facts})
    partial.rename(checkpoint)
    sync_folder(folder)
    with contextlib.suppress(OSError):  # it is committed; the next commit removes what this one could not
        _remove_old(folder, checkpoint, keep)


def newest_valid(folder: Path, none_inside: str = "") -> Path | None:
    """Find the newest valid checkpoint; print a line for each newer one that is passed over.

    Args:
        folder: the run's folder ``checkpoints``.
        none_inside: why checkpoints inside an epoch are passed over, too; empty: they are not.

    Returns:
        The checkpoint, or None if there is none.

    Raises:
        RunDirectoryError: checkpoints are damaged and none is valid, or as ``validate_checkpoint`` raises it.
    """
    newest, passed_over, damaged = None, [], []
    for checkpoint in list_checkpoints(folder):
        inside = bool(none_inside) and is_inside(checkpoint)
        problem = none_inside if inside else validate_checkpoint(checkpoint)
        if problem is None:
            newest = checkpoint
            break
        passed_over.append(f"{checkpoint}: {problem}")
        damaged += [] if inside else [f"{checkpoint.name}: {problem}"]
    if damaged and newest is None:
        raise RunDirectoryError(
            f"{folder}: no checkpoint can be taken up ({', '.join(damaged)}); "
            "put one right, or give another --run-dir"
        )
    for line in passed_over:
        print_line(f"{line}; passed over")
    return newest


def _remove_old(folder: Path, newest: Path, keep: int) -> None:
    """Remove all but the newest ``keep``, the newest of a whole epoch, and the best.

    Of the checkpoints inside an epoch only the newest one is kept. Runs with node-local data need one of a
    whole epoch to go on with on other ranks.
    """
    candidates = [path for path in list_checkpoints(folder) if path == newest or not is_inside(path)]
    best = max(candidates, key=_score)
    if _score(best) > float("-inf"):
        write_whole(folder / "best", best.name + "\n")
    whole = [path for path in candidates if not is_inside(path)]
    for other in set(list_checkpoints(folder)) - {newest, best, *whole[:1], *candidates[:keep]}:
        shutil.rmtree(other, ignore_errors=True)


def _score(checkpoint: Path) -> float:
    """Return the epoch's validation accuracy or IoU; -inf inside an epoch, or where there is none."""
    try:
        facts = load_facts(checkpoint)
        score = facts["line"].get("val_iou", facts["line"].get("val_accuracy"))
        return float(score) if "steps" not in facts and score == score else float("-inf")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return float("-inf")
