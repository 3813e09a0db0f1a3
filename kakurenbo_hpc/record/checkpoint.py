"""Checkpoints: everything a run is, at the end of an epoch or between two steps of one, never torn, never unpickled.

A checkpoint is a folder, written beside and renamed: ``learner.pt`` (rank 0's: parameters are alike on all ranks), one
``ledger_START.npz`` a rank, ``memory_RANK.npz`` of batch-level methods, and ``manifest.json`` with checksums, which is
written last. Ledger parts are named by the first id they hold, so that another number of ranks can read them. Inside an
epoch, ledger and memory are those that it began with, and there are ``trail_RANK.npz``, what its passes have found out, and
``buffers_RANK.pt``, since ranks differ in BatchNorm's statistics then.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Inside:
    """What a checkpoint inside an epoch holds of one rank: steps and findings of each pass so far, and the model's buffers."""

    passed: Sequence[tuple[int, Mapping[str, np.ndarray]]]
    buffers: Mapping[str, torch.Tensor]


def save(
    folder: Path, name: str, learner: dict, ledger: Ledger, memory: Memory, facts: dict, comm: Comm, keep: int,
    inside: Inside | None = None,
) -> None:
    """Write checkpoint ``folder / name`` from all ranks together, then drop all but the newest ``keep``.

    name: epoch_NNNN, or epoch_NNNN_inside. learner: tensors and plain values, rank 0's are written. facts: plain values, for
    the manifest.
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
    if inside is not None:
        facts = {**facts, "steps": [steps for steps, _ in inside.passed]}
        found = {f"{i}_{name}": array for i, (_, pass_) in enumerate(inside.passed) for name, array in pass_.items()}
        np.savez(beside / _trail(comm.rank), **found)
        torch.save(dict(inside.buffers), beside / _buffers(comm.rank))
        mine += [beside / _trail(comm.rank), beside / _buffers(comm.rank)]
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
    return _arrays(checkpoint / _memory(rank % n_saved))


def load_inside(checkpoint: Path, rank: int, n_ranks: int, device: torch.device) -> Inside | None:
    """Return what this rank of n_ranks takes up again of a checkpoint inside an epoch; None at an epoch's end.

    Of another number of ranks, each one's findings go to one rank, those named ``all_`` to every rank; buffers are the mean.
    """
    facts = load_facts(checkpoint)
    if "steps" not in facts:
        return None
    n_saved = facts["ranks"]
    parts = [_arrays(checkpoint / _trail(old)) for old in range(rank, n_saved, n_ranks)]
    one = _arrays(checkpoint / _trail(rank % n_saved))
    found = {name: array if _is_all(name) else np.concatenate([array[:0], *(part[name] for part in parts)]) for name, array in one.items()}
    passed = [(steps, _of_pass(i, found)) for i, steps in enumerate(facts["steps"])]
    saved = [rank] if n_saved == n_ranks else range(n_saved)
    buffers = [torch.load(checkpoint / _buffers(old), map_location=device, weights_only=True) for old in saved]
    return Inside(passed, {name: torch.stack([b[name].double() for b in buffers]).mean(0) for name in buffers[0]})


def _of_pass(i: int, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{i}_"): array for name, array in found.items() if name.startswith(f"{i}_")}


def _is_all(name: str) -> bool:
    return name.partition("_")[2].startswith("all_")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def _trail(rank: int) -> str:
    return f"trail_{rank:06d}.npz"


def _buffers(rank: int) -> str:
    return f"buffers_{rank:06d}.pt"


def _memory(rank: int) -> str:
    return f"memory_{rank:06d}.npz"


def _all(folder: Path) -> list[Path]:
    """Return all checkpoints, newest first; one inside an epoch is older than that at its end."""
    there = [(p, re.fullmatch(r"epoch_(\d+)(_inside)?", p.name)) for p in folder.glob("epoch_*")]
    return [p for p, name in sorted((pair for pair in there if pair[1]), key=lambda pair: (int(pair[1][1]), not pair[1][2]), reverse=True)]


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
