"""The folder ``checkpoints``: which are there, which are whole, which are kept.

A checkpoint is a folder of files that ranks have written beside it (``parts.py``) and a ``manifest.json`` with their checksums and
the facts of the run, and its own checksum, which is written last, before the folder gets its name: ``epoch_NNNN`` at the end of an
epoch, ``epoch_NNNN_inside_SSSSS`` after so many steps of all passes of one. No name is given twice, and what was passed over is kept
under another. The file ``best`` names the one of the best epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import RunDirectoryError
from ..atomic_io import sync_folder, write_whole
from ..console import print_line
from .shards import checksum

FORMAT = 2  # 1 had no checksum of the manifest


def beside(folder: Path, name: str) -> Path:
    """Return where the files of a checkpoint are written until it is one."""
    return folder / f".{name}.part"


def clear(folder: Path) -> None:
    """Remove what runs have left that ended while they wrote. On rank 0 alone."""
    for left in folder.glob(".epoch_*"):
        shutil.rmtree(left, ignore_errors=True)


def set_aside(folder: Path, found: Path | None) -> None:
    """Rename what was passed over for the one found: this run needs the names, and somebody may need the rest. On rank 0 alone."""
    there = _all(folder)
    for checkpoint in there[: there.index(found)] if found else there:
        names = (f"passed_over_{n}_{checkpoint.name}" for n in itertools.count(1))
        checkpoint.rename(next(aside for name in names if not (aside := folder / name).exists()))


def name_checkpoint(
    folder: Path, name: str, files: Mapping[str, str], facts: Mapping[str, Any], keep: int
) -> None:
    """Make all ranks' files, which are beside, a checkpoint, and drop all but the newest ``keep`` and the best. On rank 0 alone.

    files: their checksums by name. facts: plain values, for the manifest.
    """
    part, there = beside(folder, name), folder / name
    write_manifest(part, {"files": files, **facts})
    part.rename(there)
    sync_folder(folder)
    with contextlib.suppress(OSError):  # it is one now, and the next one drops what this one could not
        _drop(folder, there, keep)


def newest_valid(folder: Path, whole_epochs: bool = False) -> Path | None:
    """Return the newest checkpoint whose files are all there and whole, None if there is none; what is passed over is named.

    whole_epochs: pass over those inside an epoch, too. Raises RunDirectoryError if checkpoints are damaged and none is whole, if one
    is of another format than this version's, or if a file cannot be read: the file system may let it be read the next time.
    """
    found, passed_over, damaged = None, [], []
    for checkpoint in _all(folder):
        inside = whole_epochs and _is_inside(checkpoint)
        problem = "inside an epoch of the job as it was" if inside else problem_of(checkpoint)
        if problem is None:
            found = checkpoint
            break
        passed_over.append(f"{checkpoint}: {problem}")
        damaged += [] if inside else [f"{checkpoint.name}: {problem}"]
    if damaged and found is None:
        raise RunDirectoryError(
            f"{folder}: no checkpoint can be taken up ({', '.join(damaged)}); put one right, or give another --run-dir"
        )
    for line in passed_over:
        print_line(f"{line}; passed over")
    return found


def problem_of(checkpoint: Path) -> str | None:
    """Return which file of a checkpoint is missing or damaged, None if it is whole. Raises RunDirectoryError as ``newest_valid`` does."""
    name = "manifest.json"
    try:
        facts = load_facts(checkpoint)
        if facts.get("checksum") != _checksum(facts) and (facts["format"] != 1 or "checksum" in facts):
            return f"{name} is damaged"
        if facts["format"] != FORMAT:
            raise RunDirectoryError(
                f"{checkpoint}: of format {facts['format']}, but this version reads format {FORMAT}; use the version that wrote it"
            )
        for name, sums in facts["files"].items():
            if checksum(checkpoint / name) != sums:
                return f"{name} is damaged"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return f"{name} is missing"
    except OSError as problem:
        raise RunDirectoryError(
            f"{checkpoint / name}: cannot be read ({problem.strerror}); try again when it can"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{name} is damaged"
    return None


def write_manifest(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts with the format and a checksum of them all."""
    facts = {"format": FORMAT, **facts}
    write_whole(checkpoint / "manifest.json", json.dumps({**facts, "checksum": _checksum(facts)}, indent=1))


def load_facts(checkpoint: Path) -> dict:
    """Return the manifest, with the facts that it was given."""
    return json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))


def _checksum(facts: Mapping[str, Any]) -> str:
    """Return the checksum of what a manifest says, as JSON writes it again after it has read it."""
    return hashlib.sha256(
        json.dumps({name: fact for name, fact in facts.items() if name != "checksum"}).encode()
    ).hexdigest()


def _all(folder: Path) -> list[Path]:
    """Return all checkpoints, newest first; one inside an epoch is older than that at its end."""
    there = {path: _name(path) for path in folder.glob("epoch_*") if _name(path)}
    return sorted(
        there,
        key=lambda path: (int(there[path][1]), there[path][2] is None, int(there[path][2] or 0)),
        reverse=True,
    )


def _name(path: Path) -> re.Match | None:
    return re.fullmatch(r"epoch_(\d+)(?:_inside_?(\d*))?", path.name)  # format 1 gave no steps


def _is_inside(checkpoint: Path) -> bool:
    return _name(checkpoint)[2] is not None


def _drop(folder: Path, named: Path, keep: int) -> None:
    """Drop all but the newest ``keep`` and the best.

    Of those inside an epoch only the one just named counts: it holds the others' steps.
    """
    found = [checkpoint for checkpoint in _all(folder) if checkpoint == named or not _is_inside(checkpoint)]
    best = max(found, key=_score)
    if _score(best) > float("-inf"):
        write_whole(folder / "best", best.name + "\n")
    for other in set(_all(folder)) - {named, best, *found[:keep]}:
        shutil.rmtree(other, ignore_errors=True)


def _score(checkpoint: Path) -> float:
    """Return the epoch's accuracy or IoU on the validation set; -inf inside an epoch, or where there is none."""
    try:
        facts = load_facts(checkpoint)
        score = facts["line"].get("val_iou", facts["line"].get("val_accuracy"))
        return float(score) if "steps" not in facts and score == score else float("-inf")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return float("-inf")
