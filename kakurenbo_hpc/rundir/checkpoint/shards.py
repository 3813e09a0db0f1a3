"""Checkpoint shards: the files of each rank, readable by any number of ranks. Nothing is ever unpickled.

- ``learner.pt``: rank 0 only, since parameters are equal on all ranks.
- ``ledger_START.npz``: ledger rows in chunks named by their first id, so that other ranks can read their own.
- ``memory_RANK.npz``: state of a batch-level method.
- Inside an epoch, ledger and method state are those at its beginning, with ``trail_RANK.npz``, the results of
  its passes so far, and ``buffers_RANK.pt``, since BatchNorm's statistics differ between ranks then.

Random streams need no file: every draw is keyed by its purpose.
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
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch

from ...core.batch import MethodState
from ...core.ledger import Ledger
from ...errors import RunDirectoryError

if TYPE_CHECKING:
    from typing_extensions import Buffer

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
_CHUNK = 1 << 22  # rows in a ledger file
_IO_CHUNK = 1 << 24  # bytes between two reports of progress

ProgressCallback = Callable[[], object]  # resets the watchdog's timeout


def _no_progress() -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class MidEpoch:
    """One rank's state inside an epoch.

    Attributes:
        passed: number of steps and results, by name, of each pass so far.
        buffers: the model's buffers.
    """

    passed: Sequence[tuple[int, Mapping[str, np.ndarray]]]
    buffers: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class RankState:
    """One rank's state.

    Attributes:
        learner: tensors and plain values; None on all ranks but the first.
        ledger: this rank's rows.
        method_state: of a batch-level method.
        mid_epoch: None at the end of an epoch.
    """

    learner: dict[str, Any] | None
    ledger: Ledger
    method_state: MethodState
    mid_epoch: MidEpoch | None = None


def write_shards(
    folder: Path, rank: int, state: RankState, on_progress: ProgressCallback = _no_progress
) -> dict[str, str]:
    """Write and sync a rank's files.

    Args:
        folder: created if missing.
        rank: of this process.
        state: what to write.
        on_progress: called whenever the disk has taken another chunk.

    Returns:
        Checksums of the files by name.

    Raises:
        OSError: the disk refused; perhaps only as the context of another exception.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}

    def write(name: str, save: Callable[[IO[bytes]], None]) -> None:
        with io.BufferedWriter(_ChunkedWriter(folder / name, on_progress), _IO_CHUNK) as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        written[name] = checksum(folder / name)
        on_progress()

    for start in range(0, len(state.ledger), _CHUNK):
        columns: dict[str, Any] = {
            name: column[start : start + _CHUNK] for name, column in state.ledger.columns().items()
        }
        write(f"ledger_{state.ledger.start + start:012d}.npz", lambda file: np.savez(file, **columns))  # noqa: B023
    if state.learner is not None:
        write("learner.pt", lambda file: torch.save(state.learner, file))
    if state.method_state:
        arrays: dict[str, Any] = dict(state.method_state)
        write(_memory(rank), lambda file: np.savez(file, **arrays))
    if (mid_epoch := state.mid_epoch) is not None:
        results: dict[str, Any] = {
            f"{i}_{name}": array
            for i, (_, pass_) in enumerate(mid_epoch.passed)
            for name, array in pass_.items()
        }
        write(_trail(rank), lambda file: np.savez(file, **results))
        write(_buffers(rank), lambda file: torch.save(dict(mid_epoch.buffers), file))
    return written


class _ChunkedWriter(io.FileIO):
    """File that syncs and reports progress by chunk: one sync of all may outlast the watchdog's timeout."""

    def __init__(self, path: Path, on_progress: ProgressCallback):
        super().__init__(path, "wb")
        self._on_progress, self._unsynced = on_progress, 0

    def write(self, data: Buffer) -> int:
        n = super().write(memoryview(data)[:_IO_CHUNK])
        self._unsynced += n
        if self._unsynced >= _IO_CHUNK:
            os.fdatasync(self.fileno())
            self._unsynced = 0
        self._on_progress()
        return n


class _ChunkedReader(io.FileIO):
    """File that reports progress by chunk: reads by all ranks at once may outlast the watchdog's timeout."""

    def __init__(self, path: Path, on_progress: ProgressCallback):
        super().__init__(path, "rb")
        self._on_progress = on_progress

    def readinto(self, into: Buffer) -> int:
        n = super().readinto(memoryview(into)[:_IO_CHUNK])
        self._on_progress()
        return n


def _read(path: Path, on_progress: ProgressCallback) -> io.BufferedReader:
    return io.BufferedReader(_ChunkedReader(path, on_progress), 1 << 20)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Turn every error while a checkpoint is read or restored into a RunDirectoryError of one line."""
    try:
        yield
    except _UNREADABLE as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise RunDirectoryError(
            f"{checkpoint}: cannot be taken up by this job ({reason[:200]}); give another --run-dir"
        ) from None


def load_learner(
    checkpoint: Path, device: torch.device, on_progress: ProgressCallback = _no_progress
) -> dict[str, Any]:
    """Read the learner's state, onto its device; tensors and plain values only."""
    return _tensors(checkpoint / "learner.pt", device, on_progress)


def load_ledger(
    checkpoint: Path, facts: Mapping[str, Any], fresh: Ledger, on_progress: ProgressCallback = _no_progress
) -> Ledger:
    """Read this rank's ledger rows from the chunks that hold them.

    Args:
        checkpoint: folder to read from.
        facts: the checkpoint's manifest.
        fresh: ledger of this rank's rows; columns that the checkpoint lacks are taken from it.
        on_progress: called after every chunk.

    Raises:
        RunDirectoryError: the checkpoint has another number of samples.
    """
    if facts["n_total"] != fresh.n_total:
        raise RunDirectoryError(
            f"{checkpoint}: holds {facts['n_total']} samples, but the data set has "
            f"{fresh.n_total}; was it changed?"
        )
    columns = {name: column.copy() for name, column in fresh.columns().items()}
    names = sorted(name for name in facts["files"] if name.startswith("ledger_"))
    starts = [int(name[len("ledger_") : -len(".npz")]) for name in names]
    for name, start, end in zip(names, starts, [*starts[1:], fresh.n_total], strict=True):
        low, high = max(start, fresh.start), min(end, fresh.start + len(fresh))
        if low < high:
            for column, values in _arrays(checkpoint / name, on_progress, columns).items():
                columns[column][low - fresh.start : high - fresh.start] = values[low - start : high - start]
    return Ledger.of(fresh.n_total, fresh.start, columns)


def load_method_state(
    checkpoint: Path,
    facts: Mapping[str, Any],
    rank: int,
    fresh: MethodState,
    on_progress: ProgressCallback = _no_progress,
) -> MethodState:
    """Read the state of a batch-level method; with more ranks than were saved, several share one rank's."""
    path = checkpoint / _memory(rank % facts["ranks"])
    return {**fresh, **_arrays(path, on_progress, fresh)} if path.name in facts["files"] else fresh


def load_mid_epoch(
    checkpoint: Path,
    facts: Mapping[str, Any],
    rank: int,
    n_ranks: int,
    device: torch.device,
    on_progress: ProgressCallback = _no_progress,
) -> MidEpoch | None:
    """Read this rank's state inside an epoch.

    If the number of ranks has changed, each saved rank's results go to one rank, those named ``all_`` to
    every rank, and the buffers are shares whose mean over the ranks equals the mean over the saved ranks.

    Args:
        checkpoint: folder to read from.
        facts: the checkpoint's manifest.
        rank: of this process.
        n_ranks: number of ranks now.
        device: for the buffers.
        on_progress: called after every chunk.

    Returns:
        The state; None for a checkpoint at the end of an epoch.
    """
    if "steps" not in facts:
        return None
    n_saved = facts["ranks"]
    mine = range(rank, n_saved, n_ranks)
    parts = [_arrays(checkpoint / _trail(old), on_progress) for old in mine]
    like = parts[0] if parts else _arrays(checkpoint / _trail(rank % n_saved), on_progress)
    results = {
        name: array if _is_all(name) else np.concatenate([array[:0], *(part[name] for part in parts)])
        for name, array in like.items()
    }
    passed = [(steps, _of_pass(i, results)) for i, steps in enumerate(facts["steps"])]
    buffers = _tensors(checkpoint / _buffers(rank % n_saved), device, on_progress)
    if n_saved != n_ranks:
        share = {name: torch.zeros_like(buffer, dtype=torch.float64) for name, buffer in buffers.items()}
        for old in mine:
            for name, buffer in _tensors(checkpoint / _buffers(old), device, on_progress).items():
                share[name] += buffer.double() * n_ranks / n_saved
        buffers = share
    return MidEpoch(passed, buffers)


def _tensors(path: Path, device: torch.device, on_progress: ProgressCallback) -> dict[str, Any]:
    with _read(path, on_progress) as file:
        return torch.load(file, map_location=device, weights_only=True)


def _arrays(
    path: Path, on_progress: ProgressCallback, wanted: Mapping[str, object] | None = None
) -> dict[str, np.ndarray]:
    """Read the arrays in a file, or only the wanted ones."""
    with _read(path, on_progress) as file, np.load(file, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files if wanted is None or name in wanted}


def _of_pass(i: int, results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{i}_"): array for name, array in results.items() if name.startswith(f"{i}_")}


def _is_all(name: str) -> bool:
    return name.partition("_")[2].startswith("all_")


def _trail(rank: int) -> str:
    return f"trail_{rank:06d}.npz"


def _buffers(rank: int) -> str:
    return f"buffers_{rank:06d}.pt"


def _memory(rank: int) -> str:
    return f"memory_{rank:06d}.npz"
