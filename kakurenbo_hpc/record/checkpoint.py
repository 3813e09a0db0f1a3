"""Checkpoints: everything a run is at the end of an epoch, written beside and renamed, never torn, never unpickled.

A checkpoint is a folder: ``learner.pt`` (rank 0's: all ranks are alike at the end of an epoch), one ``ledger_START.npz``
a rank, ``memory_RANK.npz`` of batch-level methods, and ``manifest.json`` with sizes and checksums, which is written last. Ledger parts are named by the first id
they hold, so that another number of ranks can read them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..batch import Memory
from ..errors import RunDirectoryError
from ..ledger import Ledger
from ..world.comm import Comm
from .files import sync_folder, write_whole

FORMAT = 1
_COLUMNS = ("loss", "correct", "confidence", "seen_epoch")


def save(folder: Path, name: str, learner: dict, ledger: Ledger, memory: Memory, facts: dict, comm: Comm, keep: int) -> None:
    """Write checkpoint ``folder / name`` from all ranks together, then drop all but the newest ``keep``.

    learner: tensors and plain values, rank 0's are written. facts: plain values, for the manifest.
    """
    beside = folder / f".{name}.part"
    if comm.rank == 0:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        torch.save(learner, beside / "learner.pt")
    comm.barrier()
    part = beside / f"ledger_{ledger.start:012d}.npz"
    if len(ledger):
        columns = {name: getattr(ledger, name) for name in _COLUMNS}
        np.savez(part, **columns, **{f"extra_{name}": column for name, column in ledger.extra.items()})
    mine = [part] if len(ledger) else []
    if memory:
        np.savez(beside / _memory(comm.rank), **memory)
        mine.append(beside / _memory(comm.rank))
    mine += [beside / "learner.pt"] if comm.rank == 0 else []
    files = {name: sums for written in comm.gather({p.name: _checksum(p) for p in mine}) for name, sums in written.items()}
    if comm.rank == 0:
        manifest = {"format": FORMAT, "n_total": ledger.n_total, "files": files, **facts}
        write_whole(beside / "manifest.json", json.dumps(manifest, indent=1))
        shutil.rmtree(folder / name, ignore_errors=True)
        beside.rename(folder / name)
        sync_folder(folder)
        for old in _all(folder)[keep:]:
            shutil.rmtree(old, ignore_errors=True)
    comm.barrier()


def newest_valid(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files are all there and whole; one that is not is named and passed over."""
    for checkpoint in _all(folder):
        problem = _problem(checkpoint)
        if problem is None:
            return checkpoint
        print(f"{checkpoint}: {problem}; passed over", flush=True)
    return None


def load_facts(checkpoint: Path) -> dict:
    """Return the manifest, with the facts that ``save`` was given."""
    return json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))


def load_learner(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """Return the learner's state, on its device; tensors and plain values only."""
    return torch.load(checkpoint / "learner.pt", map_location=device, weights_only=True)


def load_ledger(checkpoint: Path, fresh: Ledger) -> Ledger:
    """Return the ledger of fresh's rows, from whichever parts hold them. Each rank reads only those."""
    columns = {name: getattr(fresh, name).copy() for name in _COLUMNS}
    columns |= {f"extra_{name}": column.copy() for name, column in fresh.extra.items()}
    stop, filled = fresh.start + len(fresh), 0
    for path in sorted(checkpoint.glob("ledger_*.npz")):
        start = int(path.stem.removeprefix("ledger_"))
        with np.load(path, allow_pickle=False) as part:
            end = start + len(part["loss"])
            low, high = max(start, fresh.start), min(end, stop)
            if low >= high:
                continue
            for name, column in columns.items():
                column[low - fresh.start : high - fresh.start] = part[name][low - start : high - start]
            filled += high - low
    if filled != len(fresh):
        raise RunDirectoryError(f"{checkpoint}: holds {filled} of the {len(fresh)} samples from {fresh.start} on; was the data set changed?")
    extra = {name: columns.pop(f"extra_{name}") for name in fresh.extra}
    return Ledger(fresh.n_total, fresh.start, **columns, extra=extra)


def load_memory(checkpoint: Path, rank: int) -> Memory:
    """Return what a batch-level method kept on this rank; of fewer ranks, each one's goes to several."""
    n_saved = load_facts(checkpoint)["ranks"]
    with np.load(checkpoint / _memory(rank % n_saved), allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def _memory(rank: int) -> str:
    return f"memory_{rank:06d}.npz"


def _all(folder: Path) -> list[Path]:
    """Return all checkpoints, newest first."""
    return sorted((p for p in folder.glob("epoch_*") if re.fullmatch(r"epoch_\d+", p.name)), key=lambda p: int(p.name[6:]), reverse=True)


def _problem(checkpoint: Path) -> str | None:
    try:
        manifest = load_facts(checkpoint)
        if manifest["format"] > FORMAT:
            return f"format {manifest['format']}, but this version reads up to {FORMAT}"
        for name, sums in manifest["files"].items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _checksum(checkpoint / name) != sums:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is missing or damaged"
    return None


def _checksum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
