"""What one rank writes of a checkpoint, and what a rank of as many, or of more or fewer, reads of it again. Nothing is ever unpickled.

``learner.pt`` is rank 0's: parameters are alike on all ranks. Ledger rows lie in pieces named by the first id that they hold, so that
another number of ranks can read them, each its own alone. ``memory_RANK.npz`` is of batch-level methods. Inside an epoch, ledger and
memory are those that it began with, and there are ``trail_RANK.npz``, what its passes have found out, and ``buffers_RANK.pt``,
since ranks differ in BatchNorm's statistics then. Random streams need no place: every draw is keyed by what it belongs to.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
import torch

from ...core.batch import MethodState
from ...core.ledger import Ledger
from ...errors import RunDirectoryError

_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    UnpicklingError,
    BadZipFile,
)
_PIECE = 1 << 22  # rows; who reads a few of them reads their piece
_AT_ONCE = 1 << 24  # bytes that a disk takes or gives before that is told

GoesOn = Callable[[], object]  # tells who watches for hangs


def _nobody() -> None:
    """Stand for who does not watch."""


@dataclass(frozen=True)
class MidEpoch:
    """What a checkpoint inside an epoch holds of one rank: steps and findings of each pass so far, and the model's buffers."""

    passed: Sequence[tuple[int, Mapping[str, np.ndarray]]]
    buffers: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class RankState:
    """What one rank writes. learner: tensors and plain values; None on all ranks but the first. inside: None at an epoch's end."""

    learner: dict | None
    ledger: Ledger
    method_state: MethodState
    inside: MidEpoch | None = None


def write_part(folder: Path, rank: int, part: RankState, goes_on: GoesOn = _nobody) -> dict[str, str]:
    """Write a rank's files, synced, and return their checksums by name. Raises OSError, perhaps hidden in another's context.

    goes_on: called whenever the disk has taken some more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}

    def write(name: str, save: Callable[[IO[bytes]], None]) -> None:
        with io.BufferedWriter(_Written(folder / name, goes_on), _AT_ONCE) as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        written[name] = checksum(folder / name)
        goes_on()

    for start in range(0, len(part.ledger), _PIECE):
        columns = {name: column[start : start + _PIECE] for name, column in part.ledger.columns().items()}
        write(f"ledger_{part.ledger.start + start:012d}.npz", lambda file: np.savez(file, **columns))  # noqa: B023
    if part.learner is not None:
        write("learner.pt", lambda file: torch.save(part.learner, file))
    if part.method_state:
        write(_memory(rank), lambda file: np.savez(file, **part.method_state))
    if part.inside is not None:
        found = {
            f"{i}_{name}": array
            for i, (_, pass_) in enumerate(part.inside.passed)
            for name, array in pass_.items()
        }
        write(_trail(rank), lambda file: np.savez(file, **found))
        write(_buffers(rank), lambda file: torch.save(dict(part.inside.buffers), file))
    return written


class _Written(io.FileIO):
    """A file that is synced, and told of, piece by piece: to sync all of it at its end may take longer than a hang is waited for."""

    def __init__(self, path: Path, goes_on: GoesOn):
        super().__init__(path, "wb")
        self._goes_on, self._unsynced = goes_on, 0

    def write(self, data: bytes | memoryview) -> int:
        n = super().write(memoryview(data)[:_AT_ONCE])
        self._unsynced += n
        if self._unsynced >= _AT_ONCE:
            os.fdatasync(self.fileno())
            self._unsynced = 0
        self._goes_on()
        return n


class _Read(io.FileIO):
    """A file that is told of piece by piece while it is read: all ranks read at once, and a file system may need long for that."""

    def __init__(self, path: Path, goes_on: GoesOn):
        super().__init__(path, "rb")
        self._goes_on = goes_on

    def readinto(self, into: memoryview) -> int:
        n = super().readinto(memoryview(into)[:_AT_ONCE])
        self._goes_on()
        return n


def _read(path: Path, goes_on: GoesOn) -> io.BufferedReader:
    return io.BufferedReader(_Read(path, goes_on), 1 << 20)


def checksum(path: Path) -> str:
    """Return what ``sha256sum`` says of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def fitting(checkpoint: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a checkpoint is read or restored into a RunDirectoryError of one line."""
    try:
        yield
    except _UNREADABLE as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise RunDirectoryError(
            f"{checkpoint}: cannot be taken up by this job ({reason[:200]}); give another --run-dir"
        ) from None


def load_learner(checkpoint: Path, device: torch.device, goes_on: GoesOn = _nobody) -> dict[str, Any]:
    """Return the learner's state, on its device; tensors and plain values only. goes_on: here and below, called along the way."""
    return _tensors(checkpoint / "learner.pt", device, goes_on)


def load_ledger(
    checkpoint: Path, facts: Mapping[str, Any], fresh: Ledger, goes_on: GoesOn = _nobody
) -> Ledger:
    """Return the ledger of fresh's rows, from whichever pieces hold them; columns that the checkpoint lacks stay fresh.

    facts: the checkpoint's manifest. Raises RunDirectoryError if not all rows are there.
    """
    if facts["n_total"] != fresh.n_total:
        raise RunDirectoryError(
            f"{checkpoint}: holds {facts['n_total']} samples, but the data set has {fresh.n_total}; was it changed?"
        )
    columns = {name: column.copy() for name, column in fresh.columns().items()}
    names = sorted(name for name in facts["files"] if name.startswith("ledger_"))
    starts = [int(name[len("ledger_") : -len(".npz")]) for name in names]
    for name, start, end in zip(names, starts, [*starts[1:], fresh.n_total], strict=True):
        low, high = max(start, fresh.start), min(end, fresh.start + len(fresh))
        if low < high:
            for column, values in _arrays(checkpoint / name, goes_on, columns).items():
                columns[column][low - fresh.start : high - fresh.start] = values[low - start : high - start]
    return Ledger.of(fresh.n_total, fresh.start, columns)


def load_memory(
    checkpoint: Path, facts: Mapping[str, Any], rank: int, fresh: MethodState, goes_on: GoesOn = _nobody
) -> MethodState:
    """Return what a batch-level method kept on this rank; of fewer ranks, each one's goes to several."""
    path = checkpoint / _memory(rank % facts["ranks"])
    return {**fresh, **_arrays(path, goes_on, fresh)} if path.name in facts["files"] else fresh


def load_inside(
    checkpoint: Path,
    facts: Mapping[str, Any],
    rank: int,
    n_ranks: int,
    device: torch.device,
    goes_on: GoesOn = _nobody,
) -> MidEpoch | None:
    """Return what this rank of n_ranks takes up again of a checkpoint inside an epoch; None at an epoch's end.

    Of another number of ranks, each one's findings go to one rank, those named ``all_`` to every rank; and buffers come as shares
    whose mean over the ranks of now is the mean over those of then.
    """
    if "steps" not in facts:
        return None
    n_saved = facts["ranks"]
    mine = range(rank, n_saved, n_ranks)
    parts = [_arrays(checkpoint / _trail(old), goes_on) for old in mine]
    like = parts[0] if parts else _arrays(checkpoint / _trail(rank % n_saved), goes_on)
    found = {
        name: array if _is_all(name) else np.concatenate([array[:0], *(part[name] for part in parts)])
        for name, array in like.items()
    }
    passed = [(steps, _of_pass(i, found)) for i, steps in enumerate(facts["steps"])]
    buffers = _tensors(checkpoint / _buffers(rank % n_saved), device, goes_on)
    if n_saved != n_ranks:
        share = {name: torch.zeros_like(buffer, dtype=torch.float64) for name, buffer in buffers.items()}
        for old in mine:
            for name, buffer in _tensors(checkpoint / _buffers(old), device, goes_on).items():
                share[name] += buffer.double() * n_ranks / n_saved
        buffers = share
    return MidEpoch(passed, buffers)


def _tensors(path: Path, device: torch.device, goes_on: GoesOn) -> dict[str, Any]:
    with _read(path, goes_on) as file:
        return torch.load(file, map_location=device, weights_only=True)


def _arrays(path: Path, goes_on: GoesOn, wanted: Mapping[str, object] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays in a file, or those of them that are wanted."""
    with _read(path, goes_on) as file, np.load(file, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files if wanted is None or name in wanted}


def _of_pass(i: int, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{i}_"): array for name, array in found.items() if name.startswith(f"{i}_")}


def _is_all(name: str) -> bool:
    return name.partition("_")[2].startswith("all_")


def _trail(rank: int) -> str:
    return f"trail_{rank:06d}.npz"


def _buffers(rank: int) -> str:
    return f"buffers_{rank:06d}.pt"


def _memory(rank: int) -> str:
    return f"memory_{rank:06d}.npz"
