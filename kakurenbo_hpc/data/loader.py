"""Data loader: reads the batches of a rank's micro-batches, in worker processes or in the rank itself."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..core.batch import Batch, MicroBatch
from ..errors import DataError
from .dataset import Dataset, ReadRequest
from .workers import exit_with_rank, forkserver_context, workers_available


class Loader:
    """Reads batches of one data set. Workers persist over passes and epochs.

    Without workers, a data set that can read ahead does so; the memory of a batch is then reused once nothing
    refers to it.
    """

    def __init__(self, source: Dataset, workers: int, device: torch.device):
        """Prepare to read; workers start with the first pass.

        Args:
            source: the data set.
            workers: their number; there are none, whatever this says, on a machine without /dev/shm.
            device: where batches go.
        """
        self.source, self.workers = source, workers if workers and workers_available() else 0
        self._device = device
        self._streams = source.reads_ahead and self.workers == 0
        self._sampler = _RequestSampler()
        self._worker_pids: dict[
            int, int | None
        ] = {}  # by the sentinel that becomes ready when a worker exits
        self._loader: DataLoader = DataLoader(
            _ErrorsAsResults(source),
            batch_sampler=self._sampler,  # type: ignore[arg-type]  # torch's stub wants lists of indices
            collate_fn=_identity,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=device.type == "cuda",
            multiprocessing_context=forkserver_context(__name__) if self.workers else None,
            worker_init_fn=exit_with_rank,
            generator=torch.Generator(),  # else every pass would take a number from torch's global stream
        )

    def __call__(self, micro_batches: Iterable[MicroBatch], epoch: int, augment: bool) -> Iterator[Batch]:
        """Yield the batches of these micro-batches in order. Only one pass can run at a time.

        Raises:
            DataError: a file cannot be read.
        """
        micro_batches = list(micro_batches)
        requests = [ReadRequest(one.id, one.copy, epoch, augment) for one in micro_batches]
        self._sampler.requests = requests
        if not micro_batches:
            return
        batches = self.source.stream(requests, self._device) if self._streams else self._load()
        for micro_batch, result in zip(micro_batches, batches, strict=True):
            if isinstance(result, DataError):
                raise result
            inputs, targets = result
            yield Batch(
                micro_batch=micro_batch,
                input=inputs.to(self._device, non_blocking=True),
                target=targets.to(self._device, non_blocking=True),
            )

    def _load(self) -> Iterator[Any]:
        """Yield what DataLoader reads.

        Raises:
            RuntimeError: a worker has exited; the message has its process id.
        """
        try:
            batches = iter(self._loader)
            self._worker_pids = self._worker_pids or {
                process.sentinel: process.pid for process in multiprocessing.active_children()
            }
            yield from batches
        # Which of them it is depends on what the worker was about to send.
        except (RuntimeError, ConnectionError, EOFError) as problem:
            ended = [
                self._worker_pids[sentinel]  # type: ignore[index]  # sentinels of processes are numbers here
                for sentinel in connection.wait(self._worker_pids, timeout=1)
            ]
            if not ended:
                raise
            pids = " and ".join(map(str, ended))
            raise RuntimeError(
                f"loader process {pids} has ended; often the system was out of memory (dmesg says so)"
            ) from problem


def plain_micro_batches(first: int, last: int, size: int) -> list[MicroBatch]:
    """Return micro-batches of ``size`` over ids first to last - 1 in order, for one rank's evaluation."""
    return micro_batches_of([np.arange(at, min(at + size, last)) for at in range(first, last, size)])


def micro_batches_of(blocks: Iterable[np.ndarray]) -> list[MicroBatch]:
    """Return a micro-batch for each block of ids, (k,) int64, for passes that train nothing."""
    return [
        MicroBatch(
            step=step,
            id=ids,
            copy=np.zeros(len(ids), np.int32),
            weight=np.ones(len(ids), np.float32),
            position=ids,
            counts=True,
            n_global=len(ids),
            begins=True,
            ends=True,
            progress=0.0,
        )
        for step, ids in enumerate(blocks)
    ]


class _ErrorsAsResults(torch.utils.data.Dataset):
    """A data set that returns errors of its files: workers would add tracebacks to raised ones."""

    def __init__(self, source: Dataset):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor] | DataError:
        try:
            return self._source.__getitems__(request)
        except DataError as problem:
            return problem
        except OSError as problem:
            if problem.filename is None:
                raise
            return DataError(
                f"{problem.filename}: cannot be read ({problem.strerror}); put it back, and add --resume to "
                "go on"
            )


class _RequestSampler:
    """The batch sampler of DataLoader, which yields the requests of the current pass."""

    requests: list[ReadRequest] = []

    def __iter__(self) -> Iterator[ReadRequest]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


def _identity(batch: Any) -> Any:
    return batch
