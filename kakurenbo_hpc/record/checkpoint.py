"""The folder ``checkpoints``: which are there, which are whole, which are kept.

A checkpoint is a folder of files that ranks have written beside it (``parts.py``) and a ``manifest.json`` with their checksums and
the facts of the run, which is written last, before the folder gets its name: ``epoch_NNNN`` at the end of an epoch,
``epoch_NNNN_inside`` between two steps of one. The file ``best`` names the one of the best epoch.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from .files import sync_folder, write_whole
from .parts import checksum

FORMAT = 1


def beside(folder: Path, name: str) -> Path:
    """Return where the files of a checkpoint are written until it is one."""
    return folder / f".{name}.part"


def clear(folder: Path) -> None:
    """Remove what runs have left that ended while they wrote. On rank 0 alone."""
    for left in folder.glob(".epoch_*"):
        shutil.rmtree(left, ignore_errors=True)


def name_checkpoint(folder: Path, name: str, files: Mapping[str, str], facts: Mapping[str, Any], keep: int) -> None:
    """Make all ranks' files, which are beside, a checkpoint, and drop all but the newest ``keep`` and the best. On rank 0 alone.

    files: their checksums by name. facts: plain values, for the manifest.
    """
    part, there, old = beside(folder, name), folder / name, folder / f".{name}.old"
    write_whole(part / "manifest.json", json.dumps({"format": FORMAT, "files": files, **facts}, indent=1))
    if there.exists():
        there.rename(old)
    part.rename(there)
    sync_folder(folder)
    shutil.rmtree(old, ignore_errors=True)

    found = _all(folder)
    at = found.index(there)
    best = max(found[at:], key=_score)
    if _score(best) > float("-inf"):
        write_whole(folder / "best", best.name + "\n")
    for other in found[:at] + found[at + keep :]:  # what is newer than this one was not whole, or not of this job
        if other != best:
            shutil.rmtree(other, ignore_errors=True)


def newest_valid(folder: Path, whole_epochs: bool = False) -> Path | None:
    """Return the newest checkpoint whose files are all there and whole; one that is not is named and passed over.

    whole_epochs: pass over those inside an epoch, too. Raises RunDirectoryError if it is of a newer format than this version's.
    """
    for checkpoint in _all(folder):
        problem = "inside an epoch of the job as it was" if whole_epochs and checkpoint.name.endswith("_inside") else _problem(checkpoint)
        if problem is None:
            return checkpoint
        print(f"{checkpoint}: {problem}; passed over", flush=True)
    return None


def load_facts(checkpoint: Path) -> dict:
    """Return the manifest, with the facts that it was given."""
    return json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))


def _all(folder: Path) -> list[Path]:
    """Return all checkpoints, newest first; one inside an epoch is older than that at its end."""
    there = [(p, re.fullmatch(r"epoch_(\d+)(_inside)?", p.name)) for p in folder.glob("epoch_*")]
    return [p for p, name in sorted((pair for pair in there if pair[1]), key=lambda pair: (int(pair[1][1]), not pair[1][2]), reverse=True)]


def _problem(checkpoint: Path) -> str | None:
    try:
        manifest = load_facts(checkpoint)
        if manifest["format"] > FORMAT:
            raise RunDirectoryError(
                f"{checkpoint}: of format {manifest['format']}, but this version reads up to {FORMAT}; use the version that wrote it"
            )
        for name, sums in manifest["files"].items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if checksum(checkpoint / name) != sums:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is missing or damaged"
    return None


def _score(checkpoint: Path) -> float:
    """Return the epoch's accuracy or IoU on the validation set; -inf inside an epoch, or where there is none."""
    try:
        facts = load_facts(checkpoint)
        score = facts["line"].get("val_iou", facts["line"].get("val_accuracy"))
        return float(score) if "steps" not in facts and score == score else float("-inf")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return float("-inf")
